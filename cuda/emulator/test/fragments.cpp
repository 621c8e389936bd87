// mma, ldmatrix, shuffles and copies against scalar code written from the PTX ISA's own index formulas, element by element
// ("Matrix Fragments for mma.m16n8k16 ...", "... for mma.m16n8k32", "ldmatrix"), not from the emulator's tables.
#include <math.h>

#include <random>

#include "check.hpp"
#include "number.hpp"

using check::Array;
using check::Settings;
using check::launch;
using check::that;

namespace {

std::mt19937 generator(1);
uint32_t random_below(uint32_t n) { return uint32_t(generator() % n); }

struct Place {
  int row, column;
};
// mma.m16n8k16: "row = groupID for ai where 0 <= i < 2 || 4 <= i < 6, groupID + 8 otherwise;
// col = (threadID_in_group * 2) + (i & 0x1) for ai where i < 4, ... + 8 for ai where i >= 4"
Place a16(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {(i < 2 || (i >= 4 && i < 6)) ? group : group + 8, thread * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}
// "row = (threadID_in_group * 2) + (i & 0x1) for bi where i < 2, ... + 8 for bi where i >= 2; col = groupID"
Place b16(int lane, int i) { return {lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8), lane >> 2}; }
// mma.m16n8k32: "row = groupID for ai where 0 <= i < 4 || 8 <= i < 12, groupID + 8 otherwise;
// col = (threadID_in_group * 4) + (i & 0x3) for ai where i < 8, ... + 16 for ai where i >= 8"
Place a32(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {(i < 4 || (i >= 8 && i < 12)) ? group : group + 8, thread * 4 + (i & 3) + (i < 8 ? 0 : 16)};
}
// "row = (threadID_in_group * 4) + (i & 0x3) for bi where i < 4, ... + 16 for bi where i >= 4; col = groupID"
Place b32(int lane, int i) { return {lane % 4 * 4 + (i & 3) + (i < 4 ? 0 : 16), lane >> 2}; }
// Both: "row = groupID for ci where i < 2, groupID + 8 for ci where i >= 2; col = (threadID_in_group * 2) + (i & 0x1)"
Place c(int lane, int i) { return {(lane >> 2) + (i < 2 ? 0 : 8), lane % 4 * 2 + (i & 1)}; }

// Small integers, so that the sums are exact in every order.
void mma_16(const char* kernel, uint16_t (*encode)(float), Settings settings) {
  settings.apply();
  float a[16][16], b[16][8], d[16][8];
  for (auto& row : a) for (float& x : row) x = float(int(random_below(17)) - 8);
  for (auto& row : b) for (float& x : row) x = float(int(random_below(17)) - 8);
  for (auto& row : d) for (float& x : row) x = float(int(random_below(100)));
  Array<uint32_t> ra(32 * 4), rb(32 * 2);
  Array<float> rd(32 * 4);
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 8; i++) {
      reinterpret_cast<uint16_t*>(ra.data())[lane * 8 + i] = encode(a[a16(lane, i).row][a16(lane, i).column]);
    }
    for (int i = 0; i < 4; i++) {
      reinterpret_cast<uint16_t*>(rb.data())[lane * 4 + i] = encode(b[b16(lane, i).row][b16(lane, i).column]);
      rd[size_t(lane * 4 + i)] = d[c(lane, i).row][c(lane, i).column];
    }
  }
  check::expect(launch(kernel, 1, 32, 0, ra.data(), rb.data(), rd.data()), FEWSTEP_EMU_OK, "");
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 4; i++) {
      const auto [row, column] = c(lane, i);
      float want = d[row][column];
      for (int k = 0; k < 16; k++) want += a[row][k] * b[k][column];
      that(rd[size_t(lane * 4 + i)] == want, "D[%d][%d] is %g, not %g", row, column, double(rd[size_t(lane * 4 + i)]), double(want));
    }
  }
}

