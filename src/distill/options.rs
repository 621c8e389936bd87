//! Everything that fixes a training run, beside the networks and the data.

use super::context::Needs;
use super::distribution::DistributionTerm;
use super::features::FeatureTerm;
use super::loss_scale::LossScale;
use super::optimizer::Optimizer;
use super::points::Point;
use super::targets::Target;
use super::targets::self_teacher::joined;
use super::term::Term;
use super::trajectory_set::TrajectorySet;
use crate::diffusion::{Clip, Walk};
use crate::error::{Error, Result};
use crate::memory;
use crate::names::Named;
use crate::nn::{Guidance, Model};
use crate::tensor::DType;
use std::sync::Arc;

/// Everything that fixes a training run, beside the networks and the data.
#[derive(Clone, Debug)]
pub struct TrainerOptions {
    /// Key of every draw.
    pub seed: u64,
    /// Rows of a step, or of each of its parts where gradients are accumulated.
    pub batch: usize,
    /// Parts of a step, whose gradients are averaged before the update: it is one of so many times `batch` rows in the memory of `batch` and of one more
    /// gradient. Features, distributions and linear fits are of each part.
    pub gradient_accumulation_steps: usize,
    /// The loss: a weighted sum.
    pub terms: Vec<Term>,
    /// More of it: blocks of both networks that are to agree.
    pub features: Vec<FeatureTerm>,
    /// More of it: the ends of runs that are to be spread as the teacher's are.
    pub distribution: Option<DistributionTerm>,
    /// The student's grid; needed by trajectory terms.
    pub pairs: Vec<(i64, i64)>,
    /// Steps of a student that is its own teacher, each of which is as many pairs of the grid ([`Target::SelfTeacher`]).
    pub self_teacher_steps: usize,
    /// Order of the teacher's solver on its trajectories, 1 ..= 3 ([`Walk`]).
    pub teacher_order: usize,
    /// Teacher steps inside each pair.
    pub substeps: usize,
    /// Cached trajectories.
    pub cache_size: usize,
    /// Training steps after which all of them are replaced by others, which are computed beside these steps; 0 for never.
    pub cache_refresh: u64,
    /// Trajectories that somebody else has computed: no teacher is needed for them then. Their grid and number must be those of `pairs` and `cache_size`.
    pub trajectories: Option<Arc<TrajectorySet>>,
    /// Trajectories that the cache computes side by side.
    pub cache_batch: usize,
    /// How the student learns.
    pub optimizer: Optimizer,
    /// Learning rate of the scales of a quantised student, as a share of each; 0 leaves them as they were calibrated.
    pub scale_learning_rate: f64,
    /// [H, W]; the student's sample_size when `None`.
    pub size: Option<[usize; 2]>,
    /// Type of the networks' activations and their gradients: f32, f16 or bf16. Parameters, statistics, losses and the update are f32 in any case.
    pub precision: DType,
    /// f16: what the loss is multiplied by at first, a power of two (see [`LossScale`]).
    pub loss_scale: f32,
    /// What is done to the data that the teacher predicts on its trajectories; `None`: what its own scheduler says. The student's steps never clip: neither
    /// in on-policy terms nor in samplers.
    pub trajectory_clip: Option<Clip>,
    /// If the teacher's predictions are guided, on trajectories and where its output is matched; its features are those with the labels.
    pub guidance: Option<Guidance>,
}

/// The most rows of a step.
const MOST_ROWS: usize = 1 << 20;
/// The most teacher steps inside a step of the student that are part of a training step: each is an evaluation in its program.
const MOST_SUBSTEPS: usize = 64;
/// The most steps of a run that is part of a training step: each is an evaluation, another one on the way back, and a gradient.
const MOST_CHAINED: usize = 32;

impl Default for TrainerOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            batch: 64,
            gradient_accumulation_steps: 1,
            terms: vec![],
            features: vec![],
            distribution: None,
            pairs: vec![],
            self_teacher_steps: 1,
            teacher_order: 1,
            substeps: 8,
            cache_size: 8192,
            cache_refresh: 0,
            trajectories: None,
            cache_batch: 128,
            optimizer: Optimizer::default(),
            scale_learning_rate: 0.0,
            size: None,
            precision: DType::F32,
            loss_scale: 65536.0,
            trajectory_clip: None,
            guidance: None,
        }
    }
}

