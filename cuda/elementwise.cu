// Element-wise ops: unary functions and their gradients, affine maps, casts, broadcasting arithmetic.
// Floor: bytes read and written over the bandwidth. A thread moves a run of 16 bytes of the narrower type: four floats, eight halves; which function it is,
// is a parameter: all threads take the same branch, which costs nothing beside the memory.
#include "device/fewstep.cuh"
#include "parts/run.cuh"
#include "shared.h"

namespace {

using namespace shared::elementwise;

FEWSTEP_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + fs::exp(-x)); }
// tanh(ln(1 + e^x)) without the logarithm: (u^2 - 1) / (u^2 + 1) with u = 1 + e^x, written so that nothing cancels. From x = 20 on it is 1 to f32.
FEWSTEP_DEVICE float tanh_softplus(float x) {
  const float e = fs::exp(x > 20.0f ? 20.0f : x);
  const float n = e * (e + 2.0f);
  return n / (n + 2.0f);
}

// f(x); `a` and `b` are Huber's delta, or the clamp's limits.
FEWSTEP_DEVICE float value_of(int function, float x, float a, float b) {
  switch (function) {
    case kSilu: return x * sigmoid(x);
    case kGelu: return 0.5f * x * (1.0f + fs::erf(x * 0.70710678118654752f));
    case kMish: return x * tanh_softplus(x);
    case kRelu: return x < 0 ? 0.0f : x;  // NaN stays
    case kAbs: return x < 0 ? -x : x;
    case kSquare: return x * x;
    case kRsqrt: return 1.0f / fs::sqrt_rn(x);
    case kHuber: {
      const float m = x < 0 ? -x : x;
      return m <= a ? 0.5f * x * x : a * (m - 0.5f * a);
    }
    default: return x < a ? a : x > b ? b : x;  // kClamp; NaN stays
  }
}

// f'(x).
FEWSTEP_DEVICE float slope_of(int function, float x, float a, float b) {
  switch (function) {
    case kSilu: {
      const float s = sigmoid(x);
      return s * (1.0f + x * (1.0f - s));
    }
    case kGelu: return 0.5f * (1.0f + fs::erf(x * 0.70710678118654752f)) + x * 0.39894228040143268f * fs::exp(-0.5f * x * x);
    case kMish: {
      const float t = tanh_softplus(x);
      return t + x * (1.0f - t * t) * sigmoid(x);
    }
    case kRelu: return x > 0 ? 1.0f : 0.0f;
    case kAbs: return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f;
    case kSquare: return 2.0f * x;
    case kRsqrt: return -0.5f / (x * fs::sqrt_rn(x));
    case kHuber: return x < -a ? -a : x > a ? a : x;
    default: return x >= a && x <= b ? 1.0f : 0.0f;
  }
}

FEWSTEP_DEVICE float combine(int arithmetic, float a, float b) {
  return arithmetic == kAdd ? a + b : arithmetic == kSub ? a - b : a * b;
}

// Elements of a thread: sixteen bytes of the narrower type.
template <class A, class B>
constexpr int kElements = kRun<A> > kRun<B> ? kRun<A> : kRun<B>;

// The first of this thread's elements; `count` is how many of the next N there are, at most 0 past the end.
template <int N>
FEWSTEP_DEVICE int first_element(const fs::Block& block, int n, int& count) {
  const int64_t at = fs::thread_in_grid(block, kThreads) * N;
  count = int(n - at < N ? n - at : N);
  return int(at);
}

// A result of up to four dimensions, outermost first, and the operands' element strides under it: 0 where an operand is repeated.
struct Broadcast {
  int shape[4];
  int stride_a[4];
  int stride_b[4];
};

// Applies f to each of this thread's elements of x.
template <class From, class To, class F>
FEWSTEP_DEVICE void map(const fs::Block& block, const From* x, To* y, int n, F&& f) {
  constexpr int N = kElements<From, To>;
  int count;
  const int at = first_element<N>(block, n, count);
  if (count <= 0) return;
  Run<N> q = load_run<N>(x + at, count);
  FEWSTEP_UNROLL
  for (int i = 0; i < N; i++) q.v[i] = f(q.v[i]);
  store_run(y + at, q, count);
}

