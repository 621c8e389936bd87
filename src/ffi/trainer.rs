//! Trainers: the training step, loops over it, snapshots and checkpoints.

use super::boundary::{check_out, choice, ffi_boundary, path, put, slice_mut};
use super::callback::{FEWSTEP_PHASE_PREPARE, Watch, fewstep_progress, fewstep_progress_callback};
use super::cancel::{Cancel, fewstep_cancel_token};
use super::dataset::fewstep_dataset;
use super::error::fewstep_status;
use super::handle::{self, Opaque, create, exclusive, share, share_optional};
use super::model::{ModelHandle, fewstep_model};
use super::options::{self, Report, check_report, size_field, write_report};
use super::runtime::{FEWSTEP_LOG_INFO, FEWSTEP_LOG_WARNING, Runtime, fewstep_runtime};
use super::trainer_options::{fewstep_trainer_options, translate};
use super::trajectories::{TrajectoriesHandle, fewstep_trajectories};
use crate::distill::{OptionGroup, Pace, StepReport, Trainer, WeightsKind};
use crate::error::{Error, Result};
use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::path::Path;
use std::sync::Arc;

/// The weights as trained.
pub const FEWSTEP_WEIGHTS_RAW: i32 = 1;
/// The moving average of the weights; usually the better ones.
pub const FEWSTEP_WEIGHTS_EMA: i32 = 2;

/// Resume with other learning_rate, muon_learning_rate, warmup_steps, total_steps or decay. Both schedules count from the run's first step: the next step has
/// the learning rate that the new schedule gives after the steps that are done, which is 0 if its cosine has ended by then (a warning in the log says so).
pub const FEWSTEP_RESUME_SCHEDULE: u32 = 1;
/// Resume with another batch.
pub const FEWSTEP_RESUME_BATCH: u32 = 2;
/// Resume with other beta1, beta2, eps, momentum, weight_decay, clip_norm or ema_decay. The moments and the moving average go on from what they are; another
/// FEWSTEP_OPTIMIZER_*, which has other ones, is an error in any case.
pub const FEWSTEP_RESUME_OPTIMIZER: u32 = 4;
/// Resume with other terms or features (what aligns other blocks begins anew; without features they cost no more time); or with the same where they share the
/// draws of a point, which versions before 0.1.0 had each draw its own.
pub const FEWSTEP_RESUME_LOSS: u32 = 8;
/// Resume with other teacher trajectories: pairs or steps, teacher_order, substeps, cache_size, cache_refresh, trajectories, height and width, trajectory_clip and
/// its fields; or another guidance_scale or null_label.
pub const FEWSTEP_RESUME_TRAJECTORIES: u32 = 16;
/// Resume with another seed.
pub const FEWSTEP_RESUME_SEED: u32 = 32;
/// Resume with another precision, of the networks or of the teacher's trajectories (which versions before 0.1.0 computed in f32 whatever the precision of the
/// trainer). A loss scale that the checkpoint does not have begins anew.
pub const FEWSTEP_RESUME_PRECISION: u32 = 64;
/// Resume with whatever the trainer was created with.
pub const FEWSTEP_RESUME_ANY: u32 = 127;

const _: () = assert!(FEWSTEP_RESUME_SCHEDULE == OptionGroup::Schedule as u32 && FEWSTEP_RESUME_BATCH == OptionGroup::Batch as u32);
const _: () = assert!(FEWSTEP_RESUME_OPTIMIZER == OptionGroup::Optimizer as u32 && FEWSTEP_RESUME_LOSS == OptionGroup::Loss as u32);
const _: () = assert!(FEWSTEP_RESUME_TRAJECTORIES == OptionGroup::Trajectories as u32 && FEWSTEP_RESUME_SEED == OptionGroup::Seed as u32);
const _: () = assert!(FEWSTEP_RESUME_PRECISION == OptionGroup::Precision as u32 && FEWSTEP_RESUME_ANY == OptionGroup::ALL);

/// A training run. One thread at a time.
pub struct fewstep_trainer {
    _private: [u8; 0],
}

