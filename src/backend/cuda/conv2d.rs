//! Convolutions, their gradients and their packed weights on `cuda/conv2d.cu`, `conv2d_input_grad.cu`, `conv2d_weight_grad.cu` and `pack_conv.cu`.
//! f32 is multiplied by the ordinary cores, half and bf16 by the tensor cores with f32 sums.

use super::launch::{Arg, Launch, Lowered, Param};
use super::shared::{conv, run};
use super::site::{Site, suffix, takes_sources};
use super::target::Target;
use crate::error::{Error, Result};
use crate::graph::ops::{Conv2dInputGrad, Conv2dWeightGrad, ConvGeometry, FusedConv2d, NormByMoments, NormOperands, PackConv, PackFor};
use crate::graph::{Op, TensorType};
use crate::tensor::DType;
use std::ops::Range;

/// No index of a kernel exceeds this; the rest of 31 bits is for tiles that reach beyond the last element.
pub(super) const LIMIT: usize = i32::MAX as usize - (1 << 20);

/// Elements of a chunk: packed weights have a multiple of so many for each tap.
pub(super) fn chunk(dtype: DType) -> usize {
    run::BYTES / dtype.size()
}

/// Elements of the packed weights, unless they are beyond the kernels' indices.
fn packed_len(purpose: PackFor, geometry: ConvGeometry, weights: &[usize], dtype: DType) -> Option<usize> {
    let &[out, inner, ..] = weights else { return None };
    let (columns, summed) = match purpose {
        PackFor::Forward => (out, inner),
        PackFor::InputGrad => (inner, out),
        PackFor::Numbers(_) => return None,
    };
    let taps = geometry.kernel[0].checked_mul(geometry.kernel[1])?;
    columns.checked_mul(taps)?.checked_mul(summed.checked_next_multiple_of(chunk(dtype))?).filter(|len| *len <= LIMIT)
}

/// The packed form of an op's weights.
pub(super) fn packed(op: &Op, types: &[&TensorType]) -> Option<TensorType> {
    let (purpose, geometry, weight) = PackConv::of(op)?;
    let dtype = types.first()?.dtype;
    let len = packed_len(purpose, geometry, &types.get(weight)?.shape, dtype)?;
    Some(TensorType::new(dtype, &[len]))
}

/// Whether the kernels do all of it, and it is worth the while.
pub(super) fn accepts(op: &FusedConv2d, types: &[&TensorType], target: Target) -> bool {
    let Ok([x, y]) = op.extents(types) else { return false };
    let tiling = Tiling::of_conv(op, [x, y], types[0].dtype, target);
    // For moments and for a norm a block's tile must lie in one image.
    let whole = (y[1] * y[2]).is_multiple_of(tiling.rows);
    let norm = op.norm.as_ref().is_none_or(|norm| whole && is_worth_normalising(op, norm, [x, y], &tiling, target));
    takes_sources(&types[op.operands().x]) && norm && (whole || !op.moments)
}

/// Every tap and tile of columns normalises anew what a norm by itself would once.
fn is_worth_normalising(op: &FusedConv2d, norm: &NormByMoments, [x, y]: [[usize; 4]; 2], tiling: &Tiling, target: Target) -> bool {
    let ([n, _, _, c], [_, p, q, o]) = (x, y);
    let [r, s] = op.conv.geometry.kernel;
    let (tuning, groups) = (&target.tuning().conv, norm.norm.groups);
    let work = [p, q, c, r, s, o.div_ceil(tiling.columns)].into_iter().fold(n, usize::saturating_mul);
    c <= conv::NORM_CHANNELS && c / groups <= tuning.norm_group && work <= tuning.worth_normalising * target.multiprocessors as usize
}

pub(super) fn pack_conv(op: &PackConv, site: &Site) -> Result<Lowered> {
    let weights = &site.inputs[0].shape;
    let n = site.outputs[0].numel();
    let dtype = op.packed.ty.dtype;
    let conv = Conv::of([0, 0, 0, weights[1]], [0, 0, 0, weights[0]], op.geometry, dtype)?;
    let launch = Launch::over(format!("fewstep_pack_conv_{}", suffix(dtype)?), n, conv::THREADS)?.input(0).output(0);
    Ok(launch.value(conv).value(i32::from(op.purpose == PackFor::InputGrad)).int(n)?.into())
}

