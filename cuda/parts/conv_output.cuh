// What happens to a convolution's sums: bias, addend, residual and scale, then one rounding; or, when several blocks share a sum, scratch.
#pragma once
#include "device/fewstep.cuh"

namespace {

// (sum + bias[channel] + addend[image][channel] + residual[pixel][channel]) * scale. Null pointers stand for zeros. `pixels` are those of one image.
template <class T>
struct Epilogue {
  const float* bias;
  const float* addend;
  const T* residual;
  float scale;
  int channels, pixels;
};

template <class T>
FEWSTEP_DEVICE float finish(const Epilogue<T>& e, float sum, int pixel, int channel) {
  if (e.bias) sum += e.bias[channel];
  if (e.addend) sum += e.addend[pixel / e.pixels * e.channels + channel];
  if (e.residual) sum += fs::to_float(e.residual[pixel * e.channels + channel]);
  return sum * e.scale;
}

// Writes the first `count` of two neighbouring values, in one access where the address allows.
FEWSTEP_DEVICE void store_pair(float* y, const float (&v)[2], int count) {
  if (count >= 2 && (reinterpret_cast<uintptr_t>(y) & 7) == 0) {
    fs::store_8(y, {fs::bit_cast<uint32_t>(v[0]), fs::bit_cast<uint32_t>(v[1])});
  } else {
    y[0] = v[0];
    if (count >= 2) y[1] = v[1];
  }
}
template <class T>
FEWSTEP_DEVICE void store_pair(T* y, const float (&v)[2], int count) {
  if (count >= 2 && (reinterpret_cast<uintptr_t>(y) & 3) == 0) {
    fs::store_4(y, fs::pack<T>(v[0], v[1]));
  } else {
    y[0] = fs::from_float<T>(v[0]);
    if (count >= 2) y[1] = fs::from_float<T>(v[1]);
  }
}

template <class T>
FEWSTEP_DEVICE void store_run(T* y, const float (&v)[1], int) {
  y[0] = fs::from_float<T>(v[0]);
}
template <class T>
FEWSTEP_DEVICE void store_run(T* y, const float (&v)[2], int count) {
  store_pair(y, v, count);
}

// Takes a run of sums for neighbouring channels of a pixel, `count` of which exist: to y, or to slice `slice` of the scratch if there is one.
template <class T, class Out, int Run>
FEWSTEP_DEVICE void put(const Epilogue<T>& e, Out* y, float* partial, int64_t slice_start, int pixel, int channel, const float (&sums)[Run]) {
  const int count = e.channels - channel, at = pixel * e.channels + channel;
  if (partial) {
    store_run(partial + slice_start + at, sums, count);
    return;
  }
  float values[Run] = {};
  FEWSTEP_UNROLL
  for (int i = 0; i < Run; i++) {
    if (i < count) values[i] = finish(e, sums[i], pixel, channel + i);
  }
  store_run(y + at, values, count);
}

// y[i] from the `slices` partial sums of element i of n, added in the order of the slices: the same bits in every run.
template <class T, class Out>
FEWSTEP_DEVICE void sum_slices(const Epilogue<T>& e, const float* partial, Out* y, int n, int slices) {
  const int64_t at = int64_t(fs::block_index().x) * fs::block_size().x + fs::thread_index().x;
  if (at >= n) return;
  float sum = 0.0f;
  for (int s = 0; s < slices; s++) sum += partial[int64_t(s) * n + at];
  y[at] = fs::from_float<Out>(finish(e, sum, int(at) / e.channels, int(at) % e.channels));
}

}  // namespace
