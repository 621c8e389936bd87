// half and bf16: storage types. Kernels compute in f32; conversion rounds once, to nearest even, and makes every NaN 0x7fff.
#pragma once
#include "kernel.cuh"

namespace fs {

/// IEEE binary16.
struct half {
  uint16_t bits;
};
/// bfloat16: the upper half of a binary32.
struct bf16 {
  uint16_t bits;
};

/// The same 32 bits seen as another type.
template <class To, class From>
FEWSTEP_DEVICE To bit_cast(From value) {
  static_assert(sizeof(To) == 4 && sizeof(From) == 4);
  To result;
  memcpy(&result, &value, 4);
  return result;
}

FEWSTEP_DEVICE float to_float(float x) { return x; }
FEWSTEP_DEVICE float to_float(half x) { return ptx::f16_to_f32(x.bits); }
FEWSTEP_DEVICE float to_float(bf16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }

/// f32 to bf16 in integer arithmetic, for sm_75, which has no instruction for it. Equal to the instruction for every input.
FEWSTEP_DEVICE uint16_t f32_to_bf16_integer(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/// Are two types the same? (The standard header is not ours to include under nvcc.)
template <class A, class B>
constexpr bool is_same = false;
template <class A>
constexpr bool is_same<A, A> = true;

/// x as T: float, half or bf16.
template <class T>
FEWSTEP_DEVICE T from_float(float x) {
  static_assert(is_same<T, float> || is_same<T, half> || is_same<T, bf16>);
  if constexpr (is_same<T, float>) {
    return x;
  } else if constexpr (is_same<T, half>) {
    return {ptx::f32_to_f16(x)};
  } else {
    if (FEWSTEP_SM(80)) return {ptx::f32_to_bf16(x)};
    return {f32_to_bf16_integer(x)};
  }
}

/// Two values of T (half or bf16) in one register, `low` at the lower address: what a fragment and a 4-byte store take.
template <class T>
FEWSTEP_DEVICE uint32_t pack(float low, float high) {
  return uint32_t(from_float<T>(low).bits) | uint32_t(from_float<T>(high).bits) << 16;
}
/// The lower-addressed of two packed values.
template <class T>
FEWSTEP_DEVICE float unpack_low(uint32_t pair) {
  return to_float(T{uint16_t(pair & 0xffff)});
}
/// The higher-addressed of two packed values.
template <class T>
FEWSTEP_DEVICE float unpack_high(uint32_t pair) {
  return to_float(T{uint16_t(pair >> 16)});
}

/// Four int8 in one register, each rounded to nearest even and saturated by the caller; `a` at the lowest address.
FEWSTEP_DEVICE uint32_t pack_s8(int a, int b, int c, int d) {
  return (uint32_t(a) & 0xff) | (uint32_t(b) & 0xff) << 8 | (uint32_t(c) & 0xff) << 16 | uint32_t(d) << 24;
}

}  // namespace fs
