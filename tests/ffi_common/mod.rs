//! The library as a plugin host sees it: opened at run time, used by the names of the header alone.
#![allow(dead_code)] // each test binary uses its own part

pub mod host;
pub mod limits;
pub mod networks;
pub mod second_family;

use fewstep::ffi::callback::*;
use fewstep::ffi::cancel::*;
use fewstep::ffi::conditioning::*;
use fewstep::ffi::dataset::*;
use fewstep::ffi::dataset_fill::*;
use fewstep::ffi::dataset_folder::*;
use fewstep::ffi::device::*;
use fewstep::ffi::evaluate::*;
use fewstep::ffi::evaluator::*;
use fewstep::ffi::grid::fewstep_step_pair;
use fewstep::ffi::model::*;
use fewstep::ffi::onnx::*;
use fewstep::ffi::quality_report::*;
use fewstep::ffi::quantize::*;
use fewstep::ffi::quantize_report::*;
use fewstep::ffi::recipe::*;
use fewstep::ffi::runtime::*;
use fewstep::ffi::sampler::*;
use fewstep::ffi::sampler_options::*;
use fewstep::ffi::student_search::*;
use fewstep::ffi::tools::*;
use fewstep::ffi::trainer::*;
use fewstep::ffi::trainer_options::*;
use fewstep::ffi::trajectories::*;
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::PathBuf;
use std::ptr::{null, null_mut};

