//! Mixed precision (Micikevicius et al. 2018): activations in half or bfloat16; parameters, statistics, sums, losses and the sampler's state in f32. Where a
//! backend narrows the factors of products alone, that is [`round_products`](super::round).

use super::{Rewrite, WHAT};
use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::op::Narrow;
use crate::graph::{Graph, Narrowing, Node, Op, OpDef, Target, ValueId};
use crate::memory;
use crate::tensor::DType;

pub(super) fn is_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::Bf16)
}

/// Rewrites a program of f32 with activations of `dtype`, if the target has such; an error where it has nothing of that type. Taps are cast back, so that the
/// host reads the types that it asked for.
pub fn precision<'s>(old: &Graph, dtype: DType, target: &dyn Target, stop: Stop<'s>) -> Result<Option<Rewrite<'s>>> {
    if !is_narrow(dtype) || target.narrowing(dtype)? != Narrowing::Activations {
        return Ok(None);
    }
    let mut this = Casting { rewrite: Rewrite::start(old, stop)?, taps: vec![] };
    for node in old.nodes() {
        this.node(old, node, dtype)?;
    }
    for (tap, cast) in this.taps {
        this.rewrite.map[tap.0 as usize] = Some(cast);
    }
    this.rewrite.finish(old).map(Some)
}

struct Casting<'s> {
    rewrite: Rewrite<'s>,
    /// Old taps and their f32 copies.
    taps: Vec<(ValueId, ValueId)>,
}

impl Casting<'_> {
    fn node(&mut self, old: &Graph, node: &Node, dtype: DType) -> Result<()> {
        let mut operands = self.rewrite.operands(node)?;
        let narrow = |this: &Self, id: &ValueId| is_narrow(this.rewrite.graph.value(*id).ty.dtype);
        // A cast of what the program itself has narrow, a parameter of such a file, is there already.
        let stored = matches!(node.op, Op::Cast(_)) && is_narrow(old.value(node.inputs[0]).ty.dtype);
        match node.op.narrow() {
            Narrow::Operands(which) => {
                for (k, operand) in operands.iter_mut().enumerate() {
                    // What is neither is wide already, or whole numbers.
                    let to = if which.contains(&k) { Some(dtype) } else { narrow(self, operand).then_some(DType::F32) };
                    if let Some(to) = to {
                        *operand = self.cast(*operand, to, node.segment)?;
                    }
                }
            }
            _ if stored => {}
            Narrow::Follow if operands.iter().all(|id| narrow(self, id)) => {}
            Narrow::Follow | Narrow::Wide => {
                for operand in &mut operands {
                    if narrow(self, operand) {
                        *operand = self.cast(*operand, DType::F32, node.segment)?;
                    }
                }
            }
        }
        self.rewrite.emit(old, node, node.op.clone(), &operands)?;
        for tap in node.outputs.iter().filter(|o| old.outputs().contains(o)) {
            let new = self.rewrite.get(*tap)?;
            let wide = self.cast(new, old.value(*tap).ty.dtype, node.segment)?;
            memory::push(&mut self.taps, (*tap, wide), WHAT)?;
        }
        Ok(())
    }

    /// A value as `to`, cast once.
    fn cast(&mut self, value: ValueId, to: DType, segment: usize) -> Result<ValueId> {
        self.rewrite.graph.write_in(segment);
        self.rewrite.graph.cast(value, to)
    }
}
