//! The kernels' sources, and what of them a compilation depends on.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

/// One `.cu` file.
pub struct Source {
    /// The file's name without `.cu`.
    pub name: String,
    pub path: PathBuf,
    /// The contents of the file and of all headers of ours that it includes.
    pub contents: BTreeMap<PathBuf, Vec<u8>>,
}

/// The `.cu` files of a folder by name; none if there is no such folder.
pub fn list(folder: &Path) -> Result<Vec<Source>, String> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>());
    let mut paths = entries.map_err(|e| format!("{}: {e}", folder.display()))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    paths.sort();
    paths.into_iter().map(|path| open(path, folder)).collect()
}

fn open(path: PathBuf, folder: &Path) -> Result<Source, String> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).ok_or_else(|| format!("{}: the name is not text", path.display()))?.to_owned();
    let mut contents = BTreeMap::new();
    let mut pending = vec![path.clone()];
    while let Some(file) = pending.pop() {
        if let Entry::Vacant(new) = contents.entry(file) {
            let text = fs::read(new.key()).map_err(|e| format!("{}: {e}", new.key().display()))?;
            pending.extend(includes(&text, new.key(), folder));
            new.insert(text);
        }
    }
    Ok(Source { name, path, contents })
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
