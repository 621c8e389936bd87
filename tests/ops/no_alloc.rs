//! After compile, prepare and one warm-up run, a run allocates nothing; nor does a training step.

use crate::common::alone::alone;
use crate::common::{self, Case, load, models};
use fewstep::Result;
use fewstep::backend::Backend;
use fewstep::backend::cpu::CpuBackend;
use fewstep::diffusion::Weight;
use fewstep::distill::{NormKind, Objective, Trainer, TrainerOptions};
use fewstep::graph::ops::*;
use fewstep::io::SchedulerConfig;
use fewstep::memory;
use fewstep::nn::{Model, families};
use fewstep::tensor::{DType, Tensor};
use std::sync::Arc;

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
    let turned = case.op(Transpose, &[part]);
    let stopped = case.op(StopGradient, &[turned]);
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
    let (scale, zero) = (case.data(&[1], &[0.1f32]), case.data(&[1], &[7u8]));
    let codes = case.op(Quantize { codes: Codes::U8, axis: None }, &[x, scale, zero]);
    let values = case.op(Dequantize { axis: None }, &[codes, scale, zero]);
    let fake = case.op(FakeQuantize { codes: Codes::U8, axis: None, scale_gradient: 1.0 }, &[x, scale, zero]);
    let grads = case.ops(FakeQuantizeGrad { codes: Codes::U8, axis: None, scale_gradient: 1.0 }, &[x, scale, zero, fake]);
    [values, grads[0], grads[1]].into_iter().for_each(|value| case.graph.tap(value));
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
        assert_eq!(asked_by(|| exe.run_all())?, (0, 0), "{threads} threads: allocations, bytes");
    }
    Ok(())
}

/// What the library asks for, in calls and bytes, while `work` runs.
fn asked_by<T>(work: impl FnOnce() -> Result<T>) -> Result<(usize, usize)> {
    let before = memory::asked();
    let done = work();
    let after = memory::asked();
    done?;
    Ok((after.0.wrapping_sub(before.0), after.1.wrapping_sub(before.1)))
}

const TINY: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[8,8],
"down_block_types":["DownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","UpBlock2D"],"norm_num_groups":4}"#;

/// A trainer's own part of a step: its numbers in, its report out, and the look at what became of the weights.
fn measure_training() -> Result<()> {
    let model = Model::create(families::parse(TINY, "config.json")?, SchedulerConfig::default(), 1)?;
    let terms = [Objective::OnPolicy, Objective::Resolve, Objective::Rollout].map(|objective| objective.term(Weight::State, NormKind::Huber(1.0))).to_vec();
    let pairs = vec![(999, 499), (499, -1)];
    let options = TrainerOptions { terms, pairs, substeps: 2, cache_size: 4, cache_batch: 4, batch: 2, ..TrainerOptions::default() };
    let mut trainer = Trainer::new(Arc::new(CpuBackend::new(2)?), &model, Some(&model), None, options)?;
    trainer.step()?;
    for step in 2..5 {
        assert_eq!(asked_by(|| trainer.step())?, (0, 0), "step {step}: allocations, bytes");
    }
    Ok(())
}

/// A second sampler of a model asks for less than the first by the packed weights, which it reads where they are.
fn measure_second_sampler() -> Result<()> {
    let backend = CpuBackend::new(2)?;
    let graph = models::student_s(1)?;
    let zeros = |s: &fewstep::graph::Storage| Ok((s.name.clone(), Arc::new(Tensor::zeros(DType::F32, &s.ty.shape)?)));
    let weights: Vec<(String, Arc<Tensor>)> = graph.storages().iter().map(zeros).collect::<Result<_>>()?;
    let mut executables = vec![];
    let mut bytes = || -> Result<usize> {
        let mut exe = None;
        let (_, bytes) = asked_by(|| {
            let mut new = backend.compile(&graph)?;
            weights.iter().try_for_each(|(name, tensor)| new.bind(name, tensor.clone()))?;
            new.prepare()?;
            exe = Some(new);
            Ok(())
        })?;
        executables.extend(exe);
        Ok(bytes)
    };
    let (first, second) = (bytes()?, bytes()?);
    let packed = backend.packed_bytes();
    assert!(first > packed && first - second >= packed * 99 / 100, "{first} bytes for the first, {second} for the second, {packed} packed");
    Ok(())
}

/// One test, alone, because the library's counters are the process's: first without, then with the norm and attention kernels.
#[test]
fn a_run_allocates_nothing() {
    let measure_all = || -> Result<()> {
        measure(&everything(false)?)?;
        measure(&everything(true)?)?;
        measure_second_sampler()?;
        measure_training()
    };
    alone(concat!(module_path!(), "::a_run_allocates_nothing"), || measure_all().unwrap_or_else(|e| panic!("{e}")));
}
