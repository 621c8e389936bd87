//! Features of images in a net with random weights, which are the same in every evaluation.

use super::conv_net::{Compiled, ConvNet, FEATURES};
use super::images::check;
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;

/// The seed of the weights, "features" as bytes: no training's, so that a loss in features of a random net is another one's.
pub const SEED: u64 = u64::from_le_bytes(*b"features");
/// A deviation that is no less: a feature that does not vary in the reference says nothing.
const LEAST_DEVIATION: f64 = 1e-3;

/// The net for images of one size.
pub struct FeatureNet {
    net: Compiled,
    each: usize,
}

impl FeatureNet {
    /// For images [H, W, C].
    pub fn new(backend: &dyn Backend, image: [usize; 3], stop: Stop) -> Result<Self> {
        let net = ConvNet { image, classes: None };
        Ok(Self { net: Compiled::new(backend, &net, &net.initial(SEED)?, stop)?, each: image.iter().product() })
    }

    /// Features [M, 64] of images [M, H, W, C]; `name` is what errors call them.
    pub fn of(&mut self, name: &str, images: &[f32], stop: Stop) -> Result<Vec<f64>> {
        let count = check(name, images, self.each)?;
        let mut features = memory::with_capacity(count * FEATURES, "features")?;
        self.net.run(images, stop, |row| {
            features.extend(row.iter().copied().map(f64::from));
            Ok(())
        })?;
        match features.iter().position(|v| !v.is_finite()) {
            None => Ok(features),
            Some(i) => Err(Error::numeric(format!("{name}: a feature of image {} is not finite: its values are too large", i / FEATURES))),
        }
    }
}

/// What makes each feature of a reference one of mean 0 and deviation 1.
pub struct Whitening(Vec<[f64; 2]>);

impl Whitening {
    /// Of features [M, `dims`].
    pub fn of(features: &[f64], dims: usize) -> Result<Self> {
        let rows = (features.len() / dims).max(1) as f64;
        let column = |d: usize| features.iter().skip(d).step_by(dims);
        let measure = |d: usize| {
            let mean = column(d).sum::<f64>() / rows;
            let variance = column(d).map(|v| (v - mean).powi(2)).sum::<f64>() / rows;
            [mean, variance.sqrt().max(LEAST_DEVIATION)]
        };
        Ok(Self(memory::collect((0..dims).map(measure), "features")?))
    }

    /// Features [M, dims] so measured.
    pub fn apply(&self, features: &[f64]) -> Result<Vec<f64>> {
        let measured = features.iter().zip(self.0.iter().cycle());
        memory::collect(measured.map(|(v, [mean, deviation])| (v - mean) / deviation), "features")
    }
}
