//! A model: architecture, weights and how it is meant to be sampled. Immutable and shared; a trainer copies what it changes.

use super::conditions::ConditionKind;
use super::families::{self, NETWORKS, Opened};
use super::network::Network;
use super::per_step::PerStep;
use super::quantization::{Quantization, as_halves, from_numbers, input_scale, weight_scale};
use super::scope::{Initial, Parameter};
use crate::cancel::Stop;
use crate::diffusion::grid;
use crate::error::{Error, Result};
use crate::io::diffusers::{self, ModelFiles, NetworkText};
use crate::io::hashing::{Sha256, sha256};
use crate::io::json::{SHOWN_KEYS, describe};
use crate::io::scheduler_config::{SchedulerClass, SchedulerConfig};
use crate::io::{TensorFile, model_file, record};
use crate::memory;
use crate::names::Named;
use crate::random::{self, Purpose};
use crate::tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What a few-step student was trained for. Written as `fewstep.json` beside the diffusers files; diffusers ignores it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StudentInfo {
    /// Version of this record.
    pub version: u32,
    /// The sampler's grid: pairs (t, t_next); t_next -1 is the clean image.
    pub pairs: Vec<(i64, i64)>,
    /// Teacher DDIM steps for each pair, which is what the student imitates.
    pub teacher_substeps: usize,
    /// What each step of the grid has of its own; written where it has anything.
    #[serde(rename = "per_step_weights", skip_serializing_if = "PerStep::is_none")]
    pub per_step: PerStep,
}

impl StudentInfo {
    /// The fields of a record; its grid is as long as the file likes.
    fn from_value(value: &serde_json::Value) -> Result<Self> {
        let wrong = |key: &str, expected: &str, found: &_| Error::corrupt(format!("{key}: expected {expected}, found {}", describe(found)));
        let number = |key: &str| value[key].as_u64().ok_or_else(|| wrong(key, "a whole number", &value[key]));
        let too_large = |_| Error::corrupt("version or teacher_substeps is too large");
        let version = u32::try_from(number("version")?).map_err(too_large)?;
        let teacher_substeps = usize::try_from(number("teacher_substeps")?).map_err(too_large)?;
        let words = || PerStep::NAMES.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
        let per_step = match value.get(record::PER_STEP) {
            None => PerStep::None,
            Some(word) => word.as_str().and_then(PerStep::from_name).ok_or_else(|| wrong(record::PER_STEP, &words(), word))?,
        };
        Ok(Self { version, pairs: record::pairs(value)?, teacher_substeps, per_step })
    }

    /// What this library writes, and all that it reads.
    pub const VERSION: u32 = record::VERSION;

    /// Reads the record of a model with `train` timesteps; `None` when it is of no student and only names a folder's parts. Errors begin with `name`.
    fn read(value: &serde_json::Value, name: &str, train: usize) -> Result<Option<Box<Self>>> {
        let version = &value["version"];
        if version.is_u64() && *version != Self::VERSION {
            return Err(Error::version(format!("{name}: version {version}; this library reads version {}", Self::VERSION)));
        }
        if !record::is_student(value) {
            return Ok(None);
        }
        let info = Self::from_value(value).map_err(|e| e.context(name))?;
        grid::check(train, &info.pairs).map_err(|e| Error::corrupt(format!("{name}: {}", e.message)))?;
        Ok(Some(Box::new(info)))
    }
}

/// Architecture, weights, sampling settings.
#[derive(Clone, Debug)]
pub struct Model {
    /// The architecture.
    pub network: Arc<dyn Network>,
    /// Noise schedule, prediction type and sampling settings.
    pub scheduler: SchedulerConfig,
    /// Weights by their name in files: f32, or f16 and bf16 where a file has them so; whole numbers, I8, in quantised layers, whose scales are beside them. What
    /// computes with them sees f32 ([`Scope`](super::Scope)).
    pub weights: BTreeMap<String, Arc<Tensor>>,
    /// Present for distilled students. Behind a pointer: in place, optimised code branches on a field before it asks whether the record is there, and valgrind
    /// reports a program that is right.
    pub student: Option<Box<StudentInfo>>,
    /// Present for models that compute in whole numbers; their scales are among the weights.
    pub quantization: Option<Quantization>,
    /// What was odd about the files: unknown keys, unused tensors.
    pub warnings: Vec<String>,
}

