//! From a graph to something a backend can run: passes, what runs once and what runs always, and one arena laid out by liveness.

use super::analysis::hoistable;
use super::layout::{self, Block, too_large};
use super::passes;
use super::{Graph, NodeId, Numerics, Origin, Recipe, StorageId, Target, Value, ValueId};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;
use crate::tensor::{ALIGN, Tensor};
use std::collections::HashMap;
use std::ops::Range;

/// What a plan's tables are called where there is no memory for them.
const WHAT: &str = "plan";

/// Where a value's bytes are while the plan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// Nowhere: the plan is not laid out yet.
    Unused,
    /// In a storage.
    Storage(StorageId),
    /// In the plan's constant table, by value id.
    Const(ValueId),
    /// At this byte of the persistent area: inputs, results of the prepare phase.
    Persistent(usize),
    /// In memory of its own, by its place in [`Plan::shared`].
    Shared(usize),
    /// At this byte of the arena.
    Arena(usize),
}

/// A result of the prepare phase that other plans of the same backend and the same tensors may have too: packed weights.
#[derive(Debug)]
pub struct SharedValue {
    /// Its planned id.
    pub value: ValueId,
    /// Its size.
    pub bytes: usize,
    /// What it is made of.
    pub recipe: Recipe,
    /// The states that the recipe is of.
    pub states: Vec<StorageId>,
}

/// A graph made ready for a backend. Nodes `0..prepared` of `order` depend on frozen storages and constants alone and run once after binding;
/// the others run every time.
#[derive(Debug)]
pub struct Plan {
    graph: Graph,
    numerics: Numerics,
    map: Vec<Option<ValueId>>,
    order: Vec<NodeId>,
    prepared: usize,
    segments: Vec<Range<usize>>,
    locations: Vec<Location>,
    workspace: Vec<usize>,
    frozen: Vec<bool>,
    shared: Vec<SharedValue>,
    arena_bytes: usize,
    input_bytes: usize,
    persistent_bytes: usize,
    peak_live_bytes: usize,
    comparisons: usize,
}

impl Plan {
    /// Runs the passes and fixes the order. [`Plan::lay_out`] must follow before the plan can run.
    pub fn new(graph: &Graph, numerics: &Numerics, target: &dyn Target, stop: Stop) -> Result<Self> {
        graph.verify()?;
        let done = passes::run(graph, numerics, target, stop, &mut |_, _| Ok(()))?;
        let (mut graph, map) = (done.graph, done.map);
        graph.shrink();
        graph.verify()?;
        let hoisted = hoistable(&graph)?;
        let all = || (0..graph.nodes().len()).filter(|n| !graph.nodes()[*n].is_view()).map(|n| NodeId(n as u32));
        let mut order = memory::collect(all().filter(|n| hoisted[n.0 as usize]), WHAT)?;
        let prepared = order.len();
        memory::extend(&mut order, all().filter(|n| !hoisted[n.0 as usize]), WHAT)?;
        let segments = segment_ranges(&graph, &order, prepared)?;
        let workspace = memory::filled(0, order.len(), WHAT)?;
        let frozen = graph.frozen_storages()?;
        Ok(Self {
            graph,
            numerics: *numerics,
            map,
            order,
            prepared,
            segments,
            locations: vec![],
            workspace,
            frozen,
            shared: vec![],
            arena_bytes: 0,
            input_bytes: 0,
            persistent_bytes: 0,
            peak_live_bytes: 0,
            comparisons: 0,
        })
    }

