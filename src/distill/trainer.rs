//! The training step: draw, evaluate, differentiate, clip, optimize, moving average — one plan, run once a step.

use super::context::TEACHER;
use super::dataset::Dataset;
use super::draws::DrawInputs;
use super::features::is_alignment;
use super::fit::check_networks;
use super::loss_scale::{LossScale, LossScaleInputs};
use super::options::TrainerOptions;
use super::overflow::{StateBounds, Watch, largest};
use super::parameters::{Parameter, ParameterSet, SCALES, STUDENT, State};
use super::phase::{Segments, UpdateInputs};
use super::points::{CACHE, DATASET};
use super::term::Term;
use super::training_graph::{Results, TrainingGraph};
use super::trajectories::Trajectories;
use super::trajectory_set::rows_for;
use crate::backend::{Backend, Executable, Memory, as_bytes};
use crate::cancel::{Stop, cancelled};
use crate::diffusion::{Clip, grid};
use crate::error::{Error, Result};
use crate::graph::ops::ClipScale;
use crate::graph::{Numerics, ValueId};
use crate::memory;
use crate::nn::{Model, StudentInfo, scale_after};
use crate::tensor::{Tensor, try_vec};
use std::sync::Arc;

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Steps done so far, this one included.
    pub step: u64,
    /// The weighted sum.
    pub loss: f32,
    /// The first four terms, then features, then the distribution, each without its factor.
    pub terms: [f32; 4],
    /// Global gradient norm of the student before clipping.
    pub grad_norm: f32,
    /// Learning rate of the student, of what AdamW updates.
    pub learning_rate: f32,
}

/// Which weights a snapshot takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightsKind {
    /// As trained.
    Raw,
    /// The moving average.
    Ema,
}

/// A training run. One thread at a time.
pub struct Trainer {
    pub(super) options: TrainerOptions,
    pub(super) student: Model,
    pub(super) teacher: Option<Model>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) exec: Box<dyn Executable>,
    draws: DrawInputs,
    /// Factors of features, f32 [1] each.
    factors: Vec<ValueId>,
    /// How much of a linear fit each term grants.
    fits: Vec<Option<ValueId>>,
    /// Row of the whole batch that the first one here is.
    pub(super) first_row: i32,
    /// Where the plan has them.
    pub(super) phases: Vec<Segments>,
    /// What learns, the student first.
    pub(super) sets: Vec<ParameterSet>,
    /// Inputs of each set.
    updates: Vec<UpdateInputs>,
    loss_scale_inputs: Option<LossScaleInputs>,
    pub(super) loss_scale: LossScale,
    results: Results,
    /// What the last step or evaluation left there; whether there was one.
    found: Vec<f32>,
    evaluated: bool,
    /// Of the teacher's trajectories, if there are any.
    pub(super) trajectory_clip: Clip,
    pub(super) trajectories: Trajectories,
    /// Rows that the conditions of trajectories are drawn from; empty where labels are all there are.
    pub(super) rows: Vec<Arc<Tensor>>,
    pub(super) steps_done: u64,
    pub(super) bounds: StateBounds,
}

impl Trainer {
    /// Builds and compiles the training plan. The student's weights are copied, as f32; the teacher's stay in the type that they are stored in.
    pub fn new(backend: Arc<dyn Backend>, student: &Model, teacher: Option<&Model>, dataset: Option<&Dataset>, options: TrainerOptions) -> Result<Self> {
        Self::new_until(backend, student, teacher, dataset, options, Stop::NEVER)
    }

    /// The same; a cancelled error where `stop` is set before it is done.
    pub fn new_until(
        backend: Arc<dyn Backend>,
        student: &Model,
        teacher: Option<&Model>,
        dataset: Option<&Dataset>,
        options: TrainerOptions,
        stop: Stop,
    ) -> Result<Self> {
        options.check()?;
        check_networks(student, teacher, dataset, &options)?;
        let schedule = student.scheduler.noise_schedule()?;
        let (mut trajectory_clip, mut rows) = (Clip::None, vec![]);
        let needs = options.needs();
        if let (true, Some(teacher)) = (needs.grid, teacher) {
            grid::check(schedule.len(), &options.pairs)?;
            if needs.cache && options.trajectories.is_none() {
                rows = rows_for(&teacher.roles()?.conditions, dataset, options.size.map_or_else(|| student.size(), Ok)?)?;
            }
            trajectory_clip = options.clip_of(Some(teacher));
            trajectory_clip.check().map_err(|e| e.context("the trajectories"))?;
        }
        let student = &student.widened(stop)?;
        let program = TrainingGraph::new(student, teacher, dataset, &schedule, &options, stop)?;
        let mut this = Self { rows, ..Self::of_program(backend, program, student, teacher, options, trajectory_clip, stop)? };
        this.load_initial_state(stop)?;
        this.bind_shared(dataset, stop)?;
        Ok(this)
    }

