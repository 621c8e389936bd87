//! Training in whole numbers: with the rounding in place, from a teacher in floats, on the grid that the ranges are of.

use super::tests::{PAIRS, options, quantized, samples, student};
use super::{Mode, Options};
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, as_bytes};
use crate::cancel::Stop;
use crate::diffusion::Weight;
use crate::distill::{Copied, Dataset, FeatureTerm, NormKind, Objective, Optimizer, Point, StudentOptions, Trainer, TrainerOptions, WeightsKind, derive};
use crate::error::{Result, Status};
use crate::graph::{Graph, TensorType};
use crate::nn::{Model, Scope, scale_after};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// Training with the rounding in place brings the model nearer to what it is to match.
#[test]
fn a_trainer_of_it_learns_with_the_rounding_in_place() -> Result<()> {
    let (teacher, whole) = (student()?, quantized(&student()?, &options(129))?);
    let term = Objective::TeacherForced.term(Weight::State, NormKind::L2);
    let (block, point, norm) = ("mid_block".to_string(), Point::Cached, NormKind::L2);
    let features = vec![FeatureTerm { point, student: block.clone(), teacher: block, norm, weight: 0.01, decay_steps: 0 }];
    let pairs = PAIRS.to_vec();
    let options = TrainerOptions { terms: vec![term], features, pairs, substeps: 2, cache_size: 64, cache_batch: 16, batch: 16, ..TrainerOptions::default() };
    let mut trainer = Trainer::new(Arc::new(CpuBackend::new(2)?), &whole, Some(&teacher), None, options)?;
    let before = trainer.evaluate(99)?.loss;
    for _ in 0..60 {
        trainer.step()?;
    }
    let after = trainer.evaluate(99)?.loss;
    assert!(after < 0.9 * before, "{before} -> {after}");
    let learned = trainer.snapshot(WeightsKind::Raw)?;
    assert_eq!(learned.quantization, whole.quantization);
    let backend = CpuBackend::new(2)?;
    assert!(samples(&backend, &learned)? != samples(&backend, &whole)?);
    Ok(())
}

/// Scales that learn are part of a snapshot; they stay in the last tenth of the run, and a run goes on in its middle. Those of groups do not learn.
#[test]
fn scales_learn_too_and_a_run_is_resumed_with_them() -> Result<()> {
    let (teacher, whole) = (student()?, quantized(&student()?, &options(129))?);
    let term = Objective::OnPolicy.term(Weight::State, NormKind::L2);
    let optimizer = Optimizer { total_steps: 40, warmup_steps: 1, ..Optimizer::default() };
    let options = TrainerOptions {
        terms: vec![term],
        pairs: PAIRS.to_vec(),
        substeps: 2,
        cache_size: 64,
        cache_batch: 16,
        batch: 16,
        optimizer,
        ..TrainerOptions::default()
    };
    let options = TrainerOptions { scale_learning_rate: 1e-2, ..options };
    let trainer = |student: &Model| Trainer::new(Arc::new(CpuBackend::new(2)?), student, Some(&teacher), None, options.clone());
    assert_eq!(trainer(&student()?).err().expect("floats have no scales").status, Status::InvalidArgument);
    let groups = quantized(&student()?, &Options { mode: Mode::W4, ..super::tests::options(129) })?;
    assert_eq!(trainer(&groups).err().expect("scales of groups").status, Status::Unsupported);
    let mut first = trainer(&whole)?;
    let before = first.evaluate(99)?.loss;
    let file = std::env::temp_dir().join(format!("fewstep-scales-{}.safetensors", std::process::id()));
    let mut scales = vec![];
    for n in 0..40 {
        if n == 20 {
            first.save(&file)?;
        }
        if n == 36 {
            scales = scales_of(&first.snapshot(WeightsKind::Raw)?)?;
        }
        first.step()?;
    }
    let after = first.evaluate(99)?.loss;
    assert!(after < 0.9 * before, "{before} -> {after}");
    let learned = first.snapshot(WeightsKind::Raw)?;
    assert_eq!(scales_of(&learned)?, scales, "the last tenth");
    assert!(scales.iter().zip(scales_of(&whole)?).filter(|(a, b)| *a != b).count() > scales.len() / 2, "scales of {} layers", scales.len());

    let mut second = trainer(&whole)?;
    second.resume(&file, 0)?;
    std::fs::remove_file(&file).expect("a file");
    (20..40).try_for_each(|_| second.step().map(drop))?;
    let backend = CpuBackend::new(2)?;
    assert!(samples(&backend, &second.snapshot(WeightsKind::Raw)?)? == samples(&backend, &learned)?);
    Ok(())
}

