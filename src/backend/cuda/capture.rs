//! Captured runs: the launches of a range of the plan as one CUDA graph, started by one call.

use super::context::{Context, Entered};
use super::driver::check;
use crate::error::Result;
use cudarc::driver::{result, sys};
use std::sync::Arc;

/// An instantiated graph.
pub(super) struct Captured {
    context: Arc<Context>,
    exec: sys::CUgraphExec,
}

// SAFETY: used by one thread at a time, as its executable is; the driver does not tie it to a thread.
unsafe impl Send for Captured {}

/// What was captured; not needed once it is instantiated.
struct Graph(sys::CUgraph);

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `end_capture`, destroyed once. An error has nobody to hear it.
        let _ = unsafe { result::graph::destroy(self.0) };
    }
}

/// A stream that is only captured, never run: the caller's may be the default stream, which cannot be.
pub(super) struct CaptureStream {
    context: Arc<Context>,
    raw: sys::CUstream,
}

// SAFETY: a name that the driver understands on every thread.
unsafe impl Send for CaptureStream {}

impl CaptureStream {
    /// A new stream.
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        let _entered = context.enter()?;
        let raw = check(result::stream::create(result::stream::StreamKind::NonBlocking), "creating a stream")?;
        Ok(Self { context: context.clone(), raw })
    }

    /// Captures what `enqueue` puts on the stream.
    pub fn capture(&self, enqueue: impl FnOnce(&Entered, sys::CUstream) -> Result<()>) -> Result<Captured> {
        let entered = self.context.enter_to_work()?;
        // Thread-local: other threads of the program may do what they like meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: our own stream, on which nothing is captured yet.
        check(unsafe { result::stream::begin_capture(self.raw, mode) }, "starting to capture a graph")?;
        let enqueued = enqueue(&entered, self.raw);
        // Ends in any case, so that the stream is usable again. SAFETY: begun above.
        let graph = check(unsafe { result::stream::end_capture(self.raw) }, "capturing a graph");
        let graph = enqueued.and(graph.map(Graph))?;
        // SAFETY: a whole graph.
        let exec = check(unsafe { result::graph::instantiate(graph.0, sys::CUgraphInstantiate_flags(0)) }, "instantiating a graph")?;
        let captured = Captured { context: self.context.clone(), exec };
        // SAFETY: both are alive. Uploading now keeps the first launch as short as the others.
        check(unsafe { result::graph::upload(exec, entered.stream()) }, "uploading a graph")?;
        Ok(captured)
    }
}

impl Drop for CaptureStream {
    fn drop(&mut self) {
        if let Ok(_entered) = self.context.enter() {
            // SAFETY: our own stream, destroyed once. An error has nobody to hear it.
            let _ = unsafe { result::stream::destroy(self.raw) };
        }
    }
}

impl Captured {
    /// Puts the whole graph on the stream.
    pub fn launch(&self, entered: &Entered) -> Result<()> {
        // SAFETY: both are alive, in the current context.
        check(unsafe { result::graph::launch(self.exec, entered.stream()) }, "launching a graph")
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if let Ok(entered) = self.context.enter() {
            // It may still run. Errors have nobody to hear them.
            let _ = entered.synchronize();
            // SAFETY: instantiated once, destroyed once.
            let _ = unsafe { result::graph::exec_destroy(self.exec) };
        }
    }
}
