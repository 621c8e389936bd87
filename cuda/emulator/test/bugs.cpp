// Each class of planted bug is found, under its name, with the place in the source.
#include <math.h>

#include "check.hpp"

using check::Array;
using check::Settings;
using check::expect;
using check::launch;
using check::that;

namespace {

float sum(const char* kernel, uint64_t seed) {
  Settings{.seed = seed}.apply();
  Array<float> x(1000), out(1);
  for (size_t i = 0; i < x.size(); i++) x[i] = float(i);
  expect(launch(kernel, 1, 256, 0, x.data(), out.data(), 1000u), FEWSTEP_EMU_OK, "");
  return out[0];
}

void missing_barrier() {
  for (uint64_t seed = 0; seed < 6; seed++) {
    that(sum("test_sum", seed) == 499500, "the right kernel, seed %d", int(seed));
    that(!(sum("bug_missing_barrier", seed) == 499500), "not found with seed %d", int(seed));
  }
}

// Bounds: 64 threads, arrays of 64 floats.
void global(const char* kernel, int offset, int32_t guard, int32_t error, const char* fragment) {
  Settings{.guard = guard}.apply();
  Array<float> x(64), y(64);
  for (size_t i = 0; i < 64; i++) x[i] = 1;
  expect(launch(kernel, 1, 64, 0, x.data(), y.data(), offset), error, fragment);
}

void named(const char* kernel, uint32_t threads, int32_t error, const char* fragment) {
  for (uint64_t seed = 0; seed < 5; seed++) {
    Settings{.seed = seed}.apply();
    expect(launch(kernel, 1, threads, 0), error, fragment);
  }
}

void named_with_output(const char* kernel, uint32_t threads, int32_t error, const char* fragment) {
  for (uint64_t seed = 0; seed < 5; seed++) {
    Settings{.seed = seed}.apply();
    Array<uint32_t> out(64);
    expect(launch(kernel, 1, threads, 0, out.data()), error, fragment);
  }
}

void named_with_input(const char* kernel, int32_t error, const char* fragment) {
  Settings{}.apply();
  Array<uint32_t> x(256), out(256);
  expect(launch(kernel, 1, 32, 0, x.data(), out.data()), error, fragment);
}

void freed() {
  Settings{}.apply();
  Array<float> y(64);
  float* gone = nullptr;
  {
    Array<float> x(64);
    gone = x.data();
  }
  expect(launch("bug_read", 1, 64, 0, gone, y.data(), 0), FEWSTEP_EMU_ILLEGAL_ADDRESS, "was freed");
}

void waiting() {
  for (uint64_t seed = 0; seed < 5; seed++) {
    Settings{.seed = seed, .threads = 1}.apply();
    Array<uint32_t> flag(1), out(1);
    flag[0] = out[0] = 0;
    expect(launch("test_waits_for_warp", 1, 64, 0, flag.data(), out.data()), FEWSTEP_EMU_OK, "");
    that(out[0] == 32, "%u threads went on", out[0]);
  }
  Settings{.threads = 1}.apply();
  Array<uint32_t> flag(1);
  flag[0] = 0;
  expect(launch("bug_waits_for_block", 2, 32, 0, flag.data()), FEWSTEP_EMU_SPINNING, "no block may wait");
}

void last_block() {
  for (const int32_t threads : {1, 4}) {
    for (uint64_t seed = 0; seed < 5; seed++) {
      Settings{.seed = seed, .threads = threads}.apply();
      Array<float> x(5000), partial(23), out(1);
      Array<uint32_t> counter(1);
      for (size_t i = 0; i < x.size(); i++) x[i] = float(i % 97);
      counter[0] = 0;
      double want = 0;
      for (size_t i = 0; i < x.size(); i++) want += x[i];
      for (int again = 0; again < 3; again++) {
        expect(launch("test_last_block", 23, 64, 0, x.data(), partial.data(), counter.data(), out.data(), 5000u), FEWSTEP_EMU_OK, "");
        that(out[0] == want, "%g, not %g", double(out[0]), want);
      }
    }
  }
}

void shapes() {
  Settings{}.apply();
  Array<float> x(64), y(64);
  expect(launch("bug_read", 1, 65, 0, x.data(), y.data(), 0), FEWSTEP_EMU_BAD_LAUNCH, "65 threads");
  expect(launch("bug_read", 0, 32, 0, x.data(), y.data(), 0), FEWSTEP_EMU_BAD_LAUNCH, "impossible grid");
  expect(launch("bug_read", 1, 32, 49153, x.data(), y.data(), 0), FEWSTEP_EMU_BAD_LAUNCH, "dynamic shared memory");
  expect(launch("bug_too_much_shared", 1, 32, 40961, static_cast<void*>(x.data())), FEWSTEP_EMU_BAD_LAUNCH, "the limit is 49152");
  that(!fewstep_emu_find("no such kernel"), "found a kernel that is not there");
  that(fewstep_emu_parameter_size(fewstep_emu_find("bug_read"), 2) == 4, "parameter size");
}

// A launch after each kind of failure runs as if nothing had been.
void recovery() {
  for (const char* kernel : {"bug_divergent_barrier", "bug_deadlock", "bug_exit_before_barrier"}) {
    Settings{}.apply();
    that(launch(kernel, 5, 64, 0), "%s went through", kernel);
    that(sum("test_sum", 0) == 499500, "wrong after %s", kernel);
  }
}

constexpr int32_t overrun = FEWSTEP_EMU_GUARD_OVERRUN, underrun = FEWSTEP_EMU_GUARD_UNDERRUN;

}  // namespace

