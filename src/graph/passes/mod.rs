//! Graph to graph: each pass copies the program into a new graph and may write other nodes in place of some.

mod absorb_norm;
mod dead;
mod fold;
mod fuse;
mod merge;
mod pack;
mod precision;
mod round;
mod sources;

use absorb_norm::absorb_norms;
use dead::eliminate_dead;
use fold::fold_quantization;
use fuse::fuse;
use merge::merge_products;
use pack::pack;
use precision::precision;
use round::round_products;
use sources::read_sources;

use super::{Graph, Node, Numerics, Op, Origin, Target, TensorType, ValueId};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::graph::ops::{FusedConv2d, FusedGroupNorm};
use crate::memory;

/// What a pass's tables are called where there is no memory for them.
const WHAT: &str = "graph pass";

/// All passes in their order. `after` sees the program behind each one, changed or not, with the pass's name.
pub fn run<'s>(
    graph: &Graph,
    numerics: &Numerics,
    target: &dyn Target,
    stop: Stop<'s>,
    after: &mut dyn FnMut(&'static str, &Graph) -> Result<()>,
) -> Result<Rewrite<'s>> {
    type Pass<'a, 's> = (&'static str, &'a dyn Fn(&Graph, Stop<'s>) -> Result<Option<Rewrite<'s>>>);
    let passes: [Pass; 8] = [
        ("precision", &|g, stop| precision(g, numerics.activations(), target, stop)),
        ("fuse", &fuse),
        ("merge_products", &|g, stop| merge_products(g, target, stop)),
        ("absorb_norms", &|g, stop| absorb_norms(g, target, stop)),
        ("read_sources", &|g, stop| read_sources(g, target, stop)),
        ("fold_quantization", &|g, stop| fold_quantization(g, target, stop)),
        ("round_products", &|g, stop| round_products(g, numerics.activations(), target, stop)),
        ("pack", &|g, stop| pack(g, target, stop)),
    ];
    let mut done = eliminate_dead(graph, stop)?;
    after("eliminate_dead", &done.graph)?;
    for (name, pass) in passes {
        done = done.then(pass)?;
        after(name, &done.graph)?;
    }
    Ok(done)
}

/// Why steps that could be one are not, in a program that went through all passes: a sentence each.
pub fn why_not(graph: &Graph) -> Result<Vec<String>> {
    Ok([fuse::why_not(graph)?, absorb_norm::why_not(graph)?, fold::why_not(graph)?].concat())
}

/// A convolution with whatever passes have added to it so far.
fn as_conv(op: &Op) -> Option<FusedConv2d> {
    match op {
        Op::Conv2d(op) => Some(FusedConv2d::from(*op)),
        Op::FusedConv2d(op) => Some(op.clone()),
        _ => None,
    }
}

/// A group norm with the same.
fn as_norm(op: &Op) -> Option<FusedGroupNorm> {
    match op {
        Op::GroupNorm(op) => Some(FusedGroupNorm::from(*op)),
        Op::FusedGroupNorm(op) => Some(op.clone()),
        _ => None,
    }
}

/// The norm that gives `x` to the node `at`, and its node: x is an image of its result, and nothing that it reads is overwritten in between. `updates` is
/// [`updates_so_far`](super::analysis::updates_so_far).
fn norm_before(graph: &Graph, at: usize, x: ValueId, updates: &[usize]) -> Option<(usize, FusedGroupNorm)> {
    let Origin::Node { node: from, output: 0 } = graph.value(x).origin else { return None };
    let from = from.0 as usize;
    as_norm(&graph.nodes()[from].op).filter(|_| updates[from] == updates[at]).map(|norm| (from, norm))
}

/// The shape in which an op that reads its x in `shape` reads one of so many sources of it.
fn source_shape(graph: &Graph, shape: &[usize], source: ValueId, sources: usize) -> Vec<usize> {
    if sources > 1 { graph.shape(source).to_vec() } else { shape.to_vec() }
}

