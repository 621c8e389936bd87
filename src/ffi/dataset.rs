//! Datasets: images and labels copied from the host or read from NumPy's files.

use super::boundary::{choice, ffi_boundary, optional_text, path, product, slice, text};
use super::conditioning::{self, fewstep_conditioning};
use super::error::fewstep_status;
use super::handle::{self, Opaque, create, share};
use super::options::{self, Options, Report, check_report, size_field, write_report};
use super::runtime::{Runtime, fewstep_runtime};
use crate::distill::Dataset;
use crate::error::{Error, Result};
use crate::io::npy::{NpyArray, NpzFile, open_npy};
use crate::nn::conditions::Values;
use crate::tensor::{DType, Tensor};
use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::sync::Arc;

/// Unsigned bytes.
pub const FEWSTEP_DTYPE_U8: i32 = 1;
/// 32-bit floats.
pub const FEWSTEP_DTYPE_F32: i32 = 2;

/// Images one after the other, each channel a plane.
pub const FEWSTEP_LAYOUT_NCHW: i32 = 1;
/// Images one after the other, the channels of a pixel side by side.
pub const FEWSTEP_LAYOUT_NHWC: i32 = 2;

/// Images, and labels where there are classes, that trainers draw from. Immutable.
pub struct fewstep_dataset {
    _private: [u8; 0],
}

/// Where a dataset's images lie and how they become numbers around 0. Fill it with fewstep_dataset_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_dataset_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// FEWSTEP_DTYPE_* of the values; u8 by default.
    pub dtype: i32,
    /// FEWSTEP_LAYOUT_*; NHWC by default.
    pub layout: i32,
    /// Channels of an image.
    pub channels: u32,
    /// Rows of an image.
    pub height: u32,
    /// Columns of an image.
    pub width: u32,
    /// Number of images.
    pub count: usize,
    /// The values; copied.
    pub data: *const c_void,
    /// Bytes of data; must be what the numbers above make.
    pub data_size: usize,
    /// One label for each image, or NULL (the default); copied.
    pub labels: *const i32,
    /// Elements of labels: count, or 0 without labels.
    pub label_count: usize,
    /// Value in the model's space = value in data * scale + shift. By default 1/127.5 and -1, which maps bytes to [-1, 1].
    pub scale: f32,
    /// See scale.
    pub shift: f32,
    /// What models are given with each image beside labels, such as planes: values for all images. NULL by default. Copied.
    pub conditionings: *const fewstep_conditioning,
    /// Elements of conditionings.
    pub conditioning_count: usize,
    /// Bytes from one conditioning to the next; sizeof(fewstep_conditioning).
    pub conditioning_stride: usize,
}

/// What a dataset is. Set struct_size before fewstep_dataset_get_info fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_dataset_info {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// 1 when each image has a label.
    pub has_labels: i32,
    /// Number of images.
    pub count: u64,
    /// Bytes in memory.
    pub bytes: u64,
    /// Channels of an image.
    pub channels: u32,
    /// Rows of an image.
    pub height: u32,
    /// Columns of an image.
    pub width: u32,
    /// One more than the largest label; 0 without labels.
    pub classes: u32,
    /// Files and folders that fewstep_dataset_open_folder left out.
    pub skipped: u64,
    /// Those of them that fewstep_dataset_skipped tells of: all, but at most 10,000.
    pub skipped_listed: u32,
    /// Names that fewstep_dataset_class_name tells: those of the folders that are classes; 0 for other datasets.
    pub class_names: u32,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_dataset_options {
    const NAME: &'static str = "dataset options";
    const FIRST_SIZE: usize = std::mem::offset_of!(Self, conditionings);
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            dtype: FEWSTEP_DTYPE_U8,
            layout: FEWSTEP_LAYOUT_NHWC,
            channels: 0,
            height: 0,
            width: 0,
            count: 0,
            data: std::ptr::null(),
            data_size: 0,
            labels: std::ptr::null(),
            label_count: 0,
            scale: 1.0 / 127.5,
            shift: -1.0,
            conditionings: std::ptr::null(),
            conditioning_count: 0,
            conditioning_stride: size_of::<fewstep_conditioning>(),
        }
    }
}

