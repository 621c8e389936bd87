//! The kernels' sources, and what of them a compilation depends on.

use super::arch::Arch;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

/// One `.cu` file.
pub struct Source {
    /// The file's name without `.cu`; with `only`, with that behind a dot.
    pub name: String,
    /// The one architecture that it is for.
    pub only: Option<Arch>,
    pub path: PathBuf,
    /// The contents of the file and of all headers of ours that it includes.
    pub contents: BTreeMap<PathBuf, Vec<u8>>,
}

/// The `.cu` files of a folder by name, then those of its folders `sm<architecture>`; none if there is no such folder.
pub fn list(folder: &Path) -> Result<Vec<Source>, String> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let paths = entries(folder)?;
    let mut found: Vec<(PathBuf, Option<Arch>)> = kernels(&paths).map(|path| (path.clone(), None)).collect();
    for path in &paths {
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| name.starts_with("sm") && path.is_dir()) else { continue };
        let arch = Arch::parse(&name[2..]).filter(|arch| arch.feature == Some('a'));
        let arch = arch.ok_or_else(|| format!("{}: kernels for one architecture alone are in a folder such as sm90a", path.display()))?;
        found.extend(kernels(&entries(path)?).map(|path| (path.clone(), Some(arch))));
    }
    found.into_iter().map(|(path, only)| open(path, only, folder)).collect()
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>());
    let mut paths = entries.map_err(|e| format!("{}: {e}", folder.display()))?;
    paths.sort();
    Ok(paths)
}

fn kernels(paths: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
}

fn open(path: PathBuf, only: Option<Arch>, folder: &Path) -> Result<Source, String> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).ok_or_else(|| format!("{}: the name is not text", path.display()))?;
    let name = only.map_or_else(|| stem.to_owned(), |arch| format!("{stem}.sm{arch}"));
    let mut contents = BTreeMap::new();
    let mut pending = vec![path.clone()];
    while let Some(file) = pending.pop() {
        if let Entry::Vacant(new) = contents.entry(file) {
            let text = fs::read(new.key()).map_err(|e| format!("{}: {e}", new.key().display()))?;
            pending.extend(includes(&text, new.key(), folder));
            new.insert(text);
        }
    }
    Ok(Source { name, only, path, contents })
}

/// The headers of ours that a text names: next to it or relative to the folder of the kernels. What an `#if` hides is among them: too much is safe.
fn includes(text: &[u8], file: &Path, folder: &Path) -> Vec<PathBuf> {
    let text = String::from_utf8_lossy(text);
    let names = text.lines().filter_map(included);
    let beside = file.parent().unwrap_or(folder);
    names.filter_map(|name| [beside.join(name), folder.join(name)].into_iter().find(|path| path.is_file())).collect()
}

fn included(line: &str) -> Option<&str> {
    let directive = line.trim_start().strip_prefix('#')?.trim_start();
    let name = directive.strip_prefix("include")?.trim_start();
    let (name, _) = match name.strip_prefix('"') {
        Some(name) => name.split_once('"')?,
        None => name.strip_prefix('<')?.split_once('>')?, // -I reaches ours, too
    };
    Some(name)
}
