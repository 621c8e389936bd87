// Tensor cores: D += A · B on fragments that the 32 lanes of a warp hold together, and ldmatrix, which loads them.
// PTX ISA: "Warp Level Matrix Multiply-Accumulate Instructions": "Matrix Fragments for mma.m16n8k16 with floating point type",
// "... for mma.m16n8k32", "... for mma.m16n8k8", "... for mma.m8n8k16"; ldmatrix.
//
// With g = lane / 4 and t = lane % 4, one register holding E elements (2 half or bf16, 4 int8; K = 8 E):
//   A (16 x K, rows)     a[0]: row g,     k = E t ...     a[1]: row g + 8, k = E t ...
//                        a[2]: row g,     k = K/2 + E t   a[3]: row g + 8, k = K/2 + E t
//   B (K x 8, columns)   b[0]: column g,  k = E t ...     b[1]: column g,  k = K/2 + E t ...
//   D (16 x 8)           d[0], d[1]: row g, columns 2t, 2t + 1    d[2], d[3]: row g + 8, columns 2t, 2t + 1
// Elements of a register ascend in k from its lowest bits. Products of halves are exact; the order and the rounding of their sum are
// the hardware's own. Integer sums are exact and wrap.
#pragma once
#include "block.cuh"
#include "number.cuh"

namespace fs {

/// D (16x8, f32) += A (16x16) · B (16x8), half. On sm_75 two m16n8k8.
FEWSTEP_DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] FEWSTEP_AND_SITE) {
  if (FEWSTEP_SM(80)) {
    ptx::mma_m16n8k16_f16(d, a, b FEWSTEP_AND_HERE);
  } else {
    ptx::mma_m16n8k8_f16(d, a[0], a[1], b[0] FEWSTEP_AND_HERE);
    ptx::mma_m16n8k8_f16(d, a[2], a[3], b[1] FEWSTEP_AND_HERE);
  }
}

/// D (16x8, f32) += A (16x16) · B (16x8), bf16. sm_75 has no such unit: it traps, and the host never selects such a kernel there.
FEWSTEP_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] FEWSTEP_AND_SITE) {
  if (FEWSTEP_SM(80)) {
    ptx::mma_m16n8k16_bf16(d, a, b FEWSTEP_AND_HERE);
  } else {
    trap(FEWSTEP_HERE);
  }
}

/// D (16x8, s32) += A (16x32) · B (32x8), int8. On sm_75 four m8n8k16.
FEWSTEP_DEVICE void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] FEWSTEP_AND_SITE) {
  if (FEWSTEP_SM(80)) {
    ptx::mma_m16n8k32_s8(d, a, b FEWSTEP_AND_HERE);
  } else {
    ptx::mma_m8n8k16_s8(d[0], d[1], a[0], b[0] FEWSTEP_AND_HERE);
    ptx::mma_m8n8k16_s8(d[2], d[3], a[1], b[0] FEWSTEP_AND_HERE);
    ptx::mma_m8n8k16_s8(d[0], d[1], a[2], b[1] FEWSTEP_AND_HERE);
    ptx::mma_m8n8k16_s8(d[2], d[3], a[3], b[1] FEWSTEP_AND_HERE);
  }
}

/// mma_f16 or mma_bf16, by the element type: for kernels that are templates of it.
template <class T>
FEWSTEP_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] FEWSTEP_AND_SITE) {
  static_assert(is_same<T, half> || is_same<T, bf16>);
  if constexpr (is_same<T, half>) {
    mma_f16(d, a, b FEWSTEP_AND_HERE);
  } else {
    mma_bf16(d, a, b FEWSTEP_AND_HERE);
  }
}

/// Loads N = 1, 2 or 4 matrices of 8 rows of 16 bytes from shared memory. Lanes 8i ... 8i + 7 name the rows of matrix i by their
/// 16-byte aligned addresses (other lanes' addresses are not read). registers[i] of a lane gets 4 bytes of matrix i: bytes 4t ... 4t + 3
/// of row g. That is a fragment of A when a row holds consecutive k of one A row, and of B when it holds those of one B column.
template <int N>
FEWSTEP_DEVICE void load_matrix(uint32_t (&registers)[N], const void* row FEWSTEP_AND_SITE) {
  ptx::load_matrix<N, false>(registers, row FEWSTEP_AND_HERE);
}

/// The same with each matrix, taken as 8x8 16-bit elements, transposed: registers[i] gets elements [2t][g] and [2t + 1][g].
template <int N>
FEWSTEP_DEVICE void load_matrix_transposed(uint32_t (&registers)[N], const void* row FEWSTEP_AND_SITE) {
  ptx::load_matrix<N, true>(registers, row FEWSTEP_AND_HERE);
}

}  // namespace fs
