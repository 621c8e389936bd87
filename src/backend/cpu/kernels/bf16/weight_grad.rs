//! Weight gradients on tiles: `dW[o][c] = sum over pixels m of dY[m][o] X[m + tap][c]`, so that a tile's 32 products in a row are of 32 pixels.
//!
//! dY is transposed, `[image][o/16][m/32][16][32]`; of X two neighbouring pixels lie side by side, `[image][c/16][plane][phase][pair][16][2]`, in two phases,
//! pairs from even pixels and from odd ones: a tap is a distance in pixels, and tiles are loaded from whole lines. Pixels m are those of rows that are as wide as
//! what a row of the kernel meets, where dY is 0 beyond its own; with a stride, X has a plane for each remainder of rows and columns. What is not finite in X
//! makes sums of pixels beside it NaN, not only those that it is part of.
//!
//! The sum over pixels is cut into fixed parts, which are added in a fixed order: the same bytes for any number of threads.

use super::super::conv::ConvShape;
use super::super::gemm::chunk_macs;
use super::super::int8::staging::TILE;
use super::super::int8::task::Sums;
use super::super::int8::tiles::Tiles;
use super::super::pool::{Shared, split};
use super::super::simd::{Isa, Kernel as Dispatched, Simd};
use super::super::workers::Workers;
use super::Kernel;
use crate::error::{Error, Result};
use crate::memory;
use std::ops::Range;

/// Bytes of a tile, and pixels of its rows.
const TILE_BYTES: usize = 1024;
const DEPTH: usize = 32;
/// Bytes of a pair of pixels of 16 channels.
const PAIR: usize = 64;
/// Outputs, and inputs, of a unit of work: two tiles of each.
const PANEL: usize = 2 * TILE;
/// Steps whose tiles are used for all taps before the next ones are taken: 128 KiB of each operand, which L2 holds.
const BLOCK: usize = 128;
/// Multiply-adds of a chunk: about ten microseconds of a core.
const CHUNK_MACS: usize = 1 << 23;
/// Chunks wanted, for 16 threads to be balanced.
const CHUNKS: usize = 48;
/// Most parts of the sum; each costs a pass over the weights.
const MAX_PARTS: usize = 8;
/// Steps of a part at least, so that adding the parts stays below a few percent.
const PART_STEPS: usize = 32;
/// Steps, of 32 pixels, of a chunk of what makes bf16.
const STAGED_STEPS: usize = 8;
/// Outputs of a chunk of the final sums.
const FINAL_OUTPUTS: usize = 16;

/// Tiles that are multiplied with tiles of which both have a place by step.
///
/// # Safety
/// As for [`Tiles`].
#[allow(clippy::missing_safety_doc)] // one contract for all
pub(super) trait Outer: Tiles {
    /// `sums[32][32] = sum over steps`: of each pair of offsets the first is behind both of `a`, the second behind both of `b`, a tile each, rows of 64 bytes one
    /// after the other. There is one at least.
    unsafe fn multiply(a: [*const u8; 2], b: [*const u8; 2], steps: &[[u32; 2]], sums: &mut Sums);
}

/// Sizes of both operands in bf16.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Images, and height and width of one of dY and of X: the pixels of a pointwise convolution are those of one image.
    images: usize,
    out: [usize; 2],
    size: [usize; 2],
    /// Rows of a plane of X, and pixels of one.
    rows: usize,
    width: usize,
    /// Planes of X: remainders of rows, of columns.
    planes: [usize; 2],
    phases: usize,
    /// Pairs of a phase.
    pairs: usize,
    /// Steps of an image.
    steps: usize,
    /// Bytes of an image of dY, and of X.
    image: [usize; 2],
}

/// Sixteens of channels.
fn groups(channels: usize) -> usize {
    channels.div_ceil(TILE)
}

