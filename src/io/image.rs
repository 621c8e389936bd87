//! Pictures: PNG files and labelled grids of samples.

use crate::error::{Error, Result};
use crate::io::file;
use crate::io::font::{ADVANCE, GLYPH_HEIGHT, GLYPH_WIDTH, dot};
use crate::io::png;
use crate::tensor::try_vec;
use std::path::Path;

/// Dots of empty space around cells and labels.
const GAP: usize = 4;
/// The largest side that a PNG can have.
const MAX_SIDE: usize = i32::MAX as usize;
const BACKGROUND: u8 = 255;
const INK: u8 = 0;

/// Saves bytes as a PNG file, atomically: rows from the top, `channels` bytes a pixel (1 grey, 3 RGB, 4 RGBA).
pub fn save_png(path: &Path, width: usize, height: usize, channels: usize, bytes: &[u8]) -> Result<()> {
    let named = |e: Error| e.context(path.display());
    let color = color_type(channels).map_err(named)?;
    let shape = ImageShape { height, width, channels };
    if shape.numel().map_err(named)? != bytes.len() {
        return Err(named(Error::shape(format!("{shape} needs {} bytes, found {}", shape.numel()?, bytes.len()))));
    }
    // Fits: numel() refuses sides beyond MAX_SIDE.
    file::write_atomic(path, |w| png::write(w, [width as u32, height as u32], color, bytes))
}

fn color_type(channels: usize) -> Result<png::Color> {
    match channels {
        1 => Ok(png::Color::Grey),
        3 => Ok(png::Color::Rgb),
        4 => Ok(png::Color::Rgba),
        n => Err(Error::invalid(format!("a picture has 1, 3 or 4 channels, found {n}"))),
    }
}

/// The shape of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 grey, 3 RGB, 4 RGBA.
    pub channels: usize,
}

impl std::fmt::Display for ImageShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a picture of {}x{} with {} channels", self.height, self.width, self.channels)
    }
}

impl ImageShape {
    /// Values of one image; refuses shapes that are empty or that no PNG can have.
    fn numel(&self) -> Result<usize> {
        color_type(self.channels)?;
        let sides = [self.height, self.width];
        if sides.contains(&0) || sides.iter().any(|s| *s > MAX_SIDE) {
            return Err(Error::invalid(format!("{self}: sides must be 1 to {MAX_SIDE}")));
        }
        let n = self.height.checked_mul(self.width).and_then(|n| n.checked_mul(self.channels));
        n.ok_or_else(|| Error::invalid(format!("{self} is too large")))
    }
}

/// One row of a grid: a label and the images beside it.
#[derive(Clone, Copy, Debug)]
pub struct GridRow<'a> {
    /// Text at the left; what is not printable ASCII becomes a question mark.
    pub label: &'a str,
    /// Images one after the other in NHWC order, values in [-1, 1].
    pub images: &'a [f32],
}

/// Saves a picture with one labelled row for each entry, each image enlarged `scale` times (every pixel becomes a square), values in [-1, 1] shown as
/// (x/2 + 0.5) clamped to [0, 1]. Every row has as many images as the first. Transparency is shown on white.
pub fn save_grid(path: &Path, rows: &[GridRow], shape: ImageShape, scale: usize) -> Result<()> {
    let canvas = draw_grid(rows, shape, scale).map_err(|e| e.context(path.display()))?;
    save_png(path, canvas.width, canvas.height, 3, &canvas.rgb)
}

/// Where everything in a grid lies, in dots.
struct Layout {
    columns: usize,
    text_scale: usize,
    label_width: usize,
    cell_width: usize,
    cell_height: usize,
    width: usize,
    height: usize,
}

impl Layout {
    fn new(rows: &[GridRow], shape: ImageShape, scale: usize) -> Result<Self> {
        let numel = shape.numel()?;
        if scale == 0 {
            return Err(Error::invalid("a grid's scale must be at least 1"));
        }
        let columns = check_rows(rows, numel)?;
        let too_large = || Error::invalid(format!("a grid of {} rows of {columns} images, {shape}, scale {scale}: too large", rows.len()));
        let cell = |side: usize| side.checked_mul(scale);
        let (cell_width, cell_height) = (cell(shape.width).ok_or_else(too_large)?, cell(shape.height).ok_or_else(too_large)?);
        let text_scale = if cell_height >= 2 * GLYPH_HEIGHT { 2 } else { 1 };
        let letters = rows.iter().map(|r| r.label.chars().count()).max().unwrap_or(0);
        let label_width = letters.checked_mul(ADVANCE * text_scale).ok_or_else(too_large)?;
        let row_height = cell_height.max(GLYPH_HEIGHT * text_scale);
        // Everything is followed by a gap, and one gap comes first.
        let span = |count: usize, size: usize| size.checked_add(GAP).and_then(|n| n.checked_mul(count)).and_then(|n| n.checked_add(GAP));
        let width = span(columns, cell_width).and_then(|n| n.checked_add(if label_width > 0 { label_width.checked_add(GAP)? } else { 0 }));
        let (width, height) = (width.ok_or_else(too_large)?, span(rows.len(), row_height).ok_or_else(too_large)?);
        if width > MAX_SIDE || height > MAX_SIDE {
            return Err(too_large());
        }
        Ok(Self { columns, text_scale, label_width, cell_width, cell_height, width, height })
    }

