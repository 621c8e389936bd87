//! The CUDA executable: launches with their addresses in place, and the graphs captured of them.

use super::capture::{CaptureStream, Captured};
use super::context::{Context, Entered};
use super::launch::{Arg, Lowered, Ready};
use super::lower::lower;
use super::memory::{DeviceBuffer, PinnedBuffer};
use super::modules::Kernels;
use super::target::Target;
use crate::backend::report::{self, Profile};
use crate::backend::weights::{Packed, Weights, must_run};
use crate::backend::{Executable, HostBytes, Memory, as_bytes, unprepared};
use crate::cancel::{Stop, cancelled};
use crate::error::{Error, Result};
use crate::graph::plan::Location;
use crate::graph::{Graph, Node, NodeId, Numerics, OpDef, Origin, Plan, ValueId};
use crate::tensor::{ALIGN, Buffer, Tensor};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// A host tensor and its copy on the device, for as long as somebody uses both.
type Upload = (Weak<Tensor>, Weak<DeviceBuffer>);

/// What all executables of one backend share.
pub(super) struct Shared {
    pub context: Arc<Context>,
    pub kernels: Kernels,
    /// Weights on the device, by the address of the host tensor that they are a copy of: many samplers of one model share one copy.
    uploads: Mutex<HashMap<usize, Upload>>,
    /// The same packed.
    weights: Weights<DeviceBuffer>,
}

impl Shared {
    pub fn new(context: Arc<Context>) -> Result<Self> {
        Ok(Self { kernels: Kernels::new(&context)?, context, uploads: Mutex::default(), weights: Weights::new()? })
    }

    pub fn packed_bytes(&self) -> usize {
        self.weights.bytes(DeviceBuffer::len)
    }

    /// The device copy of a tensor, made if there is none.
    fn upload(&self, name: &str, tensor: &Arc<Tensor>) -> Result<Arc<DeviceBuffer>> {
        // First, for in a forked child the lock may be one that nobody gives back.
        let _entered = self.context.enter()?;
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.retain(|_, (tensor, copy)| tensor.strong_count() > 0 && copy.strong_count() > 0);
        let key = Arc::as_ptr(tensor) as usize;
        if let Some(copy) = uploads.get(&key).and_then(|(_, copy)| copy.upgrade()) {
            return Ok(copy);
        }
        let mut copy = DeviceBuffer::zeroed(&self.context, tensor.bytes().len(), name)?;
        copy.write(0, tensor.bytes())?;
        let copy = Arc::new(copy);
        uploads.insert(key, (Arc::downgrade(tensor), Arc::downgrade(&copy)));
        Ok(copy)
    }
}

/// Elements that are filled by one copy.
const FILL: usize = 1 << 14;

/// What holds a storage's bytes.
enum Held {
    /// Nothing yet.
    Unbound,
    /// An immutable tensor, and its device copy while somebody needs it.
    Shared(Arc<Tensor>, Option<Arc<DeviceBuffer>>),
    /// Written by the graph.
    Owned(DeviceBuffer),
}

/// A compiled graph on a GPU. Fields are dropped in order: what may still run goes first.
pub struct CudaExecutable {
    /// By where they begin.
    graphs: Vec<(Range<usize>, Captured)>,
    capture: CaptureStream,
    /// By place in the plan's order.
    ready: Vec<Vec<Ready>>,
    lowered: Vec<Lowered>,
    storages: Vec<Held>,
    /// By place in the plan's list of shared values, since the last preparation.
    packed: Vec<Arc<Packed<DeviceBuffer>>>,
    arena: DeviceBuffer,
    persistent: DeviceBuffer,
    constants: DeviceBuffer,
    /// Where each constant begins.
    constant_at: HashMap<ValueId, usize>,
    /// What [`Arg::Counters`] points to: every launch leaves zeros to the next.
    counters: DeviceBuffer,
    /// What [`Arg::Table`] and [`Arg::Data`] point to, in the order of the launches.
    tables: DeviceBuffer,
    /// The inputs as the host wrote them; the front of `persistent` is their copy.
    inputs: PinnedBuffer,
    /// `inputs` has changed since it was copied.
    changed: bool,
    /// The copy may still be under way.
    copying: bool,
    shared: Arc<Shared>,
    profile: Option<Profile>,
    plan: Plan,
}

