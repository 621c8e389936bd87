//! The kernels of all images, each once.

use super::arch::Arch;
use super::cubin;
use super::image::{Image, Target};
use super::ptxas::{self, Usage};
use super::source::Source;
use std::collections::BTreeMap;
use std::fs;

/// A kernel, the same on all its architectures but for what it needs.
pub struct Kernel {
    pub name: String,
    /// The index of its module.
    pub module: usize,
    /// The most threads of a block.
    pub max_threads: u32,
    /// The size of each parameter in bytes.
    pub params: Vec<u32>,
    /// Where each parameter begins in the kernel's parameter buffer, in bytes.
    pub offsets: Vec<u32>,
    /// Ascending.
    pub codes: Vec<Code>,
}

/// Its machine code for one architecture.
pub struct Code {
    pub arch: Arch,
    pub usage: Usage,
}

/// By name, ascending, from each source's images.
pub fn collect(sources: &[Source], images: &[&[Image]]) -> Result<Vec<Kernel>, String> {
    let mut kernels = BTreeMap::new();
    for (module, (source, images)) in sources.iter().zip(images).enumerate() {
        for image in *images {
            if let Target::Machine(arch) = image.target {
                read(image, arch, module, &mut kernels).map_err(|message| format!("{}, sm_{arch}: {message}", source.path.display()))?;
            }
        }
        complete(images, module, &kernels).map_err(|message| format!("{}: {message}", source.path.display()))?;
    }
    Ok(kernels.into_values().collect())
}

fn read(image: &Image, arch: Arch, module: usize, kernels: &mut BTreeMap<String, Kernel>) -> Result<(), String> {
    let cubin = fs::read(&image.code).map_err(|e| format!("{}: {e}", image.code.display()))?;
    let usages = ptxas::parse(&image.log);
    for entry in cubin::entries(&cubin)? {
        let usage = *usages.get(&entry.name).ok_or_else(|| format!("{}: ptxas reported nothing about it:\n{}", entry.name, image.log))?;
        let code = Code { arch, usage };
        match kernels.get_mut(&entry.name) {
            Some(kernel) => {
                agree(kernel, module, &entry)?;
                kernel.codes.push(code);
            }
            None => {
                let cubin::Entry { name, params, offsets, max_threads } = entry;
                kernels.insert(name.clone(), Kernel { name, module, max_threads, params, offsets, codes: vec![code] });
            }
        }
    }
    Ok(())
}

/// A kernel that an `#if` hides from some GPUs would be missed only when one of them runs it. (What only the PTX lacks, all later GPUs lack.)
fn complete(images: &[Image], module: usize, kernels: &BTreeMap<String, Kernel>) -> Result<(), String> {
    let ours = || kernels.values().filter(|kernel| kernel.module == module);
    for image in images {
        let lacks: Box<dyn Fn(&Kernel) -> bool> = match image.target {
            Target::Machine(arch) => Box::new(move |kernel| kernel.codes.iter().all(|code| code.arch != arch)),
            Target::Portable(_) => {
                let ptx = fs::read_to_string(&image.code).map_err(|e| format!("{}: {e}", image.code.display()))?;
                Box::new(move |kernel| !ptx.contains(&format!(".entry {}(", kernel.name)))
            }
        };
        if let Some(kernel) = ours().find(|kernel| lacks(kernel)) {
            return Err(format!("{}: not in the code for {}", kernel.name, image.target.name()));
        }
    }
    Ok(())
}

/// A kernel is found by its name alone and launched in one way on every GPU.
fn agree(kernel: &Kernel, module: usize, entry: &cubin::Entry) -> Result<(), String> {
    let name = &kernel.name;
    if kernel.module != module {
        return Err(format!("{name}: another source has a kernel of this name"));
    }
    if kernel.params != entry.params {
        return Err(format!("{name}: its parameters have {:?} bytes here and {:?} on sm_{}", entry.params, kernel.params, kernel.codes[0].arch));
    }
    if kernel.offsets != entry.offsets {
        return Err(format!("{name}: its parameters begin at {:?} here and at {:?} on sm_{}", entry.offsets, kernel.offsets, kernel.codes[0].arch));
    }
    if kernel.max_threads != entry.max_threads {
        return Err(format!("{name}: at most {} threads here and {} on sm_{}", entry.max_threads, kernel.max_threads, kernel.codes[0].arch));
    }
    Ok(())
}
