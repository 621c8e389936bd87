//! The graph IR: a static, typed program over tensors, the same for training and inference and for every backend.
//!
//! A [`Graph`] is a list of nodes in program order. Each node applies an [`Op`] to earlier values. Values are immutable except
//! *state* values (parameters, moments, sampler state): an updating op yields the next *version* of a state, and [`Graph::verify`] refuses a
//! program in which an old version is read after it was overwritten. What changes from run to run (seed, step, learning rate, labels) is a
//! *runtime input*, never a constant. A graph holds no numbers except small constant tables.

pub mod autodiff;
mod builder;
pub mod layout;
pub mod numerics;
pub mod op;
pub mod ops;
pub mod passes;
pub mod plan;
pub mod reference;

pub use autodiff::{GradCx, gradients};
pub use numerics::Numerics;
pub use op::{Alias, Op, OpDef, Updated};
pub use plan::Plan;

use crate::error::{Error, Result};
use crate::memory;
use crate::tensor::{DType, Tensor, checked_numel};
use std::collections::HashMap;
use std::sync::Arc;

/// What a graph's own tables are called where there is no memory for them.
const WHAT: &str = "graph";

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

/// What an allocation of so many bytes takes: allocators keep a word with each, and hand out multiples of two.
pub(crate) fn heap(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + size_of::<usize>()).next_multiple_of(2 * size_of::<usize>()).max(4 * size_of::<usize>()) }
}

fn check_type(ty: &TensorType) -> Result<()> {
    checked_numel(&ty.shape)?;
    if ty.shape.contains(&0) {
        return Err(Error::shape(format!("shape {:?} has an empty dimension", ty.shape)));
    }
    Ok(())
}

/// The program. See the module's text.
#[derive(Clone, Debug)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
    storages: Vec<Storage>,
    /// Storages by name.
    named: HashMap<String, StorageId>,
    segments: Vec<String>,
    outputs: Vec<ValueId>,
}

impl Default for Graph {
    fn default() -> Self {
        Self { values: vec![], nodes: vec![], storages: vec![], named: HashMap::new(), segments: vec!["main".into()], outputs: vec![] }
    }
}

impl Graph {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty program with room for as much as another one has.
    pub(crate) fn with_room_of(other: &Graph) -> Result<Self> {
        let (values, nodes) = (memory::with_capacity(other.values.len(), WHAT)?, memory::with_capacity(other.nodes.len(), WHAT)?);
        Ok(Self { values, nodes, ..Self::default() })
    }

    /// Gives back the room that it has for more.
    pub(crate) fn shrink(&mut self) {
        self.values.shrink_to_fit();
        self.nodes.shrink_to_fit();
    }

    /// All values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// One value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// Shape of a value.
    pub fn shape(&self, id: ValueId) -> &[usize] {
        &self.value(id).ty.shape
    }

    /// Nodes in program order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All storages.
    pub fn storages(&self) -> &[Storage] {
        &self.storages
    }

    /// The storage called `name`.
    pub fn storage(&self, name: &str) -> Option<StorageId> {
        self.named.get(name).copied()
    }

    /// Names of the segments, in order of execution.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// Values that stay readable after a run (taps and results).
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The value called `name`, newest first.
    pub fn find(&self, name: &str) -> Result<ValueId> {
        let at = self.values.iter().rposition(|v| v.name == name);
        at.map(|i| ValueId(i as u32)).ok_or_else(|| Error::not_found(format!("the graph has no value '{name}'")))
    }

    /// The newest version of a storage.
    pub fn current(&self, storage: StorageId) -> ValueId {
        self.storages[storage.0 as usize].current
    }

    /// Starts a new segment; nodes appended from here on belong to it.
    pub fn begin_segment(&mut self, name: impl Into<String>) {
        let name = name.into();
        // Segments only grow along the program, so the last node tells whether the newest one is still empty.
        if self.nodes.last().is_none_or(|n| n.segment + 1 != self.segments.len()) {
            self.segments.pop();
        }
        self.segments.push(name);
    }

    /// Keeps a value readable after the run: features, calibration, sensitivity, results.
    pub fn tap(&mut self, id: ValueId) {
        if !self.outputs.contains(&id) {
            self.outputs.push(id);
        }
    }

    /// Gives a value its stable name.
    pub fn set_name(&mut self, id: ValueId, name: impl Into<String>) {
        self.values[id.0 as usize].name = name.into();
    }

