//! The C ABI of `include/fewstep.h` and nothing else: one file a handle, each extern function a few lines over the Rust API.
//!
//! The doc comments of `pub` items here are the header's text (cbindgen copies them), so they speak to a C programmer. The rules that every function
//! keeps are in `boundary` (statuses, panics), `handle` (tags, use from callbacks) and `options` (struct sizes, strides).

// C's names, and C's documentation: what makes a call valid is said once, in the header's introduction.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]

pub(crate) mod boundary;
pub mod callback;
pub mod cancel;
pub mod conditioning;
pub mod dataset;
pub mod dataset_fill;
pub mod dataset_folder;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod evaluator;
mod extent;
pub mod grid;
mod guidance;
pub(crate) mod handle;
pub mod model;
pub mod onnx;
pub(crate) mod options;
pub mod precision;
pub mod quality_report;
pub mod quantize;
pub mod quantize_report;
pub mod recipe;
pub mod runtime;
pub mod sampler;
pub mod sampler_options;
pub mod student_search;
pub mod tools;
pub mod trainer;
pub mod trainer_options;
pub mod trajectories;
