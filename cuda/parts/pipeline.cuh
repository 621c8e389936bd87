// The loop of a matrix product: stages of shared memory are filled in turn by asynchronous copies, two ahead of the multiplications. One barrier a stage is
// enough: it tells that the oldest copies have arrived, and that everyone is done with the stage that is filled next.
#pragma once
#include "device/fewstep.cuh"
#include "parts/conv_shape.cuh"
#include "parts/tile_product.cuh"

namespace {

// Operands are multiplied as they are.
struct Untouched {};
FEWSTEP_DEVICE void begin(Untouched&) {}
template <class T>
FEWSTEP_DEVICE void arrived(Untouched&, T*) {}

// Adds the steps of `part` to `sum`. copy(stage) starts this thread's copies of the next step; a stage has kStage elements, the second operand from
// kSecond on. begin(change) runs while the first copies are under way, arrived(change, stage) may change what this thread has copied there, before others
// see it. The last stages may still be read by others when this returns.
template <class P, int kStage, int kSecond, class Copy, class Change>
FEWSTEP_DEVICE void multiply_stages(typename P::Sum& sum, typename P::T* stages, const Slice& part, Copy copy, Change change) {
  FEWSTEP_UNROLL
  for (int s = 0; s < kStages - 1; s++) {
    if (part.first + s < part.last) copy(stages + s * kStage);
    fs::copy_async_commit();
  }
  begin(change);
  const typename P::Lane lane = P::lane();
  int current = 0;
  for (int step = part.first; step < part.last; step++) {
    fs::copy_async_wait<kStages - 2>();
    arrived(change, stages + current * kStage);
    fs::sync_threads();
    const int free = current == 0 ? kStages - 1 : current - 1;
    if (step + kStages - 1 < part.last) copy(stages + free * kStage);
    fs::copy_async_commit();
    const typename P::T* stage = stages + current * kStage;
    P::multiply(sum, lane, stage, stage + kSecond);
    current = current == kStages - 1 ? 0 : current + 1;
  }
}

}  // namespace
