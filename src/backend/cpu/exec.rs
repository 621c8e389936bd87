//! The CPU executable: a kernel a node, a pointer table, one arena.

use super::kernel::{CpuKernel, Io, Slot};
use super::kernels::bf16;
use super::kernels::int8::Set;
use super::kernels::workers::Workers;
use super::lower::lower;
use super::target::Target;
use super::{Isa, ThreadPool};
use crate::backend::report::{self, Profile};
use crate::backend::weights::{Packed, Weights, must_run};
use crate::backend::{Backend, Executable, HostBytes, Memory, unprepared};
use crate::cancel::{Stop, cancelled};
use crate::error::{Error, Result, Status};
use crate::graph::plan::Location;
use crate::graph::{Alias, Graph, Node, Numerics, Op, OpDef, Origin, Plan, TensorType, ValueId};
use crate::memory::{self, heap};
use crate::tensor::{Buffer, DType, Tensor};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The CPU as a device: an instruction set and the worker threads of one runtime.
#[derive(Clone)]
pub struct CpuBackend {
    pool: Arc<ThreadPool>,
    isa: Isa,
    /// That of whole numbers, if a test chose it.
    set: Option<Set>,
    /// What multiplies bf16, if a test chose it.
    tiles: Option<&'static bf16::Kernel>,
    /// What executables share. Clones of a backend have the same.
    weights: Arc<Weights<Buffer>>,
}

impl CpuBackend {
    /// `threads` compute threads, the calling one included, and the best instruction set of this machine.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with_isa(threads, Isa::detect())
    }

    /// The same with a given instruction set, for tests.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Self> {
        Ok(Self { pool: Arc::new(ThreadPool::new(threads)?), isa, set: None, tiles: None, weights: Arc::new(Weights::new()?) })
    }

    /// The same with a given instruction set for whole numbers, and that for floats which goes with it.
    pub fn with_set(threads: usize, set: Set) -> Result<Self> {
        Ok(Self { set: Some(set), ..Self::with_isa(threads, set.isa())? })
    }

    /// The best instruction set, and for bf16 these tiles, which this machine must have.
    pub fn with_tiles(threads: usize, tiles: &'static bf16::Kernel) -> Result<Self> {
        Ok(Self { tiles: Some(tiles), ..Self::new(threads)? })
    }

    /// Bytes of the packed weights that executables of this backend have now, all together.
    pub fn packed_bytes(&self) -> usize {
        self.weights.bytes(Buffer::len)
    }

    /// Number of compute threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

impl Backend for CpuBackend {
    fn compile_until(&self, graph: &Graph, numerics: &Numerics, stop: Stop) -> Result<Box<dyn Executable>> {
        Ok(Box::new(CpuExecutable::new(graph, numerics, self, stop)?))
    }
}

/// What an executable's tables are called where there is no memory for them.
const WHAT: &str = "compiled graph";
/// Bytes that are filled between two looks at the caller's wish to stop.
const FILL_BYTES: usize = 1 << 20;

/// Kernels, each with the first node that it is for, whose types hash alike.
type Alike<'a> = Vec<(&'a Node, Arc<dyn CpuKernel>)>;

/// The kernels of a plan's order, and the bytes of their tables. Nodes of the same op and types share one: a run of a thousand steps has as many kernels as
/// one of a single step.
fn lower_all(plan: &Plan, target: Target, stop: Stop) -> Result<(Vec<Arc<dyn CpuKernel>>, usize)> {
    let graph = plan.graph();
    let mut known: HashMap<u64, Alike> = HashMap::new();
    let mut kernels = memory::with_capacity(plan.order().len(), WHAT)?;
    let mut table_bytes = 0;
    for id in plan.order() {
        stop.check()?;
        memory::check()?;
        let node = &graph.nodes()[id.0 as usize];
        let hash = types_hash(graph, node);
        if !known.contains_key(&hash) {
            memory::insert(&mut known, hash, vec![], WHAT)?;
        }
        let alike = known.entry(hash).or_default();
        let found = alike.iter().find(|(other, _)| other.op == node.op && types(graph, other).eq(types(graph, node)));
        let kernel = match found {
            Some((_, kernel)) => kernel.clone(),
            None => {
                let kernel: Arc<dyn CpuKernel> = lower(graph, node, target).map_err(|e| e.context(node.op.name()))?.into();
                table_bytes += kernel.table_bytes();
                memory::push(alike, (node, kernel.clone()), WHAT)?;
                kernel
            }
        };
        kernels.push(kernel);
    }
    Ok((kernels, table_bytes))
}

