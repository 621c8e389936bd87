// Row look-ups (embeddings, dataset and cache rows), their gradient, and the integer arithmetic that addresses them. Floor: bytes of the rows over the
// bandwidth.
#include "device/fewstep.cuh"
#include "shared.h"

namespace {

using namespace shared::gather;

// The host checks indices that come from users; here they are clamped, so that none can leave the table.
FEWSTEP_DEVICE int clamp_row(int index, int rows) { return index < 0 ? 0 : index >= rows ? rows - 1 : index; }

}  // namespace

// y[B,row] = table[index[b], row] for elements of four bytes; `elements` of y.
FEWSTEP_KERNEL(kThreads, fewstep_gather_32, const uint32_t* table, const int* index, uint32_t* y, int elements, int row, int rows) {
  const int64_t at = fs::thread_in_grid(fs::begin(), kThreads);
  if (at >= elements) return;
  y[at] = table[int64_t(clamp_row(index[at / row], rows)) * row + at % row];
}

// The same from halves to floats.
FEWSTEP_KERNEL(kThreads, fewstep_gather_f16_f32, const fs::half* table, const int* index, float* y, int elements, int row, int rows) {
  const int64_t at = fs::thread_in_grid(fs::begin(), kThreads);
  if (at >= elements) return;
  y[at] = fs::to_float(table[int64_t(clamp_row(index[at / row], rows)) * row + at % row]);
}

// dtable[rows,row]: the sum of dy[b] over all b whose index is this row, in the order of the batch; one thread an element of dtable.
FEWSTEP_KERNEL(kThreads, fewstep_gather_grad_f32, const float* dy, const int* index, float* dtable, int elements, int row, int rows, int batch) {
  const int64_t at = fs::thread_in_grid(fs::begin(), kThreads);
  if (at >= elements) return;
  const int own = int(at / row), column = int(at % row);
  float sum = 0;
  for (int b = 0; b < batch; b++) {
    if (clamp_row(index[b], rows) == own) sum += dy[int64_t(b) * row + column];
  }
  dtable[at] = sum;
}

// y[n] = scale a[step n] + b[n] + shift, in integers that wrap; `step` is 1, or 0 where one a serves all.
FEWSTEP_KERNEL(kThreads, fewstep_int_affine_i32, const int* a, const int* b, int* y, int elements, int step, int scale, int shift) {
  const int64_t at = fs::thread_in_grid(fs::begin(), kThreads);
  if (at < elements) y[at] = int(uint32_t(scale) * uint32_t(a[step * at]) + uint32_t(b[at]) + uint32_t(shift));
}
