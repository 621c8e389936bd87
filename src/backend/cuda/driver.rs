//! The NVIDIA driver, found at run time: is it there, which devices are there, and what its errors mean.
//!
//! cudarc's raw bindings are used, not its safe layer: that owns contexts and streams, and ours may belong to the caller.

use super::manifest;
use super::target::BF16_CAPABILITY;
use crate::error::{Error, Result, Status};
use crate::process::fork::First;
use crate::tensor::DType;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use std::fmt;
use std::sync::OnceLock;

/// The oldest driver API that takes our kernels: they are compiled by CUDA 13.0, and a driver runs nothing of a later major version.
const MIN_VERSION: i32 = 13_000;

/// The first compute capability (times ten) that the kernels are written for.
const MIN_CAPABILITY: u32 = 75;

/// Turns a driver's answer into an error that says what was being done.
pub(super) fn check<T>(answer: std::result::Result<T, DriverError>, doing: impl fmt::Display) -> Result<T> {
    answer.map_err(|e| error(e.0, doing))
}

/// The error of a driver's code. After [`Status::DeviceLost`] the context is of no use any more.
fn error(code: CUresult, doing: impl fmt::Display) -> Error {
    use CUresult::*;
    let status = match code {
        CUDA_ERROR_OUT_OF_MEMORY => Status::OutOfMemory,
        CUDA_ERROR_NO_DEVICE | CUDA_ERROR_INVALID_DEVICE | CUDA_ERROR_STUB_LIBRARY | CUDA_ERROR_DEVICE_UNAVAILABLE => Status::NoDevice,
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUDA_ERROR_UNSUPPORTED_PTX_VERSION | CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => Status::DriverTooOld,
        CUDA_ERROR_NO_BINARY_FOR_GPU | CUDA_ERROR_NOT_SUPPORTED | CUDA_ERROR_JIT_COMPILER_NOT_FOUND | CUDA_ERROR_JIT_COMPILATION_DISABLED => {
            Status::Unsupported
        }
        CUDA_ERROR_ILLEGAL_ADDRESS
        | CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUDA_ERROR_MISALIGNED_ADDRESS
        | CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUDA_ERROR_INVALID_PC
        | CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUDA_ERROR_LAUNCH_FAILED
        | CUDA_ERROR_LAUNCH_TIMEOUT
        | CUDA_ERROR_ASSERT
        | CUDA_ERROR_ECC_UNCORRECTABLE
        | CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUDA_ERROR_CONTAINED
        | CUDA_ERROR_MPS_CLIENT_TERMINATED
        | CUDA_ERROR_MPS_RPC_FAILURE
        | CUDA_ERROR_UNKNOWN
        | CUDA_ERROR_CONTEXT_IS_DESTROYED => Status::DeviceLost,
        // The last: a child of `fork`, which cannot use the parent's driver.
        CUDA_ERROR_DEINITIALIZED | CUDA_ERROR_NOT_INITIALIZED => Status::State,
        // The program captures a stream, and what was called cannot be part of that.
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED | CUDA_ERROR_STREAM_CAPTURE_INVALIDATED | CUDA_ERROR_STREAM_CAPTURE_IMPLICIT => Status::State,
        // Of our own making they are right: the caller's context or stream is meant.
        CUDA_ERROR_INVALID_CONTEXT | CUDA_ERROR_INVALID_HANDLE => Status::InvalidArgument,
        _ => Status::Panic,
    };
    let known = DriverError(code);
    let text = known.error_string().ok().map_or_else(|| "unknown error".into(), |s| s.to_string_lossy());
    Error { status, message: format!("{doing}: {text} (CUDA error {})", code as u32) }
}

/// Loads and initialises the driver, once a process. Without one every call gives the same error, and nothing panics. A library without kernels has no
/// use for a driver and looks for none.
pub(super) fn init() -> Result<()> {
    static DRIVER: OnceLock<Start> = OnceLock::new();
    static HOME: First = First::new();
    if !manifest::built() {
        return Err(Error::unsupported("this libfewstep was built without CUDA kernels (FEWSTEP_CUDA=off, or no nvcc was found)"));
    }
    if HOME.is_this()? {
        return DRIVER.get_or_init(start).result();
    }
    // The thread that was starting it may be one that the child has not, so nobody waits for it.
    match DRIVER.get() {
        Some(Start::Done) | None => Err(forked()),
        Some(none) => none.result(),
    }
}

/// The driver's state does not survive a fork (CUDA C++ programming guide, "Fork"), and it is not asked.
pub(super) fn forked() -> Error {
    Error::state("CUDA was used before this process was forked, and does not work in the child: fork first, or start the child by exec")
}

/// How the driver started. Kept without memory of the heap, which a library that is unloaded would not give back.
#[derive(Clone, Copy)]
enum Start {
    Done,
    NoLibrary,
    NoVersion(CUresult),
    TooOld(i32),
    Refused(CUresult),
}

