//! Datasets that the host fills, a batch at a time.

use super::boundary::{choice, ffi_boundary, product, to_nhwc};
use super::cancel::{Cancel, fewstep_cancel_token};
use super::conditioning::{self, fewstep_condition};
use super::dataset::*;
use super::error::fewstep_status;
use super::handle::{create, share};
use super::options::{self, Options, size_field};
use super::runtime::fewstep_runtime;
use crate::cancel::Stop;
use crate::distill::Dataset;
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::ConditionKind;
use crate::process::fp_environment::as_caller;
use crate::tensor::{Buffer, DType, Tensor};
use std::ffi::c_void;

/// The most images of one call.
const MAX_BATCH: u32 = 65_536;

/// A dataset that a callback fills. Fill it with fewstep_fill_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_fill_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// FEWSTEP_DTYPE_* of the values that are written; u8 by default.
    pub dtype: i32,
    /// FEWSTEP_LAYOUT_*; NHWC by default.
    pub layout: i32,
    /// Channels of an image.
    pub channels: u32,
    /// Rows of an image.
    pub height: u32,
    /// Columns of an image.
    pub width: u32,
    /// Images of one call at most, 1 to 65536; 64 by default.
    pub batch: u32,
    /// 0.
    pub reserved: u32,
    /// Number of images.
    pub count: usize,
    /// Value in the model's space = value written * scale + shift. By default 1/127.5 and -1, which maps bytes to [-1, 1].
    pub scale: f32,
    /// See scale.
    pub shift: f32,
    /// What is written for each image beside it, such as class labels: what fewstep_model_condition tells of a model, or what the host fills in. Of labels,
    /// `classes` is how many there are, or 0 where that is not to be checked. NULL by default. Copied.
    pub conditions: *const fewstep_condition,
    /// Elements of conditions.
    pub condition_count: usize,
    /// Bytes from one condition to the next; sizeof(fewstep_condition).
    pub condition_stride: usize,
    /// Stops the call with CANCELLED, between two calls of the callback; only read during it. NULL (the default) for none.
    pub cancel: *const fewstep_cancel_token,
}

/// What is to be written for some images. Only valid inside the callback. Later versions may have more fields: read no more than struct_size bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_fill {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Images of this call (N): all that are left, but no more than a batch.
    pub count: u32,
    /// The first one's number; the others follow.
    pub first: u64,
    /// A place for the images' values, of the type and in the layout that the options say. Bytes that are left as they are make a float NaN and a byte 255.
    pub images: *mut c_void,
    /// Bytes of images.
    pub images_size: usize,
    /// A place for each of the options' conditions: class labels int32_t [N], tokens float [N, length, width], vectors float [N, width], planes float
    /// [N, channels, H, W]. Bytes that are left as they are make a label -1.
    pub conditions: *const *mut c_void,
    /// Elements of conditions.
    pub condition_count: usize,
}

/// Writes what `batch` asks for, on the thread that made the call, and returns 0; anything else cancels: the call returns FEWSTEP_STATUS_CANCELLED. Must return
/// normally (no C++ exception, no longjmp).
pub type fewstep_fill_callback = Option<unsafe extern "C" fn(user: *mut c_void, batch: *const fewstep_fill) -> i32>;

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_fill_options {
    const NAME: &'static str = "fill options";
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            dtype: FEWSTEP_DTYPE_U8,
            layout: FEWSTEP_LAYOUT_NHWC,
            channels: 0,
            height: 0,
            width: 0,
            batch: 64,
            reserved: 0,
            count: 0,
            scale: 1.0 / 127.5,
            shift: -1.0,
            conditions: std::ptr::null(),
            condition_count: 0,
            condition_stride: size_of::<fewstep_condition>(),
            cancel: std::ptr::null(),
        }
    }
}

/// The options, checked.
struct Wanted {
    /// [count, H, W, C].
    shape: [usize; 4],
    floats: bool,
    nchw: bool,
    batch: usize,
    scale: f32,
    shift: f32,
    kinds: Vec<ConditionKind>,
}

