// Muon's momentum, orthogonal directions and steps, each over many matrices in one launch (Jordan 2024; src/graph/ops/muon.rs has the formulas).
//
// A matrix x [n][k], n the smaller side, is made orthogonal in scratch by 5 steps of three products: gram = x x^T, polynomial = a I + b gram + c gram^2, and
// the polynomial times x. Floor: 5 (3 n^2 k + 2 n^3) operations at the f32 rate; the first two products are symmetric, and only half of them is computed.
// Rows of x lie `pitch` apart, those of n by n matrices `gram_pitch`, multiples of 4 with zeros behind the last column, so that all copies are whole chunks.
// Tiles of 64 by 64, or 32 by 32 where all matrices are that small. A tile is one block, whatever k: the matrices of a set fill the GPU together, and a sum has
// one order. Shared memory: three stages, 30720 and 26112 bytes for 64 by 64, 15360 and 13824 for 32 by 32.
#include "device/fewstep.cuh"
#include "parts/chunk.cuh"
#include "parts/pipeline.cuh"
#include "parts/reduce.cuh"
#include "parts/tile_product.cuh"
#include "shared.h"

namespace {

using shared::optimizer::kThreads;

// What src/backend/cuda/muon.rs cuts: a piece of a tensor, and a tile of a matrix by its first row and column.
struct Piece {
  int tensor, start, length;
};
struct Tile {
  int matrix, row, column;
};
// x is the operand transposed where `tall`; its norm is in `pieces` partial sums from `first_piece` on.
struct Matrix {
  int n, k, pitch, gram_pitch, tall, first_piece, pieces;
};

// The largest of values that are not negative, in every thread; as block_sum (parts/reduce.cuh).
FEWSTEP_DEVICE float block_max(float value, float* maxima) {
  const uint32_t warps = fs::block_size().x / 32;
  FEWSTEP_UNROLL
  for (uint32_t bits = 16; bits; bits >>= 1) value = fs::max(value, fs::shuffle_xor(value, bits));
  if (fs::lane() == 0) maxima[fs::warp()] = value;
  fs::sync_threads();
  value = fs::lane() < warps ? maxima[fs::lane()] : 0.0f;
  FEWSTEP_UNROLL
  for (uint32_t bits = 16; bits; bits >>= 1) value = fs::max(value, fs::shuffle_xor(value, bits));
  return value;
}

// 1, or the share of `whole` that a part is; 0 where all is 0.
FEWSTEP_DEVICE float share(float part, float whole) { return whole > 0 ? fs::div_rn(part, whole) : 0.0f; }

}  // namespace

// m = keep m + scale g, u = scale g + keep m. tensors[3 i + 0..2] are m (updated in place), u and g of parameter i; scale [1]. A scale that is NaN leaves m and
// copies it. Floor: 16 bytes an element over the bandwidth.
FEWSTEP_KERNEL(kThreads, fewstep_momentum_f32, const float* scale, float* const* tensors, const Piece* pieces, float keep) {
  const uint32_t number = fs::begin().index.x;
  const Piece piece = pieces[number];
  float* const* own = tensors + 3 * piece.tensor;
  float* m = own[0] + piece.start;
  float* u = own[1] + piece.start;
  const float* g = own[2] + piece.start;
  const float factor = scale[0];
  const bool usable = factor == factor;
  for (int i = int(fs::thread_index().x); i < piece.length; i += kThreads) {
    const float grad = usable ? g[i] * factor : 0.0f;
    const float moved = usable ? m[i] * keep + grad : m[i];
    m[i] = moved;
    u[i] = usable ? grad + moved * keep : moved;
  }
}

// p = p (1 - lr decay) - lr factors[i] o. tensors[2 i] is p (updated in place), tensors[2 i + 1] is o of matrix i; lr, scale [1]. A scale that is NaN changes
// nothing. Floor: 12 bytes an element over the bandwidth.
FEWSTEP_KERNEL(kThreads, fewstep_descend_f32, const float* lr, const float* scale, float* const* tensors, const float* factors, const Piece* pieces,
               float weight_decay) {
  const uint32_t number = fs::begin().index.x;
  if (scale[0] != scale[0]) return;
  const Piece piece = pieces[number];
  float* p = tensors[2 * piece.tensor] + piece.start;
  const float* direction = tensors[2 * piece.tensor + 1] + piece.start;
  const float keep = 1.0f - lr[0] * weight_decay, step = lr[0] * factors[piece.tensor];
  for (int i = int(fs::thread_index().x); i < piece.length; i += kThreads) p[i] = p[i] * keep - step * direction[i];
}

