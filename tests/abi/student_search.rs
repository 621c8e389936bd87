//! The search of students through the C functions.

use crate::ffi_common::{Api, text_of};
use fewstep::ffi::callback::{FEWSTEP_PHASE_SEARCH, fewstep_progress};
use fewstep::ffi::model::*;
use fewstep::ffi::runtime::fewstep_runtime;
use fewstep::ffi::student_search::*;
use std::ffi::c_void;
use std::ptr::null_mut;

const INVALID: i32 = 1;
const SHAPE: i32 = 2;
const CANCELLED: i32 = 12;

/// A runtime and a teacher.
struct Fixture {
    api: Api,
    runtime: *mut fewstep_runtime,
    teacher: *mut fewstep_model,
}

#[derive(Default)]
struct Seen {
    progress: Vec<(u64, u64)>,
    /// Cancels at this many calls.
    cancel_at: usize,
}

impl Fixture {
    fn new() -> Self {
        let api = Api::load();
        let runtime = api.runtime(1);
        let teacher = api.model(runtime, 3);
        Self { api, runtime, teacher }
    }

    fn options(&self) -> fewstep_student_search_options {
        // SAFETY: plain data; a valid pointer.
        unsafe {
            let mut options: fewstep_student_search_options = std::mem::zeroed();
            self.api.ok((self.api.fewstep_student_search_options_init)(&mut options, size_of_val(&options)));
            fewstep_student_search_options { repeats: 1, rows: 2, ..options }
        }
    }

    fn search(&self, options: &fewstep_student_search_options, seen: &mut Seen) -> Result<*mut fewstep_student_table, i32> {
        /// SAFETY: what the library gives is valid, `user` is a [`Seen`].
        unsafe extern "C" fn note(user: *mut c_void, progress: *const fewstep_progress) -> i32 {
            let (seen, progress) = unsafe { (&mut *user.cast::<Seen>(), &*progress) };
            assert_eq!(progress.phase, FEWSTEP_PHASE_SEARCH);
            seen.progress.push((progress.done, progress.total));
            i32::from(seen.progress.len() == seen.cancel_at)
        }
        let mut out = null_mut();
        let user = std::ptr::from_mut(seen).cast();
        // SAFETY: valid pointers.
        let status = unsafe { (self.api.fewstep_student_search)(self.runtime, self.teacher, options, Some(note), user, &mut out) };
        if status == 0 { Ok(out) } else { Err(status) }
    }

    fn cost(&self, fill: impl FnOnce(*mut fewstep_student_cost) -> i32) -> fewstep_student_cost {
        // SAFETY: plain data that the library fills.
        let mut cost: fewstep_student_cost = unsafe { std::mem::zeroed() };
        cost.struct_size = size_of_val(&cost) as u32;
        self.api.ok(fill(&mut cost));
        cost
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // SAFETY: each handle is destroyed once.
        unsafe {
            (self.api.fewstep_model_destroy)(self.teacher);
            (self.api.fewstep_runtime_destroy)(self.runtime);
        }
    }
}