impl Extent {
    /// Those of a shape that was checked; `None` where offsets do not fit 32 bits.
    fn of(s: &ConvShape) -> Option<Self> {
        let (images, out, size) = if s.pointwise() {
            let pixels = s.n.checked_mul(s.h * s.w)?;
            (1, [1, pixels], [1, pixels])
        } else {
            (s.n, [s.p(), s.q()], [s.h, s.w])
        };
        let [down, across] = s.stride;
        let planes = [down.min(s.r), across.min(s.s)];
        let (rows, width) = (out[0] + (s.r - 1) / down, out[1] + (s.s - 1) / across);
        // The farthest tap.
        let far = (s.r - 1) / down * width + (s.s - 1) / across;
        let phases = if far > 0 { 2 } else { 1 };
        let steps = out[0].checked_mul(width)?.div_ceil(DEPTH);
        let pairs = steps * (DEPTH / 2) + far / 2;
        let product = |factors: &[usize]| factors.iter().try_fold(1usize, |a, b| a.checked_mul(*b)).filter(|bytes| *bytes <= u32::MAX as usize);
        let image = [product(&[groups(s.c_out), steps, TILE_BYTES])?, product(&[groups(s.c_in), planes[0], planes[1], phases, pairs, PAIR])?];
        product(&[images, image[0].max(image[1])])?;
        Some(Self { images, out, size, rows, width, planes, phases, pairs, steps, image })
    }

    /// Bytes from one group of X to the next.
    fn group_bytes(&self) -> usize {
        self.planes[0] * self.planes[1] * self.phases * self.pairs * PAIR
    }
}

/// The weight gradient of a convolution, compiled for a shape and a kernel.
#[derive(Debug)]
pub struct WeightGrad {
    kernel: &'static Kernel,
    shape: ConvShape,
    extent: Extent,
    /// Where each step's tiles are, of all images.
    steps: Vec<[u32; 2]>,
    /// For each tap, the bytes from a group of X to its first pair.
    taps: Vec<usize>,
    /// Cuts of the sum, and of the units of each part.
    parts: usize,
    chunks_each: usize,
}

impl WeightGrad {
    /// Whether at least a quarter of what tiles compute for a shape is wanted, and they can be found again.
    pub fn pays(s: &ConvShape) -> bool {
        let share = |part: usize, of: usize| part as f64 / of as f64;
        let worth = |e: Extent| {
            let pixels = share(e.out[0] * e.out[1], e.steps * DEPTH);
            pixels * share(s.c_in, s.c_in.next_multiple_of(PANEL)) * share(s.c_out, s.c_out.next_multiple_of(PANEL)) >= 0.25
        };
        s.check().is_ok() && Extent::of(s).is_some_and(worth)
    }

    /// Of a convolution of `shape`.
    pub fn new(shape: &ConvShape, kernel: &'static Kernel) -> Result<Self> {
        let s = *shape;
        s.check()?;
        let e = Extent::of(&s).ok_or_else(|| Error::shape(format!("the weight gradient of {s:?} in bf16: its operands are above 4 GiB")))?;
        let all = (0..e.images).flat_map(|image| (0..e.steps).map(move |step| e.image.map(|bytes| (image * bytes + step * TILE_BYTES) as u32)));
        let steps = memory::collect(all, "weight gradient table")?;
        let [down, across] = s.stride;
        let taps = (0..s.r).flat_map(|r| (0..s.s).map(move |t| (r, t))).map(|(r, t)| {
            let (plane, distance) = (r % down * e.planes[1] + t % across, r / down * e.width + t / across);
            ((plane * e.phases + distance % 2) * e.pairs + distance / 2) * PAIR
        });
        let taps = memory::collect(taps, "weight gradient taps")?;
        // Cut by the shape alone: units first, which costs nothing, then the sum as far as still needed.
        let units = units(&s);
        let parts = CHUNKS.div_ceil(units).min(MAX_PARTS).min(steps.len() / PART_STEPS).max(1);
        let unit_macs = (steps.len().div_ceil(parts) * DEPTH * PANEL * PANEL).max(1);
        let each = (chunk_macs(unit_macs.saturating_mul(units * parts), CHUNK_MACS) / unit_macs).clamp(1, units);
        Ok(Self { kernel, shape: s, extent: e, steps, taps, parts, chunks_each: units.div_ceil(each) })
    }

