//! Linear combinations with per-row coefficients: the sampler update, the forward process and the loss difference are all this op.

use crate::error::{Error, Result};
use crate::graph::op::{OpDef, arity, expect_shape, floats, rows};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};

/// y[n,...] = sum_j coef[n or 0, first + j] v_j[n,...]. Operands: coef [N or 1, K], then `count` values of one shape [N,...].
/// This is x' = a x + sum_j b_j m_j + c z of every sampler, with coefficients from a per-step table.
#[derive(Clone, Debug, PartialEq)]
pub struct Combine {
    /// Column of the first coefficient.
    pub first: usize,
}

impl OpDef for Combine {
    fn name(&self) -> &'static str {
        "combine"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=9)?;
        floats(inputs)?;
        let values = &inputs[1..];
        let rows = rows(values[0]).map_err(|e| e.context(format!("coefficients {:?}", inputs[0].shape)))?;
        match inputs[0].shape.as_slice() {
            &[n, k] if (n == 1 || n == rows) && self.first.checked_add(values.len()).is_some_and(|end| end <= k) => {}
            other => return Err(Error::shape(format!("coefficients {other:?} do not fit {} values of {rows} rows", values.len()))),
        }
        for v in values {
            expect_shape("value", v, &values[0].shape)?;
        }
        Ok(vec![values[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let coef = inputs[0];
        let mut y = Array::zeros(inputs[1].raw_dim());
        for (j, v) in inputs[1..].iter().enumerate() {
            for (n, (mut out, row)) in y.outer_iter_mut().zip(v.outer_iter()).enumerate() {
                out.scaled_add(coef[[if coef.shape()[0] == 1 { 0 } else { n }, self.first + j]], &row);
            }
        }
        Ok(vec![y])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        if cx.wants(0) {
            return Err(Error::unsupported("combine has no gradient for its coefficients"));
        }
        let coef = cx.input(0)?;
        let mut grads = vec![None; cx.input_count()];
        for (j, grad) in grads.iter_mut().enumerate().skip(1) {
            if cx.wants(j) {
                *grad = Some(cx.graph.push1(Combine { first: self.first + j - 1 }.into(), &[coef, dy])?);
            }
        }
        Ok(grads)
    }
}

/// Dynamic thresholding (Saharia et al. 2022, section 2.3; diffusers `_threshold_sample`): per sample, s = min(max(quantile(|x|, ratio), 1), max),
/// y = clamp(x, -s, s) / s. The quantile interpolates linearly, as torch.quantile. Operand x [N,...].
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicThreshold {
    /// Quantile in [0, 1].
    pub ratio: f64,
    /// Upper limit of s, at least the smallest normal f32. Below 1 it wins over the lower limit, as in torch.clamp: s is then `max` always.
    pub max: f64,
}

impl OpDef for DynamicThreshold {
    fn name(&self) -> &'static str {
        "dynamic_threshold"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        if !(0.0..=1.0).contains(&self.ratio) || self.max.is_nan() || self.max < f64::from(f32::MIN_POSITIVE) {
            return Err(Error::invalid(format!("dynamic thresholding with ratio {} and maximum {}", self.ratio, self.max)));
        }
        floats(inputs)?;
        rows(inputs[0])?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut y = inputs[0].clone();
        for mut row in y.outer_iter_mut() {
            let mut sorted: Vec<f64> = row.iter().map(|v| v.abs()).collect();
            sorted.sort_by(f64::total_cmp);
            let at = self.ratio * (sorted.len() - 1) as f64;
            let (lo, hi) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
            let quantile = lo + (hi - lo) * (at - at.floor());
            let s = quantile.max(1.0).min(self.max);
            // A row with NaN, or whose quantile falls between infinities, is NaN.
            row.mapv_inplace(|v| if quantile.is_nan() { quantile } else { v.clamp(-s, s) / s });
        }
        Ok(vec![y])
    }
}
