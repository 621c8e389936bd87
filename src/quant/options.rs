//! What a person chooses of a quantised model.

use super::mode::Mode;
use super::policy::Policy;

/// Into what a model is quantised, and what it is calibrated on.
#[derive(Clone, Debug)]
pub struct Options {
    /// Into what.
    pub mode: Mode,
    /// Which layers stay in float.
    pub policy: Policy,
    /// The greatest number of a rounded input: 129 keeps sums of two products in 16 bits, which AVX2 gains by; 255 uses all of a byte.
    pub high: u8,
    /// Samples that are drawn.
    pub samples: usize,
    /// Of these many at a time.
    pub batch: usize,
    /// [H, W] of a sample.
    pub size: [usize; 2],
    /// Seed of their noise.
    pub seed: u64,
}
