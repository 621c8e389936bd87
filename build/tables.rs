//! The table of kernels, for the library, for people and for the emulator.

use super::arch::Arch;
use super::image::PORTABLE;
use super::ptxas::Usage;
use super::{Built, Code, Kernel, Module};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process;

/// `cuda_modules.rs` and `cuda_kernels.rs`, expressions that `src/backend/cuda/manifest.rs` includes, and the fat binaries that the first one embeds.
pub fn write_rust(built: &Built, folder: &Path) -> Result<(), String> {
    for module in &built.modules {
        let copy = folder.join(format!("{}.fatbin", module.name));
        fs::copy(&module.fatbin, &copy).map_err(|e| format!("{}: {e}", copy.display()))?;
    }
    write(&folder.join("cuda_modules.rs"), &list(&built.modules, rust_module))?;
    write(&folder.join("cuda_kernels.rs"), &list(&built.kernels, rust_kernel))
}

/// `resources.csv` and `manifest.txt`, of the last build that had kernels.
pub fn write_text(built: &Built, folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    write(&folder.join("resources.csv"), &resources(built))?;
    write(&folder.join("manifest.txt"), &manifest(built))
}

fn list<T>(items: &[T], item: impl Fn(&T) -> String) -> String {
    let items: String = items.iter().map(|each| format!("    {},\n", item(each))).collect();
    format!("&[\n{items}]\n")
}

fn rust_module(Module { name, .. }: &Module) -> String {
    format!(r#"Module {{ name: {name:?}, fatbin: &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/{name}.fatbin"))).0 }}"#)
}

fn rust_kernel(Kernel { name, module, max_threads, params, offsets, codes }: &Kernel) -> String {
    let codes: Vec<String> = codes.iter().map(rust_code).collect();
    let codes = codes.join(", ");
    format!("KernelInfo {{ name: {name:?}, module: {module}, max_threads: {max_threads}, params: &{params:?}, offsets: &{offsets:?}, codes: &[{codes}] }}")
}

fn rust_code(Code { arch, usage }: &Code) -> String {
    let Arch { number, feature } = arch;
    let Usage { registers, static_shared, stack, spill_stores, spill_loads } = usage;
    format!(
        "Code {{ arch: Arch {{ number: {number}, feature: {feature:?} }}, registers: {registers}, static_shared: {static_shared}, stack: {stack}, \
         spill_stores: {spill_stores}, spill_loads: {spill_loads} }}"
    )
}

/// A line for each kernel and architecture.
fn resources(built: &Built) -> String {
    let mut text = "kernel,arch,registers,static_shared,stack,spill_stores,spill_loads\n".to_owned();
    for kernel in &built.kernels {
        for Code { arch, usage } in &kernel.codes {
            let Usage { registers, static_shared, stack, spill_stores, spill_loads } = usage;
            let name = &kernel.name;
            writeln!(text, "{name},{arch},{registers},{static_shared},{stack},{spill_stores},{spill_loads}").expect("a String takes everything");
        }
    }
    text
}

/// What the emulator's stand-in for the driver admits, in the format of `cuda/emulator/libcuda/manifest.hpp`: a line for each kernel and image.
fn manifest(built: &Built) -> String {
    let mut text = "# module kernel architecture parameter_sizes... registers static_shared\n".to_owned();
    for kernel in &built.kernels {
        let mut line = |arch: String, registers: u32, static_shared: u32| {
            let sizes: String = kernel.params.iter().map(|size| format!(" {size}")).collect();
            writeln!(text, "{} {} {arch}{sizes} {registers} {static_shared}", kernel.module, kernel.name).expect("a String takes everything");
        };
        kernel.codes.iter().for_each(|Code { arch, usage }| line(arch.to_string(), usage.registers, usage.static_shared));
        if kernel.codes.iter().any(|code| code.arch.feature.is_some()) {
            continue; // has no PTX
        }
        // What a driver will make of PTX is not known: 0 registers says so, and a source's shared memory hardly depends on the GPU.
        line(format!("ptx{PORTABLE}"), 0, kernel.codes.iter().map(|code| code.usage.static_shared).max().unwrap_or(0));
    }
    text
}

/// Under another name first: cargo may build two profiles at once, and readers must see a whole file.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let unfinished = path.with_extension(process::id().to_string());
    fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, path)).map_err(|e| format!("{}: {e}", path.display()))
}
