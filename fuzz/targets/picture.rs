//! Pictures: whatever the bytes are, a picture of the size that was allowed, with numbers in its range, or an error.
#![no_main]

use fewstep::io::Picture;
use fewstep::io::resample::{Fit, resample};
use fewstep_fuzz::{Cost, check, within};
use libfuzzer_sys::fuzz_target;

const PIXELS: u64 = 1 << 14;
/// A picture of one row of as many pixels as a JPEG file can have is the worst. What the decoders ask for cannot be refused, so none is made to fail.
const COST: Cost = Cost { base: 160 << 20, factor: 64, failing: false };

fuzz_target!(|data: &[u8]| {
    within(&COST, data, || {
        let Some(picture) = check(Picture::decode(data.to_vec(), PIXELS)) else { return };
        assert!(picture.width as u64 * picture.height as u64 <= PIXELS);
        let from = [picture.height, picture.width];
        for fit in [Fit::Crop, Fit::Stretch] {
            let (mut grey, mut rgb) = ([f32::NAN; 5 * 7], [f32::NAN; 5 * 7 * 3]);
            check(resample::<1>(from, [5, 7], fit, |y, row| picture.row::<1>(y, row), &mut grey)).expect("memory");
            check(resample::<3>(from, [5, 7], fit, |y, row| picture.row::<3>(y, row), &mut rgb)).expect("memory");
            assert!(grey.iter().chain(&rgb).all(|v| (0.0..=255.0).contains(v)));
        }
    });
});
