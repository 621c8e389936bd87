//! config.json of a U-Net: what is read is written so that it is read again as the same.
#![no_main]

use fewstep::io::UNetConfig;
use fewstep_fuzz::{Cost, check, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut found = None;
    within(&Cost { base: 64 << 10, factor: 128, failing: true }, data, || found = check(UNetConfig::parse(text, "fuzz")));
    let Some(mut config) = found else { return };
    let mut again = UNetConfig::parse(&config.to_json().expect("a text"), "written").expect("what was written");
    // Both name the keys that are kept without a meaning, each with its own file.
    config.warnings.clear();
    again.warnings.clear();
    assert_eq!(config, again);
});
