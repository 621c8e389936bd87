//! From a node to its kernel: the one place where the CPU backend meets the op table.

use super::kernels::pool::Shared;
use super::kernels::simd::Isa;
use super::kernels::workers::Workers;
use super::{attention, combine, conv2d, elementwise, gather, group_norm, optimizer, random, reduce, resample, shape, timestep_embedding};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Op, OpDef, ValueId};
use crate::tensor::{DType, Element};

pub(super) use conv2d::packed_len;

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Instruction set.
    pub isa: Isa,
    /// Compute threads: how many chunks can run at once. No result depends on it.
    pub threads: usize,
}

/// A compiled node. `run` allocates nothing.
pub(super) trait CpuKernel: Send + Sync {
    /// Scratch in bytes.
    fn workspace(&self) -> usize {
        0
    }

    /// Bytes that it holds beside itself.
    fn table_bytes(&self) -> usize {
        0
    }

    /// Computes the outputs.
    fn run(&self, io: &Io) -> Result<()>;
}

/// One operand, result or scratch area.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub ptr: *mut u8,
    /// Elements (bytes for the scratch).
    pub len: usize,
}

// SAFETY: a slot is only an address; `Io` hands out its contents under the plan's rules.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    pub fn empty(len: usize) -> Self {
        Self { ptr: std::ptr::null_mut(), len }
    }
}

/// What a kernel may touch. Outputs of updating ops are the storage itself: such a kernel reads the old contents through `output`, never through
/// the aliased operand.
pub(super) struct Io<'a> {
    pub slots: &'a [Slot],
    pub inputs: usize,
    pub pool: Workers<'a>,
    pub isa: Isa,
}

impl<'a> Io<'a> {
    /// Operand `i`.
    pub fn input<T: Element>(&self, i: usize) -> &'a [T] {
        let slot = self.slots[i];
        // SAFETY: the plan gives the operand's location numel elements of its dtype, 64-byte aligned; T is the dtype that the op's `infer`
        // demands; nobody writes it during this node but an in-place update, whose kernels do not read the operand.
        unsafe { std::slice::from_raw_parts(slot.ptr.cast(), slot.len) }
    }

    /// Result `i`.
    #[allow(clippy::mut_from_ref)] // each kernel takes each output once; the plan keeps outputs, inputs and scratch disjoint
    pub fn output<T: Element>(&self, i: usize) -> &'a mut [T] {
        let slot = self.slots[self.inputs + i];
        // SAFETY: as `input`; outputs of one node are disjoint from its operands and from each other by the plan's layout.
        unsafe { std::slice::from_raw_parts_mut(slot.ptr.cast(), slot.len) }
    }

    /// Result `i`, to be written by chunks in disjoint parts.
    pub fn shared_output<T: Element>(&self, i: usize) -> Shared<'a, T> {
        let slot = self.slots[self.inputs + i];
        // SAFETY: as `output`; the parts that chunks take are disjoint by the contract of `Shared::part`.
        unsafe { Shared::from_raw(slot.ptr.cast(), slot.len) }
    }

    /// The scratch area.
    #[allow(clippy::mut_from_ref)] // as `output`
    pub fn scratch<T: Element>(&self) -> &'a mut [T] {
        let slot = self.slots[self.slots.len() - 1];
        // SAFETY: the plan reserves workspace() bytes for this node alone.
        unsafe { std::slice::from_raw_parts_mut(slot.ptr.cast(), slot.len / size_of::<T>()) }
    }
}

/// The elements of each value.
fn sizes(graph: &Graph, values: &[ValueId]) -> impl Iterator<Item = usize> {
    values.iter().map(|v| graph.value(*v).ty.numel())
}

/// Builds the kernel of a node.
pub(super) fn lower(graph: &Graph, node: &Node, target: Target) -> Result<Box<dyn CpuKernel>> {
    let isa = target.isa;
    if node.outputs.iter().any(|o| matches!(graph.value(*o).ty.dtype, DType::F16 | DType::Bf16)) {
        return Err(Error::unsupported("the CPU backend computes in f32; half precision needs a CUDA device"));
    }
    let ty = |i: usize| &graph.value(node.inputs[i]).ty;
    let out = |i: usize| &graph.value(node.outputs[i]).ty;
    Ok(match &node.op {
        Op::Conv2d(op) => conv2d::forward(op, ty(0), isa)?,
        Op::Conv2dInputGrad(op) => conv2d::input_grad(op, ty(0), isa)?,
        Op::Conv2dWeightGrad(op) => conv2d::weight_grad(op, ty(0), ty(1), isa)?,
        Op::PackConv(op) => conv2d::pack(op, ty(0), isa)?,
        Op::GroupNorm(op) => group_norm::forward(op, ty(0))?,
        Op::GroupNormGrad(op) => group_norm::grad(op, ty(0)),
        Op::Attention(op) => attention::forward(op, ty(0), target),
        Op::AttentionGrad(op) => attention::grad(op, ty(0), target),
        Op::Unary(op) => elementwise::unary(op.kind),
        Op::UnaryGrad(op) => elementwise::unary_grad(op.kind),
        Op::Affine(op) => elementwise::affine(op),
        Op::Binary(op) => elementwise::binary(op.kind, ty(0), ty(1), out(0)),
        Op::Cast(_) => elementwise::cast(),
        Op::Combine(op) => combine::combine(op, ty(0), ty(1)),
        Op::DynamicThreshold(op) => combine::dynamic_threshold(op, ty(0)),
        Op::Upsample2x(_) => resample::upsample(ty(0)),
        Op::AvgPool2x(_) => resample::avg_pool(ty(0)),
        Op::Concat(_) => shape::concat(&node.inputs.iter().map(|i| &graph.value(*i).ty).collect::<Vec<_>>()),
        Op::Slice(op) => shape::slice(op, ty(0)),
        Op::Pad(op) => shape::pad(op, ty(0)),
        Op::ReduceSum(op) => reduce::reduce_sum(op, ty(0))?,
        Op::TimestepEmbedding(op) => timestep_embedding::timestep_embedding(op),
        Op::Gather(_) => gather::gather(ty(0))?,
        Op::GatherGrad(op) => gather::gather_grad(op, ty(0)),
        Op::RandomNormal(op) => random::normal(op),
        Op::RandomInt(op) => random::integers(op),
        Op::IntAffine(op) => gather::int_affine(op),
        Op::GlobalNorm(_) => optimizer::global_norm(sizes(graph, &node.inputs))?,
        Op::ClipScale(op) => optimizer::clip_scale(op),
        Op::AdamW(op) => optimizer::adamw(op, sizes(graph, &node.outputs))?,
        Op::Ema(op) => optimizer::ema(op, sizes(graph, &node.outputs))?,
        Op::Assign(_) => shape::assign(out(0)),
        Op::Reshape(_) | Op::StopGradient(_) => return Err(Error::internal(format!("{} is a view and has no kernel", node.op.name()))),
    })
}
