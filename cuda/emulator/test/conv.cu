// A convolution of the kind that the library's are: implicit GEMM, cp.async double buffer, ldmatrix, mma; right, and with two bugs.
#include "conv.hpp"

#include "fewstep.cuh"

namespace {

using trial::ConvShape;

enum class Bug { none, weak_wait, missing_second_barrier };

// 64 pixels x 64 channels a block; 4 warps of 32 x 32; k runs over (tap, channel) in steps of 32.
template <class T, Bug bug>
FEWSTEP_DEVICE void convolve(const fs::Block& block, const T* x, const T* weights, const float* bias, const T* residual, T* y, ConvShape s) {
  constexpr int tile = trial::tile, depth = trial::depth, row = trial::row;
  FEWSTEP_DYNAMIC_SHARED(shared);
  T* const a_tiles = reinterpret_cast<T*>(shared);  // [2][64][row]
  T* const b_tiles = a_tiles + 2 * tile * row;      // [2][64][row]
  const int pixels = s.n * s.out_h * s.out_w, total = 9 * s.c;
  const int first_pixel = int(block.index.x) * tile, first_channel = int(block.index.y) * tile;
  const int thread = int(fs::thread_index().x), lane = int(fs::lane()), warp = int(fs::warp());
  const int warp_row = warp % 2 * 32, warp_column = warp / 2 * 32;

  const auto load = [&](int step, int buffer) {
    for (int v = thread; v < tile * depth / 8; v += int(trial::threads)) {
      const int r = v / 4, k = step * depth + v % 4 * 8, pixel = first_pixel + r;
      const int tap = k / s.c, channel = k % s.c;
      const int out_x = pixel % s.out_w, out_y = pixel / s.out_w % s.out_h, image = pixel / (s.out_w * s.out_h);
      const int in_y = out_y * s.stride + tap / 3 - 1, in_x = out_x * s.stride + tap % 3 - 1;
      const bool inside = pixel < pixels && k < total && in_y >= 0 && in_y < s.h && in_x >= 0 && in_x < s.w;
      const T* from = inside ? x + ((size_t(image) * s.h + in_y) * s.w + in_x) * s.c + channel : x;
      fs::copy_async_16(a_tiles + (buffer * tile + r) * row + v % 4 * 8, from, inside ? 16 : 0);
      const bool exists = first_channel + r < s.k && k < total;
      from = exists ? weights + size_t(first_channel + r) * total + k : weights;
      fs::copy_async_16(b_tiles + (buffer * tile + r) * row + v % 4 * 8, from, exists ? 16 : 0);
    }
  };

  float sums[2][4][4] = {};
  load(0, 0);
  fs::copy_async_commit();
  for (int step = 0; step * depth < total; step++) {
    if ((step + 1) * depth < total) load(step + 1, (step + 1) % 2);
    fs::copy_async_commit();
    fs::copy_async_wait<bug == Bug::weak_wait ? 2 : 1>();
    fs::sync_threads();
    const T* a_tile = a_tiles + step % 2 * tile * row;
    const T* b_tile = b_tiles + step % 2 * tile * row;
    FEWSTEP_UNROLL
    for (int k = 0; k < depth; k += 16) {
      uint32_t a[2][4], b[4][2];
      FEWSTEP_UNROLL
      for (int i = 0; i < 2; i++) fs::load_matrix(a[i], a_tile + (warp_row + i * 16 + lane % 16) * row + k + lane / 16 * 8);
      FEWSTEP_UNROLL
      for (int j = 0; j < 4; j++) fs::load_matrix(b[j], b_tile + (warp_column + j * 8 + lane % 8) * row + k + lane / 8 % 2 * 8);
      FEWSTEP_UNROLL
      for (int i = 0; i < 2; i++) {
        FEWSTEP_UNROLL
        for (int j = 0; j < 4; j++) fs::mma<T>(sums[i][j], a[i], b[j]);
      }
    }
    if (bug != Bug::missing_second_barrier) fs::sync_threads();
  }

  FEWSTEP_UNROLL
  for (int i = 0; i < 2; i++) {
    FEWSTEP_UNROLL
    for (int j = 0; j < 4; j++) {
      FEWSTEP_UNROLL
      for (int half = 0; half < 2; half++) {
        const int pixel = first_pixel + warp_row + i * 16 + half * 8 + lane / 4;
        const int channel = first_channel + warp_column + j * 8 + 2 * (lane % 4);
        if (pixel >= pixels || channel >= s.k) continue;
        const size_t at = size_t(pixel) * s.k + channel;
        float low = sums[i][j][2 * half] + bias[channel], high = sums[i][j][2 * half + 1] + bias[channel + 1];
        if (residual) {
          const uint32_t pair = fs::load_4(residual + at);
          low += fs::unpack_low<T>(pair);
          high += fs::unpack_high<T>(pair);
        }
        fs::store_4(y + at, fs::pack<T>(low, high));
      }
    }
  }
}

using fs::bf16;
using fs::half;
}  // namespace

FEWSTEP_KERNEL(128, test_conv_f16, const half* x, const half* w, const float* bias, const half* residual, half* y, ConvShape s) {
  convolve<half, Bug::none>(fs::this_block(), x, w, bias, residual, y, s);
}
FEWSTEP_KERNEL(128, test_conv_bf16, const bf16* x, const bf16* w, const float* bias, const bf16* residual, bf16* y, ConvShape s) {
  convolve<bf16, Bug::none>(fs::this_block(), x, w, bias, residual, y, s);
}
FEWSTEP_KERNEL(128, bug_weak_wait, const half* x, const half* w, const float* bias, const half* residual, half* y, ConvShape s) {
  convolve<half, Bug::weak_wait>(fs::this_block(), x, w, bias, residual, y, s);
}
FEWSTEP_KERNEL(128, bug_overwritten_buffer, const half* x, const half* w, const float* bias, const half* residual, half* y, ConvShape s) {
  convolve<half, Bug::missing_second_barrier>(fs::this_block(), x, w, bias, residual, y, s);
}
