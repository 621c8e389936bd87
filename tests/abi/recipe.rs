//! Recipes through the C functions.

use crate::ffi_common::{Api, c};
use fewstep::ffi::callback::{FEWSTEP_PHASE_PREPARE, FEWSTEP_PHASE_TRAIN, fewstep_progress};
use fewstep::ffi::model::*;
use fewstep::ffi::recipe::*;
use fewstep::ffi::runtime::fewstep_runtime;
use std::ffi::{CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

const INVALID: i32 = 1;
const SHAPE: i32 = 2;
const CANCELLED: i32 = 12;

const RECIPE: &str = r#"{"stages": [
  {"name": "states", "steps": 6, "batch": 2, "terms": [{"objective": "teacher_forced"}], "cache_size": 4, "substeps": 1},
  {"name": "own states", "steps": 4, "batch": 2, "terms": [{"objective": "on_policy"}], "cache_size": 4, "substeps": 1}]}"#;

struct Fixture {
    api: Api,
    runtime: *mut fewstep_runtime,
    teacher: *mut fewstep_model,
    student: *mut fewstep_model,
    folder: PathBuf,
}

/// What the callback has seen.
#[derive(Default)]
struct Seen {
    cancel_at: usize,
    steps: Vec<(u32, u64, u64)>,
    prepared: usize,
}

/// SAFETY: what the library gives is valid, `user` is a [`Seen`].
unsafe extern "C" fn note(user: *mut c_void, progress: *const fewstep_progress) -> i32 {
    let (seen, p) = unsafe { (&mut *user.cast::<Seen>(), &*progress) };
    assert!(p.stage_count == 2 && p.struct_size as usize == size_of_val(p));
    if p.phase == FEWSTEP_PHASE_PREPARE {
        assert!(p.seconds_left < 0.0 && p.samples_per_second == 0.0);
        seen.prepared += 1;
        return 0;
    }
    assert!(p.phase == FEWSTEP_PHASE_TRAIN && p.seconds_left >= 0.0 && p.samples_per_second > 0.0 && p.loss > 0.0);
    seen.steps.push((p.stage, p.done, p.total));
    i32::from(seen.steps.len() == seen.cancel_at)
}

