//! A convolution with what passes add to it: it means what the ops mean that it stands for.

use super::conv2d::{bug, check_bf16, check_weights, dims, factor, nhwc, packed_dtype};
use super::moments::{channel_moments, check_moments};
use super::sources::{join, joined};
use super::{Affine, Binary, BinaryKind, Codes, Conv2d, GroupNorm, Quantize, Slice};
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::op::{Narrow, OpDef, arity, expect_dtype, expect_shape, floats};
use crate::graph::reference::Array;
use crate::tensor::DType;
use std::ops::Range;

/// A group norm whose statistics come from the moments of its input's channels, or are found where there are none of them.
#[derive(Clone, Debug, PartialEq)]
pub struct NormByMoments {
    /// What is done.
    pub norm: GroupNorm,
    /// How many values the moments come in, [N,Ci,2] each, C the sum of the Ci; 0 for none.
    pub moments: usize,
}

/// y = (conv(norm(x), w) + bias + addend + residual) scale: [`Conv2d`] and what may stand around it.
///
/// Operands, those that are there, in this order: the `sources` of x [N,H,W,Ci], which are joined along the channels as [`Concat`](super::Concat) would;
/// w [O,C,R,S] (or packed); of a `quantized` one the scale [1] and the zero point [1] of x and the factors [O]; bias [O]; addend [N,O]; residual [N,P,Q,O]; with
/// `norm` gamma [C], beta [C] and the moments. [`FusedConv2d::operands`] has their places.
///
/// A `quantized` one rounds x, normalised or not, to whole numbers as [`Quantize`] does, takes the zero point from them and sums their products with w, which is
/// of I8; padding is what 0 stands for. The sums are exact; (f32) sum factor, then + bias, + addend, + residual, each rounded once, are the same bits everywhere.
///
/// A `bf16` one rounds x, normalised or not, and w to bf16 (to nearest, ties to even) and sums their products in f32: everything else in it is f32.
///
/// Result [N,P,Q,O], or its `parts` along O; with `moments` also mean and biased variance over the positions of every channel of it, [N,O,2].
#[derive(Clone, Debug, PartialEq)]
pub struct FusedConv2d {
    /// What it is in the middle.
    pub conv: Conv2d,
    /// How many values x is joined of; set by the pass that spares concatenations.
    pub sources: usize,
    /// Operand addend [N,O] is present (the time term); set by the fusion pass.
    pub addend: bool,
    /// Operand residual [N,P,Q,O] is present; set by the fusion pass.
    pub residual: bool,
    /// Factor on the whole sum; set by the fusion pass.
    pub scale: f32,
    /// The weights come from [`PackConv`](super::PackConv).
    pub packed: bool,
    /// The whole numbers that x is rounded to, w being such already; set by the pass that folds quantisation.
    pub quantized: Option<Codes>,
    /// x and w are rounded to bf16 before they are multiplied; set by the pass that rounds products.
    pub bf16: bool,
    /// x is normalised first; set by the pass that absorbs norms. Padding is zero after the norm, as it is without.
    pub norm: Option<NormByMoments>,
    /// There is a second result, the moments; set by the same pass.
    pub moments: bool,
    /// Channels of each result where several products have become one; empty for a single result. Set by the merging pass.
    pub parts: Vec<usize>,
}

/// The most products of whole numbers, of at most 255 and 127 each, whose sum 32 bits always hold.
pub const MOST_PRODUCTS: usize = 66_000;

/// Where the operands of a [`FusedConv2d`] stand.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvOperands {
    /// The values that x is joined of.
    pub x: Range<usize>,
    /// w.
    pub weight: usize,
    /// What a quantized one has.
    pub numbers: Option<NumberOperands>,
    /// bias.
    pub bias: Option<usize>,
    /// addend.
    pub addend: Option<usize>,
    /// residual.
    pub residual: Option<usize>,
    /// What the norm has.
    pub norm: Option<NormOperands>,
    /// How many there are.
    pub count: usize,
}

/// Where stands what whole numbers are made with, and floats of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NumberOperands {
    /// Scale of x.
    pub scale: usize,
    /// Zero point of x.
    pub zero: usize,
    /// Factors on the sums, that scale times those of w.
    pub factors: usize,
}

