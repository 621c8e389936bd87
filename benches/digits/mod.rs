//! The digits models that benchmarks share.

use fewstep::Result;
use fewstep::cancel::Stop;
use fewstep::distill::student::{StudentOptions, derive};
use fewstep::nn::Model;
use serde_json::json;
use std::path::Path;

pub fn teacher() -> Result<Model> {
    Model::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples-c/data/digits_teacher")))
}

/// The demo's student, untrained.
pub fn student(teacher: &Model, seed: u64) -> Result<Model> {
    let patch = json!({"block_out_channels": [16, 32], "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"], "add_attention": false});
    let options = StudentOptions { config_patch: patch.as_object().cloned().unwrap_or_default(), seed, ..StudentOptions::default() };
    derive(teacher, &options, Stop::NEVER)
}
