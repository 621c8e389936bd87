//! tdpbf16ps by its definition (Intel's manual, volume 2): of each pair of factors two sums, each by fused products, in f32 rounded to nearest, ties to even;
//! then the two together, and that to the sum that was there. Denormals are 0 wherever they come from.

use super::super::int8::staging::TILE;
use super::super::int8::task::{Sums, Task};
use super::super::int8::tiles::{self, Tiles};
use super::super::simd::{self, Isa, Simd};
use super::weight_grad::{self, Outer};
use half::bf16;

/// Columns of two tiles side by side.
const COLUMNS: usize = 2 * TILE;

fn flushed(v: f32) -> f32 {
    if v.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(v) } else { v }
}

/// What is added to two times two tiles of sums.
struct Step {
    /// 16 rows of 32 each, `stride` bytes apart.
    a: [*const u8; 2],
    stride: usize,
    /// 16 rows of 16 pairs each, 64 bytes apart.
    b: [*const u8; 2],
}

struct Steps<'a, F: Fn(usize) -> Step> {
    count: usize,
    step: F,
    sums: &'a mut Sums,
}

impl<F: Fn(usize) -> Step> simd::Kernel for Steps<'_, F> {
    type Output = ();
    #[inline(always)]
    unsafe fn call<S: Simd>(self) {
        self.sums.0.fill(0);
        for step in 0..self.count {
            let Step { a, stride, b } = (self.step)(step);
            // SAFETY: the steps' makers: a tile each of rows of 64 bytes.
            let pair = |line: *const u8, k: usize| unsafe { line.cast::<[bf16; 2]>().add(k).read_unaligned() }.map(|v| flushed(v.to_f32()));
            let mut weights = [[[0f32; COLUMNS]; 2]; TILE];
            for (k, column) in (0..TILE).flat_map(|k| (0..COLUMNS).map(move |column| (k, column))) {
                [weights[k][0][column], weights[k][1][column]] = pair(b[column / TILE].wrapping_add(64 * k), column % TILE);
            }
            for (row, sums) in self.sums.0.chunks_exact_mut(COLUMNS).enumerate() {
                let line = a[row / TILE].wrapping_add(row % TILE * stride);
                let mut own = [[0f32; COLUMNS]; 2];
                for (k, weights) in weights.iter().enumerate() {
                    let x = pair(line, k);
                    for half in 0..2 {
                        for column in 0..COLUMNS {
                            own[half][column] = flushed(x[half].mul_add(weights[half][column], own[half][column]));
                        }
                    }
                }
                for (column, sum) in sums.iter_mut().enumerate() {
                    let both = flushed(own[0][column] + own[1][column]);
                    *sum = flushed(f32::from_bits(*sum as u32) + both).to_bits() as i32;
                }
            }
        }
    }
}

pub(super) struct Definition;

impl Tiles for Definition {
    type Floats = simd::Portable;
    const FLOATS: bool = true;
    unsafe fn begin() {}
    unsafe fn multiply(a: [*const u8; 2], stride: usize, offsets: &[u32], b: *const i8, sums: &mut Sums) {
        let step = |at: usize| {
            let b = b.cast::<u8>().wrapping_add(2048 * at);
            Step { a: a.map(|a| a.wrapping_add(offsets[at] as usize)), stride, b: [b, b.wrapping_add(1024)] }
        };
        Isa::detect().dispatch(Steps { count: offsets.len(), step, sums });
    }
    unsafe fn end() {}
}

impl Outer for Definition {
    unsafe fn multiply(a: [*const u8; 2], b: [*const u8; 2], steps: &[[u32; 2]], sums: &mut Sums) {
        let step = |at: usize| {
            let [of_a, of_b] = steps[at].map(|offset| offset as usize);
            Step { a: a.map(|a| a.wrapping_add(of_a)), stride: 64, b: b.map(|b| b.wrapping_add(of_b)) }
        };
        Isa::detect().dispatch(Steps { count: steps.len(), step, sums });
    }
}

/// Runs a convolution's task.
///
/// # Safety
/// The task's sizes were checked.
pub(super) unsafe fn convolution(task: &Task) {
    // SAFETY: the caller's contract.
    unsafe { tiles::run::<Definition>(task) }
}

/// Runs a weight gradient's task.
///
/// # Safety
/// The task's sizes were checked.
pub(super) unsafe fn weight_gradient(task: &weight_grad::Task) {
    // SAFETY: the caller's contract.
    unsafe { weight_grad::run::<Definition>(task) }
}
