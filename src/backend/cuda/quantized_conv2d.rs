//! Convolutions of whole numbers on `cuda/stage_conv.cu`, `quantized_conv2d.cu` and `pack_conv.cu`: one launch rounds x, normalised by moments or as it is, one
//! multiplies.

use super::conv2d::{Conv, LIMIT, Tiling, chunk, need_packed, norm_argument, too_large, with_shared};
use super::launch::{Launch, Lowered, Param};
use super::quantize::Range;
use super::shared::{conv, run};
use super::site::{Site, suffix};
use super::target::Target;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{Codes, ConvGeometry, FusedConv2d, NormByMoments, PackConv};
use crate::tensor::DType;

/// Channels of a thread that rounds.
const CODES: usize = 8;

/// The most values that x comes in, or the moments of its channels.
const MOST_SOURCES: usize = 2;

/// Pixels and channels of a sample, channels of its numbers, pieces of the pixels and slabs of the channels, as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stage([i32; 5]);

// SAFETY: five i32, as `Stage` in cuda/stage_conv.cu.
unsafe impl Param for Stage {}

/// A convolution that the kernels do.
struct Plan {
    /// x with as many channels as its numbers have.
    x: [usize; 4],
    channels: usize,
    y: [usize; 4],
    conv: Conv,
    tiling: Tiling,
}

impl Plan {
    /// An error where the kernels do not do all of it.
    fn of(op: &FusedConv2d, codes: Codes, types: &[&TensorType], target: Target) -> Result<Self> {
        let [[n, h, w, channels], y] = op.extents(types)?;
        if codes.dtype != DType::U8 || !op.parts.is_empty() {
            return Err(Error::unsupported(format!("{op:?} on the CUDA backend, which multiplies u8 of one convolution at a time")));
        }
        if op.sources > MOST_SOURCES {
            return Err(Error::unsupported(format!("{} values to be rounded as one on the CUDA backend; at most {MOST_SOURCES}", op.sources)));
        }
        if let Some(norm) = &op.norm {
            check_norm(norm, channels, target)?;
        }
        let x = [n, h, w, channels.checked_next_multiple_of(chunk(DType::I8)).ok_or_else(too_large)?];
        let conv = Conv::of(x, y, op.conv.geometry, DType::I8)?;
        packed_bytes(op.conv.geometry, [y[3], channels]).ok_or_else(too_large)?;
        // The norm is done before: it does not bind the tiles.
        let product = FusedConv2d { norm: None, ..op.clone() };
        let tiling = Tiling::of_conv(&product, [x, y], DType::I8, target);
        if op.moments && !(y[1] * y[2]).is_multiple_of(tiling.rows) {
            return Err(Error::unsupported(format!("moments of images of {}x{} pixels in tiles of {}", y[1], y[2], tiling.rows)));
        }
        Ok(Self { x, channels, y, conv, tiling })
    }

    /// Bytes of the numbers of x, and of those that stand for padding.
    fn staged_bytes(&self) -> usize {
        self.x.iter().product::<usize>() + run::BYTES
    }

    /// How x is cut into blocks, and how many of them there are. With a norm an image is a sample, as each has scales of its own; else all of them are one.
    fn stage(&self, normalised: bool, target: Target) -> (Stage, usize) {
        let [n, h, w, padded] = self.x;
        let (samples, pixels) = if normalised { (n, h * w) } else { (1, n * h * w) };
        let slabs = padded.div_ceil(conv::NORM_CHANNELS);
        let rows = conv::THREADS / padded.min(conv::NORM_CHANNELS).div_ceil(CODES);
        // A row a thread as long as multiprocessors have too few blocks, then more of them, for which a block's scales are made once.
        let tuning = target.tuning();
        let steps = pixels.div_ceil(rows) * samples * slabs;
        let own = (steps / (tuning.conv.resident[1] * target.multiprocessors as usize)).clamp(1, tuning.norm.moment_rows);
        let splits = pixels.div_ceil(rows * own);
        // All fit: their products are numbers of elements.
        (Stage([pixels, self.channels, padded, splits, slabs].map(|n| n as i32)), samples * splits * slabs)
    }
}

