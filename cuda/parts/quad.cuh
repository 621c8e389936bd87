// Four neighbouring elements at once, as floats: what an element-wise kernel's thread moves.
#pragma once
#include "device/fewstep.cuh"

namespace {

struct Quad {
  float v[4];
};

// The `count` (1 to 4) elements from x on; zeros after them. A whole quad of an aligned address is one load (16 bytes of float, 8 of half).
FEWSTEP_DEVICE Quad load_quad(const float* x, int count) {
  Quad q = {{0, 0, 0, 0}};
  if (count >= 4 && (reinterpret_cast<uintptr_t>(x) & 15) == 0) {
    const fs::u32x4 words = fs::load_16(x);
    q = {{fs::bit_cast<float>(words.x), fs::bit_cast<float>(words.y), fs::bit_cast<float>(words.z), fs::bit_cast<float>(words.w)}};
  } else {
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) {
      if (i < count) q.v[i] = x[i];
    }
  }
  return q;
}
template <class T>
FEWSTEP_DEVICE Quad load_quad(const T* x, int count) {
  Quad q = {{0, 0, 0, 0}};
  if (count >= 4 && (reinterpret_cast<uintptr_t>(x) & 7) == 0) {
    const fs::u32x2 words = fs::load_8(x);
    q = {{fs::unpack_low<T>(words.x), fs::unpack_high<T>(words.x), fs::unpack_low<T>(words.y), fs::unpack_high<T>(words.y)}};
  } else {
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) {
      if (i < count) q.v[i] = fs::to_float(x[i]);
    }
  }
  return q;
}

// Writes the first `count` (1 to 4) of them.
FEWSTEP_DEVICE void store_quad(float* y, const Quad& q, int count) {
  if (count >= 4 && (reinterpret_cast<uintptr_t>(y) & 15) == 0) {
    fs::store_16(y, {fs::bit_cast<uint32_t>(q.v[0]), fs::bit_cast<uint32_t>(q.v[1]), fs::bit_cast<uint32_t>(q.v[2]), fs::bit_cast<uint32_t>(q.v[3])});
  } else {
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) {
      if (i < count) y[i] = q.v[i];
    }
  }
}
template <class T>
FEWSTEP_DEVICE void store_quad(T* y, const Quad& q, int count) {
  if (count >= 4 && (reinterpret_cast<uintptr_t>(y) & 7) == 0) {
    fs::store_8(y, {fs::pack<T>(q.v[0], q.v[1]), fs::pack<T>(q.v[2], q.v[3])});
  } else {
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) {
      if (i < count) y[i] = fs::from_float<T>(q.v[i]);
    }
  }
}

// Four elements of an address, global or shared, that is a multiple of their size.
FEWSTEP_DEVICE Quad load_whole(const float* x) {
  const fs::u32x4 w = fs::load_16(x);
  return {{fs::bit_cast<float>(w.x), fs::bit_cast<float>(w.y), fs::bit_cast<float>(w.z), fs::bit_cast<float>(w.w)}};
}
template <class T>
FEWSTEP_DEVICE Quad load_whole(const T* x) {
  const fs::u32x2 w = fs::load_8(x);
  return {{fs::unpack_low<T>(w.x), fs::unpack_high<T>(w.x), fs::unpack_low<T>(w.y), fs::unpack_high<T>(w.y)}};
}
// What other blocks have written (fs::load_l2): `count` elements and zeros, or four at a whole address.
FEWSTEP_DEVICE Quad load_l2_quad(const float* x, int count, bool whole) {
  Quad q = {{0, 0, 0, 0}};
  if (whole) {
    const fs::u32x4 w = fs::load_l2_16(x);
    return {{fs::bit_cast<float>(w.x), fs::bit_cast<float>(w.y), fs::bit_cast<float>(w.z), fs::bit_cast<float>(w.w)}};
  }
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    if (i < count) q.v[i] = fs::load_l2(x + i);
  }
  return q;
}
FEWSTEP_DEVICE void store_whole(float* y, const Quad& q) {
  fs::store_16(y, {fs::bit_cast<uint32_t>(q.v[0]), fs::bit_cast<uint32_t>(q.v[1]), fs::bit_cast<uint32_t>(q.v[2]), fs::bit_cast<uint32_t>(q.v[3])});
}
template <class T>
FEWSTEP_DEVICE void store_whole(T* y, const Quad& q) {
  fs::store_8(y, {fs::pack<T>(q.v[0], q.v[1]), fs::pack<T>(q.v[2], q.v[3])});
}

}  // namespace
