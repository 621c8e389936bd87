//! In which number types a program is planned. The program itself is in f32.

use crate::error::{Error, Result};
use crate::tensor::DType;

/// What a plan computes in; an argument of compiling, so that one program can be planned in several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numerics {
    activations: DType,
}

impl Numerics {
    /// Everything in f32.
    pub const F32: Self = Self { activations: DType::F32 };

    /// Activations, and their gradients, of a type: f32, or f16 or bf16 on backends that have them ([`passes::precision`](super::passes::precision)).
    pub fn of(activations: DType) -> Result<Self> {
        match activations {
            DType::F32 | DType::F16 | DType::Bf16 => Ok(Self { activations }),
            other => Err(Error::unsupported(format!("activations of {other:?}"))),
        }
    }

    /// The type of activations.
    pub fn activations(&self) -> DType {
        self.activations
    }
}
