// The trial convolution against a scalar one: shapes with ragged edges, every schedule, both copy modes, sm_75 and sm_80.
#include "conv.hpp"

#include <math.h>

#include <random>

#include "check.hpp"
#include "number.hpp"

using check::Array;
using check::Settings;
using check::that;
using trial::ConvShape;

namespace {

struct Format {
  uint16_t (*encode)(float);
  float (*decode)(uint16_t);
  double tolerance;  // of the result, relative to 1 + |result|: its rounding, and sums in another order
};
const Format half{fs::emulator::f32_to_f16, fs::emulator::f16_to_f32, 1e-3};
const Format bf16{fs::emulator::f32_to_bf16, [](uint16_t h) { return fs::emulator::float_of(uint32_t(h) << 16); }, 8e-3};

constexpr ConvShape shape(int n, int h, int w, int c, int k, int stride) {
  return {n, h, w, c, k, stride, (h - 1) / stride + 1, (w - 1) / stride + 1};
}
constexpr ConvShape shapes[] = {shape(1, 5, 7, 8, 6, 1), shape(3, 1, 1, 24, 2, 1), shape(2, 9, 13, 40, 70, 2)};
constexpr ConvShape large = shape(2, 32, 32, 64, 64, 1);

/// One problem with its answer, to be run many times.
class Problem {
 public:
  Problem(ConvShape s, const Format& format, bool with_residual)
      : s_(s),
        format_(format),
        with_residual_(with_residual),
        x_(size_t(s.n * s.h * s.w * s.c)),
        w_(size_t(s.k * 9 * s.c)),
        residual_(size_t(s.n * s.out_h * s.out_w * s.k)),
        y_(residual_.size()),
        bias_(size_t(s.k)),
        want_(residual_.size()) {
    std::mt19937 generator(7);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (size_t i = 0; i < x_.size(); i++) x_[i] = format.encode(uniform(generator));
    for (size_t i = 0; i < w_.size(); i++) w_[i] = format.encode(uniform(generator) * 0.1f);
    for (size_t i = 0; i < residual_.size(); i++) residual_[i] = format.encode(uniform(generator));
    for (size_t i = 0; i < bias_.size(); i++) bias_[i] = uniform(generator);
    solve();
  }

  /// Largest error relative to 1 + |answer|; infinite where the output is NaN.
  double run(const char* kernel, const Settings& settings) {
    settings.apply();
    for (size_t i = 0; i < y_.size(); i++) y_[i] = 0x7fff;
    const void* x = x_.data();
    const void* w = w_.data();
    const void* bias = bias_.data();
    const void* residual = with_residual_ ? residual_.data() : nullptr;
    void* y = y_.data();
    void* parameters[] = {&x, &w, &bias, &residual, &y, &s_};
    const uint32_t pixels = uint32_t(s_.n * s_.out_h * s_.out_w);
    const fewstep_emu_shape launch{{(pixels + 63) / 64, (uint32_t(s_.k) + 63) / 64, 1}, {trial::threads, 1, 1}, trial::shared_bytes, 0, 0};
    check::expect(fewstep_emu_launch(fewstep_emu_find(kernel), &launch, parameters), FEWSTEP_EMU_OK, "");
    double worst = 0;
    for (size_t i = 0; i < y_.size(); i++) {
      const double error = fabs(format_.decode(y_[i]) - want_[i]) / (1 + fabs(want_[i]));
      worst = isnan(error) ? INFINITY : fmax(worst, error);
    }
    return worst;
  }

 private:
  void solve() {
    std::vector<float> x(x_.size()), w(w_.size());
    for (size_t i = 0; i < x.size(); i++) x[i] = format_.decode(x_[i]);
    for (size_t i = 0; i < w.size(); i++) w[i] = format_.decode(w_[i]);
    size_t at = 0;
    for (int image = 0; image < s_.n; image++) {
      for (int pixel = 0; pixel < s_.out_h * s_.out_w; pixel++) {
        for (int k = 0; k < s_.k; k++, at++) {
          double sum = bias_[size_t(k)] + (with_residual_ ? format_.decode(residual_[at]) : 0.f);
          for (int tap = 0; tap < 9; tap++) {
            const int in_y = pixel / s_.out_w * s_.stride + tap / 3 - 1, in_x = pixel % s_.out_w * s_.stride + tap % 3 - 1;
            if (in_y < 0 || in_x < 0 || in_y >= s_.h || in_x >= s_.w) continue;
            for (int c = 0; c < s_.c; c++) {
              sum += double(x[size_t(((image * s_.h + in_y) * s_.w + in_x) * s_.c + c)]) * w[size_t((k * 9 + tap) * s_.c + c)];
            }
          }
          want_[at] = sum;
        }
      }
    }
  }

  ConvShape s_;
  Format format_;
  bool with_residual_;
  Array<uint16_t> x_, w_, residual_, y_;
  Array<float> bias_;
  std::vector<double> want_;
};

constexpr int32_t modes[] = {FEWSTEP_EMU_COPIES_LAZY, FEWSTEP_EMU_COPIES_EAGER};

void everywhere(const char* kernel, const Format& format, std::vector<int32_t> architectures) {
  for (const ConvShape& s : shapes) {
    Problem problem(s, format, s.n != 3);
    for (uint64_t seed = 0; seed < 5; seed++) {
      for (const int32_t copies : modes) {
        for (const int32_t architecture : architectures) {
          const Settings settings{.seed = seed, .copies = copies, .architecture = architecture};
          const double error = problem.run(kernel, settings);
          that(error <= format.tolerance, "%s, c %d: error %g", settings.name().c_str(), s.c, error);
        }
      }
    }
  }
}

/// In how many of the shapes with more than one step of k the bug shows.
int found(const char* kernel, uint64_t seed, int32_t copies) {
  int count = 0;
  for (const ConvShape& s : shapes) {
    Problem problem(s, half, false);
    count += !(problem.run(kernel, {.seed = seed, .copies = copies}) <= half.tolerance);
  }
  return count;
}

void weak_wait() {
  for (uint64_t seed = 0; seed < 5; seed++) {
    that(found("bug_weak_wait", seed, FEWSTEP_EMU_COPIES_LAZY) == 3, "seed %d, lazy: missed", int(seed));
  }
}

void overwritten_buffer() {
  for (const uint64_t seed : {0, 2, 4}) {
    that(found("bug_overwritten_buffer", seed, FEWSTEP_EMU_COPIES_EAGER) >= 2, "seed %d, eager: missed", int(seed));
  }
}

void full_layer() {
  Problem problem(large, half, true);
  const double error = problem.run("test_conv_f16", {});
  that(error <= half.tolerance, "error %g", error);
}

}  // namespace

int main() {
  std::vector<check::Test> tests = {
    {"f16, ragged shapes x seeds 0 to 4 x lazy, eager x sm_75, sm_80", [] { everywhere("test_conv_f16", half, {75, 80}); }},
    {"bf16, ragged shapes x seeds 0 to 4 x lazy, eager x sm_80, sm_90", [] { everywhere("test_conv_bf16", bf16, {80, 90}); }},
  };
  if (check::sanitizer != check::Sanitizer::thread) {
    tests.push_back({"too weak a wait_group, lazy, every seed", weak_wait});
    tests.push_back({"overwritten double buffer, eager, seed 0 and even seeds", overwritten_buffer});
  }
  if (check::sanitizer == check::Sanitizer::none) tests.push_back({"f16, 2x32x32x64 to 64 (75 million products)", full_layer});
  return check::run("conv", tests);
}
