//! Where a model's files lie: in diffusers' pipelines, and in the folders that people have beside them.

use super::folder::{self, Journal};
use super::record::{self, NETWORK};
use super::target::folder_of;
use super::{file, json, weights};
use crate::error::{Error, Result};
use crate::memory;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const SCHEDULER: &str = "scheduler_config.json";
/// Whether a configuration is that of a network, and not of an encoder or another part of a pipeline.
pub type IsNetwork = fn(&Value) -> bool;

/// Subfolders that are looked at for a model.
const MAX_FOLDERS: usize = 1000;

/// Where a model's files lie. Finding them reads no weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPaths {
    /// The folder that `fewstep.json` and `model_index.json` belong to.
    pub root: PathBuf,
    /// The network's `config.json`.
    pub config: PathBuf,
    /// The network's weights, or the index of their shards.
    pub weights: PathBuf,
    /// The scheduler's configuration, if there is one.
    pub scheduler: Option<PathBuf>,
    /// What the pipeline is made of, if that is said.
    pub index: Option<PathBuf>,
    /// Our own record, if there is one.
    pub record: Option<PathBuf>,
    /// What was chosen among several, or found elsewhere than expected.
    pub notes: Vec<String>,
}

impl ModelPaths {
    /// Finds a model's files from a pipeline's folder, a flat folder, the folder of a pipeline's network whatever its name, a folder with one model
    /// below it, or any file of a model. `variant` names the weights, `""` the plain ones; else `weights::find` has a preference.
    pub fn find(path: &Path, variant: Option<&str>, is_network: IsNetwork) -> Result<Self> {
        if !fs::metadata(path).map_err(|e| Error::from_io(path, &e))?.is_dir() {
            return Self::of_file(path, variant);
        }
        match Self::in_folder(path, variant)? {
            Some(found) => Ok(found),
            None => Self::below(path, variant, is_network),
        }
    }

    fn in_folder(folder: &Path, variant: Option<&str>) -> Result<Option<Self>> {
        if let Some(found) = Self::unfinished(folder, variant)? {
            return Ok(Some(found));
        }
        let nested = folder.join(NETWORK);
        if file::is_file(&nested.join(CONFIG))? {
            return Self::at(&nested, folder, variant).map(Some);
        }
        let pipeline = pipeline_of(folder);
        if let Some(root) = &pipeline
            && let Some(found) = Self::unfinished(root, variant)?
        {
            return Ok(Some(found));
        }
        if !file::is_file(&folder.join(CONFIG))? {
            return Ok(None);
        }
        Self::at(folder, pipeline.as_deref().unwrap_or(folder), variant).map(Some)
    }

    /// The files of a committed save that is not finished, and that cannot be finished from here.
    fn unfinished(root: &Path, variant: Option<&str>) -> Result<Option<Self>> {
        folder::finish_quietly(root);
        let Some(journal) = Journal::read(root)? else { return Ok(None) };
        journal.check_latest(root)?;
        let mut notes = vec![];
        let at = |part: &str| journal.locate(root, part);
        let weights = match variant {
            None | Some("") => at(record::WEIGHTS),
            Some(_) => weights::find(&root.join(NETWORK), variant, &mut notes)?,
        };
        let [scheduler, index, record] = [record::SCHEDULER, record::INDEX, record::RECORD].map(|part| Some(at(part)));
        Ok(Some(Self { root: root.to_path_buf(), config: at(record::CONFIG), weights, scheduler, index, record, notes }))
    }

    fn at(network: &Path, root: &Path, variant: Option<&str>) -> Result<Self> {
        let mut notes = vec![];
        let weights = weights::find(network, variant, &mut notes)?;
        Self::with_weights(network, root, weights, notes)
    }

