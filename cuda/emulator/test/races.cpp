// One kernel a run, named on the command line, for ThreadSanitizer to watch: test/run says which must be reported.
#include <stdlib.h>

#include "check.hpp"
#include "conv.hpp"

using check::Array;

int main(int count, char** arguments) {
  if (count < 2) return 0;
  const std::string kernel = arguments[1];
  check::Settings{.seed = count > 2 ? strtoull(arguments[2], nullptr, 10) : 0, .copies = FEWSTEP_EMU_COPIES_EAGER, .threads = 2}.apply();
  if (kernel == "test_sum" || kernel == "bug_missing_barrier") {
    Array<float> x(1000), out(1);
    return check::launch(kernel.c_str(), 1, 256, 0, x.data(), out.data(), 1000u);
  }
  if (kernel == "bug_no_barrier") {
    Array<float> x(64), y(64);
    return check::launch(kernel.c_str(), 1, 64, 0, x.data(), y.data());
  }
  if (kernel == "bug_overlapping_blocks") {
    Array<float> y(1);
    Array<float> x(1000), partial(9), out(1);
    Array<uint32_t> counter(1);
    counter[0] = 0;
    // A host thread that finds its fibers made could have run all blocks before another begins.
    for (int i = 0; i < 50; i++) check::launch("test_last_block", 9, 64, 0, x.data(), partial.data(), counter.data(), out.data(), 1000u);
    return check::launch(kernel.c_str(), 2, 64, 0, y.data());
  }
  if (kernel == "test_last_block") {
    Array<float> x(1000), partial(9), out(1);
    Array<uint32_t> counter(1);
    counter[0] = 0;
    return check::launch(kernel.c_str(), 9, 64, 0, x.data(), partial.data(), counter.data(), out.data(), 1000u);
  }
  const trial::ConvShape shape{1, 5, 5, 16, 4, 1, 5, 5};
  Array<uint16_t> x(5 * 5 * 16), w(4 * 9 * 16), y(5 * 5 * 4);
  Array<float> bias(4);
  memset(x.data(), 0, x.size() * 2);
  memset(w.data(), 0, w.size() * 2);
  return check::launch(kernel.c_str(), 1, trial::threads, trial::shared_bytes, x.data(), w.data(), bias.data(),
                       static_cast<uint16_t*>(nullptr), y.data(), shape);
}
