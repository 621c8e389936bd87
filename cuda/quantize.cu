// Whole numbers of one byte in place of floats, and back (src/graph/ops/quantize.rs has their meaning).
// Floor: bytes read and written over the bandwidth: five an element to quantise f32 and back again, three for half.
//
// A thread has eight neighbouring elements, whose numbers are two words (parts/rounding.cuh).
#include "device/fewstep.cuh"
#include "parts/rounding.cuh"
#include "parts/run.cuh"
#include "shared.h"

namespace {

using shared::elementwise::kThreads;

// Elements of a thread.
constexpr int kCodes = kRun<fs::half>;
static_assert(kCodes == 8, "two words of numbers");

// Element i has the scale and the zero point of channel i / inner % channels. src/backend/cuda/quantize.rs has the same.
struct Cut {
  int channels, inner;
};

FEWSTEP_DEVICE int channel_of(const Cut& c, int at) { return c.channels == 1 ? 0 : at / c.inner % c.channels; }

// What an element of FakeQuantize passes on to x and to its scale.
struct Slopes {
  float x, scale;
};

// n and p: the ends of the range less the zero point.
FEWSTEP_DEVICE Slopes slopes_of(float x, float scale, int n, int p) {
  const float raw = fs::div_rn(x, scale), q = brought_near(raw);
  if (raw != raw) return {0.0f, 0.0f};
  const int number = rounded(x, scale, q);
  if (number < n) return {0.0f, float(n)};
  if (number > p) return {0.0f, float(p)};
  return {1.0f, float(number) - q};
}

// This thread's elements: f(i, channel) for each of the `count` from `at` on.
template <class F>
FEWSTEP_DEVICE void each(const Cut& cut, int at, int count, F&& f) {
  FEWSTEP_UNROLL
  for (int i = 0; i < kCodes; i++) {
    if (i < count) f(i, channel_of(cut, at + i));
  }
}

// The first of this thread's elements of n, and how many there are: at most 0 past the end.
FEWSTEP_DEVICE int first_element(const fs::Block& block, int n, int& count) {
  const int64_t at = fs::thread_in_grid(block, kThreads) * kCodes;
  count = int(n - at < kCodes ? n - at : kCodes);
  return int(at);
}

template <class T, class Code>
FEWSTEP_DEVICE void quantize(const fs::Block& block, const T* x, const float* scale, const Code* zero, Code* codes, int n, const Cut& cut,
                             Range range) {
  int count;
  const int at = first_element(block, n, count);
  if (count <= 0) return;
  const Run<kCodes> q = load_run<kCodes>(x + at, count);
  int own[kCodes] = {};
  each(cut, at, count, [&](int i, int channel) { own[i] = code_of(q.v[i], scale[channel], zero[channel]); });
  // Apart, so that the ends take no register where divisions need all.
  FEWSTEP_UNROLL
  for (int i = 0; i < kCodes; i++) own[i] = clamp(own[i], range);
  if (count == kCodes) {
    fs::store_8(codes + at, {fs::pack_s8(own[0], own[1], own[2], own[3]), fs::pack_s8(own[4], own[5], own[6], own[7])});
  } else {
    each(cut, at, count, [&](int i, int) { codes[at + i] = Code(own[i]); });
  }
}

template <class Code>
FEWSTEP_DEVICE void dequantize(const fs::Block& block, const Code* codes, const float* scale, const Code* zero, float* y, int n, const Cut& cut) {
  int count;
  const int at = first_element(block, n, count);
  if (count <= 0) return;
  Code own[kCodes] = {};
  if (count == kCodes) {
    const fs::u32x2 words = fs::load_8(codes + at);
    FEWSTEP_UNROLL
    for (int i = 0; i < kCodes; i++) own[i] = Code((i < 4 ? words.x : words.y) >> 8 * (i % 4) & 0xff);
  } else {
    each(cut, at, count, [&](int i, int) { own[i] = codes[at + i]; });
  }
  Run<kCodes> q = {};
  each(cut, at, count, [&](int i, int channel) { q.v[i] = float(int(own[i]) - int(zero[channel])) * scale[channel]; });
  store_run(y + at, q, count);
}

template <class T, class Code>
FEWSTEP_DEVICE void fake_quantize(const fs::Block& block, const T* x, const float* scale, const Code* zero, T* y, int n, const Cut& cut,
                                  Range range) {
  int count;
  const int at = first_element(block, n, count);
  if (count <= 0) return;
  Run<kCodes> q = load_run<kCodes>(x + at, count);
  each(cut, at, count, [&](int i, int channel) {
    const int own = zero[channel];
    q.v[i] = float(clamp(code_of(q.v[i], scale[channel], own), range) - own) * scale[channel];
  });
  store_run(y + at, q, count);
}

template <class T, class Code>
FEWSTEP_DEVICE void fake_quantize_grad(const fs::Block& block, const T* x, const float* scale, const Code* zero, const T* dy, T* dx, float* dscale, int n,
                                       const Cut& cut, Range range, float factor) {
  int count;
  const int at = first_element(block, n, count);
  if (count <= 0) return;
  Run<kCodes> to_x = load_run<kCodes>(x + at, count), to_scale = load_run<kCodes>(dy + at, count);
  each(cut, at, count, [&](int i, int channel) {
    const int own = zero[channel];
    const Slopes slopes = slopes_of(to_x.v[i], scale[channel], range.low - own, range.high - own);
    to_x.v[i] = slopes.x * to_scale.v[i];
    to_scale.v[i] *= factor * slopes.scale;
  });
  store_run(dx + at, to_x, count);
  store_run(dscale + at, to_scale, count);
}

}  // namespace

