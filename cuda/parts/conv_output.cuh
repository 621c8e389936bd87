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

// Four neighbouring channels of every pixel, of which at least the first exists: what is the same for all pixels.
template <class T>
struct Column {
  int channel, count;  // 1 to 4 of them exist
  bool whole;          // all four, at addresses that are multiples of their size, in every tensor of this many channels
  Quad bias;
  T* to;      // its place in the result is to + pixel * pitch
  int pitch;
};

template <class T>
FEWSTEP_DEVICE Quad load_channels(const Column<T>& c, const T* x) {
  return c.whole ? load_whole(x) : load_quad(x, c.count);
}

template <class T>
FEWSTEP_DEVICE Column<T> column_of(const Epilogue<T>& e, const Result<T>& r, int channel) {
  Column<T> c = {channel, fs::min(e.channels - channel, 4), e.channels % 4 == 0, {{0, 0, 0, 0}}, nullptr, e.channels};
  if (c.count <= 0) return c;
  if (e.bias) c.bias = load_quad(e.bias + channel, c.count);
  if (!r.parts) {
    c.to = r.y + channel;
    return c;
  }
  int i = 0, first = 0;
  while (channel >= r.ends[i]) first = r.ends[i++];
  c.to = r.parts[i] + (channel - first);
  c.pitch = r.ends[i] - first;
  return c;
}

FEWSTEP_DEVICE void add_quad(Quad& sums, const Quad& more) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) sums.v[i] += more.v[i];
}

// Stores four channels of a pixel.
template <class C, class T>
FEWSTEP_DEVICE void store_channels(const Column<C>& c, T* to, const Quad& quad) {
  if (c.whole) {
    store_whole(to, quad);
  } else {
    store_quad(to, quad, c.count);
  }
}

// Finishes the sums of a column at a pixel of `image` and stores them.
template <class T>
FEWSTEP_DEVICE void finish(const Epilogue<T>& e, const Column<T>& c, Quad& sums, int pixel, int image) {
  add_quad(sums, c.bias);
  if (e.addend) add_quad(sums, load_channels(c, e.addend + (image * e.channels + c.channel)));
  if (e.residual) add_quad(sums, load_channels(c, e.residual + (pixel * e.channels + c.channel)));
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) sums.v[i] *= e.scale;
  store_channels(c, c.to + pixel * c.pitch, sums);
}

// The scratch of a slice of `n` elements, or null if there is none.
FEWSTEP_DEVICE float* slice_scratch(float* partial, int slice, int64_t n) { return partial ? partial + slice * n : nullptr; }

// y[i] from the `slices` partial sums of element i of n, added in the order of the slices: the same bits in every run.
template <class Out>
FEWSTEP_DEVICE void sum_slices(const fs::Block& block, const float* partial, Out* y, int n, int slices) {
  const int64_t at = fs::thread_in_grid(block, fs::block_size().x);
  if (at >= n) return;
  float sum = 0;
  for (int s = 0; s < slices; s++) sum += partial[int64_t(s) * n + at];
  y[at] = fs::from_float<Out>(sum);
}

}  // namespace
