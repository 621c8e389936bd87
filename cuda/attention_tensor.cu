// Self-attention of half and bf16 on tensor cores: out = softmax(scale q k^T) v of every sample and head, and the rows' log-sum-exp, for heads of 8, 16,
// 24 ... 256 channels. Other heads, and float, are attention.cu's.
//
// Floor: 4 N heads tokens^2 width operations. A warp multiplies its 16 queries with every key that it reads from shared memory, 16 operations a byte, so
// that 128 bytes a clock bound it to half the dense rate of an H100, 500 TFLOP/s: 256 samples of 256 tokens and one head of 256 channels are 17 GFLOP, 35 us,
// and 134 MB, 40 us. For one such sample the floor is what a block fetches, 160 KiB of keys and values and four times its 8 KiB of queries: 2 us at 50 bytes
// a clock.
// The running maximum and sum are those of Milakov & Gimelshein (2018) and Dao et al. (2022). A warp keeps the scores of its 16 queries in the accumulators
// of the first product, whose layout is that of the second one's left operand: the weights go from one product to the other without leaving the registers.
//
// Two ways to share the work among a block's four warps:
// - Tall: 64 queries, 16 a warp; all warps read the same stages of keys and values. For large grids: each key is fetched once for 64 queries.
// - Split: 16 queries; each warp walks every fourth tile of 16 keys on its own, without a barrier, and at the end the four sums are merged. Of the output a
//   block has at most 64 channels; blocks that share queries compute the same scores. For small grids: four times as many blocks or more, a quarter of the
//   steps each.
// Queries, keys and values pass through one ring of stages, filled by asynchronous copies that run three or four stages ahead.
#include "device/fewstep.cuh"
#include "parts/chunk.cuh"
#include "parts/heads.cuh"
#include "parts/quad.cuh"
#include "shared.h"

