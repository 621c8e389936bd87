//! What distributions are compared with: twice as many images as a set has, so that one half is the reference of the other.

use super::conv_net::FEATURES;
use super::distribution::{Distribution, Reference, Set};
use super::features::FeatureNet;
use super::images::shuffled;
use crate::cancel::Stop;
use crate::distill::Dataset;
use crate::error::{Error, Result};
use crate::memory;

/// In how many ways the images are split to see what the distance of halves is.
pub const SPLITS: usize = 4;
/// Of the order of a dataset's images, and of splits: "splits" as bytes.
const SEED: u64 = u64::from_le_bytes(*b"splits\0\0");

/// 2n images and their features. The last n are the reference of every set.
pub struct Pool {
    images: Vec<f32>,
    features: Vec<f64>,
    each: usize,
}

/// n of a pool's images.
struct Half {
    images: Vec<f32>,
    features: Vec<f64>,
}

impl Half {
    fn set(&self) -> Set<'_> {
        Set { images: &self.images, features: &self.features }
    }
}

/// 2n images of a dataset, always the same ones.
pub fn of_dataset(dataset: &Dataset, n: usize) -> Result<Vec<f32>> {
    let each: usize = dataset.images().shape()[1..].iter().product();
    let from = dataset.images().as_slice::<f32>()?;
    let mut images = memory::with_capacity(2 * n * each, "images of the reference")?;
    for i in shuffled(dataset.len(), SEED)?.into_iter().take(2 * n) {
        images.extend_from_slice(&from[i * each..][..each]);
    }
    Ok(images)
}

impl Pool {
    /// Of 2n images of `each` elements.
    pub fn new(images: Vec<f32>, each: usize, net: &mut FeatureNet, stop: Stop) -> Result<Self> {
        let features = net.of("the reference's images", &images, stop)?;
        Ok(Self { images, features, each })
    }

    fn half(&self, chosen: &[usize]) -> Result<Half> {
        let mut half = Half {
            images: memory::with_capacity(chosen.len() * self.each, "images of the reference")?,
            features: memory::with_capacity(chosen.len() * FEATURES, "features of the reference")?,
        };
        for i in chosen {
            half.images.extend_from_slice(&self.images[i * self.each..][..self.each]);
            half.features.extend_from_slice(&self.features[i * FEATURES..][..FEATURES]);
        }
        Ok(half)
    }

    /// The reference of every set, and what halves are against each other: mean and standard deviation over the splits, the first of which is that of the
    /// reference. `progress()` after each split.
    pub fn reference(&self, mut progress: impl FnMut() -> Result<()>, stop: Stop) -> Result<(Reference, [Distribution; 2])> {
        let count = self.images.len() / self.each;
        let mut first = None;
        let mut found = [[0.0; 6]; SPLITS];
        for (split, found) in found.iter_mut().enumerate() {
            let order = if split == 0 { memory::collect(0..count, "an order")? } else { shuffled(count, SEED + split as u64)? };
            let (set, half) = order.split_at(count / 2);
            let reference = Reference::new(self.half(half)?.set(), self.each, stop)?;
            *found = reference.measure(self.half(set)?.set(), stop)?.numbers();
            first.get_or_insert(reference);
            progress()?;
        }
        let first = first.ok_or_else(|| Error::internal("no splits"))?;
        let over = |i: usize, of: fn(&[f64]) -> f64| of(&found.map(|numbers| numbers[i]));
        let of = |f: fn(&[f64]) -> f64| Distribution::from_numbers(std::array::from_fn(|i| over(i, f)));
        Ok((first, [of(mean), of(deviation)]))
    }
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

/// The sample's standard deviation.
fn deviation(numbers: &[f64]) -> f64 {
    let middle = mean(numbers);
    (numbers.iter().map(|v| (v - middle).powi(2)).sum::<f64>() / (numbers.len() - 1) as f64).sqrt()
}