/// Where the operands of a norm stand.
#[derive(Clone, Debug, PartialEq)]
pub struct NormOperands {
    /// gamma.
    pub gamma: usize,
    /// beta.
    pub beta: usize,
    /// The moments of the input's channels.
    pub moments: Range<usize>,
}

/// The places of a list, given out from the front.
struct Places(usize);

impl Places {
    fn take(&mut self, count: usize) -> Range<usize> {
        let first = self.0;
        self.0 = first.saturating_add(count);
        first..self.0
    }

    fn one(&mut self) -> usize {
        self.take(1).start
    }

    fn one_if(&mut self, present: bool) -> Option<usize> {
        present.then(|| self.one())
    }
}

impl From<Conv2d> for FusedConv2d {
    fn from(conv: Conv2d) -> Self {
        Self {
            conv,
            sources: 1,
            addend: false,
            residual: false,
            scale: 1.0,
            packed: false,
            quantized: None,
            bf16: false,
            norm: None,
            moments: false,
            parts: vec![],
        }
    }
}

impl FusedConv2d {
    /// Where its operands stand.
    pub fn operands(&self) -> ConvOperands {
        let mut at = Places(0);
        let x = at.take(self.sources);
        let weight = at.one();
        let numbers = self.quantized.map(|_| NumberOperands { scale: at.one(), zero: at.one(), factors: at.one() });
        let [bias, addend, residual] = [self.conv.bias, self.addend, self.residual].map(|present| at.one_if(present));
        let norm = self.norm.as_ref().map(|norm| NormOperands { gamma: at.one(), beta: at.one(), moments: at.take(norm.moments) });
        ConvOperands { x, weight, numbers, bias, addend, residual, norm, count: at.0 }
    }

    /// [N,H,W,C] of the joined x and [N,P,Q,O] of all results together, from the operands' types.
    pub fn extents(&self, inputs: &[&TensorType]) -> Result<[[usize; 4]; 2]> {
        let x @ [n, h, w, _] = nhwc(&joined(inputs.get(self.operands().x).unwrap_or_default())?)?;
        let [p, q] = self.conv.geometry.output(h, w)?;
        Ok([x, [n, p, q, self.conv.out_channels]])
    }

    fn check_norm(norm: &NormByMoments, at: &NormOperands, inputs: &[&TensorType], [n, c]: [usize; 2]) -> Result<()> {
        let groups = norm.norm.groups;
        if groups == 0 || c % groups != 0 {
            return Err(Error::shape(format!("{groups} groups do not divide {c} channels")));
        }
        floats(&inputs[at.gamma..])?;
        expect_shape("gamma", inputs[at.gamma], &[c])?;
        expect_shape("beta", inputs[at.beta], &[c])?;
        if norm.moments == 0 { Ok(()) } else { check_moments(&inputs[at.moments.clone()], [n, c]) }
    }

    /// Checks the numbers of a quantized one.
    fn check_numbers(&self, inputs: &[&TensorType], at: &ConvOperands, (codes, numbers): (Codes, NumberOperands), [o, c]: [usize; 2]) -> Result<()> {
        if self.bf16 || !self.parts.is_empty() {
            return Err(Error::internal(format!("{self:?} of whole numbers")));
        }
        let [r, s] = self.conv.geometry.kernel;
        let products = r.saturating_mul(s).saturating_mul(c);
        if products > MOST_PRODUCTS {
            return Err(Error::unsupported(format!("a sum of {products} products of whole numbers; 32 bits hold {MOST_PRODUCTS}: keep this layer in float")));
        }
        expect_dtype(inputs[at.weight], DType::I8).map_err(|e| e.context("weight"))?;
        if !self.packed {
            expect_shape("weight", inputs[at.weight], &[o, c, r, s])?;
        }
        for (what, i, dtype, len) in
            [("scale", numbers.scale, DType::F32, 1), ("zero point", numbers.zero, codes.dtype, 1), ("factors", numbers.factors, DType::F32, o)]
        {
            expect_dtype(inputs[i], dtype).map_err(|e| e.context(what))?;
            expect_shape(what, inputs[i], &[len])?;
        }
        Ok(())
    }