// x, y, dy, dx [n] of T; codes [n] of Code; scale, zero [channels]; dscale [n].
//   quantize            codes = round(x / scale) + zero, within the range
//   dequantize          y = (codes - zero) scale, f32
//   fake_quantize       one after the other
//   fake_quantize_grad  what of dy goes to x, and to each element's scale, that times `factor`
#define FEWSTEP_QUANTIZE(suffix, T, Code)                                                                                                                      \
  FEWSTEP_KERNEL(kThreads, fewstep_quantize_##suffix, const T* x, const float* scale, const Code* zero, Code* codes, int n, Cut cut, Range range) {            \
    quantize(fs::begin(), x, scale, zero, codes, n, cut, range);                                                                                               \
  }                                                                                                                                                            \
  FEWSTEP_KERNEL(kThreads, fewstep_fake_quantize_##suffix, const T* x, const float* scale, const Code* zero, T* y, int n, Cut cut, Range range) {              \
    fake_quantize(fs::begin(), x, scale, zero, y, n, cut, range);                                                                                              \
  }                                                                                                                                                            \
  FEWSTEP_KERNEL(kThreads, fewstep_fake_quantize_grad_##suffix, const T* x, const float* scale, const Code* zero, const T* dy, T* dx,                          \
                 float* dscale, int n, Cut cut, Range range, float factor) {                                                                                   \
    fake_quantize_grad(fs::begin(), x, scale, zero, dy, dx, dscale, n, cut, range, factor);                                                                    \
  }
#define FEWSTEP_DEQUANTIZE(suffix, Code)                                                                                                                       \
  FEWSTEP_KERNEL(kThreads, fewstep_dequantize_##suffix, const Code* codes, const float* scale, const Code* zero, float* y, int n, Cut cut) {                   \
    dequantize(fs::begin(), codes, scale, zero, y, n, cut);                                                                                                    \
  }

FEWSTEP_QUANTIZE(f32_i8, float, int8_t)
FEWSTEP_QUANTIZE(f32_u8, float, uint8_t)
FEWSTEP_QUANTIZE(f16_i8, fs::half, int8_t)
FEWSTEP_QUANTIZE(f16_u8, fs::half, uint8_t)
FEWSTEP_QUANTIZE(bf16_i8, fs::bf16, int8_t)
FEWSTEP_QUANTIZE(bf16_u8, fs::bf16, uint8_t)
FEWSTEP_DEQUANTIZE(i8, int8_t)
FEWSTEP_DEQUANTIZE(u8, uint8_t)
