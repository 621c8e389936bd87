// Probes that any GPU runs, and the emulator: over cuda/device alone, as the library's kernels are. What they measure: micro.cpp.
#include "device/fewstep.cuh"
#include "stage.h"

namespace {

constexpr int kThreads = micro::kThreads;

// One stage of the chain (stage.h), of which a thread moves one or two units.
FEWSTEP_DEVICE void stage(const fs::Block& block, const fs::u32x4* in, fs::u32x4* out, uint32_t extra) {
  FEWSTEP_SHARED(fs::u32x4, tile, 3 * micro::kUnits);
  const int thread = int(fs::thread_index().x), own = int(block.index.x), blocks = int(block.grid.x);
  for (int i = thread; i < 3 * micro::kUnits; i += kThreads) {
    const int from = (own + i / micro::kUnits + blocks - 1) % blocks;
    tile[i] = fs::load_l2_16(in + from * micro::kUnits + i % micro::kUnits);
  }
  fs::sync_threads();
  if (thread >= micro::kUnits) return;
  const fs::u32x4 a = tile[thread], b = tile[thread + micro::kUnits], c = tile[thread + 2 * micro::kUnits];
  const fs::u32x4 sum = {(a.x + b.x + c.x + extra) & micro::kMask, a.y ^ b.y, (a.z + c.z) & micro::kMask, b.w};
  fs::store_16(out + own * micro::kUnits + thread, sum);
}

// Fetches `chunks` times 16 bytes a thread, and has them in registers: without keep() the compiler moves half of the loads behind the wait.
FEWSTEP_DEVICE uint32_t weights_of(const fs::Block& block, const fs::u32x4* weights, int chunks) {
  fs::u32x4 w[micro::kMostChunks];
  FEWSTEP_UNROLL
  for (int i = 0; i < micro::kMostChunks; i++) {
    w[i] = i < chunks ? fs::load_16(weights + (int(block.index.x) * chunks + i) * kThreads + fs::thread_index().x) : fs::u32x4{0, 0, 0, 0};
  }
  uint32_t sum = 0;
  FEWSTEP_UNROLL
  for (int i = 0; i < micro::kMostChunks; i++) {
    sum += uint32_t(fs::keep(int(w[i].x))) + uint32_t(fs::keep(int(w[i].y))) + uint32_t(fs::keep(int(w[i].z))) + uint32_t(fs::keep(int(w[i].w)));
  }
  return sum;
}

// `Code` dependent additions.
template <int Which, int Code>
FEWSTEP_DEVICE void additions(const fs::Block& block, float* x, float factor) {
  const int64_t i = fs::thread_in_grid(block, kThreads);
  float v = x[i];
  FEWSTEP_UNROLL
  for (int k = 0; k < Code; k++) v = fs::fma(v, factor + float(Which), float(k));
  x[i] = v;
}

}  // namespace

FEWSTEP_KERNEL_RESIDENT(kThreads, 2, micro_stage_wait_first, const fs::u32x4* in, fs::u32x4* out) { stage(fs::begin(), in, out, 0); }
FEWSTEP_KERNEL_RESIDENT(kThreads, 2, micro_stage_launch_first, const fs::u32x4* in, fs::u32x4* out) {
  fs::grid_launch();
  fs::grid_wait();
  stage(fs::this_block(), in, out, 0);
}
FEWSTEP_KERNEL_RESIDENT(kThreads, 2, micro_stage_weights_first, const fs::u32x4* in, fs::u32x4* out, const fs::u32x4* weights, int chunks) {
  const uint32_t extra = weights_of(fs::this_block(), weights, chunks);
  stage(fs::begin(), in, out, extra);
}

// x [blocks][units], or [units] for all blocks (block_units 0), to shared memory, `rounds` times; out[threads]: what the last round brought.
FEWSTEP_KERNEL_RESIDENT(kThreads, 2, micro_l2_read, const fs::u32x4* x, int block_units, int units, int rounds, uint32_t* out) {
  constexpr int kStages = 4, kStage = 2 * kThreads;
  FEWSTEP_SHARED(fs::u32x4, room, kStages * kStage);
  const fs::Block block = fs::begin();
  const int thread = int(fs::thread_index().x);
  const fs::u32x4* from = x + int64_t(block.index.x) * block_units;
  for (int round = 0; round < rounds; round++) {
    for (int i = 0; i < units; i += kStage) {
      fs::u32x4* to = room + i / kStage % kStages * kStage;
      fs::copy_async_16(to + thread, from + i + thread);
      fs::copy_async_16(to + kThreads + thread, from + i + kThreads + thread);
      fs::copy_async_commit();
      fs::copy_async_wait<kStages - 1>();
    }
  }
  fs::copy_async_wait<0>();
  fs::sync_threads();
  out[fs::thread_in_grid(block, kThreads)] = room[(units / kStage - 1) % kStages * kStage + thread].x;
}

#define MICRO_CODE(which, code) \
  FEWSTEP_KERNEL(kThreads, micro_code_##code##_##which, float* x, float factor) { additions<which, code>(fs::begin(), x, factor); }
#define MICRO_CODES(code)                                                                 \
  MICRO_CODE(0, code) MICRO_CODE(1, code) MICRO_CODE(2, code) MICRO_CODE(3, code)         \
  MICRO_CODE(4, code) MICRO_CODE(5, code) MICRO_CODE(6, code) MICRO_CODE(7, code)
MICRO_CODES(256)
MICRO_CODES(1024)
MICRO_CODES(3072)
