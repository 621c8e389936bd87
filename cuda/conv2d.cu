// conv2d, and the sum of partial results for its gradients.
// Floor: 2 N P Q O R S C operations over the rate of the units (f32: 128 fused multiply-adds a clock and multiprocessor; half: 1024 on sm_80, 512 on
// sm_75 and sm_86 to 89), or the bytes of x, w and y over the bandwidth, whichever is longer. A block reads its rows of x R S times, from the caches.
//
// Tiles: 128 pixels by 64 channels (half and bf16) where that leaves enough blocks, else 64 by 64, else 32 by 32 for the small maps of a U-Net, of which a
// 64 by 64 grid has too few blocks (8x8x128: two). Where those are still too few, `slices` blocks share a tile, each a fixed part of k, and the last of
// them to end adds the parts in their order: no second launch, which would cost more than the addition, and the same bits in every run.
// For the 32 mma of a warp and stage there are about 100 other instructions, of which the copies are half: all that is the same for every stage is computed
// before the loop. With 240 others an H200's issue slots were 54 % busy, its first-level and shared memory 65 %, its L2 57 %.
// Shared memory: three stages of (rows + columns) x 64 bytes, 36864, 24576 and 12288 bytes; float has 80 bytes a row, 30720 and 15360. At the end the sums
// pass through the same memory.
//
// The norm variants ("norm_") have a group norm before: its scales and shifts are 4 KiB more, and each chunk is changed once a tap and tile of columns,
// which is worth a launch as long as the map is small (src/backend/cuda/conv2d.rs decides).
//
// x        [N][H][W][C] of T, or the first of its channels; then second has the others (parts/sources.cuh)
//       bias     [O], or null              y       [N][P][Q][O] of T, or null: then
// weights  packed for T            addend   [N][O], or null           parts   [results], each [N][P][Q][part of O] of T, whose last channels are in
// partial  [slices][N][P][Q][O],   residual [N][P][Q][O] of T,        ends    [results]; else both null
//          or null: slices is 1             or null                   counters [tiles + N tiles of columns], zero before and after a launch
#include "device/fewstep.cuh"
#include "parts/conv_forward.cuh"
#include "parts/conv_norm.cuh"
#include "parts/conv_output.cuh"
#include "parts/conv_product.cuh"
#include "parts/conv_shape.cuh"
#include "parts/tile_product.cuh"

namespace {

template <class P, class T>
FEWSTEP_DEVICE void plain_conv2d(const fs::Block& block, const Sources<T>& x, const T* weights, const Output<T>& out, const Conv& conv, int slices) {
  FEWSTEP_SHARED(T, stages, kStages * RowCopies<P>::kStage);
  convolve_forward<P>(block, stages, x, weights, out, Unscaled{}, conv, slices, [](const RowCopies<P>&) { return Untouched{}; });
}

template <class P, class T>
FEWSTEP_DEVICE void norm_conv2d(const fs::Block& block, const Sources<T>& x, const T* weights, const Output<T>& out, const Conv& conv, int slices,
                                const ConvNorm& norm) {
  FEWSTEP_SHARED(T, stages, kStages * RowCopies<P>::kStage);
  FEWSTEP_SHARED(float, scale, kNormChannels);
  FEWSTEP_SHARED(float, shift, kNormChannels);
  const Window window = forward_window(conv);
  const int image = int(block.index.x) * P::kRows / (conv.out_h * conv.out_w);
  convolve_forward<P>(block, stages, x, weights, out, Unscaled{}, conv, slices,
                      [&](const RowCopies<P>& copies) { return Normalise<P>{copies, window, norm, image, scale, shift, copies.tap}; });
}

}  // namespace

#define FEWSTEP_CONV2D(suffix, P, T)                                                                                                                \
  FEWSTEP_KERNEL(P::kThreads, fewstep_conv2d_##suffix, const T* x, const T* second, int first_channels, const T* weights, const float* bias, const T* addend, const T* residual, T* y,   \
                 T* const* parts, const int* ends, float* partial, uint32_t* counters, float* moments, float* pieces, Conv conv, int slices,        \
                 float scale) {                                                                                                                     \
    const Epilogue<T> epilogue = {bias, addend, residual, scale, conv.out_c, conv.out_h * conv.out_w};                                              \
    plain_conv2d<P, T>(fs::begin(), {x, second, first_channels}, weights, {epilogue, {y, parts, ends, conv.out_c}, partial, counters, {moments, pieces}}, conv, slices);      \
  }
#define FEWSTEP_NORM_CONV2D(suffix, P, T)                                                                                                                \
  FEWSTEP_KERNEL(P::kThreads, fewstep_norm_conv2d_##suffix, const T* x, const T* second, int first_channels, const T* weights, const float* bias, const T* addend, const T* residual, T* y,   \
                 T* const* parts, const int* ends, float* partial, uint32_t* counters, float* moments, float* pieces, Conv conv, int slices,             \
                 float scale, ConvNorm norm) {                                                                                                           \
    const Epilogue<T> epilogue = {bias, addend, residual, scale, conv.out_c, conv.out_h * conv.out_w};                                                   \
    norm_conv2d<P, T>(fs::begin(), {x, second, first_channels}, weights, {epilogue, {y, parts, ends, conv.out_c}, partial, counters, {moments, pieces}}, conv, slices, norm);      \
  }

FEWSTEP_CONV2D(f32_64x64, FloatLarge, float)
FEWSTEP_CONV2D(f32_32x32, FloatSmall, float)
FEWSTEP_CONV2D(f16_128x64, HalfTall, fs::half)
FEWSTEP_CONV2D(f16_64x64, HalfLarge, fs::half)
FEWSTEP_CONV2D(f16_32x32, HalfSmall, fs::half)
FEWSTEP_CONV2D(bf16_128x64, Bf16Tall, fs::bf16)
FEWSTEP_CONV2D(bf16_64x64, Bf16Large, fs::bf16)
FEWSTEP_CONV2D(bf16_32x32, Bf16Small, fs::bf16)
FEWSTEP_NORM_CONV2D(f32_64x64, FloatLarge, float)
FEWSTEP_NORM_CONV2D(f32_32x32, FloatSmall, float)
FEWSTEP_NORM_CONV2D(f16_64x64, HalfLarge, fs::half)
FEWSTEP_NORM_CONV2D(f16_32x32, HalfSmall, fs::half)
FEWSTEP_NORM_CONV2D(bf16_64x64, Bf16Large, fs::bf16)
FEWSTEP_NORM_CONV2D(bf16_32x32, Bf16Small, fs::bf16)

// The gradients' sum over slices: y[n] from partial [slices][n], in the order of the slices.
// Floor: bytes of partial, read once, over the bandwidth (of the L2, which has them from the launch before). One element a thread: the tensors that
// are cut are small, and more threads hide more latency.
#define FEWSTEP_SUM_SLICES(name, Out) \
  FEWSTEP_KERNEL(shared::conv::kThreads, name, const float* partial, Out* y, int n, int slices) { sum_slices(fs::begin(), partial, y, n, slices); }

FEWSTEP_SUM_SLICES(fewstep_sum_slices_f32, float)
FEWSTEP_SUM_SLICES(fewstep_sum_slices_f16, fs::half)
FEWSTEP_SUM_SLICES(fewstep_sum_slices_bf16, fs::bf16)