impl Model {
    /// Opens a diffusers folder (`unet/` and `scheduler/`, or flat), any file of one, or a file of [`Model::save_file`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_files(if path.is_file() { ModelFiles::open_file(path, &NETWORKS)? } else { ModelFiles::open(path, None, &NETWORKS)? })
    }

    /// Opens the weights of a variant (`diffusion_pytorch_model.fp16.safetensors` is "fp16", the plain file is "") from a diffusers folder.
    pub fn open_variant(path: &Path, variant: &str) -> Result<Self> {
        Self::from_files(ModelFiles::open(path, Some(variant), &NETWORKS)?)
    }

    /// The bytes of a file of [`Model::save_file`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::from_files(ModelFiles::from_file_bytes(bytes, "model in memory", &NETWORKS)?)
    }

    /// The same from memory: the texts of the two configs and the bytes of the safetensors file.
    pub fn from_memory(config: &str, scheduler: Option<&str>, weights: &[u8]) -> Result<Self> {
        Self::from_files(ModelFiles::from_memory(config, weights, scheduler, None, &NETWORKS)?)
    }

    fn from_files(mut files: ModelFiles<Opened>) -> Result<Self> {
        let Opened { network, parameters } = files.config;
        let train = files.scheduler.as_ref().map_or_else(|| SchedulerConfig::for_class(SchedulerClass::Ddim).num_train_timesteps, |s| s.num_train_timesteps);
        let (mut student, mut quantization) = (None, None);
        if let Some((value, name)) = &files.fewstep {
            student = StudentInfo::read(value, name, train)?;
            quantization = read_quantization(value, &parameters, student.as_deref()).map_err(|e| e.context(name))?;
            if quantization.is_some() && student.as_ref().is_some_and(|student| !student.per_step.is_none()) {
                return Err(Error::unsupported(format!("{name}: a quantised student has no parameters of each step, but {} says so", record::PER_STEP)));
            }
        }
        let mut weights = BTreeMap::new();
        let shapes: BTreeMap<&str, &[usize]> = parameters.iter().filter_map(|p| Some((p.layer()?, p.shape.as_slice()))).collect();
        let scales = quantization.iter().flat_map(|q| q.layers.iter()).flat_map(|(path, layer)| {
            let count = shapes.get(path.as_str()).and_then(|shape| layer.weights.scales(shape)).unwrap_or(0);
            layer.input.map(|_| (input_scale(path), vec![1])).into_iter().chain([(weight_scale(path), vec![count])])
        });
        let steps = student.as_ref().map_or(0, |student| student.pairs.len());
        let stored = |p: &Parameter| student.as_ref().map_or_else(|| p.shape.clone(), |student| student.per_step.shape(p, steps));
        let all = parameters.iter().map(|p| (p.name.clone(), stored(p))).chain(scales);
        for (name, shape) in all {
            memory::check()?;
            let tensor = take_weights(&mut files.tensors, &name, &shape, quantization.as_ref())?;
            weights.insert(name, Arc::new(tensor));
        }
        let mut warnings = [files.notes, network.unknown().warnings.clone()].concat();
        warnings.extend(files.scheduler.iter().flat_map(|s| s.warnings.clone()));
        let unused = || files.tensors.names().filter(|n| !weights.contains_key(*n));
        warnings.extend(unused().take(SHOWN_KEYS).map(|n| format!("tensor '{n}' is not part of the model and was ignored")));
        let more = unused().count().saturating_sub(SHOWN_KEYS);
        warnings.extend((more > 0).then(|| format!("{more} more tensors are not part of the model and were ignored")));
        let signature = network.signature();
        let odd = files.scheduler.as_ref().is_some_and(|s| s.predicts_variance()) && signature.out_channels != 2 * signature.in_channels;
        warnings.extend(odd.then(|| {
            let (reads, gives) = (signature.in_channels, signature.out_channels);
            format!(
                "the scheduler says that the model predicts a variance, but it gives {gives} channels for {reads}: all of them are taken for the prediction"
            )
        }));
        let scheduler = files.scheduler.unwrap_or_else(|| SchedulerConfig::for_class(SchedulerClass::Ddim));
        Ok(Self { network, scheduler, weights, student, quantization, warnings })
    }

    /// A model with random weights as PyTorch initialises them: a function of the seed.
    pub fn create(network: Arc<dyn Network>, scheduler: SchedulerConfig, seed: u64) -> Result<Self> {
        Self::create_until(network, scheduler, seed, Stop::NEVER)
    }

    /// The same; a cancelled error where `stop` is set before all weights are drawn.
    pub fn create_until(network: Arc<dyn Network>, scheduler: SchedulerConfig, seed: u64, stop: Stop) -> Result<Self> {
        let mut weights = BTreeMap::new();
        for (i, parameter) in network.parameters()?.into_iter().enumerate() {
            memory::check()?;
            let tensor = Arc::new(initial(&parameter, [seed, i as u64], stop)?);
            weights.insert(parameter.name, tensor);
        }
        Ok(Self { network, scheduler, weights, student: None, quantization: None, warnings: vec![] })
    }

    /// The same model with all its weights in f32, as they are trained; those that are f32 already are shared. A cancelled error where `stop` is set before.
    pub fn widened(&self, stop: Stop) -> Result<Self> {
        let mut wide = self.clone();
        for (name, tensor) in &mut wide.weights {
            stop.check()?;
            let scales = self.quantization.as_ref().and_then(|q| self.weights.get(&weight_scale(q.layer_of(name)?)));
            *tensor = match scales.filter(|_| tensor.dtype() == DType::I8) {
                Some(scales) => Arc::new(from_numbers(tensor, scales)?),
                None => widened(tensor)?,
            };
        }
        Ok(wide)
    }

    /// The same model with all its weights in f16 or bf16, those that are beyond it as they are. A cancelled error where `stop` is set before.
    pub fn in_halves(&self, dtype: DType, stop: Stop) -> Result<Self> {
        let mut halved = self.clone();
        for tensor in halved.weights.values_mut() {
            stop.check()?;
            *tensor = as_halves(&widened(tensor)?, dtype)?;
        }
        Ok(halved)
    }

    /// The same model with its weights as it keeps them: a quantised one has whole numbers and f16, any other is left as it is.
    pub fn narrowed(self) -> Result<Self> {
        let Some(quantization) = &self.quantization else { return Ok(self) };
        let weights = quantization.narrowed(&self.weights)?;
        Ok(Self { weights, ..self })
    }

    /// A hash of the weights, by their names, types, shapes and bytes; a cancelled error where `stop` is set before.
    pub fn weights_hash(&self, stop: Stop) -> Result<String> {
        let mut hash = Sha256::default();
        for (name, tensor) in &self.weights {
            stop.check()?;
            hash.update(format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.shape()).as_bytes());
            hash.update(tensor.bytes());
        }
        Ok(hash.digest())
    }

    /// A hash of the numbers that the model computes in, scales included; `None` for one that computes in floats.
    pub fn numbers_hash(&self) -> Result<Option<String>> {
        let Some(quantization) = &self.quantization else { return Ok(None) };
        let mut bytes = vec![];
        quantization.append_to(&mut bytes)?;
        for (_, scales) in self.weights.iter().filter(|(name, _)| quantization.is_scale(name)) {
            memory::append(&mut bytes, scales.bytes(), "scales")?;
        }
        Ok(Some(sha256(&bytes)))
    }

    /// Refuses timesteps that a model has nothing for: ranges of a quantised one, and parameters of each step, are those of its own grid.
    pub fn check_timesteps(&self, timesteps: &[f64]) -> Result<()> {
        if let Some(pairs) = self.own_steps().filter(|pairs| !pairs.iter().map(|(t, _)| *t as f64).eq(timesteps.iter().copied())) {
            return Err(Error::unsupported(format!(
                "each step of the student's grid {pairs:?} has parameters of its own, the sampler's timesteps are {timesteps:?}: sample it with \
                 FEWSTEP_SAMPLER_FROM_MODEL, or train a student for this grid"
            )));
        }
        let Some(quantization) = self.quantization.as_ref().filter(|quantization| quantization.has_ranges()) else { return Ok(()) };
        if quantization.pairs.iter().map(|(t, _)| *t as f64).eq(timesteps.iter().copied()) {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "the model is quantised for its own grid {:?}, the sampler's timesteps are {timesteps:?}: sample it with FEWSTEP_SAMPLER_FROM_MODEL, or quantise \
             the model that it was made of for this grid",
            quantization.pairs
        )))
    }

    /// Writes a diffusers folder that `DDIMPipeline.from_pretrained` opens. It is saved as a whole: a model that was there stays, or this one is there.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.check_finite()?;
        self.check_expressible()?;
        let network = NetworkText { class: self.network.family().class, config: &self.config_json().map_err(|e| e.context(path.display()))? };
        diffusers::save_model(path, &network, &self.tensors()?, &self.scheduler, self.metadata()?.as_ref())
    }

    /// Writes the model as one file, whatever its grid. It appears whole or not at all.
    pub fn save_file(&self, path: &Path) -> Result<()> {
        self.check_finite()?;
        let network = NetworkText { class: self.network.family().class, config: &self.config_json().map_err(|e| e.context(path.display()))? };
        let stored = |(name, tensor): (&String, &Arc<Tensor>)| match &self.quantization {
            Some(quantization) => quantization.to_file(name, tensor),
            None => Ok(tensor.clone()),
        };
        let stored = memory::try_collect(self.weights.iter().map(stored), "list of tensors")?;
        let tensors = self.weights.keys().zip(&stored).map(|(name, tensor)| (name.as_str(), tensor.as_ref()));
        let tensors = memory::collect(tensors, "list of tensors")?;
        model_file::save_model_file(path, &network, &tensors, &self.scheduler, self.metadata()?.as_ref())
    }

    /// An error that names the first weight that is not finite: such a model cannot be opened again, so it is not written over one that can.
    pub fn check_finite(&self) -> Result<()> {
        for (name, tensor) in &self.weights {
            if let Some((i, value)) = tensor.non_finite()? {
                return Err(Error::numeric(format!("the model's tensor \"{name}\": element {i} is {value}, expected a finite number")));
            }
        }
        Ok(())
    }

    /// The network's config.json; an error where it could not be opened again.
    fn config_json(&self) -> Result<String> {
        let text = self.network.to_json()?;
        families::parse(&text, "config.json")?;
        Ok(text)
    }

    fn tensors(&self) -> Result<Vec<(&str, &Tensor)>> {
        memory::collect(self.weights.iter().map(|(n, t)| (n.as_str(), t.as_ref())), "list of tensors")
    }

    fn metadata(&self) -> Result<Option<serde_json::Value>> {
        let student = self.student.as_ref().map(|info| serde_json::to_value(info).map_err(|e| Error::internal(e.to_string()))).transpose()?;
        let Some(quantization) = &self.quantization else { return Ok(student) };
        // What opens a model with ranges asks for the grid that they are for.
        let lacking = || Error::invalid("the model is quantised, but has no grid of its own: it could not be opened again");
        let weights_alone = (!quantization.has_ranges()).then(|| serde_json::json!({"version": StudentInfo::VERSION}));
        let mut record = student.or(weights_alone).ok_or_else(lacking)?;
        record[Quantization::KEY] = quantization.to_value();
        Ok(Some(record))
    }

    /// diffusers can only express grids that its timestep spacing produces; anything else would be sampled wrongly there.
    fn check_expressible(&self) -> Result<()> {
        if self.quantization.is_some() {
            return Err(Error::unsupported("diffusers cannot read a quantised model: save it as one file, with fewstep_model_save_file"));
        }
        if self.own_steps().is_some() {
            let way_out = "save it as one file, with fewstep_model_save_file";
            return Err(Error::unsupported(format!("diffusers cannot read a student whose steps have parameters of their own: {way_out}")));
        }
        let Some(info) = &self.student else { return Ok(()) };
        let expected = grid::trailing_pairs(self.scheduler.num_train_timesteps, info.pairs.len())?;
        if info.pairs == expected {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "the student's grid {:?} is not one that diffusers can express (trailing spacing gives {expected:?}); save it as one file instead, with \
             fewstep_model_save_file",
            info.pairs
        )))
    }

    /// Number of classes, or `None` for an unconditional model.
    pub fn classes(&self) -> Option<usize> {
        self.network.signature().conditions.iter().find_map(|c| if let ConditionKind::Labels { classes } = c.kind { Some(classes) } else { None })
    }

    /// [H, W] that the config names; an error when it names none.
    pub fn size(&self) -> Result<[usize; 2]> {
        self.network.signature().size.ok_or_else(|| Error::invalid("the config has no sample_size; give the image size"))
    }

    /// Whether a weight is learned: all of them are, but the scales of whole numbers.
    pub fn learns(&self, name: &str) -> bool {
        self.quantization.as_ref().is_none_or(|quantization| !quantization.is_scale(name))
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.weights.iter().filter(|(name, _)| self.learns(name)).map(|(_, t)| t.numel()).sum()
    }
}

