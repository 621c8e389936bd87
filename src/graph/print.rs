//! Programs and plans as text, for people.

use super::plan::Location;
use super::{Graph, Node, OpDef, Origin, Plan, TensorType, ValueId};
use std::fmt::{self, Display, Formatter};

impl Display for TensorType {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "{:?}{:?}", self.dtype, self.shape)
    }
}

impl Display for Location {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Location::Unused => Ok(()),
            Location::Storage(_) => f.write_str("@state"),
            Location::Const(_) => f.write_str("@constant"),
            Location::Persistent(at) => write!(f, "@persistent+{at}"),
            Location::Shared(i) => write!(f, "@shared.{i}"),
            Location::Arena(at) => write!(f, "@arena+{at}"),
        }
    }
}

/// `%7 'conv_in' F32[1, 8, 8, 64]`.
struct Named<'a>(&'a Graph, ValueId);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let value = self.0.value(self.1);
        write!(f, "%{} '{}' {}", self.1.0, value.name, value.ty)
    }
}

/// `%7 'conv_in' F32[1, 8, 8, 64] @arena+0 = conv2d(%1, %2) { … }`, places only where there is a plan.
struct Line<'a> {
    graph: &'a Graph,
    plan: Option<&'a Plan>,
    node: &'a Node,
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        for (i, output) in self.node.outputs.iter().enumerate() {
            let place = self.plan.map(|plan| plan.location(*output));
            let sep = if i == 0 { "" } else { ", " };
            write!(f, "{sep}{}{}", Named(self.graph, *output), place.map_or_else(String::new, |place| format!(" {place}")))?;
        }
        write!(f, " = {}(", self.node.op.name())?;
        for (i, input) in self.node.inputs.iter().enumerate() {
            write!(f, "{}%{}", if i == 0 { "" } else { ", " }, input.0)?;
        }
        // The attributes, without the op's name, which is there twice by then.
        let attributes = format!("{:?}", self.node.op);
        let attributes = attributes.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches([')', '}']));
        write!(f, "){}{}", if attributes.is_empty() { "" } else { "  --" }, attributes.trim_end())
    }
}

impl Display for Graph {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        for (i, value) in self.values().iter().enumerate() {
            let kind = match value.origin {
                Origin::Node { .. } => continue,
                Origin::Input => "input".to_string(),
                Origin::State => "state".to_string(),
                Origin::Const(_) => "constant".to_string(),
                Origin::Fill(number) => format!("all {number}"),
            };
            writeln!(f, "{} = {kind}", Named(self, ValueId(i as u32)))?;
        }
        let mut segment = usize::MAX;
        for node in self.nodes() {
            if node.segment != segment {
                segment = node.segment;
                writeln!(f, "segment '{}'", self.segments()[segment])?;
            }
            writeln!(f, "  {}", Line { graph: self, plan: None, node })?;
        }
        self.outputs().iter().try_for_each(|id| writeln!(f, "tap {}", Named(self, *id)))
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let graph = self.graph();
        let (nodes, prepared, precision) = (self.order().len(), self.prepared(), self.numerics().activations());
        writeln!(f, "plan: {nodes} nodes, {prepared} of them once; precision {precision:?}")?;
        let [arena, peak, persistent, shared] = [self.arena_bytes(), self.peak_live_bytes(), self.persistent_bytes(), self.shared_bytes()];
        writeln!(f, "bytes: arena {arena} (live at once {peak}), persistent {persistent}, shared {shared}, inputs {}", self.input_bytes())?;
        let names = graph.segments().iter().map(|name| format!("segment '{name}'"));
        let parts = [("once".to_string(), 0..prepared)].into_iter().chain(names.zip(self.segments().iter().cloned()));
        for (name, range) in parts.filter(|(_, range)| !range.is_empty()) {
            writeln!(f, "{name}")?;
            for at in range {
                let node = &graph.nodes()[self.order()[at].0 as usize];
                writeln!(f, "  {at:>5} {}", Line { graph, plan: Some(self), node })?;
            }
        }
        graph.outputs().iter().try_for_each(|id| writeln!(f, "tap {}", Named(graph, *id)))
    }
}
