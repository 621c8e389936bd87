//! Model folders as diffusers has them: `unet/`, `scheduler/` and `model_index.json`, or all files in one folder.

use crate::error::{Error, Result};
use crate::io::json::{self, Named, to_text};
use crate::io::{DIFFUSERS_VERSION, SchedulerConfig, TensorFile, UNetConfig, file, safetensors};
use crate::tensor::Tensor;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
/// Half-precision files of the hub; taken when there is no other.
const WEIGHTS_FP16: &str = "diffusion_pytorch_model.fp16.safetensors";
const SCHEDULER: &str = "scheduler_config.json";
const FEWSTEP: &str = "fewstep.json";

/// Where a model's files lie. Finding them reads nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPaths {
    /// The U-Net's `config.json`.
    pub config: PathBuf,
    /// The U-Net's weights.
    pub weights: PathBuf,
    /// The scheduler's configuration, if there is one.
    pub scheduler: Option<PathBuf>,
    /// Our own metadata, if there is any.
    pub fewstep: Option<PathBuf>,
}

impl ModelPaths {
    /// Finds a model's files in a pipeline's folder, a flat folder, or the `unet` folder of a pipeline.
    pub fn find(folder: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(folder).map_err(|e| Error::from_io(folder, &e))?;
        if !metadata.is_dir() {
            return Err(Error::invalid(format!("{}: expected a model's folder, found a file", folder.display())));
        }
        let nested = folder.join("unet");
        if nested.join(CONFIG).is_file() {
            return Self::at(&nested, &folder.join("scheduler").join(SCHEDULER), folder);
        }
        if !folder.join(CONFIG).is_file() {
            let (flat, nested) = (folder.join(CONFIG), nested.join(CONFIG));
            return Err(Error::not_found(format!("no model here: neither {} nor {} exists", nested.display(), flat.display())));
        }
        match pipeline_of(folder) {
            Some(root) => Self::at(folder, &root.join("scheduler").join(SCHEDULER), &root),
            None => Self::at(folder, &folder.join(SCHEDULER), folder),
        }
    }

    fn at(unet: &Path, scheduler: &Path, root: &Path) -> Result<Self> {
        let existing = |path: PathBuf| path.is_file().then_some(path);
        Ok(Self {
            config: unet.join(CONFIG),
            weights: find_weights(unet)?,
            // A folder named "unet" can be a flat one too.
            scheduler: existing(scheduler.to_path_buf()).or_else(|| existing(unet.join(SCHEDULER))),
            fewstep: existing(root.join(FEWSTEP)).or_else(|| existing(unet.join(FEWSTEP))),
        })
    }
}

/// The pipeline's folder, when this is its `unet` folder.
fn pipeline_of(folder: &Path) -> Option<PathBuf> {
    // Resolved first, because "." and links have other names than what they stand for.
    let resolved = folder.canonicalize().ok()?;
    let parent = resolved.parent()?.to_path_buf();
    (resolved.file_name()? == "unet").then_some(parent)
}

fn find_weights(unet: &Path) -> Result<PathBuf> {
    let candidates = [unet.join(WEIGHTS), unet.join(WEIGHTS_FP16)];
    if let Some(found) = candidates.iter().find(|p| p.is_file()) {
        return Ok(found.clone());
    }
    let unsupported = [
        ("diffusion_pytorch_model.safetensors.index.json", "the weights are in several files: save them as one, with max_shard_size larger than the model"),
        ("diffusion_pytorch_model.bin.index.json", "the weights are in several pickled files: convert them to one safetensors file"),
        ("diffusion_pytorch_model.bin", "the weights are pickled: convert them to safetensors, with save_pretrained(..., safe_serialization=True)"),
    ];
    match unsupported.iter().find(|(name, _)| unet.join(name).is_file()) {
        Some((name, advice)) => Err(Error::unsupported(format!("{}: {advice}", unet.join(name).display()))),
        None => Err(Error::not_found(format!("{}: no such file", candidates[0].display()))),
    }
}