int main() {
  std::vector<check::Test> tests = {
    {"uninitialised shared memory is NaN",
     [] {
       Settings{}.apply();
       Array<float> out(64);
       expect(launch("bug_uninitialised_shared", 1, 64, 0, out.data()), FEWSTEP_EMU_OK, "");
       for (size_t i = 0; i < 64; i++) that(std::isnan(out[i]) == (i == 7), "element %zu is %g", i, double(out[i]));
     }},
    {"divergent barriers",
     [] { named("bug_divergent_barrier", 64, FEWSTEP_EMU_DIVERGENT_BARRIER, "32 threads (the first is 0) at barrier bugs.cu:"); }},
    {"divergent barriers on one line", [] { named("bug_divergent_barrier_one_line", 64, FEWSTEP_EMU_DIVERGENT_BARRIER, "bugs.cu:"); }},
    {"exit before a barrier", [] { named("bug_exit_before_barrier", 64, FEWSTEP_EMU_EARLY_EXIT, "bugs.cu:"); }},
    {"exit before a collective", [] { named_with_output("bug_exit_before_collective", 32, FEWSTEP_EMU_EARLY_EXIT, "bugs.cu:"); }},
    {"deadlock lists who waits where",
     [] { named("bug_deadlock", 64, FEWSTEP_EMU_DEADLOCK, "16 threads (the first is 32) at warp collective bugs.cu:"); }},
    {"mixed collective: operations",
     [] { named_with_output("bug_mixed_collective", 32, FEWSTEP_EMU_MIXED_COLLECTIVE, "a different operation"); }},
    {"mixed collective: places", [] { named_with_output("bug_mixed_places", 32, FEWSTEP_EMU_MIXED_COLLECTIVE, "another place"); }},
    {"shuffle from an absent lane", [] { named_with_output("bug_absent_lane", 32, FEWSTEP_EMU_ABSENT_LANE, "takes no part"); }},
    {"lane outside its own mask", [] { named_with_output("bug_outside_mask", 32, FEWSTEP_EMU_ABSENT_LANE, "not in its own mask"); }},
    {"mma by a partial warp", [] { named_with_output("bug_partial_warp_mma", 48, FEWSTEP_EMU_ABSENT_LANE, "needs all 32 lanes"); }},
    {"misaligned 16-byte load", [] { named_with_input("bug_misaligned_load", FEWSTEP_EMU_MISALIGNED, "16-byte access"); }},
    {"misaligned ldmatrix", [] { named_with_output("bug_misaligned_ldmatrix", 32, FEWSTEP_EMU_MISALIGNED, "ldmatrix row"); }},
    {"misaligned cp.async", [] { named_with_input("bug_misaligned_copy", FEWSTEP_EMU_MISALIGNED, "cp.async from"); }},
    {"ldmatrix from global memory", [] { named_with_input("bug_ldmatrix_global", FEWSTEP_EMU_WRONG_SPACE, "ldmatrix row"); }},
    {"cp.async to global memory", [] { named_with_input("bug_copy_to_global", FEWSTEP_EMU_WRONG_SPACE, "cp.async to"); }},
    {"cp.async from shared memory", [] { named_with_input("bug_copy_from_shared", FEWSTEP_EMU_WRONG_SPACE, "cp.async from"); }},
    {"cp.async of nothing from shared memory", [] { named_with_input("copy_nothing_from_shared", FEWSTEP_EMU_OK, ""); }},
    {"polling within a block goes on, for another block it is an error", waiting},
    {"last block sums, 1 and 4 host threads, seeds 0 to 4", last_block},
    {"impossible launches", shapes},
    {"a launch after a failed one", recovery},
  };
  const std::vector<check::Test> faults = {
    {"read past the end", [] { global("bug_read", 1, overrun, FEWSTEP_EMU_ILLEGAL_ADDRESS, "thread (63,0,0): read of"); }},
    {"read past the end is placed",
     [] { global("bug_read", 1, overrun, FEWSTEP_EMU_ILLEGAL_ADDRESS, "0 bytes past the end of a 256-byte allocation"); }},
    {"read before the start",
     [] { global("bug_read", -1, underrun, FEWSTEP_EMU_ILLEGAL_ADDRESS, "4 bytes before a 256-byte allocation"); }},
    {"write past the end", [] { global("bug_write", 1, overrun, FEWSTEP_EMU_ILLEGAL_ADDRESS, "write of"); }},
    {"write before the start, on the unguarded side",
     [] { global("bug_write", -1, overrun, FEWSTEP_EMU_OVERRUN, "bytes before a 256-byte allocation"); }},
    {"write past the end, on the unguarded side", [] { global("bug_write", 1, underrun, FEWSTEP_EMU_OVERRUN, "0 bytes past the end"); }},
    {"use after free", freed},
    {"write past dynamic shared memory",
     [] {
       Settings{}.apply();
       expect(launch("bug_shared_write", 1, 64, 64, 1), FEWSTEP_EMU_OVERRUN, "byte 64 of dynamic shared memory");
     }},
    {"write far past dynamic shared memory",
     [] {
       Settings{}.apply();
       expect(launch("bug_shared_write", 1, 64, 64, 80), FEWSTEP_EMU_ILLEGAL_ADDRESS, "dynamic shared memory");
     }},
    {"read past a shared array",
     [] {
       Settings{}.apply();
       Array<float> out(1);
       expect(launch("bug_static_shared_read", 1, 64, 0, 1, out.data()), FEWSTEP_EMU_ILLEGAL_ADDRESS, "byte 256 of a shared array");
     }},
    {"too large a local array", [] { named_with_output("bug_stack_overflow", 1, FEWSTEP_EMU_ILLEGAL_ADDRESS, "stack"); }},
  };
  if (check::sanitizer != check::Sanitizer::thread) tests.push_back({"missing barrier in a reduction, seeds 0 to 5", missing_barrier});
  if (check::sanitizer == check::Sanitizer::none) tests.insert(tests.end(), faults.begin(), faults.end());
  return check::run("bugs", tests);
}
