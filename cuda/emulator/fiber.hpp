// Stacks and the switch between them. A switch costs some nanoseconds: no system call, no signal mask.
//
// Sanitizers must be told of each switch; that is all in here. ThreadSanitizer builds define FEWSTEP_EMU_TSAN and leave these
// files uninstrumented (README.md says why).
#pragma once
#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define FEWSTEP_EMU_ASAN 1
#endif
// Other processors, and whoever wants to test what they get, take the C library's switch, with its two system calls.
#if !defined(__x86_64__) && !defined(__aarch64__) && !defined(FEWSTEP_EMU_UCONTEXT)
#define FEWSTEP_EMU_UCONTEXT 1
#endif
#if defined(FEWSTEP_EMU_UCONTEXT)
#include <ucontext.h>
#endif

namespace fs::emulator {

/// An execution that can be left and resumed: a fiber's, or the host thread's own.
class Context {
 public:
  /// The calling host thread's own execution.
  void adopt_thread();
  /// A new execution that begins with `entry()` on `stack` when first switched to. `entry` never returns.
  void prepare(char* stack, void (*entry)());
  /// Leaves `from`, which is running, for `to`. `forever`: `from` will not be resumed.
  static void switch_to(Context& from, Context& to, bool forever);
  /// Leaves behind what ThreadSanitizer knows of it: an execution that was left within a Quiet, for good, cannot be used again.
  void forget();
  /// To be called first in an `entry`.
  static void entered();
  ~Context();

 private:
  char* stack_ = nullptr;
  void* stack_pointer_ = nullptr;
  void* fake_stack_ = nullptr;
  void* race_fiber_ = nullptr;
  bool owns_race_fiber_ = false;
#if defined(FEWSTEP_EMU_UCONTEXT)
  ucontext_t ucontext_;
#endif
};

/// Bytes of a fiber's stack, above an unmapped page.
constexpr size_t stack_bytes = 256 << 10;
/// A new stack; null if there is no memory.
char* allocate_stack();
void free_stack(char* stack);

/// Happens-before edges for ThreadSanitizer, which is told that switches order nothing.
void race_release(void* edge);
void race_acquire(void* edge);

/// While it lives, ThreadSanitizer overlooks what the running fiber does: the runtime's own work, on memory that all fibers share.
class Quiet {
 public:
  /// `depth` belongs to the fiber.
  explicit Quiet(int& depth);
  ~Quiet();
  Quiet(const Quiet&) = delete;
  /// Ends all of a fiber's, which is never to be resumed.
  static void end(int& depth);

 private:
  int& depth_;
};

}  // namespace fs::emulator