    /// Top of a row's images.
    fn top(&self, row: usize) -> usize {
        GAP + row * (self.cell_height.max(GLYPH_HEIGHT * self.text_scale) + GAP)
    }

    /// Left edge of a column of images.
    fn left(&self, column: usize) -> usize {
        let label = if self.label_width > 0 { self.label_width + GAP } else { 0 };
        GAP + label + column * (self.cell_width + GAP)
    }
}

/// How many images every row has.
fn check_rows(rows: &[GridRow], numel: usize) -> Result<usize> {
    let first = rows.first().ok_or_else(|| Error::invalid("a grid needs at least one row"))?;
    for (i, row) in rows.iter().enumerate() {
        let name = || format!("row {i} (\"{}\")", row.label);
        if row.images.is_empty() || row.images.len() % numel != 0 {
            return Err(Error::shape(format!("{}: {} values are not whole images of {numel} values", name(), row.images.len())));
        }
        if row.images.len() != first.images.len() {
            return Err(Error::shape(format!("{}: expected {} images as in row 0, found {}", name(), first.images.len() / numel, row.images.len() / numel)));
        }
        if let Some(at) = row.images.iter().position(|v| v.is_nan()) {
            return Err(Error::numeric(format!("{}: value {at} is NaN", name())));
        }
    }
    Ok(first.images.len() / numel)
}

/// An RGB picture being drawn.
struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Result<Self> {
        let len = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        let len = len.ok_or_else(|| Error::invalid(format!("a picture of {height}x{width} is too large")))?;
        let mut rgb = try_vec::<u8>(len, "picture")?;
        rgb.fill(BACKGROUND);
        Ok(Self { width, height, rgb })
    }

    /// Fills a square; the layout keeps it inside.
    fn square(&mut self, left: usize, top: usize, side: usize, color: [u8; 3]) {
        for y in top..top + side {
            let start = (y * self.width + left) * 3;
            for pixel in self.rgb[start..start + side * 3].as_chunks_mut::<3>().0 {
                *pixel = color;
            }
        }
    }

    fn text(&mut self, left: usize, top: usize, scale: usize, text: &str) {
        for (i, letter) in text.chars().enumerate() {
            for (x, y) in (0..GLYPH_WIDTH).flat_map(|x| (0..GLYPH_HEIGHT).map(move |y| (x, y))) {
                if dot(letter, x, y) {
                    self.square(left + (i * ADVANCE + x) * scale, top + y * scale, scale, [INK; 3]);
                }
            }
        }
    }

    fn image(&mut self, left: usize, top: usize, shape: ImageShape, scale: usize, values: &[f32]) {
        for (i, pixel) in values.chunks_exact(shape.channels).enumerate() {
            let (y, x) = (i / shape.width, i % shape.width);
            self.square(left + x * scale, top + y * scale, scale, color_of(pixel));
        }
    }
}

fn draw_grid(rows: &[GridRow], shape: ImageShape, scale: usize) -> Result<Canvas> {
    let layout = Layout::new(rows, shape, scale)?;
    let mut canvas = Canvas::new(layout.width, layout.height)?;
    for (r, row) in rows.iter().enumerate() {
        let top = layout.top(r);
        let text_top = top + layout.cell_height.saturating_sub(GLYPH_HEIGHT * layout.text_scale) / 2;
        canvas.text(GAP, text_top, layout.text_scale, row.label);
        for (c, image) in row.images.chunks_exact(row.images.len() / layout.columns).enumerate() {
            canvas.image(layout.left(c), top, shape, scale, image);
        }
    }
    Ok(canvas)
}

