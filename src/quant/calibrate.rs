//! Calibration: the model samples, and what its layers read in each of the steps gives the ranges.

use super::policy::Policy;
use super::range::{Range, weight_scales};
use crate::backend::{Backend, Executable, as_bytes};
use crate::cancel::{Stop, cancelled};
use crate::diffusion::Table;
use crate::error::{Error, Result};
use crate::graph::{Graph, Numerics, TensorType, ValueId};
use crate::memory;
use crate::nn::conditions::Values;
use crate::nn::quantization::{input_scale, weight_scale};
use crate::nn::{Condition, InputNumbers, LayerNumbers, Model, Predictor, Quantization};
use crate::random::Purpose;
use crate::sampling::{Given, RunSpec, SamplingRun, UNROLLED, draw_conditions, for_each_batch};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// What is calibrated on, and how.
#[derive(Clone, Debug)]
pub struct Options {
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

/// The network with what its layers read tapped.
struct Observer {
    exec: Box<dyn Executable>,
    x: ValueId,
    t: ValueId,
    inputs: Vec<ValueId>,
    /// Path, what it reads, and the range of that so far.
    layers: Vec<(String, ValueId, Range)>,
}

impl Observer {
    fn new(backend: &dyn Backend, model: &Model, options: &Options, stop: Stop) -> Result<Self> {
        let roles = model.roles()?;
        let (batch, [h, w]) = (options.batch, options.size);
        let mut g = Graph::new();
        g.begin_segment("observation");
        let x = g.input("x_t", TensorType::f32(&[batch, h, w, roles.channels]))?;
        let t = g.input("timestep", TensorType::f32(&[batch]))?;
        let input = |c: &Condition| g.input(c.name.clone(), c.kind.ty(batch, options.size));
        let inputs = memory::try_collect(roles.conditions.iter().map(input), "conditions")?;
        let (_, layers) = Predictor::new(model, "").output_and_layers(&mut g, x, t, &inputs)?;
        let layers: Vec<_> = options.policy.choose(&layers)?.into_iter().map(|layer| (layer.path.clone(), layer.input, Range::default())).collect();
        layers.iter().for_each(|(_, input, _)| g.tap(*input));
        let mut exec = backend.compile_until(&g, &Numerics::F32, stop)?;
        for (name, tensor) in &model.weights {
            if g.storage(name).is_some() {
                exec.bind(name, tensor.clone())?;
            }
        }
        exec.prepare_until(stop)?;
        Ok(Self { exec, x, t, inputs, layers })
    }

    /// Looks at one evaluation.
    fn look(&mut self, x: &[f32], t: f32, given: &[Given], stop: Stop) -> Result<()> {
        self.exec.write_bytes(self.x, as_bytes(x))?;
        let batch = self.exec.plan().graph().value(self.t).ty.numel();
        self.exec.write_bytes(self.t, as_bytes(&memory::filled(t, batch, "timesteps")?))?;
        for (input, (_, values)) in self.inputs.iter().zip(given) {
            self.exec.write_bytes(*input, values.bytes())?;
        }
        let (start, end) = (self.exec.plan().prepared(), self.exec.plan().order().len());
        if self.exec.run_until(start..end, stop)? < end {
            return Err(cancelled());
        }
        for (path, input, range) in &mut self.layers {
            let values = self.exec.read_bytes(*input)?.of::<f32>()?;
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                return Err(Error::numeric(format!("the input of layer '{path}' is {} at element {i}, timestep {t}", values[i])));
            }
            *range = range.with(&values);
        }
        Ok(())
    }
}

/// The model in whole numbers: weights by output, inputs by the range that they have in all steps of `options.samples` runs. `rows` has what their conditions
/// are drawn from; nothing for labels alone. `progress(done, total)` returning false cancels, and so does `stop`.
pub fn quantize(
    backend: &dyn Backend,
    model: &Model,
    options: &Options,
    rows: &[Arc<Tensor>],
    progress: &mut dyn FnMut(usize, usize) -> bool,
    stop: Stop,
) -> Result<Model> {
    let Some(student) = &model.student else {
        return Err(Error::invalid("only a few-step student is quantised, on its own grid: give fewstep_model_derive_student steps or pairs"));
    };
    if options.samples == 0 || options.batch == 0 {
        return Err(Error::invalid("calibration needs samples: there is no range of nothing"));
    }
    if model.quantization.is_some() {
        return Err(Error::invalid("the model is quantised already: quantise the one that it was made of"));
    }
    let schedule = model.scheduler.noise_schedule()?;
    let table = Table::from_pairs(&schedule, model.scheduler.prediction(), &student.pairs, 0.0, model.scheduler.clip())?;
    let spec =
        RunSpec { table: &table, batch: options.batch, size: options.size, purpose: Purpose::Noise, precision: DType::F32, guidance: None, unrolled: UNROLLED };
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
    with_ranges(model, &observer.layers, options.high, &student.pairs)
}

/// The model with scales for these ranges.
fn with_ranges(model: &Model, layers: &[(String, ValueId, Range)], high: u8, pairs: &[(i64, i64)]) -> Result<Model> {
    let mut quantized = model.clone();
    let mut quantization = Quantization { pairs: memory::copy(pairs, "pairs")?, ..Quantization::default() };
    for (path, _, range) in layers {
        memory::check()?;
        let (scale, input): (f32, InputNumbers) = range.numbers(high);
        quantized.weights.insert(input_scale(path), Arc::new(Tensor::from_slice(&[1], &[scale])?));
        let name = format!("{path}.weight");
        let weight = model.weights.get(&name).ok_or_else(|| Error::internal(format!("layer '{path}' has no weight")))?;
        let wide = weight.to_f32()?;
        let outputs = weight.shape()[0];
        let scales = memory::collect(weight_scales(wide.as_slice::<f32>()?, outputs), "scales")?;
        quantized.weights.insert(weight_scale(path), Arc::new(Tensor::from_slice(&[outputs], &scales)?));
        quantization.layers.insert(path.clone(), LayerNumbers { input: Some(input) });
    }
    quantized.quantization = Some(quantization);
    quantized.narrowed()
}
