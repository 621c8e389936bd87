//! Convolutions of whole numbers: that they are such, and the numbers of the CPU.

use crate::common::conv_cases::{EPILOGUES, NUMBERS, ROUNDINGS, SHAPES, quantized, quantized_graph, quantized_norm};
use crate::common::{Case, Noise, load};
use crate::gpu;
use fewstep::Result;
use fewstep::backend::cpu::CpuBackend;
use fewstep::backend::{Backend, Executable};
use fewstep::cancel::Stop;
use fewstep::diffusion::Table;
use fewstep::graph::ops::{FusedConv2d, PackFor};
use fewstep::graph::{Graph, Numerics, Op, ValueId};
use fewstep::io::SchedulerConfig;
use fewstep::nn::{Model, PerStep, StudentInfo, families};
use fewstep::quant::{Ends, Mode, Options, Policy, quantize};
use fewstep::random::Purpose;
use fewstep::sampling::{RunSpec, SamplingRun, UNROLLED};
use fewstep::tensor::DType;

/// The convolutions of whole numbers in a plan.
fn convolutions(graph: &Graph) -> Vec<&FusedConv2d> {
    graph.nodes().iter().filter_map(|node| if let Op::FusedConv2d(op) = &node.op { op.quantized.map(|_| op) } else { None }).collect()
}

/// A case compiled, its numbers loaded, and run.
fn ran(backend: &dyn Backend, case: &Case, numerics: &Numerics) -> Result<Box<dyn Executable>> {
    let mut exe = backend.compile_until(&case.graph, numerics, Stop::NEVER)?;
    load(&mut *exe, &case.graph, &case.given)?;
    exe.run_all()?;
    Ok(exe)
}

fn floats(exe: &dyn Executable, value: ValueId) -> Result<Vec<f32>> {
    Ok(exe.read_bytes(value)?.of::<f32>()?.to_vec())
}

/// From the same floats, without a norm between, all results are the CPU's, bit for bit.
#[test]
fn results_are_those_of_the_cpu() -> Result<()> {
    let (cpu, gpu) = (CpuBackend::new(2)?, gpu());
    let mut cases = quantized();
    assert!(cases.len() > NUMBERS.len() + 2 * SHAPES.len());
    for (i, shape) in SHAPES.iter().enumerate() {
        let epilogue = EPILOGUES[(i + 1) % EPILOGUES.len()];
        let (mut case, y) = quantized_graph(format!("bits {epilogue:?} {shape:?}"), shape, ROUNDINGS[i % 2], false, epilogue);
        case.expect(y, 0.0);
        cases.push(case);
    }
    for case in &cases {
        let [mine, theirs] = [&gpu as &dyn Backend, &cpu].map(|backend| ran(backend, case, &Numerics::F32));
        let (mine, theirs) = (mine?, theirs?);
        let convs = convolutions(mine.plan().graph());
        assert!(convs.len() == 1 && convs[0].packed, "{}:\n{}", case.name, mine.plan().graph());
        let (value, _) = case.expect[0];
        let (mine, theirs) = (floats(&*mine, value)?, floats(&*theirs, value)?);
        let differs = mine.iter().zip(&theirs).position(|(a, b)| a.to_bits() != b.to_bits());
        assert!(differs.is_none() && mine.len() == theirs.len(), "{}: {differs:?}: {:?}", case.name, differs.map(|i| (mine[i], theirs[i])));
    }
    Ok(())
}

/// Root of the mean square of the difference over that of the second.
fn error(a: &[f32], b: &[f32]) -> f64 {
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum::<f64>();
    (sum(&|a, b| (a - b).powi(2)) / sum(&|_, b| b * b)).sqrt()
}

/// Norms between convolutions of whole numbers: the former give moments, the latter round what they normalise, by the CPU's own SiLU. In f32 a norm's last bits
/// may differ, 2^-22 of what 100 levels are: one number in ten thousand may be another by a level, an error of 1e-4 of the results; a wrong scale, shift or tap
/// is one of a tenth and more. In f16 and bf16 the norm's input is rounded to 2^-11 and 2^-8, a twentieth of a level and half of one: of as many numbers each
/// is another.
#[test]
fn norms_are_done_on_the_way() -> Result<()> {
    let (cpu, gpu) = (CpuBackend::new(2)?, gpu());
    for (image, joined, groups, silu) in [
        ([1, 8, 8], &[8][..], 4, true),
        ([3, 4, 8], &[20], 5, false),       // ragged runs, several images
        ([2, 8, 8], &[12, 20], 4, true),    // a group has channels of both
        ([2, 8, 16], &[40, 520], 28, true), // two slabs
        ([6, 16, 16], &[64], 32, true),     // tall tiles
    ] {
        let (case, y) = quantized_norm(image, joined, groups, silu);
        let expected = floats(&*ran(&cpu, &case, &Numerics::F32)?, y)?;
        for (dtype, most) in [(DType::F32, 3e-4), (DType::F16, 6e-3), (DType::Bf16, 1.5e-2)] {
            let exe = ran(&gpu, &case, &Numerics::of(dtype)?)?;
            let convs = convolutions(exe.plan().graph());
            let norms = convs.iter().filter(|op| op.norm.as_ref().is_some_and(|norm| norm.moments > 0)).count();
            let found = (convs.len(), convs.iter().filter(|op| op.moments).count(), norms);
            assert_eq!(found, (joined.len() + 1, joined.len(), 1), "{} in {dtype:?}:\n{}", case.name, exe.plan().graph());
            let error = error(&floats(&*exe, y)?, &expected);
            assert!(error < most, "{} in {dtype:?}: {error:e}", case.name);
        }
    }
    Ok(())
}

