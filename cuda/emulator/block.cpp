#include "block.hpp"

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>

#include "memory.hpp"

namespace fs::emulator {

constinit thread_local Thread* current __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {
constinit thread_local Executor* executor = nullptr;

std::string coordinates(const Index& i) {
  return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
}
}  // namespace

std::string place(const Site& site) {
  const char* file = strrchr(site.file_name(), '/');
  return std::string(file ? file + 1 : site.file_name()) + ":" + std::to_string(site.line()) + ":" + std::to_string(site.column());
}

void Launch::record(int32_t code, const std::string& text) {
  std::lock_guard lock(mutex);
  failed = true;
  if (error) return;
  error = code;
  message = std::string("kernel ") + kernel->name + text;
}

Executor* Executor::of_this_thread() { return executor; }

Executor::~Executor() {
  for (char* stack : free_stacks_) free_stack(stack);
  for (Fiber& fiber : fibers_) {
    if (fiber.stack) free_stack(fiber.stack);
  }
  for (StaticArray& array : static_arrays_) array.memory.unmap();
  dynamic_.unmap();
}

void Executor::work(Launch& launch, uint64_t index) {
  launch_ = &launch;
  executor = this;
  scheduler_.adopt_thread();
  const uint64_t count = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
  for (uint64_t round = 0; !launch.failed; round++) {
    const uint64_t i = Launch::fixed_shares ? round * launch.executors + index : launch.next_block++;
    if (i >= count) break;
    run(block_order(launch.config.seed, i, count));
  }
  executor = nullptr;
  launch_ = nullptr;
}

// ---- a block from start to end

void Executor::run(uint64_t block) {
  if (!begin_block(block)) return launch_->record(FEWSTEP_EMU_BAD_LAUNCH, ": the host has no memory for a block's threads");
  race_release(&begin_edge_);
  if (!sigsetjmp(on_fault_, 0)) {
    run_fibers();
  } else {
    const bool early = launch_->overlaps && !running_->waited && is_allocated(fault_address_);
    launch_->record(early ? FEWSTEP_EMU_EARLY_ACCESS : FEWSTEP_EMU_ILLEGAL_ADDRESS,
                    who() + ": " + (early ? "before fs::grid_wait(), " : "") + describe_fault(fault_address_));
    failed_ = true;
  }
  current = nullptr;
  running_ = nullptr;
  race_acquire(&end_edge_);
  end_block();
}

bool Executor::begin_block(uint64_t block) {
  const Launch& l = *launch_;
  block_index_ = {uint32_t(block % l.grid.x), uint32_t(block / l.grid.x % l.grid.y), uint32_t(block / l.grid.x / l.grid.y)};
  thread_count_ = live_ = l.block.x * l.block.y * l.block.z;
  waiting_ = grid_waiting_ = 0;
  failed_ = false;
  finished_ = nullptr;
  if (l.overlaps) close_memory();
  if (dynamic_.bytes != l.dynamic_shared || !dynamic_.mapping) {
    dynamic_.unmap();
    if (!dynamic_.map(l.dynamic_shared, 128, false)) return false;
  } else {
    dynamic_.poison();
  }
  for (StaticArray& array : static_arrays_) array.used = false;
  while (fibers_.size() < thread_count_) fibers_.emplace_back();
  warps_.assign((thread_count_ + 31) / 32, Warp{});
  for (uint32_t i = 0; i < thread_count_; i++) {
    Fiber& f = fibers_[i];
    f.thread = {i % l.block.x, i / l.block.x % l.block.y, i / l.block.x / l.block.y};
    f.block = block_index_;
    f.block_size = l.block;
    f.grid = l.grid;
    f.linear = i;
    f.lane = i % 32;
    f.architecture = l.config.architecture;
    f.polls = 0;
    f.state = State::ready;
    f.waited = false;
    f.syncs = 0;
    f.copies.clear();
    f.groups.clear();
    f.uncommitted = 0;
    warps_[i / 32].existing |= 1u << f.lane;
#if defined(FEWSTEP_EMU_TSAN)
    if (!prepare(f)) return false;  // one stack a thread: the race detector must not see two threads on one
#endif
  }
  for (Warp& warp : warps_) warp.live = warp.existing;
  schedule_.begin(l.config.seed, block, thread_count_);
  return true;
}

void Executor::run_fibers() {
  while (!failed_ && !schedule_.empty()) {
    resume(fibers_[schedule_.take()]);
#if !defined(FEWSTEP_EMU_TSAN)
    if (finished_) free_stacks_.push_back(std::exchange(finished_->stack, nullptr));  // the next thread finds it in the cache
#endif
    finished_ = nullptr;
  }
  if (live_ && !failed_) {
    launch_->record(FEWSTEP_EMU_DEADLOCK, " block " + coordinates(block_index_) + ": deadlock: " + waiting_list());
    failed_ = true;
  }
}

void Executor::end_block() {
#if !defined(FEWSTEP_EMU_TSAN)
  for (uint32_t i = 0; i < thread_count_; i++) {
    if (fibers_[i].stack) free_stacks_.push_back(std::exchange(fibers_[i].stack, nullptr));  // a failed block's
  }
#endif
  const auto check = [&](const Guarded& memory, const char* what) {
    const ptrdiff_t offset = memory.trespass();
    if (!offset || failed_) return false;
    launch_->record(FEWSTEP_EMU_OVERRUN, " block " + coordinates(block_index_) + ": something wrote at byte " + std::to_string(offset) +
                                             " of " + what + " of " + std::to_string(memory.bytes) + " bytes");
    return true;
  };
  if (check(dynamic_, "dynamic shared memory")) dynamic_.unmap();
  for (StaticArray& array : static_arrays_) {
    if (array.used && check(array.memory, "a shared array")) {
      array.memory.unmap();
      array.key = nullptr;
    }
  }
}

// ---- fibers

bool Executor::prepare(Fiber& fiber) {
  if (std::exchange(fiber.quiet, 0)) {  // its block failed while it waited
    fiber.context.forget();
    if (fiber.stack) free_stack(std::exchange(fiber.stack, nullptr));  // ThreadSanitizer remembers who wrote there
  }
  if (!fiber.stack) {
    if (free_stacks_.empty()) {
      fiber.stack = allocate_stack();
    } else {
      fiber.stack = free_stacks_.back();
      free_stacks_.pop_back();
    }
  }
  if (fiber.stack) fiber.context.prepare(fiber.stack, fiber_entry);
  return fiber.stack;
}

// Switches from the scheduler to a fiber; comes back when one has finished, failed, or nothing is ready.
void Executor::resume(Fiber& fiber) {
  if (!fiber.stack && !prepare(fiber)) {
    launch_->record(FEWSTEP_EMU_BAD_LAUNCH, ": the host has no memory for a thread's stack");
    failed_ = true;
    return;
  }
  running_ = &fiber;
  current = &fiber;
  Context::switch_to(scheduler_, fiber.context, false);
}

// Leaves the running fiber for another ready one, or for the scheduler.
void Executor::yield() {
  Fiber& self = *running_;
  Context* next = &scheduler_;
  if (!schedule_.empty()) {
    Fiber& fiber = fibers_[schedule_.take()];
    if (&fiber == &self) return;
    if (fiber.stack || prepare(fiber)) {
      running_ = &fiber;
      current = &fiber;
      next = &fiber.context;
    } else {
      launch_->record(FEWSTEP_EMU_BAD_LAUNCH, ": the host has no memory for a thread's stack");
      failed_ = true;
    }
  }
  Context::switch_to(self.context, *next, false);
}

void Executor::fiber_entry() {
  Context::entered();
  Executor& self = *executor;
  race_acquire(&self.launch_->race_edge);
  race_acquire(&self.begin_edge_);
  self.launch_->kernel->call(self.launch_->parameters);
  race_release(&self.end_edge_);
  self.finish();
}

void Executor::finish() {
  Fiber& self = *running_;
  const Quiet quiet(self.quiet);
  if (launch_->overlaps && !self.waited) {
    abandon(FEWSTEP_EMU_NO_GRID_WAIT, "ends without fs::grid_wait(): the launch behind would not know that the one before has ended");
  }
  Warp& warp = warps_[self.linear / 32];
  self.state = State::finished;
  live_--;
  warp.live &= ~(1u << self.lane);
  for (int lane = 0; lane < 32; lane++) {
    if ((warp.arrived >> lane & 1) && (warp.lanes[lane] >> self.lane & 1)) {
      abandon(FEWSTEP_EMU_EARLY_EXIT, "left the kernel, but lane " + std::to_string(lane) + " waits for it at " +
                                          place(fibers_[self.linear / 32 * 32 + uint32_t(lane)].site));
    }
  }
  if (waiting_ && waiting_ == live_) abandon(FEWSTEP_EMU_EARLY_EXIT, "left the kernel while others wait: " + waiting_list());
  finished_ = &self;
  Quiet::end(self.quiet);
  Context::switch_to(self.context, scheduler_, true);
  abort();
}

void Executor::abandon(int32_t error, const std::string& what) {
  launch_->record(error, who() + ": " + what);
  failed_ = true;
  Quiet::end(running_->quiet);
  Context::switch_to(running_->context, scheduler_, true);
  abort();
}

void Executor::faulted(const void* address, const char* access) {
  fault_address_ = address;
  fault_access_ = access;
  siglongjmp(on_fault_, 1);
}

// ---- messages

std::string Executor::who() const { return " block " + coordinates(block_index_) + " thread " + coordinates(running_->thread); }

std::string Executor::waiting_list() const {
  struct Group {
    std::string where;
    uint32_t first, count;
  };
  std::vector<Group> groups;
  for (uint32_t i = 0; i < thread_count_; i++) {
    const Fiber& f = fibers_[i];
    if (f.state == State::ready || f.state == State::finished) continue;
    const char* what = f.state == State::at_barrier ? "barrier " : f.state == State::at_collective ? "warp collective " : "grid wait ";
    std::string where = what + place(f.site);
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.where == where; });
    if (same == groups.end()) {
      groups.push_back({std::move(where), i, 1});
    } else {
      same->count++;
    }
  }
  std::string list;
  for (const Group& g : groups) {
    if (!list.empty()) list += "; ";
    list += std::to_string(g.count) + " threads (the first is " + std::to_string(g.first) + ") at " + g.where;
  }
  return list;
}

std::string Executor::describe_fault(const void* address) const {
  std::string text = fault_access_;
  if (running_->stack && address < running_->stack && address >= running_->stack - 65536) return text + " below the thread's stack";
  const auto in = [&](const Guarded& memory, const char* what) {
    text += " at byte " + std::to_string(static_cast<const char*>(address) - memory.data) + " of " + what + " of " +
            std::to_string(memory.bytes) + " bytes";
    return text;
  };
  if (dynamic_.near(address)) return in(dynamic_, "dynamic shared memory");
  for (const StaticArray& array : static_arrays_) {
    if (array.key && array.memory.near(address)) return in(array.memory, "a shared array");
  }
  char number[32];
  snprintf(number, sizeof number, " of %p, ", address);
  return text + number + describe_address(address);
}

}  // namespace fs::emulator