macro_rules! api {
    ($($name:ident($($t:ty),*) -> $r:ty;)*) => {
        /// Every function of the header.
        pub struct Api { $(pub $name: unsafe extern "C" fn($($t),*) -> $r,)* pub library: Library }
        /// Their names, in the header's order.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
        impl Api {
            /// Opens the .so of this very build.
            pub fn load() -> Self {
                let path = library_path();
                // SAFETY: our own library; its constructors do nothing.
                let library = unsafe { Library::new(&path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                // SAFETY: the signatures are those of the header (tests/abi/header.rs compares it with the source).
                unsafe { Self { $($name: *library.get(concat!(stringify!($name), "\0").as_bytes()).expect(stringify!($name)),)* library } }
            }
        }
    };
}

api! {
    fewstep_last_error() -> *const c_char;
    fewstep_status_name(i32) -> *const c_char;
    fewstep_version() -> u32;
    fewstep_version_string() -> *const c_char;
    fewstep_cancel_token_create(*mut *mut fewstep_cancel_token) -> i32;
    fewstep_cancel_token_cancel(*const fewstep_cancel_token) -> i32;
    fewstep_cancel_token_reset(*const fewstep_cancel_token) -> i32;
    fewstep_cancel_token_is_cancelled(*const fewstep_cancel_token, *mut i32) -> i32;
    fewstep_cancel_token_destroy(*mut fewstep_cancel_token) -> i32;
    fewstep_device_count(i32, *mut u32) -> i32;
    fewstep_device_get_info(i32, i32, *mut fewstep_device_info) -> i32;
    fewstep_runtime_options_init(*mut fewstep_runtime_options, usize) -> i32;
    fewstep_runtime_create(*const fewstep_runtime_options, *mut *mut fewstep_runtime) -> i32;
    fewstep_runtime_get_info(*const fewstep_runtime, *mut fewstep_runtime_info) -> i32;
    fewstep_runtime_destroy(*mut fewstep_runtime) -> i32;
    fewstep_model_open(*const fewstep_runtime, *const c_char, *mut *mut fewstep_model) -> i32;
    fewstep_model_open_variant(*const fewstep_runtime, *const c_char, *const c_char, *mut *mut fewstep_model) -> i32;
    fewstep_model_open_buffer(*const fewstep_runtime, *const c_void, usize, *mut *mut fewstep_model) -> i32;
    fewstep_model_open_memory(*const fewstep_runtime, *const c_char, *const c_char, *const c_void, usize, *mut *mut fewstep_model) -> i32;
    fewstep_model_create(*const fewstep_runtime, *const c_char, *const c_char, u64, *mut *mut fewstep_model) -> i32;
    fewstep_student_options_init(*mut fewstep_student_options, usize) -> i32;
    fewstep_model_derive_student(*const fewstep_runtime, *const fewstep_model, *const fewstep_student_options, *mut *mut fewstep_model) -> i32;
    fewstep_model_save_file(*const fewstep_model, *const c_char) -> i32;
    fewstep_model_save(*const fewstep_model, *const c_char) -> i32;
    fewstep_model_get_info(*const fewstep_model, *mut fewstep_model_info) -> i32;
    fewstep_model_condition(*const fewstep_model, usize, *mut fewstep_condition) -> i32;
    fewstep_model_pairs(*const fewstep_model, *mut fewstep_step_pair, usize, *mut usize) -> i32;
    fewstep_model_destroy(*mut fewstep_model) -> i32;
    fewstep_dataset_options_init(*mut fewstep_dataset_options, usize) -> i32;
    fewstep_dataset_create(*const fewstep_runtime, *const fewstep_dataset_options, *mut *mut fewstep_dataset) -> i32;
    fewstep_dataset_open_npz(*const fewstep_runtime, *const c_char, *const c_char, *const c_char, f32, f32, *mut *mut fewstep_dataset) -> i32;
    fewstep_dataset_open_npy(*const fewstep_runtime, *const c_char, *const c_char, f32, f32, *mut *mut fewstep_dataset) -> i32;
    fewstep_dataset_get_info(*const fewstep_dataset, *mut fewstep_dataset_info) -> i32;
    fewstep_dataset_destroy(*mut fewstep_dataset) -> i32;
    fewstep_folder_options_init(*mut fewstep_folder_options, usize) -> i32;
    fewstep_dataset_open_folder(
        *const fewstep_runtime, *const c_char, *const fewstep_folder_options, fewstep_progress_callback, *mut c_void, *mut *mut fewstep_dataset
    ) -> i32;
    fewstep_dataset_skipped(*const fewstep_dataset, usize, *mut fewstep_skipped) -> i32;
    fewstep_dataset_class_name(*const fewstep_dataset, usize, *mut *const c_char) -> i32;
    fewstep_fill_options_init(*mut fewstep_fill_options, usize) -> i32;
    fewstep_dataset_create_filled(
        *const fewstep_runtime, *const fewstep_fill_options, fewstep_fill_callback, *mut c_void, *mut *mut fewstep_dataset
    ) -> i32;
    fewstep_evaluator_options_init(*mut fewstep_evaluator_options, usize) -> i32;
    fewstep_evaluation_init(*mut fewstep_evaluation, usize) -> i32;
    fewstep_evaluator_create(*const fewstep_runtime, *const fewstep_model, *const fewstep_evaluator_options, *mut *mut fewstep_evaluator) -> i32;
    fewstep_evaluator_run(*mut fewstep_evaluator, *const fewstep_evaluation, *mut f32, usize) -> i32;
    fewstep_evaluator_get_info(*mut fewstep_evaluator, *mut fewstep_evaluator_info) -> i32;
    fewstep_evaluator_destroy(*mut fewstep_evaluator) -> i32;
    fewstep_trajectories_options_init(*mut fewstep_trajectories_options, usize) -> i32;
    fewstep_trajectories_create(
        *const fewstep_runtime, *const fewstep_model, *const fewstep_dataset, *const fewstep_trajectories_options, fewstep_progress_callback, *mut c_void,
        *const fewstep_cancel_token, *mut *mut fewstep_trajectories
    ) -> i32;
    fewstep_trajectories_open(*const fewstep_runtime, *const fewstep_model, *const c_char, *mut *mut fewstep_trajectories) -> i32;
    fewstep_trajectories_save(*const fewstep_trajectories, *const c_char) -> i32;
    fewstep_trajectories_get_info(*const fewstep_trajectories, *mut fewstep_trajectories_info) -> i32;
    fewstep_trajectories_destroy(*mut fewstep_trajectories) -> i32;
    fewstep_trainer_options_init(*mut fewstep_trainer_options, usize) -> i32;
    fewstep_trainer_create(*const fewstep_runtime, *const fewstep_model, *const fewstep_model, *const fewstep_dataset, *const fewstep_trainer_options, *mut *mut fewstep_trainer) -> i32;
    fewstep_trainer_prepare(*mut fewstep_trainer, fewstep_progress_callback, *mut c_void, *const fewstep_cancel_token) -> i32;
    fewstep_trainer_step(*mut fewstep_trainer, *mut fewstep_step_report) -> i32;
    fewstep_trainer_train(*mut fewstep_trainer, u64, fewstep_progress_callback, *mut c_void, *const fewstep_cancel_token) -> i32;
    fewstep_trainer_evaluate(*mut fewstep_trainer, u64, *mut fewstep_step_report) -> i32;
    fewstep_trainer_target_error(*mut fewstep_trainer, u32, u32, u64, *const fewstep_cancel_token, *mut f64) -> i32;
    fewstep_trainer_losses(*mut fewstep_trainer, *mut f32, usize, *mut usize) -> i32;
    fewstep_trainer_trajectories(*mut fewstep_trainer, *mut *mut fewstep_trajectories) -> i32;
    fewstep_trainer_snapshot(*mut fewstep_trainer, i32, *mut *mut fewstep_model) -> i32;
    fewstep_trainer_save(*mut fewstep_trainer, *const c_char) -> i32;
    fewstep_trainer_resume(*mut fewstep_trainer, *const c_char) -> i32;
    fewstep_trainer_resume_with(*mut fewstep_trainer, *const c_char, u32) -> i32;
    fewstep_trainer_get_info(*mut fewstep_trainer, *mut fewstep_trainer_info) -> i32;
    fewstep_trainer_destroy(*mut fewstep_trainer) -> i32;
    fewstep_onnx_options_init(*mut fewstep_onnx_options, usize) -> i32;
    fewstep_model_export_onnx(*const fewstep_model, *const fewstep_onnx_options, *const c_char) -> i32;
    fewstep_model_export_onnx_to_buffer(*const fewstep_model, *const fewstep_onnx_options, *mut c_void, usize, *mut usize) -> i32;
    fewstep_sampler_options_init(*mut fewstep_sampler_options, usize) -> i32;
    fewstep_begin_options_init(*mut fewstep_begin_options, usize) -> i32;
    fewstep_sampler_create(*const fewstep_runtime, *const fewstep_model, *const fewstep_sampler_options, *mut *mut fewstep_sampler) -> i32;
    fewstep_sampler_begin(*mut fewstep_sampler, *const fewstep_begin_options) -> i32;
    fewstep_sampler_step(*mut fewstep_sampler, i64, *mut i32) -> i32;
    fewstep_sampler_run(*mut fewstep_sampler, fewstep_progress_callback, *mut c_void, *const fewstep_cancel_token) -> i32;
    fewstep_sampler_read(*mut fewstep_sampler, *mut f32, usize) -> i32;
    fewstep_sampler_noise(*mut fewstep_sampler, u64, u32, usize, *mut f32, usize) -> i32;
    fewstep_sampler_get_info(*mut fewstep_sampler, *mut fewstep_sampler_info) -> i32;
    fewstep_sample(*const fewstep_runtime, *const fewstep_model, *const fewstep_sampler_options, *const fewstep_begin_options, *mut f32, usize) -> i32;
    fewstep_sampler_destroy(*mut fewstep_sampler) -> i32;
    fewstep_recipe_options_init(*mut fewstep_recipe_options, usize) -> i32;
    fewstep_recipe_text(*const c_char, u32, *mut c_char, usize, *mut usize) -> i32;
    fewstep_recipe_run(
        *const fewstep_runtime, *const c_char, *const fewstep_model, *const fewstep_model, *const fewstep_dataset, *const fewstep_recipe_options,
        fewstep_progress_callback, *mut c_void, *const fewstep_cancel_token, *mut *mut fewstep_model
    ) -> i32;
    fewstep_quantize_options_init(*mut fewstep_quantize_options, usize) -> i32;
    fewstep_quantize(
        *const fewstep_runtime, *const fewstep_model, *const fewstep_quantize_options, fewstep_progress_callback, *mut c_void, *mut *mut fewstep_model
    ) -> i32;
    fewstep_quantize_report(
        *const fewstep_runtime, *const fewstep_model, *const fewstep_model, *const fewstep_quantize_options, fewstep_progress_callback,
        fewstep_layer_report_callback, *mut c_void
    ) -> i32;
    fewstep_evaluate_options_init(*mut fewstep_evaluate_options, usize) -> i32;
    fewstep_evaluate(
        *const fewstep_runtime, *const fewstep_model, *const fewstep_evaluate_options, *const fewstep_evaluate_set, usize, usize, fewstep_progress_callback,
        *mut c_void, *mut *mut fewstep_quality_report
    ) -> i32;
    fewstep_quality_report_get_info(*const fewstep_quality_report, *mut fewstep_quality_report_info) -> i32;
    fewstep_quality_report_row(*const fewstep_quality_report, usize, *mut fewstep_quality) -> i32;
    fewstep_quality_report_text(*const fewstep_quality_report, i32, *mut c_char, usize, *mut usize) -> i32;
    fewstep_quality_report_destroy(*mut fewstep_quality_report) -> i32;
    fewstep_student_search_options_init(*mut fewstep_student_search_options, usize) -> i32;
    fewstep_student_search(
        *const fewstep_runtime, *const fewstep_model, *const fewstep_student_search_options, fewstep_progress_callback, *mut c_void,
        *mut *mut fewstep_student_table
    ) -> i32;
    fewstep_student_measure(
        *const fewstep_runtime, *const fewstep_model, *const fewstep_model, *const fewstep_student_search_options, *mut fewstep_student_cost
    ) -> i32;
    fewstep_student_table_get_info(*const fewstep_student_table, *mut fewstep_student_table_info) -> i32;
    fewstep_student_table_row(*const fewstep_student_table, usize, *mut fewstep_student_cost) -> i32;
    fewstep_student_table_destroy(*mut fewstep_student_table) -> i32;
    fewstep_save_npy_f32(*const c_char, *const f32, *const usize, usize) -> i32;
    fewstep_save_npy_i32(*const c_char, *const i32, *const usize, usize) -> i32;
    fewstep_save_image_grid(*const c_char, *const fewstep_grid_row, usize, usize, u32, u32, u32, u32) -> i32;
}

/// `cargo test` builds the package's cdylib where it builds this test: target/<profile>/deps. (The one a folder above is of the last `cargo build`.)
fn library_path() -> PathBuf {
    let exe = std::env::current_exe().expect("test executable");
    exe.with_file_name("libfewstep.so")
}

/// A small class-conditional model with attention.
pub const TINY: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[8,8],
"down_block_types":["DownBlock2D","AttnDownBlock2D"],"up_block_types":["AttnUpBlock2D","UpBlock2D"],"attention_head_dim":4,"norm_num_groups":4,"num_class_embeds":10}"#;

pub fn c(text: &str) -> CString {
    CString::new(text).expect("no NUL")
}

/// A fresh folder under the build's scratch space, or $FEWSTEP_TEST_SCRATCH on a machine where this was not built.
pub fn scratch(name: &str) -> PathBuf {
    let space = std::env::var_os("FEWSTEP_TEST_SCRATCH").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let dir = PathBuf::from(space).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("scratch folder");
    dir
}

pub fn text_of(p: *const c_char) -> String {
    // SAFETY: the library returns NUL-terminated text.
    unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
}

/// A device's name, which ends inside its array.
pub fn name_of(name: &[c_char]) -> String {
    let bytes: Vec<u8> = name.iter().map(|c| *c as u8).collect();
    CStr::from_bytes_until_nul(&bytes).expect("a NUL").to_str().expect("UTF-8").to_owned()
}

impl Api {
    pub fn last_error(&self) -> String {
        // SAFETY: no arguments.
        text_of(unsafe { (self.fewstep_last_error)() })
    }

    /// Panics with the library's sentence unless the call succeeded.
    pub fn ok(&self, status: i32) {
        assert_eq!(status, 0, "{}", self.last_error());
    }

    /// The status is this one, and the sentence names `needle`.
    pub fn fails(&self, row: &str, status: i32, expected: i32, needle: &str) {
        let message = self.last_error();
        assert_eq!(status, expected, "{row}: {message}");
        assert!(message.contains(needle), "{row}: '{message}' does not name '{needle}'");
    }

    pub fn device_count(&self, device: i32) -> u32 {
        let mut count = u32::MAX;
        // SAFETY: a valid pointer.
        self.ok(unsafe { (self.fewstep_device_count)(device, &mut count) });
        count
    }

    pub fn device_info(&self, device: i32, index: i32) -> fewstep_device_info {
        // SAFETY: plain data that the library fills.
        let mut info: fewstep_device_info = unsafe { std::mem::zeroed() };
        info.struct_size = size_of::<fewstep_device_info>() as u32;
        // SAFETY: a valid pointer.
        self.ok(unsafe { (self.fewstep_device_get_info)(device, index, &mut info) });
        info
    }

    pub fn runtime_info(&self, runtime: *const fewstep_runtime) -> fewstep_runtime_info {
        // SAFETY: plain data that the library fills.
        let mut info: fewstep_runtime_info = unsafe { std::mem::zeroed() };
        info.struct_size = size_of::<fewstep_runtime_info>() as u32;
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_runtime_get_info)(runtime, &mut info) });
        info
    }

    pub fn runtime_options(&self, device: i32) -> fewstep_runtime_options {
        // SAFETY: plain data that init fills.
        let mut options: fewstep_runtime_options = unsafe { std::mem::zeroed() };
        // SAFETY: a valid pointer.
        self.ok(unsafe { (self.fewstep_runtime_options_init)(&mut options, size_of_val(&options)) });
        options.device = device;
        options
    }

    pub fn runtime(&self, threads: u32) -> *mut fewstep_runtime {
        let mut out = null_mut();
        let options = fewstep_runtime_options { threads, ..self.runtime_options(FEWSTEP_DEVICE_CPU) };
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_runtime_create)(&options, &mut out) });
        out
    }

    /// The first GPU, real or emulated.
    pub fn gpu(&self) -> *mut fewstep_runtime {
        let mut out = null_mut();
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_runtime_create)(&self.runtime_options(FEWSTEP_DEVICE_CUDA), &mut out) });
        out
    }

    pub fn model(&self, runtime: *const fewstep_runtime, seed: u64) -> *mut fewstep_model {
        let mut out = null_mut();
        // SAFETY: valid pointers.
        unsafe { self.ok((self.fewstep_model_create)(runtime, c(TINY).as_ptr(), null(), seed, &mut out)) };
        out
    }

    pub fn open(&self, runtime: *const fewstep_runtime, path: &str) -> *mut fewstep_model {
        let mut out = null_mut();
        // SAFETY: valid pointers.
        unsafe { self.ok((self.fewstep_model_open)(runtime, c(path).as_ptr(), &mut out)) };
        out
    }

    /// The digits of the examples, scaled to [-1, 1].
    pub fn dataset(&self, runtime: *const fewstep_runtime) -> *mut fewstep_dataset {
        let mut out = null_mut();
        let (file, images, labels) = (c("examples-c/data/digits8.npz"), c("images"), c("labels"));
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_dataset_open_npz)(runtime, file.as_ptr(), images.as_ptr(), labels.as_ptr(), 0.125, -1.0, &mut out) });
        out
    }

    pub fn trainer_options(&self, term: *const fewstep_term) -> fewstep_trainer_options {
        // SAFETY: plain data that init fills.
        let mut options: fewstep_trainer_options = unsafe { std::mem::zeroed() };
        // SAFETY: a valid pointer.
        self.ok(unsafe { (self.fewstep_trainer_options_init)(&mut options, size_of_val(&options)) });
        (options.terms, options.term_count, options.term_stride) = (term, 1, size_of::<fewstep_term>());
        options
    }

    /// A teacher with classes, and its student of two steps, with random weights.
    pub fn teacher_and_student(&self, runtime: *mut fewstep_runtime) -> [*mut fewstep_model; 2] {
        // SAFETY: plain data; valid pointers.
        unsafe {
            let (mut teacher, mut student) = (std::ptr::null_mut(), std::ptr::null_mut());
            self.ok((self.fewstep_model_create)(runtime, c(TINY).as_ptr(), std::ptr::null(), 3, &mut teacher));
            let mut options: fewstep_student_options = std::mem::zeroed();
            self.ok((self.fewstep_student_options_init)(&mut options, size_of_val(&options)));
            options.steps = 2;
            self.ok((self.fewstep_model_derive_student)(runtime, teacher, &options, &mut student));
            [teacher, student]
        }
    }

    pub fn sampler_options(&self, steps: u32, batch: u32) -> fewstep_sampler_options {
        // SAFETY: plain data that init fills.
        let mut options: fewstep_sampler_options = unsafe { std::mem::zeroed() };
        // SAFETY: a valid pointer.
        self.ok(unsafe { (self.fewstep_sampler_options_init)(&mut options, size_of_val(&options)) });
        options.kind = FEWSTEP_SAMPLER_DDIM;
        (options.spacing, options.clip, options.set_alpha_to_one) = (FEWSTEP_SPACING_TRAILING, FEWSTEP_CLIP_NONE, 1);
        (options.steps, options.batch) = (steps, batch);
        options
    }

    /// A whole run: images [batch, C, H, W] of samples `first..`, stepped with the given budget.
    pub fn sample(
        &self,
        runtime: *const fewstep_runtime,
        model: *const fewstep_model,
        options: &fewstep_sampler_options,
        seed: u64,
        first: u32,
        budget: i64,
    ) -> Vec<f32> {
        // SAFETY: valid pointers throughout.
        unsafe {
            let mut sampler = null_mut();
            self.ok((self.fewstep_sampler_create)(runtime, model, options, &mut sampler));
            let mut info: fewstep_sampler_info = std::mem::zeroed();
            info.struct_size = size_of::<fewstep_sampler_info>() as u32;
            self.ok((self.fewstep_sampler_get_info)(sampler, &mut info));
            let labels: Vec<i32> = (0..info.batch).map(|i| ((first + i) % 10) as i32).collect();
            self.begin(sampler, seed, first, &labels);
            let mut done = 0;
            while done == 0 {
                self.ok((self.fewstep_sampler_step)(sampler, budget, &mut done));
            }
            let mut out = vec![0f32; (info.batch * info.channels * info.height * info.width) as usize];
            self.ok((self.fewstep_sampler_read)(sampler, out.as_mut_ptr(), out.len()));
            self.ok((self.fewstep_sampler_destroy)(sampler));
            out
        }
    }

    /// Threads make, run and destroy samplers of one model at the same time: each gets the images that one thread gets alone.
    pub fn sample_side_by_side(&self, runtime: *const fewstep_runtime, model: *const fewstep_model) {
        let sample = |runtime, model| self.sample(runtime, model, &self.sampler_options(2, 2), 5, 0, -1);
        let expected = sample(runtime, model);
        let (runtime, model) = (runtime as usize, model as usize);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        assert!(sample(runtime as *const _, model as *const _) == expected);
                    }
                });
            }
        });
    }

    pub fn begin(&self, sampler: *mut fewstep_sampler, seed: u64, first: u32, labels: &[i32]) {
        self.ok(self.try_begin(sampler, seed, first, labels));
    }

    pub fn try_begin(&self, sampler: *mut fewstep_sampler, seed: u64, first: u32, labels: &[i32]) -> i32 {
        // SAFETY: valid pointers throughout.
        unsafe {
            let classes = fewstep_conditioning { kind: FEWSTEP_CONDITIONING_CLASS_LABELS, reserved: 0, data: labels.as_ptr().cast(), count: labels.len() };
            let mut begin: fewstep_begin_options = std::mem::zeroed();
            self.ok((self.fewstep_begin_options_init)(&mut begin, size_of_val(&begin)));
            (begin.seed, begin.first_index) = (seed, first);
            (begin.conditionings, begin.conditioning_count, begin.conditioning_stride) = (&classes, 1, size_of::<fewstep_conditioning>());
            (self.fewstep_sampler_begin)(sampler, &begin)
        }
    }
}

pub fn term(objective: i32, step_weight: i32) -> fewstep_term {
    fewstep_term { objective, step_weight, norm: FEWSTEP_NORM_L2, weight: 1.0, huber_delta: 0.0, linear_fit_steps: 0 }
}
