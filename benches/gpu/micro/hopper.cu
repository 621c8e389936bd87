// Probes of what sm_90a alone has, or what the emulator refuses: blocks that wait for one another. In CUDA's own words, since none of it is in cuda/device
// yet: whether it should be is what they decide. What they measure: micro.cpp.
#include <cuda_fp16.h>
#include <stdint.h>

#include "stage.h"

namespace {

using namespace micro;

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ uint4 load_relaxed(const uint4* p) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void store_relaxed(uint4* p, uint4 v) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ bool is_written(uint4 v) { return v.x != ~0u && v.y != ~0u && v.z != ~0u && v.w != ~0u; }

// Waits until all blocks have added to this stage's counter, and sees what they wrote.
__device__ __forceinline__ void wait_for_counter(const uint32_t* counter) {
  if (threadIdx.x == 0) {
    uint32_t seen;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    } while (seen < gridDim.x);
  }
  __syncthreads();
}

// Waits until all blocks have added to this group's sum, whose upper bits count them.
__device__ __forceinline__ uint32_t wait_for_sum(const unsigned long long* sum) {
  unsigned long long seen;
  do {
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(sum) : "memory");
  } while (seen >> 48 != gridDim.x);
  return uint32_t(seen) == ~0u;  // never: so that the sum is needed
}

__device__ __forceinline__ uint32_t weights_of(const uint4* weights, int chunks) {
  uint4 w[kMostChunks];
#pragma unroll
  for (int i = 0; i < kMostChunks; i++) w[i] = i < chunks ? weights[(blockIdx.x * chunks + i) * kThreads + threadIdx.x] : make_uint4(0, 0, 0, 0);
  uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kMostChunks; i++) {
    asm volatile("" : "+r"(w[i].x), "+r"(w[i].y), "+r"(w[i].z), "+r"(w[i].w));
    sum += w[i].x + w[i].y + w[i].z + w[i].w;
  }
  return sum;
}

// All stages of the chain in one launch. buffers [stages + 1][blocks][kUnits], all ones but for the first; counters [stages + 1] and
// sums [stages + 1][kGroups], zero. With DataIsFlag a block waits for the very words that it reads, else for a counter.
template <bool DataIsFlag>
__device__ __forceinline__ void persistent(uint4* buffers, uint32_t* counters, unsigned long long* sums, const uint4* weights, int chunks, int stages) {
  __shared__ uint4 tile[3 * kUnits];
  const int t = threadIdx.x, own = blockIdx.x, blocks = gridDim.x;
  for (int k = 0; k < stages; k++) {
    uint32_t extra = weights_of(weights, chunks);
    const uint4* in = buffers + size_t(k) * blocks * kUnits;
    uint4* out = buffers + size_t(k + 1) * blocks * kUnits;
    if (k && !DataIsFlag) wait_for_counter(counters + k);
    if (k && DataIsFlag && t < kGroups) extra += wait_for_sum(sums + k * kGroups + t);
    for (int i = t; i < 3 * kUnits; i += kThreads) {
      const uint4* from = in + (own + i / kUnits + blocks - 1) % blocks * kUnits + i % kUnits;
      uint4 v = load_relaxed(from);
      while (DataIsFlag && !is_written(v)) v = load_relaxed(from);
      tile[i] = v;
    }
    __syncthreads();
    if (t < kUnits) {
      const uint4 a = tile[t], b = tile[t + kUnits], c = tile[t + 2 * kUnits];
      store_relaxed(out + own * kUnits + t, make_uint4((a.x + b.x + c.x + extra) & kMask, a.y ^ b.y, (a.z + c.z) & kMask, b.w));
    }
    if (DataIsFlag && t < kGroups) {
      asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(sums + (k + 1) * kGroups + t), "l"(1ull << 48 | t) : "memory");
    }
    __syncthreads();
    if (!DataIsFlag && t == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counters + k + 1) : "memory");
  }
}

__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ void relaxed_cluster_barrier() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
// The same place in the shared memory of block `rank` of the cluster.
__device__ __forceinline__ uint32_t of_rank(const void* p, uint32_t rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
  return address;
}

// D (64 x 64, f32) += A (64 x 16) B (16 x 64), both in shared memory, rows of k side by side (K-major).
__device__ __forceinline__ void multiply_64x64x16(float (&d)[32], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
        "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "l"(a), "l"(b), "r"(1));
}