// SAFETY: repr(C), numbers only, no gap.
unsafe impl Report for fewstep_dataset_info {
    const NAME: &'static str = "dataset info";
    const FIRST_SIZE: usize = std::mem::offset_of!(Self, skipped);
}

/// What a dataset handle owns.
pub(crate) struct DatasetHandle {
    /// Kept alive, as every child does.
    _runtime: Arc<Runtime>,
    /// The data itself; trainers share its tensors.
    pub(crate) dataset: Dataset,
    /// What else is known of a folder's.
    pub(super) origin: Origin,
}

/// What a folder was, beside its pictures.
#[derive(Default)]
pub(super) struct Origin {
    /// The classes' names by their labels.
    pub classes: Vec<CString>,
    /// All that was left out.
    pub skipped: u64,
    /// What is known of the first of it.
    pub listed: Vec<LeftOut>,
}

/// One file or folder that was left out.
pub(super) struct LeftOut {
    pub path: CString,
    pub reason: CString,
    pub status: fewstep_status,
}

impl Opaque for fewstep_dataset {
    type Inner = DatasetHandle;
    const NAME: &'static str = "dataset";
    const TAG: u64 = u64::from_le_bytes(*b"fs.datas");
}

impl DatasetHandle {
    /// Of data whose origin says nothing more.
    pub(super) fn new(runtime: Arc<Runtime>, dataset: Dataset) -> Self {
        Self { _runtime: runtime, dataset, origin: Origin::default() }
    }

    /// Of a folder's pictures.
    pub(super) fn with_origin(runtime: Arc<Runtime>, dataset: Dataset, origin: Origin) -> Self {
        Self { _runtime: runtime, dataset, origin }
    }

    fn info(&self) -> Result<fewstep_dataset_info> {
        let shape = self.dataset.images().shape();
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let labels = self.dataset.labels().map(|l| l.as_slice::<i32>()).transpose()?;
        let largest = labels.and_then(|l| l.iter().max().copied());
        let condition_bytes: usize = self.dataset.conditions().iter().map(|(_, rows)| rows.bytes().len()).sum();
        Ok(fewstep_dataset_info {
            struct_size: size_field::<fewstep_dataset_info>(),
            has_labels: i32::from(labels.is_some()),
            count: self.dataset.len() as u64,
            bytes: (self.dataset.images().bytes().len() + condition_bytes) as u64,
            channels: narrow(shape[3]),
            height: narrow(shape[1]),
            width: narrow(shape[2]),
            classes: largest.map_or(0, |l| l.unsigned_abs().saturating_add(1)),
            skipped: self.origin.skipped,
            skipped_listed: narrow(self.origin.listed.len()),
            class_names: narrow(self.origin.classes.len()),
        })
    }
}

/// Writes what values in NHWC or NCHW order become, as NHWC; `size` is [H, W, C].
pub(super) fn convert<T: Copy>(data: &[T], [h, w, c]: [usize; 3], nchw: bool, map: impl Fn(T) -> f32, out: &mut [f32]) {
    if !nchw {
        out.iter_mut().zip(data).for_each(|(o, v)| *o = map(*v));
        return;
    }
    for (to, from) in out.chunks_exact_mut(h * w * c).zip(data.chunks_exact(h * w * c)) {
        for (k, plane) in from.chunks_exact(h * w).enumerate() {
            plane.iter().enumerate().for_each(|(at, v)| to[at * c + k] = map(*v));
        }
    }
}

pub(super) fn check_affine(scale: f32, shift: f32) -> Result<()> {
    match [("scale", scale), ("shift", shift)].iter().find(|(_, v)| !v.is_finite()) {
        Some((name, v)) => Err(Error::numeric(format!("{name} is {v}; it must be finite"))),
        None => Ok(()),
    }
}

