//! Training through the C ABI: the same bytes for any thread count, after a stop and a resume in a new process, and after a cancel; every objective
//! lowers its held-out error.

use crate::ffi_common::{Api, c, scratch, term};
use fewstep::ffi::model::*;
use fewstep::ffi::runtime::fewstep_runtime;
use fewstep::ffi::sampler_options::*;
use fewstep::ffi::trainer::*;
use fewstep::ffi::trainer_options::*;
use std::path::Path;
use std::ptr::{null, null_mut};

const TEACHER: &str = "examples-c/data/digits_teacher";

/// What the demo's student differs in.
const STUDENT: &str = r#"{"block_out_channels": [16, 32], "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D"],
"up_block_types": ["UpBlock2D", "UpBlock2D"], "add_attention": false}"#;

/// The demo's student.
fn student(api: &Api, runtime: *const fewstep_runtime, teacher: *const fewstep_model) -> *mut fewstep_model {
    let patch = c(STUDENT);
    let mut out = null_mut();
    // SAFETY: valid pointers throughout.
    unsafe {
        let mut options: fewstep_student_options = std::mem::zeroed();
        api.ok((api.fewstep_student_options_init)(&mut options, size_of_val(&options)));
        (options.config_patch, options.prediction, options.steps, options.seed) = (patch.as_ptr(), FEWSTEP_PREDICTION_V, 2, 1);
        api.ok((api.fewstep_model_derive_student)(runtime, teacher, &options, &mut out));
    }
    out
}

fn small_options(api: &Api, term: *const fewstep_term) -> fewstep_trainer_options {
    let mut o = api.trainer_options(term);
    (o.steps, o.substeps, o.cache_size, o.cache_batch, o.batch, o.total_steps, o.warmup_steps, o.seed) = (2, 2, 64, 32, 16, 12, 3, 5);
    o
}

struct Run {
    api: Api,
    runtime: *mut fewstep_runtime,
    teacher: *mut fewstep_model,
    student: *mut fewstep_model,
    trainer: *mut fewstep_trainer,
}

impl Run {
    fn new(threads: u32) -> Self {
        let api = Api::load();
        let runtime = api.runtime(threads);
        let teacher = api.open(runtime, TEACHER);
        let student = student(&api, runtime, teacher);
        let mut trainer = null_mut();
        let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
        let options = small_options(&api, &term);
        // SAFETY: valid pointers.
        unsafe { api.ok((api.fewstep_trainer_create)(runtime, student, teacher, null(), &options, &mut trainer)) };
        Self { api, runtime, teacher, student, trainer }
    }

    fn train(&self, steps: u64) -> &Self {
        // SAFETY: the trainer is alive.
        unsafe { self.api.ok((self.api.fewstep_trainer_train)(self.trainer, steps, None, null_mut(), null())) };
        self
    }

    fn save(&self, file: &Path) -> Vec<u8> {
        // SAFETY: valid pointers.
        unsafe { self.api.ok((self.api.fewstep_trainer_save)(self.trainer, c(&file.to_string_lossy()).as_ptr())) };
        std::fs::read(file).expect("checkpoint")
    }

    fn resume(&self, file: &Path) -> i32 {
        // SAFETY: valid pointers.
        unsafe { (self.api.fewstep_trainer_resume)(self.trainer, c(&file.to_string_lossy()).as_ptr()) }
    }

    /// Every file of the saved student, by name.
    fn save_student(&self, dir: &Path) -> Vec<(String, Vec<u8>)> {
        let mut model = null_mut();
        // SAFETY: valid pointers.
        unsafe {
            self.api.ok((self.api.fewstep_trainer_snapshot)(self.trainer, FEWSTEP_WEIGHTS_EMA, &mut model));
            self.api.ok((self.api.fewstep_model_save)(model, c(&dir.to_string_lossy()).as_ptr()));
            self.api.ok((self.api.fewstep_model_destroy)(model));
        }
        let files = ["model_index.json", "fewstep.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"];
        files.iter().map(|f| (f.to_string(), std::fs::read(dir.join(f)).expect(f))).collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // SAFETY: each handle is destroyed once.
        unsafe {
            (self.api.fewstep_trainer_destroy)(self.trainer);
            (self.api.fewstep_model_destroy)(self.student);
            (self.api.fewstep_model_destroy)(self.teacher);
            (self.api.fewstep_runtime_destroy)(self.runtime);
        }
    }
}

