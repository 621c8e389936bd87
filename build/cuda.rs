//! From `cuda/*.cu` to fat binaries and a table of what is in them. `build.rs` drives this; `tests/abi/kernel_build.rs` tries it on kernels of its own.
//!
//! Each source file becomes one fat binary: machine code for every asked architecture and portable code (PTX) for those that come later. They are not
//! linked into one, because then a program would load every kernel of the library, and the driver would translate all PTX on a newer GPU, for a model that
//! needs a few of them; and a changed kernel would have every other one packed anew.
//!
//! A folder such as `cuda/sm90a` holds sources for that architecture alone: their fat binaries have its machine code and nothing else.

pub mod arch;
mod cache;
pub mod compiler;
mod cubin;
mod digest;
mod image;
mod kernels;
mod parallel;
mod ptxas;
pub mod settings;
pub mod shared;
mod source;
pub mod tables;

pub use kernels::{Code, Kernel};

use cache::Cache;
use compiler::Compiler;
use image::Target;
use source::Source;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What to compile, with what, for whom.
pub struct Request<'a> {
    /// The folder of the `.cu` files, and of folders of those for one architecture; their includes are relative to it.
    pub sources: &'a Path,
    /// Where compiled images are kept between builds.
    pub cache: &'a Path,
    pub compiler: &'a Compiler,
    /// Compute capabilities times ten, ascending, to make machine code for.
    pub archs: &'a [u32],
    /// How many compilers may run at once.
    pub jobs: usize,
}

/// What came of it.
#[derive(Default)]
pub struct Built {
    pub modules: Vec<Module>,
    /// By name, ascending.
    pub kernels: Vec<Kernel>,
    /// What the compiler said about code that it did compile; once, though it says it for every target.
    pub warnings: BTreeSet<String>,
}

/// One source file's fat binary.
pub struct Module {
    /// The source's name without `.cu`; for one architecture alone, with that behind a dot.
    pub name: String,
    pub fatbin: PathBuf,
}

/// Compiles every source, or takes it from the cache.
pub fn compile(request: &Request) -> Result<Built, String> {
    let mut sources = source::list(request.sources)?;
    sources.retain(|source| !image::targets(request.archs, source.only).is_empty());
    let cache = Cache::new(request.cache);
    let targets = |source: &Source| image::targets(request.archs, source.only);
    let pairs: Vec<(&Source, Target)> = sources.iter().flat_map(|source| targets(source).into_iter().map(move |target| (source, target))).collect();
    let images = parallel::map(request.jobs, &pairs, |(source, target)| image::compile(request, &cache, source, *target))?;
    let per_source: Vec<&[image::Image]> = images.chunk_by(|a, b| a.source() == b.source()).collect();
    let fatbins = parallel::map(request.jobs, &per_source, |images| image::pack(request.compiler, &cache, images))?;
    let modules = sources.iter().zip(fatbins).map(|(source, fatbin)| Module { name: source.name.clone(), fatbin }).collect();
    let kernels = kernels::collect(&sources, &per_source)?;
    let warnings = images.iter().flat_map(image::Image::warnings).collect();
    Ok(Built { modules, kernels, warnings })
}
