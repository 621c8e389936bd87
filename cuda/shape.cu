// Ops that move data without arithmetic, along the last axis. Floor: bytes read and written over the bandwidth.
// What an element is does not matter: kernels move units of 2, 4 or 16 bytes, the widest that src/backend/cuda/shape.rs finds to divide every row. A thread
// moves two units, both under way at once, neighbouring threads neighbouring units: 8 KiB a block of 16 bytes each.
#include "device/fewstep.cuh"
#include "parts/unit.cuh"
#include "shared.h"

namespace {

using namespace shared::shape;

// The parts of a concatenation, and the last axis of each; none from the first width of 0 on.
template <class T>
struct Parts {
  const T* x[kMostParts];
  int width[kMostParts];
};

// The unit at `column` of a row of all parts together.
template <class T>
FEWSTEP_DEVICE T joined(const Parts<T>& parts, int row, int column) {
  T value = {};
  bool found = false;
  // Unrolled, so that the parameters are not indexed at run time, which would copy them to local memory.
  FEWSTEP_UNROLL
  for (int i = 0; i < kMostParts; i++) {
    if (!found && column < parts.width[i]) {
      value = load_unit(parts.x[i] + (int64_t(row) * parts.width[i] + column));
      found = true;
    }
    column -= parts.width[i];
  }
  return value;
}

// y[at] = value(row, column) for this thread's units of y [., width]; all are fetched before the first is written.
template <class T, class F>
FEWSTEP_DEVICE void fill(const fs::Block& block, T* y, int units, int width, F&& value) {
  const int64_t first = int64_t(block.index.x) * kThreads * kUnits + fs::thread_index().x;
  T fetched[kUnits];
  FEWSTEP_UNROLL
  for (int i = 0; i < kUnits; i++) {
    const int64_t at = first + i * kThreads;
    // Below 2^31, so that one division of 32 bits is all.
    const uint32_t row = uint32_t(at) / uint32_t(width);
    if (at < units) fetched[i] = value(int(row), int(uint32_t(at) - row * uint32_t(width)));
  }
  FEWSTEP_UNROLL
  for (int i = 0; i < kUnits; i++) {
    const int64_t at = first + i * kThreads;
    if (at < units) store_unit(y + at, fetched[i]);
  }
}

template <class T>
FEWSTEP_DEVICE void concat(const fs::Block& block, const Parts<T>& parts, T* y, int units, int width) {
  fill(block, y, units, width, [&](int row, int column) { return joined(parts, row, column); });
}

template <class T>
FEWSTEP_DEVICE void window(const fs::Block& block, const T* x, T* y, int units, int from, int to, int start) {
  fill(block, y, units, to, [&](int row, int column) {
    column += start;
    if (column < 0 || column >= from) return T{};
    return load_unit(x + (int64_t(row) * from + column));
  });
}

template <class T>
FEWSTEP_DEVICE void copy(const fs::Block& block, const T* x, T* y, int units) {
  fill(block, y, units, units, [&](int, int at) { return load_unit(x + at); });
}

}  // namespace

// All sizes in units of `bits`.
// concat: y[rows,width] = the parts [rows,width[i]] side by side; `units` of y.
// window: y[rows,to] = x[rows,from] read from column `start` on, and 0 where x has no such column: a slice (start > 0) or a padding (start < 0).
// copy:   y[units] = x[units].
#define FEWSTEP_SHAPE(bits, T)                                                                                                                      \
  FEWSTEP_KERNEL(kThreads, fewstep_concat_##bits, Parts<T> parts, T* y, int units, int width) { concat(fs::begin(), parts, y, units, width); }      \
  FEWSTEP_KERNEL(kThreads, fewstep_window_##bits, const T* x, T* y, int units, int from, int to, int start) {                                       \
    window(fs::begin(), x, y, units, from, to, start);                                                                                              \
  }                                                                                                                                                 \
  FEWSTEP_KERNEL(kThreads, fewstep_copy_##bits, const T* x, T* y, int units) { copy(fs::begin(), x, y, units); }

FEWSTEP_SHAPE(16, uint16_t)
FEWSTEP_SHAPE(32, uint32_t)
FEWSTEP_SHAPE(128, fs::u32x4)
