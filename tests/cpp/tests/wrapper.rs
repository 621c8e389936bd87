//! fewstep.hpp does what fewstep.h does: models, samplers, data and training; errors and callables become C++'s own.

use cxx::UniquePtr;
use fewstep_tests_cpp::data;
use fewstep_tests_cpp::ffi::*;
use std::path::PathBuf;

const LABELS: [i32; 4] = [3, 1, 4, 1];
const STEPS: u32 = 4;

fn teacher(runtime: &Runtime) -> UniquePtr<Model> {
    open(runtime, &data("digits_teacher")).expect("teacher")
}

/// A sampler of the digits teacher that is at the begin of a run.
fn begun(runtime: &Runtime, seed: u64) -> UniquePtr<Sampler> {
    let mut sampler = sampler(runtime, &teacher(runtime), STEPS, LABELS.len() as u32).expect("sampler");
    begin(sampler.pin_mut(), seed, &LABELS, 0).expect("begin");
    sampler
}

/// The images of an uninterrupted run.
fn images_of(runtime: &Runtime, seed: u64) -> Vec<f32> {
    let mut sampler = begun(runtime, seed);
    run(sampler.pin_mut()).expect("run");
    read(sampler.pin_mut()).expect("read")
}

/// The call failed with this status, and its sentence names `needle`.
fn assert_fails<T>(result: Result<T, cxx::Exception>, status: &str, needle: &str) {
    let error = result.err().expect("an error");
    let (found, sentence) = error.what().split_once(": ").expect("status and sentence");
    assert_eq!(found, status, "{sentence}");
    assert!(sentence.contains(needle), "'{sentence}' does not name '{needle}'");
}

fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cpp-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir); // of a run that failed
    std::fs::create_dir_all(&dir).expect("scratch folder");
    dir
}

#[test]
fn models_open_save_and_derive() {
    let runtime = runtime(1).expect("runtime");
    let teacher = teacher(&runtime);
    assert_eq!((parameters(&teacher).expect("info"), classes(&teacher).expect("info")), (1_003_009, 10));
    assert!(pairs(&teacher).expect("pairs").is_empty());
    let student = derive_student(&runtime, &teacher).expect("student");
    assert_eq!(pairs(&student).expect("pairs"), [999, 499, 499, -1]);
    let whole = quantize(&runtime, &student).expect("quantize");
    assert!(quantized_layers(&student) == 0 && quantized_layers(&whole) > 0);
    // All layers together, and each.
    assert_eq!(reported_layers(&runtime, &student, &whole).expect("a report"), 1 + quantized_layers(&whole) as usize);
    assert_fails(quantize(&runtime, &whole), "INVALID_ARGUMENT", "already");
    let report = quality_report(&runtime, &teacher, &student, 1, u64::MAX).expect("a report");
    assert!(report.lines().any(|line| line.starts_with("student ")) && report.lines().any(|line| line.starts_with("null, spread ")), "{report}");
    assert!(quality_report(&runtime, &teacher, &student, 2, u64::MAX).is_ok_and(|json| json.starts_with('{') && json.ends_with('}')));
    assert_fails(quality_report(&runtime, &teacher, &student, 9, u64::MAX), "INVALID_ARGUMENT", "format is 9");
    assert_fails(quality_report(&runtime, &teacher, &student, 1, 1), "exception", "enough");
    assert!(first_student(&runtime, &teacher, 100_000, u64::MAX).is_ok_and(|patch| patch.contains("block_out_channels")));
    assert_eq!(first_student(&runtime, &teacher, 1, u64::MAX).expect("the teacher alone"), "{}");
    assert_fails(first_student(&runtime, &teacher, 100_000, 1), "exception", "enough");
    let dir = scratch("model");
    let path = dir.to_str().expect("UTF-8");
    save(&student, path).expect("save");
    let again = open(&runtime, path).expect("open");
    let read = |file: &str| std::fs::read(dir.join(file)).expect("saved file");
    let text = |file: &str| String::from_utf8(read(file)).expect("UTF-8");
    let weights = read("unet/diffusion_pytorch_model.safetensors");
    let memory = open_memory(&runtime, &text("unet/config.json"), &text("scheduler/scheduler_config.json"), &weights).expect("open_memory");
    let images = sample(&runtime, &student, 2, 5, &LABELS).expect("sample");
    let file = dir.join("student.safetensors");
    save_file(&student, file.to_str().expect("UTF-8")).expect("save");
    export_onnx(&student, dir.join("student.onnx").to_str().expect("UTF-8")).expect("export");
    assert_eq!(onnx_bytes(&student, 21).expect("export"), read("student.onnx"));
    assert_fails(onnx_bytes(&student, 5), "INVALID_ARGUMENT", "opset is 5");
    let one_file = open(&runtime, file.to_str().expect("UTF-8")).expect("open");
    let buffer = open_buffer(&runtime, &read("student.safetensors")).expect("open_buffer");
    let plain = open_variant(&runtime, path, "").expect("open_variant");
    assert_fails(open_variant(&runtime, path, "fp16"), "NOT_FOUND", "fp16");
    for model in [&again, &plain, &memory, &one_file, &buffer] {
        assert!(sample(&runtime, model, 2, 5, &LABELS).expect("sample") == images);
    }
    std::fs::remove_dir_all(dir).expect("clean up");
}

