// The work of warp collectives, done once for all lanes by the last to arrive. Register fragments only: memory is ptx.hpp's affair.
#pragma once
#include "kernel.hpp"

namespace fs::emulator {

struct Shuffle {
  uint32_t value, source, result;
};
void run_shuffle(void* const* arguments, uint32_t lanes, const Site& site);

struct Ballot {
  bool predicate;
  uint32_t result;
};
void run_ballot(void* const* arguments, uint32_t lanes, const Site& site);

/// `row` is the row that this lane named; `registers` receives `matrices` registers.
struct LoadMatrix {
  uint16_t row[8];
  uint32_t* registers;
  int matrices;
  bool transposed;
};
void run_load_matrix(void* const* arguments, uint32_t lanes, const Site& site);

/// One lane's registers: d is read and written, as float or int.
struct Multiply {
  void* d;
  const uint32_t *a, *b;
};
void run_mma_m16n8k16_f16(void* const* arguments, uint32_t lanes, const Site& site);
void run_mma_m16n8k16_bf16(void* const* arguments, uint32_t lanes, const Site& site);
void run_mma_m16n8k8_f16(void* const* arguments, uint32_t lanes, const Site& site);
void run_mma_m16n8k32_s8(void* const* arguments, uint32_t lanes, const Site& site);
void run_mma_m8n8k16_s8(void* const* arguments, uint32_t lanes, const Site& site);

}  // namespace fs::emulator