/// The scale that a snapshot has is the one that was trained with, to the bit.
#[test]
fn a_learned_scale_is_the_one_that_a_plan_computes() -> Result<()> {
    let scales: Vec<f32> = (1..2000).map(|i| (i as f32).sqrt() * 1e-3).collect();
    let changes: Vec<f32> = (1..2000).map(|i| (i as f32 * 0.37).sin() * 0.2).collect();
    let mut g = Graph::new();
    let inputs = ["scale", "change"].map(|name| g.input(name, TensorType::f32(&[scales.len()])));
    let [scale, change] = inputs;
    let (scale, change) = (scale?, change?);
    let learned = Scope::after(&mut g, scale, change)?;
    g.tap(learned);
    let mut exec = CpuBackend::new(1)?.compile(&g)?;
    exec.prepare()?;
    exec.write_bytes(scale, as_bytes(&scales))?;
    exec.write_bytes(change, as_bytes(&changes))?;
    exec.run_all()?;
    let found = exec.read_bytes(learned)?.of::<f32>()?.to_vec();
    let expected: Vec<f32> = scales.iter().zip(&changes).map(|(scale, change)| scale_after(*scale, *change)).collect();
    assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
    Ok(())
}

fn scales_of(model: &Model) -> Result<Vec<f32>> {
    let scales = model.weights.iter().filter(|(name, _)| !model.learns(name));
    Ok(scales.map(|(_, scale)| scale.to_f32_vec()).collect::<Result<Vec<_>>>()?.concat())
}

/// A checkpoint's weights are those of its numbers.
#[test]
fn a_run_is_not_resumed_with_other_numbers() -> Result<()> {
    let model = student()?;
    let trainer = |student: &Model| {
        let terms = vec![Objective::TeacherForced.term(Weight::State, NormKind::L2)];
        let options = TrainerOptions { terms, pairs: PAIRS.to_vec(), substeps: 1, cache_size: 4, cache_batch: 4, batch: 2, ..TrainerOptions::default() };
        Trainer::new(Arc::new(CpuBackend::new(1)?), student, Some(&model), None, options)
    };
    let [fine, coarse] = [quantized(&model, &options(255))?, quantized(&model, &options(129))?];
    let file = std::env::temp_dir().join(format!("fewstep-quant-checkpoint-{}.safetensors", std::process::id()));
    trainer(&fine)?.save(&file)?;
    trainer(&fine)?.resume(&file, 0)?;
    for other in [&coarse, &model] {
        let error = trainer(other)?.resume(&file, 0).expect_err("other numbers");
        assert!(error.status == Status::InvalidArgument && error.message.contains("option quantization"), "{error}");
    }
    std::fs::remove_file(&file).expect("a file");
    Ok(())
}

