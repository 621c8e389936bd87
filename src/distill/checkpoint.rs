//! Saving and resuming a training run, bit for bit, also in another process.
//!
//! A checkpoint is one safetensors file: weights, the optimizer's states and the moving average of every parameter of every set, and a record of the run in its
//! metadata.
//! Draws depend on (seed, step) alone, so nothing else has a state; the trajectory cache is regenerated from the seed.

use super::features::is_alignment;
use super::loss_scale::LossScale;
use super::overflow::{StateBounds, largest};
use super::parameters::{ParameterSet, State};
use super::record::{
    self, ACCUMULATION, BLOCKS, CACHE_REFRESH, CLIP, DISTRIBUTION, DRAWS, EMA_DECAY, EMA_RELATIVE_WIDTH, FEATURES, GUIDANCE, MOMENTUM, MUON_LEARNING_RATE,
    OPTIMIZER, PER_STEP, PRECISION, QUANTIZATION, SELF_TEACHER_STEPS, SETS, TEACHER_ORDER, TRAJECTORIES, TRAJECTORY_PRECISION,
};
use super::trainer::Trainer;
use crate::error::{Error, Result, Status};
use crate::graph::ops::ClipScale;
use crate::io::json::{self, MAX_TEXT, shorten};
use crate::io::json_writer;
use crate::io::safetensors::{self, TensorFile};
use crate::io::scheduler_config::SchedulerConfig;
use crate::memory;
use crate::names::Named;
use crate::nn::families;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Format of the file; raised when an older reader would misread it.
const VERSION: u32 = 1;
/// Key of the record in the file's metadata.
const KEY: &str = "fewstep.training";
/// No run is longer: at a billion steps a second this takes a hundred days, and f64 still counts in ones.
const MOST_STEPS: u64 = 1 << 53;

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

/// Options that a run may be resumed with other values of, as one bit of a mask; the numbers are those of `FEWSTEP_RESUME_*`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionGroup {
    /// The learning rate and how it moves.
    Schedule = 1,
    /// Rows of a step.
    Batch = 2,
    /// Numbers of the optimizer, clipping and the moving average; not which optimizer it is, which has states of its own.
    Optimizer = 4,
    /// The terms of the loss.
    Loss = 8,
    /// Grid, size and number of the teacher's trajectories, and how they are made.
    Trajectories = 16,
    /// Key of the draws.
    Seed = 32,
    /// What the networks compute in.
    Precision = 64,
}

impl OptionGroup {
    /// Every bit.
    pub const ALL: u32 = 127;

    /// The constant's name in C.
    fn name(self) -> &'static str {
        match self {
            OptionGroup::Schedule => "FEWSTEP_RESUME_SCHEDULE",
            OptionGroup::Batch => "FEWSTEP_RESUME_BATCH",
            OptionGroup::Optimizer => "FEWSTEP_RESUME_OPTIMIZER",
            OptionGroup::Loss => "FEWSTEP_RESUME_LOSS",
            OptionGroup::Trajectories => "FEWSTEP_RESUME_TRAJECTORIES",
            OptionGroup::Seed => "FEWSTEP_RESUME_SEED",
            OptionGroup::Precision => "FEWSTEP_RESUME_PRECISION",
        }
    }

    /// The group of a recorded option, those of a further set of parameters as the student's; `None` for what must always agree, and what this version does
    /// not know.
    pub(super) fn of(option: &str) -> Option<Self> {
        Some(match option.rsplit_once('.').map_or(option, |(_set, option)| option) {
            "learning_rate" | MUON_LEARNING_RATE | "warmup_steps" | "total_steps" | "decay" => OptionGroup::Schedule,
            "batch" | ACCUMULATION => OptionGroup::Batch,
            "beta1" | "beta2" | "eps" | MOMENTUM | "weight_decay" | "clip_norm" | EMA_DECAY | EMA_RELATIVE_WIDTH => OptionGroup::Optimizer,
            "terms" | DRAWS | FEATURES | BLOCKS | DISTRIBUTION | SELF_TEACHER_STEPS => OptionGroup::Loss,
            "pairs" | "substeps" | "cache_size" | "size" | CACHE_REFRESH | CLIP | GUIDANCE | TEACHER_ORDER | TRAJECTORIES => OptionGroup::Trajectories,
            "seed" => OptionGroup::Seed,
            PRECISION | TRAJECTORY_PRECISION => OptionGroup::Precision,
            _ => return None,
        })
    }
}

/// The student's scheduler config; what counts is the noise schedule and the prediction type.
const SCHEDULER: &str = "scheduler";

