// conv2d_input_grad: dx of a convolution as a convolution of dy. With stride t the pixels of dx fall into t * t parities, each of which sees only its own
// taps: every parity is a convolution of stride 1, so that no product with a zero between the strides is computed (parts/conv_shape.cuh).
// Floor, tiles and shared memory: as conv2d.cu, with O and C exchanged.
//
// dy      [N][P][Q][O] of T                      dx      [N][H][W][C] of T
// weights packed for T and the input gradient    partial [slices][N][H][W][C], or null: then slices is 1
//
// Grid: pixels of the largest parity / rows, C / columns, parities * slices.
#include "device/fewstep.cuh"
#include "parts/conv_output.cuh"
#include "parts/conv_product.cuh"
#include "parts/conv_shape.cuh"
#include "parts/quad.cuh"
#include "parts/tile_product.cuh"

namespace {

template <class P, class T>
FEWSTEP_DEVICE void conv2d_input_grad(const fs::Block& block, const T* dy, const T* weights, T* dx, float* partial, const Conv& conv, int slices) {
  const int pixels = conv.in_h * conv.in_w, slice = int(block.index.z) % slices;
  FEWSTEP_SHARED(T, stages, kStages * RowCopies<P>::kStage);
  const Epilogue<T> epilogue = {nullptr, nullptr, nullptr, 1.0f, conv.in_c, pixels};
  const Result<T> result = {dx, nullptr, nullptr, conv.in_c};
  float* scratch = slice_scratch(partial, slice, conv.images * pixels * conv.in_c);
  const Parity parity = parity_of(conv, int(block.index.z) / slices);
  const Window w = input_grad_window(conv, parity);
  const Sources<T> sources = {dy, nullptr, conv.out_c};
  convolve<P>(block, stages, sources, weights + parity.taps_before * padded_channels<T>(conv.out_c) * conv.in_c, w, conv.in_c, slice, slices,
              [](const RowCopies<P>&) { return Untouched{}; });
  const Column<T> column = column_of(epilogue, result, Share<P>::channel(block));
  each_of_share<P>(block, reinterpret_cast<float*>(stages), w, conv.in_c, [&](int pixel, const float* place) {
    Quad sums = load_whole(place);
    if (scratch) {
      store_channels(column, scratch + (pixel * conv.in_c + column.channel), sums);
    } else {
      finish(epilogue, column, sums, pixel, 0);
    }
  });
}

}  // namespace

#define FEWSTEP_CONV2D_INPUT_GRAD(name, P, T)                                                                      \
  FEWSTEP_KERNEL(P::kThreads, name, const T* dy, const T* weights, T* dx, float* partial, Conv conv, int slices) { \
    conv2d_input_grad<P>(fs::begin(), dy, weights, dx, partial, conv, slices);                                     \
  }

FEWSTEP_CONV2D_INPUT_GRAD(fewstep_conv2d_input_grad_f32_64x64, FloatLarge, float)
FEWSTEP_CONV2D_INPUT_GRAD(fewstep_conv2d_input_grad_f32_32x32, FloatSmall, float)
FEWSTEP_CONV2D_INPUT_GRAD(fewstep_conv2d_input_grad_f16_128x64, HalfTall, fs::half)
FEWSTEP_CONV2D_INPUT_GRAD(fewstep_conv2d_input_grad_f16_64x64, HalfLarge, fs::half)
FEWSTEP_CONV2D_INPUT_GRAD(fewstep_conv2d_input_grad_f16_32x32, HalfSmall, fs::half)
FEWSTEP_CONV2D_INPUT_GRAD(fewstep_conv2d_input_grad_bf16_128x64, Bf16Tall, fs::bf16)
FEWSTEP_CONV2D_INPUT_GRAD(fewstep_conv2d_input_grad_bf16_64x64, Bf16Large, fs::bf16)
FEWSTEP_CONV2D_INPUT_GRAD(fewstep_conv2d_input_grad_bf16_32x32, Bf16Small, fs::bf16)
