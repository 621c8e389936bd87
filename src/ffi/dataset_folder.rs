//! Datasets of the pictures in a folder.

use super::boundary::{check_out, choice, ffi_boundary, flag, path, put};
use super::callback::{FEWSTEP_PHASE_OPEN, Watch, fewstep_progress, fewstep_progress_callback};
use super::cancel::fewstep_cancel_token;
use super::dataset::{DatasetHandle, LeftOut, Origin, check_affine, fewstep_dataset};
use super::error::fewstep_status;
use super::extent::read_size;
use super::handle::{create, share};
use super::options::{self, Options, Report, check_report, size_field, write_report};
use super::runtime::{FEWSTEP_LOG_WARNING, Runtime, fewstep_runtime};
use crate::distill::picture_dataset::{self, PictureDataset, PictureOptions};
use crate::error::{Error, Result};
use crate::io::picture_folder::{Classes, Skip, Skipped};
use crate::io::resample::Fit;
use crate::memory;
use std::ffi::{CString, c_char, c_void};
use std::path::Path;

/// Folders are classes where there are some and no picture lies beside them; pictures beside folders are INVALID_ARGUMENT, for it could be meant either way.
pub const FEWSTEP_FOLDERS_AUTO: i32 = 1;
/// The pictures lie in the folder itself, and have no labels; folders in it are left out.
pub const FEWSTEP_FOLDERS_IGNORED: i32 = 2;
/// Each folder in it is a class; files beside them are left out.
pub const FEWSTEP_FOLDERS_CLASSES: i32 = 3;

/// A picture of another shape is cut: what is beyond the shape of the images, as much at either end.
pub const FEWSTEP_FIT_CROP: i32 = 1;
/// A picture of another shape is stretched.
pub const FEWSTEP_FIT_STRETCH: i32 = 2;

/// What is made of a folder's pictures. Fill it with fewstep_folder_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_folder_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Channels of the images: 3 (RGB, the default) or 1 (grey: 0.299 red + 0.587 green + 0.114 blue).
    pub channels: u32,
    /// Rows of the images; 0 (the default), with a width of 0, for the size of the first picture that can be read.
    pub height: u32,
    /// Columns of the images; see height.
    pub width: u32,
    /// FEWSTEP_FOLDERS_*; AUTO by default.
    pub folders: i32,
    /// FEWSTEP_FIT_*; CROP by default.
    pub fit: i32,
    /// 1: each image is there a second time, mirrored left to right; these copies come behind all others, in the same order. 0 by default.
    pub mirror: i32,
    /// 0.
    pub reserved: u32,
    /// Value in the model's space = value of the picture, 0 to 255, * scale + shift. By default 1/127.5 and -1: images are in [-1, 1].
    pub scale: f32,
    /// See scale.
    pub shift: f32,
    /// Images of each class (or of the folder, without classes) at most, mirrored copies not counted: those whose names come first. 0 (the default) for all.
    pub max_images: u64,
    /// Bytes of the images in memory at most, four for each value; more is OUT_OF_MEMORY, before the memory is asked for. 4 GiB by default.
    pub max_bytes: u64,
    /// Pixels of a picture at most; a file that says it has more is left out before it is decoded. Decoding one takes up to 8 bytes a pixel for a while, or 23
    /// of a JPEG file. 2^26 by default.
    pub max_pixels: u64,
    /// Bytes of a file at most; a longer one is left out before it is read. 256 MiB by default.
    pub max_file_bytes: u64,
    /// Stops the call with CANCELLED, between two files; only read during it. NULL (the default) for none.
    pub cancel: *const fewstep_cancel_token,
}

