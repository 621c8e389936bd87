//! Scaled dot-product self-attention over tokens, all heads at once.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, activations, arity, expect_shape, floats};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};

/// out = softmax(scale q k^T) v for each sample and head. Operands q, k, v [N,T,heads*D]. Results: out [N,T,heads*D] and the
/// row's log-sum-exp [N,heads,T] in f32, from which the backward pass rebuilds the probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// Factor on the scores, D^-0.5 in diffusers.
    pub scale: f64,
}

fn head_dim(heads: usize, inner: usize) -> Result<usize> {
    match inner.checked_div(heads) {
        Some(d) if d * heads == inner && (1..=512).contains(&d) => Ok(d),
        _ => Err(Error::unsupported(format!("attention of width {inner} with {heads} heads: head dimension must be 1 to 512"))),
    }
}

/// Checks q, k and v; the type of the log-sum-exp.
fn check(qkv: &[&TensorType], heads: usize) -> Result<TensorType> {
    activations(qkv)?;
    let &[n, t, inner] = qkv[0].shape.as_slice() else {
        return Err(Error::shape(format!("expected q [N,T,C], found {:?}", qkv[0].shape)));
    };
    head_dim(heads, inner)?;
    expect_shape("k", qkv[1], &qkv[0].shape)?;
    expect_shape("v", qkv[2], &qkv[0].shape)?;
    Ok(TensorType::f32(&[n, heads, t]))
}

/// Score rows of one (sample, head): probabilities [T,T] and log-sum-exp [T].
fn probabilities(q: &Array, k: &Array, scale: f64, i: usize, base: usize, d: usize) -> (Vec<Vec<f64>>, Vec<f64>) {
    let t = q.shape()[1];
    let mut rows = Vec::new();
    let mut lse = Vec::new();
    for a in 0..t {
        let s: Vec<f64> = (0..t).map(|b| scale * (base..base + d).map(|c| q[[i, a, c]] * k[[i, b, c]]).sum::<f64>()).collect();
        let max = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let l = max + s.iter().map(|v| (v - max).exp()).sum::<f64>().ln();
        rows.push(s.iter().map(|v| (v - l).exp()).collect());
        lse.push(l);
    }
    (rows, lse)
}

impl OpDef for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 3..=3)?;
        Ok(vec![inputs[0].clone(), check(inputs, self.heads)?])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0, 1, 2])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        let (n, t, inner) = (q.shape()[0], q.shape()[1], q.shape()[2]);
        let d = head_dim(self.heads, inner)?;
        let (mut out, mut lse) = (Array::zeros(vec![n, t, inner]), Array::zeros(vec![n, self.heads, t]));
        for i in 0..n {
            for h in 0..self.heads {
                let (p, l) = probabilities(q, k, self.scale, i, h * d, d);
                for a in 0..t {
                    lse[[i, h, a]] = l[a];
                    for c in h * d..(h + 1) * d {
                        out[[i, a, c]] = (0..t).map(|b| p[a][b] * v[[i, b, c]]).sum();
                    }
                }
            }
        }
        Ok(vec![out, lse])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        cx.no_output_grad(1, "log-sum-exp of an attention")?;
        let dout = cx.output_grad(0)?;
        let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.output(0)?, cx.output(1)?, dout];
        let grads = cx.graph.push(AttentionGrad { heads: self.heads, scale: self.scale }.into(), &operands)?;
        Ok(grads.into_iter().map(Some).collect())
    }
}

/// dq, dk, dv of [`Attention`] from q, k, v, out, lse, dout.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGrad {
    /// As in the forward op.
    pub heads: usize,
    /// As in the forward op.
    pub scale: f64,
}

impl OpDef for AttentionGrad {
    fn name(&self) -> &'static str {
        "attention_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 6..=6)?;
        let lse = check(&inputs[..3], self.heads)?;
        activations(&[inputs[0], inputs[3], inputs[5]])?;
        floats(&inputs[4..5])?;
        expect_shape("out", inputs[3], &inputs[0].shape)?;
        expect_shape("lse", inputs[4], &lse.shape)?;
        expect_shape("dout", inputs[5], &inputs[0].shape)?;
        Ok(vec![inputs[0].clone(), inputs[1].clone(), inputs[2].clone()])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0, 1, 2, 3, 5])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (q, k, v, dout) = (inputs[0], inputs[1], inputs[2], inputs[5]);
        let (n, t, inner) = (q.shape()[0], q.shape()[1], q.shape()[2]);
        let d = head_dim(self.heads, inner)?;
        let mut grads = vec![Array::zeros(vec![n, t, inner]); 3];
        for i in 0..n {
            for h in 0..self.heads {
                let channels = h * d..(h + 1) * d;
                let (p, _) = probabilities(q, k, self.scale, i, h * d, d);
                for a in 0..t {
                    let dp: Vec<f64> = (0..t).map(|b| channels.clone().map(|c| dout[[i, a, c]] * v[[i, b, c]]).sum()).collect();
                    let mean: f64 = (0..t).map(|b| dp[b] * p[a][b]).sum();
                    for b in 0..t {
                        let ds = self.scale * p[a][b] * (dp[b] - mean);
                        for c in channels.clone() {
                            grads[0][[i, a, c]] += ds * k[[i, b, c]];
                            grads[1][[i, b, c]] += ds * q[[i, a, c]];
                            grads[2][[i, b, c]] += p[a][b] * dout[[i, a, c]];
                        }
                    }
                }
            }
        }
        Ok(grads)
    }
}
