//! Samplers: a compiled run of one model, begun as often as one likes.

use super::boundary::{check_out, ffi_boundary, null, product, put, slice, slice_mut, to_nchw, to_nhwc};
use super::callback::{FEWSTEP_PHASE_SAMPLE, Watch, fewstep_progress, fewstep_progress_callback};
use super::cancel::{Cancel, fewstep_cancel_token};
use super::conditioning;
use super::error::fewstep_status;
use super::handle::{self, Opaque, create, exclusive, share};
use super::model::fewstep_model;
use super::options::{self, Report, check_report, size_field, write_report};
use super::runtime::{Runtime, fewstep_runtime};
use super::sampler_options::{Spec, fewstep_begin_options, fewstep_sampler_options};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::Model;
use crate::random::Purpose;
use crate::random::fill_normal;
use crate::sampling::{RunSpec, SamplingRun, UNROLLED};
use crate::tensor::try_vec;
use std::ffi::c_void;
use std::mem::offset_of;
use std::sync::Arc;
use std::time::Duration;

/// A planned sampling run with its memory. One thread at a time; many samplers may share one model.
pub struct fewstep_sampler {
    _private: [u8; 0],
}

/// What a sampler is and how far its run has come. Set struct_size before fewstep_sampler_get_info fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_sampler_info {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// Images side by side (N).
    pub batch: u32,
    /// Channels of an image (C).
    pub channels: u32,
    /// Rows of an image (H).
    pub height: u32,
    /// Columns of an image (W).
    pub width: u32,
    /// Sampler steps of a run.
    pub steps: u32,
    /// Sampler steps of the present run that are complete.
    pub steps_done: u32,
    /// 0 before fewstep_sampler_begin, 1 while a run is under way, 2 when it is done.
    pub state: i32,
    /// Bytes of the memory that a run works in.
    pub arena_bytes: u64,
    /// The most bytes of it that are in use at one time; arena_bytes cannot be less.
    pub peak_live_bytes: u64,
    /// Bytes of inputs and of values computed once. Weights packed for the device are not among them: a runtime has one copy for all that read them.
    pub prepared_bytes: u64,
    /// Bytes of the run's state.
    pub state_bytes: u64,
    /// Bytes of the constants of the sampler's steps.
    pub constant_bytes: u64,
    /// Bytes of the plan: its operations, and the tables of their kernels.
    pub program_bytes: u64,
    /// All the memory that the sampler holds, on the host and on a GPU: arena, prepared, state, constant and program bytes together. The model's weights,
    /// which all its samplers share, are not in it.
    pub total_bytes: u64,
}

// SAFETY: repr(C), numbers only, no gap.
unsafe impl Report for fewstep_sampler_info {
    const NAME: &'static str = "sampler info";
    const FIRST_SIZE: usize = offset_of!(Self, state_bytes);
}

/// What a sampler handle owns.
pub(crate) struct SamplerHandle {
    /// Kept alive, as every child does.
    runtime: Arc<Runtime>,
    run: SamplingRun,
}

impl Opaque for fewstep_sampler {
    type Inner = SamplerHandle;
    const NAME: &'static str = "sampler";
    const TAG: u64 = u64::from_le_bytes(*b"fs.sampl");
}

impl SamplerHandle {
    /// # Safety
    /// The pointers in `options` are NULL or arrays as their counts and strides say.
    unsafe fn new(runtime: Arc<Runtime>, model: &Model, options: &fewstep_sampler_options, stop: Stop) -> Result<Self> {
        // SAFETY: as promised by the caller.
        let spec = unsafe { Spec::new(options, model)? };
        let run = RunSpec {
            table: &spec.table,
            batch: spec.batch,
            size: spec.size,
            purpose: Purpose::Evaluation,
            precision: spec.precision,
            guidance: spec.guidance,
            unrolled: UNROLLED,
        };
        let run = SamplingRun::new_until(runtime.backend.as_ref(), model, &run, stop)?;
        Ok(Self { runtime, run })
    }

    fn image(&self) -> [usize; 3] {
        let [_, h, w, c] = self.run.shape();
        [h, w, c]
    }

