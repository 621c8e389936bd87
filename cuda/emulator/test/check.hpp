// The least of test harnesses: a program is a list of named tests, each prints one line.
#pragma once
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "emulator.h"

namespace check {

/// What watches the kernels besides the emulator. Both end the process at a stray access; ThreadSanitizer, which turns each planted
/// race into a report, has a program of its own (races.cpp).
enum class Sanitizer { none, address, thread };
#if defined(__SANITIZE_ADDRESS__)
constexpr Sanitizer sanitizer = Sanitizer::address;
#elif defined(FEWSTEP_EMU_TSAN)
constexpr Sanitizer sanitizer = Sanitizer::thread;
#else
constexpr Sanitizer sanitizer = Sanitizer::none;
#endif

struct Failure {
  std::string message;
};

/// Ends the current test unless `holds`.
__attribute__((format(printf, 2, 3))) inline void that(bool holds, const char* format, ...) {
  if (holds) return;
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Failure{text};
}

struct Test {
  const char* name;
  std::function<void()> body;
};

/// Runs all tests; returns main's result.
inline int run(const char* program, const std::vector<Test>& tests) {
  int failed = 0;
  for (const Test& test : tests) {
    const auto start = std::chrono::steady_clock::now();
    std::string problem;
    try {
      test.body();
    } catch (const Failure& failure) {
      problem = failure.message;
    }
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    printf("%-10s %-67s %s %6.1f ms%s%s\n", program, test.name, problem.empty() ? "ok    " : "FAILED", ms, problem.empty() ? "" : ": ",
           problem.c_str());
    fflush(stdout);
    failed += !problem.empty();
  }
  return failed != 0;
}

/// Guarded device memory of n elements.
template <class T>
class Array {
 public:
  explicit Array(size_t n) : data_(static_cast<T*>(fewstep_emu_allocate(n * sizeof(T)))), size_(n) {
    that(data_ || !n, "no memory for %zu elements", n);
  }
  Array(const Array&) = delete;
  ~Array() { fewstep_emu_free(data_); }
  T* data() { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }

 private:
  T* data_;
  size_t size_;
};

/// Launches by name; returns the error. `overlaps`: it may begin before the launch before it has ended.
template <class... P>
int32_t launch_after(bool overlaps, const char* name, uint32_t blocks, uint32_t threads, uint32_t dynamic_shared, P... parameters) {
  const fewstep_emu_kernel* kernel = fewstep_emu_find(name);
  that(kernel, "no kernel %s", name);
  that(fewstep_emu_parameter_count(kernel) == sizeof...(P), "%s takes %zu parameters", name, fewstep_emu_parameter_count(kernel));
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&parameters))..., nullptr};
  const fewstep_emu_shape shape{{blocks, 1, 1}, {threads, 1, 1}, dynamic_shared, 0, overlaps};
  return fewstep_emu_launch(kernel, &shape, pointers);
}
template <class... P>
int32_t launch(const char* name, uint32_t blocks, uint32_t threads, uint32_t dynamic_shared, P... parameters) {
  return launch_after(false, name, blocks, threads, dynamic_shared, parameters...);
}

/// The configuration to test under, all but the named settings at their defaults.
struct Settings {
  uint64_t seed = 0;
  int32_t copies = FEWSTEP_EMU_COPIES_LAZY, guard = FEWSTEP_EMU_GUARD_OVERRUN, architecture = 80, threads = 0;
  void apply() const {
    const fewstep_emu_config config{seed, copies, guard, architecture, threads};
    fewstep_emu_set_config(&config);
  }
  std::string name() const {
    return "seed " + std::to_string(seed) + (copies ? " eager" : " lazy") + " sm_" + std::to_string(architecture);
  }
};

/// The launch must fail with this error, and its message must contain `fragment`.
inline void expect(int32_t error, int32_t expected, const char* fragment) {
  const char* message = error ? fewstep_emu_last_error() : "";
  that(error == expected, "expected '%s', got '%s': %s", fewstep_emu_error_name(expected), fewstep_emu_error_name(error), message);
  that(strstr(message, fragment), "'%s' is not in: %s", fragment, message);
}

}  // namespace check
