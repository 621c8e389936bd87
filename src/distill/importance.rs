//! Which channels a narrower student keeps: those that weigh most, of every group of every norm as many as its own groups have.

use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::channels::{Channels, Run};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How much each channel of a run matters: the sum, over all weights that make it or read it, of the squares of its own weights, each layer's divided by their
/// mean so that all layers count alike (Fang et al. 2023, section 3.3). What reads a channel behind a group norm reads it times the norm's scale, so that scale
/// is part of the weight.
pub(super) fn importance(channels: &Channels, weights: &BTreeMap<String, Arc<Tensor>>, stop: Stop) -> Result<BTreeMap<Run, Vec<f64>>> {
    let mut sums: BTreeMap<Run, Vec<f64>> = BTreeMap::new();
    for (name, tied) in &channels.parameters {
        stop.check()?;
        let Some(tensor) = weights.get(name).filter(|w| w.shape().len() > 1) else { continue };
        let scale = tied.scale.as_ref().and_then(|name| weights.get(name)).map(|scale| scale.as_slice::<f32>()).transpose()?;
        for (axis, runs) in tied.axes.iter().enumerate() {
            let squares = squares(tensor, axis, scale.filter(|_| axis == 1))?;
            let mut left = &squares[..];
            for run in runs.iter().flatten() {
                let (own, others) = left.split_at_checked(run.len).ok_or_else(|| Error::internal(format!("channels of '{name}'")))?;
                left = others;
                let mean = own.iter().sum::<f64>() / run.len as f64;
                if !sums.contains_key(run) {
                    sums.insert(*run, memory::filled(0.0, run.len, WHAT)?);
                }
                let to = sums.get_mut(run).into_iter().flatten();
                to.zip(own).for_each(|(sum, own)| *sum += if mean > 0.0 { own / mean } else { 0.0 });
            }
        }
    }
    Ok(sums)
}

/// The sum of the squares at each place of an axis, 0 or 1, each times the square of its scale.
fn squares(weights: &Tensor, axis: usize, scale: Option<&[f32]>) -> Result<Vec<f64>> {
    let (shape, values) = (weights.shape(), weights.as_slice::<f32>()?);
    let places = shape[axis];
    let inner: usize = shape[axis + 1..].iter().product();
    let mut out = memory::filled(0.0, places, WHAT)?;
    for (i, part) in values.chunks_exact(inner.max(1)).enumerate() {
        out[i % places] += part.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    }
    if let Some(scale) = scale.filter(|scale| scale.len() == places) {
        out.iter_mut().zip(scale).for_each(|(sum, scale)| *sum *= f64::from(*scale).powi(2));
    }
    Ok(out)
}

/// Groups of a norm, or heads, over a run: of the student's own channels, and which of these each of the teacher's channels would be in.
pub(super) struct Groups {
    /// For each of the student's channels.
    pub own: Vec<usize>,
    /// For each of the teacher's.
    pub of_teacher: Vec<usize>,
}

/// Chooses `count` of the channels, in their order: as few as can be are in another group than in the teacher, and among such choices the sum of their
/// importance is the largest. By dynamic programming over (channels kept, channels seen).
pub(super) fn choose(importance: &[f64], count: usize, groups: &[Groups], stop: Stop) -> Result<Vec<usize>> {
    let all = importance.len();
    let spare = all.checked_sub(count).ok_or_else(|| Error::internal(format!("{count} of {all} channels")))?;
    // All importance together is less than one channel in another group.
    let total = importance.iter().sum::<f64>().max(f64::MIN_POSITIVE) * 2.0;
    let gain = |own: usize, channel: usize| {
        let moved = groups.iter().filter(|g| g.own[own] != g.of_teacher[channel]).count();
        importance[channel] / total - moved as f64
    };
    // best[j]: of `own` channels chosen among the first own + j; took[own][j]: whether channel own + j is the last of own + 1.
    let mut best = memory::filled(0.0, spare + 1, WHAT)?;
    let size = count.checked_mul(spare + 1).ok_or_else(|| Error::invalid(format!("{all} channels are too many to choose from")))?;
    let mut took = memory::filled(false, size, WHAT)?;
    for own in 0..count {
        stop.check()?;
        for j in 0..=spare {
            let with = best[j] + gain(own, own + j);
            let better = j == 0 || with > best[j - 1];
            took[own * (spare + 1) + j] = better;
            best[j] = if better { with } else { best[j - 1] };
        }
    }
    let mut chosen = memory::filled(0, count, WHAT)?;
    let mut j = spare;
    for own in (0..count).rev() {
        while !took[own * (spare + 1) + j] {
            j -= 1;
        }
        chosen[own] = own + j;
    }
    Ok(chosen)
}

/// The same in pieces of `unit` neighbouring channels, whole heads.
pub(super) fn choose_whole(importance: &[f64], count: usize, unit: usize, stop: Stop) -> Result<Vec<usize>> {
    let pieces = memory::collect(importance.chunks(unit).map(|piece| piece.iter().sum::<f64>()), WHAT)?;
    let chosen = choose(&pieces, count / unit, &[], stop)?;
    memory::collect(chosen.into_iter().flat_map(|piece| piece * unit..(piece + 1) * unit), WHAT)
}

const WHAT: &str = "importance of channels";
