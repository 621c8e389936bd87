//! The context and the stream that everything of one backend uses: our own (the device's primary context), or the caller's, which we never destroy.

use super::driver::{Device, check, forked};
use crate::error::{Error, Result, Status};
use crate::process::fork::Process;
use cudarc::driver::result;
use cudarc::driver::sys;
use std::ffi::c_void;
use std::sync::Arc;

/// A context, and a stream in it, of the program that uses the library, for example of a game engine.
#[derive(Clone, Copy, Debug)]
pub struct Foreign {
    /// A `CUcontext`, alive for as long as the backend.
    pub context: *mut c_void,
    /// A `CUstream` of that context; null for its default stream.
    pub stream: *mut c_void,
}

/// A context with its device and stream. Memory, modules and graphs hold an `Arc` of it, so it goes last.
#[derive(Debug)]
pub(super) struct Context {
    pub device: Device,
    raw: sys::CUcontext,
    stream: sys::CUstream,
    owned: bool,
    /// Where it is a context; a child of this process has nothing but its name.
    home: Process,
}

// SAFETY: contexts and streams may be used from every thread (CUDA driver API, "CUDA driver API thread safety"); we only hold their names.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// The context is current on this thread while this lives; then what was current before is so again. Fields are dropped in order.
pub(super) struct Entered<'a> {
    context: &'a Context,
    _relaxed: Relaxed,
    _current: Current,
}

/// A context that is current on this thread while this lives.
struct Current;

impl Current {
    /// # Safety
    /// `raw` is alive.
    unsafe fn push(raw: sys::CUcontext) -> Result<Self> {
        // SAFETY: as promised by the caller.
        check(unsafe { sys::cuCtxPushCurrent_v2(raw) }.result(), "entering the CUDA context")?;
        Ok(Self)
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        // SAFETY: takes back what `push` pushed on this thread. An error has nobody to hear it.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut std::ptr::null_mut()) };
    }
}

/// While this lives, this thread may allocate and free although some thread of the program, perhaps this one, captures a stream of its own: neither is then
/// refused, nor ends that capture (CUDA driver API, cuThreadExchangeStreamCaptureMode).
struct Relaxed(sys::CUstreamCaptureMode);

impl Relaxed {
    fn new() -> Result<Self> {
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: a valid pointer, which receives the mode until now.
        check(unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) }.result(), "changing the thread's capture mode")?;
        Ok(Self(mode))
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        // SAFETY: as above. An error has nobody to hear it.
        let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut self.0) };
    }
}

/// `CU_STREAM_PER_THREAD`: another stream on every thread, so that calls of two threads would not be in order.
const STREAM_PER_THREAD: usize = 2;

impl Context {
    /// The device's primary context, shared with the rest of the process, and a stream of our own in it.
    pub fn own(device: Device) -> Result<Arc<Self>> {
        let home = Process::current()?;
        let _relaxed = Relaxed::new()?;
        // SAFETY: the device was given by the driver.
        let raw = check(unsafe { result::primary_ctx::retain(device.raw) }, format!("opening a context on {}", device.name))?;
        let mut this = Self { device, raw, stream: std::ptr::null_mut(), owned: true, home };
        let stream = {
            let _entered = this.enter()?;
            check(result::stream::create(result::stream::StreamKind::NonBlocking), "creating a stream")?
        };
        this.stream = stream;
        Ok(Arc::new(this))
    }

    /// The caller's context and stream.
    ///
    /// # Safety
    /// `foreign` holds a live context, and a live stream of it or null, for as long as the result lives.
    pub unsafe fn foreign(foreign: Foreign) -> Result<Arc<Self>> {
        super::driver::init()?;
        if foreign.context.is_null() {
            return Err(Error::invalid("the CUDA context is NULL"));
        }
        if foreign.stream as usize == STREAM_PER_THREAD {
            return Err(Error::invalid("cuda_stream is CU_STREAM_PER_THREAD, which is another stream on every thread; make one with cuStreamCreate"));
        }
        let raw: sys::CUcontext = foreign.context.cast();
        // SAFETY: the context is alive by the caller's promise.
        let _current = unsafe { Current::push(raw)? };
        let (mut device, mut home) = (0, std::ptr::null_mut());
        // SAFETY: a valid pointer.
        check(unsafe { sys::cuCtxGetDevice(&mut device) }.result(), "asking the caller's CUDA context for its device")?;
        let not_its_own = || Error::invalid("cuda_stream is not a stream of cuda_context");
        // SAFETY: a valid pointer; the stream is alive by the caller's promise.
        check(unsafe { sys::cuStreamGetCtx(foreign.stream.cast(), &mut home) }.result(), "asking the caller's CUDA stream for its context")
            .map_err(|e| if e.status == Status::InvalidArgument { not_its_own() } else { e })?;
        if home != raw {
            return Err(not_its_own());
        }
        let ordinal = usize::try_from(device).map_err(|_| Error::internal("a negative CUDA device"))?;
        Ok(Arc::new(Self { device: Device::of(device, ordinal)?, raw, stream: foreign.stream.cast(), owned: false, home: Process::current()? }))
    }

    /// Makes the context current on this thread.
    pub fn enter(&self) -> Result<Entered<'_>> {
        if !self.home.is_this() {
            return Err(forked());
        }
        // SAFETY: the context is alive: ours by reference count, the caller's by promise.
        let current = unsafe { Current::push(self.raw)? };
        Ok(Entered { context: self, _relaxed: Relaxed::new()?, _current: current })
    }

    /// The same for giving the stream work: refused while the caller captures it, for what we do must happen now, and once.
    pub fn enter_to_work(&self) -> Result<Entered<'_>> {
        let entered = self.enter()?;
        if !self.owned {
            let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
            // SAFETY: a valid pointer; the stream is alive and belongs to the current context.
            let asked = unsafe { sys::cuStreamIsCapturing(self.stream, &mut status) };
            check(asked.result(), "asking whether the caller's stream is being captured")?;
            if status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
                return Err(Error::state("the CUDA stream that the runtime was given is being captured; end the capture first"));
            }
        }
        Ok(entered)
    }
}

impl Entered<'_> {
    /// The stream that all work goes to.
    pub fn stream(&self) -> sys::CUstream {
        self.context.stream
    }

    /// Waits until the stream has done everything; an error of a kernel comes out here.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is alive and belongs to the current context.
        check(unsafe { result::stream::synchronize(self.stream()) }, format!("computing on {}", self.context.device.name))
    }

    /// Free bytes of device memory.
    pub fn free_memory(&self) -> Result<usize> {
        Ok(check(result::mem_get_info(), "asking for free device memory")?.0)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.owned || !self.home.is_this() {
            return;
        }
        let _relaxed = Relaxed::new();
        if let Ok(entered) = self.enter()
            && !self.stream.is_null()
        {
            // SAFETY: our own stream, which nothing uses any more.
            let _ = unsafe { result::stream::destroy(entered.stream()) };
        }
        // SAFETY: retained in `own`. An error has nobody to hear it.
        let _ = unsafe { result::primary_ctx::release(self.device.raw) };
    }
}
