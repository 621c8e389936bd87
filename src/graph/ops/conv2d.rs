//! 2-D convolution over NHWC activations with OIHW weights, and its two gradients. Linear layers are its 1x1 form.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, activations, arity, expect_dtype, expect_shape, floats};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};
use crate::tensor::DType;

use super::ReduceSum;
use super::group_norm::{check_moments, group_moments};

/// What fixes the index arithmetic of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvGeometry {
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Step, the same in both directions.
    pub stride: usize,
    /// Zero padding: top, left, bottom, right.
    pub pad: [usize; 4],
}

impl ConvGeometry {
    /// A 1x1 convolution: a linear layer at every position.
    pub const POINTWISE: Self = Self { kernel: [1, 1], stride: 1, pad: [0; 4] };

    /// Output height and width for an input of `h` x `w`.
    pub fn output(&self, h: usize, w: usize) -> Result<[usize; 2]> {
        let [t, l, b, r] = self.pad;
        let along = |size: usize, pad: usize, k: usize| {
            let padded = size.checked_add(pad)?;
            (self.stride > 0 && k > 0 && padded >= k).then(|| (padded - k) / self.stride + 1)
        };
        // A padding that saturates does not fit any size, so it is refused below.
        match (along(h, t.saturating_add(b), self.kernel[0]), along(w, l.saturating_add(r), self.kernel[1])) {
            (Some(p), Some(q)) => Ok([p, q]),
            _ => Err(Error::shape(format!("{self:?} does not fit an input of {h}x{w}"))),
        }
    }

    /// The input row and column under tap (r, s) of output (p, q), unless it lies in the padding.
    fn source(&self, p: usize, q: usize, r: usize, s: usize, h: usize, w: usize) -> Option<(usize, usize)> {
        let y = (p * self.stride + r).checked_sub(self.pad[0])?;
        let x = (q * self.stride + s).checked_sub(self.pad[1])?;
        (y < h && x < w).then_some((y, x))
    }

