//! Students in whole numbers, through the C functions.

use crate::ffi_common::{Api, c};
use fewstep::ffi::callback::{FEWSTEP_PHASE_QUANTIZE, FEWSTEP_PHASE_REPORT, fewstep_progress};
use fewstep::ffi::model::*;
use fewstep::ffi::quantize::*;
use fewstep::ffi::quantize_report::fewstep_layer_report;
use fewstep::ffi::runtime::fewstep_runtime;
use fewstep::ffi::sampler_options::{FEWSTEP_SAMPLER_DDIM, FEWSTEP_SAMPLER_FROM_MODEL, fewstep_sampler_options};
use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};

const INVALID: i32 = 1;
const SHAPE: i32 = 2;
const UNSUPPORTED: i32 = 3;
const CANCELLED: i32 = 12;

fn options(api: &Api) -> fewstep_quantize_options {
    // SAFETY: plain data; a valid pointer.
    unsafe {
        let mut options = std::mem::zeroed();
        api.ok((api.fewstep_quantize_options_init)(&mut options, size_of_val(&options)));
        options
    }
}

/// A class-conditional student of two steps.
fn student(api: &Api, runtime: *mut fewstep_runtime) -> *mut fewstep_model {
    let [teacher, student] = api.teacher_and_student(runtime);
    // SAFETY: ours.
    api.ok(unsafe { (api.fewstep_model_destroy)(teacher) });
    student
}

fn quantized(api: &Api, runtime: *mut fewstep_runtime, student: *mut fewstep_model, options: &fewstep_quantize_options) -> *mut fewstep_model {
    let mut out = null_mut();
    // SAFETY: valid pointers.
    api.ok(unsafe { (api.fewstep_quantize)(runtime, student, options, None, null_mut(), &mut out) });
    out
}

fn info(api: &Api, model: *mut fewstep_model) -> fewstep_model_info {
    // SAFETY: plain data; valid pointers.
    unsafe {
        let mut info: fewstep_model_info = std::mem::zeroed();
        info.struct_size = size_of_val(&info) as u32;
        api.ok((api.fewstep_model_get_info)(model, &mut info));
        info
    }
}

