// Products of two tiles in shared memory, summed up in registers: plain multiplications for float, tensor cores for half, bf16 and signed bytes. Sums of bytes
// are whole numbers of 32 bits, all others floats.
//
// Rows... take operands a[row][k] and b[column][k], Columns... take a[k][row] and b[k][column]. kPitch is how far neighbouring rows of an operand lie
// apart. The 16-byte accesses of eight neighbouring threads must fall into different banks: rows are 16 bytes longer than they need be, or, for the rows
// of RowsTensor, place() permutes the four chunks of a row, which takes no memory.
// each() calls f(row, column, values) with kRun values of neighbouring columns, for every element that this thread holds.
#pragma once
#include "device/fewstep.cuh"
#include "parts/chunk.cuh"

namespace {

// Tiles of shared memory that are filled in turn.
constexpr int kStages = 3;

// Four columns by four rows a thread: eight 16-byte loads feed 64 multiplications. The columns of a thread lie kColumns / 4 apart: neighbouring
// threads then read neighbouring rows of b and write neighbouring elements of the result.
template <int Rows, int Columns>
struct RowsFloat {
  using T = float;
  using Scalar = float;
  static constexpr int kRows = Rows, kColumns = Columns, kDepth = 16, kPitch = kDepth + 4, kThreads = Rows * Columns / 16, kRun = 1;
  struct Sum {
    float v[4][4];
  };

  // Where a chunk of a row lies.
  FEWSTEP_DEVICE int place(int row, int chunk) { return row * kPitch + chunk * kChunk<float>; }

  // Where this thread's first row and column lie.
  struct Lane {
    int row, column;
  };
  FEWSTEP_DEVICE Lane lane() {
    return {fs::keep(int(fs::thread_index().x) / (Columns / 4) * kPitch), fs::keep(int(fs::thread_index().x) % (Columns / 4) * kPitch)};
  }

  FEWSTEP_DEVICE void multiply(Sum& sum, const Lane& lane, const float* a, const float* b) {
    const float *row = a + lane.row, *column = b + lane.column;
    FEWSTEP_UNROLL
    for (int k = 0; k < kDepth; k += 4) {
      fs::u32x4 left[4], right[4];
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; i++) left[i] = fs::load_16(row + i * (Rows / 4) * kPitch + k);
      FEWSTEP_UNROLL
      for (int j = 0; j < 4; j++) right[j] = fs::load_16(column + j * (Columns / 4) * kPitch + k);
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; i++) {
        FEWSTEP_UNROLL
        for (int j = 0; j < 4; j++) dot(sum.v[i][j], left[i], right[j]);
      }
    }
  }

  FEWSTEP_DEVICE void dot(float& sum, const fs::u32x4& a, const fs::u32x4& b) {
    sum = fs::fma(fs::bit_cast<float>(a.x), fs::bit_cast<float>(b.x), sum);
    sum = fs::fma(fs::bit_cast<float>(a.y), fs::bit_cast<float>(b.y), sum);
    sum = fs::fma(fs::bit_cast<float>(a.z), fs::bit_cast<float>(b.z), sum);
    sum = fs::fma(fs::bit_cast<float>(a.w), fs::bit_cast<float>(b.w), sum);
  }

  template <class F>
  FEWSTEP_DEVICE void each(const Sum& sum, F f) {
    const int row = int(fs::thread_index().x) / (Columns / 4), column = int(fs::thread_index().x) % (Columns / 4);
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) {
      FEWSTEP_UNROLL
      for (int j = 0; j < 4; j++) {
        const float value[1] = {sum.v[i][j]};
        f(row + i * (Rows / 4), column + j * (Columns / 4), value);
      }
    }
  }
};

// Four neighbouring columns by four neighbouring rows a thread.
template <int Rows, int Columns>
struct ColumnsFloat {
  using T = float;
  static constexpr int kRows = Rows, kColumns = Columns, kDepth = 16, kPitch = Rows + 4, kThreads = Rows * Columns / 16, kRun = 4;
  static_assert(Rows == Columns);
  struct Sum {
    float v[4][4];
  };

  struct Lane {
    int row, column;
  };
  FEWSTEP_DEVICE Lane lane() {
    return {fs::keep(int(fs::thread_index().x) / (Columns / 4) * 4), fs::keep(int(fs::thread_index().x) % (Columns / 4) * 4)};
  }

  FEWSTEP_DEVICE void multiply(Sum& sum, const Lane& lane, const float* a, const float* b) {
    FEWSTEP_UNROLL
    for (int k = 0; k < kDepth; k++) {
      const fs::u32x4 left = fs::load_16(a + k * kPitch + lane.row), right = fs::load_16(b + k * kPitch + lane.column);
      const uint32_t x[4] = {left.x, left.y, left.z, left.w}, y[4] = {right.x, right.y, right.z, right.w};
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; i++) {
        FEWSTEP_UNROLL
        for (int j = 0; j < 4; j++) sum.v[i][j] = fs::fma(fs::bit_cast<float>(x[i]), fs::bit_cast<float>(y[j]), sum.v[i][j]);
      }
    }
  }

  template <class F>
  FEWSTEP_DEVICE void each(const Sum& sum, F f) {
    const int row = int(fs::thread_index().x) / (Columns / 4) * 4, column = int(fs::thread_index().x) % (Columns / 4) * 4;
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) f(row + i, column, sum.v[i]);
  }
};

// What products of elements are summed in.
template <class Element>
struct SumOf {
  using Scalar = float;
};
template <>
struct SumOf<int8_t> {
  using Scalar = int;
};

