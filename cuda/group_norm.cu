// Group normalisation of x [N,P,C], forward (with an optional SiLU) and backward. A group is C/G neighbouring channels at all positions of a sample.
//
// Floor: x is read once and y written once over the bandwidth; 32x32x64 is 256 KiB, so that a small net pays the launch, not the bytes.
// A block has a slab of whole groups of one sample and walks it three times (mean, squares about the mean, result); all but the first walk find the slab
// in the first- or second-level cache. A slab is 128 bytes wide where there are blocks enough, so that a warp reads whole lines; narrower where there are not.
// Few large slabs are cut along the positions ("splits"): then a first launch leaves mean and squares of every piece, the second merges them.
// Sums run over x - pivot, the group's first element, so that a large common offset costs no digits, and in an order that the shape alone fixes.
#include "device/fewstep.cuh"
#include "parts/quad.cuh"

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Groups of a slab at most.
constexpr int kGroups = 32;

// src/backend/cuda/group_norm.rs has the same structure, and refuses samples of 2^31 elements: places within a sample are int.
struct Norm {
  int positions, channels, groups;
  int slab_groups;  // groups of a slab; the last slab may have fewer
  int splits;       // pieces that the positions are cut into
  int silu;
};

// What this block works on, and which part of it this thread.
struct Slab {
  int sample, split;
  int first_group, groups, group_channels;
  int channel, width;    // first channel, channels
  int begin, end;        // positions
  int row, rows;         // this thread's first position in a step, positions of a step
  int column, stride;    // this thread's first four channels, and how far its next four are: they are all of one group where there is a next
};

// The threads' places: as many as a row has quads side by side, the rest below.
FEWSTEP_DEVICE void place(Slab& s, const Norm& norm) {
  const int per_split = (norm.positions + norm.splits - 1) / norm.splits;
  s.begin = fs::min(s.split * per_split, norm.positions);
  s.end = fs::min(s.begin + per_split, norm.positions);
  const int thread = int(fs::thread_index().x);
  const int lanes = fs::min((s.width + 3) / 4, kThreads);
  s.rows = kThreads / lanes;
  s.row = thread / lanes;
  s.column = thread % lanes * 4;
  s.stride = lanes * 4;
  if (s.row >= s.rows) s.column = s.width;  // left over: has no channels
}

// Blocks count splits, then slabs, then samples.
FEWSTEP_DEVICE Slab slab_of(const Norm& norm) {
  Slab s;
  const int slabs = (norm.groups + norm.slab_groups - 1) / norm.slab_groups;
  const int block = int(fs::block_index().x);
  s.split = block % norm.splits;
  s.sample = block / norm.splits / slabs;
  s.group_channels = norm.channels / norm.groups;
  s.first_group = block / norm.splits % slabs * norm.slab_groups;
  s.groups = fs::min(norm.slab_groups, norm.groups - s.first_group);
  s.channel = s.first_group * s.group_channels;
  s.width = s.groups * s.group_channels;
  place(s, norm);
  return s;
}

// The sample's first element of this slab.
FEWSTEP_DEVICE int64_t slab_start(const Slab& s, const Norm& norm) { return int64_t(s.sample) * norm.positions * norm.channels + s.channel; }

// The group of the slab that channel `column` of it belongs to. Beyond the slab (a ragged quad): some group.
FEWSTEP_DEVICE int group_of(const Slab& s, int column) { return s.groups == 1 ? 0 : fs::min(column / s.group_channels, s.groups - 1); }

// May all quads of the slab be moved whole? One answer for the block, so that loads need no test each. All tensors begin at multiples of 16 bytes.
template <class T>
FEWSTEP_DEVICE bool is_whole(const T* slab, const Slab& s, const Norm& norm) {
  return norm.channels % 4 == 0 && s.width % 4 == 0 && reinterpret_cast<uintptr_t>(slab) % (4 * sizeof(T)) == 0;
}

template <bool Whole, class T>
FEWSTEP_DEVICE Quad load_part(const T* x, int count) {
  if constexpr (Whole) return load_whole(x);
  Quad q = {{0, 0, 0, 0}};
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    if (i < count) q.v[i] = fs::to_float(x[i]);
  }
  return q;
}

