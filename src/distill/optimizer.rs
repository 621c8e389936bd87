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

/// What the moving average of the weights is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Average {
    /// Of the last 1 / (1 - decay) steps, exponentially; at step n at most n/(n+1) is kept, so that it starts as the plain mean.
    Exponential(f64),
    /// Of a share of the run, however long that is: the weights of step t count as much as t^gamma (Karras et al. 2024, "Analyzing and Improving the Training
    /// Dynamics of Diffusion Models", arXiv 2312.02696, section 3.1), where gamma follows from the deviation of that profile in lengths of the run.
    Power(f64),
}

impl Average {
    /// The widest profile: all steps count alike.
    pub const WIDEST: f64 = 0.288_675_134_594_812_9; // 1 / sqrt(12)

    /// The exponent of a profile of this width: (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) is the square of it.
    fn gamma(width: f64) -> f64 {
        let square = |gamma: f64| (gamma + 1.0) / ((gamma + 2.0).powi(2) * (gamma + 3.0));
        // It falls, from the widest at 0 to less than width^2 at 1 / width.
        let (mut least, mut most) = (0.0, 1.0 / width);
        for _ in 0..128 {
            let middle = 0.5 * (least + most);
            *(if square(middle) > width * width { &mut least } else { &mut most }) = middle;
        }
        least
    }

    /// The share that is kept in the step after `done` steps.
    fn decay(self, done: u64) -> f64 {
        let before = done as f64 / (done + 1) as f64;
        match self {
            Average::Exponential(decay) => decay.min(before),
            Average::Power(width) => before.powf(Self::gamma(width) + 1.0),
        }
    }

    fn check(self) -> Result<()> {
        match self {
            Average::Exponential(decay) if !(0.0..1.0).contains(&decay) => {
                Err(Error::invalid(format!("ema_decay is {decay}; it must be in [0, 1), or below 0 for an average by ema_relative_width")))
            }
            Average::Power(width) if !(1e-3..=Self::WIDEST).contains(&width) => {
                Err(Error::invalid(format!("ema_relative_width is {width}; it must be in 0.001..=0.288, of the run's length")))
            }
            _ => Ok(()),
        }
    }
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
    /// The moving average.
    pub average: Average,
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
            average: Average::Power(Self::WIDTH),
        }
    }
}

impl Optimizer {
    /// How wide the moving average is by default: after a rate that falls to 0 no narrower one is better, and few wider ones where it stays.
    pub const WIDTH: f64 = 0.05;

    pub(super) fn check(&self) -> Result<()> {
        // Optimizers compute in f32: there too a number must be what was meant.
        let positive = |name: &str, v: f64| if v as f32 > 0.0 { Ok(()) } else { Err(Error::invalid(format!("{name} is {v}; it must be above 0 in f32"))) };
        let finite = |name: &str, v: f64| if (v as f32).is_finite() { Ok(()) } else { Err(Error::invalid(format!("{name} is {v}; it must be finite in f32"))) };
        let fraction = |name: &str, v: f64| if (0.0..1.0).contains(&v) { Ok(()) } else { Err(Error::invalid(format!("{name} is {v}; it must be in [0, 1)"))) };
        for (name, v) in [("learning_rate", self.learning_rate), ("eps", self.eps), ("clip_norm", self.clip_norm)] {
            positive(name, v)?;
        }
        for (name, v) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            fraction(name, v)?;
        }
        for (name, v) in [("learning_rate", self.learning_rate), ("eps", self.eps), ("weight_decay", self.weight_decay)] {
            finite(name, v)?;
        }
        self.average.check()?;
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
        self.average.decay(done)
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

    /// A profile is what an impulse at each step leaves of itself at the end; its deviation is the width, of however many steps. Tolerance: steps are whole.
    #[test]
    fn averages_are_as_wide_as_they_say() {
        for width in [0.01, 0.05, 0.1, 0.25, Average::WIDEST] {
            for steps in [1000u64, 20_000] {
                let (mut left, mut sums) = (1.0, [0.0; 3]);
                for t in (1..=steps).rev() {
                    let decay = Average::Power(width).decay(t - 1);
                    let (share, at) = (left * (1.0 - decay), t as f64 / steps as f64);
                    sums.iter_mut().zip([1.0, at, at * at]).for_each(|(sum, moment)| *sum += share * moment);
                    left *= decay;
                }
                let [all, mean, square] = sums;
                assert!((all - 1.0).abs() < 1e-9, "{width}: the weights of all steps add up to {all}");
                let found = (square - mean * mean).sqrt();
                assert!((found / width - 1.0).abs() < 0.01, "{width} of {steps} steps: {found}");
            }
        }
        assert_eq!([Average::Exponential(0.9), Average::Power(0.1)].map(|average| average.decay(0)), [0.0; 2]);
        assert_eq!([1u64, 1000].map(|done| Average::Exponential(0.9).decay(done)), [0.5, 0.9]);
        for refused in [Average::Exponential(1.0), Average::Exponential(-0.1), Average::Power(0.0), Average::Power(0.3), Average::Power(f64::NAN)] {
            assert!(refused.check().is_err(), "{refused:?}");
        }
    }
}
