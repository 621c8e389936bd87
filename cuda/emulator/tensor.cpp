// Shuffles, votes, ldmatrix and mma on the registers of a whole warp. Fragment layouts: device/mma.cuh and the PTX ISA sections there.
#include "tensor.hpp"

#include "number.hpp"

namespace fs::emulator {
namespace {

void require_full_warp(uint32_t lanes, const char* instruction, const Site& site) {
  if (lanes != 0xffffffffu) fail(FEWSTEP_EMU_ABSENT_LANE, site, "%s needs all 32 lanes, has %08x", instruction, lanes);
}

float decode_f16(uint32_t reg, int element) { return f16_to_f32(uint16_t(reg >> 16 * element)); }
float decode_bf16(uint32_t reg, int element) { return float_of(reg >> 16 * element << 16); }
uint32_t decode_s8(uint32_t reg, int element) { return uint32_t(int32_t(int8_t(reg >> 8 * element))); }

// D (Rows x 8) += A (Rows x K) · B (K x 8). `Elements` fill a register; A and B have K / (4 · Elements) registers along k, A also one
// for each 8 rows, rows first. Sums run in ascending k in the type of Sum: floats round at each step, integers wrap.
template <class Sum, int Rows, int K, int Elements, Sum (*Decode)(uint32_t, int)>
void multiply(void* const* arguments) {
  constexpr int row_groups = Rows / 8, k_groups = K / (4 * Elements);
  Sum a[Rows][K], b[K][8], d[Rows][8];
  for (int lane = 0; lane < 32; lane++) {
    const auto& own = *static_cast<const Multiply*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int kg = 0; kg < k_groups; kg++) {
      for (int e = 0; e < Elements; e++) {
        const int k = kg * 4 * Elements + t * Elements + e;
        for (int rg = 0; rg < row_groups; rg++) a[rg * 8 + g][k] = Decode(own.a[kg * row_groups + rg], e);
        b[k][g] = Decode(own.b[kg], e);
      }
    }
    for (int r = 0; r < 2 * row_groups; r++) memcpy(&d[r / 2 * 8 + g][2 * t + r % 2], static_cast<const Sum*>(own.d) + r, sizeof(Sum));
  }
  for (int row = 0; row < Rows; row++) {
    for (int k = 0; k < K; k++) {
      for (int column = 0; column < 8; column++) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    const auto& own = *static_cast<const Multiply*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 2 * row_groups; r++) memcpy(static_cast<Sum*>(own.d) + r, &d[r / 2 * 8 + g][2 * t + r % 2], sizeof(Sum));
  }
}

}  // namespace

void run_shuffle(void* const* arguments, uint32_t lanes, const Site& site) {
  for (int lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    auto* own = static_cast<Shuffle*>(arguments[lane]);
    if (!(lanes >> own->source & 1)) {
      fail(FEWSTEP_EMU_ABSENT_LANE, site, "shuffle: lane %d reads lane %u, which takes no part", lane, own->source);
    }
    own->result = static_cast<const Shuffle*>(arguments[own->source])->value;
  }
}

void run_ballot(void* const* arguments, uint32_t lanes, const Site&) {
  uint32_t votes = 0;
  for (int lane = 0; lane < 32; lane++) {
    if (lanes >> lane & 1) votes |= uint32_t(static_cast<const Ballot*>(arguments[lane])->predicate) << lane;
  }
  for (int lane = 0; lane < 32; lane++) {
    if (lanes >> lane & 1) static_cast<Ballot*>(arguments[lane])->result = votes;
  }
}

void run_load_matrix(void* const* arguments, uint32_t lanes, const Site& site) {
  require_full_warp(lanes, "ldmatrix", site);
  const auto element = [&](int matrix, int row, int column) -> uint32_t {
    return static_cast<const LoadMatrix*>(arguments[matrix * 8 + row])->row[column];
  };
  for (int lane = 0; lane < 32; lane++) {
    const auto& own = *static_cast<const LoadMatrix*>(arguments[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int m = 0; m < own.matrices; m++) {
      own.registers[m] = own.transposed ? element(m, 2 * t, g) | element(m, 2 * t + 1, g) << 16
                                        : element(m, g, 2 * t) | element(m, g, 2 * t + 1) << 16;
    }
  }
}

void run_mma_m16n8k16_f16(void* const* arguments, uint32_t lanes, const Site& site) {
  require_full_warp(lanes, "mma", site);
  multiply<float, 16, 16, 2, decode_f16>(arguments);
}
void run_mma_m16n8k16_bf16(void* const* arguments, uint32_t lanes, const Site& site) {
  require_full_warp(lanes, "mma", site);
  multiply<float, 16, 16, 2, decode_bf16>(arguments);
}
void run_mma_m16n8k8_f16(void* const* arguments, uint32_t lanes, const Site& site) {
  require_full_warp(lanes, "mma", site);
  multiply<float, 16, 8, 2, decode_f16>(arguments);
}
void run_mma_m16n8k32_s8(void* const* arguments, uint32_t lanes, const Site& site) {
  require_full_warp(lanes, "mma", site);
  multiply<uint32_t, 16, 32, 4, decode_s8>(arguments);
}
void run_mma_m8n8k16_s8(void* const* arguments, uint32_t lanes, const Site& site) {
  require_full_warp(lanes, "mma", site);
  multiply<uint32_t, 8, 16, 4, decode_s8>(arguments);
}

}  // namespace fs::emulator
