//! What all metrics ask of images, and the arithmetic that they share.

use crate::error::{Error, Result};
use crate::memory;
use crate::random::{Purpose, uniform_int, words};

/// How many images of `each` elements there are; an error where that is no whole number of them, or none, or one is not finite. `name` is what messages call
/// them.
pub fn check(name: &str, images: &[f32], each: usize) -> Result<usize> {
    if each == 0 || images.is_empty() || !images.len().is_multiple_of(each) {
        return Err(Error::shape(format!("{name}: {} elements are no images of {each}", images.len())));
    }
    match images.iter().position(|v| !v.is_finite()) {
        None => Ok(images.len() / each),
        Some(i) => Err(Error::numeric(format!("{name}: image {} has the value {} at element {}; it must be finite", i / each, images[i], i % each))),
    }
}

/// Indices 0 .. `count` in an order that depends on the seed alone (Fisher & Yates).
pub(super) fn shuffled(count: usize, seed: u64) -> Result<Vec<usize>> {
    let mut order = memory::collect(0..count, "an order")?;
    for i in (1..count).rev() {
        let word = words(seed, Purpose::Evaluation, u32::MAX, i as u32, 0)[0];
        order.swap(i, uniform_int(word, i as u32 + 1) as usize);
    }
    Ok(order)
}

/// Numbers that are summed side by side.
const LANES: usize = 8;

/// The sum of `f` over pairs of elements: eight sums side by side, then those, so that it is the same everywhere and processors can add several at once.
fn sum(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> f64 {
    let mut sums = [0.0; LANES];
    let (whole, rest) = (a.chunks_exact(LANES).zip(b.chunks_exact(LANES)), a.len() / LANES * LANES);
    for (a, b) in whole {
        (0..LANES).for_each(|i| sums[i] += f(a[i], b[i]));
    }
    for (i, (a, b)) in a[rest..].iter().zip(&b[rest..]).enumerate() {
        sums[i] += f(*a, *b);
    }
    sums.iter().sum()
}

/// The inner product of vectors of the same length.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    sum(a, b, |a, b| a * b)
}

/// The squared distance of vectors of the same length. Of equal ones it is 0 exactly.
pub(super) fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    sum(a, b, |a, b| (a - b) * (a - b))
}
