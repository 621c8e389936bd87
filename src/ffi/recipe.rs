//! Recipes: training in stages that goes by itself.

use super::boundary::{check_out, ffi_boundary, path, text, write_text};
use super::callback::{FEWSTEP_PHASE_PREPARE, Watch, fewstep_progress, fewstep_progress_callback};
use super::cancel::fewstep_cancel_token;
use super::dataset::fewstep_dataset;
use super::error::fewstep_status;
use super::extent::check_extent;
use super::handle::{create, share, share_optional};
use super::model::{ModelHandle, fewstep_model};
use super::options::{self, Options, size_field};
use super::runtime::{FEWSTEP_LOG_WARNING, Runtime, fewstep_runtime};
use super::trajectories::fewstep_trajectories;
use crate::error::Result;
use crate::recipe::{self, Phase, Progress, Recipe, Setup};
use std::ffi::{c_char, c_void};

/// What a run of a recipe measures, writes and keeps. Fill it with fewstep_recipe_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_recipe_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Noises that training never sees, on which the student is measured; 256 by default, 0 for none: no errors then, no pictures, and no stage ends early.
    pub held_out: u32,
    /// The run's folder, which is made where there is none: checkpoints, by which the run goes on after it was cut off, and metrics and pictures (see
    /// fewstep_recipe_run). One run at a time: another one is refused with STATE. NULL (the default) for none: nothing is written, and what was done is lost
    /// with the call. UTF-8, read during the call.
    pub folder: *const c_char,
    /// Steps from one line of the metrics to the next; 50 by default, 0 for lines before measurements and checkpoints only.
    pub log_every: u64,
    /// Steps from one measurement on held-out noises to the next; 500 by default. The first is before a stage's first step, the last after its last; 0 for
    /// no others.
    pub evaluate_every: u64,
    /// Steps from one checkpoint to the next; 500 by default. 0 for one only where the run is cancelled.
    pub save_every: u64,
    /// Trajectories that are there already, for all stages on trajectories but those that learn from the stage before; NULL (the default) for none.
    pub trajectories: *const fewstep_trajectories,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_recipe_options {
    const NAME: &'static str = "recipe options";
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            held_out: 256,
            folder: std::ptr::null(),
            log_every: 50,
            evaluate_every: 500,
            save_every: 500,
            trajectories: std::ptr::null(),
        }
    }
}

/// Tells the host of a run.
struct Told<'a> {
    watch: &'a Watch<'a>,
    runtime: &'a Runtime,
}

impl recipe::Watch for Told<'_> {
    fn progress(&mut self, p: &Progress) -> Result<()> {
        let at = [p.done, p.total];
        let progress = match p.phase {
            Phase::Prepare => fewstep_progress::new(FEWSTEP_PHASE_PREPARE, at[0], at[1]),
            Phase::Train => fewstep_progress::of_step(&p.report, at, &p.pace, p.batch, p.steps_left),
        };
        // A recipe has 64 stages at most.
        self.watch.report(&fewstep_progress { stage: p.stage as u32 + 1, stage_count: p.stages as u32, ..progress })
    }

    fn warn(&mut self, message: &str) {
        self.runtime.log(FEWSTEP_LOG_WARNING, message);
    }
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_recipe_options_init(options: *mut fewstep_recipe_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// The JSON of a recipe that comes with the library, for a student of `steps` sampler steps: "fast" (minutes on two cores for small images) or "best" (six times
/// as long). Run it as it is, or change it: every field is there. Writes the text and a NUL to `buffer`, and its length without the NUL to `*length`; with
/// `buffer` NULL and `capacity` 0 only the length.
///
/// Any thread may call. Returns OK, INVALID_ARGUMENT (no such recipe), SHAPE (capacity is too small) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_recipe_text(name: *const c_char, steps: u32, buffer: *mut c_char, capacity: usize, length: *mut usize) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let recipe = Recipe::named(text(name, "name")?, steps)?;
        check_out(length, "length")?;
        write_text(&recipe.text()?, buffer, capacity, length)
    })
}

