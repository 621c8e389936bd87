// A chain of launches that may overlap, as it should be and broken.
#include "fewstep.cuh"

namespace {

enum class Bug { none, reads, writes, no_wait, one_leaves, divides_barrier };

// y[i] = x[i] * w, by blocks of 64 threads. w is fetched before the wait, which is what a launch before the other's end is for.
template <Bug bug>
FEWSTEP_DEVICE void scale(const fs::Block& block, const float* x, const float* w, float* y) {
  const int64_t i = fs::thread_in_grid(block, 64);
  const float factor = *w;
  float early = 0;
  if (bug == Bug::reads) early = x[i];
  if (bug == Bug::writes) y[i] = 0;
  if (bug == Bug::no_wait || (bug == Bug::one_leaves && fs::thread_index().x == 63)) return;
  if (bug == Bug::divides_barrier && fs::warp() == 0) fs::sync_threads();
  fs::grid_wait();
  fs::grid_launch();
  if (bug == Bug::divides_barrier && fs::warp() != 0) fs::sync_threads();
  y[i] = (bug == Bug::reads ? early : x[i]) * factor;
}

}  // namespace

FEWSTEP_KERNEL(64, grid_scale, const float* x, const float* w, float* y) { scale<Bug::none>(fs::this_block(), x, w, y); }
FEWSTEP_KERNEL(64, grid_copy, const float* x, float* y) {
  const int64_t i = fs::thread_in_grid(fs::begin(), 64);
  y[i] = x[i];
}
FEWSTEP_KERNEL(64, bug_reads_before_grid_wait, const float* x, const float* w, float* y) { scale<Bug::reads>(fs::this_block(), x, w, y); }
FEWSTEP_KERNEL(64, bug_writes_before_grid_wait, const float* x, const float* w, float* y) { scale<Bug::writes>(fs::this_block(), x, w, y); }
FEWSTEP_KERNEL(64, bug_no_grid_wait, const float* x, const float* w, float* y) { scale<Bug::no_wait>(fs::this_block(), x, w, y); }
FEWSTEP_KERNEL(64, bug_leaves_before_grid_wait, const float* x, const float* w, float* y) { scale<Bug::one_leaves>(fs::this_block(), x, w, y); }
FEWSTEP_KERNEL(64, bug_barrier_and_grid_wait, const float* x, const float* w, float* y) { scale<Bug::divides_barrier>(fs::this_block(), x, w, y); }
