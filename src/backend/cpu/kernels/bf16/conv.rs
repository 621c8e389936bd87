//! Convolutions of bf16, and input gradients as what they are at stride 1: convolutions of dy with the weights turned by half a turn.

use super::super::conv::{ConvShape, Epilogue};
use super::super::int8::pack::Stored;
use super::super::int8::stage::Bf16;
use super::super::int8::{self, Input, Source, Staging};
use super::super::simd::Isa;
use super::super::workers::Workers;
use super::Kernel;
use crate::error::{Error, Result};
use half::bf16;

/// Weights in the order of tiles, rounded.
pub type PackedWeights = [bf16];

/// A convolution compiled for a shape and a kernel. Its packed weights do not depend on the number and size of images.
#[derive(Debug)]
pub struct Conv2d(int8::Conv2d);

impl Conv2d {
    /// A convolution of `shape` whose input channels come from `sources` of so many each, one or two.
    pub fn new(shape: &ConvShape, sources: &[usize], kernel: &'static Kernel) -> Result<Self> {
        shape.check()?;
        int8::Conv2d::compiled(shape, sources, 0, Stored::Plain, &kernel.conv).map(Self)
    }

    /// The input gradient of a convolution of `shape`; its weights are that one's, its input is dy.
    pub fn input_grad(shape: &ConvShape, kernel: &'static Kernel) -> Result<Self> {
        shape.check()?;
        let turned = turned(shape).ok_or_else(|| Error::unsupported(format!("the input gradient of {shape:?} in bf16: strides and wide padding stay f32")))?;
        turned.check()?;
        int8::Conv2d::compiled(&turned, &[turned.c_in], 0, Stored::Turned, &kernel.conv).map(Self)
    }

    /// Where its input stands.
    pub fn staging(&self) -> &Staging {
        self.0.staging()
    }

    /// Packed weights.
    pub fn packed_len(&self) -> usize {
        self.0.packed_len() / size_of::<bf16>()
    }

    /// Bytes of the tables.
    pub fn table_bytes(&self) -> usize {
        self.0.table_bytes()
    }

    /// Packs `weights [K, C, R, S]`, rounded, into `packed` of [`Conv2d::packed_len`].
    pub fn pack_weights(&self, weights: &[f32], packed: &mut PackedWeights, pool: Workers) -> Result<()> {
        self.0.pack_bf16(weights, packed, pool)
    }

    /// `out [N, P, Q, K] = epilogue(conv)` from the staged input.
    pub fn run(&self, staged: &[u8], packed: &PackedWeights, epilogue: &Epilogue, out: &mut [f32], pool: Workers) -> Result<()> {
        self.0.run_bf16(staged, packed, epilogue, out, pool)
    }

    /// Rounds `x`, as it is, to where [`Conv2d::run`] reads it.
    pub fn stage(&self, x: &[f32], isa: Isa, staged: &mut [u8], pool: Workers) -> Result<()> {
        Input { sources: &[Source { x, rounding: Bf16 }], norm: None, silu: false, double: false }.stage(self.staging(), isa, staged, pool)
    }
}

/// The convolution that is the input gradient of one of `shape`, where one is: dy meets each tap once, and no padding is cut off.
pub fn turned(s: &ConvShape) -> Option<ConvShape> {
    let [top, left, bottom, right] = s.pad;
    let beside = |kernel: usize, pad: usize| (kernel - 1).checked_sub(pad);
    let pad = [beside(s.r, top)?, beside(s.s, left)?, beside(s.r, bottom)?, beside(s.s, right)?];
    (s.stride == [1; 2]).then_some(ConvShape { n: s.n, h: s.p(), w: s.q(), c_in: s.c_out, c_out: s.c_in, r: s.r, s: s.s, stride: [1; 2], pad })
}
