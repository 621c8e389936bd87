#include "schedule.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

namespace fs::emulator {
namespace {
constexpr uint64_t golden_ratio = 0x9e3779b97f4a7c15ull;  // spreads neighbouring seeds and counters over all bits
}

void Schedule::begin(uint64_t seed, uint64_t block, uint32_t threads) {
  seed_ = seed;
  threads_ = threads;
  if (seed) random_.seed(seed * golden_ratio + block);
  ready_.clear();
  ready_.reserve(threads);
  wake_all();
}

void Schedule::wake_all() {
  if (!seed_ || uniform()) {
    for (uint32_t thread = threads_; thread-- > 0;) ready_.push_back(thread);
    return;
  }
  warps_.resize((threads_ + 31) / 32);
  std::iota(warps_.begin(), warps_.end(), 0u);
  std::shuffle(warps_.begin(), warps_.end(), random_);
  for (const uint32_t warp : warps_) {
    const auto first = std::ptrdiff_t(ready_.size());
    for (uint32_t thread = warp * 32; thread < std::min(threads_, warp * 32 + 32); thread++) ready_.push_back(thread);
    std::shuffle(ready_.begin() + first, ready_.end(), random_);
  }
}

uint32_t Schedule::take() {
  if (uniform()) std::swap(ready_.back(), ready_[random_() % ready_.size()]);
  const uint32_t thread = ready_.back();
  ready_.pop_back();
  return thread;
}

uint64_t block_order(uint64_t seed, uint64_t i, uint64_t count) {
  if (!seed) return i;
  uint64_t stride = seed * golden_ratio % count;
  while (std::gcd(stride, count) != 1) stride++;
  return uint64_t(((unsigned __int128)i * stride + (seed ^ golden_ratio)) % count);
}

}  // namespace fs::emulator
