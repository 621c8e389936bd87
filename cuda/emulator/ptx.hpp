// The instructions, for g++: the same functions as device/ptx.cuh, emulated, and strict about what the PTX ISA leaves undefined.
//
// Memory is read and written here, in the kernel's own object file and in the name of the thread that asked, so that sanitizers see it;
// only register contents travel to the runtime.
#pragma once
#include "kernel.hpp"
#include "number.hpp"
#include "tensor.hpp"

namespace fs::ptx {

using emulator::Site;

FEWSTEP_DEVICE Index thread_index() { return emulator::current->thread; }
FEWSTEP_DEVICE Index block_index() { return emulator::current->block; }
FEWSTEP_DEVICE Index block_size() { return emulator::current->block_size; }
FEWSTEP_DEVICE Index grid_size() { return emulator::current->grid; }

/// Fails where the emulated architecture lacks an instruction.
FEWSTEP_DEVICE void require(int architecture, const char* instruction, const Site& site) {
  if (emulator::current->architecture >= architecture) return;
  emulator::fail(FEWSTEP_EMU_UNSUPPORTED_INSTRUCTION, site, "%s needs sm_%d, this is sm_%d", instruction, architecture,
                 emulator::current->architecture);
}

// ---- synchronisation
FEWSTEP_DEVICE void block_sync(FEWSTEP_SITE) { emulator::block_sync(fewstep_site); }
FEWSTEP_DEVICE void warp_sync(uint32_t lanes FEWSTEP_AND_SITE) {
  emulator::collective(lanes, nullptr, nullptr, emulator::Agreement::operation, fewstep_site);
}
FEWSTEP_DEVICE void grid_wait(FEWSTEP_SITE) {
  require(90, "griddepcontrol.wait", fewstep_site);
  emulator::grid_wait(fewstep_site);
}
FEWSTEP_DEVICE void grid_launch(FEWSTEP_SITE) { require(90, "griddepcontrol.launch_dependents", fewstep_site); }
FEWSTEP_DEVICE int keep(int x) { return x; }
FEWSTEP_DEVICE uint32_t atomic_add(uint32_t* p, uint32_t value) {
  emulator::poll();
  return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}
FEWSTEP_DEVICE uint32_t atomic_add_ordered(uint32_t* p, uint32_t value) {
  emulator::poll();
  return __atomic_fetch_add(p, value, __ATOMIC_ACQ_REL);
}
FEWSTEP_DEVICE uint32_t atomic_max(uint32_t* p, uint32_t value) {
  emulator::poll();
  uint32_t seen = __atomic_load_n(p, __ATOMIC_ACQUIRE);
  while (seen < value && !__atomic_compare_exchange_n(p, &seen, value, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
  }
  return seen;
}
FEWSTEP_DEVICE void trap(FEWSTEP_SITE) { emulator::fail(FEWSTEP_EMU_TRAP, fewstep_site, "trap"); }

// ---- lanes of a warp
FEWSTEP_DEVICE uint32_t shuffle(uint32_t lanes, uint32_t value, uint32_t source, const Site& site) {
  emulator::Shuffle argument{value, source, 0};
  emulator::collective(lanes, emulator::run_shuffle, &argument, emulator::Agreement::operation, site);
  return argument.result;
}
FEWSTEP_DEVICE uint32_t shuffle_idx(uint32_t lanes, uint32_t value, uint32_t source FEWSTEP_AND_SITE) {
  return shuffle(lanes, value, source & 31, fewstep_site);
}
FEWSTEP_DEVICE uint32_t shuffle_xor(uint32_t lanes, uint32_t value, uint32_t bits FEWSTEP_AND_SITE) {
  const uint32_t source = emulator::current->lane ^ bits;
  return shuffle(lanes, value, source < 32 ? source : emulator::current->lane, fewstep_site);
}
FEWSTEP_DEVICE uint32_t shuffle_down(uint32_t lanes, uint32_t value, uint32_t delta FEWSTEP_AND_SITE) {
  const uint32_t lane = emulator::current->lane;
  return shuffle(lanes, value, delta < 32 - lane ? lane + delta : lane, fewstep_site);
}
FEWSTEP_DEVICE uint32_t shuffle_up(uint32_t lanes, uint32_t value, uint32_t delta FEWSTEP_AND_SITE) {
  const uint32_t lane = emulator::current->lane;
  return shuffle(lanes, value, delta <= lane ? lane - delta : lane, fewstep_site);
}
FEWSTEP_DEVICE uint32_t ballot(uint32_t lanes, bool predicate FEWSTEP_AND_SITE) {
  emulator::Ballot argument{predicate, 0};
  emulator::collective(lanes, emulator::run_ballot, &argument, emulator::Agreement::operation, fewstep_site);
  return argument.result;
}

// ---- memory
template <class T>
FEWSTEP_DEVICE T* aligned(const void* p FEWSTEP_AND_SITE) {
  if (uintptr_t(p) % sizeof(T)) {
    emulator::fail(FEWSTEP_EMU_MISALIGNED, fewstep_site, "%zu-byte access to %p", sizeof(T), p);
  }
  return static_cast<T*>(const_cast<void*>(p));
}
template <class T>
FEWSTEP_DEVICE T load_l2(const T* p) {
  return *p;
}

FEWSTEP_DEVICE void perform(const emulator::Copy& copy) {
  auto* to = static_cast<uint8_t*>(copy.shared);
  auto* from = static_cast<const uint8_t*>(copy.global);
  if (copy.bytes == 16) {
    for (int i = 0; i < 2; i++) reinterpret_cast<uint64_t*>(to)[i] = reinterpret_cast<const uint64_t*>(from)[i];
  } else {
    for (uint32_t i = 0; i < 16; i++) to[i] = i < copy.bytes ? from[i] : 0;
  }
}
FEWSTEP_DEVICE void copy_async_16(void* shared, const void* global, uint32_t bytes FEWSTEP_AND_SITE) {
  require(80, "cp.async", fewstep_site);
  if (bytes > 16) emulator::fail(FEWSTEP_EMU_ILLEGAL_ADDRESS, fewstep_site, "cp.async of %u bytes into 16", bytes);
  if (uintptr_t(shared) % 16) emulator::fail(FEWSTEP_EMU_MISALIGNED, fewstep_site, "cp.async to %p", shared);
  if (uintptr_t(global) % 16) emulator::fail(FEWSTEP_EMU_MISALIGNED, fewstep_site, "cp.async from %p", global);
  if (!emulator::is_shared(shared, 16)) {
    emulator::fail(FEWSTEP_EMU_WRONG_SPACE, fewstep_site, "cp.async to %p, which is not in the block's shared memory", shared);
  }
  if (bytes && (emulator::is_local(global) || emulator::is_shared(global, 1))) {
    emulator::fail(FEWSTEP_EMU_WRONG_SPACE, fewstep_site, "cp.async from %p, which is not in global memory", global);
  }
  const emulator::Copy copy{shared, global, bytes};
  if (emulator::copies_are_eager()) {
    perform(copy);
  } else {
    emulator::push_copy(copy);
  }
}
FEWSTEP_DEVICE void copy_async_commit(FEWSTEP_SITE) {
  require(80, "cp.async.commit_group", fewstep_site);
  emulator::commit_copies();
}
template <int Pending>
FEWSTEP_DEVICE void copy_async_wait(FEWSTEP_SITE) {
  require(80, "cp.async.wait_group", fewstep_site);
  emulator::Copy copy;
  while (emulator::take_copy(Pending, &copy)) perform(copy);
}

template <int N, bool Transposed>
FEWSTEP_DEVICE void load_matrix(uint32_t (&registers)[N], const void* row FEWSTEP_AND_SITE) {
  static_assert(N == 1 || N == 2 || N == 4);
  emulator::LoadMatrix argument{{}, registers, N, Transposed};
  if (emulator::current->lane < 8 * N) {
    if (uintptr_t(row) % 16) emulator::fail(FEWSTEP_EMU_MISALIGNED, fewstep_site, "ldmatrix row at %p", row);
    if (!emulator::is_shared(row, 16)) {
      emulator::fail(FEWSTEP_EMU_WRONG_SPACE, fewstep_site, "ldmatrix row at %p, which is not in the block's shared memory", row);
    }
    for (int i = 0; i < 8; i++) argument.row[i] = static_cast<const uint16_t*>(row)[i];
  }
  emulator::collective(0xffffffffu, emulator::run_load_matrix, &argument, emulator::Agreement::place, fewstep_site);
}

// ---- tensor cores
template <class D>
FEWSTEP_DEVICE void multiply(emulator::Collective work, D* d, const uint32_t* a, const uint32_t* b, const Site& site) {
  emulator::Multiply argument{d, a, b};
  emulator::collective(0xffffffffu, work, &argument, emulator::Agreement::place, site);
}
FEWSTEP_DEVICE void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] FEWSTEP_AND_SITE) {
  require(80, "mma.m16n8k16.f16", fewstep_site);
  multiply(emulator::run_mma_m16n8k16_f16, d, a, b, fewstep_site);
}
FEWSTEP_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] FEWSTEP_AND_SITE) {
  require(80, "mma.m16n8k16.bf16", fewstep_site);
  multiply(emulator::run_mma_m16n8k16_bf16, d, a, b, fewstep_site);
}
FEWSTEP_DEVICE void mma_m16n8k8_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b FEWSTEP_AND_SITE) {
  const uint32_t a[2] = {a0, a1};
  multiply(emulator::run_mma_m16n8k8_f16, d, a, &b, fewstep_site);
}
FEWSTEP_DEVICE void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] FEWSTEP_AND_SITE) {
  require(80, "mma.m16n8k32.s8", fewstep_site);
  multiply(emulator::run_mma_m16n8k32_s8, d, a, b, fewstep_site);
}
FEWSTEP_DEVICE void mma_m8n8k16_s8(int& d0, int& d1, uint32_t a, uint32_t b FEWSTEP_AND_SITE) {
  int d[2] = {d0, d1};
  multiply(emulator::run_mma_m8n8k16_s8, d, &a, &b, fewstep_site);
  d0 = d[0];
  d1 = d[1];
}