pub(super) fn conv2d(op: &FusedConv2d, site: &Site) -> Result<Lowered> {
    let dtype = site.inputs[0].dtype;
    let at = op.operands();
    let extents @ [x, y] = op.extents(&site.inputs)?;
    let [n, p, q, o] = y;
    let conv = Conv::of(x, y, op.conv.geometry, dtype)?;
    need_packed(op.packed)?;
    let tiling = Tiling::of_conv(op, extents, dtype, site.target);
    let kernel = if op.norm.is_some() { "norm_conv2d" } else { "conv2d" };
    let launch = site.sources(tiling.launch(kernel, dtype, [n * p * q, o], 1)?, &at.x)?.input(at.weight);
    let launch = results(launch.optional(at.bias).optional(at.addend).optional(at.residual), op);
    let (launch, workspace) = with_shared(launch, op, &tiling, y, 0);
    let launch = launch.value(conv).int(tiling.slices)?.value(op.scale);
    let launch = match op.norm.as_ref().zip(at.norm) {
        Some((norm, at)) => launch.arg(norm_argument(norm, &at, site)?),
        None => launch,
    };
    Ok(Lowered { launches: vec![launch], workspace })
}

/// What the blocks of a convolution to y [N,P,Q,O] share: parts of sums, counters, moments, those of pieces. And where the scratch ends that begins with byte
/// `from`: the parts of the sums, then those of the moments.
pub(super) fn with_shared(launch: Launch, op: &FusedConv2d, tiling: &Tiling, [n, p, q, o]: [usize; 4], from: usize) -> (Launch, usize) {
    let sums = tiling.workspace(n * p * q * o);
    let pieces = if op.moments && tiling.rows < p * q { n * (p * q / tiling.rows) * o * 2 * size_of::<f32>() } else { 0 };
    let [rows, columns] = tiling.tiles([n * p * q, o]);
    // A counter for each tile, whose slices' last block sums them; then one for each image and column of tiles.
    let counters = if sums > 0 || pieces > 0 { Arg::Counters(rows * columns + n * columns) } else { Arg::Null };
    let launch = launch.arg(tiling.partial(from)).arg(counters).arg(if op.moments { Arg::Output(1) } else { Arg::Null });
    (launch.arg(if pieces > 0 { Arg::Scratch(from + sums) } else { Arg::Null }), from + sums + pieces)
}

/// One result; or the addresses of all and where their channels end.
fn results(launch: Launch, op: &FusedConv2d) -> Launch {
    if op.parts.is_empty() {
        return launch.output(0).arg(Arg::Null).arg(Arg::Null);
    }
    let ends = op.parts.iter().scan(0i32, |end, own| {
        *end += *own as i32; // their sum is a size of `Conv`
        Some(*end)
    });
    let ends = ends.flat_map(i32::to_ne_bytes).collect();
    launch.arg(Arg::Null).arg(Arg::Table((0..op.parts.len()).map(Arg::Output).collect())).arg(Arg::Data(ends))
}

/// `ConvNorm` in cuda/parts/conv_norm.cuh.
pub(super) fn norm_argument(norm: &NormByMoments, at: &NormOperands, site: &Site) -> Result<Arg> {
    let [first, second] = moments_arguments(&at.moments)?;
    let numbers = [site.inputs[at.moments.start].shape[1] as i32, norm.norm.groups as i32, i32::from(norm.norm.silu)];
    Ok(Arg::Struct(vec![Arg::Input(at.gamma), Arg::Input(at.beta), first, second, Arg::of(numbers), Arg::of(norm.norm.eps as f32)]))
}

/// The addresses of the moments that a norm takes its statistics from.
pub(super) fn moments_arguments(at: &Range<usize>) -> Result<[Arg; 2]> {
    match at.len() {
        1 => Ok([Arg::Input(at.start), Arg::Null]),
        2 => Ok([Arg::Input(at.start), Arg::Input(at.start + 1)]),
        other => Err(Error::unsupported(format!("moments of {other} values; one or two on the CUDA backend"))),
    }
}

