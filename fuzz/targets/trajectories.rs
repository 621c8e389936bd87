//! Files of trajectories: raw ones, and records alone (inputs that begin with a brace), put into a file that is valid otherwise.
#![no_main]

use fewstep::distill::TrajectorySet;
use fewstep::nn::Model;
use fewstep_fuzz::{Cost, check, files, within};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static MODEL: LazyLock<Model> = LazyLock::new(files::model);

fuzz_target!(|data: &[u8]| {
    let shell = std::str::from_utf8(data).ok().filter(|text| text.starts_with('{')).and_then(files::trajectories);
    let bytes = shell.as_deref().unwrap_or(data);
    within(&Cost { base: 256 << 10, factor: 128, failing: true }, bytes, || {
        if let Some(set) = check(TrajectorySet::from_bytes(bytes, &MODEL)) {
            assert!(set.cache.count > 0 && set.cache.states.shape()[0] == set.cache.count * (set.pairs.len() + 1));
            set.hash();
        }
    });
});