#[test]
fn same_files_for_any_thread_count() {
    let dir = scratch("threads");
    let result = |threads: u32, name: &str| {
        let run = Run::new(threads);
        let checkpoint = run.train(12).save(&dir.join(format!("{name}.ckpt")));
        (checkpoint, run.save_student(&dir.join(name)))
    };
    let first = result(1, "a");
    for (threads, name) in [(1, "b"), (2, "c"), (3, "d")] {
        assert!(result(threads, name) == first, "{threads} threads gave other files");
    }
}

#[test]
fn resumes_in_a_new_process() {
    let dir = scratch("resume");
    let (half, whole) = (dir.join("half.ckpt"), dir.join("whole.ckpt"));
    let expected = Run::new(2).train(12).save(&whole);
    Run::new(1).train(6).save(&half);
    let child = std::process::Command::new(std::env::current_exe().expect("self"))
        .args(["--exact", "training::child_resumes", "--nocapture"])
        .env("FEWSTEP_TEST_CHECKPOINT", &half)
        .output()
        .expect("child");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    assert!(std::fs::read(half.with_extension("resumed")).expect("child's checkpoint") == expected);
}

/// The other process of `resumes_in_a_new_process`; without its variable there is nothing to do.
#[test]
fn child_resumes() {
    let Some(file) = std::env::var_os("FEWSTEP_TEST_CHECKPOINT") else { return };
    let run = Run::new(3);
    run.api.ok(run.resume(Path::new(&file)));
    run.train(6).save(&Path::new(&file).with_extension("resumed"));
}

#[test]
fn refuses_checkpoints_that_do_not_fit() {
    let dir = scratch("refuse");
    let file = dir.join("a.ckpt");
    let run = Run::new(2);
    let bytes = run.train(3).save(&file);
    let cut = dir.join("cut.ckpt");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).expect("write");
    run.api.fails("truncated", run.resume(&cut), 6, "cut.ckpt");
    run.api.fails("missing", run.resume(&dir.join("none.ckpt")), 4, "none.ckpt");
    // A failed save leaves the old file, and the trainer goes on.
    let blocked = dir.join("folder.ckpt");
    std::fs::create_dir(&blocked).expect("folder");
    // SAFETY: valid pointers.
    let status = unsafe { (run.api.fewstep_trainer_save)(run.trainer, c(&blocked.to_string_lossy()).as_ptr()) };
    assert!(status == 5, "{status}: {}", run.api.last_error());
    assert_eq!(std::fs::read(&file).expect("old file"), bytes);
    run.train(1);
    // Another option is named.
    let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
    let mut options = small_options(&run.api, &term);
    options.learning_rate = 0.5;
    let mut other = null_mut();
    // SAFETY: valid pointers.
    unsafe {
        run.api.ok((run.api.fewstep_trainer_create)(run.runtime, run.student, run.teacher, null(), &options, &mut other));
        let status = (run.api.fewstep_trainer_resume)(other, c(&file.to_string_lossy()).as_ptr());
        run.api.fails("another option", status, 1, "learning_rate");
        run.api.ok((run.api.fewstep_trainer_destroy)(other));
    }
}

/// The bytes of the states after two steps of a small run with these options.
fn two_steps(run: &Run, file: &Path, options: *const fewstep_trainer_options, teacher: *const fewstep_model) -> Vec<u8> {
    let mut trainer = null_mut();
    // SAFETY: valid pointers; the options have the size that they say.
    unsafe {
        run.api.ok((run.api.fewstep_trainer_create)(run.runtime, run.student, teacher, null(), options, &mut trainer));
        run.api.ok((run.api.fewstep_trainer_train)(trainer, 2, None, null_mut(), null()));
        run.api.ok((run.api.fewstep_trainer_save)(trainer, c(&file.to_string_lossy()).as_ptr()));
        run.api.ok((run.api.fewstep_trainer_destroy)(trainer));
    }
    let bytes = std::fs::read(file).expect("checkpoint");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    bytes[8 + header..].to_vec()
}

