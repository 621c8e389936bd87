//! The table of kernels, for the library, for people and for the emulator.

use super::ptxas::Usage;
use super::{Arch, Built, Kernel, Module};
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
    let resources = "kernel,arch,registers,static_shared,stack,spill_stores,spill_loads\n";
    write(&folder.join("resources.csv"), &lines(resources, built, csv_line))?;
    let manifest = "# kernel module arch max_threads registers static_shared param_sizes\n";
    write(&folder.join("manifest.txt"), &lines(manifest, built, manifest_line))
}

fn list<T>(items: &[T], item: impl Fn(&T) -> String) -> String {
    let items: String = items.iter().map(|each| format!("    {},\n", item(each))).collect();
    format!("&[\n{items}]\n")
}

fn rust_module(Module { name, .. }: &Module) -> String {
    format!(r#"Module {{ name: {name:?}, fatbin: &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/{name}.fatbin"))).0 }}"#)
}

fn rust_kernel(Kernel { name, module, max_threads, params, archs }: &Kernel) -> String {
    let archs: Vec<String> = archs.iter().map(rust_arch).collect();
    let archs = archs.join(", ");
    format!("KernelInfo {{ name: {name:?}, module: {module}, max_threads: {max_threads}, params: &{params:?}, archs: &[{archs}] }}")
}

fn rust_arch(Arch { arch, usage }: &Arch) -> String {
    let Usage { registers, static_shared, stack, spill_stores, spill_loads } = usage;
    format!(
        "ArchInfo {{ arch: {arch}, registers: {registers}, static_shared: {static_shared}, stack: {stack}, spill_stores: {spill_stores}, \
         spill_loads: {spill_loads} }}"
    )
}

/// A line for each kernel and architecture.
fn lines(head: &str, built: &Built, line: impl Fn(&Kernel, &Arch) -> String) -> String {
    let mut text = head.to_owned();
    for kernel in &built.kernels {
        for arch in &kernel.archs {
            writeln!(text, "{}", line(kernel, arch)).expect("a String takes everything");
        }
    }
    text
}

fn csv_line(kernel: &Kernel, Arch { arch, usage }: &Arch) -> String {
    let Usage { registers, static_shared, stack, spill_stores, spill_loads } = usage;
    format!("{},{arch},{registers},{static_shared},{stack},{spill_stores},{spill_loads}", kernel.name)
}

/// A kernel without parameters ends its line with `-`, so that every line has seven words.
fn manifest_line(Kernel { name, module, max_threads, params, .. }: &Kernel, Arch { arch, usage }: &Arch) -> String {
    let sizes: Vec<String> = params.iter().map(u32::to_string).collect();
    let sizes = if sizes.is_empty() { "-".to_owned() } else { sizes.join(",") };
    format!("{name} {module} {arch} {max_threads} {} {} {sizes}", usage.registers, usage.static_shared)
}

/// Under another name first: cargo may build two profiles at once, and readers must see a whole file.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let unfinished = path.with_extension(process::id().to_string());
    fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, path)).map_err(|e| format!("{}: {e}", path.display()))
}