#[test]
fn errors_have_status_and_sentence() {
    let runtime = runtime(1).expect("runtime");
    assert_fails(open(&runtime, "/no/such/teacher"), "NOT_FOUND", "/no/such/teacher");
    assert_fails(open(&runtime, "one\0two"), "INVALID_ARGUMENT", "'one'");
    assert_fails(create(&runtime, "{"), "CORRUPT_FILE", "config_json");
    assert_fails(sampler(&runtime, &teacher(&runtime), 2000, 1), "INVALID_ARGUMENT", "2000");
    let mut sampler = sampler(&runtime, &teacher(&runtime), STEPS, 1).expect("sampler");
    assert_fails(run(sampler.pin_mut()), "STATE", "not begun");
    assert_fails(begin(sampler.pin_mut(), 1, &[], 0), "INVALID_ARGUMENT", "label");
    assert_fails(begin(sampler.pin_mut(), 1, &[10], 0), "INVALID_ARGUMENT", "10");
    assert_fails(noise(sampler.pin_mut(), 1, 0, 0), "INVALID_ARGUMENT", "count");
    assert_fails(noise(sampler.pin_mut(), 1, 0, usize::MAX / 64), "exception", "vector");
}

#[test]
fn images_follow_seed_and_labels() {
    let runtime = runtime(2).expect("runtime");
    let images = images_of(&runtime, 7);
    assert_eq!(images.len(), LABELS.len() * 64);
    assert!(images_of(&runtime, 7) == images);
    assert!(images_of(&runtime, 8) != images);
    let teacher = teacher(&runtime);
    assert!(sample(&runtime, &teacher, STEPS, 7, &LABELS).expect("sample") == images, "in one call");
    let relabelled = sample(&runtime, &teacher, STEPS, 7, &[0, 1, 4, 1]).expect("sample");
    assert!(relabelled[..64] != images[..64] && relabelled[64..] == images[64..]);
    // One image of the batch by itself: the same noise, and its image but for rounding.
    let mut single = sampler(&runtime, &teacher, STEPS, 1).expect("sampler");
    begin(single.pin_mut(), 7, &LABELS[2..3], 2).expect("begin");
    let drawn = noise(begun(&runtime, 7).pin_mut(), 7, 0, LABELS.len()).expect("noise");
    assert!(read(single.pin_mut()).expect("read") == drawn[128..192]);
    run(single.pin_mut()).expect("run");
    let error = read(single.pin_mut()).expect("read").iter().zip(&images[128..192]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < 1e-4, "{error}");
}

#[test]
fn noise_can_be_asked_for_and_given() {
    let runtime = runtime(1).expect("runtime");
    let mut sampler = begun(&runtime, 7);
    let drawn = noise(sampler.pin_mut(), 7, 0, LABELS.len()).expect("noise");
    assert!(read(sampler.pin_mut()).expect("read") == drawn, "before the first step");
    begin_from(sampler.pin_mut(), &drawn, &LABELS).expect("begin");
    run(sampler.pin_mut()).expect("run");
    assert!(read(sampler.pin_mut()).expect("read") == images_of(&runtime, 7));
}

#[test]
fn any_budget_makes_the_same_images() {
    let runtime = runtime(2).expect("runtime");
    let images = images_of(&runtime, 11);
    for budget in [-1, 0, 200, i64::MAX] {
        let mut sampler = begun(&runtime, 11);
        let mut calls = 1;
        while !step(sampler.pin_mut(), budget).expect("step") {
            calls += 1;
        }
        assert!(read(sampler.pin_mut()).expect("read") == images, "budget {budget} us");
        match budget {
            -1 => assert_eq!(calls, STEPS, "one call a sampler step"),
            0 => assert!(calls > STEPS, "a budget of nothing stops inside an evaluation"),
            i64::MAX => assert_eq!(calls, 1),
            _ => {}
        }
    }
}