    /// Compiles a program of fitting networks.
    pub(super) fn of_program(
        backend: Arc<dyn Backend>,
        program: TrainingGraph,
        student: &Model,
        teacher: Option<&Model>,
        options: TrainerOptions,
        trajectory_clip: Clip,
        stop: Stop,
    ) -> Result<Self> {
        let TrainingGraph { graph, draws, factors, fits, loss_scale, phases, sets, updates, results } = program;
        stop.check()?;
        let exec = backend.compile_until(&graph, &Numerics::of(options.precision)?, stop)?;
        let mut most = 0f64;
        for parameter in sets.iter().flat_map(|set| &set.parameters) {
            stop.check()?;
            most = most.max(largest(parameter.initial.as_slice::<f32>()?));
        }
        let found = try_vec(graph.value(results.all).ty.numel(), "losses")?;
        Ok(Self {
            bounds: StateBounds::new(&sets, most, 0.0),
            trajectory_clip,
            student: student.clone(),
            teacher: teacher.cloned(),
            backend,
            phases: phases.iter().map(|phase| Segments::of(exec.plan(), phase)).collect::<Result<_>>()?,
            exec,
            draws,
            factors,
            fits,
            first_row: 0,
            sets,
            updates,
            loss_scale_inputs: loss_scale,
            loss_scale: LossScale::new(options.loss_scale),
            results,
            found,
            evaluated: false,
            trajectories: Trajectories::given(options.trajectories.as_deref().filter(|_| options.needs().cache)),
            rows: vec![],
            steps_done: 0,
            options,
        })
    }

    /// Computes what the steps read: the trajectory cache. `progress(done, total)` returning false cancels, and so does `stop`; a later call starts again.
    pub fn prepare(&mut self, progress: &mut dyn FnMut(usize, usize) -> bool, stop: Stop) -> Result<()> {
        if self.is_prepared() {
            return Ok(());
        }
        if !self.options.needs().cache {
            return self.exec.prepare_until(stop);
        }
        // What is computed stays, whatever becomes of the rest.
        if !self.has_cache() {
            let (generation, seed) = (self.generation(), self.options.seed);
            self.with_trajectories(|this, trajectories| trajectories.complete(generation, seed, || this.cache_builder(stop), progress, stop))?;
            if !self.replaces_after(generation) {
                self.trajectories.end();
            }
        }
        self.bind_cache(stop)
    }

    /// True when a step needs nothing more.
    pub fn is_prepared(&self) -> bool {
        self.has_cache() && self.exec.check_ready().is_ok()
    }

    /// What there is to say about the trajectories, once.
    pub fn take_warning(&mut self) -> Option<String> {
        self.trajectories.take_warning()
    }

    fn bind_cache(&mut self, stop: Stop) -> Result<()> {
        let cache = self.trajectories.of(self.generation()).ok_or_else(|| Error::internal("no cache"))?;
        self.exec.bind(&format!("{CACHE}states"), cache.states.clone())?;
        for (condition, rows) in self.student.roles()?.conditions.iter().zip(&cache.conditions) {
            self.exec.bind(&format!("{CACHE}{}", condition.name), rows.clone())?;
        }
        self.exec.prepare_until(stop)
    }

    /// One step. A loss, gradient or update that is not finite changes nothing and is a numeric error; gradients of a scaled loss are first tried at smaller
    /// scales.
    pub fn step(&mut self) -> Result<StepReport> {
        self.step_until(Stop::NEVER)
    }

