//! Students: which of the teacher's weights they begin with, and how near these leave them to it.

use super::importance::{Groups, choose, choose_whole};
use super::student::{Copied, StudentOptions, derive};
use super::{NormKind, Objective, Trainer, TrainerOptions, WeightsKind};
use crate::backend::cpu::CpuBackend;
use crate::cancel::Stop;
use crate::diffusion::{Weight, trailing_pairs};
use crate::error::Result;
use crate::io::SchedulerConfig;
use crate::nn::conditions::Values;
use crate::nn::families::{parse, patched};
use crate::nn::{ConditionKind, Model};
use crate::random::{Purpose, fill_normal};
use crate::sampling::Evaluator;
use crate::tensor::{DType, Tensor};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

const STOP: Stop = Stop::NEVER;

pub(super) fn digits() -> Result<Model> {
    Model::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples-c/data/digits_teacher")))
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// A student that predicts what its teacher does, so that outputs can be compared.
fn student(teacher: &Model, patch: &Value, weights: Copied) -> Result<Model> {
    let prediction = teacher.scheduler.prediction();
    derive(teacher, &StudentOptions { config_patch: object(patch), weights, prediction, seed: 3, ..StudentOptions::default() }, STOP)
}

/// The first channels of everything: what a slice takes that knows neither groups nor skip connections.
fn sliced(teacher: &Model, patch: &Value) -> Result<Model> {
    let mut model = student(teacher, patch, Copied::Nothing)?;
    let network = model.network.clone();
    for (name, tensor) in &mut model.weights {
        let Some(source) = network.role(name, teacher.network.as_ref()).and_then(|role| teacher.weights.get(&role)) else { continue };
        let (shape, from) = (tensor.shape().to_vec(), source.shape());
        if shape.len() != from.len() || shape.iter().zip(from).any(|(own, theirs)| own > theirs) {
            continue;
        }
        let (inner, columns): (usize, usize) = (shape.iter().skip(2).product(), shape.get(1).copied().unwrap_or(1));
        let theirs = from.get(1).copied().unwrap_or(1);
        let values = source.as_slice::<f32>()?;
        let part: Vec<f32> = (0..shape[0]).flat_map(|row| values[row * theirs * inner..][..columns * inner].to_vec()).collect();
        *tensor = Arc::new(Tensor::from_slice(&shape, &part)?);
    }
    Ok(model)
}

/// What a model predicts of noises at the timesteps of a grid of four steps, with a class of each image.
fn outputs(model: &Model) -> Result<Vec<f32>> {
    const N: usize = 40;
    let mut noise = vec![0f32; N * 64];
    fill_normal(7, Purpose::Evaluation, 0, 0, &mut noise);
    let pairs = trailing_pairs(model.scheduler.num_train_timesteps, 4)?;
    let timesteps: Vec<f32> = (0..N).map(|i| pairs[i % 4].0 as f32).collect();
    let labels: Vec<i32> = (0..N as i32).map(|i| i % 10).collect();
    let classes = model.classes().unwrap_or(0);
    let mut evaluator = Evaluator::new_until(&CpuBackend::new(1)?, model, N, [8, 8], DType::F32, STOP)?;
    let given = [(ConditionKind::Labels { classes }, Values::I32(&labels))];
    Ok(evaluator.run(&noise, &timesteps, &given, STOP)?.to_vec())
}

fn rmse(a: &[f32], b: &[f32]) -> f64 {
    (a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
}

/// The digits' teacher and its students, before any training: RMSE of the predicted noise, whose own deviation is 1. Limits are about 1.2 times what was
/// found: 0.41, 0.40, 0.097, 0.114 and 0.31; random weights have 1.12 to 1.17.
#[test]
fn chosen_channels_are_nearer_to_the_teacher_than_a_slice_or_random_weights() -> Result<()> {
    let teacher = digits()?;
    let exact = outputs(&teacher)?;
    let rows = [
        (json!({"block_out_channels": [24, 48]}), 0.5),
        (json!({"block_out_channels": [16, 32]}), 0.5),
        (json!({"block_out_channels": [32, 48]}), 0.12),
        (json!({"time_embedding_dim": 64}), 0.14),
        (json!({"layers_per_block": 1}), 0.38),
    ];
    for (patch, most) in rows {
        let error = |model: Result<Model>| -> Result<f64> { Ok(rmse(&outputs(&model?)?, &exact)) };
        let chosen = error(student(&teacher, &patch, Copied::Channels))?;
        let others = [sliced(&teacher, &patch), student(&teacher, &patch, Copied::Nothing)].map(error);
        println!("{patch}: {chosen:.3} of the chosen channels, {others:.3?} of the first ones and at random");
        assert!(chosen < most, "{patch}: {chosen}");
        for other in others {
            // With all channels a slice is the same tensors.
            let other = other?;
            assert!(chosen < 0.9 * other || patch.get("layers_per_block").is_some() && chosen <= other, "{patch}: {chosen}, {other}");
        }
    }
    assert_eq!(outputs(&student(&teacher, &json!({}), Copied::Channels)?)?, exact, "the teacher itself");
    Ok(())
}

/// A place along an axis of the wide network: which of the narrow one's it is, and whether it is the first of the two that are.
fn origin(place: usize, unit: usize) -> (usize, bool) {
    (place / (2 * unit) * unit + place % unit, (place / unit).is_multiple_of(2))
}

/// A network with every channel twice, of which nobody reads the second: its parameters from those of `base`. Heads are doubled whole.
fn doubled(base: &Model, config: &str, head: usize) -> Result<Model> {
    let mut wide = Model::create(parse(config, "config.json")?, SchedulerConfig::default(), 1)?;
    for (name, tensor) in &mut wide.weights {
        let source = &base.weights[name];
        let (shape, from) = (tensor.shape().to_vec(), source.shape());
        let at = |axis: usize, place: usize| match (shape.get(axis), from.get(axis)) {
            (Some(own), Some(theirs)) if own != theirs => {
                let heads = if axis == 0 { [".to_q.", ".to_k.", ".to_v."].iter().any(|part| name.contains(part)) } else { name.contains(".to_out.") };
                origin(place, if heads { head } else { 1 })
            }
            _ => (place, true),
        };
        let (inner, columns): (usize, usize) = (shape.iter().skip(2).product(), shape.get(1).copied().unwrap_or(1));
        let theirs = from.get(1).copied().unwrap_or(1);
        let values = source.as_slice::<f32>()?;
        // The columns of a table are what its rows give, not what reads them.
        let table = name == "class_embedding.weight";
        let part = (0..shape[0]).flat_map(|row| (0..columns).map(move |column| (row, column))).flat_map(|(row, column)| {
            let ((row, _), (column, read)) = (at(0, row), at(1, column));
            let part = &values[(row * theirs + column) * inner..][..inner];
            part.iter().map(|v| if read || table { *v } else { 0.0 }).collect::<Vec<_>>()
        });
        *tensor = Arc::new(Tensor::from_slice(&shape, &part.collect::<Vec<_>>())?);
    }
    Ok(wide)
}

/// Choosing finds the channels that matter, the same in every layer, norm, skip connection, sum and embedding, and in each group of every norm: of a network
/// with every channel twice it leaves the network that was doubled, bit for bit.
#[test]
fn the_same_channels_are_kept_everywhere() -> Result<()> {
    let rows = [
        (
            "heads of four channels",
            1,
            r#""attention_head_dim":4,"down_block_types":["DownBlock2D","AttnDownBlock2D"],"up_block_types":["AttnUpBlock2D","UpBlock2D"]"#,
            4,
        ),
        ("one head", 2, r#""attention_head_dim":null,"down_block_types":["AttnDownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","AttnUpBlock2D"]"#, 1),
        (
            "resampling blocks, scales and shifts",
            1,
            r#""attention_head_dim":4,"resnet_time_scale_shift":"scale_shift","downsample_type":"resnet","upsample_type":"resnet",
               "down_block_types":["AttnDownBlock2D","AttnDownBlock2D"],"up_block_types":["AttnUpBlock2D","AttnUpBlock2D"]"#,
            4,
        ),
        (
            "no attention",
            1,
            r#""add_attention":false,"act_fn":"gelu","down_block_types":["DownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","UpBlock2D"]"#,
            1,
        ),
    ];
    for (row, layers, settings, head) in rows {
        let config = |channels: [usize; 2]| {
            format!(
                r#"{{"_class_name":"UNet2DModel","sample_size":8,"in_channels":2,"out_channels":2,"layers_per_block":{layers},"norm_num_groups":4,
                "num_class_embeds":5,"block_out_channels":{channels:?},{settings}}}"#
            )
        };
        let mut base = Model::create(parse(&config([8, 12]), "config.json")?, SchedulerConfig::default(), 2)?;
        // All weights of a layer are of one size, so that nothing but being read makes a channel matter more than another.
        for tensor in base.weights.values_mut().filter(|tensor| tensor.shape().len() > 1) {
            let signs: Vec<f32> = tensor.as_slice::<f32>()?.iter().map(|v| 0.1f32.copysign(*v)).collect();
            *tensor = Arc::new(Tensor::from_slice(tensor.shape(), &signs)?);
        }
        // Half as many sines are others: nothing reads them here.
        let first = base.weights["time_embedding.linear_1.weight"].shape().to_vec();
        base.weights.insert("time_embedding.linear_1.weight".into(), Arc::new(Tensor::zeros(DType::F32, &first)?));
        let wide = doubled(&base, &config([16, 24]), head)?;
        let found = student(&wide, &json!({"block_out_channels": [8, 12]}), Copied::Channels)?;
        assert_eq!(found.weights.len(), base.weights.len());
        for (name, tensor) in &found.weights {
            assert_eq!(tensor.as_slice::<f32>()?, base.weights[name].as_slice::<f32>()?, "{row}: {name}");
        }
    }
    Ok(())
}

#[test]
fn what_matters_most_is_chosen_of_every_group() -> Result<()> {
    let groups = |own: &[usize], of_teacher: &[usize]| Groups { own: own.to_vec(), of_teacher: of_teacher.to_vec() };
    let falling = [9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0];
    let halves = || groups(&[0, 0, 1, 1], &[0, 0, 0, 0, 1, 1, 1, 1]);
    // Another norm over the same channels, behind two others: its groups end elsewhere.
    let shifted = || groups(&[0, 1, 1, 1], &[0, 0, 1, 1, 1, 1, 1, 1]);
    assert_eq!(choose(&falling, 4, &[], STOP)?, [0, 1, 2, 3]);
    assert_eq!(choose(&falling, 4, &[halves()], STOP)?, [0, 1, 6, 7]);
    assert_eq!(choose(&falling, 4, &[halves(), shifted()], STOP)?, [0, 2, 6, 7]);
    assert_eq!(choose_whole(&falling, 4, 2, STOP)?, [0, 1, 2, 3]);
    assert_eq!(choose_whole(&[1.0, 1.0, 0.0, 9.0, 2.0, 2.0], 4, 2, STOP)?, [2, 3, 4, 5]);
    assert!(choose(&falling, 9, &[], STOP).is_err());
    Ok(())
}

/// BK-SDM's rule: the last blocks of a down stage go, the middle ones of an up stage, the innermost stages.
#[test]
fn blocks_take_the_weights_of_their_role() -> Result<()> {
    let teacher = digits()?.network;
    let rows = [
        (json!({"layers_per_block": 1}), "down_blocks.1.resnets.0.conv1.weight", Some("down_blocks.1.resnets.0.conv1.weight")),
        (json!({"layers_per_block": 1}), "up_blocks.0.resnets.0.conv1.weight", Some("up_blocks.0.resnets.0.conv1.weight")),
        (json!({"layers_per_block": 1}), "up_blocks.1.resnets.1.norm1.bias", Some("up_blocks.1.resnets.2.norm1.bias")),
        (json!({"layers_per_block": 1}), "up_blocks.0.attentions.1.to_q.weight", Some("up_blocks.0.attentions.2.to_q.weight")),
        (json!({"layers_per_block": 1}), "up_blocks.0.upsamplers.0.conv.weight", Some("up_blocks.0.upsamplers.0.conv.weight")),
        (json!({"block_out_channels": [32]}), "up_blocks.0.resnets.2.conv1.weight", Some("up_blocks.1.resnets.2.conv1.weight")),
        (json!({"block_out_channels": [32]}), "down_blocks.0.resnets.1.conv1.weight", Some("down_blocks.0.resnets.1.conv1.weight")),
        (json!({"layers_per_block": 3}), "up_blocks.0.resnets.3.conv2.weight", Some("up_blocks.0.resnets.2.conv2.weight")),
        (json!({"layers_per_block": 3}), "up_blocks.0.resnets.2.conv2.weight", None),
        (json!({"add_attention": false}), "mid_block.resnets.1.conv2.weight", Some("mid_block.resnets.1.conv2.weight")),
    ];
    for (patch, name, expected) in rows {
        let student = patched(teacher.as_ref(), &object(&patch))?;
        assert!(student.parameters()?.iter().any(|p| p.name == name), "{name}");
        assert_eq!(student.role(name, teacher.as_ref()).as_deref(), expected, "{patch} {name}");
    }
    Ok(())
}

/// Attention that is linear takes the weights of attention that is not; it is trained, saved and opened as any other. Diffusers' config has no word for it.
#[test]
fn attention_becomes_linear() -> Result<()> {
    let teacher = digits()?;
    let config = teacher.network.settings();
    let linear = |key: &str| config[key].as_array().into_iter().flatten().map(|v| v.as_str().unwrap_or("").replace("Attn", "LinearAttn")).collect::<Vec<_>>();
    let patch = json!({
        "down_block_types": linear("down_block_types"), "up_block_types": linear("up_block_types"), "mid_block_type": "UNetMidBlock2DLinearAttn"
    });
    assert!(patch.to_string().contains("LinearAttnDownBlock2D"), "{patch}");
    let student = student(&teacher, &patch, Copied::SameShape)?;
    assert!(teacher.weights.iter().all(|(name, tensor)| student.weights[name].bytes() == tensor.bytes()), "every weight is the teacher's");
    let (own, theirs, none) = (outputs(&student)?, outputs(&teacher)?, rmse(&outputs(&teacher)?, &vec![0.0; 40 * 64]));
    let away = rmse(&own, &theirs);
    assert!(away > 0.01 * none && away < none, "another function, and not far: {away} of {none}");
    let file = std::env::temp_dir().join(format!("fewstep-linear-{}.safetensors", std::process::id()));
    student.save_file(&file)?;
    let opened = Model::from_bytes(&std::fs::read(&file).expect("the file"))?;
    std::fs::remove_file(&file).expect("clean up");
    assert_eq!(outputs(&opened)?, own);
    let (pairs, terms) = (trailing_pairs(student.scheduler.num_train_timesteps, 2)?, vec![Objective::TeacherForced.term(Weight::State, NormKind::L2)]);
    let options = TrainerOptions { terms, pairs, batch: 4, substeps: 1, cache_size: 8, cache_batch: 8, ..TrainerOptions::default() };
    let mut trainer = Trainer::new(Arc::new(CpuBackend::new(1)?), &student, Some(&teacher), None, options)?;
    trainer.step()?;
    let learned = trainer.snapshot(WeightsKind::Raw)?;
    let attention = student.weights.keys().filter(|name| name.contains("attentions") && name.ends_with("weight"));
    attention.for_each(|name| assert!(learned.weights[name].bytes() != student.weights[name].bytes(), "{name} has not moved"));
    Ok(())
}