#[test]
fn what_a_progress_callable_throws_arrives() {
    let runtime = runtime(2).expect("runtime");
    let images = images_of(&runtime, 1);
    let mut sampler = begun(&runtime, 1);
    assert_fails(run_throwing(sampler.pin_mut(), 2), "exception", "gave up at 2");
    assert_eq!(steps_done(sampler.pin_mut()).expect("info"), 2);
    assert_eq!(run_throwing_a_number(sampler.pin_mut(), 42).expect("run"), 42);
    // The run goes on where the exceptions left it.
    assert_eq!(run_counting(sampler.pin_mut()).expect("run"), 1);
    assert!(read(sampler.pin_mut()).expect("read") == images);
    // An exception from the last step is not lost either.
    begin(sampler.pin_mut(), 1, &LABELS, 0).expect("begin");
    assert_fails(run_throwing(sampler.pin_mut(), u64::from(STEPS)), "exception", "gave up at 4");
    assert!(read(sampler.pin_mut()).expect("read") == images);
}

#[test]
fn callables_and_tokens_cancel() {
    let runtime = runtime(2).expect("runtime");
    let mut sampler = begun(&runtime, 1);
    assert_fails(run_cancelling(sampler.pin_mut(), 3), "CANCELLED", "progress callback");
    assert_eq!(steps_done(sampler.pin_mut()).expect("info"), 3);
    let token = cancel_token().expect("token");
    std::thread::scope(|scope| scope.spawn(|| token.cancel().expect("cancel")).join().expect("thread"));
    assert!(token.is_cancelled().expect("token"));
    assert_fails(run_until_token(sampler.pin_mut(), &token), "CANCELLED", "cancel token");
    token.reset().expect("reset");
    assert!(!token.is_cancelled().expect("token"));
    run_until_token(sampler.pin_mut(), &token).expect("run");
    assert!(read(sampler.pin_mut()).expect("read") == images_of(&runtime, 1));
}

#[test]
fn a_token_among_the_options_stops_sampling_in_one_call() {
    let runtime = runtime(2).expect("runtime");
    let teacher = teacher(&runtime);
    let token = cancel_token().expect("token");
    let start = std::time::Instant::now();
    drop(sampler(&runtime, &teacher, 1000, 64).expect("sampler"));
    let creation = start.elapsed();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // In the run, which takes many times as long as the creation before it; on a machine that is busy meanwhile perhaps before it.
            std::thread::sleep(2 * creation);
            token.cancel().expect("cancel");
        });
        assert_fails(sample_until_token(&runtime, &teacher, 1000, &[1; 64], &token), "CANCELLED", "cancel token");
    });
}

#[test]
fn devices_and_runtimes_describe_themselves() {
    const CPU: i32 = 0;
    assert_eq!(device_count(CPU).expect("count"), 1);
    let name = device_name(CPU, 0).expect("name");
    assert!(!name.is_empty());
    assert_fails(device_count(9), "INVALID_ARGUMENT", "device is 9");
    assert_fails(device_name(CPU, 1), "INVALID_ARGUMENT", "index is 1");
    let runtime = runtime(2).expect("runtime");
    assert_eq!((threads(&runtime).expect("info"), runtime_device(&runtime).expect("info")), (2, name));
}

#[test]
fn datasets_come_from_files_and_from_memory() {
    let runtime = runtime(1).expect("runtime");
    let digits = open_npz(&runtime, &data("digits8.npz")).expect("digits");
    assert_eq!(images(&digits).expect("info"), 1797);
    let copied = copy_dataset(&runtime, &[128; 3 * 64]).expect("dataset");
    assert_eq!(images(&copied).expect("info"), 3);
    assert_fails(copy_dataset(&runtime, &[]), "INVALID_ARGUMENT", "count");
    assert_fails(open_npz(&runtime, "/no/such.npz"), "NOT_FOUND", "/no/such.npz");
    assert_fails(open_npy(&runtime, "/no/such.npy"), "NOT_FOUND", "/no/such.npy");
}

