//! The sliced Wasserstein distance: the mean over fixed directions of the distance between two sets of projections.
//!
//! Rabin et al., "Wasserstein barycenter and its application to texture mixing", SSVM 2011, with p = 1 and unit vectors of normals: in one dimension the
//! distance of two sets of as many points is the mean |difference| of the sorted points. It falls with the number of images: only sets of as many can be
//! compared, and the value of two sets of one distribution is not 0. On pixels it is blind to fine noise.

use super::images::check;
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;
use crate::random::{Purpose, fill_normal};

/// Directions of a report.
pub const DIRECTIONS: usize = 256;
/// Their seed, "slices" as bytes: no training's.
const SEED: u64 = u64::from_le_bytes(*b"slices\0\0");

/// The sorted projections of a set of images onto every direction.
pub struct Slices {
    /// Elements of an image.
    each: usize,
    /// Images of the set.
    count: usize,
    /// Direction after direction.
    sorted: Vec<f64>,
}

/// Direction `k` of every report, not yet a unit vector.
pub fn direction(k: usize, out: &mut [f32]) {
    fill_normal(SEED, Purpose::Evaluation, 0, k as u32, out);
}

impl Slices {
    /// Of images of `each` elements onto `directions` vectors that `draw(k, vector)` gives, whatever their length.
    pub fn of(images: &[f32], each: usize, directions: usize, draw: impl Fn(usize, &mut [f32]), stop: Stop) -> Result<Self> {
        let count = check("images", images, each)?;
        let mut vector = memory::filled(0f32, each, "a direction")?;
        let numbers = directions.checked_mul(count).ok_or_else(|| Error::invalid(format!("{directions} projections of {count} images are too many")))?;
        let mut sorted = memory::with_capacity(numbers, "projections")?;
        for k in 0..directions {
            stop.check()?;
            draw(k, &mut vector);
            let length = project(&vector, &vector).sqrt();
            sorted.extend(images.chunks_exact(each).map(|image| project(image, &vector) / length));
            sorted[k * count..].sort_unstable_by(f64::total_cmp);
        }
        Ok(Self { each, count, sorted })
    }

    /// The distance to a set of as many images, projected in the same way.
    pub fn distance(&self, other: &Self) -> Result<f64> {
        if (self.each, self.count, self.sorted.len()) != (other.each, other.count, other.sorted.len()) {
            let [a, b] = [self, other].map(|s| format!("{} images of {} elements", s.count, s.each));
            return Err(Error::shape(format!("a sliced Wasserstein distance needs sets of as many images, found {a} and {b}")));
        }
        let sum: f64 = self.sorted.iter().zip(&other.sorted).map(|(a, b)| (a - b).abs()).sum();
        Ok(sum / self.sorted.len() as f64)
    }
}

/// The inner product in double precision, eight sums side by side.
fn project(image: &[f32], direction: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let (images, directions) = (image.chunks_exact(8), direction.chunks_exact(8));
    let rest = images.remainder().iter().zip(directions.remainder());
    for (a, b) in images.zip(directions) {
        (0..8).for_each(|i| sums[i] += f64::from(a[i]) * f64::from(b[i]));
    }
    rest.enumerate().for_each(|(i, (a, b))| sums[i] += f64::from(*a) * f64::from(*b));
    sums.iter().sum()
}
