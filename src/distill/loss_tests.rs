//! Terms as points and targets: what they share, what they draw, and that each pair is what it says.

use super::checkpoint::OptionGroup;
use super::context::{Role, TermContext};
use super::loss::Evaluated;
use super::points::cached::TrajectoryBatch;
use super::tests::{bytes_of, model, options, scratch};
use super::*;
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, Executable, as_bytes};
use crate::diffusion::{Clip, Table, Walk, Weight, trailing_pairs};
use crate::error::{Error, Result, Status};
use crate::graph::{Graph, TensorType};
use crate::io::safetensors::{self, TensorFile};
use crate::nn::{Model, Predictor};
use crate::random::Purpose;
use crate::sampling::{RunSpec, SamplingRun, UNROLLED};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

pub(super) fn dataset() -> Result<Dataset> {
    let pixels: Vec<f32> = (0..16 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    Dataset::new(Tensor::from_slice(&[16, 8, 8, 1], &pixels)?, None)
}

fn trainer(terms: Vec<Term>, batch: usize) -> Result<Trainer> {
    let (model, data) = (model()?, dataset()?);
    Trainer::new(Arc::new(CpuBackend::new(1)?), &model, Some(&model), Some(&data), TrainerOptions { terms, batch, ..options() })
}

fn term(point: Point, target: Target) -> Term {
    let step_weight = if point == Point::Data { Weight::Snr } else { Weight::State };
    Term { point, target, norm: NormKind::L2, step_weight, weight: 0.5, linear_fit_steps: 0 }
}

/// Every pair that fits.
fn terms() -> Vec<Term> {
    let points = [Point::Data, Point::Noised, Point::Cached, Point::Own, Point::Chain];
    let targets = [Target::TeacherOutput, Target::NextState, Target::Resolved, Target::Clean];
    points.iter().flat_map(|p| targets.iter().filter(|t| t.fits(*p)).map(|t| term(*p, *t))).collect()
}

/// Forward results of one program and another differ by rounding in f32 alone.
fn assert_close(found: f32, expected: f32, what: &str) {
    assert!((found - expected).abs() <= 1e-5 * expected.abs(), "{what}: {found}, expected {expected}");
}

#[test]
fn every_pair_that_fits_trains_and_the_others_are_refused() -> Result<()> {
    assert_eq!(terms().len(), 12);
    for term in terms().into_iter().chain([term(Point::Cached, Target::SelfTeacher)]) {
        let mut trainer = trainer(vec![term], 2)?;
        let before = bytes_of(&trainer)?;
        let report = trainer.step().map_err(|e| e.context(format!("{term:?}")))?;
        // An untrained student is its teacher: their outputs agree at the same place.
        assert_eq!(report.loss > 0.0, term.target != Target::TeacherOutput, "{term:?}: {report:?}");
        assert_eq!(bytes_of(&trainer)? != before, report.loss > 0.0, "{term:?}");
    }
    for (point, target, needle) in [
        (Point::Own, Target::Clean, "TeacherOutput or NextState or Resolved"),
        (Point::Data, Target::Resolved, "TeacherOutput or Clean"),
        (Point::Chain, Target::Resolved, "can be NextState"),
        (Point::Cached, Target::Clean, "Cached"),
        (Point::Noised, Target::NextState, "TeacherOutput or Resolved or Clean"),
        (Point::Data, Target::NextState, "TeacherOutput or Clean"),
    ] {
        let error = trainer(vec![term(point, target)], 2).err().expect("refused");
        assert!(error.status == Status::InvalidArgument && error.message.contains(needle) && error.message.contains(target_name(target)), "{error}");
    }
    Ok(())
}

fn target_name(target: Target) -> &'static str {
    crate::names::Named::name(target)
}

