//! What bad input gets: a status of its own kind and a message that names the thing; nothing is written, nothing crashes.

use crate::ffi_common;
use crate::ffi_common::{Api, NAMES, TINY, c, scratch};
use fewstep::ffi::conditioning::*;
use fewstep::ffi::dataset::*;
use fewstep::ffi::device::*;
use fewstep::ffi::grid::fewstep_step_pair;
use fewstep::ffi::model::*;
use fewstep::ffi::runtime::*;
use fewstep::ffi::sampler_options::*;
use std::path::Path;
use std::ptr::{null, null_mut};

const INVALID: i32 = 1;
const SHAPE: i32 = 2;
const UNSUPPORTED: i32 = 3;
const NOT_FOUND: i32 = 4;
const IO: i32 = 5;
const CORRUPT: i32 = 6;
const VERSION_MISMATCH: i32 = 7;
const NO_DEVICE: i32 = 9;
const NUMERIC: i32 = 13;
const STATE: i32 = 14;

macro_rules! null_rows {
    ($api:expr, $($name:ident($($arg:expr),*) => $expected:expr;)*) => {{
        let mut rows: Vec<&str> = vec![];
        $(
            // SAFETY: NULL is what the test is about; the library checks.
            let status = unsafe { ($api.$name)($($arg),*) };
            assert_eq!(status, $expected, "{}(NULL...): {}", stringify!($name), $api.last_error());
            rows.push(stringify!($name));
        )*
        rows
    }};
}

