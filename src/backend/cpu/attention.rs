//! Self-attention, forward and backward, one (sample, head) at a time.
//!
//! Keys (and for the backward pass values) of a head are transposed once, so that every inner loop runs over neighbouring floats. Scratch holds one head and a
//! few rows of scores for each thread, never T x T.

use super::chunks::vectorised;
use super::kernel::{CpuKernel, Io};
use super::kernels::pool::{Shared, split};
use super::math::exp;
use super::target::Target;
use crate::error::Result;
use crate::graph::TensorType;
use crate::graph::ops::{Attention, AttentionGrad};

/// Query rows of a chunk: enough to pay for the transposed keys.
const QUERIES: usize = 64;
/// Query rows that are computed at once.
pub(super) const ROWS: usize = 4;
/// Scores that are summed at once, in four vectors of AVX2.
const PIECE: usize = 32;
/// Channels that are summed at once, for each of the rows.
pub(super) const WIDE: usize = 16;
/// Of either where fewer are left.
pub(super) const EIGHT: usize = 8;

/// [N,T,heads*D].
#[derive(Clone, Copy)]
struct Extent {
    n: usize,
    t: usize,
    heads: usize,
    d: usize,
    scale: f32,
    threads: usize,
}

impl Extent {
    fn new(q: &TensorType, heads: usize, scale: f64, target: Target) -> Self {
        Self { n: q.shape[0], t: q.shape[1], heads, d: q.shape[2] / heads, scale: scale as f32, threads: target.threads }
    }

    /// Offset of the row of (sample, token, head).
    fn row(&self, n: usize, token: usize, head: usize) -> usize {
        ((n * self.t + token) * self.heads + head) * self.d
    }

    /// The row of a gradient that the chunk of (sample, head) owns.
    fn own_row<'a>(&self, to: Shared<'a>, n: usize, token: usize, head: usize) -> &'a mut [f32] {
        // SAFETY: each (sample, token, head) belongs to one chunk, which holds one of its rows at a time.
        unsafe { to.part(self.row(n, token, head), self.d) }
    }

    /// to[c][token] = scale * from[token][c] for one head.
    #[inline(always)]
    fn transpose(&self, from: &[f32], n: usize, head: usize, scale: f32, to: &mut [f32]) {
        for token in 0..self.t {
            for (c, v) in from[self.row(n, token, head)..][..self.d].iter().enumerate() {
                to[c * self.t + token] = scale * v;
            }
        }
    }
}

/// out[b] = sum_c row[c] * table[c][b].
#[inline(always)]
fn row_times(row: &[f32], table: &[f32], out: &mut [f32]) {
    let (t, mut first) = (out.len(), 0);
    while first < t {
        let (out, table) = (&mut out[first..], &table[first..]);
        first += match out.len() {
            PIECE.. => put::<PIECE>(out, piece_times(row, table, t)),
            EIGHT.. => put::<EIGHT>(out, piece_times(row, table, t)),
            _ => put::<1>(out, piece_times(row, table, t)),
        };
    }
}

/// Writes the first `P` of some numbers; returns how many.
#[inline(always)]
fn put<const P: usize>(to: &mut [f32], from: [f32; P]) -> usize {
    to[..P].copy_from_slice(&from);
    P
}

/// The same for `P` neighbouring b, which stay in registers; rows of the table are `t` apart. Products are added by fours.
#[inline(always)]
fn piece_times<const P: usize>(row: &[f32], table: &[f32], t: usize) -> [f32; P] {
    let mut out = [0.0; P];
    let at = |c: usize| table[c * t..].first_chunk::<P>().unwrap_or(&[0.0; P]); // always there
    let whole = row.len() / 4 * 4;
    for c in (0..whole).step_by(4) {
        let (r, [k0, k1, k2, k3]) = (&row[c..c + 4], [at(c), at(c + 1), at(c + 2), at(c + 3)]);
        for b in 0..P {
            out[b] += (r[0] * k0[b] + r[1] * k1[b]) + (r[2] * k2[b] + r[3] * k3[b]);
        }
    }
    for (c, r) in row.iter().enumerate().skip(whole) {
        let k = at(c);
        for b in 0..P {
            out[b] += r * k[b];
        }
    }
    out
}

