//! One source compiled for one target, and a source's images packed into a fat binary.

use super::Request;
use super::arch::Arch;
use super::cache::Cache;
use super::compiler::{Compiler, run};
use super::digest::digest;
use super::source::Source;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The lowest architecture with everything that the kernels use; its PTX runs on all later ones.
pub const PORTABLE: u32 = 80;

/// For all targets. -v makes ptxas report what each kernel uses.
const FLAGS: [&str; 4] = ["-std=c++17", "-O3", "-Xptxas", "-v"];

/// For fatbinary.
const PACK_FLAGS: [&str; 3] = ["-64", "--compress-all", "--create=fatbin"];

/// The compiled code's file in its entry of the cache.
const CODE: &str = "code";

/// What code is made for.
#[derive(Clone, Copy)]
pub enum Target {
    /// A GPU's own instructions.
    Machine(Arch),
    /// PTX, which the driver translates.
    Portable(u32),
}

/// A compiled source.
pub struct Image {
    pub target: Target,
    /// The entry's name in the cache.
    name: String,
    source: String,
    pub code: PathBuf,
    /// What the compiler said.
    pub log: String,
}

/// Machine code for each architecture, and PTX; of a source for one of them alone, that one's if it is asked for.
pub fn targets(archs: &[u32], only: Option<Arch>) -> Vec<Target> {
    match only {
        Some(arch) => archs.iter().filter(|number| **number == arch.number).map(|_| Target::Machine(arch)).collect(),
        None => archs.iter().map(|number| Target::Machine(Arch::plain(*number))).chain([Target::Portable(PORTABLE)]).collect(),
    }
}

impl Target {
    /// As nvcc's `-arch` has it.
    pub fn name(self) -> String {
        match self {
            Target::Machine(arch) => format!("sm_{arch}"),
            Target::Portable(arch) => format!("compute_{arch}"),
        }
    }

    fn options(self) -> [String; 2] {
        let kind = match self {
            Target::Machine(_) => "-cubin",
            Target::Portable(_) => "-ptx",
        };
        [kind.to_owned(), format!("-arch={}", self.name())]
    }

    /// What fatbinary is told of an image of it.
    fn image(self, file: &str) -> String {
        let (kind, arch) = match self {
            Target::Machine(arch) => ("elf", arch),
            Target::Portable(number) => ("ptx", Arch::plain(number)),
        };
        format!("--image3=kind={kind},sm={arch},file={file}")
    }
}

impl Image {
    /// The name of the source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The lines of the log that warn, without nvcc's remark on how not to be warned.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.log.lines().filter(|line| line.contains("warning") && !line.starts_with("Remark:")).map(str::to_owned)
    }
}

/// Compiles a source unless the cache has it.
pub fn compile(request: &Request, cache: &Cache, source: &Source, target: Target) -> Result<Image, String> {
    let options = target.options();
    // By names within the folder: the same sources in another checkout are the same.
    let contents: Vec<_> = source.contents.iter().map(|(path, text)| (path.strip_prefix(request.sources).unwrap_or(path), text)).collect();
    let key = digest(&(&request.compiler.identity, FLAGS, &options, &contents));
    let name = format!("{}.{}.{key}", source.name, target.name());
    let entry = cache.entry(&name, |folder| {
        let mut command = Command::new(&request.compiler.nvcc);
        command.args(FLAGS).args(&options).arg("-I").arg(request.sources).arg(&source.path).arg("-o").arg(folder.join(CODE));
        let log = run(&mut command)?.stderr;
        fs::write(folder.join("log"), log).map_err(|e| format!("{}: {e}", folder.display()))
    })?;
    let log = fs::read_to_string(entry.join("log")).map_err(|e| format!("{}: {e}", entry.display()))?;
    Ok(Image { target, name, source: source.name.clone(), code: entry.join(CODE), log })
}

/// The path of a fat binary of all images of one source.
pub fn pack(compiler: &Compiler, cache: &Cache, images: &[Image]) -> Result<PathBuf, String> {
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    let name = format!("{}.fatbin.{}", images[0].source, digest(&(&compiler.identity, PACK_FLAGS, names)));
    let entry = cache.entry(&name, |folder| {
        let mut command = Command::new(&compiler.fatbinary);
        // Neighbours in the cache, by relative paths: fatbinary ends a file's name at a comma, which an absolute one may have.
        let files = images.iter().map(|image| image.target.image(&format!("../{}/{CODE}", image.name)));
        run(command.current_dir(folder).args(PACK_FLAGS).args(files)).map(drop)
    })?;
    Ok(entry.join("fatbin"))
}
