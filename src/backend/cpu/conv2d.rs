//! The convolution ops on the indirect-product kernels.

use super::kernel::{CpuKernel, Io};
use super::kernels::conv::{Conv2d as Forward, ConvShape, Epilogue};
use super::kernels::conv_input_grad::Conv2dInputGrad as InputGrad;
use super::kernels::conv_weight_grad::Conv2dWeightGrad as WeightGrad;
use super::kernels::gemm::{self, MOST_SOURCES};
use super::kernels::simd::Isa;
use crate::error::{Error, Result};
use crate::graph::ops::{Conv2dInputGrad, Conv2dWeightGrad, ConvGeometry, ConvOperands, FusedConv2d, PackConv, PackFor};
use crate::graph::{Op, Packed, TensorType};

pub(super) fn conv_shape(geometry: &ConvGeometry, input: &[usize], c_out: usize) -> ConvShape {
    let &ConvGeometry { kernel: [r, s], stride, pad } = geometry;
    ConvShape { n: input[0], h: input[1], w: input[2], c_in: input[3], c_out, r, s, stride: [stride; 2], pad }
}

/// A shape with these weights; packing depends on nothing else of it.
pub(super) fn weight_shape(geometry: &ConvGeometry, weight: &[usize]) -> ConvShape {
    conv_shape(geometry, &[1, weight[2], weight[3], weight[1]], weight[0])
}

/// The packed form of an op's weights; every convolution is packed on the CPU. `None` for a shape that has no kernel.
pub(super) fn packed(op: &Op, types: &[&TensorType], isa: Isa) -> Option<Packed> {
    let (purpose, geometry, weight) = PackConv::of(op)?;
    let s = weight_shape(&geometry, &types.get(weight)?.shape);
    s.check().ok()?;
    let (columns, channels) = match purpose {
        PackFor::Forward => (s.c_out, s.c_in),
        PackFor::InputGrad => (s.c_in, s.c_out),
        PackFor::Numbers(_) => return None,
    };
    let len = gemm::packed_len(isa, columns, (s.r * s.s).checked_mul(channels)?)?;
    Some(TensorType::new(types.first()?.dtype, &[len]).into())
}

/// Whether the kernel does all of it.
pub(super) fn accepts(op: &FusedConv2d, types: &[&TensorType]) -> bool {
    let takes = || op.extents(types).is_ok_and(|[x, _]| conv_shape(&op.conv.geometry, &x, op.conv.out_channels).takes(op.sources));
    op.quantized.is_none() && op.norm.is_none() && !op.moments && op.parts.is_empty() && takes()
}

struct ForwardKernel {
    scale: f32,
    at: ConvOperands,
    kernel: Forward,
}

pub(super) fn forward(op: &FusedConv2d, types: &[&TensorType], isa: Isa) -> Result<Box<dyn CpuKernel>> {
    if !accepts(op, types) {
        return Err(Error::internal(format!("{op:?}, which the CPU backend does not accept")));
    }
    let [x, _] = op.extents(types)?;
    let at = op.operands();
    let sources: Vec<usize> = types[at.x.clone()].iter().map(|ty| ty.shape[3]).collect();
    let kernel = Forward::of_sources(&conv_shape(&op.conv.geometry, &x, op.conv.out_channels), &sources, isa)?;
    Ok(Box::new(ForwardKernel { scale: op.scale, at, kernel }))
}

impl CpuKernel for ForwardKernel {
    fn table_bytes(&self) -> usize {
        self.kernel.table_bytes()
    }

    fn workspace(&self) -> usize {
        self.kernel.workspace() * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let operand = |i: Option<usize>| i.map(|i| io.input::<f32>(i));
        let epilogue = Epilogue { bias: operand(self.at.bias), addend: operand(self.at.addend), residual: operand(self.at.residual), scale: self.scale };
        let mut sources: [&[f32]; MOST_SOURCES] = [&[]; MOST_SOURCES];
        self.at.x.clone().zip(&mut sources).for_each(|(i, source)| *source = io.input(i));
        let x = &sources[..self.at.x.len()];
        self.kernel.run_sources(x, io.input(self.at.weight), &epilogue, io.output(0), io.scratch(), io.pool)
    }
}

struct InputGradKernel(InputGrad);

pub(super) fn input_grad(op: &Conv2dInputGrad, dy: &TensorType, isa: Isa) -> Result<Box<dyn CpuKernel>> {
    Ok(Box::new(InputGradKernel(InputGrad::new(&conv_shape(&op.geometry, &op.input, dy.shape[3]), isa)?)))
}

impl CpuKernel for InputGradKernel {
    fn table_bytes(&self) -> usize {
        self.0.table_bytes()
    }

    fn run(&self, io: &Io) -> Result<()> {
        self.0.run(io.input(0), io.input(1), &Epilogue::default(), io.output(0), io.pool)
    }
}

struct WeightGradKernel(WeightGrad);

pub(super) fn weight_grad(op: &Conv2dWeightGrad, x: &TensorType, dy: &TensorType, isa: Isa) -> Result<Box<dyn CpuKernel>> {
    Ok(Box::new(WeightGradKernel(WeightGrad::new(&conv_shape(&op.geometry, &x.shape, dy.shape[3]), isa)?)))
}

impl CpuKernel for WeightGradKernel {
    fn table_bytes(&self) -> usize {
        self.0.table_bytes()
    }

    fn workspace(&self) -> usize {
        self.0.workspace() * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        self.0.run(io.input(0), io.input(1), io.output(0), None, false, io.scratch(), io.pool)
    }
}

enum PackKernel {
    Forward(Forward),
    InputGrad(InputGrad),
}

pub(super) fn pack(op: &PackConv, weight: &TensorType, isa: Isa) -> Result<Box<dyn CpuKernel>> {
    let shape = weight_shape(&op.geometry, &weight.shape);
    Ok(Box::new(match op.purpose {
        PackFor::Forward => PackKernel::Forward(Forward::new(&shape, isa)?),
        PackFor::InputGrad => PackKernel::InputGrad(InputGrad::new(&shape, isa)?),
        PackFor::Numbers(_) => return Err(Error::internal("whole numbers are packed for a kernel of theirs")),
    }))
}

impl CpuKernel for PackKernel {
    fn table_bytes(&self) -> usize {
        match self {
            PackKernel::Forward(k) => k.table_bytes(),
            PackKernel::InputGrad(k) => k.table_bytes(),
        }
    }

    fn run(&self, io: &Io) -> Result<()> {
        match self {
            PackKernel::Forward(k) => k.pack_weights(io.input(0), io.output(0), io.pool),
            PackKernel::InputGrad(k) => k.pack_weights(io.input(0), io.output(0), io.pool),
        }
    }
}
