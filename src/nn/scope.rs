//! Where a network's parameters are in a graph, and what they begin as.

use crate::error::Result;
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

/// Layers with their parameters, under a prefix. The only place where a parameter enters a graph: in the type that it is stored in, and cast to f32 from there,
/// so that nobody else knows of that type.
#[derive(Debug)]
pub struct Scope<'a> {
    prefix: &'a str,
    /// What the parameters will be bound to, which has their types; without it they are f32.
    weights: Option<&'a BTreeMap<String, Arc<Tensor>>>,
    parameters: RefCell<Vec<Parameter>>,
}

impl<'a> Scope<'a> {
    /// `prefix` is put before every parameter's and feature's name, such as `student.`; it may be empty. Parameters are f32.
    pub fn new(prefix: &'a str) -> Self {
        Self { prefix, weights: None, parameters: RefCell::default() }
    }

    /// The same for parameters that have the types of these weights, by their names without the prefix.
    pub fn of(prefix: &'a str, weights: &'a BTreeMap<String, Arc<Tensor>>) -> Self {
        Self { weights: Some(weights), ..Self::new(prefix) }
    }

    /// The parameters in the order in which the network has met them.
    pub fn into_parameters(self) -> Vec<Parameter> {
        self.parameters.into_inner()
    }

    /// The full name of a parameter or a feature.
    pub fn name(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// A parameter, f32: its state, or behind a state of another type the cast of it, one for all that read it.
    pub fn param(&self, g: &mut Graph, path: &str, shape: &[usize], initial: Initial) -> Result<ValueId> {
        let known = g.storages().len();
        let stored = self.weights.and_then(|weights| weights.get(path)).map_or(DType::F32, |tensor| tensor.dtype());
        let value = g.state(self.name(path), TensorType::new(stored, shape))?;
        if g.storages().len() > known {
            let parameter = Parameter { name: self.name(path), shape: memory::copy(shape, "shape")?, initial };
            memory::push(&mut self.parameters.borrow_mut(), parameter, "list of parameters")?;
        }
        g.cast(value, DType::F32)
    }

    /// A layer's weight, every output of which has `inputs` inputs, and its bias.
    fn layer(&self, g: &mut Graph, path: &str, weight: &[usize], inputs: usize) -> Result<[ValueId; 2]> {
        let initial = Initial::Uniform(inputs);
        Ok([self.param(g, &format!("{path}.weight"), weight, initial)?, self.param(g, &format!("{path}.bias"), &weight[..1], initial)?])
    }

    /// A convolution of x [N,H,W,C] to `out` channels with a square kernel and a bias.
    #[allow(clippy::too_many_arguments)] // the parameters of a convolution
    pub fn conv(&self, g: &mut Graph, x: ValueId, path: &str, out: usize, k: usize, stride: usize, pad: [usize; 4]) -> Result<ValueId> {
        let channels = g.shape(x)[3];
        let [w, b] = self.layer(g, path, &[out, channels, k, k], channels * k * k)?;
        g.conv2d(x, w, Some(b), stride, pad)
    }

    /// A linear layer over the channels of an image, written as the 1x1 convolution that it is: norms before it can be part of it.
    pub fn pointwise(&self, g: &mut Graph, x: ValueId, path: &str, out: usize) -> Result<ValueId> {
        let channels = g.shape(x)[3];
        let [w, b] = self.layer(g, path, &[out, channels], channels)?;
        let w = g.reshape(w, &[out, channels, 1, 1])?;
        g.conv2d(x, w, Some(b), 1, [0; 4])
    }

    /// A linear layer over the last dimension.
    pub fn linear(&self, g: &mut Graph, x: ValueId, path: &str, out: usize) -> Result<ValueId> {
        let channels = *g.shape(x).last().unwrap_or(&0);
        let [w, b] = self.layer(g, path, &[out, channels], channels)?;
        g.linear(x, w, Some(b))
    }

    /// Rows of a table [rows, width], by indices i32 [B].
    pub fn embedding(&self, g: &mut Graph, indices: ValueId, path: &str, rows: usize, width: usize) -> Result<ValueId> {
        let table = self.param(g, &format!("{path}.weight"), &[rows, width], Initial::Normal)?;
        g.gather(table, indices)
    }

    /// A group norm over the last dimension, then SiLU where `silu` says so.
    pub fn norm(&self, g: &mut Graph, x: ValueId, path: &str, norm: Norm, silu: bool) -> Result<ValueId> {
        let channels = *g.shape(x).last().unwrap_or(&0);
        let gamma = self.param(g, &format!("{path}.weight"), &[channels], Initial::Ones)?;
        let beta = self.param(g, &format!("{path}.bias"), &[channels], Initial::Zeros)?;
        g.group_norm(x, gamma, beta, norm.groups, norm.eps, silu)
    }
}

/// A group norm's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
}
