//! Students whose steps have biases and norms of their own.

use super::checkpoint::OptionGroup;
use super::loss_tests::{dataset, with_weights};
use super::tests::{bytes_of, model, options, scratch};
use super::*;
use crate::backend::as_bytes;
use crate::backend::cpu::CpuBackend;
use crate::cancel::Stop;
use crate::diffusion::{Clip, Table, Weight, trailing_pairs};
use crate::error::{Error, Result, Status};
use crate::graph::{Graph, TensorType};
use crate::io::SchedulerConfig;
use crate::nn::{Model, PerStep, Predictor, Step, StudentInfo, When, families};
use crate::quant::{self, Ends, Mode, Policy};
use crate::random::Purpose;
use crate::sampling::{Evaluator, RunSpec, SamplingRun, UNROLLED};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// Labels, attention, a norm before each convolution.
const ATTENTION: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[8,8],
"down_block_types":["DownBlock2D","AttnDownBlock2D"],"up_block_types":["AttnUpBlock2D","UpBlock2D"],"norm_num_groups":4,"attention_head_dim":4}"#;

/// A student of the grid, each of whose steps has other biases and norms than the others.
fn student(config: &str, pairs: &[(i64, i64)]) -> Result<Model> {
    let shared = Model::create(families::parse(config, "config.json")?, SchedulerConfig::default(), 1)?;
    let shapes: Vec<usize> = shared.weights.values().map(|w| w.shape().len()).collect();
    let mut own = shared.for_grid(pairs.to_vec(), PerStep::BiasesAndNorms)?;
    for (i, (weight, rank)) in own.weights.values_mut().zip(shapes).enumerate().filter(|(_, (weight, rank))| weight.shape().len() > *rank) {
        assert_eq!((rank, weight.shape()[0]), (1, pairs.len()));
        let mut changed = weight.to_f32()?;
        changed.as_mut_slice::<f32>()?.iter_mut().enumerate().for_each(|(j, v)| *v += 0.3 * ((i * 31 + j * 7) as f32).sin());
        *weight = Arc::new(changed);
    }
    Ok(own)
}

/// What a student is in one of its steps: a model like any other.
fn in_step(own: &Model, k: usize) -> Result<Model> {
    let mut alone = Model { student: None, ..own.clone() };
    for parameter in own.network.parameters()? {
        let all = &own.weights[&parameter.name];
        if all.shape() != parameter.shape {
            let each: usize = parameter.shape.iter().product();
            alone.weights.insert(parameter.name, Arc::new(Tensor::from_slice(&parameter.shape, &all.as_slice::<f32>()?[k * each..][..each])?));
        }
    }
    Ok(alone)
}

fn image(rows: usize) -> Vec<f32> {
    (0..rows * 64).map(|i| ((i * 29 % 83) as f32 - 41.0) / 30.0).collect()
}

/// What a model gives for rows of [`image`], each at timestep 400.
fn output(model: &Model, rows: usize, step: Option<Step>, index: &[i32]) -> Result<Vec<f32>> {
    let (backend, mut g) = (CpuBackend::new(1)?, Graph::new());
    let x = g.input("x", TensorType::f32(&[rows, 8, 8, 1]))?;
    let each = g.input("index", TensorType::new(DType::I32, &[rows]))?;
    let t = g.constant_fill("t", &[rows], 400.0)?;
    let step = step.map(|step| if let Step::Rows(_) = step { Step::Rows(each) } else { step });
    let out = Predictor::new(model, "").predict(&mut g, x, When { t, step }, &[])?;
    g.tap(out);
    let mut exec = with_weights(&backend, &g, model, "")?;
    exec.write_bytes(x, as_bytes(&image(rows)))?;
    exec.write_bytes(each, as_bytes(index))?;
    exec.run_all()?;
    Ok(exec.read_bytes(out)?.of::<f32>()?.to_vec())
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    let size = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    // Biases are added, and norms multiplied, in another order: a few roundings of f32 in some twenty layers.
    assert!(off <= 2e-5 * size && size > 0.0, "{what}: off by {off} of {size}");
}

#[test]
fn each_row_has_the_biases_and_norms_of_its_step() -> Result<()> {
    let pairs = trailing_pairs(1000, 3)?;
    for config in [super::tests::TINY, ATTENTION] {
        let own = student(config, &pairs)?;
        assert!(own.parameter_count() < 2 * in_step(&own, 0)?.parameter_count(), "a small set beside what is shared");
        let index = [2i32, 0, 1, 2];
        let mixed = output(&own, 4, Some(Step::Rows(crate::graph::ValueId(0))), &index)?;
        for k in 0..3 {
            let alone = output(&in_step(&own, k)?, 4, None, &index)?;
            assert_near(&output(&own, 4, Some(Step::All(k)), &index)?, &alone, "one step");
            for row in (0..4).filter(|row| index[*row] == k as i32) {
                assert_near(&mixed[row * 64..][..64], &alone[row * 64..][..64], &format!("row {row}"));
            }
        }
        let error = output(&own, 4, None, &index).unwrap_err();
        assert!(error.message.contains("off the grid"), "{error}");
    }
    Ok(())
}

