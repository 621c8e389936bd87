//! include/fewstep.h is what the sources say, and compiles in every language that includes it.
//!
//! `make header` writes it anew.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The header's chapters in their order: a file of src/ffi, and what it is about.
const CHAPTERS: [(&str, &str); 26] = [
    ("error", "Version, status codes, the last error"),
    ("cancel", "Cancel tokens"),
    ("callback", "Progress"),
    ("device", "Devices"),
    ("runtime", "Runtimes: compute threads, a device, a log"),
    ("grid", "Grids: pairs of timesteps"),
    ("conditioning", "Conditions: what a model is given beside images and timesteps"),
    ("model", "Models, and students derived from them"),
    ("dataset", "Datasets"),
    ("dataset_folder", "Datasets of the pictures in a folder"),
    ("dataset_fill", "Datasets that the host fills"),
    ("precision", "Precisions"),
    ("evaluator", "Evaluators: one evaluation of a network"),
    ("trajectories", "Trajectories of teachers that are the host's, or not there any more"),
    ("trainer_options", "Trainers: what training is made with"),
    ("trainer", "Trainers"),
    ("recipe", "Recipes: training in stages that goes by itself"),
    ("quantize", "Quantisation: models in fewer bits"),
    ("quantize_report", "What each layer's whole numbers cost"),
    ("sampler_options", "Samplers: what a run is made with"),
    ("sampler", "Samplers"),
    ("onnx", "ONNX files for other runtimes"),
    ("quality_report", "Evaluations: what they find"),
    ("evaluate", "Evaluations: how good images are"),
    ("student_search", "Students that fit a budget, and what one costs"),
    ("tools", "Arrays and pictures as files"),
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
    for (name, _) in CHAPTERS {
        builder = builder.with_src(source(name));
    }
    let mut text = vec![];
    builder.generate().expect("cbindgen").write(&mut text);
    by_chapters(&String::from_utf8(text).expect("UTF-8"))
}

fn source(name: &str) -> PathBuf {
    root().join("src/ffi").join(format!("{name}.rs"))
}

/// An item that cbindgen has written: its comment and its declaration.
struct Item {
    name: String,
    text: String,
}

/// What cbindgen sorts by kind, sorted by what it is about: all constants, types and functions of a file stand together, in the file's own order.
fn by_chapters(text: &str) -> String {
    let start = text.find("/**\n").expect("an item");
    let items = items(&text[start..]);
    let mut out = text[..start].to_string();
    out += "#ifdef __cplusplus\nextern \"C\" {\n#endif\n";
    let mut left: Vec<&Item> = items.iter().collect();
    for (name, title) in CHAPTERS {
        let source = std::fs::read_to_string(source(name)).expect("a source");
        // Where an item is defined there: its name behind one of Rust's words.
        let place = |item: &Item| ["const ", "struct ", "type ", "fn "].iter().filter_map(|word| find_word(&source, &format!("{word}{}", item.name))).min();
        let (mut chapter, others): (Vec<&Item>, Vec<&Item>) = left.into_iter().partition(|item| place(item).is_some());
        left = others;
        chapter.sort_by_key(|item| place(item));
        out += &format!("\n\n/* {}\n * {title}\n * {} */\n", "-".repeat(75), "-".repeat(75));
        chapter.iter().for_each(|item| out += &format!("\n{}\n", item.text));
    }
    assert!(left.is_empty(), "in no chapter: {:?}", left.iter().map(|item| &item.name).collect::<Vec<_>>());
    out + "\n#ifdef __cplusplus\n} /* extern \"C\" */\n#endif\n\n#endif /* FEWSTEP_H */\n"
}

/// Where a word stands that goes on no further.
fn find_word(text: &str, word: &str) -> Option<usize> {
    text.match_indices(word).map(|(at, _)| at).find(|at| !text[at + word.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The items of a header's body. A declaration ends with its line where that is a macro, else with a semicolon outside of braces.
fn items(body: &str) -> Vec<Item> {
    let (mut items, mut text, mut depth, mut comment) = (vec![], String::new(), 0usize, false);
    for line in body.lines() {
        comment |= line.trim_start().starts_with("/**");
        if !comment
            && text.is_empty()
            && (line.is_empty() || line.starts_with('#') && !line.starts_with("#define") || line.starts_with("extern") || line.starts_with('}'))
        {
            continue; // what stands around the items
        }
        text += &format!("{line}\n");
        if comment {
            comment = !line.trim_end().ends_with("*/");
            continue;
        }
        depth = depth + line.matches('{').count() - line.matches('}').count();
        if line.starts_with("#define") || depth == 0 && line.ends_with(';') {
            let code = text.split_once("*/\n").map_or(text.as_str(), |(_, code)| code).trim();
            items.push(Item { name: name_of(code).to_string(), text: text.trim_end().to_string() });
            text.clear();
        }
    }
    assert!(text.trim().is_empty(), "no declaration: {text}");
    items
}

/// What a declaration declares.
fn name_of(code: &str) -> &str {
    if let Some(rest) = code.strip_prefix("#define ") {
        return rest.split([' ', '(']).next().expect("a name");
    }
    if let Some(rest) = code.strip_prefix("typedef struct {") {
        return rest.rsplit('}').next().expect("a name").trim_matches([' ', ';']);
    }
    if let Some(at) = code.find("(*") {
        return code[at + 2..].split(')').next().expect("a name");
    }
    let before = if code.starts_with("typedef") { code.trim_end_matches(';') } else { code.split('(').next().expect("a name") };
    before.rsplit([' ', '*', '\n']).next().expect("a name")
}

/// Comments name what there is: a constant (`FEWSTEP_CLIP_*` for several), a type, a function, or a variable of the environment.
#[test]
fn comments_name_what_there_is() {
    let text = std::fs::read_to_string(header()).expect("include/fewstep.h");
    let environment = ["FEWSTEP_ISA", "FEWSTEP_PLAN", "FEWSTEP_PROFILE"];
    let words: Vec<&str> = text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).filter(|w| w.to_ascii_lowercase().starts_with("fewstep_")).collect();
    let code = text.split("*/").map(|part| part.split("/*").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    assert!(words.len() > 300 && code.contains("fewstep_version_string"));
    let exists = |word: &str| match word.ends_with('_') {
        true => code.contains(word),
        false => environment.contains(&word) || find_word(&code, word).is_some(),
    };
    let unknown: std::collections::BTreeSet<&str> = words.into_iter().filter(|word| !exists(word)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
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
