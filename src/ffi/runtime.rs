//! The runtime: compute threads, device and log of everything made from it.

use super::boundary::{choice, ffi_boundary};
use super::cancel::{Cancel, fewstep_cancel_token, flag};
use super::device::{FEWSTEP_DEVICE_CPU, FEWSTEP_DEVICE_NAME_SIZE, Kind, check_cpu, fewstep_device_info, gpu, kind};
use super::error::{MESSAGE_SIZE, fewstep_status, write_line};
use super::handle::{self, Opaque, create, share};
use super::options::{self, Options, Report, check_report, size_field, write_report};
use crate::backend::Backend;
use crate::backend::cpu::kernels::simd;
use crate::backend::cpu::{CpuBackend, processor};
use crate::backend::cuda::{CudaBackend, Device, Foreign};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::io::json::shorten;
use crate::process::fp_environment::as_caller;
use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Log nothing.
pub const FEWSTEP_LOG_NONE: i32 = 0;
/// Log what is odd but not wrong, such as an unknown key in a model's config.
pub const FEWSTEP_LOG_WARNING: i32 = 1;
/// Log what was done, too.
pub const FEWSTEP_LOG_INFO: i32 = 2;

/// Takes a line of log, UTF-8 without a line end and of less than 2048 bytes, valid during the call. Called on the thread that made the call which has
/// something to say, never on a thread of the library. `level` is FEWSTEP_LOG_WARNING or FEWSTEP_LOG_INFO. Must return normally.
pub type fewstep_log_callback = Option<unsafe extern "C" fn(user: *mut c_void, level: i32, message: *const c_char)>;

/// Compute threads, device and log. Objects made from a runtime keep it alive.
pub struct fewstep_runtime {
    _private: [u8; 0],
}

/// How a runtime is made. Fill it with fewstep_runtime_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_runtime_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Threads that compute, the calling one included, at most 1024; 0 (the default) for one a core. Results do not depend on it.
    pub threads: u32,
    /// FEWSTEP_DEVICE_*; the CPU by default.
    pub device: i32,
    /// Which device of that kind, in the NVIDIA driver's order; 0 by default. Not read where `device_uuid` says which; must be 0 with `cuda_context`.
    pub device_index: i32,
    /// Takes the log; NULL (the default) for none.
    pub log: fewstep_log_callback,
    /// First argument of `log`. Must stay valid until everything made from the runtime is destroyed.
    pub log_user: *mut c_void,
    /// FEWSTEP_LOG_*: the most that is logged; warnings by default.
    pub log_level: i32,
    /// 0.
    pub reserved: u32,
    /// CUDA: the GPU with this UUID of 16 bytes, as Vulkan and Direct3D give it too; NULL (the default) to choose by index. Copied.
    pub device_uuid: *const u8,
    /// CUDA: a CUcontext of the program, used in place of the device's primary context; NULL (the default) for that. It must stay valid until everything
    /// made from the runtime is destroyed, and is never destroyed by the library.
    pub cuda_context: *mut c_void,
    /// CUDA: a CUstream of `cuda_context` that takes all work; NULL (the default) for the context's default stream. Ours when there is no `cuda_context`.
    /// While it is being captured every function that would give it work returns FEWSTEP_STATUS_STATE, and nothing made from the runtime may be
    /// destroyed: that waits for the stream, which ends the capture. Other streams may be captured meanwhile; with the default stream, which CUDA orders
    /// among all others, only non-blocking ones. CU_STREAM_PER_THREAD is refused.
    pub cuda_stream: *mut c_void,
    /// Stops every long call on this runtime and what is made from it, beside the call's own token: they answer CANCELLED while it is set. NULL (the default)
    /// for none. The token may be destroyed before the runtime; it then stays as it was.
    pub cancel: *const fewstep_cancel_token,
}

/// What a runtime computes with. Set struct_size before fewstep_runtime_get_info fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_runtime_info {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// FEWSTEP_DEVICE_*.
    pub device: i32,
    /// Its place among the devices of that kind, however it was chosen; fewstep_device_get_info has more about it.
    pub device_index: i32,
    /// CPU: threads that compute, the calling one included. CUDA: 0.
    pub threads: u32,
    /// As in fewstep_device_info.
    pub precisions: u32,
    /// 1 when the runtime uses a CUDA context of the program (`cuda_context` of fewstep_runtime_options), 0 otherwise.
    pub foreign_context: i32,
    /// As in fewstep_device_info.
    pub device_uuid: [u8; 16],
    /// As in fewstep_device_info.
    pub device_name: [c_char; FEWSTEP_DEVICE_NAME_SIZE],
}

