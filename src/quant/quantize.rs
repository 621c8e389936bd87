//! A model in fewer bits of one in floats.

use super::calibrate::Calibration;
use super::correct::correct_biases;
use super::options::Options;
use super::policy::Policy;
use super::range::{Range, weight_scales};
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::quantization::{input_scale, weight_scale};
use crate::nn::{LayerNumbers, Model, Quantization};
use crate::tensor::Tensor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

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
        if options.correct_biases {
            return Err(Error::invalid(format!("{:?} shifts nothing that biases could give back", options.mode)));
        }
        return model.in_halves(dtype, stop);
    }
    if model.own_steps().is_some() {
        let way_out = "quantise a student that was derived without per_step_weights, or to f16 or bfloat16";
        return Err(Error::unsupported(format!("each step of the student's grid has parameters of its own, which no layer in whole numbers has: {way_out}")));
    }
    let student = match &model.student {
        None if options.mode.rounds_inputs() => {
            return Err(Error::invalid("only a few-step student's inputs are rounded, on its own grid: give fewstep_model_derive_student steps or pairs"));
        }
        None if options.correct_biases => {
            return Err(Error::invalid("biases are corrected by what a few-step student reads on its own grid; the model has none"));
        }
        student => student.as_ref().filter(|_| options.calibrates()),
    };
    let quantized = match student {
        None => weights_alone(model, options, stop)?,
        Some(student) => calibrated(Calibration::new(backend, (model, student), options, rows, progress, stop)?, &student.pairs)?,
    };
    quantized.narrowed()
}

/// The model with numbers that its student's own sampling run gives, whose grid this is.
fn calibrated(mut calibration: Calibration, pairs: &[(i64, i64)]) -> Result<Model> {
    let (model, options, stop) = (calibration.model, calibration.options, calibration.stop);
    let mut quantized = if options.mode.rounds_inputs() {
        let ranges = calibration.ranges()?;
        with_numbers(model, ranges.iter().map(|(path, range)| (path.as_str(), Some(*range))), options, pairs, stop)?
    } else {
        weights_alone(model, options, stop)?
    };
    if options.correct_biases {
        correct_biases(&mut calibration, &mut quantized)?;
    }
    Ok(quantized)
}

/// What people may want to know of a quantised model: what it was made of, and how. These words are in files.
fn provenance(model: &Model, options: &Options, stop: Stop) -> Result<Value> {
    let mut record = json!({"fewstep": env!("CARGO_PKG_VERSION"), "mode": options.mode.word(), "weights_sha256": model.weights_hash(stop)?});
    if options.calibrates() {
        record["calibration"] = json!({"samples": options.samples, "seed": options.seed, "correct_biases": options.correct_biases});
    }
    if options.mode.rounds_inputs() {
        record["calibration"]["range"] = options.ends.to_value();
    }
    Ok(record)
}

/// The model with scales for the weights of its layers alone.
fn weights_alone(model: &Model, options: &Options, stop: Stop) -> Result<Model> {
    let layers = model.network.layers()?;
    let chosen = options.policy.choose(&layers)?;
    with_numbers(model, chosen.iter().map(|layer| (layer.path.as_str(), None)), options, &[], stop)
}

/// The model with scales for these layers and for the ranges of their inputs, if those are rounded; a layer that comes twice has what is in both. Its weights are
/// floats as yet.
pub fn with_numbers<'a>(
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
    let mut quantization =
        Quantization { pairs: memory::copy(pairs, "pairs")?, provenance: Some(provenance(model, options, stop)?), ..Quantization::default() };
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
    Ok(quantized)
}
