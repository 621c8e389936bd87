//! Calibration: the student samples, and what its layers read in each of the steps gives the ranges.

use super::histogram::Histogram;
use super::options::Options;
use super::range::Range;
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::diffusion::Table;
use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId};
use crate::memory;
use crate::nn::conditions::Values;
use crate::nn::{Layer, Model, StudentInfo};
use crate::random::Purpose;
use crate::sampling::{Evaluator, RunSpec, SamplingRun, UNROLLED, draw_conditions, for_each_batch};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// A student in floats that samples on its own grid, and what is seen of its evaluations. It can sample several times, always the same.
pub(super) struct Calibration<'a> {
    backend: &'a dyn Backend,
    pub model: &'a Model,
    pub options: &'a Options,
    pub stop: Stop<'a>,
    progress: &'a mut dyn FnMut(usize, usize) -> bool,
    table: Table,
    /// The samples' conditions.
    drawn: Vec<Tensor>,
    /// Times that they were drawn, and those that they will be.
    times: [usize; 2],
}

/// What layers read: each value once, and by the layers' paths which of them.
#[derive(Default)]
struct Inputs {
    values: Vec<ValueId>,
    layers: Vec<(String, usize)>,
}

impl Inputs {
    fn of(layers: &[&Layer]) -> Result<Self> {
        let mut this = Self::default();
        for layer in layers {
            memory::check()?;
            let at = this.values.iter().position(|input| *input == layer.input).unwrap_or(this.values.len());
            if at == this.values.len() {
                memory::push(&mut this.values, layer.input, "layers")?;
            }
            memory::push(&mut this.layers, (layer.path.clone(), at), "layers")?;
        }
        Ok(this)
    }

    /// An error where a value is not finite.
    fn check(&self, at: usize, values: &[f32], timestep: f64) -> Result<()> {
        let Some(i) = values.iter().position(|v| !v.is_finite()) else { return Ok(()) };
        let path = self.layers.iter().find(|(_, input)| *input == at).map_or("", |(path, _)| path);
        Err(Error::numeric(format!("the input of layer '{path}' is {} at element {i}, timestep {timestep}", values[i])))
    }
}

impl<'a> Calibration<'a> {
    /// `rows` has what conditions are drawn from; nothing for labels alone. `progress(done, total)`, of samples, returning false cancels, and so does `stop`.
    pub fn new(
        backend: &'a dyn Backend,
        (model, student): (&'a Model, &StudentInfo),
        options: &'a Options,
        rows: &[Arc<Tensor>],
        progress: &'a mut dyn FnMut(usize, usize) -> bool,
        stop: Stop<'a>,
    ) -> Result<Self> {
        if options.samples == 0 || options.batch == 0 {
            return Err(Error::invalid("calibration needs samples: there is no range of nothing"));
        }
        let schedule = model.scheduler.noise_schedule()?;
        let table = Table::from_pairs(&schedule, model.scheduler.prediction(), &student.pairs, 0.0, model.scheduler.clip())?;
        let drawn = draw_conditions(&model.roles()?.conditions, rows, (options.samples, options.size), options.seed, stop)?;
        let passes = [options.mode.rounds_inputs(), options.looks_twice(), options.correct_biases];
        let times = [0, passes.into_iter().filter(|pass| *pass).count()];
        Ok(Self { backend, model, options, stop, progress, table, drawn, times })
    }

    /// The student's network with what `choose` gives to be looked at ([`Evaluator::observing`]).
    pub fn evaluator(&self, choose: impl FnOnce(&mut Graph, &[Layer]) -> Result<Vec<ValueId>>) -> Result<Evaluator> {
        Evaluator::observing(self.backend, self.model, (self.options.batch, self.options.size, DType::F32), choose, self.stop)
    }

    /// Draws the samples; `look(timestep, evaluator)` after each evaluation.
    pub fn sample(&mut self, evaluator: &mut Evaluator, mut look: impl FnMut(f64, &Evaluator) -> Result<()>) -> Result<()> {
        let (&Options { samples, batch, size, seed, .. }, stop) = (self.options, self.stop);
        let (table, purpose) = (&self.table, Purpose::Data);
        let spec = RunSpec { table, batch, size, purpose, precision: DType::F32, guidance: None, unrolled: UNROLLED };
        let mut run = SamplingRun::new_until(self.backend, self.model, &spec, stop)?;
        let conditions = self.model.roles()?.conditions;
        let given = conditions.iter().zip(&self.drawn).map(|(condition, rows)| Ok((condition.kind, Values::of(rows)?)));
        let given = memory::try_collect(given, "conditions")?;
        let mut timesteps = memory::filled(0.0, batch, "timesteps")?;
        for_each_batch(&mut run, seed, &given, samples, |run, first, used, given| {
            run.draw_noise(stop)?;
            for step in &table.steps {
                let x = memory::copy(&run.read()?, "a state")?;
                timesteps.fill(step.t as f32);
                drop(evaluator.run(&x, &timesteps, given, stop)?);
                look(step.t, evaluator)?;
                run.advance(stop)?;
            }
            let [before, all] = self.times.map(|times| times * samples);
            if (self.progress)(before + first + used, all) { Ok(()) } else { Err(Error::cancelled("the calibration was cancelled")) }
        })?;
        self.times[0] += 1;
        Ok(())
    }

    /// The range of what each layer reads that is quantised, in the order in which the network has met them: one that it meets twice comes twice.
    pub fn ranges(&mut self) -> Result<Vec<(String, Range)>> {
        let (mut inputs, policy) = (Inputs::default(), &self.options.policy);
        let mut evaluator = self.evaluator(|_, layers| {
            inputs = Inputs::of(&policy.choose(layers)?)?;
            memory::copy(&inputs.values, "layers")
        })?;
        let mut ranges = memory::filled(Range::default(), inputs.values.len(), "ranges")?;
        self.sample(&mut evaluator, |timestep, evaluator| {
            for (at, range) in ranges.iter_mut().enumerate() {
                let values = evaluator.observed(inputs.values[at])?;
                inputs.check(at, &values, timestep)?;
                *range = range.with(&values);
            }
            Ok(())
        })?;
        if self.options.looks_twice() {
            self.narrow(&mut evaluator, &inputs.values, &mut ranges)?;
        }
        Ok(inputs.layers.into_iter().map(|(path, at)| (path, ranges[at])).collect())
    }

    /// The part of the ranges that is wanted, by how often the numbers in them are met.
    fn narrow(&mut self, evaluator: &mut Evaluator, values: &[ValueId], ranges: &mut [Range]) -> Result<()> {
        let mut histograms = memory::try_collect(ranges.iter().map(|range| Histogram::new(*range)), "histograms")?;
        self.sample(evaluator, |_, evaluator| {
            for (histogram, value) in histograms.iter_mut().zip(values) {
                histogram.add(&evaluator.observed(*value)?);
            }
            Ok(())
        })?;
        let &Options { ends, high, .. } = self.options;
        ranges.iter_mut().zip(&histograms).try_for_each(|(range, histogram)| {
            self.stop.check()?;
            *range = histogram.ends(ends, high);
            Ok(())
        })
    }
}
