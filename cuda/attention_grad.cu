// Gradients of self-attention: with p = exp(scale q k^T - lse), dp = dout v^T and ds = scale p (dp - delta), delta = sum over channels of dout out:
// dq = ds k, dk = ds^T q, dv = p^T dout.
//
// Floor: 7 products of tokens^2 width multiply-adds a head and sample (the scores and dp twice), 14 tokens^2 width operations at the f32 rate.
// Two launches, each block the only writer of its rows, so that sums have one order: the first has a block of 32 queries walk the keys (dq, and delta for the
// second), the second one of 32 keys walk the queries (dk, dv). Sums stay in registers, up to 256 channels; a wider head is the work of several blocks
// ("parts"), which share out its channels and compute the same scores.
#include "device/fewstep.cuh"
#include "parts/attention.cuh"

namespace {

// delta of this thread's four rows.
template <class T>
FEWSTEP_DEVICE void deltas(const T* out, const T* dout, const Heads& h, const Place& p, float (&delta)[4]) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    const int token = p.tile * kTile + thread_row() + i;
    float sum = 0;
    for (int c = thread_column(); c < h.width && token < h.tokens; c += 16) {
      const int64_t at = p.start + token * p.pitch + c;
      sum = fs::fma(fs::to_float(dout[at]), fs::to_float(out[at]), sum);
    }
    delta[i] = row_sum(sum);
  }
}

// products[i][j] = sum over channels of a[4 ty + i] b[tx + 16 j], of tiles `tile_a` and `tile_b` of two heads.
template <int W, class T>
FEWSTEP_DEVICE void multiply(float (&products)[4][2], float* rows, float* columns, const T* a, const T* b, const Heads& h, int pitch, int tile_a, int tile_b) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 8; i++) products[i / 2][i % 2] = 0;
  for (int channel = 0; channel < h.width; channel += W) {
    fs::sync_threads();
    load_chunk<W>(rows, a, h, pitch, tile_a, channel);
    load_chunk<W>(columns, b, h, pitch, tile_b, channel);
    fs::sync_threads();
    add_scores<W>(products, rows, columns, fs::min(W, h.width - channel));
  }
}

// sum[c] += weights times the chunks of `tile` that begin at `channel`.
template <int W, int Chunks, class T>
FEWSTEP_DEVICE void add_product(float (&sum)[Chunks][4][4], const float* weights, float* chunk, const T* values, const Heads& h, int pitch, int tile,
                                int channel) {
  FEWSTEP_UNROLL
  for (int c = 0; c < Chunks; c++) {
    if (channel + c * W >= h.width) break;
    fs::sync_threads();
    load_chunk<W>(chunk, values, h, pitch, tile, channel + c * W);
    fs::sync_threads();
    add_weighted<W>(sum[c], weights, chunk);
  }
}

template <int W, int Chunks, class T>
FEWSTEP_DEVICE void store_sums(T* head, float (&sum)[Chunks][4][4], const Heads& h, const Place& p, int channel) {
  FEWSTEP_UNROLL
  for (int c = 0; c < Chunks; c++) {
    fold<W>(sum[c]);
    store_rows<W>(head, sum[c], h, p.pitch, p.tile, channel + c * W);
  }
}

// p and ds of one score; 0 where there is no such query or key.
struct Weight {
  float p, ds;
};
FEWSTEP_DEVICE Weight weight_of(float score, float dp, float lse, float delta, float scale, bool there) {
  if (!there) return {0, 0};
  const float p = fs::exp(score * scale - lse);
  return {p, scale * p * (dp - delta)};
}

// The operands, as the op has them.
template <class T>
struct Saved {
  const T *q, *k, *v, *out;
  const float* lse;
  const T* dout;
};

template <int W, int Chunks, class T>
FEWSTEP_DEVICE void query_grad(const fs::Block& block, const Saved<T>& saved, T* dq, float* delta_out, const Heads& h, int parts) {
  FEWSTEP_SHARED(float, rows, kChunkSize<W>);
  FEWSTEP_SHARED(float, columns, kChunkSize<W>);
  FEWSTEP_SHARED(float, weights, kWeightSize);
  const Place p = place_of<kTile>(block, h, parts);
  const int channel = p.part * W * Chunks;
  float delta[4], lse[4], sum[Chunks][4][4] = {};
  deltas(saved.out, saved.dout, h, p, delta);
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    const int token = p.tile * kTile + thread_row() + i;
    lse[i] = token < h.tokens ? saved.lse[p.row + token] : 0;
    if (p.part == 0 && thread_column() == 0 && token < h.tokens) delta_out[p.row + token] = delta[i];
  }
  for (int tile = 0; tile < p.tiles; tile++) {
    float scores[4][2], dp[4][2];
    multiply<W>(scores, rows, columns, saved.q + p.start, saved.k + p.start, h, p.pitch, p.tile, tile);
    multiply<W>(dp, rows, columns, saved.dout + p.start, saved.v + p.start, h, p.pitch, p.tile, tile);
    FEWSTEP_UNROLL
    for (int i = 0; i < 8; i++) {
      const bool there = tile * kTile + thread_column() + 16 * (i % 2) < h.tokens;
      scores[i / 2][i % 2] = weight_of(scores[i / 2][i % 2], dp[i / 2][i % 2], lse[i / 2], delta[i / 2], h.scale, there).ds;
    }
    store_weights(weights, scores);
    add_product<W>(sum, weights, columns, saved.k + p.start, h, p.pitch, tile, channel);
  }
  store_sums<W>(dq + p.start, sum, h, p, channel);
}

