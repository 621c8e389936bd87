// pack_conv: weights [O][C][R][S] as the convolution kernels read them, along k. For the forward convolution [O][R][S][C'], for the input gradient the
// same with O and C exchanged and the taps of each parity mirrored: [parity][C][taps][O']. The last dimension is padded with zeros to a multiple of 16
// bytes (parts/conv_shape.cuh).
// Weights of whole numbers are packed as bytes, and behind them are the sums of each output channel's: what zero points are multiplied with.
// Floor: bytes of both over the bandwidth. Writes are in order, reads are a gather of which the L2 serves all but the first touch; frozen weights are
// packed once, and in training this is a few per mille of the convolutions. One element a thread, no shared memory.
#include "device/fewstep.cuh"
#include "parts/conv_shape.cuh"
#include "parts/digits.cuh"
#include "shared.h"

namespace {

// Where an element of the packed weights comes from; negative for padding.
template <class T>
FEWSTEP_DEVICE int forward_source(const Conv& c, int at) {
  const int taps = c.kernel_h * c.kernel_w;
  const Digits place = digits_of(at, taps, padded_channels<T>(c.in_c));  // output channel, tap, input channel
  return place.low < c.in_c ? (place.high * c.in_c + place.low) * taps + place.middle : -1;
}

template <class T>
FEWSTEP_DEVICE int input_grad_source(const Conv& c, int at) {
  const int padded = padded_channels<T>(c.out_c);
  int parity = 0, size = 0;
  Parity p = parity_of(c, 0);
  for (; parity < c.stride * c.stride; parity++) {
    p = parity_of(c, parity);
    size = p.taps_h * p.taps_w * padded * c.in_c;
    if (at < size) break;
    at -= size;
  }
  const Digits place = digits_of(at, p.taps_h * p.taps_w, padded);  // input channel, tap, output channel
  const int r = p.row + (p.taps_h - 1 - place.middle / p.taps_w) * c.stride, s = p.col + (p.taps_w - 1 - place.middle % p.taps_w) * c.stride;
  return place.low < c.out_c ? ((place.low * c.in_c + place.high) * c.kernel_h + r) * c.kernel_w + s : -1;
}

template <class T>
FEWSTEP_DEVICE void pack_conv(const fs::Block& block, const float* weights, T* packed, const Conv& conv, int input_grad, int n) {
  const int64_t at = fs::thread_in_grid(block, fs::block_size().x);
  if (at >= n) return;
  const int source = input_grad ? input_grad_source<T>(conv, int(at)) : forward_source<T>(conv, int(at));
  packed[at] = fs::from_float<T>(source < 0 ? 0.0f : weights[source]);
}

// The packed weights of an output channel, a block, and their sum.
FEWSTEP_DEVICE void pack_numbers(const fs::Block& block, const int8_t* weights, int8_t* packed, const Conv& conv) {
  constexpr int kWarps = shared::conv::kThreads / 32;
  FEWSTEP_SHARED(int, sums, kWarps);
  const int channel = int(block.index.x), depth = conv.kernel_h * conv.kernel_w * padded_channels<int8_t>(conv.in_c);
  int sum = 0;
  for (int k = int(fs::thread_index().x); k < depth; k += shared::conv::kThreads) {
    const int at = channel * depth + k, source = forward_source<int8_t>(conv, at);
    const int8_t own = source < 0 ? int8_t(0) : weights[source];
    packed[at] = own;
    sum += own;
  }
  sum = fs::warp_sum(sum);
  if (fs::lane() == 0) sums[fs::warp()] = sum;
  fs::sync_threads();
  if (fs::thread_index().x != 0) return;
  for (int warp = 1; warp < kWarps; warp++) sum += sums[warp];
  reinterpret_cast<int*>(packed + conv.out_c * depth)[channel] = sum;
}

}  // namespace

// packed[n] of T. Of `conv` only the channels, the kernel and the stride are used.
#define FEWSTEP_PACK_CONV(name, T)                                                               \
  FEWSTEP_KERNEL(shared::conv::kThreads, name, const float* weights, T* packed, Conv conv, int input_grad, int n) { \
    pack_conv(fs::begin(), weights, packed, conv, input_grad, n);                                \
  }

FEWSTEP_PACK_CONV(fewstep_pack_conv_f32, float)
FEWSTEP_PACK_CONV(fewstep_pack_conv_f16, fs::half)
FEWSTEP_PACK_CONV(fewstep_pack_conv_bf16, fs::bf16)

// packed [O][R][S][C'] of whole numbers, then int [O]; a block an output channel.
FEWSTEP_KERNEL(shared::conv::kThreads, fewstep_pack_conv_i8, const int8_t* weights, int8_t* packed, Conv conv) {
  pack_numbers(fs::begin(), weights, packed, conv);
}
