//! Training checkpoints, through the C function: raw files, and training records alone (inputs that begin with a brace), put into a valid checkpoint.
#![no_main]

use fewstep::io::TensorFile;
use fewstep::io::safetensors;
use fewstep_fuzz::{Cost, trainer::Fixture, within};
use libfuzzer_sys::fuzz_target;
use std::cell::LazyCell;
use std::collections::BTreeMap;

thread_local! {
    static FIXTURE: LazyCell<(Fixture, TensorFile)> = LazyCell::new(|| {
        let fixture = Fixture::new();
        let saved = fixture.save();
        (fixture, TensorFile::from_bytes(&saved, "saved").expect("a checkpoint"))
    });
}

fuzz_target!(|data: &[u8]| {
    FIXTURE.with(|both| {
        let (fixture, saved) = &**both;
        let shell;
        let bytes = match (data.first(), std::str::from_utf8(data)) {
            (Some(b'{'), Ok(text)) => {
                let tensors: Vec<_> = saved.names().map(|name| (name, saved.get(name).expect("a name of its own"))).collect();
                let metadata = BTreeMap::from([("fewstep.training".to_string(), text.to_string())]);
                shell = safetensors::serialize(&tensors, &metadata).expect("a checkpoint");
                &shell
            }
            _ => data,
        };
        fixture.write(bytes);
        within(&Cost { base: 1 << 20, factor: 64, failing: true }, bytes, || {
            let status = fixture.resume();
            assert!((0..15).contains(&status), "status {status}");
        });
    });
});
