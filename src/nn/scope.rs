//! Where a network's parameters are in a graph.

use crate::error::Result;
use crate::graph::{Graph, TensorType, ValueId};

/// Layers with their parameters, under a prefix. The only place where a parameter enters a graph, and so where its type is chosen.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// Put before every parameter's and feature's name, such as `student.`; may be empty.
    pub prefix: &'a str,
}

impl Scope<'_> {
    /// The full name of a parameter or a feature.
    pub fn name(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// A parameter.
    pub fn param(&self, g: &mut Graph, path: &str, shape: &[usize]) -> Result<ValueId> {
        g.state(self.name(path), TensorType::f32(shape))
    }

    /// A convolution of x [N,H,W,C] to `out` channels with a square kernel and a bias.
    #[allow(clippy::too_many_arguments)] // the parameters of a convolution
    pub fn conv(&self, g: &mut Graph, x: ValueId, path: &str, out: usize, k: usize, stride: usize, pad: [usize; 4]) -> Result<ValueId> {
        let channels = g.shape(x)[3];
        let w = self.param(g, &format!("{path}.weight"), &[out, channels, k, k])?;
        let b = self.param(g, &format!("{path}.bias"), &[out])?;
        g.conv2d(x, w, Some(b), stride, pad)
    }

    /// A linear layer over the channels of an image, written as the 1x1 convolution that it is: norms before it can be part of it.
    pub fn pointwise(&self, g: &mut Graph, x: ValueId, path: &str, out: usize) -> Result<ValueId> {
        let channels = g.shape(x)[3];
        let w = self.param(g, &format!("{path}.weight"), &[out, channels])?;
        let b = self.param(g, &format!("{path}.bias"), &[out])?;
        let w = g.reshape(w, &[out, channels, 1, 1])?;
        g.conv2d(x, w, Some(b), 1, [0; 4])
    }

    /// A linear layer over the last dimension.
    pub fn linear(&self, g: &mut Graph, x: ValueId, path: &str, out: usize) -> Result<ValueId> {
        let channels = *g.shape(x).last().unwrap_or(&0);
        let w = self.param(g, &format!("{path}.weight"), &[out, channels])?;
        let b = self.param(g, &format!("{path}.bias"), &[out])?;
        g.linear(x, w, Some(b))
    }

    /// A group norm over the last dimension, then SiLU where `silu` says so.
    pub fn norm(&self, g: &mut Graph, x: ValueId, path: &str, norm: Norm, silu: bool) -> Result<ValueId> {
        let channels = *g.shape(x).last().unwrap_or(&0);
        let gamma = self.param(g, &format!("{path}.weight"), &[channels])?;
        let beta = self.param(g, &format!("{path}.bias"), &[channels])?;
        g.group_norm(x, gamma, beta, norm.groups, norm.eps, silu)
    }
}

/// A group norm's numbers.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
}
