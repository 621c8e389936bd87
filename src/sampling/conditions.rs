//! What samples that nobody asked for are given: the trajectories of a teacher, those that a model is calibrated on.

use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::{Condition, ConditionKind};
use crate::random::{self, Purpose};
use crate::tensor::Tensor;
use std::sync::Arc;

/// Refuses rows of data, of each condition, that are not those of images of `size` [H, W]: a data set of other images has other planes.
pub fn check_rows(conditions: &[Condition], rows: &[Arc<Tensor>], size: [usize; 2]) -> Result<()> {
    for (condition, rows) in conditions.iter().zip(rows) {
        let numbers = |shape: &[usize]| shape[1..].iter().product::<usize>();
        let (expected, found) = (numbers(&condition.kind.rows(1, size).shape), numbers(rows.shape()));
        if found != expected {
            let name = condition.kind.name();
            return Err(Error::shape(format!("{name} of the dataset's images have {found} numbers each, those of samples of {size:?} (H, W) {expected}")));
        }
    }
    Ok(())
}

/// Conditions of `count` samples of `size` [H, W]: labels evenly, or rows of data, which then belong together; `from` has those of each condition, or nothing
/// for labels alone. Drawn by the seed.
pub fn draw_conditions(conditions: &[Condition], from: &[Arc<Tensor>], (count, size): (usize, [usize; 2]), seed: u64, stop: Stop) -> Result<Vec<Tensor>> {
    let draw = |i: usize, bound: u32| random::uniform_int(random::words(seed, Purpose::Timestep, u32::MAX, i as u32, 0)[0], bound);
    let bound = |n: usize| u32::try_from(n).map_err(|_| Error::invalid(format!("{n} are too many to draw from")));
    check_rows(conditions, from, size)?;
    let mut drawn = memory::with_capacity(conditions.len(), "conditions")?;
    for (k, condition) in conditions.iter().enumerate() {
        let ty = condition.kind.rows(count, size);
        let mut tensor = Tensor::zeros(ty.dtype, &ty.shape)?;
        match (condition.kind, from.get(k)) {
            (ConditionKind::Labels { classes }, None) => {
                let classes = bound(classes)?;
                for (i, label) in tensor.as_mut_slice::<i32>()?.iter_mut().enumerate() {
                    stop.check()?;
                    *label = draw(i, classes) as i32;
                }
            }
            (kind, None) => return Err(Error::invalid(format!("the samples need {}: give a dataset with them", kind.name()))),
            (_, Some(rows)) => {
                let (known, data) = (bound(rows.shape()[0])?, rows.bytes());
                let row = ty.numel() / count * ty.dtype.size();
                for (i, to) in tensor.bytes_mut().chunks_exact_mut(row).enumerate() {
                    stop.check()?;
                    to.copy_from_slice(&data[draw(i, known) as usize * row..][..row]);
                }
            }
        }
        drawn.push(tensor);
    }
    Ok(drawn)
}
