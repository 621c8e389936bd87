// Arithmetic whose rounding matters, and approximations whose error does not.
//
// Names in _rn are IEEE operations that no compiler contracts into a fused one: the Philox normals must have the same bits on every
// device. Names in fast_ use the special function unit: error bounds from the CUDA C++ Programming Guide, "Intrinsic Functions".
// The emulator computes fast_ functions more exactly than the hardware: tests of what uses them need a tolerance.
#pragma once
#include "kernel.cuh"
#include "number.cuh"

namespace fs {

/// a + b, rounded once.
FEWSTEP_DEVICE float add_rn(float a, float b) { return ptx::add_rn(a, b); }
/// a - b, rounded once.
FEWSTEP_DEVICE float sub_rn(float a, float b) { return ptx::sub_rn(a, b); }
/// a · b, rounded once.
FEWSTEP_DEVICE float mul_rn(float a, float b) { return ptx::mul_rn(a, b); }
/// a / b, rounded once.
FEWSTEP_DEVICE float div_rn(float a, float b) { return ptx::div_rn(a, b); }
/// √a, rounded once.
FEWSTEP_DEVICE float sqrt_rn(float a) { return ptx::sqrt_rn(a); }
/// a · b + c, rounded once.
FEWSTEP_DEVICE float fma(float a, float b, float c) { return ptx::fma_rn(a, b, c); }

/// Upper 32 bits of a · b.
FEWSTEP_DEVICE uint32_t mul_hi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }

/// eˣ, within 2 ulp.
FEWSTEP_DEVICE float exp(float x) { return ::expf(x); }
/// ln x, within 1 ulp.
FEWSTEP_DEVICE float log(float x) { return ::logf(x); }
/// tanh x, within 2 ulp.
FEWSTEP_DEVICE float tanh(float x) { return ::tanhf(x); }
/// Error function, within 2 ulp.
FEWSTEP_DEVICE float erf(float x) { return ::erff(x); }
/// sin x, within 2 ulp for |x| < 105615; slow beyond.
FEWSTEP_DEVICE float sin(float x) { return ::sinf(x); }
/// cos x, within 2 ulp for |x| < 105615; slow beyond.
FEWSTEP_DEVICE float cos(float x) { return ::cosf(x); }

/// 1/√x, within 2 ulp (rsqrt.approx).
FEWSTEP_DEVICE float rsqrt(float x) { return ptx::rsqrt(x); }
/// eˣ, within 2 + ⌊|1.173 x|⌋ ulp.
FEWSTEP_DEVICE float fast_exp(float x) { return ptx::fast_exp(x); }
/// ln x, absolute error 2⁻²¹·⁴¹ in [0.5, 2], within 3 ulp elsewhere.
FEWSTEP_DEVICE float fast_log(float x) { return ptx::fast_log(x); }
/// a / b, within 2 ulp for |b| in [2⁻¹²⁶, 2¹²⁶]; 0 for a larger |b|.
FEWSTEP_DEVICE float fast_div(float a, float b) { return ptx::fast_div(a, b); }
/// tanh x, relative error 2⁻¹¹ (tanh.approx.f32, sm_75 and later).
FEWSTEP_DEVICE float fast_tanh(float x) { return ptx::fast_tanh(x); }

/// Nearest int, ties to even; saturates, NaN gives 0 (cvt.rni.s32.f32).
FEWSTEP_DEVICE int to_int_rn(float x) { return ptx::to_int_rn(x); }
/// Four products of int8 pairs added to `sum` (dp4a.s32.s32).
FEWSTEP_DEVICE int dot4(uint32_t a, uint32_t b, int sum) { return ptx::dot4(a, b, sum); }

FEWSTEP_DEVICE int min(int a, int b) { return b < a ? b : a; }
FEWSTEP_DEVICE int max(int a, int b) { return a < b ? b : a; }
FEWSTEP_DEVICE uint32_t min(uint32_t a, uint32_t b) { return b < a ? b : a; }
FEWSTEP_DEVICE uint32_t max(uint32_t a, uint32_t b) { return a < b ? b : a; }
/// The smaller; the other one if one is NaN.
FEWSTEP_DEVICE float min(float a, float b) { return ::fminf(a, b); }
/// The larger; the other one if one is NaN.
FEWSTEP_DEVICE float max(float a, float b) { return ::fmaxf(a, b); }

}  // namespace fs
