//! Reverse-mode differentiation: appends the gradient computation of a scalar to its own graph.

use super::ops::{Binary, BinaryKind};
use super::{Graph, NodeId, Op, OpDef, Origin, TensorType, ValueId};
use crate::error::{Error, Result};
use crate::memory;
use crate::tensor::Tensor;
use std::collections::HashMap;

/// What tables are called where there is no memory for them.
const WHAT: &str = "gradients";

/// What a gradient rule sees: its node's operands, results and incoming gradients, and the graph to append to.
pub struct GradCx<'a> {
    /// The graph that grows.
    pub graph: &'a mut Graph,
    node: NodeId,
    output_grads: Vec<Option<ValueId>>,
    wanted: Vec<bool>,
    recompute: &'a mut Recompute,
}

impl GradCx<'_> {
    /// Operand `i`, recomputed where it was not kept.
    pub fn input(&mut self, i: usize) -> Result<ValueId> {
        let id = self.graph.nodes()[self.node.0 as usize].inputs[i];
        self.recompute.value(self.graph, id)
    }

    /// Number of operands.
    pub fn input_count(&self) -> usize {
        self.graph.nodes()[self.node.0 as usize].inputs.len()
    }

    /// Type of operand `i`.
    pub fn input_type(&self, i: usize) -> TensorType {
        self.graph.value(self.graph.nodes()[self.node.0 as usize].inputs[i]).ty.clone()
    }

    /// Result `i`, recomputed where it was not kept.
    pub fn output(&mut self, i: usize) -> Result<ValueId> {
        let id = self.graph.nodes()[self.node.0 as usize].outputs[i];
        self.recompute.value(self.graph, id)
    }

    /// Gradient of the loss with respect to result `i`; an internal error when nothing flows back there.
    pub fn output_grad(&self, i: usize) -> Result<ValueId> {
        self.output_grads[i].ok_or_else(|| Error::internal(format!("no gradient flows into output {i}")))
    }

    /// Refuses a loss that depends on result `i` by itself: the rule has no gradient for it.
    pub fn no_output_grad(&self, i: usize, what: &str) -> Result<()> {
        match self.output_grads[i] {
            None => Ok(()),
            Some(_) => Err(Error::unsupported(format!("no gradient flows through the {what}"))),
        }
    }

    /// Whether the gradient of operand `i` is used by anybody.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted[i]
    }
}

/// Forward values that are computed again in the backward pass instead of being kept.
#[derive(Default)]
struct Recompute {
    /// Of each value of the forward pass, whether it is such a one.
    named: Vec<bool>,
    copies: HashMap<ValueId, ValueId>,
}

impl Recompute {
    fn of(values: usize, named: &[ValueId]) -> Result<Self> {
        let mut this = Self { named: memory::filled(false, values, WHAT)?, ..Self::default() };
        named.iter().for_each(|value| this.named[value.0 as usize] = true);
        Ok(this)
    }

    /// The node that is to run again for a value, if it has not yet.
    fn lacking(&self, graph: &Graph, id: ValueId) -> Option<usize> {
        let named = self.named.get(id.0 as usize).is_some_and(|named| *named) && !self.copies.contains_key(&id);
        match graph.value(id).origin {
            Origin::Node { node, .. } if named => Some(node.0 as usize),
            _ => None,
        }
    }

    /// The value itself, or the copy of it that is computed at the point of first use, behind the copies that it is made of. By a list, not by recursion: paths
    /// are as long as networks are deep.
    fn value(&mut self, graph: &mut Graph, id: ValueId) -> Result<ValueId> {
        let mut open = memory::with_capacity(1, WHAT)?;
        open.push(id);
        while let Some(at) = open.last() {
            let Some(node) = self.lacking(graph, *at) else {
                open.pop();
                continue;
            };
            let known = open.len();
            for input in graph.nodes()[node].inputs.iter().rev().filter(|input| self.lacking(graph, **input).is_some()) {
                memory::push(&mut open, *input, WHAT)?;
            }
            if open.len() == known {
                self.run_again(graph, node)?;
            }
        }
        Ok(self.copy(id))
    }

    fn copy(&self, id: ValueId) -> ValueId {
        self.copies.get(&id).copied().unwrap_or(id)
    }

