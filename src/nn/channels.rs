//! Which channels of a network's parameters are one channel: what additions, norms, skip connections and attention tie together, so that a narrower network
//! leaves a channel out everywhere or nowhere (Fang et al. 2023, "DepGraph: towards any structural pruning", section 3.2). Read from the graph, whatever the
//! family.

use super::network::Network;
use crate::error::Result;
use crate::graph::ops::TimestepEmbedding;
use crate::graph::{Graph, Node, Op, Origin, StorageId, ValueId};
use crate::memory;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Neighbouring channels that are chosen together: those of one layer's output, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// The first of them, a number that is no other channel's.
    pub first: usize,
    /// How many.
    pub len: usize,
}

/// Channels that are dealt out evenly among groups, in their order.
#[derive(Clone, Debug)]
pub struct Partition {
    /// The parameter that it is known by: the scale of a norm, the weights that make an attention's queries.
    pub name: String,
    /// The channels, such as those of two values that are joined.
    pub runs: Vec<Run>,
    /// The groups of a norm or the heads of an attention.
    pub groups: usize,
    /// Heads, whose channels belong together: whole ones are kept where they are as wide as before.
    pub heads: bool,
}

/// A parameter's channels.
#[derive(Clone, Debug, Default)]
pub struct Tied {
    /// Those along each of its first two axes; `None` where nothing is known of an axis.
    pub axes: Vec<Option<Vec<Run>>>,
    /// The scale of the group norm that what it multiplies has passed.
    pub scale: Option<String>,
}

/// The channels of a network.
#[derive(Clone, Debug, Default)]
pub struct Channels {
    /// By the parameter's name.
    pub parameters: BTreeMap<String, Tied>,
    /// Of norms and attention.
    pub partitions: Vec<Partition>,
    /// Channels that are a timestep's sines and cosines.
    pub sinusoids: BTreeMap<Run, TimestepEmbedding>,
    /// Runs with channels that cannot be chosen: those of images, labels, and what an op mixes that this file does not know.
    pub fixed: BTreeSet<Run>,
}

impl Channels {
    /// Those of a network.
    pub fn of(network: &dyn Network) -> Result<Self> {
        let (graph, output) = network.smallest()?;
        let mut walk = Walk::new(&graph)?;
        graph.nodes().iter().try_for_each(|node| walk.node(node))?;
        walk.fix(output);
        walk.found()
    }
}

/// The channels along an axis.
type Axis = Option<Arc<Vec<usize>>>;

/// What is known of a value.
#[derive(Clone, Debug, Default)]
struct Known {
    axes: Vec<Axis>,
    /// The parameter that it is, or whose product it is.
    source: Option<StorageId>,
    /// The scale of the group norm that it has passed.
    scale: Option<StorageId>,
}

impl Known {
    fn last(&self) -> Axis {
        self.axes.last().cloned().flatten()
    }

    fn axis(&self, at: usize) -> Axis {
        self.axes.get(at).cloned().flatten()
    }
}

/// A partition as it is met.
struct Met {
    source: Option<StorageId>,
    channels: Arc<Vec<usize>>,
    groups: usize,
    heads: bool,
}

/// A graph's channels, from its first node to its last.
struct Walk<'g> {
    graph: &'g Graph,
    /// For each channel a smaller one that it is the same as, or itself. There is a gap behind those of an axis, so that no run goes on in another's.
    same: Vec<usize>,
    fixed: BTreeSet<usize>,
    values: Vec<Known>,
    /// What reads a parameter has passed the norm of this scale.
    scales: BTreeMap<StorageId, StorageId>,
    met: Vec<Met>,
    sinusoids: Vec<(Arc<Vec<usize>>, TimestepEmbedding)>,
}

impl<'g> Walk<'g> {
    fn new(graph: &'g Graph) -> Result<Self> {
        let values = memory::filled(Known::default(), graph.values().len(), WHAT)?;
        let mut walk = Walk { graph, same: vec![], fixed: BTreeSet::new(), values, scales: BTreeMap::new(), met: vec![], sinusoids: vec![] };
        for (i, value) in graph.values().iter().enumerate() {
            let shape = &value.ty.shape;
            match value.origin {
                Origin::State => {
                    let axes = shape.iter().take(2).map(|size| walk.channels(*size).map(Some));
                    walk.values[i] = Known { axes: memory::try_collect(axes, WHAT)?, source: value.storage, scale: None };
                    walk.values[i].axes.resize(shape.len(), None);
                }
                Origin::Input if shape.len() > 1 => {
                    walk.values[i].axes.resize(shape.len() - 1, None);
                    let channels = walk.channels(shape[shape.len() - 1])?;
                    walk.values[i].axes.push(Some(channels));
                    walk.fix(ValueId(i as u32));
                }
                _ => walk.values[i].axes.resize(shape.len(), None),
            }
        }
        Ok(walk)
    }

    /// New channels.
    fn channels(&mut self, count: usize) -> Result<Arc<Vec<usize>>> {
        let first = self.same.len();
        memory::extend(&mut self.same, first..=first + count, WHAT)?;
        Ok(Arc::new(memory::collect(first..first + count, WHAT)?))
    }

