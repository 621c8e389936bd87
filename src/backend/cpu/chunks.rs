//! Loops cut into chunks by the shape alone, and compiled for an instruction set.

use super::kernel::Io;
use super::kernels::pool::Shared;
use super::kernels::simd::{Isa, Kernel, Simd};
use crate::error::Result;

/// Elements of one chunk: 64 KiB of f32.
pub(super) const GRAIN: usize = 16 << 10;

/// Runs a closure compiled for an instruction set: what it inlines is vectorised with that set.
struct Dispatched<F>(F);

impl<F: FnOnce()> Kernel for Dispatched<F> {
    type Output = ();
    #[inline(always)]
    unsafe fn call<S: Simd>(self) {
        (self.0)();
    }
}

/// Calls `f(start, part of out)` for fixed chunks of `out` of `grain` elements (rounded up by the caller to whole rows), on all threads.
pub(super) fn for_chunks<T: Send>(io: &Io, out: &mut [T], grain: usize, f: impl Fn(usize, &mut [T]) + Sync) -> Result<()> {
    let len = out.len();
    let shared = Shared::new(out);
    io.pool.run(len.div_ceil(grain), &|chunk| {
        let start = chunk * grain;
        // SAFETY: chunks are disjoint ranges of `out`.
        let part = unsafe { shared.part(start, grain.min(len - start)) };
        f(start, part);
    })
}

/// Rows of `width` elements that make up about one grain, in elements.
pub(super) fn row_grain(width: usize) -> usize {
    width * (GRAIN / width.max(1)).max(1)
}

/// Dispatches a loop to the instruction set. Write the closure `#[inline(always)]`: only what is inlined here is compiled with that set.
pub(super) fn vectorised(isa: Isa, f: impl FnOnce()) {
    isa.dispatch(Dispatched(f));
}
