//! From a model in floats to one in fewer bits ([`quantize`]): into what ([`mode`]), which layers ([`policy`]), the ranges of what they read along the model's own
//! sampling run (`calibrate`), and the scales that follow ([`range`]). What comes out is the same model with a [`Quantization`](crate::nn::Quantization) and its
//! scales: sampled, its layers run on kernels for bytes; trained, it learns with the rounding in place. [`report`] tells what each layer costs.

mod calibrate;
mod correct;
mod histogram;
pub mod mode;
pub mod options;
pub mod policy;
pub mod quantize;
pub mod range;
pub mod report;

pub use mode::Mode;
pub use options::{Ends, Options};
pub use policy::Policy;
pub use quantize::quantize;
pub use range::Range;
pub use report::{Report, Samples, report};

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod mode_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod training_tests;