template <bool Whole, class T>
FEWSTEP_DEVICE void store_part(T* y, const Quad& q, int count) {
  if constexpr (Whole) {
    store_whole(y, q);
  } else {
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) {
      if (i < count) y[i] = fs::from_float<T>(q.v[i]);
    }
  }
}

// body(quad, offset) for this thread's quads of a column, in order of the positions. A thread asks for `Ahead` rows before it uses the first: with two,
// 8 KiB are under way in each of three or four blocks a multiprocessor. A ragged quad is loads enough on its own.
template <bool Whole, int Ahead = Whole ? 2 : 1, class T, class Body>
FEWSTEP_DEVICE void each_row(const T* slab, const Slab& s, int channels, int column, Body body) {
  const int count = fs::min(s.width - column, 4);
  for (int p = s.begin + s.row; p < s.end; p += Ahead * s.rows) {
    Quad q[Ahead];
    FEWSTEP_UNROLL
    for (int i = 0; i < Ahead; i++) {
      const int at = p + i * s.rows;
      if (at < s.end) q[i] = load_part<Whole>(slab + (at * channels + column), count);
    }
    FEWSTEP_UNROLL
    for (int i = 0; i < Ahead; i++) {
      const int at = p + i * s.rows;
      if (at < s.end) body(q[i], at * channels + column);
    }
  }
}

// totals[g] = sum of the quads that belong to group g, over all threads. `quads` is room for one quad a thread.
FEWSTEP_DEVICE void sum_groups(const Quad& own, const Slab& s, float* quads, float* totals) {
  store_whole(quads + fs::thread_index().x * 4, own);
  fs::sync_threads();
  // One group: all that threads have is its. Several: its columns of every row.
  const int columns = s.groups == 1 ? kThreads * 4 : s.group_channels;
  const int members = s.groups == 1 ? columns : s.rows * columns;
  for (int g = int(fs::warp()); g < s.groups; g += kWarps) {
    float total = 0;
    for (int e = int(fs::lane()); e < members; e += 32) total += quads[e / columns * s.stride + g * columns + e % columns];
    total = fs::warp_sum(total);
    if (fs::lane() == 0) totals[g] = total;
  }
  fs::sync_threads();
}

// Adds what the slab's columns hold beyond its width to nothing: a ragged quad's last elements are no one's.
FEWSTEP_DEVICE void add_valid(Quad& sum, const Quad& term, int count) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    if (i < count) sum.v[i] += term.v[i];
  }
}

// The shared memory of the statistics. Declared in functions that are compiled once a kernel, not for whole and ragged quads.
struct Room {
  float* quads;   // [4 kThreads]
  float* totals;  // [kGroups]
  float* mean;    // [kGroups]
};

// Mean of every group over this block's positions into room.mean, squares about it into room.totals.
template <bool Whole, class T>
FEWSTEP_DEVICE void statistics(const T* slab, const Slab& s, const Norm& norm, const Room& room) {
  Quad sum = {{0, 0, 0, 0}};
  const T* first = slab + s.begin * norm.channels;
  for (int column = s.column; column < s.width; column += s.stride) {
    Quad pivot;
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) pivot.v[i] = fs::to_float(first[group_of(s, column + i) * s.group_channels]);
    each_row<Whole, Whole ? 4 : 1>(slab, s, norm.channels, column, [&](Quad q, int) {
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; i++) q.v[i] -= pivot.v[i];
      add_valid(sum, q, s.width - column);
    });
  }
  sum_groups(sum, s, room.quads, room.totals);
  const float count = float(s.end - s.begin) * float(s.group_channels);
  const int g = int(fs::thread_index().x);
  if (g < s.groups) room.mean[g] = fs::to_float(first[g * s.group_channels]) + room.totals[g] / count;
  fs::sync_threads();
  Quad squares = {{0, 0, 0, 0}};
  for (int column = s.column; column < s.width; column += s.stride) {
    Quad mean;
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) mean.v[i] = room.mean[group_of(s, column + i)];
    each_row<Whole, Whole ? 4 : 1>(slab, s, norm.channels, column, [&](Quad q, int) {
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; i++) q.v[i] = (q.v[i] - mean.v[i]) * (q.v[i] - mean.v[i]);
      add_valid(squares, q, s.width - column);
    });
  }
  sum_groups(squares, s, room.quads, room.totals);
}