const STUDENT: &str = r#"{"_class_name":"UNet2DModel","sample_size":16,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[8,16],
"down_block_types":["DownBlock2D","AttnDownBlock2D"],"up_block_types":["AttnUpBlock2D","UpBlock2D"],"norm_num_groups":4,"attention_head_dim":8}"#;
const PAIRS: [(i64, i64); 2] = [(999, 499), (499, -1)];

/// A student in whole numbers samples here as there: all its layers are such in every step, in every precision, and each one's weights are packed once.
#[test]
fn a_quantised_student_samples_in_whole_numbers() -> Result<()> {
    let (cpu, gpu) = (CpuBackend::new(2)?, gpu());
    let scheduler = SchedulerConfig::parse(r#"{"_class_name":"DDIMScheduler","prediction_type":"v_prediction"}"#, "scheduler")?;
    let mut student = Model::create(families::parse(STUDENT, "config")?, scheduler, 1)?;
    student.student = Some(Box::new(StudentInfo { version: StudentInfo::VERSION, pairs: PAIRS.to_vec(), teacher_substeps: 1, per_step: PerStep::None }));
    let options = Options {
        mode: Mode::W8A8,
        policy: Policy::default(),
        high: 129,
        ends: Ends::MinMax,
        correct_biases: false,
        samples: 4,
        batch: 4,
        size: [16, 16],
        seed: 5,
    };
    let model = quantize(&cpu, &student, &options, &[], &mut |_, _| true, Stop::NEVER)?;
    let layers = model.quantization.as_ref().expect("numbers").layers.len();
    let table = Table::from_pairs(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), &PAIRS, 0.0, model.scheduler.clip())?;
    let noise = Noise(7).floats(2 * 16 * 16);
    let run = |backend: &dyn Backend, model: &Model, precision| -> Result<(SamplingRun, Vec<f32>)> {
        let spec = RunSpec { table: &table, batch: 2, size: [16, 16], purpose: Purpose::Evaluation, precision, guidance: None, unrolled: UNROLLED };
        let mut run = SamplingRun::new(backend, model, &spec)?;
        run.begin(11, &[0, 1], &[], Some(&noise))?;
        run.step(None, true)?;
        let images = run.read()?.to_vec();
        Ok((run, images))
    };
    let (_, in_floats) = run(&cpu, &student, DType::F32)?;
    let (_, expected) = run(&cpu, &model, DType::F32)?;
    let rounding = error(&expected, &in_floats);
    for precision in [DType::F32, DType::F16, DType::Bf16] {
        let (run, images) = run(&gpu, &model, precision)?;
        let graph = run.plan().graph();
        assert_eq!(convolutions(graph).len(), layers * PAIRS.len(), "{precision:?}:\n{graph}");
        let packings = graph.nodes().iter().filter(|node| matches!(&node.op, Op::PackConv(op) if matches!(op.purpose, PackFor::Numbers(_)))).count();
        assert_eq!(packings, layers, "{precision:?}");
        assert!(convolutions(graph).iter().any(|op| op.moments) && convolutions(graph).iter().any(|op| op.norm.is_some()), "{precision:?}:\n{graph}");
        // In f32 next to nothing differs: floats between whole numbers, attention's, in their last bits. Where that moves one number by a level, or halves do
        // many, the others behind it fall otherwise too, which is as much as rounding itself costs: the CPU's own samples of noise that differs by 1e-4 are
        // 0.070 apart, where rounding costs 0.063. Of what is rounded they all are as near.
        let (found, own) = (error(&images, &expected), error(&images, &in_floats));
        assert!(found < 2.0 * rounding && own < 1.25 * rounding, "{precision:?}: {found:e} from the CPU, {own:e} from floats; rounding {rounding:e}");
    }
    Ok(())
}
