//! A teacher's weights for a student with fewer channels: of every tensor the part that belongs to the channels that the student keeps.

use super::importance::{Groups, choose, choose_whole, importance};
use super::sinusoid::projection;
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::channels::{Channels, Partition, Run, Tied};
use crate::nn::{Model, Network};
use crate::tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// What the places along an axis are made of: (the student's, the teacher's, its share).
type Parts = Vec<(usize, usize, f32)>;

/// Copies a teacher's weights in f32, those of the channels that matter most where the student has fewer ([`importance`]). The same channels are left out
/// wherever they are made, normed, added or read. What has no counterpart in the teacher stays as it is: blocks that it has not, layers between blocks that are
/// not neighbours there, more channels than it has.
pub(super) fn transfer(student: &mut Model, teacher: &Model, stop: Stop) -> Result<()> {
    let network = student.network.clone();
    let mut transfer = Transfer {
        network: network.as_ref(),
        teacher,
        own: Channels::of(network.as_ref())?,
        theirs: Channels::of(teacher.network.as_ref())?,
        importance: BTreeMap::new(),
        chosen: BTreeMap::new(),
        stop,
    };
    transfer.importance = importance(&transfer.theirs, &teacher.weights, stop)?;
    for (name, tensor) in &mut student.weights {
        stop.check()?;
        if let Some(from) = transfer.tensor(name, tensor.shape())? {
            *tensor = from;
        }
    }
    Ok(())
}

struct Transfer<'a> {
    network: &'a dyn Network,
    teacher: &'a Model,
    own: Channels,
    theirs: Channels,
    /// Of the teacher's channels.
    importance: BTreeMap<Run, Vec<f64>>,
    /// By a run of the student's and the run of the teacher's that it is made of.
    chosen: BTreeMap<(Run, Run), Option<Rc<Parts>>>,
    stop: Stop<'a>,
}

impl Transfer<'_> {
    fn role(&self, name: &str) -> Option<String> {
        self.network.role(name, self.teacher.network.as_ref())
    }

    /// A tensor of the student's from that of its role.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Option<Arc<Tensor>>> {
        let Some(role) = self.role(name) else { return Ok(None) };
        let Some(source) = self.teacher.weights.get(&role).filter(|source| source.shape().len() == shape.len()) else { return Ok(None) };
        let source = source.clone();
        if shape.iter().zip(source.shape()).skip(2).any(|(own, theirs)| own != theirs) {
            return Ok(None);
        }
        let (Some(own), Some(theirs)) = (self.own.parameters.get(name).cloned(), self.theirs.parameters.get(&role).cloned()) else { return Ok(None) };
        let mut axes = [vec![(0, 0, 1.0)], vec![(0, 0, 1.0)]];
        for (d, axis) in axes.iter_mut().enumerate().take(shape.len()) {
            match self.axis(d, &own, &theirs, [shape[d], source.shape()[d]])? {
                Some(parts) => *axis = parts,
                None => return Ok(None),
            }
        }
        gathered(&source, shape, &axes).map(|tensor| Some(Arc::new(tensor)))
    }

    /// What the places along an axis are made of; `None` where nothing tells.
    fn axis(&mut self, d: usize, own: &Tied, theirs: &Tied, sizes: [usize; 2]) -> Result<Option<Parts>> {
        let [own, theirs] = [own, theirs].map(|tied| tied.axes.get(d).and_then(Option::as_ref).filter(|runs| !runs.is_empty()));
        let (Some(own), Some(theirs)) = (own, theirs) else { return if sizes[0] == sizes[1] { same(sizes[0]).map(Some) } else { Ok(None) } };
        if own.len() != theirs.len() {
            return Ok(None);
        }
        let (mut parts, mut at) = (vec![], [0, 0]);
        for (own, theirs) in own.iter().zip(theirs) {
            let Some(chosen) = self.chosen(*own, *theirs)? else { return Ok(None) };
            memory::extend(&mut parts, chosen.iter().map(|(to, from, share)| (at[0] + to, at[1] + from, *share)), WHAT)?;
            at = [at[0] + own.len, at[1] + theirs.len];
        }
        Ok(Some(parts))
    }

    fn chosen(&mut self, own: Run, theirs: Run) -> Result<Option<Rc<Parts>>> {
        if let Some(chosen) = self.chosen.get(&(own, theirs)) {
            return Ok(chosen.clone());
        }
        let chosen = self.choose(own, theirs)?.map(Rc::new);
        self.chosen.insert((own, theirs), chosen.clone());
        Ok(chosen)
    }

    fn choose(&self, own: Run, theirs: Run) -> Result<Option<Parts>> {
        if let (Some(narrow), Some(wide)) = (self.own.sinusoids.get(&own), self.theirs.sinusoids.get(&theirs))
            && narrow != wide
        {
            let rows = projection(narrow, wide, self.teacher.scheduler.num_train_timesteps, self.stop)?;
            let entries = rows.iter().enumerate().flat_map(|(to, row)| row.iter().enumerate().map(move |(from, share)| (to, from, *share as f32)));
            return memory::collect(entries, WHAT).map(Some);
        }
        if own.len == theirs.len {
            return same(own.len).map(Some);
        }
        let fixed = self.own.fixed.contains(&own) || self.theirs.fixed.contains(&theirs);
        let Some(importance) = self.importance.get(&theirs).filter(|_| own.len < theirs.len && !fixed) else { return Ok(None) };
        let pairs = self.partitions(own, theirs)?;
        let chosen = match pairs.iter().find_map(|pair| pair.whole(own.len)) {
            Some(unit) => choose_whole(importance, own.len, unit, self.stop)?,
            None => {
                let groups = memory::try_collect(pairs.iter().map(|pair| pair.groups(own.len, theirs.len)), WHAT)?;
                choose(importance, own.len, &groups, self.stop)?
            }
        };
        memory::collect(chosen.into_iter().enumerate().map(|(to, from)| (to, from, 1.0)), WHAT).map(Some)
    }

    /// The norms and heads that both runs are part of.
    fn partitions(&self, own: Run, theirs: Run) -> Result<Vec<Pair<'_>>> {
        let mut pairs = vec![];
        for mine in self.own.partitions.iter().filter(|p| p.runs.contains(&own)) {
            let Some(role) = self.role(&mine.name) else { continue };
            let Some(other) = self.theirs.partitions.iter().find(|p| p.name == role && p.runs.len() == mine.runs.len()) else { continue };
            let both = mine.runs.iter().zip(&other.runs).enumerate().filter(|(_, (a, b))| (**a, **b) == (own, theirs));
            memory::extend(&mut pairs, both.map(|(at, _)| Pair { own: mine, theirs: other, at }), WHAT)?;
        }
        Ok(pairs)
    }
}