/// sum_b scores[r][b] * v[b][c] for `R` rows of as many scores each and `P` neighbouring c, added in the order of b; rows of v are `stride` apart.
#[inline(always)]
pub(super) fn weighted<const R: usize, const P: usize>(scores: &[f32], v: &[f32], stride: usize) -> [[f32; P]; R] {
    let (mut sums, t) = ([[0.0; P]; R], scores.len() / R);
    for b in 0..t {
        let v = v[b * stride..].first_chunk::<P>().unwrap_or(&[0.0; P]); // always there
        for r in 0..R {
            let p = scores[r * t + b];
            for c in 0..P {
                sums[r][c] += p * v[c];
            }
        }
    }
    sums
}

/// The largest of some numbers; NaN is none.
#[inline(always)]
fn largest(numbers: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (eights, rest) = numbers.as_chunks::<8>();
    let mut most = [f32::NEG_INFINITY; 8];
    for eight in eights {
        for i in 0..8 {
            most[i] = larger(most[i], eight[i]);
        }
    }
    let mut all = f32::NEG_INFINITY;
    for number in most.iter().chain(rest) {
        all = larger(all, *number);
    }
    all
}

/// to += factor * from.
#[inline(always)]
fn add_scaled(to: &mut [f32], factor: f32, from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(o, v)| *o += factor * v);
}

struct Forward(Extent);

pub(super) fn forward(op: &Attention, q: &TensorType, target: Target) -> Box<dyn CpuKernel> {
    Box::new(Forward(Extent::new(q, op.heads, op.scale, target)))
}

impl Forward {
    /// The results of `R` neighbouring queries of a head from token `a` on, and what the backward pass needs; several at once, since each is a chain of sums.
    #[inline(always)]
    fn queries<const R: usize>(&self, [q, v]: [&[f32]; 2], keys: &[f32], scores: &mut [f32], [n, head, a]: [usize; 3], [out, lse]: [Shared; 2]) {
        let e = &self.0;
        let (scores, stride) = (&mut scores[..R * e.t], e.heads * e.d);
        let (mut max, mut sum) = ([0.0; R], [0.0; R]);
        for r in 0..R {
            let scores = &mut scores[r * e.t..(r + 1) * e.t];
            row_times(&q[e.row(n, a + r, head)..][..e.d], keys, scores);
            max[r] = largest(scores);
            for s in scores {
                *s = exp(*s - max[r]);
            }
        }
        for b in 0..e.t {
            for r in 0..R {
                sum[r] += scores[r * e.t + b];
            }
        }
        let (v, mut c) = (&v[e.row(n, 0, head)..], 0);
        while c < e.d {
            let (v, at) = (&v[c..], [n, head, a, c]);
            c += match e.d - c {
                WIDE.. => self.write::<R, WIDE>(weighted(scores, v, stride), sum, at, out),
                EIGHT.. => self.write::<R, EIGHT>(weighted(scores, v, stride), sum, at, out),
                _ => self.write::<R, 1>(weighted(scores, v, stride), sum, at, out),
            };
        }
        for r in 0..R {
            // SAFETY: each (sample, head, token) belongs to one chunk.
            unsafe { lse.part((n * e.heads + head) * e.t + a + r, 1)[0] = max[r] + sum[r].ln() };
        }
    }

    /// `P` channels of the results, from `c` on; returns how many.
    #[inline(always)]
    fn write<const R: usize, const P: usize>(&self, sums: [[f32; P]; R], sum: [f32; R], [n, head, a, c]: [usize; 4], out: Shared) -> usize {
        for r in 0..R {
            // SAFETY: each (sample, token, head) belongs to one chunk, which holds one part of its row at a time.
            let to = unsafe { out.part(self.0.row(n, a + r, head) + c, P) };
            for i in 0..P {
                to[i] = sums[r][i] / sum[r];
            }
        }
        P
    }
}

