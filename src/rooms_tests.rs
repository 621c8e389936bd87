//! The rooms depend on each other in one direction, and files in no circle but those that are named here: read from their `use` lines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What each room may use, beside what stands on the ground floor.
const ROOMS: [(&str, &[&str]); 13] = [
    ("graph", &[]),
    ("backend", &["graph"]),
    ("io", &[]),
    ("diffusion", &["io"]),
    ("nn", &["graph", "backend", "diffusion", "io"]),
    ("sampling", &["graph", "backend", "diffusion", "nn"]),
    ("distill", &["graph", "backend", "io", "diffusion", "nn", "sampling"]),
    ("quant", &["graph", "backend", "diffusion", "nn", "sampling"]),
    ("onnx", &["graph", "backend", "diffusion", "io", "nn", "sampling"]),
    ("evaluate", &["graph", "backend", "io", "diffusion", "nn", "sampling", "distill"]),
    ("recipe", &["graph", "backend", "io", "diffusion", "nn", "sampling", "distill", "evaluate"]),
    ("ffi", &["graph", "backend", "io", "diffusion", "nn", "sampling", "distill", "quant", "onnx", "evaluate", "recipe"]),
    ("process", &[]),
];

/// Circles that are one thing in several files, by a file of each: a trainer and what watches over its states.
const CIRCLES: [&str; 1] = ["distill::trainer"];

/// The code of every file by its module, without tests.
fn modules() -> BTreeMap<String, String> {
    fn walk(folder: &Path, module: &str, out: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).expect("the sources") {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().and_then(|n| n.to_str()).expect("a name").to_string();
            let inner = if module.is_empty() { name.clone() } else { format!("{module}::{name}") };
            if path.is_dir() {
                walk(&path, &inner, out);
            } else if path.extension().is_some_and(|e| e == "rs") && !name.ends_with("tests") && name != "lib" {
                let text = std::fs::read_to_string(&path).expect("a source");
                let tests = ["\n#[cfg(test)]\nmod ", "\n#[cfg(all(test"].iter().filter_map(|start| text.find(start)).min();
                let code = text[..tests.unwrap_or(text.len())].to_string();
                out.insert(if name == "mod" { module.to_string() } else { inner }, code);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut out);
    out
}

/// The paths of a `use` tree.
fn expand(tree: &str) -> Vec<String> {
    let Some((before, rest)) = tree.split_once('{') else { return vec![tree.trim().to_string()] };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in inner.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().expect("one").push(c),
        }
    }
    parts.iter().filter(|p| !p.trim().is_empty()).flat_map(|p| expand(&format!("{}{}", before.trim(), p.trim()))).collect()
}

/// Modules that a module's `use` lines name, each as far as there is a file.
fn uses(module: &str, code: &str, all: &BTreeMap<String, String>) -> BTreeSet<String> {
    let lines = code.split(';').filter_map(|statement| {
        let statement = statement.rsplit("\n\n").next().unwrap_or(statement);
        let at = statement.find("use ").filter(|at| statement[..*at].lines().last().is_none_or(|l| l.trim().is_empty() || l.trim().starts_with("pub")))?;
        Some(statement[at + 4..].split_whitespace().collect::<Vec<_>>().join(" "))
    });
    let mut found = BTreeSet::new();
    for path in lines.flat_map(|tree| expand(&tree)) {
        let mut parts: Vec<&str> = path.split("::").map(str::trim).collect();
        let mut base: Vec<&str> = module.split("::").collect();
        match parts[0] {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                while parts.first() == Some(&"super") {
                    base.pop();
                    parts.remove(0);
                }
                parts.insert(0, "");
            }
            _ => continue,
        }
        let full: Vec<&str> = base.into_iter().chain(parts.into_iter().skip(1)).collect();
        let target = (1..=full.len()).rev().map(|n| full[..n].join("::")).find(|name| all.contains_key(name));
        found.extend(target.filter(|target| target != module));
    }
    found
}

fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let all = modules();
    all.iter().map(|(module, code)| (module.clone(), uses(module, code, &all))).collect()
}

fn room(module: &str) -> Option<&'static str> {
    ROOMS.iter().map(|(name, _)| *name).find(|name| module.split("::").next() == Some(*name))
}

#[test]
fn rooms_use_only_what_lies_below() {
    let mut wrong = vec![];
    for (module, uses) in graph() {
        // The ground floor uses no room.
        let allowed = room(&module).and_then(|own| ROOMS.iter().find(|(name, _)| *name == own)).map_or(&[][..], |(_, allowed)| *allowed);
        let ground = |target: &str| room(target).is_none() || target.starts_with("process");
        let bad = |target: &&String| !ground(target) && room(target) != room(&module) && !allowed.contains(&room(target).unwrap_or_default());
        wrong.extend(uses.iter().filter(bad).map(|target| format!("{module} uses {target}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What can be reached from a module by `use` lines. A room's `mod.rs` only hands on.
fn reachable(from: &str, graph: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_string()]);
    while let Some(module) = open.pop() {
        for target in graph.get(&module).into_iter().flatten().filter(|t| t.contains("::")) {
            if seen.insert(target.clone()) {
                open.push(target.clone());
            }
        }
    }
    seen
}

#[test]
fn files_use_each_other_in_no_circle() {
    let mut graph = graph();
    let all: Vec<String> = graph.keys().cloned().collect();
    let is_room = |module: &str| all.iter().any(|other| other.starts_with(&format!("{module}::")));
    graph.iter_mut().filter(|(module, _)| is_room(module)).for_each(|(_, uses)| uses.clear());
    let circle = |module: &String| {
        let there = reachable(module, &graph);
        there.contains(module).then(|| there.into_iter().filter(|other| reachable(other, &graph).contains(module)).collect::<Vec<_>>())
    };
    let found: BTreeSet<Vec<String>> = all.iter().filter_map(circle).collect();
    let unknown: Vec<_> = found.iter().filter(|files| !files.iter().any(|file| CIRCLES.contains(&file.as_str()))).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert_eq!(found.len(), CIRCLES.len(), "a circle that is named here is none any more");
}
