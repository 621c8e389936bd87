//! Devices: how many there are and what they are, before a runtime is made on one.

use super::boundary::{check_out, choice, ffi_boundary, put};
use super::error::fewstep_status;
use super::options::{Report, check_report, size_field, write_report};
use super::precision::precision_bits;
use crate::backend::cpu::kernels::bf16;
use crate::backend::cpu::processor;
use crate::backend::cuda;
use crate::error::{Error, Result, Status};
use crate::tensor::DType;
use std::ffi::c_char;

/// Compute on the CPU, with the best instructions that it has. The environment variable FEWSTEP_ISA, read once, lowers them, for floats and for bytes:
/// portable; avx2; avx_vnni (floats on AVX2, bytes on AVX-VNNI); avx512, also avx512_vnni (AVX-512, bytes on its VNNI); amx (AVX-512, bytes and bf16 on AMX);
/// neon_dot; neon_i8mm. Any other value changes nothing, and a runtime's log has a warning of it.
///
/// AMX (Linux): the first sampler, evaluator, trainer or report of a quantised model with layers large enough for tiles, or of FEWSTEP_PRECISION_BF16, asks the
/// system for them (arch_prctl, ARCH_REQ_XCOMP_PERM), for the whole process and for good: from then on no thread can install an alternate signal stack of less
/// than getauxval(AT_MINSIGSTKSZ). Where a thread has such a one, the system refuses: bytes are then computed on AVX-512 VNNI, the same bits, and bf16 is an
/// error. FEWSTEP_ISA=avx512 keeps the library from asking.
pub const FEWSTEP_DEVICE_CPU: i32 = 0;
/// Compute on an NVIDIA GPU of compute capability 7.5 or later. No part of a plan falls back to the CPU.
pub const FEWSTEP_DEVICE_CUDA: i32 = 1;

/// Bytes of a device's name, the NUL at its end included.
pub const FEWSTEP_DEVICE_NAME_SIZE: usize = 256;
/// Bytes of the names of a device's instructions, the NUL at their end included.
pub const FEWSTEP_DEVICE_INSTRUCTIONS_SIZE: usize = 64;

/// What a device is. Set struct_size before fewstep_device_get_info fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_device_info {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// FEWSTEP_DEVICE_*.
    pub device: i32,
    /// Its place among the devices of that kind: `device_index` of fewstep_runtime_options.
    pub index: i32,
    /// 1 for a device that the library can compute on; 0 for a GPU that it has no code for: of a compute capability before 7.5, or left out of the build.
    pub usable: i32,
    /// What it computes in: the bit 1 << FEWSTEP_PRECISION_* for each precision. 0 for a device that is not usable. CPU: bf16 where the processor has AMX for
    /// it and FEWSTEP_ISA does not forbid it; that the system gives the process its tiles is known when the first sampler, evaluator or trainer of it is made.
    pub precisions: u32,
    /// CUDA: compute capability, the number before the point. CPU: 0.
    pub capability_major: u32,
    /// CUDA: compute capability, the number after the point. CPU: 0.
    pub capability_minor: u32,
    /// CUDA: streaming multiprocessors. CPU: threads that run at once, which a runtime has by default.
    pub processors: u32,
    /// CUDA: bytes of the GPU's memory, in use or not. CPU: 0.
    pub memory_bytes: u64,
    /// CUDA: what identifies the GPU, also to Vulkan and Direct3D: `device_uuid` of fewstep_runtime_options. CPU: zeros.
    pub uuid: [u8; 16],
    /// The name that the driver or the processor gives, UTF-8, with a NUL at the end.
    pub name: [c_char; FEWSTEP_DEVICE_NAME_SIZE],
    /// CPU: the instruction sets of floats, bytes and bf16 as far as they differ, such as "AVX-512, AMX int8, AMX bf16"; FEWSTEP_ISA lowers them, and AMX is
    /// there until the system has refused its tiles, for which nobody asks here. CUDA: what the kernels are chosen for, such as "sm_90". With a NUL at the end.
    pub instructions: [c_char; FEWSTEP_DEVICE_INSTRUCTIONS_SIZE],
}

// SAFETY: repr(C), the fields leave no gap, numbers only.
unsafe impl Report for fewstep_device_info {
    const NAME: &'static str = "device info";
    const FIRST_SIZE: usize = std::mem::offset_of!(Self, instructions);
}

/// The kinds of devices.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Cpu,
    Cuda,
}

/// The kind that a FEWSTEP_DEVICE_* names.
pub(super) fn kind(device: i32) -> Result<Kind> {
    choice(device, "device", &[(FEWSTEP_DEVICE_CPU, Kind::Cpu), (FEWSTEP_DEVICE_CUDA, Kind::Cuda)])
}

/// Refuses every index of a CPU device but the one that there is.
pub(super) fn check_cpu(index: i32, name: &str) -> Result<()> {
    match index {
        0 => Ok(()),
        _ => Err(Error::invalid(format!("{name} is {index}; there is one CPU device, 0"))),
    }
}

/// The GPU of an index.
pub(super) fn gpu(index: i32, name: &str) -> Result<cuda::Device> {
    cuda::Device::at(usize::try_from(index).map_err(|_| Error::invalid(format!("{name} is {index}; it must be at least 0")))?)
}

