// Convolution as an implicit matrix product: rows are pixels of the result, columns its channels, and the summed index k walks over taps and, within a
// tap, over channels. The matrix of gathered pixels is never written: each block copies the chunks of it that it needs to shared memory.
#pragma once
#include "device/fewstep.cuh"
#include "parts/chunk.cuh"
#include "parts/conv_shape.cuh"
#include "parts/digits.cuh"
#include "parts/pipeline.cuh"
#include "parts/quad.cuh"
#include "parts/tile_product.cuh"

namespace {

// The tiles of the kernels.
using FloatLarge = RowsFloat<64, 64>;
using FloatSmall = RowsFloat<32, 32>;
using HalfLarge = RowsTensor<fs::half, 64, 64>;
using HalfSmall = RowsTensor<fs::half, 32, 32>;
using Bf16Large = RowsTensor<fs::bf16, 64, 64>;
using Bf16Small = RowsTensor<fs::bf16, 32, 32>;

// A thread copies the same chunk of every stage, for the rows that are kRowsPerPass apart.
template <class P>
struct RowCopies {
  using T = typename P::T;
  static constexpr int kChunksPerRow = P::kDepth / kChunk<T>, kRowsPerPass = P::kThreads / kChunksPerRow;
  static constexpr int kGathered = P::kRows / kRowsPerPass, kWeights = P::kColumns / kRowsPerPass;
  static constexpr int kStage = (P::kRows + P::kColumns) * P::kPitch;
  static_assert(kChunksPerRow == 4 && P::kRows % kRowsPerPass == 0 && P::kColumns % kRowsPerPass == 0);

  // The source pixel under the first tap, for each gathered row: its element offset, which may lie before the image, and its place.
  int at[kGathered], y[kGathered], x[kGathered];
  Digits tap, advance;  // row, column, channel; and how far it is to the next stage
  int k;
  bool aligned;

