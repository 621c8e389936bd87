//! The program itself, and how it is written.

use super::ops::{Cast, Dequantize};
use super::{Alias, Node, NodeId, Op, OpDef, Origin, Storage, StorageId, TensorType, Value, ValueId};
use crate::error::{Error, Result};
use crate::memory::{self, heap};
use crate::tensor::{DType, Tensor, checked_numel};
use std::collections::HashMap;
use std::sync::Arc;

/// What a graph's own tables are called where there is no memory for them.
const WHAT: &str = "graph";

fn check_type(ty: &TensorType) -> Result<()> {
    checked_numel(&ty.shape)?;
    if ty.shape.contains(&0) {
        return Err(Error::shape(format!("shape {:?} has an empty dimension", ty.shape)));
    }
    Ok(())
}

/// A place in a program that grows.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

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
    /// What [`Graph::cast`] has cast.
    casts: HashMap<(ValueId, DType), ValueId>,
    /// What [`Graph::weights_of`] has made, by numbers and scales.
    dequantized: HashMap<[ValueId; 2], ValueId>,
    /// The segment that new nodes belong to.
    cursor: usize,
}

impl Default for Graph {
    fn default() -> Self {
        Self {
            values: vec![],
            nodes: vec![],
            storages: vec![],
            named: HashMap::new(),
            segments: vec!["main".into()],
            outputs: vec![],
            casts: HashMap::new(),
            dequantized: HashMap::new(),
            cursor: 0,
        }
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

    /// A place in the program: what is appended from here on is [`Graph::values_since`].
    pub fn mark(&self) -> Mark {
        Mark(self.values.len())
    }

    /// The values that nodes have computed since a place, oldest first: what a gradient through them may compute again instead of keeping. Not the f32 of
    /// parameters, which is there in any case.
    pub fn values_since(&self, mark: Mark) -> Result<Vec<ValueId>> {
        let since = self.values.iter().enumerate().skip(mark.0).filter(|(_, v)| matches!(v.origin, Origin::Node { .. }) && v.storage.is_none());
        memory::collect(since.map(|(i, _)| ValueId(i as u32)).filter(|v| self.stored(*v).is_none()), WHAT)
    }

    /// Starts a new segment; nodes appended from here on belong to it.
    pub fn begin_segment(&mut self, name: impl Into<String>) {
        let name = name.into();
        // Segments only grow along the program, so the last node tells whether the newest one is still empty.
        if self.nodes.last().is_none_or(|n| n.segment + 1 != self.segments.len()) {
            self.segments.pop();
        }
        self.segments.push(name);
        self.cursor = self.segments.len() - 1;
    }

    /// Takes the segments of another program, for passes that copy it.
    pub(super) fn copy_segments(&mut self, other: &Graph) -> Result<()> {
        self.segments = memory::copy(&other.segments, WHAT)?;
        Ok(())
    }

    /// Nodes appended from here on belong to this segment.
    pub(super) fn write_in(&mut self, segment: usize) {
        self.cursor = segment;
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
        self.shared_constant(name, Arc::new(tensor))
    }

    /// A constant table that others hold too.
    pub(super) fn shared_constant(&mut self, name: impl Into<String>, tensor: Arc<Tensor>) -> Result<ValueId> {
        let ty = TensorType::new(tensor.dtype(), tensor.shape());
        self.push_value(name.into(), ty, Origin::Const(tensor), None)
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
        let node = Node { op, inputs: memory::copy(inputs, WHAT)?, outputs: memory::copy(&outputs, WHAT)?, segment: self.cursor };
        memory::push(&mut self.nodes, node, WHAT)?;
        Ok(outputs)
    }

    /// Appends a node with exactly one output.
    pub fn push1(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        Ok(self.push(op, inputs)?[0])
    }

    /// A value as another type: itself if it has it, else its cast, which all share who ask.
    pub fn cast(&mut self, value: ValueId, to: DType) -> Result<ValueId> {
        if self.value(value).ty.dtype == to {
            return Ok(value);
        }
        if let Some(cast) = self.casts.get(&(value, to)) {
            return Ok(*cast);
        }
        let cast = self.push1(Cast { to }.into(), &[value])?;
        self.set_name(cast, format!("{}.{to:?}", self.value(value).name));
        memory::insert(&mut self.casts, (value, to), cast, WHAT)?;
        Ok(cast)
    }

    /// Weights [O, ...] as `runs` runs [S, n]; themselves where each output is one.
    pub fn in_runs(&mut self, weights: ValueId, runs: usize) -> Result<ValueId> {
        let shape = self.shape(weights);
        if shape.first() == Some(&runs) {
            return Ok(weights);
        }
        let each = shape.iter().product::<usize>() / runs.max(1);
        self.reshape(weights, &[runs, each])
    }

    /// The floats that whole numbers of weights I8 [O, ...] stand for with scales [S], each that of a run of them in memory (S is O, or a multiple that divides
    /// all), and zero points of 0; all share them who ask.
    pub fn weights_of(&mut self, numbers: ValueId, scales: ValueId) -> Result<ValueId> {
        if let Some(known) = self.dequantized.get(&[numbers, scales]) {
            return Ok(*known);
        }
        let zeros = Tensor::zeros(DType::I8, self.shape(scales))?;
        let zeros = self.constant("zero_point", zeros)?;
        let runs = self.in_runs(numbers, self.shape(scales)[0])?;
        let floats = self.push1(Dequantize { axis: Some(0) }.into(), &[runs, scales, zeros])?;
        let floats = self.reshape(floats, &memory::copy(self.shape(numbers), WHAT)?)?;
        self.set_name(floats, format!("{}.floats", self.value(numbers).name));
        memory::insert(&mut self.dequantized, [numbers, scales], floats, WHAT)?;
        Ok(floats)
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
            Op::FusedConv2d(op) => heap(8 * op.parts.capacity()),
            Op::PackConv(op) => heap(8 * op.packed.ty.shape.capacity()),
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