    /// A value that the host writes before each run.
    pub fn input(&mut self, name: impl Into<String>, ty: TensorType) -> Result<ValueId> {
        self.push_value(name.into(), ty, Origin::Input, None)
    }

    /// A storage of the given type; asking again for the same name and type yields its newest version.
    pub fn state(&mut self, name: impl Into<String>, ty: TensorType) -> Result<ValueId> {
        let name = name.into();
        if let Some(id) = self.storage(&name) {
            let s = &self.storages[id.0 as usize];
            if s.ty != ty {
                return Err(Error::shape(format!("state '{name}' exists as {:?} {:?}, asked for as {:?} {:?}", s.ty.dtype, s.ty.shape, ty.dtype, ty.shape)));
            }
            return Ok(s.current);
        }
        let storage = StorageId(self.storages.len() as u32);
        let first = self.push_value(name.clone(), ty.clone(), Origin::State, Some(storage))?;
        memory::insert(&mut self.named, name.clone(), storage, WHAT)?;
        memory::push(&mut self.storages, Storage { name, ty, first, current: first }, WHAT)?;
        Ok(first)
    }

    /// A constant table.
    pub fn constant(&mut self, name: impl Into<String>, tensor: Tensor) -> Result<ValueId> {
        let ty = TensorType::new(tensor.dtype(), tensor.shape());
        self.push_value(name.into(), ty, Origin::Const(Arc::new(tensor)), None)
    }

    /// A constant of one repeated number.
    pub fn constant_fill(&mut self, name: impl Into<String>, shape: &[usize], value: f32) -> Result<ValueId> {
        self.push_value(name.into(), TensorType::f32(shape), Origin::Fill(value), None)
    }

    /// Appends a node and returns its outputs. Shapes are checked here; the error names the op and its operands, and leaves the graph as it was.
    pub fn push(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        memory::check()?;
        let types = {
            let operands = memory::collect(inputs.iter().map(|i| &self.value(*i).ty), WHAT)?;
            let types = op.infer(&operands).and_then(|types| types.iter().try_for_each(check_type).map(|()| types));
            types.map_err(|e| e.context(self.describe(&op, inputs)))?
        };
        let node = NodeId(self.nodes.len() as u32);
        let storages = self.updated_storages(&op, inputs, types.len())?;
        let mut outputs = memory::with_capacity(types.len(), WHAT)?;
        for (output, (ty, storage)) in types.into_iter().zip(storages).enumerate() {
            let name = storage.map_or_else(|| format!("{}.{}", op.name(), node.0), |s| self.storages[s.0 as usize].name.clone());
            let id = self.push_value(name, ty, Origin::Node { node, output }, storage)?;
            if let Some(s) = storage {
                self.storages[s.0 as usize].current = id;
            }
            outputs.push(id);
        }
        let segment = self.segments.len() - 1;
        let node = Node { op, inputs: memory::copy(inputs, WHAT)?, outputs: memory::copy(&outputs, WHAT)?, segment };
        memory::push(&mut self.nodes, node, WHAT)?;
        Ok(outputs)
    }

    /// Appends a node with exactly one output.
    pub fn push1(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        Ok(self.push(op, inputs)?[0])
    }

    /// Checks the order of state versions: nobody reads a version, itself or as a view, after the node that overwrites it, and no tap either.
    pub fn verify(&self) -> Result<()> {
        let roots = self.roots()?;
        let mut overwritten = memory::filled(false, self.values.len(), WHAT)?;
        for (i, node) in self.nodes.iter().enumerate() {
            for input in &node.inputs {
                let root = roots[input.0 as usize];
                if overwritten[root.0 as usize] {
                    return Err(Error::internal(format!("node {i} ({}) reads an overwritten version of '{}'", node.op.name(), self.value(root).name)));
                }
                if let Origin::Node { node: n, .. } = self.value(*input).origin
                    && n.0 as usize >= i
                {
                    return Err(Error::internal(format!("node {i} ({}) reads a value that is not computed yet", node.op.name())));
                }
            }
            if let Alias::Updates(updated) = node.op.alias() {
                let mut aliased = memory::filled(false, node.inputs.len(), WHAT)?;
                for (input, _) in updated.pairs() {
                    overwritten[node.inputs[input].0 as usize] = true;
                    aliased[input] = true;
                }
                // The parts of one update run in any order, so none may read what another writes. A copy onto itself is harmless.
                let torn = |k: &usize| !aliased[*k] && overwritten[roots[node.inputs[*k].0 as usize].0 as usize];
                if let Some(k) = (0..aliased.len()).find(torn).filter(|_| !matches!(node.op, Op::Assign(_))) {
                    return Err(Error::internal(format!("node {i} ({}) reads '{}', which it overwrites", node.op.name(), self.value(node.inputs[k]).name)));
                }
            }
        }
        match self.outputs.iter().map(|o| roots[o.0 as usize]).find(|root| overwritten[root.0 as usize]) {
            Some(root) => {
                Err(Error::internal(format!("a version of '{}' is tapped but overwritten later: the tap would read the newer version", self.value(root).name)))
            }
            None => Ok(()),
        }
    }