    /// The same; a cancelled error, and nothing changed but perhaps the scale of a scaled loss, where `stop` is set before the update of the weights begins.
    pub fn step_until(&mut self, stop: Stop) -> Result<StepReport> {
        if !self.is_prepared() {
            self.prepare(&mut |_, _| true, stop)?;
        }
        self.advance_trajectories(stop)?;
        let n = self.steps_done;
        self.write_draws(self.options.seed)?;
        self.write_fits(|term| term.linear_fit(n))?;
        self.write_updates()?;
        let watch = self.watch()?;
        match self.try_step(&watch, stop) {
            Ok(report) => {
                self.loss_scale.step();
                self.steps_done = n + 1;
                Ok(StepReport { step: n + 1, learning_rate: self.sets[0].optimizer.rate(n) as f32, ..report })
            }
            Err(error) => {
                self.take_back(&watch)?;
                Err(error)
            }
        }
    }

    /// Runs the step and judges what became of it; after an error [`Trainer::take_back`] is due.
    fn try_step(&mut self, watch: &Watch, stop: Stop) -> Result<StepReport> {
        let report = loop {
            if let Some(inputs) = &self.loss_scale_inputs {
                self.loss_scale.write(self.exec.as_mut(), inputs)?;
            }
            self.run_step(stop)?;
            let report = self.report(self.results.all)?;
            let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
            let overflow = report.loss.is_finite() && !finite(self.norms()) && self.loss_scale_inputs.is_some();
            if !(overflow && self.loss_scale.shrink()) {
                break report;
            }
            self.take_back(watch)?;
        };
        self.check_gradients()?;
        self.settle(watch)?;
        Ok(report)
    }

    /// An error where the update left everything as it was.
    fn check_gradients(&self) -> Result<()> {
        let (n, loss) = (self.steps_done, self.found[0]);
        // A sentence only where there is something to say: a step allocates nothing.
        let failed = |what: String| Error::numeric(format!("step {}: {what}; the weights are those of step {n}", n + 1));
        if let Some(other) = self.other_losses().iter().find(|loss| !loss.is_finite()) {
            return Err(failed(format!("loss {other} of another phase")));
        }
        for (set, norm) in self.sets.iter().zip(self.norms()) {
            let found = || match set.name() {
                STUDENT => failed(format!("loss {loss} and gradient norm {norm}")),
                other => failed(format!("loss {loss} and gradient norm {norm} of '{other}'")),
            };
            if !loss.is_finite() || !norm.is_finite() {
                return Err(found());
            }
            if !ClipScale::new(set.optimizer.clip_norm).accepts(*norm) {
                return Err(Error::numeric(format!("{}: clip_norm must leave {:e} of a norm at most", found().message, ClipScale::LARGEST)));
            }
        }
        Ok(())
    }

    /// Runs the whole plan, its phases in order. Where it can be stopped, that is before the first update: a step that is done by half would be none.
    fn run_step(&mut self, stop: Stop) -> Result<()> {
        stop.check()?;
        if stop.is_never() || self.exec.is_asynchronous() {
            return self.exec.run_all(); // a GPU gets it as one graph
        }
        let (start, end) = (self.exec.plan().prepared(), self.exec.plan().order().len());
        let update = self.phases.first().map_or(end, |phase| phase.update.start);
        if self.exec.run_until(start..update, stop)? < update {
            return Err(cancelled());
        }
        self.exec.run(update..end)
    }

    /// The loss of the present weights on a batch of other draws; changes nothing. A cancelled error where `stop` is set before it is known.
    pub fn evaluate_until(&mut self, seed: u64, stop: Stop) -> Result<StepReport> {
        if !self.is_prepared() {
            self.prepare(&mut |_, _| true, stop)?;
        }
        self.write_draws(seed)?;
        self.write_fits(|_| 0.0)?;
        for Segments { forward, .. } in &self.phases {
            if self.exec.run_until(forward.clone(), stop)? < forward.end {
                return Err(cancelled());
            }
        }
        Ok(StepReport { grad_norm: 0.0, ..self.report(self.results.losses)? })
    }

    /// The same, to the end.
    pub fn evaluate(&mut self, seed: u64) -> Result<StepReport> {
        self.evaluate_until(seed, Stop::NEVER)
    }

