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

/// The forward kernels by the widest head that they take; wider ones have their own.
const FORWARD: [(i32, &str); 5] = [
    (8, "fewstep_attention_8_f32"),
    (32, "fewstep_attention_32_f32"),
    (64, "fewstep_attention_64_f32"),
    (128, "fewstep_attention_128_f32"),
    (256, "fewstep_attention_256_f32"),
];
/// The backward kernels in the same way: of the queries, of the keys.
const GRAD: [(i32, &str, &str); 4] = [
    (8, "fewstep_attention_query_grad_8_f32", "fewstep_attention_key_grad_8_f32"),
    (32, "fewstep_attention_query_grad_32_f32", "fewstep_attention_key_grad_32_f32"),
    (64, "fewstep_attention_query_grad_64_f32", "fewstep_attention_key_grad_64_f32"),
    (128, "fewstep_attention_query_grad_128_f32", "fewstep_attention_key_grad_128_f32"),
];
const WIDEST_GRAD: (i32, &str, &str) = (256, "fewstep_attention_query_grad_256_f32", "fewstep_attention_key_grad_256_f32");

/// The kernels' view of q, k and v.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Heads {
    tokens: i32,
    heads: i32,
    width: i32,
    scale: f32,
}

// SAFETY: four numbers of four bytes, as `Heads` in cuda/parts/attention.cuh.
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

pub(super) fn forward(op: &Attention, site: &Site) -> Result<Lowered> {
    let (blocks, heads) = cut(site.inputs[0], op.heads, op.scale)?;
    let kernel = FORWARD.iter().find(|(widest, _)| heads.width <= *widest).map_or("fewstep_attention_512_f32", |(_, kernel)| *kernel);
    let launch = Launch::new(kernel, [blocks, 1, 1], THREADS)?.input(0).input(1).input(2).output(0).output(1);
    Ok(launch.value(heads).into())
}

pub(super) fn grad(op: &AttentionGrad, site: &Site) -> Result<Lowered> {
    let (blocks, heads) = cut(site.inputs[0], op.heads, op.scale)?;
    let (_, query, key) = GRAD.into_iter().find(|(widest, ..)| heads.width <= *widest).unwrap_or(WIDEST_GRAD);
    // A wider head's channels are shared out.
    let parts = (heads.width as usize).div_ceil(WIDEST_GRAD.0 as usize);
    let launch = |kernel| Launch::new(kernel, [blocks * parts, 1, 1], THREADS);
    let first = (0..6).fold(launch(query)?, Launch::input).output(0).scratch(0).value(heads).int(parts)?;
    let second = [0, 1, 2, 4, 5].into_iter().fold(launch(key)?, Launch::input).scratch(0).output(1).output(2).value(heads).int(parts)?;
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