/// # Safety
/// The pointers in `o` are NULL or arrays as their counts say.
unsafe fn from_options(o: &fewstep_dataset_options) -> Result<Dataset> {
    let size = choice(o.dtype, "dtype", &[(FEWSTEP_DTYPE_U8, 1), (FEWSTEP_DTYPE_F32, 4)])?;
    let nchw = choice(o.layout, "layout", &[(FEWSTEP_LAYOUT_NCHW, true), (FEWSTEP_LAYOUT_NHWC, false)])?;
    check_affine(o.scale, o.shift)?;
    let shape = [o.count, o.height as usize, o.width as usize, o.channels as usize];
    if shape.contains(&0) {
        return Err(Error::invalid(format!("dataset options: count, height, width and channels are {shape:?}; each must be at least 1")));
    }
    let count = product(&shape, "dataset (count, height, width, channels)")?;
    if o.data_size != count * size {
        return Err(Error::shape(format!("data_size is {}; {shape:?} (count, height, width, channels) needs {} bytes", o.data_size, count * size)));
    }
    let (scale, shift) = (o.scale, o.shift);
    let [_, size @ ..] = shape;
    let into = |images: &mut Tensor| {
        let out = images.as_mut_slice::<f32>()?;
        // SAFETY: as promised by the caller.
        unsafe {
            match o.dtype {
                FEWSTEP_DTYPE_U8 => convert(slice(o.data.cast::<u8>(), count, "data")?, size, nchw, |v| f32::from(v) * scale + shift, out),
                _ => convert(slice(o.data.cast::<f32>(), count, "data")?, size, nchw, |v| v * scale + shift, out),
            }
        }
        Ok(())
    };
    let mut images = Tensor::zeros(DType::F32, &shape)?;
    into(&mut images)?;
    // SAFETY: as promised by the caller.
    let labels = unsafe { slice(o.labels, o.label_count, "labels")? };
    if !o.labels.is_null() && o.label_count == 0 {
        return Err(Error::shape(format!("labels is given but label_count is 0; it must be {}", o.count)));
    }
    let labels = if labels.is_empty() { None } else { Some(Tensor::from_slice(&[labels.len()], labels)?) };
    let mut dataset = Dataset::new(images, labels)?;
    // SAFETY: as promised by the caller.
    let given = unsafe { conditioning::read(o.conditionings, o.conditioning_count, o.conditioning_stride, o.count, [shape[1], shape[2]])? };
    for (kind, held) in &given {
        let ty = kind.rows(o.count, [shape[1], shape[2]]);
        let rows = match held.values() {
            Values::I32(labels) if labels.len() == o.count => Tensor::from_slice(&[o.count], labels)?,
            Values::I32(labels) => return Err(Error::shape(format!("expected {} labels, found {}", o.count, labels.len()))),
            Values::F32(values) => Tensor::from_slice(&ty.shape, values)?,
        };
        dataset = dataset.with(*kind, rows)?;
    }
    Ok(dataset)
}

fn from_npz(path: &Path, images: &str, labels: Option<&str>, scale: f32, shift: f32) -> Result<Dataset> {
    let mut file = NpzFile::open(path)?;
    let images = images_from(file.array(images)?, scale, shift)?;
    let labels = labels.map(|name| labels_from(file.array(name)?)).transpose()?;
    Dataset::new(images, labels).map_err(|e| e.context(path.display()))
}

fn from_npy(images: &Path, labels: Option<&Path>, scale: f32, shift: f32) -> Result<Dataset> {
    let tensor = images_from(open_npy(images)?, scale, shift)?;
    let labels = labels.map(|path| labels_from(open_npy(path)?)).transpose()?;
    Dataset::new(tensor, labels).map_err(|e| e.context(images.display()))
}

fn images_from(array: NpyArray, scale: f32, shift: f32) -> Result<Tensor> {
    check_affine(scale, shift)?;
    let shape = match *array.shape() {
        [m, h, w] => [m, h, w, 1],
        [m, h, w, c] => [m, h, w, c],
        _ => return Err(array.named(Error::shape(format!("expected [M,H,W] or [M,H,W,C], found {:?}", array.shape())))),
    };
    array.into_f32(&shape, |v| v * scale + shift)
}

