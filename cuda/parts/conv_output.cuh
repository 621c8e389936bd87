// What happens to a convolution's sums: bias, addend, residual and scale, then one rounding; or, when several blocks share a sum, scratch.
#pragma once
#include "device/fewstep.cuh"
#include "parts/quad.cuh"

namespace {

// (sum + bias[channel] + addend[image][channel] + residual[pixel][channel]) * scale. Null pointers stand for zeros. `pixels` are those of one image.
template <class T>
struct Epilogue {
  const float* bias;
  const T* addend;
  const T* residual;
  float scale;
  int channels, pixels;
};

// Where a convolution's results go: y [pixels][channels]; or, with `parts`, result i takes the channels from ends[i - 1] (0 for the first) to ends[i],
// all of them multiples of four.
template <class T>
struct Result {
  T* y;
  T* const* parts;
  const int* ends;
  int channels;
};

template <class T>
FEWSTEP_DEVICE T* place_of(const Result<T>& r, int pixel, int channel) {
  if (!r.parts) return r.y + (pixel * r.channels + channel);
  int i = 0, first = 0;
  while (channel >= r.ends[i]) first = r.ends[i++];
  return r.parts[i] + (pixel * (r.ends[i] - first) + channel - first);
}

FEWSTEP_DEVICE void add_quad(Quad& sums, const Quad& more) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) sums.v[i] += more.v[i];
}

// For `count` (1 to 4) neighbouring channels of a pixel.
template <class T>
FEWSTEP_DEVICE void finish(const Epilogue<T>& e, Quad& sums, int pixel, int channel, int count) {
  if (e.bias) add_quad(sums, load_quad(e.bias + channel, count));
  if (e.addend) add_quad(sums, load_quad(e.addend + (pixel / e.pixels * e.channels + channel), count));
  if (e.residual) add_quad(sums, load_quad(e.residual + (pixel * e.channels + channel), count));
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) sums.v[i] *= e.scale;
}

// Takes the sums of four neighbouring channels of a pixel, of which at least the first exists: to the result, or to the scratch of this slice if there is
// one. `sums`, in shared memory, becomes what went to the result.
template <class T>
FEWSTEP_DEVICE void put(const Epilogue<T>& e, const Result<T>& result, float* partial, int pixel, int channel, float* sums) {
  const int count = fs::min(e.channels - channel, 4);
  Quad quad = load_whole(sums);
  if (partial) {
    store_quad(partial + (pixel * e.channels + channel), quad, count);
    return;
  }
  finish(e, quad, pixel, channel, count);
  store_whole(sums, quad);
  store_quad(place_of(result, pixel, channel), quad, count);
}

// The scratch of a slice of `n` elements, or null if there is none.
FEWSTEP_DEVICE float* slice_scratch(float* partial, int slice, int64_t n) { return partial ? partial + slice * n : nullptr; }

// y[i] from the `slices` partial sums of element i of n, added in the order of the slices: the same bits in every run.
template <class Out>
FEWSTEP_DEVICE void sum_slices(const float* partial, Out* y, int n, int slices) {
  const int64_t at = int64_t(fs::block_index().x) * fs::block_size().x + fs::thread_index().x;
  if (at >= n) return;
  float sum = 0;
  for (int s = 0; s < slices; s++) sum += partial[int64_t(s) * n + at];
  y[at] = fs::from_float<Out>(sum);
}

}  // namespace
