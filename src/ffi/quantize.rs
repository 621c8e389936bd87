//! Quantisation: models in fewer bits.

use super::boundary::{choice, ffi_boundary, flag, slice, text};
use super::callback::{FEWSTEP_PHASE_QUANTIZE, Watch, fewstep_progress_callback};
use super::cancel::fewstep_cancel_token;
use super::dataset::fewstep_dataset;
use super::error::fewstep_status;
use super::extent::{check_extent, read_size};
use super::handle::{create, share, share_optional};
use super::model::{ModelHandle, fewstep_model};
use super::options::{self, Options, size_field};
use super::runtime::fewstep_runtime;
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::Model;
use crate::quant::{self, Ends, Mode, Policy};
use std::ffi::{c_char, c_void};

/// Weights of 8 bits with a scale for each output, what layers read rounded to 8 bits: products of whole numbers, a quarter of the bytes.
pub const FEWSTEP_QUANTIZE_W8A8: i32 = 1;
/// Weights of 8 bits, products in float: a quarter of the bytes, for any model.
pub const FEWSTEP_QUANTIZE_W8: i32 = 2;
/// Weights of 4 bits with a scale for each output, what layers read rounded to 8 bits: products of whole numbers, an eighth of the bytes. It needs training with
/// the rounding in place.
pub const FEWSTEP_QUANTIZE_W4A8: i32 = 3;
/// Weights of 4 bits with a scale for each 16 of them (or 8, or an output's, as a layer's size allows), products in float: a sixth of the bytes, for any model.
pub const FEWSTEP_QUANTIZE_W4: i32 = 4;
/// All weights as f16, of any model, which diffusers still reads: half of the bytes. Those beyond f16 stay f32.
pub const FEWSTEP_QUANTIZE_F16: i32 = 5;
/// The same as bfloat16.
pub const FEWSTEP_QUANTIZE_BF16: i32 = 6;

/// What a layer reads is rounded over the range from its least to its greatest number.
pub const FEWSTEP_RANGE_MIN_MAX: i32 = 1;
/// The range leaves out, at either end, the share of numbers that is beyond `percentile`.
pub const FEWSTEP_RANGE_PERCENTILE: i32 = 2;
/// The range is the one of 80, from all of it down to a fifth, with the least sum of |error|^2.4.
pub const FEWSTEP_RANGE_LEAST_ERROR: i32 = 3;

/// How a student is quantised. Fill it with fewstep_quantize_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_quantize_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Whole numbers that a layer's input is rounded to, 16 to 256. 130 (the default) is exact and fast on processors that have AVX2 and nothing newer; behind
    /// SiLU it loses nothing worth having. 256 is all of a byte.
    pub levels: u32,
    /// Samples of the calibration, 1 to 65536; 64 by default. They are drawn along the student's own grid.
    pub samples: u32,
    /// Samples side by side; 16 by default.
    pub batch: u32,
    /// Height of the samples; 0 (the default) for the model's.
    pub height: u32,
    /// Width of the samples; 0 (the default) for the model's.
    pub width: u32,
    /// FEWSTEP_QUANTIZE_*; W8A8 by default.
    pub mode: i32,
    /// FEWSTEP_RANGE_*, for modes that round what layers read. MIN_MAX by default: the others gain little where 8 bits are enough
    /// (docs/quantization.md), and draw the samples twice.
    pub range: i32,
    /// Seed of the samples' noise and labels.
    pub seed: u64,
    /// Layers that stay in float, by their path in the file without ".weight"; `*` stands for any text: "up_blocks.*.conv1". F16 and BF16 have none: such a
    /// name is INVALID_ARGUMENT. They come on top of those that
    /// always stay: "conv_in", "conv_out", "*.conv_shortcut", "time_embedding.*", "class_embedding.*" and "*.time_emb_proj". NULL by default.
    pub keep: *const *const c_char,
    /// Elements of keep.
    pub keep_count: usize,
    /// What the samples' conditions are drawn from, where the model takes more than labels: rows of the dataset. NULL by default.
    pub dataset: *const fewstep_dataset,
    /// Stops the call with CANCELLED; only read during it. NULL (the default) for none.
    pub cancel: *const fewstep_cancel_token,
    /// Per cent of a layer's numbers that are below the upper end of its range, and above the lower: more than 50, at most 100; 99.99 by default. Read for
    /// FEWSTEP_RANGE_PERCENTILE alone.
    pub percentile: f64,
    /// 1: biases give back what rounding shifts the outputs of their layers by, on average over the samples, which are drawn once more for it; the model must be
    /// a few-step student. 0 (the default): they stay as they are.
    pub correct_biases: i32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_quantize_options {
    const NAME: &'static str = "quantize options";
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            levels: 130,
            samples: 64,
            batch: 16,
            height: 0,
            width: 0,
            mode: FEWSTEP_QUANTIZE_W8A8,
            range: FEWSTEP_RANGE_MIN_MAX,
            seed: 0,
            keep: std::ptr::null(),
            keep_count: 0,
            dataset: std::ptr::null(),
            cancel: std::ptr::null(),
            percentile: 99.99,
            correct_biases: 0,
            reserved: 0,
        }
    }
}

/// A number of the options within its limits.
fn within(name: &str, number: u32, limits: std::ops::RangeInclusive<u32>) -> Result<usize> {
    if limits.contains(&number) {
        return Ok(number as usize);
    }
    Err(Error::invalid(format!("{name} is {number}; it must be {} to {}", limits.start(), limits.end())))
}

