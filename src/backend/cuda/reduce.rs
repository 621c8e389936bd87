//! Sums over broadcast dimensions on `cuda/reduce.cu`.

use super::launch::{Launch, Lowered};
use super::shared::reduce::{COLUMNS, THREADS};
use super::site::Site;
use crate::error::Result;
use crate::graph::ops::ReduceSum;

pub(super) fn reduce_sum(op: &ReduceSum, site: &Site) -> Result<Lowered> {
    let [outer, reduced, inner] = op.extent(&site.inputs[0].shape)?;
    // Enough slices to fill the GPU, but none smaller than the grain. Depends on the device, as the order of the sum then does: equal devices give equal bytes.
    let blocks = outer * inner.div_ceil(COLUMNS);
    let tuning = &site.target.tuning().reduce;
    let wanted = (tuning.resident * site.target.multiprocessors as usize).div_ceil(blocks);
    let parts = wanted.clamp(1, (reduced * inner.min(COLUMNS)).div_ceil(tuning.grain)).min(reduced);
    let sum = |launch: Launch| -> Result<Launch> { Ok(if parts == 1 { launch.output(0) } else { launch.scratch(0) }) };
    let first = if inner == 1 {
        sum(Launch::new(site.kernel("sum_runs", 0)?, [1, parts, outer], THREADS)?.input(0))?.int(reduced)?
    } else {
        sum(Launch::new(site.kernel("sum_columns", 0)?, [inner.div_ceil(COLUMNS), parts, outer], THREADS)?.input(0))?.int(reduced)?.int(inner)?
    };
    if parts == 1 {
        return Ok(first.into());
    }
    let n = outer * inner;
    let second = Launch::over("fewstep_sum_parts_f32", n, THREADS)?.scratch(0).output(0).int(n)?.int(parts)?.int(inner)?;
    Ok(Lowered { launches: vec![first, second], workspace: n * parts * size_of::<f32>() })
}
