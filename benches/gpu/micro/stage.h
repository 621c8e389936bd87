// The chain's stages: what kernels and micro.cpp agree on.
//
// A stage stands for a small convolution without its arithmetic. Of `in` [blocks][kUnits] of four words a block reads three blocks' 2 KiB, the one before, its
// own and the one behind, and writes its own of `out`:
//   {(before.x + own.x + behind.x + extra) & kMask, before.y ^ own.y, (before.z + behind.z) & kMask, own.w}
// No word is ever all ones: that marks what is not written yet.
#pragma once
#include <stdint.h>

namespace micro {

constexpr int kThreads = 256;        // a block
constexpr int kUnits = 128;          // of 16 bytes, that a block writes
constexpr int kMostChunks = 8;       // of 16 bytes, that a thread fetches of the weights
constexpr uint32_t kMask = 0xffffff;
constexpr int kGroups = 32;          // sums that stand for a norm's, in the persistent kernel
constexpr int kPushed = 128;         // floats that a block of a cluster pushes to each of eight
constexpr int kRow = 64;             // halves of a row of a swizzled tile

}  // namespace micro
