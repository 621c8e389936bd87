//! Graph to graph: each pass copies the program into a new graph and may write other nodes in place of some.

mod dead;
mod fuse;
mod pack;
mod precision;

pub use dead::eliminate_dead;
pub use fuse::fuse;
pub use pack::{PackedLen, pack};
pub use precision::precision;

use super::{Graph, Node, Origin, ValueId};
use crate::error::{Error, Result};

/// A program being copied, and where each old value went.
pub struct Rewrite {
    /// The new program.
    pub graph: Graph,
    /// New id of each old value that still exists.
    pub map: Vec<Option<ValueId>>,
}

impl Rewrite {
    /// Starts a copy: inputs, states, constants and segments, but no node yet.
    fn start(old: &Graph) -> Result<Self> {
        let mut this = Self { graph: Graph::new(), map: vec![None; old.values().len()] };
        this.graph.segments.clone_from(&old.segments);
        for (i, value) in old.values().iter().enumerate() {
            let new = match &value.origin {
                Origin::Node { .. } => continue,
                Origin::Input => this.graph.input(value.name.clone(), value.ty.clone())?,
                Origin::State => this.graph.state(value.name.clone(), value.ty.clone())?,
                Origin::Const(tensor) => this.graph.push_value(value.name.clone(), value.ty.clone(), Origin::Const(tensor.clone()), None)?,
            };
            this.map[i] = Some(new);
        }
        Ok(this)
    }

    /// The new id of an old value.
    pub fn get(&self, old: ValueId) -> Result<ValueId> {
        self.map[old.0 as usize].ok_or_else(|| Error::internal(format!("value {} was dropped but is still used", old.0)))
    }

    fn operands(&self, node: &Node) -> Result<Vec<ValueId>> {
        node.inputs.iter().map(|i| self.get(*i)).collect()
    }

    /// Appends a copy of an old node, with its names.
    fn copy(&mut self, old: &Graph, node: &Node) -> Result<()> {
        let operands = self.operands(node)?;
        self.emit(old, node, node.op.clone(), &operands)
    }

    /// Appends `op` as the producer of an old node's outputs.
    fn emit(&mut self, old: &Graph, node: &Node, op: super::Op, operands: &[ValueId]) -> Result<()> {
        let outputs = self.graph.push(op, operands)?;
        if let Some(last) = self.graph.nodes.last_mut() {
            last.segment = node.segment;
        }
        for (from, to) in node.outputs.iter().zip(outputs) {
            self.map[from.0 as usize] = Some(to);
            self.graph.set_name(to, old.value(*from).name.clone());
        }
        Ok(())
    }

    /// Carries the taps over.
    fn finish(mut self, old: &Graph) -> Result<Self> {
        for out in &old.outputs {
            let new = self.get(*out)?;
            self.graph.tap(new);
        }
        Ok(self)
    }
}

/// Composes two value maps.
pub fn chain(first: &[Option<ValueId>], second: &[Option<ValueId>]) -> Vec<Option<ValueId>> {
    first.iter().map(|v| v.and_then(|v| second[v.0 as usize])).collect()
}