/// What a training step did. Set struct_size before a function fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_step_report {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// The loss: the weighted sum of the terms, the features and the distribution.
    pub loss: f32,
    /// Steps done so far, this one included.
    pub step: u64,
    /// The first four terms, then features, then the distribution, each without its factor, in the order of the options; 0 for those that do not exist.
    /// fewstep_trainer_losses has all of them.
    pub terms: [f32; 4],
    /// Global gradient norm of the student before clipping; 0 from fewstep_trainer_evaluate.
    pub grad_norm: f32,
    /// Learning rate of the step; 0 from fewstep_trainer_evaluate.
    pub learning_rate: f32,
}

/// What a trainer is. Set struct_size before fewstep_trainer_get_info fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_trainer_info {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// 1 when steps need no preparation any more.
    pub prepared: i32,
    /// Steps done so far.
    pub steps_done: u64,
    /// Bytes of the memory that a step works in.
    pub arena_bytes: u64,
    /// The most bytes of it that are in use at one time; arena_bytes cannot be less.
    pub peak_live_bytes: u64,
    /// Bytes of inputs and of values computed once, without weights packed for the device, as in fewstep_sampler_info.
    pub prepared_bytes: u64,
    /// Images of a step, all of its parts together.
    pub batch: u32,
    /// Steps of the student's grid; 0 without one.
    pub pair_count: u32,
    /// Bytes of the student's weights as they are trained, of the optimizer's states and of the moving average.
    pub state_bytes: u64,
    /// Bytes of the constants of a step.
    pub constant_bytes: u64,
    /// Bytes of the plan: its operations, and the tables of their kernels.
    pub program_bytes: u64,
    /// Bytes of the cache of teacher trajectories, with cache_refresh those that come next and what computes them too; 0 before it is made, and where no term
    /// needs one.
    pub cache_bytes: u64,
    /// All the memory that the trainer holds, on the host and on a GPU: arena, prepared, state, constant, program and cache bytes together. The weights of
    /// the models that it was made from and the dataset, which are shared, are not in it.
    pub total_bytes: u64,
}

// SAFETY: repr(C), numbers only, no gap.
unsafe impl Report for fewstep_step_report {
    const NAME: &'static str = "step report";
    const FIRST_SIZE: usize = size_of::<Self>();
}

// SAFETY: repr(C), numbers only, no gap.
unsafe impl Report for fewstep_trainer_info {
    const NAME: &'static str = "trainer info";
    const FIRST_SIZE: usize = offset_of!(Self, state_bytes);
}

/// What a trainer handle owns.
pub(crate) struct TrainerHandle {
    runtime: Arc<Runtime>,
    trainer: Trainer,
}

impl Opaque for fewstep_trainer {
    type Inner = TrainerHandle;
    const NAME: &'static str = "trainer";
    const TAG: u64 = u64::from_le_bytes(*b"fs.train");
}

impl TrainerHandle {
    fn prepare(&mut self, watch: &Watch) -> Result<()> {
        if self.trainer.is_prepared() {
            return Ok(());
        }
        let stop = watch.stop(&self.runtime);
        stop.check()?;
        watch.counting(FEWSTEP_PHASE_PREPARE, |report| self.trainer.prepare(report, stop))?;
        self.runtime.log(FEWSTEP_LOG_INFO, "the trajectory cache is complete");
        self.warn();
        Ok(())
    }

    /// Hands to the log what the trajectories gave rise to, whichever call made them.
    fn warn(&mut self) {
        if let Some(warning) = self.trainer.take_warning() {
            self.runtime.log(FEWSTEP_LOG_WARNING, &warning);
        }
    }

    fn resume(&mut self, path: &Path, changes: u32) -> Result<()> {
        if changes & !FEWSTEP_RESUME_ANY != 0 {
            return Err(Error::invalid(format!("changes is {changes:#x}; the FEWSTEP_RESUME_* of this version are within {FEWSTEP_RESUME_ANY:#x}")));
        }
        self.trainer.resume(path, changes)?;
        let (done, options) = (self.trainer.steps_done(), self.trainer.options());
        if options.optimizer.rate(done) == 0.0 {
            let total = options.optimizer.total_steps;
            let message = format!("resumed after {done} steps, but the learning rate falls to 0 at total_steps {total}, counted from the run's first step");
            self.runtime.log(FEWSTEP_LOG_WARNING, &message);
        }
        Ok(())
    }

    fn train(&mut self, steps: u64, watch: &Watch) -> Result<()> {
        self.prepare(watch)?;
        let stop = watch.stop(&self.runtime);
        let (mut pace, batch) = (Pace::default(), self.trainer.options().rows());
        pace.start();
        for done in 1..=steps {
            let report = self.trainer.step_until(stop)?;
            pace.step();
            watch.report(&fewstep_progress::of_step(&report, [done, steps], &pace, batch, (steps - done) as f64))?;
        }
        Ok(())
    }

