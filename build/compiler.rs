//! NVIDIA's compiler: where it is and which one it is.

use super::settings::Environment;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The oldest release that is accepted: the first whose fat binaries and sm_120 code are those that are tested.
const OLDEST: (u32, u32) = (13, 0);

/// `nvcc` takes options from these, too.
const OPTIONS: [&str; 2] = ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];

/// An nvcc that runs and is new enough.
pub struct Compiler {
    pub nvcc: PathBuf,
    pub fatbinary: PathBuf,
    /// Such as 13.0.88, and the options that it takes from the environment: what must be the same for two compilations to be.
    pub identity: String,
}

/// The first nvcc in FEWSTEP_NVCC, CUDA_HOME, PATH, `toolkit`. Only what was looked at is asked of the environment, so that nothing else is watched.
pub fn find(environment: Environment, toolkit: &Path) -> Result<Option<PathBuf>, String> {
    if let Some(nvcc) = environment("FEWSTEP_NVCC") {
        let nvcc = PathBuf::from(nvcc);
        return if nvcc.is_file() { Ok(Some(nvcc)) } else { Err(format!("FEWSTEP_NVCC={}: no such file", nvcc.display())) };
    }
    let in_home = environment("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    if let Some(nvcc) = in_home.filter(|nvcc| nvcc.is_file()) {
        return Ok(Some(nvcc));
    }
    let path = environment("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let mut candidates = in_path.chain([toolkit.join("bin/nvcc")]);
    Ok(candidates.find(|nvcc| nvcc.is_file()))
}

impl Compiler {
    /// Asks it for its version.
    pub fn new(nvcc: PathBuf, environment: Environment) -> Result<Self, String> {
        let output = run(Command::new(&nvcc).arg("--version"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = version(&text).ok_or_else(|| format!("{} --version: no version in\n{text}", nvcc.display()))?;
        refuse_old(&nvcc, version)?;
        let options = OPTIONS.map(|name| environment(name).unwrap_or_default());
        Ok(Self { fatbinary: sibling(&nvcc, "fatbinary"), identity: identity(version, &options), nvcc })
    }
}

fn identity(version: &str, options: &[OsString]) -> String {
    format!("{version} {options:?}")
}

/// The tool next to nvcc itself (which may be a link elsewhere), else the one in PATH.
fn sibling(nvcc: &Path, tool: &str) -> PathBuf {
    let nvcc = fs::canonicalize(nvcc).unwrap_or_else(|_| nvcc.to_owned());
    let beside = nvcc.with_file_name(tool);
    if beside.is_file() { beside } else { PathBuf::from(tool) }
}

/// 13.0.88 from "Cuda compilation tools, release 13.0, V13.0.88".
fn version(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("release ")?;
    let (_, version) = rest.lines().next()?.split_once(", V")?;
    Some(version.trim())
}

fn refuse_old(nvcc: &Path, version: &str) -> Result<(), String> {
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    let release: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if release >= OLDEST {
        return Ok(());
    }
    let (major, minor) = OLDEST;
    Err(format!(
        "{} is version {version}, older than {major}.{minor}: name a newer one in FEWSTEP_NVCC (`make cuda-toolkit` installs target/cuda-toolkit/bin/nvcc), \
         or set FEWSTEP_CUDA=off",
        nvcc.display()
    ))
}

/// Runs a tool to its end; if it fails, its own words are the error.
pub fn run(command: &mut Command) -> Result<Output, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let words = [output.stdout, output.stderr].concat();
    Err(format!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&words)))
}
