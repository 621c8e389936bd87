//! The digits models that benchmarks share, and the data.
#![allow(dead_code)] // each benchmark uses its own part

use fewstep::Result;
use fewstep::cancel::Stop;
use fewstep::distill::Dataset;
use fewstep::distill::student::{StudentOptions, derive};
use fewstep::io::NpzFile;
use fewstep::nn::Model;
use serde_json::json;
use std::path::Path;

pub fn teacher() -> Result<Model> {
    Model::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples-c/data/digits_teacher")))
}

/// The images and labels that it was trained on.
pub fn data() -> Result<Dataset> {
    let mut file = NpzFile::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples-c/data/digits8.npz")))?;
    let images = file.array("images")?.into_f32(&[1797, 8, 8, 1], |v| v / 8.0 - 1.0)?;
    Dataset::new(images, Some(file.array("labels")?.into_i32(&[1797])?))
}

/// The demo's student, untrained.
pub fn student(teacher: &Model, seed: u64) -> Result<Model> {
    let patch = json!({"block_out_channels": [16, 32], "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"], "add_attention": false});
    let options = StudentOptions { config_patch: patch.as_object().cloned().unwrap_or_default(), seed, ..StudentOptions::default() };
    derive(teacher, &options, Stop::NEVER)
}
