//! What a kernel for bytes or for bf16 is given, and how sums become floats: one definition for all of them.

use super::super::gemm;
use super::super::pool::Shared;
use super::super::simd::Simd;
use super::staging::Staging;
use std::ops::Range;

/// Most columns of a panel of weights.
pub(super) const MAX_COLUMNS: usize = 32;
/// Most rows of a tile.
pub(super) const MAX_ROWS: usize = 32;

/// What becomes of a sum: `v = (sum - correction[k]) as f32 * scale[k]`, then `v + bias[k]`, `v + addend[n, k]`, `v + residual[n, p, q, k]` and `v * factor`,
/// as far as they are there, each rounded to f32 by itself: the same bits on every processor.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Per output channel, `[K]`: the sum that zero points alone would have ([`correct`](super::conv::correct)).
    pub correction: &'a [i32],
    /// Per output channel, `[K]`: what one of the sum is worth.
    pub scale: &'a [f32],
    /// Per output channel, `[K]`.
    pub bias: Option<&'a [f32]>,
    /// Per sample and output channel, `[N, K]`.
    pub addend: Option<&'a [f32]>,
    /// Per output element, `[N, P, Q, K]`.
    pub residual: Option<&'a [f32]>,
    /// Left out where it is 1.
    pub factor: f32,
}

impl<'a> Epilogue<'a> {
    /// What makes floats of sums.
    pub(super) fn numbers(&self) -> Numbers<'a> {
        Numbers { correction: self.correction, scale: self.scale }
    }

    /// What is done with floats, after they are made.
    pub(super) fn of_floats(&self) -> gemm::Epilogue<'a> {
        gemm::Epilogue { bias: self.bias, addend: self.addend, residual: self.residual, scale: self.factor }
    }
}

/// What makes floats of whole sums, `[K]` each.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Numbers<'a> {
    pub correction: &'a [i32],
    pub scale: &'a [f32],
}

/// The sizes of a product that do not change.
#[derive(Debug)]
pub(in super::super) struct Product {
    pub staging: Staging,
    /// Output channels.
    pub n: usize,
    /// Rows of the output that share a row of the addend.
    pub sample_rows: usize,
    /// Bytes of a panel that is as wide as the kernel's tile.
    pub panel_bytes: usize,
    /// By step, in the order of packed weights: how far its activations are from an output pixel's base. What the step is, the kernel knows.
    pub offsets: Vec<u32>,
}

/// A part of a product: some rows of tiles by some panels. `run` of [`Conv2d`](super::conv::Conv2d) checked all sizes.
pub(in super::super) struct Task<'a> {
    pub product: &'a Product,
    pub staged: &'a [u8],
    pub packed: &'a [i8],
    /// `None` for sums that are floats.
    pub numbers: Option<Numbers<'a>>,
    /// What is done with the floats then, as [`Epilogue`] says.
    pub epilogue: gemm::Epilogue<'a>,
    /// `[rows][n]`; the rows and panels of this task are its own.
    pub out: Shared<'a>,
    /// Output pixels of all images; groups of 16 for a kernel of tiles.
    pub rows: Range<usize>,
    pub panels: Range<usize>,
}

/// Sums of a tile: whole ones, or floats by their bits.
#[repr(align(64))]
pub(in super::super) struct Sums(pub [i32; MAX_ROWS * MAX_COLUMNS]);

impl Sums {
    pub fn new() -> Self {
        Self([0; MAX_ROWS * MAX_COLUMNS])
    }
}

impl<'a> Task<'a> {
    /// The columns of a panel of kernels whose tiles have `width`.
    pub fn columns(&self, panel: usize, width: usize) -> usize {
        (self.product.n - panel * width).min(width)
    }

    /// The weights of a panel.
    #[inline(always)]
    pub fn panel(&self, panel: usize) -> *const i8 {
        // SAFETY: `packed` has all panels, those before this one as wide as the tile.
        unsafe { self.packed.as_ptr().add(panel * self.product.panel_bytes) }
    }