    fn root(&self, mut channel: usize) -> usize {
        while self.same[channel] != channel {
            channel = self.same[channel];
        }
        channel
    }

    fn known(&self, value: ValueId) -> &Known {
        &self.values[value.0 as usize]
    }

    /// Two axes have the same channels. What is tied to something unknown stays as it is.
    fn tie(&mut self, a: Axis, b: Axis) {
        let (a, b) = match (a, b) {
            (Some(a), Some(b)) if a.len() == b.len() => (a, b),
            (a, b) => return [a, b].into_iter().flatten().for_each(|axis| self.fixed.extend(axis.iter())),
        };
        for (a, b) in a.iter().zip(b.iter()) {
            let (a, b) = (self.root(*a), self.root(*b));
            self.same[a.max(b)] = a.min(b);
        }
    }

    /// The channels of a value cannot be chosen.
    fn fix(&mut self, value: ValueId) {
        let channels: Vec<Arc<Vec<usize>>> = self.known(value).axes.iter().flatten().cloned().collect();
        channels.iter().for_each(|axis| self.fixed.extend(axis.iter()));
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        memory::check()?;
        let (operand, out) = (|i: usize| node.inputs[i], node.outputs[0]);
        let x = self.known(operand(0)).clone();
        let known = match &node.op {
            Op::Conv2d(_) => self.conv2d(node),
            Op::GroupNorm(norm) => {
                let (scale, shift) = (self.known(operand(1)).clone(), self.known(operand(2)).last());
                self.tie(x.last(), scale.last());
                self.tie(scale.last(), shift);
                self.meet(&x, scale.source, norm.groups, false)?;
                Known { scale: scale.source, source: None, ..x }
            }
            Op::Attention(attention) => {
                // Queries and keys are the same channels, so are values and results; heads tie both.
                [1, 2].into_iter().for_each(|i| self.tie(x.last(), self.known(operand(i)).last()));
                self.meet(&x, x.source, attention.heads, true)?;
                Known { source: None, ..x }
            }
            Op::Unary(_) | Op::Affine(_) | Op::Cast(_) | Op::Upsample2x(_) | Op::AvgPool2x(_) | Op::StopGradient(_) => x,
            Op::Binary(_) => self.binary(node),
            Op::Concat(_) => self.concat(node)?,
            Op::Slice(slice) => {
                let part = x.last().map(|all| memory::copy(&all[slice.start..slice.start + slice.len], WHAT)).transpose()?;
                with_last(x, part.map(Arc::new))
            }
            Op::Transpose(_) => {
                let mut x = x;
                let rank = x.axes.len();
                x.axes.swap(rank - 2, rank - 1);
                Known { scale: None, ..x }
            }
            Op::Reshape(_) => self.reshape(operand(0), out),
            Op::TimestepEmbedding(sinusoid) => {
                let channels = self.channels(sinusoid.dim)?;
                memory::push(&mut self.sinusoids, (channels.clone(), sinusoid.clone()), WHAT)?;
                Known { axes: vec![None, Some(channels)], ..Known::default() }
            }
            Op::Gather(_) => {
                let rows = x.axis(0);
                self.tie(rows, None);
                Known { axes: vec![None, x.axis(1)], ..Known::default() }
            }
            _ => return self.unknown(node),
        };
        self.values[out.0 as usize] = known;
        Ok(())
    }

    /// An op that this file does not know may do anything to its operands' channels.
    fn unknown(&mut self, node: &Node) -> Result<()> {
        node.inputs.iter().for_each(|input| self.fix(*input));
        for out in &node.outputs {
            let rank = self.graph.shape(*out).len();
            self.values[out.0 as usize].axes.resize(rank, None);
        }
        Ok(())
    }

    fn conv2d(&mut self, node: &Node) -> Known {
        let (x, w) = (self.known(node.inputs[0]).clone(), self.known(node.inputs[1]).clone());
        self.tie(x.last(), w.axis(1));
        if let Some(bias) = node.inputs.get(2) {
            self.tie(w.axis(0), self.known(*bias).last());
        }
        if let (Some(w), Some(scale)) = (w.source, x.scale) {
            self.scales.insert(w, scale);
        }
        with_last(Known { source: w.source, scale: None, ..x }, w.axis(0))
    }

    /// With broadcasting: an axis of one element takes any other.
    fn binary(&mut self, node: &Node) -> Known {
        let [a, b] = [0, 1].map(|i| self.known(node.inputs[i]).clone());
        let [sizes, others] = [0, 1].map(|i| self.graph.shape(node.inputs[i]));
        let mut out = a.clone();
        for (d, (size, other)) in sizes.iter().zip(others).enumerate() {
            match (size, other) {
                (1, 1) => {}
                (1, _) => out.axes[d] = b.axis(d),
                (_, 1) => {}
                _ => {
                    self.tie(a.axis(d), b.axis(d));
                    out.axes[d] = a.axis(d).or_else(|| b.axis(d));
                }
            }
        }
        Known { source: None, ..out }
    }

