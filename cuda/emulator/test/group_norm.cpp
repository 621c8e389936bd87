// Group normalisation against double arithmetic: ragged quads, several groups a slab, wide groups, splits, a large common offset, all types.
#include <math.h>

#include <algorithm>
#include <random>

#include "check.hpp"
#include "formats.hpp"
#include "number.hpp"

using check::Array;
using check::Settings;
using check::that;

namespace {

constexpr uint32_t threads = 256;

/// The kernels' parameter.
struct Norm {
  int positions, channels, groups, slab_groups, splits, silu;
};

using format::Bf16;
using format::Float;
using format::Half;

struct Shape {
  int n, positions, channels, groups, slab_groups;
  double offset = 0;
};

constexpr double eps = 1e-5;

double sigmoid(double v) { return 1 / (1 + exp(-v)); }

/// One problem with its answers, to be run many times.
template <class Format>
class Problem {
  using Bits = typename Format::Bits;

 public:
  Problem(const Shape& s, bool silu)
      : s_(s), silu_(silu), x_(elements()), dy_(elements()), out_(elements()), gamma_(c()), beta_(c()), mean_(stats()), rstd_(stats()), dgamma_(c()), dbeta_(c()) {
    std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < elements(); i++) {
      x_[i] = Format::encode(normal(generator) + float(s.offset));
      dy_[i] = Format::encode(normal(generator));
    }
    for (size_t i = 0; i < c(); i++) {
      gamma_[i] = 1 + 0.3f * normal(generator);
      beta_[i] = 0.3f * normal(generator);
    }
    solve();
  }

  void forward(int splits, const Settings& settings) {
    prepare(settings);
    const Norm norm = parameters(splits);
    const uint32_t blocks = slabs() * uint32_t(splits * s_.n);
    if (splits == 1) {
      launch("", blocks, x_.data(), gamma_.data(), beta_.data(), out_.data(), mean_.data(), rstd_.data(), norm, float(eps));
    } else {
      Array<float> pieces(stats() * size_t(splits) * 2);
      launch("_pieces", blocks, x_.data(), pieces.data(), norm);
      launch("_of_pieces", blocks, x_.data(), gamma_.data(), beta_.data(), pieces.data(), out_.data(), mean_.data(), rstd_.data(), norm, float(eps));
    }
    check_forward(describe(splits, settings), 1);
  }

  /// By blocks that keep their slabs, where those fit.
  void forward_kept(const Settings& settings) {
    const int run = 16 / int(sizeof(Bits)), width = s_.slab_groups * (s_.channels / s_.groups), lanes = width / run;
    if (s_.channels % run || width % run || lanes > int(threads) || s_.positions > 8 * (int(threads) / lanes)) return;
    prepare(settings);
    launch("_kept", slabs() * uint32_t(s_.n), x_.data(), gamma_.data(), beta_.data(), out_.data(), mean_.data(), rstd_.data(), parameters(1), float(eps));
    check_forward("kept, " + describe(1, settings), 1);
  }

  /// By the moments of channels of two values, or of one.
  void forward_of_moments(int splits, int first, const Settings& settings) {
    prepare(settings);
    Array<float> ours(size_t(s_.n * first) * 2), others(size_t(s_.n * (s_.channels - first)) * 2);
    for (int i = 0; i < s_.n * s_.channels; i++) {
      const int sample = i / s_.channels, channel = i % s_.channels;
      double mean = 0, variance = 0;
      const auto value_at = [&](int p) { return value(x_[(size_t(sample) * size_t(s_.positions) + size_t(p)) * c() + size_t(channel)]); };
      for (int p = 0; p < s_.positions; p++) mean += value_at(p) / s_.positions;
      for (int p = 0; p < s_.positions; p++) variance += pow(value_at(p) - mean, 2) / s_.positions;
      float* to = channel < first ? &ours[size_t(sample * first + channel) * 2] : &others[size_t(sample * (s_.channels - first) + channel - first) * 2];
      to[0] = float(mean), to[1] = float(variance);
    }
    const uint32_t blocks = (uint32_t(s_.channels) + 511) / 512 * uint32_t(s_.n * splits);
    const float* second = first < s_.channels ? others.data() : nullptr;
    // The values themselves come in two tensors too where their channels are whole runs.
    const int run = 16 / int(sizeof(Bits)), cut = first % run || s_.channels % run ? s_.channels : first;
    Array<Bits> one(x_.size() / c() * size_t(cut)), other(x_.size() / c() * size_t(s_.channels - cut) + 1);
    for (size_t i = 0; i < x_.size(); i++) {
      const size_t position = i / c(), channel = i % c(), own = size_t(cut);
      (channel < own ? one[position * own + channel] : other[position * (c() - own) + channel - own]) = x_[i];
    }
    const Bits *x = one.data(), *second_x = cut < s_.channels ? other.data() : nullptr;
    launch("_of_moments", blocks, x, second_x, cut, gamma_.data(), beta_.data(), static_cast<const float*>(ours.data()), second, out_.data(), mean_.data(),
           rstd_.data(), parameters(splits), first, float(eps));
    // Its shift is rounded where it is as large as mean and scale together.
    check_forward("of moments of " + std::to_string(first) + ", " + describe(splits, settings), 3);
  }

