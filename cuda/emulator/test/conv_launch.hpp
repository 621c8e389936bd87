// What the tests of the convolutions share: their shapes, types and launches.
#ifndef FEWSTEP_TEST_CONV_LAUNCH_HPP
#define FEWSTEP_TEST_CONV_LAUNCH_HPP
#include <string.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "formats.hpp"

namespace conv_launch {

using check::Array;
using check::that;

// As in parts/conv_shape.cuh.
struct Conv {
  int images, in_h, in_w, in_c, out_h, out_w, out_c, kernel_h, kernel_w, stride, top, left;
};

/// Of a block.
struct Tile {
  int rows, columns;
};
constexpr Tile small = {32, 32}, large = {64, 64}, tall = {128, 64};

struct Float : format::Float {
  static constexpr int chunk = 4;
  static constexpr Tile tiles[] = {small, large};
  static uint32_t threads(Tile tile) { return uint32_t(tile.rows * tile.columns / 16); }
};
struct Half : format::Half {
  static constexpr int chunk = 8;
  static constexpr Tile tiles[] = {small, large, tall};
  static uint32_t threads(Tile) { return 128; }
};
struct Bf16 : format::Bf16 {
  static constexpr int chunk = 8;
  static constexpr Tile tiles[] = {small, large, tall};
  static uint32_t threads(Tile) { return 128; }
};

using Grid = std::array<int, 3>;
inline int blocks(int n, int tile) { return (n + tile - 1) / tile; }

template <class... P>
inline void launch(const std::string& name, Grid grid, uint32_t threads, P... parameters) {
  const fewstep_emu_kernel* kernel = fewstep_emu_find(name.c_str());
  that(kernel, "no kernel %s", name.c_str());
  that(fewstep_emu_parameter_count(kernel) == sizeof...(P), "%s takes %zu parameters", name.c_str(), fewstep_emu_parameter_count(kernel));
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&parameters))..., nullptr};
  const fewstep_emu_shape shape{{uint32_t(grid[0]), uint32_t(grid[1]), uint32_t(grid[2])}, {threads, 1, 1}, 0, 0, 0};
  check::expect(fewstep_emu_launch(kernel, &shape, pointers), FEWSTEP_EMU_OK, "");
}

inline std::vector<float> uniform(size_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> distribution(-1, 1);
  std::vector<float> values(n);
  for (float& v : values) v = distribution(generator);
  return values;
}

template <class F>
void copy_encoded(Array<typename F::Bits>& to, const std::vector<float>& from) {
  for (size_t i = 0; i < from.size(); i++) to[i] = F::encode(from[i]);
}
inline void copy_encoded(Array<float>& to, const std::vector<float>& from) { std::copy(from.begin(), from.end(), &to[0]); }

template <class T>
void poison(Array<T>& a) {
  memset(a.data(), 0xff, a.size() * sizeof(T));
}

/// Channels that packed weights have for one tap.
template <class F>
int padded(int channels) {
  return (channels + F::chunk - 1) / F::chunk * F::chunk;
}

/// An activation in two tensors, as kernels take one, cut where its channels are whole chunks; `first` is all of them where they cannot be cut.
template <class F>
struct Halves {
  int first;
  Array<typename F::Bits> one, other;

  Halves(Array<typename F::Bits>& x, int channels, int cut)
      : first(cut % F::chunk || channels % F::chunk || cut <= 0 ? channels : cut),
        one(x.size() / size_t(channels) * size_t(first)),
        other(x.size() / size_t(channels) * size_t(channels - first) + 1) {
    for (size_t i = 0; i < x.size(); i++) {
      const size_t pixel = i / size_t(channels), channel = i % size_t(channels), own = size_t(first), rest = size_t(channels) - own;
      (channel < own ? one[pixel * own + channel] : other[pixel * rest + channel - own]) = x[i];
    }
  }
};

inline std::string kernel(const std::string& what, const std::string& type, Tile tile) {
  return "fewstep_" + what + "_" + type + "_" + std::to_string(tile.rows) + "x" + std::to_string(tile.columns);
}

}  // namespace conv_launch
#endif