FEWSTEP_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + fs::exp(-x)); }

// A group's numbers at the four channels of a column.
struct Columns {
  Quad mean, rstd, gamma, beta;
};

FEWSTEP_DEVICE Columns columns_of(const Slab& s, int column, const float* mean, const float* rstd, const float* gamma, const float* beta) {
  Columns c;
  const int count = fs::min(s.width - column, 4);
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    const int group = group_of(s, column + i);
    c.mean.v[i] = mean[group];
    c.rstd.v[i] = rstd[group];
    c.gamma.v[i] = i < count ? gamma[s.channel + column + i] : 0;
    c.beta.v[i] = i < count ? beta[s.channel + column + i] : 0;
  }
  return c;
}

// y = act(gamma (x - mean) rstd + beta) over this block's positions. `mean` and `rstd` are the slab's groups'.
template <bool Whole, class T>
FEWSTEP_DEVICE void apply(const T* slab, T* y, const Slab& s, const Norm& norm, const float* mean, const float* rstd, const float* gamma, const float* beta) {
  for (int column = s.column; column < s.width; column += s.stride) {
    const Columns c = columns_of(s, column, mean, rstd, gamma, beta);
    each_row<Whole>(slab, s, norm.channels, column, [&](Quad q, int at) {
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; i++) {
        const float v = (q.v[i] - c.mean.v[i]) * c.rstd.v[i] * c.gamma.v[i] + c.beta.v[i];
        q.v[i] = norm.silu ? v * sigmoid(v) : v;
      }
      store_part<Whole>(y + at, q, s.width - column);
    });
  }
}

FEWSTEP_DEVICE float rstd_of(float squares, float count, float eps) { return fs::div_rn(1.0f, fs::sqrt_rn(squares / count + eps)); }

template <class T>
FEWSTEP_DEVICE void forward(const T* x, const float* gamma, const float* beta, T* y, float* mean, float* rstd, const Norm& norm, float eps) {
  FEWSTEP_SHARED(float, quads, kThreads * 4);
  FEWSTEP_SHARED(float, totals, kGroups);
  FEWSTEP_SHARED(float, means, kGroups);
  const Slab s = slab_of(norm);
  x += slab_start(s, norm);
  y += slab_start(s, norm);
  const bool whole = is_whole(x, s, norm);
  if (whole) {
    statistics<true>(x, s, norm, {quads, totals, means});
  } else {
    statistics<false>(x, s, norm, {quads, totals, means});
  }
  const int g = int(fs::thread_index().x);
  if (g < s.groups) {
    const float r = rstd_of(totals[g], float(norm.positions) * float(s.group_channels), eps);
    totals[g] = r;
    mean[s.sample * norm.groups + s.first_group + g] = means[g];
    rstd[s.sample * norm.groups + s.first_group + g] = r;
  }
  fs::sync_threads();
  if (whole) {
    apply<true>(x, y, s, norm, means, totals, gamma, beta);
  } else {
    apply<false>(x, y, s, norm, means, totals, gamma, beta);
  }
}