  void backward(int splits, const Settings& settings) {
    prepare(settings);
    for (size_t i = 0; i < stats(); i++) mean_[i] = float(want_mean_[i]), rstd_[i] = float(want_rstd_[i]);
    const Norm norm = parameters(splits);
    const int rows = s_.n * splits;
    Array<float> sums(size_t(rows) * 2 * c());
    const uint32_t sum_slabs = (uint32_t(s_.channels) + 127) / 128;
    launch("_grad_sums", sum_slabs * uint32_t(rows), x_.data(), gamma_.data(), beta_.data(), mean_.data(), rstd_.data(), dy_.data(), sums.data(), norm);
    launch("_grad", slabs() * uint32_t(rows), x_.data(), gamma_.data(), beta_.data(), mean_.data(), rstd_.data(), dy_.data(), sums.data(), out_.data(), norm);
    check::expect(check::launch("fewstep_group_norm_grad_parameters", (uint32_t(s_.channels) + 31) / 32, threads, 0, sums.data(), dgamma_.data(),
                                dbeta_.data(), rows, s_.channels),
                  FEWSTEP_EMU_OK, "");
    const std::string what = describe(splits, settings);
    const double lost = fabs(s_.offset) * 1.2e-7, grown = sqrt(double(s_.n) * s_.positions);
    // The terms that cancel in dx are as large as rstd, which is 1 / sqrt(eps) where a group has one element.
    const double rstd = *std::max_element(want_rstd_.begin(), want_rstd_.end());
    compare(what + " dx", out_, want_dx_, 2 * Format::tolerance + 8 * lost + rstd * 0x1p-21);
    compare(what + " dgamma", dgamma_, want_dgamma_, 1e-5 * grown + 8 * grown * lost);
    compare(what + " dbeta", dbeta_, want_dbeta_, 1e-5 * grown + 8 * grown * lost);
  }

 private:
  size_t c() const { return size_t(s_.channels); }
  size_t elements() const { return size_t(s_.n) * size_t(s_.positions) * c(); }
  size_t stats() const { return size_t(s_.n) * size_t(s_.groups); }
  uint32_t slabs() const { return uint32_t((s_.groups + s_.slab_groups - 1) / s_.slab_groups); }
  Norm parameters(int splits) const { return {s_.positions, s_.channels, s_.groups, s_.slab_groups, splits, silu_}; }

  std::string describe(int splits, const Settings& settings) const {
    return settings.name() + " n " + std::to_string(s_.n) + " p " + std::to_string(s_.positions) + " c " + std::to_string(s_.channels) + " g " +
           std::to_string(s_.groups) + "/" + std::to_string(s_.slab_groups) + " splits " + std::to_string(splits);
  }

  /// The mean is as good as its last digit, and what it lacks is missing in every y, `often` times.
  void check_forward(const std::string& what, double often) {
    const double lost = fabs(s_.offset) * 1.2e-7;
    compare(what + " y", out_, want_y_, Format::tolerance + often * lost);
    compare(what + " mean", mean_, want_mean_, 1e-6 + lost);
    compare(what + " rstd", rstd_, want_rstd_, 1e-5);
  }

  void prepare(const Settings& settings) {
    settings.apply();
    memset(static_cast<void*>(out_.data()), 0xff, elements() * sizeof(Bits));
    for (Array<float>* a : {&mean_, &rstd_, &dgamma_, &dbeta_}) memset(a->data(), 0xff, a->size() * 4);
  }

  template <class... P>
  void launch(const char* name, uint32_t blocks, P... p) {
    const std::string kernel = std::string("fewstep_group_norm") + name + "_" + Format::name;
    check::expect(check::launch(kernel.c_str(), blocks, threads, 0, p...), FEWSTEP_EMU_OK, "");
  }

  static double value(float x) { return x; }
  static double value(uint16_t x) { return double(Format::decode(Bits(x))); }

  template <class T>
  void compare(const std::string& what, Array<T>& got, const std::vector<double>& want, double tolerance) {
    for (size_t i = 0; i < want.size(); i++) {
      const double error = fabs(value(got[i]) - want[i]) / (1 + fabs(want[i]));
      that(error <= tolerance, "%s[%zu]: %g, expected %g", what.c_str(), i, value(got[i]), want[i]);
    }
  }