/// Types of a node's operands and results.
fn types<'a>(graph: &'a Graph, node: &'a Node) -> impl Iterator<Item = &'a TensorType> {
    node.inputs.iter().chain(&node.outputs).map(|v| &graph.value(*v).ty)
}

fn types_hash(graph: &Graph, node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.op.name().hash(&mut hasher);
    types(graph, node).for_each(|ty| ty.hash(&mut hasher));
    hasher.finish()
}

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
    /// By place in the plan's order; nodes that are alike share one.
    kernels: Vec<Arc<dyn CpuKernel>>,
    /// Bytes of the kernels' tables.
    table_bytes: usize,
    storages: Vec<Held>,
    /// By place in the plan's list of shared values, since the last preparation.
    packed: Vec<Arc<Packed<Buffer>>>,
    arena: Buffer,
    persistent: Buffer,
    /// Per node of the order: operands, then results, then scratch.
    slots: Vec<Vec<Slot>>,
    /// Per node of the order, whether it writes a state.
    updates: Vec<bool>,
    linked: bool,
    profile: Option<Profile>,
}

impl CpuExecutable {
    fn new(graph: &Graph, numerics: &Numerics, backend: &CpuBackend, stop: Stop) -> Result<Self> {
        let target = Target { isa: backend.isa, set: backend.set, tiles: backend.tiles, threads: backend.threads() };
        let mut plan = Plan::new(graph, numerics, &target, stop)?;
        let (kernels, table_bytes) = lower_all(&plan, target, stop)?;
        let workspace = memory::collect(kernels.iter().map(|k| k.workspace()), WHAT)?;
        plan.lay_out(&workspace, stop)?;
        report::plan("CPU", &plan)?;
        // The largest first, and all of it before a byte is written: what cannot fit is refused at once.
        let arena = Buffer::zeroed(plan.arena_bytes(), "arena")?;
        let persistent = Buffer::zeroed(plan.persistent_bytes(), "inputs and prepared values")?;
        let frozen = plan.frozen();
        let mut storages = memory::with_capacity(frozen.len(), WHAT)?;
        for (storage, frozen) in plan.graph().storages().iter().zip(frozen) {
            storages.push(if *frozen { Held::Unbound } else { Held::Owned(Buffer::zeroed(storage.ty.bytes(), &storage.name)?) });
        }
        let updates = plan.order().iter().map(|id| matches!(plan.graph().nodes()[id.0 as usize].op.alias(), Alias::Updates(_)));
        let updates = memory::collect(updates, WHAT)?;
        let profile = Profile::of("CPU", &plan)?;
        let mut this = Self {
            plan,
            backend: backend.clone(),
            kernels,
            table_bytes,
            storages,
            packed: vec![],
            arena,
            persistent,
            slots: vec![],
            updates,
            linked: false,
            profile,
        };
        this.reserve_slots(&workspace)?;
        this.fill(stop)?;
        Ok(this)
    }

    /// Writes the constants of one repeated number.
    fn fill(&mut self, stop: Stop) -> Result<()> {
        let bytes = self.persistent.bytes_mut();
        for (at, numel, number) in self.plan.fills().filter(|(.., number)| number.to_bits() != 0) {
            for piece in bytes[at..at + numel * size_of::<f32>()].chunks_mut(FILL_BYTES) {
                stop.check()?;
                piece.chunks_exact_mut(size_of::<f32>()).for_each(|element| element.copy_from_slice(&number.to_ne_bytes()));
            }
        }
        Ok(())
    }

