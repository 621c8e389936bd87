// What the 32 lanes of a warp do together. Every lane named in `lanes` must make the same call with the same `lanes`; a lane must be
// in its own mask. PTX ISA: shfl.sync, vote.sync, bar.warp.sync.
#pragma once
#include "kernel.cuh"
#include "number.cuh"

namespace fs {

/// All lanes of a warp.
constexpr uint32_t full_warp = 0xffffffffu;

/// Waits for the lanes and makes their memory writes visible to one another.
FEWSTEP_DEVICE void sync_warp(uint32_t lanes = full_warp FEWSTEP_AND_SITE) { ptx::warp_sync(lanes FEWSTEP_AND_HERE); }

/// `value` of lane `source` (mod 32). T has four bytes.
template <class T>
FEWSTEP_DEVICE T shuffle(T value, uint32_t source, uint32_t lanes = full_warp FEWSTEP_AND_SITE) {
  return bit_cast<T>(ptx::shuffle_idx(lanes, bit_cast<uint32_t>(value), source & 31 FEWSTEP_AND_HERE));
}
/// `value` of lane (own ^ `bits`): the step of a butterfly reduction.
template <class T>
FEWSTEP_DEVICE T shuffle_xor(T value, uint32_t bits, uint32_t lanes = full_warp FEWSTEP_AND_SITE) {
  return bit_cast<T>(ptx::shuffle_xor(lanes, bit_cast<uint32_t>(value), bits FEWSTEP_AND_HERE));
}
/// `value` of lane (own + `delta`), or the own value where there is none.
template <class T>
FEWSTEP_DEVICE T shuffle_down(T value, uint32_t delta, uint32_t lanes = full_warp FEWSTEP_AND_SITE) {
  return bit_cast<T>(ptx::shuffle_down(lanes, bit_cast<uint32_t>(value), delta FEWSTEP_AND_HERE));
}
/// `value` of lane (own - `delta`), or the own value where there is none.
template <class T>
FEWSTEP_DEVICE T shuffle_up(T value, uint32_t delta, uint32_t lanes = full_warp FEWSTEP_AND_SITE) {
  return bit_cast<T>(ptx::shuffle_up(lanes, bit_cast<uint32_t>(value), delta FEWSTEP_AND_HERE));
}

/// Bit i tells whether lane i is in `lanes` and its `predicate` holds.
FEWSTEP_DEVICE uint32_t ballot(bool predicate, uint32_t lanes = full_warp FEWSTEP_AND_SITE) {
  return ptx::ballot(lanes, predicate FEWSTEP_AND_HERE);
}

/// Sum over the warp, the same bits in every lane: a butterfly adds the same pairs everywhere, and addition commutes.
template <class T>
FEWSTEP_DEVICE T warp_sum(T value FEWSTEP_AND_SITE) {
  FEWSTEP_UNROLL
  for (uint32_t bits = 16; bits; bits >>= 1) value += shuffle_xor(value, bits, full_warp FEWSTEP_AND_HERE);
  return value;
}

}  // namespace fs