impl fewstep_device_info {
    /// The CPU.
    pub(super) fn cpu() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            device: FEWSTEP_DEVICE_CPU,
            index: 0,
            usable: 1,
            precisions: precision_bits(if bf16::Kernel::is_possible() { &[DType::F32, DType::Bf16] } else { &[DType::F32] }),
            capability_major: 0,
            capability_minor: 0,
            processors: u32::try_from(processor::threads()).unwrap_or(u32::MAX),
            memory_bytes: 0,
            uuid: [0; 16],
            name: name(&processor::name()),
            instructions: name(&processor::instructions()),
        }
    }

    /// A GPU.
    pub(super) fn cuda(gpu: &cuda::Device) -> Self {
        let usable = gpu.check_usable().is_ok();
        Self {
            struct_size: size_field::<Self>(),
            device: FEWSTEP_DEVICE_CUDA,
            index: i32::try_from(gpu.ordinal).unwrap_or(i32::MAX),
            usable: i32::from(usable),
            precisions: if usable { precision_bits(gpu.precisions()) } else { 0 },
            capability_major: gpu.capability / 10,
            capability_minor: gpu.capability % 10,
            processors: gpu.multiprocessors,
            memory_bytes: gpu.memory as u64,
            uuid: gpu.uuid,
            name: name(&gpu.name),
            instructions: name(&format!("sm_{}", gpu.capability)),
        }
    }
}

/// A name as C holds it; what does not fit is cut off between two characters.
fn name<const SIZE: usize>(text: &str) -> [c_char; SIZE] {
    let mut end = text.len().min(SIZE - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = [0; SIZE];
    name.iter_mut().zip(text[..end].bytes()).for_each(|(to, from)| *to = from as c_char);
    name
}

fn count(device: i32) -> Result<u32> {
    let found = match kind(device)? {
        Kind::Cpu => return Ok(1),
        Kind::Cuda => cuda::Device::count(),
    };
    match found {
        Ok(count) => Ok(u32::try_from(count).unwrap_or(u32::MAX)),
        Err(reason) if matches!(reason.status, Status::Unsupported | Status::NoDevice | Status::DriverTooOld) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Writes to `*out` how many devices of a kind (FEWSTEP_DEVICE_*) there are, usable or not. That there are none is no error: for CUDA `*out` is 0 without a
/// driver, with one that is too old, without a GPU, and in a library that was built without CUDA kernels. fewstep_device_get_info of device 0 then says which.
/// Opens no device. The first call about CUDA loads the driver, which may take some tenths of a second; a library without CUDA kernels never does.
///
/// Any thread may call. Returns OK, INVALID_ARGUMENT, OUT_OF_MEMORY (the driver did not start for lack of it) or what else the driver answered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_device_count(device: i32, out: *mut u32) -> fewstep_status {
    // SAFETY: `out` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        check_out(out, "out")?;
        put(out, count(device)?);
        Ok(())
    })
}

/// Fills `*out`, whose struct_size the caller has set, with what the device `index` of a kind (FEWSTEP_DEVICE_*) is: 0 to fewstep_device_count - 1. There is
/// one CPU device, 0. Opens no device: what fewstep_runtime_create may still find is a lack of memory, or that another process has a GPU for itself.
///
/// Any thread may call. Returns OK, INVALID_ARGUMENT or, for CUDA, UNSUPPORTED (this library was built without CUDA kernels), NO_DEVICE (no driver, or no
/// such GPU), DRIVER_TOO_OLD or OUT_OF_MEMORY; fewstep_last_error has the sentence.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_device_get_info(device: i32, index: i32, out: *mut fewstep_device_info) -> fewstep_status {
    // SAFETY: `out` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let size = check_report(out)?;
        let info = match kind(device)? {
            Kind::Cpu => check_cpu(index, "index").map(|()| fewstep_device_info::cpu())?,
            Kind::Cuda => fewstep_device_info::cuda(&gpu(index, "index")?),
        };
        write_report(out, size, info);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_with_a_nul_and_whole_characters() {
        let text = |name: [c_char; FEWSTEP_DEVICE_NAME_SIZE]| {
            let bytes: Vec<u8> = name.iter().map(|c| *c as u8).collect();
            let end = bytes.iter().position(|b| *b == 0).expect("a NUL");
            assert!(bytes[end..].iter().all(|b| *b == 0), "nothing is left behind the NUL");
            String::from_utf8(bytes[..end].to_vec()).expect("UTF-8")
        };
        for (given, expected) in [
            (String::new(), String::new()),
            ("NVIDIA H200".into(), "NVIDIA H200".into()),
            ("x".repeat(255), "x".repeat(255)),
            ("x".repeat(300), "x".repeat(255)),
            (format!("{}é", "x".repeat(254)), "x".repeat(254)),
            ("名".repeat(100), "名".repeat(85)),
        ] {
            assert_eq!(text(name(&given)), expected);
        }
    }

    #[test]
    fn what_is_not_usable_computes_in_nothing() {
        for (capability, precisions) in [(61, 0), (75, 0b011), (80, 0b111), (90, 0b111), (120, 0b111)] {
            let info = fewstep_device_info::cuda(&cuda::Device::example(3, capability));
            let usable = cuda::manifest::runs_on(capability);
            assert_eq!((info.usable, info.precisions), (i32::from(usable), if usable { precisions } else { 0 }), "{capability}");
            assert_eq!((info.capability_major, info.capability_minor, info.index), (capability / 10, capability % 10, 3));
        }
        assert_eq!(fewstep_device_info::cpu().precisions, if bf16::Kernel::is_possible() { 0b101 } else { 0b001 });
    }
}