impl Fixture {
    fn new(name: &str) -> Self {
        let api = Api::load();
        let runtime = api.runtime(1);
        let teacher = api.model(runtime, 3);
        let mut student = null_mut();
        // SAFETY: plain data; valid pointers.
        unsafe {
            let mut options: fewstep_student_options = std::mem::zeroed();
            api.ok((api.fewstep_student_options_init)(&mut options, size_of_val(&options)));
            (options.steps, options.seed) = (2, 9);
            api.ok((api.fewstep_model_derive_student)(runtime, teacher, &options, &mut student));
        }
        let folder = std::env::temp_dir().join(format!("fewstep-recipe-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        Self { api, runtime, teacher, student, folder }
    }

    /// The status, and the student's file where it is 0.
    fn run(&self, recipe: &str, folder: Option<&Path>, seen: &mut Seen) -> (i32, Vec<u8>) {
        let (recipe, folder) = (c(recipe), folder.map(|path| c(path.to_str().expect("UTF-8"))));
        let mut out = null_mut();
        // SAFETY: plain data; valid pointers.
        unsafe {
            let mut options: fewstep_recipe_options = std::mem::zeroed();
            self.api.ok((self.api.fewstep_recipe_options_init)(&mut options, size_of_val(&options)));
            (options.held_out, options.log_every, options.evaluate_every, options.save_every) = (3, 2, 3, 2);
            options.folder = folder.as_ref().map_or(null(), |folder| folder.as_ptr());
            let (api, user) = (&self.api, std::ptr::from_mut(seen).cast());
            let recipe = recipe.as_ptr();
            let status = (api.fewstep_recipe_run)(self.runtime, recipe, self.student, self.teacher, null(), &options, Some(note), user, null(), &mut out);
            if status != 0 {
                return (status, vec![]);
            }
            let file = self.folder.join("student.safetensors");
            api.ok((api.fewstep_model_save_file)(out, c(file.to_str().expect("UTF-8")).as_ptr()));
            api.ok((api.fewstep_model_destroy)(out));
            (0, std::fs::read(file).expect("the student"))
        }
    }

    /// The JSON of a recipe that the library has.
    fn text(&self, name: &str, steps: u32) -> String {
        let (name, mut length) = (c(name), 0);
        // SAFETY: valid pointers.
        unsafe {
            self.api.ok((self.api.fewstep_recipe_text)(name.as_ptr(), steps, null_mut(), 0, &mut length));
            let mut buffer = vec![1u8; length + 1];
            let to = buffer.as_mut_ptr().cast::<c_char>();
            let short = (self.api.fewstep_recipe_text)(name.as_ptr(), steps, to, length, &mut length);
            self.api.fails("no room for the NUL", short, SHAPE, &format!("capacity is {length}"));
            self.api.ok((self.api.fewstep_recipe_text)(name.as_ptr(), steps, to, length + 1, &mut length));
            CString::from_vec_with_nul(buffer).expect("one NUL, at the end").into_string().expect("UTF-8")
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // SAFETY: each handle is destroyed once.
        unsafe {
            (self.api.fewstep_model_destroy)(self.student);
            (self.api.fewstep_model_destroy)(self.teacher);
            (self.api.fewstep_runtime_destroy)(self.runtime);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Cancelled in either stage, between checkpoints, the run goes on to the same file; the second time it is done already.
#[test]
fn a_cancelled_run_goes_on() {
    let f = Fixture::new("cancelled");
    let mut seen = Seen::default();
    let (status, whole) = f.run(RECIPE, None, &mut seen);
    assert_eq!(status, 0, "{}", f.api.last_error());
    let counted: Vec<_> = (1..=6).map(|i| (1, i, 6)).chain((1..=4).map(|i| (2, i, 4))).collect();
    assert_eq!(seen.steps, counted);
    // Four trajectories of two steps, three held-out ones; the same in the second stage.
    assert!(seen.prepared > 0);
    for cancel_at in [1, 5, 8] {
        let folder = f.folder.join(format!("run-{cancel_at}"));
        let mut seen = Seen { cancel_at, ..Seen::default() };
        f.api.fails("cancelled", f.run(RECIPE, Some(&folder), &mut seen).0, CANCELLED, "progress callback");
        let mut rest = Seen::default();
        assert_eq!(f.run(RECIPE, Some(&folder), &mut rest), (0, whole.clone()));
        assert_eq!([seen.steps, rest.steps].concat(), counted, "no step was done twice");
        assert_eq!(f.run(RECIPE, Some(&folder), &mut Seen { cancel_at: 1, ..Seen::default() }), (0, whole.clone()));
        for name in ["metrics.jsonl", "progress.svg", "recipe.json", "samples-2-0000004.png", "stage-1.safetensors", "stage-2.safetensors"] {
            assert!(folder.join(name).exists(), "{name}");
        }
    }
}

#[test]
fn recipes_of_the_library_are_whole() {
    let f = Fixture::new("named");
    let fast = f.text("fast", 2);
    assert!(fast.contains("\"grid\": 2") && fast.contains("\"muon\"") && fast != f.text("best", 2));
    let mut seen = Seen::default();
    // As it is but for its length.
    let short = fast
        .replace("\"steps\": 4000", "\"steps\": 1")
        .replace("\"cache_size\": 12288", "\"cache_size\": 2")
        .replace("\"batch\": 64", "\"batch\": 2")
        .replace("\"stages\": [", "\"stages\": [\n");
    let twice = {
        let stage = short.trim().trim_start_matches('{').trim_end_matches('}').trim();
        let stage = stage.trim_start_matches("\"stages\":").trim().trim_start_matches('[').trim_end_matches(']').trim();
        format!("{{\"stages\": [{stage}, {stage}]}}")
    };
    assert_eq!(f.run(&twice, None, &mut seen).0, 0, "{}", f.api.last_error());
    assert_eq!(seen.steps, [(1, 1, 1), (2, 1, 1)]);
}

#[test]
fn what_is_wrong_is_said() {
    let f = Fixture::new("wrong");
    let mut length = 0;
    for (name, steps, words) in [("slow", 2, "fast, best"), ("fast", 0, "steps is 0")] {
        // SAFETY: valid pointers.
        let status = unsafe { (f.api.fewstep_recipe_text)(c(name).as_ptr(), steps, null_mut(), 0, &mut length) };
        f.api.fails(name, status, INVALID, words);
    }
    let one = |field: &str| format!("{{\"stages\": [{{\"steps\": 1, \"terms\": [{{\"objective\": \"teacher_forced\"}}]{field}}}]}}");
    let rows = [
        (String::new(), INVALID, "recipe"),
        (one(", \"batch\": 0"), INVALID, "batch is 0"),
        (one(", \"batch\": 1000000000000000"), SHAPE, "too large"),
        (one(", \"cache_size\": 0"), INVALID, "cache_size is 0"),
        (one(", \"grid\": 2000"), INVALID, "stage 1 of 1"),
        (one(", \"guidance_scale\": 2"), INVALID, "null_label"),
        (RECIPE.replace("teacher_forced", "denoise"), INVALID, "dataset"),
    ];
    for (recipe, status, words) in rows {
        f.api.fails(&recipe, f.run(&recipe, None, &mut Seen::default()).0, status, words);
    }
    let folder = f.folder.join("no/such/folder");
    f.api.fails("a folder", f.run(RECIPE, Some(&folder), &mut Seen::default()).0, 4, "no/such/folder");
}
