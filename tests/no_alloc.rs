//! After compile, prepare and one warm-up run, a run allocates nothing.

mod common;

use common::{Case, load, models};
use fewstep::Result;
use fewstep::backend::Backend;
use fewstep::backend::cpu::CpuBackend;
use fewstep::graph::ops::*;
use fewstep::memory;

/// A training step plus the ops that it does not use, large enough for several chunks.
fn everything(norms: bool) -> Result<Case> {
    let mut case = models::training(norms)?;
    let x = case.input(&[3, 20_000]);
    for kind in common::cases::UNARY {
        let y = case.op(Unary { kind: *kind }, &[x]);
        let dx = case.op(UnaryGrad { kind: *kind }, &[x, y]);
        case.graph.tap(dx);
    }
    let column = case.input(&[3, 1]);
    let y = case.op(Binary { kind: BinaryKind::Mul }, &[x, column]);
    let y = case.op(DynamicThreshold { ratio: 0.99, max: 2.0 }, &[y]);
    let sum = case.op(ReduceSum { shape: vec![1, 20_000] }, &[y]);
    case.graph.tap(sum);
    let padded = case.op(Pad { before: 3, after: 1 }, &[y]);
    let part = case.op(Slice { start: 1, len: 9000 }, &[padded]);
    let stopped = case.op(StopGradient, &[part]);
    let flat = case.op(Reshape { shape: vec![27_000] }, &[stopped]);
    let y = case.op(Affine { scale: 2.0, shift: 1.0 }, &[flat]);
    case.graph.tap(y);
    let image = case.input(&[2, 32, 32, 16]);
    let pooled = case.op(AvgPool2x, &[image]);
    let up = case.op(Upsample2x, &[pooled]);
    case.graph.tap(up);
    let (a, b) = (case.ints(&[8], 0, 3), case.ints(&[8], 0, 3));
    let address = case.op(IntAffine { scale: 1, shift: 0 }, &[a, b]);
    let rows = case.op(Gather, &[x, address]);
    let back = case.op(GatherGrad { rows: 3 }, &[rows, address]);
    case.graph.tap(back);
    let slot = case.state("copy", &[3, 20_000]);
    case.op(Assign, &[slot, back]);
    Ok(case)
}

fn measure(case: &Case) -> Result<()> {
    for threads in [1, 2] {
        let backend = CpuBackend::new(threads)?;
        let mut exe = backend.compile(&case.graph)?;
        load(&mut *exe, &case.graph, &case.given)?;
        exe.run_all()?;
        let before = memory::asked();
        let done = exe.run_all();
        let after = memory::asked();
        done?;
        let (calls, bytes) = (after.0.wrapping_sub(before.0), after.1.wrapping_sub(before.1));
        assert_eq!((calls, bytes), (0, 0), "{threads} threads: {calls} allocations, {bytes} bytes");
    }
    Ok(())
}

/// One test, because the library's counters are the process's: first without, then with the norm and attention kernels.
#[test]
fn a_run_allocates_nothing() -> Result<()> {
    measure(&everything(false)?)?;
    measure(&everything(true)?)
}
