//! Evaluations through the C functions.

use crate::ffi_common::host::labels;
use crate::ffi_common::{Api, c, text_of};
use fewstep::ffi::callback::{FEWSTEP_PHASE_EVALUATE, fewstep_progress};
use fewstep::ffi::dataset::{FEWSTEP_DTYPE_F32, fewstep_dataset, fewstep_dataset_options};
use fewstep::ffi::evaluate::*;
use fewstep::ffi::model::*;
use fewstep::ffi::quality_report::*;
use fewstep::ffi::runtime::fewstep_runtime;
use fewstep::ffi::sampler_options::fewstep_begin_options;
use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};

const INVALID: i32 = 1;
const SHAPE: i32 = 2;
const CANCELLED: i32 = 12;
const NUMERIC: i32 = 13;
const IMAGE: usize = 64;
const COUNT: usize = 8;

/// A runtime, a teacher and its student of two steps, data.
struct Fixture {
    api: Api,
    runtime: *mut fewstep_runtime,
    teacher: *mut fewstep_model,
    student: *mut fewstep_model,
    dataset: *mut fewstep_dataset,
}

impl Fixture {
    fn new() -> Self {
        let api = Api::load();
        let runtime = api.runtime(2);
        let teacher = api.model(runtime, 3);
        let (mut student, mut dataset) = (null_mut(), null_mut());
        // SAFETY: plain data; valid pointers.
        unsafe {
            let mut options: fewstep_student_options = std::mem::zeroed();
            api.ok((api.fewstep_student_options_init)(&mut options, size_of_val(&options)));
            options.steps = 2;
            api.ok((api.fewstep_model_derive_student)(runtime, teacher, &options, &mut student));
            let pixels: Vec<f32> = (0..30 * IMAGE).map(|i| ((i * 29 % 97) as f32 - 48.0) / 48.0).collect();
            let classes: Vec<i32> = (0..30).map(|i| i % 3).collect();
            let mut data: fewstep_dataset_options = std::mem::zeroed();
            api.ok((api.fewstep_dataset_options_init)(&mut data, size_of_val(&data)));
            (data.dtype, data.channels, data.height, data.width, data.count) = (FEWSTEP_DTYPE_F32, 1, 8, 8, 30);
            (data.data, data.data_size, data.scale, data.shift) = (pixels.as_ptr().cast(), size_of_val(&*pixels), 1.0, 0.0);
            (data.labels, data.label_count) = (classes.as_ptr(), classes.len());
            api.ok((api.fewstep_dataset_create)(runtime, &data, &mut dataset));
        }
        Self { api, runtime, teacher, student, dataset }
    }

    fn options(&self) -> fewstep_evaluate_options {
        // SAFETY: plain data; a valid pointer.
        unsafe {
            let mut options: fewstep_evaluate_options = std::mem::zeroed();
            self.api.ok((self.api.fewstep_evaluate_options_init)(&mut options, size_of_val(&options)));
            fewstep_evaluate_options { count: COUNT as u32, batch: 3, reference_steps: 4, seed: 7, classifier: 0, ..options }
        }
    }

    fn evaluate(&self, options: &fewstep_evaluate_options, sets: &[fewstep_evaluate_set], seen: &mut Seen) -> Result<*mut fewstep_quality_report, i32> {
        /// SAFETY: what the library gives is valid, `user` is a [`Seen`].
        unsafe extern "C" fn note(user: *mut c_void, progress: *const fewstep_progress) -> i32 {
            let (seen, progress) = unsafe { (&mut *user.cast::<Seen>(), &*progress) };
            assert_eq!(progress.phase, FEWSTEP_PHASE_EVALUATE);
            seen.progress.push((progress.done, progress.total));
            i32::from(seen.progress.len() == seen.cancel_at)
        }
        let mut out = null_mut();
        let user = std::ptr::from_mut(seen).cast();
        let stride = size_of::<fewstep_evaluate_set>();
        // SAFETY: valid pointers.
        let status = unsafe { (self.api.fewstep_evaluate)(self.runtime, self.teacher, options, sets.as_ptr(), sets.len(), stride, Some(note), user, &mut out) };
        if status == 0 { Ok(out) } else { Err(status) }
    }

    fn row(&self, report: *const fewstep_quality_report, index: usize) -> fewstep_quality {
        // SAFETY: plain data that the library fills; valid pointers.
        unsafe {
            let mut row: fewstep_quality = std::mem::zeroed();
            row.struct_size = size_of_val(&row) as u32;
            self.api.ok((self.api.fewstep_quality_report_row)(report, index, &mut row));
            row
        }
    }

