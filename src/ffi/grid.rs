//! A few-step grid as C gives it.

use super::options::{self, Item};
use crate::diffusion::{grid, trailing_pairs};
use crate::error::{Error, Result};
use crate::memory;

/// One step of a few-step grid, in training timesteps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct fewstep_step_pair {
    /// Timestep that the network sees, 0 .. num_train_timesteps - 1.
    pub t: i32,
    /// Timestep that the step lands on, less than `t`; -1 is the clean image.
    pub t_next: i32,
}

// SAFETY: two i32, nothing else.
unsafe impl Item for fewstep_step_pair {
    const NAME: &'static str = "pairs";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// A grid from its two forms: a number of trailing steps, or explicit pairs. Empty when neither is given.
///
/// # Safety
/// `pairs` is NULL or an array as its count and stride say.
pub(super) unsafe fn read_grid(train: usize, steps: u32, pairs: *const fewstep_step_pair, count: usize, stride: usize) -> Result<Vec<(i64, i64)>> {
    // SAFETY: as promised by the caller.
    let explicit = unsafe { options::array(pairs, count, stride, grid::MAX_PAIRS)? };
    if !explicit.is_empty() {
        let list = memory::collect(explicit.iter().map(|p| (i64::from(p.t), i64::from(p.t_next))), "pairs")?;
        if steps != 0 && steps as usize != list.len() {
            return Err(Error::invalid(format!("steps is {steps} but pairs has {} elements; set steps to 0", list.len())));
        }
        grid::check(train, &list)?;
        return Ok(list);
    }
    check_steps(steps)?;
    if steps == 0 { Ok(Vec::new()) } else { trailing_pairs(train, steps as usize) }
}

/// Refuses runs that are too long to be one plan.
pub(super) fn check_steps(steps: u32) -> Result<()> {
    if steps as usize > grid::MAX_PAIRS {
        return Err(Error::invalid(format!("steps is {steps}; at most {}", grid::MAX_PAIRS)));
    }
    Ok(())
}