impl CudaExecutable {
    pub(super) fn new(graph: &Graph, numerics: &Numerics, shared: &Arc<Shared>, stop: Stop) -> Result<Self> {
        let device = &shared.context.device;
        let target = Target { capability: device.capability, multiprocessors: device.multiprocessors };
        let mut plan = Plan::new(graph, numerics, &target, stop)?;
        let node = |id: &NodeId| stop.check().and_then(|()| lower(plan.graph(), &plan.graph().nodes()[id.0 as usize], target));
        let lowered = plan.order().iter().map(node).collect::<Result<Vec<_>>>()?;
        plan.lay_out(&lowered.iter().map(|l| l.workspace).collect::<Vec<_>>(), stop)?;
        report::plan(&device.name, &plan)?;
        let context = &shared.context;
        let buffer = |len, what: &str| DeviceBuffer::zeroed(context, len, what);
        // The largest first, and all of it before a byte is copied: what cannot fit is refused at once.
        let (arena, persistent) = (buffer(plan.arena_bytes(), "arena")?, buffer(plan.persistent_bytes(), "inputs and prepared values")?);
        let mut storages = vec![];
        for (storage, frozen) in plan.graph().storages().iter().zip(plan.frozen()) {
            storages.push(if *frozen { Held::Unbound } else { Held::Owned(buffer(storage.ty.bytes(), &storage.name)?) });
        }
        let args = || lowered.iter().flat_map(|l| &l.launches).flat_map(|l| &l.args);
        let (constants, constant_at) = upload_constants(&plan, context, stop)?;
        let mut this = Self {
            graphs: vec![],
            capture: CaptureStream::new(context)?,
            ready: vec![],
            storages,
            packed: vec![],
            arena,
            persistent,
            constants,
            constant_at,
            counters: buffer(args().map(counter_bytes).max().unwrap_or(0), "block counters")?,
            tables: buffer(args().map(table_bytes).sum(), "argument tables")?,
            inputs: PinnedBuffer::zeroed(context, plan.input_bytes())?,
            changed: false,
            copying: false,
            lowered,
            shared: shared.clone(),
            profile: Profile::of("CUDA", &plan)?,
            plan,
        };
        this.fill(stop)?;
        Ok(this)
    }

    /// Writes the constants of one repeated number.
    fn fill(&mut self, stop: Stop) -> Result<()> {
        for (at, numel, number) in self.plan.fills().filter(|(.., number)| number.to_bits() != 0) {
            let piece = [number; FILL];
            for start in (0..numel).step_by(FILL) {
                stop.check()?;
                self.persistent.write(at + start * size_of::<f32>(), as_bytes(&piece[..FILL.min(numel - start)]))?;
            }
        }
        Ok(())
    }

    /// Finds the weights that others have packed, and says which of the nodes that run once must run.
    fn share(&mut self) -> Result<Vec<bool>> {
        // First, for in a forked child locks may be such as nobody gives back.
        let context = self.shared.context.clone();
        let _entered = context.enter()?;
        let tensor = |i: usize| match &self.storages[i] {
            Held::Shared(tensor, _) => Ok(tensor.clone()),
            Held::Unbound | Held::Owned(_) => Err(self.unbound(i)),
        };
        self.packed = self.shared.weights.of_plan(&self.plan, tensor, |bytes, name| DeviceBuffer::zeroed(&context, bytes, name))?;
        must_run(&self.plan, |i| *self.packed[i].ready())
    }

    fn unbound(&self, storage: usize) -> Error {
        Error::state(format!("storage '{}' has no contents yet", self.plan.graph().storages()[storage].name))
    }

    /// Which storages the nodes that `runs` says read.
    fn read_by(&self, runs: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut read = vec![false; self.storages.len()];
        for at in (0..self.plan.order().len()).filter(|at| runs(*at)) {
            for input in &self.plan.graph().nodes()[self.plan.order()[at].0 as usize].inputs {
                if let Location::Storage(s) = self.plan.location(*input) {
                    read[s.0 as usize] = true;
                }
            }
        }
        read
    }

    /// Sees to it that those tensors that are read are on the device, and no others are kept there.
    fn keep_uploads(&mut self, read: &[bool], stop: Stop) -> Result<()> {
        for (i, (held, read)) in self.storages.iter_mut().zip(read).enumerate() {
            let Held::Shared(tensor, copy) = held else { continue };
            stop.check()?;
            if !read {
                *copy = None;
            } else if copy.is_none() {
                *copy = Some(self.shared.upload(&self.plan.graph().storages()[i].name, tensor)?);
            }
        }
        Ok(())
    }

