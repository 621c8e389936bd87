//! What passes ask of the backend that a program is planned for.

use super::{Op, TensorType};

/// A backend as the passes see it.
pub trait Target {
    /// Whether it runs this op on operands of these types, and gains by it against the ops that it stands for. Passes that can write one op in place of several
    /// ask before they do; ops that a program is written in are not asked about.
    fn accepts(&self, op: &Op, types: &[&TensorType]) -> bool;

    /// The packed form of the weights of this op, a convolution or its input gradient with operands of these types; `None` where it reads them as they are.
    fn packed(&self, op: &Op, types: &[&TensorType]) -> Option<Packed>;
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
