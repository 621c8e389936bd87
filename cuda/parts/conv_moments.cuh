// Mean and variance of every channel of a convolution's result, from the tile that a block has in shared memory: the norm behind need not read the result.
#pragma once
#include "device/fewstep.cuh"
#include "parts/conv_output.cuh"
#include "parts/conv_product.cuh"
#include "parts/last_block.cuh"

namespace {

// of      [N][channels][2]: mean and biased variance over an image's pixels; or null, if nobody asks
// pieces  [N][pixels / rows of a tile][channels][2]: the same over a tile's rows; null if a tile has all pixels
struct Moments {
  float* of;
  float* pieces;
};

// The sums over the threads that share four columns, in the order of their parts. `room` is for a quad a thread.
template <class P>
FEWSTEP_DEVICE Quad total_of(const Quad& own, float* room) {
  fs::sync_threads();
  store_whole(room + fs::thread_index().x * 4, own);
  fs::sync_threads();
  Quad sum = {{0, 0, 0, 0}};
  FEWSTEP_UNROLL
  for (int i = 0; i < Share<P>::kParts; i++) add_quad(sum, load_whole(room + i * P::kColumns + Share<P>::column()));
  return sum;
}

FEWSTEP_DEVICE Quad times(const Quad& q, float factor) { return {{q.v[0] * factor, q.v[1] * factor, q.v[2] * factor, q.v[3] * factor}}; }

// sum += away squared.
FEWSTEP_DEVICE void add_squares(Quad& sum, const Quad& away) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) sum.v[i] = fs::fma(away.v[i], away.v[i], sum.v[i]);
}

FEWSTEP_DEVICE Quad difference(const Quad& a, const Quad& b) { return {{a.v[0] - b.v[0], a.v[1] - b.v[1], a.v[2] - b.v[2], a.v[3] - b.v[3]}}; }

// Pairs of mean and variance of `count` (at most four) neighbouring channels.
struct MomentsQuad {
  Quad mean, variance;
};

FEWSTEP_DEVICE void store_moments(float* to, const MomentsQuad& m, int count) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    if (i >= count) continue;
    to[2 * i] = m.mean.v[i];
    to[2 * i + 1] = m.variance.v[i];
  }
}

FEWSTEP_DEVICE MomentsQuad load_moments(const float* from, int count, bool whole) {
  const Quad low = load_l2_quad(from, count * 2, whole), high = load_l2_quad(from + 4, count * 2 - 4, whole);
  return {{{low.v[0], low.v[2], high.v[0], high.v[2]}}, {{low.v[1], low.v[3], high.v[1], high.v[3]}}};
}

// Those of an image's columns from its `pieces`, `stride` floats apart, all of as many rows (Chan et al. 1983). Differences from the first piece's mean,
// so that a large common offset costs no digits. `count` is 0 where there is no column.
template <class P>
FEWSTEP_DEVICE void merge_moments(const float* from, int pieces, int stride, int count, bool whole, float* room, float* to) {
  constexpr int kParts = Share<P>::kParts, kAhead = 4;  // pieces fetched before they are added
  const Quad pivot = count > 0 ? load_moments(from, count, whole).mean : Quad{{0, 0, 0, 0}};
  Quad sum = {{0, 0, 0, 0}}, squares = {{0, 0, 0, 0}};
  for (int first = Share<P>::part(); count > 0 && first < pieces; first += kAhead * kParts) {
    MomentsQuad ahead[kAhead];
    FEWSTEP_UNROLL
    for (int i = 0; i < kAhead; i++) {
      const int at = first + i * kParts;
      ahead[i] = at < pieces ? load_moments(from + at * stride, count, whole) : MomentsQuad{pivot, {{0, 0, 0, 0}}};
    }
    FEWSTEP_UNROLL
    for (int i = 0; i < kAhead; i++) {
      const Quad away = difference(ahead[i].mean, pivot);
      add_quad(sum, away);
      add_quad(squares, ahead[i].variance);
      add_squares(squares, away);
    }
  }
  const Quad mean = times(total_of<P>(sum, room), 1.0f / float(pieces));
  const Quad square = times(total_of<P>(squares, room), 1.0f / float(pieces));
  if (Share<P>::part() != 0) return;
  MomentsQuad merged;
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) merged.mean.v[i] = pivot.v[i] + mean.v[i], merged.variance.v[i] = fs::max(square.v[i] - mean.v[i] * mean.v[i], 0.0f);
  store_moments(to, merged, count);
}

// From the finished tile of this block, whose rows are all of one image of `pixels`, a multiple of them; `total` is the sum over this thread's share. What
// is behind the tile in shared memory is used. Counters: one for each image and tile of columns.
template <class P>
FEWSTEP_DEVICE void tile_moments(const fs::Block& block, float* tile, const Quad& total, const Moments& m, uint32_t* counters, int pixels, int channels) {
  constexpr int kTile = P::kRows * kTilePitch<P>;
  static_assert((kTile + P::kThreads * 4) * 4 <= kStages * RowCopies<P>::kStage * int(sizeof(typename P::T)));
  float* room = tile + kTile;
  const Quad mean = times(total_of<P>(total, room), 1.0f / P::kRows);
  Quad squares = {{0, 0, 0, 0}};
  for (int row = Share<P>::part(); row < P::kRows; row += Share<P>::kParts) {
    add_squares(squares, difference(load_whole(tile + row * kTilePitch<P> + Share<P>::column()), mean));
  }
  const MomentsQuad own = {mean, times(total_of<P>(squares, room), 1.0f / P::kRows)};
  const int channel = Share<P>::channel(block), count = fs::min(channels - channel, 4), tiles = pixels / P::kRows;
  const int image = int(block.index.x) / tiles, piece = int(block.index.x) % tiles;
  float* to = m.of + (image * channels + channel) * 2;
  if (tiles == 1) {
    if (Share<P>::part() == 0) store_moments(to, own, count);
    return;
  }
  float* pieces = m.pieces + (image * tiles * channels + channel) * 2;
  if (Share<P>::part() == 0) store_moments(pieces + piece * channels * 2, own, count);
  if (is_last(counters + image * int(block.grid.y) + int(block.index.y), tiles)) {
    merge_moments<P>(pieces, tiles, channels * 2, count, channels % 4 == 0, room, to);
  }
}

}  // namespace