void mma_s8(Settings settings) {
  settings.apply();
  int8_t a[16][32], b[32][8];
  int d[16][8];
  for (auto& row : a) for (int8_t& x : row) x = int8_t(random_below(256));
  for (auto& row : b) for (int8_t& x : row) x = int8_t(random_below(256));
  for (auto& row : d) for (int& x : row) x = int(random_below(1u << 31));
  Array<uint32_t> ra(32 * 4), rb(32 * 2);
  Array<int> rd(32 * 4);
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 16; i++) reinterpret_cast<int8_t*>(ra.data())[lane * 16 + i] = a[a32(lane, i).row][a32(lane, i).column];
    for (int i = 0; i < 8; i++) reinterpret_cast<int8_t*>(rb.data())[lane * 8 + i] = b[b32(lane, i).row][b32(lane, i).column];
    for (int i = 0; i < 4; i++) rd[size_t(lane * 4 + i)] = d[c(lane, i).row][c(lane, i).column];
  }
  check::expect(launch("test_mma_s8", 1, 32, 0, ra.data(), rb.data(), rd.data()), FEWSTEP_EMU_OK, "");
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 4; i++) {
      const auto [row, column] = c(lane, i);
      int64_t want = d[row][column];
      for (int k = 0; k < 32; k++) want += a[row][k] * b[k][column];
      that(rd[size_t(lane * 4 + i)] == int32_t(uint32_t(want)), "D[%d][%d] is %d", row, column, rd[size_t(lane * 4 + i)]);
    }
  }
}

// "each thread receives a fragment of a row": thread T of a row holds elements 2T and 2T + 1 of row T / 4; with .trans, of the transpose.
void ldmatrix() {
  Settings{}.apply();
  Array<uint16_t> matrices(256);
  for (size_t i = 0; i < 256; i++) matrices[i] = uint16_t(i * 257 + 3);
  for (const int n : {1, 2, 4}) {
    for (const bool transposed : {false, true}) {
      Array<uint32_t> out(size_t(32 * n));
      const std::string kernel = "test_ldmatrix_x" + std::to_string(n) + (transposed ? "_trans" : "");
      check::expect(launch(kernel.c_str(), 1, 32, 0, matrices.data(), out.data()), FEWSTEP_EMU_OK, "");
      for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 2 * n; i++) {
          const int matrix = i / 2, row = lane / 4, column = lane % 4 * 2 + i % 2;
          const uint16_t want = matrices[size_t(matrix * 64 + (transposed ? column * 8 + row : row * 8 + column))];
          const uint16_t got = reinterpret_cast<uint16_t*>(out.data())[lane * 2 * n + i];
          that(got == want, "%s: lane %d element %d is %04x, not %04x", kernel.c_str(), lane, i, got, want);
        }
      }
    }
  }
}

void lanes(uint64_t seed) {
  Settings{.seed = seed}.apply();
  Array<uint32_t> out(32 * 8);
  check::expect(launch("test_lanes", 1, 32, 0, out.data()), FEWSTEP_EMU_OK, "");
  for (uint32_t lane = 0; lane < 32; lane++) {
    uint32_t thirds = 0, odd = 0;
    for (uint32_t i = 0; i < 32; i++) thirds |= uint32_t(i % 3 == 1) << i, odd |= uint32_t(i % 2 && i > 20) << i;
    const uint32_t want[8] = {100 + (lane * 7 + 3) % 32,
                              100 + (lane ^ 5),
                              100 + (lane >= 3 ? lane - 3 : lane),
                              100 + (lane + 6 < 32 ? lane + 6 : lane),
                              thirds,
                              32 * 100 + 31 * 16,
                              lane % 2 ? odd : 0,
                              fs::emulator::bits_of(float(31 - lane) * 0.5f)};
    for (uint32_t i = 0; i < 8; i++) {
      that(out[lane * 8 + i] == want[i], "lane %u, call %u: %u, not %u", lane, i, out[lane * 8 + i], want[i]);
    }
  }
}

