//! The program of a training step: draws, losses, gradients, clipping, optimizers, moving average.

use super::context::{self, AVERAGE, Role, SelfTeacher, TermContext};
use super::dataset::Dataset;
use super::distribution::DistributionTerm;
use super::draws::{DrawInputs, Draws};
use super::evaluations::Evaluations;
use super::features::FeatureLoss;
use super::loss_scale::LossScaleInputs;
use super::options::TrainerOptions;
use super::parameters::{Parameter, ParameterSet, Rule, STUDENT};
use super::phase::{Phase, Update, UpdateInputs};
use super::points::{Point, Sources};
use crate::cancel::Stop;
use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorType, ValueId};
use crate::memory;
use crate::nn::{self, Model, Predictor};
use crate::tensor::DType;
use std::sync::Arc;

/// What lists of the program are called where there is no memory for them.
const WHAT: &str = "training graph";

/// What the host reads: one value, so that a step on a GPU ends with one copy.
#[derive(Clone, Copy)]
pub(super) struct Results {
    /// The loss and its terms, known after the forward passes [1 + losses].
    pub losses: ValueId,
    /// The same, the gradient norm of each set, and the losses of the other phases: all of them finite after a good step.
    pub all: ValueId,
}

/// The program, and the values that the host writes and reads.
pub(super) struct TrainingGraph {
    pub graph: Graph,
    pub draws: DrawInputs,
    /// Factors of features, f32 [1] each.
    pub factors: Vec<ValueId>,
    /// Of each term, how much of a linear fit it is granted, f32 [1].
    pub fits: Vec<Option<ValueId>>,
    pub loss_scale: Option<LossScaleInputs>,
    /// Names of the phases, in order.
    pub phases: Vec<String>,
    /// What learns, the student first.
    pub sets: Vec<ParameterSet>,
    /// Inputs of each set.
    pub updates: Vec<UpdateInputs>,
    pub results: Results,
}

impl TrainingGraph {
    /// Of networks and data that fit together: one phase, in which the student learns.
    pub fn new(
        student: &Model,
        teacher: Option<&Model>,
        dataset: Option<&Dataset>,
        schedule: &NoiseSchedule,
        options: &TrainerOptions,
        stop: Stop,
    ) -> Result<Self> {
        let context = TermContext {
            student: Role::student(student, student.scheduler.prediction()).learning_scales(options.learns_scales()),
            teacher: teacher.map(|t| Role::teacher(t, t.scheduler.prediction()).guided(options.guidance)),
            schedule,
            pairs: &options.pairs,
            walk: options.walk(teacher),
            self_teacher: options.joins_steps().then(|| SelfTeacher { network: Predictor::new(student, AVERAGE), steps: options.self_teacher_steps }),
        };
        let sources = Sources { dataset, cache_size: options.cache_size, size: options.size.map_or_else(|| student.size(), Ok)? };
        let mut assembly = Assembly::new(options.precision)?;
        assembly.begin(STUDENT)?;
        let losses = append_losses(&mut assembly.graph, &context, options, assembly.draws, &sources)?;
        let mut sets = vec![ParameterSet::student(student, options.optimizer.clone())?.with(losses.beginning(options.seed, stop)?)?];
        if options.learns_scales() {
            sets.push(ParameterSet::scales(student, options.optimizer.of_scales(options.scale_learning_rate))?);
        }
        assembly.end(losses.total, sets, &losses.inside)?;
        assembly.finish(&losses)
    }
}

/// A loss in a program.
pub(super) struct Losses {
    /// The weighted sum [1].
    pub total: ValueId,
    /// The sum, each term, then each feature, then the distribution, without its factor [1 + losses].
    pub all: ValueId,
    /// What is inside the steps of chains, to be computed again in the backward pass.
    pub inside: Vec<ValueId>,
    /// Factors of features, f32 [1] each.
    pub factors: Vec<ValueId>,
    /// Of each term, how much of a linear fit it is granted, f32 [1].
    pub fits: Vec<Option<ValueId>>,
    /// What learns with the student to compare features.
    pub alignments: Vec<nn::scope::Parameter>,
}

impl Losses {
    /// What learns with the student to compare features, as it begins.
    fn beginning(&self, seed: u64, stop: Stop) -> Result<Vec<Parameter>> {
        /// Behind the parameters of any network.
        const FIRST: u64 = 1 << 31;
        let beginning = |(i, parameter): (usize, &nn::scope::Parameter)| {
            let initial = nn::model::initial(parameter, [seed, FIRST + i as u64], stop)?;
            let name = parameter.name.strip_prefix(context::STUDENT).unwrap_or(&parameter.name).to_owned();
            Ok(Parameter { name, initial: Arc::new(initial), rule: Rule::AdamW })
        };
        memory::try_collect(self.alignments.iter().enumerate().map(beginning), WHAT)
    }
}

