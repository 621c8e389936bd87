//! Folds quantisation into convolutions: where x and w are what whole numbers stand for, the sum of their products is one of whole numbers, and the scales are
//! factors of it. What a model was trained and measured with ([`FakeQuantize`]) thereby is what runs: the numbers are the same ones.
//!
//! The convolution rounds x itself, and normalises it before where a norm gives it: nobody else need see either. Where somebody does, as gradients do, they are
//! computed for them as well.

use super::dead::eliminate_dead;
use super::{Rewrite, WHAT, as_conv, norm_before, source_shape};
use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::analysis::updates_so_far;
use crate::graph::ops::{Codes, FakeQuantize, FusedConv2d, NormByMoments, Quantize};
use crate::graph::{Graph, Node, Op, OpDef, Origin, Target, TensorType, ValueId};
use crate::memory;
use crate::tensor::DType;
use std::collections::HashMap;

/// Rewrites conv2d(fake_quantize(x), fake_quantize(w)) and conv2d(fake_quantize(x), dequantize(w)) into a convolution of whole numbers where the backend takes
/// it: x of U8 with one scale, w of I8 with a scale for each output and zero points of 0.
pub fn fold_quantization<'s>(old: &Graph, target: &dyn Target, stop: Stop<'s>) -> Result<Option<Rewrite<'s>>> {
    let (updates, readers) = (updates_so_far(old)?, norm_readers(old)?);
    let found = memory::collect((0..old.nodes().len()).map(|at| Folded::taken(old, at, [&updates, &readers], target)), WHAT)?;
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut writing = Writing { old, rewrite: Rewrite::start(old, stop)?, weights: HashMap::new(), factors: HashMap::new() };
    for (node, folded) in old.nodes().iter().zip(&found) {
        match folded {
            Some(folded) => writing.emit(node, folded)?,
            None => writing.rewrite.copy(old, node)?,
        }
    }
    // What stood for numbers that nobody else reads is not needed any more.
    writing.rewrite.finish(old)?.then(|graph, stop| eliminate_dead(graph, stop).map(Some)).map(Some)
}

/// By node: how many convolutions read the result of a norm, rounded or not. What gradients read does not count: a trainer's plan does what a sampler's does.
fn norm_readers(graph: &Graph) -> Result<Vec<usize>> {
    let mut readers = memory::filled(0, graph.nodes().len(), WHAT)?;
    for node in graph.nodes() {
        let Some(op) = as_conv(&node.op) else { continue };
        for x in &node.inputs[op.operands().x] {
            let from = graph.origin(*x).and_then(|(at, _)| match &graph.nodes()[at] {
                Node { op: Op::FakeQuantize(_), inputs, .. } => graph.origin(inputs[0]),
                _ => Some((at, 0)),
            });
            if let Some((at, _)) = from {
                readers[at] += 1;
            }
        }
    }
    Ok(readers)
}

/// The convolutions of quantised values that stay convolutions of floats.
pub(super) fn why_not(graph: &Graph) -> Result<Vec<String>> {
    let updates = updates_so_far(graph)?;
    let mut notes = vec![];
    for (at, node) in graph.nodes().iter().enumerate() {
        let Some(op) = as_conv(&node.op).filter(|op| op.quantized.is_none()) else { continue };
        let producer = graph.origin(node.inputs[0]).map(|(from, _)| &graph.nodes()[from].op);
        if !matches!(producer, Some(Op::FakeQuantize(_))) {
            continue;
        }
        let reason = if Folded::of(graph, at, &updates).is_some() {
            "the backend does not take it"
        } else if op.norm.is_some() || !op.parts.is_empty() {
            "it does more than a convolution of whole numbers can"
        } else {
            "its numbers are not U8 of one scale times I8 of one scale an output"
        };
        notes.push(format!("the convolution '{}' of quantised values stays one of floats: {reason}", graph.value(node.outputs[0]).name));
    }
    Ok(notes)
}

/// Whole numbers that a value stands for.
struct Numbers {
    /// Floats that are quantised, or numbers that are there.
    from: ValueId,
    /// How they are quantised; `None` for numbers that are there.
    quantize: Option<Quantize>,
    scale: ValueId,
    zero: ValueId,
}

