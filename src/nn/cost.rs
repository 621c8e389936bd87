//! What a network costs before anything is measured: parameters, and the arithmetic of an evaluation.

use super::network::{Network, count};
use crate::error::Result;
use crate::graph::{Graph, Node, Op};

/// The size of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Numbers that are learned.
    pub parameters: u64,
    /// Floating-point operations of one evaluation of one image.
    pub flops: u64,
}

impl Cost {
    /// That of a network for images of `size` [H, W].
    pub fn of(network: &dyn Network, size: [usize; 2]) -> Result<Self> {
        let (flops, parameters) = network.program(size, |graph, scope, _| (flops(&graph), scope.into_parameters()))?;
        Ok(Self { parameters: count(&parameters)?, flops })
    }
}

/// The products of a graph and their sums, two operations each: of its convolutions and linear layers, and of attention's scores and mixtures. Norms,
/// activations and whatever else takes a few operations for each number are left out, as is usual.
fn flops(graph: &Graph) -> u64 {
    graph.nodes().iter().fold(0, |sum: u64, node| sum.saturating_add(products(graph, node).saturating_mul(2)))
}

fn products(graph: &Graph, node: &Node) -> u64 {
    let results = graph.value(node.outputs[0]).ty.numel() as u64;
    let each = match &node.op {
        // Weights [O,C,R,S] or [O,C]: an output sums as many products as it has weights.
        Op::Conv2d(_) => graph.shape(node.inputs[1])[1..].iter().product::<usize>(),
        // Each number of a token meets every token twice: in its scores and in its mixture.
        Op::Attention(_) => 2 * graph.shape(node.inputs[1])[1],
        Op::HeadProduct(op) => op.sizes(graph.shape(node.inputs[0]), graph.shape(node.inputs[1])).map_or(0, |sizes| op.matrices(sizes).depth),
        _ => 0,
    };
    results.saturating_mul(each as u64)
}
