// Runs one block at a time: its threads as fibers on one host thread, its barriers, its warps.
#pragma once
#include <setjmp.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fiber.hpp"
#include "guarded.hpp"
#include "kernel.hpp"
#include "schedule.hpp"

namespace fs::emulator {

/// What all blocks of a launch share.
struct Launch {
  const KernelEntry* kernel;
  void* const* parameters;
  Index grid, block;
  uint32_t dynamic_shared, shared_limit;
  fewstep_emu_config config;
  bool overlaps;  // the launch before may not have ended
#if defined(FEWSTEP_EMU_TSAN)
  // Every n-th block for a host thread: its blocks count as ordered, so neighbours must not be on one, whoever is faster.
  static constexpr bool fixed_shares = true;
#else
  static constexpr bool fixed_shares = false;
#endif
  uint64_t executors = 1;
  std::atomic<uint64_t> next_block{0};  // without fixed shares
  std::atomic<bool> failed{false};
  std::mutex mutex;
  int32_t error = FEWSTEP_EMU_OK;  // of the first failure, under the mutex
  std::string message;
  char race_edge = 0;

  void record(int32_t code, const std::string& text);
};

enum class State : uint8_t { ready, at_barrier, at_collective, at_grid_wait, finished };

/// A CUDA thread with its stack and where it waits.
struct Fiber : Thread {
  Context context;
  char* stack = nullptr;
  State state = State::ready;
  Site site;               // of the last wait
  int quiet = 0;           // how many Quiet are alive
  bool waited = false;     // for the launch before
  uint32_t syncs = 0;      // warp synchronisations so far: picks one of two race edges
  std::vector<Copy> copies;      // issued, not performed
  std::vector<size_t> groups;    // how many of them each committed group, oldest first, has
  size_t uncommitted = 0;
};

/// Lanes that have arrived at a collective, and what each brought.
struct Warp {
  uint32_t existing = 0, live = 0, arrived = 0;
  uint32_t lanes[32];
  Collective work[32];
  Agreement agreement[32];
  void* argument[32];
  char race_edge[2];
};

/// One host thread's executor. Stacks and arrays are kept from block to block.
class Executor {
 public:
  Executor() = default;
  Executor(const Executor&) = delete;
  ~Executor();
  /// Takes blocks of the launch until there are none, or one failed, as number `index` of its executors. Installs this executor for the calling thread
  /// meanwhile.
  void work(Launch& launch, uint64_t index);

  /// The one that the calling thread is working for; null outside work().
  static Executor* of_this_thread();

  // What kernel.hpp declares, for the running thread.
  void grid_wait(const Site& site);
  void block_sync(const Site& site);
  void collective(uint32_t lanes, Collective operation, void* argument, Agreement agreement, const Site& site);
  void poll();
  void* static_shared(const void* key, size_t bytes);
  bool is_shared(const void* p, size_t bytes) const;
  Fiber& running() { return *running_; }
  Launch& launch() { return *launch_; }
  /// Records the failure and leaves the running thread for good.
  [[noreturn]] void abandon(int32_t error, const std::string& what);
  /// From the signal handler: an access to `address` faulted in the running thread.
  [[noreturn]] void faulted(const void* address, const char* access);
  unsigned char* dynamic_shared() { return reinterpret_cast<unsigned char*>(dynamic_.data); }

 private:
  struct StaticArray {
    const void* key;
    Guarded memory;
    bool used;  // by the current block
  };
  void run(uint64_t block);
  bool begin_block(uint64_t block);
  void run_fibers();
  void end_block();
  static void fiber_entry();
  void finish();
  bool prepare(Fiber& fiber);
  void resume(Fiber& fiber);
  void yield();
  void release_barrier();
  void release_grid_wait();
  void check_agreement(const Warp& warp, uint32_t lanes);
  std::string who() const;
  std::string waiting_list() const;
  std::string describe_fault(const void* address) const;

  Launch* launch_ = nullptr;
  Index block_index_{};
  uint32_t thread_count_ = 0, live_ = 0, waiting_ = 0, barriers_ = 0, grid_waiting_ = 0;
  bool failed_ = false;
  Fiber* running_ = nullptr;
  Fiber* finished_ = nullptr;  // whose stack can be reused
  Context scheduler_;
  Schedule schedule_;
  std::deque<Fiber> fibers_;  // never moved; the first thread_count_ are in use
  std::vector<Warp> warps_;
  std::vector<char*> free_stacks_;
  std::vector<StaticArray> static_arrays_;
  Guarded dynamic_;
  // Two for a block: with one, a thread that begins late would follow those that have ended, and the race detector would see no race between them.
  char barrier_edge_[2] = {}, begin_edge_ = 0, end_edge_ = 0;
  sigjmp_buf on_fault_;
  const void* fault_address_ = nullptr;
  const char* fault_access_ = nullptr;
};

/// "file.cu:12:3", without folders.
std::string place(const Site& site);

}  // namespace fs::emulator