    fn numel(&self) -> usize {
        self.run.shape().iter().product()
    }

    /// # Safety
    /// The pointers in `o` are NULL or arrays as their counts and strides say.
    unsafe fn begin(&mut self, o: &fewstep_begin_options) -> Result<()> {
        let [batch, h, w, _] = self.run.shape();
        // SAFETY: as promised by the caller.
        let (indices, given, noise) = unsafe {
            let given = conditioning::read(o.conditionings, o.conditioning_count, o.conditioning_stride, batch, [h, w])?;
            (slice(o.indices, o.index_count, "indices")?, given, optional(o.noise, o.noise_count, "noise")?)
        };
        let given = memory::collect(given.iter().map(|(kind, held)| (*kind, held.values())), "conditionings")?;
        let samples = sample_indices(o, indices, batch)?;
        let noise = noise.map(|n| self.initial_state(n)).transpose()?;
        self.run.begin(o.seed, &samples, &given, noise.as_deref())
    }

    fn initial_state(&self, noise: &[f32]) -> Result<Vec<f32>> {
        if noise.len() != self.numel() {
            let [n, h, w, c] = self.run.shape();
            return Err(Error::shape(format!("noise_count is {}; [{n},{c},{h},{w}] has {} elements", noise.len(), self.numel())));
        }
        if let Some(i) = noise.iter().position(|v| !v.is_finite()) {
            return Err(Error::numeric(format!("noise[{i}] is {}; it must be finite", noise[i])));
        }
        to_nhwc(noise, self.image(), "noise")
    }

    /// Step by step, with a report after each; all at once where nobody watches. A cancel is seen in the middle of a step.
    fn run_all(&mut self, watch: &Watch) -> Result<()> {
        let runtime = self.runtime.clone();
        let stop = watch.stop(&runtime);
        if watch.is_idle() {
            return self.run.step_until(None, true, stop).map(|_| ());
        }
        let steps = self.run.steps() as u64;
        let mut reported = self.steps_done()?;
        loop {
            let done = self.run.advance(stop)?;
            let now = self.steps_done()?;
            if now != reported {
                reported = now;
                watch.report(&fewstep_progress::new(FEWSTEP_PHASE_SAMPLE, now, steps))?;
            }
            if done {
                return Ok(());
            }
        }
    }

    fn steps_done(&self) -> Result<u64> {
        self.run.steps_done().map(|n| n as u64).ok_or_else(|| Error::state("the sampler was not begun"))
    }

    fn read(&mut self, out: &mut [f32]) -> Result<()> {
        let image = self.image();
        to_nchw(&self.run.read()?, image, out);
        Ok(())
    }

    fn info(&self) -> fewstep_sampler_info {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let ([batch, h, w, c], plan, memory) = (self.run.shape(), self.run.plan(), self.run.memory());
        fewstep_sampler_info {
            struct_size: size_field::<fewstep_sampler_info>(),
            batch: narrow(batch),
            channels: narrow(c),
            height: narrow(h),
            width: narrow(w),
            steps: narrow(self.run.steps()),
            steps_done: narrow(self.run.steps_done().unwrap_or(0)),
            state: match self.run.steps_done() {
                None => 0,
                Some(_) if self.run.is_done() => 2,
                Some(_) => 1,
            },
            arena_bytes: memory.arena as u64,
            peak_live_bytes: plan.peak_live_bytes() as u64,
            prepared_bytes: memory.persistent as u64,
            state_bytes: memory.states as u64,
            constant_bytes: memory.constants as u64,
            program_bytes: memory.program as u64,
            total_bytes: memory.total() as u64,
        }
    }
}

/// An array that is absent when its pointer is NULL and its count 0.
///
/// # Safety
/// As [`slice`].
unsafe fn optional<'a, T>(data: *const T, count: usize, name: &str) -> Result<Option<&'a [T]>> {
    if data.is_null() && count == 0 {
        return Ok(None);
    }
    // SAFETY: as promised by the caller.
    unsafe { slice(data, count, name) }.map(Some)
}

