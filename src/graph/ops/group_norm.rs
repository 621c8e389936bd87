//! Group normalisation (Wu & He 2018) over NHWC or [N,T,C], optionally followed by SiLU.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, activations, arity, expect_shape, floats};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};

use super::conv2d::bug;
use super::moments::group_moments;

/// y = act(gamma * (x - mean) * rstd + beta), mean and biased variance over each (sample, group of channels).
/// Operands: x [N,...,C] of any float type, gamma [C], beta [C]. Results: y like x, mean [N,G], rstd [N,G]; parameters and statistics are f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Number of groups; divides C.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Apply SiLU to the result.
    pub silu: bool,
}

impl GroupNorm {
    /// The norm, from its parts.
    pub fn new(groups: usize, eps: f64, silu: bool) -> Self {
        Self { groups, eps, silu }
    }

    /// The results for x with the moments of its channels, from which mean and variance are taken instead of from x.
    pub(super) fn of_moments(&self, x: &Array, parameters: [&Array; 2], moments: &[&Array]) -> Result<[Array; 3]> {
        self.normalise(x, parameters, Some(group_moments(moments, self.groups)?))
    }

    /// The results with the given mean and variance of each group [N,G,2], or x's own.
    fn normalise(&self, x: &Array, [gamma, beta]: [&Array; 2], given: Option<Array>) -> Result<[Array; 3]> {
        let [n, t, c] = extent(x.shape());
        let flat = x.to_shape([n, t, c]).map_err(bug)?;
        let cg = c / self.groups;
        let mut y = Array::zeros(vec![n, t, c]);
        let (mut means, mut rstds) = (Array::zeros(vec![n, self.groups]), Array::zeros(vec![n, self.groups]));
        for i in 0..n {
            for g in 0..self.groups {
                let members = || (0..t).flat_map(move |p| (g * cg..(g + 1) * cg).map(move |ch| (p, ch)));
                let count = (t * cg) as f64;
                let mean = given.as_ref().map_or_else(|| members().map(|(p, ch)| flat[[i, p, ch]]).sum::<f64>() / count, |m| m[[i, g, 0]]);
                let own = || members().map(|(p, ch)| (flat[[i, p, ch]] - mean).powi(2)).sum::<f64>() / count;
                let var = given.as_ref().map_or_else(own, |m| m[[i, g, 1]]);
                let rstd = 1.0 / (var + self.eps).sqrt();
                for (p, ch) in members() {
                    let v = gamma[[ch]] * (flat[[i, p, ch]] - mean) * rstd + beta[[ch]];
                    y[[i, p, ch]] = if self.silu { v * sigmoid(v) } else { v };
                }
                means[[i, g]] = mean;
                rstds[[i, g]] = rstd;
            }
        }
        Ok([y.into_shape_with_order(x.shape()).map_err(bug)?, means, rstds])
    }
}

/// (samples, positions, channels) of a normalised activation.
fn extent(shape: &[usize]) -> [usize; 3] {
    let n = shape[0];
    let c = *shape.last().unwrap_or(&1);
    [n, shape[1..shape.len() - 1].iter().product(), c]
}

fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

fn check(x: &TensorType, groups: usize) -> Result<[usize; 3]> {
    if x.shape.len() < 2 || groups == 0 || !x.shape[x.shape.len() - 1].is_multiple_of(groups) {
        return Err(Error::shape(format!("{groups} groups do not divide the channels of {:?}", x.shape)));
    }
    Ok(extent(&x.shape))
}

impl OpDef for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 3..=3)?;
        activations(&inputs[..1])?;
        floats(&inputs[1..])?;
        let [n, _, c] = check(inputs[0], self.groups)?;
        expect_shape("gamma", inputs[1], &[c])?;
        expect_shape("beta", inputs[2], &[c])?;
        let stat = TensorType::f32(&[n, self.groups]);
        Ok(vec![inputs[0].clone(), stat.clone(), stat])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(self.normalise(inputs[0], [inputs[1], inputs[2]], None)?.into())
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        cx.no_output_grad(1, "mean of a group norm")?;
        cx.no_output_grad(2, "deviation of a group norm")?;
        let dy = cx.output_grad(0)?;
        let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.output(1)?, cx.output(2)?, dy];
        let out = cx.graph.push(GroupNormGrad { groups: self.groups, silu: self.silu }.into(), &operands)?;
        Ok(out.into_iter().map(Some).collect())
    }
}

/// dx, dgamma, dbeta of [`GroupNorm`] from x, gamma, beta, mean, rstd, dy.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNormGrad {
    /// As in the forward op.
    pub groups: usize,
    /// As in the forward op.
    pub silu: bool,
}

impl OpDef for GroupNormGrad {
    fn name(&self) -> &'static str {
        "group_norm_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 6..=6)?;
        activations(&[inputs[0], inputs[5]])?;
        floats(&inputs[1..5])?;
        let [n, _, c] = check(inputs[0], self.groups)?;
        for (i, what) in ["gamma", "beta"].iter().enumerate() {
            expect_shape(what, inputs[1 + i], &[c])?;
        }
        for (i, what) in ["mean", "rstd"].iter().enumerate() {
            expect_shape(what, inputs[3 + i], &[n, self.groups])?;
        }
        expect_shape("dy", inputs[5], &inputs[0].shape)?;
        Ok(vec![inputs[0].clone(), inputs[1].clone(), inputs[2].clone()])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0, 5])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let [n, t, c] = extent(inputs[0].shape());
        let x = inputs[0].to_shape([n, t, c]).map_err(bug)?;
        let dy = inputs[5].to_shape([n, t, c]).map_err(bug)?;
        let (gamma, beta, mean, rstd) = (inputs[1], inputs[2], inputs[3], inputs[4]);
        let cg = c / self.groups;
        let mut dx = Array::zeros(vec![n, t, c]);
        let (mut dgamma, mut dbeta) = (Array::zeros(vec![c]), Array::zeros(vec![c]));
        for i in 0..n {
            for g in 0..self.groups {
                let (m, r) = (mean[[i, g]], rstd[[i, g]]);
                let members = || (0..t).flat_map(move |p| (g * cg..(g + 1) * cg).map(move |ch| (p, ch)));
                let hat = |p: usize, ch: usize| (x[[i, p, ch]] - m) * r;
                let before_act = |p: usize, ch: usize| {
                    let v = gamma[[ch]] * hat(p, ch) + beta[[ch]];
                    let slope = if self.silu { sigmoid(v) * (1.0 + v * (1.0 - sigmoid(v))) } else { 1.0 };
                    dy[[i, p, ch]] * slope
                };
                let count = (t * cg) as f64;
                let sum1 = members().map(|(p, ch)| before_act(p, ch) * gamma[[ch]]).sum::<f64>() / count;
                let sum2 = members().map(|(p, ch)| before_act(p, ch) * gamma[[ch]] * hat(p, ch)).sum::<f64>() / count;
                for (p, ch) in members() {
                    let d = before_act(p, ch);
                    dx[[i, p, ch]] = r * (d * gamma[[ch]] - sum1 - hat(p, ch) * sum2);
                    dgamma[[ch]] += d * hat(p, ch);
                    dbeta[[ch]] += d;
                }
            }
        }
        let dx = dx.into_shape_with_order(inputs[0].shape()).map_err(bug)?;
        Ok(vec![dx, dgamma, dbeta])
    }
}