/// A file or folder that was left out of a dataset. Set struct_size before fewstep_dataset_skipped fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_skipped {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// FEWSTEP_STATUS_*: of what kind the reason is. CORRUPT_FILE for damaged pictures and files that are too long, UNSUPPORTED for what is none, or too large,
    /// or in the wrong place, IO and NOT_FOUND for what could not be read.
    pub status: fewstep_status,
    /// Where it lies: the path that was given to fewstep_dataset_open_folder, and its own in it. Lives as long as the dataset.
    pub path: *const c_char,
    /// Why it was left out, a sentence. Lives as long as the dataset.
    pub reason: *const c_char,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_folder_options {
    const NAME: &'static str = "folder options";
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        let PictureOptions { scale, shift, max_bytes, max_pixels, max_file_bytes, .. } = PictureOptions::default();
        Self {
            struct_size: size_field::<Self>(),
            channels: 3,
            height: 0,
            width: 0,
            folders: FEWSTEP_FOLDERS_AUTO,
            fit: FEWSTEP_FIT_CROP,
            mirror: 0,
            reserved: 0,
            scale,
            shift,
            max_images: 0,
            max_bytes,
            max_pixels,
            max_file_bytes,
            cancel: std::ptr::null(),
        }
    }
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Report for fewstep_skipped {
    const NAME: &'static str = "skipped";
    const FIRST_SIZE: usize = size_of::<Self>();
}

fn read(o: &fewstep_folder_options) -> Result<PictureOptions> {
    if o.channels != 1 && o.channels != 3 {
        return Err(Error::invalid(format!("channels is {}; it must be 1 (grey) or 3 (RGB)", o.channels)));
    }
    if o.reserved != 0 {
        return Err(Error::invalid(format!("folder options: reserved is {}; it must be 0", o.reserved)));
    }
    for (name, limit) in [("max_bytes", o.max_bytes), ("max_pixels", o.max_pixels), ("max_file_bytes", o.max_file_bytes)] {
        if limit == 0 {
            return Err(Error::invalid(format!("{name} is 0: no picture could be read (was the struct initialised?)")));
        }
    }
    check_affine(o.scale, o.shift)?;
    let folders = [(FEWSTEP_FOLDERS_AUTO, Classes::Auto), (FEWSTEP_FOLDERS_IGNORED, Classes::None), (FEWSTEP_FOLDERS_CLASSES, Classes::Folders)];
    Ok(PictureOptions {
        classes: choice(o.folders, "folders", &folders)?,
        size: read_size(o.height, o.width)?,
        channels: o.channels as usize,
        fit: choice(o.fit, "fit", &[(FEWSTEP_FIT_CROP, Fit::Crop), (FEWSTEP_FIT_STRETCH, Fit::Stretch)])?,
        mirror: flag(o.mirror, "mirror")?,
        scale: o.scale,
        shift: o.shift,
        max_images: if o.max_images == 0 { usize::MAX } else { usize::try_from(o.max_images).unwrap_or(usize::MAX) },
        max_bytes: o.max_bytes,
        max_pixels: o.max_pixels,
        max_file_bytes: o.max_file_bytes,
    })
}

/// A text as C takes it.
fn text(text: &str) -> Result<CString> {
    memory::check()?;
    CString::new(text.replace('\0', "\u{fffd}")).map_err(|_| Error::internal("a text with a NUL"))
}

fn origin(classes: &[String], skipped: &Skipped) -> Result<Origin> {
    let row = |skip: &Skip| Ok(LeftOut { path: text(&skip.path)?, reason: text(&skip.error.message)?, status: skip.error.status as fewstep_status });
    Ok(Origin {
        classes: memory::try_collect(classes.iter().map(|name| text(name)), "the classes' names")?,
        skipped: skipped.count,
        listed: memory::try_collect(skipped.listed.iter().map(row), "what was left out")?,
    })
}

