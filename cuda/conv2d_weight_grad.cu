// conv2d_weight_grad: dw as a matrix product of dy, transposed, and the gathered x. Rows are output channels, columns are taps and, within a tap, input
// channels (padded to whole 16-byte chunks), and the summed index k walks over the pixels of y.
// Floor: 2 N P Q O R S C operations over the rate of the units, or the bytes of x, dy and dw over the bandwidth (conv2d.cu).
//
// Tiles: 64 by 64, or 32 by 32 for few channels; 16 pixels of float or 32 of half and bf16 a stage. There are few tiles and many pixels, so `slices`
// blocks share a sum, each a fixed part of the pixels; fewstep_sum_slices_f32 adds them up. Both operands lie in shared memory as in global memory,
// channels in a row: tensor cores get them by the transposing ldmatrix. The loop is parts/pipeline.cuh's.
// Shared memory: three stages of depth x 2 x (tile + 16 bytes): float 26112 and 13824 bytes, half and bf16 27648 and 15360.
//
// x  [N][H][W][C] of T    dw      [O][C][R][S] of float
// dy [N][P][Q][O] of T    partial [slices][O][C][R][S], or null: then slices is 1
//
// Grid: R S padded C / tile, O / tile, slices.
#include "device/fewstep.cuh"
#include "parts/chunk.cuh"
#include "parts/conv_shape.cuh"
#include "parts/digits.cuh"
#include "parts/pipeline.cuh"
#include "parts/tile_product.cuh"

namespace {

// A thread copies the same chunk of dy's and of x's rows, for the pixels that are kPixelsPerPass apart.
template <class P>
struct PixelCopies {
  using T = typename P::T;
  static constexpr int kChunksPerRow = P::kRows / kChunk<T>, kPixelsPerPass = P::kThreads / kChunksPerRow, kPasses = P::kDepth / kPixelsPerPass;
  static constexpr int kStage = 2 * P::kDepth * P::kPitch;
  static_assert(P::kDepth % kPixelsPerPass == 0);

  Digits pixel[kPasses], advance;  // image, row, column
  int number;                      // of the first pass's pixel
  int out, in;                     // this chunk's first output and input channel; no chunk: beyond the last
  int row, column;                 // of the tap, over the first pixel
  int place;                       // in a stage, of the first pass
  bool aligned;                    // both tensors' channels are whole chunks

