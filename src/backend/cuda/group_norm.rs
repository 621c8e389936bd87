//! Group normalisation on `cuda/group_norm.cu` and `cuda/group_norm_grad.cu`.

use super::conv2d::moments_arguments;
use super::launch::{Launch, Lowered, Param};
use super::shared::group_norm::{GROUPS, KEPT, MOMENT_BLOCKS, MOMENT_CHANNELS, PARAMETER_CHANNELS, RAGGED_RUN, SUM_CHANNELS, THREADS};
use super::shared::run;
use super::site::{Site, takes_sources};
use super::target::Target;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{FusedGroupNorm, GroupNorm, GroupNormGrad};

/// Channels that make a row of a slab a whole line of memory.
const WIDE: usize = 32;

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

// SAFETY: six i32, as `Norm` in cuda/parts/norm_slab.cuh.
unsafe impl Param for Norm {}

/// A normalised activation, and how it is cut into blocks.
#[derive(Clone)]
struct Cut {
    n: usize,
    positions: usize,
    channels: usize,
    groups: usize,
    /// Channels of a whole run.
    run: usize,
    slab_groups: usize,
    splits: usize,
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How many pieces the positions are cut into so that there are two blocks a multiprocessor, none of them empty or too small. Depends on the device, as the
/// order of the sums then does: equal devices give equal bytes.
fn pieces(blocks: usize, positions: usize, width: usize, target: Target) -> usize {
    let tuning = &target.tuning().norm;
    let wanted = (tuning.resident * target.multiprocessors as usize).div_ceil(blocks);
    let splits = wanted.min(positions * width / tuning.grain).min(positions).max(1);
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
        let mut cut = Self { n, positions, channels, groups, run: run::BYTES / x.dtype.size(), slab_groups: 1, splits: 1 };
        cut.slab_groups = cut.slab(WIDE.div_ceil(channels / groups));
        Ok(cut)
    }

    /// The fewest groups that make whole runs.
    fn least(&self) -> usize {
        self.run / gcd(self.run, self.group_channels())
    }

    /// About so many groups, as a slab can have. With several of them a row is one run a thread at most: a thread sums for one group.
    fn slab(&self, groups: usize) -> usize {
        let (least, width) = (self.least(), |slab| slab * self.group_channels());
        let fits = |slab| width(slab) <= THREADS * if self.is_whole(slab) { self.run } else { RAGGED_RUN };
        let mut slab = groups.next_multiple_of(least).min(self.groups).min(GROUPS);
        while slab > least && !fits(slab) {
            slab = slab.div_ceil(2).next_multiple_of(least);
        }
        if fits(slab) { slab } else { (THREADS * RAGGED_RUN / width(1)).max(1) }
    }

    /// Whether all runs of slabs of so many groups are whole.
    fn is_whole(&self, slab_groups: usize) -> bool {
        self.channels.is_multiple_of(self.run) && (slab_groups * self.group_channels()).is_multiple_of(self.run)
    }

    /// Half as wide; false where it would not be whole runs any more.
    fn narrow(&mut self) -> bool {
        let wide = self.slab_groups;
        if wide > self.least() {
            self.slab_groups = self.slab(wide.div_ceil(2));
        }
        self.slab_groups < wide
    }

    /// Slabs that a block keeps in its registers, as wide as that allows and as multiprocessors have blocks; none where a group is too large, or its channels
    /// are no whole runs.
    fn kept(x: &TensorType, groups: usize, target: Target) -> Result<Option<Self>> {
        let mut cut = Self::new(x, groups)?;
        cut.slab_groups = cut.slab(groups);
        while !cut.is_kept() || cut.blocks() < target.tuning().norm.resident * target.multiprocessors as usize {
            if !cut.narrow() {
                break;
            }
        }
        Ok(Some(cut).filter(Self::is_kept))
    }

    fn is_kept(&self) -> bool {
        let lanes = self.slab_groups * self.group_channels() / self.run;
        self.is_whole(self.slab_groups) && lanes <= THREADS && self.positions.div_ceil(THREADS / lanes) <= KEPT
    }

    /// For a norm by moments: as many blocks as fit the device at once, or more where those would have much to do.
    fn by_moments(x: &TensorType, groups: usize, target: Target) -> Result<Self> {
        let mut cut = Self::new(x, groups)?;
        // Runs are ragged where channels are no whole ones.
        let run = if cut.channels.is_multiple_of(cut.run) { cut.run } else { RAGGED_RUN };
        let rows = THREADS / cut.channels.min(MOMENT_CHANNELS).div_ceil(run);
        let steps = cut.positions.div_ceil(rows) * cut.n * cut.moment_slabs();
        let own = (steps / (MOMENT_BLOCKS * target.multiprocessors as usize)).clamp(1, target.tuning().norm.moment_rows);
        cut.splits = cut.positions.div_ceil(rows * own);
        Ok(cut)
    }

    fn moment_slabs(&self) -> usize {
        self.channels.div_ceil(MOMENT_CHANNELS)
    }