impl Trainer {
    /// Writes the whole state of training. The file appears whole or not at all; a failure leaves an older one as it was.
    pub fn save(&self, path: &Path) -> Result<()> {
        let states = self.states()?;
        for ((state, ..), (key, tensor)) in self.sets.iter().flat_map(ParameterSet::states).zip(&states) {
            check_state(state, key, tensor).map_err(|e| Error::numeric(format!("{}: not written: {}", path.display(), e.message)))?;
        }
        let record = Record {
            version: VERSION,
            steps_done: self.steps_done,
            student: self.student.network.to_json()?,
            run: self.run_record()?,
            loss_scale: self.loss_scale().map(|_| self.loss_scale),
        };
        let text = json_writer::text_of(&record, MAX_TEXT, "the training record")?;
        let entries = memory::collect(states.iter().map(|(name, tensor)| (name.as_str(), tensor)), "list of tensors")?;
        safetensors::save(path, &entries, &BTreeMap::from([(KEY.to_owned(), text)]))
    }

    /// Continues where `save` stopped, with the steps that are done and all of the optimizer's state. The trainer must have been created with the same student
    /// architecture and numbers, noise schedule and prediction type, and with the same options but for those of `changes`, a mask of [`OptionGroup`]. Nothing
    /// changes on an error.
    pub fn resume(&mut self, path: &Path, changes: u32) -> Result<()> {
        let mut file = TensorFile::open(path)?;
        let shown = path.display();
        let text = file.metadata().get(KEY).ok_or_else(|| Error::corrupt(format!("{shown}: not a training checkpoint (no {KEY} in its metadata)")))?;
        let record: Record = json::parse_record(text, "damaged training record").map_err(|e| e.context(&shown))?;
        let loss_scale = self.check_record(&record, changes).map_err(|e| e.context(&shown))?;
        let aligned = record.run.get(BLOCKS) == self.run_record()?.get(BLOCKS);
        let states = self.read_states(&mut file, aligned)?;
        let bounds = self.bounds_of(&states)?;
        self.write_states(&states)?;
        (self.steps_done, self.loss_scale, self.bounds) = (record.steps_done, loss_scale, bounds);
        Ok(())
    }

    /// The states of a checkpoint, which training can have written. Where it has not aligned the same blocks, what aligns them begins anew.
    fn read_states(&self, file: &mut TensorFile, aligned: bool) -> Result<Vec<(String, Tensor)>> {
        let mut states = vec![];
        for (state, parameter, key) in self.sets.iter().flat_map(ParameterSet::states) {
            // The architecture agrees, so what does not fit it is damage.
            let damage = |e: Error| match e.status {
                Status::NotFound | Status::Shape | Status::Numeric => Error::corrupt(e.message),
                _ => e,
            };
            let tensor = if aligned || !is_alignment(&parameter.name) {
                file.take_f32(&key, parameter.initial.shape()).map_err(damage)?
            } else {
                state.beginning(parameter)?
            };
            check_state(state, &key, &tensor).map_err(|e| e.context(file.file()))?;
            memory::push(&mut states, (key, tensor), "list of tensors")?;
        }
        Ok(states)
    }

    fn bounds_of(&self, states: &[(String, Tensor)]) -> Result<StateBounds> {
        let (mut weights, mut moment) = (0f64, 0f64);
        for ((state, ..), (_, tensor)) in self.sets.iter().flat_map(ParameterSet::states).zip(states) {
            let most = match state {
                State::Weight | State::Average => &mut weights,
                State::FirstMoment => &mut moment,
                // Muon's step is as long whatever its momentum.
                State::SecondMoment | State::Momentum => continue,
            };
            *most = most.max(largest(tensor.as_slice::<f32>()?));
        }
        Ok(StateBounds::new(&self.sets, weights, moment))
    }

    /// Refuses records that do not fit; the loss scale to go on with.
    fn check_record(&self, record: &Record, changes: u32) -> Result<LossScale> {
        if record.version != VERSION {
            return Err(Error::version(format!("training checkpoint of version {}, this library reads {VERSION}", record.version)));
        }
        if record.steps_done > MOST_STEPS {
            return Err(Error::corrupt(format!("the training record says that {} steps are done; no run can be longer than {MOST_STEPS}", record.steps_done)));
        }
        if !self.is_student(&record.student)? {
            return Err(Error::invalid("the checkpoint was made with another student architecture"));
        }
        let own = self.run_record()?;
        // First which sets there are, and which optimizer: what follows from it has less to say.
        for key in [SETS, PER_STEP, OPTIMIZER].into_iter().chain(own.keys().chain(record.run.keys()).map(String::as_str)) {
            self.check_option(key, own.get(key), record.run.get(key), changes)?;
        }
        match record.loss_scale {
            Some(scale) if !scale.is_possible() => {
                Err(Error::corrupt(format!("the training record's loss scale is {}; expected a power of two", scale.factor())))
            }
            Some(scale) => Ok(scale),
            None if self.loss_scale().is_some() && own.get(PRECISION) == record.run.get(PRECISION) => {
                Err(Error::corrupt("the training record has no loss scale"))
            }
            None => Ok(LossScale::new(self.options.loss_scale)),
        }
    }

