//! Who lives how long: objects destroyed in any order, moved, and destroyed by their own callables; the log lives as long as anything that may write to it.

use cxx::UniquePtr;
use fewstep_tests_cpp::data;
use fewstep_tests_cpp::ffi::*;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// These tests count the process's threads, so one runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

fn worker_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("tasks");
    tasks.filter(|t| t.as_ref().is_ok_and(|t| std::fs::read_to_string(t.path().join("comm")).is_ok_and(|name| name.starts_with("fewstep")))).count()
}

/// Waits for threads that have just been started, which give themselves their names once they run, or joined, which the system still lists for a moment.
fn await_workers(expected: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while worker_threads() != expected && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(worker_threads(), expected);
}

fn teacher(runtime: &Runtime) -> UniquePtr<Model> {
    open(runtime, &data("digits_teacher")).expect("teacher")
}

fn begun(runtime: &Runtime, model: &Model, seed: u64) -> UniquePtr<Sampler> {
    let mut sampler = sampler(runtime, model, 2, 1).expect("sampler");
    begin(sampler.pin_mut(), seed, &[6], 0).expect("begin");
    sampler
}

fn finish(mut sampler: UniquePtr<Sampler>) -> Vec<f32> {
    run(sampler.pin_mut()).expect("run");
    read(sampler.pin_mut()).expect("read")
}

#[test]
fn parents_may_go_first() {
    let _alone = alone();
    let runtime = runtime(3).expect("runtime");
    let model = teacher(&runtime);
    let expected = sample(&runtime, &model, 2, 9, &[6]).expect("sample");
    let sampler = begun(&runtime, &model, 9);
    drop(runtime);
    drop(model);
    await_workers(2);
    assert!(finish(sampler) == expected);
    await_workers(0); // the last child joins the workers
}

#[test]
fn moving_hands_the_handle_on() {
    let _alone = alone();
    let runtime = runtime(3).expect("runtime");
    let model = teacher(&runtime);
    let (one, two) = (begun(&runtime, &model, 1), begun(&runtime, &model, 2));
    let moved = move_sampler(one, two);
    assert!(finish(moved) == sample(&runtime, &model, 2, 1, &[6]).expect("sample"));
    let error = use_after_move(begun(&runtime, &model, 1)).expect_err("nothing is left to run");
    assert_eq!(error.what(), "INVALID_ARGUMENT: sampler is NULL");
    drop(model);
    drop(runtime);
    await_workers(0); // no handle is left over
}

#[test]
fn assigning_ends_what_was_there() {
    let _alone = alone();
    let (three, five) = (runtime(3).expect("runtime"), runtime(5).expect("runtime"));
    await_workers(2 + 4);
    let assigned = assign_runtime(three, five);
    await_workers(4);
    drop(assigned);
    await_workers(0);
}

#[test]
fn a_callable_may_destroy_the_object_that_runs() {
    let _alone = alone();
    let runtime = runtime(3).expect("runtime");
    let sampler = begun(&runtime, &teacher(&runtime), 1);
    drop(runtime);
    await_workers(2);
    run_destroying(sampler).expect("the run goes on to its end");
    await_workers(0); // and the sampler is destroyed then
}

#[test]
fn the_log_lives_as_long_as_its_writers() {
    let _alone = alone();
    let journal = journal();
    let runtime = logging_runtime(&journal, false).expect("runtime");
    let teacher = teacher(&runtime);
    let student = derive_student(&runtime, &teacher).expect("student");
    let mut trainer = distiller(&runtime, &student, &teacher).expect("trainer");
    drop(runtime);
    assert_eq!(prepare(trainer.pin_mut()).expect("prepare"), 8 * 4, "eight trajectories of four teacher steps");
    assert_eq!(journal_lines(&journal), ["info: the trajectory cache is complete"]);
    let trained = snapshot(trainer.pin_mut()).expect("snapshot");
    drop((teacher, student, trainer));
    assert_eq!(journal_owners(&journal), 2, "the snapshot still has the runtime, and that the log");
    drop(trained);
    assert_eq!(journal_owners(&journal), 1);
}

#[test]
fn a_log_that_throws_loses_its_line_only() {
    let _alone = alone();
    let config = std::fs::read_to_string(data("digits_teacher/unet/config.json")).expect("config");
    let odd = config.replacen('{', r#"{"colour": "red", "#, 1);
    for throws in [false, true] {
        let journal = journal();
        let runtime = logging_runtime(&journal, throws).expect("runtime");
        let model = create(&runtime, &odd).expect("model");
        assert_eq!(parameters(&model).expect("info"), 1_003_009);
        assert_eq!(journal_lines(&journal), [r#"warning: config_json: unknown key "colour" is ignored"#]);
    }
}
