//! The sinusoidal timestep embedding of diffusers' `Timesteps`.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, arity};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};
use crate::tensor::DType;

/// y[b] = [sin(t f_i), cos(t f_i)], f_i = exp(-ln(10000) i / (half - freq_shift)), i < half = dim/2 (Vaswani et al. 2017, section 3.5; diffusers
/// `get_timestep_embedding`). Operand t f32 [B]; result [B, dim]. An odd dim ends in a zero.
#[derive(Clone, Debug, PartialEq)]
pub struct TimestepEmbedding {
    /// Width of the result.
    pub dim: usize,
    /// Cosines first.
    pub flip_sin_to_cos: bool,
    /// `downscale_freq_shift` of diffusers.
    pub freq_shift: f64,
}

impl TimestepEmbedding {
    /// The angular frequencies with diffusers' roundings: exponent and result in f32. At t = 999 one unit in their last place moves the sine by 1e-4.
    pub fn frequencies(&self) -> Vec<f32> {
        let half = self.dim / 2;
        let exponent = |i: usize| -(10000f64.ln() as f32) * i as f32 / (half as f64 - self.freq_shift) as f32;
        (0..half).map(|i| f64::from(exponent(i)).exp() as f32).collect()
    }
}

impl OpDef for TimestepEmbedding {
    fn name(&self) -> &'static str {
        "timestep_embedding"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        if inputs[0].dtype != DType::F32 || inputs[0].shape.len() != 1 || self.dim < 2 {
            return Err(Error::shape(format!("needs timesteps f32 [B] and a width of 2 or more, found {:?} and {}", inputs[0].shape, self.dim)));
        }
        if (self.dim / 2) as f64 == self.freq_shift {
            return Err(Error::invalid(format!("freq_shift {} equals half the embedding width", self.freq_shift)));
        }
        Ok(vec![TensorType::f32(&[inputs[0].shape[0], self.dim])])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let f = self.frequencies();
        let half = f.len();
        Ok(vec![Array::from_shape_fn(vec![inputs[0].len(), self.dim], |i| {
            if i[1] >= 2 * half {
                return 0.0;
            }
            // The argument is rounded to f32, as diffusers does.
            let arg = f64::from(inputs[0][[i[0]]] as f32 * f[i[1] % half]);
            if (i[1] < half) != self.flip_sin_to_cos { arg.sin() } else { arg.cos() }
        })])
    }

    fn grad(&self, _cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        Ok(vec![None])
    }
}
