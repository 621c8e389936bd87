//! Convolutions, input gradients and weight gradients whose factors are rounded to bf16, on tiles. What tiles would be filled up for stays in f32.

use super::conv2d::{conv_shape, weight_shape};
use super::kernel::{CpuKernel, Io, scratch_as};
use super::kernels::bf16::{Conv2d, Kernel, WeightGrad, turned};
use super::kernels::conv::{ConvShape, Epilogue};
use super::kernels::int8::stage::Bf16;
use super::kernels::int8::{Form, Staging};
use super::quantized_conv2d::LINE;
use super::staged_input::StagedInput;
use super::target::Target;
use crate::error::{Error, Result};
use crate::graph::ops::{Conv2dInputGrad, Conv2dWeightGrad, ConvOperands, FusedConv2d, PackConv, PackFor};
use crate::graph::{Op, Packed, TensorType};
use crate::tensor::{ALIGN, DType};
use half::bf16;

/// What an op is to the kernels, and the channels of each source of its x.
fn product(op: &FusedConv2d, types: &[&TensorType]) -> Option<(ConvShape, Vec<usize>)> {
    let [x, _] = op.extents(types).ok()?;
    let shape = conv_shape(&op.conv.geometry, &x, op.conv.out_channels);
    let sources = types.get(op.operands().x)?.iter().map(|ty| ty.shape[3]).collect();
    shape.check().ok().map(|_| (shape, sources))
}

/// The forward convolution of an input gradient.
fn forward_of(op: &Conv2dInputGrad, dy: &TensorType) -> Option<ConvShape> {
    let shape = conv_shape(&op.geometry, &op.input, *dy.shape.get(3)?);
    shape.check().ok().map(|_| shape)
}

/// Whether the kernels do all of it and gain by it.
pub(super) fn accepts(op: &Op, types: &[&TensorType]) -> bool {
    let staged = |shape: &ConvShape, sources: &[usize]| Kernel::pays(shape) && Staging::new(shape, sources, 0, Form::Bf16Tiles).is_ok();
    match op {
        Op::FusedConv2d(op) => {
            let plain = op.norm.as_ref().is_none_or(|norm| norm.moments == 0) && op.quantized.is_none() && !op.moments && op.parts.is_empty();
            plain && product(op, types).is_some_and(|(shape, sources)| staged(&shape, &sources))
        }
        Op::Conv2dInputGrad(op) => forward_of(op, types[0]).and_then(|shape| turned(&shape)).is_some_and(|shape| staged(&shape, &[shape.c_in])),
        Op::Conv2dWeightGrad(op) => weight_grad_shape(op, types).is_some_and(|shape| WeightGrad::pays(&shape)),
        _ => false,
    }
}

/// The packed form of the weights, for the kernel that will run.
pub(super) fn packed(op: &Op, types: &[&TensorType], target: Target) -> Option<Packed> {
    let (purpose, geometry, weight) = PackConv::of(op)?;
    let kernel = target.tiles().ok()?;
    let conv = compiled(purpose, &weight_shape(&geometry, &types.get(weight)?.shape), kernel).ok()?;
    Some(Packed { ty: TensorType::new(DType::Bf16, &[conv.packed_len()]), order: kernel.name })
}

/// What packs the weights of a purpose.
fn compiled(purpose: PackFor, shape: &ConvShape, kernel: &'static Kernel) -> Result<Conv2d> {
    match purpose {
        PackFor::Forward => Conv2d::new(shape, &[shape.c_in], kernel),
        PackFor::InputGrad => Conv2d::input_grad(shape, kernel),
        PackFor::Numbers(_) => Err(Error::internal("whole numbers are packed for a kernel of theirs")),
    }
}

struct PackKernel(Conv2d);

pub(super) fn pack(op: &PackConv, weight: &TensorType, target: Target) -> Result<Box<dyn CpuKernel>> {
    Ok(Box::new(PackKernel(compiled(op.purpose, &weight_shape(&op.geometry, &weight.shape), target.tiles()?)?)))
}

impl CpuKernel for PackKernel {
    fn table_bytes(&self) -> usize {
        self.0.table_bytes()
    }

    fn run(&self, io: &Io) -> Result<()> {
        self.0.pack_weights(io.input(0), io.output::<bf16>(0), io.pool)
    }
}