impl Wanted {
    /// # Safety
    /// `o.conditions` is NULL or an array as count and stride say.
    unsafe fn read(o: &fewstep_fill_options) -> Result<Self> {
        if o.reserved != 0 {
            return Err(Error::invalid(format!("fill options: reserved is {}; it must be 0", o.reserved)));
        }
        if !(1..=MAX_BATCH).contains(&o.batch) {
            return Err(Error::invalid(format!("batch is {}; it must be 1 to {MAX_BATCH}", o.batch)));
        }
        let floats = choice(o.dtype, "dtype", &[(FEWSTEP_DTYPE_U8, false), (FEWSTEP_DTYPE_F32, true)])?;
        let nchw = choice(o.layout, "layout", &[(FEWSTEP_LAYOUT_NCHW, true), (FEWSTEP_LAYOUT_NHWC, false)])?;
        check_affine(o.scale, o.shift)?;
        let shape = [o.count, o.height as usize, o.width as usize, o.channels as usize];
        if shape.contains(&0) || o.count > i32::MAX as usize {
            let most = i32::MAX;
            return Err(Error::invalid(format!(
                "fill options: count, height, width and channels are {shape:?}; each must be at least 1, count at most {most}"
            )));
        }
        product(&shape, "dataset (count, height, width, channels)")?;
        // SAFETY: as promised by the caller.
        let kinds = unsafe { conditioning::kinds(o.conditions, o.condition_count, o.condition_stride, o.count, [shape[1], shape[2]])? };
        let batch = o.count.min(o.batch as usize);
        Ok(Self { shape, floats, nchw, batch, scale: o.scale, shift: o.shift, kinds })
    }

    fn size(&self) -> [usize; 2] {
        [self.shape[1], self.shape[2]]
    }

    /// Bytes of an image as it is written.
    fn image_bytes(&self) -> usize {
        let [_, h, w, c] = self.shape;
        h * w * c * if self.floats { 4 } else { 1 }
    }
}

/// A place that the host writes to, and the tensor that it goes on to.
struct Place {
    bytes: Buffer,
    rows: Tensor,
}

/// Where the host writes, and what has been written.
struct Filling<'a> {
    wanted: &'a Wanted,
    images: Place,
    conditions: Vec<Place>,
}

impl<'a> Filling<'a> {
    fn new(wanted: &'a Wanted) -> Result<Self> {
        let place = |bytes: Option<usize>, dtype: DType, shape: &[usize]| {
            let bytes = bytes.ok_or_else(|| Error::shape(format!("a batch of {} images is more than memory can hold", wanted.batch)))?;
            Ok(Place { bytes: Buffer::zeroed(bytes, "a batch to be filled")?, rows: Tensor::zeros(dtype, shape)? })
        };
        let images = place(wanted.image_bytes().checked_mul(wanted.batch), DType::F32, &wanted.shape)?;
        let conditions = wanted.kinds.iter().map(|kind| {
            let all = kind.rows(wanted.shape[0], wanted.size());
            let each = all.shape.get(1..).unwrap_or_default().iter().try_fold(all.dtype.size(), |n, d| n.checked_mul(*d));
            place(each.and_then(|each| each.checked_mul(wanted.batch)), all.dtype, &all.shape)
        });
        Ok(Self { wanted, images, conditions: memory::try_collect(conditions, "conditions")? })
    }

    /// Has the host write `count` images, and takes them.
    ///
    /// # Safety
    /// `fill` may be called with `user`.
    unsafe fn next(
        &mut self,
        fill: unsafe extern "C" fn(*mut c_void, *const fewstep_fill) -> i32,
        user: *mut c_void,
        first: usize,
        count: usize,
    ) -> Result<()> {
        let places = self.conditions.iter_mut().map(|place| {
            // What nobody writes is found: NaN, and a label below 0.
            place.bytes.bytes_mut().fill(0xff);
            place.bytes.as_ptr().cast::<c_void>()
        });
        let places = memory::collect(places, "conditions")?;
        self.images.bytes.bytes_mut().fill(0xff);
        let batch = fewstep_fill {
            struct_size: size_field::<fewstep_fill>(),
            count: count as u32, // at most MAX_BATCH
            first: first as u64,
            images: self.images.bytes.as_ptr().cast(),
            images_size: count * self.wanted.image_bytes(),
            conditions: places.as_ptr(),
            condition_count: places.len(),
        };
        // SAFETY: as promised by the caller, on its thread; the places have room for a whole batch.
        match as_caller(|| unsafe { fill(user, &batch) }) {
            0 => self.take(first, count),
            answer => Err(Error::cancelled(format!("cancelled by the fill callback, which returned {answer} for images {first} and on"))),
        }
    }

