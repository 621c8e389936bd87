//! Group normalisation, forward and backward.
//!
//! Floor: both passes read x twice (statistics, then apply) and write once; a block of rows fits L1, so the second look at it is free in the statistics pass.
//! Work is cut into (sample, block of rows) by shape alone, and blocks are merged in order.

use super::chunks::vectorised;
use super::kernel::{CpuKernel, Io};
use super::kernels::pool::Shared;
use super::math::sigmoid;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{FusedGroupNorm, GroupNorm, GroupNormGrad};

/// Elements of a block of rows: 16 KiB, half of a small L1.
const BLOCK: usize = 4096;

/// The cut of [N,T,C] into blocks of rows.
struct Extent {
    n: usize,
    t: usize,
    c: usize,
    groups: usize,
    /// Rows of a block.
    rows: usize,
}

impl Extent {
    fn new(x: &TensorType, groups: usize) -> Self {
        let (n, c) = (x.shape[0], x.shape[x.shape.len() - 1]);
        let t = x.numel() / n / c;
        Self { n, t, c, groups, rows: (BLOCK / c).clamp(1, t) }
    }

    fn blocks(&self) -> usize {
        self.t.div_ceil(self.rows)
    }

    /// Sample and element range of a chunk.
    fn range(&self, chunk: usize) -> (usize, std::ops::Range<usize>) {
        let (n, b) = (chunk / self.blocks(), chunk % self.blocks());
        let rows = b * self.rows..((b + 1) * self.rows).min(self.t);
        (n, (n * self.t + rows.start) * self.c..(n * self.t + rows.end) * self.c)
    }
}

/// What a norm is made of: of an x that comes in `sources`, the operands 0, 1, ..., a factor and a shift for each channel of a sample.
pub(super) struct Statistics {
    extent: Extent,
    eps: f64,
    /// Channels of each value that x comes in.
    sources: Vec<usize>,
}

struct Forward {
    statistics: Statistics,
    silu: bool,
}

/// Whether the kernel does all of it.
pub(super) fn accepts(op: &FusedGroupNorm) -> bool {
    op.moments == 0
}

pub(super) fn forward(op: &FusedGroupNorm, types: &[&TensorType]) -> Result<Box<dyn CpuKernel>> {
    if !accepts(op) {
        return Err(Error::internal(format!("{op:?}, which the CPU backend does not accept")));
    }
    let statistics = Statistics::new(&op.norm, &op.joined(types)?, &types[op.operands().0]);
    Ok(Box::new(Forward { statistics, silu: op.norm.silu }))
}

impl Statistics {
    /// Of x, joined of `sources`.
    pub fn new(norm: &GroupNorm, x: &TensorType, sources: &[&TensorType]) -> Self {
        let sources = sources.iter().map(|ty| ty.shape[ty.shape.len() - 1]).collect();
        Self { extent: Extent::new(x, norm.groups), eps: norm.eps, sources }
    }

    /// The values that x comes in: which operand, its channels among all, and its elements of a chunk of x.
    fn parts(&self, chunk: std::ops::Range<usize>) -> impl Iterator<Item = (usize, std::ops::Range<usize>, std::ops::Range<usize>)> {
        let rows = chunk.start / self.extent.c..chunk.end / self.extent.c;
        let mut first = 0;
        self.sources.iter().enumerate().map(move |(i, c)| {
            first += c;
            (i, first - c..first, rows.start * c..rows.end * c)
        })
    }