// Mean and squares of one piece into pieces[(sample, group)][split][2].
template <class T>
FEWSTEP_DEVICE void piece_statistics(const T* x, float* pieces, const Norm& norm) {
  FEWSTEP_SHARED(float, quads, kThreads * 4);
  FEWSTEP_SHARED(float, totals, kGroups);
  FEWSTEP_SHARED(float, means, kGroups);
  const Slab s = slab_of(norm);
  x += slab_start(s, norm);
  if (is_whole(x, s, norm)) {
    statistics<true>(x, s, norm, {quads, totals, means});
  } else {
    statistics<false>(x, s, norm, {quads, totals, means});
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

// The second launch: merges the pieces, then its own piece of y.
template <class T>
FEWSTEP_DEVICE void forward_of_pieces(const T* x, const float* gamma, const float* beta, const float* pieces, T* y, float* mean, float* rstd, const Norm& norm,
                                      float eps) {
  FEWSTEP_SHARED(float, means, kGroups);
  FEWSTEP_SHARED(float, rstds, kGroups);
  const Slab s = slab_of(norm);
  for (int g = int(fs::warp()); g < s.groups; g += kWarps) {
    const int64_t at = int64_t(s.sample) * norm.groups + s.first_group + g;
    float m, squares;
    merge_pieces(pieces + at * norm.splits * 2, norm, float(s.group_channels), m, squares);
    const float r = rstd_of(squares, float(norm.positions) * float(s.group_channels), eps);
    if (fs::lane() == 0) {
      means[g] = m;
      rstds[g] = r;
    }
    if (fs::lane() == 0 && s.split == 0) {
      mean[at] = m;
      rstd[at] = r;
    }
  }
  fs::sync_threads();
  x += slab_start(s, norm);
  y += slab_start(s, norm);
  if (is_whole(x, s, norm)) {
    apply<true>(x, y, s, norm, means, rstds, gamma, beta);
  } else {
    apply<false>(x, y, s, norm, means, rstds, gamma, beta);
  }
}

// ---- backward
//
// With hat = (x - mean) rstd and d = dy act'(gamma hat + beta): dbeta = sum d, dgamma = sum d hat (over samples and positions), and
// dx = rstd (d gamma - s1 - hat s2) with s1, s2 = means over the group of d gamma, d gamma hat.
// Floor: x and dy read, dx written. Three launches: sums of d and d hat for every (sample, split, channel); dx; dgamma and dbeta.

// Channels of a slab of the sums: whole lines, one column a thread.
constexpr int kSumChannels = 128;

// d and d * hat in place of dy and x.
FEWSTEP_DEVICE void before_activation(const Columns& c, int silu, Quad& x, Quad& dy) {
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    x.v[i] = (x.v[i] - c.mean.v[i]) * c.rstd.v[i];
    if (silu) {
      const float v = c.gamma.v[i] * x.v[i] + c.beta.v[i];
      const float g = sigmoid(v);
      dy.v[i] *= g * (1.0f + v * (1.0f - g));
    }
  }
}

// The operands of the backward pass that stay the same for the whole launch.
template <class T>
struct Saved {
  const T* x;
  const float *gamma, *beta, *mean, *rstd;
  const T* dy;
};

// The same slab by channels, whatever their groups.
FEWSTEP_DEVICE Slab channel_slab_of(const Norm& norm) {
  Slab s;
  const int slabs = (norm.channels + kSumChannels - 1) / kSumChannels;
  const int block = int(fs::block_index().x);
  s.split = block % norm.splits;
  s.sample = block / norm.splits / slabs;
  s.channel = block / norm.splits % slabs * kSumChannels;
  s.width = fs::min(kSumChannels, norm.channels - s.channel);
  place(s, norm);
  return s;
}

// Like columns_of, for a slab that does not begin with a group.
template <class T>
FEWSTEP_DEVICE Columns columns_of_channels(const Saved<T>& saved, const Slab& s, const Norm& norm) {
  Columns c;
  FEWSTEP_UNROLL
  for (int i = 0; i < 4; i++) {
    const int channel = fs::min(s.channel + s.column + i, norm.channels - 1);
    const int group = s.sample * norm.groups + channel / (norm.channels / norm.groups);
    c.mean.v[i] = saved.mean[group];
    c.rstd.v[i] = saved.rstd[group];
    c.gamma.v[i] = saved.gamma[channel];
    c.beta.v[i] = saved.beta[channel];
  }
  return c;
}

// This thread's sums of d and d * hat over the positions of its column.
template <bool Whole, class T>
FEWSTEP_DEVICE void column_sums(const Saved<T>& saved, const Slab& s, const Norm& norm, Quad& sum_d, Quad& sum_dhat) {
  const Columns c = columns_of_channels(saved, s, norm);
  const int count = s.width - s.column;
  const int64_t start = slab_start(s, norm);
  each_row<Whole>(saved.x + start, s, norm.channels, s.column, [&](Quad x, int at) {
    Quad d = load_part<Whole>(saved.dy + start + at, count);
    before_activation(c, norm.silu, x, d);
    add_valid(sum_d, d, count);
    FEWSTEP_UNROLL
    for (int i = 0; i < 4; i++) x.v[i] *= d.v[i];
    add_valid(sum_dhat, x, count);
  });
}

// sums[sample][split][2][channel]: d, d * hat.
template <class T>
FEWSTEP_DEVICE void channel_sums(const Saved<T>& saved, float* sums, const Norm& norm) {
  FEWSTEP_SHARED(float, quads, 2 * kThreads * 4);
  const Slab s = channel_slab_of(norm);
  const int thread = int(fs::thread_index().x);
  Quad sum_d = {{0, 0, 0, 0}}, sum_dhat = {{0, 0, 0, 0}};
  if (s.column < s.width) {
    if (is_whole(saved.x + slab_start(s, norm), s, norm)) {
      column_sums<true>(saved, s, norm, sum_d, sum_dhat);
    } else {
      column_sums<false>(saved, s, norm, sum_d, sum_dhat);
    }
  }
  store_whole(quads + thread * 4, sum_d);
  store_whole(quads + (kThreads + thread) * 4, sum_dhat);
  fs::sync_threads();
  // Thread (which, channel) adds up that column of all rows.
  const int which = thread / kSumChannels, column = thread % kSumChannels;
  if (column >= s.width) return;
  float total = 0;
  for (int r = 0; r < s.rows; r++) total += quads[which * kThreads * 4 + r * s.stride + column];
  sums[((int64_t(s.sample) * norm.splits + s.split) * 2 + which) * norm.channels + s.channel + column] = total;
}

// The mean over group g (of the net) of gamma * sums[..][which][..], by one warp.
FEWSTEP_DEVICE float group_mean(const float* sums, const float* gamma, const Norm& norm, int sample, int group, int which) {
  const int group_channels = norm.channels / norm.groups;
  float sum = 0;
  for (int e = int(fs::lane()); e < norm.splits * group_channels; e += 32) {
    const int split = e / group_channels, channel = group * group_channels + e % group_channels;
    sum += gamma[channel] * sums[((int64_t(sample) * norm.splits + split) * 2 + which) * norm.channels + channel];
  }
  return fs::warp_sum(sum) / (float(norm.positions) * float(group_channels));
}

// dx over this block's positions. s1 and s2 are the slab's groups'.
template <bool Whole, class T>
FEWSTEP_DEVICE void apply_grad(const Saved<T>& saved, T* dx, const Slab& s, const Norm& norm, const float* s1, const float* s2) {
  const int64_t start = slab_start(s, norm);
  const int first = s.sample * norm.groups + s.first_group;
  for (int column = s.column; column < s.width; column += s.stride) {
    const Columns c = columns_of(s, column, saved.mean + first, saved.rstd + first, saved.gamma, saved.beta);
    const int count = s.width - column;
    each_row<Whole>(saved.x + start, s, norm.channels, column, [&](Quad x, int at) {
      Quad d = load_part<Whole>(saved.dy + start + at, count);
      before_activation(c, norm.silu, x, d);
      FEWSTEP_UNROLL
      for (int i = 0; i < 4; i++) {
        const int g = group_of(s, column + i);
        d.v[i] = c.rstd.v[i] * (d.v[i] * c.gamma.v[i] - s1[g] - x.v[i] * s2[g]);
      }
      store_part<Whole>(dx + start + at, d, count);
    });
  }
}

template <class T>
FEWSTEP_DEVICE void input_grad(const Saved<T>& saved, const float* sums, T* dx, const Norm& norm) {
  FEWSTEP_SHARED(float, s1, kGroups);
  FEWSTEP_SHARED(float, s2, kGroups);
  const Slab s = slab_of(norm);
  for (int g = int(fs::warp()); g < s.groups; g += kWarps) {
    const float d = group_mean(sums, saved.gamma, norm, s.sample, s.first_group + g, 0);
    const float dhat = group_mean(sums, saved.gamma, norm, s.sample, s.first_group + g, 1);
    if (fs::lane() == 0) {
      s1[g] = d;
      s2[g] = dhat;
    }
  }
  fs::sync_threads();
  if (is_whole(saved.x + slab_start(s, norm), s, norm)) {
    apply_grad<true>(saved, dx, s, norm, s1, s2);
  } else {
    apply_grad<false>(saved, dx, s, norm, s1, s2);
  }
}

}  // namespace

