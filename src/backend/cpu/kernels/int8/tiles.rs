//! Kernels of instructions that multiply tiles: 16 pixels by 64 bytes with as many bytes of weights by 16 channels. A tile of sums is two by two of them.

use super::super::simd::Simd;
use super::pack::TILE_COLUMNS;
use super::staging::TILE;
use super::task::{Sums, Task};

/// What multiplies tiles.
///
/// # Safety
/// Every function needs a machine that supports the set.
#[allow(clippy::missing_safety_doc)] // one contract for all, above
pub(in super::super) trait Tiles {
    /// Floats of the same machine.
    type Floats: Simd;
    /// Whether sums are floats.
    const FLOATS: bool;
    /// Before the first product of a task.
    unsafe fn begin();
    /// `sums[32][32] = sum over steps`: rows 0..16 are the pixels at `a[0]`, the others those at `a[1]`, neighbours `stride` bytes apart. `b` has 2 KiB for each
    /// offset, and there is one at least.
    unsafe fn multiply(a: [*const u8; 2], stride: usize, offsets: &[u32], b: *const i8, sums: &mut Sums);
    /// After the last.
    unsafe fn end();
}

/// Runs a task, whose rows are groups of 16 neighbouring output pixels of an image.
///
/// # Safety
/// The machine supports the set; the task's sizes were checked.
#[inline(always)]
pub(in super::super) unsafe fn run<T: Tiles>(task: &Task) {
    let (product, s) = (task.product, &task.product.staging);
    let (mut sums, per_image) = (Sums::new(), s.pixels().div_ceil(TILE));
    // Image, first pixel and pixels of a group.
    let group = |at: usize| {
        let (image, first) = (at / per_image, at % per_image * TILE);
        (image, first, (s.pixels() - first).min(TILE))
    };
    // SAFETY: the caller's contract.
    unsafe { T::begin() };
    for panel in task.panels.clone() {
        let (b, finish) = (task.panel(panel), task.finish(panel, TILE_COLUMNS));
        for at in task.rows.clone().step_by(2) {
            // A last group alone is taken twice.
            let pair = [group(at), group((at + 1).min(task.rows.end - 1))];
            // SAFETY: output pixels of images that `staged` has.
            let a = pair.map(|(image, first, _)| unsafe { task.staged.as_ptr().add(s.base(image, first / s.out[1], first % s.out[1])) });
            // SAFETY: the staging spaces 16 output pixels evenly, and has room for those that the last group of an image lacks.
            unsafe { T::multiply(a, s.pixel_step(), &product.offsets, b, &mut sums) };
            for (half, (image, first, count)) in pair.into_iter().enumerate().take(task.rows.end - at) {
                // SAFETY: the caller's contract; half of the tile's 32 rows of 32.
                unsafe {
                    let (sums, row) = (sums.0.as_ptr().add(half * TILE * TILE_COLUMNS), image * s.pixels() + first);
                    if T::FLOATS {
                        finish.floats::<T::Floats>(sums, TILE_COLUMNS, row, count);
                    } else {
                        finish.rows::<T::Floats>(sums, TILE_COLUMNS, row, count);
                    }
                }
            }
        }
    }
    // SAFETY: the caller's contract.
    unsafe { T::end() };
}
