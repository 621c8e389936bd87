//! What people can ask to see, by environment variables that each name a file: `FEWSTEP_PLAN` gets every plan as it is compiled, `FEWSTEP_PROFILE` the time
//! that each executable spent in each node. Texts are appended, and a file that cannot be written is an error of what was to be reported.

use crate::error::{Error, Result};
use crate::graph::passes::why_not;
use crate::graph::{OpDef, Plan};
use crate::memory;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PLAN: &str = "FEWSTEP_PLAN";
const PROFILE: &str = "FEWSTEP_PROFILE";
/// Nodes that a profile lists one by one.
const SHOWN: usize = 40;

fn wanted(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn append(variable: &str, path: &PathBuf, text: &str) -> Result<()> {
    // In one call, so that what several threads report stays apart.
    let written = OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| Error::from_io(path, &e).context(variable))
}

/// Writes a plan that is laid out, if somebody wants to see it.
pub(crate) fn plan(device: &str, plan: &Plan) -> Result<()> {
    let Some(path) = wanted(PLAN) else { return Ok(()) };
    let notes: String = why_not(plan.graph())?.iter().map(|note| format!("note: {note}\n")).collect();
    append(PLAN, &path, &format!("== {device}\n{notes}{plan}\n"))
}

/// Time spent in each node of a plan. Written when it is dropped.
pub(crate) struct Profile {
    path: PathBuf,
    device: &'static str,
    /// By place in the plan's order: how often, and how long in all.
    nodes: Vec<(u64, Duration)>,
    /// What the lines say of each node.
    names: Vec<(&'static str, String)>,
}

impl Profile {
    /// A profile, if somebody wants one.
    pub fn of(device: &'static str, plan: &Plan) -> Result<Option<Self>> {
        let Some(path) = wanted(PROFILE) else { return Ok(None) };
        append(PROFILE, &path, "")?;
        let name = |id: &crate::graph::NodeId| {
            let node = &plan.graph().nodes()[id.0 as usize];
            let output = plan.graph().value(node.outputs[0]);
            (node.op.name(), format!("'{}' {}", output.name, output.ty))
        };
        let names = memory::collect(plan.order().iter().map(name), "profile")?;
        Ok(Some(Self { path, device, nodes: memory::filled((0, Duration::ZERO), names.len(), "profile")?, names }))
    }

    /// Adds the time since `start` to a node.
    pub fn add(&mut self, at: usize, start: Instant) {
        let (count, time) = &mut self.nodes[at];
        *count += 1;
        *time += start.elapsed();
    }

    fn text(&self) -> String {
        let total: Duration = self.nodes.iter().map(|(_, time)| *time).sum();
        let share = |time: Duration| 100.0 * time.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE);
        let mut out = format!("== {}: {:.3} ms in {} nodes\n", self.device, 1e3 * total.as_secs_f64(), self.nodes.len());
        let mut ops = BTreeMap::<&str, (u64, Duration)>::new();
        for ((count, time), (op, _)) in self.nodes.iter().zip(&self.names) {
            let sum = ops.entry(op).or_default();
            *sum = (sum.0 + count, sum.1 + *time);
        }
        let mut ops: Vec<_> = ops.into_iter().collect();
        ops.sort_by_key(|(_, (_, time))| std::cmp::Reverse(*time));
        // Writing to a text cannot fail.
        for (op, (count, time)) in ops {
            let _ = writeln!(out, "{:>6.2} % {:>10.3} ms {count:>7} x  {op}", share(time), 1e3 * time.as_secs_f64());
        }
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(self.nodes[*at].1));
        let _ = writeln!(out, "the {} longest", SHOWN.min(order.len()));
        for at in order.into_iter().take(SHOWN) {
            let ((count, time), (op, name)) = (self.nodes[at], &self.names[at]);
            let _ = writeln!(out, "{:>6.2} % {:>10.3} us {count:>7} x {at:>5} {op} {name}", share(time), 1e6 * time.as_secs_f64() / count.max(1) as f64);
        }
        out
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        if self.nodes.iter().any(|(count, _)| *count > 0) {
            // Nobody is left to tell; the file was named by hand, by somebody who looks for it.
            let _ = append(PROFILE, &self.path, &self.text());
        }
    }
}
