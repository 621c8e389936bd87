// The list of kernels, and a launch: checks, host threads, errors.
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <thread>

#include "block.hpp"
#include "memory.hpp"
#if defined(__x86_64__)
#include <ucontext.h>
#endif

struct fewstep_emu_kernel {
  fs::emulator::KernelEntry entry;
};

namespace fs::emulator {
namespace {

constexpr uint32_t default_shared_limit = 48 << 10;

std::map<std::string_view, fewstep_emu_kernel>& kernels() {
  static auto& list = *new std::map<std::string_view, fewstep_emu_kernel>;  // filled before main, read until the very end
  return list;
}

std::mutex config_mutex;
fewstep_emu_config config{0, FEWSTEP_EMU_COPIES_LAZY, FEWSTEP_EMU_GUARD_OVERRUN, 80, 0};

std::mutex launch_mutex;  // also of the signal actions and of `idle`
std::vector<std::unique_ptr<Executor>>& idle() {
  static auto& list = *new std::vector<std::unique_ptr<Executor>>;
  return list;
}

std::mutex error_mutex;
std::string last_error;
int32_t report(int32_t error, const std::string& message) {
  std::lock_guard lock(error_mutex);
  if (error) last_error = message;
  return error;
}

// ---- an access that faults becomes an error of its launch; any other goes to whoever handled it before

struct sigaction previous_segv, previous_bus;

const char* access_kind([[maybe_unused]] void* context) {
#if defined(__x86_64__)
  return static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2 ? "write" : "read";
#else
  return "access";
#endif
}

[[maybe_unused]] void on_fault(int signal, siginfo_t* info, void* context) {
  if (Executor* executor = Executor::of_this_thread(); executor && current) {
    if (first_write(info->si_addr)) return;
    executor->faulted(info->si_addr, access_kind(context));
  }
  sigaction(signal, signal == SIGBUS ? &previous_bus : &previous_segv, nullptr);  // the instruction is tried again
}

/// Routes faults to the executors while it lives. Under a sanitizer they go to it: it prints a stack, and ends the process.
class FaultRoute {
 public:
  FaultRoute() {
#if !defined(FEWSTEP_EMU_ASAN) && !defined(FEWSTEP_EMU_TSAN)
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // left by a long jump
    sigaction(SIGSEGV, &action, &previous_segv);
    sigaction(SIGBUS, &action, &previous_bus);
#endif
  }
  ~FaultRoute() {
#if !defined(FEWSTEP_EMU_ASAN) && !defined(FEWSTEP_EMU_TSAN)
    sigaction(SIGSEGV, &previous_segv, nullptr);
    sigaction(SIGBUS, &previous_bus, nullptr);
#endif
  }
};

/// A stack for the signal handler: a fiber's own may be what overflowed.
class SignalStack {
 public:
  SignalStack() : memory_(64 << 10) {
    stack_t stack{};
    stack.ss_sp = memory_.data();
    stack.ss_size = memory_.size();
    sigaltstack(&stack, &previous_);
  }
  ~SignalStack() { sigaltstack(&previous_, nullptr); }

