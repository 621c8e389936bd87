//! From floats to staged numbers: q = round(x / scale) + zero point as `graph/ops/quantize.rs` defines it, after a normalisation and SiLU if wanted, from
//! several sources, put in all places where a convolution reads it, and the zero points around. One pass, the same bytes on every instruction set. To bf16 the
//! same ([`Element`]).

use super::super::gemm::MOST_SOURCES;
use super::super::pool::{Shared, split};
use super::super::simd::{self, Isa, Simd};
use super::super::workers::Workers;
use super::silu::{self, Cubics};
use super::staging::Staging;
use crate::backend::cpu::math::sigmoid;
use crate::error::{Error, Result};

/// How the floats of a source are rounded: `clamp(round(x / scale) + zero, low, high)`, ties to even; NaN becomes `zero`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    /// What one is worth: finite and above 0.
    pub scale: f32,
    /// The number that stands for 0.
    pub zero: u8,
    /// The smallest number.
    pub low: u8,
    /// The largest.
    pub high: u8,
}

/// What floats become.
///
/// # Safety
/// Functions of vectors need a machine that supports the set.
#[allow(clippy::missing_safety_doc)] // one contract for all, above
pub trait Element: Copy + Send + Sync {
    /// Bytes of one.
    const SIZE: usize;
    /// What is found once for many pixels.
    type Known: Copy + Send + Sync;
    /// The same in registers.
    type Constants<S: Simd>: Copy;
    /// Refuses what no floats can become, where numbers up to `most` are taken.
    fn check(&self, most: u8) -> Result<()>;
    /// That of these.
    fn known(&self) -> Self::Known;
    /// Each byte of what stands for 0.
    fn zero(&self) -> u8;
    /// That of these, in registers.
    unsafe fn constants<S: Simd>(&self, known: Self::Known) -> Self::Constants<S>;
    /// x sigmoid(x), as exact as such an element shows.
    unsafe fn silu<S: Simd>(v: S::V, cubics: &Cubics<S>) -> S::V;
    /// Writes the first `count` of a vector, at any alignment.
    unsafe fn put<S: Simd>(&self, v: S::V, constants: &Self::Constants<S>, to: *mut u8, count: usize);
}

/// To bf16, to nearest, ties to even.
#[derive(Clone, Copy, Debug)]
pub struct Bf16;

impl Element for Bf16 {
    const SIZE: usize = 2;
    type Known = ();
    type Constants<S: Simd> = ();

    fn check(&self, _: u8) -> Result<()> {
        Ok(())
    }

    fn known(&self) {}

    fn zero(&self) -> u8 {
        0
    }

    #[inline(always)]
    unsafe fn constants<S: Simd>(&self, (): ()) {}

    /// As norms have it: the cubics are made for steps of whole numbers, and near 0 and far below it are further off than bf16 rounds.
    #[inline(always)]
    unsafe fn silu<S: Simd>(v: S::V, _: &Cubics<S>) -> S::V {
        let mut floats = [0f32; MOST_LANES];
        // SAFETY: the caller's contract; no vector has more floats.
        unsafe {
            S::store(floats.as_mut_ptr(), v);
            floats.iter_mut().for_each(|v| *v *= sigmoid(*v));
            S::load(floats.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn put<S: Simd>(&self, v: S::V, (): &(), to: *mut u8, count: usize) {
        // SAFETY: the caller's contract.
        unsafe { S::store_bf16(to, v, count) }
    }
}

/// One of the values whose channels lie side by side.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a, E = Rounding> {
    /// `[N, H, W, C]`, of as many channels as the staging has for it.
    pub x: &'a [f32],
    /// What they become.
    pub rounding: E,
}

/// `x * factor + shift`, each rounded; both `[N, C]`, C being the channels of all sources.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// What a channel of a sample is multiplied with.
    pub factor: &'a [f32],
    /// What is then added.
    pub shift: &'a [f32],
}

/// What a staged input is made of.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a, E = Rounding> {
    /// One or two, as the staging has them.
    pub sources: &'a [Source<'a, E>],
    /// Normalises first.
    pub norm: Option<Norm<'a>>,
    /// Then SiLU, by the portable polynomial ([`silu`]).
    pub silu: bool,
    /// Sources are half as high and wide as the image: each pixel is taken four times (nearest neighbour).
    pub double: bool,
}

