// A launch that begins before the one before it has ended, on sm_90 and later (CUDA C++ Programming Guide, "Programmatic Dependent Launch"; PTX ISA,
// griddepcontrol). The host allows it for each launch; where it does not, and on older GPUs, both functions do nothing.
//
// Rules, which the emulator enforces (README.md there, "overlapping launches"):
// - Every thread waits before it ends. A launch counts as done for the one behind when it has ended: had it not waited for the one before, nobody would have.
// - Before the wait nothing is written, since the launch before may still read it, and only what no launch of the chain writes is read: frozen weights, say.
// - Kernels with nothing to do before the wait begin with fs::begin(), which is all that they need know of this.
#pragma once
#include "kernel.cuh"

namespace fs {

/// Waits until the launch before this one has ended and all that it wrote is visible (griddepcontrol.wait).
FEWSTEP_DEVICE void grid_wait(FEWSTEP_SITE) {
  if (FEWSTEP_SM(90)) ptx::grid_wait(FEWSTEP_HERE);
}
/// Lets the launch behind this one begin, once all blocks have come here or ended (griddepcontrol.launch_dependents). It publishes nothing: that is what the
/// other's wait is for.
FEWSTEP_DEVICE void grid_launch() {
  if (FEWSTEP_SM(90)) ptx::grid_launch();
}

/// What a kernel begins with: waits for the launch before, lets the one behind begin, and says which block this is.
FEWSTEP_DEVICE Block begin(FEWSTEP_SITE) {
  grid_wait(FEWSTEP_HERE);
  grid_launch();
  return this_block();
}

}  // namespace fs