    fn info(&self) -> fewstep_trainer_info {
        let (plan, options, memory, cache) = (self.trainer.plan(), self.trainer.options(), self.trainer.memory(), self.trainer.cache_bytes());
        fewstep_trainer_info {
            struct_size: size_field::<fewstep_trainer_info>(),
            prepared: i32::from(self.trainer.is_prepared()),
            steps_done: self.trainer.steps_done(),
            arena_bytes: memory.arena as u64,
            peak_live_bytes: plan.peak_live_bytes() as u64,
            prepared_bytes: memory.persistent as u64,
            batch: u32::try_from(options.rows()).unwrap_or(u32::MAX),
            pair_count: u32::try_from(options.pairs.len()).unwrap_or(u32::MAX),
            state_bytes: memory.states as u64,
            constant_bytes: memory.constants as u64,
            program_bytes: memory.program as u64,
            cache_bytes: cache as u64,
            total_bytes: (memory.total() + cache) as u64,
        }
    }
}

impl fewstep_step_report {
    fn new(report: &StepReport) -> Self {
        Self {
            struct_size: size_field::<Self>(),
            loss: report.loss,
            step: report.step,
            terms: report.terms,
            grad_norm: report.grad_norm,
            learning_rate: report.learning_rate,
        }
    }
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_options_init(options: *mut fewstep_trainer_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Plans a training run and takes the memory of its steps, but for a teacher's weights in the device's order where there is a cache to prepare; these and the
/// trajectory cache come with fewstep_trainer_prepare. The student's weights are copied, as f32; teacher and dataset are shared. `teacher` and `dataset` may be
/// NULL where no term needs them; a teacher that takes more than class labels needs a dataset for its trajectories too, whose rows have what it takes. `cancel`
/// of the options stops it.
///
/// The caller owns `*out` and gives it to fewstep_trainer_destroy; it keeps what it needs of the other handles alive. Any thread may call.
/// Returns OK, INVALID_ARGUMENT, SHAPE (networks or data that do not fit together), UNSUPPORTED (also a teacher whose inputs are rounded; such a student with
/// pairs that are not its own grid, or with FEWSTEP_OBJECTIVE_OUTPUT or FEWSTEP_OBJECTIVE_DENOISE, whose timesteps lie on none; scales of groups that are to
/// learn), CANCELLED, NUMERIC or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_create(
    runtime: *const fewstep_runtime,
    student: *const fewstep_model,
    teacher: *const fewstep_model,
    dataset: *const fewstep_dataset,
    options: *const fewstep_trainer_options,
    out: *mut *mut fewstep_trainer,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, student) = (share(runtime)?, share(student).map_err(|e| e.context("student"))?);
        let (teacher, dataset) = (share_optional(teacher).map_err(|e| e.context("teacher"))?, share_optional(dataset)?);
        let options = options::read(options)?;
        let cancel = Cancel::new(options.cancel)?;
        let (teacher, dataset) = (teacher.as_ref().map(|t| t.model.as_ref()), dataset.as_ref().map(|d| &d.dataset));
        let options = translate(&options, &student.model, teacher)?;
        create(out, || {
            let trainer = Trainer::new_until(runtime.backend.clone(), &student.model, teacher, dataset, options, runtime.stop_or(&cancel))?;
            Ok(TrainerHandle { runtime: runtime.clone(), trainer })
        })
    })
}

/// Computes what the steps read: the cache of teacher trajectories. Nothing happens when there is none to make or it is made. `progress` and `cancel`
/// may be NULL; `cancel` is seen in the middle of an evaluation of the teacher. After CANCELLED a later call starts again.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED, NUMERIC, OUT_OF_MEMORY or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_prepare(
    trainer: *mut fewstep_trainer,
    progress: fewstep_progress_callback,
    user: *mut c_void,
    cancel: *const fewstep_cancel_token,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut trainer = exclusive(trainer)?;
        trainer.prepare(&Watch::new(progress, user, cancel)?)
    })
}

