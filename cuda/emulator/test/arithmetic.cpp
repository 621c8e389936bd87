// Arithmetic and memory wrappers against double arithmetic. IEEE operations exactly; approximations within the bounds in device/math.cuh.
#include <math.h>

#include <random>

#include "check.hpp"
#include "number.hpp"

using check::Array;
using check::Settings;
using check::that;

namespace {

constexpr size_t results = 24;
std::mt19937 generator(3);

void math() {
  Settings{}.apply();
  Array<float> a(32), b(32), c(32), out(32 * results);
  std::uniform_real_distribution<float> uniform(0.01f, 6);
  for (size_t i = 0; i < 32; i++) a[i] = uniform(generator) - 3, b[i] = uniform(generator), c[i] = uniform(generator) - 3;
  check::expect(check::launch("test_math", 1, 32, 0, a.data(), b.data(), c.data(), out.data()), FEWSTEP_EMU_OK, "");
  for (size_t i = 0; i < 32; i++) {
    const double x = a[i], y = b[i], z = c[i];
    // A rounded double result is the correctly rounded one here: doubles hold sums and products of floats, and innocuous double
    // rounding covers quotients and roots.
    const float exact[] = {float(x + y), float(x - y), float(x * y), float(x / y), float(sqrt(y)), ::fmaf(a[i], b[i], c[i])};
    for (size_t k = 0; k < std::size(exact); k++) that(out[i * results + k] == exact[k], "result %zu of %g, %g, %g", k, x, y, z);
    const struct {
      size_t index;
      double want, relative;
    } near[] = {{6, exp(x), 3e-7},       {7, log(y), 3e-7},   {8, tanh(x), 3e-7},  {9, erf(x), 3e-7},
                {10, sin(x), 3e-7},      {11, cos(x), 3e-7},  {12, 1 / sqrt(y), 3e-7}, {13, exp(x), 1e-6},
                {14, log(y), 1e-6},      {15, x / y, 3e-7},   {16, tanh(x), 1e-3}, {17, fmin(x, y), 0},
                {18, fmax(x, y), 0},     {19, x, 5e-4},       {20, y, 4e-3},       {21, x, 0},
                {22, x, 0}};
    for (const auto& [index, want, relative] : near) {
      const double error = fabs(out[i * results + index] - want);
      that(error <= relative * fabs(want) + (relative > 0 ? 1e-7 : 0), "result %zu of %g, %g: error %g", index, x, y, error);
    }
    const float product = a[i] * b[i];
    that(out[i * results + 23] == product + c[i], "contracted");
  }
}

void integers() {
  Settings{.seed = 1}.apply();
  Array<uint32_t> a(32), b(32), out(32 * 8), total(2);
  for (size_t i = 0; i < 32; i++) a[i] = uint32_t(generator()), b[i] = uint32_t(generator());
  total[0] = total[1] = 0;
  check::expect(check::launch("test_integers", 1, 32, 0, a.data(), b.data(), out.data(), total.data()), FEWSTEP_EMU_OK, "");
  uint32_t votes = 0, sum = 0, most = 0;
  for (size_t i = 0; i < 32; i++) votes |= uint32_t(a[i] > b[i]) << i, sum += a[i] & 0xff, most = std::max(most, a[i] & 0xff);
  for (size_t i = 0; i < 32; i++) {
    int dot = -5;
    for (int k = 0; k < 32; k += 8) dot += int8_t(a[i] >> k) * int8_t(b[i] >> k);
    const uint32_t lane = uint32_t(i);
    const uint32_t want[8] = {uint32_t(uint64_t(a[i]) * b[i] >> 32),
                              uint32_t(dot),
                              std::min(a[i], b[i]),
                              std::max(a[i], b[i]),
                              uint32_t(std::min(int(a[i]), int(b[i]))),
                              uint32_t(std::max(int(a[i]), int(b[i]))),
                              lane | uint32_t(uint8_t(-int(lane))) << 8 | 0x807f0000u,
                              votes};
    for (size_t k = 0; k < 8; k++) that(out[i * 8 + k] == want[k], "result %zu of lane %zu: %08x, not %08x", k, i, out[i * 8 + k], want[k]);
  }
  that(total[0] == sum && total[1] == most, "atomics");
}

void vectors() {
  Settings{}.apply();
  Array<uint32_t> from(128), to(384);
  for (size_t i = 0; i < 128; i++) from[i] = uint32_t(i * 77);
  check::expect(check::launch("test_vectors", 1, 32, 0, from.data(), to.data()), FEWSTEP_EMU_OK, "");
  for (size_t i = 0; i < 384; i++) that(to[i] == from[i / 12 * 4 + i % 4], "word %zu", i);
}

void indices(uint64_t seed) {
  Settings{.seed = seed}.apply();
  Array<uint32_t> out(4 * 3 * 2 * 6);
  void* p = out.data();
  void* parameters[] = {&p};
  const fewstep_emu_shape shape{{4, 3, 2}, {5, 3, 2}, 0, 0, 0};
  check::expect(fewstep_emu_launch(fewstep_emu_find("test_indices"), &shape, parameters), FEWSTEP_EMU_OK, "");
  for (uint32_t i = 0; i < 24; i++) {
    const uint32_t want[6] = {4, 2, 1, i % 4, i / 4 % 3, i / 12};
    for (size_t k = 0; k < 6; k++) that(out[i * 6 + k] == want[k], "block %u, index %zu is %u", i, k, out[i * 6 + k]);
  }
}

}  // namespace

int main() {
  return check::run("arithmetic", {
    {"IEEE operations exactly, approximations within their bounds", math},
    {"integers, votes, atomics", integers},
    {"loads and stores of 16, 8 and 4 bytes", vectors},
    {"indices in three dimensions, seeds 0 to 2", [] { for (uint64_t seed = 0; seed < 3; seed++) indices(seed); }},
  });
}
