//! No training step leaves a weight that is not finite: the last of a trainer's states is always one that can be saved, opened and trained on.
//!
//! Loss and gradients are judged before the update (see [`ClipScale`]); this is about the update itself, where a learning rate of 1e38 gives
//! infinities although both are finite. Bounds on the weights follow from the options alone and rule that out for ordinary runs, at no cost. Where they
//! do not, the states are kept aside, and come back if the step spoilt them. So they are where a step has several phases, of which the first may have
//! done its update when another one finds that its own gradient is of no use.

use super::parameters::{ParameterSet, Rule, State};
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::graph::ops::{ClipScale, Orthogonalize};
use crate::memory;
use crate::tensor::Tensor;

/// Weights below this are finite after the roundings of the update and of the average, which takes the difference of two of them.
const LIMIT: f64 = f32::MAX as f64 / 8.0;

/// What no state can exceed.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateBounds {
    /// |weights| and their averages.
    pub weights: f64,
    /// |first moments|.
    pub moment: f64,
}

impl StateBounds {
    /// Of a run that begins with weights up to `weights` and moments up to `moment`: means of clipped gradients.
    pub fn new(sets: &[ParameterSet], weights: f64, moment: f64) -> Self {
        let clipped = |set: &ParameterSet| set.optimizer.clip_norm.min(f64::from(ClipScale::LARGEST));
        Self { weights, moment: sets.iter().map(clipped).fold(moment, f64::max) }
    }

    /// After the update that follows `done` updates, by AdamW and by Muon. AdamW: p (1 - rate decay) - rate / (1 - beta1^update) m / (sqrt(v) + eps), with v = 0
    /// at worst. No factor on the way to it is larger either. Muon: p (1 - rate decay) - rate factor o, o at most [`Orthogonalize::LARGEST`] whatever the
    /// gradients.
    fn after(self, set: &ParameterSet, done: u64) -> [f64; 2] {
        let optimizer = &set.optimizer;
        let rate = |rule| f64::from(set.rate(rule, done) as f32);
        let kept = |rate: f64| self.weights * (1.0 - rate * optimizer.weight_decay).abs();
        let corrected = rate(Rule::AdamW) / (1.0 - optimizer.beta1.powf((done + 1) as f64));
        let adamw = kept(rate(Rule::AdamW)) + corrected * (self.moment / optimizer.eps.min(1.0)).max(1.0);
        let muon = set.largest_factor().map_or(0.0, |factor| kept(rate(Rule::Muon)) + rate(Rule::Muon) * factor * Orthogonalize::LARGEST);
        [adamw, muon]
    }
}

/// Largest |x|; NaN counts as infinite.
pub(super) fn largest(values: &[f32]) -> f64 {
    f64::from(values.iter().fold(0f32, |most, v| if v.is_nan() { f32::INFINITY } else { most.max(v.abs()) }))
}

/// What a step needs to know once it is done.
pub(super) enum Watch {
    /// The bounds after it.
    Bounded(StateBounds),
    /// Nothing is known: the states before it.
    Kept(Vec<(String, Tensor)>),
}

impl Trainer {
    /// Before a step.
    pub(super) fn watch(&mut self) -> Result<Watch> {
        if self.phases.len() > 1 {
            return Ok(Watch::Kept(self.states()?));
        }
        let mut next = self.next_bounds();
        if next.is_none() {
            // Worst cases that add up over very many steps, perhaps.
            self.bounds.weights = self.largest_weight()?;
            next = self.next_bounds();
        }
        match next {
            Some(bounds) => Ok(Watch::Bounded(bounds)),
            None => Ok(Watch::Kept(self.states()?)),
        }
    }

    /// The bounds after the next step, where the weights are surely finite then.
    fn next_bounds(&self) -> Option<StateBounds> {
        // NaN is not bounded; `max` would lose it.
        let worst = |most: f64, bound: f64| if bound.is_nan() { f64::INFINITY } else { most.max(bound) };
        let weights = self.sets.iter().flat_map(|set| self.bounds.after(set, self.steps_done)).fold(0.0, worst);
        (weights <= LIMIT).then_some(StateBounds { weights, ..self.bounds })
    }

    /// After a step whose losses and gradients were good: a numeric error, with every state as it was, if an update was not.
    pub(super) fn settle(&mut self, watch: &Watch) -> Result<()> {
        if let Watch::Bounded(bounds) = watch {
            self.bounds = *bounds;
            return Ok(());
        }
        let n = self.steps_done;
        if let Some((rate, key)) = self.spoilt()? {
            let detail = format!("at learning rate {rate:e} \"{key}\" is no longer finite; the weights are those of step {n}");
            return Err(Error::numeric(format!("step {}: {detail}", n + 1)));
        }
        self.bounds.weights = self.largest_weight()?;
        Ok(())
    }

    /// A state that is not finite, and the rate of the step that left it so.
    fn spoilt(&self) -> Result<Option<(f32, String)>> {
        for set in &self.sets {
            for (_, parameter, key) in set.states() {
                if !largest(&self.exec.storage_bytes(&key)?.of::<f32>()?).is_finite() {
                    return Ok(Some((set.rate(parameter.rule, self.steps_done) as f32, key)));
                }
            }
        }
        Ok(None)
    }

    /// After a step whose losses or gradients were not good, or that is to be done again: every state is as it was before.
    pub(super) fn take_back(&mut self, watch: &Watch) -> Result<()> {
        match watch {
            // One phase: its update has left everything as it is.
            Watch::Bounded(_) => Ok(()),
            Watch::Kept(states) => self.write_states(states),
        }
    }

    /// Every state of training by its name in a checkpoint.
    pub(super) fn states(&self) -> Result<Vec<(String, Tensor)>> {
        let count = self.sets.iter().flat_map(|set| &set.parameters).map(|p| p.rule.states().len()).sum();
        let mut states = memory::with_capacity(count, "list of tensors")?;
        for (_, parameter, key) in self.sets.iter().flat_map(ParameterSet::states) {
            let tensor = Tensor::from_slice(parameter.initial.shape(), &self.exec.storage_bytes(&key)?.of::<f32>()?)?;
            states.push((key, tensor));
        }
        Ok(states)
    }

    /// Puts back what [`Trainer::states`] gave.
    pub(super) fn write_states(&mut self, states: &[(String, Tensor)]) -> Result<()> {
        states.iter().try_for_each(|(key, tensor)| self.exec.write_storage(key, tensor.bytes()))
    }

    fn largest_weight(&self) -> Result<f64> {
        let mut most = 0f64;
        for (state, _, key) in self.sets.iter().flat_map(ParameterSet::states) {
            if matches!(state, State::Weight | State::Average) {
                most = most.max(largest(&self.exec.storage_bytes(&key)?.of::<f32>()?));
            }
        }
        Ok(most)
    }
}