    /// Sum and centred sum of squares of every (block, group): the second look at the block's rows is in L1.
    #[inline(always)] // into the function that has the instruction set
    fn block_statistics(&self, io: &Io, chunk: std::ops::Range<usize>, column: &mut [f32], out: &mut [f32]) {
        let e = &self.extent;
        let (cg, rows) = (e.c / e.groups, chunk.len() / e.c);
        column.fill(0.0);
        let (mean, squares) = column.split_at_mut(e.c);
        for (i, channels, elements) in self.parts(chunk.clone()) {
            let (x, mean) = (&io.input::<f32>(i)[elements], &mut mean[channels]);
            x.chunks_exact(mean.len()).for_each(|row| mean.iter_mut().zip(row).for_each(|(s, v)| *s += v));
        }
        for g in 0..e.groups {
            let sum: f32 = mean[g * cg..][..cg].iter().sum();
            out[2 * g] = sum;
            mean[g * cg..][..cg].fill(sum / (rows * cg) as f32);
        }
        for (i, channels, elements) in self.parts(chunk) {
            let (x, mean, squares) = (&io.input::<f32>(i)[elements], &mean[channels.clone()], &mut squares[channels]);
            for row in x.chunks_exact(mean.len()) {
                squares.iter_mut().zip(row).zip(mean).for_each(|((s, v), m)| *s += (v - m) * (v - m));
            }
        }
        for g in 0..e.groups {
            out[2 * g + 1] = squares[g * cg..][..cg].iter().sum();
        }
    }

    /// Mean and 1/sqrt(var + eps) of a group from its blocks (Chan et al. 1983), in f64 and in order.
    fn merge(&self, parts: &[f32], n: usize, g: usize) -> (f64, f64) {
        let e = &self.extent;
        let cg = e.c / e.groups;
        let at = |b: usize| &parts[((n * e.blocks() + b) * e.groups + g) * 2..][..2];
        let total = (e.t * cg) as f64;
        let mean = (0..e.blocks()).map(|b| f64::from(at(b)[0])).sum::<f64>() / total;
        let m2: f64 = (0..e.blocks())
            .map(|b| {
                let count = (e.rows.min(e.t - b * e.rows) * cg) as f64;
                f64::from(at(b)[1]) + count * (f64::from(at(b)[0]) / count - mean).powi(2)
            })
            .sum();
        (mean, 1.0 / (m2 / total + self.eps).sqrt())
    }

    /// Floats of scratch that [`Statistics::find`] needs.
    pub fn workspace(&self) -> usize {
        let e = &self.extent;
        let chunks = e.n * e.blocks();
        chunks * 2 * e.groups + chunks.max(e.n) * 2 * e.c
    }

    /// Factors and shifts [N,C], so that y = x factor + shift; calls `each(n, g, mean, 1 / deviation)` for every group.
    pub fn find<'s>(
        &self,
        io: &Io,
        [gamma, beta]: [&[f32]; 2],
        scratch: &'s mut [f32],
        mut each: impl FnMut(usize, usize, f64, f64),
    ) -> Result<[&'s [f32]; 2]> {
        let e = &self.extent;
        let chunks = e.n * e.blocks();
        let (parts, columns) = scratch.split_at_mut(chunks * 2 * e.groups);
        let (shared_parts, shared_columns) = (Shared::new(&mut *parts), Shared::new(&mut *columns));
        io.pool.run(chunks, &|chunk| {
            let (_, range) = e.range(chunk);
            // SAFETY: each chunk has its own part of both.
            let (out, column) = unsafe { (shared_parts.part(chunk * 2 * e.groups, 2 * e.groups), shared_columns.part(chunk * 2 * e.c, 2 * e.c)) };
            vectorised(
                io.isa,
                #[inline(always)]
                || self.block_statistics(io, range, column, out),
            );
        })?;
        let cg = e.c / e.groups;
        let (factors, shifts) = columns.split_at_mut(e.n * e.c);
        for n in 0..e.n {
            for g in 0..e.groups {
                let (mean, rstd) = self.merge(parts, n, g);
                for c in g * cg..(g + 1) * cg {
                    factors[n * e.c + c] = (f64::from(gamma[c]) * rstd) as f32;
                    shifts[n * e.c + c] = (f64::from(beta[c]) - f64::from(gamma[c]) * rstd * mean) as f32;
                }
                each(n, g, mean, rstd);
            }
        }
        Ok([factors, &shifts[..e.n * e.c]])
    }
}