    fn take(&mut self, first: usize, count: usize) -> Result<()> {
        let Wanted { shape: [_, h, w, c], nchw, scale, shift, .. } = *self.wanted;
        let values = count * h * w * c;
        let out = &mut self.images.rows.as_mut_slice::<f32>()?[first * h * w * c..][..values];
        let bytes = &self.images.bytes.bytes()[..count * self.wanted.image_bytes()];
        match self.wanted.floats {
            true => convert(floats(bytes), [h, w, c], nchw, |v: [u8; 4]| f32::from_ne_bytes(v) * scale + shift, out),
            false => convert(bytes, [h, w, c], nchw, |v: u8| f32::from(v) * scale + shift, out),
        }
        if let Some(at) = out.iter().position(|v| !v.is_finite()) {
            return Err(Error::numeric(format!("the callback wrote a value for image {} that is not finite, or none", first + at / (h * w * c))));
        }
        for (kind, place) in self.wanted.kinds.iter().zip(&mut self.conditions) {
            let each = place.rows.bytes().len() / self.wanted.shape[0];
            let from = &place.bytes.bytes()[..count * each];
            let to = &mut place.rows.bytes_mut()[first * each..][..count * each];
            match *kind {
                ConditionKind::Planes { channels } => {
                    let planes = memory::collect(floats(from).iter().map(|v| f32::from_ne_bytes(*v)), "planes")?;
                    let moved = to_nhwc(&planes, [h, w, channels], "planes")?;
                    to.as_chunks_mut::<4>().0.iter_mut().zip(moved).for_each(|(to, v)| *to = v.to_ne_bytes());
                }
                _ => to.copy_from_slice(from),
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Dataset> {
        let mut dataset = Dataset::new(self.images.rows, None)?;
        for (kind, place) in self.wanted.kinds.iter().zip(self.conditions) {
            dataset = dataset.with(*kind, place.rows)?;
        }
        Ok(dataset)
    }
}

fn floats(bytes: &[u8]) -> &[[u8; 4]] {
    bytes.as_chunks().0
}

/// # Safety
/// `fill` may be called with `user`.
unsafe fn filled(wanted: &Wanted, fill: unsafe extern "C" fn(*mut c_void, *const fewstep_fill) -> i32, user: *mut c_void, stop: Stop) -> Result<Dataset> {
    let mut filling = Filling::new(wanted)?;
    for first in (0..wanted.shape[0]).step_by(wanted.batch) {
        stop.check()?;
        // SAFETY: as promised by the caller.
        unsafe { filling.next(fill, user, first, wanted.batch.min(wanted.shape[0] - first))? };
    }
    filling.finish()
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_fill_options_init(options: *mut fewstep_fill_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Makes a dataset of what a callback writes, a batch at a time: for data in a form of the host's own, of which there need never be more than a batch beside
/// the dataset. `fill` is called for images 0 to count - 1 in their order, only during this call, and may cancel it; `user` goes to it.
///
/// Ownership and threads as fewstep_dataset_create.
/// Returns OK, INVALID_ARGUMENT (also for a label that is negative, not written or beyond its classes), SHAPE (sizes that overflow), NUMERIC (a value that is
/// not finite, or a float that was not written), CANCELLED or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_dataset_create_filled(
    runtime: *const fewstep_runtime,
    options: *const fewstep_fill_options,
    fill: fewstep_fill_callback,
    user: *mut c_void,
    out: *mut *mut fewstep_dataset,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        let options = options::read(options)?;
        let fill = fill.ok_or_else(|| Error::invalid("fill is NULL: nobody would write the images"))?;
        let cancel = Cancel::new(options.cancel)?;
        let wanted = Wanted::read(&options)?;
        create(out, || Ok(DatasetHandle::new(runtime.clone(), filled(&wanted, fill, user, runtime.stop_or(&cancel))?)))
    })
}
