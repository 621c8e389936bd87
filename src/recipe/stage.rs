//! What recipes say, in their own words: a list of stages, each of which is what one trainer is made with.

use crate::diffusion::{Clip, Prediction, Weight, trailing_pairs};
use crate::distill::distribution::DistributionTerm;
use crate::distill::{Average, FeatureTerm, LearningRate, NormKind, Objective, Optimizer, OptimizerKind, Term, TrainerOptions, TrajectorySet};
use crate::error::{Error, Result, Status};
use crate::io::json::{describe, parse, record, shorten};
use crate::io::json_writer;
use crate::memory;
use crate::nn::{Guidance, Model};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The most stages, and the most terms and features of one: more than anybody means.
const MOST: usize = 64;

/// Stages of training, one after the other: each goes on with the student that the one before it has made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// In their order.
    pub stages: Vec<Stage>,
}

/// One stage. What is not said is as a trainer has it by default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stage {
    /// What it is called in logs and pictures.
    pub name: String,
    /// Training steps.
    pub steps: u64,
    /// Sampler steps of the student, evenly spread; 0 for the grid that the student has.
    pub grid: u32,
    /// Whom the student learns from: `given`, or `previous`, the student of the stage before, as progressive distillation does.
    pub teacher: String,
    /// The loss.
    #[serde(skip_deserializing)]
    pub terms: Vec<StageTerm>,
    /// More of it: blocks of both networks.
    #[serde(skip_deserializing)]
    pub features: Vec<StageFeature>,
    /// More of it: the ends of runs as distributions; null for no such term.
    pub distribution: Option<StageDistribution>,
    /// Steps that a student takes which is its own teacher (`self_teacher`).
    pub self_teacher_steps: usize,
    /// Held-out errors without a new best after which the stage ends, with its best student; 0 for never.
    pub patience: u32,
    /// Images of a step, or of each of its parts.
    pub batch: usize,
    /// Parts of a step.
    pub gradient_accumulation_steps: usize,
    /// Key of every draw.
    pub seed: u64,
    /// `adamw` or `muon`.
    pub optimizer: String,
    /// Of what AdamW updates.
    pub learning_rate: f64,
    /// Of what Muon updates.
    pub muon_learning_rate: f64,
    /// Muon's.
    pub momentum: f64,
    /// AdamW's.
    pub beta1: f64,
    /// AdamW's.
    pub beta2: f64,
    /// AdamW's.
    pub eps: f64,
    /// Decoupled.
    pub weight_decay: f64,
    /// Largest norm of the gradient; null for any.
    pub clip_norm: Option<f64>,
    /// Steps of it.
    pub warmup_steps: u64,
    /// `constant`, `cosine` or `stable`.
    pub decay: String,
    /// Of the moving average of the weights, which is what a stage makes, if it is exponential; null for one by `ema_relative_width`.
    pub ema_decay: Option<f64>,
    /// Deviation of the moving average's profile, in lengths of the stage.
    pub ema_relative_width: f64,
    /// `f32`, `f16` or `bf16`.
    pub precision: String,
    /// Solver of the teacher.
    pub teacher_order: usize,
    /// Teacher steps inside each step of the student; 0 for enough.
    pub substeps: usize,
    /// Trajectories.
    pub cache_size: usize,
    /// Trajectories side by side.
    pub cache_batch: usize,
    /// Steps after which they are replaced.
    pub cache_refresh: u64,
    /// `from_teacher`, `none`, `range` or `dynamic`.
    pub trajectory_clip: String,
    /// Of `range`.
    pub clip_range: f64,
    /// Of `dynamic`.
    pub threshold_ratio: f64,
    /// Of `dynamic`.
    pub threshold_max: f64,
    /// Of the teacher; 1 for none.
    pub guidance_scale: f64,
    /// The class that the teacher reads as none.
    pub null_label: i32,
    /// Of the scales of a quantised student.
    pub scale_learning_rate: f64,
}

/// A term of a loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageTerm {
    /// A word of [`OBJECTIVES`].
    pub objective: String,
    /// Factor.
    #[serde(default = "one")]
    pub weight: f32,
    /// `l1`, `l2` or `huber`.
    #[serde(default = "l2")]
    pub norm: String,
    /// Of `huber`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub huber_delta: Option<f32>,
    /// `const`, `snr`, `trunc_snr`, `v` or `state`. By default `state` for the objectives on trajectories; for the others the error of what the student predicts:
    /// any other weight makes its loss infinite at one end of the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_weight: Option<String>,
    /// Of `output`: steps of a warm-up in which the best scale of its prediction is granted; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub linear_fit_steps: u32,
}

