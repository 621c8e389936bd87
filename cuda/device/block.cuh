// What the threads of a block, and the blocks of a grid, agree on.
#pragma once
#include "kernel.cuh"

namespace fs {

/// Waits for all threads of the block and makes their writes visible to one another (barrier.sync.aligned). All threads must arrive
/// at the same barrier; none may have left the kernel.
FEWSTEP_DEVICE void sync_threads(FEWSTEP_SITE) { ptx::block_sync(FEWSTEP_HERE); }

/// This thread's earlier writes are seen by every other thread of the device before its later ones (fence.acq_rel.gpu).
FEWSTEP_DEVICE void thread_fence() { ptx::thread_fence(); }

/// Adds to *p and returns what was there. Only on integers: their order does not change the result, a float's would.
/// A "last block" kernel: write a partial result; thread_fence(); let one thread add 1 to a counter; the block that reads back
/// grid - 1 sums the partial results, in their order, with load_l2(). No block may ever wait for another.
FEWSTEP_DEVICE uint32_t atomic_add(uint32_t* p, uint32_t value) { return ptx::atomic_add(p, value); }
/// Raises *p to at least `value` and returns what was there.
FEWSTEP_DEVICE uint32_t atomic_max(uint32_t* p, uint32_t value) { return ptx::atomic_max(p, value); }

/// Ends the launch with an error: for what the host should never have asked for.
FEWSTEP_DEVICE void trap(FEWSTEP_SITE) { ptx::trap(FEWSTEP_HERE); }

}  // namespace fs
