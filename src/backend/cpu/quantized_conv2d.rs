//! Convolutions of whole numbers on the kernels for bytes: the statistics of a norm, if there is one; then x is rounded to where the kernel reads it; then the
//! products.
//!
//! Packed weights end with the sum of those of each output channel, i32 [O]: that times the zero point is what zero points alone sum to.

use super::conv2d::{conv_shape, weight_shape};
use super::kernel::{CpuKernel, Io, scratch_as};
use super::kernels::conv::ConvShape;
use super::kernels::int8::{CATALOGUE, Conv2d, Epilogue, Form, Rounding, Staging, weight_sums};
use super::staged_input::StagedInput;
use super::target::Target;
use crate::error::{Error, Result};
use crate::graph::ops::{Codes, ConvOperands, FusedConv2d, NumberOperands, PackConv};
use crate::graph::{Packed, TensorType};
use crate::tensor::{ALIGN, DType};

/// Floats of a line, to which parts of the scratch are aligned.
pub(super) const LINE: usize = ALIGN / size_of::<f32>();

/// What an op is to the kernels.
struct Product {
    shape: ConvShape,
    /// Channels of each source.
    sources: Vec<usize>,
    /// The largest number of x.
    most: u8,
}

impl Product {
    fn of(op: &FusedConv2d, types: &[&TensorType]) -> Option<Self> {
        let codes = op.quantized.filter(|codes| codes.dtype == DType::U8)?;
        let [x, _] = op.extents(types).ok()?;
        let shape = conv_shape(&op.conv.geometry, &x, op.conv.out_channels);
        let sources = types.get(op.operands().x)?.iter().map(|ty| ty.shape[3]).collect();
        Some(Self { shape, sources, most: most(codes.high)? }).filter(|product| product.shape.check().is_ok())
    }

    /// Whether an input as a kernel has it can be that large.
    fn is_staged(&self, form: Form) -> bool {
        Staging::new(&self.shape, &self.sources, self.most, form).is_ok()
    }

    /// On the kernel that runs it.
    fn compiled(&self, target: Target) -> Result<Conv2d> {
        Conv2d::new(&self.shape, &self.sources, self.most, target.int8(&self.shape))
    }
}

/// Whether the kernels do all of it. Images beyond what the input of any of them can hold stay in floats, on all sets alike.
pub(super) fn accepts(op: &FusedConv2d, types: &[&TensorType]) -> bool {
    let norm = op.norm.as_ref().is_none_or(|norm| norm.moments == 0);
    let staged = |product: Product| CATALOGUE.iter().all(|kernel| product.is_staged(kernel.form));
    norm && !op.moments && op.parts.is_empty() && Product::of(op, types).is_some_and(staged)
}

/// Bytes of packed weights and of the sums behind them.
fn packed_bytes(conv: &Conv2d, outputs: usize) -> Option<[usize; 2]> {
    let weights = conv.packed_len().checked_next_multiple_of(ALIGN)?;
    Some([weights, weights.checked_add(outputs.checked_mul(size_of::<i32>())?)?])
}

/// The packed form of the weights, in the order of the kernel that will run.
pub(super) fn packed(op: &FusedConv2d, types: &[&TensorType], target: Target) -> Option<Packed> {
    let product = Product::of(op, types)?;
    let [_, bytes] = packed_bytes(&product.compiled(target).ok()?, product.shape.c_out)?;
    Some(Packed { ty: TensorType::new(DType::I8, &[bytes]), order: target.int8(&product.shape).name })
}

fn most(high: i32) -> Option<u8> {
    u8::try_from(high).ok()
}

struct PackKernel {
    shape: ConvShape,
    conv: Conv2d,
}

/// Packs the weights of convolutions whose x has numbers up to `high`.
pub(super) fn pack(op: &PackConv, high: i32, weight: &TensorType) -> Result<Box<dyn CpuKernel>> {
    let shape = weight_shape(&op.geometry, &weight.shape);
    let missing = || Error::internal(format!("{op:?} for no kernel of this backend"));
    let kernel = CATALOGUE.iter().find(|kernel| kernel.name == op.packed.order).ok_or_else(missing)?;
    let conv = Conv2d::new(&shape, &[shape.c_in], most(high).ok_or_else(missing)?, kernel)?;
    Ok(Box::new(PackKernel { shape, conv }))
}

impl CpuKernel for PackKernel {
    fn table_bytes(&self) -> usize {
        self.conv.table_bytes()
    }

    fn workspace(&self) -> usize {
        self.shape.c_out * size_of::<i32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let (weights, out) = (io.input::<i8>(0), io.output::<i8>(0));
        let sums = io.scratch::<i32>();
        weight_sums(&self.shape, &[self.shape.c_in], weights, sums)?;
        let (packed, behind) = out.split_at_mut(out.len() - size_of_val(sums));
        let bytes = sums.iter().flat_map(|sum| sum.to_ne_bytes());
        behind.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte as i8);
        let (packed, filling) = packed.split_at_mut(self.conv.packed_len());
        filling.fill(0);
        self.conv.pack_weights(weights, packed, io.pool)
    }
}

struct QuantizedKernel {
    at: ConvOperands,
    numbers: NumberOperands,
    codes: Codes,
    conv: Conv2d,
    input: StagedInput,
    factor: f32,
    outputs: usize,
}

