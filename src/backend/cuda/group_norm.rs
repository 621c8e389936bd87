//! Group normalisation on `cuda/group_norm.cu`.

use super::launch::{Launch, Lowered, Param};
use super::lower::{Site, Target};
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{GroupNorm, GroupNormGrad};

/// Threads a block, as in the kernels.
const THREADS: u32 = 256;
/// Channels that make a row of a slab a whole line of memory.
const WIDE: usize = 32;
/// Channels of a slab of the gradients' sums, as in the kernel.
const SUM_CHANNELS: usize = 128;
/// Channels of a block of the parameters' gradients, as in the kernel.
const PARAMETER_CHANNELS: usize = 32;
/// The most groups of a slab, as in the kernels.
const MAX_SLAB_GROUPS: usize = 32;
/// A slab of at most so many elements is one block's work: a second launch costs more than its blocks would save.
const ONE_BLOCK: usize = 16 << 10;
/// The fewest elements that are worth a block.
const GRAIN: usize = 4 << 10;

/// The kernels' view of the shape.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Norm {
    positions: i32,
    channels: i32,
    groups: i32,
    slab_groups: i32,
    splits: i32,
    silu: i32,
}

// SAFETY: six i32, as `Norm` in cuda/group_norm.cu.
unsafe impl Param for Norm {}

/// A normalised activation, and how it is cut into blocks.
struct Cut {
    n: usize,
    positions: usize,
    channels: usize,
    groups: usize,
    slab_groups: usize,
    splits: usize,
}

/// How many pieces the positions are cut into so that there are two blocks a multiprocessor, none of them empty or too small. Depends on the device, as the
/// order of the sums then does: equal devices give equal bytes.
fn pieces(blocks: usize, positions: usize, width: usize, target: Target) -> usize {
    let wanted = (2 * target.multiprocessors as usize).div_ceil(blocks);
    let splits = wanted.min(positions * width / GRAIN).min(positions).max(1);
    positions.div_ceil(positions.div_ceil(splits))
}

impl Cut {
    /// Slabs of whole lines, all positions.
    fn new(x: &TensorType, groups: usize) -> Result<Self> {
        let (n, channels) = (x.shape[0], x.shape[x.shape.len() - 1]);
        let positions = x.numel() / n / channels;
        if i32::try_from(positions * channels).is_err() {
            return Err(Error::unsupported(format!("{positions} positions of {channels} channels are too many for the CUDA backend")));
        }
        let slab_groups = WIDE.div_ceil(channels / groups).min(groups).min(MAX_SLAB_GROUPS);
        Ok(Self { n, positions, channels, groups, slab_groups, splits: 1 })
    }

    /// For the forward pass: narrower slabs, then pieces of them, as long as multiprocessors have none.
    fn forward(x: &TensorType, groups: usize, target: Target) -> Result<Self> {
        let mut cut = Self::new(x, groups)?;
        let least = 4usize.div_ceil(cut.group_channels()).min(cut.slab_groups);
        while cut.slab_groups > least && cut.blocks() < target.multiprocessors as usize {
            cut.slab_groups = cut.slab_groups.div_ceil(2).max(least);
        }
        let width = cut.slab_groups * cut.group_channels();
        if cut.positions * width > ONE_BLOCK {
            cut.splits = pieces(cut.blocks(), cut.positions, width, target);
        }
        Ok(cut)
    }

    /// For the backward pass: pieces of the slabs of its sums.
    fn backward(x: &TensorType, groups: usize, target: Target) -> Result<Self> {
        let mut cut = Self::new(x, groups)?;
        cut.splits = pieces(cut.n * cut.sum_slabs(), cut.positions, cut.channels.min(SUM_CHANNELS), target);
        Ok(cut)
    }

    fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    fn blocks(&self) -> usize {
        self.n * self.groups.div_ceil(self.slab_groups) * self.splits
    }

    fn sum_slabs(&self) -> usize {
        self.channels.div_ceil(SUM_CHANNELS)
    }

