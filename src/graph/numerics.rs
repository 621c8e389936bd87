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

    /// Activations, and their gradients, of a type: f32, or f16 or bf16 on backends that have them; or only the factors of large products, where a backend
    /// narrows those alone ([`Narrowing`](super::Narrowing)).
    pub fn of(activations: DType) -> Result<Self> {
        match activations {
            DType::F32 | DType::F16 | DType::Bf16 => Ok(Self { activations }),
            other => Err(Error::unsupported(format!("activations of {other:?}"))),
        }
    }

    /// The type of activations, or of the factors of products.
    pub fn activations(&self) -> DType {
        self.activations
    }
}