fn trainer(term: Term) -> Result<Trainer> {
    let (teacher, o) = (model()?, TrainerOptions { terms: vec![term], ..options() });
    let student = student(super::tests::TINY, &o.pairs)?;
    Trainer::new(Arc::new(CpuBackend::new(1)?), &student, Some(&teacher), Some(&dataset()?), o)
}

/// Every objective on the grid's steps teaches each step's own parameters, and a run goes on to the bit.
#[test]
fn own_parameters_learn_and_are_resumed_to_the_bit() -> Result<()> {
    let dir = scratch("per-step");
    for objective in [Objective::TeacherForced, Objective::OnPolicy, Objective::Rollout, Objective::Resolve, Objective::Progressive] {
        let (term, path) = (objective.term(Weight::State, NormKind::L2), dir.join(format!("{objective:?}")));
        let mut whole = trainer(term)?;
        (0..3).try_for_each(|_| whole.step().map(drop))?;
        whole.save(&path)?;
        (0..3).try_for_each(|_| whole.step().map(drop))?;
        let mut resumed = trainer(term)?;
        resumed.resume(&path, 0)?;
        (0..3).try_for_each(|_| resumed.step().map(drop))?;
        assert!(bytes_of(&resumed)? == bytes_of(&whole)?, "{objective:?}");
        let (before, after) = (student(super::tests::TINY, &options().pairs)?, whole.snapshot(WeightsKind::Raw)?);
        for k in 0..2 {
            let bias = |model: &Model| Ok::<_, Error>(in_step(model, k)?.weights["conv_out.bias"].as_slice::<f32>()?.to_vec());
            assert_ne!(bias(&before)?, bias(&after)?, "{objective:?}: step {k}");
        }
    }
    // A run of a student whose steps share everything is another.
    let alone = || {
        let (model, terms) = (model()?, vec![Objective::TeacherForced.term(Weight::State, NormKind::L2)]);
        Trainer::new(Arc::new(CpuBackend::new(1)?), &model, Some(&model), None, TrainerOptions { terms, ..options() })
    };
    let error = alone()?.resume(&dir.join("TeacherForced"), OptionGroup::ALL).unwrap_err();
    assert!(error.message.contains("per_step_weights is none; the checkpoint was made with biases_and_norms"), "{error}");
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

fn run(model: &Model, pairs: &[(i64, i64)], unrolled: usize) -> Result<SamplingRun> {
    let table = Table::from_pairs(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), pairs, 0.0, Clip::None)?;
    let spec = RunSpec { table: &table, batch: 2, size: [8, 8], purpose: Purpose::Evaluation, precision: DType::F32, guidance: None, unrolled };
    SamplingRun::new(&CpuBackend::new(1)?, model, &spec)
}

