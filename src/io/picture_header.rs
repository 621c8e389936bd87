//! What a picture's file says of itself, read before a decoder sees it: whether it is PNG (ISO/IEC 15948) or JPEG (ITU-T T.81), its size, whether it is whole,
//! and how much memory its decoder may want.

use crate::error::{Error, Result};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG: &[u8] = b"\xff\xd8\xff";
/// What pictures of other formats begin with, by their place there, and what such files are.
const OTHERS: [(usize, &[u8], &str); 9] = [
    (0, b"GIF8", "a GIF"),
    (8, b"WEBP", "a WebP picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (4, b"ftyp", "a HEIF or AVIF picture, or a film"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (0, b"version https://git-lfs", "a Git LFS pointer: its contents were not fetched (git lfs pull)"),
];
/// What the PNG decoder may keep of profiles, texts and so on: so much, or less for a small file; one with more is refused.
const MAX_METADATA: u64 = 16 << 20;
/// Blocks of 8x8 of all components in a unit of a scan: at most ten (T.81, B.2.3). Files with more would cost memory out of proportion.
const MAX_BLOCKS: u64 = 10;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Format {
    Png,
    Jpeg,
}

/// A picture that is still to be decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Header {
    pub format: Format,
    pub width: u32,
    pub height: u32,
    /// The most bytes that its decoder has at once, beside the pixels.
    pub room: u64,
    /// How many of them it may keep of what is no picture.
    pub metadata: u64,
}

impl Header {
    /// Of a whole file. Its format is what its bytes are, whatever its name says.
    pub fn read(file: &[u8]) -> Result<Self> {
        let header = match file {
            [] => return Err(Error::corrupt("an empty file")),
            _ if file.starts_with(PNG) => png(&file[PNG.len()..], file.len() as u64)?,
            _ if file.starts_with(JPEG) => jpeg(file)?,
            _ => return Err(Error::unsupported(format!("neither a PNG nor a JPEG file{}", other(file)))),
        };
        if header.width == 0 || header.height == 0 {
            return Err(Error::corrupt(format!("a picture of {} x {} pixels", header.width, header.height)));
        }
        Ok(header)
    }

    /// Number of pixels.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// Whether a file that begins so is one that [`Header::read`] knows.
pub(super) fn is_picture(start: &[u8]) -> bool {
    start.starts_with(PNG) || start.starts_with(JPEG)
}

/// What else a file is, to be put behind what it is not.
fn other(file: &[u8]) -> String {
    let found = OTHERS.iter().find(|(at, start, _)| file.get(*at..).is_some_and(|rest| rest.starts_with(start)));
    found.map_or(String::new(), |(_, _, what)| format!(", but {what}"))
}

/// `rest` follows the signature: the first chunk is IHDR, and has a fixed place and length.
fn png(rest: &[u8], file: u64) -> Result<Header> {
    let Some((b"\0\0\0\x0dIHDR", numbers)) = rest.split_first_chunk::<8>() else { return Err(Error::corrupt("a PNG file without its header")) };
    let Some((width, numbers)) = numbers.split_first_chunk() else { return Err(cut()) };
    let Some((height, _)) = numbers.split_first_chunk() else { return Err(cut()) };
    let (width, height) = (u32::from_be_bytes(*width), u32::from_be_bytes(*height));
    // Rows of the widest type, as they are packed and unpacked; the metadata, which lies in buffers that double, and may be unpacked too.
    let (row, metadata) = (8 * u64::from(width), MAX_METADATA.min((1 << 20) + 4 * file));
    Ok(Header { format: Format::Png, width, height, room: 16 * row + 4 * metadata + (1 << 20), metadata })
}

fn cut() -> Error {
    Error::corrupt("the file ends too early; it was cut off")
}

/// Walks over a JPEG file's segments to its end, so that one that was cut off is known: its decoder would make up what is missing.
fn jpeg(file: &[u8]) -> Result<Header> {
    let (mut at, mut frame, mut scanned) = (2, None, false);
    loop {
        let (marker, next) = next_marker(file, at).ok_or_else(cut)?;
        at = next;
        match marker {
            // A restart, or one that stands alone and means nothing here.
            0x01 | 0xd0..=0xd8 => {}
            0xd9 if scanned => break,
            0xd9 => return Err(Error::corrupt("a JPEG file without a picture in it")),
            _ => {
                let body = segment(file, at).ok_or_else(cut)?;
                at += 2 + body.len();
                match marker {
                    0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => frame = frame.or(Some(Frame::read(body)?)),
                    0xda => scanned = true,
                    _ => {}
                }
            }
        }
    }
    frame.ok_or_else(|| Error::corrupt("a JPEG file without its frame header"))?.header(file.len() as u64)
}

/// The next marker at or behind a place, and where what follows begins. Bytes that are none are passed over: compressed data, and what some programs leave
/// between segments.
fn next_marker(file: &[u8], from: usize) -> Option<(u8, usize)> {
    let rest = file.get(from..)?;
    let found = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff))?;
    Some((rest[found + 1], from + found + 2))
}

/// The bytes of a segment behind its length, which begins at a place.
fn segment(file: &[u8], at: usize) -> Option<&[u8]> {
    let (length, rest) = file.get(at..)?.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)).checked_sub(2)?)
}

/// A frame header (T.81, B.2.2).
#[derive(Clone, Copy)]
struct Frame {
    width: u16,
    height: u16,
    /// Blocks of all components in a unit.
    blocks: u64,
}

impl Frame {
    fn read(body: &[u8]) -> Result<Self> {
        let [_, h1, h0, w1, w0, count, components @ ..] = body else { return Err(cut()) };
        let components = components.as_chunks::<3>().0;
        if components.len() != usize::from(*count) {
            return Err(Error::corrupt(format!("a JPEG frame header of {count} components that lists {}", components.len())));
        }
        let blocks = components.iter().map(|[_, factors, _]| u64::from(factors >> 4) * u64::from(factors & 15)).sum();
        Ok(Self { width: u16::from_be_bytes([*w1, *w0]), height: u16::from_be_bytes([*h1, *h0]), blocks })
    }

    /// The decoder may keep the coefficients of all blocks, i16, of a size that is a multiple of a unit's, and some rows of units; and pieces of the file.
    fn header(self, file: u64) -> Result<Header> {
        if self.blocks > MAX_BLOCKS {
            return Err(Error::unsupported(format!("a JPEG file with {} blocks in a unit; at most {MAX_BLOCKS} are possible", self.blocks)));
        }
        let (width, height) = (u64::from(self.width) + 32, u64::from(self.height) + 32);
        let room = 2 * self.blocks * width * height + 1024 * width + 3 * file + (1 << 20);
        Ok(Header { format: Format::Jpeg, width: self.width.into(), height: self.height.into(), room, metadata: file })
    }
}
