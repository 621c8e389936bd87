//! Pictures in another size: cut to the shape of what is wanted, then resampled by the Catmull-Rom spline, which is widened where a picture becomes smaller, so
//! that nothing aliases.
//!
//! The filter is Pillow's BICUBIC (a = -0.5): sharper than a triangle, with less ringing than Lanczos, and the one that "On Aliased Resizing" (Parmar et al.
//! 2022) finds sound. It is a polynomial, so that no mathematical library has a part in the bytes. The `image` crate has the same filter, but rounds to bytes
//! in between and takes memory that cannot be refused; a test compares.

use crate::error::Result;
use crate::memory::{self, try_vec};
use std::ops::Range;

/// How a picture of another shape fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// What is beyond the wanted shape is cut off, as much at either end.
    Crop,
    /// Height and width are scaled by factors of their own.
    Stretch,
}

/// A part of an axis, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Window {
    start: f64,
    length: f64,
}

impl Fit {
    /// What becomes of a picture of [H, W]: the rows and the columns that are looked at.
    fn windows(self, [h, w]: [usize; 2], to: [usize; 2]) -> [Window; 2] {
        let [h, w] = [h as f64, w as f64];
        // As large as the picture allows at the wanted ratio of width to height; products rather than quotients, so that equal shapes are equal.
        let [wide, high] = [h * to[1] as f64, w * to[0] as f64];
        let [rows, columns] = match self {
            Self::Crop if wide < high => [h, wide / to[0] as f64],
            Self::Crop => [high / to[1] as f64, w],
            Self::Stretch => [h, w],
        };
        [(h, rows), (w, columns)].map(|(all, length)| Window { start: (all - length) / 2.0, length })
    }
}

/// For each place of the result: which pixels of an axis it is made of, and their weights, which sum up to 1.
struct Taps {
    ranges: Vec<Range<usize>>,
    weights: Vec<f32>,
}

