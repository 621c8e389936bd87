//! A whole model in one file: raw, or a config.json alone (inputs that begin with a brace), which gets the weights of the corpus's model.
#![no_main]

use fewstep::nn::Model;
use fewstep_fuzz::{Cost, check, files, within};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static MODEL: LazyLock<Model> = LazyLock::new(files::model);

fuzz_target!(|data: &[u8]| {
    let shell;
    let bytes = match (data.first(), std::str::from_utf8(data)) {
        (Some(b'{'), Ok(text)) => {
            let Some(file) = files::model_file(&MODEL, text, files::SCHEDULER, files::STUDENT) else { return };
            shell = file;
            &shell
        }
        _ => data,
    };
    // The architecture's list of parameters is a config's affair, up to 64 layers in 16 blocks; it is made before the weights are looked for.
    within(&Cost { base: 4 << 20, factor: 64, failing: true }, bytes, || drop(check(Model::from_bytes(bytes))));
});