/// Statistics come from the moments of channels; where nobody gives them, a norm of its own finds them. Each thread walks over groups on its own.
fn check_norm(norm: &NormByMoments, channels: usize, target: Target) -> Result<()> {
    let (width, most) = (channels / norm.norm.groups.max(1), target.tuning().norm.moment_group);
    if !(1..=MOST_SOURCES).contains(&norm.moments) || width > most {
        return Err(Error::unsupported(format!("a norm of {width} channels a group by {} moments before whole numbers", norm.moments)));
    }
    Ok(())
}

/// Whether the kernels do all of it.
pub(super) fn accepts(op: &FusedConv2d, types: &[&TensorType], target: Target) -> bool {
    op.quantized.is_some_and(|codes| Plan::of(op, codes, types, target).is_ok())
}

/// Bytes of the packed weights [O,C] of a geometry, and of the sums of each output channel's behind them.
fn packed_bytes(geometry: ConvGeometry, [out, channels]: [usize; 2]) -> Option<usize> {
    let taps = geometry.kernel[0].checked_mul(geometry.kernel[1])?;
    let depth = taps.checked_mul(channels.checked_next_multiple_of(chunk(DType::I8))?)?;
    depth.checked_add(size_of::<i32>())?.checked_mul(out).filter(|bytes| *bytes <= LIMIT)
}

/// The packed form of the weights.
pub(super) fn packed(op: &FusedConv2d, types: &[&TensorType]) -> Option<TensorType> {
    let [[.., channels], [.., out]] = op.extents(types).ok()?;
    Some(TensorType::new(DType::I8, &[packed_bytes(op.conv.geometry, [out, channels])?]))
}

pub(super) fn pack(op: &PackConv, site: &Site) -> Result<Lowered> {
    let weights = &site.inputs[0].shape;
    let conv = Conv::of([0, 0, 0, weights[1]], [0, 0, 0, weights[0]], op.geometry, DType::I8)?;
    Ok(Launch::new("fewstep_pack_conv_i8", [weights[0], 1, 1], conv::THREADS)?.input(0).output(0).value(conv).into())
}