pub use silu::silu;

/// Elements of a chunk at least.
const GRAIN: usize = 8192;
/// Floats of any vector.
const MOST_LANES: usize = 16;
/// Quotients by a rounded reciprocal are within 2^-22 of their size of the true ones, which is 2^-14 of one at most for those in range: nearer than that to a tie,
/// they are no help.
const NEAR_TIE: f32 = 0.5 - 1.0 / 4096.0;

/// The definition: the quotient in f64, which mistakes none of two f32 for a tie.
pub fn round(x: f32, r: &Rounding) -> u8 {
    let v = f64::from(x) / f64::from(r.scale);
    let v = if v.is_nan() { 0.0 } else { v.round_ties_even().clamp(-1024.0, 1024.0) };
    (v as i32 + i32::from(r.zero)).clamp(i32::from(r.low), i32::from(r.high)) as u8
}

impl Element for Rounding {
    const SIZE: usize = 1;
    /// 1 / scale; NaN where that is not as exact as `NEAR_TIE` needs, so that each number is made by definition.
    type Known = f32;
    type Constants<S: Simd> = Constants<S>;

    fn check(&self, most: u8) -> Result<()> {
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err(Error::invalid(format!("the scale of quantised numbers is {}; it must be finite and above 0", self.scale)));
        }
        let order = [self.low, self.zero, self.high, most];
        if !order.is_sorted() {
            let Self { zero, low, high, .. } = self;
            return Err(Error::invalid(format!("quantised numbers are {low} to {high} with zero point {zero}; weights were packed for {most} at most")));
        }
        Ok(())
    }

    fn known(&self) -> f32 {
        const LEAST: f32 = 1e-30;
        if (LEAST..1.0 / LEAST).contains(&self.scale) { 1.0 / self.scale } else { f32::NAN }
    }

    fn zero(&self) -> u8 {
        self.zero
    }

    #[inline(always)]
    unsafe fn constants<S: Simd>(&self, reciprocal: f32) -> Constants<S> {
        // SAFETY: the caller's contract.
        unsafe {
            let [low, high] = [self.low, self.high].map(|end| f32::from(end) - f32::from(self.zero));
            Constants { reciprocal: S::splat(reciprocal), zero: S::splat(self.zero.into()), low: S::splat(low), high: S::splat(high) }
        }
    }

    #[inline(always)]
    unsafe fn silu<S: Simd>(v: S::V, cubics: &Cubics<S>) -> S::V {
        // SAFETY: the caller's contract.
        unsafe { cubics.silu(v) }
    }

    #[inline(always)]
    unsafe fn put<S: Simd>(&self, v: S::V, constants: &Constants<S>, to: *mut u8, count: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            // What is beyond them is one of them, a whole number: the rounded ones need no bounds. NaN stays.
            let quotient = S::min(constants.high, S::max(constants.low, S::mul(v, constants.reciprocal)));
            let whole = S::round(quotient);
            if S::all_lt(S::abs(S::sub(quotient, whole)), S::splat(NEAR_TIE)) {
                S::store_bytes(to, S::add(whole, constants.zero), count);
            } else {
                let mut floats = [0f32; MOST_LANES];
                S::store(floats.as_mut_ptr(), v);
                by_definition(&floats, self, std::slice::from_raw_parts_mut(to, count));
            }
        }
    }
}

/// What all vectors of a source need.
#[derive(Clone, Copy)]
pub struct Constants<S: Simd> {
    reciprocal: S::V,
    zero: S::V,
    /// The quotients of the smallest number and of the largest.
    low: S::V,
    high: S::V,
}

/// A source as a chunk reads it.
#[derive(Clone, Copy)]
struct Part<'a, E: Element> {
    source: Source<'a, E>,
    channels: usize,
    /// First of its channels among all.
    first: usize,
    known: E::Known,
}

