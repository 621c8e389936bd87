//! The DMD finisher: what its two phases move, and what it is refused for.

use super::dmd::CRITIC;
use super::tests::{bytes_of, model, options, scratch};
use super::*;
use crate::backend::cpu::CpuBackend;
use crate::error::{Result, Status};
use crate::nn::Model;
use std::sync::Arc;

const TERM: DmdTerm = DmdTerm { weight: 0.5, begin: 2, learning_rate: 1e-3 };

fn trainer(dmd: Option<DmdTerm>) -> Result<Trainer> {
    let (student, teacher) = (model()?, Model { weights: Model::create(model()?.network, model()?.scheduler, 9)?.weights, ..model()? });
    let o = TrainerOptions { dmd, batch: 8, cache_size: 64, ..options() };
    Trainer::new(Arc::new(CpuBackend::new(1)?), &student, Some(&teacher), None, o)
}

fn weights(trainer: &Trainer, name: &str) -> Result<Vec<u8>> {
    let set = trainer.sets.iter().find(|set| set.name() == name).expect("the set");
    Ok(trainer.weights(set, WeightsKind::Raw)?.iter().flat_map(|(_, tensor)| tensor.bytes().to_vec()).collect())
}

#[test]
fn the_critic_learns_at_once_and_the_student_by_it_later() -> Result<()> {
    let (mut with, mut without) = (trainer(Some(TERM))?, trainer(None)?);
    assert_eq!(with.plan().graph().segments().iter().filter(|name| name.starts_with("critic.")).count(), 3);
    let first = weights(&with, CRITIC)?;
    let mut same = vec![];
    for step in 1..=4 {
        let (a, b) = (with.step()?, without.step()?);
        assert!(a.terms[1].is_finite() && a.loss.is_finite() && a.grad_norm.is_finite(), "{a:?}");
        // The critic begins as the teacher: at first the two say the same.
        assert_eq!(a.terms[1] == 0.0, step == 1, "{a:?}");
        assert!(b.terms[1] == 0.0 && weights(&with, CRITIC)? != first);
        same.push(weights(&with, "student")? == weights(&without, "student")?);
    }
    assert_eq!(same, [true, true, false, false], "nothing but zeros flows back before the student is to learn by it");
    let [a, b] = [with.evaluate(3)?, with.evaluate(3)?];
    assert_eq!(a, b);
    Ok(())
}

#[test]
fn it_has_no_checkpoints() -> Result<()> {
    let path = scratch("dmd").join("run");
    let mut with = trainer(Some(TERM))?;
    let before = bytes_of(&with)?;
    for error in [with.save(&path).unwrap_err(), with.resume(&path, 0).unwrap_err()] {
        assert!(error.status == Status::Unsupported && error.message.contains("DMD"), "{error}");
    }
    assert!(bytes_of(&with)? == before);
    let error = trainer(Some(DmdTerm { weight: f32::NAN, ..TERM })).err().expect("a weight that is no number");
    assert!(error.message.contains("the weight of DMD is NaN"), "{error}");
    std::fs::remove_dir_all(path.parent().expect("a folder")).expect("clean up");
    Ok(())
}
