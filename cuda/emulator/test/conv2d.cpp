// The convolution kernels of cuda/ against sums in double: odd shapes, both tiles, one and several slices, every element type, under every schedule,
// both copy modes and both guards. The references see the inputs as the kernels do, rounded to the element type.
#include <math.h>

#include <algorithm>
#include <array>
#include <optional>
#include <random>

#include "check.hpp"
#include "conv_launch.hpp"
#include "formats.hpp"
#include "number.hpp"

using check::Array;
using check::Settings;
using check::that;
using namespace conv_launch;

namespace {

/// [N,H,W,C], O, kernel, stride, padding: top, left, bottom, right.
Conv conv(std::array<int, 4> x, int o, std::array<int, 2> kernel, int stride, std::array<int, 4> pad) {
  const int h = (x[1] + pad[0] + pad[2] - kernel[0]) / stride + 1, w = (x[2] + pad[1] + pad[3] - kernel[1]) / stride + 1;
  return {x[0], x[1], x[2], x[3], h, w, o, kernel[0], kernel[1], stride, pad[0], pad[1]};
}

const Conv shapes[] = {
  conv({1, 1, 1, 1}, 1, {1, 1}, 1, {}),
  conv({3, 1, 1, 64}, 67, {1, 1}, 1, {}),              // a linear layer
  conv({2, 5, 7, 3}, 7, {3, 3}, 1, {1, 1, 1, 1}),      // three channels, odd sizes
  conv({1, 8, 8, 17}, 64, {3, 3}, 2, {0, 0, 1, 1}),    // diffusers' asymmetric downsampling
  conv({3, 9, 6, 8}, 2, {3, 3}, 2, {1, 1, 1, 1}),
  conv({1, 7, 9, 5}, 1, {4, 4}, 1, {1, 2, 2, 1}),
  conv({2, 6, 6, 64}, 64, {3, 3}, 1, {1, 1, 1, 1}),    // whole chunks and tiles in both directions
  conv({2, 10, 10, 1}, 64, {4, 4}, 2, {1, 1, 1, 1}),
  conv({2, 6, 7, 18}, 7, {1, 1}, 2, {}),               // pixels that no tap reads
  conv({3, 2, 2, 24}, 8, {3, 3}, 1, {1, 1, 1, 1}),     // maps smaller than the kernel
  conv({1, 5, 11, 6}, 34, {1, 4}, 3, {2, 3, 0, 1}),    // padding beyond the kernel
  conv({1, 4, 5, 64}, 5, {5, 5}, 3, {2, 2, 2, 2}),
  conv({1, 20, 2, 1}, 3, {15, 1}, 1, {7, 0, 7, 0}),    // as many taps as there are bits, and a few beyond the sum's end
  conv({1, 2, 20, 1}, 3, {1, 15}, 1, {0, 7, 0, 7}),
};

/// A result must be near the answer: sums in f32 err by about √terms roundings of a typical sum, of which 3 · 2⁻²⁴ · √terms of the
/// largest answer is several times more; rounding the result errs by at most half a unit in its last place, and over many elements by
/// a mean square of at most a third of that one's.
template <class F>
void compare(const char* what, const std::string& settings, Array<typename F::Bits>& got, const std::vector<double>& want, int terms) {
  double largest = 0, error_squares = 0, squares = 0;
  for (const double w : want) largest = fmax(largest, fabs(w));
  const double noise = 3 * 0x1p-24 * sqrt(double(terms)) * largest;
  for (size_t i = 0; i < want.size(); i++) {
    const double error = F::decode(got[i]) - want[i];
    that(fabs(error) <= noise + F::rounding * fabs(want[i]), "%s, %s: element %zu is %g instead of %g", what, settings.c_str(), i,
         double(F::decode(got[i])), want[i]);
    error_squares += error * error;
    squares += want[i] * want[i];
  }
  const double nmse = error_squares / fmax(squares, 1e-30), bound = 1e-11 + F::rounding * F::rounding / 3;
  that(nmse <= bound || want.size() < 64, "%s, %s: normalised mean square error %g, more than %g", what, settings.c_str(), nmse, bound);
}

/// One convolution with its answers, to be run many times.
template <class F>
class Problem {
  using Bits = typename F::Bits;