fn warn(runtime: &Runtime, folder: &Path, skipped: &Skipped) {
    if let Some(first) = skipped.listed.first() {
        let (count, folder) = (skipped.count, folder.display());
        let told = format!("{folder}: {count} files or folders were left out, the first for this reason: {}: {}", first.path, first.error.message);
        runtime.log(FEWSTEP_LOG_WARNING, &told);
    }
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_folder_options_init(options: *mut fewstep_folder_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Makes a dataset of the pictures in a folder: PNG and JPEG files, whatever their names end in. Where folders are classes, those in `path` get labels from 0
/// on in the order of their names, and the pictures that lie in them theirs; a class without a picture keeps its label. Folders in those are not looked into,
/// and names that begin with a dot are left out. Links are followed. Names are sorted by their bytes, so the same folder gives the same bytes.
///
/// Pictures become images of one size: they are cut or stretched to its shape (`fit`), then resampled by the Catmull-Rom spline (Pillow's BICUBIC), which is
/// widened where they become smaller, so that nothing aliases. 16 bits a channel count in full; palettes are looked up; what is transparent lies on white;
/// the orientation that a camera noted is applied; colour profiles are not. Of an animated file the first picture counts.
///
/// A file that cannot be read, is no picture, is damaged, was cut off or is beyond a limit is left out: fewstep_dataset_info counts such files,
/// fewstep_dataset_skipped tells the reason for each, and the runtime's log has a warning. Memory that the system refuses ends the call instead. Bits that
/// changed in a JPEG file are not always found, for the format has no checksum.
///
/// JPEG files are decoded on a thread of the library that ends with its file, for the sake of the caller's stack.
///
/// `options` may be NULL for the defaults. `progress` may be NULL, is called after each file and reports FEWSTEP_PHASE_OPEN; `user` goes to it.
/// Ownership and threads as fewstep_dataset_create.
/// Returns OK, INVALID_ARGUMENT (also for pictures beside folders), NOT_FOUND (no such folder, or no picture in it that can be read; the sentence has the first
/// reasons), IO, UNSUPPORTED (more than 2^24 names), OUT_OF_MEMORY (also for more than max_bytes) or CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_dataset_open_folder(
    runtime: *const fewstep_runtime,
    path: *const c_char,
    options: *const fewstep_folder_options,
    progress: fewstep_progress_callback,
    user: *mut c_void,
    out: *mut *mut fewstep_dataset,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        let folder = self::path(path, "path")?;
        let options = options::read(options)?;
        let watch = Watch::new(progress, user, options.cancel)?;
        let wanted = read(&options)?;
        create(out, || {
            let mut report = |done: usize, total: usize| watch.report(&fewstep_progress::new(FEWSTEP_PHASE_OPEN, done as u64, total as u64));
            let PictureDataset { dataset, classes, skipped } = picture_dataset::open(folder, &wanted, &mut report, watch.stop(&runtime))?;
            warn(&runtime, folder, &skipped);
            Ok(DatasetHandle::with_origin(runtime.clone(), dataset, origin(&classes, &skipped)?))
        })
    })
}

/// Fills `*out`, whose struct_size the caller has set, with what was left out and why: `index` is less than the info's skipped_listed.
///
/// Any thread may call, also while others use the dataset. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_dataset_skipped(dataset: *const fewstep_dataset, index: usize, out: *mut fewstep_skipped) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let dataset = share(dataset)?;
        let size = check_report(out)?;
        let listed = &dataset.origin.listed;
        let found = listed.get(index).ok_or_else(|| Error::invalid(format!("index is {index}; {} are listed", listed.len())))?;
        let row =
            fewstep_skipped { struct_size: size_field::<fewstep_skipped>(), status: found.status, path: found.path.as_ptr(), reason: found.reason.as_ptr() };
        write_report(out, size, row);
        Ok(())
    })
}

/// Writes to `*out` the name of the folder whose pictures have this label, which is less than the info's class_names. What is not UTF-8 of the name is
/// replaced. The text lives as long as the dataset.
///
/// Any thread may call, also while others use the dataset. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_dataset_class_name(dataset: *const fewstep_dataset, label: usize, out: *mut *const c_char) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let dataset = share(dataset)?;
        check_out(out, "out")?;
        let names = &dataset.origin.classes;
        let name = names.get(label).ok_or_else(|| Error::invalid(format!("label is {label}; {} classes have names", names.len())))?;
        put(out, name.as_ptr());
        Ok(())
    })
}