    /// Types of the results, y being what all products together are.
    fn results(&self, y: TensorType) -> Result<Vec<TensorType>> {
        let [n, p, q, o] = nhwc(&y)?;
        if self.parts.is_empty() {
            let moments = self.moments.then(|| TensorType::f32(&[n, o, 2]));
            return Ok([y].into_iter().chain(moments).collect());
        }
        if self.addend || self.residual || self.moments || self.parts.iter().sum::<usize>() != o {
            return Err(Error::internal(format!("{self:?} cannot be handed out in parts")));
        }
        Ok(self.parts.iter().map(|own| TensorType::new(y.dtype, &[n, p, q, *own])).collect())
    }
}

/// The only result of an op.
fn only(op: impl OpDef, inputs: &[&Array]) -> Result<Array> {
    op.reference(inputs)?.into_iter().next().ok_or_else(|| Error::internal(format!("{} without a result", op.name())))
}

impl OpDef for FusedConv2d {
    fn name(&self) -> &'static str {
        "fused_conv2d"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let at = self.operands();
        arity(inputs, at.count..=at.count)?;
        let [[n, _, _, c], out] = self.extents(inputs)?;
        let o = self.conv.out_channels;
        let dtype = inputs[0].dtype;
        check_bf16(self.bf16, inputs)?;
        match (self.quantized, at.numbers) {
            (Some(codes), Some(numbers)) => self.check_numbers(inputs, &at, (codes, numbers), [o, c])?,
            _ => check_weights(inputs[at.weight], packed_dtype(dtype, self.bf16), self.packed, [o, c], self.conv.geometry)?,
        }
        for (operand, what, dtype, shape) in
            [(at.bias, "bias", DType::F32, &[o][..]), (at.addend, "addend", dtype, &[n, o]), (at.residual, "residual", dtype, &out)]
        {
            if let Some(i) = operand {
                expect_dtype(inputs[i], dtype).map_err(|e| e.context(what))?;
                expect_shape(what, inputs[i], shape)?;
            }
        }
        if let Some((norm, at)) = self.norm.as_ref().zip(at.norm.as_ref()) {
            Self::check_norm(norm, at, inputs, [n, c])?;
        }
        self.results(TensorType::new(dtype, &out))
    }

    fn narrow(&self) -> Narrow {
        let at = self.operands();
        Narrow::Operands(at.x.chain(at.addend).chain(at.residual).collect())
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let at = self.operands();
        let mut x = join(&inputs[at.x])?;
        if let Some((norm, at)) = self.norm.as_ref().zip(at.norm) {
            let (gamma, beta) = (inputs[at.gamma], inputs[at.beta]);
            x = match &inputs[at.moments] {
                [] => only(norm.norm, &[&x, gamma, beta])?,
                moments => norm.norm.of_moments(&x, [gamma, beta], moments)?[0].clone(),
            };
        }
        if let Some((codes, at)) = self.quantized.zip(at.numbers) {
            let zero = inputs[at.zero];
            x = only(Quantize { codes, axis: None }, &[&x, inputs[at.scale], zero])? - zero;
        }
        let mut y = only(Conv2d { bias: false, ..self.conv }, &[&factor(&x, self.bf16), &factor(inputs[at.weight], self.bf16)])?;
        let [n, .., o] = dims(&y);
        // Both are [O], along the last dimension.
        at.numbers.into_iter().for_each(|numbers| y *= inputs[numbers.factors]);
        at.bias.into_iter().for_each(|i| y += inputs[i]);
        let add = Binary { kind: BinaryKind::Add };
        if let Some(i) = at.addend {
            y = only(add.clone(), &[&y, &inputs[i].to_shape(vec![n, 1, 1, o]).map_err(bug)?.to_owned()])?;
        }
        if let Some(i) = at.residual {
            y = only(add, &[&y, inputs[i]])?;
        }
        y = only(Affine { scale: self.scale, shift: 0.0 }, &[&y])?;
        if self.parts.is_empty() {
            let moments = self.moments.then(|| channel_moments(&y));
            return Ok([y].into_iter().chain(moments).collect());
        }
        let mut start = 0;
        let cut = |len: &usize| {
            start += len;
            only(Slice { start: start - len, len: *len }, &[&y])
        };
        self.parts.iter().map(cut).collect()
    }
}