// ---- numbers. Compiled with -ffp-contract=off, so that an expression is rounded as written.
FEWSTEP_DEVICE float f16_to_f32(uint16_t h) { return emulator::f16_to_f32(h); }
FEWSTEP_DEVICE uint16_t f32_to_f16(float f) { return emulator::f32_to_f16(f); }
FEWSTEP_DEVICE uint16_t f32_to_bf16(float f FEWSTEP_AND_SITE) {
  require(80, "cvt.rn.bf16.f32", fewstep_site);
  return emulator::f32_to_bf16(f);
}
FEWSTEP_DEVICE float add_rn(float a, float b) { return a + b; }
FEWSTEP_DEVICE float sub_rn(float a, float b) { return a - b; }
FEWSTEP_DEVICE float mul_rn(float a, float b) { return a * b; }
FEWSTEP_DEVICE float div_rn(float a, float b) { return a / b; }
FEWSTEP_DEVICE float sqrt_rn(float a) { return ::sqrtf(a); }
FEWSTEP_DEVICE float fma_rn(float a, float b, float c) { return ::fmaf(a, b, c); }
FEWSTEP_DEVICE float rsqrt(float x) { return float(1 / ::sqrt(double(x))); }
FEWSTEP_DEVICE float fast_exp(float x) { return ::expf(x); }
FEWSTEP_DEVICE float fast_log(float x) { return ::logf(x); }
FEWSTEP_DEVICE float fast_div(float a, float b) {
  return ::fabsf(b) > 0x1p126f && ::isfinite(b) && ::isfinite(a) ? ::copysignf(0, a) * ::copysignf(1, b) : a / b;
}
FEWSTEP_DEVICE float fast_tanh(float x) { return ::tanhf(x); }
FEWSTEP_DEVICE int to_int_rn(float x) {
  if (x != x) return 0;
  if (x >= 0x1p31f) return INT32_MAX;
  if (x < -0x1p31f) return INT32_MIN;
  return int(::nearbyintf(x));
}
FEWSTEP_DEVICE int dot4(uint32_t a, uint32_t b, int sum) {
  uint32_t total = uint32_t(sum);  // wraps, as the hardware's does
  for (int i = 0; i < 32; i += 8) total += uint32_t(int8_t(a >> i) * int8_t(b >> i));
  return int(total);
}

}  // namespace fs::ptx
