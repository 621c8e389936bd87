// From floats to whole numbers of one byte, as src/graph/ops/quantize.rs defines it. Quotients are f32, rounded once; only where such a one is a tie, or an end of the
// range whose side is asked for, does its rounding matter: then the exact one decides, in f64, which no GPU is fast in and few elements need.
#pragma once
#include "device/fewstep.cuh"

namespace {

// The numbers there are. src/backend/cuda/quantize.rs has the same.
struct Range {
  int low, high;
};

FEWSTEP_DEVICE int clamp(int number, Range r) { return fs::max(r.low, fs::min(number, r.high)); }

// A quotient, brought to where every number is out of range if it lies beyond.
FEWSTEP_DEVICE float brought_near(float q) { return fs::max(fs::min(q, 1024.0f), -1024.0f); }

// -1, 0 or 1 as the exact quotient is less than, equal to or greater than the f32 nearest to it.
FEWSTEP_DEVICE int side_of(float x, float scale, float q) {
  const double exact = double(x) / double(scale);
  return exact < double(q) ? -1 : exact > double(q) ? 1 : 0;
}

// x / scale as a whole number, ties to even.
FEWSTEP_DEVICE int rounded(float x, float scale, float q) {
  const int nearest = fs::to_int_rn(q);
  const float away = q - float(nearest);
  if (away != 0.5f && away != -0.5f) return nearest;
  const int side = side_of(x, scale, q);
  return side == 0 ? nearest : fs::to_int_rn(q + (side > 0 ? 0.5f : -0.5f));
}

// The code, before it is brought into its range.
FEWSTEP_DEVICE int code_of(float x, float scale, int zero) {
  const float q = fs::div_rn(x, scale);
  return q == q ? rounded(x, scale, brought_near(q)) + zero : zero;
}

// How floats of one scale become numbers.
struct Rounding {
  float scale, reciprocal;
  int zero;
  Range range;
};

// The reciprocal is NaN where it is not as exact as near_code needs: then each number is made by definition.
FEWSTEP_DEVICE Rounding rounding_of(float scale, int zero, Range range) {
  return {scale, scale > 1e-30f && scale < 1e30f ? fs::div_rn(1.0f, scale) : fs::bit_cast<float>(0x7fc00000u), zero, range};
}

// The number, and whether that is certain.
struct NearCode {
  int code;
  bool sure;
};

// Without a division. A quotient by a rounded reciprocal is within 2^-22 of its size of the true one, below 1024 within 2^-12: no nearer than that to a tie, it is
// rounded as the true one is. Few are; what they are, NaN and what is far out of range exact_code tells.
FEWSTEP_DEVICE NearCode near_code(float x, const Rounding& r) {
  constexpr float kFar = 1024.0f, kNearTie = 0.5f - 1.0f / 4096.0f;
  const float q = x * r.reciprocal;
  const int nearest = fs::to_int_rn(q);
  const float away = q - float(nearest);
  const bool sure = q < kFar && q > -kFar && away < kNearTie && away > -kNearTie;
  return {clamp((sure ? nearest : 0) + r.zero, r.range), sure};
}

FEWSTEP_DEVICE int exact_code(float x, const Rounding& r) { return clamp(code_of(x, r.scale, r.zero), r.range); }

}  // namespace
