//! The compiled kernels in a context: modules are loaded when the first plan needs one of their kernels, never while a plan runs.

use super::context::Context;
use super::driver::check;
use super::manifest::{self, KernelInfo, MODULES};
use super::tuning::Tuning;
use crate::error::{Error, Result};
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

/// A kernel, ready to be launched.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub raw: sys::CUfunction,
    pub info: &'static KernelInfo,
    /// Launches may begin before those before them have ended.
    pub overlaps: bool,
}

// SAFETY: a name that the driver understands on every thread.
unsafe impl Send for Function {}

/// The kernels of one context.
pub(super) struct Kernels {
    context: Arc<Context>,
    loaded: Mutex<Loaded>,
    /// Where kernels wait for one another.
    overlap: bool,
    /// Somebody asked for it, and is told where it cannot be.
    overlap_asked: bool,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<usize, sys::CUmodule>,
    functions: HashMap<&'static str, Function>,
}

// SAFETY: names that the driver understands on every thread.
unsafe impl Send for Loaded {}

/// The first compute capability whose launches may overlap, for which kernels are compiled to wait for one another (`cuda/device/grid.cuh`). Those that the
/// driver translates from PTX do not: that is for an older one.
const OVERLAP_CAPABILITY: u32 = 90;

/// What says whether launches may begin before those before them have ended, before the table of tuning does.
const OVERLAP: &str = "FEWSTEP_CUDA_OVERLAP";

fn overlap(asked: Option<&str>, unasked: bool) -> Result<bool> {
    match asked {
        None => Ok(unasked),
        Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => Err(Error::invalid(format!("{OVERLAP}={other}: expected 0 or 1"))),
    }
}

impl Kernels {
    /// None loaded yet.
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        let asked = std::env::var_os(OVERLAP).map(|value| value.to_string_lossy().into_owned());
        let capability = context.device.capability;
        let overlap = overlap(asked.as_deref(), Tuning::of(capability).overlap)?;
        let overlap_asked = overlap && asked.is_some();
        if overlap_asked && capability < OVERLAP_CAPABILITY {
            let name = &context.device.name;
            return Err(Error::unsupported(format!(
                "{OVERLAP}=1: launches overlap on GPUs of compute capability 9.0 and later, not on {name} ({}.{}): unset it",
                capability / 10,
                capability % 10
            )));
        }
        Ok(Self { context: context.clone(), loaded: Mutex::default(), overlap, overlap_asked })
    }

    /// A kernel by name.
    pub fn get(&self, name: &str) -> Result<Function> {
        let info = manifest::find(name).ok_or_else(|| Error::internal(format!("no kernel {name} was compiled")))?;
        let device = &self.context.device;
        if !info.runs_on(device.capability) {
            let archs: Vec<String> = info.codes.iter().map(|code| code.arch.to_string()).collect();
            return Err(Error::internal(format!("{name} is for {} alone, not for {}", archs.join(", "), device.name)));
        }
        let entered = self.context.enter()?;
        // A panic elsewhere leaves the maps as whole as they were.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let function = match loaded.functions.get(name) {
            Some(function) => *function,
            None => {
                let module = match loaded.modules.get(&info.module) {
                    Some(module) => *module,
                    None => {
                        let module = self.load(info.module)?;
                        loaded.modules.insert(info.module, module);
                        module
                    }
                };
                let symbol = CString::new(name).map_err(|_| Error::internal("a kernel's name has a NUL"))?;
                // SAFETY: the module is loaded in the current context.
                let raw = check(unsafe { result::module::get_function(module, symbol) }, format!("finding the kernel {name}"))?;
                // Kernels are loaded when they are first used, which must not be while a graph is captured.
                // SAFETY: the function was just found.
                check(unsafe { sys::cuFuncLoad(raw) }.result(), format!("loading the kernel {name}"))?;
                let overlaps = self.overlap && waits(raw)?;
                if self.overlap_asked && !overlaps {
                    return Err(Error::unsupported(format!("{OVERLAP}=1: the driver made {name} from PTX that waits for no other launch: unset it")));
                }
                let function = Function { raw, info, overlaps };
                loaded.functions.insert(info.name, function);
                function
            }
        };
        drop(entered);
        Ok(function)
    }

    fn load(&self, module: usize) -> Result<sys::CUmodule> {
        let module = MODULES.get(module).ok_or_else(|| Error::internal("a kernel of no module"))?;
        // SAFETY: a fatbin as the compiler wrote it; it says its own length.
        let loaded = unsafe { result::module::load_data(module.fatbin.as_ptr().cast()) };
        check(loaded, format!("loading the kernels of {} for {}", module.name, self.context.device.name))
    }
}

/// Whether a kernel that is loaded waits for the launch before it. That depends on what the driver has loaded, not on what the library contains: it may have
/// been told to translate PTX all the same.
fn waits(function: sys::CUfunction) -> Result<bool> {
    let mut version = 0;
    // SAFETY: the function is loaded; the driver writes one int.
    let code = unsafe { sys::cuFuncGetAttribute(&mut version, sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION, function) };
    check(code.result(), "asking for a kernel's PTX version")?;
    Ok(u32::try_from(version).is_ok_and(|version| version >= OVERLAP_CAPABILITY))
}

impl Drop for Kernels {
    fn drop(&mut self) {
        let Ok(_entered) = self.context.enter() else { return };
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        for module in loaded.modules.values() {
            // SAFETY: loaded in `load`, unloaded once; nothing runs any more, since every executable holds an Arc of this. Errors have nobody to hear them.
            let _ = unsafe { result::module::unload(*module) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_asked_for_or_left_to_the_table() {
        for unasked in [false, true] {
            assert_eq!(overlap(None, unasked), Ok(unasked));
            assert_eq!((overlap(Some("0"), unasked), overlap(Some("1"), unasked)), (Ok(false), Ok(true)));
            assert_eq!(overlap(Some("yes"), unasked).unwrap_err().message, "FEWSTEP_CUDA_OVERLAP=yes: expected 0 or 1");
        }
    }
}