/// Floats of scratch that a staged input takes.
fn staged_floats(conv: &Conv2d) -> usize {
    conv.staging().bytes().div_ceil(ALIGN) * LINE
}

fn unpacked(op: &impl std::fmt::Debug) -> Error {
    Error::internal(format!("{op:?}, whose weights are not packed"))
}

struct ForwardKernel {
    at: ConvOperands,
    conv: Conv2d,
    input: StagedInput,
    scale: f32,
}

/// A convolution of rounded factors.
pub(super) fn forward(op: &FusedConv2d, types: &[&TensorType], target: Target) -> Result<Box<dyn CpuKernel>> {
    let (shape, sources) = product(op, types).ok_or_else(|| Error::internal(format!("{op:?}, which the CPU backend does not accept")))?;
    let conv = Conv2d::new(&shape, &sources, target.tiles()?)?;
    if !op.packed {
        return Err(unpacked(op));
    }
    Ok(Box::new(ForwardKernel { at: op.operands(), conv, input: StagedInput::of(op, types)?, scale: op.scale }))
}

impl CpuKernel for ForwardKernel {
    fn table_bytes(&self) -> usize {
        self.conv.table_bytes()
    }

    fn workspace(&self) -> usize {
        (staged_floats(&self.conv) + self.input.workspace()) * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let (staged, norm_scratch) = io.scratch::<f32>().split_at_mut(staged_floats(&self.conv));
        let staged = &mut scratch_as::<u8>(staged)[..self.conv.staging().bytes()];
        self.input.write(io, self.conv.staging(), Bf16, staged, norm_scratch)?;
        let operand = |i: Option<usize>| i.map(|i| io.input::<f32>(i));
        let epilogue = Epilogue { bias: operand(self.at.bias), addend: operand(self.at.addend), residual: operand(self.at.residual), scale: self.scale };
        self.conv.run(staged, io.input(self.at.weight), &epilogue, io.output(0), io.pool)
    }
}

struct InputGradKernel(Conv2d);

/// An input gradient of rounded factors.
pub(super) fn input_grad(op: &Conv2dInputGrad, dy: &TensorType, target: Target) -> Result<Box<dyn CpuKernel>> {
    let shape = forward_of(op, dy).ok_or_else(|| Error::internal(format!("{op:?}, which the CPU backend does not accept")))?;
    let conv = Conv2d::input_grad(&shape, target.tiles()?)?;
    if !op.packed {
        return Err(unpacked(op));
    }
    Ok(Box::new(InputGradKernel(conv)))
}

impl CpuKernel for InputGradKernel {
    fn table_bytes(&self) -> usize {
        self.0.table_bytes()
    }

    fn workspace(&self) -> usize {
        staged_floats(&self.0) * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let staged = &mut scratch_as::<u8>(io.scratch::<f32>())[..self.0.staging().bytes()];
        self.0.stage(io.input(0), io.isa, staged, io.pool)?;
        self.0.run(staged, io.input(1), &Epilogue::default(), io.output(0), io.pool)
    }
}

struct WeightGradKernel(WeightGrad);

fn weight_grad_shape(op: &Conv2dWeightGrad, types: &[&TensorType]) -> Option<ConvShape> {
    let &[x, dy] = types else { return None };
    let shape = conv_shape(&op.geometry, &x.shape, *dy.shape.get(3)?);
    shape.check().ok().map(|_| shape)
}

/// A weight gradient of rounded factors.
pub(super) fn weight_grad(op: &Conv2dWeightGrad, types: &[&TensorType], target: Target) -> Result<Box<dyn CpuKernel>> {
    let shape = weight_grad_shape(op, types).ok_or_else(|| Error::internal(format!("{op:?}, which the CPU backend does not accept")))?;
    Ok(Box::new(WeightGradKernel(WeightGrad::new(&shape, target.tiles()?)?)))
}

impl CpuKernel for WeightGradKernel {
    fn table_bytes(&self) -> usize {
        self.0.table_bytes()
    }

    fn workspace(&self) -> usize {
        self.0.workspace()
    }

    fn run(&self, io: &Io) -> Result<()> {
        self.0.run(io.input(0), io.input(1), io.output(0), io.scratch(), io.isa, io.pool)
    }
}
