//! Training in half precision where its range does not suffice.

use crate::common::accumulation::parts_are_one_batch;
use crate::ffi_common::{TINY, scratch};
use crate::gpu;
use fewstep::backend::Backend;
use fewstep::cancel::Stop;
use fewstep::diffusion::{Clip, Walk, Weight};
use fewstep::distill::cache::{CacheBuilder, CacheSpec};
use fewstep::distill::{Dataset, NormKind, Objective, Optimizer, Trainer, TrainerOptions, WeightsKind};
use fewstep::io::scheduler_config::SchedulerConfig;
use fewstep::nn::{Model, families};
use fewstep::tensor::{DType, Tensor};
use std::sync::Arc;

/// So large that gradients in f16 overflow.
const TOO_LARGE: f32 = (1u64 << 36) as f32;

fn trainer(loss_scale: f32) -> Trainer {
    trainer_in(DType::F16, loss_scale)
}

fn trainer_in(precision: DType, loss_scale: f32) -> Trainer {
    let model = Model::create(families::parse(TINY, "tiny").expect("a config"), SchedulerConfig::default(), 3).expect("a model");
    let [h, w] = model.size().expect("a size");
    let channels = model.roles().expect("roles").channels;
    let pixels: Vec<f32> = (0..16 * h * w * channels).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let labels: Vec<i32> = (0..16).map(|i| i % model.classes().unwrap_or(1) as i32).collect();
    let images = Tensor::from_slice(&[16, h, w, channels], &pixels).expect("a tensor");
    let data = Dataset::new(images, Some(Tensor::from_slice(&[16], &labels).expect("a tensor"))).expect("a dataset");
    let term = Objective::Denoise.term(Weight::Snr, NormKind::L2);
    let options = TrainerOptions {
        batch: 4,
        terms: vec![term],
        optimizer: Optimizer { warmup_steps: 1, ..Optimizer::default() },
        precision,
        loss_scale,
        ..TrainerOptions::default()
    };
    Trainer::new(Arc::new(gpu()), &model, None, Some(&data), options).expect("a trainer")
}

#[test]
fn an_overflow_halves_the_loss_scale_and_loses_no_step() {
    let (mut found, mut expected) = (trainer(TOO_LARGE), trainer(1024.0));
    for step in 1..=3 {
        let (found, expected) = (found.step().expect("a step"), expected.step().expect("a step"));
        assert_eq!((found.step, expected.step), (step, step));
        // Another power of two rounds what is below f16's normal numbers elsewhere.
        assert!((found.loss - expected.loss).abs() <= 1e-2 * expected.loss, "{found:?}, expected {expected:?}");
        assert!((found.grad_norm - expected.grad_norm).abs() <= 1e-2 * expected.grad_norm, "{found:?}, expected {expected:?}");
    }
    let scale = found.loss_scale().expect("f16 has one");
    assert!((1.0..TOO_LARGE).contains(&scale), "{scale}");
    assert_eq!(expected.loss_scale(), Some(1024.0));
    let weights = found.snapshot(WeightsKind::Raw).expect("weights").weights;
    assert!(weights.values().all(|w| w.as_slice::<f32>().expect("floats").iter().all(|v| v.is_finite())));
}

#[test]
fn accumulated_gradients() {
    let backend: Arc<dyn Backend> = Arc::new(gpu());
    parts_are_one_batch(&backend, &[2], (DType::F16, TOO_LARGE), 2e-2).expect("steps");
}

#[test]
fn a_checkpoint_keeps_the_loss_scale() {
    let path = scratch("loss-scale").join("checkpoint.safetensors");
    let mut first = trainer(TOO_LARGE);
    first.step().expect("a step");
    first.save(&path).expect("a file");
    let mut second = trainer(TOO_LARGE);
    second.resume(&path, 0).expect("the file");
    assert_eq!(second.loss_scale(), first.loss_scale());
    assert_eq!(second.step().expect("a step"), first.step().expect("a step"), "resumed bit for bit");
}

/// Either way round; only a run in half precision records it, so that what was saved before there was a choice goes on.
#[test]
fn a_checkpoint_of_another_precision_is_refused() {
    let dir = scratch("other-precision");
    for (from, to, needles) in [(DType::F16, DType::F32, ["precision is F32", "with F16"]), (DType::F32, DType::F16, ["precision is F16", "with F32"])] {
        let path = dir.join(format!("{from:?}.safetensors"));
        trainer_in(from, 1024.0).save(&path).expect("a file");
        let bytes = std::fs::read(&path).expect("the file");
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.contains("loss_scale"), from == DType::F16);
        let error = trainer_in(to, 1024.0).resume(&path, 0).expect_err("another precision");
        assert!(needles.iter().all(|n| error.message.contains(n)), "{error}");
    }
}

/// Trajectories are computed in the trainer's precision, and a checkpoint says so where that is not f32.
#[test]
fn the_cache_computes_in_the_trainers_precision() {
    let model = Model::create(families::parse(TINY, "tiny").expect("a config"), SchedulerConfig::default(), 3).expect("a model");
    let (backend, pairs) = (gpu(), vec![(999, 499), (499, -1)]);
    let cache = |precision| {
        let spec = CacheSpec {
            schedule: model.scheduler.noise_schedule().expect("a schedule"),
            prediction: model.scheduler.prediction(),
            pairs: pairs.clone(),
            walk: Walk { order: 1, substeps: 2, clip: Clip::Range(1.0) },
            count: 4,
            size: model.size().expect("a size"),
            batch: 4,
            precision,
            guidance: None,
            rows: vec![],
        };
        let mut builder = CacheBuilder::new(&backend, &model, spec, Stop::NEVER).expect("a teacher's run");
        builder.begin(1, Stop::NEVER).expect("a cache");
        let cache = builder.finish(&mut |_, _| true, Stop::NEVER).expect("a cache");
        cache.states.to_f32_vec().expect("floats")
    };
    let (single, half) = (cache(DType::F32), cache(DType::F16));
    let off = single.iter().zip(&half).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    // Data is within 1, and two steps' predictions are off by a few roundings of f16.
    assert!(off > 0.0 && off < 5e-2, "{off}");
    let dir = scratch("cache-precision");
    for precision in [DType::F32, DType::F16] {
        let terms = vec![Objective::TeacherForced.term(Weight::State, NormKind::L2)];
        let options = TrainerOptions { terms, pairs: pairs.clone(), substeps: 2, cache_size: 4, batch: 2, precision, ..TrainerOptions::default() };
        let mut trainer = Trainer::new(Arc::new(gpu()), &model, Some(&model), None, options).expect("a trainer");
        assert!(trainer.step().expect("a step").loss.is_finite());
        let path = dir.join(format!("{precision:?}"));
        trainer.save(&path).expect("a file");
        let text = std::fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).expect("the file");
        assert_eq!(text.contains("trajectory_precision"), precision == DType::F16);
    }
}
