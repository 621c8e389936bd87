// Sixteen bytes on their way to shared memory: four floats, or eight half or bf16.
#pragma once
#include "device/fewstep.cuh"
#include "shared.h"

namespace {

template <class T>
constexpr int kChunk = shared::run::kBytes / int(sizeof(T));

FEWSTEP_DEVICE uint32_t bits_of(float x) { return fs::bit_cast<uint32_t>(x); }
FEWSTEP_DEVICE uint32_t bits_of(fs::half x) { return x.bits; }
FEWSTEP_DEVICE uint32_t bits_of(fs::bf16 x) { return x.bits; }

// Starts copying a chunk to shared memory, or zeros if there is none; then nothing is read. Both addresses are multiples of 16.
template <class T>
FEWSTEP_DEVICE void copy_chunk(T* shared, const T* source, bool exists) {
  fs::copy_async_16(shared, source, exists ? 16 : 0);
}

// The first `count` elements of `source`, at any address, to a chunk of shared memory; what it has more of becomes zero. With a count of 0 or less nothing is
// read. Not asynchronous: for tensors whose channels are no whole chunks.
template <class T>
FEWSTEP_DEVICE void gather_chunk(T* shared, const T* source, int count) {
  constexpr int kPerWord = 4 / int(sizeof(T));
  uint32_t words[4] = {0, 0, 0, 0};
  FEWSTEP_UNROLL
  for (int i = 0; i < kChunk<T>; i++) {
    if (i < count) words[i / kPerWord] |= bits_of(source[i]) << i % kPerWord * 16;
  }
  fs::store_16(shared, {words[0], words[1], words[2], words[3]});
}

}  // namespace
