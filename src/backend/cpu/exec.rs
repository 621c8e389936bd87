//! The CPU executable: a kernel a node, a pointer table, one arena.

use super::lower::{CpuKernel, Io, Slot, Target, lower, packed_len};
use super::{Isa, ThreadPool};
use crate::backend::{Backend, Executable, HostBytes, unprepared};
use crate::error::{Error, Result};
use crate::graph::plan::Location;
use crate::graph::{Graph, Op, OpDef, Origin, Plan, ValueId};
use crate::memory;
use crate::tensor::{Buffer, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// The CPU as a device: an instruction set and the worker threads of one runtime.
#[derive(Clone)]
pub struct CpuBackend {
    pool: Arc<ThreadPool>,
    isa: Isa,
}

impl CpuBackend {
    /// `threads` compute threads, the calling one included, and the best instruction set of this machine.
    pub fn new(threads: usize) -> Result<Self> {
        Ok(Self { pool: Arc::new(ThreadPool::new(threads)?), isa: Isa::detect() })
    }

    /// The same with a given instruction set, for tests.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Self> {
        Ok(Self { pool: Arc::new(ThreadPool::new(threads)?), isa })
    }

    /// Number of compute threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

impl Backend for CpuBackend {
    fn compile(&self, graph: &Graph) -> Result<Box<dyn Executable>> {
        Ok(Box::new(CpuExecutable::new(graph, self)?))
    }
}

/// What an executable's tables are called where there is no memory for them.
const WHAT: &str = "compiled graph";

/// What holds a storage's bytes.
enum Held {
    /// Nothing yet.
    Unbound,
    /// Shared and immutable.
    Shared(Arc<Tensor>),
    /// Written by the graph.
    Owned(Buffer),
}

/// A compiled graph on the CPU.
pub struct CpuExecutable {
    plan: Plan,
    backend: CpuBackend,
    kernels: Vec<Box<dyn CpuKernel>>,
    storages: Vec<Held>,
    arena: Buffer,
    persistent: Buffer,
    /// Per node of the order: operands, then results, then scratch.
    slots: Vec<Vec<Slot>>,
    linked: bool,
}

impl CpuExecutable {
    fn new(graph: &Graph, backend: &CpuBackend) -> Result<Self> {
        let mut plan = Plan::new(graph, &|purpose, geometry, weight: &[usize], _| packed_len(purpose, geometry, weight, backend.isa))?;
        let target = Target { isa: backend.isa, threads: backend.threads() };
        let mut kernels = memory::with_capacity(plan.order().len(), WHAT)?;
        for id in plan.order() {
            memory::check()?;
            let node = &plan.graph().nodes()[id.0 as usize];
            kernels.push(lower(plan.graph(), node, target).map_err(|e| e.context(node.op.name()))?);
        }
        let workspace = memory::collect(kernels.iter().map(|k: &Box<dyn CpuKernel>| k.workspace()), WHAT)?;
        plan.lay_out(&workspace)?;
        let frozen = plan.frozen();
        let mut storages = memory::with_capacity(frozen.len(), WHAT)?;
        for (storage, frozen) in plan.graph().storages().iter().zip(frozen) {
            storages.push(if *frozen { Held::Unbound } else { Held::Owned(Buffer::zeroed(storage.ty.bytes(), &storage.name)?) });
        }
        let arena = Buffer::zeroed(plan.arena_bytes(), "arena")?;
        let persistent = Buffer::zeroed(plan.persistent_bytes(), "inputs and prepared values")?;
        let mut this = Self { plan, backend: backend.clone(), kernels, storages, arena, persistent, slots: vec![], linked: false };
        this.reserve_slots(&workspace)?;
        Ok(this)
    }

    fn reserve_slots(&mut self, workspace: &[usize]) -> Result<()> {
        memory::reserve(&mut self.slots, workspace.len(), WHAT)?;
        for (i, id) in self.plan.order().iter().enumerate() {
            let node = &self.plan.graph().nodes()[id.0 as usize];
            memory::check()?;
            let values = node.inputs.iter().chain(&node.outputs).map(|v| Slot::empty(self.plan.graph().value(*v).ty.numel()));
            self.slots.push(memory::collect(values.chain([Slot::empty(workspace[i])]), WHAT)?);
        }
        Ok(())
    }

    /// Fills the pointer table; allocates nothing.
    fn link(&mut self) -> Result<()> {
        for at in 0..self.plan.order().len() {
            let node = &self.plan.graph().nodes()[self.plan.order()[at].0 as usize];
            for (k, value) in node.inputs.iter().chain(&node.outputs).enumerate() {
                self.slots[at][k].ptr = self.pointer(*value)?;
            }
            // SAFETY: the offset lies inside the arena by the plan's layout.
            let scratch = unsafe { self.arena.as_ptr().add(self.plan.workspace_offset(at)) };
            if let Some(slot) = self.slots[at].last_mut() {
                slot.ptr = scratch;
            }
        }
        self.linked = true;
        Ok(())
    }

    fn pointer(&self, id: ValueId) -> Result<*mut u8> {
        Ok(match self.plan.location(id) {
            Location::Unused => std::ptr::null_mut(),
            // SAFETY: offsets lie inside their areas by the plan's layout.
            Location::Arena(at) => unsafe { self.arena.as_ptr().add(at) },
            // SAFETY: as above.
            Location::Persistent(at) => unsafe { self.persistent.as_ptr().add(at) },
            Location::Const(root) => match &self.plan.graph().value(root).origin {
                Origin::Const(tensor) => tensor.bytes().as_ptr().cast_mut(),
                _ => return Err(Error::internal("a constant without its table")),
            },
            Location::Storage(s) => match &self.storages[s.0 as usize] {
                Held::Shared(tensor) => tensor.bytes().as_ptr().cast_mut(),
                Held::Owned(buffer) => buffer.as_ptr(),
                Held::Unbound => return Err(Error::state(format!("storage '{}' has no contents yet", self.plan.graph().storages()[s.0 as usize].name))),
            },
        })
    }
}

impl Executable for CpuExecutable {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn bind(&mut self, storage: &str, tensor: Arc<Tensor>) -> Result<()> {
        let id = self.plan.bindable(storage, &tensor)?;
        self.storages[id.0 as usize] = Held::Shared(tensor);
        self.linked = false;
        Ok(())
    }

    fn write_storage(&mut self, storage: &str, bytes: &[u8]) -> Result<()> {
        let id = self.plan.writable(storage, bytes.len())?;
        let Held::Owned(buffer) = &mut self.storages[id.0 as usize] else { return Err(Error::internal(format!("'{storage}' has no buffer"))) };
        buffer.bytes_mut().copy_from_slice(bytes);
        Ok(())
    }

    fn storage_bytes(&self, storage: &str) -> Result<HostBytes<'_>> {
        match &self.storages[self.plan.storage_id(storage)?.0 as usize] {
            Held::Owned(buffer) => Ok(HostBytes::Borrowed(buffer.bytes())),
            Held::Shared(tensor) => Ok(HostBytes::Borrowed(tensor.bytes())),
            Held::Unbound => Err(Error::state(format!("storage '{storage}' has no contents yet"))),
        }
    }

    fn write_bytes(&mut self, input: ValueId, bytes: &[u8]) -> Result<()> {
        let at = self.plan.input_offset(input, bytes.len())?;
        self.persistent.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read_bytes(&self, value: ValueId) -> Result<HostBytes<'_>> {
        let id = self.plan.resolve(value)?;
        let len = self.plan.graph().value(id).ty.bytes();
        let ptr = self.pointer(id)?;
        // The arena keeps only tapped values until the end of the run; others are overwritten on the way.
        let lost = matches!(self.plan.location(id), Location::Arena(_)) && !self.plan.graph().outputs().contains(&id);
        if ptr.is_null() || lost {
            return Err(Error::internal(format!("'{}' was not tapped", self.plan.graph().value(id).name)));
        }
        // SAFETY: the location holds the value's bytes; `&self` keeps the executable from running meanwhile.
        Ok(HostBytes::Borrowed(unsafe { std::slice::from_raw_parts(ptr, len) }))
    }

    fn prepare(&mut self) -> Result<()> {
        self.link()?;
        let done = self.run(0..self.plan.prepared());
        self.linked = done.is_ok(); // half prepared is not prepared
        done
    }

    fn check_ready(&self) -> Result<()> {
        if self.linked { Ok(()) } else { Err(unprepared()) }
    }

    fn run(&mut self, range: Range<usize>) -> Result<()> {
        self.check_ready()?;
        if range.end > self.plan.order().len() {
            return Err(Error::invalid(format!("nodes {range:?} of a plan of {}", self.plan.order().len())));
        }
        for at in range {
            let node = &self.plan.graph().nodes()[self.plan.order()[at].0 as usize];
            let io = Io { slots: &self.slots[at], inputs: node.inputs.len(), pool: &self.backend.pool, isa: self.backend.isa };
            self.kernels[at].run(&io).map_err(|e| e.context(node_name(&node.op, self.plan.graph(), node.outputs[0])))?;
        }
        Ok(())
    }
}

fn node_name(op: &Op, graph: &Graph, output: ValueId) -> String {
    format!("{} '{}'", op.name(), graph.value(output).name)
}

// SAFETY: raw pointers in `slots` point into buffers that the executable itself owns or keeps alive; nothing else reaches them.
unsafe impl Send for CpuExecutable {}
