//! What layers read in whole numbers: `QuantizeLinear`, and `DequantizeLinear` where somebody reads floats.
//!
//! Such a number is one of 0..=255 with a zero point. With that taken off it is one of I8 whose zero point is 0, the only ones that TensorRT knows, where all
//! of the range fits, as that of the default of 130 levels does.

use super::form::Numbers;
use super::lowering::Lowering;
use super::options::Profile;
use super::proto::DataType;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::graph::ops::FakeQuantize;

pub(super) fn lower(l: &mut Lowering, op: &FakeQuantize, inputs: &[ValueId], y: ValueId) -> Result<()> {
    let (x, scale, zero) = (inputs[0], l.tensor(inputs[1])?, l.tensor(inputs[2])?);
    let (None, &[factor]) = (op.axis, scale.as_slice::<f32>()?) else {
        return Err(Error::unsupported("activations with a scale for each channel have no form that runtimes compute in whole numbers"));
    };
    let zero = i32::from(zero.as_slice::<u8>()?.first().copied().unwrap_or(0));
    let (low, high) = (op.codes.low - zero, op.codes.high - zero);
    let (ty, point) = match l.options.profile {
        Profile::Unsigned => (DataType::Uint8, zero as u8),
        Profile::Symmetric if low >= -128 && high <= 127 => (DataType::Int8, 0),
        Profile::Symmetric => {
            return Err(Error::unsupported(format!(
                "its numbers less their zero point {zero} are {low} to {high}, and the profile \"symmetric\" has -128 to 127: quantise with 130 levels, or export \
                 with the profile \"unsigned\""
            )));
        }
    };
    let (from, form) = l.any(x)?;
    let (scale, zero) = (l.scalar(factor)?, l.writer.table(ty, &[], vec![point])?);
    let name = l.emit("QuantizeLinear", &[&from, &scale, &zero], vec![], y)?;
    l.set_numbers(y, Numbers { name, scale, zero, factor, form });
    Ok(())
}
