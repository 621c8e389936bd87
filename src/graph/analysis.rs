//! What passes and plans ask of a program: who reads a value, what it is a view of, what never changes.

use super::{Alias, Graph, Node, Op, OpDef, Origin, Storage, Value, ValueId};
use crate::error::Result;
use crate::memory;
use crate::tensor::DType;

/// What the tables are called where there is no memory for them.
const WHAT: &str = "analysis of a graph";

impl Graph {
    /// The value whose memory each value shares: itself, unless it is a view.
    pub(crate) fn roots(&self) -> Result<Vec<ValueId>> {
        let mut roots = memory::collect((0..self.values().len() as u32).map(ValueId), WHAT)?;
        for node in self.nodes().iter().filter(|n| n.is_view()) {
            roots[node.outputs[0].0 as usize] = roots[node.inputs[0].0 as usize];
        }
        Ok(roots)
    }

    /// Storages that no node overwrites; what depends on them alone can be computed once.
    pub fn frozen_storages(&self) -> Result<Vec<bool>> {
        memory::collect(self.storages().iter().map(|s| s.first == s.current), WHAT)
    }

    /// The state that a value is, is a view of, or is the f32 of where it is stored narrower; `roots` are [`Graph::roots`].
    pub(crate) fn state_behind(&self, roots: &[ValueId], value: ValueId) -> Option<&Storage> {
        let root = roots[value.0 as usize];
        let state = self.stored(root).unwrap_or(root);
        Some(&self.storages()[self.value(state).storage?.0 as usize])
    }

    /// The f16 or bf16 state that a value is the cast of: a parameter, as its file has it.
    pub(crate) fn stored(&self, value: ValueId) -> Option<ValueId> {
        let Origin::Node { node, .. } = self.value(value).origin else { return None };
        let Node { op: Op::Cast(_), inputs, .. } = &self.nodes()[node.0 as usize] else { return None };
        let from = self.value(inputs[0]);
        (matches!(from.ty.dtype, DType::F16 | DType::Bf16) && from.storage.is_some()).then_some(inputs[0])
    }

    /// The node and the result that a value is, or is a view of.
    pub(crate) fn origin(&self, mut value: ValueId) -> Option<(usize, usize)> {
        while let Origin::Node { node, output } = self.value(value).origin {
            let from = &self.nodes()[node.0 as usize];
            if !from.is_view() {
                return Some((node.0 as usize, output));
            }
            value = from.inputs[0];
        }
        None
    }
}

/// Who reads what. A tap reads too, twice: what is tapped has never only one reader.
pub(crate) struct Readers {
    uses: Vec<usize>,
    /// For each value the last node that reads it.
    last: Vec<usize>,
}

impl Readers {
    pub fn of(graph: &Graph) -> Result<Self> {
        let mut uses = memory::filled(0usize, graph.values().len(), WHAT)?;
        let mut last = memory::filled(0usize, graph.values().len(), WHAT)?;
        for (i, node) in graph.nodes().iter().enumerate() {
            for v in &node.inputs {
                uses[v.0 as usize] += 1;
                last[v.0 as usize] = i;
            }
        }
        graph.outputs().iter().for_each(|o| uses[o.0 as usize] += 2);
        Ok(Self { uses, last })
    }

    /// Whether nobody reads a value.
    pub fn none(&self, value: ValueId) -> bool {
        self.uses[value.0 as usize] == 0
    }

    /// The only reader of a value that one node reads, once.
    pub fn only(&self, value: ValueId) -> Option<usize> {
        (self.uses[value.0 as usize] == 1).then(|| self.last[value.0 as usize])
    }

    /// Whether a value and all that it is a view of have one reader each.
    pub fn read_once(&self, graph: &Graph, mut value: ValueId) -> bool {
        while self.only(value).is_some() {
            match graph.value(value).origin {
                Origin::Node { node, .. } if graph.nodes()[node.0 as usize].is_view() => value = graph.nodes()[node.0 as usize].inputs[0],
                _ => return true,
            }
        }
        false
    }
}

/// For each node, how many nodes up to it (included) overwrite a state.
pub(crate) fn updates_so_far(graph: &Graph) -> Result<Vec<usize>> {
    let mut seen = 0;
    let count = |updates: bool| {
        seen += usize::from(updates);
        seen
    };
    memory::collect(graph.nodes().iter().map(|n| matches!(n.op.alias(), Alias::Updates(_))).map(count), WHAT)
}

/// Nodes that depend on constants and on storages that nobody overwrites: the same in every run.
pub(crate) fn hoistable(graph: &Graph) -> Result<Vec<bool>> {
    let frozen = graph.frozen_storages()?;
    let given = |v: &Value| match (&v.origin, v.storage) {
        (Origin::Const(_) | Origin::Fill(_), _) => true,
        (Origin::State, Some(s)) => frozen[s.0 as usize],
        _ => false,
    };
    let mut fixed = memory::collect(graph.values().iter().map(given), WHAT)?;
    let once = |node: &Node| {
        let once = !matches!(node.op.alias(), Alias::Updates(_)) && node.inputs.iter().all(|i| fixed[i.0 as usize]);
        node.outputs.iter().for_each(|o| fixed[o.0 as usize] = once);
        once
    };
    memory::collect(graph.nodes().iter().map(once), WHAT)
}