    /// Runs these nodes of those that run once.
    fn run_once(&mut self, runs: &[bool], stop: Stop) -> Result<()> {
        for at in (0..self.plan.prepared()).filter(|at| runs[*at]) {
            let output = self.plan.graph().nodes()[self.plan.order()[at].0 as usize].outputs[0];
            let packed = if let Location::Shared(i) = self.plan.location(output) { Some(self.packed[i].clone()) } else { None };
            let mut ready = packed.as_ref().map(|packed| packed.ready());
            if ready.as_ref().is_some_and(|ready| **ready) {
                continue;
            }
            if self.run_nodes(at..at + 1, stop)? == at {
                return Err(cancelled());
            }
            // All that reads them comes behind on the same stream.
            if let Some(ready) = &mut ready {
                **ready = true;
            }
        }
        Ok(())
    }

    fn prepare_by_steps(&mut self, stop: Stop) -> Result<()> {
        let prepared = self.plan.prepared();
        let once = self.share()?;
        let read = self.read_by(|at| at >= prepared || once[at]);
        self.keep_uploads(&read, stop)?;
        self.link(&once, stop)?;
        self.run_once(&once, stop)?;
        // What only those nodes read has been read.
        self.ready[..prepared].iter_mut().for_each(Vec::clear);
        let read = self.read_by(|at| at >= prepared);
        self.keep_uploads(&read, stop)?;
        self.capture_graphs(stop)
    }

    /// Puts all addresses in place; of the nodes that run once only for those of `once`.
    fn link(&mut self, once: &[bool], stop: Stop) -> Result<()> {
        self.graphs.clear();
        self.ready.clear();
        let mut tables = Vec::new();
        let mut ready = vec![];
        for (at, lowered) in self.lowered.iter().enumerate() {
            stop.check()?;
            let node = &self.plan.graph().nodes()[self.plan.order()[at].0 as usize];
            let mut launches = vec![];
            let runs = once.get(at).is_none_or(|runs| *runs);
            for launch in lowered.launches.iter().filter(|_| runs) {
                let function = self.shared.kernels.get(&launch.kernel)?;
                launches.push(Ready::new(launch, function, |arg| self.argument(node, at, arg, &mut tables))?);
            }
            ready.push(launches);
        }
        if !tables.is_empty() {
            self.tables.write(0, &tables)?;
        }
        self.ready = ready;
        Ok(())
    }

    /// The address that an argument means; tables are appended to `tables`.
    fn argument(&self, node: &Node, at: usize, arg: &Arg, tables: &mut Vec<u8>) -> Result<u64> {
        Ok(match arg {
            Arg::Input(i) => self.address(node.inputs[*i])?,
            Arg::Output(i) => self.address(node.outputs[*i])?,
            Arg::Scratch(offset) => self.arena.address() + (self.plan.workspace_offset(at) + offset) as u64,
            Arg::Null => 0,
            Arg::Counters(_) => self.counters.address(),
            Arg::Table(args) => {
                let addresses = args.iter().map(|a| self.argument(node, at, a, &mut vec![])).collect::<Result<Vec<u64>>>()?;
                self.append(tables, as_bytes(&addresses.iter().map(|a| *a as i64).collect::<Vec<_>>()))
            }
            Arg::Data(bytes) => self.append(tables, bytes),
            Arg::Value(_) | Arg::Struct(_) => return Err(Error::internal("a value has no address")),
        })
    }

    fn append(&self, tables: &mut Vec<u8>, bytes: &[u8]) -> u64 {
        let at = tables.len();
        tables.extend_from_slice(bytes);
        tables.resize(tables.len().next_multiple_of(ALIGN), 0);
        self.tables.address() + at as u64
    }

    fn address(&self, id: ValueId) -> Result<u64> {
        Ok(match self.plan.location(id) {
            Location::Unused => 0,
            Location::Arena(at) => self.arena.address() + at as u64,
            Location::Persistent(at) => self.persistent.address() + at as u64,
            Location::Shared(i) => self.packed.get(i).ok_or_else(unprepared)?.buffer.address(),
            Location::Const(root) => {
                self.constants.address() + *self.constant_at.get(&root).ok_or_else(|| Error::internal("a constant without its table"))? as u64
            }
            Location::Storage(s) => match &self.storages[s.0 as usize] {
                Held::Shared(_, Some(copy)) => copy.address(),
                Held::Owned(buffer) => buffer.address(),
                Held::Shared(tensor, None) => return Err(Error::internal(format!("no copy of {:?} numbers on the device", tensor.shape()))),
                Held::Unbound => return Err(self.unbound(s.0 as usize)),
            },
        })
    }

