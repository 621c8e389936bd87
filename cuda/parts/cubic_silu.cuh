// SiLU by polynomials, as src/backend/cpu/kernels/int8/silu.rs defines it, bit for bit: what is rounded to whole numbers behind it then is the same on every device,
// but for the last bits of the norm before. max(v, 0) plus a cubic of |v| in each of eight unit intervals: no exponential, no division; each operation rounds by
// itself. The coefficients of an interval are 16 bytes of shared memory, and those of all eight fill its banks: lanes read any of them without conflicts.
#pragma once
#include "device/fewstep.cuh"

namespace {

constexpr int kCubics = 32;

// table [8][4]: coefficients of f^0 to f^3 by interval, f being what |v| is above its whole part. By 32 threads; a barrier must follow.
FEWSTEP_DEVICE void fill_cubics(float* table) {
  constexpr float kCoefficients[kCubics] = {
    0.00010670679f, -0.5036584f,   0.2697416f,   -0.035024583f,   //
    -0.26899564f,   -0.070736155f, 0.14410093f,  -0.04282921f,    //
    -0.23845112f,   0.09229878f,   0.017060239f, -0.013230802f,   //
    -0.14228867f,   0.08849256f,   -0.018330352f, 0.00017057334f, //
    -0.071944535f,  0.052666947f,  -0.016453795f, 0.0022674552f,  //
    -0.033462577f,  0.026493706f,  -0.009481655f, 0.0016164656f,  //
    -0.014834566f,  0.0122879f,    -0.004697661f, 0.0008681413f,  //
    -0.006376733f,  0.005439782f,  -0.0021617676f, 0.00041654258f,
  };
  // Constants each: an array that is indexed at run time would lie in a thread's own memory.
  FEWSTEP_UNROLL
  for (int i = 0; i < kCubics; i++) {
    if (int(fs::thread_index().x) == i) table[i] = kCoefficients[i];
  }
}

FEWSTEP_DEVICE float cubic_silu(const float* table, float v) {
  constexpr float kLast = 7.9999995f;  // the largest number below 8, where the rest is all but gone
  const float w = fs::min(v < 0.0f ? -v : v, kLast);
  const int interval = int(w);
  const float f = w - float(interval);
  const fs::u32x4 c = fs::load_16(table + 4 * interval);
  float g = fs::add_rn(fs::mul_rn(fs::bit_cast<float>(c.w), f), fs::bit_cast<float>(c.z));
  g = fs::add_rn(fs::mul_rn(g, f), fs::bit_cast<float>(c.y));
  g = fs::add_rn(fs::mul_rn(g, f), fs::bit_cast<float>(c.x));
  return fs::add_rn(0.0f > v ? 0.0f : v, g);
}

}  // namespace
