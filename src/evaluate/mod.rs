//! How good a sampler's images are, without a net that was trained elsewhere: [`evaluate`] gives a [`Report`] with a row for each set of images and always its
//! own yardsticks beside them, which are what a perfect set would get ([`report::Kind::Null`]) and the teacher.
//!
//! `paired` has errors against the teacher from the same noises; `sliced_wasserstein`, `kernel_distance` and `neighbours` compare distributions, the latter
//! two in features of a fixed random net (`features`); `classifier` learns a dataset's labels. No number stands alone, none is an FID: that is of an Inception
//! net's features.

pub mod classifier;
pub mod conv_net;
pub mod distribution;
pub mod evaluation;
pub mod features;
pub mod images;
pub mod kernel_distance;
pub mod neighbours;
pub mod paired;
pub mod pool;
pub mod report;
pub mod sampled;
pub mod sliced_wasserstein;

pub use distribution::Distribution;
pub use evaluation::{Options, Source, evaluate};
pub use paired::Paired;
pub use report::{Report, Row};
pub use sampled::Sampling;

#[cfg(test)]
mod digits_tests;
#[cfg(test)]
mod metrics_tests;
