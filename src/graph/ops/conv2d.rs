//! 2-D convolution over NHWC activations with OIHW weights, and its two gradients. Linear layers are its 1x1 form.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, activations, arity, expect_dtype, expect_shape, floats};
use crate::graph::reference::Array;
use crate::graph::{GradCx, Op, Packed, TensorType, ValueId};
use crate::tensor::DType;
use half::bf16;

use super::{FusedConv2d, ReduceSum};

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

/// y = conv(x, w) + bias. Operands: x [N,H,W,C], w [O,C,R,S], bias [O] where there is one. Result [N,P,Q,O].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2d {
    /// Kernel, stride, padding.
    pub geometry: ConvGeometry,
    /// O.
    pub out_channels: usize,
    /// Operand bias [O] is present.
    pub bias: bool,
}

impl Conv2d {
    /// A convolution, from its parts.
    pub fn new(geometry: ConvGeometry, out_channels: usize, bias: bool) -> Self {
        Self { geometry, out_channels, bias }
    }
}

impl OpDef for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        FusedConv2d::from(*self).infer(inputs)
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, w) = (inputs[0], inputs[1]);
        let [n, h, wd, c] = dims(x);
        let [ps, qs] = self.geometry.output(h, wd)?;
        let mut y = Array::zeros(vec![n, ps, qs, self.out_channels]);
        self.geometry.for_each_tap([n, h, wd], |[i, p, q, r, s, yy, xx]| {
            for o in 0..self.out_channels {
                y[[i, p, q, o]] += (0..c).map(|ci| x[[i, yy, xx, ci]] * w[[o, ci, r, s]]).sum::<f64>();
            }
        })?;
        if self.bias {
            y += inputs[2]; // [O], along the last dimension
        }
        Ok(vec![y])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        let geometry = self.geometry;
        let mut grads = vec![None; cx.input_count()];
        if cx.wants(0) {
            let w = cx.input(1)?;
            let input = cx.input_type(0).shape;
            grads[0] = Some(cx.graph.push1(Conv2dInputGrad { geometry, input, packed: false, bf16: false }.into(), &[dy, w])?);
        }
        if cx.wants(1) {
            let x = cx.input(0)?;
            grads[1] = Some(cx.graph.push1(Conv2dWeightGrad { geometry, bf16: false }.into(), &[x, dy])?);
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
    /// dy and w are rounded to bf16 before they are multiplied, as those of [`FusedConv2d::bf16`]; set by the pass that rounds products.
    pub bf16: bool,
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
        check_bf16(self.bf16, inputs)?;
        check_weights(inputs[1], packed_dtype(inputs[0].dtype, self.bf16), self.packed, [o, c], self.geometry)?;
        Ok(vec![TensorType::new(inputs[0].dtype, &self.input)])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let [dy, w] = [0, 1].map(|i| factor(inputs[i], self.bf16));
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
    /// x and dy are rounded to bf16 before they are multiplied; set by the pass that rounds products.
    pub bf16: bool,
}

impl OpDef for Conv2dWeightGrad {
    fn name(&self) -> &'static str {
        "conv2d_weight_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=2)?;
        activations(inputs)?;
        check_bf16(self.bf16, inputs)?;
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
        let [x, dy] = [0, 1].map(|i| factor(inputs[i], self.bf16));
        let [n, h, w, c] = dims(&x);
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
    /// [`FusedConv2d`].
    Forward,
    /// [`Conv2dInputGrad`].
    InputGrad,
    /// A quantized [`FusedConv2d`] whose x has numbers up to this.
    Numbers(i32),
}

/// Weights [O,C,R,S], f32 or whole numbers of one byte, in a backend's own order; the pass that plans for a backend inserts it. With frozen weights it runs
/// once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PackConv {
    /// The reading kernel.
    pub purpose: PackFor,
    /// The convolution's geometry (packing for strided input gradients depends on it).
    pub geometry: ConvGeometry,
    /// The packed form, as [`Target::packed`](crate::graph::Target::packed) has it.
    pub packed: Packed,
}

impl PackConv {
    /// For which kernel, and which geometry, the weights of this op are packed, and which operand they are; `None` for an op without such weights, or one whose
    /// weights are packed already.
    pub fn of(op: &Op) -> Option<(PackFor, ConvGeometry, usize)> {
        match op {
            Op::Conv2d(op) => Some((PackFor::Forward, op.geometry, 1)),
            Op::FusedConv2d(op) if !op.packed => {
                let purpose = op.quantized.map_or(PackFor::Forward, |codes| PackFor::Numbers(codes.high));
                Some((purpose, op.conv.geometry, op.operands().weight))
            }
            Op::Conv2dInputGrad(op) if !op.packed => Some((PackFor::InputGrad, op.geometry, 1)),
            _ => None,
        }
    }
}

impl OpDef for PackConv {
    fn name(&self) -> &'static str {
        "pack_conv"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        if inputs[0].dtype != DType::I8 {
            floats(inputs)?;
        }
        if inputs[0].shape.len() != 4 {
            return Err(Error::shape(format!("expected weights [O,C,R,S], found {:?}", inputs[0].shape)));
        }
        Ok(vec![self.packed.ty.clone()])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, _inputs: &[&Array]) -> Result<Vec<Array>> {
        Err(Error::unsupported("packed weights have a meaning only to their backend"))
    }
}

/// What a product takes of an operand: all of it, or what is left of it in bf16. Values are rounded from f32, as a kernel finds them.
pub(super) fn factor(a: &Array, rounded: bool) -> Array {
    if rounded { a.mapv(|v| bf16::from_f32(v as f32).to_f64()) } else { a.clone() }
}

/// The type of packed weights for activations of `dtype`.
pub(super) fn packed_dtype(dtype: DType, bf16: bool) -> DType {
    if bf16 { DType::Bf16 } else { dtype }
}

/// What is rounded on its way into a product is f32 before.
pub(super) fn check_bf16(bf16: bool, inputs: &[&TensorType]) -> Result<()> {
    if bf16 { expect_dtype(inputs[0], DType::F32) } else { Ok(()) }
}

/// Checks the weights [O,C,R,S] of a convolution of activations: f32 as the parameters are, or packed, of `dtype`.
pub(super) fn check_weights(ty: &TensorType, dtype: DType, packed: bool, [o, c]: [usize; 2], geometry: ConvGeometry) -> Result<()> {
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

pub(super) fn dims(a: &Array) -> [usize; 4] {
    [a.shape()[0], a.shape()[1], a.shape()[2], a.shape()[3]]
}

pub(super) fn bug(e: impl std::fmt::Display) -> Error {
    Error::internal(e.to_string())
}
