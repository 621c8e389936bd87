// Convolution as an implicit matrix product: rows are pixels of the result, columns its channels, and the summed index k walks over taps and, within a
// tap, over channels. The matrix of gathered pixels is never written: each block copies the chunks of it that it needs to shared memory.
#pragma once
#include "device/fewstep.cuh"
#include "parts/chunk.cuh"
#include "parts/conv_shape.cuh"
#include "parts/digits.cuh"
#include "parts/pipeline.cuh"
#include "parts/quad.cuh"
#include "parts/sources.cuh"
#include "parts/tile_product.cuh"
#include "shared.h"

namespace {

// The tiles of the kernels.
using FloatLarge = RowsFloat<64, 64>;
using FloatSmall = RowsFloat<32, 32>;
using HalfTall = RowsTensor<fs::half, 128, 64>;
using HalfLarge = RowsTensor<fs::half, 64, 64>;
using HalfSmall = RowsTensor<fs::half, 32, 32>;
using Bf16Tall = RowsTensor<fs::bf16, 128, 64>;
using Bf16Large = RowsTensor<fs::bf16, 64, 64>;
using Bf16Small = RowsTensor<fs::bf16, 32, 32>;
static_assert(FloatSmall::kDepth == shared::conv::kDepth && HalfSmall::kDepth == shared::conv::kTensorDepth);
static_assert(HalfSmall::kThreads == shared::conv::kTensorThreads && HalfTall::kRows == shared::conv::kTallRows);
static_assert(shared::conv::kMostTaps < 16, "a bit each, and one behind, in half a word");

// A thread copies the same chunk of every stage, for the rows that are kRowsPerPass apart.
template <class P>
struct RowCopies {
  using T = typename P::T;
  static constexpr int kChunksPerRow = P::kDepth / kChunk<T>, kRowsPerPass = P::kThreads / kChunksPerRow;
  static constexpr int kGathered = P::kRows / kRowsPerPass, kWeights = P::kColumns / kRowsPerPass;
  static constexpr int kStage = (P::kRows + P::kColumns) * P::kPitch;
  static_assert(kChunksPerRow == 4 && P::kRows % kRowsPerPass == 0 && P::kColumns % kRowsPerPass == 0 && kRowsPerPass % 8 == 0);

  // For each gathered row, the number of the pixel under the first tap, which may lie before the image; and which taps have a pixel under them:
  // bit r for the rows r of taps, bit 16 + s for their columns s. All that need be known of a row for every stage.
  int at[kGathered];
  uint32_t inside[kGathered];
  Digits tap, advance;  // row, column, channel; and how far it is to the next stage
  int channels;         // padded
  const T* weights;     // the chunk of the first column
  int k;                // its place in the sum
  int columns;          // how many of the kWeights columns exist
  int place;            // of the first row's chunk in a stage; those of the others, a multiple of 8 rows on, lie as many pitches on
  bool aligned;

  FEWSTEP_DEVICE int first_row() { return int(fs::thread_index().x) / kChunksPerRow; }
  FEWSTEP_DEVICE int first_k() { return int(fs::thread_index().x) % kChunksPerRow * kChunk<T>; }
};

// Which of `taps` taps, the first over `first`, lie over [0, size): a bit each. At most shared::conv::kMostTaps taps, so that the bit after the last is
// zero: what a stage holds beyond the sum's end is under no tap.
FEWSTEP_DEVICE uint32_t taps_inside(int first, int size, int taps) {
  const int begin = fs::max(-first, 0), end = fs::min(size - first, taps);
  return begin < end ? (1u << end) - (1u << begin) : 0;
}

template <class P>
FEWSTEP_DEVICE void begin_copies(RowCopies<P>& t, const Window& w, const typename P::T* weights, int first_pixel, int first_column, int columns, int depth,
                                 int first_step) {
  using T = typename P::T;
  Digits pixel = digits_of(first_pixel + t.first_row(), w.rows, w.cols);  // image, row, column
  const Digits pass = digits_of(t.kRowsPerPass, w.rows, w.cols);
  FEWSTEP_UNROLL
  for (int i = 0; i < t.kGathered; i++) {
    const int y = pixel.middle * w.stride - w.top, x = pixel.low * w.stride - w.left;
    const bool exists = pixel.high < w.images;
    t.at[i] = exists ? (pixel.high * w.in_h + y) * w.in_w + x : 0;
    t.inside[i] = exists ? taps_inside(y, w.in_h, w.taps_h) | taps_inside(x, w.in_w, w.taps_w) << 16 : 0;
    pixel = add(pixel, pass, w.rows, w.cols);
  }
  const int column = first_column + t.first_row();
  t.columns = column < columns ? (columns - column + t.kRowsPerPass - 1) / t.kRowsPerPass : 0;
  t.channels = fs::keep(padded_channels<T>(w.in_c));
  t.k = first_step * P::kDepth + t.first_k();
  t.weights = weights + (fs::min(column, columns - 1) * depth + t.k);
  t.tap = digits_of(t.k, w.taps_w, t.channels);
  t.advance = digits_of(P::kDepth, w.taps_w, t.channels);
  t.place = fs::keep(P::place(t.first_row(), t.first_k() / kChunk<T>));
  t.aligned = w.in_c % kChunk<T> == 0;
}

// Bits of RowCopies::inside.
FEWSTEP_DEVICE uint32_t bits_of(const Digits& tap) { return 1u << tap.high | 1u << (16 + tap.middle); }

// Whether gathered row `i` has a pixel under this tap.
template <class P>
FEWSTEP_DEVICE bool is_inside(const RowCopies<P>& t, uint32_t bits, int i) {
  return (t.inside[i] & bits) == bits;
}

template <class P>
FEWSTEP_DEVICE Digits next_tap(const RowCopies<P>& t, const Window& w, const Digits& tap) {
  return add(tap, t.advance, w.taps_w, t.channels);
}

// Starts copying a chunk of a pixel, or what stands for one where there is none.
template <class T>
FEWSTEP_DEVICE void copy_pixel(const Sources<T>&, T* shared, const T* source, bool exists) {
  copy_chunk(shared, source, exists);
}

// Starts this thread's copies of one stage and moves on to the next. `From`: Sources, or Staged (parts/staged.cuh).
template <class P, class From>
FEWSTEP_DEVICE void copy_stage(RowCopies<P>& t, typename P::T* stage, const From& sources, const Window& w, int depth) {
  using T = typename P::T;
  const Source<T> from = source_of(sources, w.in_c, t.tap.low);
  const int along = (t.tap.high * w.in_w + t.tap.middle) * from.channels + from.channel;
  const uint32_t bits = bits_of(t.tap);
  T* to = stage + t.place;
  if (From::kWhole || t.aligned) {
    FEWSTEP_UNROLL
    for (int i = 0; i < t.kGathered; i++) copy_pixel(sources, to + i * t.kRowsPerPass * P::kPitch, from.x + (t.at[i] * from.channels + along), is_inside(t, bits, i));
  } else if constexpr (!From::kWhole) {
    FEWSTEP_UNROLL
    for (int i = 0; i < t.kGathered; i++) {
      gather_chunk(to + i * t.kRowsPerPass * P::kPitch, from.x + (t.at[i] * from.channels + along), is_inside(t, bits, i) ? w.in_c - t.tap.low : 0);
    }
  }
  to += P::kRows * P::kPitch;
  const int exist = t.k < depth ? t.columns : 0;
  FEWSTEP_UNROLL
  for (int i = 0; i < t.kWeights; i++) copy_chunk(to + i * t.kRowsPerPass * P::kPitch, t.weights + i * t.kRowsPerPass * depth, i < exist);
  t.k += P::kDepth;
  t.weights += P::kDepth;
  t.tap = next_tap(t, w, t.tap);
}

// Floats from one row of the tile in shared memory to the next.
template <class P>
constexpr int kTilePitch = P::kColumns + 4;

// A thread's share of the tile in shared memory: four neighbouring columns of every kParts-th row. Neighbouring threads then store neighbouring elements
// whatever way the sums were spread over the registers, and what belongs to a channel is fetched once.
template <class P>
struct Share {
  static constexpr int kQuads = P::kColumns / 4, kParts = P::kThreads / kQuads;
  static_assert(P::kThreads % kQuads == 0 && P::kRows % kParts == 0);

