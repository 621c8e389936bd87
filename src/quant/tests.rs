//! A model in whole numbers: near the one that it was made of, the same everywhere, saved, opened and trained as what it is.

use super::quantize::with_numbers;
use super::{Ends, Mode, Options, Policy, Range, quantize};
use crate::backend::Backend;
use crate::backend::cpu::CpuBackend;
use crate::backend::cpu::kernels::bf16;
use crate::backend::cpu::kernels::int8::Set;
use crate::cancel::Stop;
use crate::diffusion::{Table, grid};
use crate::error::{Result, Status};
use crate::graph::ops::{FakeQuantizeGrad, FusedConv2d, PackConv, PackFor};
use crate::graph::passes;
use crate::graph::reference::Array;
use crate::graph::{Graph, Narrowing, Numerics, Op, OpDef, Packed, Target, TensorType, ValueId};
use crate::io::SchedulerConfig;
use crate::nn::conditions::Values;
use crate::nn::{Guidance, InputNumbers, Layer, Model, PerStep, Predictor, StudentInfo, families};
use crate::random::Purpose;
use crate::sampling::{Evaluator, RunSpec, SamplingRun, UNROLLED, draw_conditions};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

pub(super) const TINY: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[8,16],
"down_block_types":["DownBlock2D","AttnDownBlock2D"],"up_block_types":["AttnUpBlock2D","UpBlock2D"],"norm_num_groups":4,"attention_head_dim":8}"#;
pub(super) const PAIRS: [(i64, i64); 2] = [(999, 499), (499, -1)];
/// Of [`TINY`]: 2 resnets down, 2 in the middle, 4 up, of two convolutions each; a downsampler and an upsampler; 4 attentions of 4 linear layers.
const LAYERS: usize = 16 + 2 + 16;

pub(super) fn student() -> Result<Model> {
    student_of(TINY, &PAIRS)
}