/// A convolution that rounds x to `codes`.
pub(super) fn forward(op: &FusedConv2d, codes: Codes, site: &Site) -> Result<Lowered> {
    need_packed(op.packed)?;
    let plan = Plan::of(op, codes, &site.inputs, site.target)?;
    let (at, dtype) = (op.operands(), site.inputs[0].dtype);
    let numbers = at.numbers.ok_or_else(|| Error::internal(format!("{op:?} without numbers")))?;
    let (stage, blocks) = plan.stage(op.norm.is_some(), site.target);
    let kernel = if op.norm.is_some() { "stage_norm_conv" } else { "stage_conv" };
    let first = Launch::new(format!("fewstep_{kernel}_{}", suffix(dtype)?), [blocks, 1, 1], conv::THREADS)?;
    let first = site.some_sources(first, &at.x)?.input(numbers.scale).input(numbers.zero).scratch(0).value(stage).value(Range::from(codes));
    let first = match op.norm.as_ref().zip(at.norm) {
        Some((norm, at)) => first.arg(norm_argument(norm, &at, site)?),
        None => first,
    };
    let [n, p, q, o] = plan.y;
    let second = plan.tiling.launch("quantized_conv2d", dtype, [n * p * q, o], 1)?.scratch(0).input(at.weight).input(numbers.factors).input(numbers.zero);
    let second = second.optional(at.bias).optional(at.addend).optional(at.residual).output(0);
    let (second, workspace) = with_shared(second, op, &plan.tiling, plan.y, plan.staged_bytes());
    let second = second.value(plan.conv).int(plan.tiling.slices)?.value(op.scale);
    Ok(Lowered { launches: vec![first, second], workspace })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::ops::{Conv2d, GroupNorm};

    const TARGET: Target = Target { capability: 75, multiprocessors: 8 };

    /// A 3x3 convolution of one x [2,8,8,C] to 24 channels, and the types of its operands.
    fn case(c: usize) -> (FusedConv2d, Vec<TensorType>) {
        let conv = Conv2d { out_channels: 24, geometry: ConvGeometry { kernel: [3, 3], stride: 1, pad: [1; 4] }, bias: true };
        let op = FusedConv2d { quantized: Some(Codes::U8), ..conv.into() };
        let [x, one, outs] = [&[2, 8, 8, c][..], &[1], &[24]].map(TensorType::f32);
        (op, vec![x, TensorType::new(DType::I8, &[24, c, 3, 3]), one, TensorType::new(DType::U8, &[1]), outs.clone(), outs])
    }

    fn plan(op: &FusedConv2d, types: &[TensorType]) -> Result<Plan> {
        let types: Vec<&TensorType> = types.iter().collect();
        let plan = Plan::of(op, op.quantized.unwrap_or(Codes::U8), &types, TARGET);
        assert_eq!(accepts(op, &types, TARGET), plan.is_ok());
        plan
    }

    #[test]
    fn what_is_refused_is_named() {
        let (op, types) = case(12);
        assert!(plan(&op, &types).is_ok());
        let norm = |moments, groups| Some(NormByMoments { norm: GroupNorm::new(groups, 1e-5, true), moments });
        let kernel = |side| Conv2d { geometry: ConvGeometry { kernel: [side; 2], stride: 1, pad: [8; 4] }, ..op.conv };
        let rows = [
            ("u8", FusedConv2d { quantized: Some(Codes::I8), ..op.clone() }),
            ("u8", FusedConv2d { parts: vec![12, 12], ..op.clone() }),
            ("by 0 moments", FusedConv2d { norm: norm(0, 4), ..op.clone() }),
            ("by 3 moments", FusedConv2d { norm: norm(3, 4), ..op.clone() }),
            ("kernel of 16x16", FusedConv2d { conv: kernel(16), ..op.clone() }),
        ];
        for (needle, op) in rows {
            let message = plan(&op, &types).err().map(|e| e.message).unwrap_or_default();
            assert!(message.contains(needle), "{needle}: {message:?}");
        }
        assert!(plan(&FusedConv2d { norm: norm(1, 4), ..op.clone() }, &types).is_ok());
        // A group that no thread walks over by itself.
        let (op, types) = case(130);
        assert!(plan(&FusedConv2d { norm: norm(1, 1), ..op }, &types).is_err_and(|e| e.message.contains("130 channels a group")));
        // Three values.
        let (op, types) = case(12);
        let types = [vec![types[0].clone(); 2], types].concat();
        assert!(plan(&FusedConv2d { sources: 3, ..op }, &types).is_err_and(|e| e.message.contains("3 values")));
        // Images that a tile does not divide give no moments.
        let (op, mut types) = case(12);
        types[0] = TensorType::f32(&[2, 5, 5, 12]);
        assert!(plan(&op, &types).is_ok());
        assert!(plan(&FusedConv2d { moments: true, ..op }, &types).is_err_and(|e| e.message.contains("5x5 pixels")));
    }

    #[test]
    fn every_pixel_and_channel_has_its_block() {
        for c in [1, 12, 512, 513, 1100] {
            for shape in [[1, 1, 1], [2, 8, 8], [3, 37, 41], [64, 32, 32]] {
                let (op, mut types) = case(c);
                types[0] = TensorType::f32(&[shape[0], shape[1], shape[2], c]);
                let plan = plan(&op, &types).expect("a plan");
                for normalised in [false, true] {
                    let (Stage(numbers), blocks) = plan.stage(normalised, TARGET);
                    let [pixels, channels, padded, splits, slabs] = numbers.map(|n| n as usize);
                    let samples = if normalised { shape[0] } else { 1 };
                    assert_eq!((samples * pixels, channels, samples * splits * slabs), (shape.iter().product(), c, blocks));
                    assert!(padded % 16 == 0 && padded >= c && padded - c < 16);
                    assert!(slabs * conv::NORM_CHANNELS >= padded && (slabs - 1) * conv::NORM_CHANNELS < padded);
                    assert!((splits - 1) * pixels.div_ceil(splits) < pixels, "{splits} pieces of {pixels}: one is empty");
                }
            }
        }
    }
}
