// The order in which threads that could run do run. Deterministic: a function of the seed and the block's number.
#pragma once
#include <stdint.h>

#include <random>
#include <vector>

namespace fs::emulator {

/// Threads of one block that are ready, and the choice among them.
///
/// Seed 0 takes them in order; an even seed takes whole warps, in a shuffled order of warps and lanes; both go depth first: a warp
/// that can go on does, up to its next barrier, so that warps drift as far apart as barriers let them. An odd seed takes any ready
/// thread at each choice, which keeps warps level and mixes lanes. Each finds bugs that the other does not.
class Schedule {
 public:
  void begin(uint64_t seed, uint64_t block, uint32_t threads);
  /// Makes all threads of the block ready, at its start and after a barrier.
  void wake_all();
  void wake(uint32_t thread) { ready_.push_back(thread); }
  /// Ready, but to be taken when no other is (odd seeds: whenever).
  void wake_last(uint32_t thread) { ready_.insert(ready_.begin(), thread); }
  bool empty() const { return ready_.empty(); }
  /// The next thread to run; it is no longer ready. Not when empty.
  uint32_t take();
  /// May a thread that could go on be made to wait for others at a collective?
  bool uniform() const { return seed_ & 1; }

 private:
  uint64_t seed_ = 0;
  uint32_t threads_ = 0;
  std::mt19937_64 random_;
  std::vector<uint32_t> ready_;  // the last one is taken first
  std::vector<uint32_t> warps_;
};

/// The i-th block to run of `count`: a permutation that needs no memory. Seed 0 keeps the order.
uint64_t block_order(uint64_t seed, uint64_t i, uint64_t count);

}  // namespace fs::emulator