    /// All fit: the product of positions and channels does.
    fn norm(&self, silu: bool) -> Norm {
        Norm {
            positions: self.positions as i32,
            channels: self.channels as i32,
            groups: self.groups as i32,
            slab_groups: self.slab_groups as i32,
            splits: self.splits as i32,
            silu: i32::from(silu),
        }
    }
}

pub(super) fn forward(op: &GroupNorm, site: &Site) -> Result<Lowered> {
    let cut = Cut::forward(site.inputs[0], op.groups, site.target)?;
    let (norm, eps) = (cut.norm(op.silu), op.eps as f32);
    let launch = |kernel| Launch::new(site.kernel(kernel, 0)?, [cut.blocks(), 1, 1], THREADS);
    if cut.splits == 1 {
        let all = launch("group_norm")?.input(0).input(1).input(2).output(0).output(1).output(2);
        return Ok(all.value(norm).value(eps).into());
    }
    let first = launch("group_norm_pieces")?.input(0).scratch(0).value(norm);
    let second = launch("group_norm_of_pieces")?.input(0).input(1).input(2).scratch(0).output(0).output(1).output(2);
    let workspace = cut.n * cut.groups * cut.splits * 2 * size_of::<f32>();
    Ok(Lowered { launches: vec![first, second.value(norm).value(eps)], workspace })
}

pub(super) fn grad(op: &GroupNormGrad, site: &Site) -> Result<Lowered> {
    let cut = Cut::backward(site.inputs[0], op.groups, site.target)?;
    let (norm, rows) = (cut.norm(op.silu), cut.n * cut.splits);
    let operands = |launch: Launch| (0..6).fold(launch, Launch::input);
    let sums = operands(Launch::new(site.kernel("group_norm_grad_sums", 0)?, [rows * cut.sum_slabs(), 1, 1], THREADS)?);
    let dx = operands(Launch::new(site.kernel("group_norm_grad", 0)?, [cut.blocks(), 1, 1], THREADS)?);
    let parameters = Launch::new("fewstep_group_norm_grad_parameters", [cut.channels.div_ceil(PARAMETER_CHANNELS), 1, 1], THREADS)?;
    let launches =
        vec![sums.scratch(0).value(norm), dx.scratch(0).output(0).value(norm), parameters.scratch(0).output(1).output(2).int(rows)?.int(cut.channels)?];
    Ok(Lowered { launches, workspace: rows * 2 * cut.channels * size_of::<f32>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target { capability: 80, multiprocessors: 100 };

    fn cut(shape: &[usize], groups: usize) -> [usize; 3] {
        let cut = Cut::forward(&TensorType::f32(shape), groups, TARGET).unwrap();
        [cut.slab_groups, cut.splits, cut.blocks()]
    }

    #[test]
    fn blocks_fill_the_gpu() {
        assert_eq!(cut(&[128, 32, 32, 64], 32), [16, 1, 256], "whole lines where there are blocks enough");
        assert_eq!(cut(&[1, 32, 32, 64], 32), [2, 1, 16], "never less than a quad of channels");
        assert_eq!(cut(&[1, 64, 64, 64], 1), [1, 64, 64], "pieces of a grain each");
        assert_eq!(cut(&[1, 512, 512, 128], 32), [1, 7, 224], "two blocks a multiprocessor");
        assert_eq!(cut(&[2, 3], 1), [1, 1, 2], "no positions at all");
    }

    #[test]
    fn no_piece_is_empty() {
        for positions in 1..500 {
            for width in [1, 1000, 100_000] {
                let splits = pieces(3, positions, width, TARGET);
                assert!((splits - 1) * positions.div_ceil(splits) < positions, "{positions} positions in {splits} pieces");
            }
        }
    }

    #[test]
    fn a_sample_beyond_32_bits_is_refused() {
        assert!(Cut::forward(&TensorType::f32(&[1, 1 << 16, 1 << 15]), 1, TARGET).is_err());
    }
}