pub(super) fn input_grad(op: &Conv2dInputGrad, site: &Site) -> Result<Lowered> {
    let (x, y) = (dims(&site.outputs[0].shape)?, dims(&site.inputs[0].shape)?);
    let dtype = site.inputs[0].dtype;
    let conv = Conv::of(x, y, op.geometry, dtype)?;
    need_packed(op.packed)?;
    let [n, h, w, c] = x;
    let stride = op.geometry.stride;
    // The pixels and the taps of the largest parity.
    let pixels = n * h.div_ceil(stride) * w.div_ceil(stride);
    let taps = op.geometry.kernel.map(|k| k.div_ceil(stride));
    let depth = taps[0] * taps[1] * y[3].next_multiple_of(chunk(dtype));
    let tiling = Tiling::of(pixels, c, stride * stride, depth, dtype, site.target).or_tall(pixels, c, stride * stride, site.target);
    let first = tiling.launch("conv2d_input_grad", dtype, [pixels, c], stride * stride)?.input(0).input(1).output(0).arg(tiling.partial(0));
    with_sum(first.value(conv).int(tiling.slices)?, &tiling, site)
}

pub(super) fn weight_grad(op: &Conv2dWeightGrad, site: &Site) -> Result<Lowered> {
    let (x, y) = (dims(&site.inputs[0].shape)?, dims(&site.inputs[1].shape)?);
    let dtype = site.inputs[0].dtype;
    let conv = Conv::of(x, y, op.geometry, dtype)?;
    let columns = op.geometry.kernel[0] * op.geometry.kernel[1] * x[3].next_multiple_of(chunk(dtype));
    let tiling = Tiling::of(columns, y[3], 1, y[0] * y[1] * y[2], dtype, site.target);
    let first = tiling.launch("conv2d_weight_grad", dtype, [columns, y[3]], 1)?.input(0).input(1).output(0).arg(tiling.partial(0));
    with_sum(first.value(conv).int(tiling.slices)?, &tiling, site)
}

/// `first`, and the sum of its slices into the result if there are several.
fn with_sum(first: Launch, tiling: &Tiling, site: &Site) -> Result<Lowered> {
    let (n, dtype) = (site.outputs[0].numel(), site.outputs[0].dtype);
    let mut launches = vec![first];
    if tiling.slices > 1 {
        let sum = Launch::over(format!("fewstep_sum_slices_{}", suffix(dtype)?), n, conv::THREADS)?;
        launches.push(sum.scratch(0).output(0).int(n)?.int(tiling.slices)?);
    }
    Ok(Lowered { launches, workspace: tiling.workspace(n) })
}

pub(super) fn need_packed(packed: bool) -> Result<()> {
    if packed { Ok(()) } else { Err(too_large()) }
}

pub(super) fn too_large() -> Error {
    Error::unsupported("a tensor of 2^31 elements or more, padding included, is beyond the CUDA backend's convolutions")
}

fn dims(shape: &[usize]) -> Result<[usize; 4]> {
    shape.try_into().map_err(|_| Error::internal(format!("expected [N,H,W,C], found {shape:?}")))
}

/// How the result is cut into blocks and the sums into slices.
#[derive(Debug, PartialEq)]
pub(super) struct Tiling {
    /// Rows of a block.
    pub rows: usize,
    /// Columns of a block.
    pub columns: usize,
    /// Blocks that share a sum.
    pub slices: usize,
    /// Of what is multiplied.
    dtype: DType,
}

