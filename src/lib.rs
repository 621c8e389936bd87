//! Few-step diffusion behind one C header: distil a teacher's sampling trajectory into a small student, then sample it.
//!
//! The rooms, and the one direction in which they depend on each other:
//! `ffi` → [`evaluate`] → [`distill`], and `ffi` → [`quant`], [`onnx`]; all of them → [`sampling`] → [`nn`] → [`diffusion`]; all but the last → [`backend`] →
//! [`graph`]; [`io`] stands beside them and knows only tensors and configs.
//! Users link the C ABI of `include/fewstep.h`; the Rust modules are public for tests and benchmarks only.

pub mod backend;
pub mod cancel;
pub mod diffusion;
pub mod distill;
pub mod error;
pub mod evaluate;
pub mod ffi;
pub mod graph;
pub mod io;
pub mod memory;
pub mod names;
pub mod nn;
pub mod onnx;
mod process;
pub mod quant;
pub mod random;
pub mod recipe;
pub mod sampling;
pub mod standby;
pub mod tensor;

#[cfg(test)]
mod rooms_tests;

pub use error::{Error, Result, Status};