    /// What a forward pass is told.
    fn write_draws(&mut self, seed: u64) -> Result<()> {
        self.exec.write_bytes(self.draws.seed, as_bytes(&[seed as i64]))?;
        self.exec.write_bytes(self.draws.step, as_bytes(&[self.steps_done as i64]))?;
        for (input, feature) in self.factors.iter().zip(&self.options.features) {
            self.exec.write_bytes(*input, as_bytes(&[feature.factor(self.steps_done)]))?;
        }
        self.exec.write_bytes(self.draws.first_row, as_bytes(&[self.first_row]))
    }

    /// How much of a linear fit each term grants: a step what its warm-up says, an evaluation nothing, so that errors on the way are comparable.
    fn write_fits(&mut self, of: impl Fn(&Term) -> f32) -> Result<()> {
        for (input, term) in self.fits.iter().zip(&self.options.terms).filter_map(|(input, term)| Some((input.as_ref()?, term))) {
            self.exec.write_bytes(*input, as_bytes(&[of(term)]))?;
        }
        Ok(())
    }

    fn write_updates(&mut self) -> Result<()> {
        let n = self.steps_done;
        for (set, inputs) in self.sets.iter().zip(&self.updates) {
            self.exec.write_bytes(inputs.update, as_bytes(&[n as i64 + 1]))?;
            self.exec.write_bytes(inputs.rate, as_bytes(&[set.optimizer.rate(n) as f32]))?;
            if let Some(input) = inputs.muon_rate {
                self.exec.write_bytes(input, as_bytes(&[set.optimizer.muon_rate(n) as f32]))?;
            }
            self.exec.write_bytes(inputs.decay, as_bytes(&[set.optimizer.average_decay(n) as f32]))?;
        }
        Ok(())
    }

    /// Reads what the host reads of a step or of a forward pass.
    fn report(&mut self, results: ValueId) -> Result<StepReport> {
        let values = self.exec.read_bytes(results)?.of::<f32>()?;
        self.found[..values.len()].copy_from_slice(&values);
        self.evaluated = true;
        let mut report = StepReport { step: self.steps_done, loss: self.found[0], grad_norm: self.norms()[0], ..Default::default() };
        report.terms.iter_mut().zip(&self.found[1..=self.options.losses()]).for_each(|(to, from)| *to = *from);
        Ok(report)
    }

    /// Each term, then each feature, then the distribution, without its factor, as the last step or evaluation found it, also where that failed for a number
    /// that is not finite; `None` before.
    pub fn terms(&self) -> Option<&[f32]> {
        self.evaluated.then(|| &self.found[1..=self.options.losses()])
    }

    /// Of the last step: each set's gradient norm.
    fn norms(&self) -> &[f32] {
        &self.found[1 + self.options.losses()..][..self.sets.len()]
    }

    /// Of the last step: the losses of the phases in which the student does not learn.
    fn other_losses(&self) -> &[f32] {
        &self.found[1 + self.options.losses() + self.sets.len()..]
    }

    /// A new immutable model with the present weights.
    pub fn snapshot(&self, kind: WeightsKind) -> Result<Model> {
        let mut model = self.student.clone();
        for (name, tensor) in self.weights(&self.sets[0], kind)?.into_iter().filter(|(name, _)| !is_alignment(name)) {
            model.weights.insert(name, tensor);
        }
        for set in self.sets.iter().filter(|set| set.name() == SCALES) {
            for (name, changes) in self.weights(set, kind)? {
                let scales = self.student.weights.get(&name).ok_or_else(|| Error::internal(format!("no scale '{name}'")))?;
                model.weights.insert(name.clone(), Arc::new(changed(&name, scales, &changes)?));
            }
        }
        model.check_finite()?;
        model = model.narrowed()?;
        if !self.options.pairs.is_empty() {
            let (pairs, teacher_substeps) = self.options.own_grid()?;
            model.student = Some(Box::new(StudentInfo { version: StudentInfo::VERSION, pairs, teacher_substeps, per_step: self.student.per_step() }));
        }
        Ok(model)
    }

