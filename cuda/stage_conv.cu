// What a quantised convolution reads (quantized_conv2d.cu): the numbers that x is rounded to, behind a group norm and SiLU if there is one, in one pass.
//
// Floor: bytes of x, read once, and of its numbers, written once, over the bandwidth: three an element for halves. The product then reads R S times a byte an
// element, where floats would be two or four; so this is worth a launch beside it.
// A block has a piece of a sample's pixels and at most 512 channels, a thread eight neighbouring channels of every few pixels: 16 bytes of half, two words of
// numbers. A norm comes by the moments of its channels, whose scales and shifts each block makes for its channels: 4 KiB of shared memory. SiLU is the CPU's
// (parts/cubic_silu.cuh): a look-up of 16 bytes in shared memory, which serves eight of them a clock, in place of two special functions, sixteen of which are done.
//
// x       [N][pixels][C] of T, or the first of its channels; then second has the others (parts/sources.cuh)
// scale   [1]        zero [1], the zero point
// staged  [N][pixels][C'] of signed bytes, C' the next multiple of 16, of which those beyond C are 0; then 16 bytes that stand for 0 (parts/staged.cuh)
#include "device/fewstep.cuh"
#include "parts/conv_norm.cuh"
#include "parts/cubic_silu.cuh"
#include "parts/rounding.cuh"
#include "parts/run.cuh"
#include "parts/sources.cuh"
#include "parts/staged.cuh"
#include "shared.h"

namespace {

using shared::conv::kThreads;

// Channels of a thread, and of a block at most; blocks that a multiprocessor has registers for.
constexpr int kCodes = 8, kSlab = kNormChannels, kBlocks = 3;
static_assert(kSlab / kCodes <= kThreads);

// Pixels and channels of a sample, channels of its numbers; pieces that its pixels are cut into, and slabs that its channels are.
// src/backend/cuda/quantized_conv2d.rs has the same.
struct Stage {
  int pixels, channels, padded, splits, slabs;
};

// Elements `channel` ... of a pixel: the `count` of them that exist, at most 0 where there are none.
template <class T>
FEWSTEP_DEVICE Run<kCodes> load_channels(const Sources<T>& x, const Stage& s, int pixel, int channel, int count) {
  if (count <= 0) return {};
  const Source<T> own = source_of(x, s.channels, channel);
  const int left = fs::min(own.channels - own.channel, count);
  Run<kCodes> q = load_run<kCodes>(own.x + (pixel * own.channels + own.channel), left);
  if (left == count) return q;
  const T* second = x.second + pixel * (s.channels - x.first_channels) - left;
  FEWSTEP_UNROLL
  for (int i = 0; i < kCodes; i++) {
    if (i >= left && i < count) q.v[i] = fs::to_float(second[i]);
  }
  return q;
}

// Four numbers as they are staged, the first at the lowest address.
FEWSTEP_DEVICE uint32_t staged_word(const int* numbers) {
  return fs::pack_s8(numbers[0] - kStagedOffset, numbers[1] - kStagedOffset, numbers[2] - kStagedOffset, numbers[3] - kStagedOffset);
}

// What is done to the elements before they are rounded: nothing; or a norm, by the scales and shifts of this thread's channels in shared memory.
struct Unchanged {};
FEWSTEP_DEVICE void change(const Unchanged&, Run<kCodes>&) {}
FEWSTEP_DEVICE float changed(const Unchanged&, float x, int) { return x; }

struct Normalised {
  const float* scale;
  const float* shift;
  const float* cubics;  // null without SiLU
};
FEWSTEP_DEVICE float normalised(const Normalised& n, float x, float scale, float shift) {
  const float y = fs::fma(x, scale, shift);
  return n.cubics ? cubic_silu(n.cubics, y) : y;
}
FEWSTEP_DEVICE void change(const Normalised& n, Run<kCodes>& x) {
  FEWSTEP_UNROLL
  for (int half = 0; half < kCodes; half += 4) {
    const Run<4> scale = unpacked(load_words<4>(n.scale + half)), shift = unpacked(load_words<4>(n.shift + half));
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) x.v[half + i] = normalised(n, x.v[half + i], scale.v[i], shift.v[i]);
  }
}
FEWSTEP_DEVICE float changed(const Normalised& n, float x, int i) { return normalised(n, x, n.scale[i], n.shift[i]); }

