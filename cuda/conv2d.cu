// conv2d, and the sum of partial results for it and its gradients.
// Floor: 2 N P Q O R S C operations over the rate of the units (f32: 128 fused multiply-adds a clock and multiprocessor; half: 1024 on sm_80, 512 on
// sm_75 and sm_86 to 89), or the bytes of x, w and y over the bandwidth, whichever is longer. A block reads its rows of x R S times, from the caches.
//
// Tiles: 64 pixels by 64 channels where the grid then fills the GPU; 32 by 32 for the small maps of a U-Net, of which a 64 by 64 grid has too few
// blocks (8x8x128: two). Where those are still too few, `slices` blocks share a sum, each a fixed part of k, and fewstep_conv2d_sum_* adds them up.
// Shared memory: three stages of (rows + columns) x 80 bytes, 30720 bytes for 64 by 64, 15360 for 32 by 32: four floats or eight halves of padding
// a row make the reads free of bank conflicts. At the end the sums pass through the same memory.
//
// x        [N][H][W][C] of T       bias    [O], or null       y       [N][P][Q][O] of Out
// weights  packed for T            addend  [N][O], or null    partial [slices][N][P][Q][O], or null: then slices is 1
//                                  residual [N][P][Q][O] of T, or null
#include "device/fewstep.cuh"
#include "parts/conv_output.cuh"
#include "parts/conv_product.cuh"
#include "parts/conv_shape.cuh"
#include "parts/quad.cuh"
#include "parts/tile_product.cuh"

namespace {

template <class P, class T, class Out>
FEWSTEP_DEVICE void conv2d(const T* x, const T* weights, const float* bias, const T* addend, const T* residual, Out* y, float* partial,
                           const Conv& conv, int slices, float scale) {
  const int pixels = conv.out_h * conv.out_w, slice = int(fs::block_index().z);
  const Epilogue<T> epilogue = {bias, addend, residual, scale, conv.out_c, pixels};
  float* scratch = slice_scratch(partial, slice, conv.images * pixels * conv.out_c);
  convolve<P>(x, weights, forward_window(conv), conv.out_c, slice, slices,
              [&](int pixel, int channel, const Quad& sums) { put(epilogue, y, scratch, pixel, channel, sums); });
}

}  // namespace

#define FEWSTEP_CONV2D(name, P, T, Out)                                                                                                              \
  FEWSTEP_KERNEL(P::kThreads, name, const T* x, const T* weights, const float* bias, const T* addend, const T* residual, Out* y, float* partial, \
                 Conv conv, int slices, float scale) {                                                                                               \
    conv2d<P>(x, weights, bias, addend, residual, y, partial, conv, slices, scale);                                                                  \
  }

namespace {
using FloatLarge = RowsFloat<64, 64>;
using FloatSmall = RowsFloat<32, 32>;
using HalfLarge = RowsTensor<fs::half, 64, 64>;
using HalfSmall = RowsTensor<fs::half, 32, 32>;
using Bf16Large = RowsTensor<fs::bf16, 64, 64>;
using Bf16Small = RowsTensor<fs::bf16, 32, 32>;
}  // namespace

FEWSTEP_CONV2D(fewstep_conv2d_f32_64x64, FloatLarge, float, float)
FEWSTEP_CONV2D(fewstep_conv2d_f32_32x32, FloatSmall, float, float)
FEWSTEP_CONV2D(fewstep_conv2d_f16_64x64, HalfLarge, fs::half, fs::half)
FEWSTEP_CONV2D(fewstep_conv2d_f16_32x32, HalfSmall, fs::half, fs::half)
FEWSTEP_CONV2D(fewstep_conv2d_f16_f32_64x64, HalfLarge, fs::half, float)
FEWSTEP_CONV2D(fewstep_conv2d_f16_f32_32x32, HalfSmall, fs::half, float)
FEWSTEP_CONV2D(fewstep_conv2d_bf16_64x64, Bf16Large, fs::bf16, fs::bf16)
FEWSTEP_CONV2D(fewstep_conv2d_bf16_32x32, Bf16Small, fs::bf16, fs::bf16)
FEWSTEP_CONV2D(fewstep_conv2d_bf16_f32_64x64, Bf16Large, fs::bf16, float)
FEWSTEP_CONV2D(fewstep_conv2d_bf16_f32_32x32, Bf16Small, fs::bf16, float)

// Floor: bytes of partial, read once, over the bandwidth (of the L2, which has them from the launch before). One element a thread: the maps that are
// split are small, and more threads hide more latency. No shared memory. n = elements of y, pixels = P Q.
#define FEWSTEP_CONV2D_SUM(name, T, Out)                                                                                                            \
  FEWSTEP_KERNEL(256, name, const float* partial, const float* bias, const T* addend, const T* residual, Out* y, int n, int channels, int pixels, \
                 int slices, float scale) {                                                                                                         \
    sum_slices(Epilogue<T>{bias, addend, residual, scale, channels, pixels}, partial, y, n, slices);                                                 \
  }

FEWSTEP_CONV2D_SUM(fewstep_conv2d_sum_f32, float, float)
FEWSTEP_CONV2D_SUM(fewstep_conv2d_sum_f16, fs::half, fs::half)
FEWSTEP_CONV2D_SUM(fewstep_conv2d_sum_f16_f32, fs::half, float)
FEWSTEP_CONV2D_SUM(fewstep_conv2d_sum_bf16, fs::bf16, fs::bf16)
FEWSTEP_CONV2D_SUM(fewstep_conv2d_sum_bf16_f32, fs::bf16, float)
