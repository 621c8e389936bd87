//! The heavy arithmetic: a thread pool, run-time instruction-set dispatch, and convolutions as indirect products over NHWC activations;
//! [`int8`] has the convolutions of bytes, [`bf16`] those of bf16.

// Indices of register tiles run over several arrays at once; iterators would hide what is unrolled.
#![allow(clippy::needless_range_loop)]

pub mod bf16;
pub mod conv;
pub mod conv_input_grad;
pub mod conv_weight_grad;
pub mod gemm;
pub mod int8;
pub mod pool;
pub mod simd;
pub mod workers;
