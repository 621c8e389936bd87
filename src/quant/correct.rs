//! Bias correction: rounding shifts what a layer gives, on average over samples, positions and steps; its biases give that back (Nagel et al. 2019, "Data-free
//! quantization through weight equalization and bias correction", arXiv 1906.04721, section 4.2, with means that are measured).
//!
//! Each layer's shift is that of its own rounding, on what the student in floats reads: shifts of layers before it are theirs to give back.

use super::calibrate::Calibration;
use crate::error::{Error, Result};
use crate::graph::ops::{Conv2d, FakeQuantize};
use crate::graph::{Graph, Op, ValueId};
use crate::memory;
use crate::nn::quantization::{from_numbers, input_scale, to_numbers, weight_scale};
use crate::nn::{Layer, LayerNumbers, Model, Quantization};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The sum of a layer's shifts, and of how many evaluations.
type Shift = (Vec<f64>, usize);

/// `quantized`, whose weights are still floats, with the biases of its layers corrected.
pub(super) fn correct_biases(calibration: &mut Calibration, quantized: &mut Model) -> Result<()> {
    let mut observed = vec![];
    let mut evaluator = calibration.evaluator(|g, layers| {
        for layer in layers {
            if let Some((quantization, numbers)) = quantized.quantization.as_ref().and_then(|q| Some((q, q.layer(&layer.path)?))) {
                let shift = shift(g, layer, (quantization, numbers), quantized)?;
                memory::push(&mut observed, (layer.path.clone(), shift), "layers")?;
            }
        }
        memory::collect(observed.iter().map(|(_, value)| *value), "layers")
    })?;
    let mut shifts = BTreeMap::<&str, Shift>::new();
    calibration.sample(&mut evaluator, |timestep, evaluator| {
        for (path, value) in &observed {
            memory::check()?;
            let values = evaluator.observed(*value)?;
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                return Err(Error::numeric(format!("rounding shifts output {i} of layer '{path}' by {}, timestep {timestep}", values[i])));
            }
            let (sum, count) = shifts.entry(path).or_default();
            if sum.is_empty() {
                *sum = memory::filled(0.0, values.len(), "biases")?;
            }
            sum.iter_mut().zip(values.iter()).for_each(|(sum, v)| *sum += f64::from(*v));
            *count += 1;
        }
        Ok(())
    })?;
    for (path, (sum, count)) in shifts {
        let name = format!("{path}.bias");
        let bias = quantized.weights.get(&name).ok_or_else(|| Error::internal(format!("no '{name}'")))?.to_f32()?;
        let mut corrected = memory::copy(bias.as_slice::<f32>()?, "biases")?;
        corrected.iter_mut().zip(&sum).for_each(|(b, sum)| *b = (f64::from(*b) + sum / count as f64) as f32);
        quantized.weights.insert(name, Arc::new(Tensor::from_slice(bias.shape(), &corrected)?));
    }
    Ok(())
}

/// What a layer of floats gives more than it does with its numbers, on average over images and positions: [1,1,1,O].
fn shift(g: &mut Graph, layer: &Layer, (quantization, numbers): (&Quantization, LayerNumbers), quantized: &Model) -> Result<ValueId> {
    let (conv, [x, w]) = product(g, layer)?;
    let floats = g.push1(conv.into(), &[x, w])?;
    let tensor = |name: String| quantized.weights.get(&name).cloned().ok_or_else(|| Error::internal(format!("no '{name}'")));
    let rounded = match numbers.input {
        None => x,
        Some(input) => {
            let scale = tensor(input_scale(&layer.path))?;
            let scale = g.constant("scale", Tensor::from_slice(scale.shape(), scale.as_slice::<f32>()?)?)?;
            let zero = g.constant("zero_point", Tensor::from_slice(&[1], &[input.zero])?)?;
            g.push1(FakeQuantize { codes: input.codes(), axis: None, scale_gradient: 1.0 }.into(), &[x, scale, zero])?
        }
    };
    let (weight, scales) = (tensor(format!("{}.weight", layer.path))?, tensor(weight_scale(&layer.path))?);
    let scales = quantization.kept_scales(&layer.path, &scales)?;
    let stands_for = from_numbers(&to_numbers(&weight.to_f32()?, &scales, numbers.weights.codes())?, &scales)?;
    let shape = memory::copy(g.shape(w), "shape")?;
    let weights = g.constant("weight", stands_for)?;
    let weights = g.reshape(weights, &shape)?;
    let whole = g.push1(conv.into(), &[rounded, weights])?;
    let difference = g.sub(floats, whole)?;
    let [n, p, q, o] = *g.shape(difference) else { return Err(Error::internal("a convolution's output is [N,P,Q,O]")) };
    let sum = g.reduce_sum(difference, &[1, 1, 1, o])?;
    g.affine(sum, 1.0 / (n * p * q) as f32, 0.0)
}

/// The convolution that a layer is, without its bias, and what it reads: x and the weights.
fn product(g: &Graph, layer: &Layer) -> Result<(Conv2d, [ValueId; 2])> {
    let mut value = layer.output;
    while let Some((at, _)) = g.origin(value) {
        let node = &g.nodes()[at];
        match &node.op {
            Op::Conv2d(conv) => return Ok((Conv2d { bias: false, ..*conv }, [node.inputs[0], node.inputs[1]])),
            Op::Reshape(_) => value = node.inputs[0],
            _ => break,
        }
    }
    Err(Error::internal(format!("layer '{}' is no convolution", layer.path)))
}
