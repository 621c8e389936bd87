//! Recipes: what is read is written so that it is read as the same again.
#![no_main]

use fewstep::recipe::Recipe;
use fewstep_fuzz::{Cost, check, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut found = None;
    within(&Cost { base: 64 << 10, factor: 128, failing: true }, data, || found = check(Recipe::parse(text)));
    let Some(recipe) = found else { return };
    let written = recipe.text().expect("a text");
    assert_eq!(Recipe::parse(&written).expect("what was written").text().expect("a text"), written);
});
