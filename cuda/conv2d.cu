// conv2d, and the sum of partial results for its gradients.
// Floor: 2 N P Q O R S C operations over the rate of the units (f32: 128 fused multiply-adds a clock and multiprocessor; half: 1024 on sm_80, 512 on
// sm_75 and sm_86 to 89), or the bytes of x, w and y over the bandwidth, whichever is longer. A block reads its rows of x R S times, from the caches.
//
// Tiles: 64 pixels by 64 channels where the grid then fills the GPU; 32 by 32 for the small maps of a U-Net, of which a 64 by 64 grid has too few
// blocks (8x8x128: two). Where those are still too few, `slices` blocks share a tile, each a fixed part of k, and the last of them to end adds the
// parts in their order: no second launch, which would cost more than the addition, and the same bits in every run.
// Shared memory: three stages of (rows + columns) x 80 bytes, 30720 bytes for 64 by 64, 15360 for 32 by 32: four floats or eight halves of padding
// a row make the reads free of bank conflicts. At the end the sums pass through the same memory.
//
// x        [N][H][W][C] of T       bias    [O], or null       y       [N][P][Q][O] of T
// weights  packed for T            addend  [N][O], or null    partial [slices][N][P][Q][O], or null: then slices is 1
//                                  residual [N][P][Q][O] of T, or null    counters [tiles], zero before and after a launch
#include "device/fewstep.cuh"
#include "parts/conv_output.cuh"
#include "parts/conv_product.cuh"
#include "parts/conv_shape.cuh"
#include "parts/quad.cuh"
#include "parts/tile_product.cuh"

namespace {

// True in the last block of a tile to come here: then it sees what the others have written.
FEWSTEP_DEVICE bool is_last(uint32_t* counters, int slices) {
  FEWSTEP_SHARED(uint32_t, arrived, 1);
  fs::thread_fence();
  fs::sync_threads();
  if (fs::thread_index().x == 0) {
    uint32_t* counter = counters + (fs::block_index().y * fs::grid_size().x + fs::block_index().x);
    arrived[0] = fs::atomic_add(counter, 1) + 1;
    if (arrived[0] == uint32_t(slices)) *counter = 0;  // for the next launch
  }
  fs::sync_threads();
  fs::thread_fence();
  return arrived[0] == uint32_t(slices);
}

// The block's tile of y from the `slices` parts of it in `partial`, an element a thread at a time, neighbours in O.
template <class P, class T>
FEWSTEP_DEVICE void sum_tile(const Epilogue<T>& epilogue, const float* partial, T* y, int pixels, int slices) {
  const int first_pixel = int(fs::block_index().x) * P::kRows, first_channel = int(fs::block_index().y) * P::kColumns;
  for (int at = int(fs::thread_index().x); at < P::kRows * P::kColumns; at += P::kThreads) {
    const int pixel = first_pixel + at / P::kColumns, channel = first_channel + at % P::kColumns;
    if (pixel >= pixels || channel >= epilogue.channels) continue;
    const int element = pixel * epilogue.channels + channel;
    Quad sum = {{0, 0, 0, 0}};
    for (int s = 0; s < slices; s++) sum.v[0] += fs::load_l2(partial + (int64_t(s) * pixels * epilogue.channels + element));
    finish(epilogue, sum, pixel, channel, 1);
    y[element] = fs::from_float<T>(sum.v[0]);
  }
}

template <class P, class T>
FEWSTEP_DEVICE void conv2d(const T* x, const T* weights, const float* bias, const T* addend, const T* residual, T* y, float* partial,
                           uint32_t* counters, const Conv& conv, int slices, float scale) {
  const int pixels = conv.out_h * conv.out_w, slice = int(fs::block_index().z);
  const Epilogue<T> epilogue = {bias, addend, residual, scale, conv.out_c, pixels};
  float* scratch = slice_scratch(partial, slice, conv.images * pixels * conv.out_c);
  convolve<P>(x, weights, forward_window(conv), conv.out_c, slice, slices,
              [&](int pixel, int channel, const Quad& sums) { put(epilogue, y, scratch, pixel, channel, sums); });
  if (partial && is_last(counters, slices)) sum_tile<P>(epilogue, partial, y, conv.images * pixels, slices);
}

}  // namespace

#define FEWSTEP_CONV2D(name, P, T)                                                                                                             \
  FEWSTEP_KERNEL(P::kThreads, name, const T* x, const T* weights, const float* bias, const T* addend, const T* residual, T* y, float* partial, \
                 uint32_t* counters, Conv conv, int slices, float scale) {                                                                     \
    conv2d<P>(x, weights, bias, addend, residual, y, partial, counters, conv, slices, scale);                                                  \
  }

FEWSTEP_CONV2D(fewstep_conv2d_f32_64x64, FloatLarge, float)
FEWSTEP_CONV2D(fewstep_conv2d_f32_32x32, FloatSmall, float)
FEWSTEP_CONV2D(fewstep_conv2d_f16_64x64, HalfLarge, fs::half)
FEWSTEP_CONV2D(fewstep_conv2d_f16_32x32, HalfSmall, fs::half)
FEWSTEP_CONV2D(fewstep_conv2d_bf16_64x64, Bf16Large, fs::bf16)
FEWSTEP_CONV2D(fewstep_conv2d_bf16_32x32, Bf16Small, fs::bf16)

// The gradients' sum over slices: y[n] from partial [slices][n], in the order of the slices.
// Floor: bytes of partial, read once, over the bandwidth (of the L2, which has them from the launch before). One element a thread: the tensors that
// are cut are small, and more threads hide more latency.
#define FEWSTEP_SUM_SLICES(name, Out) \
  FEWSTEP_KERNEL(256, name, const float* partial, Out* y, int n, int slices) { sum_slices(partial, y, n, slices); }

FEWSTEP_SUM_SLICES(fewstep_sum_slices_f32, float)
FEWSTEP_SUM_SLICES(fewstep_sum_slices_f16, fs::half)
FEWSTEP_SUM_SLICES(fewstep_sum_slices_bf16, fs::bf16)