  FEWSTEP_DEVICE int column() { return int(fs::thread_index().x) % kQuads * 4; }
  FEWSTEP_DEVICE int part() { return int(fs::thread_index().x) / kQuads; }
  FEWSTEP_DEVICE int channel(const fs::Block& block) { return int(block.index.y) * P::kColumns + column(); }
};

// The tile of the product of block (x, y) of the grid, to shared memory. `weights` is [columns][taps_h][taps_w][padded channels], as
// pack_conv.cu writes it. `stages`, of kStages * RowCopies<P>::kStage elements, holds the tile afterwards, rows kTilePitch<P> apart: floats, or whole numbers
// as the floats of their bits. change_of(copies) is what is done to the pixels on the way (see multiply_stages).
template <class P, class From, class ChangeOf>
FEWSTEP_DEVICE void convolve(const fs::Block& block, typename P::T* stages, const From& sources, const typename P::T* weights, const Window& w, int columns,
                             int slice, int slices, ChangeOf change_of) {
  using T = typename P::T;
  using Copies = RowCopies<P>;
  static_assert(P::kRows * kTilePitch<P> * 4 <= kStages * Copies::kStage * int(sizeof(T)));
  const int first_pixel = int(block.index.x) * P::kRows, first_column = int(block.index.y) * P::kColumns;
  if (first_pixel >= pixels_of(w)) return;  // a parity with fewer pixels than the largest
  const int depth = w.taps_h * w.taps_w * padded_channels<T>(w.in_c);
  const Slice part = slice_of((depth + P::kDepth - 1) / P::kDepth, slice, slices);

  Copies copies;
  begin_copies(copies, w, weights, first_pixel, first_column, columns, depth, part.first);
  typename P::Sum sum = {};
  multiply_stages<P, Copies::kStage, P::kRows * P::kPitch>(
    sum, stages, part, [&](T* stage) { copy_stage(copies, stage, sources, w, depth); }, change_of(copies));
  fs::sync_threads();
  float* tile = reinterpret_cast<float*>(stages);
  P::each(sum, [&](int row, int column, const auto& sums) {
    FEWSTEP_UNROLL
    for (int i = 0; i < P::kRun; i++) tile[row * kTilePitch<P> + column + i] = fs::bit_cast<float>(sums[i]);
  });
  fs::sync_threads();
}

// Calls store(pixel of the result, place in the tile) for this thread's share of the block's tile, for pixels and first channels that exist.
template <class P, class Store>
FEWSTEP_DEVICE void each_of_share(const fs::Block& block, float* tile, const Window& w, int columns, Store store) {
  const int first_pixel = int(block.index.x) * P::kRows;
  if (Share<P>::channel(block) >= columns) return;
  for (int row = Share<P>::part(); row < P::kRows; row += Share<P>::kParts) {
    const int m = first_pixel + row;
    if (m < pixels_of(w)) store(result_pixel(w, m), tile + row * kTilePitch<P> + Share<P>::column());
  }
}

}  // namespace
