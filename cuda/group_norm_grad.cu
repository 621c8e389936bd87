// Gradients of a group normalisation of x [N,P,C] with an optional SiLU (group_norm.cu).
//
// With hat = (x - mean) rstd and d = dy act'(gamma hat + beta): dbeta = sum d, dgamma = sum d hat (over samples and positions), and
// dx = rstd (d gamma - s1 - hat s2) with s1, s2 = means over the group of d gamma, d gamma hat.
// Floor: x and dy read, dx written. Three launches: sums of d and d hat for every (sample, split, channel); dx; dgamma and dbeta. The second reads x and dy
// once more, which a small net's second-level cache still has.
#include "device/fewstep.cuh"
#include "parts/norm_slab.cuh"

namespace {

static_assert(kParameterChannels == 32, "a lane of a warp has one");

// The operands that stay the same for the whole launch.
template <class T>
struct Saved {
  const T* x;
  const float *gamma, *beta, *mean, *rstd;
  const T* dy;
};

// body(x, dy, offset) for this thread's runs of a column, in order of the positions. Two rows of both are under way at once: 16 KiB a block.
template <class A, class T, class Body>
FEWSTEP_DEVICE void each_pair(const Saved<T>& saved, const Slab& s, const Norm& norm, int column, Body body) {
  constexpr int kAhead = (A::kAhead + 1) / 2;
  const int64_t start = slab_start(s, norm);
  const T *x = saved.x + start, *dy = saved.dy + start;
  const int count = fs::min(s.width - column, A::kN);
  for (int p = s.begin + s.row; p < s.end; p += kAhead * s.rows) {
    typename A::Raw rows[kAhead], grads[kAhead];
    FEWSTEP_UNROLL
    for (int i = 0; i < kAhead; i++) {
      const int at = p + i * s.rows;
      if (at >= s.end) continue;
      rows[i] = A::load(x + (at * norm.channels + column), count);
      grads[i] = A::load(dy + (at * norm.channels + column), count);
    }
    FEWSTEP_UNROLL
    for (int i = 0; i < kAhead; i++) {
      const int at = p + i * s.rows;
      if (at < s.end) body(A::floats(rows[i]), A::floats(grads[i]), at * norm.channels + column);
    }
  }
}

// d of dy, where v is what the activation sees.
FEWSTEP_DEVICE float before_activation(float dy, float v, int silu) {
  if (!silu) return dy;
  const float g = sigmoid(v);
  return dy * (g * fs::fma(v, 1.0f - g, 1.0f));
}

// This thread's sums of d and d * hat over the positions of its column, into its places of runs[2][threads][N].
template <class A, class T>
FEWSTEP_DEVICE void column_sums(const Saved<T>& saved, const Slab& s, const Norm& norm, float* runs) {
  constexpr int N = A::kN;
  Run<N> sum_d = {}, sum_dhat = {};
  if (s.column < s.width) {
    const int count = s.width - s.column, channel = s.channel + s.column;
    const float *means = saved.mean + s.sample * norm.groups, *rstds = saved.rstd + s.sample * norm.groups;
    const Run<N> beta = A::parameters(saved.beta + channel, count);
    Run<N> scale = A::parameters(saved.gamma + channel, count), mean;
    each_group<N>(channel, s.group_channels, norm.groups, [&](int i, int g) {
      mean.v[i] = means[g];
      scale.v[i] *= rstds[g];
    });
    each_pair<A>(saved, s, norm, s.column, [&](const Run<N>& x, const Run<N>& dy, int) {
      FEWSTEP_UNROLL
      for (int i = 0; i < N; i++) {
        const float away = x.v[i] - mean.v[i];
        const float d = before_activation(dy.v[i], fs::fma(away, scale.v[i], beta.v[i]), norm.silu);
        sum_d.v[i] += d;
        sum_dhat.v[i] = fs::fma(d, away, sum_dhat.v[i]);
      }
    });
    each_group<N>(channel, s.group_channels, norm.groups, [&](int i, int g) { sum_dhat.v[i] *= rstds[g]; });
  }
  const int thread = int(fs::thread_index().x);
  store_words(runs + thread * N, packed<float>(sum_d));
  store_words(runs + (kThreads + thread) * N, packed<float>(sum_dhat));
}

// sums[sample][split][2][channel]: d, d * hat.
template <class A, class T>
FEWSTEP_DEVICE void channel_sums(const Saved<T>& saved, float* sums, Slab s, const Norm& norm, float* runs) {
  constexpr int N = A::kN;
  place<N>(s, norm);
  column_sums<A>(saved, s, norm, runs);
  fs::sync_threads();
  // Thread (which, channel) adds up that column of all rows.
  const int thread = int(fs::thread_index().x), which = thread / kSumChannels, column = thread % kSumChannels;
  if (column >= s.width) return;
  float total = 0;
  for (int r = 0; r < s.rows; r++) total += runs[which * kThreads * N + r * s.stride + column];
  sums[((int64_t(s.sample) * norm.splits + s.split) * 2 + which) * norm.channels + s.channel + column] = total;
}

template <class T>
FEWSTEP_DEVICE void channel_sums(const fs::Block& block, const Saved<T>& saved, float* sums, const Norm& norm) {
  FEWSTEP_SHARED(float, runs, 2 * kThreads * kMostRun);
  const Slab s = channel_slab_of(block, norm, kSumChannels);
  if (is_whole<T>(s, norm)) {
    channel_sums<Access<T, true>>(saved, sums, s, norm, runs);
  } else {
    channel_sums<Access<T, false>>(saved, sums, s, norm, runs);
  }
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

// dx over this block's positions; s1 and s2 are the slab's groups'. Multiplied out: dx = d scale - ((x - mean) slope + middle) with scale = gamma rstd,
// slope = rstd^2 s2 and middle = rstd s1. d is computed as for the sums: what differed there would be multiplied by rstd here.
template <class A, class T>
FEWSTEP_DEVICE void apply_grad(const Saved<T>& saved, T* dx, Slab s, const Norm& norm, const float* s1, const float* s2) {
  constexpr int N = A::kN;
  place<N>(s, norm);
  dx += slab_start(s, norm);
  const float *means = saved.mean + s.sample * norm.groups + s.first_group, *rstds = saved.rstd + s.sample * norm.groups + s.first_group;
  for (int column = s.column; column < s.width; column += s.stride) {
    const int count = s.width - column, channel = s.channel + column;
    Run<N> scale = A::parameters(saved.gamma + channel, count), mean, slope, middle;
    const Run<N> beta = A::parameters(saved.beta + channel, count);
    each_group<N>(column, s.group_channels, s.groups, [&](int i, int g) {
      const float rstd = rstds[g];
      mean.v[i] = means[g];
      scale.v[i] *= rstd;
      slope.v[i] = rstd * rstd * s2[g];
      middle.v[i] = rstd * s1[g];
    });
    each_pair<A>(saved, s, norm, column, [&](const Run<N>& x, const Run<N>& dy, int at) {
      Run<N> q;
      FEWSTEP_UNROLL
      for (int i = 0; i < N; i++) {
        const float away = x.v[i] - mean.v[i];
        const float d = before_activation(dy.v[i], fs::fma(away, scale.v[i], beta.v[i]), norm.silu);
        q.v[i] = fs::fma(d, scale.v[i], -fs::fma(away, slope.v[i], middle.v[i]));
      }
      A::store(dx + at, q, count);
    });
  }
}

template <class T>
FEWSTEP_DEVICE void input_grad(const fs::Block& block, const Saved<T>& saved, const float* sums, T* dx, const Norm& norm) {
  FEWSTEP_SHARED(float, s1, kGroups);
  FEWSTEP_SHARED(float, s2, kGroups);
  const Slab s = slab_of(block, norm);
  for (int g = int(fs::warp()); g < s.groups; g += kWarps) {
    const float d = group_mean(sums, saved.gamma, norm, s.sample, s.first_group + g, 0);
    const float dhat = group_mean(sums, saved.gamma, norm, s.sample, s.first_group + g, 1);
    if (fs::lane() == 0) {
      s1[g] = d;
      s2[g] = dhat;
    }
  }
  fs::sync_threads();
  if (is_whole<T>(s, norm)) {
    apply_grad<Access<T, true>>(saved, dx, s, norm, s1, s2);
  } else {
    apply_grad<Access<T, false>>(saved, dx, s, norm, s1, s2);
  }
}

}  // namespace

// 256 threads, N * slabs * splits blocks. x, dy, dx [N,P,C]; gamma, beta, dgamma, dbeta [C]; mean, rstd [N,G]; sums [N,splits,2,C]. Shared memory: the sums
// 16 KiB, dx 0.3 KiB.
//
// group_norm_grad_sums, group_norm_grad, group_norm_grad_parameters      in this order; the slabs of the first are of 128 channels
#define FEWSTEP_GROUP_NORM_GRAD(T, suffix)                                                                                                                 \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_grad_sums_##suffix, const T* x, const float* gamma, const float* beta, const float* mean,        \
                          const float* rstd, const T* dy, float* sums, Norm norm) {                                                                        \
    channel_sums<T>(fs::begin(), {x, gamma, beta, mean, rstd, dy}, sums, norm);                                                                            \
  }                                                                                                                                                        \
  FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_grad_##suffix, const T* x, const float* gamma, const float* beta, const float* mean,             \
                          const float* rstd, const T* dy, const float* sums, T* dx, Norm norm) {                                                           \
    input_grad<T>(fs::begin(), {x, gamma, beta, mean, rstd, dy}, sums, dx, norm);                                                                          \
  }

FEWSTEP_GROUP_NORM_GRAD(float, f32)
FEWSTEP_GROUP_NORM_GRAD(fs::half, f16)
FEWSTEP_GROUP_NORM_GRAD(fs::bf16, bf16)

// dgamma, dbeta [C] from sums [rows,2,C], rows = N * splits. 256 threads have 32 channels: a warp adds up every eighth row. Shared memory 2 KiB.
FEWSTEP_KERNEL_RESIDENT(kThreads, 2, fewstep_group_norm_grad_parameters, const float* sums, float* dgamma, float* dbeta, int rows, int channels) {
  FEWSTEP_SHARED(float, parts, 2 * kThreads);
  const int thread = int(fs::thread_index().x);
  const int channel = int(fs::begin().index.x) * kParameterChannels + thread % 32;
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
