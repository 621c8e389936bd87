// Barriers, warp collectives and polling: where a thread waits for others, and the rules that it can break there.
#include <algorithm>

#include "block.hpp"
#include "memory.hpp"

namespace fs::emulator {
namespace {

// More atomic operations than this by one thread, with every other thread of its block run in between, and it is waiting for what will
// never come: blocks run to their ends one after another, and a kernel that needs another order may hang on a GPU as well.
constexpr uint32_t poll_limit = 1 << 16;

bool same_place(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && !strcmp(a.file_name(), b.file_name());
}

}  // namespace

// Threads need not come together here on a GPU. They do here because memory is opened for all of them at once.
void Executor::grid_wait(const Site& site) {
  Fiber& self = *running_;
  if (!launch_->overlaps || self.waited) return;
  self.state = State::at_grid_wait;
  self.site = site;
  self.polls = 0;
  if (++grid_waiting_ == live_) release_grid_wait();
  yield();
}

void Executor::release_grid_wait() {
  open_memory();
  for (uint32_t i = thread_count_; i-- > 0;) {
    Fiber& f = fibers_[i];
    if (f.state != State::at_grid_wait) continue;
    f.waited = true;
    f.state = State::ready;
    schedule_.wake(i);
  }
}

void Executor::block_sync(const Site& site) {
  Fiber& self = *running_;
  char* edge = &barrier_edge_[barriers_ & 1];
  self.state = State::at_barrier;
  self.site = site;
  self.polls = 0;
  race_release(edge);
  if (++waiting_ == live_) release_barrier();
  yield();
  race_acquire(edge);
}

void Executor::release_barrier() {
  const Fiber& first = fibers_[0];
  for (uint32_t i = 0; i < thread_count_; i++) {
    const Fiber& f = fibers_[i];
    if (f.state == State::finished) {
      abandon(FEWSTEP_EMU_EARLY_EXIT, "at barrier " + place(running_->site) + ", but thread " + std::to_string(i) + " left the kernel");
    }
    if (!same_place(f.site, first.site)) abandon(FEWSTEP_EMU_DIVERGENT_BARRIER, "divergent barrier: " + waiting_list());
  }
  waiting_ = 0;
  barriers_++;
  for (uint32_t i = 0; i < thread_count_; i++) fibers_[i].state = State::ready;
  schedule_.wake_all();
}

void Executor::check_agreement(const Warp& warp, uint32_t lanes) {
  const Fiber& self = *running_;
  const uint32_t base = self.linear / 32 * 32;
  for (uint32_t lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    const char* difference = nullptr;
    if (warp.work[lane] != warp.work[self.lane]) {
      difference = "a different operation";
    } else if (warp.lanes[lane] != lanes) {
      difference = "a different mask";
    } else if (warp.agreement[lane] == Agreement::place && !same_place(fibers_[base + lane].site, self.site)) {
      difference = "another place";
    }
    if (!difference) continue;
    abandon(FEWSTEP_EMU_MIXED_COLLECTIVE, "warp collective at " + place(self.site) + " meets lane " + std::to_string(lane) + " at " +
                                              place(fibers_[base + lane].site) + ": " + difference);
  }
}

void Executor::collective(uint32_t lanes, Collective operation, void* argument, Agreement agreement, const Site& site) {
  Fiber& self = *running_;
  Warp& warp = warps_[self.linear / 32];
  self.site = site;
  self.polls = 0;
  lanes &= warp.existing;  // a block's last warp may be short of lanes
  if (!(lanes >> self.lane & 1)) {
    abandon(FEWSTEP_EMU_ABSENT_LANE,
            "warp collective at " + place(site) + ": lane " + std::to_string(self.lane) + " is not in its own mask");
  }
  if (const uint32_t gone = lanes & ~warp.live) {
    abandon(FEWSTEP_EMU_EARLY_EXIT, "warp collective at " + place(site) + " waits for lane " + std::to_string(__builtin_ctz(gone)) +
                                        ", which has left the kernel");
  }
  warp.work[self.lane] = operation;
  warp.lanes[self.lane] = lanes;
  warp.agreement[self.lane] = agreement;
  warp.argument[self.lane] = argument;
  warp.arrived |= 1u << self.lane;
  char* edge = operation ? nullptr : &warp.race_edge[self.syncs++ & 1];  // shuffles and mma order no memory
  if (edge) race_release(edge);
  if ((warp.arrived & lanes) != lanes) {
    self.state = State::at_collective;
    yield();
  } else {
    check_agreement(warp, lanes);
    if (operation) operation(warp.argument, lanes, site);
    warp.arrived &= ~lanes;
    const uint32_t base = self.linear / 32 * 32;
    for (uint32_t lane = 32; lane-- > 0;) {
      if (!(lanes >> lane & 1) || lane == self.lane) continue;
      fibers_[base + lane].state = State::ready;
      schedule_.wake(base + lane);
    }
    if (schedule_.uniform()) {
      schedule_.wake(self.linear);
      yield();
    }
  }
  if (edge) race_acquire(edge);
}

void Executor::poll() {
  Fiber& self = *running_;
  if (++self.polls > poll_limit) {
    abandon(FEWSTEP_EMU_SPINNING, "polls memory with atomic operations and never waits at a barrier: no block may wait for another");
  }
  if (self.polls % 64) return;
  // Behind every other ready thread, so that one that it waits for within the block gets its turn.
  schedule_.wake_last(self.linear);
  yield();
}

// ---- shared memory

void* Executor::static_shared(const void* key, size_t bytes) {
  size_t total = bytes;
  StaticArray* array = nullptr;
  for (StaticArray& a : static_arrays_) {
    if (a.key == key) {
      if (a.used) return a.memory.data;
      array = &a;
    } else if (a.used) {
      total += a.memory.bytes;
    }
  }
  if (total + launch_->dynamic_shared > launch_->shared_limit) {
    abandon(FEWSTEP_EMU_BAD_LAUNCH, "uses " + std::to_string(total) + " bytes of static and " + std::to_string(launch_->dynamic_shared) +
                                        " of dynamic shared memory; the limit is " + std::to_string(launch_->shared_limit));
  }
  if (array) {
    array->memory.poison();
  } else {
    array = &static_arrays_.emplace_back(StaticArray{key, {}, false});
    if (!array->memory.map(bytes, 16, false)) {
      static_arrays_.pop_back();
      abandon(FEWSTEP_EMU_BAD_LAUNCH, "the host has no memory for a shared array");
    }
  }
  array->used = true;
  return array->memory.data;
}

bool Executor::is_shared(const void* p, size_t bytes) const {
  if (bytes <= dynamic_.bytes && dynamic_.contains(p, bytes)) return true;
  return std::any_of(static_arrays_.begin(), static_arrays_.end(),
                     [&](const StaticArray& a) { return a.used && a.memory.contains(p, bytes); });
}

// ---- what kernel.hpp declares

namespace {
/// A call from a kernel into the runtime.
struct Entry {
  Executor& executor = *Executor::of_this_thread();
  Fiber& self = executor.running();
  Quiet quiet{self.quiet};
};
}  // namespace

void grid_wait(const Site& site) { Entry().executor.grid_wait(site); }
void block_sync(const Site& site) { Entry().executor.block_sync(site); }
void collective(uint32_t lanes, Collective work, void* argument, Agreement agreement, const Site& site) {
  Entry().executor.collective(lanes, work, argument, agreement, site);
}
void poll() { Entry().executor.poll(); }
unsigned char* dynamic_shared() { return Entry().executor.dynamic_shared(); }
void* static_shared(const void* key, size_t bytes) { return Entry().executor.static_shared(key, bytes); }
bool is_shared(const void* p, size_t bytes) { return Entry().executor.is_shared(p, bytes); }
bool is_local(const void* p) {
  const char* stack = Entry().self.stack;
  return p >= stack && p < stack + stack_bytes;
}
bool copies_are_eager() { return Entry().executor.launch().config.copies == FEWSTEP_EMU_COPIES_EAGER; }

void push_copy(const Copy& copy) {
  const Entry entry;
  entry.self.copies.push_back(copy);
  entry.self.uncommitted++;
}

void commit_copies() {
  const Entry entry;
  entry.self.groups.push_back(std::exchange(entry.self.uncommitted, 0));
}

bool take_copy(int pending, Copy* copy) {
  const Entry entry;
  Fiber& self = entry.self;
  while (self.groups.size() > size_t(pending)) {
    size_t& oldest = self.groups.front();
    if (!oldest) {
      self.groups.erase(self.groups.begin());
      continue;
    }
    oldest--;
    *copy = self.copies.front();
    self.copies.erase(self.copies.begin());
    return true;
  }
  return false;
}

}  // namespace fs::emulator
