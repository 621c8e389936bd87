//! The CUDA backend. So far: which kernels this build has.

pub(crate) mod manifest;
