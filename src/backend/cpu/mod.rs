//! The CPU backend: [`exec`] runs a plan, `lower` picks a `kernel` for each node, one file an op adapts it, [`kernels`] holds the heavy arithmetic.

mod accepts;
mod attention;
mod bf16_conv2d;
mod chunks;
mod combine;
mod conv2d;
mod elementwise;
pub mod exec;
mod gather;
mod group_norm;
mod head_product;
mod kernel;
pub mod kernels;
mod lower;
mod math;
mod muon;
mod optimizer;
pub mod processor;
mod quantize;
mod quantized_conv2d;
mod random;
mod reduce;
mod resample;
mod shape;
mod staged_input;
mod target;
mod timestep_embedding;
mod transpose;

pub use exec::{CpuBackend, CpuExecutable};
pub use kernels::pool::ThreadPool;
pub use kernels::simd::Isa;
