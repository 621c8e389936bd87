//! Convolutions of staged bytes with s8 weights, and of staged bf16 with weights of bf16.

use super::super::conv::ConvShape;
use super::super::gemm::{self, chunk_macs};
use super::super::pool::{Shared, split};
use super::super::workers::Workers;
use super::catalogue::Kernel;
use super::pack::{Packing, Plan, Stored};
use super::staging::{Staging, TILE};
use super::task::{Epilogue, Numbers, Product, Task};
use crate::error::{Error, Result};
use crate::graph::ops::MOST_PRODUCTS;
use crate::memory;
use half::bf16;
use std::ops::Range;

/// Pixels that make up for a last tile that is not full.
const FEW_PIXELS: usize = 128;

/// A convolution compiled for a shape and a kernel. Its packed weights do not depend on the number and size of images.
#[derive(Debug)]
pub struct Conv2d {
    kernel: &'static Kernel,
    product: Product,
    plan: Plan,
    /// Rows of tiles and panels of each chunk, in the order of rows, so that threads keep theirs.
    chunks: Vec<[Range<usize>; 2]>,
    packed_len: usize,
}

impl Conv2d {
    /// A convolution of `shape` whose input channels come from `sources` of so many each, one or two, of numbers up to `most`, on a kernel of the catalogue.
    pub fn new(shape: &ConvShape, sources: &[usize], most: u8, kernel: &'static Kernel) -> Result<Self> {
        shape.check()?;
        let products = shape.r.saturating_mul(shape.s).saturating_mul(shape.c_in);
        if products > MOST_PRODUCTS {
            return Err(Error::unsupported(format!(
                "an int8 sum of {products} products ({} x {} taps, {} channels); at most {MOST_PRODUCTS} are sure to fit 32 bits: keep this layer in float",
                shape.r, shape.s, shape.c_in
            )));
        }
        if !kernel.set.available() {
            return Err(Error::unsupported(format!("{} needs {}, which this machine lacks or its system refused", kernel.name, kernel.set.name())));
        }
        Self::compiled(shape, sources, most, Stored::Plain, kernel)
    }

    /// The same on a kernel that the machine is known to have, with weights that are stored so.
    pub(in super::super) fn compiled(shape: &ConvShape, sources: &[usize], most: u8, stored: Stored, kernel: &'static Kernel) -> Result<Self> {
        let staging = Staging::new(shape, sources, most, kernel.form)?;
        let plan = Plan { stored, ..Plan::new(shape, kernel.packing, [kernel.tile[1], kernel.lanes], most) };
        let too_large = || Error::shape(format!("convolution {shape:?}: weights or output are above what memory can hold"));
        let packed_len = plan.bytes().ok_or_else(too_large)?;
        let panel_bytes = plan.panel_bytes().ok_or_else(too_large)?;
        let offset = |step: usize| {
            let [run, at] = plan.step(step);
            let [_, width] = staging.taps();
            let tap = if kernel.packing.is_tiles() { staging.tap(run / width, run % width) } else { staging.tap(run, 0) };
            (tap + at * staging.size()) as u32 // images are below 2 GiB
        };
        let steps = if matches!(kernel.packing, Packing::Examined | Packing::Tiles { .. }) { plan.steps() } else { 0 };
        let offsets = memory::collect((0..steps).map(offset), "steps of a convolution")?;
        let sample_rows = if staging.linear { 1 } else { staging.pixels() };
        let product = Product { staging, n: shape.c_out, sample_rows, panel_bytes, offsets };
        let mut conv = Self { kernel, product, plan, chunks: Vec::new(), packed_len };
        conv.chunks = conv.cut(conv.product.staging.images())?;
        Ok(conv)
    }

    /// Rows of tiles of so many images.
    fn rows(&self, images: usize) -> usize {
        let pixels = self.product.staging.pixels();
        images * if self.by_groups() { pixels.div_ceil(TILE) } else { pixels }
    }

    /// Whether a row is a group of pixels.
    fn by_groups(&self) -> bool {
        self.kernel.packing.is_tiles()
    }

