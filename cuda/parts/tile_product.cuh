// Products of two tiles in shared memory, summed up in registers: plain multiplications for float, tensor cores for half and bf16.
//
// Rows... take operands a[row][k] and b[column][k], Columns... take a[k][row] and b[k][column]; kPitch is how far neighbouring rows of an operand lie
// apart, 16 bytes more than they are long, so that the 16-byte accesses of eight neighbouring threads fall into different banks.
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
  static constexpr int kRows = Rows, kColumns = Columns, kDepth = 16, kPitch = kDepth + 4, kThreads = Rows * Columns / 16, kRun = 1;
  struct Sum {
    float v[4][4];
  };

  FEWSTEP_DEVICE void multiply(Sum& sum, const float* a, const float* b) {
    const int row = int(fs::thread_index().x) / (Columns / 4), column = int(fs::thread_index().x) % (Columns / 4);
    FEWSTEP_UNROLL
    for (int k = 0; k < kDepth; k += 4) {
      fs::u32x4 left[4], right[4];
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; i++) left[i] = fs::load_16(a + (row + i * (Rows / 4)) * kPitch + k);
      FEWSTEP_UNROLL
      for (int j = 0; j < 4; j++) right[j] = fs::load_16(b + (column + j * (Columns / 4)) * kPitch + k);
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

  FEWSTEP_DEVICE void multiply(Sum& sum, const float* a, const float* b) {
    const int row = int(fs::thread_index().x) / (Columns / 4) * 4, column = int(fs::thread_index().x) % (Columns / 4) * 4;
    FEWSTEP_UNROLL
    for (int k = 0; k < kDepth; k++) {
      const fs::u32x4 left = fs::load_16(a + k * kPitch + row), right = fs::load_16(b + k * kPitch + column);
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

// Four warps, two by two; each holds a quarter of the tile in fragments of 16 x 8.
template <class Element, int Rows, int Columns>
struct Fragments {
  using T = Element;
  static constexpr int kRows = Rows, kColumns = Columns, kDepth = 32, kThreads = 128, kRun = 2;
  static constexpr int kAcross = Columns / 16, kDown = Rows / 32;  // fragments of a warp
  static_assert(Rows % 32 == 0 && Columns % 32 == 0);
  struct Sum {
    float v[kDown][kAcross][4];
  };

  FEWSTEP_DEVICE int warp_row() { return int(fs::warp()) / 2 * (Rows / 2); }
  FEWSTEP_DEVICE int warp_column() { return int(fs::warp()) % 2 * (Columns / 2); }

  // `right` holds two neighbouring fragments of b in each element.
  FEWSTEP_DEVICE void multiply(Sum& sum, const uint32_t (&left)[kDown][4], const uint32_t (&right)[kAcross / 2][4]) {
    FEWSTEP_UNROLL
    for (int i = 0; i < kDown; i++) {
      FEWSTEP_UNROLL
      for (int j = 0; j < kAcross; j++) {
        const uint32_t b[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
        fs::mma<T>(sum.v[i][j], left[i], b);
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
          const float values[2] = {sum.v[i][j][half * 2], sum.v[i][j][half * 2 + 1]};
          f(row + i * 16 + half * 8, column + j * 8, values);
        }
      }
    }
  }
};

template <class Element, int Rows, int Columns>
struct RowsTensor : Fragments<Element, Rows, Columns> {
  using Base = Fragments<Element, Rows, Columns>;
  static constexpr int kPitch = Base::kDepth + 8;

  FEWSTEP_DEVICE void multiply(typename Base::Sum& sum, const Element* a, const Element* b) {
    const int lane = int(fs::lane());
    const Element* row = a + (Base::warp_row() + lane % 16) * kPitch + lane / 16 * 8;
    const Element* column = b + (Base::warp_column() + lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8;
    FEWSTEP_UNROLL
    for (int k = 0; k < Base::kDepth; k += 16) {
      uint32_t left[Base::kDown][4], right[Base::kAcross / 2][4];
      FEWSTEP_UNROLL
      for (int i = 0; i < Base::kDown; i++) fs::load_matrix<4>(left[i], row + i * 16 * kPitch + k);
      FEWSTEP_UNROLL
      for (int j = 0; j < Base::kAcross / 2; j++) fs::load_matrix<4>(right[j], column + j * 16 * kPitch + k);
      Base::multiply(sum, left, right);
    }
  }
};

template <class Element, int Rows, int Columns>
struct ColumnsTensor : Fragments<Element, Rows, Columns> {
  using Base = Fragments<Element, Rows, Columns>;
  static constexpr int kPitch = Rows + 8;
  static_assert(Rows == Columns);

  FEWSTEP_DEVICE void multiply(typename Base::Sum& sum, const Element* a, const Element* b) {
    const int lane = int(fs::lane());
    const Element* row = a + (lane / 16 * 8 + lane % 8) * kPitch + Base::warp_row() + lane / 8 % 2 * 8;
    const Element* column = b + lane % 16 * kPitch + Base::warp_column() + lane / 16 * 8;
    FEWSTEP_UNROLL
    for (int k = 0; k < Base::kDepth; k += 16) {
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
