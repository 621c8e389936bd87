//! Ranges of floats and the scales of whole numbers for them.

use crate::graph::ops::Codes;
use crate::nn::InputNumbers;

/// The least and the greatest of some numbers, 0 among them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Range {
    /// At most 0.
    pub min: f32,
    /// At least 0.
    pub max: f32,
}

impl Range {
    /// With these numbers too. Those that are not finite count as none; whoever finds them says so.
    pub fn with(self, numbers: &[f32]) -> Self {
        numbers.iter().filter(|v| v.is_finite()).fold(self, |r, v| Self { min: r.min.min(*v), max: r.max.max(*v) })
    }

    /// With all that another has.
    pub fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// The scale and the numbers 0 ..= high for what is in this range: s = (max - min) / high, zero point = round(-min / s), so that 0, which padding is, is
    /// one of them. A range of nothing but 0 has scale 1.
    pub fn numbers(self, high: u8) -> (f32, InputNumbers) {
        let width = f64::from(self.max) - f64::from(self.min);
        let scale = (width / f64::from(high)) as f32;
        let scale = if scale > f32::MIN_POSITIVE { scale } else { 1.0 };
        let zero = (-f64::from(self.min) / f64::from(scale)).round().clamp(0.0, f64::from(high));
        (scale, InputNumbers { low: 0, high, zero: zero as u8 })
    }
}

/// The number that an output's greatest weight becomes. One less than there are: what is trained begins with the floats that the numbers stand for, and at an end
/// of the range, as beyond it, no gradient passes ([`FakeQuantize`](crate::graph::ops::FakeQuantize)), so that the greatest weight of each output would never
/// learn. Steps are wider by 1 in 126 for it.
const GREATEST: f32 = (Codes::WEIGHTS.high - 1) as f32;

/// The scale of each output's weights, [O, ...] in `outputs` rows: the greatest is [`GREATEST`].
pub fn weight_scales(weights: &[f32], outputs: usize) -> impl Iterator<Item = f32> {
    let each = (weights.len() / outputs.max(1)).max(1);
    weights.chunks(each).map(|row| {
        let most = row.iter().fold(0f32, |m, w| m.max(w.abs()));
        let scale = most / GREATEST;
        if scale > f32::MIN_POSITIVE { scale } else { 1.0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_one_of_the_numbers_and_the_ends_are_reached() {
        for (min, max, high, zero) in [(0.0, 2.55, 255, 0), (-1.28, 1.27, 255, 128), (-0.278, 3.0, 129, 11), (-2.0, 0.0, 255, 255), (0.0, 0.0, 255, 0)] {
            let (scale, numbers) = Range { min, max }.numbers(high);
            assert_eq!((numbers.low, numbers.high, numbers.zero), (0, high, zero), "{min} {max}");
            let of = |v: f32| (f64::from(v) / f64::from(scale)).round() + f64::from(zero);
            assert!(of(min).abs() <= 1.0 && (max == min || (of(max) - f64::from(high)).abs() <= 1.0), "{min} {max} {scale}");
        }
        assert_eq!(Range::default().with(&[1.0, f32::NAN, -3.0, f32::INFINITY]), Range { min: -3.0, max: 1.0 });
    }

    #[test]
    fn each_output_s_weights_have_their_own_scale() {
        let scales: Vec<f32> = weight_scales(&[1.0, -2.0, 0.5, 0.25, 0.0, 0.0], 3).collect();
        assert_eq!(scales, [2.0 / 126.0, 0.5 / 126.0, 1.0]);
    }
}