    /// Bytes of the tables.
    pub fn table_bytes(&self) -> usize {
        size_of_val(&*self.steps) + size_of_val(&*self.taps)
    }

    /// Bytes of dY and of X, in bf16.
    fn staged(&self) -> [usize; 2] {
        self.extent.image.map(|bytes| self.extent.images * bytes)
    }

    fn weights(&self) -> usize {
        self.shape.c_out * self.taps.len() * self.shape.c_in
    }

    /// Bytes of scratch that `run` needs, which should be aligned to 64.
    pub fn workspace(&self) -> usize {
        self.staged().iter().sum::<usize>() + self.parts * self.weights() * size_of::<f32>()
    }

    /// `dw [c_out, c_in, r, s]` from `x [n, h, w, c_in]` and `dy [n, p, q, c_out]`.
    pub fn run(&self, x: &[f32], dy: &[f32], dw: &mut [f32], scratch: &mut [f32], isa: Isa, pool: Workers) -> Result<()> {
        let [nx, nw, ny] = self.shape.check()?;
        let scratch_len = self.workspace() / size_of::<f32>();
        for (found, expected, what) in
            [(x.len(), nx, "x"), (dy.len(), ny, "dy"), (dw.len(), nw, "dw"), (scratch.len().min(scratch_len), scratch_len, "scratch")]
        {
            if found != expected {
                return Err(Error::shape(format!("weight gradient {:?} in bf16: {what} has {found} elements, expected {expected}", self.shape)));
            }
        }
        let [of_dy, of_x] = self.staged();
        let (a, rest) = scratch.split_at_mut(of_dy / size_of::<f32>());
        let (b, rest) = rest.split_at_mut(of_x / size_of::<f32>());
        let (partial, _) = rest.split_at_mut(self.parts * self.weights());
        self.stage(x, dy, [words(a), words(b)], isa, pool)?;
        let partial = Shared::new(partial);
        let units = units(&self.shape);
        let (a, b) = (&*words(a), &*words(b));
        pool.run(self.parts * self.chunks_each, &|chunk| {
            let (part, chunk) = (chunk / self.chunks_each, chunk % self.chunks_each);
            let task = Task { grad: self, a, b, partial, part, units: split(units, self.chunks_each, chunk) };
            // SAFETY: the kernel is one that the machine has; all sizes were checked; units are disjoint.
            unsafe { (self.kernel.outer)(&task) }
        })?;
        let out = Shared::new(dw);
        pool.run(self.shape.c_out.div_ceil(FINAL_OUTPUTS), &|chunk| self.finish(chunk, partial, out))
    }

    /// Makes bf16 of both, all of what kernels read.
    fn stage(&self, x: &[f32], dy: &[f32], [a, b]: [&mut [u32]; 2], isa: Isa, pool: Workers) -> Result<()> {
        let (a, b, e) = (Shared::new(a), Shared::new(b), &self.extent);
        let each = e.steps.div_ceil(STAGED_STEPS);
        pool.run(e.images * each, &|chunk| {
            let (image, first) = (chunk / each, chunk % each * STAGED_STEPS);
            isa.dispatch(Transposed { grad: self, dy, out: a, image, steps: first..(first + STAGED_STEPS).min(e.steps) });
        })?;
        let each = e.pairs.div_ceil(STAGED_STEPS * DEPTH / 2);
        pool.run(e.images * each, &|chunk| {
            let (image, first) = (chunk / each, chunk % each * STAGED_STEPS * DEPTH / 2);
            isa.dispatch(Paired { grad: self, x, out: b, image, pairs: first..(first + STAGED_STEPS * DEPTH / 2).min(e.pairs) });
        })
    }

