//! Gradient of a convolution with respect to its weights and bias: `dW[(t, c), o] = sum over pixels m of X(t, m)[c] * dY[m, o]`.
//!
//! The micro-kernel broadcasts neighbouring channels of one input pixel and reads a run of dY's channels as vectors. X is used where it is;
//! a block of dY's columns is first copied to the stack, because rows a power of two apart would evict each other from L1. Pixels whose tap lies in the halo are not in the tables, so they cost nothing. The sum over pixels is cut into fixed chunks
//! whose partial sums stand in scratch and are added in a fixed order.

use super::conv::ConvShape;
use super::pool::{Shared, split};
use super::simd::{Isa, Kernel, Simd};
use super::workers::Workers;
use crate::error::{Error, Result};
use crate::tensor::try_vec;
use std::mem::MaybeUninit;

/// Pixels whose dY panel (32 columns: 128 bytes a pixel) is used for all taps before the next ones are taken: 24 KiB, most of a small L1.
const BLOCK_PIXELS: usize = 192;
/// Most columns of a panel.
const MAX_COLS: usize = 32;
/// Most partial sums; each costs a pass over the weights.
const MAX_PARTS: usize = 8;
/// Pixels of a partial sum at least, so that adding the parts stays below a few percent.
const PART_PIXELS: usize = 512;
/// (tap, channel tile) rows of one chunk at least: copying dY's block then costs about 2 %.
const ROW_UNITS: usize = 6;
/// Elements of X that L2 holds; a chunk that has to sweep more than this through it takes more rows, for each sweep reads whole cache lines.
const CACHED: usize = 256 << 10;
/// Chunks wanted, for 16 threads to be balanced.
const CHUNKS: usize = 48;
/// Multiply-adds of one chunk at least (about 10 us of one AVX-512 core).
const CHUNK_MACS: usize = 1 << 20;
/// Multiply-adds of one chunk at most, if that leaves it a row (about 10 ms of one AVX-512 core): a caller who wants to stop waits for one.
const LONG_MACS: usize = 1 << 29;
/// Columns of dY and rows of scratch that one chunk of the final sums takes.
const FINAL_COLUMNS: usize = 16;

/// Where a tap finds a pixel: its element offset in the images of X and the index of the pixel of dY.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    x: u32,
    y: u32,
}

/// The weight gradient of a convolution, compiled for one shape and instruction set.
#[derive(Debug)]
pub struct Conv2dWeightGrad {
    shape: ConvShape,
    isa: Isa,
    /// Images, and the pixels of dY and elements of X that one has. A pointwise convolution has images of one pixel.
    images: usize,
    pixels: usize,
    x_image: usize,
    /// Images that the table covers: what fits a block, or 1.
    images_each: usize,
    /// For every tap in turn, its valid pixels in rising order.
    pairs: Vec<Pair>,
    /// Range of `pairs` of every tap.
    taps: Vec<std::ops::Range<usize>>,
    /// Cuts of the pixel sum, of the (tap, channel tile) rows and of the panels.
    parts: usize,
    row_tiles: usize,
    row_parts: usize,
    panels: usize,
}

