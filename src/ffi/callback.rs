//! What the library calls: progress, and the mediation between callbacks, cancel tokens and loops.

use super::cancel::{Cancel, fewstep_cancel_token};
use super::options::size_field;
use super::runtime::Runtime;
use crate::cancel::Stop;
use crate::distill::{Pace, StepReport};
use crate::error::{Error, Result};
use crate::process::fp_environment::as_caller;
use std::ffi::c_void;

/// Progress of fewstep_trainer_prepare, also where fewstep_trainer_train begins with it: `done` of `total` teacher evaluations.
pub const FEWSTEP_PHASE_PREPARE: i32 = 1;
/// Progress of fewstep_trainer_train: `done` of `total` steps of this call.
pub const FEWSTEP_PHASE_TRAIN: i32 = 2;
/// Progress of fewstep_sampler_run: `done` of `total` sampler steps.
pub const FEWSTEP_PHASE_SAMPLE: i32 = 3;
/// Progress of fewstep_quantize: `done` of `total` samples of the calibration.
pub const FEWSTEP_PHASE_QUANTIZE: i32 = 4;

/// Progress of fewstep_quantize_report: `done` of `total` models that were sampled, two for each layer and two more.
pub const FEWSTEP_PHASE_REPORT: i32 = 5;
/// Progress of fewstep_evaluate: `done` of `total`, images that were sampled, sets that were measured and steps of the classifier together.
pub const FEWSTEP_PHASE_EVALUATE: i32 = 6;

/// Progress of fewstep_dataset_open_folder: `done` of `total` files.
pub const FEWSTEP_PHASE_OPEN: i32 = 7;

/// Progress of fewstep_student_search: `done` of `total` models that were measured, the teacher among them. It jumps to the end once there are rows enough.
pub const FEWSTEP_PHASE_SEARCH: i32 = 8;

/// How far a blocking call is. Only valid inside the callback. Later versions may have more fields: read no more than struct_size bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_progress {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// FEWSTEP_PHASE_*.
    pub phase: i32,
    /// What is done.
    pub done: u64,
    /// What there is to do.
    pub total: u64,
    /// FEWSTEP_PHASE_TRAIN: loss of the step just done; 0 otherwise.
    pub loss: f32,
    /// FEWSTEP_PHASE_TRAIN: norm of its gradient before clipping; 0 otherwise.
    pub grad_norm: f32,
    /// FEWSTEP_PHASE_TRAIN: its learning rate; 0 otherwise.
    pub learning_rate: f32,
    /// The recipe's stage, from 1; 0 where there is no recipe.
    pub stage: u32,
    /// Stages of the recipe; 0 where there is no recipe.
    pub stage_count: u32,
    /// 0.
    pub reserved: u32,
    /// FEWSTEP_PHASE_TRAIN: images that are trained on in a second, the mean of the last steps; 0 otherwise.
    pub samples_per_second: f64,
    /// FEWSTEP_PHASE_TRAIN: seconds until the call is done, if it goes on as in the last steps (and images of a recipe's later stages cost as much as those of
    /// this one); below 0 where that is not known.
    pub seconds_left: f64,
}

/// Called between two steps of a blocking call, on the thread that made the call. Return 0 to go on; anything else cancels: the call returns
/// FEWSTEP_STATUS_CANCELLED. Calls on a handle that the blocking call is using answer FEWSTEP_STATUS_STATE. Must return normally (no C++
/// exception, no longjmp).
pub type fewstep_progress_callback = Option<unsafe extern "C" fn(user: *mut c_void, progress: *const fewstep_progress) -> i32>;

impl fewstep_progress {
    /// Progress without training numbers.
    pub(crate) fn new(phase: i32, done: u64, total: u64) -> Self {
        Self {
            struct_size: size_field::<Self>(),
            phase,
            done,
            total,
            loss: 0.0,
            grad_norm: 0.0,
            learning_rate: 0.0,
            stage: 0,
            stage_count: 0,
            reserved: 0,
            samples_per_second: 0.0,
            seconds_left: -1.0,
        }
    }
}

impl fewstep_progress {
    /// Progress of training: the step just done, how many of how many, the pace of steps of `batch` images, and how many are still to come.
    pub(crate) fn of_step(report: &StepReport, [done, total]: [u64; 2], pace: &Pace, batch: usize, left: f64) -> Self {
        Self {
            loss: report.loss,
            grad_norm: report.grad_norm,
            learning_rate: report.learning_rate,
            samples_per_second: pace.samples_per_second(batch),
            seconds_left: pace.seconds_left(left).unwrap_or(-1.0),
            ..Self::new(FEWSTEP_PHASE_TRAIN, done, total)
        }
    }
}

/// Who may stop a blocking call.
pub(crate) struct Watch<'a> {
    callback: fewstep_progress_callback,
    user: *mut c_void,
    token: Cancel<'a>,
}

impl Watch<'_> {
    /// # Safety
    /// The callback may be called with `user`; `token` is NULL or came from this library.
    pub(crate) unsafe fn new(callback: fewstep_progress_callback, user: *mut c_void, token: *const fewstep_cancel_token) -> Result<Self> {
        // SAFETY: as promised by the caller.
        Ok(Self { callback, user, token: unsafe { Cancel::new(token)? } })
    }

    /// True where nobody watches: no callback and no token.
    pub(crate) fn is_idle(&self) -> bool {
        self.callback.is_none() && self.token.is_none()
    }

    /// What long work of a runtime looks at between two reports.
    pub(crate) fn stop<'a>(&'a self, runtime: &'a Runtime) -> Stop<'a> {
        runtime.stop_or(&self.token)
    }

    /// Does work that counts its pieces, with a report of the phase after each. Where the callback stops it, the callback's own words are the error.
    pub(crate) fn counting<R>(&self, phase: i32, work: impl FnOnce(&mut dyn FnMut(usize, usize) -> bool) -> Result<R>) -> Result<R> {
        let mut answered = Ok(());
        let mut report = |done: usize, total: usize| {
            answered = self.report(&fewstep_progress::new(phase, done as u64, total as u64));
            answered.is_ok()
        };
        let done = work(&mut report);
        answered.and(done)
    }

    /// Reports, and a cancelled error when the callback says so.
    pub(crate) fn report(&self, progress: &fewstep_progress) -> Result<()> {
        let Some(callback) = self.callback else { return Ok(()) };
        // SAFETY: the host promised a function that may be called with its `user`, on this thread.
        match as_caller(|| unsafe { callback(self.user, progress) }) {
            0 => Ok(()),
            answer => Err(Error::cancelled(format!("cancelled by the progress callback, which returned {answer}"))),
        }
    }
}