    /// Appends a node's copy, all that it reads being there.
    fn run_again(&mut self, graph: &mut Graph, node: usize) -> Result<()> {
        let node = graph.nodes()[node].clone();
        let inputs = memory::collect(node.inputs.iter().map(|input| self.copy(*input)), WHAT)?;
        let outputs = graph.push(node.op, &inputs)?;
        node.outputs.iter().zip(&outputs).try_for_each(|(old, new)| memory::insert(&mut self.copies, *old, *new, WHAT))
    }
}

/// Appends the gradients of the scalar `loss` with respect to `wrt` and returns them in the same order.
///
/// A parameter used several times gets the sum of its gradients. `StopGradient` stops the flow. Values named in `recompute` are not kept
/// from the forward pass: their producers run again in the backward pass, on the same operands, so the bits are the same.
/// A value that the loss does not depend on gets zeros.
pub fn gradients(graph: &mut Graph, loss: ValueId, wrt: &[ValueId], recompute: &[ValueId]) -> Result<Vec<ValueId>> {
    if graph.value(loss).ty.numel() != 1 {
        return Err(Error::shape(format!("gradients need a scalar loss, '{}' is {:?}", graph.value(loss).name, graph.shape(loss))));
    }
    let needs = depends_on(graph, wrt)?;
    let mut recompute = Recompute::of(graph.values().len(), recompute)?;
    let mut grads: HashMap<ValueId, ValueId> = HashMap::new();
    let shape = graph.shape(loss).to_vec();
    let one = graph.constant("grad.one", Tensor::from_slice(&shape, &[1f32])?)?;
    grads.insert(loss, one);
    for n in (0..graph.nodes().len()).rev() {
        let node = graph.nodes()[n].clone();
        let output_grads = memory::collect(node.outputs.iter().map(|o| grads.get(o).copied()), WHAT)?;
        let wanted = memory::collect(node.inputs.iter().map(|i| needs[i.0 as usize]), WHAT)?;
        if output_grads.iter().all(Option::is_none) || !wanted.contains(&true) {
            continue;
        }
        let cx = &mut GradCx { graph, node: NodeId(n as u32), output_grads, wanted, recompute: &mut recompute };
        let input_grads = node.op.grad(cx)?;
        for (input, grad) in node.inputs.iter().zip(input_grads) {
            if let Some(grad) = grad.filter(|_| needs[input.0 as usize]) {
                accumulate(graph, &mut grads, *input, grad)?;
            }
        }
    }
    let of = |w: &ValueId| match grads.get(w) {
        Some(grad) => Ok(*grad),
        None => zeros_like(graph, *w),
    };
    let grads = memory::try_collect(wrt.iter().map(of), WHAT)?;
    for (w, grad) in wrt.iter().zip(&grads) {
        let name = format!("grad.{}", graph.value(*w).name);
        graph.set_name(*grad, name);
    }
    Ok(grads)
}

/// Marks every value that depends on one of `wrt`.
fn depends_on(graph: &Graph, wrt: &[ValueId]) -> Result<Vec<bool>> {
    let mut needs = memory::filled(false, graph.values().len(), WHAT)?;
    for w in wrt {
        needs[w.0 as usize] = true;
    }
    for node in graph.nodes() {
        if !matches!(node.op, Op::StopGradient(_)) && node.inputs.iter().any(|i| needs[i.0 as usize]) {
            for o in &node.outputs {
                needs[o.0 as usize] = true;
            }
        }
    }
    Ok(needs)
}

fn accumulate(graph: &mut Graph, grads: &mut HashMap<ValueId, ValueId>, value: ValueId, grad: ValueId) -> Result<()> {
    if graph.shape(value) != graph.shape(grad) {
        return Err(Error::internal(format!("gradient of '{}' has shape {:?}, expected {:?}", graph.value(value).name, graph.shape(grad), graph.shape(value))));
    }
    let sum = match grads.get(&value) {
        None => grad,
        Some(first) => graph.push1(Binary { kind: BinaryKind::Add }.into(), &[*first, grad])?,
    };
    memory::insert(grads, value, sum, WHAT)
}

fn zeros_like(graph: &mut Graph, value: ValueId) -> Result<ValueId> {
    // Not 0 times the value, which would be NaN where the value is not finite.
    let shape = graph.shape(value).to_vec();
    graph.constant_fill("grad.zeros", &shape, 0.0)
}
