// Convolutions of whole numbers of one byte: y from numbers that stage_conv.cu has made of x. Sums are exact, and floats are made of them in the order that
// src/graph/ops/fused_conv2d.rs defines, each rounded by itself: f32 results are those of the CPU, bit for bit.
//
// Floor: 2 N P Q O R S C operations over the rate of the tensor cores (bytes: 2048 a clock and multiprocessor on sm_80, 4096 on sm_90 by wgmma, of which mma.sync
// gets some 60 %; twice those of halves everywhere), or the bytes of x, w and y over the bandwidth, whichever is longer.
//
// Tiles, stages, slices and moments are those of conv2d.cu on halves, byte for byte: a stage is 64 bytes a row, here 64 terms of the sum and not 32, so that a sum
// has half the steps; a warp's fragments take as many registers. Shared memory: 36864, 24576 and 12288 bytes.
//
// x        staged, [N][H][W][C] of signed bytes, C a multiple of 16, and a chunk of 16 that stands for padding (parts/staged.cuh)
// weights  packed: [O][R][S][C] of signed bytes, then int [O], the sum of each channel's (pack_conv.cu)
// factors  [O]                     zero [1], the zero point of x
// bias     [O], or null            addend [N][O] and residual [N][P][Q][O] of T, each or null       y [N][P][Q][O] of T
// partial  [slices][N][P][Q][O] of int, or null: slices is 1
// counters, moments, pieces: as in conv2d.cu
#include "device/fewstep.cuh"
#include "parts/conv_forward.cuh"
#include "parts/conv_output.cuh"
#include "parts/conv_product.cuh"
#include "parts/conv_shape.cuh"
#include "parts/staged.cuh"
#include "parts/tile_product.cuh"

namespace {

using BytesTall = RowsTensor<int8_t, 128, 64>;
using BytesLarge = RowsTensor<int8_t, 64, 64>;
using BytesSmall = RowsTensor<int8_t, 32, 32>;
static_assert(BytesSmall::kThreads == shared::conv::kTensorThreads && BytesTall::kRows == shared::conv::kTallRows);

template <class P, class T>
FEWSTEP_DEVICE void quantized_conv2d(const fs::Block& block, const int8_t* x, const int8_t* weights, const float* factors, const uint8_t* zero,
                                     const Output<T>& out, const Conv& conv, int slices) {
  FEWSTEP_SHARED(int8_t, stages, kStages * RowCopies<P>::kStage);
  const Staged staged = {x, x + conv.images * conv.in_h * conv.in_w * conv.in_c};
  const int* sums = reinterpret_cast<const int*>(weights + conv.out_c * conv.kernel_h * conv.kernel_w * conv.in_c);
  const Scaling scaling = {factors, sums, int(zero[0]) - kStagedOffset};
  convolve_forward<P>(block, stages, staged, weights, out, scaling, conv, slices, [](const RowCopies<P>&) { return Untouched{}; });
}

}  // namespace

#define FEWSTEP_QUANTIZED_CONV2D(suffix, P, T)                                                                                                         \
  FEWSTEP_KERNEL(P::kThreads, fewstep_quantized_conv2d_##suffix, const int8_t* x, const int8_t* weights, const float* factors, const uint8_t* zero,    \
                 const float* bias, const T* addend, const T* residual, T* y, float* partial, uint32_t* counters, float* moments, float* pieces,       \
                 Conv conv, int slices, float scale) {                                                                                                 \
    const Epilogue<T> epilogue = {bias, addend, residual, scale, conv.out_c, conv.out_h * conv.out_w};                                                 \
    const Output<T> out = {epilogue, {y, nullptr, nullptr, conv.out_c}, partial, counters, {moments, pieces}};                                         \
    quantized_conv2d<P, T>(fs::begin(), x, weights, factors, zero, out, conv, slices);                                                                 \
  }

FEWSTEP_QUANTIZED_CONV2D(f32_128x64, BytesTall, float)
FEWSTEP_QUANTIZED_CONV2D(f32_64x64, BytesLarge, float)
FEWSTEP_QUANTIZED_CONV2D(f32_32x32, BytesSmall, float)
FEWSTEP_QUANTIZED_CONV2D(f16_128x64, BytesTall, fs::half)
FEWSTEP_QUANTIZED_CONV2D(f16_64x64, BytesLarge, fs::half)
FEWSTEP_QUANTIZED_CONV2D(f16_32x32, BytesSmall, fs::half)
FEWSTEP_QUANTIZED_CONV2D(bf16_128x64, BytesTall, fs::bf16)
FEWSTEP_QUANTIZED_CONV2D(bf16_64x64, BytesLarge, fs::bf16)
FEWSTEP_QUANTIZED_CONV2D(bf16_32x32, BytesSmall, fs::bf16)
