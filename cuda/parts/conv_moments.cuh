// Mean and variance of every channel of a convolution's result, from the tile that a block has in shared memory: the norm behind need not read the result.
#pragma once
#include "device/fewstep.cuh"
#include "parts/conv_product.cuh"
#include "parts/last_block.cuh"

namespace {

// of      [N][channels][2]: mean and biased variance over an image's pixels; or null, if nobody asks
// pieces  [N][pixels / rows of a tile][channels][2]: the same over a tile's rows; null if a tile has all pixels
struct Moments {
  float* of;
  float* pieces;
};

// A column of a tile and every how many-th of its rows this thread has.
template <class P>
struct Strip {
  static constexpr int kParts = P::kThreads / P::kColumns;
  static_assert(P::kThreads % P::kColumns == 0 && P::kRows % kParts == 0);

  FEWSTEP_DEVICE int column() { return int(fs::thread_index().x) % P::kColumns; }
  FEWSTEP_DEVICE int part() { return int(fs::thread_index().x) / P::kColumns; }

  // The sum of what the threads of a column have, in the order of the parts.
  FEWSTEP_DEVICE float total(float own, float* room) {
    fs::sync_threads();
    room[fs::thread_index().x] = own;
    fs::sync_threads();
    float sum = 0;
    FEWSTEP_UNROLL
    for (int i = 0; i < kParts; i++) sum += room[i * P::kColumns + column()];
    return sum;
  }
};

FEWSTEP_DEVICE void store_moments(float* to, float mean, float variance) {
  to[0] = mean;
  to[1] = variance;
}

// Those of an image's column from its `count` pieces, `stride` floats apart, all of as many rows (Chan et al. 1983). Differences from the first
// piece's mean, so that a large common offset costs no digits.
template <class P>
FEWSTEP_DEVICE void merge_moments(const float* pieces, int count, int stride, bool exists, float* room, float* to) {
  const float pivot = exists ? fs::load_l2(pieces) : 0;
  float sum = 0, squares = 0;
  for (int i = Strip<P>::part(); exists && i < count; i += Strip<P>::kParts) {
    const float away = fs::load_l2(pieces + i * stride) - pivot;
    sum += away;
    squares += fs::fma(away, away, fs::load_l2(pieces + i * stride + 1));
  }
  const float mean = Strip<P>::total(sum, room) / float(count), square = Strip<P>::total(squares, room) / float(count);
  if (exists && Strip<P>::part() == 0) store_moments(to, pivot + mean, fs::max(square - mean * mean, 0.0f));
}

// From the finished tile of this block, whose rows are all of one image of `pixels`, a multiple of them. Counters: one for each image and tile of columns.
template <class P>
FEWSTEP_DEVICE void tile_moments(const float* tile, const Moments& m, uint32_t* counters, int pixels, int channels) {
  FEWSTEP_SHARED(float, room, P::kThreads);
  fs::sync_threads();
  float sum = 0, squares = 0;
  for (int row = Strip<P>::part(); row < P::kRows; row += Strip<P>::kParts) sum += tile[row * kTilePitch<P> + Strip<P>::column()];
  const float mean = Strip<P>::total(sum, room) / float(P::kRows);
  for (int row = Strip<P>::part(); row < P::kRows; row += Strip<P>::kParts) {
    const float away = tile[row * kTilePitch<P> + Strip<P>::column()] - mean;
    squares = fs::fma(away, away, squares);
  }
  const float variance = Strip<P>::total(squares, room) / float(P::kRows);
  const int channel = int(fs::block_index().y) * P::kColumns + Strip<P>::column(), tiles = pixels / P::kRows;
  const int image = int(fs::block_index().x) / tiles, piece = int(fs::block_index().x) % tiles;
  const bool exists = channel < channels;
  float* to = m.of + (image * channels + channel) * 2;
  if (tiles == 1) {
    if (exists && Strip<P>::part() == 0) store_moments(to, mean, variance);
    return;
  }
  float* pieces = m.pieces + (image * tiles * channels + channel) * 2;
  if (exists && Strip<P>::part() == 0) store_moments(pieces + piece * channels * 2, mean, variance);
  if (is_last(counters + image * int(fs::grid_size().y) + int(fs::block_index().y), tiles)) {
    merge_moments<P>(pieces, tiles, channels * 2, exists, room, to);
  }
}

}  // namespace