 public:
  explicit Problem(const Conv& s)
      : s_(s),
        pixels_(s.out_h * s.out_w),
        terms_(s.kernel_h * s.kernel_w * s.in_c),
        x_(size_t(s.images * s.in_h * s.in_w * s.in_c)),
        dy_(size_t(s.images * pixels_ * s.out_c)),
        residual_(dy_.size()),
        y_(dy_.size()),
        dx_(x_.size()),
        addend_(size_t(s.images * s.out_c)),
        weights_(size_t(s.out_c * terms_)),
        dw_(weights_.size()),
        bias_(size_t(s.out_c)),
        forward_(size_t(s.out_c * s.kernel_h * s.kernel_w * padded(s.in_c))),
        backward_(size_t(s.in_c * s.kernel_h * s.kernel_w * padded(s.out_c))),
        partial_(most_slices * std::max({y_.size(), dx_.size(), dw_.size()})),
        counters_(size_t((blocks(s.images * pixels_, 32) + s.images) * blocks(s.out_c, 32))) {
    for (size_t i = 0; i < counters_.size(); i++) counters_[i] = 0;
    copy_encoded<F>(x_, uniform(x_.size(), 1));
    copy_encoded<F>(dy_, uniform(dy_.size(), 2));
    copy_encoded<F>(residual_, uniform(residual_.size(), 3));
    copy_encoded(bias_, uniform(bias_.size(), 4));
    copy_encoded<F>(addend_, uniform(addend_.size(), 5));
    copy_encoded(weights_, uniform(weights_.size(), 6));
    for (size_t i = 0; i < weights_.size(); i++) weights_[i] = F::decode(F::encode(weights_[i]));
    halves_.emplace(x_, s.in_c, s.in_c / 2 / F::chunk * F::chunk);
    solve();
  }

  static constexpr int most_slices = 11;  // more than are added at a time

  void run(const Settings& settings, Tile tile, int slices) {
    settings.apply();
    name_ = settings.name() + ", tile " + std::to_string(tile.rows) + "x" + std::to_string(tile.columns) + ", slices " + std::to_string(slices) + ", c " + std::to_string(s_.in_c) + ", o " +
            std::to_string(s_.out_c) + ", kernel " + std::to_string(s_.kernel_h) + "x" + std::to_string(s_.kernel_w);
    pack();
    forward(tile, slices, true, false);
    forward(tile, slices, false, false);
    if (halves_->first < s_.in_c) forward(tile, slices, false, true);
    input_grad(tile, slices);
    if (tile.rows == tile.columns) weight_grad(tile, slices);
  }

 private:
  static int padded(int channels) { return conv_launch::padded<F>(channels); }
  float* partial(int slices) {
    poison(partial_);
    return slices > 1 ? partial_.data() : nullptr;
  }

  void pack() {
    poison(forward_);
    poison(backward_);
    const std::string name = std::string("fewstep_pack_conv_") + F::name;
    for (Array<Bits>* packed : {&forward_, &backward_}) {
      const int n = int(packed->size());
      launch(name, {blocks(n, 256), 1, 1}, 256, weights_.data(), packed->data(), s_, int(packed == &backward_), n);
    }
  }

  void forward(Tile tile, int slices, bool full, bool halves) {
    poison(y_);
    const float *bias = full ? bias_.data() : nullptr, scale = full ? 0.75f : 1.0f;
    const Bits* addend = full ? addend_.data() : nullptr;
    const Bits* residual = full ? residual_.data() : nullptr;
    float* scratch = partial(slices);
    Bits* const* parts = nullptr;
    const int* ends = nullptr;
    float *moments = nullptr, *pieces = nullptr;
    const Bits *x = halves ? halves_->one.data() : x_.data(), *second = halves ? halves_->other.data() : nullptr;
    launch(kernel("conv2d", F::name, tile), {blocks(s_.images * pixels_, tile.rows), blocks(s_.out_c, tile.columns), slices}, F::threads(tile), x, second,
           halves ? halves_->first : s_.in_c, forward_.data(), bias, addend, residual, y_.data(), parts, ends, scratch, counters_.data(), moments, pieces, s_, slices, scale);
    for (size_t i = 0; i < counters_.size(); i++) check::expect(int(counters_[i]), 0, "");
    compare<F>("y", name_, y_, full ? want_y_ : want_plain_, terms_);
  }

  void input_grad(Tile tile, int slices) {
    poison(dx_);
    float* scratch = partial(slices);
    const int pixels = s_.images * blocks(s_.in_h, s_.stride) * blocks(s_.in_w, s_.stride);
    launch(kernel("conv2d_input_grad", F::name, tile), {blocks(pixels, tile.rows), blocks(s_.in_c, tile.columns), s_.stride * s_.stride * slices}, F::threads(tile),
           dy_.data(), backward_.data(), dx_.data(), scratch, s_, slices);
    if (scratch) sum(F::name, dx_, slices);
    compare<F>("dx", name_, dx_, want_dx_, s_.kernel_h * s_.kernel_w * s_.out_c);
  }

