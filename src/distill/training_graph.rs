//! The program of a training step: draws, losses, gradients, clipping, AdamW, moving average.

use super::context::{Role, STUDENT, TermContext};
use super::dataset::Dataset;
use super::draws::{DrawInputs, Draws};
use super::loss::Evaluated;
use super::loss_scale::LossScaleInputs;
use super::options::TrainerOptions;
use super::points::{Point, Sources};
use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Result};
use crate::graph::ops::{AdamW, ClipScale, Ema, GlobalNorm};
use crate::graph::{Graph, TensorType, ValueId, gradients};
use crate::memory;
use crate::nn::Model;
use crate::tensor::DType;

/// What lists of the program are called where there is no memory for them.
const WHAT: &str = "training graph";

/// Names of the four states of a parameter.
pub(super) const STATES: [&str; 4] = [STUDENT, "adamw.m.", "adamw.v.", "ema."];

/// Runtime inputs of the update.
#[derive(Clone, Copy)]
pub struct UpdateInputs {
    /// 1 for the first step, i64 [1].
    pub update: ValueId,
    /// Learning rate, f32 [1].
    pub rate: ValueId,
    /// Decay of the moving average, f32 [1].
    pub decay: ValueId,
}

impl UpdateInputs {
    /// Declares them.
    pub fn declare(g: &mut Graph) -> Result<Self> {
        Ok(Self {
            update: g.input("update", TensorType::new(DType::I64, &[1]))?,
            rate: g.input("learning_rate", TensorType::f32(&[1]))?,
            decay: g.input("ema_decay", TensorType::f32(&[1]))?,
        })
    }
}

/// What [`append_update`] added.
pub struct Update {
    /// Global gradient norm before clipping [1].
    pub norm: ValueId,
    /// Diffusers names of the parameters, in the order of `grads`.
    pub parameters: Vec<String>,
    /// Gradients before clipping, of the scaled loss if it is scaled.
    pub grads: Vec<ValueId>,
    /// Inputs that scale the loss; f16 only.
    pub loss_scale: Option<LossScaleInputs>,
}

/// What the host reads: one value, so that a step on a GPU ends with one copy.
pub(super) struct Results {
    /// The loss and its terms, known after the forward pass [1 + terms].
    pub losses: ValueId,
    /// The same, and the gradient norm [2 + terms].
    pub all: ValueId,
}

/// The program, and the values that the host writes and reads.
pub(super) struct TrainingGraph {
    pub graph: Graph,
    pub draws: DrawInputs,
    pub updates: UpdateInputs,
    pub results: Results,
    pub update: Update,
}

impl TrainingGraph {
    /// Of networks and data that fit together.
    pub fn new(student: &Model, teacher: Option<&Model>, dataset: Option<&Dataset>, schedule: &NoiseSchedule, options: &TrainerOptions) -> Result<Self> {
        let context = TermContext {
            student: Role::student(student, student.scheduler.prediction()),
            teacher: teacher.map(|t| Role::teacher(t, t.scheduler.prediction())),
            schedule,
            pairs: &options.pairs,
        };
        let sources = Sources { dataset, cache_size: options.cache_size, size: options.size.map_or_else(|| student.size(), Ok)? };
        let mut graph = Graph::new();
        let g = &mut graph;
        g.begin_segment("forward");
        let (draws, updates) = (DrawInputs::declare(g)?, UpdateInputs::declare(g)?);
        let (loss, terms) = append_losses(g, &context, options, draws, &sources)?;
        let losses = g.concat(&[&[loss], terms.as_slice()].concat())?;
        g.tap(losses);
        let update = append_update(g, loss, student, options, &updates)?;
        let all = g.concat(&[losses, update.norm])?;
        g.tap(all);
        Ok(Self { graph, draws, updates, results: Results { losses, all }, update })
    }
}

/// Appends the losses of all terms: their weighted sum [1], and each without its factor. Terms of one point share its draws and the student's evaluation.
fn append_losses(g: &mut Graph, context: &TermContext, options: &TrainerOptions, inputs: DrawInputs, sources: &Sources) -> Result<(ValueId, Vec<ValueId>)> {
    let mut points: Vec<(Point, Evaluated)> = vec![];
    let mut losses = memory::with_capacity(options.terms.len(), WHAT)?;
    let mut total = None;
    for term in &options.terms {
        let known = points.iter().position(|(point, _)| *point == term.point);
        let at = match known {
            Some(at) => at,
            None => {
                let draws = Draws { inputs, batch: options.batch, stream: points.len() };
                let at = term.point.draw(g, context, &draws, sources)?;
                points.push((term.point, Evaluated::new(g, context, at)?));
                points.len() - 1
            }
        };
        let loss = points[at].1.loss(g, context, term)?;
        losses.push(loss);
        let weighted = g.affine(loss, term.weight, 0.0)?;
        total = Some(match total {
            None => weighted,
            Some(sum) => g.add(sum, weighted)?,
        });
    }
    Ok((total.ok_or_else(|| Error::internal("a loss without terms"))?, losses))
}

/// Appends backward pass, clipping, AdamW and the moving average for the loss [1] of a student whose parameters are states `student.*`.
pub fn append_update(g: &mut Graph, loss: ValueId, student: &Model, options: &TrainerOptions, inputs: &UpdateInputs) -> Result<Update> {
    g.begin_segment("backward");
    let parameters = memory::collect(student.weights.keys().cloned(), WHAT)?;
    let state = |name: &String| g.state(format!("{STUDENT}{name}"), TensorType::f32(student.weights[name].shape()));
    let values = memory::try_collect(parameters.iter().map(state), WHAT)?;
    let loss_scale = (options.precision == DType::F16).then(|| LossScaleInputs::declare(g)).transpose()?;
    let scaled = loss_scale.map_or(Ok(loss), |s| g.mul(loss, s.factor))?;
    let grads = gradients(g, scaled, &values, &[])?;
    g.begin_segment("update");
    let unscaled = |g: &mut Graph, value| loss_scale.map_or(Ok(value), |s| g.mul(value, s.inverse));
    let norm = g.push1(GlobalNorm.into(), &grads)?;
    let norm = unscaled(g, norm)?;
    let scale = g.push1(ClipScale::new(options.clip_norm).into(), &[norm, loss])?;
    let scale = unscaled(g, scale)?;
    let mut operands = memory::with_capacity(AdamW::HEAD + 4 * parameters.len(), WHAT)?;
    operands.extend([inputs.rate, inputs.update, scale]);
    for ((name, p), grad) in parameters.iter().zip(&values).zip(&grads) {
        let ty = g.value(*p).ty.clone();
        operands.extend([*p, g.state(format!("{}{name}", STATES[1]), ty.clone())?, g.state(format!("{}{name}", STATES[2]), ty)?, *grad]);
    }
    let op = AdamW { beta1: options.beta1, beta2: options.beta2, eps: options.eps, weight_decay: options.weight_decay, parameters: parameters.len() };
    let updated = g.push(op.into(), &operands)?;
    let mut operands = memory::with_capacity(Ema::HEAD + 2 * parameters.len(), WHAT)?;
    operands.extend([inputs.decay, scale]);
    for (name, p) in parameters.iter().zip(updated.iter().step_by(3)) {
        let ty = g.value(*p).ty.clone();
        operands.extend([g.state(format!("{}{name}", STATES[3]), ty)?, *p]);
    }
    g.push(Ema { parameters: parameters.len() }.into(), &operands)?;
    Ok(Update { norm, parameters, grads, loss_scale })
}
