// Conversions, exhaustively where that is possible, against a reference that rounds by searching the neighbours in double.
#include "number.hpp"

#include <math.h>

#include "check.hpp"

using namespace fs::emulator;

namespace {

// What 16 bits mean, by the formats' definitions.
double value_of(uint16_t h, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, exponent = h >> mantissa_bits & ((1 << exponent_bits) - 1);
  const int mantissa = h & ((1 << mantissa_bits) - 1);
  const double sign = h >> 15 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return mantissa ? NAN : sign * INFINITY;
  if (!exponent) return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

// Nearest, ties to even: among the finite values and the first value beyond the largest, which stands for infinity.
uint16_t round_reference(float x, int exponent_bits, int mantissa_bits) {
  if (isnan(x)) return 0x7fff;
  const uint16_t infinity = uint16_t(((1 << exponent_bits) - 1) << mantissa_bits), sign = signbit(x) ? 0x8000 : 0;
  const double magnitude = fabs(double(x));
  uint16_t low = 0, high = infinity;  // value(low) <= magnitude
  while (high - low > 1) {
    const auto middle = uint16_t((low + high) / 2);
    (value_of(middle, exponent_bits, mantissa_bits) <= magnitude ? low : high) = middle;
  }
  if (isinf(magnitude)) return sign | infinity;
  const double below = value_of(low, exponent_bits, mantissa_bits);
  const double above = high == infinity ? ldexp(1, 1 << (exponent_bits - 1)) : value_of(high, exponent_bits, mantissa_bits);
  const double middle = (below + above) / 2;
  return sign | (magnitude < middle || (magnitude == middle && low % 2 == 0) ? low : high);
}

void widening(float (*convert)(uint16_t), int exponent_bits, int mantissa_bits) {
  for (uint32_t h = 0; h < 65536; h++) {
    const float got = convert(uint16_t(h));
    const double want = value_of(uint16_t(h), exponent_bits, mantissa_bits);
    const bool same = isnan(want) ? isnan(got) : got == want && bool(signbit(got)) == bool(h >> 15);
    check::that(same, "%04x gives %g, not %g", h, double(got), want);
  }
}

// Each 16-bit value, the middle between neighbours, and both sides of each; then bit patterns all over the range.
void narrowing(uint16_t (*convert)(float), float (*widen)(uint16_t), int exponent_bits, int mantissa_bits) {
  const auto one = [&](uint32_t bits) {
    const uint16_t got = convert(float_of(bits)), want = round_reference(float_of(bits), exponent_bits, mantissa_bits);
    check::that(got == want, "%08x gives %04x, not %04x", bits, got, want);
  };
  for (uint32_t h = 0; h < 65536; h++) {
    const uint32_t here = bits_of(widen(uint16_t(h))), next = bits_of(widen(uint16_t(h + 1)));
    const uint32_t middle = here + (next - here) / 2;
    for (const uint32_t centre : {here, middle}) {
      for (uint32_t bits = centre - 2; bits != centre + 3; bits++) one(bits);
    }
  }
  for (uint32_t i = 0; i < 1500000; i++) one(i * 2863u);
}

}  // namespace

int main() {
  return check::run("numbers", {
    {"all 65536 half to float", [] { widening(f16_to_f32, 5, 10); }},
    {"float to half: every value, tie and neighbour", [] { narrowing(f32_to_f16, f16_to_f32, 5, 10); }},
    {"float to bf16: every value, tie and neighbour",
     [] { narrowing(f32_to_bf16, [](uint16_t h) { return float_of(uint32_t(h) << 16); }, 8, 7); }},
  });
}
