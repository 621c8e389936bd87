//! Student derivation: a smaller architecture from a teacher's, and the weights that fit.

use super::transfer::transfer;
use crate::cancel::Stop;
use crate::diffusion::Prediction;
use crate::error::{Error, Result};
use crate::nn::families::patched;
use crate::nn::{Model, PerStep};
use serde_json::{Map, Value};

/// Which of the teacher's weights a student begins with. The others are random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copied {
    /// None.
    #[default]
    Nothing,
    /// Tensors of the same role and shape.
    SameShape,
    /// Tensors of the same role, of wider ones the channels that matter most.
    Channels,
}

/// How a student differs from its teacher.
#[derive(Clone, Debug)]
pub struct StudentOptions {
    /// Keys of the network's config.json that differ from the teacher's, with their values.
    pub config_patch: Map<String, Value>,
    /// What the student predicts; v by default, whose errors a few-step sampler never amplifies.
    pub prediction: Prediction,
    /// What its weights begin as.
    pub weights: Copied,
    /// Seed of the random weights.
    pub seed: u64,
    /// The sampler's grid; empty for none yet.
    pub pairs: Vec<(i64, i64)>,
    /// What each step of that grid has of its own.
    pub per_step: PerStep,
}

impl Default for StudentOptions {
    fn default() -> Self {
        Self { config_patch: Map::new(), prediction: Prediction::VPrediction, weights: Copied::Nothing, seed: 0, pairs: vec![], per_step: PerStep::None }
    }
}

/// An initial student of a teacher; a cancelled error where `stop` is set before it is made.
pub fn derive(teacher: &Model, options: &StudentOptions, stop: Stop) -> Result<Model> {
    if options.pairs.is_empty() && !options.per_step.is_none() {
        return Err(Error::invalid("parameters of each step need a grid: give the student's pairs or steps"));
    }
    if options.weights != Copied::Nothing && teacher.own_steps().is_some() {
        return Err(Error::unsupported(
            "copy_weights is set, but each step of the teacher's grid has parameters of its own: there are no weights to copy for all steps",
        ));
    }
    let network = patched(teacher.network.as_ref(), &options.config_patch)?;
    let scheduler = teacher.scheduler.for_student(options.prediction)?;
    let mut student = Model::create_until(network, scheduler, options.seed, stop)?;
    match options.weights {
        Copied::Nothing => {}
        Copied::SameShape => copy_same_shape(&mut student, &teacher.widened(stop)?),
        Copied::Channels => transfer(&mut student, &teacher.widened(stop)?, stop)?,
    }
    if !options.pairs.is_empty() {
        student = student.for_grid(options.pairs.clone(), options.per_step)?;
    }
    Ok(student)
}

/// Copies tensors of the same role and shape from a teacher in f32: they are made to be trained.
fn copy_same_shape(student: &mut Model, teacher: &Model) {
    let network = student.network.clone();
    for (name, tensor) in &mut student.weights {
        let role = network.role(name, teacher.network.as_ref());
        if let Some(source) = role.and_then(|role| teacher.weights.get(&role)).filter(|w| w.shape() == tensor.shape()) {
            *tensor = source.clone();
        }
    }
}
