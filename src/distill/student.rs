//! Student derivation: a smaller architecture from a teacher's, and the weights that fit.

use super::transfer::transfer;
use crate::cancel::Stop;
use crate::diffusion::Prediction;
use crate::error::Result;
use crate::nn::families::patched;
use crate::nn::{Model, StudentInfo};
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
}

impl Default for StudentOptions {
    fn default() -> Self {
        Self { config_patch: Map::new(), prediction: Prediction::VPrediction, weights: Copied::Nothing, seed: 0, pairs: vec![] }
    }
}

/// An initial student of a teacher; a cancelled error where `stop` is set before it is made.
pub fn derive(teacher: &Model, options: &StudentOptions, stop: Stop) -> Result<Model> {
    let network = patched(teacher.network.as_ref(), &options.config_patch)?;
    let scheduler = teacher.scheduler.for_student(options.prediction)?;
    let mut student = Model::create_until(network, scheduler, options.seed, stop)?;
    match options.weights {
        Copied::Nothing => {}
        Copied::SameShape => copy_same_shape(&mut student, &teacher.widened(stop)?),
        Copied::Channels => transfer(&mut student, &teacher.widened(stop)?, stop)?,
    }
    if !options.pairs.is_empty() {
        student.student = Some(StudentInfo { version: StudentInfo::VERSION, pairs: options.pairs.clone(), teacher_substeps: 0 });
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