impl TrainerOptions {
    pub(super) fn check(&self) -> Result<()> {
        if self.batch == 0 || self.batch > MOST_ROWS {
            return Err(Error::invalid(format!("batch is {}; it must be in 1..={MOST_ROWS}", self.batch)));
        }
        if self.gradient_accumulation_steps == 0 || self.gradient_accumulation_steps > MOST_ROWS / self.batch {
            let most = MOST_ROWS / self.batch;
            let found = self.gradient_accumulation_steps;
            return Err(Error::invalid(format!("gradient_accumulation_steps is {found}; with a batch of {} it must be in 1..={most}", self.batch)));
        }
        if !matches!(self.precision, DType::F32 | DType::F16 | DType::Bf16) {
            return Err(Error::invalid(format!("precision is {:?}; it must be F32, F16 or Bf16", self.precision)));
        }
        if !LossScale::new(self.loss_scale).is_possible() {
            return Err(Error::invalid(format!("loss_scale is {}; it must be a power of two, 1 or more", self.loss_scale)));
        }
        if self.losses() == 0 {
            return Err(Error::invalid("a loss has one or more terms, found none"));
        }
        self.terms.iter().try_for_each(Term::check)?;
        self.features.iter().try_for_each(FeatureTerm::check)?;
        self.distribution.iter().try_for_each(|distribution| distribution.check(self.batch, self.precision))?;
        if self.substeps > MOST_SUBSTEPS && self.terms.iter().any(|term| term.target == Target::Resolved) {
            return Err(Error::invalid(format!(
                "substeps is {}; a term that the teacher walks for in every training step has {MOST_SUBSTEPS} at most",
                self.substeps
            )));
        }
        if self.pairs.len() > MOST_CHAINED && self.points().any(|point| point.kind().chained) {
            return Err(Error::invalid(format!(
                "the grid has {} steps; a term that goes through the student's whole run in every training step has {MOST_CHAINED} at most",
                self.pairs.len()
            )));
        }
        self.check_self_teacher()?;
        self.walk(None).check()?;
        self.optimizer.check()?;
        if self.learns_scales() {
            if self.optimizer.total_steps == 0 {
                return Err(Error::invalid("total_steps is 0; scales learn until the last tenth of it, whatever the decay"));
            }
            self.optimizer.of_scales(self.scale_learning_rate).check().map_err(|e| e.context("scale_learning_rate"))?;
        }
        let needs = self.needs();
        if needs.grid && (self.pairs.is_empty() || self.substeps == 0) {
            return Err(Error::invalid("trajectory objectives need a grid of step pairs and teacher sub-steps"));
        }
        if needs.cache && self.cache_size == 0 {
            return Err(Error::invalid("cache_size is 0; objectives on the teacher's trajectories need at least one"));
        }
        let rows = (self.pairs.len() + 1).checked_mul(self.cache_size);
        if rows.is_none_or(|r| r > i32::MAX as usize) {
            return Err(Error::invalid(format!(
                "cache_size is {}; a cache of {} states each must have fewer than 2^31 states",
                self.cache_size,
                self.pairs.len() + 1
            )));
        }
        Ok(())
    }

