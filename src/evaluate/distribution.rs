//! How a set of images lies against a reference: in pixels, and in features of the random net.

use super::conv_net::FEATURES;
use super::features::Whitening;
use super::kernel_distance::KernelSet;
use super::neighbours::{Balls, NEIGHBOURS};
use super::sliced_wasserstein::{DIRECTIONS, Slices, direction};
use crate::cancel::Stop;
use crate::error::Result;

/// The fewest images of a set that distributions are compared by.
pub const FEWEST: usize = NEIGHBOURS + 1;

/// What is said of a set against a reference of as many images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distribution {
    /// Sliced Wasserstein distance of pixels ([`Slices`]).
    pub sliced_wasserstein: f64,
    /// MMD²_u with a cubic kernel in features of a random net ([`KernelSet`]).
    pub kernel_distance: f64,
    /// Share of the set inside the reference's balls, in those features ([`Balls`]).
    pub precision: f64,
    /// Share of the reference inside the set's balls.
    pub recall: f64,
    /// Balls of the reference that an image of the set is in, by k.
    pub density: f64,
    /// Share of the reference's balls with an image of the set.
    pub coverage: f64,
}

impl Distribution {
    /// Its numbers, in the order of the fields.
    pub fn numbers(&self) -> [f64; 6] {
        [self.sliced_wasserstein, self.kernel_distance, self.precision, self.recall, self.density, self.coverage]
    }

    /// From its numbers.
    pub fn from_numbers([sliced_wasserstein, kernel_distance, precision, recall, density, coverage]: [f64; 6]) -> Self {
        Self { sliced_wasserstein, kernel_distance, precision, recall, density, coverage }
    }
}

/// Images [M, H, W, C] and their features [M, 64].
#[derive(Clone, Copy)]
pub struct Set<'a> {
    /// The images.
    pub images: &'a [f32],
    /// Their features.
    pub features: &'a [f64],
}

/// A reference, measured once for all sets.
pub struct Reference {
    each: usize,
    slices: Slices,
    whitening: Whitening,
    kernel: KernelSet,
    balls: Balls,
}

impl Reference {
    /// Of images of `each` elements; [`FEWEST`] or more.
    pub fn new(set: Set, each: usize, stop: Stop) -> Result<Self> {
        let whitening = Whitening::of(set.features, FEATURES)?;
        let features = whitening.apply(set.features)?;
        Ok(Self {
            each,
            slices: Slices::of(set.images, each, DIRECTIONS, direction, stop)?,
            kernel: KernelSet::new(&features, FEATURES, stop)?,
            balls: Balls::new(&features, FEATURES, stop)?,
            whitening,
        })
    }

    /// A set of as many images against it.
    pub fn measure(&self, set: Set, stop: Stop) -> Result<Distribution> {
        let features = self.whitening.apply(set.features)?;
        let overlap = self.balls.overlap(&Balls::new(&features, FEATURES, stop)?, stop)?;
        Ok(Distribution {
            sliced_wasserstein: self.slices.distance(&Slices::of(set.images, self.each, DIRECTIONS, direction, stop)?)?,
            kernel_distance: self.kernel.distance(&KernelSet::new(&features, FEATURES, stop)?, stop)?,
            precision: overlap.precision,
            recall: overlap.recall,
            density: overlap.density,
            coverage: overlap.coverage,
        })
    }
}