#[test]
fn datasets_come_from_pictures_and_from_callables() {
    let (runtime, dir) = (runtime(1).expect("runtime"), scratch("pictures"));
    for (i, class) in ["a", "b"].iter().enumerate() {
        std::fs::create_dir(dir.join(class)).expect("a folder");
        // Of 2x2 pixels, no matter which.
        fewstep::io::save_png(&dir.join(class).join("x.png"), 2, 2, 1, &[i as u8; 4]).expect("a picture");
    }
    std::fs::write(dir.join("b/notes"), "none").expect("a file");
    let path = dir.to_str().expect("UTF-8");
    let pictures = open_folder(&runtime, path, 0).expect("pictures");
    assert_eq!(images(&pictures).expect("info"), 2);
    assert_eq!(class_names(&pictures).expect("names"), ["a", "b"]);
    let left_out = skipped(&pictures).expect("rows");
    assert!(left_out.len() == 1 && left_out[0].contains("b/notes: neither a PNG"), "{left_out:?}");
    assert_fails(open_folder(&runtime, path, 2), "exception", "gave up at 2");
    assert_fails(open_folder(&runtime, "/no/such", 0), "NOT_FOUND", "/no/such");

    let filled = fill_dataset(&runtime, 70, false).expect("dataset");
    assert_eq!(images(&filled).expect("info"), 70);
    assert!(class_names(&filled).expect("names").is_empty() && skipped(&filled).expect("rows").is_empty());
    assert_fails(fill_dataset(&runtime, 70, true), "exception", "gave up at 0");
    std::fs::remove_dir_all(dir).expect("a folder");
}

#[test]
fn training_steps_stops_and_resumes() {
    let runtime = runtime(2).expect("runtime");
    let digits = open_npz(&runtime, &data("digits8.npz")).expect("digits");
    let student = derive_student(&runtime, &teacher(&runtime)).expect("student");
    let new = || data_trainer(&runtime, &student, &digits).expect("trainer");
    let mut trainer = new();
    assert_eq!(train_step(trainer.pin_mut()).expect("step"), 1);
    assert_fails(train_throwing(trainer.pin_mut(), 9, 3), "exception", "gave up at 3");
    assert_eq!(training_steps(trainer.pin_mut()).expect("info"), 4);
    let dir = scratch("training");
    let file = dir.join("run.safetensors");
    let file = file.to_str().expect("UTF-8");
    save_training(trainer.pin_mut(), file).expect("save");
    let mut resumed = new();
    assert_fails(losses(resumed.pin_mut()), "STATE", "no losses yet");
    resume_training_with(resumed.pin_mut(), file, 127).expect("resume with any options");
    assert_fails(resume_training_with(resumed.pin_mut(), file, 128), "INVALID_ARGUMENT", "changes");
    resume_training(resumed.pin_mut(), file).expect("resume");
    for t in [&mut trainer, &mut resumed] {
        train(t.pin_mut(), 2).expect("train");
    }
    assert_eq!(evaluate(trainer.pin_mut(), 3).expect("evaluate").to_bits(), evaluate(resumed.pin_mut(), 3).expect("evaluate").to_bits());
    let found = losses(trainer.pin_mut()).expect("losses");
    assert!(found.len() == 1 && found == losses(resumed.pin_mut()).expect("losses"), "{found:?}");
    let other = dir.join("trajectories");
    let other = other.to_str().expect("UTF-8");
    let mut alone = taught(&runtime, &student, 0.5, other).expect("a teacher of the host's");
    train(alone.pin_mut(), 2).expect("train without a teacher");
    let refused = taught(&runtime, &student, -1.0, other).err().map(|e| e.to_string());
    assert!(refused.as_deref().is_some_and(|e| e.contains("gave up at 4")), "{refused:?}");
    let run = dir.join("run");
    let run = run.to_str().expect("UTF-8");
    let refused = by_recipe(&runtime, &student, &student, run, 2).err().map(|e| e.to_string());
    assert!(refused.as_deref().is_some_and(|e| e.contains("gave up at 2")), "{refused:?}");
    let learned = by_recipe(&runtime, &student, &student, run, 0).expect("goes on");
    assert!(sample(&runtime, &learned, 2, 1, &LABELS).expect("sample") != sample(&runtime, &student, 2, 1, &LABELS).expect("sample"));
    let images = |t: &mut UniquePtr<Trainer>| sample(&runtime, &snapshot(t.pin_mut()).expect("snapshot"), 2, 1, &LABELS).expect("sample");
    assert!(images(&mut trainer) == images(&mut resumed));
    assert!(images(&mut trainer) != sample(&runtime, &student, 2, 1, &LABELS).expect("sample"), "training changed the weights");
    std::fs::remove_dir_all(dir).expect("clean up");
}
