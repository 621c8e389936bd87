//! Into what a model is quantised.

use crate::nn::WeightNumbers;
use crate::tensor::DType;

/// What weights, and what layers read, become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Both bytes: the products are of whole numbers.
    W8A8,
    /// Weights of bytes, products in float.
    W8,
    /// Weights of 4 bits with a scale for each output, inputs of bytes: the products are of whole numbers.
    W4A8,
    /// Weights of 4 bits with a scale for each group of [`Mode::GROUP`] of them, products in float.
    W4,
    /// All weights as f16.
    F16,
    /// All weights as bfloat16.
    Bf16,
}

impl Mode {
    /// Weights that share a scale where those of 4 bits have them in groups; half of it where an output's are no multiple.
    pub const GROUP: usize = 16;

    /// Its word in files.
    pub fn word(self) -> &'static str {
        match self {
            Self::W8A8 => "w8a8",
            Self::W8 => "w8",
            Self::W4A8 => "w4a8",
            Self::W4 => "w4",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The type of all weights, where they become one of floats.
    pub fn floats(self) -> Option<DType> {
        match self {
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::Bf16),
            Self::W8A8 | Self::W8 | Self::W4A8 | Self::W4 => None,
        }
    }

    /// Whether what layers read is rounded too, which takes a calibration.
    pub fn rounds_inputs(self) -> bool {
        matches!(self, Self::W8A8 | Self::W4A8)
    }

    /// How weights [O, C, ...] are rounded.
    pub fn weights(self, shape: &[usize]) -> WeightNumbers {
        match self {
            Self::W4A8 => WeightNumbers { bits: 4, group: None },
            Self::W4 => {
                let each: usize = shape.iter().skip(1).product();
                WeightNumbers { bits: 4, group: [Self::GROUP, Self::GROUP / 2].into_iter().find(|group| each.is_multiple_of(*group)) }
            }
            Self::W8A8 | Self::W8 | Self::F16 | Self::Bf16 => WeightNumbers::BYTES,
        }
    }
}
