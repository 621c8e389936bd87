//! Pictures from outside, decoded by the `image` crate within bounds: sizes are judged by our own look at the file, the pixels lie in memory that may be
//! refused, and what the decoders want beside them is held beforehand (`standby.rs`), for they cannot be refused any.

use super::picture_header::{Format, Header};
use crate::error::{Error, Result};
use crate::memory;
use crate::process::thread::Worker;
use crate::standby::with_room;
use crate::tensor::Buffer;
use image::codecs::{jpeg::JpegDecoder, png::PngDecoder};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError};
use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

/// A decoded picture, upright: as its EXIF orientation, where it has one, says that it is to be seen.
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    samples: Samples,
    pixels: Buffer,
}

/// What a pixel is made of.
#[derive(Clone, Copy)]
struct Samples {
    /// Grey, grey and alpha, RGB, RGBA.
    channels: usize,
    /// 16 bits instead of 8.
    deep: bool,
}

impl Samples {
    fn of(color: ColorType) -> Option<Self> {
        let (channels, deep) = match color {
            ColorType::L8 => (1, false),
            ColorType::La8 => (2, false),
            ColorType::Rgb8 => (3, false),
            ColorType::Rgba8 => (4, false),
            ColorType::L16 => (1, true),
            ColorType::La16 => (2, true),
            ColorType::Rgb16 => (3, true),
            ColorType::Rgba16 => (4, true),
            _ => return None,
        };
        Some(Self { channels, deep })
    }

    /// Bytes of a pixel.
    fn size(self) -> usize {
        self.channels << usize::from(self.deep)
    }

    /// The samples of a pixel, 0 to 255.
    fn read(self, pixel: &[u8]) -> [f32; 4] {
        let sample = |i: usize| match self.deep {
            // 65535 is 255.
            true => f32::from(u16::from_ne_bytes([pixel[2 * i], pixel[2 * i + 1]])) / 257.0,
            false => f32::from(pixel[i]),
        };
        let mut all = [0.0; 4];
        all.iter_mut().take(self.channels).enumerate().for_each(|(i, to)| *to = sample(i));
        all
    }
}

/// So much of a decoder's sentence is shown.
const SHOWN: usize = 200;
/// Bytes that a thread's thread-local data may take, and more.
const SPARE: usize = 256 << 10;
/// The weights of red, green and blue in grey (Rec. 601), as JPEG and Pillow have them.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

impl Picture {
    /// Decodes a PNG or JPEG file of at most so many pixels. A damaged or unknown file is an error; so is a panic of a decoder.
    pub fn decode(file: Vec<u8>, max_pixels: u64) -> Result<Self> {
        let header = Header::read(&file)?;
        if header.pixels() > max_pixels {
            let Header { width, height, .. } = header;
            return Err(Error::unsupported(format!("{width} x {height} pixels; at most {max_pixels} are allowed (max_pixels)")));
        }
        let raw = match header.format {
            Format::Png => guarded(&file, header),
            Format::Jpeg => on_another_stack(move || guarded(&file, header)),
        };
        raw?.upright()
    }

    /// A row as grey (1 channel) or RGB (3), 0 to 255; what is transparent lies on white, as in pictures that this library draws.
    pub fn row<const CHANNELS: usize>(&self, y: usize, out: &mut [f32]) {
        let row = self.width * self.samples.size();
        let pixels = self.pixels.bytes()[y * row..][..row].chunks_exact(self.samples.size());
        for (pixel, to) in pixels.zip(out.as_chunks_mut::<CHANNELS>().0) {
            let color = self.color(pixel);
            *to = std::array::from_fn(|i| if CHANNELS == 1 { grey(color) } else { color[i] });
        }
    }

    fn color(&self, pixel: &[u8]) -> [f32; 3] {
        let on_white = |[r, g, b]: [f32; 3], alpha: f32| [r, g, b].map(|v| 255.0 + (v - 255.0) * (alpha / 255.0));
        let [a, b, c, d] = self.samples.read(pixel);
        match self.samples.channels {
            1 => [a; 3],
            2 => on_white([a; 3], b),
            3 => [a, b, c],
            _ => on_white([a, b, c], d),
        }
    }
}

fn grey([r, g, b]: [f32; 3]) -> f32 {
    // Grey stays what it is, to the bit.
    if r == g && g == b { r } else { LUMA[0] * r + LUMA[1] * g + LUMA[2] * b }
}

/// A picture as the file has it, and how it is to be turned.
struct Raw {
    picture: Picture,
    orientation: Orientation,
}

/// Decodes with as much memory as it may take, and lets no panic through.
fn guarded(file: &[u8], header: Header) -> Result<Raw> {
    let room = usize::try_from(header.room).unwrap_or(usize::MAX);
    with_room(room, "a picture's decoder", || catch_unwind(AssertUnwindSafe(|| decode(file, header))).unwrap_or_else(|_| Err(panicked())))?
}

