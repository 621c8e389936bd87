//! Spatial self-attention as diffusers' `Attention` with `residual_connection=True` does it, and the same with linear attention.

use crate::error::Result;
use crate::graph::ops::{Attention, HeadProduct, Over, UnaryKind};
use crate::graph::{Graph, ValueId};
use crate::nn::scope::{Norm, Scope};

/// How tokens are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixing {
    /// Each token's mean of all values, weighted by the softmax of its scores: time grows with the square of the tokens.
    Softmax,
    /// Weighted by the products of rectified queries and keys (Cai et al. 2023, arXiv 2205.14756, section 3.1), which are summed over the tokens first: time
    /// grows with the tokens.
    Linear,
}

/// How an attention layer is made.
pub(in crate::nn) struct SelfAttention {
    /// Of the input; `None` leaves the norm out.
    pub norm: Option<Norm>,
    /// Number of heads and channels of each. Their product may be less than the channels there are: what whole heads do not fill is left out.
    pub heads: (usize, usize),
    /// `rescale_output_factor`: the sum is divided by it.
    pub rescale: f64,
    /// How tokens are mixed.
    pub mixing: Mixing,
}

impl SelfAttention {
    /// (x + to_out(mixed(to_q(n), to_k(n), to_v(n)))) / rescale with n = group_norm(x), for x [N,H,W,C].
    pub fn build(&self, g: &mut Graph, scope: &Scope, x: ValueId, path: &str) -> Result<ValueId> {
        let [n, h, w, channels] = [g.shape(x)[0], g.shape(x)[1], g.shape(x)[2], g.shape(x)[3]];
        let (heads, head_dim) = self.heads;
        let normed = match self.norm {
            Some(norm) => scope.norm(g, x, &format!("{path}.group_norm"), norm, false)?,
            None => x,
        };
        let mut qkv = [normed; 3];
        for (v, name) in qkv.iter_mut().zip(["to_q", "to_k", "to_v"]) {
            let image = scope.pointwise(g, normed, &format!("{path}.{name}"), heads * head_dim)?;
            *v = g.reshape(image, &[n, h * w, heads * head_dim])?;
        }
        let mixed = match self.mixing {
            Mixing::Softmax => g.push(Attention { heads, scale: (head_dim as f64).powf(-0.5) }.into(), &qkv)?[0],
            Mixing::Linear => linear(g, heads, qkv)?,
        };
        let mixed = g.reshape(mixed, &[n, h, w, heads * head_dim])?;
        let out = scope.pointwise(g, mixed, &format!("{path}.to_out.0"), channels)?;
        let sum = g.add(out, x)?;
        let out = g.affine(sum, (1.0 / self.rescale) as f32, 0.0)?;
        scope.feature(g, path, out)?;
        Ok(out)
    }
}

/// q (k^T v) / (q sum(k) + eps) with rectified q and k [N,T,heads*D], head by head; k is divided by T, which keeps sums over many tokens in the range of f16.
fn linear(g: &mut Graph, heads: usize, [q, k, v]: [ValueId; 3]) -> Result<ValueId> {
    /// Beside weights whose sum is 0, and then all values are.
    const EPS: f32 = 1e-6;
    let [n, tokens, width] = [0, 1, 2].map(|d| g.shape(q)[d]);
    let product = |g: &mut Graph, over: Over, a: ValueId, b: ValueId| g.push1(HeadProduct { heads, over }.into(), &[a, b]);
    let [q, k] = [g.unary(UnaryKind::Relu, q)?, g.unary(UnaryKind::Relu, k)?];
    let k = g.affine(k, 1.0 / tokens as f32, 0.0)?;
    let summed = product(g, Over::Tokens, k, v)?;
    let mixed = product(g, Over::Rows, q, summed)?;
    let keys = g.reduce_sum(k, &[n, 1, width])?;
    let keys = g.reshape(keys, &[n, width, 1])?;
    let weights = product(g, Over::Rows, q, keys)?;
    let weights = g.affine(weights, 1.0, EPS)?;
    let root = g.unary(UnaryKind::Rsqrt, weights)?;
    let inverse = g.mul(root, root)?;
    let inverse = g.reshape(inverse, &[n, tokens, heads, 1])?;
    let mixed = g.reshape(mixed, &[n, tokens, heads, width / heads])?;
    let mean = g.mul(mixed, inverse)?;
    g.reshape(mean, &[n, tokens, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::TensorType;
    use crate::graph::reference::{array, evaluate};
    use std::collections::HashMap;

    /// As its definition says, token by token, in double precision. Tolerance: eps beside weights, which are some hundredths here.
    #[test]
    fn linear_attention_is_a_mean_by_products_of_rectified_queries_and_keys() -> Result<()> {
        const T: usize = 4;
        for (heads, d) in [(1, 3), (2, 5)] {
            let (width, mut g) = (heads * d, Graph::new());
            let names = ["q", "k", "v"];
            let values: Vec<Vec<f64>> = (0..3).map(|i| (0..T * width).map(|at| f64::from((at * (7 + i) + i) as u32 % 11) / 7.0 - 0.5).collect()).collect();
            let mut given = HashMap::new();
            let mut qkv = [ValueId(0); 3];
            for (i, (input, data)) in qkv.iter_mut().zip(&values).enumerate() {
                *input = g.input(names[i], TensorType::f32(&[1, T, width]))?;
                given.insert(*input, array(&[1, T, width], data.clone())?);
            }
            let out = linear(&mut g, heads, qkv)?;
            let found = evaluate(&g, &given)?;
            let at = |i: usize, t: usize, c: usize| values[i][t * width + c];
            for (t, h) in (0..T).flat_map(|t| (0..heads).map(move |h| (t, h))) {
                let channels = h * d..(h + 1) * d;
                let weight = |other: usize| channels.clone().map(|c| at(0, t, c).max(0.0) * at(1, other, c).max(0.0)).sum::<f64>();
                let all: f64 = (0..T).map(weight).sum();
                assert!(all > 0.1, "a row that says something");
                for c in channels.clone() {
                    let expected = (0..T).map(|other| weight(other) * at(2, other, c)).sum::<f64>() / all;
                    let found = found[&out][[0, t, c]];
                    assert!((found - expected).abs() < 1e-4, "{heads} heads, token {t}, channel {c}: {found}, expected {expected}");
                }
            }
        }
        Ok(())
    }
}
