//! The whole numbers that a model computes in: which layers, and how. A model carries them, so that whoever builds its network, to sample or to train it,
//! builds the same arithmetic; the scales are tensors beside the weights.

use crate::error::{Error, Result};
use crate::graph::ops::Codes;
use crate::io::json::describe;
use crate::io::{TensorFile, record};
use crate::memory;
use crate::tensor::{DType, Tensor};
use half::{bf16, f16};
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

/// How the weights of a layer are rounded: symmetric around 0, with the scales of the tensor [`weight_scale`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightNumbers {
    /// Bits of a number: 8 (-127 to 127) or 4 (-7 to 7).
    pub bits: u8,
    /// Neighbours of an output's weights that share a scale; `None`: all of them.
    pub group: Option<usize>,
}

impl WeightNumbers {
    /// Bytes, with a scale for each output.
    pub const BYTES: Self = Self { bits: 8, group: None };

    /// The numbers.
    pub fn codes(self) -> Codes {
        match self.bits {
            4 => Codes { low: -7, high: 7, ..Codes::I8 },
            _ => Codes::WEIGHTS,
        }
    }

    /// Scales of weights [O, ...]: each is that of a run of them in memory. `None` where its groups are no part of an output's.
    pub fn scales(self, weight: &[usize]) -> Option<usize> {
        let (outputs, each) = (*weight.first()?, weight[1..].iter().product::<usize>());
        match self.group {
            None => Some(outputs),
            Some(group) => (group > 0 && each % group == 0).then(|| outputs * (each / group)),
        }
    }

    /// The shape that such weights have in a file: two of 4 bits are a byte, those of an output begin with one.
    fn stored(self, weight: &[usize]) -> Result<Vec<usize>> {
        match self.bits {
            4 => {
                let outputs = weight.first().copied().unwrap_or(1).max(1);
                memory::copy(&[outputs, (weight.iter().product::<usize>() / outputs).div_ceil(2)], "shape")
            }
            _ => memory::copy(weight, "shape"),
        }
    }
}

/// How a layer is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerNumbers {
    /// Its input; `None` leaves it in float.
    pub input: Option<InputNumbers>,
    /// Its weights.
    pub weights: WeightNumbers,
}

/// What a quantised model computes in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quantization {
    /// The layers in whole numbers by their path, such as `mid_block.resnets.0.conv1`. All others compute in float.
    pub layers: BTreeMap<String, LayerNumbers>,
    /// The sampler's grid that it was calibrated on, the student's: pairs (t, t_next). On another its ranges mean nothing.
    pub pairs: Vec<(i64, i64)>,
    /// What it was made of and how, for people: an object that is kept as it is. Nothing is computed with it.
    pub provenance: Option<Value>,
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

