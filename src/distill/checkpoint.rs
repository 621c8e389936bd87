//! Saving and resuming a training run, bit for bit, also in another process.
//!
//! A checkpoint is one safetensors file: weights, both moments and the moving average of every parameter, and a record of the run in its metadata.
//! Draws depend on (seed, step) alone, so nothing else has a state; the trajectory cache is regenerated from the seed.

use super::loss_scale::LossScale;
use super::trainer::Trainer;
use super::training_graph::STATES;
use crate::error::{Error, Result};
use crate::io::json;
use crate::io::safetensors::{self, TensorFile};
use crate::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Format of the file; raised when an older reader would misread it.
const VERSION: u32 = 1;
/// Key of the record in the file's metadata.
const KEY: &str = "fewstep.training";

/// What must agree between the run that saved and the run that resumes.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    steps_done: u64,
    student: String,
    run: BTreeMap<String, String>,
    /// Only where the loss is scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_scale: Option<LossScale>,
}

impl Trainer {
    /// Writes the whole state of training. The file appears whole or not at all; a failure leaves an older one as it was.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = vec![];
        for name in &self.parameters {
            for prefix in STATES {
                let key = format!("{prefix}{name}");
                let data = self.exec.storage_bytes(&key)?.of::<f32>()?;
                let tensor = Tensor::from_slice(self.student.weights[name].shape(), &data)?;
                tensors.push((key, tensor));
            }
        }
        let record = Record {
            version: VERSION,
            steps_done: self.steps_done,
            student: self.student.config.to_json(),
            run: self.run_record(),
            loss_scale: self.loss_scale().map(|_| self.loss_scale),
        };
        let text = serde_json::to_string(&record).map_err(|e| Error::internal(e.to_string()))?;
        let entries: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        safetensors::save(path, &entries, &BTreeMap::from([(KEY.to_owned(), text)]))
    }

    /// Continues where `save` stopped. The trainer must have been created with the same student architecture and options; nothing changes on an error.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let file = TensorFile::open(path)?;
        let shown = path.display();
        let text = file.metadata().get(KEY).ok_or_else(|| Error::corrupt(format!("{shown}: not a training checkpoint (no {KEY} in its metadata)")))?;
        let record: Record = json::parse_record(text, "damaged training record").map_err(|e| e.context(&shown))?;
        self.check_record(&record).map_err(|e| e.context(shown))?;
        let mut loaded = vec![];
        for name in &self.parameters {
            for prefix in STATES {
                let key = format!("{prefix}{name}");
                let tensor = file.get_f32(&key, self.student.weights[name].shape())?;
                loaded.push((key, tensor));
            }
        }
        for (key, tensor) in &loaded {
            self.exec.write_storage(key, tensor.bytes())?;
        }
        self.steps_done = record.steps_done;
        if let Some(scale) = record.loss_scale {
            self.loss_scale = scale;
        }
        Ok(())
    }

    fn check_record(&self, record: &Record) -> Result<()> {
        if record.version != VERSION {
            return Err(Error::version(format!("training checkpoint of version {}, this library reads {VERSION}", record.version)));
        }
        if record.student != self.student.config.to_json() {
            return Err(Error::invalid("the checkpoint was made with another student architecture"));
        }
        let own = self.run_record();
        // An option that only one of them records is at its default in the other.
        let shown = |run: &BTreeMap<String, String>, key: &str| run.get(key).map_or("the default", String::as_str).to_owned();
        match own.keys().chain(record.run.keys()).find(|key| own.get(*key) != record.run.get(*key)) {
            None if record.loss_scale.is_none() && self.loss_scale().is_some() => Err(Error::corrupt("the training record has no loss scale")),
            None => Ok(()),
            Some(key) => Err(Error::invalid(format!("option {key} is {}; the checkpoint was made with {}", shown(&own, key), shown(&record.run, key)))),
        }
    }

    /// Every option that the continuation depends on, as text; floats in full precision.
    fn run_record(&self) -> BTreeMap<String, String> {
        let o = &self.options;
        let entries = [
            ("seed", o.seed.to_string()),
            ("batch", o.batch.to_string()),
            ("terms", format!("{:?}", o.terms)),
            ("pairs", format!("{:?}", o.pairs)),
            ("substeps", o.substeps.to_string()),
            ("cache_size", o.cache_size.to_string()),
            ("learning_rate", o.learning_rate.to_string()),
            ("warmup_steps", o.warmup_steps.to_string()),
            ("total_steps", o.total_steps.to_string()),
            ("decay", format!("{:?}", o.decay)),
            ("beta1", o.beta1.to_string()),
            ("beta2", o.beta2.to_string()),
            ("eps", o.eps.to_string()),
            ("weight_decay", o.weight_decay.to_string()),
            ("clip_norm", o.clip_norm.to_string()),
            ("ema_decay", o.ema_decay.to_string()),
            ("size", format!("{:?}", o.size)),
            ("scheduler", self.student.scheduler.to_json()),
        ];
        // Options that came later are recorded where they are not at their default: runs saved before go on.
        let precision = (o.precision != DType::F32).then(|| ("precision", format!("{:?}", o.precision)));
        entries.into_iter().chain(precision).map(|(k, v)| (k.to_owned(), v)).collect()
    }
}