    /// Adds the parts in order and puts the channels before the taps, for some outputs.
    fn finish(&self, chunk: usize, partial: Shared, out: Shared) {
        let (c, taps) = (self.shape.c_in, self.taps.len());
        let outputs = chunk * FINAL_OUTPUTS..((chunk + 1) * FINAL_OUTPUTS).min(self.shape.c_out);
        // SAFETY: these outputs are this chunk's alone, and scratch is only read from here on.
        let (out, partial) =
            unsafe { (out.part(outputs.start * c * taps, outputs.len() * c * taps), std::slice::from_raw_parts(partial.as_ptr(), partial.len())) };
        for (o, out) in outputs.zip(out.chunks_exact_mut(c * taps)) {
            for (tap, channel) in (0..taps).flat_map(|tap| (0..c).map(move |channel| (tap, channel))) {
                let of_part = |part: usize| partial[part * self.weights() + (o * taps + tap) * c + channel];
                out[channel * taps + tap] = (1..self.parts).fold(of_part(0), |sum, part| sum + of_part(part));
            }
        }
    }
}

/// Units of work: 32 outputs, 32 inputs, a tap.
fn units(s: &ConvShape) -> usize {
    s.c_out.div_ceil(PANEL) * s.c_in.div_ceil(PANEL) * s.r * s.s
}

/// Floats of scratch as words of two bf16.
fn words(floats: &mut [f32]) -> &mut [u32] {
    // SAFETY: both take every pattern of four bytes, at one alignment.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len()) }
}

/// A part of a weight gradient: some steps of the sum for some units, `[o/32][c/32][tap]`.
pub(super) struct Task<'a> {
    grad: &'a WeightGrad,
    a: &'a [u32],
    b: &'a [u32],
    /// `[part][o][tap][c]`; the units of this task are its own.
    partial: Shared<'a>,
    part: usize,
    units: Range<usize>,
}

/// Runs a task.
///
/// # Safety
/// The machine supports the set; the task's sizes were checked.
#[inline(always)]
pub(super) unsafe fn run<T: Outer>(task: &Task) {
    let (g, s, mut sums) = (task.grad, &task.grad.shape, Sums::new());
    let taps = g.taps.len();
    let steps = split(g.steps.len(), g.parts, task.part);
    let pair = |panel: usize, channels: usize| [2 * panel, (2 * panel + 1).min(groups(channels) - 1)]; // a last group alone is taken twice
    // SAFETY: the caller's contract.
    unsafe { T::begin() };
    for first in steps.clone().step_by(BLOCK) {
        let block = &g.steps[first..(first + BLOCK).min(steps.end)];
        for unit in task.units.clone() {
            let (panels, tap) = (unit / taps, unit % taps);
            let (inputs, outputs) = (panels % s.c_in.div_ceil(PANEL), panels / s.c_in.div_ceil(PANEL));
            let a = pair(outputs, s.c_out).map(|group| task.a.as_ptr().cast::<u8>().wrapping_add(group * g.extent.steps * TILE_BYTES));
            let b = pair(inputs, s.c_in).map(|group| task.b.as_ptr().cast::<u8>().wrapping_add(group * g.extent.group_bytes() + g.taps[tap]));
            // SAFETY: the offsets are those of an image's tiles, of which `a` and `b` have all.
            unsafe { <T as Outer>::multiply(a, b, block, &mut sums) };
            let columns = (s.c_in - inputs * PANEL).min(PANEL);
            for row in 0..(s.c_out - outputs * PANEL).min(PANEL) {
                let at = ((task.part * s.c_out + outputs * PANEL + row) * taps + tap) * s.c_in + inputs * PANEL;
                // SAFETY: a unit's own rows of its part.
                let out = unsafe { task.partial.part(at, columns) };
                let sums = sums.0[row * PANEL..].iter().map(|bits| f32::from_bits(*bits as u32));
                let add = first > steps.start;
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = if add { *out + sum } else { sum });
            }
        }
    }
    // SAFETY: the caller's contract.
    unsafe { T::end() };
}