/// By default trajectories clip as the teacher's scheduler says, to +-1 here; so they do for a program that was built before there was a choice.
#[test]
fn trajectories_clip_as_the_teacher_says() {
    let (dir, run) = (scratch("clip"), Run::new(2));
    let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
    let with = |name: &str, change: &dyn Fn(&mut fewstep_trainer_options)| {
        let mut options = small_options(&run.api, &term);
        change(&mut options);
        two_steps(&run, &dir.join(name), &options, run.teacher)
    };
    let teacher_s = with("teacher", &|_| {});
    assert!(with("range", &|o| o.trajectory_clip = FEWSTEP_CLIP_RANGE) == teacher_s);
    assert!(with("older", &|o| o.struct_size = std::mem::offset_of!(fewstep_trainer_options, trajectory_clip) as u32) == teacher_s);
    let none = with("none", &|o| o.trajectory_clip = FEWSTEP_CLIP_NONE);
    let narrow = with("narrow", &|o| (o.trajectory_clip, o.clip_range) = (FEWSTEP_CLIP_RANGE, 0.5));
    let dynamic = with("dynamic", &|o| (o.trajectory_clip, o.threshold_max) = (FEWSTEP_CLIP_DYNAMIC, 3.0));
    let all = [&teacher_s, &none, &narrow, &dynamic];
    assert!((1..4).all(|i| all[..i].iter().all(|other| *other != all[i])), "each way to clip gives its own trajectories");
    // A teacher that does not clip: the same files, another scheduler config.
    let plain = dir.join("plain");
    std::fs::create_dir(&plain).expect("folder");
    let scheduler = std::fs::read_to_string(Path::new(TEACHER).join("scheduler/scheduler_config.json")).expect("scheduler");
    std::fs::write(plain.join("scheduler_config.json"), scheduler.replace("\"clip_sample\": true", "\"clip_sample\": false")).expect("scheduler");
    for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
        std::fs::copy(Path::new(TEACHER).join("unet").join(file), plain.join(file)).expect(file);
    }
    let teacher = run.api.open(run.runtime, &plain.to_string_lossy());
    assert!(two_steps(&run, &dir.join("plain.ckpt"), &small_options(&run.api, &term), teacher) == none);
    // SAFETY: a valid pointer.
    unsafe { run.api.ok((run.api.fewstep_model_destroy)(teacher)) };
    // Other trajectories are another run.
    run.api.fails("another clip", run.resume(&dir.join("none")), 1, "option trajectory_clip is Range(1.0); the checkpoint was made with None");
    assert!(run.api.last_error().contains("FEWSTEP_RESUME_TRAJECTORIES"), "{}", run.api.last_error());
    run.api.ok(run.resume(&dir.join("range")));
}

#[test]
fn resumes_with_other_options_when_asked_to() {
    let dir = scratch("resume_with");
    let (file, again) = (dir.join("run.ckpt"), dir.join("again.ckpt"));
    let run = Run::new(2);
    run.train(3).save(&file);
    let path = c(&file.to_string_lossy());
    let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
    type Change<'a> = &'a dyn Fn(&mut fewstep_trainer_options);
    let changed: [(&str, u32, Change); 7] = [
        ("total_steps", FEWSTEP_RESUME_SCHEDULE, &|o| o.total_steps = 1200),
        ("warmup_steps", FEWSTEP_RESUME_SCHEDULE, &|o| o.warmup_steps = 30),
        ("batch", FEWSTEP_RESUME_BATCH, &|o| o.batch = 8),
        ("ema_decay", FEWSTEP_RESUME_OPTIMIZER, &|o| o.ema_decay = 0.5),
        ("seed", FEWSTEP_RESUME_SEED, &|o| o.seed = 6),
        ("cache_size", FEWSTEP_RESUME_TRAJECTORIES, &|o| o.cache_size = 32),
        ("trajectory_clip", FEWSTEP_RESUME_TRAJECTORIES, &|o| o.trajectory_clip = FEWSTEP_CLIP_NONE),
    ];
    for (name, group, change) in changed {
        let mut options = small_options(&run.api, &term);
        change(&mut options);
        let mut trainer = null_mut();
        // SAFETY: valid pointers throughout.
        unsafe {
            run.api.ok((run.api.fewstep_trainer_create)(run.runtime, run.student, run.teacher, null(), &options, &mut trainer));
            run.api.fails(name, (run.api.fewstep_trainer_resume)(trainer, path.as_ptr()), 1, name);
            let others = FEWSTEP_RESUME_ANY & !group;
            run.api.fails(name, (run.api.fewstep_trainer_resume_with)(trainer, path.as_ptr(), others), 1, "fewstep_trainer_resume_with");
            run.api.ok((run.api.fewstep_trainer_resume_with)(trainer, path.as_ptr(), group));
            run.api.ok((run.api.fewstep_trainer_save)(trainer, c(&again.to_string_lossy()).as_ptr()));
            let mut report: fewstep_step_report = std::mem::zeroed();
            report.struct_size = size_of::<fewstep_step_report>() as u32;
            run.api.ok((run.api.fewstep_trainer_step)(trainer, &mut report));
            assert_eq!(report.step, 4, "{name}: steps done are kept");
            run.api.ok((run.api.fewstep_trainer_destroy)(trainer));
        }
        // Weights, moments and averages are the checkpoint's.
        let states = |file: &Path| {
            let file = fewstep::io::safetensors::TensorFile::open(file).expect("checkpoint");
            file.names().map(|name| file.get(name).expect("tensor").bytes().to_vec()).collect::<Vec<_>>()
        };
        assert!(states(&again) == states(&file), "{name}");
    }
}

