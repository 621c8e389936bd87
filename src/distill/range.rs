//! Whether the teacher's states are of the size that they should be: a = alpha, s = sigma of a timestep make x_t = a x_0 + s e of data and unit noise.
//!
//! Near pure noise an error of predicted noise is one of the data a thousand times as large. A teacher whose scheduler clips (or thresholds) what it
//! predicts hides that; one that is run without it may leave the data's range for good, and a student learns it.

use crate::cancel::Stop;
use crate::diffusion::{Clip, Level, NoiseSchedule};
use crate::error::{Error, Result};
use crate::memory;
use crate::tensor::try_vec;
use half::f16;

/// No unit normal of the caches' generator, 32-bit uniforms through Box and Muller, is above 6.7; that one of a million elements is above 5 is likely.
const NOISE: f64 = 6.0;
/// Largest |x_0| where no clipping tells the data's range: images lie within 1, latents and other standardised data are unit normals at worst.
const UNKNOWN_DATA: f64 = 6.0;
/// How many times larger than a |x_0| + s |e| a state may be before it is worth a warning.
const FACTOR: f64 = 4.0;

/// Elements between two looks at the caller's wish to stop.
const CHECKED: usize = 1 << 18;

/// Stores states and remembers the one that is furthest out of range.
pub(super) struct StateRange {
    pairs: Vec<(i64, i64)>,
    /// What is done to the predicted data on the way.
    clip: Clip,
    /// Largest expected |x| after k student steps, for each k.
    expected: Vec<f64>,
    /// The largest |x| after each k.
    found: Vec<f32>,
}

impl StateRange {
    /// Over the student's grid with this clipping; `data` is that of the teacher's own scheduler, which tells the data's range.
    pub fn new(schedule: &NoiseSchedule, pairs: &[(i64, i64)], clip: Clip, data: Clip) -> Result<Self> {
        let data = match data {
            Clip::None => UNKNOWN_DATA,
            Clip::Range(range) => range,
            // Thresholding divides by the threshold.
            Clip::Dynamic { .. } => 1.0,
        };
        let size = |t: i64| schedule.level(t).map(|Level { alpha, sigma }| alpha * data + sigma * NOISE);
        let mut expected = try_vec(pairs.len() + 1, "the range of states")?;
        let first = pairs.first().map(|p| p.0);
        for (expected, t) in expected.iter_mut().zip(first.into_iter().chain(pairs.iter().map(|p| p.1))) {
            *expected = size(t)?;
        }
        Ok(Self { pairs: memory::copy(pairs, "the range of states")?, clip, found: try_vec(expected.len(), "the range of states")?, expected })
    }

    /// Stores states after `k` student steps in f16; a numeric error if one of them does not fit, a cancelled one where `stop` is set.
    pub fn store(&mut self, k: usize, to: &mut [f16], from: &[f32], stop: Stop) -> Result<()> {
        let mut largest = 0f32;
        for (to, from) in to.chunks_mut(CHECKED).zip(from.chunks(CHECKED)) {
            stop.check()?;
            for (to, from) in to.iter_mut().zip(from) {
                *to = f16::from_f32(*from);
                largest = largest.max(from.abs());
            }
        }
        if !f16::from_f32(largest).is_finite() {
            return Err(Error::numeric(format!("{}; the cache holds {} at most; {}", self.describe(k, largest), f16::MAX, self.remedy())));
        }
        self.found[k] = self.found[k].max(largest);
        Ok(())
    }

    /// A sentence if states are far out of range.
    pub fn warning(&self) -> Option<String> {
        let excess = |k: usize| f64::from(self.found[k]) / self.expected[k];
        let k = (0..self.found.len()).max_by(|a, b| excess(*a).total_cmp(&excess(*b)))?;
        (excess(k) > FACTOR).then(|| format!("{}; {}", self.describe(k, self.found[k]), self.remedy()))
    }

    fn describe(&self, k: usize, size: f32) -> String {
        let (pairs, expected) = (&self.pairs, self.expected[k]);
        let at = if k == 0 { pairs[0].0 } else { pairs[k - 1].1 };
        format!(
            "the teacher's trajectories reach {size} after step {k} of the student's {} (timestep {at}), where data and noise give {expected:.1} at most",
            pairs.len()
        )
    }

    fn remedy(&self) -> &'static str {
        match self.clip {
            Clip::None => {
                "its predicted images are not clipped: set the trainer's trajectory_clip to FEWSTEP_CLIP_FROM_TEACHER where its scheduler clips, to \
                 FEWSTEP_CLIP_RANGE or FEWSTEP_CLIP_DYNAMIC where it does not, or give pairs that begin at a lower timestep"
            }
            Clip::Range(_) | Clip::Dynamic { .. } => {
                "its predicted images are clipped already: check clip_range and the teacher, or give pairs that begin at a lower timestep"
            }
        }
    }
}
