//! Self-attention on `cuda/attention.cu`, `cuda/attention_tensor.cu` and `cuda/attention_grad.cu`.

use super::launch::{Launch, Lowered, Param};
use super::shared::attention::{SPLIT_CHANNELS, SPLIT_QUERIES, TALL_QUERIES, THREADS, TILE};
use super::site::Site;
use super::target::Target;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{Attention, AttentionGrad};
use crate::tensor::DType;

/// The widest heads that the forward kernels without tensor cores are for, of f32.
const FORWARD: [usize; 6] = [8, 32, 64, 128, 256, 512];
/// The same of f16 and bf16: what tensor cores do not take.
const FORWARD_NARROW: [usize; 2] = [64, 512];
/// The same of the kernels on tensor cores.
const FORWARD_TENSOR: [usize; 4] = [32, 64, 128, 256];
/// The same of the backward kernels; a wider head's channels are shared out.
const GRAD: [usize; 5] = [8, 32, 64, 128, 256];

/// Tensor cores take heads of multiples of so many channels.
const CHUNK: usize = 8;
/// The first compute capability on which wide heads may have tall blocks.
const TALL_CAPABILITY: u32 = 80;

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

/// The kernels' view of the op, and the number of heads of all samples.
fn heads_of(q: &TensorType, heads: usize, scale: f64) -> Result<(usize, Heads)> {
    let [n, tokens, inner] = [0, 1, 2].map(|i| q.shape[i]);
    if i32::try_from(tokens * inner).is_err() {
        return Err(Error::unsupported(format!("{tokens} tokens of {inner} channels are too many for the CUDA backend")));
    }
    let narrow = Heads { tokens: tokens as i32, heads: heads as i32, width: (inner / heads) as i32, scale: scale as f32 };
    Ok((heads * n, narrow))
}

/// The smallest of `widths` that takes a head, or the largest.
fn widest(heads: Heads, widths: &[usize]) -> usize {
    widths.iter().copied().find(|w| heads.width as usize <= *w).unwrap_or(widths[widths.len() - 1])
}

/// A kernel on tensor cores.
#[derive(Debug, PartialEq)]
struct Tensor {
    kind: &'static str,
    widest: usize,
    blocks: usize,
    /// Blocks that share queries.
    parts: usize,
}

/// How tensor cores do `count` heads; `None` where they cannot.
fn tensor(heads: Heads, count: usize, dtype: DType, target: Target) -> Option<Tensor> {
    let (tokens, width, widest) = (heads.tokens as usize, heads.width as usize, widest(heads, &FORWARD_TENSOR));
    if !matches!(dtype, DType::F16 | DType::Bf16) || !width.is_multiple_of(CHUNK) || width > widest {
        return None;
    }
    let parts = width.div_ceil(SPLIT_CHANNELS);
    let split = Tensor { kind: "split", widest, blocks: tokens.div_ceil(SPLIT_QUERIES) * count * parts, parts };
    let may_be_tall = target.capability >= TALL_CAPABILITY || widest <= SPLIT_CHANNELS;
    if split.blocks > target.tuning().attention.split_blocks * target.multiprocessors as usize && may_be_tall {
        return Some(Tensor { kind: "tall", widest, blocks: tokens.div_ceil(TALL_QUERIES) * count, parts: 1 });
    }
    Some(split)
}

pub(super) fn forward(op: &Attention, site: &Site) -> Result<Lowered> {
    let (count, heads) = heads_of(site.inputs[0], op.heads, op.scale)?;
    let launch = |name: &str, blocks: usize| {
        let launch = Launch::new(site.kernel(name, 0)?, [blocks, 1, 1], THREADS)?.input(0).input(1).input(2).output(0).output(1);
        Ok::<_, Error>(launch.value(heads))
    };
    let dtype = site.inputs[0].dtype;
    if let Some(t) = tensor(heads, count, dtype, site.target) {
        return Ok(launch(&format!("attention_{}_{}", t.kind, t.widest), t.blocks)?.int(t.parts)?.into());
    }
    let widest = widest(heads, if dtype == DType::F32 { &FORWARD } else { &FORWARD_NARROW });
    Ok(launch(&format!("attention_{widest}"), (heads.tokens as usize).div_ceil(TILE) * count)?.into())
}

pub(super) fn grad(op: &AttentionGrad, site: &Site) -> Result<Lowered> {
    let (count, heads) = heads_of(site.inputs[0], op.heads, op.scale)?;
    let (blocks, widest) = ((heads.tokens as usize).div_ceil(TILE) * count, widest(heads, &GRAD));
    let parts = (heads.width as usize).div_ceil(widest);
    let launch = |of: &str| Launch::new(site.kernel(&format!("attention_{of}_grad_{widest}"), 0)?, [blocks * parts, 1, 1], THREADS);
    let first = (0..6).fold(launch("query")?, Launch::input).output(0).scratch(0).value(heads).int(parts)?;
    let second = [0, 1, 2, 4, 5].into_iter().fold(launch("key")?, Launch::input).scratch(0).output(1).output(2).value(heads).int(parts)?;
    Ok(Lowered { launches: vec![first, second], workspace: site.inputs[4].numel() * size_of::<f32>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(n: usize, tokens: usize, heads: usize, width: usize) -> (usize, Heads) {
        heads_of(&TensorType::f32(&[n, tokens, heads * width]), heads, 0.5).unwrap()
    }

    fn chosen(n: usize, tokens: usize, heads: usize, width: usize, capability: u32) -> Option<(&'static str, usize, usize, usize)> {
        let (count, heads) = shape(n, tokens, heads, width);
        let tensor = tensor(heads, count, DType::F16, Target { capability, multiprocessors: 100 })?;
        Some((tensor.kind, tensor.widest, tensor.blocks, tensor.parts))
    }

    #[test]
    fn heads_as_the_kernels_see_them() {
        assert_eq!(shape(3, 33, 5, 2), (15, Heads { tokens: 33, heads: 5, width: 2, scale: 0.5 }));
        assert!(heads_of(&TensorType::f32(&[1, 1 << 22, 512]), 1, 1.0).is_err(), "a sample beyond 32 bits");
    }

    #[test]
    fn small_grids_split_the_keys() {
        assert_eq!(chosen(1, 256, 1, 256, 90), Some(("split", 256, 64, 4)));
        assert_eq!(chosen(3, 256, 1, 256, 90), Some(("split", 256, 192, 4)));
        assert_eq!(chosen(4, 256, 1, 256, 90), Some(("tall", 256, 16, 1)));
        assert_eq!(chosen(1, 33, 2, 24, 90), Some(("split", 32, 6, 1)));
        assert_eq!(chosen(256, 64, 4, 32, 90), Some(("tall", 32, 1024, 1)));
        assert_eq!(chosen(1, 7, 1, 160, 90), Some(("split", 256, 3, 3)));
    }

    #[test]
    fn what_tensor_cores_do_not_take() {
        assert_eq!(chosen(4, 256, 1, 256, 75).unwrap().0, "split", "tall blocks of wide heads need sm_80");
        assert_eq!(chosen(256, 64, 4, 64, 75).unwrap().0, "tall");
        assert_eq!(chosen(1, 64, 1, 12, 90), None);
        assert_eq!(chosen(1, 64, 1, 264, 90), None);
        let (count, heads) = shape(1, 64, 1, 64);
        assert_eq!(tensor(heads, count, DType::F32, Target { capability: 90, multiprocessors: 100 }), None);
    }
}
