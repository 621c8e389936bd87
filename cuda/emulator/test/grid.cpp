// Overlapping launches: a chain gives what it gives one by one, and each way to break it is found under its name.
#include "check.hpp"

using check::Array;
using check::Settings;
using check::expect;
using check::launch;
using check::launch_after;
using check::that;

namespace {

constexpr uint32_t blocks = 5;
constexpr size_t n = 64 * blocks;
constexpr bool overlapping = true;

/// x, scaled weights, and two results in turn.
struct Chain {
  Array<float> x{n}, w{1}, y{n}, z{n};
  Chain() {
    for (size_t i = 0; i < n; i++) x[i] = float(i);
    w[0] = 2;
  }
  int32_t next(const char* kernel, bool overlaps, float* from, float* to) {
    return launch_after(overlaps, kernel, blocks, 64, 0, static_cast<const float*>(from), static_cast<const float*>(w.data()), to);
  }
};

void chain(int32_t architecture) {
  for (uint64_t seed = 0; seed < 4; seed++) {
    Settings{.seed = seed, .architecture = architecture}.apply();
    Chain c;
    expect(c.next("grid_scale", false, c.x.data(), c.y.data()), FEWSTEP_EMU_OK, "");
    for (int i = 0; i < 3; i++) {  // z is written while the launch before reads it, would it not wait
      expect(c.next("grid_scale", overlapping, c.y.data(), c.z.data()), FEWSTEP_EMU_OK, "");
      expect(launch_after(overlapping, "grid_copy", blocks, 64, 0, static_cast<const float*>(c.z.data()), c.y.data()), FEWSTEP_EMU_OK, "");
    }
    for (size_t i = 0; i < n; i++) that(c.y[i] == 16 * float(i), "element %zu is %g", i, double(c.y[i]));
  }
}

void broken(const char* kernel, int32_t error, const char* fragment) {
  for (uint64_t seed = 0; seed < 4; seed++) {
    Settings{.seed = seed, .architecture = 90}.apply();
    Chain c;
    expect(c.next("grid_scale", false, c.x.data(), c.y.data()), FEWSTEP_EMU_OK, "");
    expect(c.next(kernel, overlapping, c.y.data(), c.z.data()), error, fragment);
  }
}

/// What the chain has written may not be fetched early; what was written before it may.
void weights_of_the_chain() {
  Settings{.architecture = 90}.apply();
  Chain c;
  expect(c.next("grid_scale", false, c.x.data(), c.y.data()), FEWSTEP_EMU_OK, "");
  expect(launch_after(overlapping, "grid_copy", 1, 1, 0, static_cast<const float*>(c.y.data() + 1), c.w.data()), FEWSTEP_EMU_OK, "");
  expect(c.next("grid_scale", overlapping, c.y.data(), c.z.data()), FEWSTEP_EMU_EARLY_ACCESS, "before fs::grid_wait(), read of");
  expect(c.next("grid_scale", false, c.y.data(), c.z.data()), FEWSTEP_EMU_OK, "");
  expect(c.next("grid_scale", overlapping, c.z.data(), c.y.data()), FEWSTEP_EMU_OK, "");
  that(c.y[3] == 24, "%g, not 3 * 2 * 2 * 2", double(c.y[3]));
}

}  // namespace

int main() {
  std::vector<check::Test> tests = {
    {"a chain of overlapping launches, seeds 0 to 3, sm_90", [] { chain(90); }},
    {"the same, where launches do not overlap: sm_80", [] { chain(80); }},
    {"no grid wait", [] { broken("bug_no_grid_wait", FEWSTEP_EMU_NO_GRID_WAIT, "ends without fs::grid_wait()"); }},
    {"a thread that leaves before the grid wait", [] { broken("bug_leaves_before_grid_wait", FEWSTEP_EMU_NO_GRID_WAIT, "thread (63,0,0)"); }},
    {"a barrier that waits for a grid wait", [] { broken("bug_barrier_and_grid_wait", FEWSTEP_EMU_DEADLOCK, "at grid wait grid.cu:"); }},
  };
  const std::vector<check::Test> faults = {
    {"a read before the grid wait", [] { broken("bug_reads_before_grid_wait", FEWSTEP_EMU_EARLY_ACCESS, "before fs::grid_wait(), read of"); }},
    {"a write before the grid wait", [] { broken("bug_writes_before_grid_wait", FEWSTEP_EMU_EARLY_ACCESS, "before fs::grid_wait(), write of"); }},
    {"weights that the chain has written", weights_of_the_chain},
  };
  if (check::sanitizer == check::Sanitizer::none) tests.insert(tests.end(), faults.begin(), faults.end());
  return check::run("grid", tests);
}
