//! Products of bf16 on tiles: convolutions, their input gradients, which are convolutions with turned weights, and their weight gradients. Factors are rounded
//! to bf16 (to nearest, ties to even), sums are f32, in the order of the instruction (tdpbf16ps).
//!
//! Convolutions read what the rounding pass of [`int8`] stages, 32 channels a line where bytes have 64, and run on its loop over tiles; weights are
//! packed as `[k/32][r][s][c/32][2][16][16][2]`. Weight gradients have a pass and a loop of their own (`weight_grad`).
//!
//! | kernel | what multiplies |
//! | --- | --- |
//! | AMX | tdpbf16ps: Intel, Sapphire Rapids and later; asked for when a plan of bf16 is, unless `FEWSTEP_ISA` names something lower |
//! | definition | the same in plain arithmetic, to the bit: for tests and never chosen, since f32 is faster |

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod conv;
mod definition;
mod weight_grad;

pub use conv::{Conv2d, PackedWeights, turned};
pub use weight_grad::WeightGrad;

use super::conv::ConvShape;
use super::int8::catalogue::fills_tiles;
use super::int8::pack::{Packing, TILE_COLUMNS};
use super::int8::staging::TILE;
use super::int8::task::Task;
use super::int8::{self, Form, Set};
use super::simd;
use crate::error::{Error, Result};
use half::bf16;

/// A kernel: convolutions and weight gradients on one kind of tiles.
pub struct Kernel {
    /// Its name, for tests and benchmarks.
    pub name: &'static str,
    /// Its convolutions, on the loop of those of bytes.
    conv: int8::Kernel,
    /// Its weight gradients.
    outer: unsafe fn(&weight_grad::Task),
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Tiles of bf16, multiplied by `run`.
const fn convolutions(name: &'static str, run: unsafe fn(&Task)) -> int8::Kernel {
    int8::Kernel {
        name,
        set: Set::Portable, // what they need is asked for here
        tile: [2 * TILE, TILE_COLUMNS],
        lanes: 16,
        form: Form::Bf16Tiles,
        packing: Packing::Tiles { size: size_of::<bf16>() },
        chunk_macs: 1 << 23,
        run,
    }
}

/// The definition in plain arithmetic, which every machine has.
pub static DEFINITION: Kernel =
    Kernel { name: "bf16_definition_32x32", conv: convolutions("bf16_definition_32x32", definition::convolution), outer: definition::weight_gradient };

/// AMX.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
static AMX: Kernel = Kernel { name: "bf16_amx_32x32", conv: convolutions("bf16_amx_32x32", amx::convolution), outer: amx::weight_gradient };

/// Why there are no tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// `FEWSTEP_ISA` names something lower.
    Forbidden(&'static str),
    /// The processor has none, or nobody knows how to ask this system for them.
    Absent,
    /// The system does not give them to this process.
    Refused,
}

/// What keeps a process from the tiles, `has` being whether processor and system know them. The system is asked last, and only where nothing else stands
/// against it: what it grants cannot be given back.
fn lack(limit: Option<&'static str>, has: bool, granted: impl FnOnce() -> bool) -> Option<Lack> {
    match limit {
        Some(lower) if lower != "amx" => Some(Lack::Forbidden(lower)),
        _ if !has => Some(Lack::Absent),
        _ => (!granted()).then_some(Lack::Refused),
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn found(granted: impl FnOnce() -> bool) -> std::result::Result<&'static Kernel, Lack> {
    lack(simd::wanted(), int8::amx::has(int8::amx::Products::Bf16), granted).map_or(Ok(&AMX), Err)
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn found(granted: impl FnOnce() -> bool) -> std::result::Result<&'static Kernel, Lack> {
    Err(lack(simd::wanted(), false, granted).unwrap_or(Lack::Absent))
}

impl Kernel {
    /// The one that this machine computes with. The first call on a processor that has tiles asks the system for them, which changes the process
    /// (`int8/amx.rs`): call it when a plan of bf16 is compiled, not before. An error that says what is missing, and what to do.
    pub fn detect() -> Result<&'static Self> {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        let granted = int8::amx::permitted;
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        let granted = || false;
        found(granted).map_err(refusal)
    }

    /// Whether there is one, if the system gives the tiles, which it is not asked.
    pub fn is_possible() -> bool {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        let granted = || !int8::amx::refused();
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        let granted = || true;
        found(granted).is_ok()
    }

    /// All kernels that this machine can run. For tests and benchmarks.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        [&DEFINITION].into_iter().chain(Self::detect().ok())
    }

    /// Whether a convolution of this shape is worth its tiles: where they would mostly be filled up, floats are as fast.
    pub fn pays(shape: &ConvShape) -> bool {
        fills_tiles(shape, size_of::<bf16>())
    }
}

fn refusal(lack: Lack) -> Error {
    let reason = match lack {
        Lack::Forbidden(lower) => return Error::unsupported(format!("bf16 on a CPU needs AMX, which FEWSTEP_ISA={lower} forbids: unset it, or use f32")),
        Lack::Absent => "which this processor or its system lacks",
        Lack::Refused => {
            "which the system refuses to this process (a thread may have an alternate signal stack of less than getauxval(AT_MINSIGSTKSZ); it is not asked again)"
        }
    };
    Error::unsupported(format!("bf16 on a CPU needs AMX (Intel, Sapphire Rapids and later; Linux 5.16), {reason}: use f32, or a CUDA device"))
}

#[cfg(test)]
mod tests;
