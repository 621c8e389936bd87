// The instructions, for nvcc: one function each, named after the instruction. cuda/emulator/ptx.hpp has the same functions for g++.
// Kernels do not call these but their documented users in the other headers of this folder.
#pragma once

namespace fs::ptx {

#define FEWSTEP_PTX static __device__ __forceinline__

FEWSTEP_PTX Index thread_index() { return {threadIdx.x, threadIdx.y, threadIdx.z}; }
FEWSTEP_PTX Index block_index() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
FEWSTEP_PTX Index block_size() { return {blockDim.x, blockDim.y, blockDim.z}; }
FEWSTEP_PTX Index grid_size() { return {gridDim.x, gridDim.y, gridDim.z}; }

// ---- synchronisation
FEWSTEP_PTX void block_sync() { __syncthreads(); }
FEWSTEP_PTX void warp_sync(uint32_t lanes) { __syncwarp(lanes); }
FEWSTEP_PTX uint32_t atomic_add(uint32_t* p, uint32_t value) { return atomicAdd(p, value); }
FEWSTEP_PTX uint32_t atomic_add_ordered(uint32_t* p, uint32_t value) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(__cvta_generic_to_global(p)), "r"(value) : "memory");
  return old;
}
FEWSTEP_PTX uint32_t atomic_max(uint32_t* p, uint32_t value) { return atomicMax(p, value); }
FEWSTEP_PTX void trap() { __trap(); }
FEWSTEP_PTX void grid_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
FEWSTEP_PTX void grid_launch() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
FEWSTEP_PTX int keep(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// ---- lanes of a warp
FEWSTEP_PTX uint32_t shuffle_idx(uint32_t lanes, uint32_t value, uint32_t source) { return __shfl_sync(lanes, value, int(source)); }
FEWSTEP_PTX uint32_t shuffle_xor(uint32_t lanes, uint32_t value, uint32_t bits) { return __shfl_xor_sync(lanes, value, int(bits)); }
FEWSTEP_PTX uint32_t shuffle_down(uint32_t lanes, uint32_t value, uint32_t delta) { return __shfl_down_sync(lanes, value, delta); }
FEWSTEP_PTX uint32_t shuffle_up(uint32_t lanes, uint32_t value, uint32_t delta) { return __shfl_up_sync(lanes, value, delta); }
FEWSTEP_PTX uint32_t ballot(uint32_t lanes, bool predicate) { return __ballot_sync(lanes, predicate); }

// ---- memory
/// The address as a pointer to T, which says how wide the access is.
template <class T>
FEWSTEP_PTX T* aligned(const void* p) {
  return static_cast<T*>(const_cast<void*>(p));
}
FEWSTEP_PTX float load_l2(const float* p) { return __ldcg(p); }
/// The same of a structure of four 32-bit words.
template <class T>
FEWSTEP_PTX T load_l2(const T* p) {
  const uint4 w = __ldcg(reinterpret_cast<const uint4*>(p));
  return {w.x, w.y, w.z, w.w};
}
/// Shared memory's own address of a generic one, as the instructions below take it.
FEWSTEP_PTX uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
FEWSTEP_PTX void copy_async_16(void* shared, const void* global, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)),
               "r"(bytes)
               : "memory");
}
FEWSTEP_PTX void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
FEWSTEP_PTX void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}
template <int N, bool Transposed>
FEWSTEP_PTX void load_matrix(uint32_t (&r)[N], const void* row) {
  static_assert(N == 1 || N == 2 || N == 4);
  const uint32_t address = shared_address(row);
  if constexpr (N == 1 && !Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(address) : "memory");
  } else if constexpr (N == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(address) : "memory");
  } else if constexpr (N == 2 && !Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
  } else if constexpr (N == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (!Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}

// ---- tensor cores: fragments as drawn in mma.cuh
FEWSTEP_PTX void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FEWSTEP_PTX void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FEWSTEP_PTX void mma_m16n8k8_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(b));
}
FEWSTEP_PTX void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FEWSTEP_PTX void mma_m8n8k16_s8(int& d0, int& d1, uint32_t a, uint32_t b) {
  asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};" : "+r"(d0), "+r"(d1) : "r"(a), "r"(b));
}

// ---- numbers
FEWSTEP_PTX float f16_to_f32(uint16_t h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
FEWSTEP_PTX uint16_t f32_to_f16(float f) {
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
FEWSTEP_PTX uint16_t f32_to_bf16(float f) {
  uint16_t h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
FEWSTEP_PTX float add_rn(float a, float b) { return __fadd_rn(a, b); }
FEWSTEP_PTX float sub_rn(float a, float b) { return __fsub_rn(a, b); }
FEWSTEP_PTX float mul_rn(float a, float b) { return __fmul_rn(a, b); }
FEWSTEP_PTX float div_rn(float a, float b) { return __fdiv_rn(a, b); }
FEWSTEP_PTX float sqrt_rn(float a) { return __fsqrt_rn(a); }
FEWSTEP_PTX float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FEWSTEP_PTX float rsqrt(float x) { return rsqrtf(x); }
FEWSTEP_PTX float fast_exp(float x) { return __expf(x); }
FEWSTEP_PTX float fast_log(float x) { return __logf(x); }
FEWSTEP_PTX float fast_div(float a, float b) { return __fdividef(a, b); }
FEWSTEP_PTX float fast_tanh(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
FEWSTEP_PTX int to_int_rn(float x) { return __float2int_rn(x); }
FEWSTEP_PTX int dot4(uint32_t a, uint32_t b, int sum) { return __dp4a(int(a), int(b), sum); }

#undef FEWSTEP_PTX
}  // namespace fs::ptx