    /// Cuts the work by its shape alone: rows first, panels too where rows are few.
    fn cut(&self, images: usize) -> Result<Vec<[Range<usize>; 2]>> {
        let [pixels, columns] = self.kernel.tile;
        let (tile_rows, group) = if self.by_groups() { (pixels / TILE, TILE) } else { (pixels, 1) };
        let (rows, panels) = (self.rows(images), self.plan.panels());
        let products = self.plan.channels * self.plan.taps[0] * self.plan.taps[1];
        let one = (tile_rows * group * columns * products).max(1);
        let tiles = rows.div_ceil(tile_rows);
        let total = one.saturating_mul(tiles).saturating_mul(panels);
        let target = chunk_macs(total, self.kernel.chunk_macs);
        let parts = tiles.div_ceil(target.div_ceil(one * panels).clamp(1, tiles));
        let panels_each = (target / (one * tiles.div_ceil(parts))).clamp(1, panels);
        let panel_parts = panels.div_ceil(panels_each);
        let mut out = memory::with_capacity(parts * panel_parts, "chunks of a convolution")?;
        for part in 0..parts {
            let part = split(tiles, parts, part);
            let part = part.start * tile_rows..(part.end * tile_rows).min(rows);
            out.extend((0..panel_parts).map(|panel| [part.clone(), split(panels, panel_parts, panel)]));
        }
        Ok(out)
    }

    /// Where its input stands.
    pub fn staging(&self) -> &Staging {
        &self.product.staging
    }

    /// Bytes of the packed weights, which should be aligned to 64.
    pub fn packed_len(&self) -> usize {
        self.packed_len
    }

    /// Bytes of the tables.
    pub fn table_bytes(&self) -> usize {
        size_of_val(&*self.product.offsets) + size_of_val(&*self.chunks)
    }

    /// Packs `weights`, rounded, into `packed` of [`Conv2d::packed_len`] bytes: for a kernel of bf16.
    pub(in super::super) fn pack_bf16(&self, weights: &[f32], packed: &mut [bf16], pool: Workers) -> Result<()> {
        self.plan.pack_bf16(weights, packed, pool)
    }

    /// Packs `weights [K, C, R, S]`, in -127..=127, into `packed` of [`Conv2d::packed_len`].
    pub fn pack_weights(&self, weights: &[i8], packed: &mut [i8], pool: Workers) -> Result<()> {
        self.plan.pack(weights, packed, pool)
    }

    /// `out [N, P, Q, K]` from the staged input, on all threads.
    pub fn run(&self, staged: &[u8], packed: &[i8], epilogue: &Epilogue, out: &mut [f32], pool: Workers) -> Result<()> {
        self.run_with(staged, packed, Some(epilogue.numbers()), &epilogue.of_floats(), out, pool)
    }

    /// The same of bf16, whose sums are floats.
    pub(in super::super) fn run_bf16(&self, staged: &[u8], packed: &[bf16], epilogue: &gemm::Epilogue, out: &mut [f32], pool: Workers) -> Result<()> {
        // SAFETY: as many bytes, of no alignment.
        let packed = unsafe { std::slice::from_raw_parts(packed.as_ptr().cast(), size_of_val(packed)) };
        self.run_with(staged, packed, None, epilogue, out, pool)
    }

    fn run_with(&self, staged: &[u8], packed: &[i8], numbers: Option<Numbers>, epilogue: &gemm::Epilogue, out: &mut [f32], pool: Workers) -> Result<()> {
        let out = self.check(self.product.staging.images(), staged, packed, numbers, epilogue, out)?;
        pool.run(self.chunks.len(), &|chunk| {
            let [rows, panels] = self.chunks[chunk].clone();
            self.task(&Task { product: &self.product, staged, packed, numbers, epilogue: *epilogue, out, rows, panels });
        })
    }

