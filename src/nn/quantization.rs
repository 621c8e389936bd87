//! The whole numbers that a model computes in: which layers, and how. A model carries them, so that whoever builds its network, to sample or to train it,
//! builds the same arithmetic; the scales are tensors beside the weights.

use crate::error::{Error, Result};
use crate::graph::ops::Codes;
use crate::io::json::describe;
use crate::io::record;
use crate::memory;
use crate::tensor::{DType, Tensor};
use half::f16;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How the input of a layer is rounded: one scale, the tensor [`input_scale`], and these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputNumbers {
    /// The least number.
    pub low: u8,
    /// The greatest.
    pub high: u8,
    /// The number that stands for 0.
    pub zero: u8,
}

impl InputNumbers {
    /// The numbers.
    pub fn codes(self) -> Codes {
        Codes { low: self.low.into(), high: self.high.into(), ..Codes::U8 }
    }
}

/// How a layer is quantised. Its weights are symmetric, in -127..=127 with a scale for each output: the tensor [`weight_scale`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerNumbers {
    /// Its input; `None` leaves it in float.
    pub input: Option<InputNumbers>,
}

/// What a quantised model computes in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quantization {
    /// The layers in whole numbers by their path, such as `mid_block.resnets.0.conv1`. All others compute in float.
    pub layers: BTreeMap<String, LayerNumbers>,
    /// The sampler's grid that it was calibrated on, the student's: pairs (t, t_next). On another its ranges mean nothing.
    pub pairs: Vec<(i64, i64)>,
}

/// Refuses a timestep that is none of those that a model in whole numbers was calibrated on.
pub fn check_timestep(pairs: &[(i64, i64)], timestep: f64) -> Result<()> {
    if pairs.iter().any(|(t, _)| *t as f64 == timestep) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "timestep {timestep}: the model is quantised for its own grid {pairs:?} and is evaluated at the timesteps that its steps begin at"
    )))
}

/// The name of the scale of a layer's input, [1].
pub fn input_scale(layer: &str) -> String {
    format!("{layer}.input_scale")
}

/// The name of the scales of a layer's weights, [O].
pub fn weight_scale(layer: &str) -> String {
    format!("{layer}.weight_scale")
}

/// The whole numbers of a layer's weights [O, ...] with these scales [O], as [`Quantize`](crate::graph::ops::Quantize) defines them.
pub fn to_numbers(weight: &Tensor, scales: &Tensor) -> Result<Tensor> {
    let mut numbers = Tensor::zeros(DType::I8, weight.shape())?;
    let (low, high) = (f64::from(Codes::WEIGHTS.low), f64::from(Codes::WEIGHTS.high));
    each_output(weight.numel(), scales, |range, scale| {
        let from = &weight.as_slice::<f32>()?[range.clone()];
        let round = |w: f32| (f64::from(w) / f64::from(scale)).round_ties_even().clamp(low, high) as i8;
        numbers.as_mut_slice::<i8>()?[range].iter_mut().zip(from).for_each(|(to, w)| *to = round(*w));
        Ok(())
    })?;
    Ok(numbers)
}

/// What such numbers stand for, f32.
pub fn from_numbers(numbers: &Tensor, scales: &Tensor) -> Result<Tensor> {
    let mut weight = Tensor::zeros(DType::F32, numbers.shape())?;
    each_output(numbers.numel(), scales, |range, scale| {
        let from = &numbers.as_slice::<i8>()?[range.clone()];
        weight.as_mut_slice::<f32>()?[range].iter_mut().zip(from).for_each(|(to, q)| *to = f32::from(*q) * scale);
        Ok(())
    })?;
    Ok(weight)
}

/// Calls `f(elements, scale)` for each output.
fn each_output(numel: usize, scales: &Tensor, mut f: impl FnMut(std::ops::Range<usize>, f32) -> Result<()>) -> Result<()> {
    let each = numel / scales.numel().max(1);
    let wide = scales.to_f32()?;
    wide.as_slice::<f32>()?.iter().enumerate().try_for_each(|(o, scale)| f(o * each..(o + 1) * each, *scale))
}

/// A tensor as f16 where all of it fits.
fn halved(tensor: &Arc<Tensor>) -> Result<Arc<Tensor>> {
    if tensor.dtype() != DType::F32 || tensor.as_slice::<f32>()?.iter().any(|v| v.abs() > f16::MAX.to_f32()) {
        return Ok(tensor.clone());
    }
    let mut half = Tensor::zeros(DType::F16, tensor.shape())?;
    half.as_mut_slice::<f16>()?.iter_mut().zip(tensor.as_slice::<f32>()?).for_each(|(to, v)| *to = f16::from_f32(*v));
    Ok(Arc::new(half))
}

