//! The numbers that kernels share with the code around them: `cuda/shared.h`, of which the build makes this.

include!(concat!(env!("OUT_DIR"), "/cuda_shared.rs"));