  FEWSTEP_DEVICE int first_pixel() { return int(fs::thread_index().x) / kChunksPerRow; }
  FEWSTEP_DEVICE int first_channel() { return int(fs::thread_index().x) % kChunksPerRow * kChunk<T>; }
};

template <class P>
FEWSTEP_DEVICE void begin_copies(PixelCopies<P>& t, const Conv& c, int first_row, int first_column, int first_step) {
  using T = typename P::T;
  t.number = first_step * P::kDepth + t.first_pixel();
  FEWSTEP_UNROLL
  for (int i = 0; i < t.kPasses; i++) t.pixel[i] = digits_of(t.number + i * t.kPixelsPerPass, c.out_h, c.out_w);
  t.advance = digits_of(P::kDepth, c.out_h, c.out_w);
  const Digits tap = digits_of(first_column + t.first_channel(), c.kernel_w, padded_channels<T>(c.in_c));
  t.out = first_row + t.first_channel();
  t.in = tap.high < c.kernel_h ? tap.low : c.in_c;
  t.row = fs::keep(tap.high - c.top);
  t.column = fs::keep(tap.middle - c.left);
  t.place = fs::keep(t.first_pixel() * P::kPitch + t.first_channel());
  t.aligned = c.out_c % kChunk<T> == 0 && c.in_c % kChunk<T> == 0;
}

// Starts this thread's copies of one stage and moves on to the next.
template <class P>
FEWSTEP_DEVICE void copy_stage(PixelCopies<P>& t, typename P::T* stage, const typename P::T* x, const typename P::T* dy, const Conv& c) {
  using T = typename P::T;
  const int pixels = c.images * c.out_h * c.out_w;
  FEWSTEP_UNROLL
  for (int i = 0; i < t.kPasses; i++) {
    const int number = t.number + i * t.kPixelsPerPass;
    T* to = stage + t.place + i * t.kPixelsPerPass * P::kPitch;
    const int row = t.pixel[i].middle * c.stride + t.row, column = t.pixel[i].low * c.stride + t.column;
    const bool inside = number < pixels && uint32_t(row) < uint32_t(c.in_h) && uint32_t(column) < uint32_t(c.in_w);
    const T *from_dy = dy + (number * c.out_c + t.out), *from_x = x + (((t.pixel[i].high * c.in_h + row) * c.in_w + column) * c.in_c + t.in);
    if (t.aligned) {
      copy_chunk(to, from_dy, number < pixels && t.out < c.out_c);
      copy_chunk(to + P::kDepth * P::kPitch, from_x, inside && t.in < c.in_c);
    } else {
      gather_chunk(to, from_dy, number < pixels ? c.out_c - t.out : 0);
      gather_chunk(to + P::kDepth * P::kPitch, from_x, inside ? c.in_c - t.in : 0);
    }
    t.pixel[i] = add(t.pixel[i], t.advance, c.out_h, c.out_w);
  }
  t.number += P::kDepth;
}

// Writes a run of sums of neighbouring columns to their places in [O][C][R][S].
template <class T, int Run>
FEWSTEP_DEVICE void scatter(float* dw, const Conv& c, int out, int column, const float (&sums)[Run]) {
  const int taps = c.kernel_h * c.kernel_w, padded = padded_channels<T>(c.in_c), tap = column / padded, in = column % padded;
  if (out >= c.out_c || tap >= taps) return;
  FEWSTEP_UNROLL
  for (int i = 0; i < Run; i++) {
    if (in + i < c.in_c) dw[(out * c.in_c + in + i) * taps + tap] = sums[i];
  }
}

template <class P, class T>
FEWSTEP_DEVICE void conv2d_weight_grad(const fs::Block& block, const T* x, const T* dy, float* dw, float* partial, const Conv& conv, int slices) {
  using Copies = PixelCopies<P>;
  FEWSTEP_SHARED(T, stages, kStages * Copies::kStage);
  const int first_column = int(block.index.x) * P::kColumns, first_row = int(block.index.y) * P::kRows, slice = int(block.index.z);
  const int pixels = conv.images * conv.out_h * conv.out_w;
  const Slice part = slice_of((pixels + P::kDepth - 1) / P::kDepth, slice, slices);

  Copies copies;
  begin_copies(copies, conv, first_row, first_column, part.first);
  typename P::Sum sum = {};
  multiply_stages<P, Copies::kStage, P::kDepth * P::kPitch>(
    sum, stages, part, [&](T* stage) { copy_stage(copies, stage, x, dy, conv); }, Untouched{});
  float* to = partial ? partial + slice * int64_t(conv.out_c * conv.in_c * conv.kernel_h * conv.kernel_w) : dw;
  P::each(sum, [&](int row, int column, const auto& sums) { scatter<T>(to, conv, first_row + row, first_column + column, sums); });
}

}  // namespace

#define FEWSTEP_CONV2D_WEIGHT_GRAD(name, P, T)                                                                   \
  FEWSTEP_KERNEL(P::kThreads, name, const T* x, const T* dy, float* dw, float* partial, Conv conv, int slices) { \
    conv2d_weight_grad<P>(fs::begin(), x, dy, dw, partial, conv, slices);                                        \
  }

namespace {
using FloatLarge = ColumnsFloat<64, 64>;
using FloatSmall = ColumnsFloat<32, 32>;
using HalfLarge = ColumnsTensor<fs::half, 64, 64>;
using HalfSmall = ColumnsTensor<fs::half, 32, 32>;
using Bf16Large = ColumnsTensor<fs::bf16, 64, 64>;
using Bf16Small = ColumnsTensor<fs::bf16, 32, 32>;
}  // namespace

FEWSTEP_CONV2D_WEIGHT_GRAD(fewstep_conv2d_weight_grad_f32_64x64, FloatLarge, float)
FEWSTEP_CONV2D_WEIGHT_GRAD(fewstep_conv2d_weight_grad_f32_32x32, FloatSmall, float)
FEWSTEP_CONV2D_WEIGHT_GRAD(fewstep_conv2d_weight_grad_f16_64x64, HalfLarge, fs::half)
FEWSTEP_CONV2D_WEIGHT_GRAD(fewstep_conv2d_weight_grad_f16_32x32, HalfSmall, fs::half)
FEWSTEP_CONV2D_WEIGHT_GRAD(fewstep_conv2d_weight_grad_bf16_64x64, Bf16Large, fs::bf16)
FEWSTEP_CONV2D_WEIGHT_GRAD(fewstep_conv2d_weight_grad_bf16_32x32, Bf16Small, fs::bf16)