namespace {

constexpr int kWarps = shared::attention::kThreads / 32;
constexpr int kWarpQueries = 16;
static_assert(kWarpQueries == shared::attention::kSplitQueries && kWarps * kWarpQueries == shared::attention::kTallQueries);

// A team fills and reads a ring together: the block (tall) or a warp (split). A stage is kKeys rows of kChannels channels, their rows 16 bytes further apart
// than they are long: the eight rows of a matrix that ldmatrix reads then lie in different banks.
template <class Element, int Width, bool Split>
struct Tiling {
  using T = Element;
  static constexpr bool kSplit = Split;
  static constexpr int kWidth = Width;                                               // channels of a head at most
  static constexpr int kKeys = Split ? 16 : Width > 32 ? 32 : 64;                    // every two cost a register
  static constexpr int kChannels = Split ? (Width > shared::attention::kSplitChannels ? shared::attention::kSplitChannels : Width) : (Width > 128 ? 128 : Width);
  static constexpr int kOut = Split ? kChannels : Width;                             // channels of the output that a block has
  static constexpr int kTileStep = Split ? kWarps : 1;
  static constexpr int kTeam = Split ? 32 : kWarps * 32;                             // threads
  static constexpr int kQueries = Split ? kWarpQueries : kWarps * kWarpQueries;      // of a team, and of the block
  static constexpr int kPitch = kChannels + 8, kStage = kKeys * kPitch;
  // On sm_75 copies are loads, whose results wait in registers; tall wide heads have none to spare. The host chooses split kernels there.
  static constexpr bool kOnTuring = kOut <= 64;
  static constexpr uint32_t kStages = Split ? 5 : 4;
  static constexpr int kTeamRing = int(kStages) * kStage, kRing = (Split ? kWarps : 1) * kTeamRing;
  // Stages to a tile: of keys, of values; and stages of queries before the first tile.
  static constexpr int kKeyStages = Width / kChannels, kValueStages = kOut / kChannels, kTileStages = kKeyStages + kValueStages;
  // Of queries a stage has all, of fewer channels: side by side the first kKeys of them, the next ...
  static constexpr int kQueryChannels = kChannels / (kQueries / kKeys), kQueryStages = Width / kQueryChannels;
};

// Where a team's stages come from. Stage i: first the queries, then for each of the team's tiles its keys and its values; chunks of channels innermost.
template <class P>
struct Feed {
  using T = typename P::T;
  const T *q, *k, *v;
  T* ring;
  const Place* place;  // in shared memory: read again for each stage, as registers are what wide heads lack
  int tokens, width, stages;
  uint32_t next;  // stage to copy next
};

// The first tile of keys of a team; the others are kTileStep apart.
template <class P>
FEWSTEP_DEVICE int first_tile() {
  return P::kSplit ? int(fs::warp()) : 0;
}

template <class P>
FEWSTEP_DEVICE void sync_team() {
  if constexpr (P::kSplit) {
    fs::sync_warp();
  } else {
    fs::sync_threads();
  }
}

// Starts this thread's copies of the next stage to its slot of the ring; zeros beyond the tokens and beyond the head.
template <class P>
FEWSTEP_DEVICE void copy_next(Feed<P>& feed) {
  using T = typename P::T;
  constexpr int kChunks = P::kChannels / kChunk<T>, kRows = P::kTeam / kChunks;
  static_assert(P::kKeys % kRows == 0);
  const int next = int(feed.next);
  if (next < feed.stages) {
    const int thread = int(fs::thread_index().x) % P::kTeam, own_row = thread / kChunks, own_channel = thread % kChunks * kChunk<T>;
    const T* source = feed.q;
    const int64_t start = feed.place->start;
    const int pitch = feed.place->pitch;
    int row = feed.place->tile * P::kQueries + own_channel / P::kQueryChannels * P::kKeys;
    int channel = next * P::kQueryChannels + own_channel % P::kQueryChannels;
    if (next >= P::kQueryStages) {
      const int tile = (next - P::kQueryStages) / P::kTileStages, at = (next - P::kQueryStages) % P::kTileStages;
      const bool keys = at < P::kKeyStages;
      source = keys ? feed.k : feed.v;
      row = (first_tile<P>() + tile * P::kTileStep) * P::kKeys;
      channel = (keys ? at : at - P::kKeyStages) * P::kChannels + own_channel;
      if (P::kSplit && !keys) channel += feed.place->part * P::kOut;
    }
    row += own_row;
    T* to = feed.ring + feed.next % P::kStages * P::kStage + own_row * P::kPitch + own_channel;
    FEWSTEP_UNROLL
    for (int i = 0; i < P::kKeys; i += kRows) {
      const bool there = row + i < feed.tokens && channel < feed.width;
      copy_chunk(to + i * P::kPitch, source + (start + (there ? (row + i) * pitch + channel : 0)), there);
    }
  }
  fs::copy_async_commit();
  feed.next++;
}

// The next stage. One barrier is enough: it tells that the stage has arrived, and that the team is done with the one before, whose slot is filled next.
template <class P>
FEWSTEP_DEVICE const typename P::T* next_stage(Feed<P>& feed) {
  fs::copy_async_wait<int(P::kStages) - 2>();
  sync_team<P>();
  copy_next(feed);
  return feed.ring + feed.next % P::kStages * P::kStage;
}

template <class P>
FEWSTEP_DEVICE void begin(Feed<P>& feed) {
  FEWSTEP_UNROLL
  for (int s = 0; s < int(P::kStages) - 1; s++) copy_next(feed);
}

// A warp's 16 queries as left operands.
template <class P>
FEWSTEP_DEVICE void take_queries(uint32_t (&queries)[P::kWidth / 16][4], Feed<P>& feed) {
  const int lane = int(fs::lane()), first = P::kSplit ? 0 : int(fs::warp()) * kWarpQueries;
  const int at = (first % P::kKeys + lane % 16) * P::kPitch + first / P::kKeys * P::kQueryChannels + lane / 16 * 8;
  FEWSTEP_UNROLL
  for (int s = 0; s < P::kQueryStages; s++) {
    const typename P::T* stage = next_stage(feed);
    FEWSTEP_UNROLL
    for (int c = 0; c < P::kQueryChannels / 16; c++) fs::load_matrix<4>(queries[s * (P::kQueryChannels / 16) + c], stage + at + c * 16);
  }
}

// scores += the product of the queries and a tile of keys. Of a lane's four scores in a fragment, 0 and 1 are of its upper row (query lane / 4), 2 and 3 of
// its lower one (eight further), and their keys are 2 (lane % 4) and the next.
template <class P>
FEWSTEP_DEVICE void add_scores(float (&scores)[P::kKeys / 8][4], const uint32_t (&queries)[P::kWidth / 16][4], Feed<P>& feed) {
  const int lane = int(fs::lane());
  float others[P::kKeys / 8][4] = {};  // a warp alone with two fragments adds to four in turn: one product need not wait for the last
  FEWSTEP_UNROLL
  for (int s = 0; s < P::kKeyStages; s++) {
    const typename P::T* row = next_stage(feed) + (lane / 16 * 8 + lane % 8) * P::kPitch + lane / 8 % 2 * 8;
    FEWSTEP_UNROLL
    for (int c = 0; c < P::kChannels / 16; c++) {
      FEWSTEP_UNROLL
      for (int j = 0; j < P::kKeys / 16; j++) {
        uint32_t keys[4];
        fs::load_matrix<4>(keys, row + j * 16 * P::kPitch + c * 16);
        const uint32_t left[2] = {keys[0], keys[1]}, right[2] = {keys[2], keys[3]};
        auto& sums = P::kSplit && c % 2 ? others : scores;
        fs::mma<typename P::T>(sums[2 * j], queries[s * (P::kChannels / 16) + c], left);
        fs::mma<typename P::T>(sums[2 * j + 1], queries[s * (P::kChannels / 16) + c], right);
      }
    }
  }
  FEWSTEP_UNROLL
  for (int i = 0; P::kSplit && i < P::kKeys / 2; i++) scores[i / 4][i % 4] += others[i / 4][i % 4];
}

// What a lane knows of its two rows: the maximum and its own columns' sum of weights; and its part of the weighted sums of values.
template <class P>
struct Rows {
  float max[2], sum[2];
  float out[P::kOut / 8][4];
};

// Turns scores into weights exp(scale score - max), of which the first `count` keys have any, and brings earlier sums to the new maximum.
template <class P>
FEWSTEP_DEVICE void softmax(float (&scores)[P::kKeys / 8][4], Rows<P>& rows, float scale, int count) {
  const int column = int(fs::lane()) % 4 * 2;
  float factor[2];
  FEWSTEP_UNROLL
  for (int r = 0; r < 2; r++) {
    float top = rows.max[r];
    FEWSTEP_UNROLL
    for (int i = 0; i < P::kKeys / 4; i++) {
      float& score = scores[i / 2][2 * r + i % 2];
      score = i / 2 * 8 + column + i % 2 < count ? score * scale : minus_infinity();
      top = fs::max(top, score);
    }
    FEWSTEP_UNROLL
    for (uint32_t bits = 2; bits; bits >>= 1) top = fs::max(top, fs::shuffle_xor(top, bits));
    factor[r] = fs::fast_exp(rows.max[r] - top);
    rows.max[r] = top;
    rows.sum[r] *= factor[r];
    FEWSTEP_UNROLL
    for (int i = 0; i < P::kKeys / 4; i++) {
      float& score = scores[i / 2][2 * r + i % 2];
      score = fs::fast_exp(score - top);
      rows.sum[r] += score;
    }
  }
  // A maximum rarely grows after the first tiles.
  if (fs::ballot(factor[0] != 1 || factor[1] != 1) == 0) return;
  FEWSTEP_UNROLL
  for (int i = 0; i < P::kOut / 2; i++) rows.out[i / 4][i % 4] *= factor[i % 4 / 2];
}

// rows.out += the product of the weights and a tile of values.
template <class P>
FEWSTEP_DEVICE void add_values(Rows<P>& rows, const float (&scores)[P::kKeys / 8][4], Feed<P>& feed) {
  using T = typename P::T;
  const int lane = int(fs::lane());
  uint32_t weights[P::kKeys / 16][4];
  FEWSTEP_UNROLL
  for (int i = 0; i < P::kKeys / 4; i++) weights[i / 4][i % 4] = fs::pack<T>(scores[i / 2][i % 2 * 2], scores[i / 2][i % 2 * 2 + 1]);
  FEWSTEP_UNROLL
  for (int s = 0; s < P::kValueStages; s++) {
    const T* row = next_stage(feed) + lane % 16 * P::kPitch + lane / 16 * 8;
    FEWSTEP_UNROLL
    for (int j = 0; j < P::kKeys / 16; j++) {
      FEWSTEP_UNROLL
      for (int c = 0; c < P::kChannels / 16; c++) {
        uint32_t values[4];
        fs::load_matrix_transposed<4>(values, row + j * 16 * P::kPitch + c * 16);
        const uint32_t left[2] = {values[0], values[1]}, right[2] = {values[2], values[3]};
        fs::mma<T>(rows.out[s * (P::kChannels / 8) + 2 * c], weights[j], left);
        fs::mma<T>(rows.out[s * (P::kChannels / 8) + 2 * c + 1], weights[j], right);
      }
    }
  }
}

// The sum over the four lanes of a row.
FEWSTEP_DEVICE float lanes_sum(float x) {
  x += fs::shuffle_xor(x, 1);
  return x + fs::shuffle_xor(x, 2);
}

// Writes a warp's 16 rows of the output, by way of the ring: then neighbouring lanes store neighbouring chunks.
template <class P>
FEWSTEP_DEVICE void store_tall(const Rows<P>& rows, typename P::T* ring, typename P::T* out, float* lse, const Heads& h, const Place& place) {
  using T = typename P::T;
  constexpr int kPitch = P::kOut + 8, kChunks = P::kOut / kChunk<T>;
  static_assert(kWarps * kWarpQueries * kPitch <= P::kRing);
  const int lane = int(fs::lane()), warp_row = int(fs::warp()) * kWarpQueries, first = place.tile * P::kQueries + warp_row;
  T* own = ring + warp_row * kPitch;
  FEWSTEP_UNROLL
  for (int r = 0; r < 2; r++) {
    const int row = lane / 4 + r * 8, column = lane % 4 * 2;
    const float total = lanes_sum(rows.sum[r]), inverse = fs::div_rn(1.0f, total);
    if (column == 0 && first + row < h.tokens) lse[place.row + first + row] = rows.max[r] + fs::log(total);
    FEWSTEP_UNROLL
    for (int c = 0; c < P::kOut / 8; c++) {
      fs::store_4(own + row * kPitch + c * 8 + column, fs::pack<T>(rows.out[c][2 * r] * inverse, rows.out[c][2 * r + 1] * inverse));
    }
  }
  fs::sync_warp();
  for (int at = lane; at < kWarpQueries * kChunks; at += 32) {
    const int row = at / kChunks, channel = at % kChunks * kChunk<T>;
    if (first + row >= h.tokens || channel >= h.width) continue;
    fs::store_16(out + (place.start + (first + row) * place.pitch + channel), fs::load_16(own + row * kPitch + channel));
  }
}

// Merges what the warps have of the same 16 rows and writes it. A warp without keys has the maximum minus infinity and so no weight.
template <class P>
FEWSTEP_DEVICE void store_split(const Rows<P>& rows, typename P::T* ring, typename P::T* out, float* lse, const Heads& h, const Place& place) {
  using T = typename P::T;
  constexpr int kPitch = P::kOut + 4, kPart = kWarpQueries * kPitch, kChunks = P::kOut / 8;
  static_assert(kWarps * (kPart + 2 * kWarpQueries) * 4 <= P::kRing * int(sizeof(T)) && kWarpQueries * kChunks <= kWarps * 32);
  float* parts = reinterpret_cast<float*>(ring);
  float* maxima = parts + kWarps * kPart;
  float* sums = maxima + kWarps * kWarpQueries;
  const int warp = int(fs::warp()), lane = int(fs::lane()), thread = int(fs::thread_index().x);
  FEWSTEP_UNROLL
  for (int r = 0; r < 2; r++) {
    const int row = lane / 4 + r * 8, column = lane % 4 * 2;
    const float sum = lanes_sum(rows.sum[r]);
    if (column == 0) {
      maxima[warp * kWarpQueries + row] = rows.max[r];
      sums[warp * kWarpQueries + row] = sum;
    }
    FEWSTEP_UNROLL
    for (int c = 0; c < P::kOut / 8; c++) {
      const uint32_t left = fs::bit_cast<uint32_t>(rows.out[c][2 * r]), right = fs::bit_cast<uint32_t>(rows.out[c][2 * r + 1]);
      fs::store_8(parts + warp * kPart + row * kPitch + c * 8 + column, {left, right});
    }
  }
  fs::sync_threads();
  const int row = thread / kChunks, column = thread % kChunks * 8, token = place.tile * P::kQueries + row, channel = place.part * P::kOut + column;
  if (row >= kWarpQueries || token >= h.tokens) return;
  float top = maxima[row], total = 0, sum[8] = {};
  FEWSTEP_UNROLL
  for (int w = 1; w < kWarps; w++) top = fs::max(top, maxima[w * kWarpQueries + row]);
  FEWSTEP_UNROLL
  for (int w = 0; w < kWarps; w++) {
    const float factor = fs::fast_exp(maxima[w * kWarpQueries + row] - top);
    total = fs::fma(sums[w * kWarpQueries + row], factor, total);
    FEWSTEP_UNROLL
    for (int i = 0; i < 8; i += 4) {
      const Quad part = load_whole(parts + w * kPart + row * kPitch + column + i);
      FEWSTEP_UNROLL
      for (int j = 0; j < 4; j++) sum[i + j] = fs::fma(part.v[j], factor, sum[i + j]);
    }
  }
  if (channel == 0) lse[place.row + token] = top + fs::log(total);
  if (channel >= h.width) return;
  const float inverse = fs::div_rn(1.0f, total);
  uint32_t words[4];
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) words[i] = fs::pack<T>(sum[2 * i] * inverse, sum[2 * i + 1] * inverse);
  fs::store_16(out + (place.start + token * place.pitch + channel), {words[0], words[1], words[2], words[3]});
}