/// What a record says of whole numbers, if it does; an error where that is not of this network, or not of the student's grid.
fn read_quantization(record: &serde_json::Value, parameters: &[Parameter], student: Option<&StudentInfo>) -> Result<Option<Quantization>> {
    let key = Quantization::KEY;
    let Some(value) = record.get(key) else { return Ok(None) };
    let quantization = Quantization::from_value(value)?;
    let layers: BTreeMap<&str, &Parameter> = parameters.iter().filter_map(|p| Some((p.layer()?, p))).collect();
    for (path, numbers) in &quantization.layers {
        let weight = layers.get(path.as_str()).ok_or_else(|| Error::corrupt(format!("{key}: layers: {path:?} is no layer of the network")))?;
        if numbers.weights.scales(&weight.shape).is_none() {
            let (group, shape) = (numbers.weights.group, &weight.shape);
            return Err(Error::corrupt(format!("{key}: layers: {path:?}: groups of {group:?} weights do not divide an output's of {shape:?}")));
        }
    }
    if !quantization.has_ranges() {
        return Ok(Some(quantization));
    }
    let grid = student.map_or(&[][..], |student| &student.pairs);
    if quantization.pairs != grid || student.is_none() {
        return Err(Error::corrupt(format!("{key}: {}: expected the student's grid {grid:?}, found {:?}", record::PAIRS, quantization.pairs)));
    }
    Ok(Some(quantization))
}