  void weight_grad(Tile tile, int slices) {
    poison(dw_);
    float* scratch = partial(slices);
    const int columns = s_.kernel_h * s_.kernel_w * padded(s_.in_c);
    launch(kernel("conv2d_weight_grad", F::name, tile), {blocks(columns, tile.columns), blocks(s_.out_c, tile.rows), slices}, F::threads(tile), x_.data(),
           dy_.data(), dw_.data(), scratch, s_, slices);
    if (scratch) sum("f32", dw_, slices);
    compare<Float>("dw", name_, dw_, want_dw_, s_.images * pixels_);
  }

  template <class T>
  void sum(const std::string& type, Array<T>& to, int slices) {
    const int n = int(to.size());
    launch("fewstep_sum_slices_" + type, {blocks(n, 256), 1, 1}, 256, partial_.data(), to.data(), n, slices);
  }

  void solve() {
    want_plain_.assign(y_.size(), 0);
    want_dx_.assign(dx_.size(), 0);
    want_dw_.assign(dw_.size(), 0);
    for (int at = 0; at < s_.images * pixels_; at++) {
      for (int tap = 0; tap < s_.kernel_h * s_.kernel_w; tap++) {
        const int row = at / s_.out_w % s_.out_h * s_.stride + tap / s_.kernel_w - s_.top;
        const int column = at % s_.out_w * s_.stride + tap % s_.kernel_w - s_.left;
        if (row < 0 || column < 0 || row >= s_.in_h || column >= s_.in_w) continue;
        solve_tap(size_t(at), size_t((at / pixels_ * s_.in_h + row) * s_.in_w + column), size_t(tap));
      }
    }
    want_y_ = want_plain_;
    for (size_t i = 0; i < want_y_.size(); i++) {
      const size_t channel = i % size_t(s_.out_c), image = i / size_t(s_.out_c * pixels_);
      want_y_[i] = 0.75 * (want_y_[i] + bias_[channel] + F::decode(addend_[image * size_t(s_.out_c) + channel]) + F::decode(residual_[i]));
    }
  }

  void solve_tap(size_t out_pixel, size_t in_pixel, size_t tap) {
    const size_t out_c = size_t(s_.out_c), in_c = size_t(s_.in_c), taps = size_t(s_.kernel_h * s_.kernel_w);
    for (size_t o = 0; o < out_c; o++) {
      for (size_t c = 0; c < in_c; c++) {
        const size_t in = in_pixel * in_c + c, out = out_pixel * out_c + o, weight = (o * in_c + c) * taps + tap;
        want_plain_[out] += double(F::decode(x_[in])) * weights_[weight];
        want_dx_[in] += double(F::decode(dy_[out])) * weights_[weight];
        want_dw_[weight] += double(F::decode(dy_[out])) * F::decode(x_[in]);
      }
    }
  }

  Conv s_;
  int pixels_, terms_;
  Array<Bits> x_, dy_, residual_, y_, dx_, addend_;
  std::optional<Halves<F>> halves_;
  Array<float> weights_, dw_, bias_;
  Array<Bits> forward_, backward_;
  Array<float> partial_;
  Array<uint32_t> counters_;
  std::vector<double> want_plain_, want_y_, want_dx_, want_dw_;
  std::string name_;
};

constexpr int32_t modes[] = {FEWSTEP_EMU_COPIES_LAZY, FEWSTEP_EMU_COPIES_EAGER};

template <class F>
void everywhere(std::vector<int32_t> architectures) {
  Settings{}.apply();
  for (const Conv& shape : shapes) {
    Problem<F> problem(shape);
    for (uint64_t seed = 0; seed < (check::sanitizer == check::Sanitizer::none ? 3 : 1); seed++) {
      for (const int32_t copies : modes) {
        for (const int32_t architecture : architectures) {
          const Settings settings{.seed = seed, .copies = copies, .architecture = architecture};
          for (const Tile tile : F::tiles) problem.run(settings, tile, 1);
          problem.run(settings, small, Problem<F>::most_slices);
        }
      }
    }
  }
}

/// Reads and writes before the first element.
template <class F>
void underrun() {
  const Settings settings{.guard = FEWSTEP_EMU_GUARD_UNDERRUN};
  for (const Conv& shape : shapes) {
    settings.apply();
    Problem<F> problem(shape);
    for (const Tile tile : F::tiles) problem.run(settings, tile, 2);
  }
}

}  // namespace

int main() {
  return check::run("conv2d", {
    {"f32, odd shapes x seeds x lazy, eager x sm_75, sm_80", [] { everywhere<Float>({75, 80}); }},
    {"f16, odd shapes x seeds x lazy, eager x sm_75, sm_80", [] { everywhere<Half>({75, 80}); }},
    {"bf16, odd shapes x seeds x lazy, eager x sm_80", [] { everywhere<Bf16>({80}); }},
    {"f32, memory before the arrays", underrun<Float>},
    {"f16, memory before the arrays", underrun<Half>},
  });
}