/// The whole numbers of a layer's weights with the scales of runs of them, as [`Quantize`](crate::graph::ops::Quantize) defines them.
pub fn to_numbers(weight: &Tensor, scales: &Tensor, codes: Codes) -> Result<Tensor> {
    let mut numbers = Tensor::zeros(DType::I8, weight.shape())?;
    let (low, high) = (f64::from(codes.low), f64::from(codes.high));
    each_run(weight.numel(), scales, |range, scale| {
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
    each_run(numbers.numel(), scales, |range, scale| {
        let from = &numbers.as_slice::<i8>()?[range.clone()];
        weight.as_mut_slice::<f32>()?[range].iter_mut().zip(from).for_each(|(to, q)| *to = f32::from(*q) * scale);
        Ok(())
    })?;
    Ok(weight)
}

/// Numbers of 4 bits, two a byte: the first in the lower half, both in two's complement.
pub fn in_halves(numbers: &[i8]) -> impl Iterator<Item = u8> {
    numbers.chunks(2).map(|pair| pair.iter().rev().fold(0, |byte, n| byte << 4 | (*n as u8 & 15)))
}

/// Weights of 4 bits as files have them.
fn halves(numbers: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let mut packed = Tensor::zeros(DType::U8, shape)?;
    let each = numbers.numel() / shape[0].max(1);
    let rows = packed.as_mut_slice::<u8>()?.chunks_mut(shape[1].max(1)).zip(numbers.as_slice::<i8>()?.chunks(each.max(1)));
    for (to, from) in rows {
        to.iter_mut().zip(in_halves(from)).for_each(|(to, byte)| *to = byte);
    }
    Ok(packed)
}

/// The numbers of such a tensor.
fn from_halves(packed: &Tensor, weight: &[usize]) -> Result<Tensor> {
    let mut numbers = Tensor::zeros(DType::I8, weight)?;
    let (each, bytes) = (numbers.numel() / packed.shape()[0].max(1), packed.shape()[1]);
    let rows = numbers.as_mut_slice::<i8>()?.chunks_mut(each.max(1)).zip(packed.as_slice::<u8>()?.chunks(bytes.max(1)));
    for (to, from) in rows {
        let signed = |half: u8| ((half << 4) as i8) >> 4;
        to.chunks_mut(2).zip(from).for_each(|(to, byte)| to.iter_mut().zip([byte & 15, byte >> 4]).for_each(|(to, half)| *to = signed(half)));
    }
    Ok(numbers)
}

/// Calls `f(elements, scale)` for each run of weights that has a scale.
fn each_run(numel: usize, scales: &Tensor, mut f: impl FnMut(std::ops::Range<usize>, f32) -> Result<()>) -> Result<()> {
    let each = numel / scales.numel().max(1);
    let wide = scales.to_f32()?;
    wide.as_slice::<f32>()?.iter().enumerate().try_for_each(|(o, scale)| f(o * each..(o + 1) * each, *scale))
}

/// A tensor of f32 as f16 or bf16 where all of it fits; any other as it is.
pub fn as_halves(tensor: &Arc<Tensor>, dtype: DType) -> Result<Arc<Tensor>> {
    let most = if dtype == DType::F16 { f16::MAX.to_f32() } else { bf16::MAX.to_f32() };
    if tensor.dtype() != DType::F32 || tensor.as_slice::<f32>()?.iter().any(|v| v.abs() > most) {
        return Ok(tensor.clone());
    }
    let mut half = Tensor::zeros(dtype, tensor.shape())?;
    let wide = tensor.as_slice::<f32>()?;
    match dtype {
        DType::F16 => half.as_mut_slice::<f16>()?.iter_mut().zip(wide).for_each(|(to, v)| *to = f16::from_f32(*v)),
        DType::Bf16 => half.as_mut_slice::<bf16>()?.iter_mut().zip(wide).for_each(|(to, v)| *to = bf16::from_f32(*v)),
        other => return Err(Error::internal(format!("{other:?} for half of f32"))),
    }
    Ok(Arc::new(half))
}

impl Quantization {
    /// Whether inputs are rounded, by ranges that mean nothing off the grid that they were calibrated on.
    pub fn has_ranges(&self) -> bool {
        self.layers.values().any(|layer| layer.input.is_some())
    }

    /// How the weights of this name are rounded, if they are.
    pub fn weights(&self, name: &str) -> Option<WeightNumbers> {
        Some(self.layers.get(self.layer_of(name)?)?.weights)
    }

    /// Weights as files have them.
    pub fn to_file(&self, name: &str, tensor: &Arc<Tensor>) -> Result<Arc<Tensor>> {
        match self.weights(name).filter(|numbers| numbers.bits == 4) {
            Some(numbers) => Ok(Arc::new(halves(tensor, &numbers.stored(tensor.shape())?)?)),
            None => Ok(tensor.clone()),
        }
    }

    /// A layer's weights of this shape out of a file.
    pub fn take(&self, numbers: WeightNumbers, tensors: &mut TensorFile, name: &str, shape: &[usize]) -> Result<Tensor> {
        let expected = if numbers.bits == 4 { DType::U8 } else { DType::I8 };
        let corrupt = |tensors: &TensorFile, what: String| Error::corrupt(format!("{}: tensor \"{name}\": {what}", tensors.file()));
        let found = tensors.get(name)?.dtype();
        if found != expected {
            return Err(corrupt(tensors, format!("expected {expected:?}, {} bits a weight, found {found:?}", numbers.bits)));
        }
        let stored = tensors.take_numbers(name, &numbers.stored(shape)?)?;
        let whole = if numbers.bits == 4 { from_halves(&stored, shape)? } else { stored };
        let Codes { low, high, .. } = numbers.codes();
        match whole.as_slice::<i8>()?.iter().enumerate().find(|(_, number)| !(low..=high).contains(&i32::from(**number))) {
            Some((i, number)) => Err(corrupt(tensors, format!("element {i} is {number}; these quantised weights are {low} to {high}"))),
            None => Ok(whole),
        }
    }

    /// The weights as a quantised model keeps them: whole numbers for its layers, their scales in f32 (in f16 where
    /// they are those of groups), all else in f16 where that holds it, else in f32.
    pub fn narrowed(&self, weights: &BTreeMap<String, Arc<Tensor>>) -> Result<BTreeMap<String, Arc<Tensor>>> {
        let mut narrow = BTreeMap::new();
        for (name, tensor) in weights {
            memory::check()?;
            let scales = self.layer_of(name).and_then(|path| Some((path, weights.get(&weight_scale(path))?)));
            let scales = scales.map(|(path, scales)| self.kept_scales(path, scales)).transpose()?;
            let tensor = match &scales {
                Some(scales) if tensor.dtype() != DType::I8 => {
                    Arc::new(to_numbers(&tensor.to_f32()?, scales, self.weights(name).unwrap_or(WeightNumbers::BYTES).codes())?)
                }
                Some(_) => tensor.clone(),
                None if self.is_scale(name) => match name.strip_suffix(".weight_scale") {
                    Some(path) => self.kept_scales(path, tensor)?,
                    None => tensor.clone(),
                },
                None => as_halves(tensor, DType::F16)?,
            };
            narrow.insert(name.clone(), tensor);
        }
        Ok(narrow)
    }

    /// A layer's scales as they are kept: those of groups are many, and so in f16 where none is too small for it.
    pub fn kept_scales(&self, path: &str, scales: &Arc<Tensor>) -> Result<Arc<Tensor>> {
        let groups = self.layers.get(path).is_some_and(|layer| layer.weights.group.is_some());
        let small = |scale: &f32| *scale < f16::MIN_POSITIVE.to_f32();
        if !groups || scales.dtype() != DType::F32 || scales.as_slice::<f32>()?.iter().any(small) {
            return Ok(scales.clone());
        }
        as_halves(scales, DType::F16)
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
        let layer = |layer: &LayerNumbers| {
            let mut value = json!({});
            if let Some(n) = layer.input {
                value["input"] = json!({"low": n.low, "high": n.high, "zero_point": n.zero});
            }
            if layer.weights != WeightNumbers::BYTES {
                value["weight"] = json!({"bits": layer.weights.bits, "group": layer.weights.group});
            }
            value
        };
        let layers: serde_json::Map<String, Value> = self.layers.iter().map(|(path, numbers)| (path.clone(), layer(numbers))).collect();
        let mut value = json!({"version": Self::VERSION, "layers": layers, record::PAIRS: self.pairs});
        if let Some(provenance) = &self.provenance {
            value["provenance"] = provenance.clone();
        }
        value
    }

    /// All that is computed with as bytes, each record the same and no two others alike: what is hashed.
    pub fn append_to(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let mut append = |part: &[u8]| memory::append(bytes, part, "a record of numbers");
        for (path, layer) in &self.layers {
            append(&(path.len() as u64).to_le_bytes())?;
            append(path.as_bytes())?;
            match layer.input {
                None => append(&[0])?,
                Some(InputNumbers { low, high, zero }) => append(&[1, low, high, zero])?,
            }
            append(&[layer.weights.bits])?;
            append(&(layer.weights.group.unwrap_or(0) as u64).to_le_bytes())?;
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
            let weights = layer.get("weight").map_or(Ok(WeightNumbers::BYTES), |weight| {
                let bits = weight["bits"].as_u64().filter(|bits| [4, 8].contains(bits));
                let bits = bits.ok_or_else(|| wrong(path, "\"bits\" of 4 or 8", &weight["bits"]))? as u8;
                let group = match &weight["group"] {
                    Value::Null => None,
                    group => Some(group.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| wrong(path, "a \"group\" of weights", group))?),
                };
                Ok(WeightNumbers { bits, group })
            })?;
            this.layers.insert(path.clone(), LayerNumbers { input: input.transpose()?, weights });
        }
        this.provenance = value.get("provenance").cloned();
        if let Some(other) = this.provenance.as_ref().filter(|provenance| !provenance.is_object()) {
            return Err(wrong("provenance", "an object", other));
        }
        if value.get(record::PAIRS).is_some() || this.has_ranges() {
            this.pairs = record::pairs(value).map_err(|e| e.context(Self::KEY))?;
        }
        Ok(this)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_weights_of_4_bits_are_a_byte_and_outputs_begin_with_one() -> Result<()> {
        let numbers = WeightNumbers { bits: 4, group: None };
        for shape in [&[3, 5][..], &[2, 4, 3, 3], &[1, 1], &[4, 3, 1, 1]] {
            let count = shape.iter().product::<usize>();
            let all: Vec<i8> = (0..count).map(|i| (i * 5 % 15) as i8 - 7).collect();
            let whole = Tensor::from_slice(shape, &all)?;
            let stored = numbers.stored(shape)?;
            assert_eq!(stored, [shape[0], (count / shape[0]).div_ceil(2)]);
            let packed = halves(&whole, &stored)?;
            assert_eq!(from_halves(&packed, shape)?.as_slice::<i8>()?, all, "{shape:?}");
        }
        let packed = halves(&Tensor::from_slice(&[1, 3], &[-7i8, 2, 7])?, &[1, 2])?;
        assert_eq!(packed.as_slice::<u8>()?, [0x29, 0x07]);
        Ok(())
    }
}