    /// Gives every value its place. `workspace[i]` is the scratch of the i-th node of the order, in bytes.
    pub fn lay_out(&mut self, workspace: &[usize], stop: Stop) -> Result<()> {
        let roots = self.graph.roots()?;
        let (first, last) = self.lifetimes(&roots)?;
        self.locations = memory::filled(Location::Unused, self.graph.values().len(), WHAT)?;
        let (mut blocks, mut owners, mut shared) = (vec![], vec![], vec![]);
        let mut persistent = 0usize;
        // The inputs come first and together: a device gets them in one copy.
        for (i, value) in self.graph.values().iter().enumerate().filter(|(_, v)| matches!(v.origin, Origin::Input)) {
            self.locations[i] = persist(&mut persistent, aligned(value.ty.bytes())?)?;
        }
        self.input_bytes = persistent;
        let mut fills = HashMap::new();
        for (i, value) in self.graph.values().iter().enumerate() {
            if roots[i].0 as usize != i || matches!(value.origin, Origin::Input) {
                continue;
            }
            let bytes = aligned(value.ty.bytes())?;
            self.locations[i] = match (&value.origin, value.storage) {
                (_, Some(s)) => Location::Storage(s),
                (Origin::Const(_), _) => Location::Const(ValueId(i as u32)),
                // As many of the same number are the same bytes.
                (Origin::Fill(number), _) => match fills.get(&(number.to_bits(), bytes)) {
                    Some(place) => *place,
                    None => {
                        let place = persist(&mut persistent, bytes)?;
                        memory::insert(&mut fills, (number.to_bits(), bytes), place, WHAT)?;
                        place
                    }
                },
                // Computed once and read in every run.
                (Origin::Node { .. }, _) if first[i] < self.prepared && last[i] >= self.prepared => match Recipe::of(&self.graph, ValueId(i as u32)) {
                    Some((recipe, states)) => {
                        memory::push(&mut shared, SharedValue { value: ValueId(i as u32), bytes, recipe, states }, WHAT)?;
                        Location::Shared(shared.len() - 1)
                    }
                    None => persist(&mut persistent, bytes)?,
                },
                // What nobody reads (the gradient of a frozen parameter) still has memory while its node runs, so that kernels need not ask.
                _ => {
                    memory::push(&mut owners, Owner::Value(i), WHAT)?;
                    memory::push(&mut blocks, Block { bytes, first: first[i], last: last[i] }, WHAT)?;
                    Location::Unused
                }
            };
        }
        for (i, bytes) in workspace.iter().enumerate().filter(|(_, b)| **b > 0) {
            memory::push(&mut owners, Owner::Workspace(i), WHAT)?;
            memory::push(&mut blocks, Block { bytes: aligned(*bytes)?, first: i, last: i }, WHAT)?;
        }
        (self.persistent_bytes, self.shared) = (persistent, shared);
        self.place(&owners, &layout::lay_out(&blocks, self.order.len(), stop)?);
        for (i, root) in roots.iter().enumerate() {
            self.locations[i] = self.locations[root.0 as usize];
        }
        Ok(())
    }

    /// For each value that is its own root, the first and the last node of the order that need its memory.
    fn lifetimes(&self, roots: &[ValueId]) -> Result<(Vec<usize>, Vec<usize>)> {
        let mut first = memory::filled(usize::MAX, roots.len(), WHAT)?;
        let mut last = memory::filled(0usize, roots.len(), WHAT)?;
        for (i, id) in self.order.iter().enumerate() {
            let node = &self.graph.nodes()[id.0 as usize];
            for v in &node.outputs {
                let r = roots[v.0 as usize].0 as usize;
                first[r] = first[r].min(i);
                last[r] = last[r].max(i);
            }
            for v in &node.inputs {
                let r = roots[v.0 as usize].0 as usize;
                last[r] = last[r].max(i);
            }
        }
        for v in self.graph.outputs() {
            last[roots[v.0 as usize].0 as usize] = self.order.len();
        }
        Ok((first, last))
    }

    fn place(&mut self, owners: &[Owner], layout: &layout::Layout) {
        for (owner, offset) in owners.iter().zip(&layout.offsets) {
            match owner {
                Owner::Value(v) => self.locations[*v] = Location::Arena(*offset),
                Owner::Workspace(n) => self.workspace[*n] = *offset,
            }
        }
        (self.arena_bytes, self.peak_live_bytes, self.comparisons) = (layout.arena_bytes, layout.peak_bytes, layout.comparisons);
    }

    /// The program after all passes.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What it computes in.
    pub fn numerics(&self) -> &Numerics {
        &self.numerics
    }

    /// The planned id of a value of the graph that was given.
    pub fn resolve(&self, original: ValueId) -> Result<ValueId> {
        let mapped = self.map.get(original.0 as usize).copied().flatten();
        mapped.ok_or_else(|| Error::internal(format!("value {} is not part of the plan", original.0)))
    }

    /// The storage of a name.
    pub fn storage_id(&self, name: &str) -> Result<StorageId> {
        self.graph.storage(name).ok_or_else(|| Error::not_found(format!("the plan has no storage '{name}'")))
    }

    /// The storage of a name that may share this tensor: one of its type that no node writes.
    pub fn bindable(&self, name: &str, tensor: &Tensor) -> Result<StorageId> {
        let id = self.storage_id(name)?;
        let ty = &self.graph.storages()[id.0 as usize].ty;
        if tensor.shape() != ty.shape || tensor.dtype() != ty.dtype {
            return Err(Error::shape(format!("'{name}': expected {:?} {:?}, found {:?} {:?}", ty.dtype, ty.shape, tensor.dtype(), tensor.shape())));
        }
        if !self.frozen[id.0 as usize] {
            return Err(Error::internal(format!("'{name}' is written by the graph and cannot be shared")));
        }
        Ok(id)
    }

    /// The storage of a name that may be filled with so many bytes: one that a node writes.
    pub fn writable(&self, name: &str, bytes: usize) -> Result<StorageId> {
        let id = self.storage_id(name)?;
        let expected = self.graph.storages()[id.0 as usize].ty.bytes();
        if self.frozen[id.0 as usize] {
            return Err(Error::internal(format!("'{name}' is immutable")));
        }
        if bytes != expected {
            return Err(Error::shape(format!("'{name}' has {expected} bytes, {bytes} were given")));
        }
        Ok(id)
    }

