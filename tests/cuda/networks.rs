//! Small whole programs: training steps and sampling runs.

use crate::common::{models, stored};
use crate::{gpu, run_table};
use fewstep::Status;
use fewstep::backend::Backend;
use fewstep::backend::cpu::CpuBackend;
use fewstep::cancel::Stop;
use fewstep::diffusion::Weight;
use fewstep::distill::{Dataset, NormKind, Objective, Trainer, TrainerOptions};
use fewstep::io::SchedulerConfig;
use fewstep::nn::{Model, families};
use fewstep::random::Purpose;
use fewstep::sampling::{RunSpec, SamplingRun};
use fewstep::tensor::{DType, Tensor};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

#[test]
fn training_step() {
    run_table(vec![models::training(true).expect("a graph")]);
}

/// Weights that are stored in f16 or bf16, in every precision.
#[test]
fn stored_weights_sample_as_f32() {
    stored::samples_are_those_of_f32(&gpu(), &[(DType::F32, 100), (DType::F16, 0), (DType::Bf16, 0)]).expect("runs");
}

#[test]
fn stored_weights_train_as_f32() {
    stored::training_is_that_of_f32(&(Arc::new(gpu()) as Arc<dyn Backend>), &stored::FILES[2..]).expect("steps");
}

/// Packed weights are those of both samplers. (A plan counts those of products that are merged anew in each step as often.)
#[test]
fn a_second_sampler_of_stored_weights_costs_none() {
    let gpu = gpu();
    let [half, _] = stored::pair(&stored::model(3).expect("a model"), &[DType::F16]).expect("weights");
    let sampler = |batch| stored::run(&gpu, &half, batch, DType::F16, 100).expect("a run");
    let one = sampler(1);
    let packed = gpu.packed_bytes();
    assert!(packed > 0 && packed <= one.memory().shared);
    let two = sampler(2);
    assert_eq!(gpu.packed_bytes(), packed);
    drop((one, two));
    assert_eq!(gpu.packed_bytes(), 0);
}

#[test]
fn sampling_run() {
    run_table(vec![models::sampling(3, true).expect("a graph")]);
}

/// A run that loops over one step gives the bytes of one whose steps are written one after the other: in one go, step by step, operation by operation, and after
/// it was stopped in the middle.
#[test]
fn looped_sampling_run() {
    const CONFIG: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[8,8],
"down_block_types":["DownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","UpBlock2D"],"norm_num_groups":4}"#;
    let scheduler = r#"{"_class_name":"DPMSolverMultistepScheduler","algorithm_type":"sde-dpmsolver++"}"#;
    let network = families::parse(CONFIG, "config").expect("a config");
    let model = Model::create(network, SchedulerConfig::parse(scheduler, "scheduler").expect("a scheduler"), 3).expect("a model");
    let table = model.scheduler.sampler().expect("a sampler").table(&model.scheduler.noise_schedule().expect("betas"), model.scheduler.prediction(), 5);
    let (table, gpu) = (table.expect("a table"), gpu());
    for precision in [DType::F32, DType::F16] {
        let run = |unrolled| {
            let spec = RunSpec { table: &table, batch: 2, size: [8, 8], purpose: Purpose::Evaluation, precision, guidance: None, unrolled };
            let mut run = SamplingRun::new(&gpu, &model, &spec).expect("a run");
            run.begin(7, &[0, 5], &[], None).expect("begun");
            run
        };
        let mut written = run(100);
        assert!(written.step(None, true).expect("a run"));
        let expected = written.read().expect("images").to_vec();
        let [mut whole, mut steps, mut operations, mut stopped] = [0; 4].map(|_| run(0));
        assert!(whole.step(None, true).expect("a run"));
        while !steps.step(None, false).expect("a step") {}
        while !operations.step(Some(Duration::ZERO), true).expect("an operation") {}
        let set = AtomicBool::new(true);
        assert!(stopped.advance(Stop::NEVER).is_ok_and(|done| !done));
        assert_eq!(stopped.advance(Stop::from(&set)).expect_err("stopped").status, Status::Cancelled);
        while !stopped.advance(Stop::NEVER).expect("a step") {}
        for (how, run) in [("whole", whole), ("by steps", steps), ("by operations", operations), ("stopped", stopped)].iter_mut() {
            assert!(*run.read().expect("images") == expected[..], "{how}, {precision:?}");
        }
    }
}

/// Linear attention in the middle and on both ways: losses, gradients and images are the CPU's. Tolerance: two orders of f32 sums, 64 tokens wide; images are
/// three evaluations of it.
#[test]
fn linear_attention_is_the_cpus() {
    const CONFIG: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[16,16],
"down_block_types":["LinearAttnDownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","LinearAttnUpBlock2D"],"mid_block_type":"UNetMidBlock2DLinearAttn",
"attention_head_dim":8,"norm_num_groups":4}"#;
    let model = Model::create(families::parse(CONFIG, "config").expect("a config"), SchedulerConfig::default(), 3).expect("a model");
    let pixels: Vec<f32> = (0..16 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let data = Dataset::new(Tensor::from_slice(&[16, 8, 8, 1], &pixels).expect("a tensor"), None).expect("a dataset");
    let backends: [Arc<dyn Backend>; 2] = [Arc::new(gpu()), Arc::new(CpuBackend::new(1).expect("a CPU"))];
    let near =
        |what: &str, found: f32, expected: f32| assert!((found - expected).abs() <= 2e-4 * expected.abs().max(1.0), "{what}: {found}, expected {expected}");
    let [found, expected] = backends.each_ref().map(|backend| {
        let options = TrainerOptions { batch: 4, terms: vec![Objective::Denoise.term(Weight::Snr, NormKind::L2)], ..TrainerOptions::default() };
        let mut trainer = Trainer::new(backend.clone(), &model, None, Some(&data), options).expect("a trainer");
        [(); 2].map(|()| trainer.step().expect("a step"))
    });
    for (found, expected) in found.iter().zip(&expected) {
        near("loss", found.loss, expected.loss);
        near("gradient", found.grad_norm, expected.grad_norm);
    }
    let table = model.scheduler.sampler().expect("a sampler").table(&model.scheduler.noise_schedule().expect("betas"), model.scheduler.prediction(), 3);
    let table = table.expect("a table");
    let [found, expected] = backends.each_ref().map(|backend| {
        let spec = RunSpec { table: &table, batch: 2, size: [8, 8], purpose: Purpose::Evaluation, precision: DType::F32, guidance: None, unrolled: 100 };
        let mut run = SamplingRun::new(backend.as_ref(), &model, &spec).expect("a run");
        run.begin(7, &[0, 5], &[], None).expect("begun");
        assert!(run.step(None, true).expect("a run"));
        run.read().expect("images").to_vec()
    });
    found.iter().zip(&expected).for_each(|(found, expected)| near("image", *found, *expected));
}