    /// Visits every (n, p, q, r, s, y, x) with the tap inside the image.
    fn for_each_tap(&self, [n, h, w]: [usize; 3], mut f: impl FnMut([usize; 7])) -> Result<()> {
        let [ps, qs] = self.output(h, w)?;
        for i in 0..n {
            for p in 0..ps {
                for q in 0..qs {
                    for r in 0..self.kernel[0] {
                        for s in 0..self.kernel[1] {
                            if let Some((y, x)) = self.source(p, q, r, s, h, w) {
                                f([i, p, q, r, s, y, x]);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// A group norm that a convolution does to its input on the way in, from the moments of the channels.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvNorm {
    /// Number of groups; divides C.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Apply SiLU to the normalised input.
    pub silu: bool,
    /// How many values x was joined of: each comes with the moments of its channels.
    pub sources: usize,
}

/// y = conv(x, w) + bias + addend per (sample, channel) + residual, times `scale`. Operands: x [N,H,W,C], w [O,C,R,S] (or packed), then the flagged ones:
/// bias [O], addend [N,O], residual [N,P,Q,O]; with `norm` gamma [C], beta [C] and the moments [N,Ci,2] of x's sources, C the sum of the Ci.
/// Result [N,P,Q,O], or its `parts` along O; with `moments` also mean and biased variance over the positions of every channel of it, [N,O,2].
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2d {
    /// Kernel, stride, padding.
    pub geometry: ConvGeometry,
    /// O.
    pub out_channels: usize,
    /// Operand bias [O] is present.
    pub bias: bool,
    /// Operand addend [N,O] is present (the time term); set by the fusion pass.
    pub addend: bool,
    /// Operand residual [N,P,Q,O] is present; set by the fusion pass.
    pub residual: bool,
    /// Factor on the whole sum; 1 unless fused.
    pub scale: f32,
    /// The weights come from [`PackConv`].
    pub packed: bool,
    /// x is normalised first; set by the pass that absorbs norms. Padding is zero after the norm, as it is without.
    pub norm: Option<ConvNorm>,
    /// There is a second result, the moments; set by the same pass.
    pub moments: bool,
    /// Channels of each result where several products have become one; empty for a single result. Set by the merging pass.
    pub parts: Vec<usize>,
}

impl Conv2d {
    /// A plain convolution with optional bias.
    pub fn new(geometry: ConvGeometry, out_channels: usize, bias: bool) -> Self {
        Self { geometry, out_channels, bias, addend: false, residual: false, scale: 1.0, packed: false, norm: None, moments: false, parts: vec![] }
    }

    fn operand(&self, which: usize) -> Option<usize> {
        let present = [self.bias, self.addend, self.residual];
        present[which].then(|| 2 + present[..which].iter().filter(|p| **p).count())
    }

    /// Index of the bias operand.
    pub fn bias_operand(&self) -> Option<usize> {
        self.operand(0)
    }

    /// Index of the per-(sample, channel) operand.
    pub fn addend_operand(&self) -> Option<usize> {
        self.operand(1)
    }

    /// Index of the residual operand.
    pub fn residual_operand(&self) -> Option<usize> {
        self.operand(2)
    }

    /// Index of the norm's gamma, which beta and the moments follow, if there is a norm; else the number of operands.
    pub fn norm_operand(&self) -> usize {
        2 + [self.bias, self.addend, self.residual].iter().filter(|p| **p).count()
    }

    /// Nothing but weights and bias has a part in the result.
    pub fn is_plain(&self) -> bool {
        !self.addend && !self.residual && self.scale == 1.0 && self.norm.is_none() && !self.moments && self.parts.is_empty()
    }

    /// x as the products see it, from the moments as they are given.
    fn normalised(&self, norm: &ConvNorm, inputs: &[&Array]) -> Result<Array> {
        let at = self.norm_operand();
        let (gamma, beta) = (inputs[at], inputs[at + 1]);
        let moments = group_moments(&inputs[at + 2..], norm.groups)?;
        let [.., c] = dims(inputs[0]);
        let width = c / norm.groups;
        let mut x = inputs[0].clone();
        for ((i, _, _, ci), v) in x.view_mut().into_dimensionality::<ndarray::Ix4>().map_err(bug)?.indexed_iter_mut() {
            let (mean, variance) = (moments[[i, ci / width, 0]], moments[[i, ci / width, 1]]);
            let y = (*v - mean) / (variance + norm.eps).sqrt() * gamma[[ci]] + beta[[ci]];
            *v = if norm.silu { y / (1.0 + (-y).exp()) } else { y };
        }
        Ok(x)
    }

    fn check_norm(&self, norm: &ConvNorm, inputs: &[&TensorType], [n, c]: [usize; 2]) -> Result<()> {
        let at = self.norm_operand();
        if norm.groups == 0 || c % norm.groups != 0 {
            return Err(Error::shape(format!("{} groups do not divide {c} channels", norm.groups)));
        }
        floats(&inputs[at..])?;
        expect_shape("gamma", inputs[at], &[c])?;
        expect_shape("beta", inputs[at + 1], &[c])?;
        check_moments(&inputs[at + 2..], [n, c])
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

/// Mean and biased variance of every (sample, channel) of y [N,P,Q,O], [N,O,2].
fn moments(y: &Array) -> Array {
    let [n, p, q, o] = dims(y);
    Array::from_shape_fn(vec![n, o, 2], |at| {
        let all = || (0..p).flat_map(|a| (0..q).map(move |b| (a, b))).map(|(a, b)| y[[at[0], a, b, at[1]]]);
        let mean = all().sum::<f64>() / (p * q) as f64;
        if at[2] == 0 { mean } else { all().map(|v| (v - mean).powi(2)).sum::<f64>() / (p * q) as f64 }
    })
}

impl OpDef for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let operands = self.norm_operand() + self.norm.as_ref().map_or(0, |norm| 2 + norm.sources.max(1));
        arity(inputs, operands..=operands)?;
        let [n, h, w, c] = nhwc(inputs[0])?;
        let dtype = inputs[0].dtype;
        check_weights(inputs[1], dtype, self.packed, [self.out_channels, c], self.geometry)?;
        let [p, q] = self.geometry.output(h, w)?;
        let out = [n, p, q, self.out_channels];
        for (operand, what, dtype, shape) in [
            (self.bias_operand(), "bias", DType::F32, &[self.out_channels][..]),
            (self.addend_operand(), "addend", dtype, &[n, self.out_channels]),
            (self.residual_operand(), "residual", dtype, &out),
        ] {
            if let Some(i) = operand {
                expect_dtype(inputs[i], dtype).map_err(|e| e.context(what))?;
                expect_shape(what, inputs[i], shape)?;
            }
        }
        if let Some(norm) = &self.norm {
            self.check_norm(norm, inputs, [n, c])?;
        }
        self.results(TensorType::new(dtype, &out))
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands([Some(0), self.addend_operand(), self.residual_operand()].into_iter().flatten().collect())
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let normalised = self.norm.as_ref().map(|norm| self.normalised(norm, inputs)).transpose()?;
        let (x, w) = (normalised.as_ref().unwrap_or(inputs[0]), inputs[1]);
        let [n, h, wd, c] = dims(x);
        let [ps, qs] = self.geometry.output(h, wd)?;
        let mut y = Array::zeros(vec![n, ps, qs, self.out_channels]);
        self.geometry.for_each_tap([n, h, wd], |[i, p, q, r, s, yy, xx]| {
            for o in 0..self.out_channels {
                y[[i, p, q, o]] += (0..c).map(|ci| x[[i, yy, xx, ci]] * w[[o, ci, r, s]]).sum::<f64>();
            }
        })?;
        for ((i, p, q, o), v) in y.view_mut().into_dimensionality::<ndarray::Ix4>().map_err(bug)?.indexed_iter_mut() {
            *v += self.bias_operand().map_or(0.0, |b| inputs[b][[o]]);
            *v += self.addend_operand().map_or(0.0, |b| inputs[b][[i, o]]);
            *v += self.residual_operand().map_or(0.0, |b| inputs[b][[i, p, q, o]]);
            *v *= f64::from(self.scale);
        }
        if self.parts.is_empty() {
            let moments = self.moments.then(|| moments(&y));
            return Ok([y].into_iter().chain(moments).collect());
        }
        let mut start = 0;
        let cut = |own: &usize| {
            start += own;
            y.slice_axis(ndarray::Axis(3), (start - own..start).into()).to_owned()
        };
        Ok(self.parts.iter().map(cut).collect())
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        if self.packed || !self.is_plain() {
            return Err(Error::internal("differentiate before fusing and packing"));
        }
        let dy = cx.output_grad(0)?;
        let geometry = self.geometry;
        let mut grads = vec![None; cx.input_count()];
        if cx.wants(0) {
            let w = cx.input(1)?;
            let input = cx.input_type(0).shape;
            grads[0] = Some(cx.graph.push1(Conv2dInputGrad { geometry, input, packed: false }.into(), &[dy, w])?);
        }
        if cx.wants(1) {
            let x = cx.input(0)?;
            grads[1] = Some(cx.graph.push1(Conv2dWeightGrad { geometry }.into(), &[x, dy])?);
        }
        if self.bias && cx.wants(2) {
            let sum = cx.graph.push1(ReduceSum { shape: vec![1, 1, 1, self.out_channels] }.into(), &[dy])?;
            grads[2] = Some(cx.graph.reshape(sum, &[self.out_channels])?);
        }
        Ok(grads)
    }
}

/// dL/dx [N,H,W,C] of a [`Conv2d`] from dy [N,P,Q,O] and w [O,C,R,S] (or packed).
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2dInputGrad {
    /// The forward convolution's.
    pub geometry: ConvGeometry,
    /// [N,H,W,C] of the forward input.
    pub input: Vec<usize>,
    /// The weights come from [`PackConv`].
    pub packed: bool,
}

impl OpDef for Conv2dInputGrad {
    fn name(&self) -> &'static str {
        "conv2d_input_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=2)?;
        let [_, _, _, o] = nhwc(inputs[0])?;
        let &[n, h, w, c] = self.input.as_slice() else {
            return Err(Error::shape(format!("expected the shape [N,H,W,C] of an input, found {:?}", self.input)));
        };
        let [p, q] = self.geometry.output(h, w)?;
        expect_shape("dy", inputs[0], &[n, p, q, o])?;
        check_weights(inputs[1], inputs[0].dtype, self.packed, [o, c], self.geometry)?;
        Ok(vec![TensorType::new(inputs[0].dtype, &self.input)])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (dy, w) = (inputs[0], inputs[1]);
        let mut dx = Array::zeros(self.input.clone());
        self.geometry.for_each_tap([self.input[0], self.input[1], self.input[2]], |[i, p, q, r, s, y, x]| {
            for c in 0..self.input[3] {
                dx[[i, y, x, c]] += (0..dy.shape()[3]).map(|o| dy[[i, p, q, o]] * w[[o, c, r, s]]).sum::<f64>();
            }
        })?;
        Ok(vec![dx])
    }
}

/// dL/dw [O,C,R,S] of a [`Conv2d`] from x [N,H,W,C] and dy [N,P,Q,O].
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2dWeightGrad {
    /// The forward convolution's.
    pub geometry: ConvGeometry,
}

impl OpDef for Conv2dWeightGrad {
    fn name(&self) -> &'static str {
        "conv2d_weight_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=2)?;
        activations(inputs)?;
        let [n, h, w, c] = nhwc(inputs[0])?;
        let [p, q] = self.geometry.output(h, w)?;
        let [_, _, _, o] = nhwc(inputs[1])?;
        expect_shape("dy", inputs[1], &[n, p, q, o])?;
        Ok(vec![TensorType::f32(&[o, c, self.geometry.kernel[0], self.geometry.kernel[1]])])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0, 1])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, dy) = (inputs[0], inputs[1]);
        let [n, h, w, c] = dims(x);
        let o = dy.shape()[3];
        let mut dw = Array::zeros(vec![o, c, self.geometry.kernel[0], self.geometry.kernel[1]]);
        self.geometry.for_each_tap([n, h, w], |[i, p, q, r, s, yy, xx]| {
            for oi in 0..o {
                for ci in 0..c {
                    dw[[oi, ci, r, s]] += dy[[i, p, q, oi]] * x[[i, yy, xx, ci]];
                }
            }
        })?;
        Ok(vec![dw])
    }
}

/// Which kernel the packed weights are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PackFor {
    /// [`Conv2d`].
    Forward,
    /// [`Conv2dInputGrad`].
    InputGrad,
}

/// Weights [O,C,R,S] in a backend's own order; the pass that plans for a backend inserts it. With frozen weights it runs once.
#[derive(Clone, Debug, PartialEq)]
pub struct PackConv {
    /// The reading kernel.
    pub purpose: PackFor,
    /// The convolution's geometry (packing for strided input gradients depends on it).
    pub geometry: ConvGeometry,
    /// Elements of the packed form, from the backend.
    pub packed_len: usize,
    /// Their type: that of the convolution's activations.
    pub dtype: DType,
}

impl OpDef for PackConv {
    fn name(&self) -> &'static str {
        "pack_conv"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        floats(inputs)?;
        if inputs[0].shape.len() != 4 {
            return Err(Error::shape(format!("expected weights [O,C,R,S], found {:?}", inputs[0].shape)));
        }
        Ok(vec![TensorType::new(self.dtype, &[self.packed_len])])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, _inputs: &[&Array]) -> Result<Vec<Array>> {
        Err(Error::unsupported("packed weights have a meaning only to their backend"))
    }
}

/// Checks the weights [O,C,R,S] of a convolution of activations of `dtype`: f32 as the parameters are, or packed in the activations' type.
fn check_weights(ty: &TensorType, dtype: DType, packed: bool, [o, c]: [usize; 2], geometry: ConvGeometry) -> Result<()> {
    if packed {
        return expect_dtype(ty, dtype).map_err(|e| e.context("packed weight"));
    }
    expect_dtype(ty, DType::F32).map_err(|e| e.context("weight"))?;
    expect_shape("weight", ty, &[o, c, geometry.kernel[0], geometry.kernel[1]])
}

/// The four dimensions of an f32 activation.
pub(crate) fn nhwc(ty: &TensorType) -> Result<[usize; 4]> {
    activations(&[ty])?;
    <[usize; 4]>::try_from(ty.shape.as_slice()).map_err(|_| Error::shape(format!("expected an activation [N,H,W,C], found {:?}", ty.shape)))
}

fn dims(a: &Array) -> [usize; 4] {
    [a.shape()[0], a.shape()[1], a.shape()[2], a.shape()[3]]
}

pub(super) fn bug(e: impl std::fmt::Display) -> Error {
    Error::internal(e.to_string())
}