// A tile of rows of 64 halves under the 128-byte swizzle, as a matrix descriptor (PTX ISA, "Matrix Descriptor Format"): stride of eight rows, swizzle mode,
// base offset, start.
__device__ __forceinline__ uint64_t descriptor(const __half* tile, int first_row, int base_offset) {
  const uint64_t start = (shared_address(tile) + first_row * kRow * 2) & 0x3ffff;
  return uint64_t(1024 >> 4) << 32 | uint64_t(1) << 16 | uint64_t(1) << 62 | uint64_t(base_offset & 7) << 49 | start >> 4;
}
__device__ __forceinline__ void store_swizzled(__half* tile, int row, int column, float value) {
  tile[row * kRow + ((column / 8) ^ (row & 7)) * 8 + column % 8] = __float2half(value);
}

}  // namespace

#define MICRO_PERSISTENT(name, data_is_flag)                                                                                              \
  extern "C" __global__ void __launch_bounds__(kThreads, 1)                                                                               \
      name(uint4* buffers, uint32_t* counters, unsigned long long* sums, const uint4* weights, int chunks, int stages) {                  \
    persistent<data_is_flag>(buffers, counters, sums, weights, chunks, stages);                                                           \
  }
MICRO_PERSISTENT(micro_persistent_counter, false)
MICRO_PERSISTENT(micro_persistent_data, true)

// cycles[block]: of one barrier among a cluster's blocks, which orders memory, or does not.
extern "C" __global__ void __launch_bounds__(kThreads) micro_cluster_barrier(int rounds, int relaxed, long long* cycles) {
  const long long begin = clock64();
  for (int i = 0; i < rounds; i++) relaxed ? relaxed_cluster_barrier() : cluster_barrier();
  if (threadIdx.x == 0) cycles[blockIdx.x] = (clock64() - begin) / rounds;
}

// A sum over the eight blocks of a cluster, each of which pushes 512 bytes to each (st.async) and is woken by a barrier in its own shared memory.
// cycles[block]: of one sum. out[block][thread] = thread % 32 after any number of rounds: all blocks push the same, and an eighth
// of the sum is kept.
extern "C" __global__ void __launch_bounds__(kThreads) micro_cluster_pushes(int rounds, long long* cycles, float* out) {
  __shared__ __align__(16) float pushed[2][8][kPushed];
  __shared__ __align__(8) uint64_t arrived[2];
  const uint32_t t = threadIdx.x, to = t / 32;
  uint32_t own;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(own));
  if (t < 2) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&arrived[t])));
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  cluster_barrier();
  float x = float(t % 32);
  const long long begin = clock64();
  for (int i = 0; i < rounds; i++) {
    const int bank = i & 1;
    if (t == 0) {
      asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&arrived[bank])), "r"(8 * kPushed * 4) : "memory");
    }
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %1, %1, %1}, [%2];" ::"r"(
                     of_rank(&pushed[bank][own][t % 32 * 4], to)),
                 "r"(__float_as_int(x)), "r"(of_rank(&arrived[bank], to))
                 : "memory");
    asm volatile("{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%0], %1;\n@!p bra AGAIN;\n}" ::"r"(
                     shared_address(&arrived[bank])),
                 "r"(i >> 1 & 1)
                 : "memory");
    float sum = 0;
    for (int k = 0; k < 8; k++) sum += pushed[bank][k][t % 32 * 4];
    x = sum * 0.125f;
    __syncthreads();
  }
  if (t == 0) cycles[blockIdx.x] = (clock64() - begin) / rounds;
  out[blockIdx.x * kThreads + t] = x;
  cluster_barrier();  // nobody leaves while others push
}

// Does a descriptor whose start is shifted by rows read a tile under the 128-byte swizzle as it was written? tile[r][c] = 16 r + c % 16; the other operand
// picks, so that out [64][64] is out[m][n] = tile[m + rows][n % 16] (as_a) or tile[n + rows][m % 16].
extern "C" __global__ void __launch_bounds__(128) micro_shifted(int rows, int base_offset, int as_a, float* out) {
  __shared__ __align__(1024) __half tile[80 * kRow];
  __shared__ __align__(1024) __half pick[64 * kRow];
  for (int i = threadIdx.x; i < 80 * kRow; i += 128) store_swizzled(tile, i / kRow, i % kRow, float(i / kRow * 16 + i % kRow % 16));
  for (int i = threadIdx.x; i < 64 * kRow; i += 128) store_swizzled(pick, i / kRow, i % kRow, i % kRow < 16 && i / kRow % 16 == i % kRow);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  const uint64_t shifted = descriptor(tile, rows, base_offset), plain = descriptor(pick, 0, 0);
  float d[32] = {};
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  multiply_64x64x16(d, as_a ? shifted : plain, as_a ? plain : shifted);
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  for (int i = 0; i < 32; i++) out[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + column + i % 2] = d[i];
}
