//! Calibration: the model samples, and what its layers read in each of the steps gives the ranges.

use super::options::Options;
use super::range::Range;
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::diffusion::Table;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::memory;
use crate::nn::conditions::Values;
use crate::nn::{Layer, Model, StudentInfo};
use crate::random::Purpose;
use crate::sampling::{Evaluator, Given, RunSpec, SamplingRun, UNROLLED, draw_conditions, for_each_batch};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// The network, and what its layers have read so far.
pub(super) struct Observer {
    evaluator: Evaluator,
    timesteps: Vec<f32>,
    /// What the layers read, each value once, and its range.
    inputs: Vec<(ValueId, Range)>,
    /// Path, and which of them it reads.
    layers: Vec<(String, usize)>,
}

impl Observer {
    fn new(backend: &dyn Backend, model: &Model, options: &Options, stop: Stop) -> Result<Self> {
        let (mut inputs, mut layers) = (Vec::<(ValueId, Range)>::new(), vec![]);
        let choose = |all: &[Layer]| {
            for layer in options.policy.choose(all)? {
                memory::check()?;
                let at = inputs.iter().position(|(input, _)| *input == layer.input).unwrap_or(inputs.len());
                if at == inputs.len() {
                    memory::push(&mut inputs, (layer.input, Range::default()), "layers")?;
                }
                memory::push(&mut layers, (layer.path.clone(), at), "layers")?;
            }
            memory::collect(inputs.iter().map(|(input, _)| *input), "layers")
        };
        let evaluator = Evaluator::observing(backend, model, (options.batch, options.size, DType::F32), choose, stop)?;
        Ok(Self { evaluator, timesteps: memory::filled(0.0, options.batch, "timesteps")?, inputs, layers })
    }

    /// Looks at one evaluation.
    fn look(&mut self, x: &[f32], t: f32, given: &[Given], stop: Stop) -> Result<()> {
        self.timesteps.fill(t);
        drop(self.evaluator.run(x, &self.timesteps, given, stop)?);
        for (at, (input, range)) in self.inputs.iter_mut().enumerate() {
            let values = self.evaluator.observed(*input)?;
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                let path = self.layers.iter().find(|(_, input)| *input == at).map_or("", |(path, _)| path);
                return Err(Error::numeric(format!("the input of layer '{path}' is {} at element {i}, timestep {t}", values[i])));
            }
            *range = range.with(&values);
        }
        Ok(())
    }

    /// Each layer's range, in the order in which the network has met them: one that it meets twice comes twice.
    pub fn ranges(&self) -> impl Iterator<Item = (&str, Range)> {
        self.layers.iter().map(|(path, input)| (path.as_str(), self.inputs[*input].1))
    }
}

/// What the layers of a student read in all steps of `options.samples` runs on its own grid. `rows`, `progress` and `stop` as of [`quantize`](super::quantize()).
pub(super) fn calibrate(
    backend: &dyn Backend,
    (model, student): (&Model, &StudentInfo),
    options: &Options,
    rows: &[Arc<Tensor>],
    progress: &mut dyn FnMut(usize, usize) -> bool,
    stop: Stop,
) -> Result<Observer> {
    if options.samples == 0 || options.batch == 0 {
        return Err(Error::invalid("calibration needs samples: there is no range of nothing"));
    }
    let schedule = model.scheduler.noise_schedule()?;
    let table = Table::from_pairs(&schedule, model.scheduler.prediction(), &student.pairs, 0.0, model.scheduler.clip())?;
    let spec =
        RunSpec { table: &table, batch: options.batch, size: options.size, purpose: Purpose::Data, precision: DType::F32, guidance: None, unrolled: UNROLLED };
    let mut run = SamplingRun::new_until(backend, model, &spec, stop)?;
    let mut observer = Observer::new(backend, model, options, stop)?;
    let conditions = model.roles()?.conditions;
    let drawn = draw_conditions(&conditions, rows, (options.samples, options.size), options.seed, stop)?;
    let given = conditions.iter().zip(&drawn).map(|(condition, rows)| Ok((condition.kind, Values::of(rows)?)));
    let given = memory::try_collect(given, "conditions")?;
    for_each_batch(&mut run, options.seed, &given, options.samples, |run, first, used, given| {
        run.draw_noise(stop)?;
        for step in &table.steps {
            let x = memory::copy(&run.read()?, "a state")?;
            observer.look(&x, step.t as f32, given, stop)?;
            run.advance(stop)?;
        }
        if progress(first + used, options.samples) { Ok(()) } else { Err(Error::cancelled("the calibration was cancelled")) }
    })?;
    Ok(observer)
}