    /// For the forward pass: narrower slabs, then pieces of them, as long as multiprocessors have none.
    fn forward(x: &TensorType, groups: usize, target: Target) -> Result<Self> {
        let mut cut = Self::new(x, groups)?;
        while cut.blocks() < target.multiprocessors as usize && cut.narrow() {}
        let width = cut.slab_groups * cut.group_channels();
        if cut.positions * width > target.tuning().norm.one_block {
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

/// Whether the kernels do it. Each thread of a norm by moments walks over a group of them; only those read several values.
pub(super) fn accepts(op: &FusedGroupNorm, types: &[&TensorType], target: Target) -> bool {
    let Ok(x) = op.joined(types) else { return false };
    let small = x.shape[x.shape.len() - 1] / op.norm.groups <= target.tuning().norm.moment_group;
    if op.moments > 0 { small && takes_sources(&types[op.operands().0]) } else { op.sources == 1 }
}

pub(super) fn forward(op: &FusedGroupNorm, site: &Site) -> Result<Lowered> {
    if op.moments > 0 { by_moments(op, site) } else { by_sums(&op.norm, site) }
}

fn by_sums(op: &GroupNorm, site: &Site) -> Result<Lowered> {
    let kept = Cut::kept(site.inputs[0], op.groups, site.target)?;
    let (name, cut) = match kept {
        Some(cut) => ("group_norm_kept", cut),
        None => ("group_norm", Cut::forward(site.inputs[0], op.groups, site.target)?),
    };
    let (norm, eps) = (cut.norm(op.silu), op.eps as f32);
    let launch = |kernel| Launch::new(site.kernel(kernel, 0)?, [cut.blocks(), 1, 1], THREADS);
    if cut.splits == 1 {
        let all = launch(name)?.input(0).input(1).input(2).output(0).output(1).output(2);
        return Ok(all.value(norm).value(eps).into());
    }
    let first = launch("group_norm_pieces")?.input(0).scratch(0).value(norm);
    let second = launch("group_norm_of_pieces")?.input(0).input(1).input(2).scratch(0).output(0).output(1).output(2);
    let workspace = cut.n * cut.groups * cut.splits * 2 * size_of::<f32>();
    Ok(Lowered { launches: vec![first, second.value(norm).value(eps)], workspace })
}

fn by_moments(op: &FusedGroupNorm, site: &Site) -> Result<Lowered> {
    let (sources, at) = op.operands();
    let [first, second] = moments_arguments(&at.moments)?;
    let x = op.joined(&site.inputs)?;
    let cut = Cut::by_moments(&x, op.norm.groups, site.target)?;
    let launch = Launch::new(site.kernel("group_norm_of_moments", 0)?, [cut.n * cut.moment_slabs() * cut.splits, 1, 1], THREADS)?;
    let launch = site.sources(launch, &sources)?.input(at.gamma).input(at.beta).arg(first).arg(second).output(0).output(1).output(2);
    Ok(launch.value(cut.norm(op.norm.silu)).int(site.inputs[at.moments.start].shape[1])?.value(op.norm.eps as f32).into())
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
    use crate::tensor::DType;

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
    fn slabs_are_whole_runs() {
        let half = |shape: &[usize], groups| {
            let x = TensorType::new(DType::F16, shape);
            let kept = Cut::kept(&x, groups, TARGET).unwrap();
            kept.map_or_else(|| Cut::forward(&x, groups, TARGET).unwrap().slab_groups, |kept| kept.slab_groups * 100)
        };
        assert_eq!(half(&[256, 32, 32, 64], 32), 800, "32 KiB: sectors of 32 bytes at 1024 positions");
        assert_eq!(half(&[256, 8, 8, 128], 32), 3200, "a sample a block");
        assert_eq!(half(&[64, 8, 8, 128], 32), 800, "two blocks a multiprocessor");
        assert_eq!(half(&[1, 8, 8, 128], 32), 200, "never less than a run of channels");
        assert_eq!(half(&[256, 64, 64, 64], 32), 16, "too many positions to keep");
        assert_eq!(half(&[256, 64, 64, 96], 32), 16, "slabs of 48 channels: eleven groups would be 33");
        assert_eq!(half(&[256, 8, 8, 100], 25), 8, "no whole runs");
    }

    /// What the kernels' sums rely on: with several groups in a slab, a row is one run a thread at most.
    #[test]
    fn slabs_of_several_groups_fit_a_block() {
        let check = |cut: &Cut, groups: usize, what: &str| {
            for slab in [cut.slab_groups, groups % cut.slab_groups].into_iter().filter(|slab| *slab > 1) {
                let (width, run) = (slab * cut.group_channels(), if cut.is_whole(cut.slab_groups) && cut.is_whole(slab) { cut.run } else { RAGGED_RUN });
                assert!(width.div_ceil(run) <= THREADS, "{what}: {slab} of {groups} groups, C {}, runs of {run}", cut.channels);
            }
        };
        for dtype in [DType::F32, DType::F16] {
            for groups in [1, 2, 3, 4, 5, 7, 8, 12, 16, 25, 32, 33, 64] {
                for width in (1..300).chain([511, 512, 513, 514, 1000, 1024, 1025, 1032, 2048, 2050]) {
                    let x = TensorType::new(dtype, &[1, 8, groups * width]);
                    let mut cut = Cut::new(&x, groups).unwrap();
                    check(&cut, groups, "new");
                    while cut.narrow() {
                        check(&cut, groups, "narrowed");
                    }
                    if let Some(cut) = Cut::kept(&x, groups, TARGET).unwrap() {
                        check(&cut, groups, "kept");
                    }
                }
            }
        }
        let kept = Cut::kept(&TensorType::new(DType::F16, &[256, 8, 2064]), 4, TARGET).unwrap();
        assert_eq!(kept.map(|cut| cut.slab_groups), Some(2), "half as wide before runs are ragged");
    }

    #[test]
    fn norms_by_moments_fill_the_gpu() {
        let blocks = |shape: &[usize]| {
            let cut = Cut::by_moments(&TensorType::new(DType::F16, shape), 32, TARGET).unwrap();
            cut.n * cut.moment_slabs() * cut.splits
        };
        assert_eq!(blocks(&[1, 32, 32, 64]), 32, "a row a thread");
        assert_eq!(blocks(&[256, 32, 32, 64]), 1024, "eight rows a thread");
        assert_eq!(blocks(&[1, 8, 8, 1024]), 32, "two slabs");
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
