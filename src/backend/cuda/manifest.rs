//! The kernels that the build compiled. What is here was read from the compiled images (build/kernels.rs), not from their sources.
#![allow(dead_code)] // what a kernel needs is read by tests alone

/// One source file of `cuda/`, compiled.
pub(crate) struct Module {
    /// The file's name without `.cu`.
    pub(crate) name: &'static str,
    /// For `cuModuleLoadData`: machine code for several architectures and PTX for later ones. It says its own length.
    pub(crate) fatbin: &'static [u8],
}

/// A kernel, the same on every architecture in all that a launch needs.
#[derive(Debug)]
pub(crate) struct KernelInfo {
    /// By which the driver finds it in its module.
    pub(crate) name: &'static str,
    /// Its place in [`MODULES`].
    pub(crate) module: usize,
    /// The most threads of a block.
    pub(crate) max_threads: u32,
    /// The size of each parameter in bytes.
    pub(crate) params: &'static [u32],
    /// Where each parameter begins in the kernel's parameter buffer, in bytes.
    pub(crate) offsets: &'static [u32],
    /// Ascending; a GPU that runs the PTX, or machine code of a lower minor version, is not among them.
    pub(crate) archs: &'static [ArchInfo],
}

impl KernelInfo {
    /// What a GPU of this compute capability (times ten) runs; none where the driver translates the PTX.
    pub(crate) fn machine_code(&self, capability: u32) -> Option<&ArchInfo> {
        self.archs.iter().rev().find(|code| code.arch / 10 == capability / 10 && code.arch <= capability)
    }
}

/// What a kernel needs on one architecture.
#[derive(Debug)]
pub(crate) struct ArchInfo {
    /// Compute capability times ten.
    pub(crate) arch: u32,
    /// 32-bit registers a thread.
    pub(crate) registers: u32,
    /// Shared memory a block in bytes, without what a launch adds.
    pub(crate) static_shared: u32,
    /// Local memory a thread in bytes.
    pub(crate) stack: u32,
    /// Bytes written to spill registers.
    pub(crate) spill_stores: u32,
    /// Bytes read to fill them again.
    pub(crate) spill_loads: u32,
}

/// The driver reads a fat binary's header as 64-bit words.
#[cfg(fewstep_cuda)]
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

/// The compiled source files; empty in a build without CUDA.
pub(crate) static MODULES: &[Module] = include!(concat!(env!("OUT_DIR"), "/cuda_modules.rs"));

/// Every kernel, by name in ascending order; empty in a build without CUDA.
pub(crate) static KERNELS: &[KernelInfo] = include!(concat!(env!("OUT_DIR"), "/cuda_kernels.rs"));

/// Does this build have kernels?
pub(crate) fn built() -> bool {
    cfg!(fewstep_cuda)
}

/// The lowest compute capability times ten that runs the PTX (`PORTABLE` of build/image.rs).
const PORTABLE: u32 = 80;

/// Is there code for GPUs of this compute capability (times ten)? Machine code runs on its own major version, from its minor one on.
pub(crate) fn runs_on(capability: u32) -> bool {
    KERNELS.first().is_some_and(|kernel| capability >= PORTABLE || kernel.machine_code(capability).is_some())
}

/// The kernel of this name.
pub(crate) fn find(name: &str) -> Option<&'static KernelInfo> {
    let index = KERNELS.binary_search_by(|kernel| kernel.name.cmp(name)).ok()?;
    KERNELS.get(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernels that may use local memory, which lies in the GPU's main memory. None should: `resources.csv` shows how much and where.
    const LOCAL_MEMORY: [&str; 0] = [];

    /// The first word of every fat binary.
    const MAGIC: [u8; 4] = 0xBA55_ED50_u32.to_le_bytes();

    #[test]
    fn a_build_has_kernels_and_modules_or_neither() {
        assert_eq!(built(), !KERNELS.is_empty());
        assert_eq!(built(), !MODULES.is_empty());
    }

    #[test]
    fn modules_are_aligned_fat_binaries() {
        for module in MODULES {
            assert!(module.fatbin.starts_with(&MAGIC), "{}", module.name);
            assert!((module.fatbin.as_ptr() as usize).is_multiple_of(8), "{}", module.name);
        }
    }

    #[test]
    fn each_kernel_is_found_by_its_name_and_fits_every_gpu() {
        for kernel in KERNELS {
            assert!(std::ptr::eq(find(kernel.name).unwrap(), kernel), "{}", kernel.name);
            assert!(kernel.module < MODULES.len(), "{}", kernel.name);
            assert!(!kernel.archs.is_empty() && kernel.max_threads <= 1024, "{kernel:?}");
            assert!(kernel.archs.iter().all(|arch| arch.registers <= 255 && arch.static_shared <= 48 << 10), "{kernel:?}");
        }
        assert!(find("no such kernel").is_none());
    }

    #[test]
    fn every_kernel_has_code_for_the_same_gpus() {
        let archs = |kernel: &KernelInfo| kernel.archs.iter().map(|arch| arch.arch).collect::<Vec<u32>>();
        assert!(KERNELS.windows(2).all(|pair| archs(&pair[0]) == archs(&pair[1])));
        assert!(KERNELS.iter().all(|kernel| kernel.archs.is_sorted_by_key(|arch| arch.arch) && kernel.params.len() == kernel.offsets.len()));
    }

    #[test]
    fn runs_on_what_there_is_code_for() {
        assert!(include_str!("../../../build/image.rs").contains(&format!("pub const PORTABLE: u32 = {PORTABLE};")));
        for (capability, expected) in [(0, false), (61, false), (70, false), (80, true), (87, true), (103, true), (121, true)] {
            assert_eq!(runs_on(capability), expected && built(), "{capability}");
        }
        let machine = KERNELS.first().is_some_and(|kernel| kernel.archs.iter().any(|code| code.arch == 75));
        assert_eq!(runs_on(75), machine);
    }

    #[test]
    fn no_kernel_spills_or_keeps_arrays_in_local_memory() {
        for kernel in KERNELS.iter().filter(|kernel| !LOCAL_MEMORY.contains(&kernel.name)) {
            for arch in kernel.archs {
                assert_eq!((arch.stack, arch.spill_stores, arch.spill_loads), (0, 0, 0), "{} on sm_{}", kernel.name, arch.arch);
            }
        }
    }
}
