// What kernels that only move data move: 2, 4 or 16 bytes at once.
#pragma once
#include "device/fewstep.cuh"

namespace {

template <class T>
FEWSTEP_DEVICE T load_unit(const T* p) {
  return *p;
}
FEWSTEP_DEVICE fs::u32x4 load_unit(const fs::u32x4* p) { return fs::load_16(p); }

template <class T>
FEWSTEP_DEVICE void store_unit(T* p, T value) {
  *p = value;
}
FEWSTEP_DEVICE void store_unit(fs::u32x4* p, fs::u32x4 value) { fs::store_16(p, value); }

}  // namespace
