//! A model in whole numbers: near the one that it was made of, the same everywhere, saved, opened and trained as what it is.

use super::{Options, Policy, quantize};
use crate::backend::cpu::CpuBackend;
use crate::backend::cpu::kernels::int8::Set;
use crate::backend::{Backend, as_bytes};
use crate::cancel::Stop;
use crate::diffusion::{Table, Weight};
use crate::distill::{NormKind, Objective, Optimizer, Trainer, TrainerOptions, WeightsKind};
use crate::error::{Result, Status};
use crate::graph::{Graph, Op, TensorType};
use crate::io::SchedulerConfig;
use crate::nn::{Model, Scope, StudentInfo, families, scale_after};
use crate::random::Purpose;
use crate::sampling::{RunSpec, SamplingRun, UNROLLED};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

const TINY: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[8,16],
"down_block_types":["DownBlock2D","AttnDownBlock2D"],"up_block_types":["AttnUpBlock2D","UpBlock2D"],"norm_num_groups":4,"attention_head_dim":8}"#;
const PAIRS: [(i64, i64); 2] = [(999, 499), (499, -1)];

fn student() -> Result<Model> {
    let mut model = Model::create(
        families::parse(TINY, "config.json")?,
        SchedulerConfig::parse(r#"{"_class_name":"DDIMScheduler","prediction_type":"v_prediction"}"#, "s")?,
        1,
    )?;
    model.student = Some(StudentInfo { version: StudentInfo::VERSION, pairs: PAIRS.to_vec(), teacher_substeps: 1 });
    Ok(model)
}

fn options(high: u8) -> Options {
    Options { policy: Policy::default(), high, samples: 16, batch: 8, size: [8, 8], seed: 5 }
}

fn quantized(model: &Model, options: &Options) -> Result<Model> {
    quantize(&CpuBackend::new(2)?, model, options, &[], &mut |_, _| true, Stop::NEVER)
}

fn run(backend: &dyn Backend, model: &Model) -> Result<SamplingRun> {
    let schedule = model.scheduler.noise_schedule()?;
    let table = Table::from_pairs(&schedule, model.scheduler.prediction(), &PAIRS, 0.0, model.scheduler.clip())?;
    let (size, purpose) = ([8, 8], Purpose::Evaluation);
    SamplingRun::new(backend, model, &RunSpec { table: &table, batch: 3, size, purpose, precision: DType::F32, guidance: None, unrolled: UNROLLED })
}

fn samples(backend: &dyn Backend, model: &Model) -> Result<Vec<f32>> {
    let mut run = run(backend, model)?;
    run.begin(11, &[0, 1, 2], &[], None)?;
    run.step(None, true)?;
    Ok(run.read()?.to_vec())
}

/// Root of the mean square of the difference over that of the first.
fn error(a: &[f32], b: &[f32]) -> f64 {
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum::<f64>();
    (sum(&|a, b| (a - b).powi(2)) / sum(&|a, _| a * a)).sqrt()
}

#[test]
fn it_is_near_the_model_that_it_was_made_of_and_its_layers_compute_in_whole_numbers() -> Result<()> {
    let (backend, model) = (CpuBackend::new(2)?, student()?);
    let floats = samples(&backend, &model)?;
    for high in [129, 255] {
        let whole = quantized(&model, &options(high))?;
        let layers = whole.quantization.as_ref().expect("numbers").layers.len();
        // 2 resnets down, 2 in the middle, 4 up, of two convolutions each; a downsampler and an upsampler; 4 attentions of 4 linear layers.
        assert_eq!(layers, 16 + 2 + 16);
        let run = run(&backend, &whole)?;
        let convs = run.plan().graph().nodes().iter().filter(|n| matches!(&n.op, Op::FusedConv2d(op) if op.quantized.is_some())).count();
        assert_eq!(convs, layers * PAIRS.len(), "every layer in every step\n{}", run.plan().graph());
        assert!(!run.plan().graph().nodes().iter().any(|n| matches!(n.op, Op::FakeQuantize(_))));
        let found = error(&floats, &samples(&backend, &whole)?);
        // A number is at most half a step from what it stands for, some 1/250 of a layer's range at 130 levels; two dozen such errors in a row, twice.
        assert!(found > 0.0 && found < 0.05, "{high}: {found}");
    }
    Ok(())
}

#[test]
fn samples_are_the_same_for_any_thread_count_and_from_a_file_on_every_set() -> Result<()> {
    let whole = quantized(&student()?, &options(129))?;
    let file = std::env::temp_dir().join(format!("fewstep-quant-{}.safetensors", std::process::id()));
    whole.save_file(&file)?;
    let opened = Model::open(&file)?;
    std::fs::remove_file(&file).expect("a file");
    assert_eq!(opened.quantization, whole.quantization);
    assert!(opened.warnings.is_empty(), "{:?}", opened.warnings);
    for set in Set::all() {
        let expected = samples(&CpuBackend::with_set(1, set)?, &whole)?;
        for threads in [2, 3] {
            assert!(samples(&CpuBackend::with_set(threads, set)?, &whole)? == expected, "{set:?}, {threads} threads");
        }
        assert!(samples(&CpuBackend::with_set(2, set)?, &opened)? == expected, "{set:?}, opened");
    }
    Ok(())
}

/// Scales that learn are what the trained model is sampled with, to the bit; they stay in the last tenth of the run, and a run goes on in its middle.
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

/// A quarter of the bytes, but for what stays in float.
#[test]
fn weights_are_bytes_and_halves_in_memory_and_in_files() -> Result<()> {
    let (model, whole) = (student()?, quantized(&student()?, &options(129))?);
    let bytes = |model: &Model| model.weights.values().map(|t| t.bytes().len()).sum::<usize>();
    assert!(bytes(&whole) * 2 < bytes(&model), "{} of {}", bytes(&whole), bytes(&model));
    for (name, tensor) in &whole.weights {
        let quantization = whole.quantization.as_ref().expect("numbers");
        let expected = match (quantization.layer_of(name), quantization.is_scale(name)) {
            (Some(_), _) => DType::I8,
            (None, true) => DType::F32,
            (None, false) => DType::F16,
        };
        assert_eq!(tensor.dtype(), expected, "{name}");
    }
    // What is widened and narrowed again is the same.
    let again = whole.widened(Stop::NEVER)?.narrowed()?;
    assert!(whole.weights.iter().all(|(name, tensor)| again.weights[name].bytes() == tensor.bytes()));
    Ok(())
}

/// Weights that are floats, rounded in the plan, compute what the stored numbers do: the program that learns is the one that is sampled.
#[test]
fn floats_that_are_rounded_in_the_plan_give_the_same_samples() -> Result<()> {
    let whole = quantized(&student()?, &options(129))?;
    let backend = CpuBackend::new(2)?;
    assert!(samples(&backend, &whole)? == samples(&backend, &whole.widened(Stop::NEVER)?)?);
    Ok(())
}

/// What a file says of numbers is judged before anything is computed with it.
#[test]
fn damaged_numbers_are_refused() -> Result<()> {
    let whole = quantized(&student()?, &options(129))?;
    let file = std::env::temp_dir().join(format!("fewstep-quant-damaged-{}.safetensors", std::process::id()));
    let refused = |model: &Model, status: Status, needle: &str| -> Result<()> {
        model.save_file(&file)?;
        let error = Model::open(&file).map(drop).expect_err(needle);
        assert!(error.status == status && error.message.contains(needle), "{needle}: {error}");
        Ok(())
    };
    for (scale, values) in [("mid_block.resnets.0.conv1.input_scale", vec![0f32]), ("mid_block.resnets.0.conv1.weight_scale", vec![-1f32; 16])] {
        let mut model = whole.clone();
        model.weights.insert(scale.into(), Arc::new(Tensor::from_slice(&[values.len()], &values)?));
        refused(&model, Status::CorruptFile, scale)?;
    }
    let mut model = whole.clone();
    model.weights.remove("mid_block.resnets.0.conv1.weight_scale");
    refused(&model, Status::NotFound, "mid_block.resnets.0.conv1.weight_scale")?;
    let mut model = whole.clone();
    let numbers = model.quantization.as_mut().expect("numbers");
    numbers.layers.insert("no.such.layer".into(), numbers.layers["mid_block.resnets.0.conv1"]);
    refused(&model, Status::NotFound, "no.such.layer")?;
    let mut model = whole;
    let numbers = model.quantization.as_mut().expect("numbers").layers.get_mut("mid_block.resnets.0.conv1").expect("a layer");
    numbers.input = numbers.input.map(|input| crate::nn::InputNumbers { zero: 200, ..input });
    refused(&model, Status::CorruptFile, "zero_point")?;
    std::fs::remove_file(&file).expect("a file");
    Ok(())
}

/// A checkpoint's weights are those of its numbers.
#[test]
fn a_run_is_not_resumed_with_other_numbers() -> Result<()> {
    let trainer = |student: &Model| {
        let terms = vec![Objective::TeacherForced.term(Weight::State, NormKind::L2)];
        let options = TrainerOptions { terms, pairs: PAIRS.to_vec(), substeps: 1, cache_size: 4, cache_batch: 4, batch: 2, ..TrainerOptions::default() };
        Trainer::new(Arc::new(CpuBackend::new(1)?), student, Some(student), None, options)
    };
    let model = student()?;
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

#[test]
fn other_grids_are_refused() -> Result<()> {
    let mut whole = quantized(&student()?, &options(129))?;
    whole.quantization.as_mut().expect("numbers").pairs = vec![(999, -1)];
    let error = run(&CpuBackend::new(1)?, &whole).map(drop).expect_err("another grid");
    assert!(error.status == Status::Unsupported && error.message.contains("[999.0, 499.0]"), "{error}");
    Ok(())
}

#[test]
fn what_cannot_be_quantised_is_said() -> Result<()> {
    let refused = |model: &Model, options: &Options, status: Status, needle: &str| -> Result<()> {
        let error = quantized(model, options).map(drop).expect_err(needle);
        assert!(error.status == status && error.message.contains(needle), "{needle}: {error}");
        Ok(())
    };
    let model = student()?;
    refused(&Model { student: None, ..model.clone() }, &options(129), Status::InvalidArgument, "few-step student")?;
    refused(&quantized(&model, &options(129))?, &options(129), Status::InvalidArgument, "already")?;
    refused(&model, &Options { samples: 0, ..options(129) }, Status::InvalidArgument, "samples")?;
    for (keep, needle) in [("nothing.like.*", "nothing.like.*"), ("*", "nothing to quantise")] {
        refused(&model, &Options { policy: Policy { keep: vec![keep.into()] }, ..options(129) }, Status::InvalidArgument, needle)?;
    }
    Ok(())
}