    /// Captures every segment, and all of them as one graph: what a run and a step of it start.
    fn capture_graphs(&mut self, stop: Stop) -> Result<()> {
        let segments = self.plan.segments().iter().filter(|s| !s.is_empty()).cloned();
        let mut ranges: Vec<Range<usize>> = segments.collect();
        let whole = self.plan.prepared()..self.plan.order().len();
        if ranges.len() > 1 {
            ranges.push(whole);
        }
        ranges.sort_by_key(|r| r.start); // looked up by it
        for range in ranges {
            stop.check()?;
            let ready = &mut self.ready[range.clone()];
            let captured = self
                .capture
                .capture(|entered, stream| ready.iter_mut().flatten().try_for_each(|launch| stop.check().and_then(|()| launch.enqueue(entered, stream))))?;
            self.graphs.push((range, captured));
        }
        Ok(())
    }

    /// Copies a piece of device memory to new host memory.
    fn fetch(&self, from: &DeviceBuffer, at: usize, len: usize, what: &str) -> Result<HostBytes<'_>> {
        let mut bytes = Buffer::zeroed(len, what)?;
        from.read(at, bytes.bytes_mut()).map_err(|e| e.context(what))?;
        Ok(HostBytes::Copied(bytes))
    }

    fn check_prepared(&self) -> Result<()> {
        if self.ready.len() == self.plan.order().len() { Ok(()) } else { Err(unprepared()) }
    }

    /// Starts the copy of the inputs if they have changed.
    fn upload_inputs(&mut self, entered: &Entered) -> Result<()> {
        if self.changed {
            self.inputs.upload(entered, &self.persistent)?;
            (self.changed, self.copying) = (false, true);
        }
        Ok(())
    }
}

/// Bytes of what an argument points to in the tables.
fn table_bytes(arg: &Arg) -> usize {
    match arg {
        Arg::Table(args) => (args.len() * size_of::<u64>()).next_multiple_of(ALIGN),
        Arg::Data(bytes) => bytes.len().next_multiple_of(ALIGN),
        _ => 0,
    }
}

fn counter_bytes(arg: &Arg) -> usize {
    if let Arg::Counters(n) = arg { n * size_of::<u32>() } else { 0 }
}

/// All constants that nodes read, in one buffer.
fn upload_constants(plan: &Plan, context: &Arc<Context>, stop: Stop) -> Result<(DeviceBuffer, HashMap<ValueId, usize>)> {
    let mut at = HashMap::new();
    let mut tables: Vec<(usize, Arc<Tensor>)> = vec![];
    let mut end = 0usize;
    for input in plan.graph().nodes().iter().flat_map(|node| &node.inputs) {
        let Location::Const(root) = plan.location(*input) else { continue };
        let Origin::Const(tensor) = &plan.graph().value(root).origin else { continue };
        at.entry(root).or_insert_with(|| {
            let start = end;
            tables.push((start, tensor.clone()));
            end += tensor.bytes().len().next_multiple_of(ALIGN);
            start
        });
    }
    let mut buffer = DeviceBuffer::zeroed(context, end, "constants")?;
    for (offset, tensor) in &tables {
        stop.check()?;
        buffer.write(*offset, tensor.bytes())?;
    }
    Ok((buffer, at))
}

impl Executable for CudaExecutable {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn bind(&mut self, storage: &str, tensor: Arc<Tensor>) -> Result<()> {
        let id = self.plan.bindable(storage, &tensor)?;
        self.storages[id.0 as usize] = Held::Shared(tensor, None);
        self.ready.clear();
        Ok(())
    }

    fn write_storage(&mut self, storage: &str, bytes: &[u8]) -> Result<()> {
        let id = self.plan.writable(storage, bytes.len())?;
        let Held::Owned(buffer) = &mut self.storages[id.0 as usize] else { return Err(Error::internal(format!("'{storage}' has no buffer"))) };
        buffer.write(0, bytes)
    }

