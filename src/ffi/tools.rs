//! Small helpers for programs that want to keep or show what they made.

use super::boundary::{ffi_boundary, null, optional_text, path, product, slice, to_nhwc};
use super::error::fewstep_status;
use super::options::{self, Item};
use crate::error::{Error, Result};
use crate::io::{self, GridRow, ImageShape};
use crate::memory;
use crate::tensor::{Element, Tensor};
use std::ffi::c_char;

/// The most dimensions of an array file.
const MAX_RANK: usize = 64;
/// The most rows of a picture.
const MAX_ROWS: usize = 65536;

/// One row of a picture of images. Set every field; those that a later version adds may be 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_grid_row {
    /// Text at the left, UTF-8; NULL for none.
    pub label: *const c_char,
    /// Images [count,C,H,W] with values around [-1, 1].
    pub images: *const f32,
    /// Number of images, the same in every row.
    pub count: usize,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only, all zeros included.
unsafe impl Item for fewstep_grid_row {
    const NAME: &'static str = "rows";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// # Safety
/// The pointers are NULL or valid as the header says.
unsafe fn save_npy<T: Element>(file: *const c_char, data: *const T, shape: *const usize, rank: usize) -> Result<()> {
    // SAFETY: as promised by the caller.
    unsafe {
        let file = path(file, "path")?;
        if rank > MAX_RANK {
            return Err(Error::invalid(format!("rank is {rank}; at most {MAX_RANK}")));
        }
        let shape = slice(shape, rank, "shape")?;
        let data = slice(data, product(shape, "shape")?, "data")?;
        io::save_npy(file, &Tensor::from_slice(shape, data)?)
    }
}

/// Saves floats as a NumPy `.npy` file, which appears whole or not at all. `shape` has `rank` elements, outermost first. `path` is UTF-8.
///
/// Any thread may call. Returns OK, INVALID_ARGUMENT, SHAPE, IO, NOT_FOUND (no such folder) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_save_npy_f32(path: *const c_char, data: *const f32, shape: *const usize, rank: usize) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { save_npy(path, data, shape, rank) })
}

/// The same for 32-bit integers.
///
/// Any thread may call. Returns OK, INVALID_ARGUMENT, SHAPE, IO, NOT_FOUND (no such folder) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_save_npy_i32(path: *const c_char, data: *const i32, shape: *const usize, rank: usize) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { save_npy(path, data, shape, rank) })
}

/// Saves a PNG with one labelled row of images for each element of `rows` (`row_stride` bytes apart: sizeof(fewstep_grid_row)). Images are
/// [C,H,W] with 1 (grey), 3 (RGB) or 4 (RGBA) channels; -1 is black, 1 is full, and every pixel becomes a square of `scale` dots. `path` is UTF-8.
///
/// Any thread may call. Returns OK, INVALID_ARGUMENT, SHAPE, NUMERIC, IO, NOT_FOUND (no such folder) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_save_image_grid(
    path: *const c_char,
    rows: *const fewstep_grid_row,
    row_count: usize,
    row_stride: usize,
    channels: u32,
    height: u32,
    width: u32,
    scale: u32,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let path = self::path(path, "path")?;
        if rows.is_null() {
            return Err(null("rows"));
        }
        let rows = options::array(rows, row_count, row_stride, MAX_ROWS)?;
        let shape = ImageShape { height: height as usize, width: width as usize, channels: channels as usize };
        if [shape.height, shape.width, shape.channels].contains(&0) {
            return Err(Error::invalid(format!("channels is {channels}, height is {height} and width is {width}; each must be at least 1")));
        }
        let mut images = memory::with_capacity(rows.len(), "rows of images")?;
        for (i, row) in rows.iter().enumerate() {
            let name = format!("rows[{i}]");
            let count = product(&[row.count, shape.channels, shape.height, shape.width], &name)?;
            let data = slice(row.images, count, &format!("{name}.images"))?;
            let label = optional_text(row.label, &format!("{name}.label"))?.unwrap_or("");
            images.push((label, to_nhwc(data, [shape.height, shape.width, shape.channels], &name)?));
        }
        let rows = memory::collect(images.iter().map(|(label, images)| GridRow { label, images }), "rows of images")?;
        io::save_grid(path, &rows, shape, scale as usize)
    })
}
