//! Convolution of NHWC activations with OIHW weights; a linear layer is a 1x1 convolution of single pixels.

use super::gemm::{self, Gemm, Layout, Source};
use super::pool::{Shared, split};
use super::simd::Isa;
use super::workers::Workers;
use crate::error::{Error, Result};

pub use super::gemm::Epilogue;

/// With no more input channels than this, the taps of a kernel row are joined to one (they are adjacent in NHWC once the image is padded):
/// the micro-kernel's inner loop would otherwise have only `c_in` steps per tap.
const JOIN_CHANNELS: usize = 16;

/// The shape of a convolution: `x [n, h, w, c_in]`, weights `[c_out, c_in, r, s]`, output `[n, p, q, c_out]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Samples.
    pub n: usize,
    /// Input height.
    pub h: usize,
    /// Input width.
    pub w: usize,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Kernel height.
    pub r: usize,
    /// Kernel width.
    pub s: usize,
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zero padding: top, left, bottom, right.
    pub pad: [usize; 4],
}

impl ConvShape {
    /// A linear layer of `rows` rows: `[rows, c_in] -> [rows, c_out]`.
    pub fn linear(rows: usize, c_in: usize, c_out: usize) -> Self {
        Self { n: rows, h: 1, w: 1, c_in, c_out, r: 1, s: 1, stride: [1; 2], pad: [0; 4] }
    }

    /// A square kernel with the same stride both ways and `pad` zeros on every side.
    pub fn square(n: usize, hw: usize, c_in: usize, c_out: usize, kernel: usize, stride: usize, pad: usize) -> Self {
        Self { n, h: hw, w: hw, c_in, c_out, r: kernel, s: kernel, stride: [stride; 2], pad: [pad; 4] }
    }

    /// Height of the output; 0 when the kernel does not fit.
    pub fn p(&self) -> usize {
        out_size(self.h, self.r, self.stride[0], self.pad[0], self.pad[2])
    }

    /// Width of the output; 0 when the kernel does not fit.
    pub fn q(&self) -> usize {
        out_size(self.w, self.s, self.stride[1], self.pad[1], self.pad[3])
    }

    /// Elements of the input, weights and output; an error when the shape is empty or too large.
    pub fn check(&self) -> Result<[usize; 3]> {
        let bad = |why: &str| Error::shape(format!("convolution {self:?}: {why}"));
        let sizes = [self.n, self.h, self.w, self.c_in, self.c_out, self.r, self.s, self.stride[0], self.stride[1]];
        if sizes.contains(&0) {
            return Err(bad("a size is 0"));
        }
        // 2^20 per dimension keeps every later sum and product of two dimensions far from overflow.
        if sizes.iter().skip(1).chain(&self.pad).any(|&s| s > 1 << 20) {
            return Err(bad("a size is above 2^20"));
        }
        if self.p() == 0 || self.q() == 0 {
            return Err(bad("the kernel is larger than the padded input"));
        }
        let count = |dims: [usize; 4]| crate::tensor::checked_numel(&dims);
        Ok([count([self.n, self.h, self.w, self.c_in])?, count([self.c_out, self.c_in, self.r, self.s])?, count([self.n, self.p(), self.q(), self.c_out])?])
    }

    /// Multiply-adds times two, counting taps in the halo as every paper does.
    pub fn flops(&self) -> f64 {
        2.0 * (self.n * self.p() * self.q()) as f64 * (self.c_out * self.c_in * self.r * self.s) as f64
    }

    /// Whether an input in so many values is read where they are: the joined taps of few channels need them side by side.
    pub fn takes(&self, sources: usize) -> bool {
        sources == 1 || sources <= gemm::MOST_SOURCES && !self.joins_taps()
    }

    fn joins_taps(&self) -> bool {
        self.c_in <= JOIN_CHANNELS && self.s > 1
    }

    /// True when every output pixel reads exactly the input pixel of the same index.
    pub(crate) fn pointwise(&self) -> bool {
        self.r == 1 && self.s == 1 && self.stride == [1; 2] && self.pad == [0; 4]
    }
}

fn out_size(size: usize, kernel: usize, stride: usize, before: usize, after: usize) -> usize {
    (size.saturating_add(before).saturating_add(after) + 1).saturating_sub(kernel).div_ceil(stride.max(1))
}

/// A convolution compiled for one shape and instruction set.
#[derive(Debug)]
pub struct Conv2d {
    shape: ConvShape,
    gemm: Gemm,
    /// Height and width of the padded copy of the input, when one is made.
    padded: Option<[usize; 2]>,
}

impl Conv2d {
    /// Builds the tables.
    pub fn new(shape: &ConvShape, isa: Isa) -> Result<Self> {
        Self::of_sources(shape, &[shape.c_in], isa)
    }