    /// Refuses a grid that is not cut into equal steps, and what is at odds with steps over several of its pairs.
    fn check_self_teacher(&self) -> Result<()> {
        let (pairs, steps) = (self.pairs.len(), self.self_teacher_steps);
        if !self.joins_steps() {
            return if steps == 1 { Ok(()) } else { Err(Error::invalid(format!("self_teacher_steps is {steps}, but no term's target is SelfTeacher"))) };
        }
        if steps == 0 || pairs <= steps || !pairs.is_multiple_of(steps) {
            return Err(Error::invalid(format!(
                "self_teacher_steps is {steps}, the grid has {pairs} steps; each step of the student is as many of the grid's, two or more: give steps or pairs"
            )));
        }
        let short = self.terms.iter().find(|term| matches!(term.target, Target::NextState | Target::Resolved)).map(|term| term.target.name());
        let walks = self.points().find(|point| matches!(point, Point::Own | Point::Chain)).map(Point::name);
        match short.or(walks) {
            None => Ok(()),
            Some(other) => Err(Error::invalid(format!(
                "a SelfTeacher term has the student's steps go over {} of the grid's, {other} over one of them: train with one and then the other",
                pairs / steps
            ))),
        }
    }

    /// Whether the student's steps are several of the grid's.
    pub fn joins_steps(&self) -> bool {
        self.terms.iter().any(|term| term.target == Target::SelfTeacher)
    }

    /// The grid of the student's own steps, and the teacher's steps in each.
    pub fn own_grid(&self) -> Result<(Vec<(i64, i64)>, usize)> {
        if !self.joins_steps() {
            return Ok((memory::copy(&self.pairs, "step pairs")?, self.substeps));
        }
        Ok((joined(&self.pairs, self.self_teacher_steps)?, self.substeps * (self.pairs.len() / self.self_teacher_steps)))
    }

    /// With what follows where they leave it open: no pairs are the student's own, else those of given trajectories; these tell their number, and their sub-steps
    /// where there are 0; without them 0 are as many as are enough.
    pub fn completed(mut self, student: &Model) -> Result<Self> {
        let own = student.student.as_ref().map(|own| own.pairs.as_slice());
        let given = self.trajectories.as_ref().map(|set| set.pairs.as_slice());
        if let (true, Some(pairs)) = (self.pairs.is_empty(), own.or(given)) {
            self.pairs = memory::copy(pairs, "step pairs")?;
        }
        match &self.trajectories {
            Some(set) if self.substeps == 0 => self.substeps = set.substeps,
            _ => self.substeps = Walk::substeps(self.substeps, self.teacher_order, &self.pairs)?,
        }
        self.cache_size = self.trajectories.as_ref().map_or(self.cache_size, |set| set.cache.count);
        Ok(self)
    }

    /// Rows of a step, all of its parts together.
    pub fn rows(&self) -> usize {
        self.batch.saturating_mul(self.gradient_accumulation_steps)
    }

    /// Whether the scales of whole numbers learn.
    pub fn learns_scales(&self) -> bool {
        self.scale_learning_rate != 0.0
    }

    /// What the terms cannot be built without.
    pub fn needs(&self) -> Needs {
        let features = self.features.iter().map(FeatureTerm::needs);
        let distribution = self.distribution.iter().map(DistributionTerm::needs);
        self.terms.iter().map(Term::needs).chain(features).chain(distribution).fold(Needs::default(), Needs::or)
    }

    /// What is done to the data that this teacher predicts on its trajectories.
    pub fn clip_of(&self, teacher: Option<&Model>) -> Clip {
        self.trajectory_clip.unwrap_or_else(|| teacher.map_or(Clip::None, |teacher| teacher.scheduler.clip()))
    }

    /// How this teacher goes through the student's steps.
    pub fn walk(&self, teacher: Option<&Model>) -> Walk {
        Walk { order: self.teacher_order, substeps: self.substeps, clip: self.clip_of(teacher) }
    }

    /// Losses that are added up.
    pub fn losses(&self) -> usize {
        self.terms.len() + self.features.len() + usize::from(self.distribution.is_some())
    }

    /// Where they are evaluated, in order.
    pub(super) fn points(&self) -> impl Iterator<Item = Point> {
        let features = self.features.iter().map(|feature| feature.point);
        self.terms.iter().map(|term| term.point).chain(features).chain(self.distribution.iter().map(|_| DistributionTerm::POINT))
    }

    /// Whether terms share a point, and so its draws and the student's evaluation.
    pub fn shares_points(&self) -> bool {
        self.points().enumerate().any(|(i, point)| self.points().take(i).any(|other| other == point))
    }
}
