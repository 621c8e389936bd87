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

}  // namespace

// y[N,2H,2W,C] = x[N,H,W,C] with each pixel four times; `elements` of y.
FEWSTEP_KERNEL(kThreads, fewstep_upsample2x_f32, const float* x, float* y, int elements, int height, int width, int channels) {
  const int64_t at = int64_t(fs::block_index().x) * kThreads + fs::thread_index().x;
  if (at >= elements) return;
  const Pixel p = pixel_of(int(at), 2 * height, 2 * width, channels);
  y[at] = x[((p.n * height + p.h / 2) * width + p.w / 2) * channels + p.c];
}

// y[N,H/2,W/2,C] = mean of 2x2 pixels of x[N,H,W,C]; `elements` of y, `height` and `width` of y.
FEWSTEP_KERNEL(kThreads, fewstep_avg_pool2x_f32, const float* x, float* y, int elements, int height, int width, int channels) {
  const int64_t at = int64_t(fs::block_index().x) * kThreads + fs::thread_index().x;
  if (at >= elements) return;
  const Pixel p = pixel_of(int(at), height, width, channels);
  const float* top = x + (int64_t(p.n * 2 * height + 2 * p.h) * 2 * width + 2 * p.w) * channels + p.c;
  const float* bottom = top + 2 * width * channels;
  y[at] = 0.25f * ((top[0] + top[channels]) + (bottom[0] + bottom[channels]));
}
