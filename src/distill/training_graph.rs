//! The program of a training step: draws, losses, gradients, clipping, AdamW, moving average.

use super::dataset::Dataset;
use super::loss_scale::LossScaleInputs;
use super::objective::{DataBatch, Objective, STUDENT, TEACHER, Term, TermContext, TrajectoryBatch};
use super::options::TrainerOptions;
use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Result};
use crate::graph::ops::{AdamW, ClipScale, Concat, Ema, GlobalNorm, IntAffine, RandomInt, RandomNormal};
use crate::graph::{Graph, TensorType, ValueId, gradients};
use crate::memory;
use crate::nn::{Model, Predictor};
use crate::random::Purpose;
use crate::tensor::{DType, Tensor};

/// What lists of the program are called where there is no memory for them.
const WHAT: &str = "training graph";

/// Before the names of what the trajectory cache holds.
pub(super) const CACHE: &str = "cache.";
/// Before the names of what a dataset holds.
pub(super) const DATASET: &str = "dataset.";

/// Names of the four states of a parameter.
pub(super) const STATES: [&str; 4] = [STUDENT, "adamw.m.", "adamw.v.", "ema."];

/// Runtime inputs of the draws.
#[derive(Clone, Copy)]
pub(super) struct DrawInputs {
    /// Key, i64 [1].
    pub seed: ValueId,
    /// Steps done so far, i64 [1].
    pub step: ValueId,
}

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
        Builder::new(student, teacher, dataset, schedule, options)?.build()
    }
}

/// Writes the program.
struct Builder<'a> {
    graph: Graph,
    context: TermContext<'a>,
    options: &'a TrainerOptions,
    dataset: Option<&'a Dataset>,
    size: [usize; 2],
}

impl<'a> Builder<'a> {
    fn new(
        student: &'a Model,
        teacher: Option<&'a Model>,
        dataset: Option<&'a Dataset>,
        schedule: &'a NoiseSchedule,
        options: &'a TrainerOptions,
    ) -> Result<Self> {
        let teacher = teacher.map(|t| (Predictor { guidance: options.guidance, ..Predictor::new(t, TEACHER) }, t.scheduler.prediction()));
        let context = TermContext { student, student_prediction: student.scheduler.prediction(), teacher, schedule, pairs: &options.pairs };
        let size = options.size.map_or_else(|| student.size(), Ok)?;
        Ok(Self { graph: Graph::new(), context, options, dataset, size })
    }

    fn build(mut self) -> Result<TrainingGraph> {
        let g = &mut self.graph;
        g.begin_segment("forward");
        let i64s = TensorType::new(DType::I64, &[1]);
        let draws = DrawInputs { seed: g.input("seed", i64s.clone())?, step: g.input("step", i64s)? };
        let updates = UpdateInputs::declare(g)?;
        let mut terms = vec![];
        let mut total = None;
        for (i, term) in self.options.terms.iter().enumerate() {
            let loss = if term.objective.needs_cache() { self.trajectory_term(i, term, &draws)? } else { self.data_term(i, term, &draws)? };
            terms.push(loss);
            let weighted = self.graph.affine(loss, term.weight, 0.0)?;
            total = Some(match total {
                None => weighted,
                Some(sum) => self.graph.add(sum, weighted)?,
            });
        }
        let loss = total.ok_or_else(|| Error::internal("a loss without terms"))?;
        let losses = self.graph.push1(Concat.into(), &[&[loss], terms.as_slice()].concat())?;
        self.graph.tap(losses);
        let update = append_update(&mut self.graph, loss, self.context.student, self.options, &updates)?;
        let all = self.graph.push1(Concat.into(), &[losses, update.norm])?;
        self.graph.tap(all);
        Ok(TrainingGraph { graph: self.graph, draws, updates, results: Results { losses, all }, update })
    }

    fn draw(&mut self, purpose: Purpose, bound: usize, term: usize, inputs: &DrawInputs) -> Result<ValueId> {
        let bound = u32::try_from(bound).map_err(|_| Error::invalid(format!("{bound} rows are too many to draw from")))?;
        let op = RandomInt { purpose, bound, count: self.options.batch, stream: term };
        self.graph.push1(op.into(), &[inputs.seed, inputs.step])
    }

    fn trajectory_term(&mut self, i: usize, term: &Term, inputs: &DrawInputs) -> Result<ValueId> {
        let (n, m) = (self.options.pairs.len(), self.options.cache_size);
        let [h, w] = self.size;
        let ty = TensorType::new(DType::F16, &[(n + 1) * m, h, w, self.context.student.roles()?.channels]);
        let states = self.graph.state("cache.states", ty)?;
        let index = self.draw(Purpose::Data, m, i, inputs)?;
        let pair = self.draw(Purpose::Timestep, n, i, inputs)?;
        let rows = i32::try_from(m).map_err(|_| Error::invalid(format!("cache_size is {m}; it is too large")))?;
        let g = &mut self.graph;
        let from = match term.objective {
            Objective::OnPolicy => index,
            _ => g.push1(IntAffine { scale: rows, shift: 0 }.into(), &[pair, index])?,
        };
        let to = g.push1(IntAffine { scale: rows, shift: rows }.into(), &[pair, index])?;
        let state = g.gather(states, from)?;
        let target = g.gather(states, to)?;
        let conditions = self.conditions(CACHE, m, index)?;
        self.context.trajectory_loss(&mut self.graph, term, &TrajectoryBatch { pair, state, target, conditions })
    }

    fn data_term(&mut self, i: usize, term: &Term, inputs: &DrawInputs) -> Result<ValueId> {
        let data = self.dataset.ok_or_else(|| Error::invalid("the objectives need a dataset"))?;
        let count = data.len();
        let images = self.graph.state("dataset.images", TensorType::f32(data.images().shape()))?;
        let index = self.draw(Purpose::Data, count, i, inputs)?;
        let timestep = self.draw(Purpose::Timestep, self.context.schedule.len(), i, inputs)?;
        let b = self.options.batch;
        let rows = memory::collect((0..b).map(|r| (i * b + r) as i32), "rows of noise")?;
        let g = &mut self.graph;
        let data = g.gather(images, index)?;
        let rows = g.constant("noise.rows", Tensor::from_slice(&[b], &rows)?)?;
        let image = [g.shape(data)[1], g.shape(data)[2], g.shape(data)[3]];
        let noise = g.push1(RandomNormal { purpose: Purpose::Noise, image }.into(), &[inputs.seed, inputs.step, rows])?;
        let conditions = self.conditions(DATASET, count, index)?;
        self.context.data_loss(&mut self.graph, term, &DataBatch { data, noise, timestep, conditions })
    }

    /// The conditions of the batch's rows, from those of `count` images.
    fn conditions(&mut self, room: &str, count: usize, index: ValueId) -> Result<Vec<ValueId>> {
        let (mut values, batch) = (vec![], self.options.batch);
        for condition in self.context.student.roles()?.conditions {
            let table = self.graph.state(format!("{room}{}", condition.name), condition.kind.rows(count, self.size))?;
            let rows = self.graph.gather(table, index)?;
            values.push(self.graph.reshape(rows, &condition.kind.ty(batch, self.size).shape)?);
        }
        Ok(values)
    }
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
