//! What a training run refuses to become: states out of range, weights that are not finite, files that cannot be read back.

use super::overflow::Watch;
use super::parameters::{Rule, State};
use super::range::StateRange;
use super::*;
use crate::backend::as_bytes;
use crate::backend::cpu::CpuBackend;
use crate::backend::cpu::kernels::bf16::Kernel;
use crate::cancel::Stop;
use crate::diffusion::{Clip, Prediction, Weight};
use crate::error::{Result, Status};
use crate::graph::Op;
use crate::io::scheduler_config::SchedulerConfig;
use crate::nn::{Model, families};
use crate::tensor::{DType, Tensor};
use half::f16;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const TINY: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[8,8],
"down_block_types":["DownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","UpBlock2D"],"norm_num_groups":4}"#;

pub(super) fn model() -> Result<Model> {
    Model::create(families::parse(TINY, "config.json")?, SchedulerConfig::default(), 1)
}

pub(super) fn options() -> TrainerOptions {
    let term = Objective::TeacherForced.term(Weight::State, NormKind::L2);
    let pairs = vec![(999, 499), (499, -1)];
    TrainerOptions {
        terms: vec![term],
        pairs,
        substeps: 2,
        cache_size: 4,
        cache_batch: 4,
        batch: 2,
        optimizer: Optimizer { warmup_steps: 0, ..Optimizer::default() },
        ..TrainerOptions::default()
    }
}

fn with(optimizer: Optimizer) -> TrainerOptions {
    TrainerOptions { optimizer, ..options() }
}

fn trainer(options: TrainerOptions) -> Result<Trainer> {
    let model = model()?;
    Trainer::new(Arc::new(CpuBackend::new(1)?), &model, Some(&model), None, options)
}

pub(super) fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("fewstep-distill-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("scratch folder");
    dir
}

pub(super) fn bytes_of(trainer: &Trainer) -> Result<Vec<Vec<u8>>> {
    Ok(trainer.states()?.iter().map(|(_, t)| t.bytes().to_vec()).collect())
}

