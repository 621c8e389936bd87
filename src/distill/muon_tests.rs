//! Muon for the matrices of a student: what it updates, that it learns, and that saving, resuming and taking back hold for it too.

use super::overflow::Watch;
use super::parameters::{Rule, State};
use super::tests::{bytes_of, model, options, scratch};
use super::*;
use crate::backend::cpu::CpuBackend;
use crate::diffusion::Weight;
use crate::error::{Result, Status};
use crate::graph::Op;
use crate::nn::families;
use crate::tensor::Tensor;
use std::sync::Arc;

fn muon() -> Optimizer {
    Optimizer { kind: OptimizerKind::Muon, ..options().optimizer }
}

/// A student that learns 16 images.
fn trainer_of(optimizer: Optimizer, threads: usize, weight: f32) -> Result<Trainer> {
    let pixels: Vec<f32> = (0..16 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let data = Dataset::new(Tensor::from_slice(&[16, 8, 8, 1], &pixels)?, None)?;
    let terms = vec![Term { weight, ..Objective::Denoise.term(Weight::Snr, NormKind::L2) }];
    let options = TrainerOptions { terms, optimizer, batch: 8, ..options() };
    Trainer::new(Arc::new(CpuBackend::new(threads)?), &model()?, None, Some(&data), options)
}

fn trainer(optimizer: Optimizer) -> Result<Trainer> {
    trainer_of(optimizer, 1, 1.0)
}

fn steps(trainer: &mut Trainer, count: usize) -> Result<()> {
    (0..count).try_for_each(|_| trainer.step().map(drop))
}

#[test]
fn matrices_inside_the_network_are_muons() -> Result<()> {
    let trainer = trainer(muon())?;
    let of = |rule| trainer.sets[0].parameters.iter().filter(move |p| p.rule == rule).map(|p| p.name.as_str());
    assert!(of(Rule::Muon).all(|name| name.ends_with(".weight") && !name.contains("norm") && !name.starts_with("conv_")));
    for name in [
        "time_embedding.linear_1.weight",
        "down_blocks.0.resnets.0.conv1.weight",
        "mid_block.attentions.0.to_q.weight",
        "mid_block.resnets.0.time_emb_proj.weight",
    ] {
        assert!(of(Rule::Muon).any(|found| found == name), "{name}");
    }
    assert!(["conv_in.weight", "conv_out.weight", "conv_norm_out.weight"].iter().all(|name| of(Rule::AdamW).any(|found| found == *name)));
    let ops = |wanted: fn(&Op) -> bool| trainer.plan().graph().nodes().iter().filter(|node| wanted(&node.op)).count();
    let counts = [ops(|op| matches!(op, Op::Momentum(_))), ops(|op| matches!(op, Op::Orthogonalize(_))), ops(|op| matches!(op, Op::Descend(_)))];
    assert_eq!(counts, [1; 3], "one node each for all matrices");
    // Conditions: their layers are no inner ones, and tables no layers.
    for classes in [r#""num_class_embeds":3"#, r#""class_embed_type":"timestep""#] {
        let network = families::parse(&super::tests::TINY.replace('}', &format!(",{classes}}}")), "config.json")?;
        let (hidden, all) = (network.hidden_weights()?, network.parameters()?);
        assert!(all.iter().any(|p| p.name.starts_with("class_embedding")) && !hidden.iter().any(|name| name.starts_with("class_embedding")), "{hidden:?}");
    }
    Ok(())
}

#[test]
fn it_learns() -> Result<()> {
    let mut trainer = trainer(muon())?;
    let on_one_batch = |trainer: &mut Trainer| {
        let done = std::mem::replace(&mut trainer.steps_done, 0);
        let report = trainer.evaluate(9);
        trainer.steps_done = done;
        report.map(|report| report.loss)
    };
    let first = on_one_batch(&mut trainer)?;
    steps(&mut trainer, 60)?;
    let last = on_one_batch(&mut trainer)?;
    assert!(last < 0.8 * first, "{first} {last}");
    Ok(())
}

#[test]
fn it_resumes_bit_for_bit_on_any_number_of_threads() -> Result<()> {
    let dir = scratch("muon");
    let path = dir.join("run");
    let mut whole = trainer(muon())?;
    steps(&mut whole, 3)?;
    whole.save(&path)?;
    steps(&mut whole, 3)?;
    for threads in 1..=3 {
        let mut resumed = trainer_of(muon(), threads, 1.0)?;
        resumed.resume(&path, 0)?;
        steps(&mut resumed, 3)?;
        assert!(bytes_of(&resumed)? == bytes_of(&whole)?, "{threads} threads");
        let mut fresh = trainer_of(muon(), threads, 1.0)?;
        steps(&mut fresh, 6)?;
        assert!(bytes_of(&fresh)? == bytes_of(&whole)?, "{threads} threads from the start");
    }
    // Another optimizer has other states; other numbers of the same one have not.
    let error = trainer(options().optimizer)?.resume(&path, OptionGroup::ALL).unwrap_err();
    assert!(error.status == Status::InvalidArgument && error.message.contains("optimizer is AdamW; the checkpoint was made with Muon"), "{error}");
    let plain = trainer(options().optimizer)?;
    plain.save(&dir.join("plain"))?;
    let error = trainer(muon())?.resume(&dir.join("plain"), OptionGroup::ALL).unwrap_err();
    assert!(error.message.contains("optimizer is Muon; the checkpoint was made with AdamW"), "{error}");
    for (optimizer, group, name) in [
        (Optimizer { momentum: 0.9, ..muon() }, OptionGroup::Optimizer, "momentum is 0.9; the checkpoint was made with 0.95"),
        (Optimizer { muon_learning_rate: 0.01, ..muon() }, OptionGroup::Schedule, "muon_learning_rate is 0.01; the checkpoint was made with 0.02"),
    ] {
        let mut other = trainer(optimizer)?;
        let error = other.resume(&path, 0).unwrap_err();
        assert!(error.message.contains(name), "{error}");
        other.resume(&path, group as u32)?;
    }
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

#[test]
fn what_cannot_be_used_changes_nothing() -> Result<()> {
    // A gradient that is too large, and rates that leave infinities: of Muon alone.
    let mut large = trainer_of(Optimizer { clip_norm: f64::INFINITY, ..muon() }, 1, 1e25)?;
    let before = bytes_of(&large)?;
    assert_eq!(large.step().unwrap_err().status, Status::Numeric);
    assert!(bytes_of(&large)? == before);
    let mut far = trainer(Optimizer { muon_learning_rate: 3e38, decay: LearningRate::Constant, weight_decay: 1e-3, ..muon() })?;
    steps(&mut far, 1).err().into_iter().for_each(|e| assert!(e.message.contains("at learning rate 3e38"), "{e}"));
    assert!(bytes_of(&far)? == before);
    assert_eq!((large.steps_done(), far.steps_done()), (0, 0));
    Ok(())
}

#[test]
fn ordinary_runs_are_never_looked_at() -> Result<()> {
    let mut trainer = trainer(Optimizer { decay: LearningRate::Constant, clip_norm: f64::INFINITY, ..muon() })?;
    for step in 0..100_000 {
        let Watch::Bounded(bounds) = trainer.watch()? else { panic!("step {step} was looked at") };
        trainer.bounds = bounds;
        trainer.steps_done += 1;
    }
    // The bound is one: no weight moves by more.
    let mut trainer = self::trainer(muon())?;
    for _ in 0..5 {
        let Watch::Bounded(bounds) = trainer.watch()? else { panic!("looked at") };
        trainer.step()?;
        for (state, _, key) in trainer.sets[0].states().filter(|(state, ..)| matches!(state, State::Weight | State::Average)) {
            let most = trainer.exec.storage_bytes(&key)?.of::<f32>()?.iter().fold(0f64, |most, v| most.max(f64::from(v.abs())));
            assert!(most <= bounds.weights, "{state:?} {key}: {most} beyond {}", bounds.weights);
        }
    }
    Ok(())
}

#[test]
fn options_are_checked() {
    for (optimizer, name) in [
        (Optimizer { muon_learning_rate: 0.0, ..muon() }, "muon_learning_rate is 0"),
        (Optimizer { muon_learning_rate: 1e300, ..muon() }, "muon_learning_rate"),
        (Optimizer { muon_learning_rate: f64::NAN, ..muon() }, "muon_learning_rate is NaN"),
        (Optimizer { muon_learning_rate: 1e30, weight_decay: 1e30, learning_rate: 1e-3, ..muon() }, "muon_learning_rate times weight_decay"),
        (Optimizer { momentum: 1.0, ..muon() }, "momentum is 1"),
        (Optimizer { momentum: 0.999_999_999, ..muon() }, "momentum in f32 is 1"),
        (Optimizer { momentum: -0.1, ..muon() }, "momentum is -0.1"),
    ] {
        let error = optimizer.check().unwrap_err();
        assert!(error.status == Status::InvalidArgument && error.message.contains(name), "{error}");
        // What AdamW does not read may be anything.
        assert!(Optimizer { kind: OptimizerKind::AdamW, weight_decay: 0.0, ..optimizer }.check().is_ok());
    }
}
