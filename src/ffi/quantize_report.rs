//! What each layer's whole numbers cost.

use super::boundary::ffi_boundary;
use super::callback::{FEWSTEP_PHASE_REPORT, Watch, fewstep_progress_callback};
use super::error::fewstep_status;
use super::handle::{share, share_optional};
use super::model::fewstep_model;
use super::options::{self, size_field};
use super::quantize::{self, fewstep_quantize_options};
use super::runtime::fewstep_runtime;
use crate::error::{Error, Result};
use crate::memory;
use crate::process::fp_environment::as_caller;
use crate::quant::{self, Report};
use std::ffi::{CString, c_char, c_void};

/// What the whole numbers of a layer cost, or those of all layers. Only valid inside the callback. Later versions may have more fields: read no more than
/// struct_size bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_layer_report {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Steps of the student's grid.
    pub step_count: u32,
    /// The layer's path in the file, without ".weight"; NULL for all layers together.
    pub layer: *const c_char,
    /// Errors of each step, `step_count` numbers: root of the mean square of the difference between the states that the step lands on, of the student in floats
    /// and of one in which this layer alone computes in whole numbers, from the same noise.
    pub step_errors: *const f64,
    /// This layer's part of the sum of the squares of all layers' last errors, 0 to 1; 1 for all layers together.
    pub share: f64,
    /// The last error where all other layers compute in whole numbers and this one has the student's own floats; 0 for all layers together.
    pub error_if_kept: f64,
}

/// Called for all layers together, then for each, in the order of their paths, on the thread that made the call. Must return normally (no C++ exception, no
/// longjmp).
pub type fewstep_layer_report_callback = Option<unsafe extern "C" fn(user: *mut c_void, report: *const fewstep_layer_report)>;

/// Calls `visit` for all layers together and for each.
///
/// # Safety
/// The callback may be called with `user`.
unsafe fn tell(report: &Report, visit: unsafe extern "C" fn(*mut c_void, *const fewstep_layer_report), user: *mut c_void) -> Result<()> {
    let tell = |layer: *const c_char, errors: &[f64], share: f64, error_if_kept: f64| {
        let step_count = errors.len() as u32; // at most 1000
        let row =
            fewstep_layer_report { struct_size: size_field::<fewstep_layer_report>(), step_count, layer, step_errors: errors.as_ptr(), share, error_if_kept };
        // SAFETY: as promised by the caller, on its thread.
        as_caller(|| unsafe { visit(user, &row) });
    };
    tell(std::ptr::null(), &report.steps, 1.0, 0.0);
    for (i, layer) in report.layers.iter().enumerate() {
        memory::check()?;
        let path = CString::new(layer.layer.as_str()).map_err(|_| Error::internal("a path with a NUL"))?;
        tell(path.as_ptr(), &layer.alone, report.share(i), layer.kept);
    }
    Ok(())
}

/// Measures what the whole numbers of `quantized` cost: calls `visit` for all layers together and for each. `student` is the model in floats that it was made
/// of, without training since. `options` has the samples (samples, batch, height, width, seed, dataset, cancel); what it says of how
/// to quantise is of no effect; NULL for the defaults. The noises are
/// others than those of a calibration with the same seed. For each layer two models are compiled and sampled: this takes as long as some hundred runs.
/// `progress` may be NULL and reports FEWSTEP_PHASE_REPORT; `user` goes to both callbacks.
///
/// Any thread may call. Returns OK, INVALID_ARGUMENT (also for models that do not belong together, or `visit` NULL), SHAPE, NUMERIC, CANCELLED, UNSUPPORTED or
/// OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_quantize_report(
    runtime: *const fewstep_runtime,
    student: *const fewstep_model,
    quantized: *const fewstep_model,
    options: *const fewstep_quantize_options,
    progress: fewstep_progress_callback,
    visit: fewstep_layer_report_callback,
    user: *mut c_void,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, student, quantized) = (share(runtime)?, share(student)?, share(quantized)?);
        let visit = visit.ok_or_else(|| Error::invalid("visit is NULL: nobody would read the report"))?;
        let options = options::read(options)?;
        let watch = Watch::new(progress, user, options.cancel)?;
        let dataset = share_optional(options.dataset)?;
        let model = &student.model;
        let read = quantize::read(&options, model, true)?;
        let samples = quant::Samples { count: read.samples, batch: read.batch, size: read.size, seed: read.seed };
        let rows = dataset.as_ref().map_or(Ok(vec![]), |d| d.dataset.conditions_of(&model.roles()?.conditions))?;
        let (models, stop) = ([model.as_ref(), quantized.model.as_ref()], watch.stop(&runtime));
        let report = watch.counting(FEWSTEP_PHASE_REPORT, |progress| quant::report(runtime.backend.as_ref(), models, samples, &rows, progress, stop));
        tell(&report?, visit, user)
    })
}
