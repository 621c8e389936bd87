// Self-attention, forward and backward, against double arithmetic: ragged tiles, every class of widths, several heads, all types.
#include <math.h>

#include <initializer_list>
#include <random>
#include <type_traits>

#include "check.hpp"
#include "formats.hpp"
#include "number.hpp"

using check::Array;
using check::Settings;
using check::that;

namespace {

constexpr uint32_t threads = 128;

/// The kernels' parameter.
struct Heads {
  int tokens, heads, width;
  float scale;
};

using format::Bf16;
using format::Float;
using format::Half;

struct Shape {
  int n, tokens, heads, width;
  float sharpness = 1;  // of the scores: large ones make the running maximum matter
  bool rising = false;  // later keys are larger, so that the maximum grows to the end
};

/// The first of the classes that takes a head of this width, or the last.
int widest(int width, std::initializer_list<int> classes) {
  for (const int w : classes) {
    if (width <= w) return w;
  }
  return *(classes.end() - 1);
}

/// One problem with its answers, to be run many times.
template <class Format>
class Problem {
  using Bits = typename Format::Bits;

 public:
  explicit Problem(const Shape& s)
      : s_(s), heads_{s.tokens, s.heads, s.width, s.sharpness / sqrtf(float(s.width))}, lse_(rows()), delta_(rows()) {
    std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    for (auto* array : {&q_, &k_, &v_, &dout_}) {
      for (size_t i = 0; i < elements(); i++) (*array)[i] = Format::encode(normal(generator));
    }
    for (size_t i = 0; s.rising && i < elements(); i++) {
      const size_t row = size_t(s.heads) * size_t(s.width), token = i / row % size_t(s.tokens);
      k_[i] = Format::encode(float(value(k_[i])) * float(token + 1) / float(s.tokens));
    }
    solve();
  }

  void forward(const Settings& settings) {
    prepare(settings);
    const int width = std::is_same_v<Format, Float> ? widest(s_.width, {8, 32, 64, 128, 256, 512}) : widest(s_.width, {64, 512});
    const std::string kernel = "fewstep_attention_" + std::to_string(width) + "_" + Format::name;
    const int32_t error = check::launch(kernel.c_str(), blocks(), threads, 0, q_.data(), k_.data(), v_.data(), out_.data(), lse_.data(), heads_);
    check::expect(error, FEWSTEP_EMU_OK, "");
    compare(settings, "out", out_, want_out_, Format::tolerance);
    compare(settings, "lse", lse_, want_lse_, 1e-5);
  }

  /// The same on tensor cores: blocks of 64 queries, or of 16 and at most 64 channels.
  void forward_tensor(const Settings& settings) {
    const int width = widest(s_.width, {32, 64, 128, 256});
    for (const bool split : {false, true}) {
      if (settings.architecture < 80 && (std::is_same_v<Format, Bf16> || (!split && width > 64))) continue;
      prepare(settings);
      const int parts = split ? (s_.width + 63) / 64 : 1, tile = split ? 16 : 64;
      const uint32_t grid = uint32_t((s_.tokens + tile - 1) / tile * parts * s_.heads * s_.n);
      const std::string kind = split ? "split" : "tall", kernel = "fewstep_attention_" + kind + "_" + std::to_string(width) + "_" + Format::name;
      const int32_t error = check::launch(kernel.c_str(), grid, threads, 0, q_.data(), k_.data(), v_.data(), out_.data(), lse_.data(), heads_, parts);
      check::expect(error, FEWSTEP_EMU_OK, "");
      compare(settings, (kind + " out").c_str(), out_, want_out_, 2 * Format::tolerance);
      compare(settings, (kind + " lse").c_str(), lse_, want_lse_, 1e-5);
    }
  }

  void backward(const Settings& settings) {
    prepare(settings);
    for (size_t i = 0; i < rows(); i++) lse_[i] = float(want_lse_[i]);
    for (size_t i = 0; i < elements(); i++) out_[i] = Format::encode(float(want_out_[i]));
    const int width = widest(s_.width, {8, 32, 64, 128, 256}), parts = (s_.width + width - 1) / width;
    const std::string suffix = std::to_string(width) + "_" + Format::name, query = "fewstep_attention_query_grad_" + suffix,
                      key = "fewstep_attention_key_grad_" + suffix;
    check::expect(check::launch(query.c_str(), blocks() * uint32_t(parts), threads, 0, q_.data(), k_.data(), v_.data(), out_.data(), lse_.data(),
                                dout_.data(), dq_.data(), delta_.data(), heads_, parts),
                  FEWSTEP_EMU_OK, "");
    check::expect(check::launch(key.c_str(), blocks() * uint32_t(parts), threads, 0, q_.data(), k_.data(), v_.data(), lse_.data(), dout_.data(),
                                delta_.data(), dk_.data(), dv_.data(), heads_, parts),
                  FEWSTEP_EMU_OK, "");
    const double tolerance = 4 * s_.sharpness * Format::tolerance;
    compare(settings, "dq", dq_, want_dq_, tolerance);
    compare(settings, "dk", dk_, want_dk_, tolerance);
    compare(settings, "dv", dv_, want_dv_, tolerance);
  }

 private:
  size_t elements() const { return size_t(s_.n) * size_t(s_.tokens) * size_t(s_.heads) * size_t(s_.width); }
  size_t rows() const { return size_t(s_.n) * size_t(s_.heads) * size_t(s_.tokens); }
  uint32_t blocks() const { return uint32_t((s_.tokens + 31) / 32 * s_.heads * s_.n); }

  void prepare(const Settings& settings) {
    settings.apply();
    for (auto* array : {&out_, &dq_, &dk_, &dv_}) memset(static_cast<void*>(array->data()), 0xff, elements() * sizeof(Bits));
    for (auto* array : {&lse_, &delta_}) memset(array->data(), 0xff, rows() * 4);
  }

