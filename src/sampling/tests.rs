//! A run that loops over one step gives the bytes of one whose steps are written one after the other.

use super::{RunSpec, SamplingRun, draw_conditions};
use crate::backend::cpu::CpuBackend;
use crate::backend::cpu::kernels::bf16::Kernel;
use crate::cancel::Stop;
use crate::error::{Result, Status};
use crate::graph::Op;
use crate::io::SchedulerConfig;
use crate::nn::conditions::Values;
use crate::nn::{Condition, ConditionKind, Model, families};
use crate::random::Purpose;
use crate::tensor::{DType, Tensor};
use std::sync::Arc;
use std::time::Duration;

const TINY: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[8,8],
"down_block_types":["DownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","UpBlock2D"],"norm_num_groups":4,"num_class_embeds":10}"#;

/// Every sampler, with what makes its steps differ from one another: warm-up orders, Runge-Kutta steps, noise in all steps but the last, scaled inputs.
const SCHEDULERS: [&str; 9] = [
    r#"{"_class_name":"DDIMScheduler","clip_sample":true}"#,
    r#"{"_class_name":"DDIMScheduler","thresholding":true,"timestep_spacing":"trailing"}"#,
    r#"{"_class_name":"DPMSolverMultistepScheduler","solver_order":3,"use_karras_sigmas":true}"#,
    r#"{"_class_name":"DPMSolverMultistepScheduler","algorithm_type":"sde-dpmsolver++"}"#,
    r#"{"_class_name":"EulerAncestralDiscreteScheduler"}"#,
    r#"{"_class_name":"DDPMScheduler"}"#,
    r#"{"_class_name":"PNDMScheduler"}"#,
    r#"{"_class_name":"LCMScheduler"}"#,
    r#"{"_class_name":"UniPCMultistepScheduler","solver_order":3}"#,
];

fn run(model: &Model, unrolled: usize) -> Result<SamplingRun> {
    let table = model.scheduler.sampler()?.table(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), 7)?;
    let spec = RunSpec { table: &table, batch: 2, size: [8, 8], purpose: Purpose::Evaluation, precision: DType::F32, guidance: None, unrolled };
    SamplingRun::new(&CpuBackend::new(2)?, model, &spec)
}

#[test]
fn a_loop_gives_the_bytes_of_its_steps_one_after_the_other() -> Result<()> {
    let given = [(ConditionKind::Labels { classes: 10 }, Values::I32(&[3, 4]))];
    for scheduler in SCHEDULERS {
        let model = Model::create(families::parse(TINY, "tiny")?, SchedulerConfig::parse(scheduler, "s")?, 3)?;
        let (mut written, mut looped) = (run(&model, 100)?, run(&model, 0)?);
        assert_eq!(written.steps(), looped.steps());
        assert!(looped.plan().order().len() * 2 < written.plan().order().len(), "{scheduler}: one step's plan");
        let x: Vec<f32> = (0..128).map(|i| (i as f32).sin()).collect();
        for x_t in [None, Some(&x[..])] {
            written.begin(7, &[0, 5], &given, x_t)?;
            looped.begin(7, &[0, 5], &given, x_t)?;
            let mut states = vec![];
            for k in 0..=written.steps() {
                assert_eq!((written.steps_done(), looped.steps_done()), (Some(k), Some(k)), "{scheduler}");
                assert!(*written.read()? == *looped.read()?, "{scheduler}: after {k} steps, x_t given: {}", x_t.is_some());
                states.push(looped.read()?.to_vec());
                if k < written.steps() {
                    assert_eq!(written.advance(Stop::NEVER)?, looped.advance(Stop::NEVER)?);
                }
            }
            assert!(looped.is_done());
            // All at once, and by single operations.
            looped.begin(7, &[0, 5], &given, x_t)?;
            assert!(looped.step(None, true)?);
            assert!(*looped.read()? == states[written.steps()][..], "{scheduler}: in one go");
            looped.begin(7, &[0, 5], &given, x_t)?;
            let mut calls = 0;
            while !looped.step(Some(Duration::ZERO), true)? {
                calls += 1;
            }
            assert!(calls > 7 && *looped.read()? == states[written.steps()][..], "{scheduler}: bit by bit");
        }
    }
    Ok(())
}

