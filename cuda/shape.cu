// Ops that move data without arithmetic, along the last axis; elements of two or four bytes. Floor: bytes read and written over the bandwidth. One thread an
// element of the result, neighbours in the last axis.
#include "device/fewstep.cuh"

namespace {

constexpr int kThreads = 256;
constexpr int kMostParts = 8;

// The parts of a concatenation, and the last axis of each; none from the first width of 0 on.
template <class T>
struct Parts {
  const T* x[kMostParts];
  int width[kMostParts];
};

template <class T>
FEWSTEP_DEVICE void concat(const Parts<T>& parts, T* y, int elements, int width) {
  const int64_t at = int64_t(fs::block_index().x) * kThreads + fs::thread_index().x;
  if (at >= elements) return;
  const int row = int(at / width);
  int column = int(at % width);
  T value = 0;
  bool found = false;
  // Unrolled, so that the parameters are not indexed at run time, which would copy them to local memory.
  FEWSTEP_UNROLL
  for (int i = 0; i < kMostParts; i++) {
    if (!found && column < parts.width[i]) {
      value = parts.x[i][int64_t(row) * parts.width[i] + column];
      found = true;
    }
    column -= parts.width[i];
  }
  y[at] = value;
}

template <class T>
FEWSTEP_DEVICE void window(const T* x, T* y, int elements, int from, int to, int start) {
  const int64_t at = int64_t(fs::block_index().x) * kThreads + fs::thread_index().x;
  if (at >= elements) return;
  const int column = int(at % to) + start;
  y[at] = column >= 0 && column < from ? x[at / to * from + column] : T(0);
}

}  // namespace

// concat: y[rows,width] = the parts [rows,width[i]] side by side; `elements` of y.
// window: y[rows,to] = x[rows,from] read from column `start` on, and 0 where x has no such column: a slice (start > 0) or a padding (start < 0).
#define FEWSTEP_SHAPE(bits, T)                                                                                                       \
  FEWSTEP_KERNEL(kThreads, fewstep_concat_##bits, Parts<T> parts, T* y, int elements, int width) { concat(parts, y, elements, width); } \
  FEWSTEP_KERNEL(kThreads, fewstep_window_##bits, const T* x, T* y, int elements, int from, int to, int start) {                     \
    window(x, y, elements, from, to, start);                                                                                         \
  }

FEWSTEP_SHAPE(16, uint16_t)
FEWSTEP_SHAPE(32, uint32_t)

// y[n] = x[n].
FEWSTEP_KERNEL(kThreads, fewstep_copy_32, const uint32_t* x, uint32_t* y, int elements) {
  const int64_t at = int64_t(fs::block_index().x) * kThreads + fs::thread_index().x;
  if (at < elements) y[at] = x[at];
}
