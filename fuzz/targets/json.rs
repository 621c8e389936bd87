//! JSON: the same verdict and the same values as serde_json, which shares no code with it, for what is within our limits.
#![no_main]

use fewstep::io::json;
use fewstep_fuzz::{Cost, check, within};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut ours = None;
    within(&Cost { base: 64 << 10, factor: 128, failing: true }, data, || ours = check(json::parse(text, "fuzz")));
    // Some editors put a byte order mark first, which serde_json does not take.
    match (ours, serde_json::from_str::<Value>(text.strip_prefix('\u{feff}').unwrap_or(text))) {
        (Some(ours), Ok(theirs)) => assert!(ours == theirs, "{ours} is {theirs} for serde_json"),
        // Python's words are ours alone; the largest numbers overflow in its arithmetic.
        (Some(_), Err(e)) => assert!(text.contains("NaN") || text.contains("Infinity") || e.to_string().contains("out of range"), "serde_json: {e}"),
        _ => {}
    }
});
