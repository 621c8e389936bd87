// What follows the gradients, each over many tensors in one launch: a block takes one piece (at most kPiece elements) of one tensor.
// Floor: bytes of parameters, moments and gradients over the bandwidth.
#include "device/fewstep.cuh"
#include "parts/reduce.cuh"
#include "shared.h"

namespace {

using namespace shared::optimizer;
// 2^63, the most that clipping may leave of a norm: AdamW's second moment holds squares (ClipScale::LARGEST).
constexpr float kLargestNorm = 9223372036854775808.0f;

// A piece of a tensor; src/backend/cuda/optimizer.rs cuts them.
struct Piece {
  int tensor, start, length;
};

FEWSTEP_DEVICE bool is_finite(float x) { return (fs::bit_cast<uint32_t>(x) & 0x7f800000u) != 0x7f800000u; }

// 1 - e^x for x <= 0 without the cancellation near 0, where Taylor's series has 1e-8 of relative error.
FEWSTEP_DEVICE float one_minus_exp(float x) {
  if (x < -0.25f) return 1.0f - fs::exp(x);
  float sum = 1.0f;
  FEWSTEP_UNROLL
  for (int k = 8; k >= 2; k--) sum = 1.0f + x / float(k) * sum;
  return -x * sum;
}

}  // namespace

// partial[piece] = sum of the squares of a piece of tensors[piece.tensor].
FEWSTEP_KERNEL(kThreads, fewstep_square_sums_f32, const float* const* tensors, const Piece* pieces, float* partial) {
  FEWSTEP_SHARED(float, partials, 32);
  const uint32_t number = fs::begin().index.x;
  const Piece piece = pieces[number];
  const float* x = tensors[piece.tensor] + piece.start;
  float sum = 0;
  for (int i = int(fs::thread_index().x); i < piece.length; i += kThreads) sum += x[i] * x[i];
  sum = block_sum(sum, partials);
  if (fs::thread_index().x == 0) partial[number] = sum;
}

// norm[1] = square root of the sum of partial[count]. One block.
FEWSTEP_KERNEL(kThreads, fewstep_norm_f32, const float* partial, float* norm, int count) {
  FEWSTEP_SHARED(float, partials, 32);
  fs::begin();
  float sum = 0;
  for (int i = int(fs::thread_index().x); i < count; i += kThreads) sum += partial[i];
  sum = block_sum(sum, partials);
  if (fs::thread_index().x == 0) norm[0] = fs::sqrt_rn(sum);
}

// scale[1] = min(1, max_norm / (norm + 1e-6)), or NaN when the norm or one of loss[count] is not finite, or the clipped norm too large. One warp.
FEWSTEP_KERNEL(32, fewstep_clip_scale_f32, const float* norm, const float* loss, float* scale, int count, float max_norm) {
  fs::begin();
  bool usable = is_finite(norm[0]) && fs::min(norm[0], max_norm) <= kLargestNorm;
  for (int i = int(fs::lane()); i < count; i += 32) usable = usable && is_finite(loss[i]);
  if (fs::ballot(!usable) != 0) {
    if (fs::lane() == 0) scale[0] = fs::bit_cast<float>(0x7fc00000u);
  } else if (fs::lane() == 0) {
    scale[0] = fs::min(max_norm / (norm[0] + 1e-6f), 1.0f);
  }
}

namespace {

// log_beta is ln of the decay; keep is the decay itself.
struct AdamWSettings {
  float beta1, rest1, log_beta1, beta2, rest2, log_beta2, eps, weight_decay;
};

}  // namespace

// Decoupled weight decay Adam (Loshchilov and Hutter 2019, algorithm 2). tensors[4 i + 0..3] are p, m, v (updated in place) and g of parameter i; lr, step,
// scale [1]. A scale that is NaN changes nothing.
FEWSTEP_KERNEL(kThreads, fewstep_adamw_f32, const float* lr, const int64_t* step, const float* scale, float* const* tensors, const Piece* pieces,
               AdamWSettings s) {
  const uint32_t number = fs::begin().index.x;
  const float factor = scale[0];
  if (factor != factor) return;
  const Piece piece = pieces[number];
  float* const* own = tensors + 4 * piece.tensor;
  float* p = own[0] + piece.start;
  float* m = own[1] + piece.start;
  float* v = own[2] + piece.start;
  const float* g = own[3] + piece.start;
  const float steps = float(step[0]);
  const float rate = lr[0] / one_minus_exp(steps * s.log_beta1);
  const float root = 1.0f / fs::sqrt_rn(one_minus_exp(steps * s.log_beta2));
  const float keep = 1.0f - lr[0] * s.weight_decay;
  for (int i = int(fs::thread_index().x); i < piece.length; i += kThreads) {
    const float grad = g[i] * factor;
    const float first = m[i] * s.beta1 + grad * s.rest1;
    const float second = v[i] * s.beta2 + grad * grad * s.rest2;
    m[i] = first;
    v[i] = second;
    p[i] = p[i] * keep - rate * first / (fs::sqrt_rn(second) * root + s.eps);
  }
}

// average = decay average + (1 - decay) p; at decay 0 it is p, whatever it was. tensors[2 i] is the average (updated in place), tensors[2 i + 1] is p; decay,
// scale [1]. A scale that is NaN changes nothing.
FEWSTEP_KERNEL(kThreads, fewstep_ema_f32, const float* decay, const float* scale, float* const* tensors, const Piece* pieces) {
  const uint32_t number = fs::begin().index.x;
  if (scale[0] != scale[0]) return;
  const Piece piece = pieces[number];
  float* average = tensors[2 * piece.tensor] + piece.start;
  const float* p = tensors[2 * piece.tensor + 1] + piece.start;
  const float rest = 1.0f - decay[0];
  for (int i = int(fs::thread_index().x); i < piece.length; i += kThreads) average[i] = decay[0] == 0.0f ? p[i] : average[i] + rest * (p[i] - average[i]);
}