// The same for pairs of elements.
template <class T, class F>
FEWSTEP_DEVICE void map_pairs(const fs::Block& block, const T* a, const T* b, T* y, int n, F&& f) {
  constexpr int N = kRun<T>;
  int count;
  const int at = first_element<N>(block, n, count);
  if (count <= 0) return;
  Run<N> q = load_run<N>(a + at, count);
  const Run<N> r = load_run<N>(b + at, count);
  FEWSTEP_UNROLL
  for (int i = 0; i < N; i++) q.v[i] = f(q.v[i], r.v[i]);
  store_run(y + at, q, count);
}

template <class T>
FEWSTEP_DEVICE void broadcast(const fs::Block& block, const T* a, const T* b, T* y, int n, int arithmetic, const Broadcast& where) {
  const int64_t at = fs::thread_in_grid(block, kThreads);
  if (at >= n) return;
  int rest = int(at), at_a = 0, at_b = 0;
  FEWSTEP_UNROLL
  for (int d = 3; d >= 0; d--) {
    const int i = rest % where.shape[d];
    rest /= where.shape[d];
    at_a += i * where.stride_a[d];
    at_b += i * where.stride_b[d];
  }
  y[at] = fs::from_float<T>(combine(arithmetic, fs::to_float(a[at_a]), fs::to_float(b[at_b])));
}

}  // namespace

// All pointers: n elements of T (operands of a broadcast: as `where` says).
//   unary       y = f(x)
//   unary_grad  dx = f'(x) dy
//   affine      y = scale x + shift
//   binary      y = a (op) b, without and with repetition
#define FEWSTEP_ELEMENTWISE(suffix, T)                                                                                                     \
  FEWSTEP_KERNEL(kThreads, fewstep_unary_##suffix, const T* x, T* y, int n, int function, float a, float b) {                              \
    map(fs::begin(), x, y, n, [&](float v) { return value_of(function, v, a, b); });                                                       \
  }                                                                                                                                        \
  FEWSTEP_KERNEL(kThreads, fewstep_unary_grad_##suffix, const T* x, const T* dy, T* dx, int n, int function, float a, float b) {           \
    map_pairs(fs::begin(), x, dy, dx, n, [&](float v, float d) { return slope_of(function, v, a, b) * d; });                               \
  }                                                                                                                                        \
  FEWSTEP_KERNEL(kThreads, fewstep_affine_##suffix, const T* x, T* y, int n, float scale, float shift) {                                   \
    map(fs::begin(), x, y, n, [&](float v) { return scale * v + shift; });                                                                 \
  }                                                                                                                                        \
  FEWSTEP_KERNEL(kThreads, fewstep_binary_##suffix, const T* a, const T* b, T* y, int n, int arithmetic) {                                 \
    map_pairs(fs::begin(), a, b, y, n, [&](float v, float w) { return combine(arithmetic, v, w); });                                       \
  }                                                                                                                                        \
  FEWSTEP_KERNEL(kThreads, fewstep_binary_broadcast_##suffix, const T* a, const T* b, T* y, int n, int arithmetic, Broadcast where) {      \
    broadcast(fs::begin(), a, b, y, n, arithmetic, where);                                                                                 \
  }

FEWSTEP_ELEMENTWISE(f32, float)
FEWSTEP_ELEMENTWISE(f16, fs::half)
FEWSTEP_ELEMENTWISE(bf16, fs::bf16)

// y[n] = float(x[n]).
FEWSTEP_KERNEL(kThreads, fewstep_cast_i32_f32, const int* x, float* y, int n) {
  const int64_t at = fs::thread_in_grid(fs::begin(), kThreads);
  if (at < n) y[at] = float(x[at]);
}

// y[n] = x[n], rounded to nearest even.
#define FEWSTEP_CAST(name, From, To) \
  FEWSTEP_KERNEL(kThreads, name, const From* x, To* y, int n) { map(fs::begin(), x, y, n, [](float v) { return v; }); }

FEWSTEP_CAST(fewstep_cast_f32_f16, float, fs::half)
FEWSTEP_CAST(fewstep_cast_f32_bf16, float, fs::bf16)
FEWSTEP_CAST(fewstep_cast_f16_f32, fs::half, float)
FEWSTEP_CAST(fewstep_cast_bf16_f32, fs::bf16, float)