impl Conv2dWeightGrad {
    /// Builds the tables.
    pub fn new(shape: &ConvShape, isa: Isa) -> Result<Self> {
        let s = *shape;
        s.check()?;
        let pointwise = s.pointwise();
        let (p, q) = if pointwise { (1, 1) } else { (s.p(), s.q()) };
        let (h, w) = if pointwise { (1, 1) } else { (s.h, s.w) };
        let (images, pixels, x_image) = (s.n * s.p() * s.q() / (p * q), p * q, h * w * s.c_in);
        let images_each = (BLOCK_PIXELS / pixels).clamp(1, images);
        if x_image.saturating_mul(images_each) > u32::MAX as usize {
            return Err(Error::shape(format!("convolution {s:?}: an image has more than 2^32 elements")));
        }
        let valid = |size: usize, out: usize, tap: usize, stride: usize, pad: usize| {
            (0..out).filter(move |o| (o * stride + tap).checked_sub(pad).is_some_and(|i| i < size))
        };
        let total: usize = (0..s.r)
            .map(|r| {
                let rows = valid(h, p, r, s.stride[0], s.pad[0]).count();
                (0..s.s).map(|t| rows * valid(w, q, t, s.stride[1], s.pad[1]).count()).sum::<usize>()
            })
            .sum();
        let mut pairs = try_vec::<Pair>(total * images_each, "weight gradient table")?;
        let mut taps = try_vec::<std::ops::Range<usize>>(s.r * s.s, "weight gradient taps")?;
        let mut at = 0;
        for (index, tap) in taps.iter_mut().enumerate() {
            let (r, t, start) = (index / s.s, index % s.s, at);
            for image in 0..images_each {
                for y in valid(h, p, r, s.stride[0], s.pad[0]) {
                    for x in valid(w, q, t, s.stride[1], s.pad[1]) {
                        let from = (y * s.stride[0] + r - s.pad[0]) * w + (x * s.stride[1] + t - s.pad[1]);
                        pairs[at] = Pair { x: (image * x_image + from * s.c_in) as u32, y: (image * pixels + y * q + x) as u32 };
                        at += 1;
                    }
                }
            }
            *tap = start..at;
        }
        let (row_tiles, panels) = (s.c_in.div_ceil(isa.tile_rows()), s.c_out.div_ceil(2 * isa.width()));
        // Rows and panels of dW are cut first, for that costs only a copy of dY's block per cut; the pixel sum only as far as still needed.
        let units = s.r * s.s * row_tiles;
        let unit_macs = (images * pixels * isa.tile_rows() * 2 * isa.width()).max(1);
        let units_each = (CHUNK_MACS / unit_macs).max(if images * x_image > CACHED { 4 * ROW_UNITS } else { ROW_UNITS });
        let wanted = CHUNKS.div_ceil(panels * units.div_ceil(units_each).max(1));
        let parts = wanted.clamp(1, MAX_PARTS).min(images * pixels / PART_PIXELS).clamp(1, images);
        // The parts decide how numbers are added, so they are the same however many rows a chunk has.
        let row_parts = units.div_ceil(units_each.min((LONG_MACS / (unit_macs / parts).max(1)).max(1))).max(1);
        Ok(Self { shape: s, isa, images, pixels, x_image, images_each, pairs, taps, parts, row_tiles, row_parts, panels })
    }

    /// Bytes of the tables.
    pub fn table_bytes(&self) -> usize {
        size_of_val(&*self.pairs) + size_of_val(&*self.taps)
    }

    /// The shape of the forward convolution.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Elements of scratch that `run` needs.
    pub fn workspace(&self) -> usize {
        let s = &self.shape;
        self.parts * (self.taps.len() * s.c_in * s.c_out + s.c_out)
    }

    /// `dw [c_out, c_in, r, s]` and, when given, `db [c_out]` from `x [n, h, w, c_in]` and `dy [n, p, q, c_out]`. Both are overwritten,
    /// or added to when `accumulate` is set.
    #[allow(clippy::too_many_arguments)] // operands, results and the three things every kernel takes
    pub fn run(&self, x: &[f32], dy: &[f32], dw: &mut [f32], db: Option<&mut [f32]>, accumulate: bool, scratch: &mut [f32], pool: Workers) -> Result<()> {
        let s = &self.shape;
        let [nx, nw, ny] = s.check()?;
        let sizes = [(x.len(), nx, "x"), (dy.len(), ny, "dy"), (dw.len(), nw, "dw"), (db.as_ref().map_or(s.c_out, |b| b.len()), s.c_out, "db")];
        for (found, expected, what) in sizes {
            if found != expected {
                return Err(Error::shape(format!("weight gradient {s:?}: {what} has {found} elements, expected {expected}")));
            }
        }
        let need = self.workspace();
        let scratch = scratch.get_mut(..need).ok_or_else(|| Error::shape(format!("weight gradient scratch has fewer than {need} elements")))?;
        let (partial, sums) = scratch.split_at_mut(self.parts * nw);
        let (partial, sums) = (Shared::new(partial), Shared::new(sums));
        let with_bias = db.is_some();
        pool.run(self.parts * self.panels * self.row_parts, &|i| {
            self.isa.dispatch(PartKernel { grad: self, index: i, x, dy, partial, sums, with_bias });
        })?;
        let (dw, db) = (Shared::new(dw), db.map(Shared::new));
        pool.run(s.c_out.div_ceil(FINAL_COLUMNS), &|i| self.finish(i, partial, sums, dw, db, accumulate))
    }