/// The upper half of a float, rounded to nearest, ties to even; NaN stays NaN.
#[inline(always)]
fn upper(v: f32) -> u32 {
    let bits = v.to_bits();
    if v.is_nan() { bits >> 16 | 0x40 } else { bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// Sixteen channels of two pixels, zeros where there are none, as words: the first pixel is the lower half.
#[inline(always)]
fn two(pixels: [Option<&[f32]>; 2], group: usize) -> [u32; TILE] {
    let channels = |pixel: Option<&[f32]>| {
        let mut all = [0f32; TILE];
        if let Some(pixel) = pixel {
            let own = &pixel[group * TILE..];
            match own.first_chunk() {
                Some(whole) => all = *whole,
                None => all[..own.len()].copy_from_slice(own),
            }
        }
        all
    };
    let [low, high] = pixels.map(channels);
    std::array::from_fn(|i| upper(low[i]) | upper(high[i]) << 16)
}

/// Some steps of an image of dY.
struct Transposed<'a> {
    grad: &'a WeightGrad,
    dy: &'a [f32],
    out: Shared<'a, u32>,
    image: usize,
    steps: Range<usize>,
}

impl Dispatched for Transposed<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn call<S: Simd>(self) {
        let (e, o) = (&self.grad.extent, self.grad.shape.c_out);
        let [p, q] = e.out;
        let pixel = |m: usize| {
            let (y, x) = (m / e.width, m % e.width);
            (y < p && x < q).then(|| &self.dy[((self.image * p + y) * q + x) * o..][..o])
        };
        const WORDS: usize = TILE_BYTES / 4;
        for step in self.steps {
            let pixels: [_; TILE] = std::array::from_fn(|pair| [0, 1].map(|i| pixel(step * DEPTH + 2 * pair + i)));
            for group in 0..groups(o) {
                // SAFETY: a step's tiles are one chunk's.
                let tile = unsafe { self.out.part(((self.image * groups(o) + group) * e.steps + step) * WORDS, WORDS) };
                for (pair, pixels) in pixels.into_iter().enumerate() {
                    two(pixels, group).into_iter().enumerate().for_each(|(row, word)| tile[row * TILE + pair] = word);
                }
            }
        }
    }
}

/// Some pairs of an image of X.
struct Paired<'a> {
    grad: &'a WeightGrad,
    x: &'a [f32],
    out: Shared<'a, u32>,
    image: usize,
    pairs: Range<usize>,
}

impl Dispatched for Paired<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn call<S: Simd>(self) {
        let (e, s) = (&self.grad.extent, &self.grad.shape);
        let ([h, w], [down, across], [top, left, ..], c) = (e.size, s.stride, s.pad, s.c_in);
        let [py, px] = e.planes;
        let pairs = &self.pairs;
        for (plane, phase, pair) in (0..py * px).flat_map(|plane| (0..e.phases).flat_map(move |phase| pairs.clone().map(move |pair| (plane, phase, pair)))) {
            let pixels = [0, 1].map(|i| {
                let at = 2 * pair + phase + i;
                let (y, x) = (at / e.width, at % e.width);
                let from = (y < e.rows).then(|| [(y * down + plane / px).wrapping_sub(top), (x * across + plane % px).wrapping_sub(left)]);
                from.filter(|[y, x]| *y < h && *x < w).map(|[y, x]| &self.x[((self.image * h + y) * w + x) * c..][..c])
            });
            for group in 0..groups(c) {
                let at = (((self.image * groups(c) + group) * py * px + plane) * e.phases + phase) * e.pairs + pair;
                // SAFETY: a pair's lines are one chunk's.
                unsafe { self.out.part(at * TILE, TILE) }.copy_from_slice(&two(pixels, group));
            }
        }
    }
}
