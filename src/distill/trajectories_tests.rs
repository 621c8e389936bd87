//! Trajectories that are replaced while a run goes on, and how good what they are matched to is.

use super::loss_tests::dataset;
use super::tests::{bytes_of, model, options, scratch};
use super::*;
use crate::backend::cpu::CpuBackend;
use crate::cancel::Stop;
use crate::diffusion::{Weight, trailing_pairs};
use crate::error::{Result, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Two batches of trajectories, replaced after every five steps of a run of twelve.
fn refreshing() -> TrainerOptions {
    let optimizer = Optimizer { warmup_steps: 0, total_steps: 12, ..Optimizer::default() };
    TrainerOptions { cache_size: 5, cache_batch: 3, cache_refresh: 5, optimizer, ..options() }
}

fn trainer(options: TrainerOptions) -> Result<Trainer> {
    let model = model()?;
    Trainer::new(Arc::new(CpuBackend::new(1)?), &model, Some(&model), None, options)
}

fn after(trainer: &mut Trainer, steps: usize) -> Result<Vec<Vec<u8>>> {
    for _ in 0..steps {
        trainer.step()?;
    }
    bytes_of(trainer)
}

/// The bits of the present states.
fn states(trainer: &Trainer) -> Vec<u8> {
    trainer.trajectories.of(trainer.generation()).expect("trajectories").states.bytes().to_vec()
}

#[test]
fn trajectories_are_replaced_after_so_many_steps() -> Result<()> {
    let mut run = trainer(refreshing())?;
    let mut kept = trainer(TrainerOptions { cache_refresh: 0, ..refreshing() })?;
    run.prepare(&mut |_, _| true, Stop::NEVER)?;
    let first = states(&run);
    assert!(run.trajectories.bytes() > kept.trajectories.bytes());
    assert_eq!(after(&mut run, 5)?, after(&mut kept, 5)?, "the first ones are those of a run that keeps them");
    assert!(!run.is_prepared() && kept.is_prepared(), "the next step begins with others");
    assert_ne!(after(&mut run, 1)?, after(&mut kept, 1)?);
    let second = states(&run);
    assert!(first != second && states(&kept) == first);
    // Whether computed beside the steps or at once, by whatever batch, they are the same.
    let mut at_once = run.cache_builder(Stop::NEVER)?;
    at_once.begin(super::trajectories::seed_of(run.options.seed, 1), Stop::NEVER)?;
    assert_eq!(at_once.finish(&mut |_, _| true, Stop::NEVER)?.states.bytes(), second);
    // Nothing is computed that no step would see.
    after(&mut run, 4)?;
    let with_both = run.trajectories.bytes();
    after(&mut run, 1)?;
    assert!(run.trajectories.bytes() <= with_both / 2, "{} of {with_both} bytes", run.trajectories.bytes());
    Ok(())
}

#[test]
fn a_resumed_run_goes_on_with_the_trajectories_that_it_would_have_had() -> Result<()> {
    let dir = scratch("refresh");
    let path = dir.join("checkpoint");
    let mut whole = trainer(refreshing())?;
    let expected = after(&mut whole, 12)?;
    for steps in [4, 5, 8, 10] {
        let mut before = trainer(refreshing())?;
        after(&mut before, steps)?;
        before.save(&path)?;
        let mut resumed = trainer(refreshing())?;
        resumed.resume(&path, 0)?;
        assert_eq!(after(&mut resumed, 12 - steps)?, expected, "from step {steps}");
    }
    let error = trainer(TrainerOptions { cache_refresh: 6, ..refreshing() })?.resume(&path, 0).unwrap_err();
    assert!(error.message.contains("cache_refresh is 6; the checkpoint was made with 5"), "{error}");
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

/// A step that is cancelled while it computes the next trajectories has done nothing, and goes on.
#[test]
fn what_is_cancelled_goes_on() -> Result<()> {
    let (mut whole, mut cut) = (trainer(refreshing())?, trainer(refreshing())?);
    let expected = after(&mut whole, 12)?;
    let flag = AtomicBool::new(true);
    for step in 0..12 {
        cut.prepare(&mut |_, _| true, Stop::NEVER)?;
        let before = bytes_of(&cut)?;
        flag.store(true, Ordering::Release);
        assert_eq!(cut.step_until((&flag).into()).unwrap_err().status, Status::Cancelled, "step {step}");
        assert_eq!(bytes_of(&cut)?, before);
        cut.step()?;
    }
    assert_eq!(bytes_of(&cut)?, expected);
    Ok(())
}

#[test]
fn targets_are_as_good_as_the_teachers_steps() -> Result<()> {
    let of = |order: usize, substeps: usize, steps: usize| {
        let pairs = trailing_pairs(1000, 2)?;
        trainer(TrainerOptions { teacher_order: order, substeps, pairs, ..options() })?.target_error(steps, 5, 3, Stop::NEVER)
    };
    // The reference is DDIM's own grid; a network without training is no smooth teacher, and nothing is said of how far the others are.
    assert_eq!([of(1, 4, 8)?, of(1, 20, 40)?], [0.0; 2]);
    assert!(of(1, 2, 40)? > 0.0 && of(3, 4, 8)? > 0.0);
    assert!(of(1, 2, 0).unwrap_err().status == Status::InvalidArgument && of(1, 2, 1001).is_err());
    let terms = vec![Objective::Denoise.term(Weight::Snr, NormKind::L2)];
    let (model, data) = (model()?, dataset()?);
    let plain = Trainer::new(Arc::new(CpuBackend::new(1)?), &model, Some(&model), Some(&data), TrainerOptions { terms, ..options() })?;
    let error = plain.target_error(50, 4, 1, Stop::NEVER).unwrap_err();
    assert!(error.status == Status::InvalidArgument && error.message.contains("no term of the loss is on the teacher's trajectories"), "{error}");
    Ok(())
}
