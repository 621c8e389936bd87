//! Precision, recall, density and coverage of a set of features against another, by nearest neighbours.
//!
//! Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models", NeurIPS 2019; Naeem et al., "Reliable fidelity and diversity
//! metrics for generative models", ICML 2020. Distances are strict, as in the code of the latter: a point's ball ends before its k-th neighbour.

use super::images::squared_distance;
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;

/// k of the paper's experiments.
pub const NEIGHBOURS: usize = 5;

/// What the neighbours of two sets say. All but the density are shares, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overlap {
    /// Found points inside the ball of a reference point: fidelity.
    pub precision: f64,
    /// Reference points inside the ball of a found point: variety.
    pub recall: f64,
    /// Reference balls that a found point is in, on average, by k: fidelity, about 1 for one distribution, more where points crowd.
    pub density: f64,
    /// Reference balls with a found point inside: variety; it falls where modes are missing.
    pub coverage: f64,
}

/// Points [M, d] with the squared distance of each to its k-th neighbour among the others.
pub struct Balls {
    points: Vec<f64>,
    dims: usize,
    radii: Vec<f64>,
}

/// The least k numbers of those that were met, sorted.
#[derive(Clone, Copy)]
struct Least([f64; NEIGHBOURS]);

impl Least {
    fn meet(&mut self, number: f64) {
        if number < self.0[NEIGHBOURS - 1] {
            let at = self.0.partition_point(|known| *known <= number);
            self.0[at..].rotate_right(1);
            self.0[at] = number;
        }
    }
}

impl Balls {
    /// Of more than k points of `dims` numbers.
    pub fn new(points: &[f64], dims: usize, stop: Stop) -> Result<Self> {
        let count = points.len().checked_div(dims).unwrap_or(0);
        if count <= NEIGHBOURS || count * dims != points.len() {
            return Err(Error::shape(format!(
                "balls as far as the {NEIGHBOURS}th neighbour need more than {NEIGHBOURS} points of {dims} numbers, found {} numbers",
                points.len()
            )));
        }
        let mut least = memory::filled(Least([f64::INFINITY; NEIGHBOURS]), count, "distances of neighbours")?;
        for (i, a) in points.chunks_exact(dims).enumerate() {
            stop.check()?;
            for (j, b) in points.chunks_exact(dims).enumerate().skip(i + 1) {
                let distance = squared_distance(a, b);
                least[i].meet(distance);
                least[j].meet(distance);
            }
        }
        let radii = memory::collect(least.iter().map(|least| least.0[NEIGHBOURS - 1]), "distances of neighbours")?;
        Ok(Self { points: memory::copy(points, "features")?, dims, radii })
    }

    /// What found points are against these, the reference's.
    pub fn overlap(&self, found: &Self, stop: Stop) -> Result<Overlap> {
        if self.dims != found.dims {
            return Err(Error::shape(format!("neighbours among points of {} and of {} numbers", self.dims, found.dims)));
        }
        let mut within = memory::filled(0u64, found.radii.len(), "points in balls")?;
        let (mut recalled, mut covered) = (0usize, 0usize);
        for (real, radius) in self.points.chunks_exact(self.dims).zip(&self.radii) {
            stop.check()?;
            let (mut is_recalled, mut is_covered) = (false, false);
            for ((point, reach), balls) in found.points.chunks_exact(self.dims).zip(&found.radii).zip(&mut within) {
                let distance = squared_distance(real, point);
                let inside = distance < *radius;
                *balls += u64::from(inside);
                is_covered |= inside;
                is_recalled |= distance < *reach;
            }
            recalled += usize::from(is_recalled);
            covered += usize::from(is_covered);
        }
        let [reals, founds] = [self.radii.len() as f64, found.radii.len() as f64];
        Ok(Overlap {
            precision: within.iter().filter(|balls| **balls > 0).count() as f64 / founds,
            recall: recalled as f64 / reals,
            density: within.iter().sum::<u64>() as f64 / (NEIGHBOURS as f64 * founds),
            coverage: covered as f64 / reals,
        })
    }
}
