#include "fiber.hpp"

#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(FEWSTEP_EMU_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(FEWSTEP_EMU_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {  // in the sanitizer's library, in none of its headers
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

// fewstep_emu_switch(void** save, void* load): pushes the callee-saved registers, stores the stack pointer in *save, takes `load` as the
// stack pointer and pops. The floating-point control words are not saved: kernels do not change them.
#if defined(FEWSTEP_EMU_UCONTEXT)
#elif defined(__x86_64__)
extern "C" void fewstep_emu_switch(void** save, void* load);
asm(R"(.text
.globl fewstep_emu_switch
.hidden fewstep_emu_switch
.type fewstep_emu_switch,@function
fewstep_emu_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size fewstep_emu_switch,.-fewstep_emu_switch
)");
#elif defined(__aarch64__)
extern "C" void fewstep_emu_switch(void** save, void* load);
asm(R"(.text
.globl fewstep_emu_switch
.hidden fewstep_emu_switch
.type fewstep_emu_switch,%function
fewstep_emu_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size fewstep_emu_switch,.-fewstep_emu_switch
)");
#endif

namespace fs::emulator {

void Context::adopt_thread() {
  pthread_attr_t attributes;
  void* lowest = nullptr;
  size_t bytes = 0;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &lowest, &bytes);
  pthread_attr_destroy(&attributes);
  stack_ = static_cast<char*>(lowest) + bytes - stack_bytes;  // AddressSanitizer asks for the part that is in use
#if defined(FEWSTEP_EMU_TSAN)
  race_fiber_ = __tsan_get_current_fiber();
#endif
}

void Context::prepare(char* stack, void (*entry)()) {
  stack_ = stack;
#if defined(FEWSTEP_EMU_ASAN)
  __asan_unpoison_memory_region(stack, stack_bytes);
#endif
#if defined(FEWSTEP_EMU_TSAN)
  if (!race_fiber_) race_fiber_ = __tsan_create_fiber(0);
  owns_race_fiber_ = true;
#endif
#if defined(FEWSTEP_EMU_UCONTEXT)
  getcontext(&ucontext_);
  ucontext_.uc_stack.ss_sp = stack;
  ucontext_.uc_stack.ss_size = stack_bytes;
  ucontext_.uc_link = nullptr;
  makecontext(&ucontext_, entry, 0);
#elif defined(__x86_64__)
  void** top = reinterpret_cast<void**>(stack + stack_bytes);
  *--top = nullptr;  // so that the entry sees the stack as after a call: 8 below a multiple of 16
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  stack_pointer_ = top;
#elif defined(__aarch64__)
  void** frame = reinterpret_cast<void**>(stack + stack_bytes) - 20;
  for (int i = 0; i < 20; i++) frame[i] = nullptr;
  frame[11] = reinterpret_cast<void*>(entry);  // x30
  stack_pointer_ = frame;
#endif
}

void Context::switch_to(Context& from, Context& to, [[maybe_unused]] bool forever) {
#if defined(FEWSTEP_EMU_ASAN)
  __sanitizer_start_switch_fiber(forever ? nullptr : &from.fake_stack_, to.stack_, stack_bytes);
#endif
#if defined(FEWSTEP_EMU_TSAN)
  __tsan_switch_to_fiber(to.race_fiber_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(FEWSTEP_EMU_UCONTEXT)
  swapcontext(&from.ucontext_, &to.ucontext_);
#else
  fewstep_emu_switch(&from.stack_pointer_, to.stack_pointer_);
#endif
#if defined(FEWSTEP_EMU_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack_, nullptr, nullptr);
#endif
}

void Context::entered() {
#if defined(FEWSTEP_EMU_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void Context::forget() {
  race_fiber_ = nullptr;  // leaked: it could not be destroyed either
  owns_race_fiber_ = false;
}

Context::~Context() {
#if defined(FEWSTEP_EMU_TSAN)
  if (owns_race_fiber_) __tsan_destroy_fiber(race_fiber_);
#endif
}

char* allocate_stack() {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, stack_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  mprotect(memory, page, PROT_NONE);
  return static_cast<char*>(memory) + page;
}

void free_stack(char* stack) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
#if defined(FEWSTEP_EMU_ASAN)
  __asan_unpoison_memory_region(stack, stack_bytes);  // the shadow outlives the mapping
#endif
  munmap(stack - page, stack_bytes + page);
}

void race_release([[maybe_unused]] void* edge) {
#if defined(FEWSTEP_EMU_TSAN)
  __tsan_release(edge);
#endif
}

void race_acquire([[maybe_unused]] void* edge) {
#if defined(FEWSTEP_EMU_TSAN)
  __tsan_acquire(edge);
#endif
}

Quiet::Quiet(int& depth) : depth_(depth) {
  depth_++;
#if defined(FEWSTEP_EMU_TSAN)
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
}

Quiet::~Quiet() {
  depth_--;
#if defined(FEWSTEP_EMU_TSAN)
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
#endif
}

void Quiet::end(int& depth) {
  for (; depth > 0; depth--) {
#if defined(FEWSTEP_EMU_TSAN)
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
#endif
  }
}

}  // namespace fs::emulator
