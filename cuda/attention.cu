// Self-attention: out = softmax(scale q k^T) v of every sample and head, and the rows' log-sum-exp. In f32 arithmetic, for all heads of float and for those
// of half and bf16 that attention_tensor.cu does not take.
//
// Floor: 4 N heads tokens^2 width operations at the f32 rate, 67 TFLOP/s on an H100: 1024 tokens of 64 channels are 0.27 GFLOP, 4 us; the 1 MiB moved is
// 0.3 us. Shared memory feeds the multipliers: 8 loads of 16 bytes for 64 products in one half of the work, 6 for 32 in the other.
// A block has 32 queries and walks the keys in tiles of 32 with a running maximum and sum (Milakov & Gimelshein 2018; Dao et al. 2022): no tokens x tokens
// memory, any number of tokens. 32 queries rather than 64: small nets have few tokens, and the number of blocks is what they lack.
// The output stays in registers, 16 for each 64 channels: a template a class of widths.
#include "device/fewstep.cuh"
#include "parts/attention.cuh"

namespace {

// What the online softmax knows of this thread's four rows.
struct Rows {
  float max[4];
  float sum[4];  // this thread's columns only
};

// Turns scores into weights exp(scale score - max) and gives the factors that bring earlier weights to the new maximum.
FEWSTEP_DEVICE void softmax_tile(float (&scores)[4][2], Rows& rows, float (&factor)[4], const Heads& h, int tile) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    float top = rows.max[i];
    FEWSTEP_UNROLL
    for (int j = 0; j < 2; j++) {
      const bool there = tile * kTile + thread_column() + 16 * j < h.tokens;
      scores[i][j] = there ? scores[i][j] * h.scale : minus_infinity();
      top = fs::max(top, scores[i][j]);
    }
    FEWSTEP_UNROLL
    for (uint32_t bits = 8; bits; bits >>= 1) top = fs::max(top, fs::shuffle_xor(top, bits));
    factor[i] = fs::exp(rows.max[i] - top);
    rows.max[i] = top;
    rows.sum[i] *= factor[i];
    FEWSTEP_UNROLL
    for (int j = 0; j < 2; j++) {
      scores[i][j] = fs::exp(scores[i][j] - top);
      rows.sum[i] += scores[i][j];
    }
  }
}

// Heads of at most W * Chunks channels.
template <int W, int Chunks, class T>
FEWSTEP_DEVICE void attend(const fs::Block& block, const T* q, const T* k, const T* v, T* out, float* lse, const Heads& h) {
  FEWSTEP_SHARED(float, queries, kChunkSize<W>);
  FEWSTEP_SHARED(float, keys, kChunkSize<W>);
  FEWSTEP_SHARED(float, weights, kWeightSize);
  const Place p = place_of<kTile>(block, h, 1);
  Rows rows;
  float sum[Chunks][4][4];
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    rows.max[i] = minus_infinity();
    rows.sum[i] = 0;
    FEWSTEP_UNROLL
    for (int c = 0; c < Chunks * 4; c++) sum[c / 4][i][c % 4] = 0;
  }
  for (int tile = 0; tile < p.tiles; tile++) {
    float scores[4][2] = {};
    for (int channel = 0; channel < h.width; channel += W) {
      fs::sync_threads();
      if (Chunks > 1 || tile == 0) load_chunk<W>(queries, q + p.start, h, p.pitch, p.tile, channel);
      load_chunk<W>(keys, k + p.start, h, p.pitch, tile, channel);
      fs::sync_threads();
      add_scores<W>(scores, queries, keys, fs::min(W, h.width - channel));
    }
    float factor[4];
    softmax_tile(scores, rows, factor, h, tile);
    store_weights(weights, scores);
    FEWSTEP_UNROLL
    for (int i = 0; i < Chunks * 16; i++) sum[i / 16][i / 4 % 4][i % 4] *= factor[i / 4 % 4];
    FEWSTEP_UNROLL
    for (int c = 0; c < Chunks; c++) {
      if (c * W >= h.width) break;
      fs::sync_threads();
      load_chunk<W>(keys, v + p.start, h, p.pitch, tile, c * W);
      fs::sync_threads();
      add_weighted<W>(sum[c], weights, keys);
    }
  }
  float inverse[4];
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    const float total = row_sum(rows.sum[i]);
    inverse[i] = fs::div_rn(1.0f, total);
    const int token = p.tile * kTile + thread_row() + i;
    if (thread_column() == 0 && token < h.tokens) lse[p.row + token] = rows.max[i] + fs::log(total);
  }
  FEWSTEP_UNROLL
  for (int c = 0; c < Chunks; c++) {
    fold<W>(sum[c]);
    FEWSTEP_UNROLL
    for (int i = 0; i < 16; i++) sum[c][i / 4][i % 4] *= inverse[i / 4];
    store_rows<W>(out + p.start, sum[c], h, p.pitch, p.tile, c * W);
  }
}

}  // namespace

// ceil(tokens / 32) * heads * N blocks of 128 threads. q, k, v, out [N,tokens,heads*width]; lse [N,heads,tokens]. For heads of at most `widest` channels.
// Shared memory: 7.5 KiB (8 channels), 13.5 KiB (32), 21.5 KiB (others).
#define FEWSTEP_ATTENTION(widest, W, Chunks, T, suffix)                                                                                              \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_attention_##widest##_##suffix, const T* q, const T* k, const T* v, T* out, float* lse, Heads heads) { \
    attend<W, Chunks>(fs::begin(), q, k, v, out, lse, heads);                                                                                        \
  }

FEWSTEP_ATTENTION(8, 8, 1, float, f32)
FEWSTEP_ATTENTION(32, 32, 1, float, f32)
FEWSTEP_ATTENTION(64, 64, 1, float, f32)
FEWSTEP_ATTENTION(128, 64, 2, float, f32)
FEWSTEP_ATTENTION(256, 64, 4, float, f32)
FEWSTEP_ATTENTION(512, 64, 8, float, f32)
// Rare: heads that attention_tensor.cu does not take.
FEWSTEP_ATTENTION(64, 64, 1, fs::half, f16)
FEWSTEP_ATTENTION(512, 64, 8, fs::half, f16)
FEWSTEP_ATTENTION(64, 64, 1, fs::bf16, bf16)
FEWSTEP_ATTENTION(512, 64, 8, fs::bf16, bf16)
