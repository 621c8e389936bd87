//! How parameters learn: AdamW or Muon, the learning rate, clipping and the moving average.

use crate::error::{Error, Result};
use crate::names::named_enum;

named_enum! {
    /// What makes steps of gradients.
    #[derive(Default)]
    OptimizerKind {
        /// AdamW for all parameters.
        #[default]
        AdamW = "AdamW",
        /// Muon for the matrices inside a network, whose steps are made orthogonal (Jordan 2024, "Muon: An optimizer for hidden layers in neural networks"); AdamW
        /// for all others.
        Muon = "Muon",
    }
}

/// How the learning rate moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearningRate {
    /// Constant after the warm-up.
    Constant,
    /// Half a cosine down to 0 at `total_steps`, times the warm-up.
    Cosine,
    /// Constant after the warm-up, then down to 0 over the last fifth of `total_steps` by 1 - sqrt(x), which a run can begin at any time, since nothing before
    /// depends on its length (warm-up, stable, decay: Hägele et al. 2024, equation 1).
    Stable,
}

/// How a set of parameters learns.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    /// What makes the steps.
    pub kind: OptimizerKind,
    /// Peak learning rate of what AdamW updates.
    pub learning_rate: f64,
    /// Peak learning rate of what Muon updates: a step changes the singular values of a matrix by about as much, whatever the gradients.
    pub muon_learning_rate: f64,
    /// Muon's momentum: the share of the sum of gradients that stays.
    pub momentum: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Length of the cosine, or of the run whose last fifth decays.
    pub total_steps: u64,
    /// Shape of the learning rate.
    pub decay: LearningRate,
    /// AdamW's first moment decay.
    pub beta1: f64,
    /// AdamW's second moment decay.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// Decoupled weight decay, multiplied with the learning rate of each parameter.
    pub weight_decay: f64,
    /// Largest global gradient norm; infinity for none.
    pub clip_norm: f64,
    /// The step from which on nothing moves any more.
    pub frozen_from: u64,
    /// Decay of the moving average; at step n at most n/(n+1), so that it starts as the plain mean.
    pub ema_decay: f64,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::AdamW,
            learning_rate: 1e-3,
            muon_learning_rate: 0.02,
            momentum: 0.95,
            warmup_steps: 100,
            total_steps: 1000,
            decay: LearningRate::Cosine,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            clip_norm: 1.0,
            frozen_from: u64::MAX,
            ema_decay: 0.995,
        }
    }
}

impl Optimizer {
    pub(super) fn check(&self) -> Result<()> {
        // Optimizers compute in f32: there too a number must be what was meant.
        let positive = |name: &str, v: f64| if v as f32 > 0.0 { Ok(()) } else { Err(Error::invalid(format!("{name} is {v}; it must be above 0 in f32"))) };
        let finite = |name: &str, v: f64| if (v as f32).is_finite() { Ok(()) } else { Err(Error::invalid(format!("{name} is {v}; it must be finite in f32"))) };
        let fraction = |name: &str, v: f64| if (0.0..1.0).contains(&v) { Ok(()) } else { Err(Error::invalid(format!("{name} is {v}; it must be in [0, 1)"))) };
        for (name, v) in [("learning_rate", self.learning_rate), ("eps", self.eps), ("clip_norm", self.clip_norm)] {
            positive(name, v)?;
        }
        for (name, v) in [("beta1", self.beta1), ("beta2", self.beta2), ("ema_decay", self.ema_decay)] {
            fraction(name, v)?;
        }
        for (name, v) in [("learning_rate", self.learning_rate), ("eps", self.eps), ("weight_decay", self.weight_decay)] {
            finite(name, v)?;
        }
        finite("learning_rate times weight_decay", self.learning_rate * self.weight_decay)?;
        if self.weight_decay != 0.0 {
            positive("weight_decay", self.weight_decay)?;
        }
        if self.kind == OptimizerKind::Muon {
            positive("muon_learning_rate", self.muon_learning_rate)?;
            finite("muon_learning_rate", self.muon_learning_rate)?;
            finite("muon_learning_rate times weight_decay", self.muon_learning_rate * self.weight_decay)?;
            // In f32, where a momentum of 1 would add up gradients for ever.
            fraction("momentum", self.momentum).and_then(|()| fraction("momentum in f32", f64::from(self.momentum as f32)))?;
        }
        Ok(())
    }

    /// Of the scales of whole numbers, each change of which is a share of it (Esser et al. 2020, section 2): as these parameters learn, but at a rate of their
    /// own, without decay towards where they were, and fixed for the last tenth, in which the weights settle on them.
    pub fn of_scales(&self, learning_rate: f64) -> Self {
        Self { kind: OptimizerKind::AdamW, learning_rate, weight_decay: 0.0, frozen_from: self.total_steps - self.total_steps / 10, ..self.clone() }
    }

    /// Learning rate of what AdamW updates in the step after `done` steps.
    pub fn rate(&self, done: u64) -> f64 {
        self.scheduled(self.learning_rate, done)
    }

    /// The same of what Muon updates.
    pub fn muon_rate(&self, done: u64) -> f64 {
        self.scheduled(self.muon_learning_rate, done)
    }

    fn scheduled(&self, peak: f64, done: u64) -> f64 {
        if done >= self.frozen_from {
            return 0.0;
        }
        let warm = ((done + 1) as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        let decay = match self.decay {
            LearningRate::Constant => 1.0,
            LearningRate::Stable => 1.0 - self.cooled(done).sqrt(),
            LearningRate::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (done as f64 / self.total_steps.max(1) as f64).min(1.0)).cos()),
        };
        peak * warm * decay
    }

    /// The share of the last fifth that is over.
    fn cooled(&self, done: u64) -> f64 {
        let length = (self.total_steps / 5).max(1);
        let left = self.total_steps.saturating_sub(done).min(length);
        (length - left) as f64 / length as f64
    }

    /// Decay of the moving average in the step after `done` steps.
    pub fn average_decay(&self, done: u64) -> f64 {
        self.ema_decay.min(done as f64 / (done + 1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_their_shapes() {
        let with = |decay| Optimizer { learning_rate: 2.0, warmup_steps: 4, total_steps: 100, decay, ..Optimizer::default() };
        let cases: [(LearningRate, &[(u64, f64)]); 3] = [
            (LearningRate::Constant, &[(0, 0.5), (1, 1.0), (3, 2.0), (50, 2.0), (1000, 2.0)]),
            (LearningRate::Cosine, &[(50, 1.0), (100, 0.0), (1000, 0.0)]),
            (LearningRate::Stable, &[(0, 0.5), (3, 2.0), (79, 2.0), (80, 2.0), (85, 1.0), (100, 0.0), (1 << 53, 0.0)]),
        ];
        for (decay, rates) in cases {
            for (done, expected) in rates {
                assert!((with(decay).rate(*done) - expected).abs() < 1e-12, "{decay:?} after {done}: {}", with(decay).rate(*done));
            }
        }
        // Shorter than five steps, and none at all.
        for total_steps in 0..6 {
            let short = Optimizer { total_steps, ..with(LearningRate::Stable) };
            assert!((0..8).all(|done| short.rate(done).is_finite() && (done < total_steps || short.rate(done) == 0.0)), "{total_steps}");
        }
    }
}