/// Trains a student by a recipe: stages, each of which is what a trainer does, and goes on with the student (the moving average of its weights) that the one
/// before has made.
///
/// `recipe` is JSON: `{"stages": [...]}`. A stage has the fields of fewstep_trainer_options, with their defaults and with words for constants ("muon",
/// "cosine", "bf16"), and `name`, `steps` (of training; also total_steps), `grid` (sampler steps of the student, 0 for its own), `teacher` ("given", or
/// "previous" for the student of the stage before, as progressive distillation has it) and `patience` (held-out errors without a new best after which the
/// stage ends with its best student; 0 for never). Its `terms` have `objective` ("teacher_forced"), `weight`, `norm`, `huber_delta`, `linear_fit_steps` and
/// `step_weight` (by default "state" on trajectories, elsewhere the error of what the student predicts), its `features` `objective`, `student`, `teacher`, `norm`,
/// `weight` and `decay_steps`; `distribution` is null, or has `nets` and `weight`. fewstep_recipe_text has whole ones.
///
/// The folder of the options holds, at any time: recipe.json; metrics.jsonl, a line for each log_every steps (loss, each term, gradient norm, learning rate,
/// samples a second) and for each measurement (`held_out`: RMSE against the teacher's trajectories of noises that training never sees, `training`: of as many
/// that it does; without trajectories the loss of other draws); the same as TensorBoard event files; progress.svg, their curves; samples-STAGE-STEP.png; and
/// stage-N.safetensors, the student of each stage that is done. A call with the folder of a run that was cut off, also by a crash of the process or the machine,
/// goes on from its last checkpoint, to the same bits as a run that never stopped; the models and the data must be the same. After the last stage it returns the
/// student at once.
///
/// `student` is the first stage's initial student; `teacher` and `dataset` may be NULL where no stage needs them. `progress` and `cancel` may be NULL; it is told
/// the stage, the pace and the time that is left. After CANCELLED what was done is in the folder.
///
/// The caller owns `*out` and gives it to fewstep_model_destroy. Any thread may call. Returns OK, INVALID_ARGUMENT (a recipe that cannot be meant, or a folder of
/// another one), SHAPE, UNSUPPORTED, CANCELLED, NUMERIC (training has diverged; the folder keeps what was before), IO, NOT_FOUND, CORRUPT_FILE, VERSION_MISMATCH,
/// OUT_OF_MEMORY or STATE (another run is under way in the folder).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_recipe_run(
    runtime: *const fewstep_runtime,
    recipe: *const c_char,
    student: *const fewstep_model,
    teacher: *const fewstep_model,
    dataset: *const fewstep_dataset,
    options: *const fewstep_recipe_options,
    progress: fewstep_progress_callback,
    user: *mut c_void,
    cancel: *const fewstep_cancel_token,
    out: *mut *mut fewstep_model,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        let recipe = Recipe::parse(text(recipe, "recipe")?)?;
        let student = share(student).map_err(|e| e.context("student"))?;
        let (teacher, dataset) = (share_optional(teacher).map_err(|e| e.context("teacher"))?, share_optional(dataset)?);
        let o = options::read(options)?;
        let trajectories = share_optional(o.trajectories)?.map(|t| t.set.clone());
        let watch = Watch::new(progress, user, cancel)?;
        let size = student.model.size()?;
        for stage in &recipe.stages {
            check_extent(&student.model, stage.batch.max(stage.cache_batch.min(stage.cache_size)), size)?;
        }
        let setup = Setup {
            backend: runtime.backend.clone(),
            student: &student.model,
            teacher: teacher.as_ref().map(|t| t.model.as_ref()),
            dataset: dataset.as_ref().map(|d| &d.dataset),
            trajectories,
            folder: if o.folder.is_null() { None } else { Some(path(o.folder, "folder")?) },
            held_out: o.held_out as usize,
            log_every: o.log_every,
            evaluate_every: o.evaluate_every,
            save_every: o.save_every,
        };
        create(out, || {
            let mut told = Told { watch: &watch, runtime: &runtime };
            Ok(ModelHandle::new(runtime.clone(), recipe::run(&recipe, &setup, &mut told, watch.stop(&runtime))?))
        })
    })
}
