// Runs of neighbouring elements, as element-wise kernels move them: sixteen bytes an access where the address and the count allow, else one by one.
#pragma once
#include "device/fewstep.cuh"
#include "shared.h"

namespace {

// Elements of sixteen bytes.
template <class T>
constexpr int kRun = shared::run::kBytes / int(sizeof(T));

// N elements to compute with.
template <int N>
struct Run {
  float v[N];
};

// The same as they lie in memory: what is under way needs half the registers in half precision.
template <int N, class T>
struct Words {
  static_assert(N % kRun<T> == 0);
  uint32_t w[N * sizeof(T) / 4];
};

// N elements of an address, global or shared, that is a multiple of 16 bytes.
template <int N, class T>
FEWSTEP_DEVICE Words<N, T> load_words(const T* x) {
  Words<N, T> r;
  FEWSTEP_UNROLL
  for (int i = 0; i < N / kRun<T>; i++) {
    const fs::u32x4 q = fs::load_16(x + i * kRun<T>);
    r.w[4 * i] = q.x, r.w[4 * i + 1] = q.y, r.w[4 * i + 2] = q.z, r.w[4 * i + 3] = q.w;
  }
  return r;
}
template <int N, class T>
FEWSTEP_DEVICE void store_words(T* y, const Words<N, T>& r) {
  FEWSTEP_UNROLL
  for (int i = 0; i < N / kRun<T>; i++) fs::store_16(y + i * kRun<T>, {r.w[4 * i], r.w[4 * i + 1], r.w[4 * i + 2], r.w[4 * i + 3]});
}

template <int N, class T>
FEWSTEP_DEVICE Run<N> unpacked(const Words<N, T>& r) {
  Run<N> q;
  FEWSTEP_UNROLL
  for (int i = 0; i < N; i++) {
    if constexpr (fs::is_same<T, float>) {
      q.v[i] = fs::bit_cast<float>(r.w[i]);
    } else {
      q.v[i] = i % 2 == 0 ? fs::unpack_low<T>(r.w[i / 2]) : fs::unpack_high<T>(r.w[i / 2]);
    }
  }
  return q;
}
template <class T, int N>
FEWSTEP_DEVICE Words<N, T> packed(const Run<N>& q) {
  Words<N, T> r;
  FEWSTEP_UNROLL
  for (int i = 0; i < int(sizeof(r.w) / 4); i++) {
    if constexpr (fs::is_same<T, float>) {
      r.w[i] = fs::bit_cast<uint32_t>(q.v[i]);
    } else {
      r.w[i] = fs::pack<T>(q.v[2 * i], q.v[2 * i + 1]);
    }
  }
  return r;
}

// The first `count` of N elements one by one; zeros after them.
template <int N, class T>
FEWSTEP_DEVICE Run<N> load_some(const T* x, int count) {
  Run<N> q;
  FEWSTEP_UNROLL
  for (int i = 0; i < N; i++) q.v[i] = i < count ? fs::to_float(x[i]) : 0.0f;
  return q;
}
template <int N, class T>
FEWSTEP_DEVICE void store_some(T* y, const Run<N>& q, int count) {
  FEWSTEP_UNROLL
  for (int i = 0; i < N; i++) {
    if (i < count) y[i] = fs::from_float<T>(q.v[i]);
  }
}

// The first `count` of N elements, in whole words where that can be.
template <int N, class T>
FEWSTEP_DEVICE Run<N> load_run(const T* x, int count) {
  if constexpr (N % kRun<T> == 0) {
    if (count >= N && reinterpret_cast<uintptr_t>(x) % 16 == 0) return unpacked(load_words<N>(x));
  }
  return load_some<N>(x, count);
}
template <int N, class T>
FEWSTEP_DEVICE void store_run(T* y, const Run<N>& q, int count) {
  if constexpr (N % kRun<T> == 0) {
    if (count >= N && reinterpret_cast<uintptr_t>(y) % 16 == 0) {
      store_words(y, packed<T>(q));
      return;
    }
  }
  store_some(y, q, count);
}

}  // namespace