/// Every function of the header with every pointer NULL and every number 0; a function without a row fails the test.
#[test]
fn null_everywhere() {
    let api = Api::load();
    let mut rows = null_rows! { api,
        fewstep_cancel_token_create(null_mut()) => INVALID;
        fewstep_cancel_token_cancel(null()) => INVALID;
        fewstep_cancel_token_reset(null()) => INVALID;
        fewstep_cancel_token_is_cancelled(null(), null_mut()) => INVALID;
        fewstep_cancel_token_destroy(null_mut()) => 0;
        fewstep_device_count(0, null_mut()) => INVALID;
        fewstep_device_get_info(0, 0, null_mut()) => INVALID;
        fewstep_runtime_options_init(null_mut(), 0) => INVALID;
        fewstep_runtime_create(null(), null_mut()) => INVALID;
        fewstep_runtime_get_info(null(), null_mut()) => INVALID;
        fewstep_runtime_destroy(null_mut()) => 0;
        fewstep_model_open(null(), null(), null_mut()) => INVALID;
        fewstep_model_open_variant(null(), null(), null(), null_mut()) => INVALID;
        fewstep_model_open_buffer(null(), null(), 0, null_mut()) => INVALID;
        fewstep_model_open_memory(null(), null(), null(), null(), 0, null_mut()) => INVALID;
        fewstep_model_create(null(), null(), null(), 0, null_mut()) => INVALID;
        fewstep_student_options_init(null_mut(), 0) => INVALID;
        fewstep_model_derive_student(null(), null(), null(), null_mut()) => INVALID;
        fewstep_model_save(null(), null()) => INVALID;
        fewstep_model_save_file(null(), null()) => INVALID;
        fewstep_model_get_info(null(), null_mut()) => INVALID;
        fewstep_model_condition(null(), 0, null_mut()) => INVALID;
        fewstep_model_pairs(null(), null_mut(), 0, null_mut()) => INVALID;
        fewstep_model_destroy(null_mut()) => 0;
        fewstep_dataset_options_init(null_mut(), 0) => INVALID;
        fewstep_dataset_create(null(), null(), null_mut()) => INVALID;
        fewstep_dataset_open_npz(null(), null(), null(), null(), 0.0, 0.0, null_mut()) => INVALID;
        fewstep_dataset_open_npy(null(), null(), null(), 0.0, 0.0, null_mut()) => INVALID;
        fewstep_dataset_get_info(null(), null_mut()) => INVALID;
        fewstep_dataset_destroy(null_mut()) => 0;
        fewstep_folder_options_init(null_mut(), 0) => INVALID;
        fewstep_dataset_open_folder(null(), null(), null(), None, null_mut(), null_mut()) => INVALID;
        fewstep_dataset_skipped(null(), 0, null_mut()) => INVALID;
        fewstep_dataset_class_name(null(), 0, null_mut()) => INVALID;
        fewstep_fill_options_init(null_mut(), 0) => INVALID;
        fewstep_dataset_create_filled(null(), null(), None, null_mut(), null_mut()) => INVALID;
        fewstep_trajectories_options_init(null_mut(), 0) => INVALID;
        fewstep_trajectories_create(null(), null(), null(), null(), None, null_mut(), null(), null_mut()) => INVALID;
        fewstep_trajectories_open(null(), null(), null(), null_mut()) => INVALID;
        fewstep_trajectories_save(null(), null()) => INVALID;
        fewstep_trajectories_get_info(null(), null_mut()) => INVALID;
        fewstep_trajectories_destroy(null_mut()) => 0;
        fewstep_trainer_options_init(null_mut(), 0) => INVALID;
        fewstep_trainer_create(null(), null(), null(), null(), null(), null_mut()) => INVALID;
        fewstep_trainer_prepare(null_mut(), None, null_mut(), null()) => INVALID;
        fewstep_trainer_step(null_mut(), null_mut()) => INVALID;
        fewstep_trainer_train(null_mut(), 0, None, null_mut(), null()) => INVALID;
        fewstep_trainer_evaluate(null_mut(), 0, null_mut()) => INVALID;
        fewstep_trainer_target_error(null_mut(), 2, 1, 0, null(), null_mut()) => INVALID;
        fewstep_trainer_losses(null_mut(), null_mut(), 0, null_mut()) => INVALID;
        fewstep_trainer_trajectories(null_mut(), null_mut()) => INVALID;
        fewstep_trainer_snapshot(null_mut(), 0, null_mut()) => INVALID;
        fewstep_trainer_save(null_mut(), null()) => INVALID;
        fewstep_trainer_resume(null_mut(), null()) => INVALID;
        fewstep_trainer_resume_with(null_mut(), null(), 0) => INVALID;
        fewstep_trainer_get_info(null_mut(), null_mut()) => INVALID;
        fewstep_trainer_destroy(null_mut()) => 0;
        fewstep_recipe_options_init(null_mut(), 0) => INVALID;
        fewstep_recipe_text(null(), 1, null_mut(), 0, null_mut()) => INVALID;
        fewstep_recipe_run(null(), null(), null(), null(), null(), null(), None, null_mut(), null(), null_mut()) => INVALID;
        fewstep_quantize_options_init(null_mut(), 0) => INVALID;
        fewstep_quantize(null(), null(), null(), None, null_mut(), null_mut()) => INVALID;
        fewstep_quantize_report(null(), null(), null(), null(), None, None, null_mut()) => INVALID;
        fewstep_onnx_options_init(null_mut(), 0) => INVALID;
        fewstep_model_export_onnx(null(), null(), null()) => INVALID;
        fewstep_model_export_onnx_to_buffer(null(), null(), null_mut(), 0, null_mut()) => INVALID;
        fewstep_sampler_options_init(null_mut(), 0) => INVALID;
        fewstep_begin_options_init(null_mut(), 0) => INVALID;
        fewstep_sampler_create(null(), null(), null(), null_mut()) => INVALID;
        fewstep_sampler_begin(null_mut(), null()) => INVALID;
        fewstep_sampler_step(null_mut(), 0, null_mut()) => INVALID;
        fewstep_sampler_run(null_mut(), None, null_mut(), null()) => INVALID;
        fewstep_sampler_read(null_mut(), null_mut(), 0) => INVALID;
        fewstep_sampler_noise(null_mut(), 0, 0, 0, null_mut(), 0) => INVALID;
        fewstep_sampler_get_info(null_mut(), null_mut()) => INVALID;
        fewstep_sample(null(), null(), null(), null(), null_mut(), 0) => INVALID;
        fewstep_sampler_destroy(null_mut()) => 0;
        fewstep_evaluator_options_init(null_mut(), 0) => INVALID;
        fewstep_evaluation_init(null_mut(), 0) => INVALID;
        fewstep_evaluator_create(null(), null(), null(), null_mut()) => INVALID;
        fewstep_evaluator_run(null_mut(), null(), null_mut(), 0) => INVALID;
        fewstep_evaluator_get_info(null_mut(), null_mut()) => INVALID;
        fewstep_evaluator_destroy(null_mut()) => 0;
        fewstep_student_search_options_init(null_mut(), 0) => INVALID;
        fewstep_student_search(null(), null(), null(), None, null_mut(), null_mut()) => INVALID;
        fewstep_student_measure(null(), null(), null(), null(), null_mut()) => INVALID;
        fewstep_student_table_get_info(null(), null_mut()) => INVALID;
        fewstep_student_table_row(null(), 0, null_mut()) => INVALID;
        fewstep_student_table_destroy(null_mut()) => 0;
        fewstep_evaluate_options_init(null_mut(), 0) => INVALID;
        fewstep_evaluate(null(), null(), null(), null(), 0, 0, None, null_mut(), null_mut()) => INVALID;
        fewstep_quality_report_get_info(null(), null_mut()) => INVALID;
        fewstep_quality_report_row(null(), 0, null_mut()) => INVALID;
        fewstep_quality_report_text(null(), 0, null_mut(), 0, null_mut()) => INVALID;
        fewstep_quality_report_destroy(null_mut()) => 0;
        fewstep_save_npy_f32(null(), null(), null(), 0) => INVALID;
        fewstep_save_npy_i32(null(), null(), null(), 0) => INVALID;
        fewstep_save_image_grid(null(), null(), 0, 0, 0, 0, 0, 0) => INVALID;
    };
    // These cannot fail.
    rows.extend(["fewstep_last_error", "fewstep_status_name", "fewstep_version", "fewstep_version_string"]);
    // SAFETY: any number is allowed.
    let name = unsafe { (api.fewstep_status_name)(12345) };
    assert!(!ffi_common::text_of(name).is_empty());
    let header = std::fs::read_to_string("include/fewstep.h").expect("header");
    for name in NAMES {
        assert!(rows.contains(name), "{name} has no row");
    }
    let declared = header.matches("FEWSTEP_API").count() - header.matches("#define FEWSTEP_API").count() - header.matches("#ifndef FEWSTEP_API").count();
    assert!(declared >= NAMES.len(), "{declared} functions in the header, {} in this test", NAMES.len());
    for line in header.lines().filter(|l| l.contains('(') && !l.trim_start().starts_with('*')) {
        for word in line.split(|ch: char| !(ch.is_alphanumeric() || ch == '_')).filter(|w| w.starts_with("fewstep_") && line.contains(&format!("{w}("))) {
            assert!(NAMES.contains(&word), "{word} is not tested");
        }
    }
}

