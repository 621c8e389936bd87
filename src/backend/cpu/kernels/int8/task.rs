//! What a kernel for bytes is given, and how sums become floats: one definition for all of them.

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

/// The sizes of a product that do not change.
#[derive(Debug)]
pub(super) struct Product {
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
pub(super) struct Task<'a> {
    pub product: &'a Product,
    pub staged: &'a [u8],
    pub packed: &'a [i8],
    pub epilogue: &'a Epilogue<'a>,
    /// `[rows][n]`; the rows and panels of this task are its own.
    pub out: Shared<'a>,
    /// Output pixels of all images; groups of 16 for a kernel of tiles.
    pub rows: Range<usize>,
    pub panels: Range<usize>,
}

/// Sums of a tile.
#[repr(align(64))]
pub(super) struct Sums(pub [i32; MAX_ROWS * MAX_COLUMNS]);

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
    pub fn finish(&self, panel: usize, width: usize) -> Finish<'a> {
        let (column, columns) = (panel * width, self.columns(panel, width));
        let mut correction = [0; MAX_COLUMNS];
        correction[..columns].copy_from_slice(&self.epilogue.correction[column..column + columns]);
        Finish { epilogue: *self.epilogue, out: self.out.as_ptr(), n: self.product.n, sample_rows: self.product.sample_rows, column, columns, correction }
    }
}

/// Where the sums of a panel's tiles go.
pub(super) struct Finish<'a> {
    epilogue: Epilogue<'a>,
    out: *mut f32,
    n: usize,
    sample_rows: usize,
    column: usize,
    columns: usize,
    correction: [i32; MAX_COLUMNS],
}

impl Finish<'_> {
    /// Makes floats of `count` rows of sums, `pitch` apart, from row `first` of the output.
    ///
    /// # Safety
    /// The machine supports `S`; the rows and columns are those of the caller's task, whose sizes were checked; rows of sums have whole vectors.
    #[inline(always)]
    pub unsafe fn rows<S: Simd>(&self, sums: *const i32, pitch: usize, first: usize, count: usize) {
        let (e, n) = (&self.epilogue, self.n);
        for j in (0..self.columns).step_by(S::W) {
            let (column, wide) = (self.column + j, (self.columns - j).min(S::W));
            // SAFETY: the caller's contract: `column + wide <= n`, and the rows are rows of the output and of what is added to it.
            unsafe {
                let get = |p: *const f32| if wide == S::W { S::load(p) } else { S::load_n(p, wide) };
                let scale = get(e.scale.as_ptr().add(column));
                let bias = if let Some(bias) = e.bias { get(bias.as_ptr().add(column)) } else { S::splat(0.0) };
                for i in 0..count {
                    let row = first + i;
                    let at = row * n + column;
                    let mut v = S::mul(S::differences(sums.add(i * pitch + j), self.correction.as_ptr().add(j)), scale);
                    if e.bias.is_some() {
                        v = S::add(v, bias);
                    }
                    if let Some(addend) = e.addend {
                        v = S::add(v, get(addend.as_ptr().add(row / self.sample_rows * n + column)));
                    }
                    if let Some(residual) = e.residual {
                        v = S::add(v, get(residual.as_ptr().add(at)));
                    }
                    if e.factor != 1.0 {
                        v = S::mul(v, S::splat(e.factor));
                    }
                    let out = self.out.add(at);
                    if wide == S::W { S::store(out, v) } else { S::store_n(out, v, wide) }
                }
            }
        }
    }
}
