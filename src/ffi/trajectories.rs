//! Trajectories of teachers that are no models of the library's, or not there any more.

use super::boundary::{choice, ffi_boundary, path, to_nchw, to_nhwc};
use super::callback::{FEWSTEP_PHASE_PREPARE, Watch, fewstep_progress_callback};
use super::cancel::fewstep_cancel_token;
use super::conditioning::{fewstep_conditioning, in_planes};
use super::dataset::fewstep_dataset;
use super::error::fewstep_status;
use super::evaluator::fewstep_evaluation;
use super::extent::{check_extent, read_size};
use super::grid::{fewstep_step_pair, read_grid};
use super::handle::{self, Opaque, create, share, share_optional};
use super::model::{FEWSTEP_PREDICTION_EPSILON, PREDICTIONS, fewstep_model};
use super::options::{self, Options, Report, check_report, size_field, write_report};
use super::runtime::{Runtime, fewstep_runtime};
use super::sampler_options::{FEWSTEP_CLIP_NONE, clips};
use crate::diffusion::Walk;
use crate::distill::cache::{CacheSpec, HostTeacher};
use crate::distill::trajectory_set::rows_for;
use crate::distill::{Dataset, TrajectorySet};
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::Model;
use crate::nn::conditions::Values;
use crate::process::fp_environment::as_caller;
use crate::sampling::Given;
use crate::tensor::{DType, try_vec};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// A teacher's states at the ends of a student's steps, from many noises. Immutable.
pub struct fewstep_trajectories {
    _private: [u8; 0],
}

/// A teacher of the host's: writes its predictions [N,C,H,W] for `at` (x_t, one timestep for all, class labels and other conditionings) to `prediction`, which
/// has `count` elements, all of which it must write. N is at most `batch`, less in the last call. Only valid inside the callback, which runs on the thread that
/// made the call. Return 0 to go on; anything else ends the call with CANCELLED. A fewstep_evaluator may be run in it. Must return normally (no C++
/// exception, no longjmp).
pub type fewstep_predict_callback = Option<unsafe extern "C" fn(user: *mut c_void, at: *const fewstep_evaluation, prediction: *mut f32, count: usize) -> i32>;

/// How trajectories of a teacher of the host's are computed. Fill it with fewstep_trajectories_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_trajectories_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// FEWSTEP_PREDICTION_*: what the teacher predicts; EPSILON by default.
    pub prediction: i32,
    /// The teacher.
    pub predict: fewstep_predict_callback,
    /// Handed to predict.
    pub user: *mut c_void,
    /// The student's grid, explicitly. NULL (the default), with steps 0: the grid that the student was derived with.
    pub pairs: *const fewstep_step_pair,
    /// Elements of pairs, at most 1000.
    pub pair_count: usize,
    /// Bytes from one pair to the next; sizeof(fewstep_step_pair).
    pub pair_stride: usize,
    /// Sampler steps of the student, evenly spread ("trailing"), instead of pairs; 0 by default.
    pub steps: u32,
    /// Order of the teacher's solver, as teacher_order of fewstep_trainer_options; 1 by default.
    pub teacher_order: u32,
    /// Teacher steps inside each step of the student, as substeps of fewstep_trainer_options; 0 by default.
    pub substeps: u32,
    /// Trajectories; 8192 by default.
    pub count: u32,
    /// Trajectories that are computed side by side; 128 by default.
    pub batch: u32,
    /// FEWSTEP_CLIP_NONE (the default), FEWSTEP_CLIP_RANGE or FEWSTEP_CLIP_DYNAMIC: what is done to the image that the teacher predicts in each of its steps.
    pub clip: i32,
    /// Key of noises and labels; 0 by default.
    pub seed: u64,
    /// Height of the images; 0 (the default) for the student's.
    pub height: u32,
    /// Width of the images; 0 (the default) for the student's.
    pub width: u32,
    /// FEWSTEP_CLIP_RANGE: 1 by default.
    pub clip_range: f64,
    /// FEWSTEP_CLIP_DYNAMIC: quantile; 0.995 by default.
    pub threshold_ratio: f64,
    /// FEWSTEP_CLIP_DYNAMIC: upper bound; 1 by default.
    pub threshold_max: f64,
}

/// What trajectories are. Set struct_size before fewstep_trajectories_get_info fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_trajectories_info {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// How many there are.
    pub count: u32,
    /// Steps of the student's grid; each trajectory has one state more.
    pub pair_count: u32,
    /// Teacher steps inside each of them.
    pub substeps: u32,
    /// Channels of a state.
    pub channels: u32,
    /// Rows of a state.
    pub height: u32,
    /// Columns of a state.
    pub width: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes in memory.
    pub bytes: u64,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only; NULL is a callback that is not given.
