//! What a value that is computed once is made of, so that several programs can see that theirs is the same and keep one of it.

use super::ops::PackConv;
use super::{Graph, Op, Origin, StorageId, ValueId};
use crate::tensor::Tensor;
use std::sync::Arc;

/// Ops from states that nobody writes to a value. Two values of equal recipes of the same tensors are the same bytes on a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// The ops in their order.
    steps: Vec<(Op, Vec<Ingredient>)>,
}

/// An operand of a step.
#[derive(Clone, Debug)]
enum Ingredient {
    /// A state, by its place among those of the recipe.
    State(usize),
    /// A constant table, such as zero points.
    Constant(Arc<Tensor>),
    /// The result of an earlier step.
    Result(usize),
}

impl PartialEq for Ingredient {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::State(a), Self::State(b)) | (Self::Result(a), Self::Result(b)) => a == b,
            (Self::Constant(a), Self::Constant(b)) => (a.dtype(), a.shape(), a.bytes()) == (b.dtype(), b.shape(), b.bytes()),
            _ => false,
        }
    }
}

/// A recipe being written.
struct Writing<'a> {
    graph: &'a Graph,
    steps: Vec<(Op, Vec<Ingredient>)>,
    states: Vec<StorageId>,
}

/// Packed weights are cast, quantised or what whole numbers stand for, joined and viewed before, not more: so many steps are enough for any.
const DEEPEST: usize = 8;

impl Recipe {
    /// That of packed weights, and the states that it is of in their order; `None` for other values, and where anything but casts, quantising and moves of such
    /// states and of constants is behind one.
    pub fn of(graph: &Graph, value: ValueId) -> Option<(Self, Vec<StorageId>)> {
        let Origin::Node { node, .. } = graph.value(value).origin else { return None };
        let Op::PackConv(PackConv { .. }) = graph.nodes()[node.0 as usize].op else { return None };
        let mut writing = Writing { graph, steps: vec![], states: vec![] };
        writing.value(value, DEEPEST)?;
        // Of constants alone there is no tensor to know it by.
        (!writing.states.is_empty()).then_some((Self { steps: writing.steps }, writing.states))
    }

    /// Bytes of host memory beside itself and the constants, which are the program's.
    pub fn bytes(&self) -> usize {
        self.steps.iter().map(|(_, inputs)| size_of::<(Op, Vec<Ingredient>)>() + size_of_val(inputs.as_slice())).sum()
    }
}

impl Writing<'_> {
    fn value(&mut self, value: ValueId, depth: usize) -> Option<Ingredient> {
        match &self.graph.value(value).origin {
            Origin::State => self.state(value),
            Origin::Node { node, .. } => {
                let node = &self.graph.nodes()[node.0 as usize];
                let moves = matches!(node.op, Op::PackConv(_) | Op::Concat(_) | Op::Cast(_) | Op::Quantize(_) | Op::Dequantize(_)) || node.is_view();
                let depth = depth.checked_sub(1).filter(|_| moves)?;
                let inputs = node.inputs.iter().map(|input| self.value(*input, depth)).collect::<Option<Vec<_>>>()?;
                self.steps.push((node.op.clone(), inputs));
                Some(Ingredient::Result(self.steps.len() - 1))
            }
            Origin::Const(tensor) => Some(Ingredient::Constant(tensor.clone())),
            Origin::Input | Origin::Fill(_) => None,
        }
    }

    fn state(&mut self, value: ValueId) -> Option<Ingredient> {
        let id = self.graph.value(value).storage?;
        let storage = &self.graph.storages()[id.0 as usize];
        if storage.first != storage.current {
            return None; // somebody writes it
        }
        let place = self.states.iter().position(|known| *known == id).unwrap_or_else(|| {
            self.states.push(id);
            self.states.len() - 1
        });
        Some(Ingredient::State(place))
    }
}