/// A runtime and a model that nothing is wrong with.
pub struct Fixture {
    pub api: Api,
    pub runtime: *mut fewstep_runtime,
    pub model: *mut fewstep_model,
}

impl Fixture {
    pub fn new() -> Self {
        let api = Api::load();
        let runtime = api.runtime(1);
        let model = api.model(runtime, 1);
        Self { api, runtime, model }
    }

    fn create(&self, config: &str) -> i32 {
        let mut out = null_mut();
        // SAFETY: valid pointers.
        let status = unsafe { (self.api.fewstep_model_create)(self.runtime, c(config).as_ptr(), null(), 0, &mut out) };
        assert!(status == 0 || out.is_null());
        status
    }

    fn open(&self, path: &Path) -> i32 {
        let mut out = null_mut();
        // SAFETY: valid pointers.
        let status = unsafe { (self.api.fewstep_model_open)(self.runtime, c(&path.to_string_lossy()).as_ptr(), &mut out) };
        assert!(status == 0 || out.is_null());
        status
    }

    fn save(&self, path: &Path) -> i32 {
        // SAFETY: valid pointers.
        unsafe { (self.api.fewstep_model_save)(self.model, c(&path.to_string_lossy()).as_ptr()) }
    }

    fn sampler(&self, change: impl FnOnce(&mut fewstep_sampler_options)) -> i32 {
        let mut options = self.api.sampler_options(2, 1);
        change(&mut options);
        let mut out = null_mut();
        // SAFETY: valid pointers.
        let status = unsafe { (self.api.fewstep_sampler_create)(self.runtime, self.model, &options, &mut out) };
        assert!(status == 0 || out.is_null());
        status
    }