// 256 threads, N * slabs * splits blocks. x, y, dy, dx [N,P,C]; gamma, beta, dgamma, dbeta [C]; mean, rstd [N,G]; pieces [N,G,splits,2];
// sums [N,splits,2,C]. Shared memory: 4.3 KiB, the sums 8 KiB, the kernels that only apply 0.3 KiB.
//
// group_norm                                       all at once; splits is 1
// group_norm_pieces, group_norm_of_pieces          the same in two launches, for few large slabs
// group_norm_grad_sums, group_norm_grad,           the gradients, in this order; the slabs of the first are of 128 channels
// group_norm_grad_parameters
#define FEWSTEP_GROUP_NORM(T, suffix)                                                                                                                      \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_##suffix, const T* x, const float* gamma, const float* beta, T* y, float* mean, float* rstd, Norm norm,      \
                 float eps) {                                                                                                                              \
    forward(x, gamma, beta, y, mean, rstd, norm, eps);                                                                                                     \
  }                                                                                                                                                        \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_pieces_##suffix, const T* x, float* pieces, Norm norm) { piece_statistics(x, pieces, norm); }                \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_of_pieces_##suffix, const T* x, const float* gamma, const float* beta, const float* pieces, T* y,            \
                 float* mean, float* rstd, Norm norm, float eps) {                                                                                         \
    forward_of_pieces(x, gamma, beta, pieces, y, mean, rstd, norm, eps);                                                                                   \
  }                                                                                                                                                        \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_grad_sums_##suffix, const T* x, const float* gamma, const float* beta, const float* mean, const float* rstd, \
                 const T* dy, float* sums, Norm norm) {                                                                                                    \
    channel_sums<T>({x, gamma, beta, mean, rstd, dy}, sums, norm);                                                                                         \
  }                                                                                                                                                        \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_grad_##suffix, const T* x, const float* gamma, const float* beta, const float* mean, const float* rstd,      \
                 const T* dy, const float* sums, T* dx, Norm norm) {                                                                                       \
    input_grad<T>({x, gamma, beta, mean, rstd, dy}, sums, dx, norm);                                                                                       \
  }

