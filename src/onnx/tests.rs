//! Files as messages: that they are whole, and small. What they compute is seen where runtimes are: tests/interop/compilers.py.

use super::proto::{DataType, GraphProto, ModelProto};
use super::{Kind, Options, Profile, Sampled, to_bytes};
use crate::cancel::Stop;
use crate::diffusion::{Clip, Table, trailing_pairs};
use crate::error::Result;
use crate::io::SchedulerConfig;
use crate::nn::{Model, families};
use prost::Message;
use std::collections::HashSet;

const TINY: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[8,16],
"down_block_types":["DownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","UpBlock2D"],"norm_num_groups":4,"add_attention":false,"num_class_embeds":3}"#;

fn model(config: &str) -> Result<Model> {
    Model::create(families::parse(config, "config.json")?, SchedulerConfig::default(), 1)
}

fn table(model: &Model, steps: usize) -> Result<Table> {
    let schedule = model.scheduler.noise_schedule()?;
    Table::from_pairs(&schedule, model.scheduler.prediction(), &trailing_pairs(schedule.len(), steps)?, 0.0, Clip::None)
}

fn exported(model: &Model, kind: Kind, half: bool) -> Result<GraphProto> {
    let table = table(model, 2)?;
    let sampled = Some(Sampled { table: &table, guidance: None });
    let options = Options { kind, size: model.size()?, sampled, half, profile: Profile::Symmetric, opset: 21, external: false };
    let bytes = to_bytes(model, &options, Stop::NEVER)?;
    let file = ModelProto::decode(&bytes[..]).expect("what was written");
    assert_eq!((file.ir_version, file.opset_import[0].version, file.encoded_len()), (10, 21, bytes.len()));
    Ok(file.graph.expect("a graph"))
}

fn count(graph: &GraphProto, op: &str) -> usize {
    graph.node.iter().filter(|node| node.op_type == op).count()
}

/// Every name is given once, and before it is read; nothing is written that nobody reads.
fn check(graph: &GraphProto) {
    let mut known: HashSet<&str> = HashSet::from([""]);
    let given = graph.input.iter().map(|i| i.name.as_str()).chain(graph.initializer.iter().map(|i| i.name.as_str()));
    given.for_each(|name| assert!(known.insert(name), "'{name}' twice"));
    let mut read = HashSet::new();
    for node in &graph.node {
        node.input.iter().for_each(|name| assert!(known.contains(name.as_str()), "{} reads '{name}' before it is there", node.name));
        read.extend(node.input.iter().map(String::as_str));
        node.output.iter().for_each(|name| assert!(known.insert(name), "'{name}' twice"));
    }
    read.extend(graph.output.iter().map(|o| o.name.as_str()));
    let unread: Vec<_> = known.iter().filter(|name| !name.is_empty() && !read.contains(*name)).collect();
    assert!(unread.is_empty(), "nobody reads {unread:?}");
}

#[test]
fn files_are_whole() -> Result<()> {
    let attention = TINY.replace(r#""add_attention":false"#, r#""attention_head_dim":8"#);
    let scale_shift = TINY.replace(r#""add_attention""#, r#""resnet_time_scale_shift":"scale_shift","add_attention""#);
    let linear = attention.replace(r#"["DownBlock2D","DownBlock2D"]"#, r#"["DownBlock2D","LinearAttnDownBlock2D"]"#);
    for config in [TINY, &attention, &scale_shift, &linear] {
        let model = model(config)?;
        for kind in [Kind::Evaluation, Kind::Step, Kind::Sampler] {
            for half in [false, true] {
                check(&exported(&model, kind, half)?);
            }
        }
    }
    Ok(())
}

/// Without attention nothing is moved between convolutions; parameters have their own names, and their own shapes.
#[test]
fn images_keep_their_channels_first() -> Result<()> {
    let model = model(TINY)?;
    let graph = exported(&model, Kind::Evaluation, false)?;
    assert_eq!((count(&graph, "Transpose"), count(&graph, "Conv")), (0, 25));
    for (name, tensor) in &model.weights {
        let written = graph.initializer.iter().find(|i| i.name == *name).unwrap_or_else(|| panic!("'{name}' is not there"));
        assert_eq!(written.dims.iter().product::<i64>(), tensor.numel() as i64, "{name}");
        assert_eq!((written.data_type, &written.raw_data[..]), (DataType::Float as i32, tensor.bytes()), "{name}");
    }
    Ok(())
}

/// A sampler's file has nothing that depends on timesteps alone: neither their sines nor the layers that they go through.
#[test]
fn a_sampler_computes_what_follows_from_timesteps_beforehand() -> Result<()> {
    let model = model(&TINY.replace(r#","num_class_embeds":3"#, ""))?;
    let [evaluation, sampler] = [exported(&model, Kind::Evaluation, false)?, exported(&model, Kind::Sampler, false)?];
    assert_eq!((count(&evaluation, "Sin"), count(&evaluation, "Gemm")), (1, 2 + 8));
    assert_eq!((count(&sampler, "Sin"), count(&sampler, "Gemm")), (0, 0));
    assert!(sampler.initializer.iter().all(|i| !i.name.starts_with("time_embedding")));
    assert_eq!(count(&sampler, "Conv"), 2 * count(&evaluation, "Conv"));
    assert_eq!(sampler.input.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["noise"]);
    Ok(())
}
