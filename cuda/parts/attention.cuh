// What the attention kernels share: tiles of 32 rows in shared memory and the two products of such tiles, in f32.
//
// 128 threads stand as 8 x 16 over a 32 x 32 tile of scores: thread (ty, tx) has rows 4 ty ... 4 ty + 3 and columns tx, tx + 16, so that a row's 16 threads
// are half a warp and reduce it by shuffles. Rows of a tile are padded by four floats: sixteen rows read side by side, 16 bytes each, touch every bank once
// in a quarter warp. Channels come in chunks of W (64, or less for narrow heads): two chunks and the scores fit 22 KiB whatever the head's width, so that two
// to four blocks share a multiprocessor and one computes while another waits for its tiles.
#pragma once
#include "device/fewstep.cuh"
#include "parts/heads.cuh"
#include "parts/quad.cuh"
#include "shared.h"

namespace {

using namespace shared::attention;
constexpr int kWeightPitch = kTile + 4;
constexpr int kWeightSize = kTile * kWeightPitch;
template <int W>
constexpr int kChunkSize = kTile * (W + 4);

FEWSTEP_DEVICE int thread_row() { return int(fs::thread_index().x) / 16 * 4; }
FEWSTEP_DEVICE int thread_column() { return int(fs::thread_index().x) % 16; }

// chunk[row][c] = head[32 tile + row][channel + c] for 32 rows and W channels; zeros beyond the tokens and beyond the head. Heads of four, eight ... channels
// are moved in fours; others one by one, a row of W channels by as many threads.
template <int W, class T>
FEWSTEP_DEVICE void load_chunk(float* chunk, const T* head, const Heads& h, int pitch, int tile, int channel) {
  const int thread = int(fs::thread_index().x);
  if (h.width % 4 == 0) {
    constexpr int kQuads = W / 4;
    const int c = thread % kQuads * 4;
    const T* from = head + (tile * kTile * pitch + channel + c);
    FEWSTEP_UNROLL
    for (int first = 0; first < kTile; first += kThreads / kQuads) {
      const int row = first + thread / kQuads;
      if (kQuads * kTile < kThreads && row >= kTile) break;
      const bool there = tile * kTile + row < h.tokens && channel + c < h.width;
      store_whole(chunk + row * (W + 4) + c, there ? load_whole(from + row * pitch) : Quad{{0, 0, 0, 0}});
    }
  } else {
    const int c = thread % W;
    for (int row = thread / W; row < kTile; row += kThreads / W) {
      const int token = tile * kTile + row;
      chunk[row * (W + 4) + c] = token < h.tokens && channel + c < h.width ? fs::to_float(head[token * pitch + channel + c]) : 0.0f;
    }
  }
}

// scores[i][j] += sum over a chunk's first `depth` channels of a[4 ty + i][c] b[tx + 16 j][c].
template <int W>
FEWSTEP_DEVICE void add_scores(float (&scores)[4][2], const float* a, const float* b, int depth) {
  const float* rows = a + thread_row() * (W + 4);
  const float* columns = b + thread_column() * (W + 4);
  for (int c = 0; c < depth; c += 4) {
    Quad y[2];
    FEWSTEP_UNROLL
    for (int j = 0; j < 2; j++) y[j] = load_whole(columns + j * 16 * (W + 4) + c);
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) {
      const Quad x = load_whole(rows + i * (W + 4) + c);
      FEWSTEP_UNROLL
      for (int j = 0; j < 2; j++) {
        FEWSTEP_UNROLL
        for (int k = 0; k < 4; k++) scores[i][j] = fs::fma(x.v[k], y[j].v[k], scores[i][j]);
      }
    }
  }
}

// Writes this thread's part of a tile of weights.
FEWSTEP_DEVICE void store_weights(float* weights, const float (&w)[4][2]) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    FEWSTEP_UNROLL
    for (int j = 0; j < 2; j++) weights[(thread_row() + i) * kWeightPitch + thread_column() + 16 * j] = w[i][j];
  }
}

// Of a row's 16 threads, W / 4 have four channels each; where that leaves some over, they have other columns of the weights, and fold() adds theirs.
template <int W>
FEWSTEP_DEVICE int thread_channel() {
  return thread_column() % (W / 4) * 4;
}

// sum[i][c] += sum over columns of weights[4 ty + i][column] values[column][thread_channel + c].
template <int W>
FEWSTEP_DEVICE void add_weighted(float (&sum)[4][4], const float* weights, const float* values) {
  constexpr int kGroups = 64 / W;
  const int group = thread_column() / (W / 4);
  const float* rows = weights + thread_row() * kWeightPitch;
  FEWSTEP_UNROLL
  for (int m = 0; m < 8 / kGroups; m++) {
    const int column = (group + m * kGroups) * 4;
    Quad w[4];
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) w[i] = load_whole(rows + i * kWeightPitch + column);
    FEWSTEP_UNROLL
    for (int j = 0; j < 4; j++) {
      const Quad v = load_whole(values + (column + j) * (W + 4) + thread_channel<W>());
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; i++) {
        FEWSTEP_UNROLL
        for (int c = 0; c < 4; c++) sum[i][c] = fs::fma(w[i].v[j], v.v[c], sum[i][c]);
      }
    }
  }
}

// Adds up what the threads of one row have of the same channels.
template <int W>
FEWSTEP_DEVICE void fold(float (&sum)[4][4]) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    FEWSTEP_UNROLL
    for (int c = 0; c < 4; c++) {
      FEWSTEP_UNROLL
      for (uint32_t bits = W / 4; bits < 16; bits <<= 1) sum[i][c] += fs::shuffle_xor(sum[i][c], bits);
    }
  }
}

// head[32 tile + 4 ty + i][channel + c] = sum[i][c] where there is such a token and channel.
template <int W, class T>
FEWSTEP_DEVICE void store_rows(T* head, const float (&sum)[4][4], const Heads& h, int pitch, int tile, int channel) {
  const int at = channel + thread_channel<W>();
  if (thread_column() >= W / 4 || at >= h.width) return;
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    const int token = tile * kTile + thread_row() + i;
    if (token < h.tokens) store_quad(head + (token * pitch + at), Quad{{sum[i][0], sum[i][1], sum[i][2], sum[i][3]}}, h.width - at);
  }
}

// The sum over a row's 16 threads, the same bits in each.
FEWSTEP_DEVICE float row_sum(float x) {
  FEWSTEP_UNROLL
  for (uint32_t bits = 8; bits; bits >>= 1) x += fs::shuffle_xor(x, bits);
  return x;
}

}  // namespace