/// Terms that share a point and a term of another one: for any number of threads, and resumed, the same bytes.
#[test]
fn losses_of_several_terms_resume() {
    let (dir, run) = (scratch("terms"), Run::new(2));
    let data = run.api.dataset(run.runtime);
    let with_norm = |norm, term: fewstep_term| fewstep_term { norm, weight: 0.5, huber_delta: 0.5, ..term };
    let clean = term(FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_WEIGHT_SNR);
    let terms = [
        with_norm(FEWSTEP_NORM_L2, clean),
        with_norm(FEWSTEP_NORM_L1, term(FEWSTEP_OBJECTIVE_OUTPUT, FEWSTEP_WEIGHT_V)),
        with_norm(FEWSTEP_NORM_HUBER, clean),
        with_norm(FEWSTEP_NORM_L2, term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE)),
        with_norm(FEWSTEP_NORM_L1, clean),
    ];
    let options = fewstep_trainer_options { term_count: terms.len(), ..small_options(&run.api, terms.as_ptr()) };
    let half = c(&dir.join("half").to_string_lossy());
    // SAFETY: valid pointers throughout.
    unsafe {
        let saved = |threads: u32, resumed: bool, name: &str| {
            let (runtime, mut trainer) = (run.api.runtime(threads), null_mut());
            let (teacher, student) = (run.api.open(runtime, TEACHER), student(&run.api, runtime, run.teacher));
            run.api.ok((run.api.fewstep_trainer_create)(runtime, student, teacher, data, &options, &mut trainer));
            if resumed {
                run.api.ok((run.api.fewstep_trainer_resume)(trainer, half.as_ptr()));
            } else {
                run.api.ok((run.api.fewstep_trainer_train)(trainer, 2, None, null_mut(), null()));
                run.api.ok((run.api.fewstep_trainer_save)(trainer, half.as_ptr()));
            }
            run.api.ok((run.api.fewstep_trainer_train)(trainer, 2, None, null_mut(), null()));
            let file = dir.join(name);
            run.api.ok((run.api.fewstep_trainer_save)(trainer, c(&file.to_string_lossy()).as_ptr()));
            run.api.ok((run.api.fewstep_trainer_destroy)(trainer));
            run.api.ok((run.api.fewstep_model_destroy)(student));
            run.api.ok((run.api.fewstep_model_destroy)(teacher));
            run.api.ok((run.api.fewstep_runtime_destroy)(runtime));
            std::fs::read(file).expect("checkpoint")
        };
        let whole = saved(2, false, "whole");
        assert!(saved(3, true, "resumed") == whole, "resumed");
        assert!(saved(1, false, "again") == whole, "one thread");
        run.api.ok((run.api.fewstep_dataset_destroy)(data));
    }
}