/// Types of values.
fn types<'a>(graph: &'a Graph, values: &[ValueId]) -> Vec<&'a TensorType> {
    values.iter().map(|v| &graph.value(*v).ty).collect()
}

/// A program being copied, and where each old value went.
pub struct Rewrite<'s> {
    /// The new program.
    pub graph: Graph,
    /// New id of each old value that still exists.
    pub map: Vec<Option<ValueId>>,
    stop: Stop<'s>,
}

impl<'s> Rewrite<'s> {
    /// Starts a copy: inputs, states, constants and segments, but no node yet.
    fn start(old: &Graph, stop: Stop<'s>) -> Result<Self> {
        let mut this = Self { graph: Graph::with_room_of(old)?, map: memory::filled(None, old.values().len(), WHAT)?, stop };
        this.graph.copy_segments(old)?;
        for (i, value) in old.values().iter().enumerate() {
            stop.check()?;
            let new = match &value.origin {
                Origin::Node { .. } => continue,
                Origin::Fill(number) => this.graph.constant_fill(value.name.clone(), &value.ty.shape, *number)?,
                Origin::Input => this.graph.input(value.name.clone(), value.ty.clone())?,
                Origin::State => this.graph.state(value.name.clone(), value.ty.clone())?,
                Origin::Const(tensor) => this.graph.shared_constant(value.name.clone(), tensor.clone())?,
            };
            this.map[i] = Some(new);
        }
        Ok(this)
    }

    /// The same after another pass, which may have nothing to do. The program between them is gone by then.
    pub fn then(self, pass: impl FnOnce(&Graph, Stop<'s>) -> Result<Option<Self>>) -> Result<Self> {
        Ok(match pass(&self.graph, self.stop)? {
            None => self,
            Some(next) => Self { map: chain(&self.map, &next.map)?, ..next },
        })
    }

    /// The new id of an old value.
    pub fn get(&self, old: ValueId) -> Result<ValueId> {
        self.map[old.0 as usize].ok_or_else(|| Error::internal(format!("value {} was dropped but is still used", old.0)))
    }

    fn operands(&self, node: &Node) -> Result<Vec<ValueId>> {
        memory::try_collect(node.inputs.iter().map(|i| self.get(*i)), WHAT)
    }

    /// Appends a copy of an old node, with its names.
    fn copy(&mut self, old: &Graph, node: &Node) -> Result<()> {
        let operands = self.operands(node)?;
        self.emit(old, node, node.op.clone(), &operands)
    }

    /// Appends `op` as the producer of an old node's outputs.
    fn emit(&mut self, old: &Graph, node: &Node, op: Op, operands: &[ValueId]) -> Result<()> {
        self.stop.check()?;
        let outputs = self.beside(node).push(op, operands)?;
        node.outputs.iter().zip(outputs).for_each(|(from, to)| self.replace(old, *from, to));
        Ok(())
    }

    /// The new program, ready for nodes in the segment of an old one.
    fn beside(&mut self, node: &Node) -> &mut Graph {
        self.graph.write_in(node.segment);
        &mut self.graph
    }

    /// `to` stands for an old value from here on, and has its name.
    fn replace(&mut self, old: &Graph, from: ValueId, to: ValueId) {
        self.map[from.0 as usize] = Some(to);
        self.graph.set_name(to, old.value(from).name.clone());
    }

    /// Carries the taps over.
    fn finish(mut self, old: &Graph) -> Result<Self> {
        for out in old.outputs() {
            let new = self.get(*out)?;
            self.graph.tap(new);
        }
        Ok(self)
    }
}

/// Composes two value maps.
fn chain(first: &[Option<ValueId>], second: &[Option<ValueId>]) -> Result<Vec<Option<ValueId>>> {
    memory::collect(first.iter().map(|v| v.and_then(|v| second[v.0 as usize])), WHAT)
}
