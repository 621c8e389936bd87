//! Device memory, and host memory that copies do not have to stage.

use super::context::{Context, Entered};
use super::driver::check;
use crate::error::{Error, Result};
use cudarc::driver::{result, sys};
use std::sync::Arc;

/// Zeroed device memory by plain allocation (256-byte aligned). Never grows, so that captured graphs may hold its address.
#[derive(Debug)]
pub(super) struct DeviceBuffer {
    context: Arc<Context>,
    ptr: sys::CUdeviceptr,
    len: usize,
}

impl DeviceBuffer {
    /// `len` zero bytes for `what`; asks first whether there is room, so that the message can say how much is missing.
    pub fn zeroed(context: &Arc<Context>, len: usize, what: &str) -> Result<Self> {
        let mut this = Self { context: context.clone(), ptr: 0, len };
        if len == 0 {
            return Ok(this);
        }
        let entered = context.enter_to_work()?;
        let free = entered.free_memory()?;
        let doing = || format!("{what}: allocating {len} bytes on {} ({free} are free)", context.device.name);
        if len > free {
            return Err(Error::out_of_memory(doing()));
        }
        // SAFETY: plain allocation in the current context; freed on drop.
        this.ptr = check(unsafe { result::malloc_sync(len) }, doing())?;
        // SAFETY: the whole of the fresh allocation, on the stream that all its later uses are on.
        check(unsafe { result::memset_d8_async(this.ptr, 0, len, entered.stream()) }, doing())?;
        Ok(this)
    }

    /// The address; 0 for an empty buffer.
    pub fn address(&self) -> u64 {
        self.ptr
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Overwrites bytes from `at` on. Done with `bytes` when it returns; ordered with the stream's other work.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let entered = self.context.enter_to_work()?;
        let to = self.at(at, bytes.len())?;
        // SAFETY: inside the buffer; the wait below keeps `bytes` alive until the copy is done.
        check(unsafe { result::memcpy_htod_async(to, bytes, entered.stream()) }, "copying to the device")?;
        entered.synchronize()
    }

    /// Reads bytes from `at` on, after everything that the stream has to do.
    pub fn read(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        let entered = self.context.enter_to_work()?;
        let from = self.at(at, bytes.len())?;
        // SAFETY: inside the buffer; the wait below keeps `bytes` borrowed until the copy is done.
        check(unsafe { result::memcpy_dtoh_async(bytes, from, entered.stream()) }, "copying from the device")?;
        entered.synchronize()
    }

    fn at(&self, at: usize, len: usize) -> Result<u64> {
        match at.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.ptr + at as u64),
            _ => Err(Error::internal(format!("bytes {at}..+{len} of a device buffer of {}", self.len))),
        }
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.ptr == 0 {
            return;
        }
        if let Ok(entered) = self.context.enter() {
            // The memory may still be in use by work that was put on the stream. Errors have nobody to hear them.
            let _ = entered.synchronize();
            // SAFETY: allocated in `zeroed`, freed once.
            let _ = unsafe { result::free_sync(self.ptr) };
        }
    }
}

/// Zeroed page-locked host memory: copies from it to the device run beside the host, and may be part of a graph.
#[derive(Debug)]
pub(super) struct PinnedBuffer {
    context: Arc<Context>,
    ptr: *mut u8,
    len: usize,
}

// SAFETY: owns its bytes; the driver lets every thread use them.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    /// `len` zero bytes.
    pub fn zeroed(context: &Arc<Context>, len: usize) -> Result<Self> {
        let mut this = Self { context: context.clone(), ptr: std::ptr::null_mut(), len };
        if len > 0 {
            let _entered = context.enter()?;
            // SAFETY: plain allocation in the current context; freed on drop. Flags 0: ordinary cached memory.
            let ptr = check(unsafe { result::malloc_host(len, 0) }, format!("allocating {len} bytes of page-locked memory"))?;
            this.ptr = ptr.cast();
            this.bytes_mut().fill(0);
        }
        Ok(this)
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if self.len == 0 {
            return &mut [];
        }
        // SAFETY: `len` bytes of ours, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }

    /// Puts a copy of all bytes to the start of `to` on the stream. They must not change until the stream has done it.
    pub fn upload(&self, entered: &Entered, to: &DeviceBuffer) -> Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        if self.len > to.len() {
            return Err(Error::internal(format!("{} bytes do not fit a device buffer of {}", self.len, to.len())));
        }
        // SAFETY: both are alive for `len` bytes; the caller keeps the contents still.
        let copied = unsafe { sys::cuMemcpyHtoDAsync_v2(to.address(), self.ptr.cast(), self.len, entered.stream()) };
        check(copied.result(), "copying the inputs to the device")
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        if !self.ptr.is_null()
            && let Ok(entered) = self.context.enter()
        {
            // A copy may still read it. Errors have nobody to hear them.
            let _ = entered.synchronize();
            // SAFETY: allocated in `zeroed`, freed once.
            let _ = unsafe { result::free_host(self.ptr.cast()) };
        }
    }
}
