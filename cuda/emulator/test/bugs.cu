// Kernels with one planted bug each, and the right one beside it where they share code.
#include "fewstep.cuh"

namespace {
/// Sum over a block of up to 1024 threads. `red` has a float a warp.
template <bool MissingBarrier>
FEWSTEP_DEVICE float block_sum(float value, float* red) {
  value = fs::warp_sum(value);
  if (fs::lane() == 0) red[fs::warp()] = value;
  if (!MissingBarrier) fs::sync_threads();
  const uint32_t warps = fs::block_size().x / 32;
  return fs::warp_sum(fs::lane() < warps ? red[fs::lane()] : 0.f);
}
template <bool MissingBarrier>
FEWSTEP_DEVICE void sum(const float* x, float* out, uint32_t n) {
  FEWSTEP_SHARED(float, red, 32);
  float value = 0;
  for (uint32_t i = fs::thread_index().x; i < n; i += fs::block_size().x) value += x[i];
  value = block_sum<MissingBarrier>(value, red);
  if (fs::thread_index().x == 0) *out = value;
}
}  // namespace

// out = Σ x[0..n)
FEWSTEP_KERNEL(256, test_sum, const float* x, float* out, uint32_t n) { sum<false>(x, out, n); }
FEWSTEP_KERNEL(256, bug_missing_barrier, const float* x, float* out, uint32_t n) { sum<true>(x, out, n); }

// y is x reversed, by threads that wait for nothing: each has ended before the next begins, which orders nothing on a GPU.
FEWSTEP_KERNEL(64, bug_no_barrier, const float* x, float* y) {
  FEWSTEP_SHARED(float, values, 64);
  values[fs::thread_index().x] = x[fs::thread_index().x];
  y[fs::thread_index().x] = values[63 - fs::thread_index().x];
}

// Every block writes one element, of which the last to come stays.
FEWSTEP_KERNEL(64, bug_overlapping_blocks, float* y) {
  if (fs::thread_index().x == 0) y[0] = float(fs::this_block().index.x);
}

// y[i] = x[i + offset], one thread an element: the offset leads out of bounds
FEWSTEP_KERNEL(64, bug_read, const float* x, float* y, int offset) { y[fs::thread_index().x] = x[int(fs::thread_index().x) + offset]; }
FEWSTEP_KERNEL(64, bug_write, const float* x, float* y, int offset) { y[int(fs::thread_index().x) + offset] = x[fs::thread_index().x]; }
FEWSTEP_KERNEL(64, bug_shared_write, int offset) {
  FEWSTEP_DYNAMIC_SHARED(shared);
  shared[int(fs::thread_index().x) + offset] = 1;
}
FEWSTEP_KERNEL(64, bug_static_shared_read, int offset, float* out) {
  FEWSTEP_SHARED(float, values, 64);
  values[fs::thread_index().x] = 1;
  fs::sync_threads();
  *out = values[int(fs::thread_index().x) + offset];
}
FEWSTEP_KERNEL(64, bug_uninitialised_shared, float* out) {
  FEWSTEP_SHARED(float, values, 64);
  if (fs::thread_index().x != 7) values[fs::thread_index().x] = 1;
  fs::sync_threads();
  out[fs::thread_index().x] = values[fs::thread_index().x];
}

FEWSTEP_KERNEL(64, bug_divergent_barrier) {
  if (fs::warp()) {
    fs::sync_threads();
  } else {
    fs::sync_threads();
  }
}
FEWSTEP_KERNEL(64, bug_divergent_barrier_one_line) { fs::warp() ? fs::sync_threads() : fs::sync_threads(); }
FEWSTEP_KERNEL(64, bug_exit_before_barrier) {
  if (fs::thread_index().x >= 40) return;
  fs::sync_threads();
}
FEWSTEP_KERNEL(64, bug_exit_before_collective, uint32_t* out) {
  if (fs::lane() == 9) return;
  out[fs::thread_index().x] = fs::ballot(true);
}
// Warp 0 waits at the barrier for warp 1, of which half waits for the other half, which is at the barrier.
FEWSTEP_KERNEL(64, bug_deadlock) {
  if (fs::warp() && fs::lane() < 16) fs::sync_warp();
  fs::sync_threads();
}
FEWSTEP_KERNEL(32, bug_mixed_collective, uint32_t* out) {
  if (fs::lane() < 16) {
    out[fs::lane()] = fs::ballot(true);
  } else {
    out[fs::lane()] = fs::shuffle(1u, 3);
  }
}
FEWSTEP_KERNEL(32, bug_mixed_places, uint32_t* out) {
  FEWSTEP_SHARED(uint32_t, rows, 32);
  uint32_t r[1];
  if (fs::lane() < 16) {
    fs::load_matrix(r, rows);
  } else {
    fs::load_matrix(r, rows);
  }
  out[fs::lane()] = r[0];
}
FEWSTEP_KERNEL(32, bug_absent_lane, uint32_t* out) {
  if (fs::lane() < 16) out[fs::lane()] = fs::shuffle(1u, 20, 0xffffu);
}
FEWSTEP_KERNEL(32, bug_outside_mask, uint32_t* out) { out[fs::lane()] = fs::ballot(true, 0xffffu); }
FEWSTEP_KERNEL(48, bug_partial_warp_mma, float* out) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  fs::mma_f16(d, a, b);
  out[fs::thread_index().x] = d[0];
}

