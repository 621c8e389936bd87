//! Calibration: the model samples, and what its layers read in each of the steps gives the ranges.

use super::mode::Mode;
use super::policy::Policy;
use super::range::{Range, weight_scales};
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::diffusion::Table;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::memory;
use crate::nn::conditions::Values;
use crate::nn::quantization::{input_scale, weight_scale};
use crate::nn::{Layer, LayerNumbers, Model, Quantization};
use crate::random::Purpose;
use crate::sampling::{Evaluator, Given, RunSpec, SamplingRun, UNROLLED, draw_conditions, for_each_batch};
use crate::tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is calibrated on, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Into what.
    pub mode: Mode,
    /// Which layers stay in float.
    pub policy: Policy,
    /// The greatest number of a rounded input: 129 keeps sums of two products in 16 bits, which AVX2 gains by; 255 uses all of a byte.
    pub high: u8,
    /// Samples that are drawn.
    pub samples: usize,
    /// Of these many at a time.
    pub batch: usize,
    /// [H, W] of a sample.
    pub size: [usize; 2],
    /// Seed of their noise.
    pub seed: u64,
}

/// The network, and what its layers have read so far.
struct Observer {
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
    fn ranges(&self) -> impl Iterator<Item = (&str, Range)> {
        self.layers.iter().map(|(path, input)| (path.as_str(), self.inputs[*input].1))
    }
}

/// The model with weights, and perhaps what layers read, of fewer bits: inputs by the range that they have in all steps of `options.samples` runs. `rows` has
/// what their conditions are drawn from; nothing for labels alone. `progress(done, total)` returning false cancels, and so does `stop`.
pub fn quantize(
    backend: &dyn Backend,
    model: &Model,
    options: &Options,
    rows: &[Arc<Tensor>],
    progress: &mut dyn FnMut(usize, usize) -> bool,
    stop: Stop,
) -> Result<Model> {
    if model.quantization.is_some() {
        return Err(Error::invalid("the model is quantised already: quantise the one that it was made of"));
    }
    if let Some(dtype) = options.mode.floats() {
        if options.policy != Policy::default() {
            return Err(Error::invalid(format!("keep names layers that stay in float, but {:?} leaves no layer as it is", options.mode)));
        }
        return model.in_halves(dtype, stop);
    }
    if !options.mode.rounds_inputs() {
        let layers = model.network.layers()?;
        let chosen = options.policy.choose(&layers)?;
        return with_numbers(model, chosen.iter().map(|layer| (layer.path.as_str(), None)), options, &[], stop);
    }
    let Some(student) = &model.student else {
        return Err(Error::invalid("only a few-step student's inputs are rounded, on its own grid: give fewstep_model_derive_student steps or pairs"));
    };
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
    let ranges = observer.ranges().map(|(path, range)| (path, Some(range)));
    with_numbers(model, ranges, options, &student.pairs, stop)
}

/// The model with scales for these layers and the ranges of their inputs, if those are rounded; a layer that comes twice has what is in both.
pub(super) fn with_numbers<'a>(
    model: &Model,
    layers: impl Iterator<Item = (&'a str, Option<Range>)>,
    options: &Options,
    pairs: &[(i64, i64)],
    stop: Stop,
) -> Result<Model> {
    let mut ranges = BTreeMap::<&str, Option<Range>>::new();
    for (path, range) in layers {
        memory::check()?;
        let known = ranges.entry(path).or_default();
        *known = range.map(|range| known.unwrap_or_default().union(range));
    }
    let mut quantized = model.clone();
    let mut quantization = Quantization { pairs: memory::copy(pairs, "pairs")?, ..Quantization::default() };
    for (path, range) in ranges {
        stop.check()?;
        memory::check()?;
        let numbers = range.map(|range| range.numbers(options.high));
        if let Some((scale, _)) = numbers {
            quantized.weights.insert(input_scale(path), Arc::new(Tensor::from_slice(&[1], &[scale])?));
        }
        let name = format!("{path}.weight");
        let weight = model.weights.get(&name).ok_or_else(|| Error::internal(format!("layer '{path}' has no weight")))?;
        let weights = options.mode.weights(weight.shape());
        let rows = weights.scales(weight.shape()).ok_or_else(|| Error::internal(format!("{weights:?} of '{path}'")))?;
        let scales = memory::collect(weight_scales(weight.to_f32()?.as_slice::<f32>()?, rows, weights.codes()), "scales")?;
        quantized.weights.insert(weight_scale(path), Arc::new(Tensor::from_slice(&[rows], &scales)?));
        quantization.layers.insert(path.to_owned(), LayerNumbers { input: numbers.map(|(_, input)| input), weights });
    }
    quantized.quantization = Some(quantization);
    quantized.narrowed()
}