    /// Adds the parts in order and transposes `[tap][c_in][c_out]` to OIHW for the output channels of chunk `index`.
    fn finish(&self, index: usize, partial: Shared, sums: Shared, dw: Shared, db: Option<Shared>, accumulate: bool) {
        let s = &self.shape;
        let (taps, start) = (self.taps.len(), index * FINAL_COLUMNS);
        let (count, nw) = (FINAL_COLUMNS.min(s.c_out - start), taps * s.c_in * s.c_out);
        // SAFETY: these output channels are this chunk's alone, and scratch is only read from here on.
        let (out, partial) = unsafe { (dw.part(start * s.c_in * taps, count * s.c_in * taps), std::slice::from_raw_parts(partial.as_ptr(), partial.len())) };
        for c in 0..s.c_in {
            for tap in 0..taps {
                let mut total = [0.0f32; FINAL_COLUMNS];
                for part in 0..self.parts {
                    let from = &partial[part * nw + (tap * s.c_in + c) * s.c_out + start..][..count];
                    for (t, v) in total.iter_mut().zip(from) {
                        *t += v;
                    }
                }
                for (o, value) in total.iter().enumerate().take(count) {
                    let to = &mut out[(o * s.c_in + c) * taps + tap];
                    *to = if accumulate { *to + value } else { *value };
                }
            }
        }
        if let Some(db) = db {
            // SAFETY: as above.
            let (out, sums) = unsafe { (db.part(start, count), std::slice::from_raw_parts(sums.as_ptr(), sums.len())) };
            for (o, to) in out.iter_mut().enumerate() {
                let value = (0..self.parts).fold(0.0, |sum, part| sum + sums[part * s.c_out + start + o]);
                *to = if accumulate { *to + value } else { value };
            }
        }
    }
}

struct PartKernel<'a> {
    grad: &'a Conv2dWeightGrad,
    index: usize,
    x: &'a [f32],
    dy: &'a [f32],
    partial: Shared<'a>,
    sums: Shared<'a>,
    with_bias: bool,
}

/// One tile of dW: `mr` channels of one tap times a panel, over the pixels given.
struct Tile<'a> {
    pairs: &'a [Pair],
    x: *const f32,
    /// The copied block of dY, and the index of its first pixel.
    block: *const f32,
    first_pixel: usize,
    out: *mut f32,
    /// Distance of two rows of `out`, valid columns, and whether it already holds a sum.
    stride: usize,
    columns: usize,
    add: bool,
}

/// A block of dY's pixels and columns, padded to whole vectors.
#[repr(align(64))]
struct Block(MaybeUninit<[f32; BLOCK_PIXELS * MAX_COLS]>);

