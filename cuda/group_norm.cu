// Group normalisation of x [N,P,C] with an optional SiLU. The gradients are in group_norm_grad.cu.
//
// Floor: x is read once and y written once over the bandwidth; 32x32x64 halves are 128 KiB each, so that a small net pays the launch, not the bytes.
// Four ways to it, of which src/backend/cuda/group_norm.rs takes the first that fits:
// - of_moments: the convolutions before have given mean and variance of every channel. Nothing is left to sum: x is read once, by blocks of any size.
// - kept: a slab of whole groups fits the registers of a block, which reads it once and walks it three times (mean, squares about the mean, result).
// - plain: a block walks its slab in memory; all but the first walk find it in the first- or second-level cache. A slab is 32 channels wide where there are
//   blocks enough, so that a warp reads whole sectors; narrower where there are not.
// - pieces: few large slabs are cut along the positions; a first launch leaves mean and squares of every piece, the second merges them.
// Sums run over x - pivot, the group's first element, so that a large common offset costs no digits, and in an order that the shape alone fixes.
#include "device/fewstep.cuh"
#include "parts/group_moments.cuh"
#include "parts/norm_slab.cuh"
#include "parts/sources.cuh"

namespace {

// totals[g] = sum of the runs' elements that belong to group g, over all threads. `runs` is room for one run a thread.
template <int N>
FEWSTEP_DEVICE void sum_groups(const Run<N>& own, const Slab& s, float* runs, float* totals) {
  store_words(runs + fs::thread_index().x * N, packed<float>(own));
  fs::sync_threads();
  // One group: all that threads have is its. Several: its columns of every row.
  const int columns = s.groups == 1 ? kThreads * N : s.group_channels;
  const int members = s.groups == 1 ? columns : s.rows * columns;
  for (int g = int(fs::warp()); g < s.groups; g += kWarps) {
    float total = 0;
    for (int e = int(fs::lane()); e < members; e += 32) total += runs[e / columns * s.stride + g * columns + e % columns];
    total = fs::warp_sum(total);
    if (fs::lane() == 0) totals[g] = total;
  }
  fs::sync_threads();
}

// The rows of a slab, as functions walk them: in memory, or kept in registers since the first walk.
template <class A, class T>
struct InMemory {
  const T* slab;
};
template <class A>
struct Kept {
  typename A::Raw raw[kKept];
};

template <class A, class T, class Body>
FEWSTEP_DEVICE void walk(const InMemory<A, T>& rows, const Slab& s, int channels, int column, Body body) {
  each_row<A>(rows.slab, s, channels, column, body);
}
template <class A, class Body>
FEWSTEP_DEVICE void walk(const Kept<A>& rows, const Slab& s, int channels, int column, Body body) {
  FEWSTEP_UNROLL
  for (int i = 0; i < kKept; i++) {
    const int at = s.begin + s.row + i * s.rows;
    if (at < s.end) body(rows.raw[i], at * channels + column);
  }
}

template <class A, class T>
FEWSTEP_DEVICE void keep(Kept<A>& rows, const T* slab, const Slab& s, int channels) {
  FEWSTEP_UNROLL
  for (int i = 0; i < kKept; i++) {
    const int at = s.begin + s.row + i * s.rows;
    if (at < s.end && s.column < s.width) rows.raw[i] = A::load(slab + (at * channels + s.column), s.width - s.column);
  }
}

// The shared memory of the statistics. Declared in functions that are compiled once a kernel, not for whole and ragged runs.
struct Room {
  float* runs;    // [kMostRun kThreads]
  float* totals;  // [kGroups]
  float* mean;    // [kGroups]
};

// Mean of every group over this block's positions into room.mean, squares about it into room.totals.
template <class A, class Rows, class T>
FEWSTEP_DEVICE void statistics(const Rows& rows, const T* slab, const Slab& s, const Norm& norm, const Room& room) {
  constexpr int N = A::kN;
  if (s.groups > 1 && s.width > s.stride) fs::trap();  // a thread sums for one group
  const T* first = slab + s.begin * norm.channels;
  Run<N> sum = {}, squares = {};
  for (int column = s.column; column < s.width; column += s.stride) {
    Run<N> pivot;
    each_group<N>(column, s.group_channels, s.groups, [&](int i, int g) { pivot.v[i] = fs::to_float(first[g * s.group_channels]); });
    walk(rows, s, norm.channels, column, [&](const typename A::Raw& raw, int) {
      Run<N> q = A::floats(raw);
      FEWSTEP_UNROLL
      for (int i = 0; i < N; i++) q.v[i] -= pivot.v[i];
      add_valid(sum, q, A::valid(s.width - column));
    });
  }
  sum_groups(sum, s, room.runs, room.totals);
  const float count = float(s.end - s.begin) * float(s.group_channels);
  const int g = int(fs::thread_index().x);
  if (g < s.groups) room.mean[g] = fs::to_float(first[g * s.group_channels]) + room.totals[g] / count;
  fs::sync_threads();
  for (int column = s.column; column < s.width; column += s.stride) {
    Run<N> mean;
    each_group<N>(column, s.group_channels, s.groups, [&](int i, int group) { mean.v[i] = room.mean[group]; });
    walk(rows, s, norm.channels, column, [&](const typename A::Raw& raw, int) {
      Run<N> q = A::floats(raw);
      FEWSTEP_UNROLL
      for (int i = 0; i < N; i++) q.v[i] = (q.v[i] - mean.v[i]) * (q.v[i] - mean.v[i]);
      add_valid(squares, q, A::valid(s.width - column));
    });
  }
  sum_groups(squares, s, room.runs, room.totals);
}

// y = act(gamma (x - mean) rstd + beta) over this block's positions. `mean` and `rstd` are the slab's groups'. Halves are multiplied out, x scale + shift with
// shift = beta - mean scale, which takes a register less a channel: what cancels there is 2^-24 of what their own rounding left.
template <class A, class Rows, class T>
FEWSTEP_DEVICE void apply(const Rows& rows, T* y, const Slab& s, const Norm& norm, const float* mean, const float* rstd, const float* gamma,
                          const float* beta) {
  constexpr int N = A::kN;
  for (int column = s.column; column < s.width; column += s.stride) {
    const int count = s.width - column;
    Run<N> scale = A::parameters(gamma + s.channel + column, count), shift = A::parameters(beta + s.channel + column, count), middle;
    each_group<N>(column, s.group_channels, s.groups, [&](int i, int g) {
      scale.v[i] *= rstd[g];
      middle.v[i] = fs::is_same<T, float> ? mean[g] : 0.0f;
      if (!fs::is_same<T, float>) shift.v[i] = fs::fma(-mean[g], scale.v[i], shift.v[i]);
    });
    walk(rows, s, norm.channels, column, [&](const typename A::Raw& raw, int at) {
      Run<N> q = A::floats(raw);
      FEWSTEP_UNROLL
      for (int i = 0; i < N; i++) {
        const float v = fs::fma(q.v[i] - middle.v[i], scale.v[i], shift.v[i]);
        q.v[i] = norm.silu ? v * sigmoid(v) : v;
      }
      A::store(y + at, q, count);
    });
  }
}

// What the forward pass is given besides x, and what it leaves besides y.
struct Affine {
  const float *gamma, *beta;
  float eps;
};
struct Statistics {
  float *mean, *rstd;
};

// Squares about the mean in room.totals become rstd; both go where the backward pass will look for them.
FEWSTEP_DEVICE void finish_statistics(const Slab& s, const Norm& norm, float eps, const Room& room, const Statistics& results) {
  const int g = int(fs::thread_index().x);
  if (g < s.groups) {
    const float r = rstd_of(room.totals[g] / (float(norm.positions) * float(s.group_channels)), eps);
    room.totals[g] = r;
    results.mean[s.sample * norm.groups + s.first_group + g] = room.mean[g];
    results.rstd[s.sample * norm.groups + s.first_group + g] = r;
  }
  fs::sync_threads();
}

template <class A, class T>
FEWSTEP_DEVICE void forward_in_memory(const T* x, const Affine& affine, T* y, const Statistics& results, Slab s, const Norm& norm, const Room& room) {
  place<A::kN>(s, norm);
  const InMemory<A, T> rows = {x};
  statistics<A>(rows, x, s, norm, room);
  finish_statistics(s, norm, affine.eps, room, results);
  apply<A>(rows, y, s, norm, room.mean, room.totals, affine.gamma, affine.beta);
}

template <class T>
FEWSTEP_DEVICE void forward(const fs::Block& block, const T* x, const Affine& affine, T* y, const Statistics& results, const Norm& norm) {
  FEWSTEP_SHARED(float, runs, kThreads * kMostRun);
  FEWSTEP_SHARED(float, totals, kGroups);
  FEWSTEP_SHARED(float, means, kGroups);
  const Slab s = slab_of(block, norm);
  x += slab_start(s, norm);
  y += slab_start(s, norm);
  if (is_whole<T>(s, norm)) {
    forward_in_memory<Access<T, true>>(x, affine, y, results, s, norm, {runs, totals, means});
  } else {
    forward_in_memory<Access<T, false>>(x, affine, y, results, s, norm, {runs, totals, means});
  }
}

// The same of slabs that fit the registers, whose runs are whole.
template <class T>
FEWSTEP_DEVICE void forward_kept(const fs::Block& block, const T* x, const Affine& affine, T* y, const Statistics& results, const Norm& norm) {
  FEWSTEP_SHARED(float, runs, kThreads * kMostRun);
  FEWSTEP_SHARED(float, totals, kGroups);
  FEWSTEP_SHARED(float, means, kGroups);
  using A = Access<T, true>;
  const Room room = {runs, totals, means};
  Slab s = slab_of(block, norm);
  place<A::kN>(s, norm);
  x += slab_start(s, norm);
  y += slab_start(s, norm);
  if (!is_whole<T>(s, norm) || s.width > s.stride || s.end > kKept * s.rows) fs::trap();
  Kept<A> rows;
  keep(rows, x, s, norm.channels);
  statistics<A>(rows, x, s, norm, room);
  finish_statistics(s, norm, affine.eps, room, results);
  apply<A>(rows, y, s, norm, means, totals, affine.gamma, affine.beta);
}

// ---- in two launches

template <class A, class T>
FEWSTEP_DEVICE void statistics_in_memory(const T* x, Slab s, const Norm& norm, const Room& room) {
  place<A::kN>(s, norm);
  statistics<A>(InMemory<A, T>{x}, x, s, norm, room);
}

// Mean and squares of one piece into pieces[(sample, group)][split][2].
template <class T>
FEWSTEP_DEVICE void piece_statistics(const fs::Block& block, const T* x, float* pieces, const Norm& norm) {
  FEWSTEP_SHARED(float, runs, kThreads * kMostRun);
  FEWSTEP_SHARED(float, totals, kGroups);
  FEWSTEP_SHARED(float, means, kGroups);
  const Slab s = slab_of(block, norm);
  x += slab_start(s, norm);
  if (is_whole<T>(s, norm)) {
    statistics_in_memory<Access<T, true>>(x, s, norm, {runs, totals, means});
  } else {
    statistics_in_memory<Access<T, false>>(x, s, norm, {runs, totals, means});
  }
  const int g = int(fs::thread_index().x);
  if (g >= s.groups) return;
  float* piece = pieces + ((int64_t(s.sample) * norm.groups + s.first_group + g) * norm.splits + s.split) * 2;
  piece[0] = means[g];
  piece[1] = totals[g];
}

// Positions of a piece.
FEWSTEP_DEVICE float piece_positions(const Norm& norm, int split) {
  const int per_split = (norm.positions + norm.splits - 1) / norm.splits;
  return float(fs::max(0, fs::min(per_split, norm.positions - split * per_split)));
}

// Mean and squares of a group from its pieces (Chan et al. 1983), by one warp, the same in every lane; weights are positions.
FEWSTEP_DEVICE void merge_pieces(const float* pieces, const Norm& norm, float group_channels, float& mean, float& squares) {
  const float pivot = pieces[0];
  float sum = 0;
  for (int i = int(fs::lane()); i < norm.splits; i += 32) sum += (pieces[2 * i] - pivot) * piece_positions(norm, i);
  mean = pivot + fs::warp_sum(sum) / float(norm.positions);
  sum = 0;
  for (int i = int(fs::lane()); i < norm.splits; i += 32) {
    const float away = pieces[2 * i] - mean;
    sum += pieces[2 * i + 1] + piece_positions(norm, i) * group_channels * away * away;
  }
  squares = fs::warp_sum(sum);
}

template <class A, class T>
FEWSTEP_DEVICE void apply_in_memory(const T* x, const Affine& affine, T* y, Slab s, const Norm& norm, const float* mean, const float* rstd) {
  place<A::kN>(s, norm);
  apply<A>(InMemory<A, T>{x}, y, s, norm, mean, rstd, affine.gamma, affine.beta);
}

// The second launch: merges the pieces, then its own piece of y.
template <class T>
FEWSTEP_DEVICE void forward_of_pieces(const fs::Block& block, const T* x, const Affine& affine, const float* pieces, T* y, const Statistics& results,
                                      const Norm& norm) {
  FEWSTEP_SHARED(float, means, kGroups);
  FEWSTEP_SHARED(float, rstds, kGroups);
  const Slab s = slab_of(block, norm);
  for (int g = int(fs::warp()); g < s.groups; g += kWarps) {
    const int64_t at = int64_t(s.sample) * norm.groups + s.first_group + g;
    float m, squares;
    merge_pieces(pieces + at * norm.splits * 2, norm, float(s.group_channels), m, squares);
    const float r = rstd_of(squares / (float(norm.positions) * float(s.group_channels)), affine.eps);
    if (fs::lane() == 0) {
      means[g] = m;
      rstds[g] = r;
    }
    if (fs::lane() == 0 && s.split == 0) {
      results.mean[at] = m;
      results.rstd[at] = r;
    }
  }
  fs::sync_threads();
  x += slab_start(s, norm);
  y += slab_start(s, norm);
  if (is_whole<T>(s, norm)) {
    apply_in_memory<Access<T, true>>(x, affine, y, s, norm, means, rstds);
  } else {
    apply_in_memory<Access<T, false>>(x, affine, y, s, norm, means, rstds);
  }
}

// ---- of moments

// norm(x) = x scale[column] + shift[column] for the slab's channels, a channel a thread.
FEWSTEP_DEVICE void fill_scales(const ChannelMoments& m, const Affine& affine, const Slab& s, const Norm& norm, float* scale, float* shift,
                                const Statistics& results) {
  const ChannelMoments moments = of_sample(m, norm.channels, s.sample);
  for (int column = int(fs::thread_index().x); column < s.width; column += kThreads) {
    const int channel = s.channel + column, group = channel / s.group_channels, begin = group * s.group_channels;
    const float gamma = affine.gamma[channel], beta = affine.beta[channel];
    const MeanVariance own = group_moments(moments, begin, s.group_channels);
    const float rstd = rstd_of(own.variance, affine.eps);
    const ScaleShift both = scale_shift(own.mean, rstd, gamma, beta);
    scale[column] = both.scale;
    shift[column] = both.shift;
    if (s.split == 0 && channel == begin) {
      results.mean[s.sample * norm.groups + group] = own.mean;
      results.rstd[s.sample * norm.groups + group] = rstd;
    }
  }
}

// This block's piece of y. The first rows are asked for before the scales are made, so that a small block waits for memory once.
template <class A, class T>
FEWSTEP_DEVICE void apply_moments(const Sources<T>& sources, T* y, const ChannelMoments& m, const Affine& affine, Slab s, const Norm& norm, float* scales, float* shifts,
                                  const Statistics& results) {
  constexpr int N = A::kN;
  place<N>(s, norm);
  const bool exists = s.column < s.width;
  const int count = s.width - s.column, end = exists ? s.end : s.begin;
  const Source<T> own = source_of(sources, norm.channels, fs::min(s.channel + s.column, norm.channels - 1));
  const T* x = own.x + (int64_t(s.sample) * norm.positions * own.channels + own.channel);
  typename A::Raw raw[A::kAhead] = {};
  const auto fetch = [&](int from) {
    FEWSTEP_UNROLL
    for (int i = 0; i < A::kAhead; i++) {
      const int at = from + i * s.rows;
      if (at < end) raw[i] = A::load(x + at * own.channels, count);
    }
  };
  int p = s.begin + s.row;
  fetch(p);
  fill_scales(m, affine, s, norm, scales, shifts, results);
  fs::sync_threads();
  if (p >= end) return;
  const Run<N> scale = A::parameters(scales + s.column, count), shift = A::parameters(shifts + s.column, count);
  while (true) {
    FEWSTEP_UNROLL
    for (int i = 0; i < A::kAhead; i++) {
      const int at = p + i * s.rows;
      if (at >= end) continue;
      Run<N> q = A::floats(raw[i]);
      FEWSTEP_UNROLL
      for (int k = 0; k < N; k++) {
        const float v = fs::fma(q.v[k], scale.v[k], shift.v[k]);
        q.v[k] = norm.silu ? v * sigmoid(v) : v;
      }
      A::store(y + (at * norm.channels + s.column), q, count);
    }
    p += A::kAhead * s.rows;
    if (p >= end) return;
    fetch(p);
  }
}

template <class T>
FEWSTEP_DEVICE void forward_of_moments(const fs::Block& block, const Sources<T>& x, const Affine& affine, const ChannelMoments& m, T* y, const Statistics& results,
                                       const Norm& norm) {
  FEWSTEP_SHARED(float, scales, kMomentChannels);
  FEWSTEP_SHARED(float, shifts, kMomentChannels);
  const Slab s = channel_slab_of(block, norm, kMomentChannels);
  y += slab_start(s, norm);
  if (is_whole<T>(s, norm)) {
    apply_moments<Access<T, true>>(x, y, m, affine, s, norm, scales, shifts, results);
  } else {
    apply_moments<Access<T, false>>(x, y, m, affine, s, norm, scales, shifts, results);
  }
}

}  // namespace

