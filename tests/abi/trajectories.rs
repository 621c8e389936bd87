//! Teachers that are no models: a callback of the host's, and trajectories from a file.

use crate::ffi_common::{Api, TINY, c, scratch, term};
use fewstep::ffi::evaluator::*;
use fewstep::ffi::model::fewstep_model;
use fewstep::ffi::runtime::fewstep_runtime;
use fewstep::ffi::sampler_options::FEWSTEP_CLIP_RANGE;
use fewstep::ffi::trainer::*;
use fewstep::ffi::trainer_options::*;
use fewstep::ffi::trajectories::*;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

const INVALID: i32 = 1;
const CANCELLED: i32 = 12;
const NUMERIC: i32 = 13;

/// What the host's teacher is handed: the library's own evaluator, and what it does in which call.
struct Teacher<'a> {
    api: &'a Api,
    evaluator: *mut fewstep_evaluator,
    calls: u32,
    /// Gives a number that is none in this call, and up in the next one.
    bad: u32,
}

/// Evaluates a model of the library's: whatever the host has.
unsafe extern "C" fn predict(user: *mut c_void, at: *const fewstep_evaluation, prediction: *mut f32, count: usize) -> i32 {
    // SAFETY: the test's own structures.
    unsafe {
        let teacher = &mut *user.cast::<Teacher>();
        teacher.calls += 1;
        if teacher.calls == teacher.bad + 1 {
            return 7;
        }
        if teacher.calls == teacher.bad + 2 {
            return 0; // and has written nothing
        }
        let status = (teacher.api.fewstep_evaluator_run)(teacher.evaluator, at, prediction, count);
        if teacher.calls == teacher.bad {
            *prediction = f32::INFINITY;
        }
        status
    }
}

struct Run {
    api: Api,
    runtime: *mut fewstep_runtime,
    student: *mut fewstep_model,
    teacher: *mut fewstep_model,
}

impl Run {
    fn new() -> Self {
        let api = Api::load();
        let runtime = api.runtime(2);
        let [student, teacher] = [1, 2].map(|seed| api.model(runtime, seed));
        Self { api, runtime, student, teacher }
    }

    fn options(&self) -> fewstep_trajectories_options {
        // SAFETY: all zeros is a value of it.
        let mut o: fewstep_trajectories_options = unsafe { std::mem::zeroed() };
        // SAFETY: a valid pointer.
        self.api.ok(unsafe { (self.api.fewstep_trajectories_options_init)(&mut o, size_of_val(&o)) });
        (o.steps, o.substeps, o.count, o.batch, o.seed) = (2, 2, 8, 4, 5);
        o.clip = FEWSTEP_CLIP_RANGE; // as the model's own scheduler says
        o
    }

    /// Creates with this teacher; the status.
    fn create(&self, o: &fewstep_trajectories_options, out: &mut *mut fewstep_trajectories) -> i32 {
        // SAFETY: valid pointers.
        unsafe { (self.api.fewstep_trajectories_create)(self.runtime, self.student, null(), o, None, null_mut(), null(), out) }
    }

    fn evaluator(&self) -> *mut fewstep_evaluator {
        let mut evaluator = null_mut();
        // SAFETY: valid pointers.
        unsafe {
            let mut o: fewstep_evaluator_options = std::mem::zeroed();
            self.api.ok((self.api.fewstep_evaluator_options_init)(&mut o, size_of_val(&o)));
            o.batch = 4;
            self.api.ok((self.api.fewstep_evaluator_create)(self.runtime, self.teacher, &o, &mut evaluator));
        }
        evaluator
    }

    /// The losses of some steps on trajectories, or with the teacher.
    fn losses(&self, trajectories: *const fewstep_trajectories) -> Vec<f32> {
        let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
        let mut o = self.api.trainer_options(&term);
        (o.batch, o.seed, o.trajectories) = (4, 5, trajectories);
        let teacher = if trajectories.is_null() { self.teacher } else { null_mut() };
        if trajectories.is_null() {
            (o.steps, o.substeps, o.cache_size, o.cache_batch) = (2, 2, 8, 4);
        }
        let (mut trainer, mut losses) = (null_mut(), vec![]);
        // SAFETY: valid pointers.
        unsafe {
            self.api.ok((self.api.fewstep_trainer_create)(self.runtime, self.student, teacher, null(), &o, &mut trainer));
            for _ in 0..3 {
                let mut report: fewstep_step_report = std::mem::zeroed();
                report.struct_size = size_of_val(&report) as u32;
                self.api.ok((self.api.fewstep_trainer_step)(trainer, &mut report));
                losses.push(report.loss);
            }
            self.api.ok((self.api.fewstep_trainer_destroy)(trainer));
        }
        losses
    }
}