/// The spline (Keys 1981, a = -0.5); 0 from 2 on.
fn catmull_rom(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

impl Taps {
    fn new(window: Window, axis: usize, to: usize) -> Result<Self> {
        let scale = window.length / to as f64;
        let (stretch, reach) = (scale.max(1.0), 2.0 * scale.max(1.0));
        // What was cut off has no part in it.
        let cover = window.start.floor() as usize..((window.start + window.length).ceil() as usize).clamp(1, axis);
        let mut this = Self { ranges: memory::with_capacity(to, "resampling")?, weights: Vec::new() };
        for i in 0..to {
            let center = window.start + (i as f64 + 0.5) * scale;
            let first = ((center - reach).floor().max(0.0) as usize).clamp(cover.start, cover.end - 1);
            let end = ((center + reach).ceil().max(0.0) as usize).clamp(first + 1, cover.end);
            let weight = |at: usize| catmull_rom((at as f64 + 0.5 - center) / stretch);
            let sum: f64 = (first..end).map(weight).sum();
            memory::extend(&mut this.weights, (first..end).map(|at| (weight(at) / sum) as f32), "resampling")?;
            this.ranges.push(first..end);
        }
        Ok(this)
    }

    /// Each place of the result with its pixels and weights.
    fn iter(&self) -> impl Iterator<Item = (Range<usize>, &[f32])> {
        let mut at = 0;
        self.ranges.iter().map(move |range| {
            at += range.len();
            (range.clone(), &self.weights[at - range.len()..at])
        })
    }

    /// All pixels that have a part in it.
    fn cover(&self) -> Range<usize> {
        let start = self.ranges.iter().map(|r| r.start).min().unwrap_or(0);
        start..self.ranges.iter().map(|r| r.end).max().unwrap_or(start)
    }
}

/// A picture of [H, W] pixels of so many channels, 0 to 255, in another size: `row` writes a row of it, `out` becomes [H, W, CHANNELS] of the new size.
pub fn resample<const CHANNELS: usize>(from: [usize; 2], to: [usize; 2], fit: Fit, row: impl Fn(usize, &mut [f32]), out: &mut [f32]) -> Result<()> {
    let [rows, columns] = fit.windows(from, to);
    let [down, across] = [Taps::new(rows, from[0], to[0])?, Taps::new(columns, from[1], to[1])?];
    let (cover, width) = (down.cover(), to[1] * CHANNELS);
    let mut line = try_vec::<f32>(from[1] * CHANNELS, "a row of a picture")?;
    let mut narrow = try_vec::<f32>(cover.len().saturating_mul(width), "a picture's rows")?;
    for (y, to) in cover.clone().zip(narrow.chunks_exact_mut(width)) {
        row(y, &mut line);
        let pixels = line.as_chunks::<CHANNELS>().0;
        for ((range, weights), to) in across.iter().zip(to.as_chunks_mut::<CHANNELS>().0) {
            for (pixel, weight) in pixels[range].iter().zip(weights) {
                to.iter_mut().zip(pixel).for_each(|(to, v)| *to += v * weight);
            }
        }
    }
    for ((range, weights), to) in down.iter().zip(out.chunks_exact_mut(width)) {
        to.fill(0.0);
        let lines = narrow[(range.start - cover.start) * width..].chunks_exact(width);
        for (line, weight) in lines.zip(weights) {
            to.iter_mut().zip(line).for_each(|(to, v)| *to += v * weight);
        }
        // The spline overshoots at edges.
        to.iter_mut().for_each(|v| *v = v.clamp(0.0, 255.0));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::philox4x32;
    use image::imageops::{FilterType, crop_imm, resize};
    use image::{ImageBuffer, Luma, Rgb, RgbImage};

    fn noise(i: usize) -> u8 {
        philox4x32([i as u32, 0, 0, 0], [3, 0])[0] as u8
    }

    fn resampled<const CHANNELS: usize>(bytes: &[u8], from: [usize; 2], to: [usize; 2], fit: Fit) -> Vec<f32> {
        let width = from[1] * CHANNELS;
        let row = |y: usize, out: &mut [f32]| out.iter_mut().zip(&bytes[y * width..]).for_each(|(to, v)| *to = f32::from(*v));
        let mut out = vec![7.0; to[0] * to[1] * CHANNELS];
        resample::<CHANNELS>(from, to, fit, row, &mut out).unwrap();
        out
    }

    /// Both filters mean the same; the crate rounds to whole numbers.
    #[test]
    fn another_library_gives_the_same() {
        for (from, to) in [([40, 40], [8, 8]), ([37, 61], [16, 20]), ([5, 9], [16, 16]), ([64, 10], [7, 31]), ([1, 1], [3, 2]), ([300, 2], [1, 1])] {
            let bytes: Vec<u8> = (0..from[0] * from[1] * 3).map(noise).collect();
            let ours = resampled::<3>(&bytes, from, to, Fit::Stretch);
            let image: RgbImage = ImageBuffer::from_raw(from[1] as u32, from[0] as u32, bytes.clone()).unwrap();
            let theirs: ImageBuffer<Rgb<u8>, _> = resize(&image, to[1] as u32, to[0] as u32, FilterType::CatmullRom);
            let worst = ours.iter().zip(theirs.as_raw()).map(|(a, b)| (a - f32::from(*b)).abs()).fold(0.0, f32::max);
            assert!(worst < 0.51, "{from:?} to {to:?}: {worst}");
        }
    }

    #[test]
    fn its_own_size_is_the_picture_itself() {
        let bytes: Vec<u8> = (0..7 * 5).map(noise).collect();
        for fit in [Fit::Crop, Fit::Stretch] {
            let ours = resampled::<1>(&bytes, [7, 5], [7, 5], fit);
            assert!(ours.iter().zip(&bytes).all(|(a, b)| *a == f32::from(*b)));
        }
        assert!(resampled::<1>(&[200; 63], [7, 9], [3, 4], Fit::Crop).iter().all(|v| (v - 200.0).abs() < 1e-4));
    }

    /// A crop of whole pixels is a cut, then a resize: what was cut off has no part in it.
    #[test]
    fn a_crop_is_the_middle() {
        for (from, to, [top, left, height, width]) in
            [([20, 60], [10, 10], [0, 20, 20, 20]), ([60, 20], [10, 10], [20, 0, 20, 20]), ([24, 30], [6, 15], [6, 0, 12, 30])]
        {
            let bytes: Vec<u8> = (0..from[0] * from[1]).map(noise).collect();
            let image: ImageBuffer<Luma<u8>, _> = ImageBuffer::from_raw(from[1] as u32, from[0] as u32, bytes.clone()).unwrap();
            let cut = crop_imm(&image, left, top, width, height).to_image();
            let expected = resampled::<1>(cut.as_raw(), [height as usize, width as usize], to, Fit::Stretch);
            let found = resampled::<1>(&bytes, from, to, Fit::Crop);
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3), "{from:?} to {to:?}");
        }
        let third = Fit::Crop.windows([10, 10], [3, 4]);
        assert_eq!(third, [Window { start: 1.25, length: 7.5 }, Window { start: 0.0, length: 10.0 }]);
    }
}
