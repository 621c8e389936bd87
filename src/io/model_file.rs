//! A whole model in one file: safetensors whose metadata holds the texts that a diffusers folder has beside its weights.
//!
//! It says what a diffusers folder cannot (a grid that no timestep spacing gives), and is easy to ship and to load from memory. Any safetensors
//! reader opens it.

use crate::error::{Error, Result};
use crate::io::diffusers::{KnownNetworks, ModelFiles, ModelTexts, NetworkText};
use crate::io::json::shorten;
use crate::io::json_writer::compact;
use crate::io::{SchedulerConfig, TensorFile, layout, record, safetensors};
use crate::tensor::Tensor;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Names the layout of the metadata; its value is [`VERSION`], or [`WITH_NUMBERS`].
const FORMAT: &str = "fewstep.model";
const VERSION: &str = "1";
/// The same of a model in whole numbers: who does not know what they stand for must not take them for weights.
const WITH_NUMBERS: &str = "2";
const CONFIG: &str = "config.json";
const SCHEDULER: &str = "scheduler_config.json";
const FEWSTEP: &str = record::RECORD;

impl<N> ModelFiles<N> {
    /// Reads a file that [`save_model_file`] wrote; or the model of a folder that a file of weights belongs to.
    pub fn open_file(path: &Path, known: &KnownNetworks<N>) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".json") {
            return Self::open(path, None, known);
        }
        let tensors = TensorFile::open(path)?;
        if !tensors.metadata().contains_key(FORMAT) && name.ends_with(".safetensors") && layout::is_in_model(path)? {
            drop(tensors);
            return Self::open(path, None, known);
        }
        Self::from_tensor_file(tensors, known)
    }

    /// Reads such a file from memory; `name` is its name in errors.
    pub fn from_file_bytes(bytes: &[u8], name: &str, known: &KnownNetworks<N>) -> Result<Self> {
        Self::from_tensor_file(TensorFile::from_bytes(bytes, name)?, known)
    }

    fn from_tensor_file(mut tensors: TensorFile, known: &KnownNetworks<N>) -> Result<Self> {
        let (file, metadata) = (tensors.file().to_string(), tensors.take_metadata());
        match metadata.get(FORMAT).map(String::as_str) {
            Some(VERSION | WITH_NUMBERS) => {}
            Some(other) => {
                return Err(Error::version(format!("{file}: {FORMAT} version {:?}, this library reads {VERSION:?} and {WITH_NUMBERS:?}", shorten(other))));
            }
            None => {
                return Err(Error::unsupported(format!(
                    "{file}: has no {FORMAT} metadata, so it is weights without a config; give the diffusers folder that it belongs to"
                )));
            }
        }
        let named = |key: &str| metadata.get(key).map(|text| (text.as_str(), format!("{file}: {key}")));
        let config = named(CONFIG).ok_or_else(|| Error::corrupt(format!("{file}: has no metadata {CONFIG:?}")))?;
        let network = (known.parse)(config.0, &config.1)?;
        Self::parse(network, &ModelTexts { scheduler: named(SCHEDULER), fewstep: named(FEWSTEP) }, tensors)
    }
}

/// Saves a model as one file, which appears whole or not at all.
pub fn save_model_file(path: &Path, network: &NetworkText, tensors: &[(&str, &Tensor)], scheduler: &SchedulerConfig, fewstep: Option<&Value>) -> Result<()> {
    scheduler.validate().map_err(|e| e.context(path.display()))?;
    let numbers = fewstep.is_some_and(|record| record.get(record::QUANTIZATION).is_some());
    let mut metadata = BTreeMap::from([
        ("format".to_string(), "pt".to_string()),
        (FORMAT.to_string(), if numbers { WITH_NUMBERS } else { VERSION }.to_string()),
        (CONFIG.to_string(), network.config.to_string()),
        (SCHEDULER.to_string(), scheduler.to_json()?),
    ]);
    if let Some(value) = fewstep {
        metadata.insert(FEWSTEP.to_string(), compact(value, FEWSTEP)?);
    }
    safetensors::save(path, tensors, &metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use crate::io::test_util::{CONFIG as NETWORK, KNOWN, TestDir, network};
    use serde_json::json;

    fn save(path: &Path) {
        let tensor = Tensor::from_slice(&[2], &[1.5f32, -2.0]).unwrap();
        let fewstep = json!({"pairs": [[999, 300], [300, -1]]});
        save_model_file(path, &network(NETWORK), &[("conv_in.bias", &tensor)], &SchedulerConfig::default(), Some(&fewstep)).unwrap();
    }

    #[test]
    fn a_saved_file_opens_from_disk_and_memory() {
        let dir = TestDir::new("model-file");
        let path = dir.join("m.safetensors");
        save(&path);
        let bytes = std::fs::read(&path).unwrap();
        for model in [ModelFiles::open_file(&path, &KNOWN).unwrap(), ModelFiles::from_file_bytes(&bytes, "memory", &KNOWN).unwrap()] {
            assert_eq!(model.config["in_channels"], 3);
            assert_eq!(model.scheduler, Some(SchedulerConfig::default()));
            assert_eq!(model.fewstep.unwrap().0["pairs"][0][1], 300);
            assert_eq!(model.tensors.names().collect::<Vec<_>>(), ["conv_in.bias"]);
        }
    }

    /// A reader of the first version would take numbers for weights.
    #[test]
    fn whole_numbers_have_a_version_of_their_own() {
        let dir = TestDir::new("model-file-numbers");
        let path = dir.join("m.safetensors");
        let tensor = Tensor::from_slice(&[1], &[0.5f32]).unwrap();
        let (grid, numbers) = (json!({"pairs": [[999, -1]]}), json!({"pairs": [[999, -1]], "quantization": {}}));
        for (record, version) in [(None, VERSION), (Some(&grid), VERSION), (Some(&numbers), WITH_NUMBERS)] {
            save_model_file(&path, &network(NETWORK), &[("a", &tensor)], &SchedulerConfig::default(), record).unwrap();
            assert_eq!(TensorFile::open(&path).unwrap().take_metadata()[FORMAT], version);
            ModelFiles::open_file(&path, &KNOWN).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let tensor = Tensor::from_slice(&[1], &[0f32]).unwrap();
        let open = |metadata: &[(&str, &str)]| {
            let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            let bytes = safetensors::serialize(&[("x", &tensor)], &metadata).unwrap();
            ModelFiles::from_file_bytes(&bytes, "m.safetensors", &KNOWN).map(drop).unwrap_err()
        };
        for (metadata, status, word) in [
            (&[][..], Status::Unsupported, "diffusers folder"),
            (&[(FORMAT, "3")], Status::VersionMismatch, "\"3\""),
            (&[(FORMAT, &*"2".repeat(1 << 20))], Status::VersionMismatch, "\"22"),
            (&[(FORMAT, VERSION)], Status::CorruptFile, CONFIG),
            (&[(FORMAT, VERSION), (CONFIG, "{")], Status::CorruptFile, CONFIG),
            (&[(FORMAT, VERSION), (CONFIG, "{}"), (SCHEDULER, "[")], Status::CorruptFile, SCHEDULER),
        ] {
            let error = open(metadata);
            assert_eq!(error.status, status, "{error}");
            assert!(error.message.starts_with("m.safetensors") && error.message.contains(word) && error.message.len() < 1000, "{error}");
        }
    }
}
