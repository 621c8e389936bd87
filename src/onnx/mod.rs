//! Models as ONNX files, for compilers and runtimes of others: OpenVINO, TensorRT, ONNX Runtime.
//!
//! What is written is the program that this library itself would plan, before any pass: whole numbers are then `QuantizeLinear` and `DequantizeLinear` at the
//! places where the library has them, parameters have their names of the diffusers file, and what follows from timesteps alone is computed beforehand where
//! these are known. Images are [N,C,H,W]; N is free.

mod attention;
mod combine;
mod constants;
mod conv2d;
mod elementwise;
mod export;
mod file;
mod form;
mod gather;
mod group_norm;
mod head_product;
mod lower;
mod lowering;
mod options;
mod program;
mod proto;
mod quantize;
mod reduce;
mod resample;
mod shape;
mod timestep_embedding;
mod transpose;
mod weights;
mod writer;

#[cfg(test)]
mod tests;

pub use file::{save, to_bytes};
pub use options::{Options, Profile};
pub use program::{Kind, Sampled};