/// Takes a parameter, or a scale of whole numbers, out of a file.
fn take_weights(tensors: &mut TensorFile, name: &str, shape: &[usize], quantization: Option<&Quantization>) -> Result<Tensor> {
    let corrupt = |tensors: &TensorFile, what: String| Error::corrupt(format!("{}: tensor \"{name}\": {what}", tensors.file()));
    if let Some((quantization, numbers)) = quantization.and_then(|q| Some((q, q.weights(name)?))) {
        return quantization.take(numbers, tensors, name, shape);
    }
    if matches!(tensors.get(name)?.dtype(), DType::I8 | DType::U8) {
        return Err(Error::unsupported(format!(
            "{}: tensor \"{name}\" has whole numbers, and no record says what they stand for: a quantised model is opened as the one file that \
                 fewstep_model_save_file wrote, with fewstep_model_open or fewstep_model_open_buffer",
            tensors.file()
        )));
    }
    let floats = tensors.take_floats(name, shape)?;
    if quantization.is_some_and(|q| q.is_scale(name))
        && let Some(scale) = floats.to_f32()?.as_slice::<f32>()?.iter().find(|scale| **scale <= 0.0)
    {
        return Err(corrupt(tensors, format!("expected scales above 0, found {scale}")));
    }
    Ok(floats)
}

