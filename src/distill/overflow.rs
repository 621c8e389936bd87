//! No training step leaves a weight that is not finite: the last of a trainer's states is always one that can be saved, opened and trained on.
//!
//! Loss and gradients are judged before the update (see [`ClipScale`]); this is about the update itself, where a learning rate of 1e38 gives
//! infinities although both are finite. Bounds on the weights follow from the options alone and rule that out for ordinary runs, at no cost. Where they
//! do not, the states are kept aside, and come back if the step spoilt them.

use super::options::TrainerOptions;
use super::trainer::Trainer;
use super::training_graph::STATES;
use crate::error::{Error, Result};
use crate::graph::ops::ClipScale;
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
    pub fn new(options: &TrainerOptions, weights: f64, moment: f64) -> Self {
        Self { weights, moment: moment.max(options.clip_norm.min(f64::from(ClipScale::LARGEST))) }
    }

    /// After AdamW's update number `update` at this rate: p (1 - rate decay) - rate / (1 - beta1^update) m / (sqrt(v) + eps), with v = 0 at worst. No
    /// factor on the way to it is larger either.
    fn after(self, options: &TrainerOptions, rate: f64, update: u64) -> Self {
        let corrected = rate / (1.0 - options.beta1.powf(update as f64));
        let moved = corrected * (self.moment / options.eps.min(1.0)).max(1.0);
        Self { weights: self.weights * (1.0 - rate * options.weight_decay).abs() + moved, ..self }
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
    /// Before a step at this learning rate.
    pub(super) fn watch(&mut self, rate: f32) -> Result<Watch> {
        let after = |bounds: StateBounds| bounds.after(&self.options, f64::from(rate), self.steps_done + 1);
        let mut next = after(self.bounds);
        if next.weights > LIMIT {
            // Worst cases that add up over very many steps, perhaps.
            self.bounds.weights = self.largest_weight()?;
            next = after(self.bounds);
        }
        // Not `<=` turned round: NaN is not bounded.
        if next.weights <= LIMIT { Ok(Watch::Bounded(next)) } else { Ok(Watch::Kept(self.states()?)) }
    }

    /// After a step whose loss and gradient were good: a numeric error, with every state as it was, if the update was not.
    pub(super) fn settle(&mut self, watch: Watch, rate: f32) -> Result<()> {
        let kept = match watch {
            Watch::Bounded(bounds) => {
                self.bounds = bounds;
                return Ok(());
            }
            Watch::Kept(states) => states,
        };
        for (key, _) in &kept {
            let found = largest(&self.exec.storage_bytes(key)?.of::<f32>()?);
            if !found.is_finite() {
                self.write_states(&kept)?;
                let n = self.steps_done;
                let detail = format!("at learning rate {rate:e} \"{key}\" is no longer finite; the weights are those of step {n}");
                return Err(Error::numeric(format!("step {}: {detail}", n + 1)));
            }
        }
        self.bounds.weights = self.largest_weight()?;
        Ok(())
    }

    /// Every state of training by its name in a checkpoint.
    pub(super) fn states(&self) -> Result<Vec<(String, Tensor)>> {
        let mut states = memory::with_capacity(STATES.len() * self.parameters.len(), "list of tensors")?;
        for name in &self.parameters {
            for prefix in STATES {
                let key = format!("{prefix}{name}");
                let data = self.exec.storage_bytes(&key)?.of::<f32>()?;
                let tensor = Tensor::from_slice(self.student.weights[name].shape(), &data)?;
                states.push((key, tensor));
            }
        }
        Ok(states)
    }

    /// Puts back what [`Trainer::states`] gave.
    pub(super) fn write_states(&mut self, states: &[(String, Tensor)]) -> Result<()> {
        states.iter().try_for_each(|(key, tensor)| self.exec.write_storage(key, tensor.bytes()))
    }

    fn largest_weight(&self) -> Result<f64> {
        let mut most = 0f64;
        for name in &self.parameters {
            for prefix in [STATES[0], STATES[3]] {
                most = most.max(largest(&self.exec.storage_bytes(&format!("{prefix}{name}"))?.of::<f32>()?));
            }
        }
        Ok(most)
    }
}
