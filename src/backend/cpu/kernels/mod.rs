//! The CPU: a thread pool, run-time instruction-set dispatch, and f32 kernels over NHWC activations.

pub mod conv;
pub mod conv_input_grad;
pub mod conv_weight_grad;
pub mod gemm;
pub mod pool;
pub mod simd;
pub mod simd_math;
