// Sums x[outer, reduced, inner] over its middle to [outer, inner], in an order fixed by the shape: `parts` slices of the middle are summed into partial
// sums [outer, parts, inner], and a second launch adds those in order. Floor: bytes of x over the bandwidth; slices are cut so that they fill the GPU.
#include "device/fewstep.cuh"
#include "parts/reduce.cuh"
#include "shared.h"

namespace {

using namespace shared::reduce;
// Rows that a block of the column kernel reads at a time.
constexpr int kLanes = kThreads / kColumns;

// The rows of slice `part` of `parts`: the first ones take one more where they do not divide.
struct Range {
  int begin, end;
};
FEWSTEP_DEVICE Range slice_of(int reduced, int parts, int part) {
  const int each = reduced / parts, more = reduced % parts;
  const int begin = part * each + fs::min(part, more);
  return {begin, begin + each + (part < more ? 1 : 0)};
}

template <class T>
FEWSTEP_DEVICE void sum_columns(const fs::Block& block, const T* x, float* y, int reduced, int inner, float* sums) {
  const int part = int(block.index.y), parts = int(block.grid.y);
  const int64_t outer = block.index.z;
  const int column = int(block.index.x) * kColumns + int(fs::lane());
  const Range rows = slice_of(reduced, parts, part);
  float sum = 0;
  if (column < inner) {
    for (int row = rows.begin + int(fs::warp()); row < rows.end; row += kLanes) sum += fs::to_float(x[(outer * reduced + row) * inner + column]);
  }
  sums[fs::thread_index().x] = sum;
  fs::sync_threads();
  if (fs::warp() == 0 && column < inner) {
    float total = 0;
    FEWSTEP_UNROLL
    for (int i = 0; i < kLanes; i++) total += sums[i * kColumns + int(fs::lane())];
    y[(outer * parts + part) * inner + column] = total;
  }
}

template <class T>
FEWSTEP_DEVICE void sum_runs(const fs::Block& block, const T* x, float* y, int reduced, float* partials) {
  const int part = int(block.index.y), parts = int(block.grid.y);
  const int64_t outer = block.index.z;
  const Range run = slice_of(reduced, parts, part);
  float sum = 0;
  for (int i = run.begin + int(fs::thread_index().x); i < run.end; i += kThreads) sum += fs::to_float(x[outer * reduced + i]);
  sum = block_sum(sum, partials);
  if (fs::thread_index().x == 0) y[outer * parts + part] = sum;
}

}  // namespace

// sum_columns: grid (columns / 32, parts, outer). y [outer, parts, inner].
// sum_runs: the same where inner is 1: neighbours are summed. Grid (1, parts, outer). y [outer, parts].
#define FEWSTEP_SUM(suffix, T)                                                                              \
  FEWSTEP_KERNEL(kThreads, fewstep_sum_columns_##suffix, const T* x, float* y, int reduced, int inner) {    \
    FEWSTEP_SHARED(float, sums, kThreads);                                                                  \
    sum_columns(fs::begin(), x, y, reduced, inner, sums);                                                   \
  }                                                                                                         \
  FEWSTEP_KERNEL(kThreads, fewstep_sum_runs_##suffix, const T* x, float* y, int reduced) {                  \
    FEWSTEP_SHARED(float, partials, 32);                                                                    \
    sum_runs(fs::begin(), x, y, reduced, partials);                                                         \
  }

FEWSTEP_SUM(f32, float)
FEWSTEP_SUM(f16, fs::half)
FEWSTEP_SUM(bf16, fs::bf16)

// y[outer, inner] = sum over parts of partial[outer, parts, inner]; `elements` of y.
FEWSTEP_KERNEL(kThreads, fewstep_sum_parts_f32, const float* partial, float* y, int elements, int parts, int inner) {
  const int64_t at = fs::thread_in_grid(fs::begin(), kThreads);
  if (at >= elements) return;
  const float* from = partial + at / inner * parts * inner + at % inner;
  float sum = 0;
  for (int part = 0; part < parts; part++) sum += from[int64_t(part) * inner];
  y[at] = sum;
}
