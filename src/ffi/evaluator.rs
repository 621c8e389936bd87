//! Evaluators: one evaluation of a network on the host's arrays.

use super::boundary::{ffi_boundary, null, slice, slice_mut, to_nchw, to_nhwc};
use super::cancel::{Cancel, fewstep_cancel_token};
use super::conditioning::{self, fewstep_conditioning};
use super::error::fewstep_status;
use super::extent::{check_extent, read_size};
use super::handle::{self, Opaque, create, exclusive, share};
use super::model::fewstep_model;
use super::options::{self, Options, Report, check_report, size_field, write_report};
use super::precision::{FEWSTEP_PRECISION_F32, precision};
use super::runtime::{Runtime, fewstep_runtime};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::nn::Model;
use crate::sampling::Evaluator;
use std::sync::Arc;

/// A planned evaluation of a model's network with its memory. One thread at a time; many evaluators may share one model.
pub struct fewstep_evaluator {
    _private: [u8; 0],
}

/// What an evaluation is planned for. Fill it with fewstep_evaluator_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_evaluator_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Images side by side; 1 by default.
    pub batch: u32,
    /// Height of the images; 0 (the default) for the model's.
    pub height: u32,
    /// Width of the images; 0 (the default) for the model's.
    pub width: u32,
    /// FEWSTEP_PRECISION_*: what the network computes in; f32 by default.
    pub precision: i32,
    /// 0.
    pub reserved: u32,
    /// Stops fewstep_evaluator_create with CANCELLED; only read during that call. NULL (the default) for none.
    pub cancel: *const fewstep_cancel_token,
}

/// What one evaluation reads. Fill it with fewstep_evaluation_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_evaluation {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Noisy images x_t [N,C,H,W].
    pub x_t: *const f32,
    /// Elements of x_t: N*C*H*W.
    pub x_t_count: usize,
    /// Timestep of each image; any finite number, but networks are trained on 0 to num_train_timesteps - 1, and one with rounded inputs takes those alone that the
    /// steps of its own grid begin at.
    pub timesteps: *const f32,
    /// Elements of timesteps: N.
    pub timestep_count: usize,
    /// Conditionings; all that fewstep_model_condition lists. NULL by default.
    pub conditionings: *const fewstep_conditioning,
    /// Elements of conditionings.
    pub conditioning_count: usize,
    /// Bytes from one conditioning to the next; sizeof(fewstep_conditioning).
    pub conditioning_stride: usize,
}

/// What an evaluator is. Set struct_size before fewstep_evaluator_get_info fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_evaluator_info {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// Images side by side (N).
    pub batch: u32,
    /// Channels of x_t (C).
    pub channels: u32,
    /// Channels of the output: those of x_t, or twice as many where the network gives a variance behind its prediction.
    pub out_channels: u32,
    /// Rows of an image (H).
    pub height: u32,
    /// Columns of an image (W).
    pub width: u32,
    /// All the memory that the evaluator holds, on the host and on a GPU, beside the model's weights.
    pub total_bytes: u64,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_evaluator_options {
    const NAME: &'static str = "evaluator options";
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        let struct_size = size_field::<Self>();
        Self { struct_size, batch: 1, height: 0, width: 0, precision: FEWSTEP_PRECISION_F32, reserved: 0, cancel: std::ptr::null() }
    }
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_evaluation {
    const NAME: &'static str = "evaluation";
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            reserved: 0,
            x_t: std::ptr::null(),
            x_t_count: 0,
            timesteps: std::ptr::null(),
            timestep_count: 0,
            conditionings: std::ptr::null(),
            conditioning_count: 0,
            conditioning_stride: size_of::<fewstep_conditioning>(),
        }
    }
}

// SAFETY: repr(C), numbers only, no gap.
unsafe impl Report for fewstep_evaluator_info {
    const NAME: &'static str = "evaluator info";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// What an evaluator handle owns.
pub(crate) struct EvaluatorHandle {
    /// Kept alive, as every child does.
    runtime: Arc<Runtime>,
    evaluator: Evaluator,
}

impl Opaque for fewstep_evaluator {
    type Inner = EvaluatorHandle;
    const NAME: &'static str = "evaluator";
    const TAG: u64 = u64::from_le_bytes(*b"fs.evalu");
}

impl EvaluatorHandle {
    fn new(runtime: Arc<Runtime>, model: &Model, o: &fewstep_evaluator_options, stop: Stop) -> Result<Self> {
        if o.batch == 0 || o.reserved != 0 {
            return Err(Error::invalid(format!("batch is {} and reserved {}; they must be at least 1 and 0", o.batch, o.reserved)));
        }
        let size = read_size(o.height, o.width)?.map_or_else(|| model.size(), Ok)?;
        check_extent(model, o.batch as usize, size)?;
        let evaluator = Evaluator::new_until(runtime.backend.as_ref(), model, o.batch as usize, size, precision(o.precision)?, stop)?;
        Ok(Self { runtime, evaluator })
    }

