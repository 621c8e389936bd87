// Convolutions that normalise their input and give the moments of their result, against sums in double: groups over two sources, ragged chunks, moments
// of one and of several tiles, sums in slices, every element type, under every schedule and both copy modes.
#include <math.h>

#include <optional>

#include "check.hpp"
#include "conv_launch.hpp"
#include "formats.hpp"
#include "number.hpp"

using check::Array;
using check::Settings;
using check::that;
using namespace conv_launch;

namespace {

// As in parts/conv_norm.cuh.
struct ConvNorm {
  const float* gamma;
  const float* beta;
  const float* first;
  const float* second;
  int first_channels, groups, silu;
  float eps;
};

/// [N,H,W], channels of the two sources, groups, O, SiLU; 3x3 with a border of one.
struct Shape {
  int images, h, w, first, second, groups, out, silu;
};

const Shape shapes[] = {
  {1, 8, 8, 8, 0, 4, 8, 1},
  {2, 4, 8, 12, 20, 4, 12, 0},  // the second group has channels of both
  {1, 16, 8, 21, 0, 7, 37, 1},  // ragged chunks and tiles, several tiles an image
  {2, 8, 16, 5, 6, 1, 33, 1},
  {1, 8, 8, 16, 24, 4, 8, 1},  // two tensors in every type
};

constexpr float eps = 1e-5f;
constexpr int most_slices = 3;

template <class F>
class Problem {
  using Bits = typename F::Bits;

 public:
  explicit Problem(const Shape& s)
      : s_(s),
        c_(s.first + s.second),
        conv_{s.images, s.h, s.w, c_, s.h, s.w, s.out, 3, 3, 1, 1, 1},
        x_(size_t(s.images * s.h * s.w * c_)),
        y_(size_t(s.images * s.h * s.w * s.out)),
        weights_(size_t(s.out * c_ * 9)),
        packed_(size_t(s.out * 9 * padded<F>(c_))),
        gamma_(size_t(c_)),
        beta_(size_t(c_)),
        first_(size_t(s.images * s.first * 2)),
        second_(size_t(s.images * s.second * 2 + 1)),
        partial_(most_slices * y_.size()),
        moments_(size_t(s.images * s.out * 2)),
        pieces_(size_t(s.images * s.h * s.w / 32 * s.out * 2)),
        counters_(size_t((s.images * s.h * s.w / 32 + s.images) * blocks(s.out, 32))) {
    for (size_t i = 0; i < counters_.size(); i++) counters_[i] = 0;
    copy_encoded<F>(x_, uniform(x_.size(), 1));
    copy_encoded(weights_, uniform(weights_.size(), 2));
    for (size_t i = 0; i < weights_.size(); i++) weights_[i] = F::decode(F::encode(weights_[i]));
    copy_encoded(gamma_, uniform(gamma_.size(), 3));
    copy_encoded(beta_, uniform(beta_.size(), 4));
    copy_encoded(first_, uniform(first_.size(), 5));
    copy_encoded(second_, uniform(second_.size(), 6));
    // Variances are not negative.
    for (size_t i = 1; i < first_.size(); i += 2) first_[i] = 1.25f + first_[i];
    for (size_t i = 1; i < second_.size(); i += 2) second_[i] = 1.25f + second_[i];
    halves_.emplace(x_, c_, s.first);
    solve();
  }

  void run(const Settings& settings, Tile tile, int slices) {
    if (s_.h * s_.w % tile.rows) return;
    settings.apply();
    const std::string name = settings.name() + ", tile " + std::to_string(tile.rows) + ", slices " + std::to_string(slices) + ", c " + std::to_string(c_);
    const int n = int(packed_.size()), pixels = s_.images * s_.h * s_.w;
    poison(y_), poison(partial_), poison(moments_), poison(pieces_);
    launch(std::string("fewstep_pack_conv_") + F::name, {blocks(n, 256), 1, 1}, 256, weights_.data(), packed_.data(), conv_, 0, n);
    const ConvNorm norm = {gamma_.data(), beta_.data(), first_.data(), second_.data(), s_.first, s_.groups, s_.silu, eps};
    const float* bias = nullptr;
    const Bits *addend = nullptr, *residual = nullptr;
    Bits* const* parts = nullptr;
    const int* ends = nullptr;
    launch(kernel("norm_conv2d", F::name, tile), {blocks(pixels, tile.rows), blocks(s_.out, tile.columns), slices}, F::threads(tile),
           static_cast<const Bits*>(halves_->one.data()), static_cast<const Bits*>(halves_->first < c_ ? halves_->other.data() : nullptr), halves_->first,
           packed_.data(), bias, addend, residual, y_.data(), parts, ends, slices > 1 ? partial_.data() : nullptr, counters_.data(), moments_.data(), pieces_.data(), conv_,
           slices, 1.0f, norm);
    for (size_t i = 0; i < counters_.size(); i++) check::expect(int(counters_[i]), 0, "");
    // A normalised input may round to the neighbouring number, and SiLU is made of approximations of 2^-21.
    const double bound = (F::rounding + 0x1p-18) * largest_;
    for (size_t i = 0; i < want_.size(); i++) {
      that(fabs(F::decode(y_[i]) - want_[i]) <= bound, "%s: y[%zu] is %g instead of %g", name.c_str(), i, double(F::decode(y_[i])), want_[i]);
    }
    for (size_t i = 0; i < want_moments_.size(); i++) {
      that(fabs(moments_[i] - want_moments_[i]) <= bound * fmax(1, 2 * largest_), "%s: moment %zu is %g instead of %g", name.c_str(), i, double(moments_[i]),
           want_moments_[i]);
    }
  }

