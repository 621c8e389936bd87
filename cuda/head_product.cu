// y = a b of every sample and head, all of them matrices in strides: the three products of linear attention (src/graph/ops/head_product.rs).
//
// Floor: 2 N heads rows depth columns operations at the f32 rate; at the sizes of small nets (1024 tokens of 2 heads of 32: 4 MFLOP) a launch.
// A block has a tile of 16x16 of y, an element a thread, and walks the depth in tiles of 16 through shared memory: a warp reads two runs of 16 neighbours,
// whichever way a factor lies, and rows 17 words apart keep its lanes on banks of their own. The order of a sum is that of the depth.
#include "device/fewstep.cuh"
#include "shared.h"

namespace {

using namespace shared::head_product;
constexpr int kPitch = kTile + 1;
static_assert(kThreads == kTile * kTile, "a thread an element");

// Where samples and heads of an operand begin, and how far apart the elements of a head's rows and columns are. src/backend/cuda/head_product.rs has the same.
struct View {
  int sample, head, row, column;
};

struct Product {
  int heads, rows, depth, columns;
  View a, b, y;
};

// A tile of `from` from [row, column] on, zeros outside of [rows, columns]. Lanes take neighbours in memory.
template <class T>
FEWSTEP_DEVICE void load_tile(float* tile, const T* from, const View& v, int row, int column, int rows, int columns) {
  const int fast = int(fs::thread_index().x) % kTile, slow = int(fs::thread_index().x) / kTile;
  const int r = v.column == 1 ? slow : fast, c = v.column == 1 ? fast : slow;
  const bool there = row + r < rows && column + c < columns;
  tile[r * kPitch + c] = there ? fs::to_float(from[int64_t(row + r) * v.row + int64_t(column + c) * v.column]) : 0.0f;
}

template <class T>
FEWSTEP_DEVICE void multiply(const fs::Block& block, const T* a, const T* b, T* y, const Product& p, float* left, float* right) {
  const int across = (p.columns + kTile - 1) / kTile, down = (p.rows + kTile - 1) / kTile;
  int at = int(block.index.x);
  const int column = at % across * kTile;
  at /= across;
  const int row = at % down * kTile;
  at /= down;
  const int64_t sample = at / p.heads, head = at % p.heads;
  a += sample * p.a.sample + head * p.a.head;
  b += sample * p.b.sample + head * p.b.head;
  y += sample * p.y.sample + head * p.y.head;
  const int c = int(fs::thread_index().x) % kTile, r = int(fs::thread_index().x) / kTile;
  float sum = 0;
  for (int depth = 0; depth < p.depth; depth += kTile) {
    fs::sync_threads();
    load_tile(left, a, p.a, row, depth, p.rows, p.depth);
    load_tile(right, b, p.b, depth, column, p.depth, p.columns);
    fs::sync_threads();
    FEWSTEP_UNROLL
    for (int i = 0; i < kTile; i++) sum = fs::fma(left[r * kPitch + i], right[i * kPitch + c], sum);
  }
  if (row + r < p.rows && column + c < p.columns) y[int64_t(row + r) * p.y.row + column + c] = fs::from_float<T>(sum);
}

}  // namespace

// ceil(rows / 16) * ceil(columns / 16) * heads * N blocks of 256 threads. a, b, y: matrices [rows, depth], [depth, columns] and [rows, columns] of each head;
// y's columns are neighbours. Shared memory: 2.1 KiB.
#define FEWSTEP_HEAD_PRODUCT(suffix, T)                                                                       \
  FEWSTEP_KERNEL(kThreads, fewstep_head_product_##suffix, const T* a, const T* b, T* y, Product product) {    \
    FEWSTEP_SHARED(float, left, kTile * kPitch);                                                              \
    FEWSTEP_SHARED(float, right, kTile * kPitch);                                                             \
    multiply(fs::begin(), a, b, y, product, left, right);                                                     \
  }

FEWSTEP_HEAD_PRODUCT(f32, float)
FEWSTEP_HEAD_PRODUCT(f16, fs::half)
FEWSTEP_HEAD_PRODUCT(bf16, fs::bf16)