#[test]
fn what_is_not_finite_is_never_written_over_a_good_file() -> Result<()> {
    let dir = scratch("finite");
    for (state, file) in Rule::AdamW.states().iter().copied().zip(["weights", "first", "second", "average"]) {
        let mut trainer = trainer(options())?;
        let path = dir.join(file);
        trainer.save(&path)?;
        let good = std::fs::read(&path).expect("checkpoint");
        let key = trainer.sets[0].key(state, "conv_in.bias");
        let mut values = [0f32; 8];
        values[5] = f32::NAN;
        trainer.exec.write_storage(&key, as_bytes(&values))?;
        let error = trainer.save(&path).unwrap_err();
        assert_eq!(error.status, Status::Numeric, "{error}");
        assert!(error.message.contains(&key) && error.message.contains("element 5"), "{error}");
        assert_eq!(std::fs::read(&path).expect("checkpoint"), good, "{key}");
        let kind = if state == State::Average { WeightsKind::Ema } else { WeightsKind::Raw };
        let refused = trainer.snapshot(kind).err().map(|e| e.status);
        assert_eq!(refused, ["weights", "average"].contains(&file).then_some(Status::Numeric), "{key}");
    }
    let mut bad = model()?;
    let (folder, file) = (dir.join("model"), dir.join("model.safetensors"));
    bad.save(&folder)?;
    bad.save_file(&file)?;
    bad.weights.insert("conv_out.bias".into(), Arc::new(Tensor::from_slice(&[1], &[f32::INFINITY])?));
    for (found, path) in [(bad.save(&folder), &folder), (bad.save_file(&file), &file)] {
        let error = found.unwrap_err();
        assert_eq!(error.status, Status::Numeric, "{error}");
        assert!(error.message.contains("conv_out.bias") && error.message.contains("element 0 is inf"), "{error}");
        assert_eq!(Model::open(path)?.weights["conv_out.bias"].as_slice::<f32>()?, model()?.weights["conv_out.bias"].as_slice::<f32>()?);
    }
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

/// At each learning rate a step either leaves finite weights or takes itself back, and says at which rate.
#[test]
fn an_update_that_is_not_finite_is_taken_back() -> Result<()> {
    for (learning_rate, good) in [(1e-3, true), (1e30, true), (1e38, false), (3e38, false)] {
        let mut trainer = trainer(with(Optimizer { learning_rate, decay: LearningRate::Constant, ..options().optimizer }))?;
        let before = bytes_of(&trainer)?;
        match trainer.step() {
            Ok(_) => assert!(good && bytes_of(&trainer)? != before, "{learning_rate}"),
            Err(error) => {
                assert!(!good, "{error}");
                assert_eq!(error.status, Status::Numeric, "{error}");
                assert!(error.message.contains("step 1: at learning rate") && error.message.contains("those of step 0"), "{error}");
                assert!(bytes_of(&trainer)? == before, "{learning_rate}");
                assert_eq!(trainer.steps_done(), 0);
            }
        }
    }
    Ok(())
}

/// With a first beta that float32 does not show, a weight that divides by the noise of timestep 0 is an error of the trainer, not a NaN some steps on.
#[test]
fn weights_without_a_value_are_named_before_training() -> Result<()> {
    let model = Model { scheduler: SchedulerConfig { beta_start: 1e-9, ..SchedulerConfig::default() }, ..model()? };
    let data = Dataset::new(Tensor::zeros(DType::F32, &[2, 8, 8, 1])?, None)?;
    for (objective, step_weight, good) in [
        (Objective::Denoise, Weight::Const, true),
        (Objective::Denoise, Weight::Snr, false),
        (Objective::Output, Weight::V, false),
        (Objective::Output, Weight::Const, true),
    ] {
        let terms = vec![objective.term(step_weight, NormKind::L2)];
        let teacher = (objective == Objective::Output).then_some(&model);
        let made = Trainer::new(Arc::new(CpuBackend::new(1)?), &model, teacher, Some(&data), TrainerOptions { terms, batch: 2, ..TrainerOptions::default() });
        match made {
            Ok(_) => assert!(good, "{objective:?} {step_weight:?}"),
            Err(e) => assert!(!good && e.message.contains("timestep 0") && e.message.contains(step_weight.name()), "{e}"),
        }
    }
    Ok(())
}

/// Ordinary runs are never looked at, however long; others are, and only where the options cannot rule it out.
#[test]
fn bounds_rule_out_what_cannot_happen() -> Result<()> {
    let ordinary = Optimizer { decay: LearningRate::Constant, ..options().optimizer };
    for (optimizer, steps, bounded) in [
        (ordinary.clone(), 1_000_000, true),
        (Optimizer { learning_rate: 1.0, clip_norm: 1e6, weight_decay: 0.1, ..ordinary.clone() }, 1_000_000, true),
        (Optimizer { clip_norm: f64::INFINITY, ..ordinary.clone() }, 1_000_000, true),
        (Optimizer { learning_rate: 1e38, ..ordinary.clone() }, 0, false),
        // The rate alone, divided by 1 - beta1.
        (Optimizer { learning_rate: 1e38, clip_norm: 1e-30, ..ordinary.clone() }, 0, false),
        (Optimizer { learning_rate: 1.0, eps: 1e-40, ..ordinary }, 0, false),
    ] {
        let rate = optimizer.learning_rate as f32;
        let mut trainer = trainer(with(optimizer))?;
        for step in 0..=steps {
            let Watch::Bounded(bounds) = trainer.watch()? else {
                assert!(!bounded, "step {step} at rate {rate:e} was looked at");
                break;
            };
            assert!(bounded, "step {step} at rate {rate:e} was not looked at");
            trainer.bounds = bounds;
            trainer.steps_done += 1;
        }
    }
    Ok(())
}

/// Every option that a checkpoint records can be resumed with another value but for the student's scheduler.
#[test]
fn recorded_options_have_a_group() -> Result<()> {
    let mut trainer = trainer(TrainerOptions { trajectory_clip: Some(Clip::Range(2.0)), ..options() })?;
    trainer.options.precision = DType::F16; // not on this backend
    let record = trainer.run_record()?;
    assert!(record["trajectory_clip"] == "Range(2.0)" && record["precision"] == "F16" && record["trajectory_precision"] == "F16");
    let fixed: Vec<&String> = record.keys().filter(|key| OptionGroup::of(key).is_none()).collect();
    assert_eq!(fixed, ["scheduler"]);
    let none = self::trainer(TrainerOptions { trajectory_clip: Some(Clip::None), ..options() })?.run_record()?;
    assert!(!none.contains_key("trajectory_clip"), "runs that were saved before there was this option did not clip");
    Ok(())
}

/// What the student's scheduler says about sampling does not matter to a resumed run; its noise schedule and prediction type do.
#[test]
fn schedulers_agree_by_what_training_reads() -> Result<()> {
    let dir = scratch("schedulers");
    let path = dir.join("run");
    trainer(options())?.save(&path)?;
    let own = model()?.scheduler;
    for (scheduler, agrees) in [
        (SchedulerConfig { set_alpha_to_one: !own.set_alpha_to_one, steps_offset: 1, clip_sample: false, ..own.clone() }, true),
        (SchedulerConfig { beta_end: 0.03, ..own.clone() }, false),
        (own.for_student(Prediction::VPrediction)?, false),
    ] {
        let student = Model { scheduler, ..model()? };
        let teacher = Model { scheduler: SchedulerConfig { clip_sample: own.clip_sample, ..student.scheduler.clone() }, ..student.clone() };
        let mut trainer = Trainer::new(Arc::new(CpuBackend::new(1)?), &student, Some(&teacher), None, options())?;
        let found = trainer.resume(&path, 0);
        assert_eq!(found.as_ref().err().map(|e| e.status), (!agrees).then_some(Status::InvalidArgument), "{found:?}");
    }
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

/// What the student's config says beside its architecture, and which version wrote it, does not matter to a resumed run.
#[test]
fn students_agree_by_their_architecture() -> Result<()> {
    let dir = scratch("students");
    let path = dir.join("run");
    trainer(options())?.save(&path)?;
    for (change, status) in [(r#","_name_or_path":"runs/7","my_note":[1]}"#, None), (r#","freq_shift":1}"#, Some(Status::InvalidArgument))] {
        let student = Model { network: families::parse(&TINY.replace('}', change), "config.json")?, ..model()? };
        let mut trainer = Trainer::new(Arc::new(CpuBackend::new(1)?), &student, Some(&student), None, options())?;
        let found = trainer.resume(&path, 0);
        assert_eq!(found.as_ref().err().map(|e| e.status), status, "{found:?}");
    }
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

#[test]
fn states_out_of_range_are_a_warning_and_those_beyond_f16_an_error() -> Result<()> {
    let schedule = SchedulerConfig::default().noise_schedule()?;
    let pairs = [(999, 499), (499, -1)];
    let of = |data: Clip, k: usize, size: f32| -> Result<Option<String>> {
        let mut range = StateRange::new(&schedule, &pairs, Clip::None, data)?;
        let mut stored = [f16::ZERO; 2];
        range.store(0, &mut stored, &[5.9, -6.7], Stop::NEVER)?;
        range.store(k, &mut stored, &[0.0, -size], Stop::NEVER)?;
        assert_eq!(stored[1].to_f32(), -f16::from_f32(size).to_f32());
        Ok(range.warning())
    };
    let (unit, wide, unknown) = (Clip::Range(1.0), Clip::Range(10.0), Clip::None);
    for (data, k, size, warns) in [
        (unit, 2, 3.9, false),
        (unit, 2, 4.1, true),
        (wide, 2, 39.0, false),
        (wide, 2, 41.0, true),
        (unknown, 2, 23.0, false),
        (unknown, 2, 25.0, true),
        (Clip::Dynamic { ratio: 0.9, max: 9.0 }, 2, 4.1, true),
        (unit, 1, 22.0, false), // noise counts there
        (unit, 1, 26.0, true),
        (unit, 1, 8063.0, true),
    ] {
        let warning = of(data, k, size)?;
        assert_eq!(warning.is_some(), warns, "{data:?} {k} {size}: {warning:?}");
        if let Some(text) = warning {
            let at = if k == 1 { "timestep 499" } else { "timestep -1" };
            assert!(text.contains(&format!("{size} after step {k} of")) && text.contains(at) && text.contains("trajectory_clip"), "{text}");
        }
    }
    let error = of(unit, 1, 7e4).unwrap_err();
    assert_eq!(error.status, Status::Numeric, "{error}");
    assert!(error.message.contains("70000 after step 1") && error.message.contains("trajectory_clip"), "{error}");
    Ok(())
}

/// A student whose blocks fill tiles.
const WIDE: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[32,32],
"down_block_types":["DownBlock2D","AttnDownBlock2D"],"up_block_types":["AttnUpBlock2D","UpBlock2D"],"norm_num_groups":4,"attention_head_dim":8}"#;

/// A step in bf16 on a CPU: forward, input gradients and weight gradients on tiles, without a scale of the loss; loss and gradients (AdamW's first moments, a
/// tenth of them) near those of f32, and the same bytes for any number of threads. Tolerances: factors are 2^-9 off at most, in some four dozen products in a
/// row; more where a student that is its teacher learns from what their steps differ by, which is small beside either.
#[test]
fn a_step_in_bf16_is_near_one_in_f32() -> Result<()> {
    let model = Model::create(families::parse(WIDE, "config.json")?, SchedulerConfig::default(), 1)?;
    let images: Vec<f32> = (0..4 * 64).map(|i| (i as f32 * 0.7).sin()).collect();
    let data = Dataset::new(Tensor::from_slice(&[4, 8, 8, 1], &images)?, None)?;
    for (objective, weight, tolerance) in [(Objective::Denoise, Weight::Const, 1e-2), (Objective::TeacherForced, Weight::State, 6e-2)] {
        let needs_teacher = objective == Objective::TeacherForced;
        let step = |backend: CpuBackend, precision: DType| -> Result<(StepReport, Vec<f64>, Vec<Vec<u8>>)> {
            let options = TrainerOptions { precision, terms: vec![objective.term(weight, NormKind::L2)], ..options() };
            let (teacher, data) = (needs_teacher.then_some(&model), (!needs_teacher).then_some(&data));
            let mut trainer = Trainer::new(Arc::new(backend), &model, teacher, data, options)?;
            assert_eq!(trainer.loss_scale(), None);
            let count = |f: &dyn Fn(&Op) -> bool| trainer.exec.plan().graph().nodes().iter().filter(|n| f(&n.op)).count();
            let of_bf16 = [
                count(&|op| matches!(op, Op::FusedConv2d(op) if op.bf16)),
                count(&|op| matches!(op, Op::Conv2dInputGrad(op) if op.bf16)),
                count(&|op| matches!(op, Op::Conv2dWeightGrad(op) if op.bf16)),
            ];
            assert!(of_bf16.iter().all(|count| (*count > 10) == (precision == DType::Bf16)), "{of_bf16:?}");
            let (report, mut moments) = (trainer.step()?, vec![]);
            for (.., key) in trainer.sets[0].states().filter(|(state, ..)| *state == State::FirstMoment) {
                moments.extend(trainer.exec.storage_bytes(&key)?.of::<f32>()?.iter().map(|v| f64::from(*v)));
            }
            Ok((report, moments, bytes_of(&trainer)?))
        };
        let (floats, expected, _) = step(CpuBackend::new(2)?, DType::F32)?;
        let mut first: Option<Vec<Vec<u8>>> = None;
        for (kernel, threads) in Kernel::all().flat_map(|kernel| [1, 2, 3].map(|threads| (kernel, threads))) {
            let (report, found, bytes) = step(CpuBackend::with_tiles(threads, kernel)?, DType::Bf16)?;
            let what = format!("{objective:?} {kernel:?} {threads} threads");
            assert!((report.loss / floats.loss - 1.0).abs() < 1e-2, "{what}: {} and {}", report.loss, floats.loss);
            assert!((report.grad_norm / floats.grad_norm - 1.0).abs() < 2e-2, "{what}: {} and {}", report.grad_norm, floats.grad_norm);
            let sum = |f: &dyn Fn(f64, f64) -> f64| expected.iter().zip(&found).map(|(a, b)| f(*a, *b)).sum::<f64>();
            let error = (sum(&|a, b| (a - b).powi(2)) / sum(&|a, _| a * a)).sqrt();
            assert!(error > 0.0 && error < tolerance, "{what}: {error}");
            assert!(first.as_ref().is_none_or(|first| *first == bytes), "{what}: other bytes");
            first = Some(bytes);
        }
    }
    Ok(())
}
