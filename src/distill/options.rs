//! Everything that fixes a training run, beside the networks and the data.

use super::context::Needs;
use super::loss_scale::LossScale;
use super::term::Term;
use crate::diffusion::Clip;
use crate::error::{Error, Result};
use crate::tensor::DType;

/// How the learning rate moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearningRate {
    /// Constant after the warm-up.
    Constant,
    /// Half a cosine down to 0 at `total_steps`, times the warm-up.
    Cosine,
}

/// Everything that fixes a training run, beside the networks and the data.
#[derive(Clone, Debug)]
pub struct TrainerOptions {
    /// Key of every draw.
    pub seed: u64,
    /// Rows of a step.
    pub batch: usize,
    /// The loss: a weighted sum.
    pub terms: Vec<Term>,
    /// The student's grid; needed by trajectory terms.
    pub pairs: Vec<(i64, i64)>,
    /// Teacher DDIM steps inside each pair.
    pub substeps: usize,
    /// Cached trajectories.
    pub cache_size: usize,
    /// Trajectories that the cache computes side by side.
    pub cache_batch: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Length of the cosine.
    pub total_steps: u64,
    /// Shape of the learning rate.
    pub decay: LearningRate,
    /// AdamW's first moment decay.
    pub beta1: f64,
    /// AdamW's second moment decay.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Largest global gradient norm; infinity for none.
    pub clip_norm: f64,
    /// Decay of the moving average; at step n at most n/(n+1), so that it starts as the plain mean.
    pub ema_decay: f64,
    /// [H, W]; the student's sample_size when `None`.
    pub size: Option<[usize; 2]>,
    /// Type of the networks' activations and their gradients: f32, f16 or bf16. Parameters, statistics, losses and the update are f32 in any case.
    pub precision: DType,
    /// f16: what the loss is multiplied by at first, a power of two (see [`LossScale`]).
    pub loss_scale: f32,
    /// What is done to the data that the teacher predicts on its trajectories; `None`: what its own scheduler says. The student's steps never clip: neither
    /// in on-policy terms nor in samplers.
    pub trajectory_clip: Option<Clip>,
}

impl Default for TrainerOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            batch: 64,
            terms: vec![],
            pairs: vec![],
            substeps: 8,
            cache_size: 8192,
            cache_batch: 128,
            learning_rate: 1e-3,
            warmup_steps: 100,
            total_steps: 1000,
            decay: LearningRate::Cosine,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            clip_norm: 1.0,
            ema_decay: 0.995,
            size: None,
            precision: DType::F32,
            loss_scale: 65536.0,
            trajectory_clip: None,
        }
    }
}

impl TrainerOptions {
    pub(super) fn check(&self) -> Result<()> {
        // Optimizers compute in f32: there too a number must be what was meant.
        let positive = |name: &str, v: f64| if v as f32 > 0.0 { Ok(()) } else { Err(Error::invalid(format!("{name} is {v}; it must be above 0 in f32"))) };
        let finite = |name: &str, v: f64| if (v as f32).is_finite() { Ok(()) } else { Err(Error::invalid(format!("{name} is {v}; it must be finite in f32"))) };
        let fraction = |name: &str, v: f64| if (0.0..1.0).contains(&v) { Ok(()) } else { Err(Error::invalid(format!("{name} is {v}; it must be in [0, 1)"))) };
        if self.batch == 0 || self.batch > 1 << 20 {
            return Err(Error::invalid(format!("batch is {}; it must be in 1..=1048576", self.batch)));
        }
        if !matches!(self.precision, DType::F32 | DType::F16 | DType::Bf16) {
            return Err(Error::invalid(format!("precision is {:?}; it must be F32, F16 or Bf16", self.precision)));
        }
        if !LossScale::new(self.loss_scale).is_possible() {
            return Err(Error::invalid(format!("loss_scale is {}; it must be a power of two, 1 or more", self.loss_scale)));
        }
        if self.terms.is_empty() {
            return Err(Error::invalid("a loss has one or more terms, found none"));
        }
        self.terms.iter().try_for_each(Term::check)?;
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
        if self.needs().cache && (self.pairs.is_empty() || self.cache_size == 0 || self.substeps == 0) {
            return Err(Error::invalid("trajectory objectives need a grid of step pairs, teacher sub-steps and a cache of at least one trajectory"));
        }
        let rows = (self.pairs.len() + 1).checked_mul(self.cache_size);
        if rows.is_none_or(|r| r > i32::MAX as usize) {
            return Err(Error::invalid(format!(
                "cache_size is {}; a cache of {} states each must have fewer than 2^31 states",
                self.cache_size,
                self.pairs.len() + 1
            )));
        }
        Ok(())
    }

    /// What the terms cannot be built without.
    pub fn needs(&self) -> Needs {
        self.terms.iter().fold(Needs::default(), |all, term| all.or(term.needs()))
    }

    /// Whether terms share a point, and so its draws and the student's evaluation.
    pub fn shares_points(&self) -> bool {
        self.terms.iter().enumerate().any(|(i, term)| self.terms[..i].iter().any(|other| other.point == term.point))
    }

    /// Learning rate of the step after `done` steps.
    pub fn rate(&self, done: u64) -> f64 {
        let warm = ((done + 1) as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        let decay = match self.decay {
            LearningRate::Constant => 1.0,
            LearningRate::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (done as f64 / self.total_steps.max(1) as f64).min(1.0)).cos()),
        };
        self.learning_rate * warm * decay
    }
}
