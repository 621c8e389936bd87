//! What each layer's whole numbers cost: the error of a student's states where that layer alone computes in them, and where all others do.

use crate::backend::Backend;
use crate::cancel::Stop;
use crate::diffusion::Table;
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::conditions::Values;
use crate::nn::quantization::{as_halves, input_scale, weight_scale};
use crate::nn::{Model, Quantization};
use crate::random::Purpose;
use crate::sampling::{Given, RunSpec, SamplingRun, UNROLLED, draw_conditions, for_each_batch};
use crate::tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// On which samples errors are measured. None of a calibration's noises are among them.
#[derive(Clone, Copy, Debug)]
pub struct Samples {
    /// Samples that are drawn.
    pub count: usize,
    /// Of these many at a time.
    pub batch: usize,
    /// [H, W] of a sample.
    pub size: [usize; 2],
    /// Seed of their noise.
    pub seed: u64,
}

/// A layer of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerReport {
    /// Its path.
    pub layer: String,
    /// Where it alone computes in whole numbers: RMSE of the state that each step lands on, against the student in floats from the same noise.
    pub alone: Vec<f64>,
    /// Where all others do and it stays in float: that of the last state.
    pub kept: f64,
}

/// The report on a quantised student.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// RMSE of the state that each step of the quantised student lands on, against the student in floats from the same noise.
    pub steps: Vec<f64>,
    /// Every quantised layer, in the order of paths.
    pub layers: Vec<LayerReport>,
}

impl LayerReport {
    /// What it alone adds to the mean square of the last state.
    fn square(&self) -> f64 {
        self.alone.last().map_or(0.0, |error| error * error)
    }
}

impl Report {
    /// A layer's part of the sum of what layers alone add to the mean square of the last state, 0 to 1.
    pub fn share(&self, layer: usize) -> f64 {
        let sum: f64 = self.layers.iter().map(LayerReport::square).sum();
        if sum > 0.0 { self.layers[layer].square() / sum } else { 0.0 }
    }
}

/// Samples a model and its variants from the same noises.
struct Measure<'a> {
    backend: &'a dyn Backend,
    table: Table,
    samples: Samples,
    conditions: Vec<Given<'a>>,
    stop: Stop<'a>,
}

impl Measure<'_> {
    /// Calls `f(step, first element, state)` for the states that each step lands on.
    fn states(&self, model: &Model, mut f: impl FnMut(usize, usize, &[f32]) -> Result<()>) -> Result<()> {
        let Samples { count, batch, size, seed } = self.samples;
        let purpose = Purpose::Evaluation;
        let spec = RunSpec { table: &self.table, batch, size, purpose, precision: DType::F32, guidance: None, unrolled: UNROLLED };
        let mut run = SamplingRun::new_until(self.backend, model, &spec, self.stop)?;
        for_each_batch(&mut run, seed, &self.conditions, count, |run, first, used, _| {
            run.draw_noise(self.stop)?;
            let each: usize = run.shape()[1..].iter().product();
            for step in 0..self.table.steps.len() {
                run.advance(self.stop)?;
                f(step, first * each, &run.read()?[..used * each])?;
            }
            Ok(())
        })
    }

    /// RMSE of each step's states against these.
    fn errors(&self, model: &Model, exact: &[Vec<f32>]) -> Result<Vec<f64>> {
        let mut sums = memory::filled(0f64, exact.len(), "errors")?;
        self.states(model, |step, at, found| {
            let pairs = exact[step][at..].iter().zip(found);
            sums[step] += pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
            Ok(())
        })?;
        sums.iter_mut().zip(exact).for_each(|(sum, states)| *sum = (*sum / states.len() as f64).sqrt());
        Ok(sums)
    }
}

/// `quantized` with those layers in the floats of `student` that `chosen` does not say.
fn with_layers(student: &Model, quantized: &Model, numbers: &Quantization, chosen: impl Fn(&str) -> bool) -> Result<Model> {
    let mut model = quantized.clone();
    let mut own = Quantization { layers: BTreeMap::new(), ..numbers.clone() };
    for (path, layer) in &numbers.layers {
        memory::check()?;
        if chosen(path) {
            own.layers.insert(path.clone(), *layer);
            continue;
        }
        let [weight, bias] = ["weight", "bias"].map(|kind| format!("{path}.{kind}"));
        let floats = |name: &str| student.weights.get(name).ok_or_else(|| Error::internal(format!("no '{name}'")));
        let (weights, biases) = (floats(&weight)?.clone(), as_halves(floats(&bias)?, DType::F16)?);
        model.weights.extend([(weight, weights), (bias, biases)]);
        [input_scale(path), weight_scale(path)].iter().for_each(|name| drop(model.weights.remove(name)));
    }
    model.quantization = Some(own);
    Ok(model)
}