fn student_of(config: &str, pairs: &[(i64, i64)]) -> Result<Model> {
    let scheduler = SchedulerConfig::parse(r#"{"_class_name":"DDIMScheduler","prediction_type":"v_prediction"}"#, "s")?;
    let mut model = Model::create(families::parse(config, "config.json")?, scheduler, 1)?;
    model.student = Some(Box::new(StudentInfo { version: StudentInfo::VERSION, pairs: pairs.to_vec(), teacher_substeps: 1, per_step: PerStep::None }));
    Ok(model)
}

pub(super) fn options(high: u8) -> Options {
    Options { mode: Mode::W8A8, policy: Policy::default(), high, ends: Ends::MinMax, correct_biases: false, samples: 16, batch: 8, size: [8, 8], seed: 5 }
}

pub(super) fn quantized(model: &Model, options: &Options) -> Result<Model> {
    quantize(&CpuBackend::new(2)?, model, options, &[], &mut |_, _| true, Stop::NEVER)
}

fn run(backend: &dyn Backend, model: &Model) -> Result<SamplingRun> {
    guided_run(backend, model, &PAIRS, None)
}

fn guided_run(backend: &dyn Backend, model: &Model, pairs: &[(i64, i64)], guidance: Option<Guidance>) -> Result<SamplingRun> {
    let schedule = model.scheduler.noise_schedule()?;
    let table = Table::from_pairs(&schedule, model.scheduler.prediction(), pairs, 0.0, model.scheduler.clip())?;
    let (size, purpose) = ([8, 8], Purpose::Evaluation);
    SamplingRun::new(backend, model, &RunSpec { table: &table, batch: 3, size, purpose, precision: DType::F32, guidance, unrolled: UNROLLED })
}

pub(super) fn samples(backend: &dyn Backend, model: &Model) -> Result<Vec<f32>> {
    let mut run = run(backend, model)?;
    run.begin(11, &[0, 1, 2], &[], None)?;
    run.step(None, true)?;
    Ok(run.read()?.to_vec())
}

/// Root of the mean square of the difference over that of the first.
pub(super) fn error(a: &[f32], b: &[f32]) -> f64 {
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum::<f64>();
    (sum(&|a, b| (a - b).powi(2)) / sum(&|a, _| a * a)).sqrt()
}

#[test]
fn it_is_near_the_model_that_it_was_made_of_and_its_layers_compute_in_whole_numbers() -> Result<()> {
    let (backend, model) = (CpuBackend::new(2)?, student()?);
    let floats = samples(&backend, &model)?;
    for high in [129, 255] {
        let whole = quantized(&model, &options(high))?;
        assert_eq!(whole.quantization.as_ref().expect("numbers").layers.len(), LAYERS);
        let run = run(&backend, &whole)?;
        let count = |f: &dyn Fn(&Op) -> bool| run.plan().graph().nodes().iter().filter(|n| f(&n.op)).count();
        let convs = count(&|op| matches!(op, Op::FusedConv2d(op) if op.quantized.is_some()));
        assert_eq!(convs, LAYERS * PAIRS.len(), "every layer in every step\n{}", run.plan().graph());
        assert_eq!(count(&|op| matches!(op, Op::FakeQuantize(_) | Op::Dequantize(_))), 0);
        // Once for all steps.
        assert_eq!(count(&|op| matches!(op, Op::PackConv(op) if matches!(op.purpose, PackFor::Numbers(_)))), LAYERS);
        assert_eq!(count(&|op| matches!(op, Op::Binary(_))), LAYERS, "factors\n{}", run.plan().graph());
        let found = error(&floats, &samples(&backend, &whole)?);
        // A number is at most half a step from what it stands for, some 1/250 of a layer's range at 130 levels; two dozen such errors in a row, twice.
        assert!(found > 0.0 && found < 0.05, "{high}: {found}");
    }
    Ok(())
}

/// Samplers of bf16 compute in it what stays in float; whole numbers are what they were. Relative error: that of whole numbers above, and of a few shortcuts whose
/// factors are 2^-9 off.
#[test]
fn what_stays_in_float_can_be_bf16() -> Result<()> {
    let model = student_of(&TINY.replace("[8,16]", "[32,64]"), &PAIRS)?;
    let whole = quantized(&model, &options(129))?;
    let floats = samples(&CpuBackend::new(2)?, &model)?;
    let table = Table::from_pairs(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), &PAIRS, 0.0, model.scheduler.clip())?;
    let (size, purpose, precision) = ([8, 8], Purpose::Evaluation, DType::Bf16);
    let spec = RunSpec { table: &table, batch: 3, size, purpose, precision, guidance: None, unrolled: UNROLLED };
    let mut first: Option<Vec<f32>> = None;
    for kernel in bf16::Kernel::all() {
        let mut run = SamplingRun::new(&CpuBackend::with_tiles(2, kernel)?, &whole, &spec)?;
        let count = |f: &dyn Fn(&FusedConv2d) -> bool| run.plan().graph().nodes().iter().filter(|n| matches!(&n.op, Op::FusedConv2d(op) if f(op))).count();
        assert_eq!(count(&|op| op.quantized.is_some()), LAYERS * PAIRS.len());
        assert!(count(&|op| op.bf16) > 0 && count(&|op| op.bf16 && op.quantized.is_some()) == 0, "{}", run.plan().graph());
        run.begin(11, &[0, 1, 2], &[], None)?;
        run.step(None, true)?;
        let found = run.read()?.to_vec();
        assert!(error(&floats, &found) < 0.06, "{kernel:?}: {}", error(&floats, &found));
        assert!(first.as_ref().is_none_or(|first| *first == found), "{kernel:?}: other bits");
        first = Some(found);
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
    let corrected = Options { correct_biases: true, ..options(129) };
    refused(&Model { student: None, ..model.clone() }, &Options { mode: Mode::W8, ..corrected.clone() }, Status::InvalidArgument, "biases are corrected")?;
    refused(&model, &Options { mode: Mode::F16, ..corrected }, Status::InvalidArgument, "shifts nothing")?;
    for (keep, needle) in [("nothing.like.*", "nothing.like.*"), ("*", "nothing to quantise")] {
        refused(&model, &Options { policy: Policy { keep: vec![keep.into()] }, ..options(129) }, Status::InvalidArgument, needle)?;
    }
    Ok(())
}

/// A backend without kernels for bytes, which packs all weights.
struct Floats;

impl Target for Floats {
    fn accepts(&self, _: &Op, _: &[&TensorType]) -> bool {
        false
    }

    fn narrowing(&self, _: DType) -> Result<Narrowing> {
        Ok(Narrowing::Activations)
    }

    fn packed(&self, op: &Op, types: &[&TensorType]) -> Option<Packed> {
        let (.., weight) = PackConv::of(op)?;
        Some(TensorType::f32(&[types[weight].numel()]).into())
    }
}

/// Where weights are computed of their numbers, that is done and they are packed once for all steps.
#[test]
fn steps_share_the_floats_that_numbers_stand_for() -> Result<()> {
    let whole = quantized(&student()?, &options(129))?;
    let mut g = Graph::new();
    let (x, t) = (g.input("x", TensorType::f32(&[2, 8, 8, 1]))?, g.input("t", TensorType::f32(&[2]))?);
    let mut layers = 0;
    for step in 0..3 {
        g.begin_segment(format!("step {step}"));
        let (out, all) = Predictor::new(&whole, "").output_and_met(&mut g, x, t, &[])?;
        g.tap(out);
        layers = all.layers.len();
    }
    let done = passes::run(&g, &Numerics::F32, &Floats, Stop::NEVER, &mut |_, _| Ok(()))?;
    let count = |f: &dyn Fn(&Op) -> bool| done.graph.nodes().iter().filter(|n| f(&n.op)).count();
    assert_eq!((count(&|op| matches!(op, Op::Dequantize(_))), count(&|op| matches!(op, Op::PackConv(_)))), (LAYERS, layers));
    Ok(())
}

/// Labels and guidance, planes from a data set, a variance behind the mean, more steps than are written one after the other.
#[test]
fn students_of_every_kind_are_near_their_floats() -> Result<()> {
    let with = |settings: &str| TINY.replacen(r#""sample_size""#, &format!("{settings},\"sample_size\""), 1);
    let many = grid::trailing_pairs(1000, UNROLLED + 1)?;
    let guidance = Guidance { scale: 2.0, null_label: 9 };
    let planes = [Arc::new(Tensor::from_slice(&[5, 64], &(0..320).map(|i| (i as f32).sin()).collect::<Vec<_>>())?)];
    let one = r#""in_channels":1"#;
    type Row<'a> = (&'a str, String, &'a [(i64, i64)], Option<Guidance>, &'a [Arc<Tensor>]);
    let rows: [Row; 4] = [
        ("guided", with(r#""num_class_embeds":10"#), &PAIRS, Some(guidance), &[]),
        ("planes", TINY.replacen(one, r#""in_channels":2"#, 1), &PAIRS, None, &planes),
        ("a variance", TINY.replacen(r#""out_channels":1"#, r#""out_channels":2"#, 1), &PAIRS, None, &[]),
        ("many steps", TINY.to_owned(), &many, None, &[]),
    ];
    let backend = CpuBackend::new(2)?;
    for (what, config, pairs, guidance, rows) in rows {
        let model = student_of(&config, pairs)?;
        let whole = quantize(&backend, &model, &options(255), rows, &mut |_, _| true, Stop::NEVER)?;
        let conditions = model.roles()?.conditions;
        let drawn = draw_conditions(&conditions, rows, (3, [8, 8]), 2, Stop::NEVER)?;
        let given = conditions.iter().zip(&drawn).map(|(c, rows)| Ok((c.kind, Values::of(rows)?))).collect::<Result<Vec<_>>>()?;
        let [floats, found] = [&model, &whole].map(|model| -> Result<Vec<f32>> {
            let mut run = guided_run(&backend, model, pairs, guidance)?;
            run.begin(11, &[0, 1, 2], &given, None)?;
            run.step(None, true)?;
            Ok(run.read()?.to_vec())
        });
        let found = error(&floats?, &found?);
        // As above; guidance doubles the errors of a prediction and adds those of another.
        assert!(found > 0.0 && found < 0.1, "{what}: {found}");
    }
    Ok(())
}

/// One evaluation is refused off the grid, at any place of a batch, and done on it.
#[test]
fn evaluations_off_the_grid_are_refused() -> Result<()> {
    let whole = quantized(&student()?, &options(129))?;
    let mut evaluator = Evaluator::new_until(&CpuBackend::new(1)?, &whole, 2, [8, 8], DType::F32, Stop::NEVER)?;
    let x = vec![0.5; 128];
    for t in [[999.0, 499.0], [499.0, 499.0]] {
        evaluator.run(&x, &t, &[], Stop::NEVER)?;
    }
    for (t, off) in [([999.0, 498.0], "498"), ([998.5, 499.0], "998.5"), ([-1.0, 999.0], "-1")] {
        let error = evaluator.run(&x, &t, &[], Stop::NEVER).map(|_| ()).expect_err(off);
        assert!(error.status == Status::Unsupported && error.message.contains(off) && error.message.contains("own grid"), "{error}");
    }
    Ok(())
}

/// A gradient reaches every weight, also those that are the ends of their range: training begins with what the numbers stand for.
#[test]
fn weights_at_the_ends_of_their_range_learn() -> Result<()> {
    for mode in [Mode::W8A8, Mode::W4A8] {
        let whole = quantized(&student()?, &Options { mode, ..options(129) })?;
        let wide = whole.widened(Stop::NEVER)?;
        for (path, layer) in &whole.quantization.as_ref().expect("numbers").layers {
            let (weight, scales) = (&wide.weights[&format!("{path}.weight")], &whole.weights[&format!("{path}.weight_scale")]);
            let (weight, scales) = (weight.as_slice::<f32>()?, scales.as_slice::<f32>()?);
            let (rows, codes) = (scales.len(), layer.weights.codes());
            let array = |shape: &[usize], values: Vec<f64>| Array::from_shape_vec(shape, values).expect("a shape");
            let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let x = array(&[rows, weight.len() / rows], wide(weight));
            let (scale, zero, ones) = (array(&[rows], wide(scales)), array(&[rows], vec![0.0; rows]), x.mapv(|_| 1.0));
            let gradient = FakeQuantizeGrad { codes, axis: Some(0), scale_gradient: 1.0 }.reference(&[&x, &scale, &zero, &ones])?;
            assert!(gradient[0].iter().all(|g| *g == 1.0), "{mode:?} {path}");
        }
    }
    Ok(())
}

/// A network that goes through a layer twice has one scale for what both times meet.
#[test]
fn a_layer_that_is_met_twice_has_the_range_of_both() -> Result<()> {
    let layer = "mid_block.resnets.0.conv1";
    let ranges = [Range { min: -1.0, max: 2.0 }, Range { min: -3.0, max: 1.0 }];
    let expected = Range { min: -3.0, max: 2.0 }.numbers(255);
    for ranges in [ranges, [ranges[1], ranges[0]]] {
        let whole = with_numbers(&student()?, ranges.into_iter().map(|range| (layer, Some(range))), &options(255), &PAIRS, Stop::NEVER)?;
        let scale = whole.weights[&format!("{layer}.input_scale")].as_slice::<f32>()?[0];
        assert_eq!((scale, whole.quantization.and_then(|q| q.layers[layer].input)), (expected.0, Some(expected.1)));
    }
    Ok(())
}

/// A run of training is known by the numbers that it computes in, by all of them.
#[test]
fn every_number_is_part_of_the_hash() -> Result<()> {
    let whole = quantized(&student()?, &options(129))?;
    type Change = fn(&mut Model);
    let changes: [Change; 8] = [
        |_| {},
        |m| m.quantization.as_mut().expect("numbers").pairs.truncate(1),
        |m| m.quantization.as_mut().expect("numbers").pairs[1].1 = 3,
        |m| drop(m.quantization.as_mut().expect("numbers").layers.pop_first()),
        |m| first_input(m).low += 1,
        |m| first_input(m).high -= 1,
        |m| first_input(m).zero += 1,
        |m| {
            let scale = m.weights.get_mut("mid_block.resnets.0.conv1.input_scale").expect("a scale");
            *scale = Arc::new(Tensor::from_slice(&[1], &[0.5f32]).expect("a tensor"));
        },
    ];
    let mut known = vec![];
    for change in changes {
        let mut model = whole.clone();
        change(&mut model);
        let hash = model.numbers_hash()?.expect("a hash");
        assert!(!known.contains(&hash), "change {}", known.len());
        known.push(hash);
    }
    assert_eq!(Some(&known[0]), quantized(&student()?, &options(129))?.numbers_hash()?.as_ref());
    assert_eq!(student()?.numbers_hash()?, None);
    Ok(())
}

fn first_input(model: &mut Model) -> &mut InputNumbers {
    let layers = &mut model.quantization.as_mut().expect("numbers").layers;
    layers.values_mut().next().and_then(|layer| layer.input.as_mut()).expect("an input")
}

/// Ranges that leave something out are narrower; each draws the same samples.
#[test]
fn ranges_end_where_that_is_asked_for() -> Result<()> {
    let model = student()?;
    let scales = |ends: Ends| -> Result<Vec<f32>> {
        let whole = quantized(&model, &Options { ends, ..options(129) })?;
        let scales = whole.weights.iter().filter(|(name, _)| name.ends_with(".input_scale"));
        scales.map(|(_, scale)| Ok(scale.as_slice::<f32>()?[0])).collect()
    };
    let all = scales(Ends::MinMax)?;
    assert_eq!(all.len(), LAYERS);
    for (ends, fewer) in [(Ends::Percentile(1.0), 0), (Ends::Percentile(0.99), LAYERS), (Ends::LeastError, LAYERS / 2)] {
        let found = scales(ends)?;
        // All of the numbers, in bins: the ends are those of the range but for the last bits.
        assert!(found.iter().zip(&all).all(|(a, b)| *a <= b * 1.000001), "{ends:?}");
        let narrower = found.iter().zip(&all).filter(|(a, b)| **a < **b * 0.9999).count();
        assert!(narrower >= fewer && (fewer > 0 || narrower == 0), "{ends:?}: {narrower}");
    }
    Ok(())
}

/// Where one layer alone is rounded, its output has the mean that it has in floats, each channel's, on what calibration has met; without correction it has not.
#[test]
fn corrected_biases_give_back_the_shift_of_their_layer() -> Result<()> {
    let (backend, model, layer) = (CpuBackend::new(2)?, student()?, "mid_block.resnets.0.conv2");
    let others = ["down_blocks.*", "up_blocks.*", "mid_block.attentions.*", "mid_block.resnets.1.*", "mid_block.resnets.0.conv1"];
    let policy = Policy { keep: Policy::default().keep.into_iter().chain(others.map(str::to_owned)).collect() };
    let plain = Options { policy, mode: Mode::W4A8, samples: 8, ..options(129) };
    for (correct_biases, least, most) in [(false, 0.01, f64::INFINITY), (true, 0.0, 0.01)] {
        let whole = quantized(&model, &Options { correct_biases, ..plain.clone() })?;
        let evaluator = |model: &Model| -> Result<(Evaluator, ValueId)> {
            let mut output = None;
            let choose = |_: &mut Graph, layers: &[Layer]| {
                output = layers.iter().find(|l| l.path == layer).map(|l| l.output);
                Ok(output.into_iter().collect())
            };
            let evaluator = Evaluator::observing(&backend, model, (8, [8, 8], DType::F32), choose, Stop::NEVER)?;
            Ok((evaluator, output.expect("the layer")))
        };
        let mut both = [evaluator(&model)?, evaluator(&whole)?];
        let mut sums = [vec![0f64; 16], vec![0f64; 16]];
        let table = Table::from_pairs(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), &PAIRS, 0.0, model.scheduler.clip())?;
        let (size, purpose) = ([8, 8], Purpose::Data);
        let spec = RunSpec { table: &table, batch: 8, size, purpose, precision: DType::F32, guidance: None, unrolled: UNROLLED };
        let mut run = SamplingRun::new(&backend, &model, &spec)?;
        run.begin(plain.seed, &[0, 1, 2, 3, 4, 5, 6, 7], &[], None)?;
        run.draw_noise(Stop::NEVER)?;
        for (t, _) in PAIRS {
            let x = run.read()?.to_vec();
            for ((evaluator, output), sum) in both.iter_mut().zip(&mut sums) {
                drop(evaluator.run(&x, &[t as f32; 8], &[], Stop::NEVER)?);
                let values = evaluator.observed(*output)?;
                values.chunks(16).for_each(|pixel| sum.iter_mut().zip(pixel).for_each(|(sum, v)| *sum += f64::from(*v)));
            }
            run.advance(Stop::NEVER)?;
        }
        let [floats, found] = sums;
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let shift = square(&mut floats.iter().zip(&found).map(|(a, b)| a - b)) / square(&mut floats.iter().copied());
        // Corrected, what is left is the rounding of the bias to f16.
        assert!((least..most).contains(&shift), "{correct_biases}: {shift}");
    }
    Ok(())
}