    fn dataset(&self, change: impl FnOnce(&mut fewstep_dataset_options)) -> i32 {
        let pixels = [0.5f32; 2 * 8 * 8];
        let labels = [1i32, 2];
        // SAFETY: plain data that init fills.
        let mut o: fewstep_dataset_options = unsafe { std::mem::zeroed() };
        // SAFETY: a valid pointer.
        self.api.ok(unsafe { (self.api.fewstep_dataset_options_init)(&mut o, size_of_val(&o)) });
        (o.dtype, o.layout, o.channels, o.height, o.width, o.count) = (FEWSTEP_DTYPE_F32, FEWSTEP_LAYOUT_NCHW, 1, 8, 8, 2);
        (o.data, o.data_size, o.labels, o.label_count) = (pixels.as_ptr().cast(), size_of_val(&pixels), labels.as_ptr(), 2);
        change(&mut o);
        let mut out = null_mut();
        // SAFETY: valid pointers.
        let status = unsafe { (self.api.fewstep_dataset_create)(self.runtime, &o, &mut out) };
        assert!(status == 0 || out.is_null());
        if status == 0 {
            // SAFETY: created above.
            unsafe { self.api.ok((self.api.fewstep_dataset_destroy)(out)) };
        }
        status
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // SAFETY: each handle is destroyed once.
        unsafe {
            (self.api.fewstep_model_destroy)(self.model);
            (self.api.fewstep_runtime_destroy)(self.runtime);
        }
    }
}

#[test]
fn configs() {
    let f = Fixture::new();
    let with = |from: &str, to: &str| {
        assert!(TINY.contains(from));
        TINY.replace(from, to)
    };
    for (row, config, status, names) in [
        ("garbage", "{nonsense".into(), CORRUPT, ""),
        ("another class", with("UNet2DModel", "UNet2DConditionModel"), UNSUPPORTED, "UNet2DConditionModel"),
        ("another block", with("\"DownBlock2D\"", "\"SkipDownBlock2D\""), UNSUPPORTED, "SkipDownBlock2D"),
        ("fourier", with("\"sample_size\":8", "\"sample_size\":8,\"time_embedding_type\":\"fourier\""), UNSUPPORTED, "fourier"),
        ("zero channels", with("[8,8]", "[0,8]"), INVALID, "block_out_channels"),
        ("huge channels", with("[8,8]", "[8,9000000000000000000]"), INVALID, "block_out_channels"),
        ("groups", with("\"norm_num_groups\":4", "\"norm_num_groups\":3"), INVALID, "norm_num_groups"),
        ("lengths", with("\"DownBlock2D\",", ""), INVALID, "down_block_types"),
    ] {
        let found = f.create(&config);
        f.api.fails(row, found, status, names);
    }
}

