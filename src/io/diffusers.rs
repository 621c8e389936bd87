//! Model folders as diffusers has them: `unet/`, `scheduler/` and `model_index.json`, or all files in one folder.

use crate::error::{Error, Result};
use crate::io::folder::{FolderSave, FolderState};
use crate::io::hashing::sha256;
use crate::io::json;
use crate::io::json_writer::to_text;
use crate::io::layout::{IsNetwork, ModelPaths};
use crate::io::record::{self, CONFIG, INDEX, NETWORK, Parts, RECORD, SCHEDULER, WEIGHTS};
use crate::io::scheduler_config::SchedulerClass;
use crate::io::{DIFFUSERS_VERSION, SchedulerConfig, TensorFile, safetensors, weights};
use crate::names::Named;
use crate::tensor::Tensor;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a folder is read that others are saving into meanwhile.
const ATTEMPTS: usize = 20;

/// What opening a model needs to know of its network, whose configuration this room does not understand.
#[derive(Clone, Copy, Debug)]
pub struct KnownNetworks<N> {
    /// Reads and checks the text of a config.json, whose name in errors comes second.
    pub parse: fn(&str, &str) -> Result<N>,
    /// Whether a configuration is that of a network, and not of an encoder or another part of a pipeline.
    pub is_network: IsNetwork,
}

/// A network's configuration, as it is saved.
#[derive(Clone, Copy, Debug)]
pub struct NetworkText<'a> {
    /// `_class_name`, which the pipeline's index names too.
    pub class: &'a str,
    /// The text of its config.json.
    pub config: &'a str,
}

/// A diffusers model in memory.
#[derive(Debug)]
pub struct ModelFiles<N> {
    /// The network's configuration, valid.
    pub config: N,
    /// Its tensors, under diffusers' present names.
    pub tensors: TensorFile,
    /// The scheduler that came with it.
    pub scheduler: Option<SchedulerConfig>,
    /// Our own record, as [`save_model`] wrote it, and what it is called in messages.
    pub fewstep: Option<(Value, String)>,
    /// What was chosen among several, found elsewhere than expected, or assumed.
    pub notes: Vec<String>,
}

