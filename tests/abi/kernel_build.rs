//! The build's CUDA half (`build/cuda.rs`) on kernels of its own. What needs nvcc is checked where one is found, and in CI always.

#[path = "../../build/cuda.rs"]
mod cuda;

use cuda::arch::Arch;
use cuda::compiler::{self, Compiler};
use cuda::settings::{Mode, Settings};
use cuda::{Built, Request, shared, tables};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ARCHS: [u32; 3] = [75, 90, 120];

const KERNELS: &str = r#"
#include "device/types.cuh"
#include <cuda_fp16.h>
extern "C" __global__ void __launch_bounds__(256) reverse(float *x, float a, int n) {
  __shared__ float s[256];
  const int i = blockIdx.x * 256 + threadIdx.x;
  s[threadIdx.x] = i < n ? x[i] : 0;
  __syncthreads();
  if (i < n) x[i] = s[255 - threadIdx.x] * a;
}
extern "C" __global__ void __launch_bounds__(64) odd(Strides p, __half h, long long q, char c) { p.x[threadIdx.x] = p.n[1] + __half2float(h) + c + q; }
extern "C" __global__ void nothing() {}
"#;

const SPILLS: &str = r#"
extern "C" __global__ void __launch_bounds__(1024) spilling(float *x) {
  float v[128];
  for (int i = 0; i < 128; i++) v[i] = x[i * threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 128; i++) x[i * threadIdx.x] = v[i] * v[127 - i];
}
"#;

/// A folder of kernels and of what is made of them, removed at the end.
struct Project(PathBuf);

