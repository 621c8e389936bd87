//! Safetensors files: raw ones, and headers alone (inputs that begin with a brace), which get their length and as many zeros as the next two bytes say.
#![no_main]

use fewstep::io::{TensorFile, safetensors};
use fewstep_fuzz::{Cost, check, files, within};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

/// An entry takes at least 50 bytes of the header; a tensor and its place among them take less than 1,000.
const COST: Cost = Cost { base: 64 << 10, factor: 32, failing: true };

fuzz_target!(|data: &[u8]| {
    let shell;
    let bytes = match data {
        [b'{', .., low, high] => {
            shell = files::safetensors(&data[..data.len() - 2], &vec![0; usize::from(u16::from_le_bytes([*low, *high]) >> 4)]);
            &shell
        }
        _ => data,
    };
    within(&COST, bytes, || {
        let Some(mut file) = check(TensorFile::from_bytes(bytes, "fuzz")) else { return };
        check(file.normalise_names());
    });
    let Ok(file) = TensorFile::from_bytes(bytes, "fuzz") else { return };
    let tensors: Vec<_> = file.names().map(|name| (name, file.get(name).expect("a name of its own"))).collect();
    let metadata: BTreeMap<_, _> = file.metadata().clone();
    let written = safetensors::serialize(&tensors, &metadata).expect("what was read");
    let again = TensorFile::from_bytes(&written, "written").expect("what was written");
    assert_eq!(again.metadata(), &metadata);
    for (name, tensor) in tensors {
        let found = again.get(name).expect("what was written");
        assert!(found.shape() == tensor.shape() && found.dtype() == tensor.dtype() && found.bytes() == tensor.bytes(), "{name}");
    }
});