/// A term of features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageFeature {
    /// Where both networks are evaluated: a word of [`OBJECTIVES`].
    pub objective: String,
    /// Path of the student's block.
    pub student: String,
    /// Path of the teacher's; the same where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// `l1` or `l2`.
    #[serde(default = "l2")]
    pub norm: String,
    /// Factor.
    #[serde(default = "one")]
    pub weight: f32,
    /// Steps over which the factor falls to 0; 0 for one that stays.
    #[serde(default)]
    pub decay_steps: u64,
}

/// A term of distributions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageDistribution {
    /// Random networks whose features are compared.
    pub nets: usize,
    /// Factor.
    pub weight: f32,
}

impl Default for StageDistribution {
    fn default() -> Self {
        let DistributionTerm { nets, weight } = DistributionTerm::default();
        Self { nets, weight }
    }
}

fn one() -> f32 {
    1.0
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn l2() -> String {
    "l2".to_owned()
}

/// The objectives' words.
pub const OBJECTIVES: [(&str, Objective); 8] = [
    ("output", Objective::Output),
    ("teacher_forced", Objective::TeacherForced),
    ("on_policy", Objective::OnPolicy),
    ("denoise", Objective::Denoise),
    ("resolve", Objective::Resolve),
    ("progressive", Objective::Progressive),
    ("rollout", Objective::Rollout),
    ("self_teacher", Objective::SelfTeacher),
];
const OPTIMIZERS: [(&str, OptimizerKind); 2] = [("adamw", OptimizerKind::AdamW), ("muon", OptimizerKind::Muon)];
const DECAYS: [(&str, LearningRate); 3] = [("constant", LearningRate::Constant), ("cosine", LearningRate::Cosine), ("stable", LearningRate::Stable)];
const PRECISIONS: [(&str, DType); 3] = [("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::Bf16)];
/// Whether the teacher is the student of the stage before.
const TEACHERS: [(&str, bool); 2] = [("given", false), ("previous", true)];

/// What a word of a field stands for.
fn choice<T: Copy>(field: &str, word: &str, known: &[(&str, T)]) -> Result<T> {
    known.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        Error::invalid(format!("{field} is \"{}\"; it must be {}", shorten(word), names.join(", ")))
    })
}

impl Default for Stage {
    fn default() -> Self {
        let o = TrainerOptions::default();
        Self {
            name: String::new(),
            steps: 0,
            grid: 0,
            teacher: TEACHERS[0].0.to_owned(),
            terms: vec![],
            features: vec![],
            distribution: None,
            self_teacher_steps: o.self_teacher_steps,
            patience: 0,
            batch: o.batch,
            gradient_accumulation_steps: o.gradient_accumulation_steps,
            seed: o.seed,
            optimizer: OPTIMIZERS[0].0.to_owned(),
            learning_rate: o.optimizer.learning_rate,
            muon_learning_rate: o.optimizer.muon_learning_rate,
            momentum: o.optimizer.momentum,
            beta1: o.optimizer.beta1,
            beta2: o.optimizer.beta2,
            eps: o.optimizer.eps,
            weight_decay: o.optimizer.weight_decay,
            clip_norm: Some(o.optimizer.clip_norm),
            warmup_steps: o.optimizer.warmup_steps,
            decay: DECAYS[1].0.to_owned(),
            ema_decay: None,
            ema_relative_width: Optimizer::WIDTH,
            precision: PRECISIONS[0].0.to_owned(),
            teacher_order: o.teacher_order,
            substeps: 0,
            cache_size: o.cache_size,
            cache_batch: o.cache_batch,
            cache_refresh: o.cache_refresh,
            trajectory_clip: "from_teacher".to_owned(),
            clip_range: 1.0,
            threshold_ratio: 0.995,
            threshold_max: 1.0,
            guidance_scale: 1.0,
            null_label: -1,
            scale_learning_rate: o.scale_learning_rate,
        }
    }
}

impl StageTerm {
    fn term(&self, prediction: Prediction) -> Result<Term> {
        let objective = choice("objective", &self.objective, &OBJECTIVES)?;
        let norm = match (self.norm.as_str(), self.huber_delta) {
            ("huber", Some(delta)) if delta > 0.0 && delta.is_finite() => NormKind::Huber(delta),
            ("huber", delta) => return Err(Error::invalid(format!("huber_delta is {delta:?}; norm huber needs one above 0"))),
            (_, Some(_)) => return Err(Error::invalid("huber_delta belongs to norm huber")),
            (word, None) => choice("norm", word, &[("l1", NormKind::L1), ("l2", NormKind::L2)])?,
        };
        let own = match prediction {
            _ if objective.pair().0.kind().on_grid => Weight::State,
            Prediction::Epsilon => Weight::Snr,
            Prediction::Sample => Weight::Const,
            Prediction::VPrediction => Weight::V,
        };
        let step_weight = self.step_weight.as_deref().map_or(Ok(own), Weight::from_name)?;
        let term = Term { weight: self.weight, linear_fit_steps: self.linear_fit_steps, ..objective.term(step_weight, norm) };
        term.check()?;
        Ok(term)
    }
}

impl StageFeature {
    fn term(&self) -> Result<FeatureTerm> {
        let (point, _) = choice("objective", &self.objective, &OBJECTIVES)?.pair();
        let norm = choice("norm", &self.norm, &[("l1", NormKind::L1), ("l2", NormKind::L2)])?;
        let teacher = self.teacher.as_ref().unwrap_or(&self.student).clone();
        let term = FeatureTerm { point, student: self.student.clone(), teacher, norm, weight: self.weight, decay_steps: self.decay_steps };
        term.check()?;
        Ok(term)
    }
}

impl Stage {
    /// Whether its teacher is the student of the stage before.
    pub fn learns_from_previous(&self) -> Result<bool> {
        choice("teacher", &self.teacher, &TEACHERS)
    }

    fn clip(&self) -> Result<Option<Clip>> {
        let dynamic = Clip::Dynamic { ratio: self.threshold_ratio, max: self.threshold_max };
        let known = [("from_teacher", None), ("none", Some(Clip::None)), ("range", Some(Clip::Range(self.clip_range))), ("dynamic", Some(dynamic))];
        let clip = choice("trajectory_clip", &self.trajectory_clip, &known)?;
        clip.unwrap_or_default().check()?;
        Ok(clip)
    }

    /// Images of a step, all of its parts together.
    pub fn rows(&self) -> usize {
        self.batch.saturating_mul(self.gradient_accumulation_steps)
    }

    fn optimizer(&self) -> Result<Optimizer> {
        Ok(Optimizer {
            kind: choice("optimizer", &self.optimizer, &OPTIMIZERS)?,
            learning_rate: self.learning_rate,
            muon_learning_rate: self.muon_learning_rate,
            momentum: self.momentum,
            warmup_steps: self.warmup_steps,
            total_steps: self.steps,
            decay: choice("decay", &self.decay, &DECAYS)?,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            clip_norm: self.clip_norm.unwrap_or(f64::INFINITY),
            average: self.ema_decay.filter(|decay| decay.is_nan() || *decay >= 0.0).map_or(Average::Power(self.ema_relative_width), Average::Exponential),
            ..Optimizer::default()
        })
    }

    /// The losses of a student that predicts this.
    fn losses(&self, prediction: Prediction) -> Result<(Vec<Term>, Vec<FeatureTerm>)> {
        let at = |list: &str, i: usize, e: Error| e.context(format!("{list}[{i}]"));
        let terms = self.terms.iter().enumerate().map(|(i, t)| t.term(prediction).map_err(|e| at("terms", i, e)));
        let features = self.features.iter().enumerate().map(|(i, f)| f.term().map_err(|e| at("features", i, e)));
        Ok((memory::try_collect(terms, "terms")?, memory::try_collect(features, "features")?))
    }

    /// What its losses are called in logs: objectives, then the student's blocks; a number is added to those that are there twice.
    pub fn loss_names(&self) -> Vec<String> {
        let mut names: Vec<String> = vec![];
        let distribution = self.distribution.iter().map(|_| "distribution");
        for name in self.terms.iter().map(|t| t.objective.as_str()).chain(self.features.iter().map(|f| f.student.as_str())).chain(distribution) {
            let same = names.iter().filter(|other| other.split('#').next() == Some(name)).count();
            names.push(if same == 0 { name.to_owned() } else { format!("{name}#{}", same + 1) });
        }
        names
    }

    /// Everything about it that can be wrong by itself.
    fn check(&self, first: bool) -> Result<()> {
        if self.steps == 0 {
            return Err(Error::invalid("steps is 0; a stage has one or more"));
        }
        if self.terms.len() + self.features.len() > MOST {
            return Err(Error::invalid(format!("{} terms and {} features; at most {MOST} together", self.terms.len(), self.features.len())));
        }
        if self.learns_from_previous()? && first {
            return Err(Error::invalid("teacher is \"previous\", but there is no stage before the first"));
        }
        self.losses(Prediction::VPrediction)?;
        self.clip()?;
        choice("precision", &self.precision, &PRECISIONS)?;
        self.optimizer().map(drop)
    }

    /// The options of its trainer.
    pub fn options(&self, student: &Model, trajectories: Option<&Arc<TrajectorySet>>) -> Result<TrainerOptions> {
        let (terms, features) = self.losses(student.scheduler.prediction())?;
        TrainerOptions {
            seed: self.seed,
            batch: self.batch,
            gradient_accumulation_steps: self.gradient_accumulation_steps,
            terms,
            features,
            distribution: self.distribution.as_ref().map(|d| DistributionTerm { nets: d.nets, weight: d.weight }),
            self_teacher_steps: self.self_teacher_steps,
            pairs: if self.grid == 0 { vec![] } else { trailing_pairs(student.scheduler.num_train_timesteps, self.grid as usize)? },
            teacher_order: self.teacher_order,
            substeps: self.substeps,
            cache_size: self.cache_size,
            cache_batch: self.cache_batch,
            cache_refresh: self.cache_refresh,
            trajectories: trajectories.cloned(),
            optimizer: self.optimizer()?,
            scale_learning_rate: self.scale_learning_rate,
            precision: choice("precision", &self.precision, &PRECISIONS)?,
            trajectory_clip: self.clip()?,
            guidance: Guidance::of(self.guidance_scale, self.null_label),
            ..TrainerOptions::default()
        }
        .completed(student)
    }
}

fn object(value: Value, at: &str) -> Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(Error::invalid(format!("{at}: expected an object, found {}", describe(&other)))),
    }
}

