// Nearest-neighbour doubling and 2x2 average pooling over NHWC. Floor: bytes read and written over the bandwidth. One thread an element of the result,
// neighbours in C: a warp reads and writes whole lines, and the four (or one) reads of a pixel meet in the caches.
#include "device/fewstep.cuh"

namespace {

constexpr int kThreads = 256;

struct Pixel {
  int n, h, w, c;
};

// Where element `at` of a tensor [.,height,width,channels] lies.
FEWSTEP_DEVICE Pixel pixel_of(int at, int height, int width, int channels) {
  const int c = at % channels, w = at / channels % width, h = at / channels / width % height;
  return {at / channels / width / height, h, w, c};
}

template <class T>
FEWSTEP_DEVICE void upsample2x(const T* x, T* y, int elements, int height, int width, int channels) {
  const int64_t at = int64_t(fs::block_index().x) * kThreads + fs::thread_index().x;
  if (at >= elements) return;
  const Pixel p = pixel_of(int(at), 2 * height, 2 * width, channels);
  y[at] = x[((p.n * height + p.h / 2) * width + p.w / 2) * channels + p.c];
}

template <class T>
FEWSTEP_DEVICE void avg_pool2x(const T* x, T* y, int elements, int height, int width, int channels) {
  const int64_t at = int64_t(fs::block_index().x) * kThreads + fs::thread_index().x;
  if (at >= elements) return;
  const Pixel p = pixel_of(int(at), height, width, channels);
  const T* top = x + (int64_t(p.n * 2 * height + 2 * p.h) * 2 * width + 2 * p.w) * channels + p.c;
  const T* bottom = top + 2 * width * channels;
  const float sum = (fs::to_float(top[0]) + fs::to_float(top[channels])) + (fs::to_float(bottom[0]) + fs::to_float(bottom[channels]));
  y[at] = fs::from_float<T>(0.25f * sum);
}

}  // namespace

// upsample2x: y[N,2H,2W,C] = x[N,H,W,C] with each pixel four times; `elements` of y, `height` and `width` of x.
// avg_pool2x: y[N,H/2,W/2,C] = mean of 2x2 pixels of x[N,H,W,C]; `elements`, `height` and `width` of y.
#define FEWSTEP_RESAMPLE(suffix, T)                                                                                                   \
  FEWSTEP_KERNEL(kThreads, fewstep_upsample2x_##suffix, const T* x, T* y, int elements, int height, int width, int channels) {        \
    upsample2x(x, y, elements, height, width, channels);                                                                              \
  }                                                                                                                                   \
  FEWSTEP_KERNEL(kThreads, fewstep_avg_pool2x_##suffix, const T* x, T* y, int elements, int height, int width, int channels) {        \
    avg_pool2x(x, y, elements, height, width, channels);                                                                              \
  }

FEWSTEP_RESAMPLE(f32, float)
FEWSTEP_RESAMPLE(f16, fs::half)
FEWSTEP_RESAMPLE(bf16, fs::bf16)
