//! fewstep.hpp in a plain C++ program that is linked with the .so of this very build, and what that .so brings into a host.

use fewstep_tests_cpp::data;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

const WARNINGS: [&str; 6] = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"];

/// Cargo builds the cdylib of a path dependency where it builds this test: target/<profile>/deps.
fn library() -> PathBuf {
    std::env::current_exe().expect("test executable").with_file_name("libfewstep.so")
}

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The output of a command that must succeed.
fn output(command: &mut Command) -> String {
    let result = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(result.status.success(), "{command:?}: {}\n{}{}", result.status, text(&result.stdout), text(&result.stderr));
    text(&result.stdout)
}

/// The compilers to try: CXX or c++, and clang++ where the machine has it.
fn compilers() -> Vec<String> {
    let clang = Command::new("clang++").arg("--version").output().is_ok().then(|| "clang++".to_owned());
    std::iter::once(std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())).chain(clang).collect()
}

/// A fresh folder with the library under both of its names: the linker looks for the one, the loader for the other (the SONAME).
fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cpp-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir); // of a run that failed
    std::fs::create_dir_all(&dir).expect("scratch folder");
    for name in ["libfewstep.so", "libfewstep.so.0"] {
        std::os::unix::fs::symlink(library(), dir.join(name)).expect("link");
    }
    dir
}

/// Builds a program in `dir` without a single warning.
fn build(compiler: &str, standard: &str, sources: &[&str], dir: &Path) -> PathBuf {
    let program = dir.join("program");
    let mut command = Command::new(compiler);
    command.arg(format!("-std={standard}")).args(WARNINGS).arg("-I").arg(here("../../include")).args(sources.iter().map(|s| here(s)));
    output(command.arg("-o").arg(&program).arg("-L").arg(dir).arg("-lfewstep").arg(format!("-Wl,-rpath,{}", dir.display())));
    program
}

/// A program, which finds the library where it was linked: cargo's own path may have one of another build.
fn run(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH");
    command
}

#[test]
fn a_program_of_two_files_builds_and_runs() {
    let dir = scratch("two-files");
    for compiler in compilers() {
        for standard in ["c++17", "c++20"] {
            let program = build(&compiler, standard, &["standalone/main.cpp", "standalone/other.cpp"], &dir);
            assert_eq!(output(run(&program).arg(data("digits_teacher"))), "128 floats\n", "{compiler} -std={standard}");
        }
    }
    std::fs::remove_dir_all(dir).expect("clean up");
}

#[test]
fn the_example_saves_a_picture() {
    let dir = scratch("example");
    let program = build(&compilers()[0], "c++17", &["../../examples-c/sample.cpp"], &dir);
    let picture = dir.join("digits.png");
    output(run(&program).arg(data("digits_teacher")).arg(&picture).args(["7", "2"]));
    assert!(std::fs::read(&picture).expect("picture").starts_with(b"\x89PNG"));
    let failed = run(&program).arg("/no/such/model").arg(&picture).output().expect("program");
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).starts_with("NOT_FOUND: /no/such/model"));
    std::fs::remove_dir_all(dir).expect("clean up");
}

/// The C examples are C11, whether or not a target of the Makefile runs them; `make test-interop` builds the one that needs OpenVINO's headers.
#[test]
fn the_c_examples_build() {
    let dir = scratch("examples");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let examples = std::fs::read_dir(here("../../examples-c")).expect("examples-c").map(|entry| entry.expect("an entry").path());
    let own = |path: &PathBuf| path.extension() == Some(OsStr::new("c")) && !path.ends_with("openvino_student.c");
    let sources: Vec<PathBuf> = examples.filter(own).collect();
    assert!(sources.len() > 2, "{sources:?}");
    for source in sources {
        let mut command = Command::new(&compiler);
        command.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]).arg(here("../../include")).arg(source);
        output(command.arg("-o").arg(dir.join("program")).arg("-L").arg(&dir).args(["-lfewstep", "-lm"]));
    }
    std::fs::remove_dir_all(dir).expect("clean up");
}

/// A tool's answer about the library, with the text of the environment's language kept out.
fn ask(tool: &str, arguments: &[&str]) -> String {
    output(Command::new(tool).env("LC_ALL", "C").args(arguments.iter().map(OsStr::new)).arg(library()))
}

#[test]
fn the_library_exports_the_c_functions_alone() {
    let symbols = ask("nm", &["-D", "--defined-only", "--format=posix"]);
    let mut found: Vec<&str> = symbols.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let header = std::fs::read_to_string(here("../../include/fewstep.h")).expect("include/fewstep.h");
    let declarations = header.split("extern \"C\" {").nth(1).expect("functions");
    let code: String = declarations.split("*/").filter_map(|part| part.split("/*").next()).collect();
    let names = code.split('(').filter_map(|before| before.rsplit(|c: char| c != '_' && !c.is_ascii_alphanumeric()).next());
    let mut expected: Vec<&str> = names.filter(|name| name.starts_with("fewstep_")).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// What a host that has no CUDA must have, and how much it carries.
#[test]
fn the_library_needs_libc_alone_and_is_small() {
    let dynamic = ask("readelf", &["-d"]);
    let name = |line: &str| line.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(name, _)| name.to_owned());
    let needed: Vec<String> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).filter_map(name).collect();
    let allowed = ["libc.so", "libm.so", "libgcc_s.so", "ld-linux"];
    let foreign: Vec<&String> = needed.iter().filter(|library| !allowed.iter().any(|known| library.starts_with(known))).collect();
    assert!(!needed.is_empty() && foreign.is_empty(), "{needed:?}");
    let dir = scratch("stripped");
    let stripped = dir.join("stripped.so");
    output(Command::new("strip").arg("-o").arg(&stripped).arg(library()));
    let bytes = std::fs::metadata(&stripped).expect("stripped library").len();
    assert!(bytes < 25 << 20, "{bytes} bytes");
    std::fs::remove_dir_all(dir).expect("clean up");
}

#[test]
fn no_cpp_reaches_the_library() {
    let imports = ask("nm", &["-D", "--undefined-only", "--format=posix"]);
    let mangled: Vec<&str> = imports.lines().filter(|line| line.starts_with("_Z") || line.starts_with("__cxa_throw")).collect();
    assert!(mangled.is_empty(), "{mangled:?}");
    let dynamic = ask("readelf", &["-d"]);
    assert!(dynamic.contains("(SONAME)") && dynamic.contains("(NEEDED)"), "{dynamic}");
    for runtime in ["libstdc++", "libc++"] {
        assert!(!dynamic.contains(runtime), "{dynamic}");
    }
}
