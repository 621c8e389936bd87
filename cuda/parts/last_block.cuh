// Which of several blocks comes last: it joins what all have written, in a fixed order, so that a sum needs neither a second launch nor atomics on floats.
#pragma once
#include "device/fewstep.cuh"

namespace {

// True in the last of `count` blocks to come here: then it sees what the others have written. `counter` is zero before and after.
FEWSTEP_DEVICE bool is_last(uint32_t* counter, int count) {
  FEWSTEP_SHARED(uint32_t, arrived, 1);
  fs::sync_threads();
  if (fs::thread_index().x == 0) {
    arrived[0] = fs::atomic_add_ordered(counter, 1) + 1;
    if (arrived[0] == uint32_t(count)) *counter = 0;  // for the next launch
  }
  fs::sync_threads();
  return arrived[0] == uint32_t(count);
}

}  // namespace
