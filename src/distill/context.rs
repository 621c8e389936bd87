//! What terms of a loss are built from: the networks, their noise schedule, the student's grid.

use crate::diffusion::{NoiseSchedule, Prediction, Walk};
use crate::error::{Error, Result};
use crate::nn::{Guidance, Model, Predictor};

/// Prefix of the student's parameters in a training graph.
pub const STUDENT: &str = "student.";
/// Prefix of the teacher's parameters in a training graph.
pub const TEACHER: &str = "teacher.";

/// Prefix of the moving averages of the student's parameters, as its set names them.
pub const AVERAGE: &str = "ema.";

/// Prefix of the parameters of the set [`SCALES`](super::parameters::SCALES).
const SCALE_CHANGES: &str = "scales.";

/// A network in a training graph.
#[derive(Clone, Copy)]
pub struct Role<'a> {
    /// The network and where its parameters are, guided or not: the one way in which a training graph evaluates it.
    pub network: Predictor<'a>,
    /// What its output reads as.
    pub prediction: Prediction,
}

impl<'a> Role<'a> {
    /// The network that learns.
    pub fn student(model: &'a Model, prediction: Prediction) -> Self {
        Self { network: Predictor::new(model, STUDENT), prediction }
    }

    /// The same with scales that learn, as their own set of parameters.
    pub fn learning_scales(self, learns: bool) -> Self {
        Self { network: Predictor { scale_changes: learns.then_some(SCALE_CHANGES), ..self.network }, ..self }
    }

    /// The frozen network.
    pub fn teacher(model: &'a Model, prediction: Prediction) -> Self {
        Self { network: Predictor::new(model, TEACHER), prediction }
    }

    /// The same with guided predictions.
    pub fn guided(self, guidance: Option<Guidance>) -> Self {
        Self { network: Predictor { guidance, ..self.network }, ..self }
    }
}

/// The moving average of the student as a teacher.
pub struct SelfTeacher<'a> {
    /// It, and where its parameters are.
    pub network: Predictor<'a>,
    /// Steps that the student is to take: each is as many pairs of the grid as any other.
    pub steps: usize,
}

/// The networks and grids that terms are built from.
pub struct TermContext<'a> {
    /// The network that learns.
    pub student: Role<'a>,
    /// The frozen network.
    pub teacher: Option<Role<'a>>,
    /// The noise schedule of both.
    pub schedule: &'a NoiseSchedule,
    /// The student's grid.
    pub pairs: &'a [(i64, i64)],
    /// How the teacher goes through a step of it.
    pub walk: Walk,
    /// The student's own average, where a term asks for it.
    pub self_teacher: Option<SelfTeacher<'a>>,
}

impl<'a> TermContext<'a> {
    /// The frozen network, where a term needs one.
    pub fn teacher(&self) -> Result<Role<'a>> {
        self.teacher.ok_or_else(|| Error::invalid("the objectives need a teacher"))
    }

    /// The student's own average, where a term asks for it.
    pub fn self_teacher(&self) -> Result<&SelfTeacher<'a>> {
        self.self_teacher.as_ref().ok_or_else(|| Error::internal("no average of the student"))
    }
}

/// What has to be there for a point, a target or a term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Cached teacher trajectories over the student's grid.
    pub cache: bool,
    /// The student's grid, and how the teacher goes through its steps.
    pub grid: bool,
    /// Images.
    pub dataset: bool,
    /// A teacher network, in the loop or for the cache.
    pub teacher: bool,
}

impl Needs {
    /// What either of them needs.
    pub fn or(self, other: Self) -> Self {
        Self { cache: self.cache || other.cache, grid: self.grid || other.grid, dataset: self.dataset || other.dataset, teacher: self.teacher || other.teacher }
    }
}
