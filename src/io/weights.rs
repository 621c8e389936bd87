//! Which file of a folder has the weights: diffusers' names, with their variants, in one file or in shards.

use super::json::{self, describe};
use super::{TensorFile, file};
use crate::error::{Error, Result};
use crate::memory;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const STEM: &str = "diffusion_pytorch_model";
/// Variants in the order in which they are taken when none is named. Averaged weights sample best, f16 has more digits than bf16, and who keeps
/// averaged weights apart from `non_ema` ones keeps them under the plain name or `ema`.
const PREFERENCE: [&str; 5] = ["", "ema", "fp16", "bf16", "non_ema"];
/// Ends of names of weights that are not read.
const PICKLES: [&str; 5] = [".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"];
/// Names of weights in one folder.
const MAX_NAMES: usize = 10_000;
/// Shards of one model; diffusers makes them of 10 GB.
const MAX_SHARDS: usize = 1000;

/// Finds the weights: a safetensors file, or the index of several, which ends with `.json`. What is worth knowing about the choice goes to `notes`.
///
/// `variant` names one (`""` the plain file); else the first of [`PREFERENCE`] is taken, else the only safetensors file there is.
pub(super) fn find(folder: &Path, variant: Option<&str>, notes: &mut Vec<String>) -> Result<PathBuf> {
    let of_variant = |variant: &str| {
        let mut found = vec![];
        for path in names_of(variant).into_iter().map(|name| folder.join(name)) {
            found.extend(file::is_file(&path)?.then_some(path));
        }
        Ok::<_, Error>(found)
    };
    let candidates = match variant {
        Some(name) => vec![name],
        None => PREFERENCE.to_vec(),
    };
    for name in candidates {
        let found = of_variant(name)?;
        if let [first, second, ..] = found.as_slice() {
            notes.push(format!("{} is taken; {} is there too", first.display(), second.display()));
        }
        if let Some(first) = found.into_iter().next() {
            if variant.is_none() && !name.is_empty() {
                notes.push(format!("{} is taken: the variant {name:?}, as there is no plain file", first.display()));
            }
            return Ok(first);
        }
    }
    let entries = names(folder, |name| name.ends_with(".safetensors") || is_pickle(name))?;
    let others: Vec<&String> = entries.iter().filter(|n| n.ends_with(".safetensors") && !is_shard(n)).collect();
    match (variant, others.as_slice()) {
        (None, [only]) => {
            notes.push(format!("{} is taken: the only safetensors file in the folder", folder.join(only).display()));
            Ok(folder.join(only))
        }
        _ => Err(not_found(folder, variant, &entries, &others)),
    }
}

/// A variant's file, then its index as diffusers names it, and as earlier versions did.
fn names_of(variant: &str) -> Vec<String> {
    if variant.is_empty() {
        return vec![format!("{STEM}.safetensors"), format!("{STEM}.safetensors.index.json")];
    }
    let ends = [format!("{variant}.safetensors"), format!("safetensors.index.{variant}.json"), format!("safetensors.{variant}.index.json")];
    ends.into_iter().chain([format!("{variant}.safetensors.index.json")]).map(|end| format!("{STEM}.{end}")).collect()
}

/// Why there are no weights to take.
fn not_found(folder: &Path, variant: Option<&str>, entries: &[String], others: &[&String]) -> Error {
    let shown = others.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
    let plain = folder.join(format!("{STEM}.safetensors"));
    if let (Some(variant), false) = (variant, others.is_empty()) {
        return Error::not_found(format!("{}: no weights of the variant {variant:?}; there are: {shown}", folder.display()));
    }
    if let Some(pickle) = entries.iter().find(|n| is_pickle(n)) {
        let advice = "the weights are pickled, which is not read: convert them to safetensors, with save_pretrained(..., safe_serialization=True)";
        return Error::unsupported(format!("{}: {advice}", folder.join(pickle).display()));
    }
    if others.is_empty() {
        return Error::not_found(format!("{}: no such file", plain.display()));
    }
    Error::not_found(format!("{}: no such file, and which of the others is meant is not clear ({shown}): give one by its own path", plain.display()))
}

/// The names in a folder for which `keep` holds, in order. Hidden files are none of a model's: among them are what saves are writing.
fn names(folder: &Path, keep: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let failed = |e: std::io::Error| Error::from_io(folder, &e);
    let mut names = vec![];
    for entry in fs::read_dir(folder).map_err(failed)? {
        let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
        if name.starts_with('.') || !keep(&name) {
            continue;
        }
        if names.len() == MAX_NAMES {
            return Err(Error::unsupported(format!("{}: more than {MAX_NAMES} files of weights in one folder", folder.display())));
        }
        memory::check()?;
        memory::push(&mut names, name, "names of weights")?;
    }
    names.sort_unstable();
    Ok(names)
}

