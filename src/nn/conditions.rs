//! What a network is given beside x_t and the timestep.

use crate::error::{Error, Result};

/// Checks that there are `count` labels in `0..classes`.
pub fn check_labels(labels: &[i32], count: usize, classes: usize) -> Result<()> {
    if labels.len() != count {
        return Err(Error::shape(format!("expected {count} labels, found {}", labels.len())));
    }
    match labels.iter().position(|l| *l < 0 || *l as usize >= classes) {
        None => Ok(()),
        Some(i) => Err(Error::invalid(format!("label {} at index {i} is not in 0..{classes}", labels[i]))),
    }
}