// SAFETY: repr(C), the fields leave no gap, numbers only.
unsafe impl Report for fewstep_runtime_info {
    const NAME: &'static str = "runtime info";
    const FIRST_SIZE: usize = size_of::<Self>();
}

impl fewstep_runtime_info {
    fn new(device: &fewstep_device_info) -> Self {
        Self {
            struct_size: size_field::<Self>(),
            device: device.device,
            device_index: device.index,
            threads: 0,
            precisions: device.precisions,
            foreign_context: 0,
            device_uuid: device.uuid,
            device_name: device.name,
        }
    }
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only (a NULL function is None).
unsafe impl Options for fewstep_runtime_options {
    const NAME: &'static str = "runtime options";
    const FIRST_SIZE: usize = std::mem::offset_of!(Self, device_uuid);
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            threads: 0,
            device: FEWSTEP_DEVICE_CPU,
            device_index: 0,
            log: None,
            log_user: std::ptr::null_mut(),
            log_level: FEWSTEP_LOG_WARNING,
            reserved: 0,
            device_uuid: std::ptr::null(),
            cuda_context: std::ptr::null_mut(),
            cuda_stream: std::ptr::null_mut(),
            cancel: std::ptr::null(),
        }
    }
}

/// What a runtime owns; children hold it.
pub(crate) struct Runtime {
    /// Where graphs are compiled.
    pub(crate) backend: Arc<dyn Backend>,
    /// Set to stop whatever is computed.
    cancel: Option<Arc<AtomicBool>>,
    info: fewstep_runtime_info,
    log: fewstep_log_callback,
    log_user: *mut c_void,
    log_level: i32,
}

// SAFETY: `log_user` is only handed back to the host, which promised that it stays valid; the header says on which threads the log is called.
unsafe impl Send for Runtime {}
// SAFETY: as above; nothing is written after creation.
unsafe impl Sync for Runtime {}

impl Opaque for fewstep_runtime {
    type Inner = Arc<Runtime>;
    const NAME: &'static str = "runtime";
    const TAG: u64 = u64::from_le_bytes(*b"fs.runtm");
}

impl Runtime {
    /// # Safety
    /// `device_uuid` is NULL or 16 bytes; `cuda_context` and `cuda_stream` are NULL or alive for as long as the runtime; `cancel` is NULL or a token of ours.
    unsafe fn new(options: &fewstep_runtime_options) -> Result<Self> {
        choice(options.log_level, "log_level", &[(FEWSTEP_LOG_NONE, ()), (FEWSTEP_LOG_WARNING, ()), (FEWSTEP_LOG_INFO, ())])?;
        if options.reserved != 0 {
            return Err(Error::invalid("runtime options: reserved must be 0"));
        }
        let (backend, info) = match kind(options.device)? {
            Kind::Cpu => cpu_backend(options)?,
            // SAFETY: as promised by the caller.
            Kind::Cuda => unsafe { cuda_backend(options)? },
        };
        // SAFETY: as promised by the caller.
        let cancel = unsafe { flag(options.cancel)? };
        let this = Self { backend, cancel, info, log: options.log, log_user: options.log_user, log_level: options.log_level };
        if let Some(value) = simd::unknown().filter(|_| options.device == FEWSTEP_DEVICE_CPU) {
            this.log(FEWSTEP_LOG_WARNING, &format!("FEWSTEP_ISA is {:?}, which names no instruction set: it changes nothing", shorten(&value)));
        }
        Ok(this)
    }

    /// What a call without a token of its own looks at.
    pub(crate) fn stop(&self) -> Stop<'_> {
        Stop::on(None, self.cancel.as_deref())
    }

    /// What a call with a token looks at: that, and the runtime's.
    pub(crate) fn stop_or<'a>(&'a self, cancel: &'a Cancel) -> Stop<'a> {
        cancel.stop(self.cancel.as_deref())
    }

    /// Hands a line to the host, on the calling thread.
    pub(crate) fn log(&self, level: i32, message: &str) {
        let Some(log) = self.log.filter(|_| level <= self.log_level) else { return };
        let mut text = [0u8; MESSAGE_SIZE];
        write_line(message, &mut text);
        // SAFETY: the host promised a function that may be called with its `log_user` while anything of this runtime lives.
        as_caller(|| unsafe { log(self.log_user, level, text.as_ptr().cast()) })
    }
}