    /// # Safety
    /// The pointers in `e` are NULL or arrays as their counts and strides say.
    unsafe fn run(&mut self, e: &fewstep_evaluation, out: &mut [f32]) -> Result<()> {
        if e.reserved != 0 {
            return Err(Error::invalid("evaluation: reserved must be 0"));
        }
        let [n, h, w, c] = self.evaluator.shape();
        // SAFETY: as promised by the caller.
        let (x, t, given) = unsafe {
            let given = conditioning::read(e.conditionings, e.conditioning_count, e.conditioning_stride, n, [h, w])?;
            (slice(e.x_t, e.x_t_count, "x_t")?, slice(e.timesteps, e.timestep_count, "timesteps")?, given)
        };
        if x.len() != n * h * w * c {
            return Err(Error::shape(format!("x_t_count is {}; [{n},{c},{h},{w}] has {} elements", x.len(), n * h * w * c)));
        }
        let x = to_nhwc(x, [h, w, c], "x_t")?;
        let given = crate::memory::collect(given.iter().map(|(kind, held)| (*kind, held.values())), "conditionings")?;
        let (channels, runtime) = (self.evaluator.out_channels(), self.runtime.clone());
        to_nchw(&self.evaluator.run(&x, t, &given, runtime.stop())?, [h, w, channels], out);
        Ok(())
    }

    fn info(&self) -> fewstep_evaluator_info {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let [batch, h, w, c] = self.evaluator.shape();
        fewstep_evaluator_info {
            struct_size: size_field::<fewstep_evaluator_info>(),
            batch: narrow(batch),
            channels: narrow(c),
            out_channels: narrow(self.evaluator.out_channels()),
            height: narrow(h),
            width: narrow(w),
            total_bytes: self.evaluator.memory().total() as u64,
        }
    }
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_evaluator_options_init(options: *mut fewstep_evaluator_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Writes the defaults to `*evaluation`, whose size the caller gives: sizeof *evaluation.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_evaluation_init(evaluation: *mut fewstep_evaluation, struct_size: usize) -> fewstep_status {
    // SAFETY: `evaluation` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(evaluation, struct_size) })
}

/// Plans an evaluation of a model's network and takes all of its memory. For whoever has a sampler of their own, or looks at what a network says. `options`
/// may be NULL for the defaults. The weights are shared.
///
/// The caller owns `*out` and gives it to fewstep_evaluator_destroy; it keeps what it needs of runtime and model alive. Any thread may call.
/// Returns OK, INVALID_ARGUMENT, SHAPE (a size that the model cannot take), UNSUPPORTED, CANCELLED or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_evaluator_create(
    runtime: *const fewstep_runtime,
    model: *const fewstep_model,
    options: *const fewstep_evaluator_options,
    out: *mut *mut fewstep_evaluator,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, model) = (share(runtime)?, share(model)?);
        let options = options::read(options)?;
        let cancel = Cancel::new(options.cancel)?;
        create(out, || EvaluatorHandle::new(runtime.clone(), &model.model, &options, runtime.stop_or(&cancel)))
    })
}

/// Evaluates the network once: its output as it is, not clipped and not guided, [N,out_channels,H,W], to `out`, which has room for `capacity` elements. What
/// the output reads as is the model's prediction type. Waits until a GPU is done.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT (also for labels out of range, or a conditioning that is missing, or that the model does not take),
/// SHAPE, NUMERIC (a number that is not finite, given or computed), UNSUPPORTED (a timestep off the grid of a model with rounded inputs),
/// CANCELLED (by the runtime's token), STATE or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_evaluator_run(
    evaluator: *mut fewstep_evaluator,
    evaluation: *const fewstep_evaluation,
    out: *mut f32,
    capacity: usize,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut evaluator = exclusive(evaluator)?;
        let evaluation = options::read(evaluation)?;
        if out.is_null() {
            return Err(null("out"));
        }
        let [n, h, w, _] = evaluator.evaluator.shape();
        let need = n * h * w * evaluator.evaluator.out_channels();
        if capacity < need {
            return Err(Error::shape(format!("capacity is {capacity}; the output has {need} elements")));
        }
        evaluator.run(&evaluation, slice_mut(out, need, "out")?)
    })
}

/// Fills `*out`, whose struct_size the caller has set.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_evaluator_get_info(evaluator: *mut fewstep_evaluator, out: *mut fewstep_evaluator_info) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let evaluator = exclusive(evaluator)?;
        let size = check_report(out)?;
        write_report(out, size, evaluator.info());
        Ok(())
    })
}

/// Destroys an evaluator. NULL is fine.
///
/// Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the evaluator (nothing happens then).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_evaluator_destroy(evaluator: *mut fewstep_evaluator) -> fewstep_status {
    // SAFETY: `evaluator` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe { handle::destroy(evaluator) })
}
