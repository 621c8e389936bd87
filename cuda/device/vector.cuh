// Wide memory access. A global or shared address; the emulator faults on a misaligned one, as the hardware does.
// ld, st and their cache operators: PTX ISA, "Data Movement and Conversion Instructions".
#pragma once
#include "kernel.cuh"

namespace fs {

/// Sixteen bytes in four registers.
struct alignas(16) u32x4 {
  uint32_t x, y, z, w;
};
/// Eight bytes in two registers.
struct alignas(8) u32x2 {
  uint32_t x, y;
};

/// One 16-byte load.
FEWSTEP_DEVICE u32x4 load_16(const void* p FEWSTEP_AND_SITE) { return *ptx::aligned<const u32x4>(p FEWSTEP_AND_HERE); }
/// One 8-byte load.
FEWSTEP_DEVICE u32x2 load_8(const void* p FEWSTEP_AND_SITE) { return *ptx::aligned<const u32x2>(p FEWSTEP_AND_HERE); }
/// One 4-byte load, of two half or four int8.
FEWSTEP_DEVICE uint32_t load_4(const void* p FEWSTEP_AND_SITE) { return *ptx::aligned<const uint32_t>(p FEWSTEP_AND_HERE); }

/// One 16-byte store.
FEWSTEP_DEVICE void store_16(void* p, u32x4 value FEWSTEP_AND_SITE) { *ptx::aligned<u32x4>(p FEWSTEP_AND_HERE) = value; }
/// One 8-byte store.
FEWSTEP_DEVICE void store_8(void* p, u32x2 value FEWSTEP_AND_SITE) { *ptx::aligned<u32x2>(p FEWSTEP_AND_HERE) = value; }
/// One 4-byte store, of two half or four int8.
FEWSTEP_DEVICE void store_4(void* p, uint32_t value FEWSTEP_AND_SITE) { *ptx::aligned<uint32_t>(p FEWSTEP_AND_HERE) = value; }

/// A float from the second-level cache (ld.global.cg), which all blocks share: how a last block reads what the others wrote. A
/// plain load may find a stale line in this multiprocessor's first-level cache.
FEWSTEP_DEVICE float load_l2(const float* p) { return ptx::load_l2(p); }
/// Sixteen bytes of it.
FEWSTEP_DEVICE u32x4 load_l2_16(const void* p FEWSTEP_AND_SITE) { return ptx::load_l2(ptx::aligned<const u32x4>(p FEWSTEP_AND_HERE)); }

}  // namespace fs