#[test]
fn a_quantized_student_is_a_model_like_any_other() {
    let api = Api::load();
    let runtime = api.runtime(2);
    let student = student(&api, runtime);
    let whole = quantized(&api, runtime, student, &fewstep_quantize_options { samples: 8, batch: 4, ..options(&api) });
    let (before, after) = (info(&api, student), info(&api, whole));
    assert_eq!((before.quantized_layers, before.parameters, before.steps), (0, after.parameters, after.steps));
    assert!(
        after.quantized_layers > 20 && after.weight_bytes * 2 < before.weight_bytes,
        "{} layers, {} bytes of {}",
        after.quantized_layers,
        after.weight_bytes,
        before.weight_bytes
    );
    let own = fewstep_sampler_options { kind: FEWSTEP_SAMPLER_FROM_MODEL, ..api.sampler_options(0, 3) };
    let [floats, bytes] = [student, whole].map(|model| api.sample(runtime, model, &own, 5, 0, i64::MAX));
    assert!(floats != bytes);
    let error: f32 = floats.iter().zip(&bytes).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / floats.iter().map(|v| v * v).sum::<f32>();
    // Some percent: two steps of a network with random weights.
    assert!(error < 0.01, "NMSE {error}");
    // From a file.
    let path = std::env::temp_dir().join(format!("fewstep-abi-quantize-{}.safetensors", std::process::id()));
    let name = c(path.to_str().expect("UTF-8"));
    let mut opened = null_mut();
    // SAFETY: valid pointers throughout.
    unsafe {
        api.ok((api.fewstep_model_save_file)(whole, name.as_ptr()));
        api.ok((api.fewstep_model_open)(runtime, name.as_ptr(), &mut opened));
        assert!(api.sample(runtime, opened, &own, 5, 0, i64::MAX) == bytes);
        assert_eq!(info(&api, opened).weight_bytes, after.weight_bytes);
        api.fails("a diffusers folder", (api.fewstep_model_save)(whole, name.as_ptr()), UNSUPPORTED, "fewstep_model_save_file");
        // Another grid than its own.
        let mut sampler = null_mut();
        let other = fewstep_sampler_options { kind: FEWSTEP_SAMPLER_DDIM, steps: 3, ..own };
        api.fails("another grid", (api.fewstep_sampler_create)(runtime, whole, &other, &mut sampler), UNSUPPORTED, "quantised for its own grid");
        let mut again = null_mut();
        api.fails("again", (api.fewstep_quantize)(runtime, whole, null(), None, null_mut(), &mut again), INVALID, "already");
        for model in [student, whole, opened] {
            api.ok((api.fewstep_model_destroy)(model));
        }
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
    std::fs::remove_file(path).expect("a file");
}

/// Weights alone need no grid: any model, any sampler.
#[test]
fn weights_alone_are_quantised_for_any_model() {
    let api = Api::load();
    let runtime = api.runtime(2);
    let teacher = api.model(runtime, 3);
    let floats = info(&api, teacher).weight_bytes as f64;
    let own = fewstep_sampler_options { kind: FEWSTEP_SAMPLER_DDIM, steps: 3, ..api.sampler_options(0, 2) };
    let exact = api.sample(runtime, teacher, &own, 5, 0, i64::MAX);
    // Bytes in memory: a number of 4 bits is one there.
    for (mode, most, least_layers, lost) in
        [(FEWSTEP_QUANTIZE_W8, 0.5, 20, 0.05), (FEWSTEP_QUANTIZE_W4, 0.6, 20, 0.5), (FEWSTEP_QUANTIZE_F16, 0.5, 0, 5e-3), (FEWSTEP_QUANTIZE_BF16, 0.5, 0, 5e-2)]
    {
        let made = quantized(&api, runtime, teacher, &fewstep_quantize_options { mode, ..options(&api) });
        let made_info = info(&api, made);
        assert!(made_info.weight_bytes as f64 <= most * floats, "mode {mode}: {} of {floats}", made_info.weight_bytes);
        assert!((least_layers..1000).contains(&made_info.quantized_layers) && (least_layers > 0 || made_info.quantized_layers == 0), "mode {mode}");
        let found = api.sample(runtime, made, &own, 5, 0, i64::MAX);
        let square = |f: &dyn Fn(f32, f32) -> f32| exact.iter().zip(&found).map(|(a, b)| f(*a, *b)).sum::<f32>();
        let error = (square(&|a, b| (a - b) * (a - b)) / square(&|a, _| a * a)).sqrt();
        assert!(error > 0.0 && error < lost, "mode {mode}: {error}");
        // SAFETY: a valid pointer.
        api.ok(unsafe { (api.fewstep_model_destroy)(made) });
    }
    // SAFETY: valid pointers.
    unsafe {
        api.ok((api.fewstep_model_destroy)(teacher));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

#[test]
fn what_quantisation_refuses() {
    let api = Api::load();
    let runtime = api.runtime(1);
    let (student, teacher) = (student(&api, runtime), api.model(runtime, 3));
    let plain = fewstep_quantize_options { samples: 2, batch: 2, ..options(&api) };
    let mut out = null_mut();
    let mut refuse = |row: &str, model, options: &fewstep_quantize_options, status: i32, needle: &str| {
        // SAFETY: valid pointers.
        api.fails(row, unsafe { (api.fewstep_quantize)(runtime, model, options, None, null_mut(), &mut out) }, status, needle);
        assert!(out.is_null(), "{row}");
    };
    refuse("no grid", teacher, &plain, INVALID, "few-step student");
    refuse("no mode", student, &fewstep_quantize_options { mode: 0, ..plain }, INVALID, "mode is 0");
    refuse("no such mode", student, &fewstep_quantize_options { mode: 7, ..plain }, INVALID, "mode is 7");
    refuse("reserved", student, &fewstep_quantize_options { reserved: 1, ..plain }, INVALID, "reserved");
    refuse("no samples", student, &fewstep_quantize_options { samples: 0, ..plain }, INVALID, "samples");
    refuse("too few levels", student, &fewstep_quantize_options { levels: 2, ..plain }, INVALID, "levels is 2");
    refuse("too many levels", student, &fewstep_quantize_options { levels: 257, ..plain }, INVALID, "levels is 257");
    refuse("no such range", student, &fewstep_quantize_options { range: 4, ..plain }, INVALID, "range is 4");
    for (percentile, needle) in [(50.0, "percentile is 50"), (100.1, "percentile is 100.1"), (f64::NAN, "percentile is NaN")] {
        let options = fewstep_quantize_options { range: FEWSTEP_RANGE_PERCENTILE, percentile, ..plain };
        refuse("a percentile", student, &options, INVALID, needle);
    }
    refuse("no flag", student, &fewstep_quantize_options { correct_biases: 2, ..plain }, INVALID, "correct_biases is 2");
    let corrected = fewstep_quantize_options { correct_biases: 1, ..plain };
    refuse("biases of no student", teacher, &fewstep_quantize_options { mode: FEWSTEP_QUANTIZE_W8, ..corrected }, INVALID, "biases are corrected");
    refuse("biases of halves", student, &fewstep_quantize_options { mode: FEWSTEP_QUANTIZE_F16, ..corrected }, INVALID, "biases");
    refuse("one side", student, &fewstep_quantize_options { height: 8, ..plain }, INVALID, "height is 8");
    refuse("odd size", student, &fewstep_quantize_options { height: 7, width: 8, ..plain }, SHAPE, "multiples");
    let (typo, all) = (c("down_blocks.*.conv9"), c("*"));
    let keep: [[*const c_char; 1]; 3] = [[typo.as_ptr()], [all.as_ptr()], [null()]];
    for (keep, needle) in keep.iter().zip(["conv9", "nothing to quantise", "keep[0]"]) {
        refuse(needle, student, &fewstep_quantize_options { keep: keep.as_ptr(), keep_count: 1, ..plain }, INVALID, needle);
    }
    // SAFETY: valid pointers.
    unsafe {
        api.ok((api.fewstep_model_destroy)(student));
        api.ok((api.fewstep_model_destroy)(teacher));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

#[test]
fn progress_is_told_and_cancels() {
    unsafe extern "C" fn note(user: *mut c_void, progress: *const fewstep_progress) -> i32 {
        // SAFETY: the list of this test, and what the library gives.
        let (seen, progress) = unsafe { (&mut *user.cast::<Vec<(i32, u64, u64)>>(), &*progress) };
        seen.push((progress.phase, progress.done, progress.total));
        i32::from(seen.len() == 2)
    }
    let api = Api::load();
    let runtime = api.runtime(1);
    let student = student(&api, runtime);
    let (mut seen, mut out) = (Vec::<(i32, u64, u64)>::new(), null_mut());
    let options = fewstep_quantize_options { samples: 5, batch: 2, ..options(&api) };
    // SAFETY: valid pointers.
    unsafe {
        let status = (api.fewstep_quantize)(runtime, student, &options, Some(note), (&raw mut seen).cast(), &mut out);
        api.fails("cancelled", status, CANCELLED, "progress callback");
        assert_eq!(seen, [(FEWSTEP_PHASE_QUANTIZE, 2, 5), (FEWSTEP_PHASE_QUANTIZE, 4, 5)]);
        assert!(out.is_null());
        // Ranges of least error and corrected biases draw the samples three times; the callback never has two entries again.
        seen = vec![(0, 0, 0); 2];
        let thrice = fewstep_quantize_options { range: FEWSTEP_RANGE_LEAST_ERROR, correct_biases: 1, ..options };
        api.ok((api.fewstep_quantize)(runtime, student, &thrice, Some(note), (&raw mut seen).cast(), &mut out));
        assert_eq!(seen[2..].iter().map(|(_, done, total)| (*done, *total)).collect::<Vec<_>>(), [2, 4, 5, 7, 9, 10, 12, 14, 15].map(|done| (done, 15)));
        api.ok((api.fewstep_model_destroy)(out));
        api.ok((api.fewstep_model_destroy)(student));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

/// What a report's callbacks have seen.
#[derive(Default)]
struct Reported {
    /// Path, or nothing for all layers; errors of the steps; share; error if the layer stays in float.
    rows: Vec<(String, Vec<f64>, f64, f64)>,
    progress: Vec<(i32, u64, u64)>,
    /// Cancels at this many calls of the progress callback.
    cancel_at: usize,
}

#[test]
fn a_report_tells_what_each_layer_costs() {
    /// SAFETY: what the library gives is valid, `user` is a [`Reported`].
    unsafe extern "C" fn note(user: *mut c_void, progress: *const fewstep_progress) -> i32 {
        let (seen, progress) = unsafe { (&mut *user.cast::<Reported>(), &*progress) };
        seen.progress.push((progress.phase, progress.done, progress.total));
        i32::from(seen.progress.len() == seen.cancel_at)
    }
    /// SAFETY: as above.
    unsafe extern "C" fn visit(user: *mut c_void, row: *const fewstep_layer_report) {
        let (seen, row) = unsafe { (&mut *user.cast::<Reported>(), &*row) };
        let layer = if row.layer.is_null() { String::new() } else { unsafe { CStr::from_ptr(row.layer) }.to_str().expect("UTF-8").to_owned() };
        let errors = unsafe { std::slice::from_raw_parts(row.step_errors, row.step_count as usize) };
        seen.rows.push((layer, errors.to_vec(), row.share, row.error_if_kept));
    }
    let api = Api::load();
    let runtime = api.runtime(2);
    let (student, teacher) = (student(&api, runtime), api.model(runtime, 3));
    let options = fewstep_quantize_options { samples: 6, batch: 4, ..options(&api) };
    let whole = quantized(&api, runtime, student, &options);
    let layers = info(&api, whole).quantized_layers as usize;
    let mut seen = Reported::default();
    let report = |models: [*mut fewstep_model; 2], seen: &mut Reported| {
        let user = std::ptr::from_mut(seen).cast();
        // SAFETY: valid pointers.
        unsafe { (api.fewstep_quantize_report)(runtime, models[0], models[1], &options, Some(note), Some(visit), user) }
    };
    api.ok(report([student, whole], &mut seen));
    let total = 2 + 2 * layers as u64;
    assert_eq!(seen.progress, (1..=total).map(|done| (FEWSTEP_PHASE_REPORT, done, total)).collect::<Vec<_>>());
    let (all, each) = seen.rows.split_first().expect("rows");
    assert_eq!((all.0.as_str(), all.1.len(), all.2, all.3, each.len()), ("", 2, 1.0, 0.0, layers));
    assert!(each.iter().all(|(layer, errors, ..)| !layer.is_empty() && errors.len() == 2 && errors[1] > 0.0));
    let shares: f64 = each.iter().map(|(_, _, share, _)| share).sum();
    assert!((shares - 1.0).abs() < 1e-12, "{shares}");
    // Errors of rounding are about independent: the squares of layers alone add up to that of all, within a factor that their number leaves room for.
    let (alone, together) = (each.iter().map(|(_, errors, ..)| errors[1] * errors[1]).sum::<f64>().sqrt(), all.1[1]);
    assert!(alone > 0.5 * together && alone < 2.0 * together, "{alone} {together}");
    // The layer that costs most buys most.
    let worst = each.iter().max_by(|a, b| a.2.total_cmp(&b.2)).expect("a layer");
    assert!(worst.3 < together, "{worst:?} of {together}");

    let mut seen = Reported { cancel_at: 3, ..Reported::default() };
    api.fails("cancelled", report([student, whole], &mut seen), CANCELLED, "progress callback");
    assert!(seen.rows.is_empty() && seen.progress.len() == 3);
    let mut refuse = |row: &str, models, needle: &str| api.fails(row, report(models, &mut seen), INVALID, needle);
    refuse("no numbers", [student, student], "not quantised");
    refuse("numbers twice", [whole, whole], "in floats");
    refuse("another model", [teacher, whole], "prediction types");
    // SAFETY: valid pointers.
    unsafe {
        let silent = (api.fewstep_quantize_report)(runtime, student, whole, &options, None, None, null_mut());
        api.fails("nobody reads", silent, INVALID, "visit is NULL");
        for model in [student, teacher, whole] {
            api.ok((api.fewstep_model_destroy)(model));
        }
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}