FEWSTEP_KERNEL(32, bug_misaligned_load, const float* x, float* out) {
  out[fs::lane()] = fs::bit_cast<float>(fs::load_16(x + fs::lane()).x);
}
FEWSTEP_KERNEL(32, bug_misaligned_ldmatrix, uint32_t* out) {
  FEWSTEP_SHARED(uint16_t, rows, 32 * 9);
  uint32_t r[4];
  fs::load_matrix(r, rows + fs::lane() * 9);
  out[fs::lane()] = r[0];
}
FEWSTEP_KERNEL(32, bug_ldmatrix_global, const uint32_t* x, uint32_t* out) {
  uint32_t r[4];
  fs::load_matrix(r, x);
  out[fs::lane()] = r[0];
}
FEWSTEP_KERNEL(32, bug_copy_to_global, const uint32_t* x, uint32_t* out) { fs::copy_async_16(out, x); }
FEWSTEP_KERNEL(32, bug_copy_from_shared, const uint32_t*, uint32_t*) {
  FEWSTEP_SHARED(uint32_t, rows, 8);
  fs::copy_async_16(rows, rows + 4);
}
// No bug: where nothing is read, the address means nothing. Convolutions have such addresses beyond the edges of an image.
FEWSTEP_KERNEL(32, copy_nothing_from_shared, const uint32_t*, uint32_t* out) {
  FEWSTEP_SHARED(uint32_t, rows, 32 * 8);
  uint32_t* own = rows + fs::lane() * 8;
  fs::copy_async_16(own, own + 4, 0);
  fs::copy_async_commit();
  fs::copy_async_wait<0>();
  out[fs::lane()] = own[0];
}
FEWSTEP_KERNEL(32, bug_misaligned_copy, const uint32_t* x, uint32_t*) {
  FEWSTEP_SHARED(uint32_t, rows, 8);
  fs::copy_async_16(rows, x + 1);
}
FEWSTEP_KERNEL(32, bug_too_much_shared, uint32_t* out) {
  FEWSTEP_DYNAMIC_SHARED(dynamic);
  FEWSTEP_SHARED(uint32_t, words, 2048);
  words[fs::lane()] = dynamic[fs::lane()];
  out[fs::lane()] = words[31 - fs::lane()];
}
FEWSTEP_KERNEL(32, bug_stack_overflow, float* out) {
  volatile float large[1 << 20];
  large[0] = 1;
  *out = large[0];
}
// Waits for a block that has not begun.
FEWSTEP_KERNEL(32, bug_waits_for_block, uint32_t* flag) {
  if (fs::this_block().index.x == 0) {
    while (!fs::atomic_add(flag, 0)) {
    }
  } else {
    fs::atomic_add(flag, 1);
  }
}

// Waiting within the block for another warp is allowed, if poor style. out = 32 · the first flag seen
FEWSTEP_KERNEL(64, test_waits_for_warp, uint32_t* flag, uint32_t* out) {
  if (fs::warp() == 0) {
    while (!fs::atomic_add(flag, 0)) {
    }
    fs::atomic_add(out, 1);
  } else {
    fs::atomic_add(flag, 1);
  }
}

// The last block to arrive sums what the others left: partial [blocks], counter starts at 0 and is left at 0.
FEWSTEP_KERNEL(64, test_last_block, const float* x, float* partial, uint32_t* counter, float* out, uint32_t n) {
  FEWSTEP_SHARED(float, red, 32);
  FEWSTEP_SHARED(uint32_t, last, 1);
  const uint32_t block = fs::this_block().index.x, blocks = fs::this_block().grid.x, thread = fs::thread_index().x;
  float value = 0;
  for (uint32_t i = block * 64 + thread; i < n; i += blocks * 64) value += x[i];
  value = block_sum<false>(value, red);
  if (thread == 0) {
    partial[block] = value;
    last[0] = fs::atomic_add_ordered(counter, 1) == blocks - 1;
  }
  fs::sync_threads();
  if (!last[0] || thread) return;
  float total = 0;
  for (uint32_t i = 0; i < blocks; i++) total += fs::load_l2(partial + i);
  *out = total;
  *counter = 0;
}
