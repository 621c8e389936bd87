//! What the environment asks for.

use std::ffi::OsString;

/// The value of an environment variable; tests have one of their own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Those of NVIDIA's GPUs that have their own machine code; between and after them, the next lower one of the same major version or the PTX runs.
const ARCHS: &str = "75,80,86,89,90,100,120";

/// `FEWSTEP_CUDA`: are kernels compiled?
#[derive(Debug, PartialEq)]
pub enum Mode {
    /// If there is a compiler.
    Auto,
    /// Or the build fails.
    Require,
    /// Never.
    Off,
}

/// The whole of it, but for where the compiler is.
#[derive(Debug)]
pub struct Settings {
    pub mode: Mode,
    /// `FEWSTEP_CUDA_ARCHS`: compute capabilities times ten, ascending.
    pub archs: Vec<u32>,
}

impl Settings {
    /// An error for anything that is not understood.
    pub fn read(environment: Environment) -> Result<Self, String> {
        let mode = match text(environment, "FEWSTEP_CUDA")?.as_deref() {
            None | Some("auto") => Mode::Auto,
            Some("require") => Mode::Require,
            Some("off") => Mode::Off,
            Some(other) => return Err(format!("FEWSTEP_CUDA={other}: expected auto, require or off")),
        };
        let archs = text(environment, "FEWSTEP_CUDA_ARCHS")?.unwrap_or_else(|| ARCHS.to_owned());
        Ok(Self { mode, archs: parse_archs(&archs)? })
    }
}

fn text(environment: Environment, name: &str) -> Result<Option<String>, String> {
    let text = |value: OsString| value.into_string().map_err(|value| format!("{name}={value:?}: not text"));
    environment(name).map(text).transpose()
}

fn parse_archs(list: &str) -> Result<Vec<u32>, String> {
    let parse = |arch: &str| arch.trim().parse().map_err(|_| format!("FEWSTEP_CUDA_ARCHS={list}: expected numbers with commas between, such as {ARCHS}"));
    let mut archs = list.split(',').map(parse).collect::<Result<Vec<u32>, _>>()?;
    archs.sort_unstable();
    archs.dedup();
    Ok(archs)
}
