//! Image sizes and batches as C gives them, judged before anything is made of them.

use crate::error::{Error, Result};
use crate::nn::Model;

/// [H, W] from two fields of which both or none are set.
pub(super) fn read_size(height: u32, width: u32) -> Result<Option<[usize; 2]>> {
    match (height, width) {
        (0, 0) => Ok(None),
        (0, _) | (_, 0) => Err(Error::invalid(format!("height is {height} and width is {width}; set both or neither"))),
        (h, w) => Ok(Some([h as usize, w as usize])),
    }
}

/// Refuses image sizes and batches whose intermediate sizes could overflow, long before memory is asked for.
pub(super) fn check_extent(model: &Model, batch: usize, size: [usize; 2]) -> Result<()> {
    let signature = model.network.signature();
    let widest = signature.widest;
    let fits = |factors: &[usize], limit: u32| {
        let n = factors.iter().try_fold(1usize, |n, f| n.checked_mul(*f));
        n.is_some_and(|n| n <= 1usize << limit.min(usize::BITS - 4))
    };
    let [h, w] = size;
    // Activations and unfolded patches; attention scores.
    if !fits(&[batch, h, w, widest], 44) || !fits(&[batch, h, w, h, w], 56) {
        return Err(Error::shape(format!("a batch of {batch} images of {h}x{w} (height, width) with up to {widest} channels is too large")));
    }
    let multiple = signature.size_multiple;
    if !h.is_multiple_of(multiple) || !w.is_multiple_of(multiple) {
        return Err(Error::shape(format!("height is {h} and width is {w}; the model takes multiples of {multiple}")));
    }
    Ok(())
}