/// Terms of one point are what each of them is alone, at the same draws, for one evaluation of the student; terms of other points draw other numbers.
#[test]
fn terms_of_a_point_share_draws_and_evaluation() -> Result<()> {
    let convolutions = |trainer: &Trainer| trainer.plan().graph().nodes().iter().filter(|n| crate::graph::OpDef::name(&n.op).contains("conv2d")).count();
    let [clean, next] = [term(Point::Data, Target::Clean), term(Point::Cached, Target::NextState)];
    let absolute = Term { norm: NormKind::L1, ..clean };
    let (mut one, mut other) = (trainer(vec![clean], 2)?, trainer(vec![absolute], 2)?);
    let mut both = trainer(vec![clean, absolute], 2)?;
    assert_eq!(convolutions(&both), convolutions(&one));
    let (one, other, both) = (one.evaluate(7)?, other.evaluate(7)?, both.evaluate(7)?);
    assert_close(both.terms[0], one.loss / 0.5, "the first");
    assert_close(both.terms[1], other.loss / 0.5, "the second");
    assert_close(both.loss, one.loss + other.loss, "their sum");
    // The first point draws what it draws alone, the second something else.
    let (mut alone, mut second) = (trainer(vec![next], 2)?, trainer(vec![clean, next], 2)?);
    let (alone, second) = (alone.evaluate(7)?, second.evaluate(7)?);
    assert_close(second.terms[0], both.terms[0], "the first point");
    assert!((second.terms[1] - alone.terms[0]).abs() > 2e-5 * alone.terms[0], "{second:?} {alone:?}");
    Ok(())
}

/// Two trainers with half of the rows each have the rows of one trainer with all of them.
#[test]
fn rows_are_drawn_by_their_place_in_the_whole_batch() -> Result<()> {
    for term in terms().into_iter().filter(|t| t.target != Target::TeacherOutput) {
        let whole = trainer(vec![term], 4)?.evaluate(3)?.loss;
        let mut halves = [0f32; 2];
        for (first_row, half) in [0, 2].into_iter().zip(&mut halves) {
            let mut trainer = trainer(vec![term], 2)?;
            trainer.first_row = first_row;
            *half = trainer.evaluate(3)?.loss;
        }
        assert!((halves[0] - halves[1]).abs() > 1e-4 * whole, "{term:?}: {halves:?}");
        assert_close((halves[0] + halves[1]) / 2.0, whole, &format!("{term:?}"));
    }
    Ok(())
}

/// Of a student that says half of what its teacher says, the best factor explains all; half of the way through the warm-up, half; after it, nothing. One that
/// says the opposite is granted no more than a tenth of what it says. An evaluation grants nothing. Tolerance: what is left of a difference of f32.
#[test]
fn a_linear_fit_takes_off_what_a_factor_explains() -> Result<()> {
    let (teacher, data) = (model()?, dataset()?);
    let trainer_of = |factor: f32, linear_fit_steps: u32, steps_done: u64| {
        let mut student = teacher.clone();
        for name in ["conv_out.weight", "conv_out.bias"] {
            let mut scaled = teacher.weights[name].to_f32()?;
            scaled.as_mut_slice::<f32>()?.iter_mut().for_each(|w| *w *= factor);
            student.weights.insert(name.into(), Arc::new(scaled));
        }
        let terms = vec![Term { linear_fit_steps, ..term(Point::Data, Target::TeacherOutput) }];
        let mut trainer = Trainer::new(Arc::new(CpuBackend::new(1)?), &student, Some(&teacher), Some(&data), TrainerOptions { terms, batch: 2, ..options() })?;
        trainer.steps_done = steps_done;
        Ok::<_, Error>(trainer)
    };
    // What is left of (1 - factor)^2 is (1 - granted)^2.
    for (factor, steps_done, granted) in [(0.5, 0, 1.0f32), (0.5, 2, 0.75), (0.5, 4, 0.5), (0.5, 9, 0.5), (-1.0, 0, -0.1), (-1.0, 4, -1.0)] {
        let (mut plain, mut fitted) = (trainer_of(factor, 0, steps_done)?, trainer_of(factor, 4, steps_done)?);
        let (of_plain, of_fitted) = (plain.step()?.loss, fitted.step()?.loss);
        let left = ((1.0 - granted) / (1.0 - factor)).powi(2);
        assert!((of_fitted - left * of_plain).abs() <= 1e-5 * of_plain, "{factor} after {steps_done}: {of_fitted} of {of_plain}");
        let evaluated = [trainer_of(factor, 0, steps_done)?, trainer_of(factor, 4, steps_done)?].map(|mut trainer| trainer.evaluate(7).map(|r| r.loss));
        let [a, b] = evaluated;
        assert_eq!(a?, b?, "{factor} after {steps_done}");
    }
    let error = trainer(vec![Term { linear_fit_steps: 4, ..term(Point::Data, Target::Clean) }], 2).err().expect("refused");
    assert!(error.status == Status::InvalidArgument && error.message.contains("linear_fit_steps is 4, but its target is Clean"), "{error}");
    Ok(())
}

