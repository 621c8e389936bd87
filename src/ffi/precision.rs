//! What networks compute in, in training and in sampling.

use super::boundary::choice;
use crate::error::Result;
use crate::tensor::DType;

/// 32-bit floats; the layers of a quantised model in whole numbers where the device has kernels for them.
pub const FEWSTEP_PRECISION_F32: i32 = 0;
/// CUDA: activations and products in 16-bit IEEE floats with sums in f32. Twice the speed and half the memory of f32 and more where tensor cores multiply.
pub const FEWSTEP_PRECISION_F16: i32 = 1;
/// CUDA, compute capability 8.0 or later: the same in bfloat16, which has the range of f32 and 8 bits of precision. CPU with AMX for bfloat16 (Intel, Sapphire
/// Rapids and later; Linux 5.16): convolutions, linear layers and their gradients multiply in it where they have channels and rows enough, with sums in f32;
/// all else is f32 (so a sample may differ in bfloat16's last bits between batches of under 4 and larger ones). Making such a sampler, evaluator or trainer
/// asks the system for the tiles, as FEWSTEP_DEVICE_CPU tells. Of a quantised model what stays in float is computed so, whole numbers as ever: its fastest way.
/// Where the tiles cannot be had it is refused with FEWSTEP_STATUS_UNSUPPORTED; the error says why.
pub const FEWSTEP_PRECISION_BF16: i32 = 2;

const ALL: [(i32, DType); 3] = [(FEWSTEP_PRECISION_F32, DType::F32), (FEWSTEP_PRECISION_F16, DType::F16), (FEWSTEP_PRECISION_BF16, DType::Bf16)];

/// The element type that a FEWSTEP_PRECISION_* names.
pub(super) fn precision(value: i32) -> Result<DType> {
    choice(value, "precision", &ALL)
}

/// The bits 1 << FEWSTEP_PRECISION_* of these element types.
pub(super) fn precision_bits(types: &[DType]) -> u32 {
    ALL.iter().filter(|(_, dtype)| types.contains(dtype)).fold(0, |bits, (value, _)| bits | 1 << value)
}
