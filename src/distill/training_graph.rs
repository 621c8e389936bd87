//! The program of a training step: draws, losses, gradients, clipping, AdamW, moving average.

use super::context::{Role, TermContext, Walk};
use super::dataset::Dataset;
use super::draws::{DrawInputs, Draws};
use super::evaluations::Evaluations;
use super::loss_scale::LossScaleInputs;
use super::options::TrainerOptions;
use super::parameters::{ParameterSet, STUDENT};
use super::phase::{Phase, Update, UpdateInputs};
use super::points::{Point, Sources};
use crate::diffusion::NoiseSchedule;
use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId};
use crate::memory;
use crate::nn::Model;
use crate::tensor::DType;

/// What lists of the program are called where there is no memory for them.
const WHAT: &str = "training graph";

/// What the host reads: one value, so that a step on a GPU ends with one copy.
#[derive(Clone, Copy)]
pub(super) struct Results {
    /// The loss and its terms, known after the forward passes [1 + terms].
    pub losses: ValueId,
    /// The same, the gradient norm of each set, and the losses of the other phases: all of them finite after a good step.
    pub all: ValueId,
}

/// The program, and the values that the host writes and reads.
pub(super) struct TrainingGraph {
    pub graph: Graph,
    pub draws: DrawInputs,
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
    pub fn new(student: &Model, teacher: Option<&Model>, dataset: Option<&Dataset>, schedule: &NoiseSchedule, options: &TrainerOptions) -> Result<Self> {
        let context = TermContext {
            student: Role::student(student, student.scheduler.prediction()).learning_scales(options.learns_scales()),
            teacher: teacher.map(|t| Role::teacher(t, t.scheduler.prediction()).guided(options.guidance)),
            schedule,
            pairs: &options.pairs,
            walk: Walk { substeps: options.substeps, clip: options.clip_of(teacher) },
        };
        let sources = Sources { dataset, cache_size: options.cache_size, size: options.size.map_or_else(|| student.size(), Ok)? };
        let mut assembly = Assembly::new(options.precision)?;
        assembly.begin(STUDENT)?;
        let losses = append_losses(&mut assembly.graph, &context, options, assembly.draws, &sources)?;
        let mut sets = vec![ParameterSet::student(student, options.optimizer.clone())?];
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
    /// The sum, and each term without its factor [1 + terms].
    pub all: ValueId,
    /// What is inside the steps of chains, to be computed again in the backward pass.
    pub inside: Vec<ValueId>,
}

/// Appends the losses of all terms. Terms of one point share its draws and the student's evaluation.
pub(super) fn append_losses(g: &mut Graph, context: &TermContext, options: &TrainerOptions, inputs: DrawInputs, sources: &Sources) -> Result<Losses> {
    let mut points: Vec<(Point, Evaluations)> = vec![];
    let mut losses = memory::with_capacity(1 + options.terms.len(), WHAT)?;
    let mut total = None;
    for term in &options.terms {
        let known = points.iter().position(|(point, _)| *point == term.point);
        let at = match known {
            Some(at) => at,
            None => {
                let draws = Draws { inputs, batch: options.batch, stream: points.len() };
                points.push((term.point, Evaluations::of(g, context, term.point, &draws, sources)?));
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
    let total = total.ok_or_else(|| Error::internal("a loss without terms"))?;
    losses.insert(0, total);
    let all = g.concat(&losses)?;
    g.tap(all);
    let inside = memory::collect(points.iter().flat_map(|(_, evaluated)| evaluated.inside.iter().copied()), WHAT)?;
    Ok(Losses { total, all, inside })
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
        Ok(TrainingGraph { graph: self.graph, draws: self.draws, loss_scale: self.loss_scale, phases: self.phases, sets: self.sets, updates, results })
    }
}