/// Appends the losses of all terms. Terms of one point share its draws and the student's evaluation.
pub(super) fn append_losses(g: &mut Graph, context: &TermContext, options: &TrainerOptions, inputs: DrawInputs, sources: &Sources) -> Result<Losses> {
    let mut points: Vec<(Point, Evaluations)> = vec![];
    let at = |g: &mut Graph, points: &mut Vec<(Point, Evaluations)>, wanted: Point| {
        if let Some(known) = points.iter().position(|(point, _)| *point == wanted) {
            return Ok(known);
        }
        let draws = Draws { inputs, batch: options.batch, stream: points.len() };
        points.push((wanted, Evaluations::of(g, context, wanted, &draws, sources)?));
        Ok::<_, Error>(points.len() - 1)
    };
    let mut sum = Sum { total: None, losses: memory::with_capacity(1 + options.losses(), WHAT)? };
    let mut fits = memory::with_capacity(options.terms.len(), WHAT)?;
    for (i, term) in options.terms.iter().enumerate() {
        let at = at(g, &mut points, term.point)?;
        let fit = (term.linear_fit_steps != 0).then(|| g.input(format!("terms.{i}.linear_fit"), TensorType::f32(&[1]))).transpose()?;
        fits.push(fit);
        let loss = points[at].1.loss(g, context, term, fit)?;
        let weighted = g.affine(loss, term.weight, 0.0)?;
        sum.add(g, loss, weighted)?;
    }
    let (mut factors, mut alignments) = (memory::with_capacity(options.features.len(), WHAT)?, vec![]);
    for (i, feature) in options.features.iter().enumerate() {
        let at = at(g, &mut points, feature.point)?;
        let FeatureLoss { loss, parameters } = feature.loss(g, context, &points[at].1, i).map_err(|e| e.context(format!("features[{i}]")))?;
        let factor = g.input(format!("features.{i}.factor"), TensorType::f32(&[1]))?;
        let weighted = g.mul(loss, factor)?;
        sum.add(g, loss, weighted)?;
        factors.push(factor);
        memory::append(&mut alignments, &parameters, WHAT)?;
    }
    if let Some(distribution) = &options.distribution {
        let at = at(g, &mut points, DistributionTerm::POINT)?;
        let ends = points[at].1.ends(g, context)?;
        let loss = distribution.loss(g, ends)?;
        let weighted = g.affine(loss, distribution.weight, 0.0)?;
        sum.add(g, loss, weighted)?;
    }
    let Sum { total, mut losses } = sum;
    let total = total.ok_or_else(|| Error::internal("a loss without terms"))?;
    losses.insert(0, total);
    let all = g.concat(&losses)?;
    g.tap(all);
    let inside = memory::collect(points.iter().flat_map(|(_, evaluated)| evaluated.inside.iter().copied()), WHAT)?;
    Ok(Losses { total, all, inside, factors, fits, alignments })
}

/// A sum of losses that is being written.
struct Sum {
    total: Option<ValueId>,
    /// Each without its factor.
    losses: Vec<ValueId>,
}

impl Sum {
    fn add(&mut self, g: &mut Graph, loss: ValueId, weighted: ValueId) -> Result<()> {
        self.losses.push(loss);
        self.total = Some(self.total.map_or(Ok(weighted), |sum| g.add(sum, weighted))?);
        Ok(())
    }
}

/// A program that is being written, phase by phase.
pub(super) struct Assembly {
    pub graph: Graph,
    pub draws: DrawInputs,
    loss_scale: Option<LossScaleInputs>,
    phases: Vec<String>,
    losses: Vec<ValueId>,
    sets: Vec<ParameterSet>,
    updates: Vec<Update>,
}

impl Assembly {
    /// The inputs of a step; the loss is scaled where networks compute in f16.
    pub fn new(precision: DType) -> Result<Self> {
        let mut graph = Graph::new();
        let draws = DrawInputs::declare(&mut graph)?;
        let loss_scale = (precision == DType::F16).then(|| LossScaleInputs::declare(&mut graph)).transpose()?;
        Ok(Self { graph, draws, loss_scale, phases: vec![], losses: vec![], sets: vec![], updates: vec![] })
    }

    /// Begins a phase: what is appended now is its loss.
    pub fn begin(&mut self, phase: &str) -> Result<()> {
        Phase::begin(&mut self.graph, phase);
        memory::push(&mut self.phases, phase.to_string(), WHAT)
    }

    /// Ends the phase: these sets follow the gradient of this loss.
    pub fn end(&mut self, loss: ValueId, sets: Vec<ParameterSet>, recompute: &[ValueId]) -> Result<()> {
        let name = self.phases.last().ok_or_else(|| Error::internal("a phase that did not begin"))?;
        let phase = Phase { name, loss, sets: &sets, recompute, loss_scale: self.loss_scale };
        self.updates.extend(phase.append(&mut self.graph)?);
        self.sets.extend(sets);
        memory::push(&mut self.losses, loss, WHAT)
    }

    /// The program, which reports these losses: those of the phase in which the student learns.
    pub fn finish(mut self, losses: &Losses) -> Result<TrainingGraph> {
        // The student's set is the first, whatever its phase.
        let at = self.sets.iter().position(|set| set.name() == STUDENT).ok_or_else(|| Error::internal("no student learns"))?;
        self.sets.swap(0, at);
        self.updates.swap(0, at);
        let norms = self.updates.iter().map(|update| update.norm);
        let others = self.losses.iter().copied().filter(|loss| *loss != losses.total);
        let results = memory::collect([losses.all].into_iter().chain(norms).chain(others), WHAT)?;
        let all = self.graph.concat(&results)?;
        self.graph.tap(all);
        let updates = memory::collect(self.updates.iter().map(|update| update.inputs), WHAT)?;
        let results = Results { losses: losses.all, all };
        let (factors, fits) = (memory::copy(&losses.factors, WHAT)?, memory::copy(&losses.fits, WHAT)?);
        let Self { graph, draws, loss_scale, phases, sets, .. } = self;
        Ok(TrainingGraph { graph, draws, factors, fits, loss_scale, phases, sets, updates, results })
    }
}
