//! Convolutions of bytes, exact on every processor: activations are u8 with a zero point, weights s8 with a scale for each output channel, sums s32; what comes
//! out is f32 ([`Epilogue`] says how).
//!
//! Someone makes numbers of floats and puts them where the convolution reads them ([`Input::stage`], [`Staging`]); the convolution ([`Conv2d`]) runs on a kernel
//! of the [`CATALOGUE`], chosen by instruction set ([`Set`]) and shape. All kernels compute the same sums, and all make the same bits of them.
//!
//! | set | tile | weights packed (`pack.rs`) |
//! | --- | --- | --- |
//! | portable | 2 pixels x 8 channels | `[k/8][r][step][8][4]` |
//! | AVX2 | 4 x 16 | `[k/16]`, steps examined and sorted |
//! | AVX-VNNI | 6 x 16 | `[k/16][r][step][16][4]` |
//! | AVX-512 VNNI | 14 x 32 | `[k/32][r][step][32][4]` |
//! | AMX int8 | 32 x 32 | `[k/32][r][s][c/64][2][16][16][4]` |
//! | NEON dotprod | 6 x 16 | `[k/16]`, what signed bytes take from the sums, then `[r][step][16][4]` |
//! | NEON i8mm | 8 x 8 | `[k/8][r][step][8][8]` |
//!
//! All but the kernels serves convolutions of bf16 too ([`super::bf16`]): what they read is staged by the same pass, and tiles are tiles.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
pub mod catalogue;
pub mod conv;
mod dot;
#[cfg(target_arch = "aarch64")]
mod i8mm;
pub mod pack;
pub mod set;
mod silu;
pub mod stage;
pub mod staging;
pub(super) mod task;
pub(super) mod tiles;

pub use catalogue::{CATALOGUE, Kernel};
pub use conv::{Conv2d, correct, weight_sums};
pub use set::Set;
pub use stage::{Input, Norm, Rounding, Source};
pub use staging::{Form, Staging};
pub use task::Epilogue;

#[cfg(test)]
mod tests;