#[test]
fn files() {
    let f = Fixture::new();
    let dir = scratch("files");
    let good = dir.join("good");
    f.api.ok(f.save(&good));
    let weights = std::fs::read(good.join("unet/diffusion_pytorch_model.safetensors")).expect("weights");
    let config = std::fs::read_to_string(good.join("unet/config.json")).expect("config");
    // The header is 8 bytes of length and JSON; edits keep its length.
    let edit = |from: &str, to: &str| {
        let at = weights.windows(from.len()).position(|w| w == from.as_bytes()).expect("in the header");
        let mut bytes = weights.clone();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let mut nan = weights.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    for (row, bytes, status, names) in [
        ("truncated", weights[..weights.len() - 10].to_vec(), CORRUPT, "diffusion_pytorch_model.safetensors"),
        ("cut in the header", weights[..40].to_vec(), CORRUPT, "diffusion_pytorch_model.safetensors"),
        ("empty", vec![], CORRUPT, "diffusion_pytorch_model.safetensors"),
        ("garbage", vec![0xff; 4096], CORRUPT, "diffusion_pytorch_model.safetensors"),
        ("missing tensor", edit("conv_in.bias", "conv_xx.bias"), NOT_FOUND, "conv_in.bias"),
        ("another shape", edit("[8,1,3,3]", "[1,8,3,3]"), SHAPE, "conv_in.weight"),
        ("not finite", nan, NUMERIC, "finite"),
    ] {
        let folder = dir.join("bad");
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join("config.json"), &config).expect("config");
        std::fs::write(folder.join("diffusion_pytorch_model.safetensors"), &bytes).expect("weights");
        let found = f.open(&folder);
        f.api.fails(row, found, status, names);
        let mut out = null_mut();
        // SAFETY: valid pointers.
        let found = unsafe { (f.api.fewstep_model_open_memory)(f.runtime, c(&config).as_ptr(), null(), bytes.as_ptr().cast(), bytes.len(), &mut out) };
        assert!(found == status && out.is_null(), "{row} from memory: {found} {}", f.api.last_error());
    }
    let found = f.open(&dir.join("nowhere"));
    f.api.fails("no folder", found, NOT_FOUND, "nowhere");
    // An unwritable path: a file where a folder is needed. The old model stays.
    std::fs::write(dir.join("file"), b"x").expect("file");
    let found = f.save(&dir.join("file/model"));
    assert!(found == IO || found == NOT_FOUND, "{found}: {}", f.api.last_error());
    assert!(f.api.last_error().contains("file"));
    f.api.ok(f.open_and_close(&good));
}

/// The same for models of one file, from disk and from memory.
#[test]
fn model_files() {
    let f = Fixture::new();
    let dir = scratch("model_files");
    let path = dir.join("model.safetensors");
    // SAFETY: valid pointers.
    f.api.ok(unsafe { (f.api.fewstep_model_save_file)(f.model, c(&path.to_string_lossy()).as_ptr()) });
    f.api.ok(f.open_and_close(&path));
    let good = std::fs::read(&path).expect("saved");
    let weights_only = {
        f.api.ok(f.save(&dir.join("folder")));
        std::fs::read(dir.join("folder/unet/diffusion_pytorch_model.safetensors")).expect("weights")
    };
    let mut later = good.clone();
    let version = later.windows(20).position(|w| w == b"\"fewstep.model\":\"1\"," || w == b"\"fewstep.model\":\"1\"}").expect("in the header");
    later[version + 17] = b'7';
    for (row, bytes, status, names) in [
        ("truncated", &good[..good.len() - 10], CORRUPT, "truncated"),
        ("cut in the header", &good[..40], CORRUPT, "header"),
        ("empty", &[], CORRUPT, "too short"),
        ("weights alone", &weights_only, UNSUPPORTED, "diffusers folder"),
        ("a later version", &later, VERSION_MISMATCH, "\"7\""),
    ] {
        let bad = dir.join("bad.safetensors");
        std::fs::write(&bad, bytes).expect("file");
        let found = f.open(&bad);
        f.api.fails(row, found, status, names);
        f.api.fails(row, found, status, "bad.safetensors");
        let mut out = null_mut();
        // SAFETY: valid pointers.
        let found = unsafe { (f.api.fewstep_model_open_buffer)(f.runtime, bytes.as_ptr().cast(), bytes.len(), &mut out) };
        assert!(out.is_null());
        f.api.fails(row, found, status, "memory");
    }
    // SAFETY: valid pointers.
    let found = unsafe { (f.api.fewstep_model_save_file)(f.model, c(&dir.join("nowhere/m").to_string_lossy()).as_ptr()) };
    f.api.fails("no folder", found, NOT_FOUND, "nowhere");
}