/// The colour of a pixel in model space.
fn color_of(pixel: &[f32]) -> [u8; 3] {
    let unit = |x: f32| (x / 2.0 + 0.5).clamp(0.0, 1.0);
    let byte = |x: f32| (x * 255.0).round() as u8;
    match *pixel {
        [r, g, b] => [byte(unit(r)), byte(unit(g)), byte(unit(b))],
        [r, g, b, a] => [r, g, b].map(|x| byte(unit(x) * unit(a) + 1.0 - unit(a))),
        _ => [byte(unit(pixel[0])); 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use crate::io::test_util::TestDir;

    fn decode(path: &Path) -> (u32, u32, ::png::ColorType, Vec<u8>) {
        let mut reader = ::png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap())).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        (info.width, info.height, info.color_type, bytes)
    }

    #[test]
    fn png_round_trip() {
        let dir = TestDir::new("png");
        for (channels, color) in [(1, ::png::ColorType::Grayscale), (3, ::png::ColorType::Rgb), (4, ::png::ColorType::Rgba)] {
            let bytes: Vec<u8> = (0..6 * channels as u8).map(|i| i * 10).collect();
            save_png(&dir.join("a.png"), 3, 2, channels, &bytes).unwrap();
            assert_eq!(decode(&dir.join("a.png")), (3, 2, color, bytes));
        }
    }

    #[test]
    fn bad_pictures_are_refused() {
        let dir = TestDir::new("png-bad");
        let path = dir.join("a.png");
        let image = [0.0f32; 12];
        let row = |images| GridRow { label: "x", images };
        let shape = |height, width, channels| ImageShape { height, width, channels };
        let nan = [0.0, f32::NAN, 0.0, 0.0];
        let cases = [
            (save_png(&path, 2, 2, 2, &[0; 8]), Status::InvalidArgument),
            (save_png(&path, 0, 2, 1, &[]), Status::InvalidArgument),
            (save_png(&path, 2, 2, 1, &[0; 5]), Status::Shape),
            (save_png(&path, usize::MAX, usize::MAX, 4, &[0; 5]), Status::InvalidArgument),
            (save_png(&dir.join("no/a.png"), 1, 1, 1, &[0]), Status::NotFound),
            (save_grid(&path, &[], shape(2, 2, 1), 1), Status::InvalidArgument),
            (save_grid(&path, &[row(&image)], shape(0, 2, 1), 1), Status::InvalidArgument),
            (save_grid(&path, &[row(&image)], shape(2, 2, 5), 1), Status::InvalidArgument),
            (save_grid(&path, &[row(&image)], shape(2, 2, 1), 0), Status::InvalidArgument),
            (save_grid(&path, &[row(&image)], shape(2, 2, 1), usize::MAX / 2), Status::InvalidArgument),
            (save_grid(&path, &[row(&image)], shape(2, 2, 1), 1 << 40), Status::InvalidArgument),
            (save_grid(&path, &[row(&[])], shape(2, 2, 1), 1), Status::Shape),
            (save_grid(&path, &[row(&image[..5])], shape(2, 2, 1), 1), Status::Shape),
            (save_grid(&path, &[row(&image), row(&image[..8])], shape(2, 2, 1), 1), Status::Shape),
            (save_grid(&path, &[row(&nan)], shape(2, 2, 1), 1), Status::Numeric),
        ];
        for (i, (result, status)) in cases.into_iter().enumerate() {
            let error = result.unwrap_err();
            assert_eq!(error.status, status, "case {i}: {error}");
            assert!(error.message.contains("a.png"), "case {i}: {error}");
        }
        assert!(!path.exists());
    }

    #[test]
    fn grid_pixels_lie_where_they_should() {
        let images = [-1.0f32, 1.0, 0.0, 9.0];
        let canvas = draw_grid(&[GridRow { label: "", images: &images }], ImageShape { height: 1, width: 2, channels: 1 }, 3).unwrap();
        // No label: two images of 6x3 in a row as high as a letter, with gaps.
        assert_eq!((canvas.width, canvas.height), (GAP + 2 * (6 + GAP), GAP + 7 + GAP));
        let at = |x: usize, y: usize| canvas.rgb[(y * canvas.width + x) * 3];
        assert_eq!([at(GAP, GAP), at(GAP + 2, GAP + 2), at(GAP + 3, GAP), at(GAP, GAP + 3)], [0, 0, 255, 255]);
        assert_eq!([at(2 * GAP + 6, GAP), at(2 * GAP + 9, GAP)], [128, 255]);
        assert_eq!(color_of(&[1.0, -1.0, 0.0, -1.0]), [255; 3]);
        assert_eq!(color_of(&[1.0, -1.0, -1.0, 1.0]), [255, 0, 0]);
    }

    #[test]
    fn labelled_grid_is_saved() {
        let dir = TestDir::new("grid");
        let (shape, n) = (ImageShape { height: 8, width: 8, channels: 3 }, 6);
        let value = |row: usize, i: usize| ((i / 3 + row * 40 + (i % 3) * 20) as f32 / 30.0).sin();
        let labels = [
            "teacher 50 steps (DDIM)",
            "student, 4 steps; f32",
            "int8: {x}=\"~0.1%\" \u{e4} @#$&*+-/<>?[]^_`|",
            "ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz 0123456789 !'(),.\\",
        ];
        let images: Vec<Vec<f32>> = (0..labels.len()).map(|r| (0..n * 192).map(|i| value(r, i)).collect()).collect();
        let rows: Vec<_> = labels.iter().zip(&images).map(|(label, images)| GridRow { label, images }).collect();
        save_grid(&dir.join("grid.png"), &rows, shape, 5).unwrap();
        let (width, height, color, bytes) = decode(&dir.join("grid.png"));
        assert_eq!((color, bytes.len()), (::png::ColorType::Rgb, (width * height * 3) as usize));
        // FEWSTEP_TEST_PICTURE=/tmp/grid.png keeps the picture for a look.
        if let Some(keep) = std::env::var_os("FEWSTEP_TEST_PICTURE") {
            std::fs::copy(dir.join("grid.png"), keep).unwrap();
        }
    }
}
