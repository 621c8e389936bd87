// A group norm on the way into a convolution: gamma (x - mean) rstd + beta with the statistics of x's groups from those of its channels, then SiLU.
// What a thread has copied it changes where it lies in shared memory, before the barrier that shows it to others: the copies stay asynchronous.
// Padding is not touched: it is zero after the norm.
#pragma once
#include "device/fewstep.cuh"
#include "parts/chunk.cuh"
#include "parts/conv_product.cuh"
#include "parts/conv_shape.cuh"
#include "parts/digits.cuh"
#include "parts/group_moments.cuh"
#include "shared.h"

namespace {

constexpr int kNormChannels = shared::conv::kNormChannels;

// gamma, beta [channels]; first, second, first_channels: ChannelMoments. src/backend/cuda/conv2d.rs passes the same.
struct ConvNorm {
  const float* gamma;
  const float* beta;
  const float* first;
  const float* second;
  int first_channels, groups, silu;
  float eps;
};

// norm(x) = x scale[i] + shift[i] for the `count` channels of an image from `first` on, and zeros for those of them that there are not; a channel a thread.
FEWSTEP_DEVICE void fill_norm(const ConvNorm& n, int channels, int image, int first, int count, int threads, float* scale, float* shift) {
  const int width = channels / n.groups;
  const ChannelMoments moments = of_sample({n.first, n.second, n.first_channels}, channels, image);
  for (int i = int(fs::thread_index().x); i < count; i += threads) {
    const int c = first + i;
    scale[i] = shift[i] = 0;
    if (c >= channels) continue;
    const MeanVariance group = group_moments(moments, c / width * width, width);
    const ScaleShift both = scale_shift(group.mean, rstd_of(group.variance, n.eps), n.gamma[c], n.beta[c]);
    scale[i] = both.scale;
    shift[i] = both.shift;
  }
}

FEWSTEP_DEVICE float normalised(float x, float scale, float shift, bool silu) {
  const float y = fs::fma(x, scale, shift);
  return silu ? fs::fast_div(y, 1.0f + fs::fast_exp(-y)) : y;
}

FEWSTEP_DEVICE void normalise_chunk(float* chunk, const float* scale, const float* shift, bool silu) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) chunk[i] = normalised(chunk[i], scale[i], shift[i], silu);
}
template <class T>
FEWSTEP_DEVICE void normalise_chunk(T* chunk, const float* scale, const float* shift, bool silu) {
  const fs::u32x4 whole = fs::load_16(chunk);
  uint32_t words[4] = {whole.x, whole.y, whole.z, whole.w};
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    const float low = normalised(fs::unpack_low<T>(words[i]), scale[2 * i], shift[2 * i], silu);
    const float high = normalised(fs::unpack_high<T>(words[i]), scale[2 * i + 1], shift[2 * i + 1], silu);
    words[i] = fs::pack<T>(low, high);
  }
  fs::store_16(chunk, {words[0], words[1], words[2], words[3]});
}

// What multiply_stages does with the copies of convolve. A tile lies in one image.
template <class P>
struct Normalise {
  const RowCopies<P>& copies;
  const Window& window;
  const ConvNorm& norm;
  int image;
  float* scale;  // [kNormChannels] in shared memory
  float* shift;
  Digits tap;  // of the stage that arrives next
};

template <class P>
FEWSTEP_DEVICE void begin(Normalise<P>& n) {
  fill_norm(n.norm, n.window.in_c, n.image, 0, padded_channels<typename P::T>(n.window.in_c), P::kThreads, n.scale, n.shift);
  fs::sync_threads();
}

template <class P>
FEWSTEP_DEVICE void arrived(Normalise<P>& n, typename P::T* stage) {
  const RowCopies<P>& copies = n.copies;
  typename P::T* chunk = stage + copies.place;
  const uint32_t bits = bits_of(n.tap);
  FEWSTEP_UNROLL
  for (int i = 0; i < RowCopies<P>::kGathered; i++) {
    if (!is_inside(copies, bits, i)) continue;
    normalise_chunk(chunk + i * RowCopies<P>::kRowsPerPass * P::kPitch, n.scale + n.tap.low, n.shift + n.tap.low, n.norm.silu);
  }
  n.tap = next_tap(copies, n.window, n.tap);
}

}  // namespace