    /// Where the first taps of neighbouring output pixels stand.
    #[inline(always)]
    pub fn bases<const N: usize>(&self, first: usize) -> [*const u8; N] {
        let s = &self.product.staging;
        let [height, width] = s.out;
        let (mut x, y) = (first % width, first / width);
        let (mut y, mut image) = (y % height, y / height);
        std::array::from_fn(|_| {
            // SAFETY: an output pixel of an image that `staged` has (the last tile's rows are counted by N).
            let base = unsafe { self.staged.as_ptr().add(s.base(image, y, x)) };
            x += 1;
            if x == width {
                (x, y) = (0, y + 1);
                if y == height {
                    (y, image) = (0, image + 1);
                }
            }
            base
        })
    }

    /// What finishes the tiles of a panel.
    #[inline(always)]
    pub(super) fn finish(&self, panel: usize, width: usize) -> Finish<'a> {
        let (column, columns) = (panel * width, self.columns(panel, width));
        let mut correction = [0; MAX_COLUMNS];
        let mut scale = [0.0; MAX_COLUMNS];
        if let Some(numbers) = &self.numbers {
            correction[..columns].copy_from_slice(&numbers.correction[column..column + columns]);
            scale[..columns].copy_from_slice(&numbers.scale[column..column + columns]);
        }
        Finish { epilogue: self.epilogue, out: self.out.as_ptr(), n: self.product.n, sample_rows: self.product.sample_rows, column, columns, correction, scale }
    }
}

/// Where the sums of a panel's tiles go.
pub(super) struct Finish<'a> {
    epilogue: gemm::Epilogue<'a>,
    out: *mut f32,
    n: usize,
    sample_rows: usize,
    column: usize,
    columns: usize,
    correction: [i32; MAX_COLUMNS],
    scale: [f32; MAX_COLUMNS],
}

impl Finish<'_> {
    /// Makes floats of `count` rows of sums, `pitch` apart, from row `first` of the output.
    ///
    /// # Safety
    /// The machine supports `S`; the rows and columns are those of the caller's task, whose sizes were checked; rows of sums have whole vectors.
    #[inline(always)]
    pub unsafe fn rows<S: Simd>(&self, sums: *const i32, pitch: usize, first: usize, count: usize) {
        // SAFETY: the caller's contract.
        unsafe { self.finish::<S, false>(sums, pitch, first, count) }
    }

    /// The same for sums that are floats already.
    ///
    /// # Safety
    /// As for [`Finish::rows`].
    #[inline(always)]
    pub unsafe fn floats<S: Simd>(&self, sums: *const i32, pitch: usize, first: usize, count: usize) {
        // SAFETY: the caller's contract.
        unsafe { self.finish::<S, true>(sums, pitch, first, count) }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd, const FLOATS: bool>(&self, sums: *const i32, pitch: usize, first: usize, count: usize) {
        let (e, n) = (&self.epilogue, self.n);
        for j in (0..self.columns).step_by(S::W) {
            let (column, wide) = (self.column + j, (self.columns - j).min(S::W));
            // SAFETY: the caller's contract: `column + wide <= n`, and the rows are rows of the output and of what is added to it.
            unsafe {
                let get = |p: *const f32| if wide == S::W { S::load(p) } else { S::load_n(p, wide) };
                let scale = S::load(self.scale.as_ptr().add(j));
                let bias = if let Some(bias) = e.bias { get(bias.as_ptr().add(column)) } else { S::splat(0.0) };
                for i in 0..count {
                    let row = first + i;
                    let at = row * n + column;
                    let sums = sums.add(i * pitch + j);
                    let mut v = if FLOATS { S::load(sums.cast()) } else { S::mul(S::differences(sums, self.correction.as_ptr().add(j)), scale) };
                    if e.bias.is_some() {
                        v = S::add(v, bias);
                    }
                    if let Some(addend) = e.addend {
                        v = S::add(v, get(addend.as_ptr().add(row / self.sample_rows * n + column)));
                    }
                    if let Some(residual) = e.residual {
                        v = S::add(v, get(residual.as_ptr().add(at)));
                    }
                    if e.scale != 1.0 {
                        v = S::mul(v, S::splat(e.scale));
                    }
                    let out = self.out.add(at);
                    if wide == S::W { S::store(out, v) } else { S::store_n(out, v, wide) }
                }
            }
        }
    }
}