    /// For each storage, whether no node writes it.
    pub fn frozen(&self) -> &[bool] {
        &self.frozen
    }

    /// Where the bytes of an input go among the inputs; the graph that was given names it.
    pub fn input_offset(&self, input: ValueId, bytes: usize) -> Result<usize> {
        // An input that no node reads has a place too.
        let id = self.resolve(input)?;
        let value = self.graph.value(id);
        if bytes != value.ty.bytes() {
            return Err(Error::shape(format!("input '{}' has {} bytes, {bytes} were given", value.name, value.ty.bytes())));
        }
        match self.location(id) {
            Location::Persistent(at) => Ok(at),
            other => Err(Error::internal(format!("input '{}' lies in {other:?}", value.name))),
        }
    }

    /// Nodes in order of execution.
    pub fn order(&self) -> &[NodeId] {
        &self.order
    }

    /// How many nodes at the front run only once.
    pub fn prepared(&self) -> usize {
        self.prepared
    }

    /// For each segment, its range of [`Plan::order`].
    pub fn segments(&self) -> &[Range<usize>] {
        &self.segments
    }

    /// The range of [`Plan::order`] of the segment with this name, the first one if several have it.
    pub fn segment(&self, name: &str) -> Result<Range<usize>> {
        let at = self.graph.segments().iter().position(|n| n == name);
        let range = at.and_then(|at| self.segments.get(at)).cloned();
        range.ok_or_else(|| Error::not_found(format!("the plan has no segment '{name}'; it has {}", self.graph.segments().join(", "))))
    }

    /// Where a planned value is.
    pub fn location(&self, id: ValueId) -> Location {
        self.locations.get(id.0 as usize).copied().unwrap_or(Location::Unused)
    }

    /// Byte offset in the arena of a node's scratch.
    pub fn workspace_offset(&self, at: usize) -> usize {
        self.workspace[at]
    }

    /// Size of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// Size of the front part of the persistent area, which holds the inputs.
    pub fn input_bytes(&self) -> usize {
        self.input_bytes
    }

    /// Size of the persistent area: inputs and what the prepare phase computed.
    pub fn persistent_bytes(&self) -> usize {
        self.persistent_bytes
    }

    /// What other plans may have too.
    pub fn shared(&self) -> &[SharedValue] {
        &self.shared
    }

    /// Size of all that.
    pub fn shared_bytes(&self) -> usize {
        self.shared.iter().map(|shared| shared.bytes).sum()
    }

    /// Bytes of the plan itself: the program, its order and places.
    pub fn program_bytes(&self) -> usize {
        let tables = size_of_val(&*self.map) + size_of_val(&*self.order) + size_of_val(&*self.locations) + size_of_val(&*self.workspace);
        let shared = self.shared.iter().map(|s| size_of_val(s) + s.recipe.bytes() + size_of_val(&*s.states)).sum::<usize>();
        self.graph.program_bytes() + tables + size_of_val(&*self.segments) + shared
    }

    /// How many pairs of blocks the layout compared: what it cost.
    pub fn layout_comparisons(&self) -> usize {
        self.comparisons
    }

    /// Constants of one repeated number: where each lies in the persistent area, its elements, and the number. The executable writes them once it has memory.
    pub fn fills(&self) -> impl Iterator<Item = (usize, usize, f32)> {
        let fill = |(i, value): (usize, &Value)| match (&value.origin, self.locations.get(i)) {
            (Origin::Fill(number), Some(Location::Persistent(at))) => Some((*at, value.ty.numel(), *number)),
            _ => None,
        };
        self.graph.values().iter().enumerate().filter_map(fill)
    }

    /// The largest sum of live bytes over the schedule: no layout can be smaller.
    pub fn peak_live_bytes(&self) -> usize {
        self.peak_live_bytes
    }
}

/// What a block of the arena is for.
enum Owner {
    Value(usize),
    Workspace(usize),
}

fn persist(end: &mut usize, bytes: usize) -> Result<Location> {
    let at = *end;
    *end = at.checked_add(bytes).ok_or_else(too_large)?;
    Ok(Location::Persistent(at))
}

fn aligned(bytes: usize) -> Result<usize> {
    bytes.checked_next_multiple_of(ALIGN).filter(|b| *b < isize::MAX as usize).ok_or_else(too_large)
}

/// Consecutive ranges of the running part of the order, one a segment.
fn segment_ranges(graph: &Graph, order: &[NodeId], prepared: usize) -> Result<Vec<Range<usize>>> {
    let mut ranges = memory::with_capacity(graph.segments().len(), WHAT)?;
    let mut at = prepared;
    for segment in 0..graph.segments().len() {
        let start = at;
        while at < order.len() && graph.nodes()[order[at].0 as usize].segment <= segment {
            at += 1;
        }
        ranges.push(start..at);
    }
    Ok(ranges)
}