    /// The same for an input that comes in several values, of so many channels each ([`ConvShape::takes`]).
    pub fn of_sources(shape: &ConvShape, sources: &[usize], isa: Isa) -> Result<Self> {
        let s = *shape;
        s.check()?;
        if !s.takes(sources.len()) {
            return Err(Error::internal(format!("convolution {s:?} of {} values", sources.len())));
        }
        let (p, q, c) = (s.p(), s.q(), s.c_in);
        let mut layout = Layout { isa, n: s.c_out, channels: c, taps: s.r * s.s, images: s.n, a_image: s.h * s.w * c, c_rows: p * q, sample_rows: p * q };
        let [top, left, ..] = s.pad;
        let [down, across] = s.stride;
        if s.pointwise() {
            // Single pixels: tiles then cross image borders for free.
            layout.images = s.n.checked_mul(p * q).ok_or_else(|| Error::shape("too many pixels"))?;
            (layout.a_image, layout.c_rows) = (c, 1);
            return Ok(Self { shape: s, gemm: Gemm::new(layout, sources, |_| 0, |_, _| Some(0))?, padded: None });
        }
        if s.joins_taps() {
            let size = [(p - 1) * down + s.r, (q - 1) * across + s.s];
            // Without padding the image itself has the taps of a row side by side.
            let padded = (s.pad != [0; 4]).then_some(size);
            let width = if padded.is_some() { size[1] } else { s.w };
            layout.a_image = if padded.is_some() { size[0] * size[1] * c } else { layout.a_image };
            (layout.taps, layout.channels) = (s.r, s.s * c);
            let lookup = |pixel: usize, r: usize| Some((((pixel / q) * down + r) * width + (pixel % q) * across) * c);
            return Ok(Self { shape: s, gemm: Gemm::new(layout, &[layout.channels], |_| 0, lookup)?, padded });
        }
        let lookup = |pixel: usize, tap: usize| {
            let y = ((pixel / q) * down + tap / s.s).checked_sub(top).filter(|y| *y < s.h)?;
            let x = ((pixel % q) * across + tap % s.s).checked_sub(left).filter(|x| *x < s.w)?;
            Some((y * s.w + x) * c)
        };
        Ok(Self { shape: s, gemm: Gemm::new(layout, sources, |_| 0, lookup)?, padded: None })
    }

    /// Bytes of the tables.
    pub fn table_bytes(&self) -> usize {
        self.gemm.table_bytes()
    }

    /// The shape it was built for.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Elements of the packed weights.
    pub fn packed_len(&self) -> usize {
        self.gemm.layout().packed_len().unwrap_or(0)
    }

    /// Elements of scratch that `run` needs.
    pub fn workspace(&self) -> usize {
        self.padded.map_or(0, |[h, w]| self.shape.n * h * w * self.shape.c_in)
    }

    /// Packs `weights [c_out, c_in, r, s]` into `packed` (`packed_len` elements).
    pub fn pack_weights(&self, weights: &[f32], packed: &mut [f32], pool: Workers) -> Result<()> {
        let s = &self.shape;
        let taps = s.r * s.s;
        let source = Source { taps, channels: s.c_in, column_stride: s.c_in * taps, channel_stride: taps };
        gemm::pack(self.gemm.layout().isa, s.c_out, source, weights, packed, pool)
    }

    /// `out [n, p, q, c_out] = epilogue(conv(x [n, h, w, c_in]))`, with at least `workspace` elements of scratch.
    pub fn run(&self, x: &[f32], packed: &[f32], epilogue: &Epilogue, out: &mut [f32], scratch: &mut [f32], pool: Workers) -> Result<()> {
        self.run_sources(&[x], packed, epilogue, out, scratch, pool)
    }

    /// The same for the values that `x` comes in.
    pub fn run_sources(&self, x: &[&[f32]], packed: &[f32], epilogue: &Epilogue, out: &mut [f32], scratch: &mut [f32], pool: Workers) -> Result<()> {
        let (Some(size), [x]) = (self.padded, x) else {
            return self.gemm.run(x, packed, epilogue, out, pool);
        };
        let need = self.workspace();
        let scratch = scratch.get_mut(..need).ok_or_else(|| Error::shape(format!("convolution scratch has fewer than {need} elements")))?;
        pad(&self.shape, x, size, scratch, pool)?;
        self.gemm.run(&[scratch], packed, epilogue, out, pool)
    }
}

/// Copies `x` into `out [n, size[0], size[1], c_in]` at the padding's offset; rows and columns no tap reads are left out.
fn pad(s: &ConvShape, x: &[f32], [h, w]: [usize; 2], out: &mut [f32], pool: Workers) -> Result<()> {
    if x.len() != s.n * s.h * s.w * s.c_in {
        return Err(Error::shape(format!("convolution {s:?}: input has {} elements", x.len())));
    }
    let (c, rows, [top, left, ..]) = (s.c_in, s.n * h, s.pad);
    let copied = s.w.min(w.saturating_sub(left));
    // 4096 floats or more per chunk: a copy of less is cheaper than handing it over.
    let parts = (rows * w * c / 4096).clamp(1, 64).min(rows);
    let out = Shared::new(out);
    pool.run(parts, &|part| {
        for row in split(rows, parts, part) {
            // SAFETY: every row belongs to one chunk.
            let to = unsafe { out.part(row * w * c, w * c) };
            match (row % h).checked_sub(top).filter(|y| *y < s.h && copied > 0) {
                None => to.fill(0.0),
                Some(y) => {
                    let from = ((row / h) * s.h + y) * s.w * c;
                    to[..left * c].fill(0.0);
                    to[left * c..][..copied * c].copy_from_slice(&x[from..][..copied * c]);
                    to[(left + copied) * c..].fill(0.0);
                }
            }
        }
    })
}

#[cfg(test)]
pub(crate) mod tests;