impl Fixture {
    fn open_and_close(&self, path: &Path) -> i32 {
        let model = self.api.open(self.runtime, &path.to_string_lossy());
        // SAFETY: opened above.
        unsafe { (self.api.fewstep_model_destroy)(model) }
    }
}

#[test]
fn sampler_options() {
    let f = Fixture::new();
    let row = |name: &str, status: i32, names: &str, change: &dyn Fn(&mut fewstep_sampler_options)| {
        let found = f.sampler(change);
        f.api.fails(name, found, status, names);
    };
    row("kind", INVALID, "kind", &|o| o.kind = 99);
    row("spacing", INVALID, "spacing", &|o| o.spacing = -1);
    row("clip", INVALID, "clip", &|o| o.clip = 77);
    row("no batch", INVALID, "batch", &|o| o.batch = 0);
    row("too many steps", INVALID, "steps", &|o| o.steps = 4_000_000);
    row("negative eta", INVALID, "eta", &|o| o.eta = -1.0);
    row("odd size", SHAPE, "multiple", &|o| (o.height, o.width) = (7, 8));
    row("order", INVALID, "order", &|o| {
        (o.kind, o.solver_order, o.solver_type, o.algorithm, o.sigmas, o.final_sigma) = (FEWSTEP_SAMPLER_DPM_SOLVER_PP, 9, 1, 1, 1, 1)
    });
    let pairs = [fewstep_step_pair { t: 499, t_next: 999 }];
    row("rising pair", INVALID, "999", &|o| (o.steps, o.pairs, o.pair_count, o.pair_stride) = (0, pairs.as_ptr(), 1, size_of::<fewstep_step_pair>()));
    row("stride", INVALID, "stride", &|o| (o.steps, o.pairs, o.pair_count, o.pair_stride) = (0, pairs.as_ptr(), 1, 1));
}

