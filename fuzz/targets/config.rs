//! config.json of a network: what is read is written so that it is read again as the same.
#![no_main]

use fewstep::nn::families;
use fewstep_fuzz::{Cost, check, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut found = None;
    within(&Cost { base: 64 << 10, factor: 128, failing: true }, data, || found = check(families::parse(text, "fuzz")));
    let Some(config) = found else { return };
    let again = families::parse(&config.to_json().expect("a text"), "written").expect("what was written");
    // The warnings name the keys that are kept without a meaning, each with its own file.
    assert_eq!((config.settings(), &config.unknown().other), (again.settings(), &again.unknown().other));
});