 private:
  const float* moments_of(int image, int channel) {
    return channel < s_.first ? &first_[size_t((image * s_.first + channel) * 2)] : &second_[size_t((image * s_.second + channel - s_.first) * 2)];
  }

  /// What the products see, rounded as the kernel does.
  double normalised(int image, int channel, double x) {
    const int width = c_ / s_.groups, begin = channel / width * width;
    double mean = 0, variance = 0;
    for (int k = begin; k < begin + width; k++) mean += moments_of(image, k)[0] / double(width);
    for (int k = begin; k < begin + width; k++) variance += (moments_of(image, k)[1] + pow(moments_of(image, k)[0] - mean, 2)) / width;
    const double y = (x - mean) / sqrt(variance + double(eps)) * gamma_[size_t(channel)] + beta_[size_t(channel)];
    return F::decode(F::encode(float(s_.silu ? y / (1 + exp(-y)) : y)));
  }

  void solve() {
    const int pixels = s_.h * s_.w;
    std::vector<double> x(x_.size());
    for (size_t i = 0; i < x.size(); i++) x[i] = normalised(int(i) / c_ / pixels, int(i) % c_, F::decode(x_[i]));
    want_.assign(y_.size(), 0);
    for (int at = 0; at < s_.images * pixels; at++) {
      for (int tap = 0; tap < 9; tap++) {
        const int row = at / s_.w % s_.h + tap / 3 - 1, column = at % s_.w + tap % 3 - 1;
        if (row < 0 || column < 0 || row >= s_.h || column >= s_.w) continue;
        const int from = (at / pixels * s_.h + row) * s_.w + column;
        for (int o = 0; o < s_.out; o++) {
          for (int c = 0; c < c_; c++) want_[size_t(at * s_.out + o)] += x[size_t(from * c_ + c)] * weights_[size_t((o * c_ + c) * 9 + tap)];
        }
      }
    }
    for (const double w : want_) largest_ = fmax(largest_, fabs(w));
    want_moments_.assign(moments_.size(), 0);
    for (int i = 0; i < s_.images * s_.out; i++) {
      double mean = 0, variance = 0;
      const auto value = [&](int p) { return want_[size_t((i / s_.out * pixels + p) * s_.out + i % s_.out)]; };
      for (int p = 0; p < pixels; p++) mean += value(p) / pixels;
      for (int p = 0; p < pixels; p++) variance += pow(value(p) - mean, 2) / pixels;
      want_moments_[size_t(2 * i)] = mean;
      want_moments_[size_t(2 * i + 1)] = variance;
    }
  }

  Shape s_;
  int c_;
  Conv conv_;
  Array<Bits> x_, y_;
  std::optional<Halves<F>> halves_;
  Array<float> weights_;
  Array<Bits> packed_;
  Array<float> gamma_, beta_, first_, second_, partial_, moments_, pieces_;
  Array<uint32_t> counters_;
  std::vector<double> want_, want_moments_;
  double largest_ = 0;
};

template <class F>
void everywhere(std::vector<int32_t> architectures) {
  Settings{}.apply();
  for (const Shape& shape : shapes) {
    Problem<F> problem(shape);
    for (uint64_t seed = 0; seed < (check::sanitizer == check::Sanitizer::none ? 3 : 1); seed++) {
      for (const int32_t copies : {FEWSTEP_EMU_COPIES_LAZY, FEWSTEP_EMU_COPIES_EAGER}) {
        for (const int32_t architecture : architectures) {
          const Settings settings{.seed = seed, .copies = copies, .architecture = architecture};
          for (const Tile tile : {small, large}) problem.run(settings, tile, 1);
          problem.run(settings, small, most_slices);
        }
      }
    }
  }
}

}  // namespace

int main() {
  return check::run("conv_norm", {
    {"f32, shapes x seeds x lazy, eager x sm_75, sm_80", [] { everywhere<Float>({75, 80}); }},
    {"f16, shapes x seeds x lazy, eager x sm_75, sm_80", [] { everywhere<Half>({75, 80}); }},
    {"bf16, shapes x seeds x lazy, eager x sm_80", [] { everywhere<Bf16>({80}); }},
  });
}