/// A convolution that rounds x to `codes`.
pub(super) fn forward(op: &FusedConv2d, codes: Codes, types: &[&TensorType], target: Target) -> Result<Box<dyn CpuKernel>> {
    let refused = || Error::internal(format!("{op:?}, which the CPU backend does not accept"));
    let product = Product::of(op, types).ok_or_else(refused)?;
    let (at, conv) = (op.operands(), product.compiled(target)?);
    let numbers = at.numbers.ok_or_else(refused)?;
    Ok(Box::new(QuantizedKernel { at, numbers, codes, conv, input: StagedInput::of(op, types)?, factor: op.scale, outputs: product.shape.c_out }))
}

impl QuantizedKernel {
    /// Floats of scratch: of the staged input, of the corrections, of the norm.
    fn parts(&self) -> [usize; 3] {
        let staged = self.conv.staging().bytes().div_ceil(ALIGN) * LINE;
        [staged, self.outputs.next_multiple_of(LINE), self.input.workspace()]
    }

    /// How x is rounded.
    fn rounding(&self, io: &Io) -> Result<Rounding> {
        let byte = |number: i32| u8::try_from(number).map_err(|_| Error::internal(format!("{:?} of bytes", self.codes)));
        let (scale, zero) = (io.input::<f32>(self.numbers.scale)[0], io.input::<u8>(self.numbers.zero)[0]);
        Ok(Rounding { scale, zero, low: byte(self.codes.low)?, high: byte(self.codes.high)? })
    }
}

impl CpuKernel for QuantizedKernel {
    fn table_bytes(&self) -> usize {
        self.conv.table_bytes()
    }

    fn workspace(&self) -> usize {
        self.parts().iter().sum::<usize>() * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let [staged, corrections, _] = self.parts();
        let (staged, rest) = io.scratch::<f32>().split_at_mut(staged);
        let (corrections, norm_scratch) = rest.split_at_mut(corrections);
        let staged = &mut scratch_as::<u8>(staged)[..self.conv.staging().bytes()];
        let corrections = &mut scratch_as::<i32>(corrections)[..self.outputs];

        let rounding = self.rounding(io)?;
        self.input.write(io, self.conv.staging(), rounding, staged, norm_scratch)?;

        let packed = io.input::<i8>(self.at.weight);
        let (weights, sums) = packed.split_at(packed.len() - size_of_val(corrections));
        for (correction, bytes) in corrections.iter_mut().zip(sums.as_chunks::<4>().0) {
            *correction = i32::from_ne_bytes(bytes.map(|byte| byte as u8)) * i32::from(rounding.zero);
        }
        let operand = |i: Option<usize>| i.map(|i| io.input::<f32>(i));
        let epilogue = Epilogue {
            correction: corrections,
            scale: io.input(self.numbers.factors),
            bias: operand(self.at.bias),
            addend: operand(self.at.addend),
            residual: operand(self.at.residual),
            factor: self.factor,
        };
        self.conv.run(staged, &weights[..self.conv.packed_len()], &epilogue, io.output(0), io.pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::kernels::int8::Set;
    use crate::graph::ops::ConvGeometry;

    /// What is accepted has a kernel; a layer whose input bytes would not be found again is not.
    #[test]
    fn what_is_accepted_is_compiled() {
        type Row = (&'static [[usize; 4]], [usize; 2], bool);
        let rows: [Row; 9] = [
            (&[[2, 8, 8, 16]], [3, 3], true),
            (&[[2, 8, 8, 16], [2, 8, 8, 3]], [3, 3], true),
            // A linear layer's rows are one image, whatever they were before.
            (&[[30_000, 1, 1, 60_000]], [1, 1], true),
            (&[[40_000, 1, 1, 60_000]], [1, 1], false),
            (&[[40_000_000, 1, 1, 8]], [1, 1], false), // some kernels fill pixels up to lines
            (&[[1, 1, 40_000, 60_000]], [1, 1], false),
            (&[[40_000, 1, 1, 30_000], [40_000, 1, 1, 30_000]], [1, 1], false),
            // Of many images each has to be found.
            (&[[100, 1000, 1000, 600]], [1, 1], true),
            (&[[1, 2000, 2000, 600]], [1, 1], false),
        ];
        for (x, kernel, expected) in rows {
            let channels: usize = x.iter().map(|x| x[3]).sum();
            let conv = crate::graph::ops::Conv2d::new(ConvGeometry { kernel, stride: 1, pad: [0; 4] }, 4, false);
            let op = FusedConv2d { sources: x.len(), quantized: Some(Codes::U8), ..conv.into() };
            let rest = [
                TensorType::new(DType::I8, &[4, channels, kernel[0], kernel[1]]),
                TensorType::f32(&[1]),
                TensorType::new(DType::U8, &[1]),
                TensorType::f32(&[4]),
            ];
            let types: Vec<TensorType> = x.iter().map(|x| TensorType::f32(x)).chain(rest).collect();
            let types: Vec<&TensorType> = types.iter().collect();
            assert_eq!(accepts(&op, &types), expected, "{x:?}");
            for set in Set::all().filter(|_| expected) {
                let target = Target { isa: set.isa(), set: Some(set), tiles: None, threads: 2 };
                assert!(packed(&op, &types, target).is_some() && forward(&op, Codes::U8, &types, target).is_ok(), "{x:?} {set:?}");
            }
        }
    }
}