impl Tiling {
    /// For `parts` products of rows x columns with sums of `depth` terms. The order of a sum depends on the slices and so on the device: equal devices
    /// give equal bytes.
    fn of(rows: usize, columns: usize, parts: usize, depth: usize, dtype: DType, target: Target) -> Self {
        let (multiprocessors, tuning) = (target.multiprocessors as usize, &target.tuning().conv);
        let blocks = |tile: usize| rows.div_ceil(tile) * columns.div_ceil(tile) * parts;
        // A stage on tensor cores has as many bytes a row, whatever they are.
        let steps = depth.div_ceil(if dtype == DType::F32 { conv::DEPTH } else { conv::TENSOR_DEPTH * DType::F16.size() / dtype.size() });
        // Large blocks if they fill the device, or do so in long slices, as those of weights' gradients.
        let filled = blocks(64) >= multiprocessors || blocks(64) * (steps / tuning.long_slice).min(tuning.most_slices) >= tuning.resident[0] * multiprocessors;
        let (tile, resident) = if rows > 32 && columns > 32 && filled { (64, tuning.resident[0]) } else { (32, tuning.resident[1]) };
        let wanted = (resident * multiprocessors / blocks(tile).max(1)).min(tuning.most_slices);
        let slices = if steps < tuning.worth_cutting { 1 } else { wanted.clamp(1, steps / tuning.shortest_slice) };
        Self { rows: tile, columns: tile, slices, dtype }
    }

    /// For a convolution forward of x [N,H,W,C] to y [N,P,Q,O], with or without a group norm in it. Moments need tiles that lie in one image.
    pub fn of_conv(op: &FusedConv2d, [x, y]: [[usize; 4]; 2], dtype: DType, target: Target) -> Self {
        let [r, s] = op.conv.geometry.kernel;
        let [n, p, q, o] = y;
        let tiling = Self::of(n * p * q, o, 1, r * s * x[3].next_multiple_of(chunk(dtype)), dtype, target);
        if op.norm.is_some() || !(p * q).is_multiple_of(conv::TALL_ROWS) { tiling } else { tiling.or_tall(n * p * q, o, 1, target) }
    }

    /// With twice the rows where enough blocks remain: three operands in shared memory feed two products instead of four.
    fn or_tall(self, rows: usize, columns: usize, parts: usize, target: Target) -> Self {
        let blocks = rows.div_ceil(conv::TALL_ROWS) * columns.div_ceil(64) * parts;
        let fits = self.dtype != DType::F32 && self.columns == 64 && self.slices == 1 && 2 * blocks >= 3 * target.multiprocessors as usize;
        if fits { Self { rows: conv::TALL_ROWS, ..self } } else { self }
    }

    /// A launch of a kernel named after activations of `dtype`.
    pub fn launch(&self, kernel: &str, dtype: DType, [rows, columns]: [usize; 2], parts: usize) -> Result<Launch> {
        let block = match (self.dtype, self.rows) {
            (DType::F32, 32) => 64,
            (DType::F32, _) => 256,
            _ => conv::TENSOR_THREADS,
        };
        let name = format!("fewstep_{kernel}_{}_{}x{}", suffix(dtype)?, self.rows, self.columns);
        let [x, y] = self.tiles([rows, columns]);
        Launch::new(name, [x, y, parts * self.slices], block)
    }

    /// Blocks along the rows and along the columns.
    fn tiles(&self, [rows, columns]: [usize; 2]) -> [usize; 2] {
        [rows.div_ceil(self.rows), columns.div_ceil(self.columns)]
    }

    /// Where the blocks put their sums if they share them: from this byte of the scratch on.
    fn partial(&self, from: usize) -> Arg {
        if self.slices > 1 { Arg::Scratch(from) } else { Arg::Null }
    }

    /// Scratch in bytes for a result of `numel` elements.
    fn workspace(&self, numel: usize) -> usize {
        if self.slices > 1 { self.slices * numel * size_of::<f32>() } else { 0 }
    }
}

/// A convolution as the kernels take it: N, H, W, C, P, Q, O, R, S, stride, padding at the top and at the left.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Conv([i32; 12]);

// SAFETY: twelve i32, as `Conv` in cuda/parts/conv_shape.cuh.
unsafe impl Param for Conv {}

