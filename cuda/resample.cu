// Nearest-neighbour doubling and 2x2 average pooling over NHWC. Floor: bytes read and written over the bandwidth.
// Doubling only moves data, in units of 2, 4 or 16 bytes (shape.cu): a thread reads one and writes it four times, neighbours in C, so that every access of a
// warp is of whole sectors. Pooling computes 16 bytes of the result a thread where they are channels of one pixel, from four such reads; else one element.
#include "device/fewstep.cuh"
#include "parts/run.cuh"
#include "parts/unit.cuh"
#include "shared.h"

namespace {

using namespace shared::resample;

// The place of a unit in [rows, width, channels]: rows are those of all images, one below the other.
struct Place {
  int row, column, channel;
};

FEWSTEP_DEVICE Place place_of(uint32_t at, uint32_t width, uint32_t channels) {
  const uint32_t pixel = at / channels, row = pixel / width;
  return {int(row), int(pixel - row * width), int(at - pixel * channels)};
}

template <class T>
FEWSTEP_DEVICE void upsample2x(const fs::Block& block, const T* x, T* y, int units, int width, int channels) {
  const int64_t at = fs::thread_in_grid(block, kThreads);
  if (at >= units) return;
  const T value = load_unit(x + at);
  const Place p = place_of(uint32_t(at), uint32_t(width), uint32_t(channels));
  T* top = y + ((int64_t(p.row) * 2 * width + p.column) * 2 * channels + p.channel);
  T* bottom = top + int64_t(2) * width * channels;
  store_unit(top, value);
  store_unit(top + channels, value);
  store_unit(bottom, value);
  store_unit(bottom + channels, value);
}

// N elements a thread; more than one where `channels` is a multiple of N.
template <int N, class T>
FEWSTEP_DEVICE void avg_pool2x(const fs::Block& block, const T* x, T* y, int elements, int width, int channels) {
  const int64_t at = fs::thread_in_grid(block, kThreads) * N;
  if (at >= elements) return;
  const Place p = place_of(uint32_t(at), uint32_t(width), uint32_t(channels));
  const T* top = x + ((int64_t(p.row) * 2 * width + p.column) * 2 * channels + p.channel);
  const T* bottom = top + int64_t(2) * width * channels;
  const Run<N> a = load_run<N>(top, N), b = load_run<N>(top + channels, N), c = load_run<N>(bottom, N), d = load_run<N>(bottom + channels, N);
  Run<N> mean;
  FEWSTEP_UNROLL
  for (int i = 0; i < N; i++) mean.v[i] = 0.25f * ((a.v[i] + b.v[i]) + (c.v[i] + d.v[i]));
  store_run(y + at, mean, N);
}

}  // namespace

// upsample2x: y[N,2H,2W,C] = x[N,H,W,C] with each pixel four times; `units` of x, `width` W, `channels` C in units.
#define FEWSTEP_UPSAMPLE(bits, T)                                                                                       \
  FEWSTEP_KERNEL(kThreads, fewstep_upsample2x_##bits, const T* x, T* y, int units, int width, int channels) {           \
    upsample2x(fs::begin(), x, y, units, width, channels);                                                              \
  }

// avg_pool2x: y[N,H/2,W/2,C] = mean of 2x2 pixels of x[N,H,W,C]; `elements` and `width` of y; `run`: elements a thread, kRun<T> or 1.
#define FEWSTEP_AVG_POOL(suffix, T)                                                                                         \
  FEWSTEP_KERNEL(kThreads, fewstep_avg_pool2x_##suffix, const T* x, T* y, int elements, int width, int channels, int run) { \
    if (run > 1) {                                                                                                          \
      avg_pool2x<kRun<T>>(fs::begin(), x, y, elements, width, channels);                                                    \
    } else {                                                                                                                \
      avg_pool2x<1>(fs::begin(), x, y, elements, width, channels);                                                          \
    }                                                                                                                       \
  }

FEWSTEP_UPSAMPLE(16, uint16_t)
FEWSTEP_UPSAMPLE(32, uint32_t)
FEWSTEP_UPSAMPLE(128, fs::u32x4)
FEWSTEP_AVG_POOL(f32, float)
FEWSTEP_AVG_POOL(f16, fs::half)
FEWSTEP_AVG_POOL(bf16, fs::bf16)