impl<E: Element> Input<'_, E> {
    /// Writes all of `out`, of [`Staging::bytes`], that kernels look at: pixels, what surrounds them, what fills them up.
    pub fn stage(&self, staging: &Staging, isa: Isa, out: &mut [u8], pool: Workers) -> Result<()> {
        let rows = self.check(staging, staging.images, out.len())?;
        let out = Shared::new(out);
        let width = staging.size[1] * staging.channels;
        let parts = rows.div_ceil((GRAIN / width).max(1));
        pool.run(parts, &|part| isa.dispatch(Rows { input: self, parts: self.parts(staging), staging, out, rows: split(rows, parts, part) }))
    }

    /// The same for the first so many images, on the calling thread: slices begin anywhere among them. A linear layer is one image.
    pub fn stage_images(&self, staging: &Staging, isa: Isa, images: usize, out: &mut [u8]) -> Result<()> {
        let rows = self.check(staging, images, out.len())?;
        isa.dispatch(Rows { input: self, parts: self.parts(staging), staging, out: Shared::new(out), rows: 0..rows });
        Ok(())
    }

    /// The rows of all sources' images.
    fn check(&self, s: &Staging, images: usize, len: usize) -> Result<usize> {
        let need = |what: &str, found: usize, expected: usize| {
            if found == expected { Ok(()) } else { Err(Error::shape(format!("staging for int8: {what}: expected {expected}, found {found}"))) }
        };
        let [height, width] = s.size;
        if self.double && (height % 2 != 0 || width % 2 != 0) {
            return Err(Error::shape(format!("staging for int8: an image of {height}x{width} is not twice as large as another")));
        }
        if images > s.images {
            return Err(Error::shape(format!("staging for int8: {images} images of {}", s.images)));
        }
        let [height, width] = if self.double { [height / 2, width / 2] } else { s.size };
        need("bytes of a number", E::SIZE, s.size())?;
        need("sources", self.sources.len(), s.sources.len())?;
        for (source, channels) in self.sources.iter().zip(&s.sources) {
            need("elements of a source", source.x.len(), images * height * width * channels)?;
            source.rounding.check(s.most)?;
        }
        let samples = if s.linear { width } else { images };
        for part in self.norm.iter().flat_map(|norm| [norm.factor, norm.shift]) {
            need("elements of a normalisation", part.len(), samples * s.channels)?;
        }
        need("bytes", len, images * s.image_bytes())?;
        Ok(images * height)
    }

    /// The sources as chunks read them; those that there are not have no channels.
    fn parts(&self, staging: &Staging) -> [Part<'_, E>; MOST_SOURCES] {
        let (mut first, rounding) = (0, self.sources[0].rounding);
        let mut parts = [Part { source: Source { x: &[], rounding }, channels: 0, first: 0, known: rounding.known() }; MOST_SOURCES];
        for ((part, source), channels) in parts.iter_mut().zip(self.sources).zip(&staging.sources) {
            *part = Part { source: *source, channels: *channels, first, known: source.rounding.known() };
            first += channels;
        }
        parts
    }
}

/// Rows of the sources' images, with the rows of the staging that come of them.
struct Rows<'a, E: Element> {
    input: &'a Input<'a, E>,
    parts: [Part<'a, E>; MOST_SOURCES],
    staging: &'a Staging,
    out: Shared<'a, u8>,
    rows: std::ops::Range<usize>,
}

impl<E: Element> simd::Kernel for Rows<'_, E> {
    type Output = ();
    #[inline(always)]
    unsafe fn call<S: Simd>(self) {
        let (s, factor) = (self.staging, if self.input.double { 2 } else { 1 });
        let [height, top] = [s.size[0], s.before[0]];
        for row in self.rows.clone() {
            let (image, y) = (row / (height / factor), row % (height / factor));
            if y == 0 {
                (0..top).for_each(|y| self.halo_row(image, y));
            }
            let first = y * factor + top;
            if s.has_row(first) {
                // SAFETY: the machine supports S.
                unsafe { self.pixel_row::<S>(image, first, y) };
            }
            if factor == 2 && s.has_row(first + 1) {
                if s.has_row(first) {
                    self.repeat_row(image, first);
                } else {
                    // SAFETY: as above.
                    unsafe { self.pixel_row::<S>(image, first + 1, y) };
                }
            }
            if (y + 1) * factor == height {
                (height + top..s.padded_rows).for_each(|y| self.halo_row(image, y));
            }
        }
    }
}