// change_of(sample, first channel of the block, how many, this thread's first among them) makes what changes the elements; all threads come to it.
template <class T, class ChangeOf>
FEWSTEP_DEVICE void stage(const fs::Block& block, const Sources<T>& x, int8_t* staged, const Stage& s, const Rounding& r, ChangeOf change_of) {
  const int slab = int(block.index.x) % s.slabs * kSlab, piece = int(block.index.x) / s.slabs, split = piece % s.splits, sample = piece / s.splits;
  const int width = fs::min(s.padded - slab, kSlab), lanes = width / kCodes, rows = kThreads / lanes;
  const int row = int(fs::thread_index().x) / lanes, column = int(fs::thread_index().x) % lanes * kCodes;
  const auto before = change_of(sample, slab, width, column);
  if (block.index.x == 0 && fs::thread_index().x == 0) {
    const int zero[4] = {r.zero, r.zero, r.zero, r.zero};
    const uint32_t word = staged_word(zero);
    const int pixels = int(block.grid.x) / s.slabs / s.splits * s.pixels;
    fs::store_16(staged + pixels * s.padded, {word, word, word, word});
  }
  const int each = (s.pixels + s.splits - 1) / s.splits, end = fs::min((split + 1) * each, s.pixels);
  const int channel = slab + column, count = fs::min(s.channels - channel, kCodes);
  for (int p = row < rows ? split * each + row : end; p < end; p += rows) {
    const int pixel = sample * s.pixels + p;
    Run<kCodes> q = load_channels(x, s, pixel, channel, count);
    change(before, q);
    int numbers[kCodes];
    uint32_t unsure = 0;
    FEWSTEP_UNROLL
    for (int i = 0; i < kCodes; i++) {
      const NearCode near = near_code(q.v[i], r);
      numbers[i] = i < count ? near.code : kStagedOffset;
      unsure |= uint32_t(!near.sure && i < count) << i;
    }
    int8_t* to = staged + (pixel * s.padded + channel);
    fs::store_8(to, {staged_word(numbers), staged_word(numbers + 4)});
    // The few others once more, one by one: in place above each would take its division's registers.
    for (int i = 0; unsure >> i; i++) {
      if (!(unsure >> i & 1)) continue;
      const Source<T> own = source_of(x, s.channels, channel + i);
      to[i] = int8_t(exact_code(changed(before, fs::to_float(own.x[pixel * own.channels + own.channel]), i), r) - kStagedOffset);
    }
  }
}

template <class T>
FEWSTEP_DEVICE void stage_norm(const fs::Block& block, const Sources<T>& x, int8_t* staged, const Stage& s, const Rounding& r, const ConvNorm& norm) {
  FEWSTEP_SHARED(float, scale, kSlab);
  FEWSTEP_SHARED(float, shift, kSlab);
  FEWSTEP_SHARED(float, cubics, kCubics);
  stage(block, x, staged, s, r, [&](int sample, int first, int count, int own) {
    fill_norm(norm, s.channels, sample, first, count, kThreads, scale, shift);
    fill_cubics(cubics);
    fs::sync_threads();
    return Normalised{scale + own, shift + own, norm.silu ? cubics : nullptr};
  });
}

}  // namespace

#define FEWSTEP_STAGE_CONV(suffix, T)                                                                                                                  \
  FEWSTEP_KERNEL_RESIDENT(kThreads, kBlocks, fewstep_stage_conv_##suffix, const T* x, const T* second, int first_channels, const float* scale,         \
                          const uint8_t* zero, int8_t* staged, Stage s, Range range) {                                                                 \
    const fs::Block block = fs::begin();                                                                                                               \
    stage<T>(block, {x, second, first_channels}, staged, s, rounding_of(scale[0], zero[0], range), [](int, int, int, int) { return Unchanged{}; });    \
  }                                                                                                                                                    \
  FEWSTEP_KERNEL_RESIDENT(kThreads, kBlocks, fewstep_stage_norm_conv_##suffix, const T* x, const T* second, int first_channels, const float* scale,    \
                          const uint8_t* zero, int8_t* staged, Stage s, Range range, ConvNorm norm) {                                                  \
    const fs::Block block = fs::begin();                                                                                                               \
    stage_norm<T>(block, {x, second, first_channels}, staged, s, rounding_of(scale[0], zero[0], range), norm);                                         \
  }

FEWSTEP_STAGE_CONV(f32, float)
FEWSTEP_STAGE_CONV(f16, fs::half)
FEWSTEP_STAGE_CONV(bf16, fs::bf16)
