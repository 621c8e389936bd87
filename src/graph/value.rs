//! What a program is made of: values, where they come from, the storages behind them, and the nodes between.

use super::{Alias, Op, OpDef};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// A value's place in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// A node's place in [`Graph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// A storage's place in [`Graph::storages`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageId(pub u32);

/// Element type and dimensions. Rank-4 activations are NHWC; parameters keep the layout of the diffusers file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: &[usize]) -> Self {
        Self { dtype, shape: shape.to_vec() }
    }

    /// An f32 type.
    pub fn f32(shape: &[usize]) -> Self {
        Self::new(DType::F32, shape)
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.numel() * self.dtype.size()
    }
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The `output`-th result of a node.
    Node {
        /// The producing node.
        node: NodeId,
        /// Which of its outputs.
        output: usize,
    },
    /// Written by the host before a run.
    Input,
    /// The first version of a storage.
    State,
    /// A table known when the graph is built.
    Const(Arc<Tensor>),
    /// One number in every element, f32. It has no memory before the plan's is taken: its size is the caller's to choose.
    Fill(f32),
}

/// One value of the program.
#[derive(Clone, Debug)]
pub struct Value {
    /// Element type and shape.
    pub ty: TensorType,
    /// Stable name, from the diffusers path where there is one.
    pub name: String,
    /// What produces it.
    pub origin: Origin,
    /// The storage that it is a version of.
    pub storage: Option<StorageId>,
}

/// Memory that outlives a run: a parameter, a moment, a table, the sampler's state.
#[derive(Clone, Debug)]
pub struct Storage {
    /// Stable name; the diffusers tensor name for parameters.
    pub name: String,
    /// Type, fixed.
    pub ty: TensorType,
    /// The version that holds before the first node.
    pub first: ValueId,
    /// The newest version so far.
    pub current: ValueId,
}

/// One application of an op.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// Operands.
    pub inputs: Vec<ValueId>,
    /// Results.
    pub outputs: Vec<ValueId>,
    /// Index into [`Graph::segments`].
    pub segment: usize,
}

impl Node {
    /// True for an op that only renames its operand's memory.
    pub fn is_view(&self) -> bool {
        self.op.alias() == Alias::View
    }
}
