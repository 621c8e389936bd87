//! Philox noise and integers drawn inside the plan: a function of (seed, purpose, step, sample index, element) and of nothing else.

use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::op::{Narrow, OpDef, arity, expect_dtype, expect_shape};
use crate::graph::reference::Array;
use crate::random::{self, Purpose};
use crate::tensor::DType;

fn head(inputs: &[&TensorType]) -> Result<()> {
    expect_shape("seed", inputs[0], &[1])?;
    expect_shape("step", inputs[1], &[1])?;
    inputs[..2].iter().try_for_each(|ty| expect_dtype(ty, DType::I64))
}

/// Standard normals [N,H,W,C]; element order of the counter is the logical NCHW order, so that layout never changes the noise.
/// Operands: seed i64 [1], step i64 [1], sample i32 [N].
#[derive(Clone, Debug, PartialEq)]
pub struct RandomNormal {
    /// What the noise is for; different purposes never share words.
    pub purpose: Purpose,
    /// [H,W,C] of a sample.
    pub image: [usize; 3],
}

impl OpDef for RandomNormal {
    fn name(&self) -> &'static str {
        "random_normal"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 3..=3)?;
        head(inputs)?;
        let [h, w, c] = self.image;
        match (inputs[2].dtype, inputs[2].shape.as_slice()) {
            (DType::I32, &[n]) => Ok(vec![TensorType::f32(&[n, h, w, c])]),
            _ => Err(Error::shape(format!("sample indices must be i32 [N], found {:?} {:?}", inputs[2].dtype, inputs[2].shape))),
        }
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let [h, w, c] = self.image;
        let (seed, step) = (inputs[0].sum() as i64 as u64, inputs[1].sum() as i64);
        let mut y = Array::zeros(vec![inputs[2].len(), h, w, c]);
        for (n, sample) in inputs[2].iter().enumerate() {
            let mut chw = vec![0f32; h * w * c];
            random::fill_normal(seed, self.purpose, step as u32, *sample as i32 as u32, &mut chw);
            for (i, v) in chw.iter().enumerate() {
                y[[n, i / w % h, i % w, i / (w * h)]] = f64::from(*v);
            }
        }
        Ok(vec![y])
    }
}

/// Integers in 0..bound, i32 [count]. Operands: seed i64 [1], step i64 [1], first row i32 [1]. Draw b is that of row first + b, which is the counter's
/// sample index: it does not depend on who draws the other rows.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomInt {
    /// What the draw is for.
    pub purpose: Purpose,
    /// Exclusive upper end, at least 1.
    pub bound: u32,
    /// Number of draws.
    pub count: usize,
    /// Which word of the sample's sequence: word `stream % 4` of block `stream / 4`. Draws of different streams are independent. Below 2^31.
    pub stream: usize,
}

impl RandomInt {
    /// The draw of a row.
    pub fn of_row(&self, seed: i64, step: i64, row: u32) -> u32 {
        let words = random::words(seed as u64, self.purpose, step as u32, row, (self.stream / 4) as u32);
        random::uniform_int(words[self.stream % 4], self.bound)
    }
}

impl OpDef for RandomInt {
    fn name(&self) -> &'static str {
        "random_int"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 3..=3)?;
        head(inputs)?;
        expect_shape("first row", inputs[2], &[1])?;
        expect_dtype(inputs[2], DType::I32)?;
        if self.bound == 0 || self.bound > i32::MAX as u32 || i32::try_from(self.stream).is_err() {
            return Err(Error::invalid(format!("random integers below {} from stream {}", self.bound, self.stream)));
        }
        Ok(vec![TensorType::new(DType::I32, &[self.count])])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (seed, step, first) = (inputs[0].sum() as i64, inputs[1].sum() as i64, inputs[2].sum() as i32);
        Ok(vec![Array::from_shape_fn(vec![self.count], |i| f64::from(self.of_row(seed, step, (first as u32).wrapping_add(i[0] as u32))))])
    }
}