/// Runs `work`, which does not panic, on a thread of its own: the JPEG decoder has its tables on the stack, 50 KiB, which a caller's need not have.
fn on_another_stack<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = Arc::new(Mutex::new(None));
    let to = Arc::clone(&done);
    // Given back as the thread begins: the C library ends the process where it finds no memory for a thread's thread-local data.
    let spare = memory::with_capacity::<u8>(SPARE, "a picture's thread")?;
    let worker = Worker::start("fewstep-jpeg".to_string(), move |_| {
        drop(spare);
        *to.lock().unwrap_or_else(PoisonError::into_inner) = Some(work());
    })?;
    worker.join();
    let found = done.lock().unwrap_or_else(PoisonError::into_inner).take();
    found.unwrap_or_else(|| Err(Error::internal("a picture's thread left nothing")))
}

fn decode(file: &[u8], header: Header) -> Result<Raw> {
    let mut limits = image::Limits::no_limits();
    (limits.max_image_width, limits.max_image_height) = (Some(header.width), Some(header.height));
    match header.format {
        Format::Png => decode_png(file, header, limits),
        Format::Jpeg => decode_jpeg(file, header, limits),
    }
}

// Not inlined, neither this nor the other: in one frame the caller's stack would have the JPEG decoder's tables for a PNG file too.
#[inline(never)]
fn decode_png(file: &[u8], header: Header, mut limits: image::Limits) -> Result<Raw> {
    limits.max_alloc = Some(header.metadata + 16 * u64::from(header.width));
    read(PngDecoder::with_limits(Cursor::new(file), limits).map_err(failed)?, header)
}

#[inline(never)]
fn decode_jpeg(file: &[u8], header: Header, limits: image::Limits) -> Result<Raw> {
    let mut decoder = JpegDecoder::new(Cursor::new(file)).map_err(failed)?;
    decoder.set_limits(limits).map_err(failed)?;
    read(decoder, header)
}

fn read(mut decoder: impl ImageDecoder, header: Header) -> Result<Raw> {
    if decoder.dimensions() != (header.width, header.height) {
        return Err(Error::corrupt(format!("a file of two sizes: {} x {} and {:?}", header.width, header.height, decoder.dimensions())));
    }
    let color = decoder.color_type();
    let samples = Samples::of(color).ok_or_else(|| Error::unsupported(format!("pixels of type {color:?}")))?;
    // Metadata that cannot be read is no reason to lose the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut pixels = room_for([header.width as usize, header.height as usize], samples)?;
    decoder.read_image(pixels.bytes_mut()).map_err(failed)?;
    Ok(Raw { picture: Picture { width: header.width as usize, height: header.height as usize, samples, pixels }, orientation })
}

fn room_for([width, height]: [usize; 2], samples: Samples) -> Result<Buffer> {
    let bytes = [height, samples.size()].iter().try_fold(width, |n, factor| n.checked_mul(*factor));
    Buffer::zeroed(bytes.ok_or_else(|| Error::out_of_memory(format!("a picture of {width} x {height} pixels is more than memory can hold")))?, "a picture")
}

impl Raw {
    /// The picture turned as it says.
    fn upright(self) -> Result<Picture> {
        use Orientation::*;
        let Self { picture, orientation } = self;
        if orientation == NoTransforms {
            return Ok(picture);
        }
        let (w, h) = (picture.width, picture.height);
        let turned = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
        let [width, height] = if turned { [h, w] } else { [w, h] };
        let from = |x: usize, y: usize| match orientation {
            NoTransforms => (x, y),
            FlipHorizontal => (w - 1 - x, y),
            FlipVertical => (x, h - 1 - y),
            Rotate180 => (w - 1 - x, h - 1 - y),
            Rotate90 => (y, h - 1 - x),
            Rotate270 => (w - 1 - y, x),
            Rotate90FlipH => (y, x),
            Rotate270FlipH => (w - 1 - y, h - 1 - x),
        };
        let size = picture.samples.size();
        let mut pixels = room_for([width, height], picture.samples)?;
        for (i, to) in pixels.bytes_mut().chunks_exact_mut(size).enumerate() {
            let (x, y) = from(i % width, i / width);
            to.copy_from_slice(&picture.pixels.bytes()[(y * w + x) * size..][..size]);
        }
        Ok(Picture { width, height, pixels, ..picture })
    }
}

/// What a decoder says, as a sentence of ours.
fn failed(error: ImageError) -> Error {
    let text: String = error.to_string().chars().take(SHOWN).collect();
    match error {
        ImageError::Unsupported(_) | ImageError::Limits(_) => Error::unsupported(text),
        ImageError::IoError(e) if e.kind() == ErrorKind::OutOfMemory => Error::out_of_memory(text),
        _ => Error::corrupt(format!("damaged: {text}")),
    }
}

fn panicked() -> Error {
    Error::corrupt("damaged: its decoder panicked, which is a fault of that library")
}

#[cfg(test)]
#[path = "picture_tests.rs"]
pub(crate) mod tests;