    /// The same for the first so many images of slices that begin anywhere among them, on the calling thread: for an image a thread. A linear layer is one.
    pub fn run_images(&self, images: usize, staged: &[u8], packed: &[i8], epilogue: &Epilogue, out: &mut [f32]) -> Result<()> {
        let (numbers, epilogue) = (Some(epilogue.numbers()), epilogue.of_floats());
        let out = self.check(images, staged, packed, numbers, &epilogue, out)?;
        // Image by image, so that all panels meet the rows while they are in the cache; small images together, so that tiles are full.
        let (rows, each) = (self.rows(images), self.rows(FEW_PIXELS.div_ceil(self.product.staging.pixels())));
        for first in (0..rows).step_by(each) {
            let rows = first..(first + each).min(rows);
            self.task(&Task { product: &self.product, staged, packed, numbers, epilogue, out, rows, panels: 0..self.plan.panels() });
        }
        Ok(())
    }

    fn task(&self, task: &Task) {
        // SAFETY: `new` found the machine to have the set, `check` the slices to have the sizes; chunks are disjoint.
        unsafe { (self.kernel.run)(task) }
    }

    fn check<'a>(&self, images: usize, staged: &[u8], packed: &[i8], numbers: Option<Numbers>, e: &gemm::Epilogue, out: &'a mut [f32]) -> Result<Shared<'a>> {
        let (s, n) = (&self.product.staging, self.product.n);
        let need = |what: &str, found: usize, expected: usize| {
            if found == expected { Ok(()) } else { Err(Error::shape(format!("{}: {what}: expected {expected} elements, found {found}", self.kernel.name))) }
        };
        if images > s.images() {
            return Err(Error::shape(format!("{}: {images} images of {}", self.kernel.name, s.images())));
        }
        let rows = images * s.pixels();
        need("staged input", staged.len(), images * s.image_bytes())?;
        need("packed weights", packed.len(), self.packed_len)?;
        need("output", out.len(), rows * n)?;
        if let Some(numbers) = numbers {
            need("correction", numbers.correction.len(), n)?;
            need("scale", numbers.scale.len(), n)?;
        }
        need("bias", e.bias.map_or(n, <[f32]>::len), n)?;
        let samples = rows / self.product.sample_rows * n;
        need("addend", e.addend.map_or(samples, <[f32]>::len), samples)?;
        need("residual", e.residual.map_or(rows * n, <[f32]>::len), rows * n)?;
        Ok(Shared::new(out))
    }
}

/// `sums [sources][K]`: of each output channel's `weights [K, C, R, S]`, those that meet each source's channels.
pub fn weight_sums(shape: &ConvShape, sources: &[usize], weights: &[i8], sums: &mut [i32]) -> Result<()> {
    let [_, len, _] = shape.check()?;
    let channels: usize = sources.iter().sum();
    if weights.len() != len || channels != shape.c_in || sums.len() != sources.len() * shape.c_out {
        return Err(Error::shape(format!("sums of {} weights of {shape:?} by {sources:?}: {} sums", weights.len(), sums.len())));
    }
    let mut first = 0;
    for (channels, sums) in sources.iter().zip(sums.chunks_exact_mut(shape.c_out)) {
        let taps = shape.r * shape.s;
        for (sum, weights) in sums.iter_mut().zip(weights.chunks_exact(shape.c_in * taps)) {
            *sum = weights[first * taps..(first + channels) * taps].iter().map(|w| i32::from(*w)).sum();
        }
        first += channels;
    }
    Ok(())
}

/// `correction [K]` of sums `[sources][K]` ([`weight_sums`]) and the sources' zero points: what zero points alone sum to.
pub fn correct(sums: &[i32], zeros: &[u8], correction: &mut [i32]) -> Result<()> {
    if sums.len() != zeros.len() * correction.len() {
        return Err(Error::shape(format!("{} sums of weights for {} zero points and {} channels", sums.len(), zeros.len(), correction.len())));
    }
    correction.fill(0);
    for (sums, zero) in sums.chunks_exact(correction.len().max(1)).zip(zeros) {
        correction.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum * i32::from(*zero));
    }
    Ok(())
}
