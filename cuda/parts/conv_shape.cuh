// The index arithmetic of a convolution and of its input gradient.
#pragma once
#include "device/fewstep.cuh"

namespace {

// A convolution of x [images][in_h][in_w][in_c] with w [out_c][in_c][kernel_h][kernel_w] to y [images][out_h][out_w][out_c]; zeros beyond the edges,
// `top` rows and `left` columns of them before the first. src/backend/cuda/conv2d.rs has the same and keeps every product of sizes within 31 bits.
struct Conv {
  int images, in_h, in_w, in_c, out_h, out_w, out_c, kernel_h, kernel_w, stride, top, left;
};

// What one implicit matrix product does: pixel (row, col) of an image is a sum over taps (r, s) of what a tensor holds at
// (row * stride + r - top, col * stride + s - left), and goes to (out_row + row * step, out_col + col * step) of the result.
struct Window {
  int images, in_h, in_w, in_c;
  int rows, cols, taps_h, taps_w, stride, top, left;
  int out_h, out_w, step, out_row, out_col;
};

// y from x.
FEWSTEP_DEVICE Window forward_window(const Conv& c) {
  return {c.images, c.in_h, c.in_w, c.in_c, c.out_h, c.out_w, c.kernel_h, c.kernel_w, c.stride, c.top, c.left, c.out_h, c.out_w, 1, 0, 0};
}

// With stride t, the pixels of dx with (y + top) mod t = row and (x + left) mod t = col see the taps r = row + t j, s = col + t i and no others. There
// are t * t such parities; their weights are packed one parity after the other.
struct Parity {
  int row, col;
  int taps_h, taps_w;  // how many r and s
  int taps_before;     // taps of the parities before this one
};

// How many r in [0, kernel) have r mod stride = parity.
FEWSTEP_DEVICE int taps_of(int kernel, int stride, int parity) { return parity < kernel ? (kernel - parity + stride - 1) / stride : 0; }

FEWSTEP_DEVICE Parity parity_of(const Conv& c, int index) {
  if (c.stride == 1) return {0, 0, c.kernel_h, c.kernel_w, 0};  // the most frequent case, without the divisions
  Parity p = {index / c.stride, index % c.stride, 0, 0, 0};
  p.taps_h = taps_of(c.kernel_h, c.stride, p.row);
  p.taps_w = taps_of(c.kernel_w, c.stride, p.col);
  for (int i = 0; i < p.row; i++) p.taps_before += taps_of(c.kernel_h, c.stride, i) * c.kernel_w;
  for (int i = 0; i < p.col; i++) p.taps_before += taps_of(c.kernel_w, c.stride, i) * p.taps_h;
  return p;
}

// Along one direction: the parity's first pixel of dx, how many there are, and how far the mirrored taps begin before the pixel's number.
struct ParityAxis {
  int first, count, before;
};

FEWSTEP_DEVICE ParityAxis parity_axis(int size, int stride, int pad, int parity, int taps) {
  if (stride == 1) return {0, size, taps - 1 - pad};
  int first = (parity - pad) % stride;
  if (first < 0) first += stride;
  return {first, first < size ? (size - first + stride - 1) / stride : 0, taps - 1 - (first + pad - parity) / stride};
}

// dx of one parity from dy: dx[first + t i] = sum over j of w[parity + t j] dy[(first + pad - parity) / t + i - j]. Walking j backwards makes that a
// convolution of stride 1.
FEWSTEP_DEVICE Window input_grad_window(const Conv& c, const Parity& p) {
  const ParityAxis v = parity_axis(c.in_h, c.stride, c.top, p.row, p.taps_h);
  const ParityAxis h = parity_axis(c.in_w, c.stride, c.left, p.col, p.taps_w);
  const bool none = p.taps_h == 0 || p.taps_w == 0;  // a kernel smaller than the stride: such pixels of dx are zero
  return {c.images, c.out_h, c.out_w, c.out_c, v.count, h.count, none ? 0 : p.taps_h, none ? 1 : p.taps_w, 1, v.before, h.before,
          c.in_h,   c.in_w,  c.stride, v.first, h.first};
}

// Rows of the matrix product.
FEWSTEP_DEVICE int pixels_of(const Window& w) { return w.images * w.rows * w.cols; }

// Where row m of the product lies among the pixels of the result.
FEWSTEP_DEVICE int result_pixel(const Window& w, int m) {
  if (w.step == 1) return m;
  const int col = m % w.cols, rest = m / w.cols, row = rest % w.rows, image = rest / w.rows;
  return (image * w.out_h + w.out_row + row * w.step) * w.out_w + w.out_col + col * w.step;
}

// Channels that packed weights have for one tap: whole 16-byte chunks, so that no chunk lies in two taps.
template <class T>
FEWSTEP_DEVICE int padded_channels(int channels) {
  constexpr int kPerChunk = 16 / int(sizeof(T));
  return (channels + kPerChunk - 1) / kPerChunk * kPerChunk;
}

// The part of a sum of `steps` terms that slice `index` of `count` computes.
struct Slice {
  int first, last;
};

FEWSTEP_DEVICE Slice slice_of(int steps, int index, int count) {
  const int each = steps / count, longer = steps % count;  // the first `longer` slices have a step more
  const int first = index * each + fs::min(index, longer);
  return {first, first + each + (index < longer)};
}

}  // namespace