impl<E: Element> Rows<'_, E> {
    /// A row of a plane.
    #[allow(clippy::mut_from_ref)] // one of a chunk's rows, taken once at a time
    fn row(&self, image: usize, plane: usize, y: usize) -> &mut [u8] {
        let s = self.staging;
        // SAFETY: the rows of the staging that come of a row of the sources are one chunk's.
        unsafe { self.out.part(image * s.image_bytes() + s.row(plane, y), s.row_bytes()) }
    }

    /// Zero points in so many pixels.
    fn fill(&self, pixels: &mut [u8]) {
        let (pitch, offset) = (self.staging.pitch, self.staging.offset());
        if pixels.is_empty() {
            return;
        }
        let (pixel, rest) = pixels.split_at_mut(pitch);
        self.fill_up(pixel);
        for part in &self.parts {
            pixel[part.first * E::SIZE..(part.first + part.channels) * E::SIZE].fill(part.source.rounding.zero().wrapping_add(offset));
        }
        rest.chunks_exact_mut(pitch).for_each(|other| other.copy_from_slice(pixel));
    }

    /// What follows the channels of a pixel: weights there are 0.
    fn fill_up(&self, pixel: &mut [u8]) {
        pixel[self.staging.channels * E::SIZE..].fill(0);
    }

    fn halo_row(&self, image: usize, y: usize) {
        if self.staging.has_row(y) {
            (0..self.staging.planes).for_each(|plane| self.fill(self.row(image, plane, y)));
        }
    }

    /// Row `y` once more below.
    fn repeat_row(&self, image: usize, y: usize) {
        for plane in 0..self.staging.planes {
            let to = self.row(image, plane, y + 1);
            to.copy_from_slice(self.row(image, plane, y));
        }
    }

    /// Row `y` of the padded image from row `from` of the sources.
    #[inline(always)]
    unsafe fn pixel_row<S: Simd>(&self, image: usize, y: usize, from: usize) {
        let (s, pitch) = (self.staging, self.staging.pitch);
        for plane in 0..s.planes {
            let row = self.row(image, plane, y);
            // What a plane shows, that of a step less showed a pixel further on.
            let known = if plane < s.step { 0 } else { s.columns - 1 };
            if known > 0 {
                row[..known * pitch].copy_from_slice(&self.row(image, plane - s.step, y)[pitch..]);
            }
            // SAFETY: the caller's: the machine supports S.
            unsafe { self.pixels::<S>(image, from, plane, known, row) };
        }
    }

    /// Pixels of a plane's row from `known` on.
    #[inline(always)]
    unsafe fn pixels<S: Simd>(&self, image: usize, from: usize, plane: usize, known: usize, row: &mut [u8]) {
        let (s, factor, pitch) = (self.staging, if self.input.double { 2 } else { 1 }, self.staging.pitch);
        let (left, width) = (s.before[1], s.size[1]);
        // The columns of the plane that lie in the image.
        let begin = left.saturating_sub(plane).div_ceil(s.step).clamp(known, s.columns);
        let end = (left + width).saturating_sub(plane).div_ceil(s.step).clamp(begin, s.columns);
        self.fill(&mut row[known * pitch..begin * pitch]);
        self.fill(&mut row[end * pitch..]);
        for column in begin..end {
            let x = column * s.step + plane - left;
            if factor == 2 && s.step == 1 && x % 2 == 1 && column > begin {
                row.copy_within((column - 1) * pitch..column * pitch, column * pitch);
                continue;
            }
            // SAFETY: the caller's: the machine supports S.
            unsafe { self.pixel::<S>(image, from, x / factor, &mut row[column * pitch..(column + 1) * pitch]) };
        }
    }

    /// The numbers of a pixel of the sources.
    #[inline(always)]
    unsafe fn pixel<S: Simd>(&self, image: usize, y: usize, x: usize, to: &mut [u8]) {
        let (s, input) = (self.staging, self.input);
        let [height, width] = if input.double { [s.size[0] / 2, s.size[1] / 2] } else { s.size };
        let sample = if s.linear { x } else { image };
        self.fill_up(to);
        for part in self.parts.iter().take(input.sources.len()) {
            let at = ((image * height + y) * width + x) * part.channels;
            let x = &part.source.x[at..at + part.channels];
            let own = sample * s.channels + part.first;
            let norm = match &input.norm {
                Some(norm) => [&norm.factor[own..own + part.channels], &norm.shift[own..own + part.channels]],
                None => [x; 2],
            };
            let to = &mut to[part.first * E::SIZE..(part.first + part.channels) * E::SIZE];
            let numbers = Numbers { x, norm, element: &part.source.rounding, known: part.known, to };
            // SAFETY: the caller's: the machine supports S.
            unsafe {
                match (input.norm.is_some(), input.silu) {
                    (true, true) => numbers.write::<S, true, true>(),
                    (true, false) => numbers.write::<S, true, false>(),
                    (false, true) => numbers.write::<S, false, true>(),
                    (false, false) => numbers.write::<S, false, false>(),
                }
            }
        }
        if s.offset() != 0 {
            to[..s.channels].iter_mut().for_each(|byte| *byte = byte.wrapping_add(s.offset()));
        }
    }
}