// 256 threads, N * slabs * splits blocks. x, y [N,P,C]; of_moments: x [N,P,x_channels] and second_x [N,P,C-x_channels] or null; gamma, beta [C]; mean, rstd [N,G]; pieces [N,G,splits,2]; first [N,first_channels,2], second
// [N,C-first_channels,2] or null. Shared memory: 8.3 KiB, of_pieces 0.3 KiB, of_moments 4 KiB.
//
// group_norm                            all at once; splits is 1
// group_norm_kept                       the same where a slab has at most 8 rows a thread, of whole runs; splits is 1
// group_norm_pieces, _of_pieces         the same in two launches, for few large slabs
// group_norm_of_moments                 with the moments of x's channels; slabs of 512 channels
#define FEWSTEP_GROUP_NORM(T, suffix)                                                                                                                  \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_##suffix, const T* x, const float* gamma, const float* beta, T* y, float* mean, float* rstd, \
                          Norm norm, float eps) {                                                                                                      \
    forward<T>(fs::begin(), x, {gamma, beta, eps}, y, {mean, rstd}, norm);                                                                             \
  }                                                                                                                                                    \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_kept_##suffix, const T* x, const float* gamma, const float* beta, T* y, float* mean,         \
                          float* rstd, Norm norm, float eps) {                                                                                         \
    forward_kept<T>(fs::begin(), x, {gamma, beta, eps}, y, {mean, rstd}, norm);                                                                        \
  }                                                                                                                                                    \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_pieces_##suffix, const T* x, float* pieces, Norm norm) {                                     \
    piece_statistics(fs::begin(), x, pieces, norm);                                                                                                    \
  }                                                                                                                                                    \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_of_pieces_##suffix, const T* x, const float* gamma, const float* beta, const float* pieces,  \
                          T* y, float* mean, float* rstd, Norm norm, float eps) {                                                                      \
    forward_of_pieces<T>(fs::begin(), x, {gamma, beta, eps}, pieces, y, {mean, rstd}, norm);                                                           \
  }                                                                                                                                                    \
  FEWSTEP_KERNEL_RESIDENT(kThreads, kMomentBlocks, fewstep_group_norm_of_moments_##suffix, const T* x, const T* second_x, int x_channels, const float* gamma, \
                          const float* beta, const float* first, const float* second, T* y, float* mean, float* rstd, Norm norm, int first_channels, float eps) {                             \
    forward_of_moments<T>(fs::begin(), {x, second_x, x_channels}, {gamma, beta, eps}, {first, second, first_channels}, y, {mean, rstd}, norm);                                 \
  }

FEWSTEP_GROUP_NORM(float, f32)
FEWSTEP_GROUP_NORM(fs::half, f16)
FEWSTEP_GROUP_NORM(fs::bf16, bf16)