 private:
  std::vector<char> memory_;
  stack_t previous_{};
};

// ---- a launch

std::string check(const KernelEntry& kernel, const fewstep_emu_shape& shape) {
  const auto& [grid, block, dynamic_shared, shared_limit, overlaps] = shape;
  const uint64_t threads = uint64_t(block[0]) * block[1] * block[2];
  if (!grid[0] || !grid[1] || !grid[2] || grid[0] > INT_MAX || grid[1] > 65535 || grid[2] > 65535) return "impossible grid";
  if (!threads || block[0] > 1024 || block[1] > 1024 || block[2] > 64 || threads > 1024) return "impossible block";
  if (threads > kernel.max_threads) {
    return std::to_string(threads) + " threads a block, declared with at most " + std::to_string(kernel.max_threads);
  }
  if (dynamic_shared > (shared_limit ? shared_limit : default_shared_limit)) {
    return std::to_string(dynamic_shared) + " bytes of dynamic shared memory are over the limit";
  }
  return {};
}

void run(Launch& launch, std::vector<std::unique_ptr<Executor>>& executors) {
  FaultRoute route;
  const auto work = [&](size_t i) {
    SignalStack stack;
    executors[i]->work(launch, i);
  };
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < executors.size(); i++) helpers.emplace_back(work, i);
  work(0);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace

void register_kernel(const KernelEntry& entry) { kernels().emplace(entry.name, fewstep_emu_kernel{entry}); }

void fail(fewstep_emu_error error, const Site& site, const char* format, ...) {
  Executor& executor = *Executor::of_this_thread();
  const Quiet quiet(executor.running().quiet);
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  executor.abandon(error, place(site) + ": " + text);
}

}  // namespace fs::emulator

using namespace fs::emulator;

fewstep_emu_config fewstep_emu_get_config(void) {
  std::lock_guard lock(config_mutex);
  return config;
}

void fewstep_emu_set_config(const fewstep_emu_config* changed) {
  std::lock_guard lock(config_mutex);
  config = *changed;
}

const fewstep_emu_kernel* fewstep_emu_find(const char* name) {
  const auto found = kernels().find(name);
  return found == kernels().end() ? nullptr : &found->second;
}
const fewstep_emu_kernel* fewstep_emu_kernel_at(size_t index) {
  return index < kernels().size() ? &std::next(kernels().begin(), ptrdiff_t(index))->second : nullptr;
}
const char* fewstep_emu_kernel_name(const fewstep_emu_kernel* kernel) { return kernel->entry.name; }
uint32_t fewstep_emu_kernel_max_threads(const fewstep_emu_kernel* kernel) { return kernel->entry.max_threads; }
size_t fewstep_emu_parameter_count(const fewstep_emu_kernel* kernel) { return kernel->entry.parameter_count; }
size_t fewstep_emu_parameter_size(const fewstep_emu_kernel* kernel, size_t index) {
  return index < kernel->entry.parameter_count ? kernel->entry.parameter_sizes[index] : 0;
}

int32_t fewstep_emu_launch(const fewstep_emu_kernel* kernel, const fewstep_emu_shape* shape, void* const* parameters) {
  if (const std::string problem = check(kernel->entry, *shape); !problem.empty()) {
    return report(FEWSTEP_EMU_BAD_LAUNCH, std::string("kernel ") + kernel->entry.name + ": " + problem);
  }
  Launch launch;
  launch.kernel = &kernel->entry;
  launch.parameters = parameters;
  launch.grid = {shape->grid[0], shape->grid[1], shape->grid[2]};
  launch.block = {shape->block[0], shape->block[1], shape->block[2]};
  launch.dynamic_shared = shape->dynamic_shared;
  launch.shared_limit = shape->shared_limit ? shape->shared_limit : default_shared_limit;
  launch.config = fewstep_emu_get_config();
  const bool may_overlap = launch.config.architecture >= 90;
  launch.overlaps = may_overlap && shape->overlaps;

  std::lock_guard lock(launch_mutex);
  const uint64_t blocks = uint64_t(shape->grid[0]) * shape->grid[1] * shape->grid[2];
  const uint64_t least = Launch::fixed_shares ? 2 : 1;
  uint64_t threads = launch.config.threads > 0 ? uint64_t(launch.config.threads) : std::max<uint64_t>(least, std::thread::hardware_concurrency());
  if (launch.overlaps && watches_writes) threads = 1;  // memory is closed to one block at a time
  std::vector<std::unique_ptr<Executor>> executors;
  for (uint64_t i = 0; i < std::min(threads, blocks); i++) {
    if (idle().empty()) idle().push_back(std::make_unique<Executor>());
    executors.push_back(std::move(idle().back()));
    idle().pop_back();
  }
  launch.executors = executors.size();
  race_release(&launch.race_edge);
  if (may_overlap) begin_launch(launch.overlaps);
  run(launch, executors);
  if (may_overlap) end_launch();
  for (auto& executor : executors) idle().push_back(std::move(executor));
  if (!launch.error) {
    if (const std::string overrun = find_overrun(); !overrun.empty()) {
      launch.record(FEWSTEP_EMU_OVERRUN, ": " + overrun);
    }
  }
  return report(launch.error, launch.message);
}

const char* fewstep_emu_last_error(void) {
  thread_local std::string copy;
  std::lock_guard lock(error_mutex);
  copy = last_error;
  return copy.c_str();
}

const char* fewstep_emu_error_name(int32_t error) {
  switch (error) {
    case FEWSTEP_EMU_OK: return "ok";
    case FEWSTEP_EMU_BAD_LAUNCH: return "bad launch";
    case FEWSTEP_EMU_ILLEGAL_ADDRESS: return "illegal address";
    case FEWSTEP_EMU_OVERRUN: return "overrun";
    case FEWSTEP_EMU_MISALIGNED: return "misaligned";
    case FEWSTEP_EMU_WRONG_SPACE: return "wrong space";
    case FEWSTEP_EMU_DIVERGENT_BARRIER: return "divergent barrier";
    case FEWSTEP_EMU_EARLY_EXIT: return "early exit";
    case FEWSTEP_EMU_DEADLOCK: return "deadlock";
    case FEWSTEP_EMU_MIXED_COLLECTIVE: return "mixed collective";
    case FEWSTEP_EMU_ABSENT_LANE: return "absent lane";
    case FEWSTEP_EMU_UNSUPPORTED_INSTRUCTION: return "unsupported instruction";
    case FEWSTEP_EMU_SPINNING: return "spinning";
    case FEWSTEP_EMU_TRAP: return "trap";
    case FEWSTEP_EMU_EARLY_ACCESS: return "early access";
    case FEWSTEP_EMU_NO_GRID_WAIT: return "no grid wait";
    default: return "unknown";
  }
}