/// Ranges are those of the student's own grid, and a teacher is evaluated off any.
#[test]
fn what_leaves_the_grid_is_refused() -> Result<()> {
    let (model, whole) = (student()?, quantized(&student()?, &options(129))?);
    let data = Dataset::new(Tensor::zeros(DType::F32, &[2, 8, 8, 1])?, None)?;
    let other = [(999, 300), (300, -1)];
    type Row<'a> = (&'a str, &'a Model, &'a Model, &'a [Objective], &'a [(i64, i64)], Option<&'a str>);
    let forced = &[Objective::TeacherForced];
    let rows: [Row; 9] = [
        ("its own", &whole, &model, &[Objective::TeacherForced, Objective::OnPolicy, Objective::Resolve, Objective::Rollout], &PAIRS, None),
        ("floats anywhere", &model, &model, &[Objective::Output, Objective::TeacherForced], &other, None),
        ("data", &whole, &model, &[Objective::Denoise], &[], Some("point is Data")),
        ("data of a teacher's", &whole, &model, &[Objective::Output], &PAIRS, Some("point is Data")),
        ("one of two", &whole, &model, &[Objective::TeacherForced, Objective::Output], &PAIRS, Some("point is Data")),
        ("another grid", &whole, &model, forced, &other, Some("own grid")),
        ("a shorter one", &whole, &model, forced, &[(999, -1)], Some("own grid")),
        ("another end", &whole, &model, forced, &[(999, 499), (499, 3)], Some("own grid")),
        ("a teacher in whole numbers", &model, &whole, forced, &PAIRS, Some("teacher is quantised")),
    ];
    for (what, student, teacher, objectives, pairs, needle) in rows {
        let terms = objectives.iter().map(|objective| objective.term(Weight::Const, NormKind::L2)).collect();
        let options = TrainerOptions { terms, pairs: pairs.to_vec(), substeps: 1, cache_size: 4, cache_batch: 4, batch: 2, ..TrainerOptions::default() };
        let made = Trainer::new(Arc::new(CpuBackend::new(1)?), student, Some(teacher), Some(&data), options).map(drop);
        match (needle, made) {
            (None, made) => made.map_err(|e| e.context(what))?,
            (Some(needle), made) => {
                let error = made.expect_err(what);
                assert!(error.status == Status::Unsupported && error.message.contains(needle), "{what}: {error}");
            }
        }
    }
    Ok(())
}

/// What is made to be trained anew is in floats: those that the numbers stand for.
#[test]
fn a_student_of_it_begins_with_its_floats() -> Result<()> {
    let whole = quantized(&student()?, &options(129))?;
    let derived = derive(&whole, &StudentOptions { weights: Copied::SameShape, ..StudentOptions::default() }, Stop::NEVER)?;
    assert_eq!((derived.quantization.is_none(), derived.weights.keys().eq(student()?.weights.keys())), (true, true));
    let wide = whole.widened(Stop::NEVER)?;
    for (name, tensor) in &derived.weights {
        assert!(tensor.dtype() == DType::F32 && tensor.bytes() == wide.weights[name].bytes(), "{name}");
    }
    Ok(())
}

/// Weights of 4 bits learn with their rounding in place, with what they read rounded and without, and their snapshots are of 4 bits.
#[test]
fn weights_of_4_bits_learn() -> Result<()> {
    let teacher = student()?;
    for mode in [Mode::W4A8, Mode::W4, Mode::W8] {
        let whole = quantized(&teacher, &Options { mode, ..options(129) })?;
        let terms = vec![Objective::OnPolicy.term(Weight::State, NormKind::L2)];
        let o = TrainerOptions { terms, pairs: PAIRS.to_vec(), substeps: 2, cache_size: 64, cache_batch: 16, batch: 16, ..TrainerOptions::default() };
        let mut trainer = Trainer::new(Arc::new(CpuBackend::new(2)?), &whole, Some(&teacher), None, o)?;
        let before = trainer.evaluate(99)?.loss;
        (0..60).try_for_each(|_| trainer.step().map(drop))?;
        let after = trainer.evaluate(99)?.loss;
        assert!(after < 0.9 * before, "{mode:?}: {before} -> {after}");
        let learned = trainer.snapshot(WeightsKind::Raw)?;
        assert_eq!(learned.quantization, whole.quantization, "{mode:?}");
        assert!(learned.weights.iter().all(|(name, tensor)| tensor.dtype() == whole.weights[name].dtype()), "{mode:?}");
    }
    Ok(())
}
