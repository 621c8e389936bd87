// Sine and cosine without the library's slow path, which needs a stack.
#pragma once
#include "device/fewstep.cuh"

namespace {

struct SinCos {
  float sin, cos;
};

// Both within 2e-7 for |x| up to 1e5 (timesteps are at most in the thousands). Reduction to an eighth of a turn by Cody and Waite with pi/2 in three parts and
// fused multiply-adds; the polynomials are those of Cephes sinf and cosf (Moshier).
FEWSTEP_DEVICE SinCos sin_cos(float x) {
  const int quarter = fs::to_int_rn(x * 0.636619772f);
  const float q = float(quarter);
  float r = fs::fma(q, -1.57079601f, x);
  r = fs::fma(q, -3.13916473e-7f, r);
  r = fs::fma(q, -5.39030253e-15f, r);
  const float z = r * r;
  const float s = fs::fma(fs::fma(fs::fma(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f) * z, r, r);
  const float c = fs::fma(fs::fma(fs::fma(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f) * z, z, fs::fma(-0.5f, z, 1.0f));
  switch (quarter & 3) {
    case 0: return {s, c};
    case 1: return {c, -s};
    case 2: return {-s, -c};
    default: return {-c, s};
  }
}

}  // namespace