    /// The value whose memory each value shares: itself, unless it is a view.
    pub(crate) fn roots(&self) -> Result<Vec<ValueId>> {
        let mut roots = memory::collect((0..self.values.len() as u32).map(ValueId), WHAT)?;
        for node in self.nodes.iter().filter(|n| n.is_view()) {
            roots[node.outputs[0].0 as usize] = roots[node.inputs[0].0 as usize];
        }
        Ok(roots)
    }

    /// Storages that no node overwrites; what depends on them alone can be computed once.
    pub fn frozen_storages(&self) -> Result<Vec<bool>> {
        memory::collect(self.storages.iter().map(|s| s.first == s.current), WHAT)
    }

    /// Bytes of the constant tables.
    pub fn constant_bytes(&self) -> usize {
        let bytes = |v: &Value| if let Origin::Const(tensor) = &v.origin { tensor.host_bytes() } else { 0 };
        self.values.iter().map(bytes).sum()
    }

    /// Bytes of the program itself: values, nodes and their names.
    pub fn program_bytes(&self) -> usize {
        let value = |v: &Value| heap(v.name.capacity()) + heap(8 * v.ty.shape.capacity());
        let op = |op: &Op| match op {
            Op::Reshape(op) => heap(8 * op.shape.capacity()),
            Op::ReduceSum(op) => heap(8 * op.shape.capacity()),
            Op::Conv2d(op) => heap(8 * op.parts.capacity()),
            _ => 0,
        };
        let node = |n: &Node| op(&n.op) + heap(4 * n.inputs.capacity()) + heap(4 * n.outputs.capacity());
        let lists = self.values.capacity() * size_of::<Value>() + self.nodes.capacity() * size_of::<Node>();
        lists + self.values.iter().map(value).sum::<usize>() + self.nodes.iter().map(node).sum::<usize>()
    }

    /// For each output of a node to be appended, the storage that it is the next version of.
    fn updated_storages(&self, op: &Op, inputs: &[ValueId], outputs: usize) -> Result<Vec<Option<StorageId>>> {
        let mut storages = memory::filled(None, outputs, WHAT)?;
        let Alias::Updates(updated) = op.alias() else { return Ok(storages) };
        let mut seen = memory::filled(false, self.storages.len(), WHAT)?;
        for (input, output) in updated.pairs() {
            let storage = self.updatable(inputs[input], op)?;
            if std::mem::replace(&mut seen[storage.0 as usize], true) {
                return Err(Error::internal(format!("{} updates '{}' twice", op.name(), self.storages[storage.0 as usize].name)));
            }
            storages[output] = Some(storage);
        }
        Ok(storages)
    }

    fn updatable(&self, old: ValueId, op: &Op) -> Result<StorageId> {
        let value = self.value(old);
        let storage = value.storage.ok_or_else(|| Error::internal(format!("{} updates '{}', which is not a state", op.name(), value.name)))?;
        if self.storages[storage.0 as usize].current != old {
            return Err(Error::internal(format!("{} updates an old version of '{}'", op.name(), value.name)));
        }
        Ok(storage)
    }

    fn push_value(&mut self, name: String, ty: TensorType, origin: Origin, storage: Option<StorageId>) -> Result<ValueId> {
        check_type(&ty).map_err(|e| e.context(&name))?;
        memory::push(&mut self.values, Value { ty, name, origin, storage }, WHAT)?;
        Ok(ValueId(self.values.len() as u32 - 1))
    }

    fn describe(&self, op: &Op, inputs: &[ValueId]) -> String {
        let operands: Vec<String> = inputs.iter().map(|i| format!("{} {:?}", self.value(*i).name, self.value(*i).ty.shape)).collect();
        format!("{}({})", op.name(), operands.join(", "))
    }
}