// partial[2 piece + 0..1] = the largest |x| of a piece of x[piece.tensor], and the sum of squares of x over it: no square is too large or too small for f32.
FEWSTEP_KERNEL(kThreads, fewstep_orthogonalize_norms_f32, const float* const* x, const Piece* pieces, float* partial) {
  FEWSTEP_SHARED(float, maxima, 32);
  FEWSTEP_SHARED(float, partials, 32);
  const uint32_t number = fs::begin().index.x;
  const Piece piece = pieces[number];
  const float* from = x[piece.tensor] + piece.start;
  float largest = 0, sum = 0;
  for (int i = int(fs::thread_index().x); i < piece.length; i += kThreads) largest = fs::max(largest, from[i] < 0 ? -from[i] : from[i]);
  largest = block_max(largest, maxima);
  for (int i = int(fs::thread_index().x); i < piece.length; i += kThreads) {
    const float part = share(from[i], largest);
    sum = fs::fma(part, part, sum);
  }
  sum = block_sum(sum, partials);
  if (fs::thread_index().x != 0) return;
  partial[2 * number] = largest;
  partial[2 * number + 1] = sum;
}

// to[matrix] [n][pitch] = x / |x|, transposed where x is tall; zeros where x is zeros. Pieces are those of `to`, partial sums those of x.
FEWSTEP_KERNEL(kThreads, fewstep_orthogonalize_begin_f32, const float* const* x, float* const* to, const Matrix* matrices, const Piece* pieces,
               const float* partial) {
  FEWSTEP_SHARED(float, maxima, 32);
  FEWSTEP_SHARED(float, partials, 32);
  const uint32_t number = fs::begin().index.x;
  const Piece piece = pieces[number];
  const Matrix m = matrices[piece.tensor];
  const float* parts = partial + 2 * m.first_piece;
  float largest = 0, sum = 0;
  for (int i = int(fs::thread_index().x); i < m.pieces; i += kThreads) largest = fs::max(largest, parts[2 * i]);
  largest = block_max(largest, maxima);
  for (int i = int(fs::thread_index().x); i < m.pieces; i += kThreads) {
    const float part = share(parts[2 * i], largest);
    sum += part * part * parts[2 * i + 1];
  }
  const float norm = fs::sqrt_rn(block_sum(sum, partials));
  const float* from = x[piece.tensor];
  float* own = to[piece.tensor];
  for (int at = piece.start + int(fs::thread_index().x); at < piece.start + piece.length; at += kThreads) {
    const int row = at / m.pitch, column = at % m.pitch;
    const float value = column < m.k ? from[m.tall ? column * m.n + row : row * m.k + column] : 0.0f;
    own[at] = share(share(value, largest), norm);
  }
}

