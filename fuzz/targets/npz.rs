//! NumPy arrays: archives (inputs that begin as one), and .npy files, which are stored in an archive with a true checksum.
#![no_main]

use fewstep::io::NpzFile;
use fewstep_fuzz::{Cost, check, files, within};
use libfuzzer_sys::fuzz_target;

/// Deflate's ratio, bytes that become f32.
const COST: Cost = Cost { base: 1 << 20, factor: 4 * 1032, failing: true };

fuzz_target!(|data: &[u8]| {
    let shell;
    let bytes = if data.starts_with(b"PK") {
        data
    } else {
        shell = files::stored("a.npy", data);
        &shell
    };
    within(&COST, bytes, || {
        let Some(mut file) = check(NpzFile::from_bytes(bytes, "fuzz")) else { return };
        assert!(check(file.array("no such array")).is_none());
        for labels in [false, true] {
            let Some(array) = check(file.array("a")) else { return };
            let shape = array.shape().to_vec();
            let found = if labels { array.into_i32(&shape) } else { array.into_f32(&shape, |v| v * 0.5) };
            let Some(tensor) = check(found) else { continue };
            assert_eq!(tensor.bytes().len(), 4 * shape.iter().product::<usize>());
        }
    });
});