impl CpuKernel for Forward {
    fn workspace(&self) -> usize {
        self.statistics.workspace() * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let (s, e) = (&self.statistics, &self.statistics.extent);
        let parameters = [io.input::<f32>(s.sources.len()), io.input::<f32>(s.sources.len() + 1)];
        let (means, rstds) = (io.output::<f32>(1), io.output::<f32>(2));
        let [factors, shifts] = s.find(io, parameters, io.scratch::<f32>(), |n, g, mean, rstd| {
            means[n * e.groups + g] = mean as f32;
            rstds[n * e.groups + g] = rstd as f32;
        })?;
        let y = io.shared_output::<f32>(0);
        io.pool.run(e.n * e.blocks(), &|chunk| {
            let (n, range) = e.range(chunk);
            let (scale, shift) = (&factors[n * e.c..][..e.c], &shifts[n * e.c..][..e.c]);
            // SAFETY: each chunk has its own rows.
            let y = unsafe { y.part(range.start, range.len()) };
            vectorised(
                io.isa,
                #[inline(always)]
                || {
                    for (i, channels, elements) in s.parts(range) {
                        let (x, scale, shift) = (&io.input::<f32>(i)[elements], &scale[channels.clone()], &shift[channels.clone()]);
                        for (y, x) in y.chunks_exact_mut(e.c).zip(x.chunks_exact(scale.len())) {
                            for (((y, x), a), b) in y[channels.clone()].iter_mut().zip(x).zip(scale).zip(shift) {
                                let v = x * a + b;
                                *y = if self.silu { v * sigmoid(v) } else { v };
                            }
                        }
                    }
                },
            );
        })
    }
}

struct Backward {
    extent: Extent,
    silu: bool,
}

pub(super) fn grad(op: &GroupNormGrad, x: &TensorType) -> Box<dyn CpuKernel> {
    Box::new(Backward { extent: Extent::new(x, op.groups), silu: op.silu })
}

/// Per-channel numbers of one sample, so that inner loops run over channels.
struct Channels<'a> {
    mean: &'a [f32],
    rstd: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
}

/// dL/d(gamma * xhat + beta) from dy, and xhat.
#[inline(always)]
fn before_activation(silu: bool, x: f32, dy: f32, mean: f32, rstd: f32, gamma: f32, beta: f32) -> (f32, f32) {
    let hat = (x - mean) * rstd;
    if !silu {
        return (dy, hat);
    }
    let v = gamma * hat + beta;
    let s = sigmoid(v);
    (dy * s * (1.0 + v * (1.0 - s)), hat)
}

impl Backward {
    /// Sums over a block's rows of d and d * xhat for every channel.
    #[inline(always)] // into the function that has the instruction set
    fn block_sums(&self, x: &[f32], dy: &[f32], p: &Channels, out: &mut [f32]) {
        let c = self.extent.c;
        out.fill(0.0);
        let (d_sum, dx_sum) = out.split_at_mut(c);
        // Slices of one known length: no bounds check is left in the inner loop, so that it vectorises.
        let (mean, rstd, gamma, beta) = (&p.mean[..c], &p.rstd[..c], &p.gamma[..c], &p.beta[..c]);
        let (d_sum, dx_sum) = (&mut d_sum[..c], &mut dx_sum[..c]);
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            for i in 0..c {
                let (d, hat) = before_activation(self.silu, x[i], dy[i], mean[i], rstd[i], gamma[i], beta[i]);
                d_sum[i] += d;
                dx_sum[i] += d * hat;
            }
        }
    }
}

