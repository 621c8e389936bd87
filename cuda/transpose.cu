// The last two dimensions exchanged. Floor: bytes read and written over the bandwidth.
// What an element is does not matter: kernels move units of 2 or 4 bytes. A block moves a tile of 32x32 through shared memory, so that the lanes of a warp
// read neighbours and write neighbours, whole sectors both ways; a thread moves four units, all under way at once. Rows of the tile are 33 units apart: lanes
// that take a column of it meet 32 banks, and so they do where units are of 2 bytes and rows 16.5 banks apart.
#include "device/fewstep.cuh"
#include "shared.h"

namespace {

using namespace shared::transpose;
constexpr int kPitch = kTile + 1;
// Rows of a tile that a block moves at a time, a warp each.
constexpr int kWarps = kThreads / kTile;
constexpr int kEach = kTile / kWarps;
static_assert(kTile == 32, "a lane a column");

template <class T>
FEWSTEP_DEVICE void transpose(const fs::Block& block, const T* x, T* y, uint32_t rows, uint32_t columns, T* tile) {
  const uint32_t across = (columns + kTile - 1) / kTile, down = (rows + kTile - 1) / kTile;
  const uint32_t line = block.index.x / across, sample = line / down;
  const uint32_t row = (line - sample * down) * kTile, column = (block.index.x - line * across) * kTile;
  const int64_t begin = int64_t(sample) * rows * columns;
  const uint32_t lane = fs::lane(), warp = fs::warp();
  T fetched[kEach] = {};
  FEWSTEP_UNROLL
  for (int i = 0; i < kEach; i++) {
    const uint32_t from = row + warp + i * kWarps;
    if (from < rows && column + lane < columns) fetched[i] = x[begin + int64_t(from) * columns + column + lane];
  }
  FEWSTEP_UNROLL
  for (int i = 0; i < kEach; i++) tile[(warp + i * kWarps) * kPitch + lane] = fetched[i];
  fs::sync_threads();
  FEWSTEP_UNROLL
  for (int i = 0; i < kEach; i++) {
    const uint32_t away = warp + i * kWarps, to = column + away;
    if (to < columns && row + lane < rows) y[begin + int64_t(to) * rows + row + lane] = tile[lane * kPitch + away];
  }
}

}  // namespace

// y[N,columns,rows] = x[N,rows,columns] in units of `bits`; a block a tile of x, in x's order.
#define FEWSTEP_TRANSPOSE(bits, T)                                                                                              \
  FEWSTEP_KERNEL(kThreads, fewstep_transpose_##bits, const T* x, T* y, int rows, int columns) {                                 \
    FEWSTEP_SHARED(T, tile, kTile * kPitch);                                                                                    \
    transpose(fs::begin(), x, y, uint32_t(rows), uint32_t(columns), tile);                                                      \
  }

FEWSTEP_TRANSPOSE(16, uint16_t)
FEWSTEP_TRANSPOSE(32, uint32_t)