#[test]
fn sampler_calls() {
    let f = Fixture::new();
    let mut sampler = null_mut();
    let mut out = [7f32; 64];
    // SAFETY: valid pointers throughout.
    unsafe {
        f.api.ok((f.api.fewstep_sampler_create)(f.runtime, f.model, &f.api.sampler_options(2, 1), &mut sampler));
        let mut done = 5;
        f.api.fails("step first", (f.api.fewstep_sampler_step)(sampler, -1, &mut done), STATE, "begin");
        f.api.fails("read first", (f.api.fewstep_sampler_read)(sampler, out.as_mut_ptr(), 64), STATE, "begin");
        let mut begin: fewstep_begin_options = std::mem::zeroed();
        f.api.ok((f.api.fewstep_begin_options_init)(&mut begin, size_of_val(&begin)));
        f.api.fails("no labels", (f.api.fewstep_sampler_begin)(sampler, &begin), INVALID, "labels");
        for (row, labels, status, names) in
            [("label 10", vec![10i32], INVALID, "10"), ("label -1", vec![-1], INVALID, "-1"), ("two labels", vec![1, 2], SHAPE, "labels")]
        {
            let classes = fewstep_conditioning { kind: FEWSTEP_CONDITIONING_CLASS_LABELS, reserved: 0, data: labels.as_ptr().cast(), count: labels.len() };
            (begin.conditionings, begin.conditioning_count, begin.conditioning_stride) = (&classes, 1, size_of::<fewstep_conditioning>());
            f.api.fails(row, (f.api.fewstep_sampler_begin)(sampler, &begin), status, names);
        }
        let labels = [1i32];
        let classes = fewstep_conditioning { kind: 55, reserved: 0, data: labels.as_ptr().cast(), count: 1 };
        begin.conditionings = &classes;
        f.api.fails("unknown conditioning", (f.api.fewstep_sampler_begin)(sampler, &begin), INVALID, "55");
        let classes = fewstep_conditioning { kind: FEWSTEP_CONDITIONING_CLASS_LABELS, ..classes };
        begin.conditionings = &classes;
        let noise = [f32::INFINITY; 64];
        (begin.noise, begin.noise_count) = (noise.as_ptr(), 64);
        f.api.fails("infinite noise", (f.api.fewstep_sampler_begin)(sampler, &begin), NUMERIC, "finite");
        (begin.noise, begin.noise_count) = (noise.as_ptr(), 63);
        f.api.fails("short noise", (f.api.fewstep_sampler_begin)(sampler, &begin), SHAPE, "64");
        (begin.noise, begin.noise_count) = (null(), 0);
        f.api.ok((f.api.fewstep_sampler_begin)(sampler, &begin));
        f.api.fails("small buffer", (f.api.fewstep_sampler_read)(sampler, out.as_mut_ptr(), 63), SHAPE, "64");
        assert!(out.iter().all(|v| *v == 7.0), "outputs are written only on success");
        f.api.ok((f.api.fewstep_sampler_destroy)(sampler));
        // A handle of another kind.
        f.api.fails("another kind", (f.api.fewstep_model_destroy)(f.runtime.cast()), INVALID, "model");
    }
}

#[test]
fn more_than_the_sampler_was_planned_for() {
    let f = Fixture::new();
    ffi_common::limits::check(&f.api, f.runtime);
}

#[test]
fn datasets() {
    let f = Fixture::new();
    f.api.ok(f.dataset(|_| {}));
    let row = |name: &str, status: i32, names: &str, change: &dyn Fn(&mut fewstep_dataset_options)| {
        let found = f.dataset(change);
        f.api.fails(name, found, status, names);
    };
    row("dtype", INVALID, "dtype", &|o| o.dtype = 8);
    row("layout", INVALID, "layout", &|o| o.layout = 0);
    row("empty", INVALID, "count", &|o| o.count = 0);
    row("overflow", SHAPE, "", &|o| (o.count, o.height, o.width) = (usize::MAX / 2, u32::MAX, u32::MAX));
    row("short data", SHAPE, "512", &|o| o.data_size = 100);
    row("labels", SHAPE, "label", &|o| o.label_count = 1);
    row("more labels than images", SHAPE, "3", &|o| o.label_count = 3);
    let bad = [f32::NAN; 128];
    row("nan", NUMERIC, "finite", &|o| o.data = bad.as_ptr().cast());
    let open = |path: &str, name: &str| {
        let mut out = null_mut();
        // SAFETY: valid pointers.
        unsafe { (f.api.fewstep_dataset_open_npz)(f.runtime, c(path).as_ptr(), c(name).as_ptr(), null(), 1.0, 0.0, &mut out) }
    };
    let found = open("examples-c/data/digits8.npz", "pictures");
    f.api.fails("missing array", found, NOT_FOUND, "pictures");
    let found = open("examples-c/data/README.md", "images");
    f.api.fails("not an npz", found, CORRUPT, "README.md");
    let found = open("nowhere.npz", "images");
    f.api.fails("no file", found, NOT_FOUND, "nowhere.npz");
}