namespace {

// Copies what a stage has of rows [rows][pitch] from `first` on, columns from k on: P::kRows rows that lie side by side.
template <class P>
FEWSTEP_DEVICE void copy_rows(float* stage, const float* x, int rows, int pitch, int first, int k) {
  constexpr int kChunks = P::kDepth / kChunk<float>, kPasses = P::kRows * kChunks / P::kThreads;
  static_assert(P::kRows == P::kColumns && kPasses * P::kThreads == P::kRows * kChunks);
  FEWSTEP_UNROLL
  for (int pass = 0; pass < kPasses; pass++) {
    const int i = int(fs::thread_index().x) + pass * P::kThreads;
    const int row = first + i / kChunks, column = k + i % kChunks * kChunk<float>;
    copy_chunk(stage + P::place(i / kChunks, i % kChunks), x + (row * pitch + column), row < rows && column < pitch);
  }
}

// The same of columns from `first` on, rows from k on: P::kDepth rows.
template <class P>
FEWSTEP_DEVICE void copy_columns(float* stage, const float* x, int rows, int pitch, int first, int k) {
  constexpr int kChunks = P::kColumns / kChunk<float>, kPasses = P::kDepth * kChunks / P::kThreads;
  static_assert(kPasses * P::kThreads == P::kDepth * kChunks);
  FEWSTEP_UNROLL
  for (int pass = 0; pass < kPasses; pass++) {
    const int i = int(fs::thread_index().x) + pass * P::kThreads;
    const int row = k + i / kChunks, column = first + i % kChunks * kChunk<float>;
    copy_chunk(stage + i / kChunks * P::kPitch + i % kChunks * kChunk<float>, x + (row * pitch + column), row < rows && column < pitch);
  }
}

FEWSTEP_DEVICE int steps_of(int depth, int each) { return (depth + each - 1) / each; }

// store(row, column, sum) for a tile on or above the diagonal of x x^T, x [n][pitch], and for its mirror image: columns up to the pitch of n by n matrices.
template <class P, class Store>
FEWSTEP_DEVICE void square(const Matrix& m, const Tile& tile, const float* x, int pitch, Store store) {
  constexpr int kSecond = P::kRows * P::kPitch, kStage = 2 * kSecond;
  FEWSTEP_SHARED(float, stages, kStages * kStage);
  int k = 0;
  typename P::Sum sum = {};
  multiply_stages<P, kStage, kSecond>(
    sum, stages, Slice{0, steps_of(pitch, P::kDepth)},
    [&](float* stage) {
      copy_rows<P>(stage, x, m.n, pitch, tile.row, k);
      copy_rows<P>(stage + kSecond, x, m.n, pitch, tile.column, k);
      k += P::kDepth;
    },
    Untouched{});
  P::each(sum, [&](int i, int j, const auto& value) {
    const int row = tile.row + i, column = tile.column + j;
    if (row < m.n && column < m.gram_pitch) store(row, column, value[0]);
    if (tile.row != tile.column && row < m.n && column < m.n) store(column, row, value[0]);
  });
}

template <class P>
FEWSTEP_DEVICE void gram(const fs::Block& block, const float* const* x, float* const* to, const Matrix* matrices, const Tile* tiles) {
  const Tile tile = tiles[block.index.x];
  const Matrix m = matrices[tile.matrix];
  float* own = to[tile.matrix];
  square<P>(m, tile, x[tile.matrix], m.pitch, [&](int row, int column, float sum) { own[row * m.gram_pitch + column] = sum; });
}

template <class P>
FEWSTEP_DEVICE void polynomial(const fs::Block& block, const float* const* grams, float* const* to, const Matrix* matrices, const Tile* tiles, float a, float b,
                               float c) {
  const Tile tile = tiles[block.index.x];
  const Matrix m = matrices[tile.matrix];
  const float* own = grams[tile.matrix];
  float* result = to[tile.matrix];
  square<P>(m, tile, own, m.gram_pitch, [&](int row, int column, float sum) {
    const int at = row * m.gram_pitch + column;
    result[at] = fs::fma(c, sum, fs::fma(b, own[at], row == column ? a : 0.0f));
  });
}

// The polynomial is symmetric: its rows are its columns.
template <class P>
FEWSTEP_DEVICE void product(const fs::Block& block, const float* const* polynomials, const float* const* x, float* const* to, const Matrix* matrices,
                            const Tile* tiles, bool last) {
  constexpr int kSecond = P::kDepth * P::kPitch, kStage = 2 * kSecond;
  FEWSTEP_SHARED(float, stages, kStages * kStage);
  const Tile tile = tiles[block.index.x];
  const Matrix m = matrices[tile.matrix];
  const float *left = polynomials[tile.matrix], *right = x[tile.matrix];
  float* own = to[tile.matrix];
  int k = 0;
  typename P::Sum sum = {};
  multiply_stages<P, kStage, kSecond>(
    sum, stages, Slice{0, steps_of(m.n, P::kDepth)},
    [&](float* stage) {
      copy_columns<P>(stage, left, m.n, m.gram_pitch, tile.row, k);
      copy_columns<P>(stage + kSecond, right, m.n, m.pitch, tile.column, k);
      k += P::kDepth;
    },
    Untouched{});
  P::each(sum, [&](int i, int j, const auto& values) {
    const int row = tile.row + i, column = tile.column + j;
    if (row >= m.n) return;
    FEWSTEP_UNROLL
    for (int v = 0; v < P::kRun; v++) {
      const int at = column + v;
      if (last && at < m.k) own[m.tall ? at * m.n + row : row * m.k + at] = values[v];
      if (!last && at < m.pitch) own[row * m.pitch + at] = values[v];
    }
  });
}

}  // namespace

// A block a tile. gram: x [n][pitch] to [n][gram_pitch]. polynomial: of that, to as much. product: of polynomial and x to [n][pitch], or, the last time, to the
// result as the operand was. All of them in an array of addresses, one a matrix.
#define FEWSTEP_ORTHOGONALIZE(suffix, size)                                                                                                             \
  FEWSTEP_KERNEL_RESIDENT(size * size / 16, 2, fewstep_orthogonalize_gram_f32_##suffix, const float* const* x, float* const* to,                        \
                          const Matrix* matrices, const Tile* tiles) {                                                                                  \
    gram<RowsFloat<size, size>>(fs::begin(), x, to, matrices, tiles);                                                                                   \
  }                                                                                                                                                     \
  FEWSTEP_KERNEL_RESIDENT(size * size / 16, 2, fewstep_orthogonalize_polynomial_f32_##suffix, const float* const* grams, float* const* to,              \
                          const Matrix* matrices, const Tile* tiles, float a, float b, float c) {                                                       \
    polynomial<RowsFloat<size, size>>(fs::begin(), grams, to, matrices, tiles, a, b, c);                                                                \
  }                                                                                                                                                     \
  FEWSTEP_KERNEL_RESIDENT(size * size / 16, 2, fewstep_orthogonalize_product_f32_##suffix, const float* const* polynomials, const float* const* x,      \
                          float* const* to, const Matrix* matrices, const Tile* tiles, int last) {                                                      \
    product<ColumnsFloat<size, size>>(fs::begin(), polynomials, x, to, matrices, tiles, last != 0);                                                     \
  }

FEWSTEP_ORTHOGONALIZE(64x64, 64)
FEWSTEP_ORTHOGONALIZE(32x32, 32)
