//! scheduler_config.json: what is read is written so that it is read again, and written the same.
#![no_main]

use fewstep::io::SchedulerConfig;
use fewstep_fuzz::{Cost, check, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut found = None;
    within(&Cost { base: 64 << 10, factor: 128, failing: true }, data, || found = check(SchedulerConfig::parse(text, "fuzz")));
    let Some(config) = found else { return };
    let written = config.to_json().expect("a text");
    assert_eq!(SchedulerConfig::parse(&written, "written").expect("what was written").to_json().expect("a text"), written);
});