fn start() -> Start {
    // SAFETY: only looks for the library. cudarc panics when a function is called without it, so this comes first.
    if !unsafe { sys::is_culib_present() } {
        return Start::NoLibrary;
    }
    let mut version = 0;
    // SAFETY: a valid pointer; this function exists in every driver and may come before cuInit.
    if let Err(e) = unsafe { sys::cuDriverGetVersion(&mut version) }.result() {
        return Start::NoVersion(e.0);
    }
    // Functions that an old driver lacks would panic in cudarc, so nothing else is asked of one.
    if version < MIN_VERSION {
        return Start::TooOld(version);
    }
    result::init().map_or_else(|e| Start::Refused(e.0), |()| Start::Done)
}

impl Start {
    fn result(self) -> Result<()> {
        match self {
            Start::Done => Ok(()),
            Start::NoLibrary => Err(no_device("no NVIDIA driver is installed (libcuda was not found)")),
            Start::NoVersion(code) => Err(no_start(error(code, "asking for the driver's version"))),
            Start::TooOld(version) => {
                let shown = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
                let message = format!("the NVIDIA driver supports CUDA {}, at least {} is needed", shown(version), shown(MIN_VERSION));
                Err(Error { status: Status::DriverTooOld, message })
            }
            Start::Refused(code) => Err(no_start(error(code, "initialising the NVIDIA driver"))),
        }
    }
}

/// A driver that does not start gives no device, whatever its reason (a kernel module that is not loaded, a device that is kept from a container).
fn no_start(error: Error) -> Error {
    match error.status {
        Status::DriverTooOld | Status::OutOfMemory => error,
        _ => no_device(error.message),
    }
}

fn no_device(message: impl Into<String>) -> Error {
    Error { status: Status::NoDevice, message: message.into() }
}

/// One GPU, not opened.
#[derive(Clone, Debug)]
pub struct Device {
    pub(super) raw: sys::CUdevice,
    /// Its place in the driver's list.
    pub ordinal: usize,
    /// As the driver names it.
    pub name: String,
    /// Identifies the GPU also to graphics APIs.
    pub uuid: [u8; 16],
    /// Compute capability times ten: 90 for sm_90.
    pub capability: u32,
    /// Bytes of memory.
    pub memory: usize,
    /// Streaming multiprocessors: how many blocks it takes to fill the GPU.
    pub multiprocessors: u32,
}

impl Device {
    /// Number of GPUs, or why none can be used.
    pub fn count() -> Result<usize> {
        init()?;
        Ok(check(result::device::get_count(), "counting CUDA devices")?.max(0) as usize)
    }

    /// The GPU at a place in the driver's list.
    pub fn at(ordinal: usize) -> Result<Self> {
        let count = Self::count()?;
        let raw = i32::try_from(ordinal).ok().filter(|_| ordinal < count);
        let raw = raw.ok_or_else(|| no_device(format!("CUDA device {ordinal} does not exist; there are {count}")))?;
        Self::of(check(result::device::get(raw), format!("opening CUDA device {ordinal}"))?, ordinal)
    }

    /// The GPU with this UUID.
    pub fn with_uuid(uuid: [u8; 16]) -> Result<Self> {
        for ordinal in 0..Self::count()? {
            let device = Self::at(ordinal)?;
            if device.uuid == uuid {
                return Ok(device);
            }
        }
        let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
        Err(no_device(format!("no CUDA device has the UUID {hex}")))
    }

    /// Refuses a GPU that this library has no kernels for.
    pub fn check_usable(&self) -> Result<()> {
        if manifest::runs_on(self.capability) {
            return Ok(());
        }
        let (name, version) = (&self.name, format!("{}.{}", self.capability / 10, self.capability % 10));
        Err(Error::unsupported(match self.capability {
            ..MIN_CAPABILITY => format!("{name} has compute capability {version}; at least 7.5 is needed"),
            _ => format!("{name} has compute capability {version}, which this libfewstep was not built for (FEWSTEP_CUDA_ARCHS)"),
        }))
    }

    /// What it computes in, given that it is usable.
    pub fn precisions(&self) -> &'static [DType] {
        match self.capability {
            ..BF16_CAPABILITY => &[DType::F32, DType::F16],
            _ => &[DType::F32, DType::F16, DType::Bf16],
        }
    }

    /// The GPU that the driver calls `raw`, usable or not.
    pub(super) fn of(raw: sys::CUdevice, ordinal: usize) -> Result<Self> {
        let doing = || format!("asking about CUDA device {ordinal}");
        // SAFETY: the device was given by the driver.
        let attribute = |which| check(unsafe { result::device::get_attribute(raw, which) }, doing());
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let name = check(result::device::get_name(raw), doing())?;
        Ok(Self {
            raw,
            ordinal,
            name,
            uuid: check(result::device::get_uuid(raw), doing())?.bytes.map(|b| b as u8),
            capability: (10 * major + minor).max(0) as u32,
            // SAFETY: the device was given by the driver.
            memory: check(unsafe { result::device::total_mem(raw) }, doing())?,
            multiprocessors: multiprocessors.max(1) as u32,
        })
    }
    /// A GPU that is not there, for tests.
    #[cfg(test)]
    pub(crate) fn example(ordinal: usize, capability: u32) -> Self {
        Self { raw: 0, ordinal, name: "example".into(), uuid: [7; 16], capability, memory: 1 << 30, multiprocessors: 8 }
    }
}
