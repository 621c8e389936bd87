//! Mean and variance of an activation's channels, and of groups of them.

use super::conv2d::{bug, dims};
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::op::expect_shape;
use crate::graph::reference::Array;

/// Mean and biased variance of every (sample, channel) of y [N,P,Q,O], [N,O,2].
pub(super) fn channel_moments(y: &Array) -> Array {
    let [n, p, q, o] = dims(y);
    Array::from_shape_fn(vec![n, o, 2], |at| {
        let all = || (0..p).flat_map(|a| (0..q).map(move |b| (a, b))).map(|(a, b)| y[[at[0], a, b, at[1]]]);
        let mean = all().sum::<f64>() / (p * q) as f64;
        if at[2] == 0 { mean } else { all().map(|v| (v - mean).powi(2)).sum::<f64>() / (p * q) as f64 }
    })
}

/// Mean and biased variance [N,G,2] of the groups of a value, from the moments [N,Ci,2] of the channels of what it was joined of. All channels have as many
/// positions: a group's mean is the mean of means, its variance the mean of variances plus the variance of means.
pub(super) fn group_moments(moments: &[&Array], groups: usize) -> Result<Array> {
    let views: Vec<_> = moments.iter().map(|m| m.view()).collect();
    let all = ndarray::concatenate(ndarray::Axis(1), &views).map_err(bug)?;
    let width = all.shape()[1] / groups;
    Ok(Array::from_shape_fn(vec![all.shape()[0], groups, 2], |at| {
        let members = || at[1] * width..(at[1] + 1) * width;
        let mean = members().map(|k| all[[at[0], k, 0]]).sum::<f64>() / width as f64;
        let variance = || members().map(|k| all[[at[0], k, 1]] + (all[[at[0], k, 0]] - mean).powi(2)).sum::<f64>() / width as f64;
        if at[2] == 0 { mean } else { variance() }
    }))
}

/// Checks that these are the moments of `c` channels of `n` samples.
pub(super) fn check_moments(moments: &[&TensorType], [n, c]: [usize; 2]) -> Result<()> {
    let mut channels = 0usize;
    for ty in moments {
        let own = *ty.shape.get(1).unwrap_or(&0);
        expect_shape("moments", ty, &[n, own, 2])?;
        channels = channels.saturating_add(own);
    }
    if channels != c {
        return Err(Error::shape(format!("moments of {channels} channels for an input of {c}")));
    }
    Ok(())
}