    fn text(&self, report: *const fewstep_quality_report, format: i32) -> String {
        let mut length = 0;
        // SAFETY: valid pointers.
        unsafe {
            self.api.ok((self.api.fewstep_quality_report_text)(report, format, null_mut(), 0, &mut length));
            let mut buffer = vec![1u8; length + 1];
            let short = (self.api.fewstep_quality_report_text)(report, format, buffer.as_mut_ptr().cast(), length, &mut length);
            self.api.fails("no room for the NUL", short, SHAPE, &format!("capacity is {length}"));
            self.api.ok((self.api.fewstep_quality_report_text)(report, format, buffer.as_mut_ptr().cast(), length + 1, &mut length));
            CString::from_vec_with_nul(buffer).expect("one NUL, at the end").into_string().expect("UTF-8")
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // SAFETY: each handle is destroyed once.
        unsafe {
            (self.api.fewstep_dataset_destroy)(self.dataset);
            (self.api.fewstep_model_destroy)(self.student);
            (self.api.fewstep_model_destroy)(self.teacher);
            (self.api.fewstep_runtime_destroy)(self.runtime);
        }
    }
}

#[derive(Default)]
struct Seen {
    progress: Vec<(u64, u64)>,
    /// Cancels at this many calls.
    cancel_at: usize,
}

const EMPTY: fewstep_evaluate_set =
    fewstep_evaluate_set { name: null(), model: null(), sampler: null(), images: null(), image_count: 0, paired: 0, reserved: 0 };

#[test]
fn a_report_has_the_sets_beside_the_yardsticks() {
    let f = Fixture::new();
    let api = &f.api;
    let (of_student, of_teacher, of_images) = (c("student"), c("teacher, 2 steps"), c("its images"));
    let classes: Vec<i32> = (0..COUNT as i32).collect();
    let given = [labels(&classes)];
    // What a program samples with the same seed are the same images.
    let mut images = vec![0f32; COUNT * IMAGE];
    let two = api.sampler_options(2, COUNT as u32);
    // SAFETY: plain data; valid pointers.
    unsafe {
        let mut begin: fewstep_begin_options = std::mem::zeroed();
        api.ok((api.fewstep_begin_options_init)(&mut begin, size_of_val(&begin)));
        (begin.seed, begin.conditionings, begin.conditioning_count) = (7, given.as_ptr(), 1);
        api.ok((api.fewstep_sample)(f.runtime, f.teacher, &two, &begin, images.as_mut_ptr(), images.len()));
    }
    let sets = [
        fewstep_evaluate_set { name: of_student.as_ptr(), model: f.student, ..EMPTY },
        fewstep_evaluate_set { name: of_teacher.as_ptr(), model: f.teacher, sampler: &two, ..EMPTY },
        fewstep_evaluate_set { name: of_images.as_ptr(), images: images.as_ptr(), image_count: images.len(), paired: 1, ..EMPTY },
    ];
    let options = fewstep_evaluate_options { conditionings: given.as_ptr(), conditioning_count: 1, dataset: f.dataset, ..f.options() };
    let mut seen = Seen::default();
    let report = f.evaluate(&options, &sets, &mut seen).unwrap_or_else(|_| panic!("{}", api.last_error()));
    let last = seen.progress.last().expect("progress");
    assert!(last.0 == last.1 && seen.progress.windows(2).all(|w| w[0].0 < w[1].0), "{:?}", seen.progress);
    // SAFETY: plain data; valid pointers.
    let info = unsafe {
        let mut info: fewstep_quality_report_info = std::mem::zeroed();
        info.struct_size = size_of_val(&info) as u32;
        api.ok((api.fewstep_quality_report_get_info)(report, &mut info));
        info
    };
    assert_eq!((info.rows, info.count, info.compared, info.seed, info.against, info.reference_steps), (6, 8, 8, 7, FEWSTEP_AGAINST_DATA, 4));
    let rows: Vec<fewstep_quality> = (0..6).map(|i| f.row(report, i)).collect();
    let kinds = [FEWSTEP_QUALITY_NULL, FEWSTEP_QUALITY_NULL_SPREAD, FEWSTEP_QUALITY_TEACHER, FEWSTEP_QUALITY_SET, FEWSTEP_QUALITY_SET, FEWSTEP_QUALITY_SET];
    assert_eq!(rows.iter().map(|row| row.kind).collect::<Vec<_>>(), kinds);
    let names: Vec<String> = rows.iter().map(|row| text_of(row.name)).collect();
    assert_eq!(names, ["null", "null, spread", "teacher, 4 steps", "student", "teacher, 2 steps", "its images"]);
    assert!(rows[0].rmse.is_nan() && rows[2].rmse.is_nan() && rows.iter().all(|row| row.accuracy.is_nan()));
    assert!(rows.iter().all(|row| row.sliced_wasserstein.is_finite() && row.kernel_distance.is_finite() && row.coverage >= 0.0));
    assert_eq!(rows.iter().map(|row| row.step_count).collect::<Vec<_>>(), [0, 0, 0, 2, 2, 0]);
    // SAFETY: two numbers, as the row says.
    let errors = unsafe { std::slice::from_raw_parts(rows[4].step_errors, 2) };
    assert!(errors[0] > 0.0 && (errors[1] - rows[4].rmse).abs() < 1e-12, "{errors:?} {:?}", rows[4]);
    // Sampled by the library in batches of three, or by the program in one of eight.
    assert_eq!((rows[4].rmse, rows[4].kernel_distance, rows[4].recall), (rows[5].rmse, rows[5].kernel_distance, rows[5].recall));
    let json: serde_json::Value = serde_json::from_str(&f.text(report, FEWSTEP_REPORT_JSON)).expect("JSON");
    let row = &json["rows"][3];
    assert!(row["name"] == "student" && row["rmse"].as_f64().is_some_and(|rmse| (rmse - rows[3].rmse).abs() < 1e-12), "{row}");
    assert!(f.text(report, FEWSTEP_REPORT_TEXT).contains("teacher, 2 steps"));
    // SAFETY: plain data; valid pointers.
    unsafe {
        let mut row: fewstep_quality = std::mem::zeroed();
        row.struct_size = size_of_val(&row) as u32;
        api.fails("no such row", (api.fewstep_quality_report_row)(report, 6, &mut row), INVALID, "6 rows");
        api.fails("no such format", (api.fewstep_quality_report_text)(report, 9, null_mut(), 0, &mut 0), INVALID, "format is 9");
        api.ok((api.fewstep_quality_report_destroy)(report));
    }
}

#[test]
fn a_classifier_is_trained_where_there_are_labels() {
    let f = Fixture::new();
    let options = fewstep_evaluate_options { dataset: f.dataset, classifier: 1, ..f.options() };
    let report = f.evaluate(&options, &[], &mut Seen::default()).unwrap_or_else(|_| panic!("{}", f.api.last_error()));
    let [null, teacher] = [0, 2].map(|i| f.row(report, i).accuracy);
    assert!((0.0..=1.0).contains(&null) && (0.0..=1.0).contains(&teacher), "{null} {teacher}");
    // SAFETY: a report of this library.
    f.api.ok(unsafe { (f.api.fewstep_quality_report_destroy)(report) });
}

#[test]
fn what_cannot_be_evaluated_is_refused_by_name() {
    let f = Fixture::new();
    let (name, empty, lines, long) = (c("a set"), c(""), c("two\nlines"), c(&"x".repeat(300)));
    let mut images = vec![0.5f32; COUNT * IMAGE];
    images[5 * IMAGE] = f32::NAN;
    let set = fewstep_evaluate_set { name: name.as_ptr(), model: f.student, ..EMPTY };
    let of_images = fewstep_evaluate_set { model: null(), images: images.as_ptr(), image_count: images.len(), ..set };
    let o = f.options();
    let many = vec![set; 257];
    let two_without_a_grid = fewstep_evaluate_set { model: f.teacher, ..set };
    let rows: [(fewstep_evaluate_options, &[fewstep_evaluate_set], i32, &str); 18] = [
        (o, &[fewstep_evaluate_set { name: null(), ..set }], INVALID, "sets[0].name is NULL"),
        (o, &[set, fewstep_evaluate_set { name: empty.as_ptr(), ..set }], INVALID, "sets[1].name"),
        (o, &[fewstep_evaluate_set { name: lines.as_ptr(), ..set }], INVALID, "on one line"),
        (o, &[fewstep_evaluate_set { name: long.as_ptr(), ..set }], INVALID, "300 bytes"),
        (o, &[fewstep_evaluate_set { images: images.as_ptr(), ..set }], INVALID, "not both"),
        (o, &[fewstep_evaluate_set { model: null(), ..set }], INVALID, "not both"),
        (o, &[fewstep_evaluate_set { reserved: 1, ..set }], INVALID, "reserved"),
        (o, &[fewstep_evaluate_set { paired: 2, ..of_images }], INVALID, "paired is 2"),
        (o, &[fewstep_evaluate_set { image_count: 7, ..of_images }], SHAPE, "image_count is 7"),
        (o, &[of_images], NUMERIC, "image 5"),
        (o, &many, INVALID, "count is 257"),
        (o, &[two_without_a_grid], INVALID, "a set: steps is 0"),
        (fewstep_evaluate_options { count: 0, ..o }, &[], INVALID, "count is 0"),
        (fewstep_evaluate_options { count: 5, ..o }, &[], INVALID, "6 images"),
        (fewstep_evaluate_options { batch: 0, ..o }, &[], INVALID, "batch is 0"),
        (fewstep_evaluate_options { classifier: 3, ..o }, &[], INVALID, "classifier is 3"),
        (fewstep_evaluate_options { reference_clip: 1, ..o }, &[], INVALID, "reference_clip is 1"),
        (fewstep_evaluate_options { reference_steps: 1001, ..o }, &[], INVALID, "steps is 1001"),
    ];
    for (options, sets, status, needle) in rows {
        f.api.fails(needle, f.evaluate(&options, sets, &mut Seen::default()).err().unwrap_or(0), status, needle);
    }
    let found = f.evaluate(&o, &[], &mut Seen { cancel_at: 2, ..Seen::default() });
    f.api.fails("cancelled", found.err().unwrap_or(0), CANCELLED, "progress callback");
}
