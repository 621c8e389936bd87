// A group's mean and variance from those of its channels, which the convolutions before have left, and the norm as a scale and a shift of each channel.
#pragma once
#include "device/fewstep.cuh"

namespace {

// Mean and biased variance over a sample's positions of the first `first_channels` channels [N][first_channels][2], and of the others
// [N][C - first_channels][2] (null if there are none).
struct ChannelMoments {
  const float* first;
  const float* second;
  int first_channels;
};

struct MeanVariance {
  float mean, variance;
};

// Those of one sample's channels.
FEWSTEP_DEVICE ChannelMoments of_sample(const ChannelMoments& m, int channels, int sample) {
  const int others = channels - m.first_channels;
  return {m.first + int64_t(sample) * m.first_channels * 2, others ? m.second + int64_t(sample) * others * 2 : nullptr, m.first_channels};
}

FEWSTEP_DEVICE MeanVariance moments_of(const ChannelMoments& sample, int channel) {
  const int after = channel - sample.first_channels;
  const fs::u32x2 pair = fs::load_8(after < 0 ? sample.first + channel * 2 : sample.second + after * 2);
  return {fs::bit_cast<float>(pair.x), fs::bit_cast<float>(pair.y)};
}

// Those of the group of `width` channels from `begin`. Its channels have as many positions each, so that its mean is the mean of means, and its variance the
// mean of variances plus the variance of means; summed about the first channel's mean, so that a large common offset costs no digits.
FEWSTEP_DEVICE MeanVariance group_moments(const ChannelMoments& sample, int begin, int width) {
  const float pivot = moments_of(sample, begin).mean;
  float sum = 0, variance = 0;
  for (int c = begin + 1; c < begin + width; c++) sum += moments_of(sample, c).mean - pivot;
  const float mean = pivot + sum / float(width);
  for (int c = begin; c < begin + width; c++) {
    const MeanVariance own = moments_of(sample, c);
    variance += fs::fma(own.mean - mean, own.mean - mean, own.variance);
  }
  return {mean, variance / float(width)};
}

FEWSTEP_DEVICE float rstd_of(float variance, float eps) { return fs::div_rn(1.0f, fs::sqrt_rn(variance + eps)); }

// gamma (x - mean) rstd + beta = x scale + shift. Where mean is large against 1 / rstd, x scale and shift cancel: fma multiplies x exactly, so what is lost is
// shift's own rounding, no more than 2^-24 |mean| scale; x itself was rounded to 2^-24 |x| or worse, and that error times scale is in the result in any case.
struct ScaleShift {
  float scale, shift;
};
FEWSTEP_DEVICE ScaleShift scale_shift(float mean, float rstd, float gamma, float beta) {
  return {gamma * rstd, fs::fma(-mean, gamma * rstd, beta)};
}

}  // namespace