/// A partition of the student's, its counterpart, and which of their runs is meant.
struct Pair<'a> {
    own: &'a Partition,
    theirs: &'a Partition,
    at: usize,
}

fn total(partition: &Partition) -> usize {
    partition.runs.iter().map(|run| run.len).sum()
}

impl Pair<'_> {
    /// Channels of a head, if heads are as wide as the teacher's.
    fn whole(&self, count: usize) -> Option<usize> {
        let [own, theirs] = [self.own, self.theirs].map(|p| total(p) / p.groups.max(1));
        (self.own.heads && own == theirs && own > 0 && count.is_multiple_of(own)).then_some(own)
    }

    /// The groups of a run of so many of the student's channels, and of so many of the teacher's. With fewer groups than the teacher's, each is what several
    /// were.
    fn groups(&self, own: usize, theirs: usize) -> Result<Groups> {
        let group = |partition: &Partition, len: usize, groups: usize| {
            let before: usize = partition.runs[..self.at].iter().map(|run| run.len).sum();
            let all = total(partition);
            memory::collect((before..before + len).map(|channel| channel * groups / all), WHAT)
        };
        Ok(Groups { own: group(self.own, own, self.own.groups)?, of_teacher: group(self.theirs, theirs, self.own.groups)? })
    }
}

fn same(len: usize) -> Result<Parts> {
    memory::collect((0..len).map(|i| (i, i, 1.0)), WHAT)
}

/// The tensor of a shape that is made of those parts of another, along its first two axes.
fn gathered(source: &Tensor, shape: &[usize], [first, second]: &[Parts; 2]) -> Result<Tensor> {
    let inner: usize = shape.iter().skip(2).product();
    let [columns, theirs] = [shape, source.shape()].map(|shape| shape.get(1).copied().unwrap_or(1));
    let from = source.as_slice::<f32>()?;
    let mut out = Tensor::zeros(DType::F32, shape)?;
    let to = out.as_mut_slice::<f32>()?;
    for (row, source_row, row_share) in first {
        for (column, source_column, share) in second {
            let [at, source_at] = [(row * columns + column) * inner, (source_row * theirs + source_column) * inner];
            let (Some(to), Some(from)) = (to.get_mut(at..at + inner), from.get(source_at..source_at + inner)) else {
                return Err(Error::internal(format!("a part of {:?} for {shape:?}", source.shape())));
            };
            to.iter_mut().zip(from).for_each(|(to, from)| *to += row_share * share * from);
        }
    }
    Ok(out)
}

const WHAT: &str = "channels of a student";