impl Numbers {
    /// Those that `value` stands for, if they have their scales along `axis`, and nothing that they are made of is overwritten before node `reader`.
    fn of(graph: &Graph, (reader, value): (usize, ValueId), axis: Option<usize>, updates: &[usize]) -> Option<Self> {
        let (at, _) = graph.origin(value)?;
        let node = &graph.nodes()[at];
        if updates[at] != updates[reader] && node.inputs.iter().any(|input| is_overwritten(graph, *input)) {
            return None;
        }
        let (quantize, own) = match &node.op {
            Op::FakeQuantize(FakeQuantize { codes, axis, .. }) => (Some(Quantize { codes: *codes, axis: *axis }), *axis),
            Op::Dequantize(op) => (None, op.axis),
            _ => return None,
        };
        let &[from, scale, zero] = node.inputs.as_slice() else { return None };
        Some(Self { from, quantize, scale, zero }).filter(|_| own == axis)
    }

    fn dtype(&self, graph: &Graph) -> DType {
        graph.value(self.zero).ty.dtype
    }
}

/// Whether a value is a version of a state that some node writes, itself or as a view.
fn is_overwritten(graph: &Graph, mut value: ValueId) -> bool {
    while let Origin::Node { node, .. } = graph.value(value).origin
        && graph.nodes()[node.0 as usize].is_view()
    {
        value = graph.nodes()[node.0 as usize].inputs[0];
    }
    let storage = graph.value(value).storage.map(|storage| &graph.storages()[storage.0 as usize]);
    storage.is_some_and(|storage| storage.first != storage.current)
}

fn is_zero(graph: &Graph, value: ValueId) -> bool {
    matches!(&graph.value(value).origin, Origin::Const(tensor) if tensor.bytes().iter().all(|byte| *byte == 0))
}

/// A convolution and its operands as they were before its weights were packed.
fn unpacked(graph: &Graph, node: &Node) -> Option<(FusedConv2d, Vec<ValueId>)> {
    let (mut op, mut inputs) = (as_conv(&node.op)?, node.inputs.clone());
    let weight = op.operands().weight;
    if let Some((at, _)) = graph.origin(inputs[weight])
        && matches!(graph.nodes()[at].op, Op::PackConv(_))
    {
        (op.packed, inputs[weight]) = (false, graph.nodes()[at].inputs[0]);
    }
    Some((op, inputs))
}

/// A convolution that is one of whole numbers.
struct Folded {
    op: FusedConv2d,
    /// What x is made of, in the order of the operands.
    x: Vec<ValueId>,
    /// gamma, beta and the moments, where there is a norm.
    norm: Vec<ValueId>,
    scale: ValueId,
    zero: ValueId,
    w: Numbers,
}

impl Folded {
    fn of(graph: &Graph, at: usize, updates: &[usize]) -> Option<Self> {
        let (conv, inputs) = unpacked(graph, &graph.nodes()[at])?;
        if conv.quantized.is_some() || conv.packed || conv.norm.is_some() || !conv.parts.is_empty() {
            return None;
        }
        let numbers = |operand: usize, axis| Numbers::of(graph, (at, inputs[operand]), axis, updates);
        let (x, w) = (numbers(0, None).filter(|_| conv.sources == 1)?, numbers(1, Some(0))?);
        let codes = x.quantize.as_ref()?.codes;
        // A zero point of the weights would make a product of it with every x; -128 is more than kernels' sums have room for.
        let symmetric = is_zero(graph, w.zero) && w.quantize.as_ref().is_none_or(|op| op.codes.low >= Codes::WEIGHTS.low);
        let by_output = graph.shape(inputs[1]).first() == graph.shape(w.from).first();
        if codes.dtype != DType::U8 || w.dtype(graph) != DType::I8 || !symmetric || !by_output {
            return None;
        }
        let op = FusedConv2d { quantized: Some(codes), ..conv };
        Some(Self { op, x: vec![x.from], norm: vec![], scale: x.scale, zero: x.zero, w })
    }

    /// The same with the norm that gives x, if one does, to this convolution alone, for each would do it again: x is an image of the convolution's, and nothing
    /// that the norm reads is overwritten in between.
    fn with_norm(&self, graph: &Graph, at: usize, [updates, readers]: [&[usize]; 2]) -> Option<Self> {
        let (from, norm) = norm_before(graph, at, self.x[0], updates).filter(|(from, _)| readers[*from] == 1)?;
        let node = &graph.nodes()[from];
        if graph.shape(self.x[0]) != graph.shape(graph.nodes()[at].inputs[0]) {
            return None; // seen otherwise by the convolution: what is a sample of the norm may be none of its
        }
        let (x, parameters) = node.inputs.split_at(norm.sources);
        let op = FusedConv2d { sources: norm.sources, norm: Some(NormByMoments { norm: norm.norm, moments: norm.moments }), ..self.op.clone() };
        Some(Self { op, x: x.to_vec(), norm: parameters.to_vec(), w: Numbers { quantize: self.w.quantize.clone(), ..self.w }, ..*self })
    }