template <class P>
FEWSTEP_DEVICE void attend(const fs::Block& block, const typename P::T* q, const typename P::T* k, const typename P::T* v, typename P::T* out, float* lse,
                           const Heads& h, int parts) {
  using T = typename P::T;
  FEWSTEP_SHARED(T, ring, P::kRing);
  FEWSTEP_SHARED(Place, place, 1);
  if (!P::kOnTuring && !FEWSTEP_SM(80)) {
    fs::trap();
    return;
  }
  if (fs::thread_index().x == 0) place[0] = place_of<P::kQueries>(block, h, parts);
  fs::sync_threads();
  const int tiles = fs::max(0, ((h.tokens + P::kKeys - 1) / P::kKeys - first_tile<P>() + P::kTileStep - 1) / P::kTileStep);
  T* own = ring + (P::kSplit ? int(fs::warp()) * P::kTeamRing : 0);
  Feed<P> feed = {q, k, v, own, place, h.tokens, h.width, P::kQueryStages + tiles * P::kTileStages, 0};
  begin(feed);

  uint32_t queries[P::kWidth / 16][4];
  take_queries<P>(queries, feed);
  Rows<P> rows = {{minus_infinity(), minus_infinity()}, {0, 0}, {}};
  for (int count = h.tokens - first_tile<P>() * P::kKeys; count > 0; count -= P::kTileStep * P::kKeys) {
    float scores[P::kKeys / 8][4] = {};
    add_scores<P>(scores, queries, feed);
    softmax<P>(scores, rows, h.scale, count);
    add_values<P>(rows, scores, feed);
  }
  fs::sync_threads();
  if constexpr (P::kSplit) {
    store_split<P>(rows, ring, out, lse, h, place[0]);
  } else {
    store_tall<P>(rows, ring, out, lse, h, place[0]);
  }
}

}  // namespace