impl Quantization {
    /// The weights as a quantised model keeps them: numbers of a byte for its layers, scales in f32, all else in f16 where that holds it, else in f32.
    pub fn narrowed(&self, weights: &BTreeMap<String, Arc<Tensor>>) -> Result<BTreeMap<String, Arc<Tensor>>> {
        let mut narrow = BTreeMap::new();
        for (name, tensor) in weights {
            memory::check()?;
            let scales = self.layer_of(name).and_then(|path| weights.get(&weight_scale(path)));
            let tensor = match scales {
                Some(scales) if tensor.dtype() != DType::I8 => Arc::new(to_numbers(&tensor.to_f32()?, scales)?),
                Some(_) => tensor.clone(),
                None if self.is_scale(name) => tensor.clone(),
                None => halved(tensor)?,
            };
            narrow.insert(name.clone(), tensor);
        }
        Ok(narrow)
    }

    /// The layer that a tensor is the weights of.
    pub fn layer_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_suffix(".weight").filter(|path| self.layers.contains_key(*path))
    }

    /// Version of the record.
    pub const VERSION: u32 = 1;
    /// Its key in `fewstep.json`.
    pub const KEY: &str = record::QUANTIZATION;

    /// Of a layer, if it is one of them.
    pub fn layer(&self, path: &str) -> Option<LayerNumbers> {
        self.layers.get(path).copied()
    }

    /// Whether a tensor of the model is one of the scales.
    pub fn is_scale(&self, name: &str) -> bool {
        let of = |kind: &str| name.strip_suffix(kind).and_then(|path| self.layers.get(path));
        of(".weight_scale").is_some() || of(".input_scale").is_some_and(|layer| layer.input.is_some())
    }

    /// As it is kept in files.
    pub fn to_value(&self) -> Value {
        let layer = |layer: &LayerNumbers| match layer.input {
            None => json!({}),
            Some(n) => json!({"input": {"low": n.low, "high": n.high, "zero_point": n.zero}}),
        };
        let layers: serde_json::Map<String, Value> = self.layers.iter().map(|(path, numbers)| (path.clone(), layer(numbers))).collect();
        json!({"version": Self::VERSION, "layers": layers, record::PAIRS: self.pairs})
    }

    /// All of it as bytes, each record the same and no two others alike: what is hashed.
    pub fn append_to(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let mut append = |part: &[u8]| memory::append(bytes, part, "a record of numbers");
        for (path, layer) in &self.layers {
            append(&(path.len() as u64).to_le_bytes())?;
            append(path.as_bytes())?;
            match layer.input {
                None => append(&[0])?,
                Some(InputNumbers { low, high, zero }) => append(&[1, low, high, zero])?,
            }
        }
        // No path is so long.
        append(&u64::MAX.to_le_bytes())?;
        self.pairs.iter().flat_map(|(t, next)| [t, next]).try_for_each(|t| append(&t.to_le_bytes()))
    }

    /// Reads what [`Quantization::to_value`] wrote.
    pub fn from_value(value: &Value) -> Result<Self> {
        if !value.is_object() {
            return Err(Error::corrupt(format!("{}: expected an object, found {}", Self::KEY, describe(value))));
        }
        let version = &value["version"];
        if *version != Self::VERSION {
            return Err(Error::version(format!("{}: version {}; this library reads version {}", Self::KEY, describe(version), Self::VERSION)));
        }
        let wrong =
            |what: &str, expected: &str, found: &Value| Error::corrupt(format!("{}: {what}: expected {expected}, found {}", Self::KEY, describe(found)));
        let mut this = Self::default();
        for (path, layer) in value["layers"].as_object().ok_or_else(|| wrong("layers", "an object", &value["layers"]))? {
            memory::check()?;
            let layer = layer.as_object().ok_or_else(|| wrong(path, "an object", layer))?;
            let input = layer.get("input").map(|input| {
                if !input.is_object() {
                    return Err(wrong(path, "an object \"input\"", input));
                }
                let byte =
                    |key: &str| input[key].as_u64().and_then(|n| u8::try_from(n).ok()).ok_or_else(|| wrong(path, &format!("a byte {key:?}"), &input[key]));
                let numbers = InputNumbers { low: byte("low")?, high: byte("high")?, zero: byte("zero_point")? };
                let ordered = numbers.low < numbers.high && (numbers.low..=numbers.high).contains(&numbers.zero);
                if ordered { Ok(numbers) } else { Err(wrong(path, "low <= zero_point <= high and low < high", input)) }
            });
            this.layers.insert(path.clone(), LayerNumbers { input: input.transpose()? });
        }
        this.pairs = record::pairs(value).map_err(|e| e.context(Self::KEY))?;
        Ok(this)
    }
}