/// An error where what stays in float is not the student's: of a model that was trained on, no layer's error could be told from that of the training. Biases of
/// quantised layers may have been corrected.
fn check_floats(student: &Model, quantized: &Model, numbers: &Quantization) -> Result<()> {
    let own = |name: &str| name.rsplit_once('.').is_some_and(|(path, kind)| ["weight", "bias"].contains(&kind) && numbers.layer(path).is_some());
    for (name, tensor) in quantized.weights.iter().filter(|(name, _)| !own(name) && !numbers.is_scale(name)) {
        memory::check()?;
        let own = student.weights.get(name).map(|own| as_halves(own, DType::F16)).transpose()?;
        if own.is_none_or(|own| own.dtype() != tensor.dtype() || own.bytes() != tensor.bytes()) {
            return Err(Error::invalid(format!(
                "tensor \"{name}\" is another in the quantised model: it was not made of this student, or was trained on since"
            )));
        }
    }
    Ok(())
}

/// The numbers of `quantized` and its grid; an error where it was not made of `student`.
fn check_models<'a>(student: &Model, quantized: &'a Model) -> Result<(&'a Quantization, &'a [(i64, i64)])> {
    let numbers = quantized.quantization.as_ref().ok_or_else(|| Error::invalid("the second model is not quantised: there is nothing to report"))?;
    if student.quantization.is_some() {
        return Err(Error::invalid("the first model is quantised: errors are those against the student in floats that the second one was made of"));
    }
    if student.network.settings() != quantized.network.settings() {
        return Err(Error::invalid("the models have different architectures: the quantised one was not made of this student"));
    }
    let [own, other] = [&student.scheduler, &quantized.scheduler];
    if own.prediction() != other.prediction() || !own.noise_schedule()?.agrees_with(&other.noise_schedule()?) {
        return Err(Error::invalid("the models have different noise schedules or prediction types: the quantised one was not made of this student"));
    }
    let Some(info) = &quantized.student else {
        return Err(Error::invalid("the models have no grid of their own: what is reported is the error of a few-step student's states"));
    };
    check_floats(student, quantized, numbers)?;
    Ok((numbers, &info.pairs))
}

/// What the whole numbers of `quantized`, which was made of `student`, cost. `rows` has what conditions are drawn from; nothing for labels alone.
/// `progress(done, total)`, of models that were sampled, returning false cancels, and so does `stop`.
pub fn report(
    backend: &dyn Backend,
    [student, quantized]: [&Model; 2],
    samples: Samples,
    rows: &[Arc<Tensor>],
    progress: &mut dyn FnMut(usize, usize) -> bool,
    stop: Stop,
) -> Result<Report> {
    let (numbers, pairs) = check_models(student, quantized)?;
    if samples.count == 0 || samples.batch == 0 {
        return Err(Error::invalid("a report needs samples: there is no error of nothing"));
    }
    let schedule = quantized.scheduler.noise_schedule()?;
    let table = Table::from_pairs(&schedule, quantized.scheduler.prediction(), pairs, 0.0, quantized.scheduler.clip())?;
    let conditions = quantized.roles()?.conditions;
    let drawn = draw_conditions(&conditions, rows, (samples.count, samples.size), samples.seed, stop)?;
    let given = conditions.iter().zip(&drawn).map(|(condition, rows)| Ok((condition.kind, Values::of(rows)?)));
    let measure = Measure { backend, table, samples, conditions: memory::try_collect(given, "conditions")?, stop };

    let total = 2 + 2 * numbers.layers.len();
    let mut done = 0;
    let mut sampled = || {
        done += 1;
        if progress(done, total) { Ok(()) } else { Err(Error::cancelled("the report was cancelled")) }
    };
    let mut exact = memory::try_collect((0..measure.table.steps.len()).map(|_| Ok(vec![])), "states")?;
    measure.states(student, |step, _, state| memory::append(&mut exact[step], state, "states"))?;
    sampled()?;
    let mut report = Report { steps: measure.errors(quantized, &exact)?, layers: vec![] };
    sampled()?;
    for layer in numbers.layers.keys() {
        let alone = measure.errors(&with_layers(student, quantized, numbers, |path| path == layer)?, &exact)?;
        sampled()?;
        let others = measure.errors(&with_layers(student, quantized, numbers, |path| path != layer)?, &exact)?;
        sampled()?;
        let kept = others.last().copied().unwrap_or_default();
        memory::push(&mut report.layers, LayerReport { layer: layer.clone(), alone, kept }, "layers")?;
    }
    Ok(report)
}
