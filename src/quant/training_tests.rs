//! Training in whole numbers: with the rounding in place, from a teacher in floats, on the grid that the ranges are of.

use super::tests::{PAIRS, options, quantized, samples, student};
use crate::backend::cpu::CpuBackend;
use crate::cancel::Stop;
use crate::diffusion::Weight;
use crate::distill::{Dataset, NormKind, Objective, StudentOptions, Trainer, TrainerOptions, WeightsKind, derive};
use crate::error::{Result, Status};
use crate::nn::Model;
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// Training with the rounding in place brings the model nearer to what it is to match, and what is trained is what is sampled.
#[test]
fn a_trainer_of_it_learns_with_the_rounding_in_place() -> Result<()> {
    let (teacher, whole) = (student()?, quantized(&student()?, &options(129))?);
    let term = Objective::TeacherForced.term(Weight::State, NormKind::L2);
    let options =
        TrainerOptions { terms: vec![term], pairs: PAIRS.to_vec(), substeps: 2, cache_size: 64, cache_batch: 16, batch: 16, ..TrainerOptions::default() };
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
        ("its own", &whole, &model, &[Objective::TeacherForced, Objective::OnPolicy], &PAIRS, None),
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
    let derived = derive(&whole, &StudentOptions { copy_weights: true, ..StudentOptions::default() }, Stop::NEVER)?;
    assert_eq!((derived.quantization.is_none(), derived.weights.keys().eq(student()?.weights.keys())), (true, true));
    let wide = whole.widened(Stop::NEVER)?;
    for (name, tensor) in &derived.weights {
        assert!(tensor.dtype() == DType::F32 && tensor.bytes() == wide.weights[name].bytes(), "{name}");
    }
    Ok(())
}