FEWSTEP_GROUP_NORM(float, f32)
FEWSTEP_GROUP_NORM(fs::half, f16)
FEWSTEP_GROUP_NORM(fs::bf16, bf16)

// dgamma, dbeta [C] from sums [rows,2,C], rows = N * splits. 256 threads have 32 channels: a warp adds up every eighth row. Shared memory 2 KiB.
FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_grad_parameters, const float* sums, float* dgamma, float* dbeta, int rows, int channels) {
  FEWSTEP_SHARED(float, parts, 2 * kThreads);
  const int thread = int(fs::thread_index().x);
  const int channel = int(fs::block_index().x) * 32 + thread % 32;
  float d = 0, dhat = 0;
  if (channel < channels) {
    for (int r = thread / 32; r < rows; r += kWarps) {
      d += sums[int64_t(r) * 2 * channels + channel];
      dhat += sums[(int64_t(r) * 2 + 1) * channels + channel];
    }
  }
  parts[thread] = d;
  parts[kThreads + thread] = dhat;
  fs::sync_threads();
  if (thread >= 64 || channel >= channels) return;
  float total = 0;
  for (int w = 0; w < kWarps; w++) total += parts[thread / 32 * kThreads + w * 32 + thread % 32];
  (thread < 32 ? dbeta : dgamma)[channel] = total;
}
