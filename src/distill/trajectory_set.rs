//! Trajectories of a teacher that need not be there any more: whoever computed them, a student trains on them as on those of its own trainer.

use super::cache::{CacheBuilder, CacheSpec, HostTeacher, TrajectoryCache};
use super::dataset::Dataset;
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::diffusion::grid;
use crate::error::{Error, Result};
use crate::io::hashing::Sha256;
use crate::io::json::{self, MAX_TEXT};
use crate::io::json_writer;
use crate::io::safetensors::{self, TensorFile};
use crate::io::scheduler_config::SchedulerConfig;
use crate::memory;
use crate::nn::conditions::{Values, describe};
use crate::nn::{Condition, ConditionKind, Model};
use crate::sampling::check_rows;
use crate::tensor::{DType, Tensor};
use half::f16;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Format of the file; raised when an older reader would misread it.
const VERSION: u32 = 1;
/// Key of the record in the file's metadata.
const KEY: &str = "fewstep.trajectories";
/// Names of the tensors.
const STATES: &str = "states";
const CONDITION: &str = "condition.";
/// What lists are called where there is no memory for them.
const WHAT: &str = "trajectories";

/// States at the ends of a student's steps, with all that says which student they are for.
#[derive(Clone, Debug)]
pub struct TrajectorySet {
    /// The states and what belongs to each trajectory.
    pub cache: TrajectoryCache,
    /// What that is, in the order of the cache.
    pub conditions: Vec<Condition>,
    /// The student's grid.
    pub pairs: Vec<(i64, i64)>,
    /// Steps that the teacher has taken inside each pair.
    pub substeps: usize,
    /// Whose noise schedule it is.
    pub scheduler: SchedulerConfig,
    /// Of everything in the cache, once somebody has asked.
    pub(super) hash: OnceLock<String>,
}

/// Rows that the conditions of trajectories are drawn from: none for labels alone, else the dataset's, which are those of images of `size` [H, W].
pub fn rows_for(conditions: &[Condition], dataset: Option<&Dataset>, size: [usize; 2]) -> Result<Vec<Arc<Tensor>>> {
    let Some(other) = conditions.iter().find(|c| !matches!(c.kind, ConditionKind::Labels { .. })) else { return Ok(vec![]) };
    let missing = || Error::invalid(format!("the teacher's trajectories need {}: give a dataset with them", other.kind.name()));
    let rows = dataset.ok_or_else(missing)?.conditions_of(conditions)?;
    check_rows(conditions, &rows, size)?;
    Ok(rows)
}

/// What a file says beside its tensors.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    pairs: Vec<(i64, i64)>,
    substeps: usize,
    /// Names of the conditions, in their order.
    conditions: Vec<String>,
    /// As scheduler_config.json.
    scheduler: String,
}

impl TrajectorySet {
    /// Those of a teacher of the host's, from the noises and labels of a seed, for a student whose schedule it has and which takes the same conditions;
    /// `progress(done, total)` returning false cancels, and so does `stop`.
    pub fn compute(
        backend: &dyn Backend,
        student: &Model,
        teacher: Box<dyn HostTeacher + '_>,
        (spec, seed): (CacheSpec, u64),
        progress: &mut dyn FnMut(usize, usize) -> bool,
        stop: Stop,
    ) -> Result<Self> {
        let (roles, scheduler) = (student.roles()?, student.scheduler.clone());
        grid::check(scheduler.num_train_timesteps, &spec.pairs)?;
        if spec.count == 0 {
            return Err(Error::invalid("count is 0; there must be at least one trajectory"));
        }
        let (pairs, conditions) = (memory::copy(&spec.pairs, WHAT)?, memory::collect(roles.conditions.iter().cloned(), WHAT)?);
        let substeps = spec.walk.substeps;
        let mut builder = CacheBuilder::hosted(backend, teacher, roles, spec, stop)?;
        builder.begin(seed, stop)?;
        Ok(Self { cache: builder.finish(progress, stop)?, conditions, pairs, substeps, scheduler, hash: OnceLock::new() })
    }

    /// [H, W, C] of a state.
    pub fn image(&self) -> [usize; 3] {
        let shape = self.cache.states.shape();
        [shape[1], shape[2], shape[3]]
    }

