//! Students that are their own teacher.

use super::checkpoint::OptionGroup;
use super::context::{AVERAGE, Role, STUDENT, SelfTeacher, TermContext};
use super::loss::Evaluated;
use super::loss_tests::dataset;
use super::points::cached::TrajectoryBatch;
use super::tests::{bytes_of, model, options, scratch};
use super::*;
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, as_bytes};
use crate::diffusion::{Clip, Prediction, Table, Walk, Weight, trailing_pairs};
use crate::error::{Error, Result, Status};
use crate::graph::{Graph, TensorType};
use crate::nn::{Model, PerStep, Predictor};
use crate::random::Purpose;
use crate::sampling::{RunSpec, SamplingRun, UNROLLED};
use crate::tensor::DType;
use std::sync::Arc;

/// A network that predicts velocities, whose errors one step from pure noise does not multiply.
fn network(seed: u64) -> Result<Model> {
    let plain = model()?;
    let weights = Model::create(plain.network.clone(), plain.scheduler.clone(), seed)?.weights;
    Ok(Model { weights, scheduler: plain.scheduler.for_student(Prediction::VPrediction)?, ..plain })
}

/// Where a model's own sampler arrives from an image in the steps of a grid.
fn sampled(model: &Model, pairs: &[(i64, i64)], x: &[f32]) -> Result<Vec<f32>> {
    let table = Table::from_pairs(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), pairs, 0.0, Clip::None)?;
    let batch = x.len() / 64;
    let spec = RunSpec { table: &table, batch, size: [8, 8], purpose: Purpose::Init, precision: DType::F32, guidance: None, unrolled: UNROLLED };
    let mut run = SamplingRun::new(&CpuBackend::new(1)?, model, &spec)?;
    run.begin(0, &vec![0; batch], &[], Some(x))?;
    run.step(None, true)?;
    Ok(run.read()?.to_vec())
}

fn image(rows: usize, factor: usize) -> Vec<f32> {
    (0..rows * 64).map(|i| ((i * factor % 83) as f32 - 41.0) / 30.0).collect()
}

/// The target is where the average's sampler arrives from the next state, the loss the mean square, in f64, of what the student's step over all of it differs by.
#[test]
fn targets_are_where_the_average_lands_and_losses_what_is_missing() -> Result<()> {
    let (student, average, backend) = (network(1)?, network(9)?, CpuBackend::new(1)?);
    let (schedule, prediction, pairs) = (student.scheduler.noise_schedule()?, student.scheduler.prediction(), trailing_pairs(1000, 4)?);
    for steps in [1usize, 2] {
        let context = TermContext {
            student: Role::student(&student, prediction),
            teacher: None,
            schedule: &schedule,
            pairs: &pairs,
            walk: Walk { order: 1, substeps: 1, clip: Clip::None },
            self_teacher: Some(SelfTeacher { network: Predictor::new(&average, AVERAGE), steps }),
        };
        let mut g = Graph::new();
        let ty = TensorType::f32(&[4, 8, 8, 1]);
        let (state, target) = (g.input("state", ty.clone())?, g.input("target", ty)?);
        let pair = g.input("pair", TensorType::new(DType::I32, &[4]))?;
        let at = TrajectoryBatch { pair, state, target, conditions: vec![] }.cached(&mut g, &context)?;
        let mut evaluated = Evaluated::new(&mut g, &context, at)?;
        let landed = evaluated.target(&mut g, &context, Target::SelfTeacher)?;
        let loss = evaluated.loss(&mut g, &context, &Objective::SelfTeacher.term(Weight::State, NormKind::L2), None)?;
        g.tap(landed);
        g.tap(loss);
        let mut exec = backend.compile(&g)?;
        for (model, prefix) in [(&student, STUDENT), (&average, AVERAGE)] {
            model.weights.iter().try_for_each(|(name, tensor)| exec.bind(&format!("{prefix}{name}"), tensor.clone()))?;
        }
        exec.prepare()?;
        let (x, next, order) = (image(4, 29), image(4, 31), [2usize, 0, 3, 1]);
        exec.write_bytes(state, as_bytes(&x))?;
        exec.write_bytes(target, as_bytes(&next))?;
        exec.write_bytes(pair, as_bytes(&order.map(|k| k as i32)))?;
        exec.run_all()?;
        let found = exec.read_bytes(landed)?.of::<f32>()?.to_vec();
        let mut squares = 0f64;
        for (row, k) in order.into_iter().enumerate() {
            let ((t, after), end) = (pairs[k], pairs[(k * steps / 4 + 1) * (4 / steps) - 1].1);
            let own = |values: &[f32]| values[row * 64..][..64].to_vec();
            let expected = if after == end { own(&next) } else { sampled(&average, &[(after, end)], &own(&next))? };
            let size = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
            let off = own(&found).iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            // Rounded in another order.
            assert!(off <= 1e-5 * size, "{steps} steps, pair {k}: off by {off}");
            let reached = sampled(&student, &[(t, end)], &own(&x))?;
            squares += reached.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
        }
        let (loss, expected) = (f64::from(exec.read_bytes(loss)?.of::<f32>()?[0]), squares / 256.0);
        assert!((loss - expected).abs() <= 1e-4 * expected, "{steps} steps: {loss}, expected {expected}");
    }
    Ok(())
}