/// RLIMIT_AS in a child process: a run that is too large answers OUT_OF_MEMORY, and the process goes on.
#[cfg(unix)] // other systems have no such limit
#[test]
fn too_little_memory() {
    let child = std::process::Command::new(std::env::current_exe().expect("self"))
        .args(["--exact", "bad_input::child_with_little_memory", "--nocapture"])
        .env("FEWSTEP_TEST_MEMORY", "1")
        .output()
        .expect("child");
    assert!(child.status.success(), "{}\n{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
}

/// The child of `too_little_memory`; without its variable there is nothing to do.
#[cfg(unix)]
#[test]
fn child_with_little_memory() {
    if std::env::var_os("FEWSTEP_TEST_MEMORY").is_none() {
        return;
    }
    let f = Fixture::new();
    let limit = libc::rlimit { rlim_cur: 1 << 30, rlim_max: 1 << 30 };
    // SAFETY: a valid struct; only this process is limited.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    let found = f.sampler(|o| (o.batch, o.height, o.width) = (64, 512, 512));
    f.api.fails("large run", found, 8, "allocate");
    let found = f.create(&TINY.replace("[8,8]", "[8192,8192]"));
    f.api.fails("large model", found, 8, "allocate");
    f.api.ok(f.sampler_and_close());
}

#[cfg(unix)]
impl Fixture {
    fn sampler_and_close(&self) -> i32 {
        let mut out = null_mut();
        // SAFETY: valid pointers.
        unsafe {
            self.api.ok((self.api.fewstep_sampler_create)(self.runtime, self.model, &self.api.sampler_options(2, 1), &mut out));
            (self.api.fewstep_sampler_destroy)(out)
        }
    }
}

#[test]
fn tools() {
    let f = Fixture::new();
    let dir = scratch("tools");
    let file = c(&dir.join("a.npy").to_string_lossy());
    let data = [1f32; 4];
    // SAFETY: valid pointers, or NULL where the row says so.
    unsafe {
        let shape = [2usize, 2];
        f.api.ok((f.api.fewstep_save_npy_f32)(file.as_ptr(), data.as_ptr(), shape.as_ptr(), 2));
        let huge = [usize::MAX, 2];
        f.api.fails("overflow", (f.api.fewstep_save_npy_f32)(file.as_ptr(), data.as_ptr(), huge.as_ptr(), 2), SHAPE, "");
        f.api.fails("no data", (f.api.fewstep_save_npy_f32)(file.as_ptr(), null(), shape.as_ptr(), 2), INVALID, "data");
        let away = c(&dir.join("no/such/folder/a.npy").to_string_lossy());
        f.api.fails("no folder", (f.api.fewstep_save_npy_f32)(away.as_ptr(), data.as_ptr(), shape.as_ptr(), 2), NOT_FOUND, "a.npy");
        let status = (f.api.fewstep_save_image_grid)(file.as_ptr(), null(), 1, 24, 1, 8, 8, 1);
        f.api.fails("no rows", status, INVALID, "rows");
        let not_utf8 = [0xffu8, 0xfe, 0];
        let mut out = null_mut();
        let status = (f.api.fewstep_model_open)(f.runtime, not_utf8.as_ptr().cast(), &mut out);
        f.api.fails("not UTF-8", status, INVALID, "UTF-8");
        let mut options = f.api.runtime_options(FEWSTEP_DEVICE_CUDA);
        let mut runtime = null_mut();
        options.device_index = 99;
        let (status, sentence) = if cfg!(fewstep_cuda) { (NO_DEVICE, "") } else { (UNSUPPORTED, "built without CUDA kernels") };
        f.api.fails("cuda", (f.api.fewstep_runtime_create)(&options, &mut runtime), status, sentence);
        options.cuda_stream = std::ptr::dangling_mut();
        f.api.fails("stream", (f.api.fewstep_runtime_create)(&options, &mut runtime), INVALID, "cuda_context");
        (options.cuda_stream, options.device_index) = (null_mut(), 0);
        options.device = 9;
        f.api.fails("device", (f.api.fewstep_runtime_create)(&options, &mut runtime), INVALID, "device");
        (options.device, options.threads) = (FEWSTEP_DEVICE_CPU, 1_000_000);
        f.api.fails("threads", (f.api.fewstep_runtime_create)(&options, &mut runtime), INVALID, "thread");
    }
}
