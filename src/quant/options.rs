//! What a person chooses of a quantised model.

use super::mode::Mode;
use super::policy::Policy;
use serde_json::{Value, json};

/// Into what a model is quantised, and what it is calibrated on.
#[derive(Clone, Debug)]
pub struct Options {
    /// Into what.
    pub mode: Mode,
    /// Which layers stay in float.
    pub policy: Policy,
    /// The greatest number of a rounded input: 129 keeps sums of two products in 16 bits, which AVX2 gains by; 255 uses all of a byte.
    pub high: u8,
    /// How much of what a layer reads its numbers reach to.
    pub ends: Ends,
    /// Whether biases give back what rounding shifts the outputs of their layers by.
    pub correct_biases: bool,
    /// Samples that are drawn.
    pub samples: usize,
    /// Of these many at a time.
    pub batch: usize,
    /// [H, W] of a sample.
    pub size: [usize; 2],
    /// Seed of their noise.
    pub seed: u64,
}

impl Options {
    /// Whether samples are drawn at all.
    pub(super) fn calibrates(&self) -> bool {
        self.mode.rounds_inputs() || self.correct_biases
    }

    /// Whether calibration draws its samples a second time, to see how often numbers are met.
    pub(super) fn looks_twice(&self) -> bool {
        self.mode.rounds_inputs() && self.ends != Ends::MinMax
    }
}

/// Where the range of what a layer reads ends; what is beyond becomes its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ends {
    /// At the least and the greatest number that was met.
    MinMax,
    /// Where this share of all numbers, above a half and at most 1, is below the upper end, and as many above the lower.
    Percentile(f64),
    /// Where the sum of |error|^2.4 is least, of the 80 ranges from all of it down to 0.21 of it (the loss of Choukroun et al. 2019, arXiv 1902.06822, with the
    /// exponent that Nahshan et al. 2021, arXiv 1911.07190, find for 4 to 8 bits).
    LeastError,
}

impl Ends {
    /// In the words of files.
    pub(super) fn to_value(self) -> Value {
        match self {
            Self::MinMax => json!("min_max"),
            Self::Percentile(share) => json!({"percentile": (share * 1e8).round() / 1e6}),
            Self::LeastError => json!("least_error"),
        }
    }
}