    fn reserve_slots(&mut self, workspace: &[usize]) -> Result<()> {
        memory::reserve(&mut self.slots, workspace.len(), WHAT)?;
        for (i, id) in self.plan.order().iter().enumerate() {
            let node = &self.plan.graph().nodes()[id.0 as usize];
            memory::check()?;
            let values = types(self.plan.graph(), node).map(|ty| Slot::empty(ty.numel(), ty.dtype));
            self.slots.push(memory::collect(values.chain([Slot::empty(workspace[i], DType::U8)]), WHAT)?);
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
            Location::Shared(i) => match self.packed.get(i) {
                Some(packed) => packed.buffer.as_ptr(),
                None => return Err(unprepared()),
            },
            Location::Const(root) => match &self.plan.graph().value(root).origin {
                Origin::Const(tensor) => tensor.bytes().as_ptr().cast_mut(),
                _ => return Err(Error::internal("a constant without its table")),
            },
            Location::Storage(s) => match &self.storages[s.0 as usize] {
                Held::Shared(tensor) => tensor.bytes().as_ptr().cast_mut(),
                Held::Owned(buffer) => buffer.as_ptr(),
                Held::Unbound => return Err(self.unbound(s.0 as usize)),
            },
        })
    }

    fn unbound(&self, storage: usize) -> Error {
        Error::state(format!("storage '{}' has no contents yet", self.plan.graph().storages()[storage].name))
    }

    /// Finds the weights that others have packed.
    fn share(&mut self) -> Result<()> {
        let tensor = |i: usize| match &self.storages[i] {
            Held::Shared(tensor) => Ok(tensor.clone()),
            Held::Unbound | Held::Owned(_) => Err(self.unbound(i)),
        };
        self.packed = self.backend.weights.of_plan(&self.plan, tensor, Buffer::zeroed)?;
        Ok(())
    }

    /// Runs the nodes that run once, but those whose results are there; false where it was stopped.
    fn run_once(&mut self, stop: Stop) -> Result<bool> {
        let runs = must_run(&self.plan, |i| *self.packed[i].ready())?;
        for at in (0..self.plan.prepared()).filter(|at| runs[*at]) {
            let output = self.plan.graph().nodes()[self.plan.order()[at].0 as usize].outputs[0];
            let Location::Shared(i) = self.plan.location(output) else {
                if self.run_until(at..at + 1, stop)? == at {
                    return Ok(false);
                }
                continue;
            };
            let packed = self.packed[i].clone();
            let mut ready = packed.ready();
            if !*ready {
                if self.run_until(at..at + 1, stop)? == at {
                    return Ok(false);
                }
                *ready = true;
            }
        }
        Ok(true)
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

    fn memory(&self) -> Memory {
        let owned = |held: &Held| if let Held::Owned(buffer) = held { buffer.len() } else { 0 };
        let slots = self.slots.iter().map(|s| size_of_val(s) + heap(size_of_val(s.as_slice()))).sum::<usize>();
        Memory {
            arena: self.arena.len(),
            persistent: self.persistent.len(),
            shared: self.plan.shared_bytes(),
            states: self.storages.iter().map(owned).sum(),
            constants: self.plan.graph().constant_bytes(),
            program: self.plan.program_bytes() + self.table_bytes + size_of_val(&*self.kernels) + size_of_val(&*self.updates) + slots,
        }
    }

    fn prepare_until(&mut self, stop: Stop) -> Result<()> {
        self.linked = false;
        self.share()?;
        self.link()?;
        let done = self.run_once(stop);
        self.linked = matches!(done, Ok(true)); // half prepared is not prepared
        if done? { Ok(()) } else { Err(cancelled()) }
    }

    fn check_ready(&self) -> Result<()> {
        if self.linked { Ok(()) } else { Err(unprepared()) }
    }

    fn run_until(&mut self, range: Range<usize>, stop: Stop) -> Result<usize> {
        self.check_ready()?;
        if range.end > self.plan.order().len() {
            return Err(Error::invalid(format!("nodes {range:?} of a plan of {}", self.plan.order().len())));
        }
        for at in range.clone() {
            if stop.is_set() {
                return Ok(at);
            }
            let node = &self.plan.graph().nodes()[self.plan.order()[at].0 as usize];
            // A node that was stopped in the middle runs again from its operands. Half an update could not.
            let stop = if self.updates[at] { Stop::NEVER } else { stop };
            let io = Io { slots: &self.slots[at], inputs: node.inputs.len(), pool: Workers::new(&self.backend.pool, stop), isa: self.backend.isa };
            let start = self.profile.as_ref().map(|_| Instant::now());
            match self.kernels[at].run(&io) {
                Err(e) if e.status == Status::Cancelled => return Ok(at),
                done => done.map_err(|e| e.context(node_name(&node.op, self.plan.graph(), node.outputs[0])))?,
            }
            if let (Some(profile), Some(start)) = (&mut self.profile, start) {
                profile.add(at, start);
            }
        }
        Ok(range.end)
    }
}

fn node_name(op: &Op, graph: &Graph, output: ValueId) -> String {
    format!("{} '{}'", op.name(), graph.value(output).name)
}

// SAFETY: raw pointers in `slots` point into buffers that the executable itself owns or keeps alive; nothing else reaches them.
unsafe impl Send for CpuExecutable {}