/// Labels [M] or, as columns of tables are, [M,1].
fn labels_from(array: NpyArray) -> Result<Tensor> {
    match *array.shape() {
        [m] | [m, 1] => array.into_i32(&[m]),
        _ => Err(array.named(Error::shape(format!("labels must be [M] or [M,1], found {:?}", array.shape())))),
    }
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_dataset_options_init(options: *mut fewstep_dataset_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Makes a dataset from the host's arrays, which are copied.
///
/// The caller owns `*out` and gives it to fewstep_dataset_destroy; it keeps the runtime alive. Any thread may call.
/// Returns OK, INVALID_ARGUMENT (also for a negative label), SHAPE, NUMERIC (a value that is not finite) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_dataset_create(
    runtime: *const fewstep_runtime,
    options: *const fewstep_dataset_options,
    out: *mut *mut fewstep_dataset,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        let options = options::read(options)?;
        create(out, || Ok(DatasetHandle::new(runtime.clone(), from_options(&options)?)))
    })
}

/// Reads a dataset from a NumPy `.npz` archive (numpy.savez, savez_compressed): images [M,H,W] (one channel) or [M,H,W,C] of floats of 16 to 64 bits,
/// integers of 8 to 64 bits or bools in either byte order, and labels [M] or [M,1] of any integer type where `labels_name` is not NULL. Values become
/// float32 first; value in the model's space = value in the file * scale + shift; 1/127.5 and -1 map bytes to [-1, 1].
///
/// What an archive says is checked against its own length before there is memory for it. A deflated array of more than 16 MiB that would unpack to more
/// than 512 times what it takes in the file is UNSUPPORTED: it was made to cost, or should be saved uncompressed.
///
/// Ownership and threads as fewstep_dataset_create.
/// Returns OK, INVALID_ARGUMENT, NOT_FOUND (the file, or an array in it), IO, CORRUPT_FILE, VERSION_MISMATCH (a later npy format), SHAPE, UNSUPPORTED,
/// NUMERIC or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_dataset_open_npz(
    runtime: *const fewstep_runtime,
    path: *const c_char,
    images_name: *const c_char,
    labels_name: *const c_char,
    scale: f32,
    shift: f32,
    out: *mut *mut fewstep_dataset,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        let path = self::path(path, "path")?;
        let (images, labels) = (text(images_name, "images_name")?, optional_text(labels_name, "labels_name")?);
        create(out, || Ok(DatasetHandle::new(runtime.clone(), from_npz(path, images, labels, scale, shift)?)))
    })
}

/// Reads a dataset from NumPy's `.npy` files (numpy.save): images from one, and labels from another where `labels_path` is not NULL. What they may hold, and
/// `scale` and `shift`, as fewstep_dataset_open_npz.
///
/// Ownership, threads and codes as fewstep_dataset_create; also NOT_FOUND, IO, CORRUPT_FILE, VERSION_MISMATCH (a later npy format) and UNSUPPORTED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_dataset_open_npy(
    runtime: *const fewstep_runtime,
    images_path: *const c_char,
    labels_path: *const c_char,
    scale: f32,
    shift: f32,
    out: *mut *mut fewstep_dataset,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        let images = path(images_path, "images_path")?;
        let labels = if labels_path.is_null() { None } else { Some(path(labels_path, "labels_path")?) };
        create(out, || Ok(DatasetHandle::new(runtime.clone(), from_npy(images, labels, scale, shift)?)))
    })
}

/// Fills `*out`, whose struct_size the caller has set.
///
/// Any thread may call, also while others use the dataset. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_dataset_get_info(dataset: *const fewstep_dataset, out: *mut fewstep_dataset_info) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let dataset = share(dataset)?;
        let size = check_report(out)?;
        write_report(out, size, dataset.info()?);
        Ok(())
    })
}

/// Destroys a dataset. NULL is fine. Trainers made from it keep what they need.
///
/// Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the dataset (nothing happens then).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_dataset_destroy(dataset: *mut fewstep_dataset) -> fewstep_status {
    // SAFETY: `dataset` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe { handle::destroy(dataset) })
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
