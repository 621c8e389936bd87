// Copies from global to shared memory that run beside arithmetic (cp.async, sm_80 and later; on sm_75 a copy through a register).
// PTX ISA: "Data Movement and Conversion Instructions: Asynchronous copy", cp.async, cp.async.commit_group, cp.async.wait_group.
//
// A pipeline: copy, commit; ... copy_async_wait<N>() leaves at most the N newest committed groups under way. It speaks only of the
// calling thread's own copies: sync_threads() must follow before another thread reads them, and another before they are overwritten.
#pragma once
#include "block.cuh"
#include "vector.cuh"

namespace fs {

/// Starts copying `bytes` (0 to 16) from global memory to 16 bytes of shared memory; the rest becomes zero. Both addresses are 16-byte
/// aligned. With 0 bytes the source is not read: in halos and ragged edges it may lie outside of the tensor.
FEWSTEP_DEVICE void copy_async_16(void* shared, const void* global, uint32_t bytes = 16 FEWSTEP_AND_SITE) {
  if (FEWSTEP_SM(80)) {
    ptx::copy_async_16(shared, global, bytes FEWSTEP_AND_HERE);
    return;
  }
  u32x4 value = {0, 0, 0, 0};
  if (bytes == 16) {
    value = load_16(global FEWSTEP_AND_HERE);
  } else if (bytes) {
    uint32_t words[4] = {0, 0, 0, 0};
    FEWSTEP_UNROLL
    for (uint32_t i = 0; i < 15; i++) {
      if (i < bytes) words[i / 4] |= uint32_t(static_cast<const uint8_t*>(global)[i]) << i % 4 * 8;
    }
    value = {words[0], words[1], words[2], words[3]};
  }
  store_16(shared, value FEWSTEP_AND_HERE);
}

/// Closes a group: all copies that this thread started since the last one. An empty group counts too.
FEWSTEP_DEVICE void copy_async_commit() {
  if (FEWSTEP_SM(80)) ptx::copy_async_commit();
}

/// Waits until at most the `Pending` newest groups of this thread are unfinished.
template <int Pending>
FEWSTEP_DEVICE void copy_async_wait() {
  if (FEWSTEP_SM(80)) ptx::copy_async_wait<Pending>();
}

}  // namespace fs