impl Kernel for PartKernel<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn call<S: Simd>(self) {
        let (g, s) = (self.grad, &self.grad.shape);
        let row_part = self.index % g.row_parts;
        let panel = self.index / g.row_parts % g.panels;
        let part = self.index / g.row_parts / g.panels;
        let images = split(g.images, g.parts, part);
        let nr = 2 * S::W;
        let column = panel * nr;
        let columns = (s.c_out - column).min(nr);
        let vectors = columns.div_ceil(S::W);
        let units = split(g.taps.len() * g.row_tiles, g.row_parts, row_part);
        // Whole images when several fit a block, else pieces of one.
        let pieces = g.pixels.div_ceil(BLOCK_PIXELS);
        let partial = self.partial.as_ptr();
        let mut block = Block(MaybeUninit::uninit());
        let to = block.0.as_mut_ptr().cast::<f32>();
        let (mut image, mut add) = (images.start, false);
        while image < images.end {
            let count = g.images_each.min(images.end - image);
            for piece in 0..pieces {
                let pixels = split(g.pixels * count, pieces, piece);
                // SAFETY: rows of dY inside these images; a block holds as many rows of whole vectors.
                unsafe {
                    let from = self.dy.as_ptr().add((image * g.pixels + pixels.start) * s.c_out + column);
                    copy_block::<S>(from, s.c_out, pixels.len(), columns, to);
                }
                for unit in units.clone() {
                    // Taps first: they share the same channels of X.
                    let (tap, tile) = (unit % g.taps.len(), split(s.c_in, g.row_tiles, unit / g.taps.len()));
                    let list = &g.pairs[g.taps[tap].clone()];
                    let list = if pieces == 1 {
                        &list[..list.len() / g.images_each * count]
                    } else {
                        let find = |pixel: usize| list.partition_point(|pair| (pair.y as usize) < pixel);
                        &list[find(pixels.start)..find(pixels.end)]
                    };
                    // SAFETY: offsets stay inside x and this part's partial sums; the chunk owns these rows and columns of them.
                    let tile_args = unsafe {
                        Tile {
                            pairs: list,
                            x: self.x.as_ptr().add(image * g.x_image + tile.start),
                            block: to,
                            first_pixel: pixels.start,
                            out: partial.add(((part * g.taps.len() + tap) * s.c_in + tile.start) * s.c_out + column),
                            stride: s.c_out,
                            columns,
                            add,
                        }
                    };
                    macro_rules! sizes { ($($m:literal)*) => {
                        match (tile.len(), vectors) {
                            // The constant condition drops the sizes this set does not use.
                            $(
                            // SAFETY: as above, and the machine supports S. Partial vectors are stored by count.
                            ($m, 1) if $m <= S::ISA.tile_rows() => unsafe { accumulate::<S, $m, 1>(&tile_args) },
                            // SAFETY: as above.
                            ($m, _) if $m <= S::ISA.tile_rows() => unsafe { accumulate::<S, $m, 2>(&tile_args) },
                            )*
                            _ => {}
                        }
                    } }
                    sizes!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
                }
                add = true;
            }
            image += count;
        }
        if self.with_bias && row_part == 0 {
            // SAFETY: the first row part of every (part, panel) owns these sums.
            unsafe { column_sums::<S>(&self, images, column, columns, self.sums.as_ptr().add(part * s.c_out + column)) };
        }
    }
}

/// Copies `columns` of `rows` rows that are `stride` apart to rows of whole vectors, padded with zeros.
#[inline(always)]
unsafe fn copy_block<S: Simd>(from: *const f32, stride: usize, rows: usize, columns: usize, to: *mut f32) {
    let vectors = columns.div_ceil(S::W);
    // SAFETY: the caller's.
    unsafe {
        for row in 0..rows {
            for j in 0..vectors {
                let (count, p) = ((columns - j * S::W).min(S::W), from.add(row * stride + j * S::W));
                let v = if count == S::W { S::load(p) } else { S::load_n(p, count) };
                S::store(to.add((row * vectors + j) * S::W), v);
            }
        }
    }
}

/// Adds a tile's products of all its pixels to `out`.
#[inline(always)]
unsafe fn accumulate<S: Simd, const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: the caller's; the last vector of `out` holds `columns - (NV - 1) * W` columns.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        let block = t.block.wrapping_sub(t.first_pixel * NV * S::W);
        for pair in t.pairs {
            let (a, b) = (t.x.add(pair.x as usize), block.wrapping_add(pair.y as usize * NV * S::W));
            let mut bv = [S::splat(0.0); NV];
            for j in 0..NV {
                bv[j] = S::load(b.wrapping_add(j * S::W));
            }
            for i in 0..MR {
                let av = S::splat(*a.add(i));
                for j in 0..NV {
                    acc[i][j] = S::fma(av, bv[j], acc[i][j]);
                }
            }
        }
        for i in 0..MR {
            for j in 0..NV {
                let (out, count) = (t.out.add(i * t.stride + j * S::W), (t.columns - j * S::W).min(S::W));
                let old = if !t.add { S::splat(0.0) } else { S::load_n(out, count) };
                S::store_n(out, S::add(acc[i][j], old), count);
            }
        }
    }
}

