// The element types of the kernels as the tests see them: bits in memory, numbers outside.
#pragma once
#include <stdint.h>

#include "number.hpp"
#include "ptx.hpp"

namespace format {

struct Float {
  using Bits = float;
  static constexpr const char* name = "f32";
  /// Of a result of norm or attention, in units of the largest.
  static constexpr double tolerance = 1e-5;
  /// Largest relative error of one rounding of a sum in f32.
  static constexpr double rounding = 0;
  static float encode(float x) { return x; }
  static float decode(float x) { return x; }
};
struct Half {
  using Bits = uint16_t;
  static constexpr const char* name = "f16";
  static constexpr double tolerance = 1e-3;
  static constexpr double rounding = 0x1p-11;
  static uint16_t encode(float x) { return fs::emulator::f32_to_f16(x); }
  static float decode(uint16_t x) { return fs::emulator::f16_to_f32(x); }
};
struct Bf16 {
  using Bits = uint16_t;
  static constexpr const char* name = "bf16";
  static constexpr double tolerance = 8e-3;
  static constexpr double rounding = 0x1p-8;
  static uint16_t encode(float x) { return fs::emulator::f32_to_bf16(x); }
  static float decode(uint16_t x) { return fs::emulator::float_of(uint32_t(x) << 16); }
};

}  // namespace format