  static double value(float x) { return x; }
  static double value(uint16_t x) { return Format::decode(Bits(x)); }

  template <class T>
  void compare(const Settings& settings, const char* what, Array<T>& got, const std::vector<double>& want, double tolerance) {
    for (size_t i = 0; i < want.size(); i++) {
      const double error = fabs(value(got[i]) - want[i]) / (1 + fabs(want[i]));
      that(error <= tolerance, "%s n %d t %d h %d d %d %s[%zu]: %g, expected %g", settings.name().c_str(), s_.n, s_.tokens, s_.heads, s_.width, what, i,
           value(got[i]), want[i]);
    }
  }

  void solve() {
    for (auto* want : {&want_out_, &want_dq_, &want_dk_, &want_dv_}) want->assign(elements(), 0);
    want_lse_.resize(rows());
    for (int head = 0; head < s_.n * s_.heads; head++) solve_head(head / s_.heads, head % s_.heads);
  }

  void solve_head(int n, int head) {
    const size_t tokens = size_t(s_.tokens), width = size_t(s_.width);
    const auto at = [&](size_t token) { return ((size_t(n) * tokens + token) * size_t(s_.heads) + size_t(head)) * width; };
    const auto dot = [&](Array<Bits>& a, size_t i, Array<Bits>& b, size_t j) {
      double sum = 0;
      for (size_t c = 0; c < width; c++) sum += value(a[at(i) + c]) * value(b[at(j) + c]);
      return sum;
    };
    for (size_t i = 0; i < tokens; i++) {
      std::vector<double> p(tokens), dp(tokens);
      double sum = 0, top = -INFINITY, mean = 0;
      for (size_t j = 0; j < tokens; j++) top = fmax(top, p[j] = double(heads_.scale) * dot(q_, i, k_, j));
      for (size_t j = 0; j < tokens; j++) sum += exp(p[j] - top);
      const double lse = top + log(sum);
      want_lse_[(size_t(n) * size_t(s_.heads) + size_t(head)) * tokens + i] = lse;
      for (size_t j = 0; j < tokens; j++) p[j] = exp(p[j] - lse), dp[j] = dot(dout_, i, v_, j), mean += p[j] * dp[j];
      for (size_t j = 0; j < tokens; j++) {
        const double ds = double(heads_.scale) * p[j] * (dp[j] - mean);
        for (size_t c = 0; c < width; c++) {
          want_out_[at(i) + c] += p[j] * value(v_[at(j) + c]);
          want_dq_[at(i) + c] += ds * value(k_[at(j) + c]);
          want_dk_[at(j) + c] += ds * value(q_[at(i) + c]);
          want_dv_[at(j) + c] += p[j] * value(dout_[at(i) + c]);
        }
      }
    }
  }

  Shape s_;
  Heads heads_;
  Array<Bits> q_{elements()}, k_{elements()}, v_{elements()}, dout_{elements()}, out_{elements()}, dq_{elements()}, dk_{elements()}, dv_{elements()};
  Array<float> lse_, delta_;
  std::vector<double> want_out_, want_lse_, want_dq_, want_dk_, want_dv_;
};

constexpr Shape shapes[] = {
  {1, 1, 1, 1},    {2, 7, 2, 3},    {1, 33, 5, 8},    {2, 64, 1, 40, 8}, {1, 100, 2, 8, 20},  {1, 33, 1, 64}, {1, 100, 1, 30, 4},
  {1, 40, 2, 100}, {1, 33, 1, 160}, {1, 7, 1, 256, 4}, {1, 33, 1, 512},   {1, 64, 2, 20},     {1, 35, 1, 301},
};

constexpr Shape tensor_shapes[] = {
  {1, 1, 1, 8},        {2, 7, 2, 16},       {1, 33, 3, 24, 4},  {1, 64, 2, 32}, {1, 100, 1, 40, 8, true}, {1, 129, 2, 64, 4, true},
  {1, 65, 1, 96, 2},   {1, 100, 1, 128, 8, true}, {1, 33, 1, 160, 4}, {2, 17, 1, 256}, {1, 200, 1, 256, 8, true},
};

/// Calls use(settings) for every seed and both times of copies. Sanitizers are slow: the last seed alone, for the copies of sm_80.
template <class Use>
void with_settings(Use use) {
  for (uint64_t seed = check::sanitizer == check::Sanitizer::none ? 0 : 2; seed < 3; seed++) {
    for (const int32_t copies : {FEWSTEP_EMU_COPIES_LAZY, FEWSTEP_EMU_COPIES_EAGER}) {
      use(Settings{.seed = seed, .copies = copies, .guard = int32_t(seed & 1), .architecture = seed ? 80 : 75});
    }
  }
}

template <class Format>
void on_tensor_cores() {
  for (const Shape& s : tensor_shapes) {
    Problem<Format> problem(s);
    with_settings([&](const Settings& settings) { problem.forward_tensor(settings); });
  }
}

template <class Format>
void everywhere() {
  for (const Shape& s : shapes) {
    Problem<Format> problem(s);
    with_settings([&](const Settings& settings) {
      problem.forward(settings);
      problem.backward(settings);
    });
  }
}

}  // namespace

int main() {
  return check::run("attention", {{"f32, forward and backward, ragged shapes x seeds x lazy, eager", everywhere<Float>},
                                  {"f16", everywhere<Half>},
                                  {"bf16", everywhere<Bf16>},
                                  {"f16 on tensor cores, tall and split blocks", on_tensor_cores<Half>},
                                  {"bf16 on tensor cores", on_tensor_cores<Bf16>}});
}
