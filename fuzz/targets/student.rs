//! fewstep.json, inside a model file that is valid otherwise.
#![no_main]

use fewstep::nn::Model;
use fewstep_fuzz::{Cost, check, files, within};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static MODEL: LazyLock<Model> = LazyLock::new(files::model);

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(bytes) = files::model_file(&MODEL, files::CONFIG, files::SCHEDULER, text) else { return };
    within(&Cost { base: 256 << 10, factor: 128, failing: true }, &bytes, || {
        if let Some(model) = check(Model::from_bytes(&bytes)) {
            assert!(!model.student.expect("a student").pairs.is_empty());
        }
    });
});
