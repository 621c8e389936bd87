//! Where planned graphs run. A backend turns a [`Plan`] into an [`Executable`]; running it allocates nothing.

pub mod cpu;
pub mod cuda;
mod host;
mod report;
mod weights;

pub use host::{HostBytes, HostSlice};

use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::graph::{Graph, Numerics, Plan, ValueId};
use crate::tensor::{Element, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// A device that can compile graphs.
pub trait Backend: Send + Sync {
    /// Plans and compiles; every allocation that the run will need but packed weights, which preparing asks for, happens here and may fail with an
    /// out-of-memory error. `stop` is looked at before each
    /// node of each pass.
    fn compile_until(&self, graph: &Graph, numerics: &Numerics, stop: Stop) -> Result<Box<dyn Executable>>;

    /// The same in f32, to the end.
    fn compile(&self, graph: &Graph) -> Result<Box<dyn Executable>> {
        self.compile_until(graph, &Numerics::F32, Stop::NEVER)
    }
}

/// Bytes that an executable holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What a run works in.
    pub arena: usize,
    /// Inputs, repeated numbers, and what is computed once.
    pub persistent: usize,
    /// Packed weights: all executables of a backend that read the same ones share them, so that they are no part of the total.
    pub shared: usize,
    /// States: what the graph itself keeps from run to run.
    pub states: usize,
    /// Tables of constants.
    pub constants: usize,
    /// The program: its nodes and values, and the kernels' tables.
    pub program: usize,
}

impl Memory {
    /// All of its own.
    pub fn total(&self) -> usize {
        self.arena + self.persistent + self.states + self.constants + self.program
    }
}

/// A compiled graph with its memory. One thread at a time; different executables may run on different threads.
pub trait Executable: Send {
    /// The plan that it runs.
    fn plan(&self) -> &Plan;

    /// Gives a storage that the graph never writes its shared, immutable contents. Weights bound anew need [`Executable::prepare`].
    fn bind(&mut self, storage: &str, tensor: Arc<Tensor>) -> Result<()>;

    /// Overwrites the contents of a storage that the graph does write (zeros before the first call).
    fn write_storage(&mut self, storage: &str, bytes: &[u8]) -> Result<()>;

    /// The present contents of a storage.
    fn storage_bytes(&self, storage: &str) -> Result<HostBytes<'_>>;

    /// Writes a runtime input, given by its id in the original graph.
    fn write_bytes(&mut self, input: ValueId, bytes: &[u8]) -> Result<()>;

    /// The bytes of a tapped value (or any state), given by its id in the original graph.
    fn read_bytes(&self, value: ValueId) -> Result<HostBytes<'_>>;

    /// Memory that it holds: weights bound to it are their owner's.
    fn memory(&self) -> Memory;

    /// Runs what depends on frozen storages and constants alone: once after binding. Packed weights that another executable of the backend has are taken from
    /// there. What was stopped must be prepared again.
    fn prepare_until(&mut self, stop: Stop) -> Result<()>;

    /// The same, to the end.
    fn prepare(&mut self) -> Result<()> {
        self.prepare_until(Stop::NEVER)
    }

    /// Runs the nodes of [`Plan::order`] in `range` and returns its end; or, where `stop` was set meanwhile, the first node that is not done. Going on there
    /// gives the same bytes as one run. `stop` is looked at between nodes and inside those that take long, not inside those that update a state.
    fn run_until(&mut self, range: Range<usize>, stop: Stop) -> Result<usize>;

    /// Runs the nodes of [`Plan::order`] in `range`. Stopping anywhere and going on later gives the same bytes as one run.
    fn run(&mut self, range: Range<usize>) -> Result<()> {
        self.run_until(range, Stop::NEVER).map(|_| ())
    }

    /// An error where [`Executable::run`] would be refused before anything is done: not prepared, say. Any other error of it may come half way.
    fn check_ready(&self) -> Result<()>;

    /// True where [`Executable::run`] only starts the work, so that few long runs are better than many short ones.
    fn is_asynchronous(&self) -> bool {
        false
    }

    /// Waits until everything that was started is done; an error of it comes out here. Only needed to measure time: reading waits too.
    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }

    /// Runs everything after the prepared part.
    fn run_all(&mut self) -> Result<()> {
        let range = self.plan().prepared()..self.plan().order().len();
        self.run(range)
    }
}

/// The error of running a plan that is not prepared.
pub(crate) fn unprepared() -> Error {
    Error::state("the plan is not prepared, or no longer since storages were bound")
}

/// The bytes of a slice of numbers.
pub fn as_bytes<T: Element>(data: &[T]) -> &[u8] {
    // SAFETY: Element promises no padding; u8 has no alignment and every byte is initialised.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) }
}
