//! Weights in whole numbers: as they are multiplied, and as what `DequantizeLinear` makes of them.

use super::proto::DataType;
use super::writer::{WHAT, Writer, int};
use crate::error::Result;
use crate::memory;
use crate::nn::quantization::in_halves;
use crate::tensor::Tensor;
use std::sync::Arc;

/// The weights of a layer, where they are whole numbers.
#[derive(Clone)]
pub(super) struct Weights {
    /// Name of the parameter.
    pub name: String,
    /// I8 [O, ...].
    pub numbers: Arc<Tensor>,
    /// Of runs of them in memory, as many for each output.
    pub scales: Arc<Tensor>,
    /// 8, or 4.
    pub bits: u8,
}

impl Weights {
    /// The numbers under a shape.
    pub fn write(&self, w: &mut Writer, dims: &[i64]) -> Result<String> {
        let name = w.unique(&self.name)?;
        w.initializer(&name, DataType::Int8, dims, memory::copy(self.numbers.bytes(), WHAT)?)?;
        Ok(name)
    }

    /// The floats under a shape [O, ...].
    pub fn write_floats(&self, w: &mut Writer, dims: &[i64]) -> Result<String> {
        let (runs, outputs) = (self.scales.numel() as i64, dims[0].max(1));
        let each = self.numbers.numel() as i64 / outputs;
        let (flat, grouped) = ([outputs, each], runs != outputs);
        let stored = if grouped { &flat[..] } else { dims };
        let numbers = if self.bits == 4 {
            let name = w.unique(&self.name)?;
            w.initializer(&name, DataType::Int4, stored, memory::collect(in_halves(self.numbers.as_slice::<i8>()?), WHAT)?)?;
            name
        } else {
            self.write(w, stored)?
        };
        let scales = w.unique(&format!("{}_scale", self.name))?;
        let of_outputs = [outputs, runs / outputs];
        w.initializer(&scales, DataType::Float, if grouped { &of_outputs } else { &of_outputs[..1] }, memory::copy(self.scales.to_f32()?.bytes(), WHAT)?)?;
        let attributes = if grouped { vec![int("axis", 1), int("block_size", each / (runs / outputs))] } else { vec![int("axis", 0)] };
        let floats = w.unique(&format!("{}.floats", self.name))?;
        let floats = w.emit("DequantizeLinear", &[&numbers, &scales], attributes, floats)?;
        if !grouped || dims == flat {
            return Ok(floats);
        }
        let (shape, shaped) = (w.table_of(dims)?, w.unique(&floats)?);
        w.emit("Reshape", &[&floats, &shape], vec![], shaped)
    }
}