/// Philox sample indices of the batch; the plan holds the same 32 bits as i32.
fn sample_indices(o: &fewstep_begin_options, indices: &[u32], batch: usize) -> Result<Vec<i32>> {
    let mut samples = try_vec::<i32>(batch, "sample indices")?;
    if indices.is_empty() {
        check_indices(o.first_index, batch)?;
        samples.iter_mut().zip(o.first_index..).for_each(|(s, i)| *s = i as i32);
    } else if indices.len() == batch {
        samples.iter_mut().zip(indices).for_each(|(s, i)| *s = *i as i32);
    } else {
        return Err(Error::shape(format!("index_count is {}; the batch is {batch}", indices.len())));
    }
    Ok(samples)
}

fn check_indices(first: u32, count: usize) -> Result<()> {
    match u32::try_from(count).ok().and_then(|n| first.checked_add(n)) {
        Some(_) => Ok(()),
        None => Err(Error::invalid(format!("first_index is {first}; {count} images from there pass the last index"))),
    }
}

/// The first `need` elements of the host's buffer.
///
/// # Safety
/// `out` is NULL or valid for writing `capacity` elements.
unsafe fn output<'a>(out: *mut f32, capacity: usize, need: usize) -> Result<&'a mut [f32]> {
    if out.is_null() {
        return Err(null("out"));
    }
    if capacity < need {
        return Err(Error::shape(format!("capacity is {capacity}; the images have {need} elements")));
    }
    // SAFETY: as promised by the caller.
    unsafe { slice_mut(out, need, "out") }
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_sampler_options_init(options: *mut fewstep_sampler_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_begin_options_init(options: *mut fewstep_begin_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Plans a sampling run of a model and takes all of its memory: beginning and stepping a run allocate almost nothing. It takes time in proportion to the
/// steps, up to 16; a longer run has one step's plan, which it goes through again and again. `cancel` of the options stops it. `options` may be NULL for the defaults. The weights are shared.
///
/// The caller owns `*out` and gives it to fewstep_sampler_destroy; it keeps what it needs of runtime and model alive. Any thread may call.
/// Returns OK, INVALID_ARGUMENT, SHAPE (a size that the model cannot take), UNSUPPORTED, CANCELLED, NUMERIC or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_sampler_create(
    runtime: *const fewstep_runtime,
    model: *const fewstep_model,
    options: *const fewstep_sampler_options,
    out: *mut *mut fewstep_sampler,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, model) = (share(runtime)?, share(model)?);
        let options = options::read(options)?;
        let cancel = Cancel::new(options.cancel)?;
        create(out, || SamplerHandle::new(runtime.clone(), &model.model, &options, runtime.stop_or(&cancel)))
    })
}

/// Begins a new run, whatever became of the one before. `options` may be NULL for the defaults. The arrays are copied.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT (also for labels out of range, or for a conditioning that is missing or that the model does not take), SHAPE, NUMERIC
/// (noise that is not finite), OUT_OF_MEMORY or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_sampler_begin(sampler: *mut fewstep_sampler, options: *const fewstep_begin_options) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut sampler = exclusive(sampler)?;
        sampler.begin(&options::read(options)?)
    })
}

/// Goes on with the run for about `budget_us` microseconds, at least one operation; it may stop in the middle of a network evaluation, and any split into
/// calls gives the same bytes. Without a budget it goes on to the end of the present sampler step (any negative number) or of the run (INT64_MAX). A GPU
/// then gets as few graphs as there can be (one for a whole run of up to 16 steps from noise of the library's own, else one a step), and the call may return
/// before the last of them is computed: reading waits. The operations of a budget are started one by one there, and waited for. Writes 1 to `*done` when the run is done (then a
/// further call does nothing), 0 otherwise. After an error, except STATE, INVALID_ARGUMENT and CANCELLED, the run must be begun again.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED (by the runtime's token), STATE (not begun) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_sampler_step(sampler: *mut fewstep_sampler, budget_us: i64, done: *mut i32) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut sampler = exclusive(sampler)?;
        check_out(done, "done")?;
        let budget = u64::try_from(budget_us).ok().filter(|_| budget_us != i64::MAX).map(Duration::from_micros);
        let runtime = sampler.runtime.clone();
        let finished = sampler.run.step_until(budget, budget_us >= 0, runtime.stop())?;
        put(done, i32::from(finished));
        Ok(())
    })
}

