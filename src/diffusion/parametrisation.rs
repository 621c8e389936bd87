//! What a network predicts, and how each kind of prediction reads as data or as noise.
//!
//! With `x = a x_0 + s e`: `x_0 = (x - s e)/a`, `e = (x - a x_0)/s`, and `v = a e - s x_0` (progressive distillation, arXiv 2202.00512, appendix D) so that
//! `x_0 = a x - s v`, `e = s x + a v`. All are linear in (x, output); the pairs of coefficients here are the only place that knows them.

use super::schedule::Level;
use crate::error::{Error, Result};

pub use crate::names::Prediction;

/// `x_part * x + out_part * output`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Factor of the noisy sample x.
    pub x: f64,
    /// Factor of the network's output.
    pub out: f64,
}

impl Linear {
    /// The combination's value.
    pub fn apply(self, x: f64, out: f64) -> f64 {
        self.x * x + self.out * out
    }
}

impl Prediction {
    /// Clean data x_0 from (x, output). An error for epsilon at zero SNR, where the output tells nothing about the data.
    pub fn data(self, level: Level) -> Result<Linear> {
        let Level { alpha, sigma } = level;
        match self {
            Prediction::Epsilon if alpha == 0.0 => Err(zero_snr()),
            Prediction::Epsilon => Ok(Linear { x: 1.0 / alpha, out: -sigma / alpha }),
            Prediction::Sample => Ok(Linear { x: 0.0, out: 1.0 }),
            Prediction::VPrediction => Ok(Linear { x: alpha, out: -sigma }),
        }
    }

    /// Noise e from (x, output). An error for sample prediction at clean data, where there is no noise to find.
    pub fn noise(self, level: Level) -> Result<Linear> {
        let Level { alpha, sigma } = level;
        match self {
            Prediction::Epsilon => Ok(Linear { x: 0.0, out: 1.0 }),
            Prediction::Sample if sigma == 0.0 => {
                Err(Error::invalid("prediction_type is sample at a time without noise (sigma is 0): the noise cannot be derived there"))
            }
            Prediction::Sample => Ok(Linear { x: 1.0 / sigma, out: -alpha / sigma }),
            Prediction::VPrediction => Ok(Linear { x: sigma, out: alpha }),
        }
    }

    /// The output that a network of this kind should give, as a combination of clean data (`x`) and noise (`out`): the target of training from data.
    pub fn target(self, level: Level) -> Linear {
        match self {
            Prediction::Epsilon => Linear { x: 0.0, out: 1.0 },
            Prediction::Sample => Linear { x: 1.0, out: 0.0 },
            Prediction::VPrediction => Linear { x: -level.sigma, out: level.alpha },
        }
    }
}

fn zero_snr() -> Error {
    Error::invalid("prediction_type is epsilon at a timestep of zero SNR (alpha is 0): the data cannot be derived there; use v_prediction or sample")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Prediction; 3] = [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction];

    /// Whatever is predicted, an exact output gives back the data and the noise that x was made of.
    #[test]
    fn exact_outputs_give_back_data_and_noise() {
        for i in 0..200 {
            let phi = 0.001 + 1.569 * f64::from(i) / 199.0;
            let level = Level { alpha: phi.cos(), sigma: phi.sin() };
            let (x0, e) = ((f64::from(i) * 0.7).sin(), 2.0 * (f64::from(i) * 1.3).cos());
            let x = level.alpha * x0 + level.sigma * e;
            for p in ALL {
                let out = p.target(level).apply(x0, e);
                assert!((p.data(level).unwrap().apply(x, out) - x0).abs() < 1e-9, "{p:?} data");
                assert!((p.noise(level).unwrap().apply(x, out) - e).abs() < 1e-9, "{p:?} noise");
            }
        }
    }

    /// x = a x_0 + s e holds for the converted pair, whatever the output is.
    #[test]
    fn converted_pairs_always_remake_x() {
        let level = Level::from_alpha_bar(0.3);
        for p in ALL {
            let (d, n) = (p.data(level).unwrap(), p.noise(level).unwrap());
            for (x, out) in [(1.0, 0.0), (0.0, 1.0), (-2.5, 0.75)] {
                let again = level.alpha * d.apply(x, out) + level.sigma * n.apply(x, out);
                assert!((again - x).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn impossible_conversions_are_errors() {
        let pure_noise = Level { alpha: 0.0, sigma: 1.0 };
        assert!(Prediction::Epsilon.data(pure_noise).unwrap_err().message.contains("v_prediction"));
        assert_eq!(Prediction::VPrediction.data(pure_noise).unwrap(), Linear { x: 0.0, out: -1.0 });
        assert!(Prediction::Sample.noise(Level::CLEAN).is_err());
    }
}
