//! The op table: every op states once its shape rule, its gradient rule and its meaning in f64.

use super::autodiff::GradCx;
use super::ops::*;
use super::reference::Array;
use super::{TensorType, ValueId};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// How an op's outputs relate to the memory of its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alias {
    /// Outputs are new memory.
    None,
    /// The output is the input's memory under another shape; no kernel runs.
    View,
    /// The first outputs are the next versions of states that inputs are versions of; those behind them are new memory.
    Updates(Updated),
}

/// Which outputs of an op are the next versions of which inputs: after `head` operands come `groups` times `group` operands, of which the first `updated` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Updated {
    /// Operands before the first group.
    pub head: usize,
    /// How many groups there are.
    pub groups: usize,
    /// Operands of a group.
    pub group: usize,
    /// The first so many of a group are updated.
    pub updated: usize,
}

impl Updated {
    /// Pairs (input, output).
    pub fn pairs(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.groups).flat_map(move |g| (0..self.updated).map(move |k| (self.head + self.group * g + k, self.updated * g + k)))
    }
}

/// How an op takes activations of a narrow type, where a plan has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Narrow {
    /// These operands are narrow; the others stay as they are.
    Operands(Vec<usize>),
    /// Narrow where all its operands already are: the op only passes activations on.
    Follow,
    /// Everything in f32 (or whole numbers): states, losses, parameters, small things.
    Wide,
}

/// What an op has to say about itself. A backend adds the kernel.
pub trait OpDef {
    /// The op's name, the same in every room.
    fn name(&self) -> &'static str;
    /// Output types from input types, or why they do not fit.
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>>;
    /// Which operands are activations, of the type that a plan chooses for them. No default: an op that nobody thought about must not compile.
    fn narrow(&self) -> Narrow;
    /// The op's meaning, in double precision, written for clarity.
    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>>;
    /// Gradients with respect to each input, `None` where there is none; built from other ops.
    fn grad(&self, _cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        Err(Error::unsupported(format!("{} has no gradient", self.name())))
    }
    /// Memory relation of outputs and inputs.
    fn alias(&self) -> Alias {
        Alias::None
    }
}

macro_rules! op_table {
    ($($name:ident),* $(,)?) => {
        /// Every op there is.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op { $(#[doc = concat!("See [`", stringify!($name), "`](super::ops::", stringify!($name), ").")] $name($name)),* }
        impl OpDef for Op {
            fn name(&self) -> &'static str { match self { $(Op::$name(op) => op.name()),* } }
            fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> { match self { $(Op::$name(op) => op.infer(inputs)),* } }
            fn narrow(&self) -> Narrow { match self { $(Op::$name(op) => op.narrow()),* } }
            fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> { match self { $(Op::$name(op) => op.reference(inputs)),* } }
            fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> { match self { $(Op::$name(op) => op.grad(cx)),* } }
            fn alias(&self) -> Alias { match self { $(Op::$name(op) => op.alias()),* } }
        }
        impl Op {
            /// Every op there is.
            pub const VARIANTS: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Its name among them.
            pub fn variant(&self) -> &'static str { match self { $(Op::$name(_) => stringify!($name)),* } }
        }
        $(impl From<$name> for Op { fn from(op: $name) -> Op { Op::$name(op) } })*
    };
}

op_table! {
    Conv2d, FusedConv2d, Conv2dInputGrad, Conv2dWeightGrad, PackConv,
    GroupNorm, FusedGroupNorm, GroupNormGrad,
    Attention, AttentionGrad, HeadProduct,
    Unary, UnaryGrad, Affine, Binary, Cast, Combine, DynamicThreshold,
    Upsample2x, AvgPool2x,
    Concat, Slice, Pad, Transpose, Reshape, StopGradient,
    ReduceSum,
    Quantize, Dequantize, FakeQuantize, FakeQuantizeGrad,
    TimestepEmbedding, Gather, GatherGrad,
    RandomNormal, RandomInt, IntAffine,
    GlobalNorm, ClipScale, AdamW, Momentum, Orthogonalize, Descend, Ema, Assign,
}

/// Checks the number of operands.
pub(super) fn arity(inputs: &[&TensorType], expected: std::ops::RangeInclusive<usize>) -> Result<()> {
    if expected.contains(&inputs.len()) {
        return Ok(());
    }
    Err(Error::internal(format!("expected {expected:?} operands, found {}", inputs.len())))
}

/// Refuses operands of another type than f32: a kernel reads an operand as the type that it is made for.
pub(super) fn floats(inputs: &[&TensorType]) -> Result<()> {
    inputs.iter().try_for_each(|ty| expect_dtype(ty, DType::F32))
}

/// The element type that all of these activations share: f32, f16 or bf16.
pub(super) fn activations(inputs: &[&TensorType]) -> Result<DType> {
    let dtype = inputs[0].dtype;
    if !matches!(dtype, DType::F32 | DType::F16 | DType::Bf16) {
        return Err(Error::unsupported(format!("needs an operand of floats, found {dtype:?} {:?}", inputs[0].shape)));
    }
    inputs.iter().try_for_each(|ty| expect_dtype(ty, dtype))?;
    Ok(dtype)
}

/// Checks one operand's element type.
pub(super) fn expect_dtype(ty: &TensorType, dtype: DType) -> Result<()> {
    if ty.dtype == dtype {
        return Ok(());
    }
    Err(Error::unsupported(format!("needs an operand of {dtype:?}, found {:?} {:?}", ty.dtype, ty.shape)))
}

/// The rows of an operand: its first dimension.
pub(super) fn rows(ty: &TensorType) -> Result<usize> {
    ty.shape.first().copied().ok_or_else(|| Error::shape("needs one dimension or more, found shape []"))
}

/// Checks one operand's shape.
pub(super) fn expect_shape(what: &str, ty: &TensorType, shape: &[usize]) -> Result<()> {
    if ty.shape == shape {
        return Ok(());
    }
    Err(Error::shape(format!("{what}: expected shape {shape:?}, found {:?}", ty.shape)))
}
