// Conversions of binary16 and bfloat16 in plain C++: to nearest even, NaN to 0x7fff, as cvt.rn does.
#pragma once
#include <stdint.h>
#include <string.h>

namespace fs::emulator {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

/// Exact. A NaN keeps its payload.
inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16;
  const float scaled = float_of(uint32_t(h & 0x7fff) << 13) * 0x1p112f;  // rebiases the exponent; exact for subnormals too
  const bool special = (h & 0x7c00) == 0x7c00;                           // infinity or NaN
  return float_of(special ? sign | 0x7f800000 | uint32_t(h & 0x3ff) << 13 : sign | bits_of(scaled));
}

inline uint16_t f32_to_f16(float x) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffff;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above
  if (magnitude < 0x38800000) {                       // below 2^-14: adding 0.5 rounds at 2^-24, the subnormals' unit
    return uint16_t(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000));
  }
  return uint16_t(sign | ((magnitude + 0xc8000fff + (magnitude >> 13 & 1)) >> 13));
}

inline uint16_t f32_to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace fs::emulator
