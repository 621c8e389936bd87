//! Where a network's parameters are in a graph, and what they begin as.

use super::quantization::{Quantization, input_scale, weight_scale};
use crate::error::{Error, Result};
use crate::graph::ops::{Binary, BinaryKind, Codes, FakeQuantize, UnaryKind};
use crate::graph::{Graph, TensorType, ValueId};
use crate::memory;
use crate::tensor::{DType, Tensor};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a parameter is before anything has trained it, as PyTorch initialises its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// U(-1/sqrt(n), 1/sqrt(n)), n the number of inputs of each of a layer's outputs: weights and biases of layers.
    Uniform(usize),
    /// N(0, 1): tables of embeddings.
    Normal,
    /// 1: the scales of norms.
    Ones,
    /// 0: the shifts of norms.
    Zeros,
}

/// A parameter that a network has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, the scope's prefix before it.
    pub name: String,
    /// As in the file.
    pub shape: Vec<usize>,
    /// What it begins as.
    pub initial: Initial,
}

impl Parameter {
    /// The path of the layer that it is the weights of, if it is those of one.
    pub fn layer(&self) -> Option<&str> {
        self.name.strip_suffix(".weight").filter(|_| matches!(self.initial, Initial::Uniform(_)))
    }
}

/// Layers with their parameters, under a prefix. The only place where a parameter enters a graph: in the type that it is stored in, and cast to f32 from there,
/// so that nobody else knows of that type.
#[derive(Debug)]
pub struct Scope<'a> {
    prefix: &'a str,
    /// What the parameters will be bound to, which has their types; without it they are f32.
    weights: Option<&'a BTreeMap<String, Arc<Tensor>>>,
    /// The layers that compute in whole numbers.
    quantization: Option<&'a Quantization>,
    /// Before the names of what their scales learn.
    scale_changes: Option<&'a str>,
    /// The steps whose biases and norms are read, where each has its own.
    steps: Option<OwnSteps>,
    parameters: RefCell<Vec<Parameter>>,
    layers: RefCell<Vec<Layer>>,
    features: RefCell<Vec<Feature>>,
}

/// The parameters of which step a program reads.
#[derive(Clone, Copy, Debug)]
pub struct OwnSteps {
    /// Steps of the grid.
    pub count: usize,
    /// Which of them, i32: [B] for each row, [1] for all of them.
    pub index: ValueId,
}

/// A layer with weights, a product of some kind.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its path, without the scope's prefix: that of its weights without `.weight`.
    pub path: String,
    /// What it reads, before any rounding.
    pub input: ValueId,
    /// What it gives.
    pub output: ValueId,
    /// Products of a sum.
    pub products: usize,
}

/// What a block of layers gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The block's path, without the scope's prefix.
    pub path: String,
    /// Its hidden state [B,H,W,C], or [B,T,C].
    pub value: ValueId,
}

/// What building a network has met.
#[derive(Clone, Debug)]
pub struct Met {
    /// The layers.
    pub layers: Vec<Layer>,
    /// What blocks give, inner ones before those that they are part of.
    pub features: Vec<Feature>,
}

impl<'a> Scope<'a> {
    /// `prefix` is put before every parameter's and feature's name, such as `student.`; it may be empty. Parameters are f32.
    pub fn new(prefix: &'a str) -> Self {
        Self {
            prefix,
            weights: None,
            quantization: None,
            scale_changes: None,
            steps: None,
            parameters: RefCell::default(),
            layers: RefCell::default(),
            features: RefCell::default(),
        }
    }

    /// The same for parameters that have the types of these weights, by their names without the prefix.
    pub fn of(prefix: &'a str, weights: &'a BTreeMap<String, Arc<Tensor>>) -> Self {
        Self { weights: Some(weights), ..Self::new(prefix) }
    }

    /// The same with these layers in whole numbers.
    pub fn quantized(self, quantization: Option<&'a Quantization>) -> Self {
        Self { quantization, ..self }
    }

    /// The same with scales that learn: each is multiplied by 1 + a state of its name with this prefix, so that a step of an optimizer changes all of them by
    /// the same share, whatever their size ([`scale_after`]).
    pub fn with_scale_changes(self, prefix: Option<&'a str>) -> Self {
        Self { scale_changes: prefix, ..self }
    }

    /// The same with biases and norms of these steps.
    pub fn of_steps(self, steps: Option<OwnSteps>) -> Self {
        Self { steps, ..self }
    }

    /// Layers and features in the order in which the network has met them.
    pub fn into_met(self) -> Met {
        Met { layers: self.layers.into_inner(), features: self.features.into_inner() }
    }

    /// The parameters in the order in which the network has met them.
    pub fn into_parameters(self) -> Vec<Parameter> {
        self.parameters.into_inner()
    }