FEWSTEP_DEVICE void multiply_fragments(int (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int8_t*) { fs::mma_s8(sum, a, b); }
template <class T>
FEWSTEP_DEVICE void multiply_fragments(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const T*) {
  fs::mma<T>(sum, a, b);
}

// Warps, Down by two; each holds its share of the tile in fragments of 16 x 8. A row of a stage is four chunks, of which one mma takes two.
template <class Element, int Rows, int Columns, int Down>
struct Fragments {
  using T = Element;
  using Scalar = typename SumOf<Element>::Scalar;
  static constexpr int kRows = Rows, kColumns = Columns, kStep = 2 * kChunk<Element>, kDepth = 2 * kStep, kThreads = 64 * Down, kRun = 2;
  static constexpr int kAcross = Columns / 16, kDown = Rows / (16 * Down);  // fragments of a warp
  static_assert(Rows % (16 * Down) == 0 && Columns % 32 == 0);
  struct Sum {
    Scalar v[kDown][kAcross][4];
  };

  FEWSTEP_DEVICE int warp_row() { return int(fs::warp()) / 2 * (Rows / Down); }
  FEWSTEP_DEVICE int warp_column() { return int(fs::warp()) % 2 * (Columns / 2); }

  // `right` holds two neighbouring fragments of b in each element.
  FEWSTEP_DEVICE void multiply(Sum& sum, const uint32_t (&left)[kDown][4], const uint32_t (&right)[kAcross / 2][4]) {
    FEWSTEP_UNROLL
    for (int i = 0; i < kDown; i++) {
      FEWSTEP_UNROLL
      for (int j = 0; j < kAcross; j++) {
        const uint32_t b[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
        multiply_fragments(sum.v[i][j], left[i], b, static_cast<const T*>(nullptr));
      }
    }
  }

  template <class F>
  FEWSTEP_DEVICE void each(const Sum& sum, F f) {
    const int row = warp_row() + int(fs::lane()) / 4, column = warp_column() + int(fs::lane()) % 4 * 2;
    FEWSTEP_UNROLL
    for (int i = 0; i < kDown; i++) {
      FEWSTEP_UNROLL
      for (int j = 0; j < kAcross; j++) {
        FEWSTEP_UNROLL
        for (int half = 0; half < 2; half++) {
          const Scalar values[2] = {sum.v[i][j][half * 2], sum.v[i][j][half * 2 + 1]};
          f(row + i * 16 + half * 8, column + j * 8, values);
        }
      }
    }
  }
};

template <class Element, int Rows, int Columns, int Down = 2>
struct RowsTensor : Fragments<Element, Rows, Columns, Down> {
  using Base = Fragments<Element, Rows, Columns, Down>;
  static constexpr int kPitch = Base::kDepth;

  // Where a chunk of a row lies. Two rows fill the 32 banks, so that eight neighbouring rows have each pattern of `row / 2 % 4` twice, in either half.
  FEWSTEP_DEVICE int place(int row, int chunk) { return row * kPitch + (chunk ^ (row / 2 % 4)) * kChunk<Element>; }

  // Where this lane's rows of the first fragments lie. Those of the others are multiples of 8 rows on and have the same pattern; the second half of a
  // stage's depth is two chunks on, which in any pattern is one bit.
  struct Lane {
    int row, column;
  };
  FEWSTEP_DEVICE Lane lane() {
    const int lane = int(fs::lane());
    return {fs::keep(place(Base::warp_row() + lane % 16, lane / 16)), fs::keep(place(Base::warp_column() + lane / 16 * 8 + lane % 8, lane / 8 % 2))};
  }

  FEWSTEP_DEVICE void multiply(typename Base::Sum& sum, const Lane& lane, const Element* a, const Element* b) {
    FEWSTEP_UNROLL
    for (int k = 0; k < Base::kDepth; k += Base::kStep) {
      const Element *row = a + (lane.row ^ k), *column = b + (lane.column ^ k);
      uint32_t left[Base::kDown][4], right[Base::kAcross / 2][4];
      FEWSTEP_UNROLL
      for (int i = 0; i < Base::kDown; i++) fs::load_matrix<4>(left[i], row + i * 16 * kPitch);
      FEWSTEP_UNROLL
      for (int j = 0; j < Base::kAcross / 2; j++) fs::load_matrix<4>(right[j], column + j * 16 * kPitch);
      Base::multiply(sum, left, right);
    }
  }
};

template <class Element, int Rows, int Columns>
struct ColumnsTensor : Fragments<Element, Rows, Columns, 2> {
  using Base = Fragments<Element, Rows, Columns, 2>;
  static constexpr int kPitch = Rows + 8;
  static_assert(Rows == Columns);

  struct Lane {
    int row, column;
  };
  FEWSTEP_DEVICE Lane lane() {
    const int lane = int(fs::lane());
    return {fs::keep((lane / 16 * 8 + lane % 8) * kPitch + Base::warp_row() + lane / 8 % 2 * 8),
            fs::keep(lane % 16 * kPitch + Base::warp_column() + lane / 16 * 8)};
  }

  FEWSTEP_DEVICE void multiply(typename Base::Sum& sum, const Lane& lane, const Element* a, const Element* b) {
    const Element *row = a + lane.row, *column = b + lane.column;
    FEWSTEP_UNROLL
    for (int k = 0; k < Base::kDepth; k += Base::kStep) {
      uint32_t left[Base::kDown][4], right[Base::kAcross / 2][4];
      FEWSTEP_UNROLL
      for (int i = 0; i < Base::kDown; i++) fs::load_matrix_transposed<4>(left[i], row + k * kPitch + i * 16);
      FEWSTEP_UNROLL
      for (int j = 0; j < Base::kAcross / 2; j++) fs::load_matrix_transposed<4>(right[j], column + k * kPitch + j * 16);
      Base::multiply(sum, left, right);
    }
  }
};

}  // namespace