/// One training step; the first one prepares when fewstep_trainer_prepare was not called. Fills `*report` (may be NULL), whose struct_size the caller has
/// set. A step changes nothing and is NUMERIC when its loss, its gradient or a weight that it would leave is not finite, or its gradient, clipped, has a norm
/// above 9.2e18: the weights are finite at any time.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED (by the runtime's token; nothing has changed, but for f16's loss scale, which may be smaller
/// by then), NUMERIC, OUT_OF_MEMORY or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_step(trainer: *mut fewstep_trainer, report: *mut fewstep_step_report) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut trainer = exclusive(trainer)?;
        let size = if report.is_null() { None } else { Some(check_report(report)?) };
        let runtime = trainer.runtime.clone();
        let done = trainer.trainer.step_until(runtime.stop());
        trainer.warn();
        let done = done?;
        if let Some(size) = size {
            write_report(report, size, fewstep_step_report::new(&done));
        }
        Ok(())
    })
}

/// Prepares if that is still to be done, with reports of FEWSTEP_PHASE_PREPARE, then runs `steps` training steps and calls `progress` after each. `progress`
/// and `cancel` may be NULL; `cancel` is seen in the middle of a step, which then has changed nothing. After CANCELLED the steps that were done count, and
/// training can go on with any function.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED, NUMERIC, OUT_OF_MEMORY or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_train(
    trainer: *mut fewstep_trainer,
    steps: u64,
    progress: fewstep_progress_callback,
    user: *mut c_void,
    cancel: *const fewstep_cancel_token,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut trainer = exclusive(trainer)?;
        trainer.train(steps, &Watch::new(progress, user, cancel)?)
    })
}

/// The loss of the present weights on a batch drawn with another seed. Prepares if that is still to be done (which takes as long as it does there), and
/// changes nothing else. Fills `*report`, whose struct_size the caller has set.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED (by the runtime's token), NUMERIC, OUT_OF_MEMORY or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_evaluate(trainer: *mut fewstep_trainer, seed: u64, report: *mut fewstep_step_report) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut trainer = exclusive(trainer)?;
        let size = check_report(report)?;
        let runtime = trainer.runtime.clone();
        let found = trainer.trainer.evaluate_until(seed, runtime.stop());
        trainer.warn();
        let found = found?;
        if !found.loss.is_finite() {
            return Err(Error::numeric(format!("the loss is {}", found.loss)));
        }
        write_report(report, size, fewstep_step_report::new(&found));
        Ok(())
    })
}

/// How far from the teacher the states are that the student is trained to match, which no student that matches them comes below: the RMSE between the ends of
/// `count` trajectories as this trainer computes them (teacher_order, substeps) and as DDIM does over `reference_steps` evenly spread ("trailing") timesteps,
/// from the noises of `seed` that training does not see. Needs an objective on trajectories. `cancel` may be NULL. Changes nothing.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT, CANCELLED, NUMERIC or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_target_error(
    trainer: *mut fewstep_trainer,
    reference_steps: u32,
    count: u32,
    seed: u64,
    cancel: *const fewstep_cancel_token,
    out: *mut f64,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let trainer = exclusive(trainer)?;
        check_out(out, "out")?;
        let cancel = Cancel::new(cancel)?;
        let stop = trainer.runtime.stop_or(&cancel);
        put(out, trainer.trainer.target_error(reference_steps as usize, count as usize, seed, stop)?);
        Ok(())
    })
}

/// Each term of the loss, then each feature, then the distribution, without its factor, in the order of the options, as the last step or evaluation found it: also one that was
/// NUMERIC, so that one sees which term was not finite. Writes them to `losses` and their number to `*count`; with `losses` NULL and `capacity` 0 only the
/// number.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT, SHAPE (capacity is too small) or STATE (losses are asked for before the first step or evaluation).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_losses(trainer: *mut fewstep_trainer, losses: *mut f32, capacity: usize, count: *mut usize) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let trainer = exclusive(trainer)?;
        check_out(count, "count")?;
        let terms = trainer.trainer.options().losses();
        if !losses.is_null() || capacity != 0 {
            if capacity < terms {
                return Err(Error::shape(format!("the loss has {terms} terms, capacity is {capacity}")));
            }
            let found = trainer.trainer.terms().ok_or_else(|| Error::state("there are no losses yet; step, train or evaluate first"))?;
            slice_mut(losses, terms, "losses")?.copy_from_slice(found);
        }
        put(count, terms);
        Ok(())
    })
}