/// Where a runtime computes, and what it says of that.
type Place = (Arc<dyn Backend>, fewstep_runtime_info);

fn cpu_backend(options: &fewstep_runtime_options) -> Result<Place> {
    check_cpu(options.device_index, "device_index")?;
    if !options.device_uuid.is_null() || !options.cuda_context.is_null() || !options.cuda_stream.is_null() {
        return Err(Error::invalid("device_uuid, cuda_context and cuda_stream are for FEWSTEP_DEVICE_CUDA; device is the CPU"));
    }
    let threads = match options.threads {
        0 => processor::threads(),
        n => n as usize,
    };
    let backend = CpuBackend::new(threads)?;
    let threads = u32::try_from(backend.threads()).unwrap_or(u32::MAX);
    Ok((Arc::new(backend), fewstep_runtime_info { threads, ..fewstep_runtime_info::new(&fewstep_device_info::cpu()) }))
}

/// # Safety
/// As [`Runtime::new`].
unsafe fn cuda_backend(options: &fewstep_runtime_options) -> Result<Place> {
    let foreign = !options.cuda_context.is_null();
    // SAFETY: as promised by the caller.
    let backend = unsafe { if foreign { foreign_backend(options)? } else { CudaBackend::new(chosen_gpu(options)?)? } };
    let info = fewstep_runtime_info::new(&fewstep_device_info::cuda(backend.device()));
    Ok((Arc::new(backend), fewstep_runtime_info { foreign_context: i32::from(foreign), ..info }))
}

/// # Safety
/// As [`Runtime::new`].
unsafe fn foreign_backend(options: &fewstep_runtime_options) -> Result<CudaBackend> {
    if !options.device_uuid.is_null() || options.device_index != 0 {
        return Err(Error::invalid("cuda_context names the device; device_uuid must be NULL and device_index 0"));
    }
    // SAFETY: alive as promised by the caller.
    unsafe { CudaBackend::with_foreign(Foreign { context: options.cuda_context, stream: options.cuda_stream }) }
}

/// # Safety
/// As [`Runtime::new`].
unsafe fn chosen_gpu(options: &fewstep_runtime_options) -> Result<Device> {
    if !options.cuda_stream.is_null() {
        return Err(Error::invalid("cuda_stream is given without the cuda_context that it belongs to"));
    }
    if options.device_uuid.is_null() {
        return gpu(options.device_index, "device_index");
    }
    // SAFETY: 16 bytes as promised by the caller; bytes need no alignment.
    Device::with_uuid(unsafe { options.device_uuid.cast::<[u8; 16]>().read() })
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_runtime_options_init(options: *mut fewstep_runtime_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Creates a runtime and starts its compute threads. `options` may be NULL for the defaults.
///
/// The caller owns `*out` and gives it to fewstep_runtime_destroy. Several runtimes may live in one process; they share nothing. Any thread may call.
/// Returns OK, INVALID_ARGUMENT, OUT_OF_MEMORY (the system refused a thread, the GPU a context), or, for CUDA, UNSUPPORTED (this library was built without
/// CUDA kernels, or has none for this GPU), NO_DEVICE (no driver, or no such GPU), DRIVER_TOO_OLD or DEVICE_LOST.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_runtime_create(options: *const fewstep_runtime_options, out: *mut *mut fewstep_runtime) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let options = options::read(options)?;
        create(out, || Ok(Arc::new(Runtime::new(&options)?)))
    })
}

/// Fills `*out`, whose struct_size the caller has set.
///
/// Any thread may call, also while others use the runtime. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_runtime_get_info(runtime: *const fewstep_runtime, out: *mut fewstep_runtime_info) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        let size = check_report(out)?;
        write_report(out, size, runtime.info);
        Ok(())
    })
}

/// Destroys a runtime. NULL is fine. Models, datasets, trainers and samplers made from it stay usable and keep its compute threads; the threads end,
/// and are waited for, inside the destroy call of whichever of these objects is the last, the runtime included.
///
/// Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE from inside a log callback of a call that uses the runtime.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_runtime_destroy(runtime: *mut fewstep_runtime) -> fewstep_status {
    // SAFETY: `runtime` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe { handle::destroy(runtime) })
}
