//! What a training step draws: integers and noise that are functions of seed, step and row, and of which draw it is.

use crate::error::{Error, Result};
use crate::graph::ops::{IntAffine, RandomInt, RandomNormal};
use crate::graph::{Graph, TensorType, ValueId};
use crate::memory;
use crate::random::Purpose;
use crate::tensor::{DType, Tensor};

/// Runtime inputs of the draws.
#[derive(Clone, Copy)]
pub(super) struct DrawInputs {
    /// Key, i64 [1].
    pub seed: ValueId,
    /// Steps done so far, i64 [1].
    pub step: ValueId,
    /// Row of the whole batch that this program's first row is, i32 [1]: 0 where one trainer has all of it.
    pub first_row: ValueId,
}

impl DrawInputs {
    /// Declares them.
    pub fn declare(g: &mut Graph) -> Result<Self> {
        let [i64s, i32s] = [DType::I64, DType::I32].map(|dtype| TensorType::new(dtype, &[1]));
        Ok(Self { seed: g.input("seed", i64s.clone())?, step: g.input("step", i64s)?, first_row: g.input("first_row", i32s)? })
    }
}

/// The draws of one point.
#[derive(Clone, Copy)]
pub(super) struct Draws {
    /// What they depend on.
    pub inputs: DrawInputs,
    /// B.
    pub batch: usize,
    /// Rows of a step, of which the program may have a part: B or a multiple of it.
    pub whole: usize,
    /// Which point of the loss it is: others draw other numbers.
    pub stream: usize,
}

impl Draws {
    /// Integers in 0 .. bound, i32 [B].
    pub fn integers(&self, g: &mut Graph, purpose: Purpose, bound: usize) -> Result<ValueId> {
        let bound = u32::try_from(bound).map_err(|_| Error::invalid(format!("{bound} rows are too many to draw from")))?;
        let op = RandomInt { purpose, bound, count: self.batch, stream: self.stream };
        g.push1(op.into(), &[self.inputs.seed, self.inputs.step, self.inputs.first_row])
    }

    /// Unit normals [B,H,W,C]. Of several points that draw noise, the second one's rows follow all of the step's rows of the first.
    pub fn noise(&self, g: &mut Graph, image: [usize; 3]) -> Result<ValueId> {
        let rows = rows(g, self.batch)?;
        let first = self.stream.checked_mul(self.whole).and_then(|first| i32::try_from(first).ok());
        let shift = first.ok_or_else(|| Error::invalid(format!("noise for {} points of {} rows is too much", self.stream + 1, self.whole)))?;
        let rows = g.push1(IntAffine { scale: 1, shift }.into(), &[self.inputs.first_row, rows])?;
        g.push1(RandomNormal { purpose: Purpose::Noise, image }.into(), &[self.inputs.seed, self.inputs.step, rows])
    }
}

/// 0 .. count, i32 [count].
pub(super) fn rows(g: &mut Graph, count: usize) -> Result<ValueId> {
    let end = i32::try_from(count).map_err(|_| Error::invalid(format!("{count} rows are too many")))?;
    let rows = memory::collect(0..end, "rows of a batch")?;
    g.constant("rows", Tensor::from_slice(&[count], &rows)?)
}