#[test]
fn a_table_has_the_teacher_and_what_fits() {
    let f = Fixture::new();
    let api = &f.api;
    let teacher = api.model_info(f.teacher);
    let options = fewstep_student_search_options { max_parameters: teacher.parameters / 2, steps: 2, teacher_steps: 50, ..f.options() };
    let mut seen = Seen::default();
    let table = f.search(&options, &mut seen).unwrap_or_else(|_| panic!("{}", api.last_error()));
    let last = seen.progress.last().expect("progress");
    assert!(last.0 == last.1 && seen.progress.windows(2).all(|w| w[0].0 < w[1].0), "{:?}", seen.progress);
    // SAFETY: plain data; valid pointers.
    let info = unsafe {
        let mut info: fewstep_student_table_info = std::mem::zeroed();
        info.struct_size = size_of_val(&info) as u32;
        api.ok((api.fewstep_student_table_get_info)(table, &mut info));
        info
    };
    assert!(info.rows == 3 && info.measured == 2 && info.candidates > 2, "{info:?}");
    // SAFETY: valid pointers.
    let row = |i| f.cost(|out| unsafe { (api.fewstep_student_table_row)(table, i, out) });
    let (exact, first, second) = (row(0), row(1), row(2));
    assert_eq!((text_of(exact.config_patch).as_str(), exact.parameters, exact.weight_bytes), ("{}", teacher.parameters, teacher.weight_bytes));
    assert!(exact.speedup == 1.0 && first.flops >= second.flops && first.flops <= exact.flops && first.parameters <= options.max_parameters);
    let mut student = null_mut();
    // SAFETY: plain data; valid pointers.
    unsafe {
        let mut derived: fewstep_student_options = std::mem::zeroed();
        api.ok((api.fewstep_student_options_init)(&mut derived, size_of_val(&derived)));
        (derived.config_patch, derived.copy_weights) = (first.config_patch, FEWSTEP_COPY_CHANNELS);
        api.ok((api.fewstep_model_derive_student)(f.runtime, f.teacher, &derived, &mut student));
        derived.copy_weights = 3;
        api.fails("no such copy", (api.fewstep_model_derive_student)(f.runtime, f.teacher, &derived, &mut null_mut()), INVALID, "copy_weights is 3");
    }
    // SAFETY: valid pointers.
    let own = f.cost(|out| unsafe { (api.fewstep_student_measure)(f.runtime, f.teacher, student, &options, out) });
    assert!(own.config_patch.is_null() && own.ms > 0.0 && own.speedup > 0.0);
    assert_eq!((own.parameters, own.flops, own.weight_bytes), (first.parameters, first.flops, first.weight_bytes));
    // SAFETY: plain data; valid pointers.
    unsafe {
        let mut cost: fewstep_student_cost = std::mem::zeroed();
        cost.struct_size = size_of_val(&cost) as u32;
        api.fails("no such row", (api.fewstep_student_table_row)(table, 3, &mut cost), INVALID, "3 rows");
        api.ok((api.fewstep_student_table_destroy)(table));
        api.ok((api.fewstep_model_destroy)(student));
    }
}

#[test]
fn what_cannot_be_searched_is_refused_by_name() {
    let f = Fixture::new();
    let o = f.options();
    let rows = [
        ("no images", fewstep_student_search_options { batch: 0, ..o }, INVALID, "batch is 0"),
        ("no evaluations", fewstep_student_search_options { repeats: 0, ..o }, INVALID, "repeats 0"),
        ("too many", fewstep_student_search_options { repeats: 1001, ..o }, INVALID, "repeats 1001"),
        ("reserved", fewstep_student_search_options { reserved: 1, ..o }, INVALID, "reserved 1"),
        ("no steps", fewstep_student_search_options { steps: 0, ..o }, INVALID, "steps is 0"),
        ("no steps of the teacher", fewstep_student_search_options { teacher_steps: 0, ..o }, INVALID, "teacher_steps is 0"),
        ("no number", fewstep_student_search_options { max_ms: f64::NAN, ..o }, INVALID, "max_ms is NaN"),
        ("less than nothing", fewstep_student_search_options { max_ms: -1.0, ..o }, INVALID, "max_ms is -1"),
        ("half a size", fewstep_student_search_options { height: 8, ..o }, INVALID, "width is 0"),
        ("an odd size", fewstep_student_search_options { height: 9, width: 8, ..o }, SHAPE, "multiples of 2"),
        ("a huge size", fewstep_student_search_options { height: 1 << 30, width: 1 << 30, ..o }, SHAPE, "too large"),
        ("no precision", fewstep_student_search_options { precision: 9, ..o }, INVALID, "precision is 9"),
    ];
    for (row, options, status, needle) in rows {
        f.api.fails(row, f.search(&options, &mut Seen::default()).expect_err(row), status, needle);
    }
    let mut seen = Seen { cancel_at: 2, ..Seen::default() };
    f.api.fails("cancelled", f.search(&o, &mut seen).expect_err("cancelled"), CANCELLED, "progress callback");
    assert_eq!(seen.progress.len(), 2);
}
