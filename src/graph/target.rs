//! What passes ask of the backend that a program is planned for.

use super::{Op, TensorType};
use crate::error::Result;
use crate::tensor::DType;

/// A backend as the passes see it.
pub trait Target {
    /// Whether it runs this op on operands of these types, and gains by it against the ops that it stands for. Passes that can write one op in place of several
    /// ask before they do; ops that a program is written in are not asked about.
    fn accepts(&self, op: &Op, types: &[&TensorType]) -> bool;

    /// What of a plan is of a type narrower than f32, where one is asked for; an error that says what to do where the backend has no such plans.
    fn narrowing(&self, dtype: DType) -> Result<Narrowing>;

    /// The packed form of the weights of this op, a convolution or its input gradient with operands of these types; `None` where it reads them as they are.
    fn packed(&self, op: &Op, types: &[&TensorType]) -> Option<Packed>;
}

/// What of a plan is narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrowing {
    /// Activations and their gradients, between ops and in them.
    Activations,
    /// Only what large products multiply, which is rounded on its way into them: all values of the program stay f32.
    Products,
}

/// How a backend packs weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packed {
    /// What they are then.
    pub ty: TensorType,
    /// The order that they are in, by a name: equal names mean equal orders.
    pub order: &'static str,
}

impl From<TensorType> for Packed {
    /// In the only order that there is for a purpose and geometry.
    fn from(ty: TensorType) -> Self {
        Self { ty, order: "" }
    }
}
