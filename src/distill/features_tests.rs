//! Features in a trainer: what they share with the other terms, what learns, what stays of it. Losses and gradients are PyTorch's in `tests/golden`.

use super::loss_tests::dataset;
use super::tests::{bytes_of, model, options, scratch};
use super::*;
use crate::backend::cpu::CpuBackend;
use crate::cancel::Stop;
use crate::diffusion::Weight;
use crate::error::{Error, Result, Status};
use crate::graph::OpDef;
use crate::nn::{Guidance, Model};
use crate::tensor::Tensor;
use serde_json::json;
use std::sync::Arc;

fn feature(student: &str, teacher: &str) -> FeatureTerm {
    FeatureTerm { point: Point::Data, student: student.into(), teacher: teacher.into(), norm: NormKind::L2, weight: 0.5, decay_steps: 0 }
}

/// A narrower student of the tiny teacher.
fn student(teacher: &Model) -> Result<Model> {
    let patch = json!({"block_out_channels": [4, 8]}).as_object().cloned().unwrap_or_default();
    derive(teacher, &StudentOptions { config_patch: patch, seed: 3, ..StudentOptions::default() }, Stop::NEVER)
}

fn trainer(terms: &[Objective], features: Vec<FeatureTerm>) -> Result<Trainer> {
    let teacher = model()?;
    let terms = terms.iter().map(|objective| objective.term(Weight::Snr, NormKind::L2)).collect();
    let options = TrainerOptions { terms, features, ..options() };
    Trainer::new(Arc::new(CpuBackend::new(1)?), &student(&teacher)?, Some(&teacher), Some(&dataset()?), options)
}

fn blocks() -> Vec<FeatureTerm> {
    vec![feature("down_blocks.0", "down_blocks.0"), FeatureTerm { norm: NormKind::L1, ..feature("mid_block", "mid_block.resnets.0") }]
}

fn refused(terms: &[Objective], features: Vec<FeatureTerm>) -> Error {
    trainer(terms, features).map(drop).expect_err("no such features")
}

/// One evaluation of each network serves outputs and features: what is added is each convolution that aligns, and its two gradients.
#[test]
fn features_share_the_evaluations_of_their_point() -> Result<()> {
    let convolutions = |trainer: &Trainer| {
        let graph = trainer.plan().graph();
        graph.nodes().iter().filter(|node| node.op.name().contains("conv2d")).count()
    };
    let plain = convolutions(&trainer(&[Objective::Output], vec![])?);
    let with = convolutions(&trainer(&[Objective::Output], blocks())?);
    assert!(with > plain && with <= plain + 3 * blocks().len(), "{plain} convolutions without, {with} with");
    Ok(())
}

#[test]
fn features_learn_resume_and_leave_no_trace() -> Result<()> {
    let dir = scratch("features");
    let mut whole = trainer(&[Objective::Output], blocks())?;
    let first = whole.evaluate(99)?;
    (0..30).try_for_each(|_| whole.step().map(drop))?;
    whole.save(&dir.join("30"))?;
    let last = whole.evaluate(99)?;
    assert_eq!(whole.terms().map(<[f32]>::len), Some(3));
    assert!((1..3).all(|i| last.terms[i] < 0.9 * first.terms[i]), "{first:?} {last:?}");
    let sum: f32 = last.terms[0] + 0.5 * (last.terms[1] + last.terms[2]);
    assert!((last.loss - sum).abs() <= 1e-5 * sum, "{last:?}"); // a few roundings

    let names = |model: &Model| model.weights.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&whole.snapshot(WeightsKind::Ema)?), names(&student(&model()?)?));
    let aligned = whole.states()?.iter().filter(|(name, _)| name.contains("align.")).count();
    assert_eq!(aligned, blocks().len() * 2 * 4, "weight and bias of each, four states");

    let mut resumed = trainer(&[Objective::Output], blocks())?;
    resumed.resume(&dir.join("30"), 0)?;
    whole.step()?;
    resumed.step()?;
    assert!(bytes_of(&resumed)? == bytes_of(&whole)?);
    let expected = whole.states()?.into_iter().map(|(name, _)| name).filter(|name| name.contains("align.1.bias")).collect::<Vec<_>>();
    assert_eq!(expected, ["student.align.1.bias", "adamw.m.align.1.bias", "adamw.v.align.1.bias", "ema.align.1.bias"]);
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

