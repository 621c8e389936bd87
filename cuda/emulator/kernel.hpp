// The g++ side of device/kernel.cuh: the FEWSTEP_ macros and what a kernel's code calls in the emulator's runtime.
//
// This header is compiled into kernels, which sanitizers instrument; the runtime is not always (README.md). So it holds no standard
// container: the linker could then merge an instrumented copy of its functions into the runtime.
#pragma once
#include <math.h>
#include <source_location>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <utility>

#include "emulator.h"

#define FEWSTEP_DEVICE static inline __attribute__((always_inline))
#define FEWSTEP_KERNEL(bound, name, ...)                                                                  \
  extern "C" void name(__VA_ARGS__);                                                                      \
  static fs::emulator::Registration<&name> fewstep_registration_##name{#name, bound};                     \
  extern "C" void name(__VA_ARGS__)
#define FEWSTEP_KERNEL_RESIDENT(bound, blocks, name, ...) FEWSTEP_KERNEL(bound, name, __VA_ARGS__)
#define FEWSTEP_SHARED(T, name, N) auto& name = fs::emulator::shared_array<T, N>([] {})
#define FEWSTEP_DYNAMIC_SHARED(name) unsigned char* const name = fs::emulator::dynamic_shared()
#define FEWSTEP_UNROLL
#define FEWSTEP_SM(n) (fs::emulator::current->architecture >= (n))
#define FEWSTEP_SITE fs::emulator::Site fewstep_site = fs::emulator::Site::current()
#define FEWSTEP_AND_SITE , FEWSTEP_SITE
#define FEWSTEP_HERE fewstep_site
#define FEWSTEP_AND_HERE , fewstep_site

namespace fs {

/// Three coordinates, x fastest.
struct Index {
  uint32_t x, y, z;
};

namespace emulator {

/// A place in a kernel's source: one pointer, also with the column, so that two barriers on a line are two places.
using Site = std::source_location;

/// A cp.async that has been issued: `bytes` from `source`, zeros up to 16.
struct Copy {
  void* shared;
  const void* global;
  uint32_t bytes;
};

/// One CUDA thread, as its kernel sees it.
struct Thread {
  Index thread, block, block_size, grid;
  uint32_t linear;        ///< x + y · X + z · X · Y within the block
  uint32_t lane;          ///< linear mod 32
  int32_t architecture;   ///< emulated compute capability times ten
  uint32_t polls = 0;     ///< atomic operations since this thread last waited or began
};

/// The thread that this host thread is executing.
extern constinit thread_local Thread* current __attribute__((tls_model("initial-exec")));

/// Ends the launch with a named error; `format` as printf. Does not return to the kernel.
[[noreturn]] void fail(fewstep_emu_error error, const Site& site, const char* format, ...) __attribute__((format(printf, 3, 4)));

/// In a launch that overlaps the one before: waits for the whole block, then its memory is there. Else nothing.
void grid_wait(const Site& site);
/// Waits for the whole block.
void block_sync(const Site& site);

/// The work of a collective: arguments[i] is what lane i passed, for each lane in `lanes`.
using Collective = void (*)(void* const* arguments, uint32_t lanes, const Site& site);
/// What lanes must agree on besides operation and mask: `aligned` instructions, also the place.
enum class Agreement { operation, place };
/// Waits for `lanes` of this warp; the last lane to arrive does the work for all. No work: a __syncwarp, which orders memory.
void collective(uint32_t lanes, Collective work, void* argument, Agreement agreement, const Site& site);

/// Lets other threads of the block run, and fails if this one has polled for so long that nobody can be coming.
void poll();

/// The launch's dynamic shared memory, filled with 0xff at the block's start.
unsigned char* dynamic_shared();
/// This block's array for the declaration `key`, filled with 0xff before its first use.
void* static_shared(const void* key, size_t bytes);
/// Is [p, p + bytes) within one shared array of this block?
bool is_shared(const void* p, size_t bytes);
/// Is p on this thread's stack, in what CUDA calls local memory?
bool is_local(const void* p);

/// Do copies happen when issued?
bool copies_are_eager();
/// Remembers a copy that has been issued and not performed.
void push_copy(const Copy& copy);
/// Closes this thread's group of copies.
void commit_copies();
/// Takes the oldest remembered copy, if it is in none of the `pending` newest groups.
bool take_copy(int pending, Copy* copy);

template <class T, int N, class Declaration>
FEWSTEP_DEVICE T (&shared_array(Declaration))[N] {
  static char key;  // the lambda's type makes this one object for each FEWSTEP_SHARED
  return *static_cast<T(*)[N]>(static_shared(&key, sizeof(T) * N));
}

/// A kernel in the list of kernels.
struct KernelEntry {
  const char* name;
  uint32_t max_threads;
  size_t parameter_count;
  const size_t* parameter_sizes;
  void (*call)(void* const* parameters);
};
void register_kernel(const KernelEntry& entry);

template <auto Function>
struct Registration;
/// Turns an array of pointers to arguments into a call, by the kernel's own parameter types.
template <class... P, void (*Function)(P...)>
struct Registration<Function> {
  static constexpr size_t sizes[sizeof...(P) + 1] = {sizeof(P)..., 0};
  template <size_t... I>
  static void unpack(void* const* parameters, std::index_sequence<I...>) {
    Function(*static_cast<std::remove_cv_t<P>*>(parameters[I])...);
  }
  static void call(void* const* parameters) { unpack(parameters, std::index_sequence_for<P...>{}); }
  Registration(const char* name, uint32_t max_threads) { register_kernel({name, max_threads, sizeof...(P), sizes, call}); }
};

}  // namespace emulator
}  // namespace fs