    /// One option of this run and of the record, each `None` where it is at its default.
    fn check_option(&self, key: &str, own: Option<&String>, saved: Option<&String>, changes: u32) -> Result<()> {
        if own == saved || (key == SCHEDULER && self.trains_alike(saved)?) {
            return Ok(());
        }
        let group = OptionGroup::of(key);
        if group.is_some_and(|group| changes & group as u32 != 0) {
            return Ok(());
        }
        if key == SCHEDULER {
            return Err(Error::invalid("option scheduler: the checkpoint was made with another noise schedule or prediction type"));
        }
        let default = record::default(key).unwrap_or("unknown");
        let [own, saved] = [own, saved].map(|value| shorten(value.map_or(default, String::as_str)));
        let way_out = match group {
            Some(group) => format!("; to resume with another, call fewstep_trainer_resume_with and {}", group.name()),
            None => String::new(),
        };
        Err(Error::invalid(format!("option {key} is {own}; the checkpoint was made with {saved}{way_out}")))
    }

    /// Whether a saved config has this student's architecture, whatever else it says, and whichever version has written it.
    fn is_student(&self, saved: &str) -> Result<bool> {
        let saved = families::parse(saved, "the training record's student").map_err(|e| Error::corrupt(e.message))?;
        Ok(saved.settings() == self.student.network.settings())
    }

    /// Whether a saved scheduler config has this student's noise schedule and prediction type, whatever it says about sampling.
    fn trains_alike(&self, saved: Option<&String>) -> Result<bool> {
        let Some(saved) = saved else { return Ok(false) };
        let damage = |e: Error| Error::corrupt(e.message);
        let saved = SchedulerConfig::parse(saved, "the training record's scheduler").map_err(damage)?;
        let own = &self.student.scheduler;
        Ok(saved.noise_schedule().map_err(damage)? == own.noise_schedule()? && saved.prediction() == own.prediction())
    }

    /// Every option that the continuation depends on, as text.
    pub(super) fn run_record(&self) -> Result<BTreeMap<String, String>> {
        let scheduler = (SCHEDULER.to_string(), self.student.scheduler.to_json()?);
        let given = self.options.trajectories.as_ref().filter(|_| self.options.needs().cache);
        let trajectories = given.map(|set| (TRAJECTORIES.to_string(), set.hash().to_owned()));
        let per_step = self.student.own_steps().map(|_| (PER_STEP.to_string(), self.student.per_step().name().to_owned()));
        let numbers = self.student.numbers_hash()?.map(|hash| (QUANTIZATION.to_string(), hash));
        Ok(record::options(&self.options, &self.sets, self.trajectory_clip)
            .into_iter()
            .chain([scheduler])
            .chain(numbers)
            .chain(per_step)
            .chain(trajectories)
            .collect())
    }
}

/// Refuses values that no step leaves: what is not finite, second moments below 0, and moments of gradients that [`ClipScale`] does not accept (with a
/// factor of two for rounding). A momentum is at most 1 - 2^-24 in f32, and so the sum of gradients 2^24 times as large as one.
fn check_state(state: State, key: &str, tensor: &Tensor) -> Result<()> {
    let norm = ClipScale::LARGEST;
    let (least, most) = match state {
        State::FirstMoment => (-2.0 * norm, 2.0 * norm),
        State::Momentum => (-norm * (1u32 << 25) as f32, norm * (1u32 << 25) as f32),
        State::SecondMoment => (0.0, 2.0 * norm * norm),
        State::Weight | State::Average => (f32::MIN, f32::MAX),
    };
    match tensor.as_slice::<f32>()?.iter().enumerate().find(|(_, v)| !(least..=most).contains(*v)) {
        None => Ok(()),
        Some((i, value)) => Err(Error::corrupt(format!("tensor \"{key}\": element {i} is {value:e}; training leaves {least:e} to {most:e}"))),
    }
}