/// Features beside a term: reported behind it, and in no snapshot.
#[test]
fn features_are_matched() {
    let (dir, run) = (scratch("features"), Run::new(2));
    let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
    let paths = ["down_blocks.0", "mid_block", "mid_block.resnets.1"].map(c);
    let feature = |norm, student: usize, teacher: Option<usize>| fewstep_feature {
        objective: FEWSTEP_OBJECTIVE_TEACHER_FORCED,
        norm,
        student: paths[student].as_ptr(),
        teacher: teacher.map_or(null(), |at| paths[at].as_ptr()),
        decay_steps: 0,
        weight: 0.1,
        reserved: 0,
    };
    let features = [feature(FEWSTEP_NORM_L2, 0, None), feature(FEWSTEP_NORM_L1, 1, Some(2))];
    let mut options = small_options(&run.api, &term);
    (options.features, options.feature_count) = (features.as_ptr(), features.len());
    // SAFETY: valid pointers throughout.
    unsafe {
        let (mut trainer, mut model, mut count, mut losses) = (null_mut(), null_mut(), 0, [0f32; 3]);
        run.api.ok((run.api.fewstep_trainer_create)(run.runtime, run.student, run.teacher, null(), &options, &mut trainer));
        run.api.ok((run.api.fewstep_trainer_train)(trainer, 3, None, null_mut(), null()));
        run.api.ok((run.api.fewstep_trainer_losses)(trainer, losses.as_mut_ptr(), losses.len(), &mut count));
        assert!(count == 3 && losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{losses:?}");
        run.api.ok((run.api.fewstep_trainer_snapshot)(trainer, FEWSTEP_WEIGHTS_EMA, &mut model));
        let folder = c(&dir.join("student").to_string_lossy());
        run.api.ok((run.api.fewstep_model_save)(model, folder.as_ptr()));
        let opened = run.api.open(run.runtime, &dir.join("student").to_string_lossy());
        run.api.ok((run.api.fewstep_model_destroy)(opened));
        run.api.ok((run.api.fewstep_model_destroy)(model));
        run.api.ok((run.api.fewstep_trainer_destroy)(trainer));
    }
}

#[test]
fn a_numeric_failure_keeps_the_last_good_state() {
    let dir = scratch("numeric");
    let run = Run::new(2);
    let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
    let mut options = small_options(&run.api, &term);
    (options.learning_rate, options.warmup_steps, options.decay) = (1e30, 1, FEWSTEP_DECAY_CONSTANT);
    // SAFETY: valid pointers throughout.
    unsafe {
        let mut trainer = null_mut();
        run.api.ok((run.api.fewstep_trainer_create)(run.runtime, run.student, run.teacher, null(), &options, &mut trainer));
        let file = c(&dir.join("n.ckpt").to_string_lossy());
        let mut last = vec![];
        for step in 0..10 {
            let status = (run.api.fewstep_trainer_step)(trainer, null_mut());
            if status != 0 {
                run.api.fails("diverged", status, 13, "gradient norm");
                assert!(step > 0, "the first step already failed");
                run.api.ok((run.api.fewstep_trainer_save)(trainer, file.as_ptr()));
                assert!(std::fs::read(dir.join("n.ckpt")).expect("checkpoint") == last, "the failed step changed something");
                run.api.ok((run.api.fewstep_trainer_destroy)(trainer));
                return;
            }
            run.api.ok((run.api.fewstep_trainer_save)(trainer, file.as_ptr()));
            last = std::fs::read(dir.join("n.ckpt")).expect("checkpoint");
        }
    }
    panic!("a learning rate of 1e30 did not diverge");
}

#[test]
fn cancel_leaves_the_trainer_usable() {
    let dir = scratch("cancel");
    let expected = Run::new(2).train(4).save(&dir.join("a.ckpt"));
    let run = Run::new(2);
    // SAFETY: valid pointers throughout.
    unsafe {
        let mut token = null_mut();
        run.api.ok((run.api.fewstep_cancel_token_create)(&mut token));
        run.api.ok((run.api.fewstep_cancel_token_cancel)(token)); // set early: not lost
        assert_eq!((run.api.fewstep_trainer_prepare)(run.trainer, None, null_mut(), token), 12, "{}", run.api.last_error());
        assert_eq!((run.api.fewstep_trainer_train)(run.trainer, 4, None, null_mut(), token), 12, "{}", run.api.last_error());
        run.api.ok((run.api.fewstep_cancel_token_reset)(token));
        let mut info: fewstep_trainer_info = std::mem::zeroed();
        info.struct_size = size_of::<fewstep_trainer_info>() as u32;
        run.api.ok((run.api.fewstep_trainer_get_info)(run.trainer, &mut info));
        run.train(4 - info.steps_done);
        run.api.ok((run.api.fewstep_cancel_token_destroy)(token));
    }
    assert!(run.save(&dir.join("b.ckpt")) == expected);
}

/// Endpoint RMSE of a student against the teacher's 20 steps on 64 noises that training never sees.
fn endpoint(api: &Api, runtime: *const fewstep_runtime, model: *const fewstep_model, reference: &[f32]) -> f64 {
    let images = api.sample(runtime, model, &api.sampler_options(2, 64), 99, 0, -1);
    (images.iter().zip(reference).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / images.len() as f64).sqrt()
}

#[test]
fn every_objective_halves_its_held_out_error() {
    let api = Api::load();
    let runtime = api.runtime(2);
    let teacher = api.open(runtime, TEACHER);
    let reference = api.sample(runtime, teacher, &api.sampler_options(20, 64), 99, 0, -1);
    let mut dataset = null_mut();
    // SAFETY: valid pointers throughout.
    unsafe {
        let status = (api.fewstep_dataset_open_npz)(
            runtime,
            c("examples-c/data/digits8.npz").as_ptr(),
            c("images").as_ptr(),
            c("labels").as_ptr(),
            0.125,
            -1.0,
            &mut dataset,
        );
        api.ok(status);
        for (name, objective, weight) in [
            ("output", FEWSTEP_OBJECTIVE_OUTPUT, FEWSTEP_WEIGHT_V),
            ("denoise", FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_WEIGHT_V),
            ("teacher_forced", FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE),
            ("on_policy", FEWSTEP_OBJECTIVE_ON_POLICY, FEWSTEP_WEIGHT_STATE),
            ("resolve", FEWSTEP_OBJECTIVE_RESOLVE, FEWSTEP_WEIGHT_STATE),
            ("rollout", FEWSTEP_OBJECTIVE_ROLLOUT, FEWSTEP_WEIGHT_STATE),
            ("progressive", FEWSTEP_OBJECTIVE_PROGRESSIVE, FEWSTEP_WEIGHT_STATE),
        ] {
            let student = student(&api, runtime, teacher);
            let term = term(objective, weight);
            let mut o = api.trainer_options(&term);
            (o.steps, o.substeps, o.cache_size, o.batch, o.total_steps, o.learning_rate) = (2, 4, 2048, 32, 500, 2e-3);
            o.trajectory_clip = FEWSTEP_CLIP_NONE; // as the reference is sampled
            let mut trainer = null_mut();
            api.ok((api.fewstep_trainer_create)(runtime, student, teacher, dataset, &o, &mut trainer));
            let error = |trainer| {
                if objective != FEWSTEP_OBJECTIVE_OUTPUT && objective != FEWSTEP_OBJECTIVE_DENOISE {
                    let mut model = null_mut();
                    api.ok((api.fewstep_trainer_snapshot)(trainer, FEWSTEP_WEIGHTS_RAW, &mut model));
                    let e = endpoint(&api, runtime, model, &reference);
                    api.ok((api.fewstep_model_destroy)(model));
                    return e;
                }
                // Other draws of images, noises and timesteps than training's: the mean over 8 batches.
                let mut report: fewstep_step_report = std::mem::zeroed();
                report.struct_size = size_of::<fewstep_step_report>() as u32;
                (0..8)
                    .map(|seed| {
                        api.ok((api.fewstep_trainer_evaluate)(trainer, 1000 + seed, &mut report));
                        f64::from(report.loss)
                    })
                    .sum::<f64>()
                    / 8.0
            };
            let before = error(trainer);
            api.ok((api.fewstep_trainer_train)(trainer, 500, None, null_mut(), null()));
            let after = error(trainer);
            println!("{name}: held-out error {before:.4} before, {after:.4} after 500 steps");
            assert!(after <= 0.5 * before, "{name}: {before} -> {after}");
            api.ok((api.fewstep_trainer_destroy)(trainer));
            api.ok((api.fewstep_model_destroy)(student));
        }
        api.ok((api.fewstep_dataset_destroy)(dataset));
        api.ok((api.fewstep_model_destroy)(teacher));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}
