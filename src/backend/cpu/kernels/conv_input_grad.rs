//! Gradient of a convolution with respect to its input: an indirect product of dY with the transposed weights.

use super::conv::ConvShape;
use super::gemm::{self, Epilogue, Gemm, Layout, Source};
use super::simd::Isa;
use super::workers::Workers;
use crate::error::{Error, Result};

/// The input gradient of a convolution, compiled for one shape and instruction set.
#[derive(Debug)]
pub struct Conv2dInputGrad {
    shape: ConvShape,
    gemm: Gemm,
}

impl Conv2dInputGrad {
    /// Builds the tables.
    pub fn new(shape: &ConvShape, isa: Isa) -> Result<Self> {
        let s = *shape;
        s.check()?;
        let (p, q, k) = (s.p(), s.q(), s.c_out);
        let mut layout = Layout { isa, n: s.c_in, channels: k, taps: s.r * s.s, images: s.n, a_image: p * q * k, c_rows: s.h * s.w, sample_rows: s.h * s.w };
        if s.pointwise() {
            layout.images = s.n.checked_mul(p * q).ok_or_else(|| Error::shape("too many pixels"))?;
            (layout.a_image, layout.c_rows) = (k, 1);
            return Ok(Self { shape: s, gemm: Gemm::new(layout, &[k], |_| 0, |_, _| Some(0))? });
        }
        let ([top, left, ..], [down, across]) = (s.pad, s.stride);
        // An input pixel meets only the taps of its own parity, so a stride wastes no work.
        let parity = |pixel: usize| ((pixel / s.w + top) % down) * across + (pixel % s.w + left) % across;
        let lookup = |pixel: usize, tap: usize| {
            let y = (pixel / s.w + top).checked_sub(tap / s.s).filter(|y| y % down == 0 && y / down < p)? / down;
            let x = (pixel % s.w + left).checked_sub(tap % s.s).filter(|x| x % across == 0 && x / across < q)? / across;
            Some((y * q + x) * k)
        };
        Ok(Self { shape: s, gemm: Gemm::new(layout, &[k], parity, lookup)? })
    }

    /// Bytes of the tables.
    pub fn table_bytes(&self) -> usize {
        self.gemm.table_bytes()
    }

    /// The shape of the forward convolution.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Elements of the packed weights.
    pub fn packed_len(&self) -> usize {
        self.gemm.layout().packed_len().unwrap_or(0)
    }

    /// Packs `weights [c_out, c_in, r, s]` into `packed` (`packed_len` elements). Another layout than the forward convolution's.
    pub fn pack_weights(&self, weights: &[f32], packed: &mut [f32], pool: Workers) -> Result<()> {
        let s = &self.shape;
        let taps = s.r * s.s;
        let source = Source { taps, channels: s.c_out, column_stride: taps, channel_stride: s.c_in * taps };
        gemm::pack(self.gemm.layout().isa, s.c_in, source, weights, packed, pool)
    }

    /// `dx [n, h, w, c_in] = epilogue(gradient of dy [n, p, q, c_out])`. The epilogue's residual sums with a gradient that is already known.
    pub fn run(&self, dy: &[f32], packed: &[f32], epilogue: &Epilogue, dx: &mut [f32], pool: Workers) -> Result<()> {
        self.gemm.run(&[dy], packed, epilogue, dx, pool)
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
        for s in shapes() {
            let [nx, nw, ny] = s.check()?;
            let (dy, w, residual) = (noise(ny, 1), noise(nw, 2), noise(nx, 3));
            let mut expected: Vec<_> = residual.iter().map(|&r| (f64::from(r), 0.0)).collect();
            each_mac(&s, |i, j, k| {
                let product = f64::from(dy[k]) * f64::from(w[j]);
                expected[i].0 += product;
                expected[i].1 += product.abs();
            });
            for isa in Isa::all() {
                let grad = Conv2dInputGrad::new(&s, isa)?;
                let epilogue = Epilogue { residual: Some(&residual), ..Epilogue::default() };
                let mut bytes: Option<Vec<u32>> = None;
                for pool in pools.iter().map(Workers::from) {
                    let mut packed = vec![f32::NAN; grad.packed_len()];
                    grad.pack_weights(&w, &mut packed, pool)?;
                    let mut dx = vec![f32::NAN; nx];
                    grad.run(&dy, &packed, &epilogue, &mut dx, pool)?;
                    assert_close(&dx, &expected, &format!("{s:?} {isa:?}"));
                    let bits: Vec<u32> = dx.iter().map(|v| v.to_bits()).collect();
                    assert!(bytes.as_ref().is_none_or(|b| *b == bits), "{s:?} {isa:?}: bytes depend on the threads");
                    bytes = Some(bits);
                }
            }
        }
        Ok(())
    }
}
