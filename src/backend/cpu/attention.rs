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
    out.fill(0.0);
    let t = out.len();
    let mut pairs = row.chunks_exact(4).zip(table.chunks_exact(4 * t));
    for (r, k) in &mut pairs {
        let (k0, rest) = k.split_at(t);
        let (k1, rest) = rest.split_at(t);
        let (k2, k3) = rest.split_at(t);
        for b in 0..t {
            out[b] += (r[0] * k0[b] + r[1] * k1[b]) + (r[2] * k2[b] + r[3] * k3[b]);
        }
    }
    let done = row.len() / 4 * 4;
    for (r, k) in row[done..].iter().zip(table[done * t..].chunks_exact(t)) {
        out.iter_mut().zip(k).for_each(|(o, k)| *o += r * k);
    }
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

impl CpuKernel for Forward {
    fn workspace(&self) -> usize {
        self.0.threads * self.0.t * (self.0.d + 1) * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let e = self.0;
        let (q, k, v) = (io.input::<f32>(0), io.input::<f32>(1), io.input::<f32>(2));
        let (out, lse) = (io.shared_output::<f32>(0), io.shared_output::<f32>(1));
        let scratch = Shared::new(io.scratch::<f32>());
        let parts = e.t.div_ceil(QUERIES);
        io.pool.run_slots(e.n * e.heads * parts, &|slot, chunk| {
            let (n, head, part) = (chunk / parts / e.heads, chunk / parts % e.heads, chunk % parts);
            // SAFETY: no two running chunks share a slot.
            let own = unsafe { scratch.part(slot * e.t * (e.d + 1), e.t * (e.d + 1)) };
            let (keys, scores) = own.split_at_mut(e.t * e.d);
            vectorised(
                io.isa,
                #[inline(always)]
                || {
                    e.transpose(k, n, head, e.scale, keys);
                    for a in split(e.t, parts, part) {
                        row_times(&q[e.row(n, a, head)..][..e.d], keys, scores);
                        let max = scores.iter().fold(f32::NEG_INFINITY, |m, s| if *s > m { *s } else { m });
                        scores.iter_mut().for_each(|s| *s = exp(*s - max));
                        let sum: f32 = scores.iter().sum();
                        // SAFETY: each (sample, token, head) belongs to one chunk.
                        let row = unsafe { out.part(e.row(n, a, head), e.d) };
                        row.fill(0.0);
                        for (b, p) in scores.iter().enumerate() {
                            add_scaled(row, *p, &v[e.row(n, b, head)..][..e.d]);
                        }
                        row.iter_mut().for_each(|o| *o /= sum);
                        // SAFETY: as above.
                        unsafe { lse.part((n * e.heads + head) * e.t + a, 1)[0] = max + sum.ln() };
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