    /// The full name of a parameter or a feature.
    pub fn name(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// Says that a block has given this value, which gets its name.
    pub fn feature(&self, g: &mut Graph, path: &str, value: ValueId) -> Result<()> {
        g.set_name(value, self.name(path));
        self.feature_of_all(path, value)
    }

    /// The same of a block of blocks: the value keeps the name that the last of them has given it.
    pub fn feature_of_all(&self, path: &str, value: ValueId) -> Result<()> {
        memory::push(&mut self.features.borrow_mut(), Feature { path: path.to_owned(), value }, "list of features")
    }

    /// The type that a parameter is stored in.
    fn stored(&self, path: &str) -> DType {
        self.weights.and_then(|weights| weights.get(path)).map_or(DType::F32, |tensor| tensor.dtype())
    }

    /// A parameter as it is stored.
    fn state(&self, g: &mut Graph, path: &str, shape: &[usize], initial: Initial) -> Result<ValueId> {
        let known = g.storages().len();
        let value = g.state(self.name(path), TensorType::new(self.stored(path), shape))?;
        if g.storages().len() > known {
            let parameter = Parameter { name: self.name(path), shape: memory::copy(shape, "shape")?, initial };
            memory::push(&mut self.parameters.borrow_mut(), parameter, "list of parameters")?;
        }
        Ok(value)
    }

    /// A parameter, f32: its state, or behind a state of another type the cast of it, one for all that read it.
    pub fn param(&self, g: &mut Graph, path: &str, shape: &[usize], initial: Initial) -> Result<ValueId> {
        let value = self.state(g, path, shape, initial)?;
        g.cast(value, DType::F32)
    }

    /// A vector [O] of the outputs of a layer: a bias, or what a norm multiplies by or adds.
    fn vector(&self, g: &mut Graph, path: &str, outputs: usize, initial: Initial) -> Result<Vector> {
        let Some(OwnSteps { count, index }) = self.steps else { return self.param(g, path, &[outputs], initial).map(Vector::Shared) };
        let table = self.param(g, path, &[count, outputs], initial)?;
        let rows = g.gather(table, index)?;
        // One step for the whole batch: what reads a vector reads it as any other.
        if g.shape(rows)[0] == 1 { g.reshape(rows, &[outputs]).map(Vector::Shared) } else { Ok(Vector::Rows(rows)) }
    }

    /// A layer that reads x, whose weight has this shape: `product` of x, weight and bias as the layer sees them. Each output has `inputs` inputs.
    fn layer(
        &self,
        g: &mut Graph,
        x: ValueId,
        path: &str,
        (weight, inputs): (&[usize], usize),
        product: impl FnOnce(&mut Graph, [ValueId; 2], Option<ValueId>) -> Result<ValueId>,
    ) -> Result<ValueId> {
        let (operands, bias) = self.operands(g, x, path, weight, Initial::Uniform(inputs))?;
        let output = match bias {
            Vector::Shared(bias) => product(g, operands, Some(bias))?,
            Vector::Rows(rows) => {
                let output = product(g, operands, None)?;
                by_rows(g, BinaryKind::Add, output, rows)?
            }
        };
        memory::push(&mut self.layers.borrow_mut(), Layer { path: path.to_owned(), input: x, output, products: inputs }, "list of layers")?;
        Ok(output)
    }

    /// x, weight and bias as a layer sees them.
    fn operands(&self, g: &mut Graph, x: ValueId, path: &str, weight: &[usize], initial: Initial) -> Result<([ValueId; 2], Vector)> {
        let name = format!("{path}.weight");
        let whole = self.stored(&name) == DType::I8;
        let w = if whole { self.state(g, &name, weight, initial)? } else { self.param(g, &name, weight, initial)? };
        let b = self.vector(g, &format!("{path}.bias"), weight[0], initial)?;
        let Some(numbers) = self.quantization.and_then(|q| q.layer(path)) else {
            return if whole {
                Err(Error::internal(format!("'{name}' is in whole numbers, but the model does not say what they stand for")))
            } else {
                Ok(([x, w], b))
            };
        };
        let x = match numbers.input {
            None => x,
            Some(input) => self.rounded(g, x, (&input_scale(path), 1), None, input.codes(), Tensor::from_slice(&[1], &[input.zero])?)?,
        };
        let scales = weight_scale(path);
        let runs = numbers.weights.scales(weight).ok_or_else(|| Error::internal(format!("groups of {:?} in {weight:?} of '{name}'", numbers.weights.group)))?;
        let w = if whole {
            let scales = self.param(g, &scales, &[runs], Initial::Ones)?;
            g.weights_of(w, scales)?
        } else {
            let w = g.in_runs(w, runs)?;
            let w = self.rounded(g, w, (&scales, runs), Some(0), numbers.weights.codes(), Tensor::zeros(DType::I8, &[runs])?)?;
            g.reshape(w, weight)?
        };
        Ok(([x, w], b))
    }

    /// A value as its numbers stand for it.
    fn rounded(&self, g: &mut Graph, x: ValueId, (name, count): (&str, usize), axis: Option<usize>, codes: Codes, zero: Tensor) -> Result<ValueId> {
        let mut scale = self.param(g, name, &[count], Initial::Ones)?;
        if let Some(prefix) = self.scale_changes {
            let change = g.state(format!("{prefix}{name}"), TensorType::f32(&[count]))?;
            scale = Self::after(g, scale, change)?;
        }
        let zero = g.constant("zero_point", zero)?;
        // Of the mean square of a scale's gradient, Esser et al. 2020, section 2.2.
        let each = g.value(x).ty.numel() as f64 / count as f64;
        let scale_gradient = (each * f64::from(codes.high)).sqrt().recip() as f32;
        g.push1(FakeQuantize { codes, axis, scale_gradient }.into(), &[x, scale, zero])
    }

    /// A scale with its change, as [`scale_after`].
    pub(crate) fn after(g: &mut Graph, scale: ValueId, change: ValueId) -> Result<ValueId> {
        let factor = g.affine(change, 1.0, 1.0)?;
        g.mul(scale, factor)
    }

    /// A convolution of x [N,H,W,C] to `out` channels with a square kernel and a bias.
    #[allow(clippy::too_many_arguments)] // the parameters of a convolution
    pub fn conv(&self, g: &mut Graph, x: ValueId, path: &str, out: usize, k: usize, stride: usize, pad: [usize; 4]) -> Result<ValueId> {
        let channels = g.shape(x)[3];
        let weight = [out, channels, k, k];
        self.layer(g, x, path, (&weight, channels * k * k), |g, [x, w], b| g.conv2d(x, w, b, stride, pad))
    }

    /// A linear layer over the channels of an image, written as the 1x1 convolution that it is: norms before it can be part of it.
    pub fn pointwise(&self, g: &mut Graph, x: ValueId, path: &str, out: usize) -> Result<ValueId> {
        let channels = g.shape(x)[3];
        self.layer(g, x, path, (&[out, channels], channels), |g, [x, w], b| {
            let w = g.reshape(w, &[out, channels, 1, 1])?;
            g.conv2d(x, w, b, 1, [0; 4])
        })
    }

    /// A linear layer over the last dimension.
    pub fn linear(&self, g: &mut Graph, x: ValueId, path: &str, out: usize) -> Result<ValueId> {
        let channels = *g.shape(x).last().unwrap_or(&0);
        self.layer(g, x, path, (&[out, channels], channels), |g, [x, w], b| g.linear(x, w, b))
    }

    /// Rows of a table [rows, width], by indices i32 [B].
    pub fn embedding(&self, g: &mut Graph, indices: ValueId, path: &str, rows: usize, width: usize) -> Result<ValueId> {
        let table = self.param(g, &format!("{path}.weight"), &[rows, width], Initial::Normal)?;
        g.gather(table, indices)
    }

    /// A group norm over the last dimension, then SiLU where `silu` says so.
    pub fn norm(&self, g: &mut Graph, x: ValueId, path: &str, norm: Norm, silu: bool) -> Result<ValueId> {
        let channels = *g.shape(x).last().unwrap_or(&0);
        let gamma = self.vector(g, &format!("{path}.weight"), channels, Initial::Ones)?;
        let beta = self.vector(g, &format!("{path}.bias"), channels, Initial::Zeros)?;
        let (scales, shifts) = match (gamma, beta) {
            (Vector::Shared(gamma), Vector::Shared(beta)) => return g.group_norm(x, gamma, beta, norm.groups, norm.eps, silu),
            (Vector::Rows(scales), Vector::Rows(shifts)) => (scales, shifts),
            _ => return Err(Error::internal("a norm whose steps have half of it")),
        };
        let (ones, zeros) = (g.constant_fill("ones", &[channels], 1.0)?, g.constant_fill("zeros", &[channels], 0.0)?);
        let normed = g.group_norm(x, ones, zeros, norm.groups, norm.eps, false)?;
        let scaled = by_rows(g, BinaryKind::Mul, normed, scales)?;
        let shifted = by_rows(g, BinaryKind::Add, scaled, shifts)?;
        if silu { g.unary(UnaryKind::Silu, shifted) } else { Ok(shifted) }
    }
}

/// A vector of a layer's outputs.
#[derive(Clone, Copy)]
enum Vector {
    /// [O], for the whole batch.
    Shared(ValueId),
    /// [B, O], for each row of it.
    Rows(ValueId),
}

/// y [..., O], whose elements lie row after row of a batch of B, with what rows [B, O] say of each.
fn by_rows(g: &mut Graph, kind: BinaryKind, y: ValueId, rows: ValueId) -> Result<ValueId> {
    let (shape, &[batch, outputs]) = (g.shape(y).to_vec(), g.shape(rows)) else {
        return Err(Error::internal(format!("rows of {:?}", g.shape(rows))));
    };
    let each = shape.iter().product::<usize>() / (batch * outputs).max(1);
    let (flat, rows) = (g.reshape(y, &[batch, each, outputs])?, g.reshape(rows, &[batch, 1, outputs])?);
    let joined = g.push1(Binary { kind }.into(), &[flat, rows])?;
    g.reshape(joined, &shape)
}

/// What a scale has become by a change of it ([`Scope::with_scale_changes`]), as a graph computes it.
pub fn scale_after(scale: f32, change: f32) -> f32 {
    scale * (change + 1.0)
}

/// A group norm's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
}
