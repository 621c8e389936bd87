use super::*;
use crate::Status;
use ::png::{BitDepth, ColorType as PngColor};
pub(crate) use made::progressive;

#[path = "../../tests/common/pictures.rs"]
mod made;

/// A PNG file of these bytes.
pub(crate) fn png_of([width, height]: [u32; 2], color: PngColor, depth: BitDepth, pixels: &[u8]) -> Vec<u8> {
    let mut file = vec![];
    let mut encoder = ::png::Encoder::new(&mut file, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == PngColor::Indexed {
        encoder.set_palette(vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9]);
        encoder.set_trns(vec![255, 255, 0]);
    }
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    file
}

/// A PNG file of RGB noise.
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let pixels: Vec<u8> = (0..width * height * 3).map(|i| crate::random::philox4x32([i, 0, 0, 0], [5, 0])[0] as u8).collect();
    png_of([width, height], PngColor::Rgb, BitDepth::Eight, &pixels)
}

/// A JPEG file of one colour.
pub(crate) fn jpeg(width: u32, height: u32, color: [u8; 3]) -> Vec<u8> {
    let mut file = vec![];
    let pixels = color.repeat((width * height) as usize);
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 95).encode(&pixels, width, height, image::ExtendedColorType::Rgb8).unwrap();
    file
}

/// A file with a segment put behind its first two bytes.
fn with_segment(file: &[u8], marker: u8, body: &[u8]) -> Vec<u8> {
    [&file[..2], &[0xff, marker], &(body.len() as u16 + 2).to_be_bytes(), body, &file[2..]].concat()
}

fn decode(file: &[u8]) -> Result<Picture> {
    Picture::decode(file.to_vec(), 1 << 20)
}

fn rgb(file: &[u8]) -> Vec<f32> {
    let picture = decode(file).unwrap();
    let mut out = vec![0.0; picture.width * picture.height * 3];
    out.chunks_exact_mut(picture.width * 3).enumerate().for_each(|(y, row)| picture.row::<3>(y, row));
    out
}

fn grey_of(file: &[u8]) -> Vec<f32> {
    let picture = decode(file).unwrap();
    let mut out = vec![0.0; picture.width * picture.height];
    out.chunks_exact_mut(picture.width).enumerate().for_each(|(y, row)| picture.row::<1>(y, row));
    out
}

#[test]
fn every_kind_of_png() {
    let size = [2, 1];
    let cases = [
        (PngColor::Grayscale, BitDepth::Eight, vec![10, 200], [10.0, 10.0, 10.0, 200.0, 200.0, 200.0]),
        (PngColor::Grayscale, BitDepth::One, vec![0b0100_0000], [0.0, 0.0, 0.0, 255.0, 255.0, 255.0]),
        (PngColor::Grayscale, BitDepth::Sixteen, vec![255, 255, 1, 1], [255.0, 255.0, 255.0, 1.0, 1.0, 1.0]),
        (PngColor::Rgb, BitDepth::Eight, vec![1, 2, 3, 4, 5, 6], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        (PngColor::Rgb, BitDepth::Sixteen, vec![1, 1, 2, 2, 0, 0, 255, 255, 0, 0, 3, 3], [1.0, 2.0, 0.0, 255.0, 0.0, 3.0]),
        // Transparent is white, half of it lies between.
        (PngColor::GrayscaleAlpha, BitDepth::Eight, vec![10, 0, 55, 51], [255.0, 255.0, 255.0, 215.0, 215.0, 215.0]),
        (PngColor::Rgba, BitDepth::Eight, vec![1, 2, 3, 255, 55, 0, 255, 51], [1.0, 2.0, 3.0, 215.0, 204.0, 255.0]),
        // The third colour of the palette is transparent.
        (PngColor::Indexed, BitDepth::Eight, vec![1, 2], [0.0, 255.0, 0.0, 255.0, 255.0, 255.0]),
        (PngColor::Indexed, BitDepth::Two, vec![0b0011_0000], [255.0, 0.0, 0.0, 9.0, 9.0, 9.0]),
    ];
    for (color, depth, pixels, expected) in cases {
        let found = rgb(&png_of(size, color, depth, &pixels));
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3), "{color:?} {depth:?}: {found:?}");
    }
    // Half a step of 8 bits, which 16 keep.
    let found = grey_of(&png_of([1, 1], PngColor::Grayscale, BitDepth::Sixteen, &[128, 0]));
    assert!((found[0] - 32768.0 / 257.0).abs() < 1e-4, "{found:?}");
    let found = grey_of(&png_of(size, PngColor::Rgb, BitDepth::Eight, &[100, 100, 100, 255, 0, 0]));
    assert_eq!(found[0], 100.0);
    assert!((found[1] - 76.245).abs() < 1e-3);
}

#[test]
fn jpeg_files_are_read_too() {
    let close = |found: &[f32], expected: [f32; 3]| found.chunks_exact(3).all(|p| p.iter().zip(expected).all(|(a, b)| (a - b).abs() < 4.0));
    assert!(close(&rgb(&jpeg(20, 9, [200, 30, 60])), [200.0, 30.0, 60.0]));
    for factors in [&[0x11][..], &[0x22], &[0x11, 0x11, 0x11], &[0x22, 0x11, 0x11], &[0x21, 0x11, 0x11], &[0x12, 0x11, 0x11], &[0x41, 0x11, 0x11]] {
        assert!(close(&rgb(&progressive(33, 17, factors)), [128.0; 3]), "{factors:x?}");
    }
    // Text before the picture, and what some cameras leave behind it.
    let spoken = [with_segment(&jpeg(8, 8, [9; 3]), 0xfe, b"\xff\xd9\xff\xda").as_slice(), b"\0\0rest"].concat();
    assert!(close(&rgb(&spoken), [9.0; 3]));
}

