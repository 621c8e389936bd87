//! The convolution ops on the indirect-product kernels.

use super::kernel::{CpuKernel, Io};
use super::kernels::conv::{Conv2d as Forward, ConvShape, Epilogue};
use super::kernels::conv_input_grad::Conv2dInputGrad as InputGrad;
use super::kernels::conv_weight_grad::Conv2dWeightGrad as WeightGrad;
use super::kernels::gemm;
use super::kernels::simd::Isa;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{Conv2d, Conv2dInputGrad, Conv2dWeightGrad, ConvGeometry, PackConv, PackFor};

fn conv_shape(geometry: &ConvGeometry, input: &[usize], c_out: usize) -> ConvShape {
    let &ConvGeometry { kernel: [r, s], stride, pad } = geometry;
    ConvShape { n: input[0], h: input[1], w: input[2], c_in: input[3], c_out, r, s, stride: [stride; 2], pad }
}

/// A shape with these weights; packing depends on nothing else of it.
fn weight_shape(geometry: &ConvGeometry, weight: &[usize]) -> ConvShape {
    conv_shape(geometry, &[1, weight[2], weight[3], weight[1]], weight[0])
}

/// Elements of packed weights; every convolution is packed on the CPU. `None` for a shape that has no kernel.
pub(super) fn packed_len(purpose: PackFor, geometry: ConvGeometry, weight: &[usize], isa: Isa) -> Option<usize> {
    let s = weight_shape(&geometry, weight);
    s.check().ok()?;
    let (columns, channels) = match purpose {
        PackFor::Forward => (s.c_out, s.c_in),
        PackFor::InputGrad => (s.c_in, s.c_out),
    };
    gemm::packed_len(isa, columns, (s.r * s.s).checked_mul(channels)?)
}

struct ForwardKernel {
    op: Conv2d,
    kernel: Forward,
}

pub(super) fn forward(op: &Conv2d, x: &TensorType, isa: Isa) -> Result<Box<dyn CpuKernel>> {
    if op.norm.is_some() || op.moments || !op.parts.is_empty() {
        return Err(Error::internal("a convolution with a norm, moments or parts, which the CPU backend does not wish for"));
    }
    let kernel = Forward::new(&conv_shape(&op.geometry, &x.shape, op.out_channels), isa)?;
    Ok(Box::new(ForwardKernel { op: op.clone(), kernel }))
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
        let epilogue = Epilogue {
            bias: operand(self.op.bias_operand()),
            addend: operand(self.op.addend_operand()),
            residual: operand(self.op.residual_operand()),
            scale: self.op.scale,
        };
        self.kernel.run(io.input(0), io.input(1), &epilogue, io.output(0), io.scratch(), io.pool)
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