    /// One safetensors file, which appears whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let names = memory::collect(self.conditions.iter().map(|c| c.name.clone()), WHAT)?;
        let scheduler = self.scheduler.to_json()?;
        let record = Record { version: VERSION, pairs: memory::copy(&self.pairs, WHAT)?, substeps: self.substeps, conditions: names, scheduler };
        let text = json_writer::text_of(&record, MAX_TEXT, "the record of trajectories")?;
        let keys = memory::collect(record.conditions.iter().map(|name| format!("{CONDITION}{name}")), WHAT)?;
        let conditions = keys.iter().map(String::as_str).zip(self.cache.conditions.iter().map(Arc::as_ref));
        let entries = memory::collect(std::iter::once((STATES, self.cache.states.as_ref())).chain(conditions), WHAT)?;
        safetensors::save(path, &entries, &BTreeMap::from([(KEY.to_owned(), text)]))
    }

    /// Reads such a file for a student: everything that it does not fit, or that no teacher leaves, is an error.
    pub fn open(path: &Path, student: &Model) -> Result<Self> {
        Self::of_file(TensorFile::open(path)?, &path.display(), student)
    }

    /// The same of the bytes of a file.
    pub fn from_bytes(bytes: &[u8], student: &Model) -> Result<Self> {
        Self::of_file(TensorFile::from_bytes(bytes, "buffer")?, &"buffer", student)
    }

    fn of_file(mut file: TensorFile, shown: &dyn Display, student: &Model) -> Result<Self> {
        let text = file.metadata().get(KEY).ok_or_else(|| Error::corrupt(format!("{shown}: no trajectories (no {KEY} in its metadata)")))?;
        let record: Record = json::parse_record(text, "damaged record of trajectories").map_err(|e| e.context(shown))?;
        if record.version != VERSION {
            return Err(Error::version(format!("{shown}: trajectories of version {}, this library reads {VERSION}", record.version)));
        }
        let damage = |e: Error| Error::corrupt(format!("{shown}: {}", e.message));
        let scheduler = SchedulerConfig::parse(&record.scheduler, "the scheduler of the trajectories").map_err(damage)?;
        grid::check(scheduler.num_train_timesteps, &record.pairs).map_err(damage)?;
        let roles = student.roles()?;
        let known = roles.conditions.iter().map(|c| c.name.as_str());
        if !record.conditions.iter().map(String::as_str).eq(known) {
            let (found, expected) = (record.conditions.join(", "), describe(&roles.conditions));
            return Err(Error::shape(format!("{shown}: the trajectories' conditions are [{found}], the student takes {expected}")));
        }
        let keys = memory::collect(record.conditions.iter().map(|name| format!("{CONDITION}{name}")), WHAT)?;
        let states = Arc::new(file.take_stored(STATES)?);
        let conditions = memory::try_collect(keys.iter().map(|key| file.take_stored(key).map(Arc::new)), WHAT)?;
        let count = states.shape().first().map_or(0, |rows| rows / (record.pairs.len() + 1));
        let cache = TrajectoryCache { states, conditions, count, warning: None };
        let this = Self { cache, conditions: roles.conditions, pairs: record.pairs, substeps: record.substeps, scheduler, hash: OnceLock::new() };
        this.check().map_err(damage)?;
        Ok(this)
    }

    /// Refuses what does not belong together: shapes, labels that are none, numbers that are not finite.
    pub fn check(&self) -> Result<()> {
        let (states, count) = (&self.cache.states, self.cache.count);
        let rows = self.pairs.len() + 1;
        let &[found, h, w, c] = states.shape() else { return Err(Error::shape(format!("states are [rows, H, W, C], found {:?}", states.shape()))) };
        if states.dtype() != DType::F16 || count == 0 || found != rows * count || h * w * c == 0 {
            return Err(Error::shape(format!(
                "states of {rows} times as many trajectories are f16 [{rows} M, H, W, C], found {:?} {:?}",
                states.dtype(),
                states.shape()
            )));
        }
        if let Some(i) = states.as_slice::<f16>()?.iter().position(|v| !v.is_finite()) {
            return Err(Error::numeric(format!("state {} of trajectory {} is not finite", i / (h * w * c) / count, i / (h * w * c) % count)));
        }
        for (condition, rows) in self.conditions.iter().zip(&self.cache.conditions) {
            let expected = condition.kind.rows(count, [h, w]);
            if rows.dtype() != expected.dtype || rows.shape() != expected.shape {
                let (name, found) = (condition.kind.name(), rows.shape());
                return Err(Error::shape(format!(
                    "{name} of {count} trajectories: expected {:?} {:?}, found {:?} {found:?}",
                    expected.dtype,
                    expected.shape,
                    rows.dtype()
                )));
            }
            condition.kind.check(Values::of(rows)?, count, [h, w])?;
        }
        Ok(())
    }

    /// What tells them from others, for checkpoints.
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            let mut hash = Sha256::default();
            std::iter::once(&self.cache.states).chain(&self.cache.conditions).for_each(|tensor| hash.update(tensor.bytes()));
            hash.digest()
        })
    }
}
