//! Self-attention on `cuda/attention.cu` and `cuda/attention_grad.cu`.

use super::launch::{Launch, Lowered, Param};
use super::lower::Site;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{Attention, AttentionGrad};

/// Threads a block, as in the kernels.
const THREADS: u32 = 128;
/// Tokens of a block, as in the kernels.
const TILE: usize = 32;

/// The widest heads that the forward kernels are for.
const FORWARD: [usize; 6] = [8, 32, 64, 128, 256, 512];
/// The same of the backward kernels; a wider head's channels are shared out.
const GRAD: [usize; 5] = [8, 32, 64, 128, 256];

/// The kernels' view of q, k and v.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Heads {
    tokens: i32,
    heads: i32,
    width: i32,
    scale: f32,
}

// SAFETY: four numbers of four bytes, as `Heads` in cuda/parts/heads.cuh.
unsafe impl Param for Heads {}

/// One block for each tile of each head of each sample.
fn cut(q: &TensorType, heads: usize, scale: f64) -> Result<(usize, Heads)> {
    let [n, tokens, inner] = [0, 1, 2].map(|i| q.shape[i]);
    if i32::try_from(tokens * inner).is_err() {
        return Err(Error::unsupported(format!("{tokens} tokens of {inner} channels are too many for the CUDA backend")));
    }
    let narrow = Heads { tokens: tokens as i32, heads: heads as i32, width: (inner / heads) as i32, scale: scale as f32 };
    Ok((tokens.div_ceil(TILE) * heads * n, narrow))
}

/// The smallest of `widths` that takes a head, or the largest.
fn widest<const N: usize>(heads: Heads, widths: [usize; N]) -> usize {
    widths.into_iter().find(|w| heads.width as usize <= *w).unwrap_or(widths[N - 1])
}

pub(super) fn forward(op: &Attention, site: &Site) -> Result<Lowered> {
    let (blocks, heads) = cut(site.inputs[0], op.heads, op.scale)?;
    let kernel = site.kernel(&format!("attention_{}", widest(heads, FORWARD)), 0)?;
    let launch = Launch::new(kernel, [blocks, 1, 1], THREADS)?.input(0).input(1).input(2).output(0).output(1);
    Ok(launch.value(heads).into())
}

pub(super) fn grad(op: &AttentionGrad, site: &Site) -> Result<Lowered> {
    let (blocks, heads) = cut(site.inputs[0], op.heads, op.scale)?;
    let widest = widest(heads, GRAD);
    let parts = (heads.width as usize).div_ceil(widest);
    let launch = |of: &str| Launch::new(site.kernel(&format!("attention_{of}_grad_{widest}"), 0)?, [blocks * parts, 1, 1], THREADS);
    let first = (0..6).fold(launch("query")?, Launch::input).output(0).scratch(0).value(heads).int(parts)?;
    let second = [0, 1, 2, 4, 5].into_iter().fold(launch("key")?, Launch::input).scratch(0).output(1).output(2).value(heads).int(parts)?;
    Ok(Lowered { launches: vec![first, second], workspace: site.inputs[4].numel() * size_of::<f32>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_for_every_tile() {
        let (blocks, heads) = cut(&TensorType::f32(&[3, 33, 10]), 5, 0.5).unwrap();
        assert_eq!((blocks, heads), (30, Heads { tokens: 33, heads: 5, width: 2, scale: 0.5 }));
        assert!(cut(&TensorType::f32(&[1, 1 << 22, 512]), 1, 1.0).is_err(), "a sample beyond 32 bits");
    }
}