    fn storage_bytes(&self, storage: &str) -> Result<HostBytes<'_>> {
        match &self.storages[self.plan.storage_id(storage)?.0 as usize] {
            Held::Owned(buffer) => self.fetch(buffer, 0, buffer.len(), storage),
            Held::Shared(tensor, _) => Ok(HostBytes::Borrowed(tensor.bytes())),
            Held::Unbound => Err(Error::state(format!("storage '{storage}' has no contents yet"))),
        }
    }

    fn write_bytes(&mut self, input: ValueId, bytes: &[u8]) -> Result<()> {
        let at = self.plan.input_offset(input, bytes.len())?;
        if self.copying {
            self.shared.context.enter_to_work()?.synchronize()?;
            self.copying = false;
        }
        self.inputs.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        self.changed = true;
        Ok(())
    }

    fn read_bytes(&self, value: ValueId) -> Result<HostBytes<'_>> {
        let id = self.plan.resolve(value)?;
        let value = self.plan.graph().value(id);
        let len = value.ty.bytes();
        match self.plan.location(id) {
            Location::Storage(s) => self.storage_bytes(&self.plan.graph().storages()[s.0 as usize].name),
            Location::Persistent(at) => self.fetch(&self.persistent, at, len, &value.name),
            Location::Shared(i) => self.fetch(&self.packed.get(i).ok_or_else(unprepared)?.buffer, 0, len, &value.name),
            // The arena keeps only tapped values until the end of the run; others are overwritten on the way.
            Location::Arena(at) if self.plan.graph().outputs().contains(&id) => self.fetch(&self.arena, at, len, &value.name),
            Location::Const(root) => match &self.plan.graph().value(root).origin {
                Origin::Const(tensor) => Ok(HostBytes::Borrowed(tensor.bytes())),
                _ => Err(Error::internal("a constant without its table")),
            },
            Location::Arena(_) | Location::Unused => Err(Error::internal(format!("'{}' was not tapped", value.name))),
        }
    }

    fn memory(&self) -> Memory {
        let owned = |held: &Held| if let Held::Owned(buffer) = held { buffer.len() } else { 0 };
        let lowered = self.lowered.iter().map(Lowered::bytes).chain(self.ready.iter().flatten().map(Ready::bytes));
        Memory {
            arena: self.arena.len(),
            persistent: self.persistent.len(),
            shared: self.plan.shared_bytes(),
            states: self.storages.iter().map(owned).sum(),
            // On the host too.
            constants: self.constants.len() + self.plan.graph().constant_bytes(),
            program: self.plan.program_bytes() + lowered.sum::<usize>() + self.tables.len() + self.counters.len() + self.plan.input_bytes(),
        }
    }

    fn prepare_until(&mut self, stop: Stop) -> Result<()> {
        let done = self.prepare_by_steps(stop);
        if done.is_err() {
            // Half prepared is not prepared.
            self.graphs.clear();
            self.ready.clear();
        }
        done
    }

    fn is_asynchronous(&self) -> bool {
        true
    }

    fn check_ready(&self) -> Result<()> {
        self.check_prepared()?;
        self.shared.context.enter_to_work().map(drop)
    }

    fn synchronize(&mut self) -> Result<()> {
        self.shared.context.enter_to_work()?.synchronize()
    }

    fn run_until(&mut self, range: Range<usize>, stop: Stop) -> Result<usize> {
        if range.start < self.plan.prepared() || range.end > self.plan.order().len() {
            return Err(Error::invalid(format!("nodes {range:?} of a plan whose nodes {}..{} run", self.plan.prepared(), self.plan.order().len())));
        }
        self.run_nodes(range, stop)
    }
}

impl CudaExecutable {
    /// Runs nodes whose addresses are in place.
    fn run_nodes(&mut self, range: Range<usize>, stop: Stop) -> Result<usize> {
        self.check_prepared()?;
        // Another owner than `self`, so that the launches below can be changed while this lives.
        let context = self.shared.context.clone();
        let entered = context.enter_to_work()?;
        self.upload_inputs(&entered)?;
        let mut at = range.start;
        while at < range.end {
            if stop.is_set() {
                return Ok(at);
            }
            // The longest graph that begins here, so that a run that was stopped somewhere goes on by whole segments.
            let first = self.graphs.partition_point(|(captured, _)| captured.start < at);
            let graphs = self.graphs[first..].iter().take_while(|(captured, _)| captured.start == at).filter(|(captured, _)| captured.end <= range.end);
            // A graph has no times of its nodes: to be profiled they run one by one, each waited for.
            let whole = graphs.max_by_key(|(captured, _)| captured.end).filter(|_| self.profile.is_none());
            if let Some((captured, graph)) = whole {
                graph.launch(&entered)?;
                at = captured.end;
            } else {
                let node = &self.plan.graph().nodes()[self.plan.order()[at].0 as usize];
                let start = self.profile.as_ref().map(|_| Instant::now());
                for launch in &mut self.ready[at] {
                    let named = || format!("{} '{}'", node.op.name(), self.plan.graph().value(node.outputs[0]).name);
                    launch.enqueue(&entered, entered.stream()).map_err(|e| e.context(named()))?;
                }
                if let (Some(profile), Some(start)) = (&mut self.profile, start) {
                    entered.synchronize()?;
                    profile.add(at, start);
                }
                at += 1;
            }
        }
        Ok(range.end)
    }
}
