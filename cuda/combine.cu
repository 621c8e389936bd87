// Linear combinations with per-row coefficients (the sampler update, the forward process, the loss difference), and dynamic thresholding.
#include "device/fewstep.cuh"
#include "parts/reduce.cuh"
#include "shared.h"

namespace {

using namespace shared::combine;

struct Values {
  const float* v[kMostValues];
};

}  // namespace

// y[rows, row] = sum over j of coef[row or 0, first + j] v_j[rows, row], j < count, in this order. coef [., columns]; coef_step is `columns`, or 0 where one
// row of coefficients serves all. A zero coefficient takes nothing, not even a NaN, of its value: tables hold zeros for absent terms.
// Floor: (count + 1) values of y over the bandwidth.
FEWSTEP_KERNEL(kThreads, fewstep_combine_f32, const float* coef, Values values, float* y, int elements, int row, int first, int coef_step, int count) {
  const int64_t at = fs::thread_in_grid(fs::begin(), kThreads);
  if (at >= elements) return;
  const float* c = coef + at / row * coef_step + first;
  float sum = 0;
  FEWSTEP_UNROLL
  for (int j = 0; j < kMostValues; j++) {
    if (j < count && c[j] != 0) sum += c[j] * values.v[j][at];
  }
  y[at] = sum;
}

namespace {

constexpr int kDigits = 256;
constexpr uint32_t kMagnitude = 0x7fffffffu;

FEWSTEP_DEVICE uint32_t magnitude(float x) { return fs::bit_cast<uint32_t>(x) & kMagnitude; }

// The bits of the element of rank `rank` (0 is the smallest) among the magnitudes of x[row]: bits of positive floats order as the floats do, NaN last.
// Eight bits at a time from the top: count the elements that share the digits found so far by their next digit, find the digit that holds the rank.
// `counts` [kDigits] and `found` [2] are shared. All threads of the block get the result.
FEWSTEP_DEVICE uint32_t select(const float* x, int row, uint32_t rank, uint32_t* counts, uint32_t* found) {
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    counts[fs::thread_index().x] = 0;  // kThreads == kDigits
    fs::sync_threads();
    for (int i = int(fs::thread_index().x); i < row; i += kThreads) {
      const uint32_t bits = magnitude(x[i]);
      if (shift == 24 || bits >> (shift + 8) == prefix) fs::atomic_add(&counts[bits >> shift & 255], 1);
    }
    fs::sync_threads();
    if (fs::thread_index().x == 0) {
      uint32_t digit = 0, before = 0;
      while (digit < kDigits - 1 && before + counts[digit] <= rank) before += counts[digit++];
      found[0] = prefix << 8 | digit;
      found[1] = rank - before;
    }
    fs::sync_threads();
    prefix = found[0];  // written again only after two more barriers
    rank = found[1];
  }
  return prefix;
}

}  // namespace

// y[n,row] = clamp(x[n], -s, s) / s with s = min(max(quantile(|x[n]|), 1), max): the quantile is that of rank `rank` + fraction, between neighbours linearly.
// One block a sample. Floor: nine readings of x (they meet in the second-level cache) and one writing.
FEWSTEP_KERNEL(kThreads, fewstep_dynamic_threshold_f32, const float* x, float* y, int row, int rank, float fraction, float max) {
  FEWSTEP_SHARED(uint32_t, counts, kDigits);
  FEWSTEP_SHARED(uint32_t, found, 2);
  const int64_t first = int64_t(fs::begin().index.x) * row;
  x += first;
  y += first;
  const float lo = fs::bit_cast<float>(select(x, row, uint32_t(rank), counts, found));
  const float hi = fraction > 0 ? fs::bit_cast<float>(select(x, row, uint32_t(rank) + 1, counts, found)) : lo;
  float s = lo + (hi - lo) * fraction;
  s = s < 1 ? 1.0f : s;
  s = s > max ? max : s;  // NaN stays: then all of the sample is NaN
  for (int i = int(fs::thread_index().x); i < row; i += kThreads) {
    const float v = x[i];
    y[i] = s != s ? s : (v < -s ? -s : v > s ? s : v) / s;
  }
}