unsafe impl Options for fewstep_trajectories_options {
    const NAME: &'static str = "trajectories options";
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            prediction: FEWSTEP_PREDICTION_EPSILON,
            predict: None,
            user: std::ptr::null_mut(),
            pairs: std::ptr::null(),
            pair_count: 0,
            pair_stride: size_of::<fewstep_step_pair>(),
            steps: 0,
            teacher_order: 1,
            substeps: 0,
            count: 8192,
            batch: 128,
            clip: FEWSTEP_CLIP_NONE,
            seed: 0,
            height: 0,
            width: 0,
            clip_range: 1.0,
            threshold_ratio: 0.995,
            threshold_max: 1.0,
        }
    }
}

// SAFETY: repr(C), numbers only, no gap.
unsafe impl Report for fewstep_trajectories_info {
    const NAME: &'static str = "trajectories info";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// What a trajectories handle owns.
pub(crate) struct TrajectoriesHandle {
    /// Kept alive, as every child does.
    _runtime: Arc<Runtime>,
    /// The states; trainers share them.
    pub(crate) set: Arc<TrajectorySet>,
}

impl Opaque for fewstep_trajectories {
    type Inner = TrajectoriesHandle;
    const NAME: &'static str = "trajectories";
    const TAG: u64 = u64::from_le_bytes(*b"fs.traje");
}

impl TrajectoriesHandle {
    pub(super) fn new(runtime: Arc<Runtime>, set: TrajectorySet) -> Self {
        Self { _runtime: runtime, set: Arc::new(set) }
    }

    fn info(&self) -> fewstep_trajectories_info {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let [h, w, c] = self.set.image();
        fewstep_trajectories_info {
            struct_size: size_field::<fewstep_trajectories_info>(),
            count: narrow(self.set.cache.count),
            pair_count: narrow(self.set.pairs.len()),
            substeps: narrow(self.set.substeps),
            channels: narrow(c),
            height: narrow(h),
            width: narrow(w),
            reserved: 0,
            bytes: self.set.cache.bytes() as u64,
        }
    }
}

/// The host's teacher, with room for what it is shown and gives in C's order.
struct Callback {
    predict: unsafe extern "C" fn(*mut c_void, *const fewstep_evaluation, *mut f32, usize) -> i32,
    user: *mut c_void,
    /// [H, W, C].
    image: [usize; 3],
    x: Vec<f32>,
    prediction: Vec<f32>,
    timesteps: Vec<f32>,
}

impl Callback {
    fn new(predict: fewstep_predict_callback, user: *mut c_void, image: [usize; 3], batch: usize) -> Result<Self> {
        let predict = predict.ok_or_else(|| Error::invalid("predict is NULL; it must be the teacher"))?;
        let floats = || try_vec(batch * image.iter().product::<usize>(), "a teacher's batch");
        Ok(Self { predict, user, image, x: floats()?, prediction: floats()?, timesteps: try_vec(batch, "timesteps")? })
    }
}

impl HostTeacher for Callback {
    fn predict(&mut self, x_t: &[f32], timestep: f64, given: &[Given], prediction: &mut [f32]) -> Result<()> {
        let [h, w, c] = self.image;
        let n = x_t.len() / (h * w * c).max(1);
        to_nchw(x_t, self.image, &mut self.x[..x_t.len()]);
        self.timesteps[..n].fill(timestep as f32);
        let planes = memory::try_collect(given.iter().map(|(kind, values)| in_planes(*kind, *values, [h, w])), "conditionings")?;
        let conditionings =
            given.iter().zip(&planes).map(|((kind, values), planes)| fewstep_conditioning::of(*kind, planes.as_deref().map_or(*values, Values::F32)));
        let conditionings = memory::collect(conditionings, "conditionings")?;
        let at = fewstep_evaluation {
            x_t: self.x.as_ptr(),
            x_t_count: x_t.len(),
            timesteps: self.timesteps.as_ptr(),
            timestep_count: n,
            conditionings: conditionings.as_ptr(),
            conditioning_count: conditionings.len(),
            ..fewstep_evaluation::defaults()
        };
        self.prediction[..x_t.len()].fill(f32::NAN); // what the host forgets is no number
        let (predict, user, to) = (self.predict, self.user, self.prediction.as_mut_ptr());
        // SAFETY: the host promised a function that may be called with its `user`, on this thread; all that it is shown lives until it returns.
        match as_caller(|| unsafe { predict(user, &at, to, x_t.len()) }) {
            0 => {}
            answer => return Err(Error::cancelled(format!("cancelled by the teacher's callback, which returned {answer}"))),
        }
        prediction.copy_from_slice(&to_nhwc(&self.prediction[..x_t.len()], self.image, "a teacher's prediction")?);
        Ok(())
    }
}

/// # Safety
/// The pointers in `o` are NULL or arrays as their counts and strides say.
unsafe fn spec(o: &fewstep_trajectories_options, student: &Model, dataset: Option<&Dataset>) -> Result<CacheSpec> {
    // SAFETY: as promised by the caller.
    let mut pairs = unsafe { read_grid(student.scheduler.num_train_timesteps, o.steps, o.pairs, o.pair_count, o.pair_stride)? };
    if let (true, Some(own)) = (pairs.is_empty(), &student.student) {
        pairs = memory::copy(&own.pairs, "step pairs")?;
    }
    let size = read_size(o.height, o.width)?.map_or_else(|| student.size(), Ok)?;
    let (order, batch) = (o.teacher_order as usize, o.batch.min(o.count).max(1) as usize);
    check_extent(student, batch, size)?;
    let substeps = Walk::substeps(o.substeps as usize, order, &pairs)?;
    let clip = choice(o.clip, "clip", &clips(o.clip_range, o.threshold_ratio, o.threshold_max))?;
    clip.check()?;
    Ok(CacheSpec {
        schedule: student.scheduler.noise_schedule()?,
        prediction: choice(o.prediction, "prediction", &PREDICTIONS)?,
        pairs,
        walk: Walk { order, substeps, clip },
        count: o.count as usize,
        size,
        batch,
        guidance: None,
        rows: rows_for(&student.roles()?.conditions, dataset, size)?,
        precision: DType::F32,
    })
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trajectories_options_init(options: *mut fewstep_trajectories_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Computes trajectories of a teacher of the host's, any function that predicts what a network would: the library solves the equation, the host predicts. The
/// teacher has the noise schedule of `student`, and is given what the student takes: class labels are drawn evenly, other conditions from the rows of `dataset`,
/// which may be NULL without them. `progress` (FEWSTEP_PHASE_PREPARE, in teacher steps of one trajectory) and `cancel` may be NULL.
///
/// The caller owns `*out` and gives it to fewstep_trajectories_destroy. Any thread may call.
/// Returns OK, INVALID_ARGUMENT, SHAPE, UNSUPPORTED, CANCELLED, NUMERIC (a prediction that is not finite, states out of range) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trajectories_create(
    runtime: *const fewstep_runtime,
    student: *const fewstep_model,
    dataset: *const fewstep_dataset,
    options: *const fewstep_trajectories_options,
    progress: fewstep_progress_callback,
    user: *mut c_void,
    cancel: *const fewstep_cancel_token,
    out: *mut *mut fewstep_trajectories,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, student, dataset) = (share(runtime)?, share(student).map_err(|e| e.context("student"))?, share_optional(dataset)?);
        let options = options::read(options)?;
        let spec = spec(&options, &student.model, dataset.as_ref().map(|d| &d.dataset))?;
        let [h, w] = spec.size;
        let teacher = Callback::new(options.predict, options.user, [h, w, student.model.roles()?.channels], spec.batch)?;
        let watch = Watch::new(progress, user, cancel)?;
        create(out, || {
            let set = watch.counting(FEWSTEP_PHASE_PREPARE, |report| {
                let spec = (spec, options.seed);
                TrajectorySet::compute(runtime.backend.as_ref(), &student.model, Box::new(teacher), spec, report, watch.stop(&runtime))
            });
            Ok(TrajectoriesHandle::new(runtime.clone(), set?))
        })
    })
}

