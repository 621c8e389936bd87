// Philox4x32-10 noise and integers, bit for bit those of src/diffusion/philox.rs, which has the sources: every float operation is rounded once, in its order.
// key = seed, counter = [block, sample, step, purpose], block = element / 4 in logical C, H, W order.
#include "device/fewstep.cuh"
#include "shared.h"

namespace {

using namespace shared::random;

struct Words {
  uint32_t w[4];
};

FEWSTEP_DEVICE Words philox(uint64_t seed, uint32_t block, uint32_t sample, uint32_t step, uint32_t purpose) {
  uint32_t a = block, b = sample, c = step, d = purpose;
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  FEWSTEP_UNROLL
  for (int round = 0; round < 10; round++) {
    const uint32_t high0 = fs::mul_hi(0xD2511F53u, a), low0 = 0xD2511F53u * a;
    const uint32_t high1 = fs::mul_hi(0xCD9E8D57u, c), low1 = 0xCD9E8D57u * c;
    a = high1 ^ b ^ key0;
    b = low1;
    c = high0 ^ d ^ key1;
    d = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{a, b, c, d}};
}

// p x + c in two roundings.
FEWSTEP_DEVICE float step_of(float p, float x, float c) { return fs::add_rn(fs::mul_rn(p, x), c); }

FEWSTEP_DEVICE float log_of(float u) {
  const uint32_t bits = fs::bit_cast<uint32_t>(u);
  const int32_t shifted = int32_t(bits - 0x3F3504F3u);
  const float e = float(shifted >> 23);
  const float m = fs::bit_cast<float>(bits - (uint32_t(shifted) & 0xFF800000u));
  const float x = fs::sub_rn(m, 1.0f);
  const float z = fs::mul_rn(x, x);
  float p = 7.0376836e-2f;
  p = step_of(p, x, -1.151461e-1f);
  p = step_of(p, x, 1.1676999e-1f);
  p = step_of(p, x, -1.2420141e-1f);
  p = step_of(p, x, 1.4249323e-1f);
  p = step_of(p, x, -1.6668058e-1f);
  p = step_of(p, x, 2.0000715e-1f);
  p = step_of(p, x, -2.4999994e-1f);
  p = step_of(p, x, 3.333333e-1f);
  float y = fs::add_rn(fs::mul_rn(fs::mul_rn(x, z), p), fs::mul_rn(e, -2.1219444e-4f));
  y = fs::sub_rn(y, fs::mul_rn(0.5f, z));
  return fs::add_rn(fs::add_rn(x, y), fs::mul_rn(e, 355.0f / 512.0f));
}

struct Pair {
  float first, second;
};

// Sine and cosine of word / 2^32 of a turn.
FEWSTEP_DEVICE Pair sin_cos_turn(uint32_t word) {
  const uint32_t quarter = (word + (1u << 29)) >> 30;
  const float x = fs::mul_rn(float(int32_t(word - (quarter << 30))), 1.462918e-9f);
  const float z = fs::mul_rn(x, x);
  const float s = fs::mul_rn(step_of(step_of(-1.9515296e-4f, z, 8.332161e-3f), z, -1.6666655e-1f), z);
  const float sin = fs::add_rn(fs::mul_rn(s, x), x);
  const float c = fs::mul_rn(step_of(step_of(2.4433157e-5f, z, -1.3887316e-3f), z, 4.1666646e-2f), z);
  const float cos = fs::add_rn(fs::add_rn(fs::mul_rn(c, z), fs::mul_rn(-0.5f, z)), 1.0f);
  switch (quarter & 3) {
    case 0: return {sin, cos};
    case 1: return {cos, -sin};
    case 2: return {-sin, -cos};
    default: return {-cos, sin};
  }
}

// Two normals from two words, by Box and Muller.
FEWSTEP_DEVICE Pair normal_pair(uint32_t radius, uint32_t angle) {
  const float u = step_of(float(radius), 2.3283064e-10f, 1.1641532e-10f);
  const float r = fs::sqrt_rn(fs::mul_rn(-2.0f, log_of(u)));
  const Pair turn = sin_cos_turn(angle);
  return {fs::mul_rn(r, turn.second), fs::mul_rn(r, turn.first)};
}

}  // namespace

// y[N,H,W,C] of unit normals; seed, step [1], sample [N]. One thread four of a sample's elements; `blocks` = ceil(C H W / 4). `threads` = N blocks in all.
// Floor: bytes of y over the bandwidth; the arithmetic (about 200 operations for four) is of the same order.
FEWSTEP_KERNEL(kThreads, fewstep_random_normal_f32, const int64_t* seed, const int64_t* step, const int* sample, float* y, int threads, int blocks, int pixels,
               int channels, int purpose) {
  const int64_t at = fs::thread_in_grid(fs::begin(), kThreads);
  if (at >= threads) return;
  const int n = int(at / blocks), block = int(at % blocks);
  const Words words = philox(uint64_t(seed[0]), uint32_t(block), uint32_t(sample[n]), uint32_t(step[0]), uint32_t(purpose));
  const Pair low = normal_pair(words.w[0], words.w[1]), high = normal_pair(words.w[2], words.w[3]);
  const float normals[4] = {low.first, low.second, high.first, high.second};
  const int elements = pixels * channels;
  float* image = y + int64_t(n) * elements;
  FEWSTEP_UNROLL
  for (int k = 0; k < 4; k++) {
    const int i = 4 * block + k;
    if (i < elements) image[i % pixels * channels + i / pixels] = normals[k];
  }
}

// y[count] = integers in 0 .. bound - 1, from word `stream` of the sequence of counter sample first[0] + b: word stream % 4 of block stream / 4.
FEWSTEP_KERNEL(kThreads, fewstep_random_int_i32, const int64_t* seed, const int64_t* step, const int* first, int* y, int count, uint32_t bound, int stream,
               int purpose) {
  const int b = int(fs::thread_in_grid(fs::begin(), kThreads));
  if (b >= count) return;
  const Words words = philox(uint64_t(seed[0]), uint32_t(stream) >> 2, uint32_t(first[0]) + uint32_t(b), uint32_t(step[0]), uint32_t(purpose));
  const int at = stream & 3;
  const uint32_t word = at == 0 ? words.w[0] : at == 1 ? words.w[1] : at == 2 ? words.w[2] : words.w[3];
  y[b] = int(fs::mul_hi(word, bound));
}