impl<N> ModelFiles<N> {
    /// Reads a model from a folder or a file of it, as [`ModelPaths::find`] finds it.
    ///
    /// While somebody saves into the folder, what is read is still one model: the parts are those that its record names, or nothing has changed
    /// from before the first file was looked for until after the last was read. Otherwise it is read again.
    pub fn open(path: &Path, variant: Option<&str>, known: &KnownNetworks<N>) -> Result<Self> {
        variant.map_or(Ok(()), weights::check_variant)?;
        for attempt in 1.. {
            let root = ModelPaths::find(path, variant, known.is_network)?.root;
            let before = FolderState::of(&root)?;
            let result = ModelPaths::find(path, variant, known.is_network).and_then(|paths| Self::load(&paths, known));
            let settled = before.is_settled() && before == FolderState::of(&root)?;
            match result {
                Ok((files, whole)) if whole || settled => return Ok(files),
                Err(error) if settled || attempt == ATTEMPTS => return Err(error),
                Ok(_) if attempt == ATTEMPTS => break,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(Error::io(format!("{}: another save began each of the {ATTEMPTS} times that the folder was read", path.display())))
    }

    /// Reads a model's files; true when its record names them, so that they are known to belong together.
    fn load(paths: &ModelPaths, known: &KnownNetworks<N>) -> Result<(Self, bool)> {
        let read = |path: &PathBuf| Ok((json::read_text(path)?, path.display().to_string()));
        let (config, scheduler, record) = (read(&paths.config)?, paths.scheduler.as_ref().map(read).transpose()?, paths.record.as_ref().map(read).transpose()?);
        let parts = record.as_ref().map(|(text, name)| Parts::read(&json::parse(text, name)?, name)).transpose()?.flatten();
        if let Some(parts) = &parts {
            parts.check(CONFIG, &paths.config, &sha256(config.0.as_bytes()))?;
            match (&paths.scheduler, &scheduler) {
                (Some(path), Some((text, _))) => parts.check(SCHEDULER, path, &sha256(text.as_bytes()))?,
                _ => return Err(parts.missing(SCHEDULER)),
            }
            if let Some(path) = paths.index.as_ref().filter(|_| parts.names(INDEX)) {
                parts.check(INDEX, path, &sha256(json::read_text(path)?.as_bytes()))?;
            }
        }
        // The small files first: a wrong config should not cost the reading of the weights.
        let network = (known.parse)(&config.0, &config.1)?;
        let tensors = match &parts {
            Some(parts) => read_part(&paths.weights, parts)?,
            None => weights::read(&paths.weights)?,
        };
        fn named((text, name): &(String, String)) -> (&str, String) {
            (text, name.clone())
        }
        let mut files = Self::parse(network, &ModelTexts { scheduler: scheduler.as_ref().map(named), fewstep: record.as_ref().map(named) }, tensors)?;
        files.notes = paths.notes.clone();
        files.notes.extend(files.scheduler.is_none().then(|| assumed_scheduler(paths)));
        Ok((files, parts.is_some()))
    }

    /// Reads a model whose files lie in memory.
    pub fn from_memory(config: &str, weights: &[u8], scheduler: Option<&str>, fewstep: Option<&str>, known: &KnownNetworks<N>) -> Result<Self> {
        fn named<'a>(text: Option<&'a str>, name: &str) -> Option<(&'a str, String)> {
            text.map(|text| (text, name.to_string()))
        }
        let network = (known.parse)(config, "config.json")?;
        let texts = ModelTexts { scheduler: named(scheduler, "scheduler_config.json"), fewstep: named(fewstep, RECORD) };
        Self::parse(network, &texts, TensorFile::from_bytes(weights, "diffusion_pytorch_model.safetensors")?)
    }

    /// Understands the other texts and gives the tensors their present names.
    pub(super) fn parse(config: N, texts: &ModelTexts, mut tensors: TensorFile) -> Result<Self> {
        let scheduler = texts.scheduler.as_ref().map(|(text, name)| SchedulerConfig::parse(text, name)).transpose()?;
        let fewstep = texts.fewstep.as_ref().map(|(text, name)| Ok((json::parse(text, name)?, name.clone()))).transpose()?;
        tensors.strip_wrappers()?;
        tensors.normalise_names()?;
        Ok(Self { config, tensors, scheduler, fewstep, notes: vec![] })
    }
}

/// The texts beside a model's config and weights, each with its name in errors.
pub(super) struct ModelTexts<'a> {
    /// `scheduler_config.json`.
    pub scheduler: Option<(&'a str, String)>,
    /// `fewstep.json`.
    pub fewstep: Option<(&'a str, String)>,
}

/// Reads the weights that a record names: always one file.
fn read_part(path: &Path, parts: &Parts) -> Result<TensorFile> {
    if weights::is_index(path) {
        return Err(parts.missing(WEIGHTS));
    }
    let (tensors, hash) = TensorFile::open_hashed(path)?;
    parts.check(WEIGHTS, path, &hash)?;
    Ok(tensors)
}

/// What is said where nothing says how a model is sampled.
fn assumed_scheduler(paths: &ModelPaths) -> String {
    let s = SchedulerConfig::for_class(SchedulerClass::Ddim);
    format!(
        "{}: no scheduler_config.json in the folder or above; {} is assumed, with {} betas from {} to {} in {} timesteps, prediction_type {}, clip_sample {}: \
         a model that was trained otherwise is sampled wrongly",
        paths.root.display(),
        s.class.name(),
        s.beta_schedule.name(),
        s.beta_start,
        s.beta_end,
        s.num_train_timesteps,
        s.prediction_type.name(),
        s.clip_sample
    )
}

/// Saves a model so that diffusers' `DDIMPipeline.from_pretrained(folder)` and `UNet2DModel.from_pretrained(folder, subfolder="unet")` open it.
/// `student` goes into `fewstep.json`, which names all files by their hashes; diffusers does not look at it.
///
/// The folder is saved as a whole: it holds the model that was there, or this one, whatever happens meanwhile. Other files in it stay, but for the
/// shards of a model that was there, which diffusers would go on to prefer.
pub fn save_model(folder: &Path, network: &NetworkText, tensors: &[(&str, &Tensor)], scheduler: &SchedulerConfig, student: Option<&Value>) -> Result<()> {
    scheduler.validate().map_err(|e| e.context(folder.display()))?;
    let write_weights = safetensors::writer(tensors, &BTreeMap::from([("format".to_string(), "pt".to_string())]))?;
    // Before anything is written: they may be too long.
    let (scheduler, index) = (scheduler.to_json()?, model_index(network, scheduler)?);
    let mut save = FolderSave::begin(folder)?;
    let mut parts = vec![(WEIGHTS, save.write(WEIGHTS, write_weights)?)];
    for (part, text) in [(CONFIG, network.config), (SCHEDULER, &scheduler), (INDEX, &index)] {
        parts.push((part, save.write(part, |w| w.write_all(text.as_bytes()))?));
    }
    let record = record::to_text(student, &parts)?;
    save.write(RECORD, |w| w.write_all(record.as_bytes()))?;
    weights::shards_and_index(&folder.join(NETWORK))?.into_iter().for_each(|name| save.remove(format!("{NETWORK}/{name}")));
    save.commit()
}

/// Which classes of which library a pipeline is made of.
fn model_index(network: &NetworkText, scheduler: &SchedulerConfig) -> Result<String> {
    let mut map = Map::new();
    map.insert("_class_name".into(), json!("DDIMPipeline"));
    map.insert("_diffusers_version".into(), json!(DIFFUSERS_VERSION));
    map.insert("scheduler".into(), json!(["diffusers", scheduler.class.name()]));
    map.insert("unet".into(), json!(["diffusers", network.class]));
    to_text(&map, &Map::new(), INDEX)
}

#[cfg(test)]
#[path = "diffusers_tests.rs"]
mod tests;
