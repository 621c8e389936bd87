//! include/fewstep.h is what the sources say, and compiles in every language that includes it.
//!
//! `make header` writes it anew.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The order of the header's chapters.
const SOURCES: [&str; 15] = [
    "error",
    "cancel",
    "callback",
    "device",
    "runtime",
    "grid",
    "conditioning",
    "model",
    "dataset",
    "precision",
    "trainer_options",
    "trainer",
    "sampler_options",
    "sampler",
    "evaluator",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn header() -> PathBuf {
    root().join("include/fewstep.h")
}

fn generate() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in SOURCES.iter().chain(&["tools"]) {
        builder = builder.with_src(root().join("src/ffi").join(format!("{name}.rs")));
    }
    let mut text = vec![];
    builder.generate().expect("cbindgen").write(&mut text);
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn the_header_is_generated() {
    let text = generate();
    if std::env::var_os("FEWSTEP_UPDATE_HEADER").is_some() {
        std::fs::write(header(), &text).expect("include/fewstep.h");
        return;
    }
    let committed = std::fs::read_to_string(header()).expect("include/fewstep.h");
    if text != committed {
        let line = text.lines().zip(committed.lines()).position(|(a, b)| a != b).map_or(0, |i| i + 1);
        panic!("include/fewstep.h differs from src/ffi from line {line} on; run make header");
    }
}

/// Every file of src/ffi with an extern function is in the header.
#[test]
fn no_source_is_forgotten() {
    let header = std::fs::read_to_string(header()).expect("include/fewstep.h");
    for entry in std::fs::read_dir(root().join("src/ffi")).expect("src/ffi") {
        let path = entry.expect("src/ffi").path();
        let text = std::fs::read_to_string(&path).expect("source");
        for name in text.split("extern \"C\" fn ").skip(1).filter_map(|rest| rest.split('(').next()).filter(|name| name.starts_with("fewstep_")) {
            assert!(header.contains(&format!("{name}(")), "{name} of {} is not in the header", path.display());
        }
    }
}

fn compile(compiler: &str, language: &str, standard: &str, source: &str) {
    let dir = std::env::temp_dir().join(format!("fewstep-header-{}-{standard}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("temporary folder");
    let file = dir.join(format!("header.{language}"));
    std::fs::write(&file, source).expect("source");
    let mut command = Command::new(compiler);
    command.args([&format!("-std={standard}"), "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-I"]).arg(root().join("include"));
    if language == "c" {
        command.arg("-Wstrict-prototypes");
    }
    let output = command.arg(&file).output().expect("compiler");
    let _ = std::fs::remove_dir_all(&dir);
    assert!(output.status.success(), "{compiler} -std={standard}:\n{}", String::from_utf8_lossy(&output.stderr));
}

fn compiler(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}

const C_SOURCE: &str = r#"
#include "fewstep.h"
#include "fewstep.h"
static int32_t progress(void *user, const fewstep_progress *p) { (void)user; return p->done > p->total; }
int main(void) {
    fewstep_runtime *runtime = NULL;
    fewstep_step_pair pair = {999, -1};
    fewstep_progress_callback callback = progress;
    return fewstep_runtime_create(NULL, &runtime) + (int)pair.t + (callback == NULL) + FEWSTEP_STATUS_OK;
}
"#;

#[test]
fn compiles_as_c() {
    for standard in ["c99", "c11"] {
        compile(&compiler("CC", "cc"), "c", standard, C_SOURCE);
    }
}

#[test]
fn compiles_as_cpp() {
    for standard in ["c++11", "c++20"] {
        compile(&compiler("CXX", "c++"), "cpp", standard, &C_SOURCE.replace("NULL", "nullptr"));
    }
}

/// The version macros are those of Cargo.toml, whatever their arithmetic.
#[test]
fn version_macros() {
    let version: Vec<u32> = env!("CARGO_PKG_VERSION").split('.').map(|n| n.parse().expect("number")).collect();
    let [major, minor, patch] = version[..] else { panic!("three numbers") };
    let source = format!(
        "#include \"fewstep.h\"\n#if FEWSTEP_VERSION_MAJOR != {major} || FEWSTEP_VERSION_MINOR != {minor} || FEWSTEP_VERSION_PATCH != {patch}\n#error parts\n#endif\n\
         #if FEWSTEP_VERSION != {}\n#error packed\n#endif\nint main(void) {{ return 0; }}\n",
        major * 65536 + minor * 256 + patch
    );
    compile(&compiler("CC", "cc"), "c", "c99", &source);
    let build = std::fs::read_to_string(root().join("build.rs")).expect("build.rs");
    let header = std::fs::read_to_string(header()).expect("include/fewstep.h");
    let abi = header.split("#define FEWSTEP_ABI_VERSION ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("macro");
    assert!(build.contains(&format!("libfewstep.so.{abi}\"")), "the SONAME in build.rs ends with FEWSTEP_ABI_VERSION, {abi}");
}