#[test]
fn a_loss_has_any_number_of_terms() -> Result<()> {
    let many: Vec<Term> = (1..=20).map(|i| Term { weight: i as f32 / 10.0, ..term(Point::Data, Target::Clean) }).collect();
    let report = trainer(many, 2)?.evaluate(7)?;
    let one = trainer(vec![term(Point::Data, Target::Clean)], 2)?.evaluate(7)?.loss / 0.5;
    report.terms.iter().for_each(|term| assert_close(*term, one, "a term"));
    assert_close(report.loss, 21.0 * one, "their sum"); // 0.1 + 0.2 + … + 2
    Ok(())
}

/// A compiled program with those of the model's weights that it has under a prefix.
pub(super) fn with_weights(backend: &CpuBackend, g: &Graph, model: &Model, prefix: &str) -> Result<Box<dyn Executable>> {
    let mut exec = backend.compile(g)?;
    for (name, tensor) in &model.weights {
        let name = format!("{prefix}{name}");
        if exec.plan().graph().storage(&name).is_some() {
            exec.bind(&name, tensor.clone())?;
        }
    }
    exec.prepare()?;
    Ok(exec)
}

/// The student's own states are those of its sampler, also on grids of more steps than a sum has operands.
#[test]
fn own_states_are_those_of_the_students_sampler() -> Result<()> {
    let (model, backend) = (model()?, CpuBackend::new(1)?);
    let schedule = model.scheduler.noise_schedule()?;
    let prediction = model.scheduler.prediction();
    for n in [1usize, 2, 8, 9, 20] {
        let pairs = trailing_pairs(1000, n)?;
        let context = TermContext {
            student: Role::student(&model, prediction),
            teacher: None,
            schedule: &schedule,
            pairs: &pairs,
            walk: Walk { order: 1, substeps: 1, clip: Clip::None },
            self_teacher: None,
        };
        let mut g = Graph::new();
        let image = TensorType::f32(&[n, 8, 8, 1]);
        let (state, target) = (g.input("state", image.clone())?, g.input("target", image)?);
        let pair = g.input("pair", TensorType::new(DType::I32, &[n]))?;
        let at = TrajectoryBatch { pair, state, target, conditions: vec![] }.own(&mut g, &context)?;
        g.tap(at.x);
        let mut exec = with_weights(&backend, &g, &model, context::STUDENT)?;
        let noise: Vec<f32> = (0..n * 64).map(|i| ((i * 29 % 83) as f32 - 41.0) / 30.0).collect();
        let order: Vec<i32> = (0..n as i32).rev().collect();
        exec.write_bytes(state, as_bytes(&noise))?;
        exec.write_bytes(pair, as_bytes(&order))?;
        exec.run_all()?;
        let found = exec.read_bytes(at.x)?.of::<f32>()?.to_vec();
        let table = Table::from_pairs(&schedule, prediction, &pairs, 0.0, Clip::None)?;
        let spec = RunSpec { table: &table, batch: n, size: [8, 8], purpose: Purpose::Init, precision: DType::F32, guidance: None, unrolled: UNROLLED };
        let mut run = SamplingRun::new(&backend, &model, &spec)?;
        run.begin(0, &vec![0; n], &[], Some(&noise))?;
        for k in 0..n {
            // Row n - 1 - k is at pair k.
            let row = (n - 1 - k) * 64..(n - k) * 64;
            let expected = run.read()?[row.clone()].to_vec();
            let size = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
            let off = found[row].iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(off <= 1e-5 * size, "{n} steps, state {k}: off by {off}");
            run.step(None, false)?;
        }
    }
    Ok(())
}

