//! From a graph to something a backend can run: passes, what runs once and what runs always, and one arena laid out by liveness.

use super::passes::{Wishes, absorb_norms, chain, eliminate_dead, fuse, merge_products, pack, precision};
use super::{Alias, Graph, Node, NodeId, OpDef, Origin, StorageId, Value, ValueId};
use crate::error::{Error, Result};
use crate::memory;
use crate::tensor::{ALIGN, Tensor};
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
    /// At this byte of the arena.
    Arena(usize),
}

/// A graph made ready for a backend. Nodes `0..prepared` of `order` depend on frozen storages and constants alone and run once after binding;
/// the others run every time.
#[derive(Debug)]
pub struct Plan {
    graph: Graph,
    map: Vec<Option<ValueId>>,
    order: Vec<NodeId>,
    prepared: usize,
    segments: Vec<Range<usize>>,
    locations: Vec<Location>,
    workspace: Vec<usize>,
    frozen: Vec<bool>,
    arena_bytes: usize,
    input_bytes: usize,
    persistent_bytes: usize,
    peak_live_bytes: usize,
}

impl Plan {
    /// Runs the passes and fixes the order. [`Plan::lay_out`] must follow before the plan can run.
    pub fn new(graph: &Graph, backend: &dyn Wishes) -> Result<Self> {
        graph.verify()?;
        let live = eliminate_dead(graph)?;
        let typed = precision(&live.graph, graph.precision())?;
        let fused = fuse(&typed.graph)?;
        let merged = merge_products(&fused.graph, backend)?;
        let absorbed = absorb_norms(&merged.graph, backend)?;
        let packed = pack(&absorbed.graph, backend)?;
        let map = [&typed.map, &fused.map, &merged.map, &absorbed.map, &packed.map].into_iter().try_fold(live.map, |map, next| chain(&map, next))?;
        let graph = packed.graph;
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
            map,
            order,
            prepared,
            segments,
            locations: vec![],
            workspace,
            frozen,
            arena_bytes: 0,
            input_bytes: 0,
            persistent_bytes: 0,
            peak_live_bytes: 0,
        })
    }

    /// Gives every value its place. `workspace[i]` is the scratch of the i-th node of the order, in bytes.
    pub fn lay_out(&mut self, workspace: &[usize]) -> Result<()> {
        let roots = self.graph.roots()?;
        let end = self.order.len();
        let mut first = memory::filled(usize::MAX, self.graph.values().len(), WHAT)?;
        let mut last = memory::filled(0usize, self.graph.values().len(), WHAT)?;
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
            last[roots[v.0 as usize].0 as usize] = end;
        }
        self.locations = memory::filled(Location::Unused, self.graph.values().len(), WHAT)?;
        let mut blocks = vec![];
        let mut persistent = 0usize;
        // The inputs come first and together: a device gets them in one copy.
        for (i, value) in self.graph.values().iter().enumerate().filter(|(_, v)| matches!(v.origin, Origin::Input)) {
            self.locations[i] = persist(&mut persistent, aligned(value.ty.bytes())?)?;
        }
        self.input_bytes = persistent;
        for (i, value) in self.graph.values().iter().enumerate() {
            if roots[i].0 as usize != i || matches!(value.origin, Origin::Input) {
                continue;
            }
            let bytes = aligned(value.ty.bytes())?;
            self.locations[i] = match (&value.origin, value.storage) {
                (_, Some(s)) => Location::Storage(s),
                (Origin::Const(_), _) => Location::Const(ValueId(i as u32)),
                // Computed once and read in every run.
                (Origin::Node { .. }, _) if first[i] < self.prepared && last[i] >= self.prepared => persist(&mut persistent, bytes)?,
                // What nobody reads (the gradient of a frozen parameter) still has memory while its node runs, so that kernels need not ask.
                _ => {
                    memory::push(&mut blocks, Block { owner: Owner::Value(i), bytes, first: first[i], last: last[i] }, WHAT)?;
                    Location::Unused
                }
            };
        }
        for (i, bytes) in workspace.iter().enumerate().filter(|(_, b)| **b > 0) {
            memory::push(&mut blocks, Block { owner: Owner::Workspace(i), bytes: aligned(*bytes)?, first: i, last: i }, WHAT)?;
        }
        self.persistent_bytes = persistent;
        self.place(blocks)?;
        for (i, root) in roots.iter().enumerate() {
            self.locations[i] = self.locations[root.0 as usize];
        }
        Ok(())
    }

    /// The program after all passes.
    pub fn graph(&self) -> &Graph {
        &self.graph
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

    /// Where a planned value is.
    pub fn location(&self, id: ValueId) -> Location {
        self.locations[id.0 as usize]
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

    /// The largest sum of live bytes over the schedule: no layout can be smaller.
    pub fn peak_live_bytes(&self) -> usize {
        self.peak_live_bytes
    }

    /// Greedy by size: the largest block first, each at the lowest offset that is free for its whole life (Pisarchyk & Lee 2020, "offset calculation").
    fn place(&mut self, mut blocks: Vec<Block>) -> Result<()> {
        self.peak_live_bytes = peak(&blocks, self.order.len())?;
        blocks.sort_unstable_by_key(|b| (std::cmp::Reverse(b.bytes), b.first, b.owner));
        let mut placed: Vec<(usize, Block)> = vec![]; // by offset
        for block in blocks {
            let mut offset = 0usize;
            for (at, other) in &placed {
                if other.first <= block.last && block.first <= other.last {
                    if offset.checked_add(block.bytes).ok_or_else(too_large)? <= *at {
                        break;
                    }
                    offset = offset.max(at + other.bytes);
                }
            }
            match block.owner {
                Owner::Value(v) => self.locations[v] = Location::Arena(offset),
                Owner::Workspace(n) => self.workspace[n] = offset,
            }
            self.arena_bytes = self.arena_bytes.max(offset.checked_add(block.bytes).ok_or_else(too_large)?);
            let index = placed.partition_point(|(at, _)| *at <= offset);
            memory::reserve(&mut placed, 1, WHAT)?;
            placed.insert(index, (offset, block));
        }
        Ok(())
    }
}

/// The largest sum of bytes that are needed at one time, `end` being the time after the last node.
fn peak(blocks: &[Block], end: usize) -> Result<usize> {
    let (mut born, mut freed) = (memory::filled(0usize, end + 1, WHAT)?, memory::filled(0usize, end + 1, WHAT)?);
    for b in blocks {
        born[b.first] = born[b.first].checked_add(b.bytes).ok_or_else(too_large)?;
        freed[b.last] = freed[b.last].checked_add(b.bytes).ok_or_else(too_large)?;
    }
    let (mut live, mut peak) = (0usize, 0);
    for (born, freed) in born.into_iter().zip(freed) {
        live = live.checked_add(born).ok_or_else(too_large)?;
        peak = peak.max(live);
        live -= freed;
    }
    Ok(peak)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Value(usize),
    Workspace(usize),
}

/// Bytes that are needed from one node to another, both included.
#[derive(Debug)]
struct Block {
    owner: Owner,
    bytes: usize,
    first: usize,
    last: usize,
}

fn persist(end: &mut usize, bytes: usize) -> Result<Location> {
    let at = *end;
    *end = at.checked_add(bytes).ok_or_else(too_large)?;
    Ok(Location::Persistent(at))
}

fn too_large() -> Error {
    Error::out_of_memory("the plan needs more memory than can be addressed")
}

fn aligned(bytes: usize) -> Result<usize> {
    bytes.checked_next_multiple_of(ALIGN).filter(|b| *b < isize::MAX as usize).ok_or_else(too_large)
}

/// Nodes that depend on constants and on storages that nobody overwrites: the same in every run.
fn hoistable(graph: &Graph) -> Result<Vec<bool>> {
    let frozen = graph.frozen_storages()?;
    let given = |v: &Value| match (&v.origin, v.storage) {
        (Origin::Const(_), _) => true,
        (Origin::State, Some(s)) => frozen[s.0 as usize],
        _ => false,
    };
    let mut fixed = memory::collect(graph.values().iter().map(given), WHAT)?;
    let once = |node: &Node| {
        let once = !matches!(node.op.alias(), Alias::Updates(_)) && node.inputs.iter().all(|i| fixed[i.0 as usize]);
        node.outputs.iter().for_each(|o| fixed[o.0 as usize] = once);
        once
    };
    memory::collect(graph.nodes().iter().map(once), WHAT)
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