fn is_pickle(name: &str) -> bool {
    PICKLES.iter().any(|end| name.ends_with(end))
}

/// Whether a name is that of one of several files: `…-00001-of-00002.safetensors`, with or without a variant.
pub(super) fn is_shard(name: &str) -> bool {
    let five = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let Some((before, after)) = name.split_once("-of-") else { return false };
    let number = before.rsplit_once('-').is_some_and(|(_, number)| five(number));
    number && after.split_once('.').is_some_and(|(count, end)| five(count) && (end == "safetensors" || end.ends_with(".safetensors")))
}

/// The variant whose index names a shard of this name; `None` where the name does not say.
pub(super) fn variant_of_shard(name: &str) -> Option<&str> {
    let (before, after) = name.strip_prefix(STEM).filter(|_| is_shard(name))?.split_once("-of-")?;
    let newer = before.strip_prefix('.').and_then(|rest| rest.rsplit_once('-')).map(|(variant, _)| variant);
    let older = after.strip_suffix(".safetensors").and_then(|rest| rest.split_once('.')).map(|(_, variant)| variant);
    Some(newer.or(older).unwrap_or_default())
}

/// Whether a name is that of a plain model's shard or index, which would stay beside the weights that a save writes and be taken for them by diffusers.
pub(super) fn is_shard_or_index(name: &str) -> bool {
    let shard = name.strip_prefix(STEM).is_some_and(|rest| rest.starts_with('-')) && is_shard(name) && name.matches('.').count() == 1;
    !name.contains(['/', '\\']) && (shard || name == format!("{STEM}.safetensors.index.json"))
}

/// Whether a file by its name is weights or an index of them.
pub(super) fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || (name.starts_with(STEM) && name.contains(".index") && name.ends_with(".json"))
}

/// The names in a folder which [`is_shard_or_index`].
pub(super) fn shards_and_index(folder: &Path) -> Result<Vec<String>> {
    names(folder, is_shard_or_index)
}

/// Reads what [`find`] found.
pub(super) fn read(path: &Path) -> Result<TensorFile> {
    if is_index(path) { read_shards(path) } else { TensorFile::open(path) }
}

/// Whether what [`find`] found is the index of several files.
pub(super) fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json")
}

/// Reads the shards that an index names: plain names of files beside it, each tensor in the one shard that the index says.
fn read_shards(index: &Path) -> Result<TensorFile> {
    let file = index.display().to_string();
    let corrupt = |what: String| Error::corrupt(format!("{file}: {what}"));
    let value = json::parse(&json::read_text(index)?, &file)?;
    let map = value.get("weight_map").and_then(|map| map.as_object()).ok_or_else(|| corrupt("has no object \"weight_map\"".into()))?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in map {
        let name = shard.as_str().filter(|name| is_plain_name(name));
        let unknown = || corrupt(format!("tensor {tensor:?} is said to be in {}, which is no plain name of a safetensors file", describe(shard)));
        memory::check()?;
        memory::push(shards.entry(name.ok_or_else(unknown)?).or_default(), tensor, "names of tensors")?;
    }
    if shards.is_empty() || shards.len() > MAX_SHARDS {
        return Err(corrupt(format!("names {} shards; from 1 to {MAX_SHARDS} are read", shards.len())));
    }
    let mut all = TensorFile::empty(&file);
    for (name, tensors) in shards {
        let path = index.with_file_name(name);
        let shard = TensorFile::open(&path).map_err(|e| e.context(format!("a shard of {file}")))?;
        if let Some(missing) = tensors.iter().find(|tensor| !shard.contains(tensor)) {
            return Err(corrupt(format!("tensor {missing:?} is said to be in {name}, which does not have it")));
        }
        all.absorb(shard)?;
    }
    Ok(all)
}

/// A file in the index's own folder, and nowhere else on any system.
fn is_plain_name(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.starts_with('.') && !name.contains(['/', '\\', ':']) && !name.chars().any(char::is_control)
}

/// Whether a text can be a variant's name.
pub(super) fn check_variant(variant: &str) -> Result<()> {
    if variant.len() <= 64 && variant.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        return Ok(());
    }
    Err(Error::invalid(format!("variant is {variant:?}; a variant's name has at most 64 letters, digits, '_' and '-', as \"fp16\"")))
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