const DYNAMIC: Clip = Clip::Dynamic { ratio: 0.995, max: 1.0 };

/// Where the teacher arrives is where its sampler arrives, from each row's own state, with what its steps clip.
#[test]
fn resolved_targets_are_where_the_teachers_sampler_arrives() -> Result<()> {
    let (model, backend) = (model()?, CpuBackend::new(1)?);
    let (schedule, prediction, pairs) = (model.scheduler.noise_schedule()?, model.scheduler.prediction(), trailing_pairs(1000, 3)?);
    for (order, substeps, clip) in
        [(1, 1, Clip::None), (1, 4, Clip::None), (1, 3, Clip::Range(0.5)), (2, 4, Clip::None), (3, 5, Clip::Range(0.5)), (3, 1, Clip::None), (2, 2, DYNAMIC)]
    {
        let walk = Walk { order, substeps, clip };
        let role = Role { network: Predictor::new(&model, context::TEACHER), prediction };
        let context =
            TermContext { student: Role::student(&model, prediction), teacher: Some(role), schedule: &schedule, pairs: &pairs, walk, self_teacher: None };
        let mut g = Graph::new();
        let image = TensorType::f32(&[3, 8, 8, 1]);
        let (state, target) = (g.input("state", image.clone())?, g.input("target", image)?);
        let pair = g.input("pair", TensorType::new(DType::I32, &[3]))?;
        let at = TrajectoryBatch { pair, state, target, conditions: vec![] }.cached(&mut g, &context)?;
        let resolved = Evaluated::new(&mut g, &context, at)?.target(&mut g, &context, Target::Resolved)?;
        g.tap(resolved);
        let mut exec = with_weights(&backend, &g, &model, context::TEACHER)?;
        let x: Vec<f32> = (0..3 * 64).map(|i| ((i * 29 % 83) as f32 - 41.0) / 30.0).collect();
        exec.write_bytes(state, as_bytes(&x))?;
        exec.write_bytes(pair, as_bytes(&[2i32, 0, 1]))?;
        exec.run_all()?;
        let found = exec.read_bytes(resolved)?.of::<f32>()?.to_vec();
        for (row, k) in [2usize, 0, 1].into_iter().enumerate() {
            let table = walk.table(&schedule, prediction, &pairs[k..=k])?;
            let spec = RunSpec { table: &table, batch: 1, size: [8, 8], purpose: Purpose::Init, precision: DType::F32, guidance: None, unrolled: UNROLLED };
            let mut run = SamplingRun::new(&backend, &model, &spec)?;
            run.begin(0, &[0], &[], Some(&x[row * 64..][..64]))?;
            run.step(None, true)?;
            let expected = run.read()?.to_vec();
            let size = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
            let off = found[row * 64..][..64].iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            // Rounded in another order.
            assert!(off <= 1e-5 * size, "{walk:?}, pair {k}: off by {off}");
        }
    }
    let many = TrainerOptions { terms: vec![term(Point::Chain, Target::NextState)], batch: 2, pairs: trailing_pairs(1000, 33)?, ..options() };
    let error = Trainer::new(Arc::new(CpuBackend::new(1)?), &model, Some(&model), None, many).err().expect("33 steps");
    assert!(error.status == Status::InvalidArgument && error.message.contains("the grid has 33 steps"), "{error}");
    for (changed, needle) in [
        (TrainerOptions { substeps: 65, ..options() }, "substeps is 65"),
        (TrainerOptions { teacher_order: 4, ..options() }, "order of the teacher's solver is 4"),
        (TrainerOptions { pairs: vec![], ..options() }, "need a grid of step pairs"),
        (TrainerOptions { cache_size: 0, ..options() }, "cache_size is 0"),
    ] {
        let changed = TrainerOptions { terms: vec![term(Point::Own, Target::Resolved)], batch: 2, ..changed };
        let error = Trainer::new(Arc::new(CpuBackend::new(1)?), &model, Some(&model), None, changed).err().expect(needle);
        assert!(error.status == Status::InvalidArgument && error.message.contains(needle), "{error}");
    }
    Ok(())
}