/// From a file a student samples on its own grid as it did, step by step what each of its steps is; elsewhere it is refused.
#[test]
fn a_saved_student_samples_on_its_own_grid() -> Result<()> {
    let (dir, pairs) = (scratch("per-step-file"), trailing_pairs(1000, 2)?);
    let (made, path) = (student(super::tests::TINY, &pairs)?, dir.join("student"));
    made.save_file(&path)?;
    let opened = Model::open(&path)?;
    assert_eq!((opened.per_step(), opened.student.as_ref()), (PerStep::BiasesAndNorms, made.student.as_ref()));
    let (schedule, prediction) = (made.scheduler.noise_schedule()?, made.scheduler.prediction());
    for (model, unrolled) in [(&made, UNROLLED), (&opened, UNROLLED), (&opened, 0)] {
        let mut whole = run(model, &pairs, unrolled)?;
        whole.begin(0, &[0, 1], &[], Some(&image(2)))?;
        let mut x = image(2);
        for k in 0..2 {
            let table = Table::from_pairs(&schedule, prediction, &pairs[k..=k], 0.0, Clip::None)?;
            let spec = RunSpec { table: &table, batch: 2, size: [8, 8], purpose: Purpose::Evaluation, precision: DType::F32, guidance: None, unrolled };
            let mut step = SamplingRun::new(&CpuBackend::new(1)?, &in_step(model, k)?, &spec)?;
            step.begin(0, &[0, 1], &[], Some(&x))?;
            step.step(None, true)?;
            x = step.read()?.to_vec();
            whole.step(None, false)?;
            assert_near(&whole.read()?, &x, &format!("step {k}"));
        }
    }
    let mut evaluator = Evaluator::new_until(&CpuBackend::new(1)?, &opened, 2, [8, 8], DType::F32, Stop::NEVER)?;
    let first = evaluator.run(&image(2), &[999.0, 499.0], &[], Stop::NEVER)?.to_vec();
    let mut alone = Evaluator::new_until(&CpuBackend::new(1)?, &in_step(&opened, 1)?, 2, [8, 8], DType::F32, Stop::NEVER)?;
    assert_near(&first[64..], &alone.run(&image(2), &[999.0, 499.0], &[], Stop::NEVER)?[64..], "an evaluation");
    let refused = [
        (evaluator.run(&image(2), &[999.0, 500.0], &[], Stop::NEVER).map(drop), "timestep 500"),
        (run(&opened, &trailing_pairs(1000, 4)?, UNROLLED).map(drop), "FEWSTEP_SAMPLER_FROM_MODEL"),
        (run(&opened, &[(999, 399), (399, -1)], UNROLLED).map(drop), "399"),
        (opened.save(&dir.join("folder")), "fewstep_model_save_file"),
    ];
    for (found, needle) in refused {
        let error = found.expect_err(needle);
        assert!(error.status == Status::Unsupported && error.message.contains(needle), "{error}");
    }
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

#[test]
fn what_has_no_meaning_with_own_parameters_is_named() -> Result<()> {
    let (o, plain) = (options(), model()?);
    let own = student(super::tests::TINY, &o.pairs)?;
    let made = |student: &Model, teacher: &Model, o: TrainerOptions| {
        Trainer::new(Arc::new(CpuBackend::new(1)?), student, Some(teacher), Some(&dataset()?), o).map(drop)
    };
    let other = TrainerOptions { pairs: trailing_pairs(1000, 4)?, ..o.clone() };
    let term = |objective: Objective| TrainerOptions { terms: vec![objective.term(Weight::V, NormKind::L2)], ..o.clone() };
    let quantised = || {
        let options = quant::Options {
            mode: Mode::W8,
            policy: Policy::default(),
            high: 255,
            ends: Ends::MinMax,
            correct_biases: false,
            samples: 2,
            batch: 2,
            size: [8, 8],
            seed: 0,
        };
        quant::quantize(&CpuBackend::new(1)?, &own, &options, &[], &mut |_, _| true, Stop::NEVER).map(drop)
    };
    let derived = |teacher: &Model, o: StudentOptions| derive(teacher, &StudentOptions { per_step: PerStep::BiasesAndNorms, ..o }, Stop::NEVER).map(drop);
    let on_grid = || StudentOptions { pairs: o.pairs.clone(), ..StudentOptions::default() };
    for (found, needle) in [
        (made(&own, &plain, other), "the trainer's pairs are"),
        (made(&own, &plain, term(Objective::Output)), "a term's point is Data"),
        (made(&own, &plain, term(Objective::Denoise)), "use an objective on the grid's steps"),
        (made(&plain, &own, o.clone()), "train one without per_step_weights"),
        (quantised(), "without per_step_weights"),
        (derived(&plain, StudentOptions::default()), "give the student's pairs or steps"),
        (derived(&own, StudentOptions { weights: Copied::SameShape, ..on_grid() }), "copy_weights is set"),
    ] {
        let error = found.expect_err(needle);
        assert!(error.message.contains(needle), "{error}");
    }
    derived(&own, on_grid())?; // of another architecture's weights nothing is asked
    let dir = scratch("per-step-words");
    own.save_file(&dir.join("good"))?;
    let bytes = std::fs::read(dir.join("good")).expect("a file");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("biases_and_norms"));
    let at = bytes.windows(16).position(|w| w == b"biases_and_norms").expect("the word");
    let bad = [&bytes[..at], b"biases_and_norns", &bytes[at + 16..]].concat();
    let error = Model::from_bytes(&bad).map(drop).expect_err("a word that nobody knows");
    assert!(error.status == Status::CorruptFile && error.message.contains("none or biases_and_norms"), "{error}");
    std::fs::remove_dir_all(dir).expect("clean up");
    let info = StudentInfo { version: 1, pairs: vec![(999, -1)], teacher_substeps: 1, per_step: PerStep::None };
    assert!(!serde_json::to_string(&info).expect("text").contains("per_step"), "what was written before is written now");
    Ok(())
}
