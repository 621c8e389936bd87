//! The library as C programs see it: its functions by the names of the header, the header itself, and the kernels' build.

#[path = "../common/alone.rs"]
mod alone;
mod bad_input;
mod bad_training;
mod datasets;
mod devices;
mod evaluate;
#[path = "../ffi_common/mod.rs"]
mod ffi_common;
mod header;
mod kernel_build;
mod onnx;
#[path = "../common/pictures.rs"]
mod pictures;
mod plugin;
mod quantize;
mod recipe;
mod student_search;
mod training;
mod trajectories;