/// A tensor as f32: itself where it is.
pub fn widened(tensor: &Arc<Tensor>) -> Result<Arc<Tensor>> {
    match tensor.dtype() {
        DType::F32 => Ok(tensor.clone()),
        _ => Ok(Arc::new(tensor.to_f32()?)),
    }
}

/// Blocks of four numbers that are drawn between two looks at the caller's wish to stop.
const CHECKED: usize = 1 << 16;

/// The values that a parameter begins as, from the seed and an index that is its own.
pub(crate) fn initial(parameter: &Parameter, [seed, index]: [u64; 2], stop: Stop) -> Result<Tensor> {
    let index = index as u32;
    let mut tensor = Tensor::zeros(DType::F32, &parameter.shape)?;
    let data = tensor.as_mut_slice::<f32>()?;
    let inputs = match parameter.initial {
        Initial::Uniform(inputs) => inputs,
        Initial::Normal => {
            random::fill_normal(seed, Purpose::Init, 0, index, data);
            return Ok(tensor);
        }
        Initial::Ones => {
            data.fill(1.0);
            return Ok(tensor);
        }
        Initial::Zeros => return Ok(tensor),
    };
    let bound = 1.0 / (inputs.max(1) as f32).sqrt();
    for (block, four) in data.chunks_mut(4).enumerate() {
        if block % CHECKED == 0 {
            stop.check()?;
        }
        let words = random::words(seed, Purpose::Init, 0, index, block as u32);
        for (v, word) in four.iter_mut().zip(words) {
            *v = bound * (2.0 * (word >> 8) as f32 / (1u32 << 24) as f32 - 1.0);
        }
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::{Model, SHOWN_KEYS, StudentInfo};
    use crate::error::Status;
    use crate::io::SchedulerConfig;
    use crate::io::test_util::TestDir;
    use crate::nn::families;
    use crate::tensor::{DType, Tensor};
    use serde_json::json;
    use std::sync::Arc;

    const TINY: &str = r#"{"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": [8, 8], "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 4}"#;

    /// A safetensors file of a model's weights in a type that this library does not write, under names that wrappers have changed.
    fn weights_as(model: &Model, dtype: &str, prefix: &str, encode: fn(f32) -> Vec<u8>) -> Vec<u8> {
        let (mut header, mut data) = (serde_json::Map::new(), vec![]);
        for (name, tensor) in &model.weights {
            let start = data.len();
            tensor.as_slice::<f32>().unwrap().iter().for_each(|v| data.extend(encode(*v)));
            header.insert(format!("{prefix}{name}"), json!({"dtype": dtype, "shape": tensor.shape(), "data_offsets": [start, data.len()]}));
        }
        let header = serde_json::to_vec(&header).unwrap();
        [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
    }

    #[test]
    fn weights_of_every_float_type_open() {
        type Case = (&'static str, &'static str, fn(f32) -> Vec<u8>, f32, DType);
        // The relative error is half a unit in the last of the type's digits: 2^-11, 2^-8; none from f64.
        let cases: [Case; 4] = [
            ("F64", "", |v| f64::from(v).to_le_bytes().to_vec(), 0.0, DType::F32),
            ("F32", "module._orig_mod.", |v| v.to_le_bytes().to_vec(), 0.0, DType::F32),
            ("F16", "_orig_mod.", |v| half::f16::from_f32(v).to_le_bytes().to_vec(), 0.000489, DType::F16),
            ("BF16", "module.", |v| half::bf16::from_f32(v).to_le_bytes().to_vec(), 0.00391, DType::Bf16),
        ];
        let model = Model::create(families::parse(TINY, "t").unwrap(), SchedulerConfig::default(), 1).unwrap();
        for (dtype, prefix, encode, tolerance, held) in cases {
            let dir = TestDir::new(&format!("model-{dtype}"));
            std::fs::write(dir.join("config.json"), TINY).unwrap();
            std::fs::write(dir.join("diffusion_pytorch_model.safetensors"), weights_as(&model, dtype, prefix, encode)).unwrap();
            let opened = Model::open(dir.path()).unwrap();
            assert_eq!(opened.weights.len(), model.weights.len());
            for (name, tensor) in &model.weights {
                assert_eq!(opened.weights[name].dtype(), held, "{dtype} {name}");
                let found = opened.weights[name].to_f32_vec().unwrap();
                let values = tensor.as_slice::<f32>().unwrap().iter().zip(&found);
                // f16 has fewer digits below 2^-14: an absolute error of 2^-25 there.
                values.for_each(|(v, o)| {
                    assert!((v - o).abs() <= (v.abs() * tolerance).max(if tolerance > 0.0 { 3e-8 } else { 0.0 }), "{dtype} {name}: {v} {o}")
                });
            }
            assert!(matches!(opened.warnings.as_slice(), [only] if only.contains("DDIMScheduler is assumed")), "{:?}", opened.warnings);
        }
    }

    /// A file of f16 or bf16 is opened and saved without a change to a byte of it, and what is not finite is refused by name on both ways.
    #[test]
    fn narrow_weights_are_saved_as_they_were_opened() {
        let model = Model::create(families::parse(TINY, "t").unwrap(), SchedulerConfig::default(), 1).unwrap();
        let scheduler = model.scheduler.to_json().unwrap();
        type Case = (&'static str, fn(f32) -> Vec<u8>, &'static [u8]);
        let cases: [Case; 2] = [
            ("F16", |v| half::f16::from_f32(v).to_le_bytes().to_vec(), &[0, 0x7c]),
            ("BF16", |v| half::bf16::from_f32(v).to_le_bytes().to_vec(), &[0x80, 0xff]),
        ];
        for (dtype, encode, infinite) in cases {
            let dir = TestDir::new(&format!("model-narrow-{dtype}"));
            let bytes = weights_as(&model, dtype, "", encode);
            let opened = Model::from_memory(TINY, Some(&scheduler), &bytes).unwrap();
            opened.save_file(&dir.join("one")).unwrap();
            opened.save(&dir.join("folder")).unwrap();
            for path in ["one", "folder"] {
                let again = Model::open(&dir.join(path)).unwrap();
                let same =
                    |(name, tensor): (&String, &Arc<Tensor>)| tensor.dtype() == again.weights[name].dtype() && tensor.bytes() == again.weights[name].bytes();
                assert!(opened.weights.iter().all(same), "{dtype} {path}");
                again.save_file(&dir.join("two")).unwrap();
                assert!(std::fs::read(dir.join("one")).unwrap() == std::fs::read(dir.join("two")).unwrap(), "{dtype} {path}");
            }
            let weights = std::fs::read(dir.join("folder/unet/diffusion_pytorch_model.safetensors")).unwrap();
            assert!(weights.len() < 2 * model.parameter_count() + 40_000 && weights.len() > 2 * model.parameter_count(), "{} bytes", weights.len());
            // The last tensor of the file is the last by name.
            let (last, _) = model.weights.iter().next_back().unwrap();
            let bad = [&bytes[..bytes.len() - 2], infinite].concat();
            let error = Model::from_memory(TINY, Some(&scheduler), &bad).unwrap_err();
            assert!(error.status == Status::Numeric && error.message.contains(last) && error.message.contains("inf"), "{error}");
            let mut spoilt = opened.clone();
            let mut tensor = spoilt.weights[last].try_clone().unwrap();
            tensor.bytes_mut()[..2].copy_from_slice(infinite);
            spoilt.weights.insert(last.clone(), Arc::new(tensor));
            for error in [spoilt.save(&dir.join("folder")).unwrap_err(), spoilt.save_file(&dir.join("one")).unwrap_err()] {
                assert!(error.status == Status::Numeric && error.message.contains(last) && error.message.contains("element 0 is"), "{error}");
            }
        }
    }

    #[test]
    fn tensors_of_no_use_are_named_up_to_a_limit() {
        let mut model = Model::create(families::parse(TINY, "t").unwrap(), SchedulerConfig::default(), 1).unwrap();
        let one = model.weights["conv_out.bias"].clone();
        (0..SHOWN_KEYS + 7).for_each(|i| drop(model.weights.insert(format!("more.{i}"), one.clone())));
        let bytes = weights_as(&model, "F32", "", |v| v.to_le_bytes().to_vec());
        let warnings = Model::from_memory(TINY, Some(&model.scheduler.to_json().unwrap()), &bytes).unwrap().warnings;
        assert_eq!(warnings.iter().filter(|w| w.starts_with("tensor 'more.")).count(), SHOWN_KEYS);
        assert!(warnings.len() == SHOWN_KEYS + 1 && warnings[SHOWN_KEYS].starts_with("7 more tensors"), "{warnings:?}");
    }

    #[test]
    fn a_saved_model_opens_from_its_folder_and_its_weights_alone() {
        let dir = TestDir::new("model-paths");
        let model = Model::create(families::parse(TINY, "t").unwrap(), SchedulerConfig::default(), 1).unwrap();
        let bytes = |model: &Model| model.weights.iter().map(|(name, tensor)| (name.clone(), tensor.bytes().to_vec())).collect::<Vec<_>>();
        model.save(dir.path()).unwrap();
        model.save_file(&dir.join("unet/one.safetensors")).unwrap();
        for (path, notes) in [("", 0), ("unet", 0), ("fewstep.json", 1), ("unet/diffusion_pytorch_model.safetensors", 1), ("unet/one.safetensors", 0)] {
            let opened = Model::open(&dir.join(path)).unwrap();
            assert_eq!((bytes(&opened) == bytes(&model), opened.student, opened.warnings.len()), (true, None, notes), "{path}");
        }
        assert_eq!(bytes(&Model::open_variant(dir.path(), "").unwrap()), bytes(&model));
    }

    #[test]
    fn a_student_s_record_is_checked_when_it_is_read() {
        let good = json!({"version": 1, "pairs": [[999, 300], [300, -1]], "teacher_substeps": 4, "later": true});
        assert_eq!(StudentInfo::read(&good, "fewstep.json", 1000).unwrap().unwrap().pairs, [(999, 300), (300, -1)]);
        let long: Vec<_> = (0..1001).rev().map(|t| json!([t, t - 1])).collect();
        for (pairs, train, complaint) in [
            (json!([]), 1000, "empty"),
            (json!([[1000, -1]]), 1000, "between 0 and 999"),
            (json!([[1u64 << 40, -1]]), 1000, "1099511627776"),
            (json!([[9, 9]]), 1000, "from timestep 9 to 9"),
            (json!([[9, 5], [4, -1]]), 1000, "starts at 4"),
            (json!(long), 1001, "at most 1000"),
            (json!([[9]]), 1000, "2"),
            (json!(7), 1000, "7"),
        ] {
            let error = StudentInfo::read(&json!({"version": 1, "pairs": pairs, "teacher_substeps": 4}), "m/fewstep.json", train).unwrap_err();
            assert_eq!(error.status, Status::CorruptFile, "{error}");
            assert!(error.message.starts_with("m/fewstep.json: ") && error.message.contains(complaint), "{error}");
        }
        assert_eq!(StudentInfo::read(&json!({"version": 1, "parts": {}}), "fewstep.json", 1000).unwrap(), None);
        let error = StudentInfo::read(&json!({"version": 2, "grid": "another form"}), "m/fewstep.json", 1000).unwrap_err();
        assert_eq!(error.status, Status::VersionMismatch, "{error}");
    }
}