    /// The present weights of a set, by their names in it.
    pub(super) fn weights(&self, set: &ParameterSet, kind: WeightsKind) -> Result<Vec<(String, Arc<Tensor>)>> {
        let state = if kind == WeightsKind::Raw { State::Weight } else { State::Average };
        let read = |p: &Parameter| {
            let data = self.exec.storage_bytes(&set.key(state, &p.name))?.of::<f32>()?;
            Ok((p.name.clone(), Arc::new(Tensor::from_slice(p.initial.shape(), &data)?)))
        };
        memory::try_collect(set.parameters.iter().map(read), "weights")
    }

    /// Steps done so far.
    pub fn steps_done(&self) -> u64 {
        self.steps_done
    }

    /// What the loss is multiplied by before it is differentiated; `None` where it is not.
    pub fn loss_scale(&self) -> Option<f32> {
        self.loss_scale_inputs.map(|_| self.loss_scale.factor())
    }

    /// The plan, for its sizes.
    pub fn plan(&self) -> &crate::graph::Plan {
        self.exec.plan()
    }

    /// Memory of the steps; the cache is apart.
    pub fn memory(&self) -> Memory {
        self.exec.memory()
    }

    /// Bytes of the trajectories, those that come next and what computes them included; 0 before they are made and where none are needed.
    pub fn cache_bytes(&self) -> usize {
        self.trajectories.bytes()
    }

    /// Seed, schedule and the like.
    pub fn options(&self) -> &TrainerOptions {
        &self.options
    }

    /// [H, W] of its images.
    pub fn size(&self) -> Result<[usize; 2]> {
        self.options.size.map_or_else(|| self.student.size(), Ok)
    }

    pub(super) fn load_initial_state(&mut self, stop: Stop) -> Result<()> {
        for (state, parameter, key) in self.sets.iter().flat_map(ParameterSet::states) {
            stop.check()?;
            if matches!(state, State::Weight | State::Average) {
                self.exec.write_storage(&key, parameter.initial.bytes())?;
            }
        }
        Ok(())
    }

    pub(super) fn bind_shared(&mut self, dataset: Option<&Dataset>, stop: Stop) -> Result<()> {
        let has = |exec: &dyn Executable, name: &str| exec.plan().graph().storage(name).is_some();
        for (name, tensor) in self.student.weights.iter().filter(|(name, _)| !self.student.learns(name)) {
            self.exec.bind(&format!("{}{name}", super::context::STUDENT), tensor.clone())?;
        }
        if let Some(teacher) = &self.teacher {
            for (name, tensor) in &teacher.weights {
                stop.check()?;
                let name = format!("{TEACHER}{name}");
                if has(self.exec.as_ref(), &name) {
                    self.exec.bind(&name, tensor.clone())?;
                }
            }
        }
        if let Some(distribution) = &self.options.distribution {
            let ([h, w], channels) = (self.size()?, self.student.roles()?.channels);
            for (name, tensor) in distribution.weights([h, w, channels])? {
                self.exec.bind(&name, tensor)?;
            }
        }
        if let Some(data) = dataset {
            if has(self.exec.as_ref(), "dataset.images") {
                self.exec.bind("dataset.images", data.images().clone())?;
            }
            if self.options.needs().dataset {
                let conditions = self.student.roles()?.conditions;
                for (condition, rows) in conditions.iter().zip(data.conditions_of(&conditions)?) {
                    let name = format!("{DATASET}{}", condition.name);
                    if has(self.exec.as_ref(), &name) {
                        self.exec.bind(&name, rows)?;
                    }
                }
            }
        }
        match (self.options.needs().cache, self.has_cache()) {
            (false, _) => self.exec.prepare_until(stop),
            (true, true) => self.bind_cache(stop), // somebody has given trajectories
            (true, false) => Ok(()),
        }
    }
}

/// Scales with what they have learned.
fn changed(name: &str, scales: &Tensor, changes: &Tensor) -> Result<Tensor> {
    let mut learned = scales.to_f32()?;
    for (scale, change) in learned.as_mut_slice::<f32>()?.iter_mut().zip(changes.as_slice::<f32>()?) {
        *scale = scale_after(*scale, *change);
        if !(scale.is_finite() && *scale > 0.0) {
            return Err(Error::numeric(format!("tensor \"{name}\": a scale has become {scale}; train with a smaller scale_learning_rate")));
        }
    }
    Ok(learned)
}