impl CpuKernel for Backward {
    fn workspace(&self) -> usize {
        let e = &self.extent;
        // Partial sums of every block; mean, rstd and the two group sums of every sample and channel.
        (e.n * e.blocks() * 2 * e.c + e.n * 4 * e.c) * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let e = &self.extent;
        let (x, gamma, beta, mean, rstd, dy) = (io.input::<f32>(0), io.input(1), io.input(2), io.input::<f32>(3), io.input::<f32>(4), io.input::<f32>(5));
        let (c, cg, blocks) = (e.c, e.c / e.groups, e.blocks());
        let (sums, columns) = io.scratch::<f32>().split_at_mut(e.n * blocks * 2 * c);
        for n in 0..e.n {
            let (means, rest) = columns[n * 4 * c..][..4 * c].split_at_mut(c);
            for i in 0..c {
                means[i] = mean[n * e.groups + i / cg];
                rest[i] = rstd[n * e.groups + i / cg];
            }
        }
        let shared = Shared::new(&mut *sums);
        let look = &*columns;
        io.pool.run(e.n * blocks, &|chunk| {
            let (n, range) = e.range(chunk);
            let p = Channels { mean: &look[n * 4 * c..][..c], rstd: &look[n * 4 * c + c..][..c], gamma, beta };
            // SAFETY: each chunk has its own sums.
            let out = unsafe { shared.part(chunk * 2 * c, 2 * c) };
            vectorised(
                io.isa,
                #[inline(always)]
                || self.block_sums(&x[range.clone()], &dy[range], &p, out),
            );
        })?;
        self.merge(sums, columns, gamma, io.output(1), io.output(2));
        let (dx, columns) = (io.shared_output::<f32>(0), &*columns);
        io.pool.run(e.n * blocks, &|chunk| {
            let (n, range) = e.range(chunk);
            let per = &columns[n * 4 * c..][..4 * c];
            let (mean, rstd, s1, s2) = (&per[..c], &per[c..][..c], &per[2 * c..][..c], &per[3 * c..][..c]);
            let (gamma, beta) = (&gamma[..c], &beta[..c]);
            // SAFETY: each chunk has its own rows.
            let dx = unsafe { dx.part(range.start, range.len()) };
            vectorised(
                io.isa,
                #[inline(always)]
                || {
                    for ((dx, x), dy) in dx.chunks_exact_mut(c).zip(x[range.clone()].chunks_exact(c)).zip(dy[range].chunks_exact(c)) {
                        for i in 0..c {
                            let (d, hat) = before_activation(self.silu, x[i], dy[i], mean[i], rstd[i], gamma[i], beta[i]);
                            dx[i] = rstd[i] * (d * gamma[i] - s1[i] - hat * s2[i]);
                        }
                    }
                },
            );
        })
    }
}

impl Backward {
    /// Parameter gradients, and for each (sample, group) the means of d gamma and d gamma xhat, spread to its channels; all in f64 and in order.
    fn merge(&self, sums: &[f32], columns: &mut [f32], gamma: &[f32], dgamma: &mut [f32], dbeta: &mut [f32]) {
        let e = &self.extent;
        let (c, cg, blocks) = (e.c, e.c / e.groups, e.blocks());
        dgamma.fill(0.0);
        dbeta.fill(0.0);
        for n in 0..e.n {
            let total = |i: usize, which: usize| (0..blocks).map(|b| f64::from(sums[((n * blocks + b) * 2 + which) * c + i])).sum::<f64>();
            let per = &mut columns[n * 4 * c..][..4 * c];
            for g in 0..e.groups {
                let (mut s1, mut s2) = (0f64, 0f64);
                for i in g * cg..(g + 1) * cg {
                    let (d, dx) = (total(i, 0), total(i, 1));
                    dbeta[i] += d as f32;
                    dgamma[i] += dx as f32;
                    s1 += d * f64::from(gamma[i]);
                    s2 += dx * f64::from(gamma[i]);
                }
                let count = (e.t * cg) as f64;
                per[2 * c + g * cg..][..cg].fill((s1 / count) as f32);
                per[3 * c + g * cg..][..cg].fill((s2 / count) as f32);
            }
        }
    }
}