/// A list of a record, which may be absent.
fn take_list<T>(map: &mut Map<String, Value>, key: &str, at: &str, mut read: impl FnMut(Value, &str) -> Result<T>) -> Result<Vec<T>> {
    let items = match map.remove(key) {
        None => return Ok(vec![]),
        Some(Value::Array(items)) if items.len() <= MOST => items,
        Some(Value::Array(items)) => return Err(Error::invalid(format!("{at}: {key} has {} items; at most {MOST}", items.len()))),
        Some(other) => return Err(Error::invalid(format!("{at}: {key}: expected a list, found {}", describe(&other)))),
    };
    memory::try_collect(items.into_iter().enumerate().map(|(i, item)| read(item, &format!("{at}: {key}[{i}]"))), "a recipe")
}

impl Recipe {
    /// From its text.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |e: Error| if e.status == Status::CorruptFile { Error::invalid(e.message) } else { e };
        let recipe = Self::read(text).map_err(invalid)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Lists are read item by item, each within its limit: a library's own would ask for their memory infallibly.
    fn read(text: &str) -> Result<Self> {
        let mut map = object(parse(text, "recipe")?, "recipe")?;
        let stages = take_list(&mut map, "stages", "recipe", |value, at| {
            let mut map = object(value, at)?;
            let terms = take_list(&mut map, "terms", at, record)?;
            let features = take_list(&mut map, "features", at, record)?;
            Ok(Stage { terms, features, ..record(Value::Object(map), at)? })
        })?;
        match map.keys().next() {
            Some(key) => Err(Error::invalid(format!("recipe: unknown field \"{}\"; it has stages and nothing else", shorten(key)))),
            None => Ok(Self { stages }),
        }
    }

    /// Everything about it that can be wrong by itself.
    pub fn check(&self) -> Result<()> {
        if self.stages.is_empty() || self.stages.len() > MOST {
            return Err(Error::invalid(format!("recipe: there are {} stages; it has 1 to {MOST}", self.stages.len())));
        }
        let mut stages = self.stages.iter().enumerate();
        stages.try_for_each(|(i, stage)| stage.check(i == 0).map_err(|e| e.context(format!("recipe: stages[{i}]"))))
    }

    /// Its text, with everything that it leaves to defaults.
    pub fn text(&self) -> Result<String> {
        let value = serde_json::to_value(self).map_err(|e| Error::internal(format!("a recipe's text: {e}")))?;
        let Value::Object(map) = value else { return Err(Error::internal("a recipe is an object")) };
        json_writer::to_text(&map, &Map::new(), "a recipe")
    }

    /// Steps of all stages before one.
    pub fn steps_before(&self, stage: usize) -> u64 {
        self.stages[..stage].iter().map(|s| s.steps).fold(0, u64::saturating_add)
    }
}