impl Conv {
    /// Of x to y; an error where an index of the kernels would not fit.
    pub fn of(x: [usize; 4], y: [usize; 4], geometry: ConvGeometry, dtype: DType) -> Result<Self> {
        let ConvGeometry { kernel, stride, pad } = geometry;
        // Rows and columns of either tensor that a tap may be looked for in, before it is found to lie outside.
        let reach = |shape: [usize; 4]| {
            let rows = shape[1].checked_add(pad[0])?.checked_add(pad[2])?.checked_add(kernel[0])?;
            let columns = shape[2].checked_add(pad[1])?.checked_add(pad[3])?.checked_add(kernel[1])?;
            shape[0].checked_mul(rows)?.checked_mul(columns)?.checked_mul(shape[3].max(1)).filter(|n| *n <= LIMIT)
        };
        let weights = packed_len(PackFor::Forward, geometry, &[y[3], x[3]], dtype).and(packed_len(PackFor::InputGrad, geometry, &[y[3], x[3]], dtype));
        if kernel.iter().any(|n| *n > conv::MOST_TAPS) {
            let ([rows, columns], most) = (kernel, conv::MOST_TAPS);
            return Err(Error::unsupported(format!("a kernel of {rows}x{columns}; the CUDA backend has at most {most}x{most}")));
        }
        if reach(x).and(reach(y)).and(weights).is_none() || stride > LIMIT || pad.iter().any(|n| *n > LIMIT) {
            return Err(too_large());
        }
        let all = [x[0], x[1], x[2], x[3], y[1], y[2], y[3], kernel[0], kernel[1], stride, pad[0], pad[1]];
        Ok(Self(all.map(|n| n as i32)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: Target = Target { capability: 90, multiprocessors: 132 };
    const EMULATED: Target = Target { capability: 80, multiprocessors: 8 };

    #[test]
    fn tilings_fill_the_device() {
        let tiles = |rows, columns, depth, dtype| {
            let t = Tiling::of(rows, columns, 1, depth, dtype, H200).or_tall(rows, columns, 1, H200);
            (t.rows, t.columns, t.slices)
        };
        // 64 images of 32x32x64: 1024 large blocks, or 512 tall ones.
        assert_eq!(tiles(65_536, 64, 576, DType::F32), (64, 64, 1));
        assert_eq!(tiles(65_536, 64, 576, DType::F16), (128, 64, 1));
        // The table of measured norms on the emulator's eight multiprocessors (tests/common/conv_cases.rs): tall.
        assert_eq!(Tiling::of(6 * 256, 64, 1, 72, DType::F16, EMULATED).or_tall(6 * 256, 64, 1, EMULATED).rows, conv::TALL_ROWS);
        // 16 images of 16x16x256: too few tall blocks.
        assert_eq!(tiles(4096, 256, 2304, DType::F16), (64, 64, 1));
        // Weights' gradients of 64 images of 32x32x64: nine large blocks, each sum in long slices.
        assert_eq!(tiles(576, 64, 65_536, DType::F16), (64, 64, 29));
        // One image of 8x8x128: eight small blocks, whose 72 steps are cut.
        assert_eq!(tiles(64, 128, 1152, DType::F32), (32, 32, 18));
        // A sum too short to cut.
        assert_eq!(tiles(1, 128, 128, DType::F32), (32, 32, 1));
        // The weights of conv_in: two blocks and 65536 pixels.
        assert_eq!(tiles(36, 64, 65_536, DType::F32), (32, 32, 64));
    }

    #[test]
    fn sizes_beyond_31_bits_are_refused() {
        let geometry = ConvGeometry { kernel: [3, 3], stride: 1, pad: [1; 4] };
        assert!(Conv::of([1, 1024, 1024, 64], [1, 1024, 1024, 64], geometry, DType::F32).is_ok());
        assert!(Conv::of([32, 1024, 1024, 64], [32, 1024, 1024, 64], geometry, DType::F32).is_err());
        for (kernel, fits) in [([15, 15], true), ([16, 1], false), ([1, 16], false)] {
            let wide = ConvGeometry { kernel, ..geometry };
            assert_eq!(Conv::of([1, 32, 32, 8], [1, 20, 20, 8], wide, DType::F16).is_ok(), fits, "{kernel:?}");
        }
        let far = ConvGeometry { pad: [usize::MAX, 1, 1, 1], ..geometry };
        assert!(Conv::of([1, 8, 8, 8], [1, 8, 8, 8], far, DType::F32).is_err());
        assert_eq!(packed_len(PackFor::Forward, geometry, &[1 << 16, 1 << 16, 3, 3], DType::F32), None);
        assert_eq!(packed_len(PackFor::InputGrad, geometry, &[5, 7, 3, 3], DType::F32), Some(7 * 9 * 8));
    }
}