/// The plan of a thousand steps is that of one: no larger, and as soon made.
#[test]
fn long_runs_have_small_plans() -> Result<()> {
    let model = Model::create(families::parse(TINY, "tiny")?, SchedulerConfig::default(), 3)?;
    let plan = |steps: usize| -> Result<(usize, usize)> {
        let table = model.scheduler.sampler()?.table(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), steps)?;
        let (size, purpose, unrolled) = ([8, 8], Purpose::Evaluation, super::UNROLLED);
        let run = SamplingRun::new(
            &CpuBackend::new(1)?,
            &model,
            &RunSpec { table: &table, batch: 1, size, purpose, precision: DType::F32, guidance: None, unrolled },
        )?;
        Ok((run.plan().order().len(), run.memory().total()))
    };
    let ([short, bytes], [long, more]) = (plan(17)?.into(), plan(1000)?.into());
    // Beside the plan there are the tables of the steps' numbers: a timestep and two factors each, and when the steps end.
    assert!(short == long && more <= bytes + 1000 * 64, "{short} nodes, {bytes} bytes; {long}, {more}");
    Ok(())
}

/// Planes of a data set of other images than the samples' are refused by name; tokens are of no size.
#[test]
fn rows_of_other_images_are_refused() -> Result<()> {
    let condition = |kind| [Condition { name: "c".into(), kind }];
    let planes = condition(ConditionKind::Planes { channels: 2 });
    let tokens = condition(ConditionKind::Tokens { length: 3, width: 4 });
    let rows = |each: usize| -> Result<_> { Ok([Arc::new(Tensor::from_slice(&[5, each], &vec![0.5f32; 5 * each])?)]) };
    for (conditions, each, size) in [(&planes, 2 * 64, [8, 8]), (&planes, 2 * 32, [4, 8]), (&tokens, 12, [8, 8]), (&tokens, 12, [16, 16])] {
        let drawn = draw_conditions(conditions, &rows(each)?, (7, size), 1, Stop::NEVER)?;
        assert_eq!(drawn[0].shape(), [7, each]);
    }
    for (each, size) in [(2 * 64, [16, 8]), (2 * 64, [8, 4]), (2, [8, 8])] {
        let error = draw_conditions(&planes, &rows(each)?, (7, size), 1, Stop::NEVER).map(drop).expect_err("another size");
        let found = format!("{each} numbers");
        assert!(error.status == Status::Shape && error.message.contains("planes") && error.message.contains(&found), "{error}");
        assert!(error.message.contains(&format!("{size:?}")), "{error}");
    }
    Ok(())
}

/// A student whose blocks fill tiles.
const WIDE: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[32,32],
"down_block_types":["DownBlock2D","AttnDownBlock2D"],"up_block_types":["AttnUpBlock2D","UpBlock2D"],"norm_num_groups":4,"attention_head_dim":8}"#;

/// In bf16 a student's images are near those in f32, and the same bytes for any number of threads. Relative error: some two dozen products, each of factors that
/// are 2^-9 off at most, two times.
#[test]
fn images_in_bf16_are_near_those_in_f32() -> Result<()> {
    let model = Model::create(families::parse(WIDE, "wide")?, SchedulerConfig::parse(SCHEDULERS[0], "s")?, 3)?;
    let table = model.scheduler.sampler()?.table(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), 2)?;
    let images = |backend: &CpuBackend, precision: DType| -> Result<Vec<f32>> {
        let spec = RunSpec { table: &table, batch: 3, size: [8, 8], purpose: Purpose::Evaluation, precision, guidance: None, unrolled: 8 };
        let mut run = SamplingRun::new(backend, &model, &spec)?;
        let convs = |bf16: bool| run.plan().graph().nodes().iter().filter(|n| matches!(&n.op, Op::FusedConv2d(op) if op.bf16 == bf16)).count();
        assert_eq!(convs(true) > convs(false), precision == DType::Bf16, "{}", run.plan().graph());
        run.begin(7, &[0, 5, 2], &[], None)?;
        run.step(None, true)?;
        Ok(run.read()?.to_vec())
    };
    let floats = images(&CpuBackend::new(2)?, DType::F32)?;
    let mut first: Option<Vec<f32>> = None;
    for (kernel, threads) in Kernel::all().flat_map(|kernel| [1, 2, 3].map(|threads| (kernel, threads))) {
        let found = images(&CpuBackend::with_tiles(threads, kernel)?, DType::Bf16)?;
        let sum = |f: &dyn Fn(f64, f64) -> f64| floats.iter().zip(&found).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum::<f64>();
        let error = (sum(&|a, b| (a - b).powi(2)) / sum(&|a, _| a * a)).sqrt();
        assert!(error > 0.0 && error < 1e-2, "{kernel:?}, {threads} threads: {error}");
        assert!(first.as_ref().is_none_or(|first| *first == found), "{kernel:?}, {threads} threads: other bytes");
        first = Some(found);
    }
    Ok(())
}