    fn with_weights(network: &Path, root: &Path, weights: PathBuf, mut notes: Vec<String>) -> Result<Self> {
        Ok(Self {
            root: root.to_path_buf(),
            config: network.join(CONFIG),
            weights,
            scheduler: find_scheduler(network, root, &mut notes)?,
            index: first([root.join(record::INDEX)])?,
            record: first([root.join(record::RECORD), network.join(record::RECORD)])?,
            notes,
        })
    }

    /// The model that a file belongs to: weights stand for themselves, other files for their folder's or, as the scheduler's, the folder's above.
    fn of_file(path: &Path, variant: Option<&str>) -> Result<Self> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let folder = folder_of(path);
        let shard = weights::is_shard(name);
        if weights::is_weights(name)
            && !shard
            && let Some(found) = Self::of_weights(path, folder, variant)?
        {
            return Ok(found);
        }
        if shard || [CONFIG, SCHEDULER, record::INDEX, record::RECORD].contains(&name) {
            let variant = variant.or(weights::variant_of_shard(name));
            let above = folder.canonicalize().ok().and_then(|f| f.parent().map(Path::to_path_buf));
            for folder in [Some(folder), above.as_deref()].into_iter().flatten() {
                if let Some(mut found) = Self::in_folder(folder, variant)? {
                    if shard && !weights::is_index(&found.weights) {
                        let other = found.weights.display();
                        return Err(Error::not_found(format!("{}: no index names this part of a model; {other} is another's weights", path.display())));
                    }
                    found.notes.insert(0, format!("{} is opened: the model that {} belongs to", folder.display(), path.display()));
                    return Ok(found);
                }
            }
        }
        Err(Error::invalid(format!("{}: expected a model's folder, found a file", path.display())))
    }

    /// Weights with what lies around them; `None` where there is no configuration.
    fn of_weights(path: &Path, folder: &Path, variant: Option<&str>) -> Result<Option<Self>> {
        let root = pipeline_of(folder);
        let unfinished = root.as_deref().map(|root| Self::unfinished(root, None)).transpose()?.flatten();
        if unfinished.is_none() && !file::is_file(&folder.join(CONFIG))? {
            return Ok(None);
        }
        if variant.is_some() {
            return Err(Error::invalid(format!("{}: weights by their own path; give their folder to choose a variant", path.display())));
        }
        let note = format!("{} is taken with the configuration beside it", path.display());
        Ok(Some(match unfinished {
            // The name of a new model's weights, which are still under another one.
            Some(found) if Path::new(record::WEIGHTS).file_name() == path.file_name() => found,
            Some(found) => Self { weights: path.to_path_buf(), notes: vec![note], ..found },
            None => Self::with_weights(folder, root.as_deref().unwrap_or(folder), path.to_path_buf(), vec![note])?,
        }))
    }

    /// The only model below a folder that is none itself.
    fn below(folder: &Path, variant: Option<&str>, is_network: IsNetwork) -> Result<Self> {
        let candidates = models_below(folder, is_network)?;
        if let [only] = candidates.as_slice()
            && let Some(mut found) = Self::in_folder(only, variant)?
        {
            found.notes.insert(0, format!("{} is opened: the only model in {}", only.display(), folder.display()));
            return Ok(found);
        }
        if !candidates.is_empty() {
            let shown = candidates.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(Error::not_found(format!("{}: no model here, but several below; give one of them: {shown}", folder.display())));
        }
        let above = folder.canonicalize().ok().and_then(|f| f.parent().map(Path::to_path_buf)).filter(|above| holds_model(above, is_network).unwrap_or(false));
        let hint = above.map_or_else(String::new, |above| format!("; {} holds one", above.display()));
        let [nested, flat] = [folder.join(NETWORK).join(CONFIG), folder.join(CONFIG)];
        Err(Error::not_found(format!("no model here: neither {} nor {} exists{hint}", nested.display(), flat.display())))
    }
}

/// Whether a file of weights belongs to a model's folder: by the configuration beside it, or by a save that is not finished.
pub(super) fn is_in_model(weights: &Path) -> Result<bool> {
    let folder = folder_of(weights);
    Ok(file::is_file(&folder.join(CONFIG))? || pipeline_of(folder).map(|root| Journal::read(&root)).transpose()?.flatten().is_some())
}