impl CpuKernel for Forward {
    fn workspace(&self) -> usize {
        self.0.threads * self.0.t * (self.0.d + ROWS) * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let e = self.0;
        let (q, k, v) = (io.input::<f32>(0), io.input::<f32>(1), io.input::<f32>(2));
        let to = [io.shared_output::<f32>(0), io.shared_output::<f32>(1)];
        let scratch = Shared::new(io.scratch::<f32>());
        let (parts, size) = (e.t.div_ceil(QUERIES), e.t * (e.d + ROWS));
        io.pool.run_slots(e.n * e.heads * parts, &|slot, chunk| {
            let (n, head, part) = (chunk / parts / e.heads, chunk / parts % e.heads, chunk % parts);
            // SAFETY: no two running chunks share a slot.
            let own = unsafe { scratch.part(slot * size, size) };
            let (keys, scores) = own.split_at_mut(e.t * e.d);
            vectorised(
                io.isa,
                #[inline(always)]
                || {
                    e.transpose(k, n, head, e.scale, keys);
                    let tokens = split(e.t, parts, part);
                    let mut a = tokens.start;
                    while a + ROWS <= tokens.end {
                        self.queries::<ROWS>([q, v], keys, scores, [n, head, a], to);
                        a += ROWS;
                    }
                    for a in a..tokens.end {
                        self.queries::<1>([q, v], keys, scores, [n, head, a], to);
                    }
                },
            );
        })
    }
}

struct Backward(Extent);

pub(super) fn grad(op: &AttentionGrad, q: &TensorType, target: Target) -> Box<dyn CpuKernel> {
    Box::new(Backward(Extent::new(q, op.heads, op.scale, target)))
}

impl CpuKernel for Backward {
    fn workspace(&self) -> usize {
        self.0.threads * self.0.t * (2 * self.0.d + 2) * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let e = self.0;
        let [q, k, v, out, lse, dout] = [0, 1, 2, 3, 4, 5].map(|i| io.input::<f32>(i));
        let (dq, dk, dv) = (io.shared_output::<f32>(0), io.shared_output::<f32>(1), io.shared_output::<f32>(2));
        let scratch = Shared::new(io.scratch::<f32>());
        let size = e.t * (2 * e.d + 2);
        // A chunk owns all of a head's gradients: dk and dv are sums over its queries, in order.
        io.pool.run_slots(e.n * e.heads, &|slot, chunk| {
            let (n, head) = (chunk / e.heads, chunk % e.heads);
            // SAFETY: no two running chunks share a slot.
            let own = unsafe { scratch.part(slot * size, size) };
            let (keys, rest) = own.split_at_mut(e.t * e.d);
            let (values, rest) = rest.split_at_mut(e.t * e.d);
            let (p, dp) = rest.split_at_mut(e.t);
            vectorised(
                io.isa,
                #[inline(always)]
                || {
                    e.transpose(k, n, head, e.scale, keys);
                    e.transpose(v, n, head, 1.0, values);
                    for b in 0..e.t {
                        e.own_row(dk, n, b, head).fill(0.0);
                        e.own_row(dv, n, b, head).fill(0.0);
                    }
                    for a in 0..e.t {
                        let at = e.row(n, a, head);
                        let (q, dout, out) = (&q[at..][..e.d], &dout[at..][..e.d], &out[at..][..e.d]);
                        let lse = lse[(n * e.heads + head) * e.t + a];
                        row_times(q, keys, p);
                        p.iter_mut().for_each(|s| *s = exp(*s - lse));
                        row_times(dout, values, dp);
                        let mean: f32 = dout.iter().zip(out).map(|(a, b)| a * b).sum();
                        let dq = e.own_row(dq, n, a, head);
                        dq.fill(0.0);
                        for b in 0..e.t {
                            let ds = e.scale * p[b] * (dp[b] - mean);
                            add_scaled(dq, ds, &k[e.row(n, b, head)..][..e.d]);
                            add_scaled(e.own_row(dk, n, b, head), ds, q);
                            add_scaled(e.own_row(dv, n, b, head), p[b], dout);
                        }
                    }
                },
            );
        })
    }
}