template <int W, int Chunks, class T>
FEWSTEP_DEVICE void key_grad(const fs::Block& block, const Saved<T>& saved, const float* delta_in, T* dk, T* dv, const Heads& h, int parts) {
  FEWSTEP_SHARED(float, rows, kChunkSize<W>);
  FEWSTEP_SHARED(float, columns, kChunkSize<W>);
  FEWSTEP_SHARED(float, weights, kWeightSize);
  FEWSTEP_SHARED(float, slopes, kWeightSize);
  const Place p = place_of<kTile>(block, h, parts);
  const int channel = p.part * W * Chunks;
  float sum_k[Chunks][4][4] = {}, sum_v[Chunks][4][4] = {};
  for (int tile = 0; tile < p.tiles; tile++) {
    float scores[4][2], dp[4][2];
    multiply<W>(scores, rows, columns, saved.k + p.start, saved.q + p.start, h, p.pitch, p.tile, tile);
    multiply<W>(dp, rows, columns, saved.v + p.start, saved.dout + p.start, h, p.pitch, p.tile, tile);
    FEWSTEP_UNROLL
    for (int j = 0; j < 2; j++) {
      const int query = tile * kTile + thread_column() + 16 * j;
      const bool there = query < h.tokens;
      const float lse = there ? saved.lse[p.row + query] : 0, delta = there ? delta_in[p.row + query] : 0;
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; i++) {
        const Weight w = weight_of(scores[i][j], dp[i][j], lse, delta, h.scale, there);
        scores[i][j] = w.p;
        dp[i][j] = w.ds;
      }
    }
    store_weights(weights, scores);
    store_weights(slopes, dp);
    add_product<W>(sum_v, weights, columns, saved.dout + p.start, h, p.pitch, tile, channel);
    add_product<W>(sum_k, slopes, columns, saved.q + p.start, h, p.pitch, tile, channel);
  }
  store_sums<W>(dk + p.start, sum_k, h, p, channel);
  store_sums<W>(dv + p.start, sum_v, h, p, channel);
}

}  // namespace

// parts * ceil(tokens / 32) * heads * N blocks of 128 threads each, parts = ceil(width / widest). q, k, v, out, dout and the gradients
// [N,tokens,heads*width]; lse, delta [N,heads,tokens]; delta is what the first launch leaves the second.
// Shared memory: 7.5 and 12 KiB (8 channels), 13.5 and 18 KiB (32), 21.5 and 26 KiB (others).
#define FEWSTEP_ATTENTION_GRAD(widest, W, Chunks, T, suffix)                                                                                             \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_attention_query_grad_##widest##_##suffix, const T* q, const T* k, const T* v, const T* out,               \
                          const float* lse, const T* dout, T* dq, float* delta, Heads heads, int parts) {                                                \
    query_grad<W, Chunks, T>(fs::begin(), {q, k, v, out, lse, dout}, dq, delta, heads, parts);                                                           \
  }                                                                                                                                                      \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_attention_key_grad_##widest##_##suffix, const T* q, const T* k, const T* v, const float* lse,             \
                          const T* dout, const float* delta, T* dk, T* dv, Heads heads, int parts) {                                                     \
    key_grad<W, Chunks, T>(fs::begin(), {q, k, v, nullptr, lse, dout}, delta, dk, dv, heads, parts);                                                     \
  }
#define FEWSTEP_ATTENTION_GRADS(T, suffix)       \
  FEWSTEP_ATTENTION_GRAD(8, 8, 1, T, suffix)     \
  FEWSTEP_ATTENTION_GRAD(32, 32, 1, T, suffix)   \
  FEWSTEP_ATTENTION_GRAD(64, 64, 1, T, suffix)   \
  FEWSTEP_ATTENTION_GRAD(128, 64, 2, T, suffix)  \
  FEWSTEP_ATTENTION_GRAD(256, 64, 4, T, suffix)

FEWSTEP_ATTENTION_GRADS(float, f32)
FEWSTEP_ATTENTION_GRADS(fs::half, f16)
FEWSTEP_ATTENTION_GRADS(fs::bf16, bf16)
