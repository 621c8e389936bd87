//! What a file is to be.

use super::program::{Kind, Sampled};
use crate::names::named_enum;

named_enum! {
    /// How whole numbers are written.
    #[derive(Default)]
    Profile {
        /// I8 with a zero point of 0, between `QuantizeLinear` and `DequantizeLinear` around products of floats, which compilers compute in whole numbers:
        /// OpenVINO, TensorRT.
        #[default]
        Symmetric = "symmetric",
        /// U8 with any zero point, and `ConvInteger` and `MatMulInteger` themselves, for runtimes that compute what is written: ONNX Runtime.
        Unsigned = "unsigned",
    }
}

/// What a file is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// What it computes.
    pub kind: Kind,
    /// [H, W] of its images.
    pub size: [usize; 2],
    /// Of whose steps and runs; evaluations need none.
    pub sampled: Option<Sampled<'a>>,
    /// Whether parameters of f32 are written as f16 where they fit, to be cast when the file is loaded.
    pub half: bool,
    /// How whole numbers are written.
    pub profile: Profile,
    /// Version of ONNX's operators.
    pub opset: i64,
    /// Whether parameters are written to a file beside it; those of more than 2 GiB always are.
    pub external: bool,
}

impl Options<'_> {
    /// The versions of the operators that there are: the first with group norms as they are meant, and 4 bits; the last that was looked at.
    pub const OPSETS: std::ops::RangeInclusive<i64> = 21..=24;

    /// Whether products of whole numbers are written as such.
    pub(super) fn integer_products(&self) -> bool {
        self.profile == Profile::Unsigned
    }
}