/// A diffusers model in memory.
#[derive(Debug)]
pub struct ModelFiles {
    /// The U-Net's configuration, valid.
    pub config: UNetConfig,
    /// Its tensors, under diffusers' present names.
    pub tensors: TensorFile,
    /// The scheduler that came with it.
    pub scheduler: Option<SchedulerConfig>,
    /// Our own metadata, as [`save_model`] wrote it, and what it is called in messages.
    pub fewstep: Option<(Value, String)>,
}

impl ModelFiles {
    /// Reads a model from a pipeline's folder, a flat folder, or the `unet` folder of a pipeline.
    pub fn open(folder: &Path) -> Result<Self> {
        let paths = ModelPaths::find(folder)?;
        let read = |path: &PathBuf| Ok((file::read_text(path, json::MAX_TEXT as u64)?, path.display().to_string()));
        let (config, scheduler, fewstep) =
            (read(&paths.config)?, paths.scheduler.as_ref().map(read).transpose()?, paths.fewstep.as_ref().map(read).transpose()?);
        // The small files first: a wrong config should not cost the reading of the weights.
        UNetConfig::parse(&config.0, &config.1)?;
        let tensors = TensorFile::open(&paths.weights)?;
        fn named((text, name): &(String, String)) -> (&str, String) {
            (text, name.clone())
        }
        Self::parse(&ModelTexts { config: named(&config), scheduler: scheduler.as_ref().map(named), fewstep: fewstep.as_ref().map(named) }, tensors)
    }

    /// Reads a model whose files lie in memory.
    pub fn from_memory(config: &str, weights: &[u8], scheduler: Option<&str>, fewstep: Option<&str>) -> Result<Self> {
        fn named<'a>(text: Option<&'a str>, name: &str) -> Option<(&'a str, String)> {
            text.map(|text| (text, name.to_string()))
        }
        let texts = ModelTexts { config: (config, CONFIG.to_string()), scheduler: named(scheduler, SCHEDULER), fewstep: named(fewstep, FEWSTEP) };
        Self::parse(&texts, TensorFile::from_bytes(weights, WEIGHTS)?)
    }

    /// Understands the texts and gives the tensors their present names.
    pub(super) fn parse(texts: &ModelTexts, mut tensors: TensorFile) -> Result<Self> {
        let config = UNetConfig::parse(texts.config.0, &texts.config.1)?;
        let scheduler = texts.scheduler.as_ref().map(|(text, name)| SchedulerConfig::parse(text, name)).transpose()?;
        let fewstep = texts.fewstep.as_ref().map(|(text, name)| Ok((json::parse(text, name)?, name.clone()))).transpose()?;
        tensors.normalise_names()?;
        Ok(Self { config, tensors, scheduler, fewstep })
    }
}

