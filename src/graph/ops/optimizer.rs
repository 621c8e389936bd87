//! What follows the gradients: global-norm clipping, AdamW and the moving average, each over all parameters in one op.

use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::op::{Alias, Narrow, OpDef, Updated, arity, expect_dtype, expect_shape, floats};
use crate::graph::reference::Array;
use crate::memory;
use crate::tensor::DType;

fn scalar(inputs: &[&TensorType], what: &str, i: usize) -> Result<()> {
    expect_shape(what, inputs[i], &[1])
}

/// sqrt(sum of squares over all operands) [1].
#[derive(Clone, Debug, PartialEq)]
pub struct GlobalNorm;

impl OpDef for GlobalNorm {
    fn name(&self) -> &'static str {
        "global_norm"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=usize::MAX)?;
        floats(inputs)?;
        Ok(vec![TensorType::f32(&[1])])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let sum: f64 = inputs.iter().flat_map(|a| a.iter()).map(|v| v * v).sum();
        Ok(vec![Array::from_elem(vec![1], sum.sqrt())])
    }
}

/// The factor on the gradients: min(1, max_norm / (norm + 1e-6)) as torch's `clip_grad_norm_`, or NaN when the norm or the loss is not finite, or the
/// clipped norm above [`ClipScale::LARGEST`], which tells [`AdamW`] and [`Ema`] to leave everything as it is. Operands: norm [1], loss [1].
#[derive(Clone, Debug, PartialEq)]
pub struct ClipScale {
    /// Largest allowed norm; infinity for no clipping.
    pub max_norm: f32,
}

impl ClipScale {
    /// 2^63: the most that is left of a norm. AdamW's second moment, a mean of squares, then stays below 2^127 and its first one below 2^64.
    pub const LARGEST: f32 = (1u64 << 63) as f32;

    /// The op that clips to `max_norm`.
    pub fn new(max_norm: f64) -> Self {
        Self { max_norm: max_norm as f32 }
    }

    /// Whether gradients of this norm may be used.
    pub fn accepts(&self, norm: f32) -> bool {
        norm.is_finite() && norm.min(self.max_norm) <= Self::LARGEST
    }
}

impl OpDef for ClipScale {
    fn name(&self) -> &'static str {
        "clip_scale"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=2)?;
        floats(inputs)?;
        scalar(inputs, "norm", 0)?;
        Ok(vec![TensorType::f32(&[1])])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let norm = inputs[0].sum();
        let usable = self.accepts(norm as f32) && inputs[1].sum().is_finite();
        let scale = if usable { (f64::from(self.max_norm) / (norm + 1e-6)).min(1.0) } else { f64::NAN };
        Ok(vec![Array::from_elem(vec![1], scale)])
    }
}

/// Decoupled weight decay Adam (Loshchilov & Hutter 2019, algorithm 2; torch's `AdamW`) over P parameters. Operands: lr [1], step i64 [1] (1 for the
/// first update), grad scale [1], then for each parameter p, m, v, g. Results: the new p, m, v of each. A NaN scale changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Multiplied with the learning rate.
    pub weight_decay: f64,
    /// P.
    pub parameters: usize,
}

impl AdamW {
    /// Operands before the first parameter.
    pub const HEAD: usize = 3;
}

impl OpDef for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let expected = Self::HEAD + 4 * self.parameters;
        arity(inputs, expected..=expected)?;
        for (i, what) in ["lr", "step", "scale"].iter().enumerate() {
            scalar(inputs, what, i)?;
        }
        expect_dtype(inputs[1], DType::I64)?;
        floats(&inputs[..1]).and_then(|()| floats(&inputs[2..]))?;
        let mut out = memory::with_capacity(3 * self.parameters, "optimizer")?;
        for p in inputs[Self::HEAD..].chunks_exact(4) {
            for other in &p[1..] {
                expect_shape("moment or gradient", other, &p[0].shape)?;
            }
            out.extend(p[..3].iter().map(|t| (*t).clone()));
        }
        Ok(out)
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (lr, step, scale) = (inputs[0].sum(), inputs[1].sum(), inputs[2].sum());
        let (c1, c2) = (1.0 - self.beta1.powf(step), 1.0 - self.beta2.powf(step));
        let mut out = vec![];
        for pmvg in inputs[Self::HEAD..].chunks_exact(4) {
            let [p, m, v, g] = [pmvg[0], pmvg[1], pmvg[2], pmvg[3]];
            if scale.is_nan() {
                out.extend([p.clone(), m.clone(), v.clone()]);
                continue;
            }
            let g = g * scale;
            let m = m * self.beta1 + &g * (1.0 - self.beta1);
            let v = v * self.beta2 + &g * &g * (1.0 - self.beta2);
            let update = (&m / c1) / (v.mapv(|x| (x / c2).sqrt()) + self.eps);
            out.extend([p * (1.0 - lr * self.weight_decay) - update * lr, m, v]);
        }
        Ok(out)
    }

    fn alias(&self) -> Alias {
        Alias::Updates(Updated { head: Self::HEAD, groups: self.parameters, group: 4, updated: 3 })
    }
}

/// average = decay average + (1 - decay) p over P parameters; at decay 0 it is p, whatever it was. Operands: decay [1], grad scale [1] (NaN changes nothing),
/// then average, p of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Ema {
    /// P.
    pub parameters: usize,
}

impl Ema {
    /// Operands before the first parameter.
    pub const HEAD: usize = 2;
}

impl OpDef for Ema {
    fn name(&self) -> &'static str {
        "ema"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let expected = Self::HEAD + 2 * self.parameters;
        arity(inputs, expected..=expected)?;
        floats(inputs)?;
        scalar(inputs, "decay", 0)?;
        scalar(inputs, "scale", 1)?;
        for pair in inputs[Self::HEAD..].chunks_exact(2) {
            expect_shape("parameter", pair[1], &pair[0].shape)?;
        }
        memory::collect(inputs[Self::HEAD..].chunks_exact(2).map(|p| p[0].clone()), "moving average")
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (decay, scale) = (inputs[0].sum(), inputs[1].sum());
        let step = |p: &[&Array]| match scale.is_nan() {
            true => p[0].clone(),
            false if decay == 0.0 => p[1].clone(),
            false => p[0] * decay + p[1] * (1.0 - decay),
        };
        Ok(inputs[Self::HEAD..].chunks_exact(2).map(step).collect())
    }

    fn alias(&self) -> Alias {
        Alias::Updates(Updated { head: Self::HEAD, groups: self.parameters, group: 2, updated: 1 })
    }
}

/// Overwrites a state. Operands: state, value of the same type.
#[derive(Clone, Debug, PartialEq)]
pub struct Assign;

impl OpDef for Assign {
    fn name(&self) -> &'static str {
        "assign"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=2)?;
        expect_shape("value", inputs[1], &inputs[0].shape)?;
        if inputs[0].dtype != inputs[1].dtype {
            return Err(Error::shape(format!("cannot assign {:?} to {:?}", inputs[1].dtype, inputs[0].dtype)));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[1].clone()])
    }

    fn alias(&self) -> Alias {
        Alias::Updates(Updated { head: 0, groups: 1, group: 2, updated: 1 })
    }
}
