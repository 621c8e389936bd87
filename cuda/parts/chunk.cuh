// Sixteen bytes on their way to shared memory: four floats, or eight half or bf16.
#pragma once
#include "device/fewstep.cuh"

namespace {

template <class T>
constexpr int kChunk = 16 / int(sizeof(T));

FEWSTEP_DEVICE uint32_t bits_of(float x) { return fs::bit_cast<uint32_t>(x); }
FEWSTEP_DEVICE uint32_t bits_of(fs::half x) { return x.bits; }
FEWSTEP_DEVICE uint32_t bits_of(fs::bf16 x) { return x.bits; }

// Starts copying the first `count` elements of `source` to a chunk of shared memory; what it has more of becomes zero. `aligned` says that the source
// is 16-byte aligned and that the count is 0 or at least a chunk: then the copy is asynchronous. Else the elements are fetched one by one, which is
// as right and slower. With a count of 0 or less nothing is read, yet the address must be valid.
template <class T>
FEWSTEP_DEVICE void copy_chunk(T* shared, const T* source, int count, bool aligned) {
  if (aligned) {
    fs::copy_async_16(shared, source, count > 0 ? 16 : 0);
    return;
  }
  constexpr int kPerWord = 4 / int(sizeof(T));
  uint32_t words[4] = {0, 0, 0, 0};
  FEWSTEP_UNROLL
  for (int i = 0; i < kChunk<T>; i++) {
    if (i < count) words[i / kPerWord] |= bits_of(source[i]) << i % kPerWord * 16;
  }
  fs::store_16(shared, {words[0], words[1], words[2], words[3]});
}

}  // namespace
