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

/// The scales of weights in `rows` of as many each: the greatest is the greatest of the numbers.
pub fn weight_scales(weights: &[f32], rows: usize, codes: Codes) -> impl Iterator<Item = f32> {
    let each = (weights.len() / rows.max(1)).max(1);
    weights.chunks(each).map(move |row| {
        let most = row.iter().fold(0f32, |m, w| m.max(w.abs()));
        let scale = most / codes.high as f32;
        let scale = if scale > f32::MIN_POSITIVE { scale } else { 1.0 };
        if codes.high < FEW { nearest_scale(row, scale, codes) } else { scale }
    })
}

/// Ranges of fewer numbers than this lose less where they leave out the few greatest weights: the scale is searched.
const FEW: i32 = 16;

/// Of the scales from 1 to 0.41 of the greatest, in hundredths, that with the least mean square of what rounding loses; of equals the greatest.
fn nearest_scale(row: &[f32], greatest: f32, codes: Codes) -> f32 {
    let [low, high] = [codes.low, codes.high].map(f64::from);
    let loss = |scale: f32| {
        let scale = f64::from(scale);
        row.iter().map(|w| (f64::from(*w) - (f64::from(*w) / scale).round_ties_even().clamp(low, high) * scale).powi(2)).sum::<f64>()
    };
    let mut best = (loss(greatest), greatest);
    for hundredths in (41..100).rev() {
        let scale = greatest * (hundredths as f32 / 100.0);
        let found = loss(scale);
        if found < best.0 && scale > f32::MIN_POSITIVE {
            best = (found, scale);
        }
    }
    best.1
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
    fn each_row_of_weights_has_its_own_scale() {
        let scales: Vec<f32> = weight_scales(&[1.0, -2.0, 0.5, 0.25, 0.0, 0.0], 3, Codes::WEIGHTS).collect();
        assert_eq!(scales, [2.0 / 127.0, 0.5 / 127.0, 1.0]);
        // Of few numbers, one weight that stands out is left out of the range where the others gain by it, and is not where they do not.
        let halves = Codes { low: -7, high: 7, ..Codes::I8 };
        let mut row = [0.6f32; 64];
        row[0] = 1.0;
        let found = weight_scales(&row, 1, halves).next().expect("a scale");
        let lost = |scale: f32| row.iter().map(|w| (w - (w / scale).round_ties_even().clamp(-7.0, 7.0) * scale).powi(2)).sum::<f32>();
        assert!(lost(found) < 0.5 * lost(1.0 / 7.0), "{} of {}", lost(found), lost(1.0 / 7.0));
        assert_eq!(weight_scales(&[0.7, -0.7], 1, halves).next(), Some(0.7 / 7.0));
    }
}