/// The teacher's trajectories that the next step draws from, for other trainers and for files: a student trains on them without the teacher. Prepares if that
/// is still to be done. The trainer shares them.
///
/// The caller owns `*out` and gives it to fewstep_trajectories_destroy. One thread at a time for the trainer.
/// Returns OK, INVALID_ARGUMENT, CANCELLED (by the runtime's token), NUMERIC, OUT_OF_MEMORY or STATE (no objective is on trajectories).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_trajectories(trainer: *mut fewstep_trainer, out: *mut *mut fewstep_trajectories) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut trainer = exclusive(trainer)?;
        create(out, || {
            trainer.prepare(&Watch::new(None, std::ptr::null_mut(), std::ptr::null())?)?;
            Ok(TrajectoriesHandle::new(trainer.runtime.clone(), trainer.trainer.trajectory_set()?))
        })
    })
}

/// A new model with the present weights, also in the middle of training; it does not change when training goes on. `weights` is FEWSTEP_WEIGHTS_*.
///
/// The caller owns `*out` and gives it to fewstep_model_destroy. One thread at a time for the trainer.
/// Returns OK, INVALID_ARGUMENT, NUMERIC (a weight that is not finite), OUT_OF_MEMORY or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_snapshot(trainer: *mut fewstep_trainer, weights: i32, out: *mut *mut fewstep_model) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let trainer = exclusive(trainer)?;
        let kind = choice(weights, "weights", &[(FEWSTEP_WEIGHTS_RAW, WeightsKind::Raw), (FEWSTEP_WEIGHTS_EMA, WeightsKind::Ema)])?;
        create(out, || Ok(ModelHandle::new(trainer.runtime.clone(), trainer.trainer.snapshot(kind)?)))
    })
}

/// Saves the whole state of training as one safetensors file, which appears whole or not at all. `path` is UTF-8. What could not be resumed is NUMERIC and
/// leaves the file that is there.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT, NUMERIC, UNSUPPORTED (configs of more text than is read), IO, NOT_FOUND (no such folder),
/// OUT_OF_MEMORY or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_save(trainer: *mut fewstep_trainer, path: *const c_char) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let trainer = exclusive(trainer)?;
        trainer.trainer.save(self::path(path, "path")?)
    })
}

/// Continues where fewstep_trainer_save stopped: the next steps are those that the saved run would have done, to the bit. The trainer must have been
/// created with the same student architecture and options, and with the same teacher and dataset, which a checkpoint does not hold; nothing changes on an
/// error. fewstep_trainer_resume_with resumes with other options.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT (another student or option), NOT_FOUND, IO, CORRUPT_FILE (damaged, or a state that no training
/// leaves: numbers that are not finite, second moments below 0, more than 2^53 steps), VERSION_MISMATCH, UNSUPPORTED, OUT_OF_MEMORY or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_resume(trainer: *mut fewstep_trainer, path: *const c_char) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut trainer = exclusive(trainer)?;
        trainer.resume(self::path(path, "path")?, 0)
    })
}

/// Continues where fewstep_trainer_save stopped, with other options: `changes` says which may differ from the saved run's, as a sum of FEWSTEP_RESUME_*; 0 is
/// fewstep_trainer_resume. The options are those that the trainer was created with. Weights, all of the optimizer's states, the moving average and the number
/// of steps done are the checkpoint's. The student's architecture, noise schedule and prediction type must agree always. The trainer's own checkpoints
/// have the new options.
///
/// One thread at a time. Returns as fewstep_trainer_resume does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_resume_with(trainer: *mut fewstep_trainer, path: *const c_char, changes: u32) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let mut trainer = exclusive(trainer)?;
        trainer.resume(self::path(path, "path")?, changes)
    })
}

/// Fills `*out`, whose struct_size the caller has set.
///
/// One thread at a time. Returns OK, INVALID_ARGUMENT or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_get_info(trainer: *mut fewstep_trainer, out: *mut fewstep_trainer_info) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let trainer = exclusive(trainer)?;
        let size = check_report(out)?;
        write_report(out, size, trainer.info());
        Ok(())
    })
}

/// Destroys a trainer. NULL is fine.
///
/// Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the trainer, as from its own callback (nothing happens then).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_trainer_destroy(trainer: *mut fewstep_trainer) -> fewstep_status {
    // SAFETY: `trainer` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe { handle::destroy(trainer) })
}