  FEWSTEP_DEVICE int first_row() { return int(fs::thread_index().x) / kChunksPerRow; }
  FEWSTEP_DEVICE int first_k() { return int(fs::thread_index().x) % kChunksPerRow * kChunk<T>; }
};

template <class P>
FEWSTEP_DEVICE void begin_copies(RowCopies<P>& t, const Window& w, int first_pixel, int first_step) {
  using T = typename P::T;
  FEWSTEP_UNROLL
  for (int i = 0; i < t.kGathered; i++) {
    const int m = first_pixel + t.first_row() + i * t.kRowsPerPass;
    // A row past the last pixel is so far above the image that no tap reaches it.
    t.at[i] = t.x[i] = 0;
    t.y[i] = -(1 << 30);
    if (m >= pixels_of(w)) continue;
    const int col = m % w.cols, rest = m / w.cols, row = rest % w.rows, image = rest / w.rows;
    t.y[i] = row * w.stride - w.top;
    t.x[i] = col * w.stride - w.left;
    t.at[i] = ((image * w.in_h + t.y[i]) * w.in_w + t.x[i]) * w.in_c;
  }
  t.k = first_step * P::kDepth + t.first_k();
  t.tap = digits_of(t.k, w.taps_w, padded_channels<T>(w.in_c));
  t.advance = digits_of(P::kDepth, w.taps_w, padded_channels<T>(w.in_c));
  t.aligned = w.in_c % kChunk<T> == 0;
}

// Whether gathered row `i` has a pixel under this tap.
template <class P>
FEWSTEP_DEVICE bool is_inside(const RowCopies<P>& t, const Window& w, const Digits& tap, int i) {
  return tap.high < w.taps_h && uint32_t(t.y[i] + tap.high) < uint32_t(w.in_h) && uint32_t(t.x[i] + tap.middle) < uint32_t(w.in_w);
}

// Starts this thread's copies of one stage and moves on to the next.
template <class P>
FEWSTEP_DEVICE void copy_stage(RowCopies<P>& t, typename P::T* stage, const typename P::T* source, const typename P::T* weights, const Window& w,
                               int first_column, int columns, int depth) {
  using T = typename P::T;
  const int along = (t.tap.high * w.in_w + t.tap.middle) * w.in_c + t.tap.low;
  T* to = stage + t.first_row() * P::kPitch + t.first_k();
  FEWSTEP_UNROLL
  for (int i = 0; i < t.kGathered; i++) {
    const bool inside = is_inside(t, w, t.tap, i);
    copy_chunk(to + i * t.kRowsPerPass * P::kPitch, inside ? source + (t.at[i] + along) : source, inside ? w.in_c - t.tap.low : 0, t.aligned);
  }
  to += P::kRows * P::kPitch;
  FEWSTEP_UNROLL
  for (int i = 0; i < t.kWeights; i++) {
    const int column = first_column + t.first_row() + i * t.kRowsPerPass;
    const bool inside = column < columns && t.k < depth;
    copy_chunk(to + i * t.kRowsPerPass * P::kPitch, inside ? weights + (column * depth + t.k) : weights, inside ? kChunk<T> : 0, true);
  }
  t.k += P::kDepth;
  t.tap = add(t.tap, t.advance, w.taps_w, padded_channels<T>(w.in_c));
}

// Floats from one row of the tile in shared memory to the next.
template <class P>
constexpr int kTilePitch = P::kColumns + 4;

// Calls store(row, column, sums) for each quad of neighbouring columns of the tile, `sums` being its place there. By way of shared memory: then neighbouring threads store neighbouring
// quads whatever way the sums are spread over the registers, and the epilogue is a short loop instead of a copy of itself for each register.
template <class P, class Store>
FEWSTEP_DEVICE void hand_out(const typename P::Sum& sum, float* tile, Store store) {
  constexpr int kPitch = kTilePitch<P>, kQuads = P::kColumns / 4;
  static_assert(P::kRows * kPitch * 4 <= kStages * RowCopies<P>::kStage * int(sizeof(typename P::T)));
  P::each(sum, [&](int row, int column, const auto& sums) {
    FEWSTEP_UNROLL
    for (int i = 0; i < P::kRun; i++) tile[row * kPitch + column + i] = sums[i];
  });
  fs::sync_threads();
  for (int at = int(fs::thread_index().x); at < P::kRows * kQuads; at += P::kThreads) {
    const int row = at / kQuads, column = at % kQuads * 4;
    store(row, column, tile + row * kPitch + column);
  }
}

// The block's tile of the product, from block (x, y) of the grid: calls store(pixel of the result, channel, sums) for quads of neighbouring channels
// of which at least the first exists. `weights` is [columns][taps_h][taps_w][padded channels], as pack_conv.cu writes it. `stages`, shared memory of
// kStages * RowCopies<P>::kStage elements, holds the tile afterwards. change_of(copies) is what is done to the pixels on the way (see multiply_stages).
template <class P, class Store, class ChangeOf>
FEWSTEP_DEVICE void convolve(typename P::T* stages, const typename P::T* source, const typename P::T* weights, const Window& w, int columns, int slice,
                             int slices, Store store, ChangeOf change_of) {
  using T = typename P::T;
  using Copies = RowCopies<P>;
  const int first_pixel = int(fs::block_index().x) * P::kRows, first_column = int(fs::block_index().y) * P::kColumns;
  if (first_pixel >= pixels_of(w)) return;  // a parity with fewer pixels than the largest
  const int depth = w.taps_h * w.taps_w * padded_channels<T>(w.in_c);
  const Slice part = slice_of((depth + P::kDepth - 1) / P::kDepth, slice, slices);

  Copies copies;
  begin_copies(copies, w, first_pixel, part.first);
  typename P::Sum sum = {};
  multiply_stages<P, Copies::kStage, P::kRows * P::kPitch>(
    sum, stages, part, [&](T* stage) { copy_stage(copies, stage, source, weights, w, first_column, columns, depth); }, change_of(copies));
  fs::sync_threads();
  hand_out<P>(sum, reinterpret_cast<float*>(stages), [&](int row, int column, float* sums) {
    const int m = first_pixel + row, channel = first_column + column;
    if (m < pixels_of(w) && channel < columns) store(result_pixel(w, m), channel, sums);
  });
}

}  // namespace
