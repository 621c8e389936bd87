//! Drops nodes whose results nobody reads.

use super::{Rewrite, WHAT};
use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::{Alias, Graph, OpDef};
use crate::memory;

/// Keeps state updates, taps and what they depend on.
pub fn eliminate_dead<'s>(old: &Graph, stop: Stop<'s>) -> Result<Rewrite<'s>> {
    let mut live = memory::filled(false, old.values().len(), WHAT)?;
    for out in old.outputs() {
        live[out.0 as usize] = true;
    }
    let mut keep = memory::filled(false, old.nodes().len(), WHAT)?;
    for (i, node) in old.nodes().iter().enumerate().rev() {
        let updates = matches!(node.op.alias(), Alias::Updates(_));
        if updates || node.outputs.iter().any(|o| live[o.0 as usize]) {
            keep[i] = true;
            node.inputs.iter().for_each(|v| live[v.0 as usize] = true);
        }
    }
    let mut rewrite = Rewrite::start(old, stop)?;
    for (node, _) in old.nodes().iter().zip(&keep).filter(|(_, keep)| **keep) {
        rewrite.copy(old, node)?;
    }
    rewrite.finish(old)
}
