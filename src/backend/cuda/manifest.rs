//! The kernels that the build compiled. What is here was read from the compiled images (build/kernels.rs), not from their sources.
#![allow(dead_code)] // what a kernel needs is read by tests alone

use std::fmt;

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
    /// Its machine code, by architecture in ascending order; a GPU that runs the PTX, or code of a lower minor version, is not among them. A kernel for one
    /// architecture alone has one, and no PTX.
    pub(crate) codes: &'static [Code],
}

impl KernelInfo {
    /// What a GPU of this compute capability (times ten) runs; none where the driver translates the PTX, or the kernel is for others.
    pub(crate) fn machine_code(&self, capability: u32) -> Option<&Code> {
        self.codes.iter().rev().find(|code| code.arch.runs_on(capability))
    }

    /// Is it for one architecture alone (`cuda/sm90a`)?
    pub(crate) fn is_alone(&self) -> bool {
        self.codes.iter().any(|code| code.arch.feature.is_some())
    }

    /// Is there code of it for this compute capability (times ten)?
    pub(crate) fn runs_on(&self, capability: u32) -> bool {
        self.machine_code(capability).is_some() || !self.is_alone() && capability >= PORTABLE
    }
}

/// What machine code is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arch {
    /// Compute capability times ten.
    pub(crate) number: u32,
    /// The letter after it: such code runs on this one alone.
    pub(crate) feature: Option<char>,
}

impl Arch {
    /// Does a GPU of this compute capability run it? Else code runs on its own major version, from its minor one on.
    fn runs_on(self, capability: u32) -> bool {
        match self.feature {
            Some(_) => self.number == capability,
            None => self.number / 10 == capability / 10 && self.number <= capability,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "sm_{}", self.number)?;
        self.feature.map_or(Ok(()), |letter| write!(f, "{letter}"))
    }
}

/// A kernel's code for one architecture, and what it needs.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) arch: Arch,
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

/// Is there code for GPUs of this compute capability (times ten)? All kernels have it, or none, but for those for one architecture alone.
pub(crate) fn runs_on(capability: u32) -> bool {
    KERNELS.iter().find(|kernel| !kernel.is_alone()).is_some_and(|kernel| kernel.runs_on(capability))
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
            assert!(!kernel.codes.is_empty() && kernel.max_threads <= 1024, "{kernel:?}");
            // A kernel for one architecture alone may have all that it has.
            let most_shared = if kernel.is_alone() { u32::MAX } else { 48 << 10 };
            assert!(kernel.codes.iter().all(|code| code.registers <= 255 && code.static_shared <= most_shared), "{kernel:?}");
        }
        assert!(find("no such kernel").is_none());
    }

    #[test]
    fn every_kernel_has_code_for_the_same_gpus() {
        let archs = |kernel: &KernelInfo| kernel.codes.iter().map(|code| code.arch).collect::<Vec<Arch>>();
        let (alone, general): (Vec<_>, Vec<_>) = KERNELS.iter().partition(|kernel| kernel.is_alone());
        assert!(general.windows(2).all(|pair| archs(pair[0]) == archs(pair[1])));
        assert!(alone.iter().all(|kernel| kernel.codes.len() == 1));
        assert!(KERNELS.iter().all(|kernel| kernel.codes.is_sorted_by_key(|code| code.arch) && kernel.params.len() == kernel.offsets.len()));
    }

    const fn code(number: u32, feature: Option<char>) -> Code {
        Code { arch: Arch { number, feature }, registers: 0, static_shared: 0, stack: 0, spill_stores: 0, spill_loads: 0 }
    }

    #[test]
    fn a_kernel_for_one_architecture_runs_on_that_alone() {
        static GENERAL: [Code; 3] = [code(80, None), code(86, None), code(90, None)];
        static ALONE: [Code; 1] = [code(90, Some('a'))];
        let kernel = |codes| KernelInfo { name: "k", module: 0, max_threads: 32, params: &[], offsets: &[], codes };
        let runs = |kernel: &KernelInfo, capability| (kernel.machine_code(capability).map(|code| code.arch.number), kernel.runs_on(capability));
        let (general, alone) = (kernel(&GENERAL), kernel(&ALONE));
        for (capability, expected) in [(75, (None, false)), (87, (Some(86), true)), (90, (Some(90), true)), (100, (None, true))] {
            assert_eq!(runs(&general, capability), expected, "{capability}");
        }
        for (capability, expected) in [(89, (None, false)), (90, (Some(90), true)), (100, (None, false))] {
            assert_eq!(runs(&alone, capability), expected, "{capability}");
        }
        assert_eq!(ALONE[0].arch.to_string(), "sm_90a");
    }

    #[test]
    fn runs_on_what_there_is_code_for() {
        assert!(include_str!("../../../build/image.rs").contains(&format!("pub const PORTABLE: u32 = {PORTABLE};")));
        for (capability, expected) in [(0, false), (61, false), (70, false), (80, true), (87, true), (103, true), (121, true)] {
            assert_eq!(runs_on(capability), expected && built(), "{capability}");
        }
        let machine = KERNELS.first().is_some_and(|kernel| kernel.codes.iter().any(|code| code.arch.number == 75));
        assert_eq!(runs_on(75), machine);
    }

    #[test]
    fn no_kernel_spills_or_keeps_arrays_in_local_memory() {
        for kernel in KERNELS.iter().filter(|kernel| !LOCAL_MEMORY.contains(&kernel.name)) {
            for code in kernel.codes {
                assert_eq!((code.stack, code.spill_stores, code.spill_loads), (0, 0, 0), "{} on {}", kernel.name, code.arch);
            }
        }
    }
}