/// The network goes on whatever becomes of the features; what aligns other blocks begins anew, and stays where the blocks do.
#[test]
fn runs_are_resumed_with_other_features() -> Result<()> {
    let (dir, loss) = (scratch("other-features"), OptionGroup::Loss as u32);
    let mut whole = trainer(&[Objective::Output], blocks())?;
    (0..3).try_for_each(|_| whole.step().map(drop))?;
    let file = dir.join("3");
    whole.save(&file)?;
    let heavier: Vec<_> = blocks().into_iter().map(|feature| FeatureTerm { weight: 2.0, ..feature }).collect();
    for (features, keeps) in [(vec![], 0), (blocks()[..1].to_vec(), 0), (blocks().into_iter().rev().collect(), 0), (heavier, 16)] {
        let mut other = trainer(&[Objective::Output], features.clone())?;
        let fresh = other.states()?;
        let error = other.resume(&file, 0).expect_err("other features");
        assert!(error.status == Status::InvalidArgument && error.message.contains("FEWSTEP_RESUME_LOSS"), "{error}");
        other.resume(&file, loss)?;
        let saved = whole.states()?;
        let mut kept = 0;
        for ((name, found), (_, fresh)) in other.states()?.iter().zip(&fresh) {
            let expected = saved.iter().find(|(other, _)| other == name).map(|(_, tensor)| tensor);
            let aligned = name.contains("align.");
            kept += usize::from(aligned && keeps > 0);
            let expected = expected.filter(|_| !aligned || keeps > 0).unwrap_or(fresh);
            assert!(found.bytes() == expected.bytes(), "{name} with {features:?}");
        }
        assert_eq!(kept, keeps);
        other.step()?;
    }
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

/// The features of a guided teacher are those that it has with the labels: guidance changes what is matched of its output alone.
#[test]
fn features_of_a_guided_teacher_are_those_with_the_labels() -> Result<()> {
    let patch = json!({"num_class_embeds": 3}).as_object().cloned().unwrap_or_default();
    let teacher = derive(&model()?, &StudentOptions { config_patch: patch, seed: 4, ..StudentOptions::default() }, Stop::NEVER)?;
    let (student, images) = (student(&teacher)?, Tensor::from_slice(&[4, 8, 8, 1], &(0..256).map(|i| (i as f32).sin()).collect::<Vec<_>>())?);
    let data = Dataset::new(images, Some(Tensor::from_slice(&[4], &[0, 1, 0, 1])?))?;
    let terms = |guidance| -> Result<[f32; 4]> {
        let terms = vec![Objective::Output.term(Weight::Snr, NormKind::L2)];
        let options = TrainerOptions { terms, features: blocks(), guidance, ..options() };
        Ok(Trainer::new(Arc::new(CpuBackend::new(1)?), &student, Some(&teacher), Some(&data), options)?.evaluate(5)?.terms)
    };
    let (plain, guided) = (terms(None)?, terms(Some(Guidance { scale: 3.0, null_label: 2 }))?);
    assert!(plain[0] != guided[0] && plain[1..] == guided[1..], "{plain:?} {guided:?}");
    Ok(())
}

#[test]
fn features_alone_are_a_loss_and_their_factors_fall() -> Result<()> {
    let mut alone = trainer(&[], vec![FeatureTerm { decay_steps: 2, ..feature("mid_block", "mid_block") }])?;
    for factor in [0.5, 0.25, 0.0] {
        let report = alone.step()?;
        assert!(report.terms[0] > 0.0 && report.loss == factor * report.terms[0], "{factor}: {report:?}");
    }
    // At points of other kinds too, with what they need.
    let own = FeatureTerm { point: Point::Own, ..feature("up_blocks.0", "up_blocks.0") };
    trainer(&[Objective::Resolve], vec![own])?.step().map(drop)
}

#[test]
fn blocks_that_do_not_fit_are_named() -> Result<()> {
    let error = refused(&[Objective::Output], vec![feature("mid_block", "mid_block"), feature("middle", "mid_block")]);
    assert!(error.message.contains("features[1]: the student has no block 'middle'; it has down_blocks.0.resnets.0, "), "{error}");
    assert!(error.message.contains("mid_block.attentions.0") && error.message.contains("up_blocks.1"), "{error}");
    assert!(refused(&[], vec![feature("mid_block", "middle")]).message.contains("the teacher has no block 'middle'"));
    let error = refused(&[], vec![feature("mid_block", "up_blocks.1")]);
    assert!(error.status == Status::Shape && error.message.contains("'mid_block' gives [2, 4, 4, 8]"), "{error}");
    assert!(error.message.contains("'up_blocks.1' gives [2, 8, 8, 8]"), "{error}");
    let teacher = model()?;
    let options = TrainerOptions { terms: vec![Objective::Denoise.term(Weight::V, NormKind::L2)], features: blocks(), ..options() };
    let alone = Trainer::new(Arc::new(CpuBackend::new(1)?), &teacher, None, Some(&dataset()?), options).map(drop).expect_err("no teacher");
    assert!(alone.message.contains("need a teacher"), "{alone}");
    Ok(())
}
