//! The unbiased kernel distance of two sets of features.
//!
//! MMD²_u of Gretton et al., "A kernel two-sample test", JMLR 2012, equation 3, with the cubic kernel of Bińkowski et al., "Demystifying MMD GANs", ICLR 2018:
//! `k(u, v) = (u·v / d + 1)³`. Its expectation is 0 for two sets of one distribution at any number of images, so that it may be a little below. In features of
//! an Inception net this is what papers call KID; ours are of a random net, and comparable within this library alone.

use super::images::dot;
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;

/// A set of features [M, d], with the mean kernel of its pairs.
pub struct KernelSet {
    features: Vec<f64>,
    dims: usize,
    /// Mean of k over all ordered pairs of different points.
    within: f64,
}

fn kernel(u: &[f64], v: &[f64]) -> f64 {
    let base = dot(u, v) / u.len() as f64 + 1.0;
    base * base * base
}

impl KernelSet {
    /// Of two points or more of `dims` numbers.
    pub fn new(features: &[f64], dims: usize, stop: Stop) -> Result<Self> {
        let count = features.len().checked_div(dims).unwrap_or(0);
        if count < 2 || count * dims != features.len() {
            return Err(Error::shape(format!("a kernel distance needs two points or more of {dims} numbers, found {} numbers", features.len())));
        }
        let mut sum = 0.0;
        for (i, u) in features.chunks_exact(dims).enumerate() {
            stop.check()?;
            sum += features[(i + 1) * dims..].chunks_exact(dims).map(|v| kernel(u, v)).sum::<f64>();
        }
        let within = 2.0 * sum / (count as f64 * (count - 1) as f64);
        Ok(Self { features: memory::copy(features, "features")?, dims, within })
    }

    /// MMD²_u to another set of points of the same size.
    pub fn distance(&self, other: &Self, stop: Stop) -> Result<f64> {
        if self.dims != other.dims {
            return Err(Error::shape(format!("a kernel distance between points of {} and of {} numbers", self.dims, other.dims)));
        }
        let mut sum = 0.0;
        for u in self.features.chunks_exact(self.dims) {
            stop.check()?;
            sum += other.features.chunks_exact(self.dims).map(|v| kernel(u, v)).sum::<f64>();
        }
        let pairs = (self.features.len() / self.dims) as f64 * (other.features.len() / self.dims) as f64;
        Ok(self.within + other.within - 2.0 * sum / pairs)
    }
}