/// Floats of the channels of a pixel, and where their numbers go. All slices have one length, in elements.
struct Numbers<'a, E: Element> {
    x: &'a [f32],
    norm: [&'a [f32]; 2],
    element: &'a E,
    known: E::Known,
    to: &'a mut [u8],
}

impl<E: Element> Numbers<'_, E> {
    #[inline(always)]
    unsafe fn write<S: Simd, const NORM: bool, const SILU: bool>(self) {
        let (x, to, n) = (self.x.as_ptr(), self.to.as_mut_ptr(), self.x.len());
        let (factor, shift) = (self.norm[0].as_ptr(), self.norm[1].as_ptr());
        // SAFETY: the caller's: the machine supports S; all slices have n elements.
        unsafe {
            let (cubics, constants) = (Cubics::<S>::new(), self.element.constants::<S>(self.known));
            let whole = n - n % S::W;
            for c in (0..whole).step_by(S::W) {
                let v = vector::<S, E, NORM, SILU>([x.add(c), factor.add(c), shift.add(c)], S::W, &cubics);
                self.element.put::<S>(v, &constants, to.add(c * E::SIZE), S::W);
            }
            if whole < n {
                let v = vector::<S, E, NORM, SILU>([x.add(whole), factor.add(whole), shift.add(whole)], n - whole, &cubics);
                self.element.put::<S>(v, &constants, to.add(whole * E::SIZE), n - whole);
            }
        }
    }
}

/// `count <= W` floats, with their factors and shifts.
#[inline(always)]
unsafe fn vector<S: Simd, E: Element, const NORM: bool, const SILU: bool>([x, factor, shift]: [*const f32; 3], count: usize, cubics: &Cubics<S>) -> S::V {
    // SAFETY: the caller's: the machine supports S; as many elements are valid.
    unsafe {
        let get = |p: *const f32| if count == S::W { S::load(p) } else { S::load_n(p, count) };
        let mut v = get(x);
        if NORM {
            v = S::add(S::mul(v, get(factor)), get(shift));
        }
        if SILU {
            v = E::silu(v, cubics);
        }
        v
    }
}

/// Where a quotient is so near to a tie, or so strange, that only the definition will do.
#[cold]
#[inline(never)]
fn by_definition(floats: &[f32; MOST_LANES], r: &Rounding, to: &mut [u8]) {
    to.iter_mut().zip(floats).for_each(|(to, v)| *to = round(*v, r));
}