/// Where ranges end.
fn ends(o: &fewstep_quantize_options) -> Result<Ends> {
    let ends = [
        (FEWSTEP_RANGE_MIN_MAX, Ends::MinMax),
        (FEWSTEP_RANGE_PERCENTILE, Ends::Percentile(o.percentile / 100.0)),
        (FEWSTEP_RANGE_LEAST_ERROR, Ends::LeastError),
    ];
    match choice(o.range, "range", &ends)? {
        Ends::Percentile(share) if !(share > 0.5 && share <= 1.0) => {
            Err(Error::invalid(format!("percentile is {}; it must be more than 50 and at most 100", o.percentile)))
        }
        ends => Ok(ends),
    }
}

/// What the options mean for this model. Without `always_samples` the mode says whether there are samples, whose size counts then.
///
/// # Safety
/// The pointers in `o` are NULL or arrays as their counts say.
pub(super) unsafe fn read(o: &fewstep_quantize_options, model: &Model, always_samples: bool) -> Result<quant::Options> {
    let mut policy = Policy::default();
    // SAFETY: as promised by the caller.
    for (i, pattern) in unsafe { slice(o.keep, o.keep_count, "keep")? }.iter().enumerate() {
        // SAFETY: as promised by the caller.
        let pattern = unsafe { text(*pattern, &format!("keep[{i}]"))? };
        memory::check()?;
        memory::push(&mut policy.keep, pattern.to_owned(), "keep")?;
    }
    let levels = within("levels", o.levels, 16..=256)?;
    let samples = within("samples", o.samples, 1..=65_536)?;
    let batch = within("batch", o.batch, 1..=65_536)?.min(samples);
    let modes = [
        (FEWSTEP_QUANTIZE_W8A8, Mode::W8A8),
        (FEWSTEP_QUANTIZE_W8, Mode::W8),
        (FEWSTEP_QUANTIZE_W4A8, Mode::W4A8),
        (FEWSTEP_QUANTIZE_W4, Mode::W4),
        (FEWSTEP_QUANTIZE_F16, Mode::F16),
        (FEWSTEP_QUANTIZE_BF16, Mode::Bf16),
    ];
    if o.reserved != 0 {
        return Err(Error::invalid("quantize options: reserved must be 0"));
    }
    let mode = choice(o.mode, "mode", &modes)?;
    let ends = ends(o)?;
    let correct_biases = flag(o.correct_biases, "correct_biases")?;
    let mut size = read_size(o.height, o.width)?;
    if always_samples || mode.rounds_inputs() || correct_biases {
        check_extent(model, batch, *size.insert(size.map_or_else(|| model.size(), Ok)?))?;
    }
    let size = size.unwrap_or_default();
    Ok(quant::Options { mode, policy, high: (levels - 1) as u8, ends, correct_biases, samples, batch, size, seed: o.seed })
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_quantize_options_init(options: *mut fewstep_quantize_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Makes a model in fewer bits of another, as `options` says (NULL for the defaults): by default, of a few-step student, one in which weights of most layers are
/// signed bytes with a scale for each output, what these layers read is rounded to unsigned bytes with one scale each, and their products are summed exactly.
/// Scales of what is read come from the ranges that the student's layers have while it samples, in every step of its own grid; other modes take any model and
/// sample and report nothing, but to correct biases. What stays in float is kept as f16, and as f32 where it is beyond f16. `progress` may be NULL and reports
/// FEWSTEP_PHASE_QUANTIZE: `done` of `total` samples, those of every time that they are drawn.
///
/// The result is a model like any other. With rounded inputs, its samplers run on kernels for bytes: on a CPU with the same bits on every processor that has the
/// same floats, on CUDA on the tensor cores, in f32 with the CPU's numbers; samplers, evaluations and trainers off the student's own grid are refused with
/// UNSUPPORTED. A trainer of a model with rounded weights trains with the rounding in place; its snapshots are quantised again. fewstep_model_save_file keeps
/// the bits; diffusers can read models of f16 and bfloat16 alone.
///
/// The caller owns `*out` and gives it to fewstep_model_destroy; it keeps the runtime alive. Any thread may call. Returns OK, INVALID_ARGUMENT (also for a
/// model without a grid of its own where inputs are rounded or biases corrected, a model that is quantised already, or a pattern that names no layer), SHAPE (a
/// size that the model cannot take, a dataset with planes of another), NUMERIC (a layer whose input is not finite), CANCELLED, UNSUPPORTED or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_quantize(
    runtime: *const fewstep_runtime,
    student: *const fewstep_model,
    options: *const fewstep_quantize_options,
    progress: fewstep_progress_callback,
    user: *mut c_void,
    out: *mut *mut fewstep_model,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, student) = (share(runtime)?, share(student)?);
        let options = options::read(options)?;
        let watch = Watch::new(progress, user, options.cancel)?;
        let dataset = share_optional(options.dataset)?;
        let model = &student.model;
        let read = read(&options, model, false)?;
        create(out, || {
            let rows = dataset.as_ref().map_or(Ok(vec![]), |d| d.dataset.conditions_of(&model.roles()?.conditions))?;
            let stop = watch.stop(&runtime);
            let made = watch.counting(FEWSTEP_PHASE_QUANTIZE, |report| quant::quantize(runtime.backend.as_ref(), model, &read, &rows, report, stop));
            Ok(ModelHandle::new(runtime.clone(), made?))
        })
    })
}
