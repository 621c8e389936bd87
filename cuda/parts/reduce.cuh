// Sums over a block, in an order fixed by the block's size alone.
#pragma once
#include "device/fewstep.cuh"

namespace {

// The sum of `value` over the block's threads, in every thread. `partials` is 32 floats of shared memory that the block uses for nothing else until
// the next barrier after this call. The block is a multiple of 32 threads, at most 1024.
FEWSTEP_DEVICE float block_sum(float value, float* partials) {
  const uint32_t warps = fs::block_size().x / 32;
  value = fs::warp_sum(value);
  if (fs::lane() == 0) partials[fs::warp()] = value;
  fs::sync_threads();
  const float sum = fs::lane() < warps ? partials[fs::lane()] : 0.0f;
  return fs::warp_sum(sum);
}

}  // namespace
