// What the kernels of group normalisation share: how an activation [N,P,C] is cut into blocks and walked over. A group is C/G neighbouring channels at all
// positions of a sample; a block has a slab of neighbouring channels at a piece of a sample's positions ("split").
#pragma once
#include "device/fewstep.cuh"
#include "parts/run.cuh"
#include "shared.h"

namespace {

using namespace shared::group_norm;
constexpr int kWarps = kThreads / 32;
// Elements of a run at most.
constexpr int kMostRun = 8;

// src/backend/cuda/group_norm.rs has the same structure, and refuses samples of 2^31 elements: places within a sample are int.
struct Norm {
  int positions, channels, groups;
  int slab_groups;  // groups of a slab; the last slab may have fewer
  int splits;       // pieces that the positions are cut into
  int silu;
};

// How a thread moves neighbouring channels: whole runs of sixteen bytes, or up to four elements one by one where channels or slabs are no multiples of those.
template <class T, bool Whole>
struct Access {
  static constexpr int kN = kRun<T>;
  using Raw = Words<kN, T>;
  // Rows that a thread asks for before it uses the first: 16 KiB are under way in each of two to four blocks a multiprocessor.
  static constexpr int kAhead = 4;
  // How many of a run's elements exist where `count` are left.
  FEWSTEP_DEVICE int valid(int) { return kN; }
  FEWSTEP_DEVICE Raw load(const T* x, int) { return load_words<kN>(x); }
  FEWSTEP_DEVICE Run<kN> floats(const Raw& raw) { return unpacked(raw); }
  FEWSTEP_DEVICE void store(T* y, const Run<kN>& q, int) { store_words(y, packed<T>(q)); }
  // Parameters of neighbouring channels.
  FEWSTEP_DEVICE Run<kN> parameters(const float* p, int) { return unpacked(load_words<kN>(p)); }
};
template <class T>
struct Access<T, false> {
  static constexpr int kN = kRaggedRun;
  using Raw = Run<kN>;
  static constexpr int kAhead = 1;  // a run is loads enough on its own
  FEWSTEP_DEVICE int valid(int count) { return count; }
  FEWSTEP_DEVICE Raw load(const T* x, int count) { return load_some<kN>(x, count); }
  FEWSTEP_DEVICE Run<kN> floats(const Raw& raw) { return raw; }
  FEWSTEP_DEVICE void store(T* y, const Run<kN>& q, int count) { store_some(y, q, count); }
  FEWSTEP_DEVICE Run<kN> parameters(const float* p, int count) { return load_some<kN>(p, count); }
};

// What this block works on, and which part of it this thread.
struct Slab {
  int sample, split;
  int first_group, groups, group_channels;
  int channel, width;  // first channel, channels
  int begin, end;      // positions
  int row, rows;       // this thread's first position in a step, positions of a step
  int column, stride;  // this thread's first run of channels, and how far its next one is: they are all of one group where there is a next
};

// The positions of this block's split, and the threads' places: as many as a row has runs of N channels side by side, the rest below.
template <int N>
FEWSTEP_DEVICE void place(Slab& s, const Norm& norm) {
  const int per_split = (norm.positions + norm.splits - 1) / norm.splits;
  s.begin = fs::min(s.split * per_split, norm.positions);
  s.end = fs::min(s.begin + per_split, norm.positions);
  const int thread = int(fs::thread_index().x);
  const int lanes = fs::min((s.width + N - 1) / N, kThreads);
  s.rows = kThreads / lanes;
  s.row = thread / lanes;
  s.column = thread % lanes * N;
  s.stride = lanes * N;
  if (s.row >= s.rows) s.column = s.width;  // left over: has no channels
}

// A slab of whole groups. Blocks count splits, then slabs, then samples. Threads have no places yet.
FEWSTEP_DEVICE Slab slab_of(const fs::Block& own, const Norm& norm) {
  Slab s;
  const int slabs = (norm.groups + norm.slab_groups - 1) / norm.slab_groups;
  const int block = int(own.index.x);
  s.split = block % norm.splits;
  s.sample = block / norm.splits / slabs;
  s.group_channels = norm.channels / norm.groups;
  s.first_group = block / norm.splits % slabs * norm.slab_groups;
  s.groups = fs::min(norm.slab_groups, norm.groups - s.first_group);
  s.channel = s.first_group * s.group_channels;
  s.width = s.groups * s.group_channels;
  return s;
}

// One of at most `widest` channels, whatever their groups.
FEWSTEP_DEVICE Slab channel_slab_of(const fs::Block& own, const Norm& norm, int widest) {
  Slab s;
  const int slabs = (norm.channels + widest - 1) / widest;
  const int block = int(own.index.x);
  s.split = block % norm.splits;
  s.sample = block / norm.splits / slabs;
  s.group_channels = norm.channels / norm.groups;
  s.channel = block / norm.splits % slabs * widest;
  s.width = fs::min(widest, norm.channels - s.channel);
  return s;
}

// The sample's first element of this slab.
FEWSTEP_DEVICE int64_t slab_start(const Slab& s, const Norm& norm) { return int64_t(s.sample) * norm.positions * norm.channels + s.channel; }

// May all runs of the slab be moved whole? One answer for the block, so that loads need no test each. All tensors begin at multiples of 16 bytes, and slabs at
// multiples of their width, or of what is left of the channels.
template <class T>
FEWSTEP_DEVICE bool is_whole(const Slab& s, const Norm& norm) {
  return norm.channels % kRun<T> == 0 && s.width % kRun<T> == 0;
}

// f(i, group) for the N channels from `first` on and their groups; channels count from a group's start. Beyond the last group: that one.
template <int N, class F>
FEWSTEP_DEVICE void each_group(int first, int group_channels, int groups, F&& f) {
  int group = first / group_channels, rest = first - group * group_channels;
  FEWSTEP_UNROLL
  for (int i = 0; i < N; i++) {
    f(i, fs::min(group, groups - 1));
    if (++rest == group_channels) {
      rest = 0;
      group++;
    }
  }
}

// body(raw, offset) for this thread's runs of a column, in order of the positions.
template <class A, int Ahead = A::kAhead, class T, class Body>
FEWSTEP_DEVICE void each_row(const T* slab, const Slab& s, int channels, int column, Body body) {
  const int count = fs::min(s.width - column, A::kN);
  for (int p = s.begin + s.row; p < s.end; p += Ahead * s.rows) {
    typename A::Raw raw[Ahead];
    FEWSTEP_UNROLL
    for (int i = 0; i < Ahead; i++) {
      const int at = p + i * s.rows;
      if (at < s.end) raw[i] = A::load(slab + (at * channels + column), count);
    }
    FEWSTEP_UNROLL
    for (int i = 0; i < Ahead; i++) {
      const int at = p + i * s.rows;
      if (at < s.end) body(raw[i], at * channels + column);
    }
  }
}

// Adds what the slab's columns hold beyond its width to nothing: a ragged run's last elements are no one's.
template <int N>
FEWSTEP_DEVICE void add_valid(Run<N>& sum, const Run<N>& term, int count) {
  FEWSTEP_UNROLL
  for (int i = 0; i < N; i++) {
    if (i < count) sum.v[i] += term.v[i];
  }
}

// SiLU is x times this, of approximations that err by 2^-21.
FEWSTEP_DEVICE float sigmoid(float x) { return fs::fast_div(1.0f, 1.0f + fs::fast_exp(-x)); }

}  // namespace