/// With one step a chain is what the student's own point is; with more it learns, and its memory does not grow with its steps. (Its losses and gradients are held
/// to PyTorch's by the golden cases.)
#[test]
fn a_chain_is_the_students_own_run() -> Result<()> {
    let one = |pairs: usize, point: Point| -> Result<Trainer> {
        let terms = vec![term(point, Target::NextState)];
        let options = TrainerOptions { terms, batch: 64, pairs: trailing_pairs(1000, pairs)?, substeps: 2, ..options() };
        let (model, teacher) = (model()?, Model { weights: Model::create(model()?.network, model()?.scheduler, 9)?.weights, ..model()? });
        Trainer::new(Arc::new(CpuBackend::new(1)?), &model, Some(&teacher), None, options)
    };
    // With one step there is no other state than the noise.
    assert_close(one(1, Point::Chain)?.evaluate(3)?.loss, one(1, Point::Own)?.evaluate(3)?.loss, "one step");
    let bytes = |pairs: usize, point: Point| Ok(one(pairs, point)?.memory().arena);
    let (single, chain) = (bytes(1, Point::Chain)?, bytes(8, Point::Chain)?);
    assert!(chain * 10 <= single * 13, "{chain} bytes for 8 steps, {single} for one");
    let mut trainer = one(3, Point::Chain)?;
    let losses: Vec<f32> = (0..40).map(|_| trainer.step().map(|report| report.loss)).collect::<Result<_>>()?;
    assert!(losses[35..].iter().sum::<f32>() < 0.7 * losses[..5].iter().sum::<f32>(), "{losses:?}");
    Ok(())
}

/// A checkpoint of terms that drew their own rows, though they share a point, is not silently continued with other rows.
#[test]
fn checkpoints_from_before_points_were_shared_are_named() -> Result<()> {
    let dir = scratch("draws");
    let (shared, apart) = (dir.join("shared"), dir.join("apart"));
    let both = || trainer(vec![term(Point::Data, Target::Clean), term(Point::Data, Target::TeacherOutput)], 2);
    both()?.save(&shared)?;
    let mut file = TensorFile::open(&shared)?;
    let mut metadata = file.metadata().clone();
    let record = metadata.get_mut("fewstep.training").expect("a record");
    let before = record.clone();
    *record = record.replace(r#""draws":"by point","#, "");
    assert_ne!(*record, before, "{before}");
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let mut tensors = vec![];
    for name in &names {
        let shape = file.get(name)?.shape().to_vec();
        tensors.push((name.as_str(), file.take_f32(name, &shape)?));
    }
    let entries: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    safetensors::save(&apart, &entries, &metadata)?;
    both()?.resume(&shared, 0)?;
    let error = both()?.resume(&apart, 0).unwrap_err();
    assert!(error.message.contains("draws is by point; the checkpoint was made with by term") && error.message.contains("FEWSTEP_RESUME_LOSS"), "{error}");
    both()?.resume(&apart, OptionGroup::Loss as u32)?;
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}
