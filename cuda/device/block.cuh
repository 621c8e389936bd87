// What the threads of a block, and the blocks of a grid, agree on.
#pragma once
#include "kernel.cuh"

namespace fs {

/// Waits for all threads of the block and makes their writes visible to one another (barrier.sync.aligned). All threads must arrive
/// at the same barrier; none may have left the kernel.
FEWSTEP_DEVICE void sync_threads(FEWSTEP_SITE) { ptx::block_sync(FEWSTEP_HERE); }

/// Adds to *p and returns what was there; orders nothing else. Only on integers: their order does not change the result, a float's would.
FEWSTEP_DEVICE uint32_t atomic_add(uint32_t* p, uint32_t value) { return ptx::atomic_add(p, value); }
/// The same, and a message from those who add before to those who add later (atom.acq_rel.gpu): what this thread has written, and what its block has before
/// a barrier, is seen by whoever adds later, and by that one's block behind a barrier. So one thread orders the writes of all. A "last block" kernel
/// (parts/last_block.cuh): write a partial result; sync_threads(); let one thread add 1 to a counter; the block that gets grid - 1 back sums the partial
/// results, in their order, with load_l2(). No block may ever wait for another.
FEWSTEP_DEVICE uint32_t atomic_add_ordered(uint32_t* p, uint32_t value) { return ptx::atomic_add_ordered(p, value); }
/// Raises *p to at least `value` and returns what was there.
FEWSTEP_DEVICE uint32_t atomic_max(uint32_t* p, uint32_t value) { return ptx::atomic_max(p, value); }

/// Ends the launch with an error: for what the host should never have asked for.
FEWSTEP_DEVICE void trap(FEWSTEP_SITE) { ptx::trap(FEWSTEP_HERE); }

}  // namespace fs
