//! Where the numbers stand that a convolution reads: padded images of bytes or of bf16, the halo filled with zero points, the sources' channels side by side.
//!
//! Every output pixel has a base and every tap an offset from it. There are two forms. As a padded image, the taps of a kernel row are one run of bytes. As
//! planes, one for each column of the kernel and each remainder of a row by the stride: they hold what that column meets at every output pixel, so that all
//! output pixels of an image are evenly spaced however narrow it is, which is how tiles are loaded.

use super::super::conv::ConvShape;
use super::super::gemm::MOST_SOURCES;
use crate::error::{Error, Result};
use crate::memory;

/// How a kernel wants its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Padded images; pixels as long as they are.
    Packed,
    /// The same with bytes less 128, as signed ones.
    Signed,
    /// Pixels filled up to lines of 64 bytes, for aligned tiles of 16 evenly spaced ones: padded images if they are that wide, else planes.
    Tiles,
    /// The same of bf16, two bytes each.
    Bf16Tiles,
}

impl Form {
    /// Whether pixels are lines, of which tiles are loaded.
    fn tiles(self) -> bool {
        matches!(self, Self::Tiles | Self::Bf16Tiles)
    }

    /// Bytes of a channel.
    pub(in super::super) fn size(self) -> usize {
        if self == Self::Bf16Tiles { 2 } else { 1 }
    }
}

/// Bytes of a tile's row, and of what it is aligned to.
pub(in super::super) const LINE: usize = 64;
/// Rows of a tile.
pub(in super::super) const TILE: usize = 16;
/// Bytes that a kernel may read beyond the end of a run.
const BEYOND: usize = 8;

/// The staged input of a convolution: its sizes and places, all in bytes. Convolutions of equal stagings can share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staging {
    form: Form,
    /// The largest number it may hold.
    pub(super) most: u8,
    /// Channels of each source.
    pub(super) sources: Vec<usize>,
    pub(super) channels: usize,
    pub(super) images: usize,
    /// Height and width of the image.
    pub(super) size: [usize; 2],
    /// Rows of padding above, columns to the left.
    pub(super) before: [usize; 2],
    /// Rows of a padded image that taps read.
    pub(super) padded_rows: usize,
    /// Output pixels of an image.
    pub(in super::super) out: [usize; 2],
    taps: [usize; 2],
    stride: [usize; 2],
    /// Whether the pixels of the one image are samples.
    pub(super) linear: bool,
    /// Planes for columns of the kernel: 1 for a padded image.
    pub(super) planes: usize,
    /// Distance of the columns of a padded image that neighbours in a plane have.
    pub(super) step: usize,
    /// Rows y of a padded image, by y mod `rate`, are in the first `parities` of as many planes each.
    rate: usize,
    pub(super) parities: usize,
    rows: usize,
    /// Pixels of a row of a plane.
    pub(super) columns: usize,
    /// Bytes of a pixel.
    pub(super) pitch: usize,
    image: usize,
}

