// The numbers of a quantised convolution's input as its product reads them (stage_conv.cu writes them), and what makes results of their sums.
//
// A number q of 0 to 255 is staged as the signed byte q - 128: an mma has the same rate for bytes with and without a sign, and older GPUs have the same one. With
// q = byte + 128, the sum over (q - zero) w is the sum over byte w less (zero - 128) times the sum of all w: exact, as both fit 32 bits (MOST_PRODUCTS).
#pragma once
#include "device/fewstep.cuh"
#include "parts/chunk.cuh"
#include "parts/quad.cuh"
#include "parts/sources.cuh"

namespace {

// What is taken from a number to stage it.
constexpr int kStagedOffset = 128;

// x [pixels][channels], the channels a multiple of 16; `padding` is a chunk of bytes that stand for 0.
struct Staged {
  static constexpr bool kWhole = true;
  const int8_t* x;
  const int8_t* padding;
};

FEWSTEP_DEVICE Source<int8_t> source_of(const Staged& s, int channels, int channel) { return {s.x, channels, channel}; }

FEWSTEP_DEVICE void copy_pixel(const Staged& s, int8_t* shared, const int8_t* source, bool exists) { copy_chunk(shared, exists ? source : s.padding, true); }

// What makes results of sums: factors [channels], sums [channels] of each channel's weights, and the staged zero point.
struct Scaling {
  const float* factors;
  const int* sums;
  int zero;
};

// The same of four neighbouring channels.
struct QuadScaling {
  float factor[4];
  int correction[4];
};

FEWSTEP_DEVICE QuadScaling scaling_at(const Scaling& s, int channel, int count) {
  QuadScaling q = {};
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    if (i >= count) continue;
    q.factor[i] = s.factors[channel + i];
    q.correction[i] = s.sums[channel + i] * s.zero;
  }
  return q;
}

// Sums, which travel as the floats of their bits, less what zero points alone sum to, times the factors: each rounded by itself, as on every other device.
FEWSTEP_DEVICE Quad scaled(const QuadScaling& q, const Quad& sums) {
  Quad y;
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) y.v[i] = fs::mul_rn(float(fs::bit_cast<int>(sums.v[i]) - q.correction[i]), q.factor[i]);
  return y;
}

}  // namespace