// Blocks of 128 threads. q, k, v, out [N,tokens,heads*width], of heads of at most `widest` channels, a multiple of 8; lse [N,heads,tokens].
// tall: ceil(tokens / 64) * heads * N blocks, parts 1. split: parts * ceil(tokens / 16) * heads * N blocks, parts = ceil(width / 64).
// Shared memory: tall 20 KiB (32 channels), 18 KiB (64), 34 KiB (others); split 25 KiB (32), 45 KiB (others).
#define FEWSTEP_ATTENTION(widest, resident, T, suffix)                                                                                                  \
  FEWSTEP_KERNEL_RESIDENT(kWarps * 32, resident, fewstep_attention_tall_##widest##_##suffix, const T* q, const T* k, const T* v, T* out, float* lse,    \
                          Heads heads, int parts) {                                                                                                     \
    attend<Tiling<T, widest, false>>(fs::begin(), q, k, v, out, lse, heads, parts);                                                                     \
  }                                                                                                                                                     \
  FEWSTEP_KERNEL_RESIDENT(kWarps * 32, 2, fewstep_attention_split_##widest##_##suffix, const T* q, const T* k, const T* v, T* out, float* lse,          \
                          Heads heads, int parts) {                                                                                                     \
    attend<Tiling<T, widest, true>>(fs::begin(), q, k, v, out, lse, heads, parts);                                                                      \
  }
#define FEWSTEP_ATTENTIONS(T, suffix)    \
  FEWSTEP_ATTENTION(32, 4, T, suffix)    \
  FEWSTEP_ATTENTION(64, 4, T, suffix)    \
  FEWSTEP_ATTENTION(128, 3, T, suffix)   \
  FEWSTEP_ATTENTION(256, 2, T, suffix)

FEWSTEP_ATTENTIONS(fs::half, f16)
FEWSTEP_ATTENTIONS(fs::bf16, bf16)