/// The first of some files that is there.
fn first(paths: impl IntoIterator<Item = PathBuf>) -> Result<Option<PathBuf>> {
    for path in paths {
        if file::is_file(&path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The pipeline's folder, when this is its `unet` folder.
fn pipeline_of(folder: &Path) -> Option<PathBuf> {
    // Resolved first, because "." and links have other names than what they stand for.
    let resolved = folder.canonicalize().ok()?;
    let parent = resolved.parent()?.to_path_buf();
    (resolved.file_name()? == NETWORK).then_some(parent)
}

/// The scheduler of a model, or that of the folders above: training scripts keep networks below the pipeline that they belong to, without one.
fn find_scheduler(network: &Path, root: &Path, notes: &mut Vec<String>) -> Result<Option<PathBuf>> {
    // A folder named "unet" can be a flat one too.
    let own = [root.join("scheduler").join(SCHEDULER), network.join(SCHEDULER), network.join("scheduler").join(SCHEDULER)];
    if let Some(found) = first(own)? {
        return Ok(Some(found));
    }
    let resolved = root.canonicalize().ok();
    let named = root.parent().filter(|p| !p.as_os_str().is_empty() && root.file_name().is_some());
    let above = resolved.as_deref().and_then(Path::parent);
    let further = above.and_then(Path::parent);
    let near = [named, above].into_iter().flatten().flat_map(|folder| [folder.join("scheduler").join(SCHEDULER), folder.join(SCHEDULER)]);
    let found = first(near.chain(further.map(|folder| folder.join("scheduler").join(SCHEDULER))))?;
    notes.extend(found.iter().map(|found| format!("{}: has no {SCHEDULER} of its own; {} is taken", network.display(), found.display())));
    Ok(found)
}

/// The models right below a folder: a run's only checkpoint, a network under another name, the snapshot of a hub's cache.
fn models_below(folder: &Path, is_network: IsNetwork) -> Result<Vec<PathBuf>> {
    let snapshots = folder.join("snapshots");
    if let Some(main) = first([folder.join("refs").join("main")])? {
        let main = json::read_text(&main)?;
        let main = main.trim();
        let snapshot = snapshots.join(main);
        if !main.is_empty() && !main.contains(['/', '\\', '.']) && snapshot.is_dir() && holds_model(&snapshot, is_network)? {
            return Ok(vec![snapshot]);
        }
    }
    let listed = if snapshots.is_dir() { &snapshots } else { folder };
    let failed = |e: std::io::Error| Error::from_io(listed, &e);
    let (mut found, mut looked_at) = (vec![], 0);
    for entry in fs::read_dir(listed).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !path.is_dir() {
            continue;
        }
        if looked_at == MAX_FOLDERS {
            let advice = "too many to look for a model in each; give its own";
            return Err(Error::not_found(format!("{}: no model here, and more than {MAX_FOLDERS} folders, {advice}", listed.display())));
        }
        looked_at += 1;
        if holds_model(&path, is_network)? {
            memory::push(&mut found, path, "models below a folder")?;
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether a folder is a model's, also one whose first save is not finished. What cannot be looked at is an error: another model would be taken instead.
fn holds_model(folder: &Path, is_network: IsNetwork) -> Result<bool> {
    let has = |config: PathBuf| has_network(&config, is_network);
    Ok(has(folder.join(NETWORK).join(CONFIG))? || has(folder.join(CONFIG))? || Journal::read(folder)?.is_some())
}

fn has_network(config: &Path, is_network: IsNetwork) -> Result<bool> {
    if !file::is_file(config)? {
        return Ok(false);
    }
    // No JSON: no network's, whatever else it is.
    Ok(json::parse(&json::read_text(config)?, CONFIG).is_ok_and(|config| is_network(&config)))
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
