// A whole convolution: the product, what becomes of sums that several blocks share, the epilogue, and the moments of the result.
#pragma once
#include "device/fewstep.cuh"
#include "parts/conv_moments.cuh"
#include "parts/conv_output.cuh"
#include "parts/conv_product.cuh"
#include "parts/conv_shape.cuh"
#include "parts/last_block.cuh"
#include "parts/quad.cuh"
#include "parts/tile_product.cuh"

namespace {

// Parts of a sum that a thread fetches before it adds them: one latency for all instead of one for each, which took longer than the product. Small tiles
// are for few blocks and many slices, large ones need the registers for resident blocks.
template <class P>
constexpr int kAhead = P::kRows > 32 ? 4 : 8;

// Sums of floats are what they are.
struct Unscaled {};
FEWSTEP_DEVICE Unscaled scaling_at(const Unscaled& s, int, int) { return s; }
FEWSTEP_DEVICE Quad scaled(const Unscaled&, const Quad& sums) { return sums; }

// Sums of whole numbers travel as the floats of their bits: only what adds them need know.
template <class Scalar>
FEWSTEP_DEVICE void add_sums(Quad& sums, const Quad& more) {
  if constexpr (fs::is_same<Scalar, float>) {
    add_quad(sums, more);
  } else {
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) sums.v[i] = fs::bit_cast<float>(fs::bit_cast<Scalar>(sums.v[i]) + fs::bit_cast<Scalar>(more.v[i]));
  }
}

// Elements whose parts lie `stride` floats apart in `partial`, added in the order of the slices: four, or the `count` that exist.
template <int Ahead, class Scalar>
FEWSTEP_DEVICE Quad sum_parts(const float* partial, int64_t stride, int slices, int count, bool whole) {
  Quad sum = {{0, 0, 0, 0}};
  for (int first = 0; first < slices; first += Ahead) {
    Quad parts[Ahead] = {};
    FEWSTEP_UNROLL
    for (int s = 0; s < Ahead; s++) {
      if (first + s < slices) parts[s] = load_l2_quad(partial + (first + s) * stride, count, whole);
    }
    FEWSTEP_UNROLL
    for (int s = 0; s < Ahead; s++) add_sums<Scalar>(sum, parts[s]);
  }
  return sum;
}

// What a convolution does with its sums.
template <class T>
struct Output {
  Epilogue<T> epilogue;
  Result<T> result;
  float* partial;
  uint32_t* counters;
  Moments moments;
};

// Stores the tile; returns the sums over this thread's share of it. `scaling` makes results of sums: Unscaled, or Scaling (parts/staged.cuh).
template <class P, class T, class Scale>
FEWSTEP_DEVICE Quad finish_tile(const fs::Block& block, const Output<T>& out, const Scale& scaling, const Window& w, float* tile, int slices) {
  const Epilogue<T>& e = out.epilogue;
  const Column<T> column = column_of(e, out.result, Share<P>::channel(block));
  const auto own = scaling_at(scaling, column.channel, column.count);
  const int image = int(block.index.x) * P::kRows / e.pixels, end = (image + 1) * e.pixels;
  const int64_t stride = int64_t(pixels_of(w)) * e.channels;
  Quad total = {{0, 0, 0, 0}};
  each_of_share<P>(block, tile, w, e.channels, [&](int pixel, float* place) {
    Quad sums = load_whole(place);
    if (out.partial) sums = sum_parts<kAhead<P>, typename P::Scalar>(out.partial + (pixel * e.channels + column.channel), stride, slices, column.count, column.whole);
    sums = scaled(own, sums);
    finish(e, column, sums, pixel, pixel < end ? image : pixel / e.pixels);
    store_whole(place, sums);
    add_quad(total, sums);
  });
  return total;
}

// This block's part of the sums to the scratch of its slice; true in the last block of those that share them.
template <class P, class T>
FEWSTEP_DEVICE bool share_tile(const fs::Block& block, const Output<T>& out, const Window& w, float* tile, int slice, int slices) {
  const int channels = out.epilogue.channels;
  const Column<T> column = column_of(out.epilogue, out.result, Share<P>::channel(block));
  float* scratch = slice_scratch(out.partial, slice, int64_t(pixels_of(w)) * channels);
  each_of_share<P>(block, tile, w, channels,
                   [&](int pixel, const float* place) { store_channels(column, scratch + (pixel * channels + column.channel), load_whole(place)); });
  return is_last(out.counters + (block.index.y * block.grid.x + block.index.x), slices);
}

// A convolution of what `x` has, products of P::T and results of T.
template <class P, class T, class From, class Scale, class ChangeOf>
FEWSTEP_DEVICE void convolve_forward(const fs::Block& block, typename P::T* stages, const From& x, const typename P::T* weights, const Output<T>& out,
                                     const Scale& scaling, const Conv& conv, int slices, ChangeOf change_of) {
  const int slice = int(block.index.z);
  const Window w = forward_window(conv);
  convolve<P>(block, stages, x, weights, w, conv.out_c, slice, slices, change_of);
  float* tile = reinterpret_cast<float*>(stages);
  if (out.partial && !share_tile<P>(block, out, w, tile, slice, slices)) return;
  const Quad total = finish_tile<P>(block, out, scaling, w, tile, slices);
  if (out.moments.of) tile_moments<P>(block, tile, total, out.moments, out.counters + block.grid.x * block.grid.y, out.epilogue.pixels, conv.out_c);
}

}  // namespace