    /// The one that the backend takes, with the norm if it does. `updates` and `readers` are [`updates_so_far`] and [`norm_readers`].
    fn taken(graph: &Graph, at: usize, [updates, readers]: [&[usize]; 2], target: &dyn Target) -> Option<Self> {
        let plain = Self::of(graph, at, updates)?;
        let takes = |this: &Self| this.is_taken(graph, &graph.nodes()[at], target);
        plain.with_norm(graph, at, [updates, readers]).filter(takes).or_else(|| Some(plain).filter(takes))
    }

    fn is_taken(&self, graph: &Graph, node: &Node, target: &dyn Target) -> bool {
        let type_of = |value: &ValueId| graph.value(*value).ty.clone();
        let sources = self.x.iter().map(|x| TensorType::new(graph.value(*x).ty.dtype, &self.source_shape(graph, node, *x)));
        let weight = TensorType::new(DType::I8, graph.shape(node.inputs[1]));
        let numbers = [weight, type_of(&self.scale), type_of(&self.zero), TensorType::f32(&[self.op.conv.out_channels])];
        let operands: Vec<TensorType> = sources.chain(numbers).chain(node.inputs[2..].iter().chain(&self.norm).map(type_of)).collect();
        let operands: Vec<&TensorType> = operands.iter().collect();
        self.op.infer(&operands).is_ok() && target.accepts(&self.op.clone().into(), &operands)
    }

    /// The shape in which the convolution `node` reads a source of its x.
    fn source_shape(&self, graph: &Graph, node: &Node, source: ValueId) -> Vec<usize> {
        source_shape(graph, graph.shape(node.inputs[0]), source, self.x.len())
    }
}

struct Writing<'a, 's> {
    old: &'a Graph,
    rewrite: Rewrite<'s>,
    /// Numbers of old floats, by what these are and their scale.
    weights: HashMap<[ValueId; 2], ValueId>,
    /// Products of the scales of weights and of x.
    factors: HashMap<[ValueId; 2], ValueId>,
}

impl Writing<'_, '_> {
    fn emit(&mut self, node: &Node, folded: &Folded) -> Result<()> {
        let mut operands = vec![];
        for x in &folded.x {
            let source = self.rewrite.get(*x)?;
            operands.push(self.rewrite.beside(node).reshape(source, &folded.source_shape(self.old, node, *x))?);
        }
        operands.push(self.weight(node, &folded.w)?);
        let factors = self.factors(node, [folded.w.scale, folded.scale])?;
        operands.extend([self.rewrite.get(folded.scale)?, self.rewrite.get(folded.zero)?, factors]);
        for other in node.inputs[2..].iter().chain(&folded.norm) {
            operands.push(self.rewrite.get(*other)?);
        }
        self.rewrite.emit(self.old, node, folded.op.clone().into(), &operands)
    }

    /// The factors on the sums, from the scales of the weights and of x; made once.
    fn factors(&mut self, node: &Node, scales: [ValueId; 2]) -> Result<ValueId> {
        if let Some(known) = self.factors.get(&scales) {
            return Ok(*known);
        }
        let [w, x] = [self.rewrite.get(scales[0])?, self.rewrite.get(scales[1])?];
        let factors = self.rewrite.beside(node).mul(w, x)?;
        self.rewrite.graph.set_name(factors, format!("{}.factors", self.old.value(scales[0]).name));
        memory::insert(&mut self.factors, scales, factors, WHAT)?;
        Ok(factors)
    }

    /// The numbers of the weights, in their shape; made once.
    fn weight(&mut self, node: &Node, numbers: &Numbers) -> Result<ValueId> {
        let whole = match &numbers.quantize {
            None => self.rewrite.get(numbers.from)?,
            Some(quantize) => {
                let key = [numbers.from, numbers.scale];
                let known = self.weights.get(&key).copied();
                let (old, made) = (self.old, [numbers.from, numbers.scale, numbers.zero]);
                match known {
                    Some(known) => known,
                    None => {
                        let operands = memory::try_collect(made.iter().map(|value| self.rewrite.get(*value)), WHAT)?;
                        let graph = self.rewrite.beside(node);
                        let whole = graph.push1(quantize.clone().into(), &operands)?;
                        graph.set_name(whole, format!("{}.numbers", old.value(numbers.from).name));
                        memory::insert(&mut self.weights, key, whole, WHAT)?;
                        whole
                    }
                }
            }
        };
        self.rewrite.beside(node).reshape(whole, self.old.shape(node.inputs[1]))
    }
}