/// The texts beside a model's weights, each with its name in errors.
pub(super) struct ModelTexts<'a> {
    /// `config.json`.
    pub config: (&'a str, String),
    /// `scheduler_config.json`.
    pub scheduler: Option<(&'a str, String)>,
    /// `fewstep.json`.
    pub fewstep: Option<(&'a str, String)>,
}

/// Saves a model so that diffusers' `UNet2DModel.from_pretrained(folder, subfolder="unet")` opens it and, when there is a scheduler,
/// `DDIMPipeline.from_pretrained(folder)` too. `fewstep` becomes `fewstep.json`, which diffusers does not look at.
///
/// Each file is written atomically. The index comes last, so a folder without one was not finished.
pub fn save_model(folder: &Path, config: &UNetConfig, tensors: &[(&str, &Tensor)], scheduler: Option<&SchedulerConfig>, fewstep: Option<&Value>) -> Result<()> {
    config.validate().and_then(|()| scheduler.map_or(Ok(()), SchedulerConfig::validate)).map_err(|e| e.context(folder.display()))?;
    let unet = folder.join("unet");
    file::create_folder(&unet)?;
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::save(&unet.join(WEIGHTS), tensors, &metadata)?;
    file::write_bytes_atomic(&unet.join(CONFIG), config.to_json().as_bytes())?;
    if let Some(value) = fewstep {
        let text = serde_json::to_string_pretty(value).map_err(|e| Error::internal(format!("{FEWSTEP}: {e}")))?;
        file::write_bytes_atomic(&folder.join(FEWSTEP), format!("{text}\n").as_bytes())?;
    }
    let Some(scheduler) = scheduler else { return Ok(()) };
    file::create_folder(&folder.join("scheduler"))?;
    file::write_bytes_atomic(&folder.join("scheduler").join(SCHEDULER), scheduler.to_json().as_bytes())?;
    file::write_bytes_atomic(&folder.join("model_index.json"), model_index(scheduler).as_bytes())
}

/// Which classes of which library a pipeline is made of.
fn model_index(scheduler: &SchedulerConfig) -> String {
    let mut map = Map::new();
    map.insert("_class_name".into(), json!("DDIMPipeline"));
    map.insert("_diffusers_version".into(), json!(DIFFUSERS_VERSION));
    map.insert("scheduler".into(), json!(["diffusers", scheduler.class.name()]));
    map.insert("unet".into(), json!(["diffusers", "UNet2DModel"]));
    to_text(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use crate::io::test_util::TestDir;
    use std::fs;

    fn tensor() -> Tensor {
        Tensor::from_slice(&[2], &[1.5f32, -2.0]).unwrap()
    }

    fn save(folder: &Path, scheduler: bool) {
        let tensor = tensor();
        let named = [("conv_in.bias", &tensor), ("mid_block.attentions.0.query.bias", &tensor)];
        let scheduler = scheduler.then(SchedulerConfig::default);
        save_model(folder, &UNetConfig::default(), &named, scheduler.as_ref(), Some(&json!({"pairs": [[999, 499], [499, -1]]}))).unwrap();
    }

    fn check(model: &ModelFiles, scheduler: bool) {
        assert_eq!(model.config, UNetConfig::default());
        assert_eq!(model.tensors.names().collect::<Vec<_>>(), ["conv_in.bias", "mid_block.attentions.0.to_q.bias"]);
        assert_eq!(model.scheduler, scheduler.then(SchedulerConfig::default));
        assert_eq!(model.fewstep.as_ref().unwrap().0["pairs"][1][1], -1);
    }

    #[test]
    fn saved_models_open_from_folder_and_unet_folder() {
        let dir = TestDir::new("model-round");
        save(dir.path(), true);
        check(&ModelFiles::open(dir.path()).unwrap(), true);
        check(&ModelFiles::open(&dir.join("unet")).unwrap(), true);
        check(&ModelFiles::open(&dir.join("unet/../unet/.")).unwrap(), true);
        let index: Value = serde_json::from_str(&fs::read_to_string(dir.join("model_index.json")).unwrap()).unwrap();
        assert_eq!(index["_class_name"], "DDIMPipeline");
        assert_eq!(index["scheduler"], json!(["diffusers", "DDIMScheduler"]));
        assert_eq!(TensorFile::open(&dir.join("unet").join(WEIGHTS)).unwrap().metadata()["format"], "pt");
    }

    #[test]
    fn the_scheduler_is_optional() {
        let dir = TestDir::new("model-bare");
        save(dir.path(), false);
        check(&ModelFiles::open(dir.path()).unwrap(), false);
        check(&ModelFiles::open(&dir.join("unet")).unwrap(), false);
        assert!(!dir.join("model_index.json").exists());
    }

    #[test]
    fn flat_folders_open() {
        let (dir, flat) = (TestDir::new("model-nested"), TestDir::new("model-flat"));
        save(dir.path(), true);
        for (from, to) in [
            ("unet/config.json", CONFIG),
            ("unet/diffusion_pytorch_model.safetensors", WEIGHTS_FP16),
            ("scheduler/scheduler_config.json", SCHEDULER),
            (FEWSTEP, FEWSTEP),
        ] {
            fs::copy(dir.join(from), flat.join(to)).unwrap();
        }
        check(&ModelFiles::open(flat.path()).unwrap(), true);
        let read = |name: &str| fs::read_to_string(flat.join(name)).unwrap();
        let weights = fs::read(flat.join(WEIGHTS_FP16)).unwrap();
        check(&ModelFiles::from_memory(&read(CONFIG), &weights, Some(&read(SCHEDULER)), Some(&read(FEWSTEP))).unwrap(), true);
        let error = ModelFiles::from_memory(&read(CONFIG), &weights[..50], None, None).map(drop).unwrap_err();
        assert_eq!(error.status, Status::CorruptFile);
        assert!(error.message.contains(WEIGHTS), "{error}");
        let error = ModelFiles::from_memory("{", &weights, None, None).map(drop).unwrap_err();
        assert!(error.message.starts_with(CONFIG), "{error}");
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_named() {
        let open = |dir: &TestDir| ModelFiles::open(dir.path()).map(drop).unwrap_err();
        let dir = TestDir::new("model-missing");
        let error = open(&dir);
        assert_eq!(error.status, Status::NotFound);
        assert!(error.message.contains("unet/config.json"), "{error}");
        fs::create_dir(dir.join("unet")).unwrap();
        fs::write(dir.join("unet/config.json"), "{}").unwrap();
        let error = open(&dir);
        assert_eq!(error.status, Status::NotFound);
        assert!(error.message.contains("unet/diffusion_pytorch_model.safetensors"), "{error}");
        for name in ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.bin.index.json", "diffusion_pytorch_model.safetensors.index.json"] {
            fs::write(dir.join("unet").join(name), "x").unwrap();
            let error = open(&dir);
            assert_eq!(error.status, Status::Unsupported, "{name}");
            assert!(error.message.contains(name), "{error}");
        }
        assert_eq!(ModelFiles::open(&dir.join("absent")).map(drop).unwrap_err().status, Status::NotFound);
        assert_eq!(ModelFiles::open(&dir.join("unet/config.json")).map(drop).unwrap_err().status, Status::InvalidArgument);
    }

    #[test]
    fn damage_is_reported_with_its_file() {
        let dir = TestDir::new("model-damage");
        for (name, status) in [
            ("unet/config.json", Status::CorruptFile),
            ("unet/diffusion_pytorch_model.safetensors", Status::CorruptFile),
            ("scheduler/scheduler_config.json", Status::CorruptFile),
            ("fewstep.json", Status::CorruptFile),
        ] {
            save(dir.path(), true);
            fs::write(dir.join(name), b"\xff\xfe garbage").unwrap();
            let error = ModelFiles::open(dir.path()).map(drop).unwrap_err();
            assert_eq!(error.status, status, "{name}: {error}");
            assert!(error.message.contains(name), "{error}");
        }
    }

    #[test]
    fn invalid_configs_are_not_saved() {
        let dir = TestDir::new("model-invalid");
        let config = UNetConfig { norm_num_groups: 5, ..UNetConfig::default() };
        assert_eq!(save_model(&dir.join("m"), &config, &[], None, None).unwrap_err().status, Status::InvalidArgument);
        assert!(!dir.join("m").exists());
        let scheduler = SchedulerConfig { beta_end: 7.0, ..SchedulerConfig::default() };
        let result = save_model(&dir.join("m"), &UNetConfig::default(), &[], Some(&scheduler), None);
        assert_eq!(result.unwrap_err().status, Status::InvalidArgument);
        assert!(!dir.join("m").exists());
    }
}