impl Staging {
    /// The input of a convolution of this shape, whose channels come from `sources` of so many each, of numbers up to `most`.
    pub fn new(shape: &ConvShape, sources: &[usize], most: u8, form: Form) -> Result<Self> {
        shape.check()?;
        let s = *shape;
        if sources.is_empty()
            || sources.len() > MOST_SOURCES
            || sources.contains(&0)
            || sources.iter().try_fold(0usize, |a, b| a.checked_add(*b)) != Some(s.c_in)
        {
            return Err(Error::internal(format!("sources of {sources:?} channels for {} of a convolution", s.c_in)));
        }
        // Single pixels are those of one image, so that a tile has many.
        let linear = s.h == 1 && s.w == 1 && s.pointwise();
        let [images, width, q] = if linear { [1, s.n, s.n] } else { [s.n, s.w, s.q()] };
        let p = s.p();
        let [down, across] = s.stride;
        let padded = [(p - 1) * down + s.r, (q - 1) * across + s.s];
        let tiles = form.tiles();
        let shifted = tiles && !q.is_multiple_of(TILE);
        let pitch = if tiles { (s.c_in * form.size()).next_multiple_of(LINE) } else { s.c_in }; // at most 2^20 channels
        let [planes, step, rate, parities, rows, columns] =
            if shifted { [s.s, across, down, down.min(s.r), p + (s.r - 1) / down, q] } else { [1, 1, 1, 1, padded[0], padded[1]] };
        // The last tile of an image reads rows of pixels that there are not.
        let beyond = if shifted { (TILE - 1) * pitch } else { BEYOND };
        let image = [planes, parities, rows, columns].into_iter().try_fold(pitch, usize::checked_mul).and_then(|bytes| bytes.checked_add(beyond));
        let image = image.map(|bytes| bytes.next_multiple_of(LINE)).filter(|bytes| *bytes <= i32::MAX as usize && bytes.checked_mul(images).is_some());
        Ok(Self {
            form,
            most,
            sources: memory::copy(sources, "sources of a convolution")?,
            channels: s.c_in,
            images,
            size: [s.h, width],
            before: [s.pad[0], s.pad[1]],
            padded_rows: padded[0],
            out: [p, q],
            taps: [s.r, s.s],
            stride: s.stride,
            linear,
            planes,
            step,
            rate,
            parities,
            rows,
            columns,
            pitch,
            image: image.ok_or_else(|| Error::shape(format!("convolution {s:?}: an image is above 2 GiB")))?,
        })
    }

    /// Bytes of all images. Their first should be aligned to 64 bytes; kernels for tiles are slow otherwise.
    pub fn bytes(&self) -> usize {
        self.images * self.image
    }

    /// Bytes of one image, a multiple of 64. Images follow each other. A linear layer's rows are one image.
    pub fn image_bytes(&self) -> usize {
        self.image
    }

    /// Images there are.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Bytes of a channel.
    pub(super) fn size(&self) -> usize {
        self.form.size()
    }

    /// Output pixels of an image.
    pub(super) fn pixels(&self) -> usize {
        self.out[0] * self.out[1]
    }

    /// What is added to a number, modulo 256, to have its byte.
    pub(super) fn offset(&self) -> u8 {
        if self.form == Form::Signed { 128 } else { 0 }
    }

    /// Bytes from a pixel of a plane to the next output pixel's.
    pub(super) fn pixel_step(&self) -> usize {
        if self.shifted() { self.pitch } else { self.stride[1] * self.pitch }
    }

    fn shifted(&self) -> bool {
        self.form.tiles() && !self.out[1].is_multiple_of(TILE)
    }

    /// Where the first tap of an output pixel stands.
    #[inline(always)]
    pub(in super::super) fn base(&self, image: usize, y: usize, x: usize) -> usize {
        let row = if self.shifted() { self.columns } else { self.stride[0] * self.columns } * self.pitch;
        image * self.image + y * row + x * self.pixel_step()
    }

    /// The distance of a tap from the first.
    pub(in super::super) fn tap(&self, r: usize, s: usize) -> usize {
        if self.shifted() { self.row(s, r) } else { self.row(0, r) + s * self.pitch }
    }

    /// Whether taps read row `y` of a padded image.
    pub(super) fn has_row(&self, y: usize) -> bool {
        y < self.padded_rows && y % self.rate < self.parities
    }

    /// Where row `y` of a padded image begins in a plane.
    pub(super) fn row(&self, plane: usize, y: usize) -> usize {
        ((plane * self.parities + y % self.rate) * self.rows + y / self.rate) * self.columns * self.pitch
    }

    /// Bytes of a row of a plane.
    pub(super) fn row_bytes(&self) -> usize {
        self.columns * self.pitch
    }

    /// The kernel's height and width.
    pub(super) fn taps(&self) -> [usize; 2] {
        self.taps
    }
}