/// Sums of `columns` columns of dY over the images given.
#[inline(always)]
unsafe fn column_sums<S: Simd>(k: &PartKernel, images: std::ops::Range<usize>, column: usize, columns: usize, out: *mut f32) {
    let stride = k.grad.shape.c_out;
    let pixels = k.grad.pixels;
    // SAFETY: rows of dY inside the images, `columns` of them from `column`.
    unsafe {
        for j in 0..columns.div_ceil(S::W) {
            let count = (columns - j * S::W).min(S::W);
            let mut total = S::splat(0.0);
            let mut row = images.start * pixels;
            while row < images.end * pixels {
                // A block at a time keeps the running sums short, which keeps their rounding small.
                let end = (row + BLOCK_PIXELS).min(images.end * pixels);
                let mut sum = S::splat(0.0);
                for row in row..end {
                    sum = S::add(sum, S::load_n(k.dy.as_ptr().add(row * stride + column + j * S::W), count));
                }
                total = S::add(total, sum);
                row = end;
            }
            S::store_n(out.add(j * S::W), total, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::ThreadPool;
    use crate::backend::cpu::kernels::conv::tests::{assert_close, each_mac, noise, shapes};

    #[test]
    fn matches_f64() -> Result<()> {
        let pools = [ThreadPool::new(1)?, ThreadPool::new(3)?];
        let more = [ConvShape::square(2, 24, 15, 20, 3, 1, 1), ConvShape::square(70, 4, 18, 33, 3, 1, 1), ConvShape::linear(3000, 20, 17)];
        for s in shapes().into_iter().chain(more) {
            let [nx, nw, ny] = s.check()?;
            let (x, dy) = (noise(nx, 1), noise(ny, 2));
            let mut expected = vec![(0.0, 0.0); nw];
            each_mac(&s, |i, j, k| {
                let product = f64::from(x[i]) * f64::from(dy[k]);
                expected[j].0 += product;
                expected[j].1 += product.abs();
            });
            let mut bias = vec![(0.0, 0.0); s.c_out];
            for (k, v) in dy.iter().enumerate() {
                bias[k % s.c_out].0 += f64::from(*v);
                bias[k % s.c_out].1 += f64::from(v.abs());
            }
            for isa in Isa::all() {
                let grad = Conv2dWeightGrad::new(&s, isa)?;
                let mut bytes: Option<Vec<u32>> = None;
                for pool in pools.iter().map(Workers::from) {
                    let (mut dw, mut db) = (vec![f32::NAN; nw], vec![f32::NAN; s.c_out]);
                    let mut scratch = vec![f32::NAN; grad.workspace()];
                    grad.run(&x, &dy, &mut dw, Some(&mut db), false, &mut scratch, pool)?;
                    assert_close(&dw, &expected, &format!("dw {s:?} {isa:?}"));
                    assert_close(&db, &bias, &format!("db {s:?} {isa:?}"));
                    let bits: Vec<u32> = dw.iter().chain(&db).map(|v| v.to_bits()).collect();
                    assert!(bytes.as_ref().is_none_or(|b| *b == bits), "{s:?} {isa:?}: bytes depend on the threads");
                    bytes = Some(bits);
                    let once = dw.clone();
                    grad.run(&x, &dy, &mut dw, None, true, &mut scratch, pool)?;
                    assert!(dw.iter().zip(&once).all(|(d, o)| *d == 2.0 * o), "{s:?} {isa:?}: accumulation");
                }
            }
        }
        Ok(())
    }
}