impl Project {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("fewstep-cuda-build-{test}-{}", std::process::id()));
        fs::create_dir_all(folder.join("cuda/device")).unwrap();
        let project = Self(folder);
        project.write("cuda/device/types.cuh", "#pragma once\nstruct Strides { float *x; int n[3]; };\n");
        project.write("cuda/README.md", "not a kernel");
        project
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::write(&path, text).unwrap();
        path
    }

    fn compile(&self, compiler: &Compiler) -> Result<Built, String> {
        cuda::compile(&Request { sources: &self.0.join("cuda"), cache: &self.0.join("cache"), compiler, archs: &ARCHS, jobs: 2 })
    }

    /// The names in the cache.
    fn cached(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("cache")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A program that answers `--version` as nvcc does.
    fn nvcc(&self, path: &str, version: &str) -> PathBuf {
        let release = version.rsplit_once('.').unwrap().0;
        self.program(path, &format!("#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{version}'\n"))
    }

    /// Written by another process: a file that this one has open for writing, which a fork by another test may prolong, cannot be run.
    fn program(&self, path: &str, script: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let write = Command::new("sh").args(["-c", r#"printf %s "$1" >"$0" && chmod +x "$0""#]).arg(&path).arg(script).status();
        assert!(write.unwrap().success());
        path
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The compiler that the build would take; none is fine unless FEWSTEP_CUDA=require.
fn compiler() -> Option<Compiler> {
    let settings = Settings::read(&environment).unwrap();
    let nvcc = compiler::find(&environment, &Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cuda-toolkit")).unwrap();
    assert!(nvcc.is_some() || settings.mode != Mode::Require, "no nvcc");
    if nvcc.is_none() {
        eprintln!("no nvcc: not checked");
    }
    nvcc.map(|nvcc| Compiler::new(nvcc, &environment).unwrap())
}

/// An environment of a few variables.
fn only<'a>(variables: &'a [(&'a str, &'a Path)]) -> impl Fn(&str) -> Option<OsString> + 'a {
    |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_os_str().to_owned())
}

#[test]
fn the_table_says_what_was_compiled() {
    let Some(compiler) = compiler() else { return };
    let project = Project::new("table");
    project.write("cuda/kernels.cu", KERNELS);
    project.write("cuda/spills.cu", SPILLS);
    let built = project.compile(&compiler).unwrap();
    let names: Vec<&str> = built.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    assert_eq!(names, ["nothing", "odd", "reverse", "spilling"]);
    let modules: Vec<&str> = built.modules.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(modules, ["kernels", "spills"]);
    let [nothing, odd, reverse, spilling] = &built.kernels[..] else { unreachable!() };
    assert_eq!((&nothing.params[..], nothing.max_threads, nothing.module), (&[][..], 1024, 0));
    assert_eq!(odd.offsets, [0, 24, 32, 40]);
    assert_eq!((&odd.params[..], odd.max_threads, odd.module), (&[24, 2, 8, 1][..], 64, 0));
    assert_eq!((&reverse.params[..], reverse.max_threads, reverse.module), (&[8, 4, 4][..], 256, 0));
    assert_eq!((&spilling.params[..], spilling.max_threads, spilling.module), (&[8][..], 1024, 1));
    for kernel in &built.kernels {
        assert_eq!(kernel.codes.iter().map(|code| code.arch).collect::<Vec<Arch>>(), ARCHS.map(Arch::plain));
        for code in &kernel.codes {
            let (usage, name) = (code.usage, &kernel.name);
            assert!((1..=255).contains(&usage.registers), "{name} {usage:?}");
            assert_eq!(usage.static_shared, if name == "reverse" { 1024 } else { 0 }, "{name} {usage:?}");
            let spills = usage.stack > 0 && usage.spill_stores > 0 && usage.spill_loads > 0;
            assert_eq!(spills, name == "spilling", "{name} {usage:?}");
        }
    }
}

#[test]
fn only_what_changed_is_compiled_again() {
    let Some(compiler) = compiler() else { return };
    let project = Project::new("cache");
    project.write("cuda/kernels.cu", KERNELS);
    project.write("cuda/spills.cu", SPILLS);
    let images = ARCHS.len() + 1;
    project.compile(&compiler).unwrap();
    let first = project.cached();
    assert_eq!(first.len(), 2 * (images + 1), "{first:?}");
    project.compile(&compiler).unwrap();
    assert_eq!(project.cached(), first);
    project.write("cuda/device/types.cuh", "#pragma once\nstruct Strides { float *x; int n[5]; };\n");
    let built = project.compile(&compiler).unwrap();
    assert_eq!(built.kernels[1].params[0], 32);
    let new: Vec<String> = project.cached().into_iter().filter(|name| !first.contains(name)).collect();
    assert_eq!(new.len(), images + 1, "{new:?}");
    assert!(new.iter().all(|name| name.starts_with("kernels.")), "{new:?}");
}

#[test]
fn two_builds_at_once_share_a_cache() {
    let Some(compiler) = compiler() else { return };
    let project = Project::new("race");
    project.write("cuda/kernels.cu", KERNELS);
    std::thread::scope(|scope| {
        let builds = [(); 3].map(|()| scope.spawn(|| project.compile(&compiler).unwrap().kernels.len()));
        builds.into_iter().for_each(|build| assert_eq!(build.join().unwrap(), 3));
    });
    assert_eq!(project.cached().len(), ARCHS.len() + 2, "{:?}", project.cached());
}

#[test]
fn what_is_wrong_with_kernels_is_said() {
    let Some(compiler) = compiler() else { return };
    let project = Project::new("wrong");
    let path = project.write("cuda/a.cu", "extern \"C\" __global__ void broken(float *x) { *x = y; }\n");
    let message = project.compile(&compiler).err().unwrap();
    assert!(message.contains(&format!("{}(1): error: identifier \"y\" is undefined", path.display())), "{message}");
    project.write("cuda/a.cu", "extern \"C\" __global__ void twice() {}\n");
    project.write("cuda/b.cu", "extern \"C\" __global__ void twice() {}\n");
    let message = project.compile(&compiler).err().unwrap();
    assert!(message.ends_with("b.cu, sm_75: twice: another source has a kernel of this name"), "{message}");
    let two_sizes = "#if __CUDA_ARCH__ < 800\nusing T = int;\n#else\nusing T = long;\n#endif\nextern \"C\" __global__ void unequal(T, int) {}\n";
    project.write("cuda/b.cu", two_sizes);
    let message = project.compile(&compiler).err().unwrap();
    assert!(message.ends_with("b.cu, sm_90: unequal: its parameters have [8, 4] bytes here and [4, 4] on sm_75"), "{message}");
    project.write("cuda/b.cu", "extern \"C\" __global__ void warns() { int unused; }\n");
    let warnings = project.compile(&compiler).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings.iter().all(|warning| warning.contains("b.cu") && warning.contains("unused")), "{warnings:?}");
}

#[test]
fn a_kernel_that_some_gpus_lack_is_refused() {
    let Some(compiler) = compiler() else { return };
    let project = Project::new("lacks");
    let lacks = |condition: &str| {
        project.write("cuda/a.cu", &format!("#if {condition}\nextern \"C\" __global__ void some() {{}}\n#endif\n"));
        project.compile(&compiler).err().unwrap()
    };
    // nvcc compiles for the host, too, where __CUDA_ARCH__ is not defined.
    let message = lacks("!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900");
    assert!(message.ends_with("a.cu: some: not in the code for sm_75"), "{message}");
    let message = lacks("!defined(__CUDA_ARCH__) || __CUDA_ARCH__ != 800");
    assert!(message.ends_with("a.cu: some: not in the code for compute_80"), "{message}");
}

#[test]
fn architectures_have_names() {
    let (known, unknown) = ([("90", (90, None)), ("90a", (90, Some('a'))), ("120f", (120, Some('f')))], ["", "a", "90ab", "9 0"]);
    for (text, arch) in known.map(|(text, arch)| (text, Some(arch))).into_iter().chain(unknown.map(|text| (text, None))) {
        let expected = arch.map(|(number, feature)| Arch { number, feature });
        assert_eq!(Arch::parse(text), expected, "{text}");
        assert_eq!(expected.map_or(text.to_owned(), |arch| arch.to_string()), text);
    }
}

/// Kernels in a folder named after an architecture are compiled for that one alone, with what it alone has.
#[test]
fn a_folder_is_for_its_architecture_alone() {
    let Some(compiler) = compiler() else { return };
    let project = Project::new("alone");
    fs::create_dir_all(project.0.join("cuda/sm90a")).unwrap();
    fs::create_dir_all(project.0.join("cuda/sm103a")).unwrap();
    project.write("cuda/kernels.cu", KERNELS);
    let only = |name: &str| {
        let body = r#"asm volatile("wgmma.fence.sync.aligned;");"#;
        format!("#include \"device/types.cuh\"\nextern \"C\" __global__ void {name}(Strides p) {{ {body} }}\n")
    };
    project.write("cuda/sm90a/kernels.cu", &only("hopper"));
    project.write("cuda/sm103a/kernels.cu", &only("nobody")); // not asked for: would not compile
    let built = project.compile(&compiler).unwrap();
    let modules: Vec<&str> = built.modules.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(modules, ["kernels", "kernels.sm90a"]);
    let kernels: Vec<(&str, usize, usize)> = built.kernels.iter().map(|kernel| (kernel.name.as_str(), kernel.module, kernel.codes.len())).collect();
    assert_eq!(kernels, [("hopper", 1, 1), ("nothing", 0, ARCHS.len()), ("odd", 0, ARCHS.len()), ("reverse", 0, ARCHS.len())]);
    assert_eq!(built.kernels[0].codes[0].arch, Arch { number: 90, feature: Some('a') });
    tables::write_rust(&built, &project.0).unwrap();
    tables::write_text(&built, &project.0).unwrap();
    let read = |name: &str| fs::read_to_string(project.0.join(name)).unwrap();
    assert!(read("cuda_kernels.rs").contains("codes: &[Code { arch: Arch { number: 90, feature: Some('a') }, registers: "));
    assert!(read("cuda_modules.rs").contains("/kernels.sm90a.fatbin"));
    assert_eq!(read("manifest.txt").lines().filter(|line| line.starts_with("1 hopper ")).count(), 1, "no PTX");
    assert!(read("manifest.txt").contains("\n1 hopper 90a 24 ") || read("manifest.txt").starts_with("1 hopper 90a 24 "));
    assert_eq!(fs::read(project.0.join("kernels.sm90a.fatbin")).unwrap()[..4], 0xBA55_ED50_u32.to_le_bytes());
    project.write("cuda/sm90a/kernels.cu", &only("nothing"));
    let message = project.compile(&compiler).err().unwrap();
    assert!(message.ends_with("sm90a/kernels.cu, sm_90a: nothing: another source has a kernel of this name"), "{message}");
}

#[test]
fn headers_in_angle_brackets_are_followed() {
    let Some(compiler) = compiler() else { return };
    let project = Project::new("angle");
    project.write("cuda/kernels.cu", &KERNELS.replace("\"device/types.cuh\"", "<device/types.cuh>"));
    project.compile(&compiler).unwrap();
    project.write("cuda/device/types.cuh", "#pragma once\nstruct Strides { float *x; int n[5]; };\n");
    assert_eq!(project.compile(&compiler).unwrap().kernels[1].params[0], 32);
}

#[test]
fn the_tables_are_written() {
    let Some(compiler) = compiler() else { return };
    let project = Project::new("written");
    project.write("cuda/kernels.cu", KERNELS);
    let built = project.compile(&compiler).unwrap();
    tables::write_rust(&built, &project.0).unwrap();
    tables::write_text(&built, &project.0).unwrap();
    let read = |name: &str| fs::read_to_string(project.0.join(name)).unwrap();
    assert!(read("cuda_modules.rs").contains(r#"Module { name: "kernels""#));
    assert!(
        read("cuda_kernels.rs")
            .contains(r#"KernelInfo { name: "odd", module: 0, max_threads: 64, params: &[24, 2, 8, 1], offsets: &[0, 24, 32, 40], codes: &["#)
    );
    assert_eq!(fs::read(project.0.join("kernels.fatbin")).unwrap()[..4], 0xBA55_ED50_u32.to_le_bytes());
    assert_eq!(read("resources.csv").lines().count(), 1 + 3 * ARCHS.len());
    let manifest = read("manifest.txt");
    assert_eq!(manifest.lines().count(), 1 + 3 * (ARCHS.len() + 1), "{manifest}");
    let begins = |start: &str| manifest.lines().any(|line| line.starts_with(start));
    assert!(begins("0 nothing 75 ") && begins("0 odd 120 24 2 8 1 ") && begins("0 reverse 90 8 4 4 "), "{manifest}");
    assert!(manifest.contains("0 nothing ptx80 0 0\n") && manifest.contains("0 reverse ptx80 8 4 4 0 1024\n"), "{manifest}");
}

#[test]
fn no_sources_are_no_kernels() {
    let project = Project::new("none");
    let nvcc = project.nvcc("nvcc", "13.0.88");
    let compiler = Compiler::new(nvcc, &only(&[])).unwrap();
    let built = project.compile(&compiler).unwrap();
    assert!(built.modules.is_empty() && built.kernels.is_empty());
    tables::write_rust(&built, &project.0).unwrap();
    assert_eq!(fs::read_to_string(project.0.join("cuda_kernels.rs")).unwrap(), "&[\n]\n");
    fs::remove_dir_all(project.0.join("cuda")).unwrap();
    assert!(project.compile(&compiler).unwrap().modules.is_empty());
}

#[test]
fn nvcc_is_looked_for_in_order() {
    let project = Project::new("order");
    let toolkit = project.0.join("toolkit");
    let find = |variables: &[(&str, &Path)]| compiler::find(&only(variables), &toolkit);
    let (home, path) = (project.0.join("home"), project.0.join("path"));
    assert_eq!(find(&[("CUDA_HOME", &home), ("PATH", &path)]), Ok(None));
    let last = project.nvcc("toolkit/bin/nvcc", "13.0.1");
    assert_eq!(find(&[("CUDA_HOME", &home), ("PATH", &path)]), Ok(Some(last.clone())));
    let in_path = project.nvcc("path/nvcc", "13.0.1");
    assert_eq!(find(&[("CUDA_HOME", &home), ("PATH", &path)]), Ok(Some(in_path)));
    let in_home = project.nvcc("home/bin/nvcc", "13.0.1");
    assert_eq!(find(&[("CUDA_HOME", &home), ("PATH", &path)]), Ok(Some(in_home)));
    assert_eq!(find(&[("FEWSTEP_NVCC", &last), ("CUDA_HOME", &home)]), Ok(Some(last)));
    let missing = project.0.join("missing");
    assert_eq!(find(&[("FEWSTEP_NVCC", &missing)]), Err(format!("FEWSTEP_NVCC={}: no such file", missing.display())));
}

#[test]
fn an_old_nvcc_is_refused() {
    let project = Project::new("old");
    let identity = |nvcc: PathBuf, options: &str| {
        let compiler = Compiler::new(nvcc, &only(&[("NVCC_APPEND_FLAGS", Path::new(options))]));
        compiler.map(|compiler| compiler.identity)
    };
    let message = identity(project.nvcc("12.9/nvcc", "12.9.86"), "").unwrap_err();
    assert!(message.contains("is version 12.9.86, older than 13.0") && message.contains("FEWSTEP_CUDA=off"), "{message}");
    let message = identity(project.program("other/nvcc", "#!/bin/sh\necho hello\n"), "").unwrap_err();
    assert!(message.contains("no version in\nhello"), "{message}");
    assert!(identity(project.nvcc("14.1/nvcc", "14.1.1"), "").is_ok());
    let oldest = project.nvcc("13.0/nvcc", "13.0.88");
    assert!(identity(oldest.clone(), "").unwrap().starts_with("13.0.88"));
    assert_ne!(identity(oldest.clone(), "-G"), identity(oldest, ""));
}

#[test]
fn settings_are_understood_or_refused() {
    let read = |name: &str, value: &str| Settings::read(&only(&[(name, Path::new(value))]));
    let default = Settings::read(&only(&[])).unwrap();
    assert_eq!((default.mode, &default.archs[..]), (Mode::Auto, &[75, 80, 86, 89, 90, 100, 120][..]));
    assert_eq!(read("FEWSTEP_CUDA", "require").unwrap().mode, Mode::Require);
    assert_eq!(read("FEWSTEP_CUDA", "off").unwrap().mode, Mode::Off);
    assert_eq!(read("FEWSTEP_CUDA", "yes").unwrap_err(), "FEWSTEP_CUDA=yes: expected auto, require or off");
    assert_eq!(read("FEWSTEP_CUDA_ARCHS", "90, 80,90").unwrap().archs, [80, 90]);
    assert!(read("FEWSTEP_CUDA_ARCHS", "sm_90").unwrap_err().starts_with("FEWSTEP_CUDA_ARCHS=sm_90: expected numbers"));
    assert!(read("FEWSTEP_CUDA_ARCHS", "").is_err());
}

#[test]
fn shared_numbers_become_rust() {
    let header = "// Numbers.\n#pragma once\n\nnamespace shared {\n\nnamespace conv {\nconstexpr int kMostTaps = 15;  // in a direction\n\
                  constexpr int kDepth2 = 3;\n}  // namespace conv\n}  // namespace shared\n";
    let rust = "pub mod conv {\n/// in a direction.\npub const MOST_TAPS: usize = 15;\npub const DEPTH2: usize = 3;\n}\n";
    assert_eq!(shared::to_rust(header).unwrap(), rust);
    for (line, wrong) in [
        ("constexpr int kMostTaps = 15;", "constexpr int kMostTaps = 3 * 5;"),
        ("constexpr int kMostTaps = 15;", "constexpr int kMostTaps = -1;"),
        ("constexpr int kMostTaps = 15;", "constexpr int MostTaps = 15;"),
        ("constexpr int kMostTaps = 15;", "constexpr int k = 15;"),
        ("constexpr int kMostTaps = 15;", "constexpr uint32_t kMostTaps = 15;"),
        ("constexpr int kMostTaps = 15;  // in a direction", "constexpr int kMostTaps = 15;  /* in a direction */"),
        ("namespace conv {", "struct Conv {"),
    ] {
        let message = shared::to_rust(&header.replace(line, wrong)).unwrap_err();
        assert!(message.contains("not understood") && message.contains(wrong), "{message}");
    }
    assert_eq!(shared::to_rust("namespace shared {\nnamespace a {\n}  // namespace a\n").unwrap_err(), "namespace shared has no end");
    assert!(shared::to_rust("constexpr int kLoose = 1;\n").is_err() && shared::to_rust("}  // namespace shared\n").is_err());
}

/// The lines in which a function that is not a kernel asks which block it is.
fn asks_for_its_block(source: &str) -> Vec<usize> {
    let asks = ["fs::this_block()", "fs::begin()"].into_iter().flat_map(|ask| source.match_indices(ask));
    let in_kernel = |at: &usize| source[..*at].rfind("FEWSTEP_KERNEL") > source[..*at].rfind("FEWSTEP_DEVICE");
    asks.map(|(at, _)| at).filter(|at| !in_kernel(at)).map(|at| source[..at].lines().count()).collect()
}

/// Functions are told which block they work for, so that a kernel may give them another.
#[test]
fn only_kernels_ask_which_block_they_are() {
    let asks = "FEWSTEP_DEVICE int f() {\n  return fs::begin().index.x; }\nFEWSTEP_KERNEL(32, k) { f(fs::this_block()); }\n";
    assert_eq!(asks_for_its_block(asks), [2]);
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let mut kernels = 0;
    let mut folders = vec![cuda.clone()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.extend(Some(path).filter(|path| !["device", "emulator"].map(|name| cuda.join(name)).contains(path)));
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            assert!(asks_for_its_block(&source).is_empty(), "{}: line {:?}", path.display(), asks_for_its_block(&source));
            kernels += source.matches("fs::begin()").count();
        }
    }
    assert!(kernels > 40, "only {kernels} places ask: are these the kernels?");
}