  void solve() {
    const size_t cg = c() / size_t(s_.groups), positions = size_t(s_.positions);
    want_y_.resize(elements()), want_dx_.resize(elements()), want_dgamma_.assign(c(), 0), want_dbeta_.assign(c(), 0);
    for (size_t i = 0; i < stats(); i++) {
      const size_t n = i / size_t(s_.groups), first = i % size_t(s_.groups) * cg;
      const double count = double(cg) * s_.positions;
      const auto each = [&](auto body) {
        for (size_t p = 0; p < positions; p++) {
          for (size_t k = first; k < first + cg; k++) body((n * positions + p) * c() + k, k);
        }
      };
      double mean = 0, var = 0, s1 = 0, s2 = 0;
      each([&](size_t at, size_t) { mean += value(x_[at]) / count; });
      each([&](size_t at, size_t) { var += (value(x_[at]) - mean) * (value(x_[at]) - mean) / count; });
      const double rstd = 1 / sqrt(var + eps);
      const auto slope = [&](double v) { return silu_ ? sigmoid(v) * (1 + v * (1 - sigmoid(v))) : 1; };
      each([&](size_t at, size_t k) {
        const double hat = (value(x_[at]) - mean) * rstd, v = double(gamma_[k]) * hat + double(beta_[k]), d = value(dy_[at]) * slope(v);
        want_y_[at] = silu_ ? v * sigmoid(v) : v;
        want_dgamma_[k] += d * hat;
        want_dbeta_[k] += d;
        s1 += d * double(gamma_[k]) / count;
        s2 += d * double(gamma_[k]) * hat / count;
      });
      each([&](size_t at, size_t k) {
        const double hat = (value(x_[at]) - mean) * rstd, d = value(dy_[at]) * slope(double(gamma_[k]) * hat + double(beta_[k]));
        want_dx_[at] = rstd * (d * double(gamma_[k]) - s1 - hat * s2);
      });
      want_mean_.push_back(mean);
      want_rstd_.push_back(rstd);
    }
  }

  Shape s_;
  bool silu_;
  Array<Bits> x_, dy_, out_;
  Array<float> gamma_, beta_, mean_, rstd_, dgamma_, dbeta_;
  std::vector<double> want_y_, want_mean_, want_rstd_, want_dx_, want_dgamma_, want_dbeta_;
};

// One channel a group, odd groups and slabs, a last slab that is smaller, one wide group of more than 1024 channels, one position, many;
// whole runs in every type, a thread left over beside them, and two slabs of channels with their moments.
constexpr Shape shapes[] = {
  {2, 9, 7, 7, 3},    {1, 64, 6, 2, 2},    {3, 1, 24, 3, 1},      {2, 9, 1, 1, 1},         {1, 1000, 8, 2, 1},     {2, 64, 64, 32, 16},
  {2, 33, 96, 32, 10}, {1, 9, 1030, 1, 1}, {1, 3, 2052, 2, 1},    {1, 64, 15, 5, 5},       {1, 1000, 4, 4, 1, 1e3}, {2, 64, 36, 3, 3, 1e3},
  {1, 300, 32, 4, 4}, {1, 300, 64, 8, 8},  {2, 100, 48, 4, 2},      {1, 40, 520, 8, 1},
  {1, 1, 3, 3, 2},    {1, 9, 1300, 325, 32}, {1, 7, 130, 65, 32}, {2, 5, 300, 4, 1, -30.0},
};

template <class Format>
void everywhere(bool offsets) {
  for (const Shape& s : shapes) {
    if (s.offset != 0 && !offsets) continue;
    for (const bool silu : {false, true}) {
      Problem<Format> problem(s, silu);
      // Sanitizers are slow: the last alone, for the copies of sm_80.
      for (uint64_t seed = check::sanitizer == check::Sanitizer::none ? 0 : 2; seed < 3; seed++) {
        const Settings settings{.seed = seed, .guard = int32_t(seed & 1), .architecture = seed ? 80 : 75};
        for (const int splits : {1, 3}) {
          if (splits > s.positions) continue;
          problem.forward(splits, settings);
          problem.forward_of_moments(splits, s.channels, settings);
          if (s.channels > 2) problem.forward_of_moments(splits, s.channels / 3 + 1, settings);
          if (s.channels > 8) problem.forward_of_moments(splits, s.channels / 2 / 8 * 8, settings);
          problem.backward(splits, settings);
        }
        problem.forward_kept(settings);
      }
    }
  }
}

}  // namespace

int main() {
  return check::run("norm", {{"f32, forward and backward, whole and ragged shapes x seeds", [] { everywhere<Float>(true); }},
                             {"f16", [] { everywhere<Half>(false); }},
                             {"bf16", [] { everywhere<Bf16>(false); }}});
}
