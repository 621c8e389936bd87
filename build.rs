//! Names the shared library for the dynamic linker, and compiles the CUDA kernels if there is a compiler for them.

#[path = "build/cuda.rs"]
mod cuda;

use cuda::compiler::{self, Compiler};
use cuda::settings::{Mode, Settings};
use cuda::{shared, tables};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // rustc already exports nothing from a cdylib but the functions of the C ABI; only the SONAME is missing. Its number is FEWSTEP_ABI_VERSION.
    let linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    if linux {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libfewstep.so.0");
    }
    if let Err(message) = kernels() {
        // Not a panic: cargo would bury nvcc's words under a backtrace and these very lines.
        message.lines().filter(|line| !line.trim().is_empty()).for_each(|line| println!("cargo::error={line}"));
    }
}

/// Leaves the tables that `src/backend/cuda/manifest.rs` includes in OUT_DIR, empty ones if there is no compiler.
fn kernels() -> Result<(), String> {
    println!("cargo::rustc-check-cfg=cfg(fewstep_cuda)");
    let root = folder("CARGO_MANIFEST_DIR")?;
    share_numbers(&root)?;
    let settings = Settings::read(&watched)?;
    let built = match find(&settings, &root)? {
        Some(compiler) => compile(&settings, &compiler, &root)?,
        None => cuda::Built::default(),
    };
    tables::write_rust(&built, &folder("OUT_DIR")?)?;
    if !built.kernels.is_empty() {
        println!("cargo::rustc-cfg=fewstep_cuda");
    }
    Ok(())
}

/// Leaves the numbers of `cuda/shared.h` in OUT_DIR, for `src/backend/cuda/shared.rs`: with kernels or without.
fn share_numbers(root: &Path) -> Result<(), String> {
    let header = root.join("cuda/shared.h");
    println!("cargo::rerun-if-changed={}", header.display());
    let text = std::fs::read_to_string(&header).map_err(|e| format!("{}: {e}", header.display()))?;
    let rust = shared::to_rust(&text).map_err(|message| format!("{}: {message}", header.display()))?;
    let file = folder("OUT_DIR")?.join("cuda_shared.rs");
    std::fs::write(&file, rust).map_err(|e| format!("{}: {e}", file.display()))
}

fn find(settings: &Settings, root: &Path) -> Result<Option<Compiler>, String> {
    if settings.mode == Mode::Off {
        return Ok(None);
    }
    // A compiler that comes later must be noticed. Cargo takes a missing file for a changed one, every time; so the script that installs it touches itself.
    println!("cargo::rerun-if-changed=.ci/cuda-toolkit");
    let Some(nvcc) = compiler::find(&watched, &root.join("target/cuda-toolkit"))? else {
        let message = "no nvcc in FEWSTEP_NVCC, CUDA_HOME, PATH or target/cuda-toolkit (`make cuda-toolkit` installs one)";
        if settings.mode == Mode::Require {
            return Err(format!("FEWSTEP_CUDA=require, but {message}"));
        }
        println!("cargo::warning=building without CUDA kernels: {message}");
        return Ok(None);
    };
    println!("cargo::rerun-if-changed={}", nvcc.display());
    Compiler::new(nvcc, &watched).map(Some)
}

fn compile(settings: &Settings, compiler: &Compiler, root: &Path) -> Result<cuda::Built, String> {
    let sources = root.join("cuda");
    if sources.is_dir() {
        println!("cargo::rerun-if-changed={}", sources.display()); // a missing one would count as changed, every time
    }
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let request = cuda::Request { sources: &sources, cache: &root.join("target/cuda-cache"), compiler, archs: &settings.archs, jobs };
    let built = cuda::compile(&request)?;
    report(&built.warnings, &settings.mode)?;
    tables::write_text(&built, &root.join("target/cuda"))?;
    Ok(built)
}

/// Warnings stop only those who ask for kernels: a newer compiler than ours, with opinions of its own, should not keep a user from building. The compiler is
/// not told (-Werror), so that both modes share the cache.
fn report(warnings: &BTreeSet<String>, mode: &Mode) -> Result<(), String> {
    if *mode == Mode::Require && !warnings.is_empty() {
        let lines: Vec<&str> = warnings.iter().map(String::as_str).collect();
        return Err(format!("FEWSTEP_CUDA=require takes the compiler's warnings for errors:\n{}", lines.join("\n")));
    }
    warnings.iter().for_each(|warning| println!("cargo::warning={warning}"));
    Ok(())
}

/// An environment variable that, when it changes, makes cargo run this again.
fn watched(name: &str) -> Option<OsString> {
    println!("cargo::rerun-if-env-changed={name}");
    std::env::var_os(name)
}

/// A folder that cargo names.
fn folder(variable: &str) -> Result<PathBuf, String> {
    std::env::var_os(variable).map(PathBuf::from).ok_or_else(|| format!("cargo did not set {variable}"))
}