/// Goes on to the end of the run and calls `progress` after each sampler step; `cancel` is seen in the middle of one. Both may be NULL: without both it is
/// fewstep_sampler_step with INT64_MAX, which on a GPU may return before it is computed. After CANCELLED the run can go on with any function, or be begun
/// again.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED, STATE (not begun) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_sampler_run(
    sampler: *mut fewstep_sampler,
    progress: fewstep_progress_callback,
    user: *mut c_void,
    cancel: *const fewstep_cancel_token,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut sampler = exclusive(sampler)?;
        sampler.run_all(&Watch::new(progress, user, cancel)?)
    })
}

/// Writes the images [N,C,H,W] as they are after the last complete sampler step (noise before the first) to `out`, which has room for `capacity`
/// elements; N*C*H*W are needed.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT, SHAPE (capacity is too small), STATE (not begun) or NUMERIC (an image that is not finite).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_sampler_read(sampler: *mut fewstep_sampler, out: *mut f32, capacity: usize) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut sampler = exclusive(sampler)?;
        let out = output(out, capacity, sampler.numel())?;
        sampler.read(out)
    })
}

/// Writes the noise that images `first_index` to `first_index + count - 1` of a seed start from, [count,C,H,W], to `out`, which has room for `capacity`
/// elements. The present run is not touched.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT, SHAPE (capacity is too small) or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_sampler_noise(
    sampler: *mut fewstep_sampler,
    seed: u64,
    first_index: u32,
    count: usize,
    out: *mut f32,
    capacity: usize,
) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let sampler = exclusive(sampler)?;
        let [h, w, c] = sampler.image();
        if count == 0 {
            return Err(Error::invalid("count is 0; it must be at least 1"));
        }
        check_indices(first_index, count)?;
        let out = output(out, capacity, product(&[count, c, h, w], "noise (count, C, H, W)")?)?;
        for (image, index) in out.chunks_exact_mut(h * w * c).zip(first_index..) {
            fill_normal(seed, Purpose::Evaluation, 0, index, image);
        }
        Ok(())
    })
}

/// Fills `*out`, whose struct_size the caller has set.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_sampler_get_info(sampler: *mut fewstep_sampler, out: *mut fewstep_sampler_info) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let sampler = exclusive(sampler)?;
        let size = check_report(out)?;
        write_report(out, size, sampler.info());
        Ok(())
    })
}

/// All in one call, for programs that do not sample again: creates a sampler, begins, runs and reads it, and destroys it. `cancel` of the options stops any
/// of it. `options` and `begin` may be NULL for the defaults; `out` receives [N,C,H,W] and has room for `capacity` elements.
///
/// Any thread may call. Returns what the single functions return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_sample(
    runtime: *const fewstep_runtime,
    model: *const fewstep_model,
    options: *const fewstep_sampler_options,
    begin: *const fewstep_begin_options,
    out: *mut f32,
    capacity: usize,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, model) = (share(runtime)?, share(model)?);
        let (options, begin) = (options::read(options)?, options::read(begin)?);
        check_out(out, "out")?;
        let cancel = Cancel::new(options.cancel)?;
        let mut sampler = SamplerHandle::new(runtime.clone(), &model.model, &options, runtime.stop_or(&cancel))?;
        let out = output(out, capacity, sampler.numel())?;
        sampler.begin(&begin)?;
        let stop = runtime.stop_or(&cancel);
        while !if cancel.is_none() { sampler.run.step_until(None, true, stop)? } else { sampler.run.advance(stop)? } {}
        sampler.read(out)
    })
}

/// Destroys a sampler. NULL is fine.
///
/// Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the sampler, as from its own callback (nothing happens then).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_sampler_destroy(sampler: *mut fewstep_sampler) -> fewstep_status {
    // SAFETY: `sampler` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe { handle::destroy(sampler) })
}