/// An Exif segment of one entry, the orientation.
fn exif(orientation: u8) -> Vec<u8> {
    [&b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"[..], &[orientation, 0, 0, 0, 0, 0, 0, 0]].concat()
}

/// As the `image` crate turns them.
#[test]
fn pictures_are_turned_upright() {
    // Four colours in the corners of blocks of 16, so that chroma stays apart.
    let pixels: Vec<u8> = (0..32 * 16).flat_map(|i| if i / 32 < 8 { [(i % 32 * 7) as u8; 3] } else { [255 - (i % 32 * 7) as u8; 3] }).collect();
    let mut file = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 100).encode(&pixels, 32, 16, image::ExtendedColorType::Rgb8).unwrap();
    for orientation in 1..=8 {
        let file = with_segment(&file, 0xe1, &exif(orientation));
        let mut decoder = JpegDecoder::new(Cursor::new(&file)).unwrap();
        let turn = decoder.orientation().unwrap();
        let mut expected = image::DynamicImage::from_decoder(decoder).unwrap();
        expected.apply_orientation(turn);
        let found = decode(&file).unwrap();
        assert_eq!((found.width, found.height), (expected.width() as usize, expected.height() as usize), "{orientation}");
        assert!(found.pixels.bytes() == expected.as_bytes(), "{orientation}");
    }
}

#[test]
fn what_is_wrong_has_a_reason() {
    let (good, photo) = (png(9, 7), jpeg(40, 30, [1, 2, 3]));
    let mut huge = good.clone();
    huge[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let mut flat = good.clone();
    flat[16..20].fill(0);
    let mut flipped = good.clone();
    let at = flipped.len() - 30;
    flipped[at] ^= 0x55;
    let crowded = progressive(16, 16, &[0x44, 0x44, 0x44]);
    let shell = |bytes: &[u8]| [bytes, &[0; 20]].concat();
    let cases = [
        (vec![], Status::CorruptFile, "empty"),
        (b"P6 2 2 255".to_vec(), Status::Unsupported, "neither a PNG nor a JPEG"),
        (b"GIF89a\x01".to_vec(), Status::Unsupported, "a GIF"),
        (b"RIFF\0\0\0\0WEBPVP8 ".to_vec(), Status::Unsupported, "a WebP"),
        (b"\0\0\0\x18ftypheic".to_vec(), Status::Unsupported, "HEIF"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), Status::Unsupported, "git lfs pull"),
        (good[..8].to_vec(), Status::CorruptFile, "header"),
        (good[..20].to_vec(), Status::CorruptFile, "too early"),
        (good[..60].to_vec(), Status::CorruptFile, "damaged"),
        (good[..good.len() - 40].to_vec(), Status::CorruptFile, "damaged"),
        (flipped, Status::CorruptFile, "damaged"),
        (huge, Status::Unsupported, "100000 x 100000 pixels; at most 1048576"),
        (flat, Status::CorruptFile, "0 x 7"),
        (photo[..photo.len() - 2].to_vec(), Status::CorruptFile, "too early"),
        (photo[..photo.len() / 2].to_vec(), Status::CorruptFile, "too early"),
        (photo[..4].to_vec(), Status::CorruptFile, "too early"),
        (b"\xff\xd8\xff\xd9".to_vec(), Status::CorruptFile, "without a picture"),
        (shell(b"\xff\xd8\xff\xda\0\x02\xff\xd9"), Status::CorruptFile, "frame header"),
        (crowded, Status::Unsupported, "48 blocks"),
        (progressive(2000, 2000, &[0x11]), Status::Unsupported, "2000 x 2000"),
        (progressive(0, 16, &[0x11]), Status::CorruptFile, "0 x 16"),
    ];
    for (i, (file, status, words)) in cases.into_iter().enumerate() {
        let error = decode(&file).map(drop).expect_err("bad");
        assert!(error.status == status && error.message.contains(words), "case {i}: {error}");
    }
}

/// Hosts call from threads of small stacks: 64 KiB are promised, and a decoder is not alone there.
#[test]
fn decoders_need_little_stack() {
    let files = [
        png(300, 20),
        png_of([64, 64], PngColor::Indexed, BitDepth::Two, &[0x1b; 16 * 64]),
        jpeg(300, 40, [1, 200, 3]),
        progressive(300, 40, &[0x22, 0x11, 0x11]),
    ];
    for file in files {
        let call = move || decode(&file).map(drop);
        std::thread::Builder::new().stack_size(40 << 10).spawn(call).unwrap().join().unwrap().unwrap();
    }
}

/// Any byte of a file may be another, and any file may end anywhere: a picture or an error.
#[test]
fn damage_is_an_error_or_a_picture() {
    for file in [png(6, 5), png_of([5, 3], PngColor::Indexed, BitDepth::Two, &[0; 6]), jpeg(9, 8, [7, 80, 9]), progressive(17, 9, &[0x22, 0x11, 0x11])] {
        for at in 0..file.len() {
            drop(decode(&file[..at]));
            for value in [0, 1, 0x7f, 0xff, file[at] ^ 0x10] {
                let mut damaged = file.clone();
                damaged[at] = value;
                match decode(&damaged) {
                    Ok(picture) => assert!(picture.width * picture.height <= 1 << 20),
                    Err(error) => assert!(!error.message.contains("panicked"), "byte {at} is {value}: {error}"),
                }
            }
        }
    }
}