#[test]
fn a_hosts_teacher_and_its_file_train_as_the_model_does() {
    let (run, dir) = (Run::new(), scratch("host-teacher"));
    let mut teacher = Teacher { api: &run.api, evaluator: run.evaluator(), calls: 0, bad: u32::MAX - 2 };
    let mut o = run.options();
    o.predict = Some(predict);
    o.user = (&raw mut teacher).cast();
    let (mut called, mut opened, mut made) = (null_mut(), null_mut(), null_mut());
    run.api.ok(run.create(&o, &mut called));
    assert_eq!(teacher.calls, 8, "two batches of four steps");
    let path = c(&dir.join("trajectories.safetensors").to_string_lossy());
    let expected = run.losses(null());
    // SAFETY: valid pointers throughout.
    unsafe {
        let mut info: fewstep_trajectories_info = std::mem::zeroed();
        info.struct_size = size_of_val(&info) as u32;
        run.api.ok((run.api.fewstep_trajectories_get_info)(called, &mut info));
        assert_eq!([info.count, info.pair_count, info.substeps, info.channels, info.height, info.width], [8, 2, 2, 1, 8, 8]);
        run.api.ok((run.api.fewstep_trajectories_save)(called, path.as_ptr()));
        run.api.ok((run.api.fewstep_trajectories_open)(run.runtime, run.student, path.as_ptr(), &mut opened));
        // A trainer's own are the same kind of thing.
        let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
        let mut options = run.api.trainer_options(&term);
        (options.batch, options.seed, options.steps, options.substeps, options.cache_size, options.cache_batch) = (4, 5, 2, 2, 8, 4);
        let mut trainer = null_mut();
        run.api.ok((run.api.fewstep_trainer_create)(run.runtime, run.student, run.teacher, null(), &options, &mut trainer));
        run.api.ok((run.api.fewstep_trainer_trajectories)(trainer, &mut made));
        run.api.ok((run.api.fewstep_trainer_destroy)(trainer));
        let bytes = |losses: &[f32]| losses.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
        assert_eq!(bytes(&run.losses(made)), bytes(&expected));
        assert_eq!(bytes(&run.losses(called)), bytes(&run.losses(opened)));
        // The states are those of another program of the same sums, in f16.
        for (a, b) in run.losses(called).iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-2 * b, "{a} {b}");
        }
        for trajectories in [called, opened, made] {
            run.api.ok((run.api.fewstep_trajectories_destroy)(trajectories));
        }
        run.api.ok((run.api.fewstep_evaluator_destroy)(teacher.evaluator));
    }
    std::fs::remove_dir_all(dir).expect("clean up");
}

#[test]
fn bad_teachers_get_a_sentence() {
    let run = Run::new();
    let mut teacher = Teacher { api: &run.api, evaluator: run.evaluator(), calls: 0, bad: 3 };
    let user = (&raw mut teacher).cast::<c_void>();
    let row = |status: i32, needle: &str, change: &dyn Fn(&mut fewstep_trajectories_options)| {
        let (mut o, mut out) = (run.options(), null_mut());
        o.predict = Some(predict);
        o.user = user;
        change(&mut o);
        run.api.fails(needle, run.create(&o, &mut out), status, needle);
        assert!(out.is_null());
    };
    row(NUMERIC, "trajectory 0 at timestep", &|_| {});
    row(CANCELLED, "the teacher's callback, which returned 7", &|_| {});
    row(NUMERIC, "trajectory 0 at timestep 999 is NaN", &|_| {});
    row(INVALID, "predict is NULL", &|o| o.predict = None);
    row(INVALID, "count is 0", &|o| o.count = 0);
    row(INVALID, "teacher's solver is 0", &|o| o.teacher_order = 0);
    row(INVALID, "1002 teacher steps", &|o| o.substeps = 501);
    row(INVALID, "list of timestep pairs is empty", &|o| o.steps = 0);
    row(INVALID, "prediction is 9", &|o| o.prediction = 9);
    row(INVALID, "clip is 9", &|o| o.clip = 9);
    row(INVALID, "clip_range", &|o| o.clip_range = 0.0);
    row(INVALID, "set both or neither", &|o| o.height = 8);
    // A student of another size does not take them.
    let (mut o, mut out, mut other) = (run.options(), null_mut(), null_mut());
    (teacher.bad, o.user) = (u32::MAX - 2, user);
    o.predict = Some(predict);
    run.api.ok(run.create(&o, &mut out));
    let config = TINY.replace(r#""num_class_embeds":10"#, r#""num_class_embeds":9"#);
    let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
    let mut options = run.api.trainer_options(&term);
    (options.trajectories, options.steps) = (out, 4);
    // SAFETY: valid pointers throughout.
    unsafe {
        let mut trainer = null_mut();
        let create = |student, trainer: &mut *mut fewstep_trainer, options: &fewstep_trainer_options| {
            (run.api.fewstep_trainer_create)(run.runtime, student, null(), null(), options, trainer)
        };
        run.api.fails("grid", create(run.student, &mut trainer, &options), INVALID, "are for the grid");
        (options.steps, options.cache_refresh) = (0, 4);
        run.api.fails("fresh ones", create(run.student, &mut trainer, &options), INVALID, "only a teacher makes fresh ones");
        options.cache_refresh = 0;
        run.api.ok((run.api.fewstep_model_create)(run.runtime, c(&config).as_ptr(), null(), 1, &mut other));
        run.api.fails("classes", create(other, &mut trainer, &options), 2, "the trajectories have");
        run.api.ok((run.api.fewstep_trajectories_destroy)(out));
        run.api.ok((run.api.fewstep_evaluator_destroy)(teacher.evaluator));
    }
}