void copy_sizes(Settings settings) {
  settings.apply();
  Array<uint8_t> rows(17 * 16), out(17 * 16);
  for (size_t i = 0; i < rows.size(); i++) rows[i] = uint8_t(i + 1);
  check::expect(launch("test_copy_sizes", 1, 32, 17 * 16, rows.data(), out.data()), FEWSTEP_EMU_OK, "");
  for (size_t i = 0; i < out.size(); i++) that(out[i] == (i % 16 < i / 16 ? uint8_t(i + 1) : 0), "%zu bytes: byte %zu", i / 16, i % 16);
}

void numbers(int32_t architecture) {
  Settings{.architecture = architecture}.apply();
  Array<float> x(32);
  Array<uint32_t> out(32 * 4);
  const float special[] = {0,     -0.f,  1,      0.5f,     1.5f,      2.5f, -2.5f, 65504, 65520,
                           1e30f, -1e30f, INFINITY, -INFINITY, NAN, 1e-7f, 6e-8f, 2147483520.f};
  for (size_t i = 0; i < 32; i++) x[i] = i < std::size(special) ? special[i] : float(random_below(1000)) * 0.37f;
  check::expect(launch("test_numbers", 1, 32, 0, x.data(), out.data()), FEWSTEP_EMU_OK, "");
  for (size_t i = 0; i < 32; i++) {
    const uint32_t half = fs::emulator::f32_to_f16(x[i]), negative = fs::emulator::f32_to_f16(-x[i]);
    that(out[i * 4] == half, "half of %g", double(x[i]));
    that(out[i * 4 + 1] == fs::emulator::f32_to_bf16(x[i]), "bf16 of %g", double(x[i]));
    that(out[i * 4 + 2] == (half | negative << 16), "pair of %g", double(x[i]));
    const double rounded = std::isnan(x[i]) ? 0 : fmin(fmax(nearbyint(double(x[i])), INT32_MIN), INT32_MAX);
    that(int(out[i * 4 + 3]) == int(rounded), "%g rounds to %d", double(x[i]), int(out[i * 4 + 3]));
  }
}

uint16_t to_bf16(float x) { return uint16_t(fs::emulator::bits_of(x) >> 16); }

}  // namespace

int main() {
  return check::run("fragments", {
    {"mma f16, sm_80", [] { mma_16("test_mma_f16", fs::emulator::f32_to_f16, {}); }},
    {"mma f16, sm_75: two m16n8k8", [] { mma_16("test_mma_f16", fs::emulator::f32_to_f16, {.seed = 1, .architecture = 75}); }},
    {"mma bf16, sm_80", [] { mma_16("test_mma_bf16", to_bf16, {.seed = 2}); }},
    {"mma bf16 traps on sm_75",
     [] {
       Settings{.architecture = 75}.apply();
       if (fewstep_emu_get_config().architecture != 75) return;  // a GPU (gpu.cpp), which has bf16
       Array<uint32_t> r(128);
       Array<float> d(128);
       check::expect(launch("test_mma_bf16", 1, 32, 0, r.data(), r.data(), d.data()), FEWSTEP_EMU_TRAP, "fragments.cu");
     }},
    {"mma s8 with overflow, sm_80", [] { mma_s8({}); }},
    {"mma s8 with overflow, sm_75: four m8n8k16", [] { mma_s8({.seed = 3, .architecture = 75}); }},
    {"ldmatrix x1, x2, x4, each also transposed", [] { ldmatrix(); }},
    {"shuffles and ballot, seeds 0 to 4", [] { for (uint64_t seed = 0; seed < 5; seed++) lanes(seed); }},
    {"cp.async of 0 to 16 bytes, lazy", [] { copy_sizes({}); }},
    {"cp.async of 0 to 16 bytes, eager", [] { copy_sizes({.copies = FEWSTEP_EMU_COPIES_EAGER}); }},
    {"cp.async of 0 to 16 bytes, sm_75", [] { copy_sizes({.architecture = 75}); }},
    {"conversions in a kernel, sm_80 and sm_75", [] { numbers(80), numbers(75); }},
  });
}
