//! Small valid files: the beginnings of the corpus, and the shells that targets put their inputs into.

use fewstep::io::{SchedulerConfig, safetensors};
use fewstep::nn::{InputNumbers, LayerNumbers, Model, Quantization, WeightNumbers, families};
use fewstep::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The smallest U-Net: 2 channels, one block, no attention.
pub const CONFIG: &str = r#"{"_class_name":"UNet2DModel","sample_size":4,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[2],
"down_block_types":["DownBlock2D"],"up_block_types":["UpBlock2D"],"norm_num_groups":1,"add_attention":false,"time_embedding_dim":4,"num_class_embeds":3}"#;

/// Its scheduler.
pub const SCHEDULER: &str = r#"{"_class_name":"DDIMScheduler","num_train_timesteps":1000,"beta_start":0.0001,"beta_end":0.02,"beta_schedule":"linear"}"#;

/// What a distilled student says of itself.
pub const STUDENT: &str = r#"{"version":1,"pairs":[[999,499],[499,-1]],"teacher_substeps":10}"#;

/// A model of [`CONFIG`] with random weights.
pub fn model() -> Model {
    let config = families::parse(CONFIG, "config").expect("the corpus's config");
    let scheduler = SchedulerConfig::parse(SCHEDULER, "scheduler").expect("the corpus's scheduler");
    Model::create(config, scheduler, 7).expect("the corpus's model")
}

/// A whole model file whose metadata has these texts.
pub fn model_file(model: &Model, config: &str, scheduler: &str, student: &str) -> Option<Vec<u8>> {
    let texts = [("fewstep.model", "1"), ("config.json", config), ("scheduler_config.json", scheduler), ("fewstep.json", student)];
    with_metadata(model, &texts)
}

/// What a student says of itself one of whose layers computes in whole numbers.
pub const NUMBERS: &str = r#"{"version":1,"pairs":[[999,499],[499,-1]],"teacher_substeps":10,"quantization":{"version":1,"pairs":[[999,499],[499,-1]],
"layers":{"mid_block.resnets.0.conv1":{"input":{"low":0,"high":129,"zero_point":7}}}}}"#;

/// A whole file of the model of such a student, with this record of it.
pub fn quantized_file(record: &str) -> Option<Vec<u8>> {
    let layer = "mid_block.resnets.0.conv1";
    let input = Some(InputNumbers { low: 0, high: 129, zero: 7 });
    let mut model = model();
    for (name, scales) in [("input_scale", &[0.03f32][..]), ("weight_scale", &[0.004, 0.005])] {
        model.weights.insert(format!("{layer}.{name}"), Arc::new(Tensor::from_slice(&[scales.len()], scales).ok()?));
    }
    model.quantization = Some(Quantization {
        layers: BTreeMap::from([(layer.into(), LayerNumbers { input, weights: WeightNumbers::BYTES })]),
        pairs: vec![(999, 499), (499, -1)],
        provenance: None,
    });
    let texts = [("fewstep.model", "2"), ("config.json", CONFIG), ("scheduler_config.json", SCHEDULER), ("fewstep.json", record)];
    with_metadata(&model.narrowed().ok()?, &texts)
}

/// What two trajectories of two steps say of themselves.
pub const TRAJECTORIES: &str = r#"{"version":1,"pairs":[[999,499],[499,-1]],"substeps":2,"conditions":["labels"],
"scheduler":"{\"_class_name\":\"DDIMScheduler\"}"}"#;

/// A file of them whose record is this text.
pub fn trajectories(record: &str) -> Option<Vec<u8>> {
    let states = Tensor::from_slice(&[6, 4, 4, 1], &[half::f16::from_f32(0.5); 96]).ok()?;
    let labels = Tensor::from_slice(&[2], &[0i32, 2]).ok()?;
    let metadata = BTreeMap::from([("fewstep.trajectories".to_string(), record.to_string())]);
    safetensors::serialize(&[("states", &states), ("condition.labels", &labels)], &metadata).ok()
}

fn with_metadata(model: &Model, texts: &[(&str, &str)]) -> Option<Vec<u8>> {
    let tensors: Vec<(&str, &Tensor)> = model.weights.iter().map(|(name, tensor)| (name.as_str(), tensor.as_ref())).collect();
    let metadata: BTreeMap<String, String> = texts.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    safetensors::serialize(&tensors, &metadata).ok()
}

/// A safetensors file of this header and what follows it.
pub fn safetensors(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// An `.npy` file.
pub fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A zip archive of one stored entry with a true checksum.
pub fn stored(name: &str, bytes: &[u8]) -> Vec<u8> {
    let (crc, size) = (crc32fast::hash(bytes).to_le_bytes(), (bytes.len() as u32).to_le_bytes());
    let name_len = (name.len() as u16).to_le_bytes();
    let local = [b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0", &crc[..], &size, &size, &name_len, &[0, 0], name.as_bytes()].concat();
    let central = [b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0", &crc[..], &size, &size, &name_len, &[0; 12], &[0; 4], name.as_bytes()].concat();
    let at = ((local.len() + bytes.len()) as u32).to_le_bytes();
    let end = [b"PK\x05\x06\0\0\0\0\x01\0\x01\0", &(central.len() as u32).to_le_bytes()[..], &at, &[0, 0]].concat();
    [&local[..], bytes, &central, &end].concat()
}
