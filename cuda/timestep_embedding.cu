// The sinusoidal timestep embedding of diffusers' `Timesteps`. A few thousand elements: the launch is the cost.
#include "device/fewstep.cuh"
#include "parts/trigonometry.cuh"
#include "shared.h"

namespace {
using namespace shared::timestep_embedding;
}

// y[B,dim] = sines then cosines (the other way round with cos_first) of t[b] frequencies[i], i < dim / 2; an odd dim ends in a zero.
FEWSTEP_KERNEL(kThreads, fewstep_timestep_embedding_f32, const float* t, const float* frequencies, float* y, int elements, int dim, int cos_first) {
  const int at = int(fs::thread_in_grid(fs::begin(), kThreads));
  if (at >= elements) return;
  const int half = dim / 2, i = at % dim;
  if (i >= 2 * half) {
    y[at] = 0;
    return;
  }
  // The argument is rounded to float, as diffusers does.
  const SinCos value = sin_cos(fs::mul_rn(t[at / dim], frequencies[i % half]));
  y[at] = (i < half) != (cos_first != 0) ? value.sin : value.cos;
}