/// Opens trajectories that fewstep_trajectories_save has written, for a student that takes what they were made with. `path` is UTF-8.
///
/// The caller owns `*out` and gives it to fewstep_trajectories_destroy. Any thread may call.
/// Returns OK, INVALID_ARGUMENT, NOT_FOUND, IO, CORRUPT_FILE, VERSION_MISMATCH, SHAPE (another student's) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trajectories_open(
    runtime: *const fewstep_runtime,
    student: *const fewstep_model,
    path: *const c_char,
    out: *mut *mut fewstep_trajectories,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, student) = (share(runtime)?, share(student).map_err(|e| e.context("student"))?);
        let path = self::path(path, "path")?;
        create(out, || Ok(TrajectoriesHandle::new(runtime.clone(), TrajectorySet::open(path, &student.model)?)))
    })
}

/// Saves trajectories as one safetensors file, which appears whole or not at all. `path` is UTF-8.
///
/// Any thread may call, also while others use them. Returns OK, INVALID_ARGUMENT, IO, NOT_FOUND (no such folder) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trajectories_save(trajectories: *const fewstep_trajectories, path: *const c_char) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let trajectories = share(trajectories)?;
        trajectories.set.save(self::path(path, "path")?)
    })
}

/// Fills `*out`, whose struct_size the caller has set.
///
/// Any thread may call, also while others use the trajectories. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trajectories_get_info(trajectories: *const fewstep_trajectories, out: *mut fewstep_trajectories_info) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let trajectories = share(trajectories)?;
        let size = check_report(out)?;
        write_report(out, size, trajectories.info());
        Ok(())
    })
}

/// Destroys trajectories. NULL is fine. Trainers made from them keep what they need.
///
/// Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses them (nothing happens then).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trajectories_destroy(trajectories: *mut fewstep_trajectories) -> fewstep_status {
    // SAFETY: `trajectories` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe { handle::destroy(trajectories) })
}
