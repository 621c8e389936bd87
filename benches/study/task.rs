//! What students of the study learn.

use super::digits;
use super::rows::Numbers;
use fewstep::cancel::Stop;
use fewstep::distill::Dataset;
use fewstep::distill::student::{StudentOptions, derive};
use fewstep::error::{Error, Result};
use fewstep::io::NpzFile;
use fewstep::nn::Model;
use serde_json::json;
use std::path::Path;

/// A teacher, what it learned from, and the students that are made of it.
pub struct Task {
    pub teacher: Model,
    pub data: Dataset,
    pub classes: usize,
    /// Noises that training never sees.
    pub held_out: usize,
    student: fn(&Model, u64) -> Result<Model>,
}

impl Task {
    /// The demo's: 8x8 digits, students of a sixth of the teacher's parameters.
    pub fn digits() -> Result<Self> {
        Ok(Self { teacher: digits::teacher()?, data: digits::data()?, classes: 10, held_out: 512, student: digits::student })
    }

    /// 32x32 icons in colour, by a teacher that `make icons` has trained, students as it makes them.
    pub fn icons(teacher: &Path) -> Result<Self> {
        const COUNT: usize = 1911;
        let mut file = NpzFile::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples-c/data/emoji32.npz")))?;
        let images = file.array("images")?.into_f32(&[COUNT, 32, 32, 3], |v| v / 127.5 - 1.0)?;
        let data = Dataset::new(images, Some(file.array("labels")?.into_i32(&[COUNT])?))?;
        let teacher = Model::open(teacher)?;
        let classes = teacher.classes().ok_or_else(|| Error::invalid("the teacher of icons has no classes: make icons trains one"))?;
        Ok(Self { teacher, data, classes, held_out: 128, student: small })
    }

    /// How much a student of digits sees, and one of icons, unless the command line says another thing.
    pub const DIGITS: Numbers = Numbers { samples: 49152, noises: 6144 };
    pub const ICONS: Numbers = Numbers { samples: 8192, noises: 512 };

    /// An untrained student.
    pub fn student(&self, seed: u64) -> Result<Model> {
        (self.student)(&self.teacher, seed)
    }
}

/// The student of `examples-c/distill_pictures.c`, untrained.
fn small(teacher: &Model, seed: u64) -> Result<Model> {
    let patch = json!({"block_out_channels": [16, 32, 32], "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "UpBlock2D"], "add_attention": false});
    let options = StudentOptions { config_patch: patch.as_object().cloned().unwrap_or_default(), seed, ..StudentOptions::default() };
    derive(teacher, &options, Stop::NEVER)
}
