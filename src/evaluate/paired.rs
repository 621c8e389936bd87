//! Errors of images against those that another sampler has made of the same noises.
//!
//! They say how well a trajectory is followed, and reward blur where a student cannot follow it: never the only numbers of a report.

use super::images::check;
use crate::error::{Error, Result};
use crate::memory;

/// Images that [`Paired::trimmed`] leaves out: one in so many.
const TRIMMED: usize = 20;

/// What is said of the errors of M images. An image's own RMSE is over its elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// Root of the mean square over all elements.
    pub rmse: f64,
    /// Median of the images' RMSE.
    pub median: f64,
    /// 99th percentile of the images' RMSE, linear between neighbours (numpy's default).
    pub p99: f64,
    /// RMSE over all images but the worst 5 %, rounded down.
    pub trimmed: f64,
    /// 20 log10(2 / rmse): images are nominally in [-1, 1], a range of 2. Infinite where there is no error.
    pub psnr: f64,
}

/// The mean square error of elements that come in parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeanSquare {
    sum: f64,
    count: usize,
}

/// The sum of squared differences, one element after the other.
fn squares(found: &[f32], exact: &[f32]) -> f64 {
    found.iter().zip(exact).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

impl MeanSquare {
    /// Adds a part: as many elements of both.
    pub fn add(&mut self, found: &[f32], exact: &[f32]) {
        self.sum += squares(found, exact);
        self.count += found.len().min(exact.len());
    }

    /// Its root; 0 of nothing.
    pub fn root(self) -> f64 {
        (self.sum / self.count.max(1) as f64).sqrt()
    }
}

impl Paired {
    /// Of images of `each` elements, image after image, and what they should have been.
    pub fn of(found: &[f32], exact: &[f32], each: usize) -> Result<Self> {
        let count = check("images", found, each)?;
        if check("the reference's images", exact, each)? != count {
            return Err(Error::shape(format!("{count} images are compared with {}: they must be as many, of the same noises", exact.len() / each)));
        }
        let errors = found.chunks_exact(each).zip(exact.chunks_exact(each)).map(|(found, exact)| squares(found, exact) / each as f64);
        let mut errors = memory::collect(errors, "errors of images")?;
        errors.sort_unstable_by(f64::total_cmp);
        let root_mean = |errors: &[f64]| (errors.iter().sum::<f64>() / errors.len() as f64).sqrt();
        let rmse = root_mean(&errors);
        Ok(Self {
            rmse,
            median: quantile(&errors, 0.5),
            p99: quantile(&errors, 0.99),
            trimmed: root_mean(&errors[..count - count / TRIMMED]),
            psnr: 20.0 * (2.0 / rmse).log10(),
        })
    }
}

/// A quantile of the roots of sorted numbers.
fn quantile(squares: &[f64], share: f64) -> f64 {
    let at = share * (squares.len() - 1) as f64;
    let below = at.floor() as usize;
    let [low, high] = [squares[below], squares[(below + 1).min(squares.len() - 1)]].map(f64::sqrt);
    low + (high - low) * (at - below as f64)
}