    fn concat(&mut self, node: &Node) -> Result<Known> {
        let first = self.known(node.inputs[0]).clone();
        let mut channels = vec![];
        for input in &node.inputs {
            let part = match self.known(*input).last() {
                Some(part) => part,
                None => {
                    let unknown = self.channels(*self.graph.shape(*input).last().unwrap_or(&0))?;
                    self.fixed.extend(unknown.iter());
                    unknown
                }
            };
            memory::append(&mut channels, &part, WHAT)?;
        }
        Ok(with_last(Known { source: None, scale: None, ..first }, Some(Arc::new(channels))))
    }

    /// Axes that are longer than 1 are matched if they are the same ones, else the last; what is lost cannot be chosen.
    fn reshape(&mut self, from: ValueId, to: ValueId) -> Known {
        let x = self.known(from).clone();
        let [before, after] = [from, to].map(|value| self.graph.shape(value));
        let long = |shape: &[usize]| shape.iter().enumerate().filter(|(_, size)| **size > 1).map(|(d, size)| (d, *size)).collect::<Vec<_>>();
        let (old, new) = (long(before), long(after));
        let mut axes: Vec<Axis> = vec![None; after.len()];
        let sizes = |axes: &[(usize, usize)]| axes.iter().map(|(_, size)| *size).collect::<Vec<_>>();
        let whole = sizes(&old) == sizes(&new);
        let matched: Vec<_> = if whole { old.iter().zip(&new).collect() } else { old.last().into_iter().zip(new.last()).filter(|(o, n)| o.1 == n.1).collect() };
        matched.iter().for_each(|(o, n)| axes[n.0] = x.axis(o.0));
        // A single channel has no axis longer than 1.
        if let ([.., 1], [.., 1]) = (before, after) {
            axes[after.len() - 1] = x.last();
        }
        let kept = |d: usize| before[d] == 1 || matched.iter().any(|(o, _)| o.0 == d);
        (0..before.len()).filter(|d| !kept(*d)).for_each(|d| self.tie(x.axis(d), None));
        Known { axes, ..x }
    }

    fn meet(&mut self, x: &Known, source: Option<StorageId>, groups: usize, heads: bool) -> Result<()> {
        let Some(channels) = x.last() else { return Ok(()) };
        memory::push(&mut self.met, Met { source, channels, groups, heads }, WHAT)
    }

    /// Channels as runs of those that they are the same as.
    fn runs(&self, channels: &[usize]) -> Result<Vec<Run>> {
        let mut runs: Vec<Run> = vec![];
        for channel in channels {
            let root = self.root(*channel);
            match runs.last_mut() {
                Some(run) if run.first + run.len == root => run.len += 1,
                _ => memory::push(&mut runs, Run { first: root, len: 1 }, WHAT)?,
            }
        }
        Ok(runs)
    }

    fn found(self) -> Result<Channels> {
        let mut found = Channels::default();
        let name = |id: StorageId| self.graph.storages()[id.0 as usize].name.clone();
        for (i, storage) in self.graph.storages().iter().enumerate() {
            let axes = self.known(storage.first).axes.iter().take(2);
            let axes = memory::try_collect(axes.map(|axis| axis.as_ref().map(|channels| self.runs(channels)).transpose()), WHAT)?;
            let scale = self.scales.get(&StorageId(i as u32)).map(|id| name(*id));
            found.parameters.insert(storage.name.clone(), Tied { axes, scale });
        }
        for met in &self.met {
            let (Some(source), groups, heads) = (met.source, met.groups, met.heads) else { continue };
            let partition = Partition { name: name(source), runs: self.runs(&met.channels)?, groups, heads };
            memory::push(&mut found.partitions, partition, WHAT)?;
        }
        for (channels, sinusoid) in &self.sinusoids {
            found.sinusoids.extend(self.runs(channels)?.into_iter().map(|run| (run, sinusoid.clone())));
        }
        found.fixed = self.fixed_runs(&found);
        Ok(found)
    }

    /// Runs with a channel that cannot be chosen, and those that overlap others without being them.
    fn fixed_runs(&self, found: &Channels) -> BTreeSet<Run> {
        let of_parameters = found.parameters.values().flat_map(|tied| tied.axes.iter().flatten()).flatten();
        let runs: BTreeSet<Run> = of_parameters.chain(found.partitions.iter().flat_map(|p| &p.runs)).copied().collect();
        let fixed: BTreeSet<usize> = self.fixed.iter().map(|channel| self.root(*channel)).collect();
        let mut out: BTreeSet<Run> = runs.iter().filter(|run| fixed.range(run.first..run.first + run.len).next().is_some()).copied().collect();
        let mut before: Option<Run> = None;
        for run in runs {
            if let Some(other) = before.filter(|other| other.first + other.len > run.first) {
                out.extend([other, run]);
            }
            before = Some(run);
        }
        out
    }
}

const WHAT: &str = "channels";

fn with_last(mut known: Known, last: Axis) -> Known {
    if let Some(axis) = known.axes.last_mut() {
        *axis = last;
    }
    known
}