fn trainer(change: impl FnOnce(&mut TrainerOptions)) -> Result<Trainer> {
    let terms = vec![Objective::SelfTeacher.term(Weight::State, NormKind::L2)];
    let mut o = TrainerOptions { terms, pairs: trailing_pairs(1000, 4)?, batch: 16, cache_size: 256, trajectory_clip: Some(Clip::None), ..options() };
    change(&mut o);
    Trainer::new(Arc::new(CpuBackend::new(1)?), &network(1)?, Some(&network(9)?), Some(&dataset()?), o)
}

/// A student of one step comes closer to where its teacher's four steps end, though it has never been shown both ends of a run.
#[test]
fn a_student_of_one_step_learns_from_its_average() -> Result<()> {
    let mut trainer = trainer(|o| (o.optimizer.average, o.optimizer.learning_rate) = (Average::Exponential(0.95), 3e-3))?;
    let (teacher, noise) = (network(9)?, image(16, 37));
    let ends = sampled(&teacher, &trailing_pairs(1000, 8)?, &noise)?;
    let error = |model: &Model| {
        let found = sampled(model, &[(999, -1)], &noise)?;
        Ok::<_, Error>(found.iter().zip(&ends).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>())
    };
    let before = error(&network(1)?)?;
    (0..150).try_for_each(|_| trainer.step().map(drop))?;
    let student = trainer.snapshot(WeightsKind::Raw)?;
    let info = student.student.as_ref().expect("a grid");
    assert_eq!((info.pairs.as_slice(), info.teacher_substeps), (&[(999, -1)][..], 8));
    let after = error(&student)?;
    assert!(after < 0.5 * before, "{before} before, {after} after");
    Ok(())
}

#[test]
fn a_run_with_its_average_is_resumed_to_the_bit() -> Result<()> {
    let dir = scratch("self-teacher");
    let path = dir.join("run");
    let mut whole = trainer(|_| {})?;
    (0..3).try_for_each(|_| whole.step().map(drop))?;
    whole.save(&path)?;
    (0..3).try_for_each(|_| whole.step().map(drop))?;
    let mut resumed = trainer(|_| {})?;
    resumed.resume(&path, 0)?;
    (0..3).try_for_each(|_| resumed.step().map(drop))?;
    assert!(bytes_of(&resumed)? == bytes_of(&whole)?);
    let mut two = trainer(|o| o.self_teacher_steps = 2)?;
    let error = two.resume(&path, 0).unwrap_err();
    assert!(error.message.contains("self_teacher_steps is 2; the checkpoint was made with 1") && error.message.contains("FEWSTEP_RESUME_LOSS"), "{error}");
    two.resume(&path, OptionGroup::Loss as u32)?;
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

#[test]
fn what_is_at_odds_with_longer_steps_is_named() -> Result<()> {
    let with = |objective: Objective| move |o: &mut TrainerOptions| o.terms.push(objective.term(Weight::V, NormKind::L2));
    type Case = (Box<dyn FnOnce(&mut TrainerOptions)>, &'static str);
    let cases: [Case; 10] = [
        (Box::new(|o| o.self_teacher_steps = 0), "self_teacher_steps is 0"),
        (Box::new(|o| o.self_teacher_steps = 3), "the grid has 4 steps"),
        (Box::new(|o| o.self_teacher_steps = 4), "two or more"),
        (Box::new(with(Objective::TeacherForced)), "NextState over one of them"),
        (Box::new(with(Objective::Progressive)), "Resolved over one of them"),
        (Box::new(with(Objective::Rollout)), "NextState over one of them"),
        (Box::new(|o| o.terms.push(Term { point: Point::Own, target: Target::TeacherOutput, ..o.terms[0] })), "Own over one of them"),
        (Box::new(|o| o.distribution = Some(DistributionTerm::default())), "Chain over one of them"),
        (Box::new(|o| o.terms[0].point = Point::Own), "TeacherOutput or NextState or Resolved"),
        (Box::new(|o| (o.terms, o.self_teacher_steps) = (options().terms, 2)), "no term's target is SelfTeacher"),
    ];
    for (change, needle) in cases {
        let error = trainer(change).err().expect(needle);
        assert!(error.status == Status::InvalidArgument && error.message.contains(needle), "{error}");
    }
    trainer(with(Objective::Output))?.step()?; // of one evaluation, wherever it leads
    let own = network(1)?.for_grid(trailing_pairs(1000, 4)?, PerStep::BiasesAndNorms)?;
    let o = TrainerOptions { terms: vec![Objective::SelfTeacher.term(Weight::State, NormKind::L2)], pairs: trailing_pairs(1000, 4)?, ..options() };
    let error = Trainer::new(Arc::new(CpuBackend::new(1)?), &own, Some(&network(9)?), None, o).err().expect("two grids");
    assert!(error.status == Status::Unsupported && error.message.contains("train a plain student"), "{error}");
    Ok(())
}
