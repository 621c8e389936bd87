//! Group normalisation (Wu & He 2018) over NHWC or [N,T,C], optionally followed by SiLU.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, activations, arity, expect_shape, floats};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};

/// y = act(gamma * (x - mean) * rstd + beta), mean and biased variance over each (sample, group of channels).
/// Operands: x [N,...,C] of any float type, gamma [C], beta [C]; then, with `sources`, the moments of x's channels, from which mean and variance are taken
/// instead of from x: [N,Ci,2], mean and biased variance of every channel of each value that x was joined of, C the sum of the Ci.
/// Results: y like x, mean [N,G], rstd [N,G]; parameters and statistics are f32.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNorm {
    /// Number of groups; divides C.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Apply SiLU to the result.
    pub silu: bool,
    /// How many values with moments x was joined of; 0 where the statistics are x's own to find. Set by the pass that absorbs norms.
    pub sources: usize,
}

impl GroupNorm {
    /// The plain norm, of x, gamma and beta.
    pub fn new(groups: usize, eps: f64, silu: bool) -> Self {
        Self { groups, eps, silu, sources: 0 }
    }
}

/// Mean and biased variance [N,G,2] of the groups of a value, from the moments [N,Ci,2] of the channels of what it was joined of. All channels have as many
/// positions: a group's mean is the mean of means, its variance the mean of variances plus the variance of means.
pub(super) fn group_moments(moments: &[&Array], groups: usize) -> Result<Array> {
    let views: Vec<_> = moments.iter().map(|m| m.view()).collect();
    let all = ndarray::concatenate(ndarray::Axis(1), &views).map_err(super::conv2d::bug)?;
    let width = all.shape()[1] / groups;
    Ok(Array::from_shape_fn(vec![all.shape()[0], groups, 2], |at| {
        let members = || at[1] * width..(at[1] + 1) * width;
        let mean = members().map(|k| all[[at[0], k, 0]]).sum::<f64>() / width as f64;
        let variance = || members().map(|k| all[[at[0], k, 1]] + (all[[at[0], k, 0]] - mean).powi(2)).sum::<f64>() / width as f64;
        if at[2] == 0 { mean } else { variance() }
    }))
}

/// Checks that these are the moments of `c` channels of `n` samples.
pub(super) fn check_moments(moments: &[&TensorType], [n, c]: [usize; 2]) -> Result<()> {
    let mut channels = 0usize;
    for ty in moments {
        let own = *ty.shape.get(1).unwrap_or(&0);
        expect_shape("moments", ty, &[n, own, 2])?;
        channels = channels.saturating_add(own);
    }
    if channels != c {
        return Err(Error::shape(format!("moments of {channels} channels for an input of {c}")));
    }
    Ok(())
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
        let operands = self.sources.saturating_add(3);
        arity(inputs, operands..=operands)?;
        activations(&inputs[..1])?;
        floats(&inputs[1..])?;
        let [n, _, c] = check(inputs[0], self.groups)?;
        expect_shape("gamma", inputs[1], &[c])?;
        expect_shape("beta", inputs[2], &[c])?;
        if self.sources > 0 {
            check_moments(&inputs[3..], [n, c])?;
        }
        let stat = TensorType::f32(&[n, self.groups]);
        Ok(vec![inputs[0].clone(), stat.clone(), stat])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let [n, t, c] = extent(inputs[0].shape());
        let x = inputs[0].to_shape([n, t, c]).map_err(super::conv2d::bug)?;
        let cg = c / self.groups;
        let mut y = Array::zeros(vec![n, t, c]);
        let given = if self.sources > 0 { Some(group_moments(&inputs[3..], self.groups)?) } else { None };
        let (mut means, mut rstds) = (Array::zeros(vec![n, self.groups]), Array::zeros(vec![n, self.groups]));
        for i in 0..n {
            for g in 0..self.groups {
                let members = || (0..t).flat_map(move |p| (g * cg..(g + 1) * cg).map(move |ch| (p, ch)));
                let count = (t * cg) as f64;
                let mean = given.as_ref().map_or_else(|| members().map(|(p, ch)| x[[i, p, ch]]).sum::<f64>() / count, |m| m[[i, g, 0]]);
                let var = given.as_ref().map_or_else(|| members().map(|(p, ch)| (x[[i, p, ch]] - mean).powi(2)).sum::<f64>() / count, |m| m[[i, g, 1]]);
                let rstd = 1.0 / (var + self.eps).sqrt();
                for (p, ch) in members() {
                    let v = inputs[1][[ch]] * (x[[i, p, ch]] - mean) * rstd + inputs[2][[ch]];
                    y[[i, p, ch]] = if self.silu { v * sigmoid(v) } else { v };
                }
                means[[i, g]] = mean;
                rstds[[i, g]] = rstd;
            }
        }
        let y = y.into_shape_with_order(inputs[0].shape()).map_err(super::conv2d::bug)?;
        Ok(vec![y, means, rstds])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        if self.sources > 0 {
            return Err(Error::internal("differentiate before norms are absorbed"));
        }
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
        let x = inputs[0].to_shape([n, t, c]).map_err(super::conv2d::bug)?;
        let dy = inputs[5].to_shape([n, t, c]).map_err(super::conv2d::bug)?;
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
        let dx = dx.into_shape_with_order(inputs[0].shape()).map_err(super::conv2d::bug)?;
        Ok(vec![dx, dgamma, dbeta])
    }
}
