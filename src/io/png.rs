//! PNG files (ISO/IEC 15948), compressed as they are written: a picture of any size takes a few kilobytes of the caller's stack and none of the heap.

use std::io::{self, Write};

const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
/// Filtered bytes that are compressed at once.
const PIECE: usize = 1 << 10;
/// Compressed bytes in one chunk of the file.
const CHUNK: usize = 4 << 10;

/// What the channels of a pixel of 8 bits each are, by its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Color {
    Grey = 0,
    Rgb = 2,
    Rgba = 6,
}

impl Color {
    fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// What is stored of a row, by its number in the file: the difference to the pixel at the left or above.
#[derive(Clone, Copy)]
enum Filter {
    Left = 1,
    Above = 2,
}

/// A row of a picture, and the one above it; empty above the first.
struct Row<'a> {
    bytes: &'a [u8],
    above: &'a [u8],
    channels: usize,
}

impl Row<'_> {
    fn filtered(&self, filter: Filter, at: usize) -> u8 {
        let from = match filter {
            Filter::Left => at.checked_sub(self.channels).map(|left| self.bytes[left]),
            Filter::Above => self.above.get(at).copied(),
        };
        self.bytes[at].wrapping_sub(from.unwrap_or(0))
    }

    /// The filter whose differences are smallest (section 12.7 of the standard).
    fn best_filter(&self) -> Filter {
        let size = |filter| (0..self.bytes.len()).map(|at| u64::from((self.filtered(filter, at) as i8).unsigned_abs())).sum::<u64>();
        if size(Filter::Left) < size(Filter::Above) { Filter::Left } else { Filter::Above }
    }
}

/// Writes a picture of `width` times `height` pixels; `bytes` has them all, row by row from the top.
pub(super) fn write(to: &mut dyn Write, [width, height]: [u32; 2], color: Color, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&SIGNATURE)?;
    let [w, h] = [width.to_be_bytes(), height.to_be_bytes()];
    write_chunk(to, *b"IHDR", &[w[0], w[1], w[2], w[3], h[0], h[1], h[2], h[3], 8, color as u8, 0, 0, 0])?;
    let mut data = Data { to, bytes: [0; CHUNK], len: 0, failed: None };
    let mut compressor = fdeflate::Compressor::new(&mut data)?;
    let (channels, mut above) = (color.channels(), &bytes[..0]);
    for line in bytes.chunks_exact(width as usize * channels) {
        let row = Row { bytes: line, above, channels };
        let filter = row.best_filter();
        compressor.write_data(&[filter as u8])?;
        let mut piece = [0; PIECE];
        for start in (0..line.len()).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(line.len() - start)];
            piece.iter_mut().enumerate().for_each(|(i, to)| *to = row.filtered(filter, start + i));
            compressor.write_data(piece)?;
        }
        above = line;
    }
    compressor.finish()?;
    data.finish()?;
    write_chunk(to, *b"IEND", &[])
}

fn write_chunk(to: &mut dyn Write, kind: [u8; 4], bytes: &[u8]) -> io::Result<()> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&kind);
    crc.update(bytes);
    to.write_all(&(bytes.len() as u32).to_be_bytes())?;
    to.write_all(&kind)?;
    to.write_all(bytes)?;
    to.write_all(&crc.finalize().to_be_bytes())
}

/// Cuts compressed bytes into chunks. A write never fails here, for fdeflate would panic: the first failure is kept for the end, and ends the writing.
struct Data<'a> {
    to: &'a mut dyn Write,
    bytes: [u8; CHUNK],
    len: usize,
    failed: Option<io::Error>,
}

impl Data<'_> {
    fn flush_chunk(&mut self) {
        if self.failed.is_none() && self.len > 0 {
            self.failed = write_chunk(self.to, *b"IDAT", &self.bytes[..self.len]).err();
        }
        self.len = 0;
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush_chunk();
        self.failed.map_or(Ok(()), Err)
    }
}

impl Write for &mut Data<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.len == CHUNK {
            self.flush_chunk();
        }
        let count = bytes.len().min(CHUNK - self.len);
        self.bytes[self.len..][..count].copy_from_slice(&bytes[..count]);
        self.len += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::philox4x32;

    fn decode(file: &[u8]) -> (u32, u32, ::png::ColorType, Vec<u8>) {
        let mut reader = ::png::Decoder::new(io::Cursor::new(file)).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        reader.finish().unwrap();
        (info.width, info.height, info.color_type, bytes)
    }

    fn encode([width, height]: [usize; 2], color: Color, pixel: impl Fn(usize, usize, usize) -> u8) -> (Vec<u8>, Vec<u8>) {
        let at = |i: usize| pixel(i / color.channels() % width, i / color.channels() / width, i % color.channels());
        let bytes: Vec<u8> = (0..width * height * color.channels()).map(at).collect();
        let mut file = vec![];
        write(&mut file, [width as u32, height as u32], color, &bytes).unwrap();
        (bytes, file)
    }

    fn noise(x: usize, y: usize, channel: usize) -> u8 {
        philox4x32([x as u32, y as u32, channel as u32, 0], [7, 0])[0] as u8
    }

    #[test]
    fn another_decoder_reads_the_same_pixels() {
        let squares = |x: usize, y: usize, c: usize| noise(x / 8, y / 8, c);
        let slope = |x: usize, y: usize, c: usize| (x + 3 * y + 80 * c) as u8;
        let pictures: [&dyn Fn(usize, usize, usize) -> u8; 4] = [&noise, &squares, &slope, &|_, _, _| 255];
        for (color, name) in [(Color::Grey, ::png::ColorType::Grayscale), (Color::Rgb, ::png::ColorType::Rgb), (Color::Rgba, ::png::ColorType::Rgba)] {
            // One pixel, one row, one column, rows of a piece exactly and of more, and more than one chunk.
            for size in [[1, 1], [7, 1], [1, 9], [64, 33], [1024, 2], [1500, 5], [130, 90]] {
                for (i, picture) in pictures.iter().enumerate() {
                    let (bytes, file) = encode(size, color, picture);
                    let expected = (size[0] as u32, size[1] as u32, name, bytes);
                    assert!(decode(&file) == expected, "{color:?} {size:?} picture {i}");
                }
            }
        }
    }

    #[test]
    fn what_repeats_is_stored_once() {
        // A grid of samples is squares on white; rows that repeat cost a few bytes for each piece of 1 KiB. The noise alone is a seventieth.
        let (bytes, file) = encode([640, 640], Color::Rgb, |x, y, c| if x % 80 < 72 { noise(x / 8, y / 8, c) } else { 255 });
        assert!(file.len() * 20 < bytes.len(), "{} bytes became {}", bytes.len(), file.len());
        // What cannot be compressed grows by what the fixed code wastes.
        let (bytes, file) = encode([300, 300], Color::Rgb, noise);
        assert!(file.len() * 2 < bytes.len() * 3, "{} bytes became {}", bytes.len(), file.len());
    }

    #[test]
    fn a_writer_that_fails_is_an_error() {
        /// Takes so many bytes.
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let count = bytes.len().min(self.0);
                self.0 -= count;
                if count > 0 { Ok(count) } else { Err(io::ErrorKind::StorageFull.into()) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (bytes, file) = encode([90, 70], Color::Rgb, noise);
        for room in (0..file.len()).step_by(7).chain([file.len() - 1]) {
            let error = write(&mut Full(room), [90, 70], Color::Rgb, &bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{room} of {} bytes", file.len());
        }
        write(&mut Full(file.len()), [90, 70], Color::Rgb, &bytes).unwrap();
    }
}
