//! ONNX files, through the C functions. What is in them runs in others' runtimes: tests/interop/compilers.py.

use crate::ffi_common::{Api, c, scratch};
use fewstep::ffi::model::*;
use fewstep::ffi::onnx::*;
use fewstep::ffi::quantize::*;
use fewstep::ffi::sampler_options::*;
use std::ptr::{null, null_mut};

const INVALID: i32 = 1;
const SHAPE: i32 = 2;
const UNSUPPORTED: i32 = 3;

fn options(api: &Api) -> fewstep_onnx_options {
    // SAFETY: plain data; a valid pointer.
    unsafe {
        let mut options = std::mem::zeroed();
        api.ok((api.fewstep_onnx_options_init)(&mut options, size_of_val(&options)));
        options
    }
}

fn bytes(api: &Api, model: *mut fewstep_model, options: &fewstep_onnx_options) -> Vec<u8> {
    let mut length = 0;
    // SAFETY: valid pointers; as many bytes as it says.
    unsafe {
        api.ok((api.fewstep_model_export_onnx_to_buffer)(model, options, null_mut(), 0, &mut length));
        let mut bytes = vec![0u8; length];
        api.ok((api.fewstep_model_export_onnx_to_buffer)(model, options, bytes.as_mut_ptr().cast(), length, &mut length));
        assert_eq!(bytes.len(), length);
        bytes
    }
}

#[test]
fn files_and_buffers_have_the_same_bytes_every_time() {
    let api = Api::load();
    let runtime = api.runtime(1);
    let [teacher, student] = api.teacher_and_student(runtime);
    let folder = scratch("onnx");
    let path = folder.join("model.onnx");
    let sampler = api.sampler_options(2, 1);
    for program in [FEWSTEP_ONNX_EVALUATION, FEWSTEP_ONNX_STEP, FEWSTEP_ONNX_SAMPLER] {
        for (model, sampler) in [(student, null()), (teacher, &raw const sampler)] {
            let options = fewstep_onnx_options { program, sampler, ..options(&api) };
            let whole = bytes(&api, model, &options);
            // SAFETY: valid pointers.
            api.ok(unsafe { (api.fewstep_model_export_onnx)(model, &options, c(path.to_str().expect("UTF-8")).as_ptr()) });
            assert!(std::fs::read(&path).expect("the file") == whole, "program {program}");
            let half = bytes(&api, model, &fewstep_onnx_options { half_weights: 1, ..options });
            assert!(half.len() < whole.len(), "program {program}: {} bytes, {} in f32", half.len(), whole.len());
        }
    }
    // Parameters beside the file, under a name that follows from them; the file says where.
    let options = fewstep_onnx_options { external_data: 1, ..options(&api) };
    // SAFETY: valid pointers.
    api.ok(unsafe { (api.fewstep_model_export_onnx)(student, &options, c(path.to_str().expect("UTF-8")).as_ptr()) });
    let beside: Vec<_> = std::fs::read_dir(&folder).expect("the folder").map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    let data = beside.iter().find(|name| name.starts_with("model-") && name.ends_with(".onnx.data")).expect("the parameters");
    let file = std::fs::read(&path).expect("the file");
    assert!(file.windows(data.len()).any(|part| part == data.as_bytes()) && std::fs::metadata(folder.join(data)).expect("a file").len() > 4096);
    std::fs::remove_dir_all(folder).expect("scratch folder");
    // SAFETY: ours.
    [teacher, student].into_iter().for_each(|model| api.ok(unsafe { (api.fewstep_model_destroy)(model) }));
    // SAFETY: ours.
    api.ok(unsafe { (api.fewstep_runtime_destroy)(runtime) });
}

#[test]
fn what_cannot_be_written_is_named() {
    let api = Api::load();
    let runtime = api.runtime(1);
    let [teacher, student] = api.teacher_and_student(runtime);
    // SAFETY: plain data.
    let mut quantize: fewstep_quantize_options = unsafe { std::mem::zeroed() };
    let mut whole = null_mut();
    // SAFETY: plain data; valid pointers.
    unsafe {
        api.ok((api.fewstep_quantize_options_init)(&mut quantize, size_of_val(&quantize)));
        (quantize.levels, quantize.samples, quantize.batch) = (256, 4, 4);
        api.ok((api.fewstep_quantize)(runtime, student, &quantize, None, null_mut(), &mut whole));
    }
    let stochastic = fewstep_sampler_options { eta: 1.0, ..api.sampler_options(2, 1) };
    let dynamic = fewstep_sampler_options { clip: FEWSTEP_CLIP_DYNAMIC, ..api.sampler_options(2, 1) };
    let defaults = options(&api);
    let path = std::env::temp_dir().join(format!("fewstep-onnx-{}.onnx", std::process::id()));
    let row = |model, options: fewstep_onnx_options, status, needle: &str| {
        // SAFETY: valid pointers.
        let found = unsafe { (api.fewstep_model_export_onnx)(model, &options, c(path.to_str().expect("UTF-8")).as_ptr()) };
        assert_eq!((found, api.last_error().contains(needle)), (status, true), "{needle}: {found}: {}", api.last_error());
        assert!(!path.exists(), "{needle}: a file");
    };
    row(teacher, defaults, INVALID, "steps is 0");
    for opset in [0, 20, 25, u32::MAX] {
        row(student, fewstep_onnx_options { opset, ..defaults }, INVALID, &format!("opset is {opset}; files are written for 21 to 24"));
    }
    row(student, fewstep_onnx_options { program: 0, ..defaults }, INVALID, "program is 0");
    row(student, fewstep_onnx_options { profile: 3, ..defaults }, INVALID, "profile is 3");
    row(student, fewstep_onnx_options { half_weights: 2, ..defaults }, INVALID, "half_weights is 2");
    row(student, fewstep_onnx_options { external_data: -1, ..defaults }, INVALID, "external_data is -1");
    row(student, fewstep_onnx_options { height: 7, width: 8, ..defaults }, SHAPE, "7");
    row(student, fewstep_onnx_options { height: 8, ..defaults }, INVALID, "width");
    row(student, fewstep_onnx_options { sampler: &stochastic, ..defaults }, UNSUPPORTED, "adds noise in its steps");
    row(student, fewstep_onnx_options { sampler: &dynamic, ..defaults }, UNSUPPORTED, "the op dynamic_threshold has no form in ONNX");
    row(whole, defaults, UNSUPPORTED, "quantise with 130 levels, or export with the profile \"unsigned\"");
    let mut length = 7;
    // SAFETY: valid pointers.
    unsafe {
        let missing = (api.fewstep_model_export_onnx)(student, &defaults, c("/no/such/folder/model.onnx").as_ptr());
        assert_eq!((missing, length), (4, 7), "{}", api.last_error());
        let external = fewstep_onnx_options { external_data: 1, ..defaults };
        assert_eq!((api.fewstep_model_export_onnx_to_buffer)(student, &external, null_mut(), 0, &mut length), UNSUPPORTED);
        assert!(api.last_error().contains("write it to a path"), "{}", api.last_error());
        let mut small = [0u8; 16];
        assert_eq!((api.fewstep_model_export_onnx_to_buffer)(student, &defaults, small.as_mut_ptr().cast(), 16, &mut length), SHAPE);
        assert!(api.last_error().contains("capacity is 16") && small == [0; 16], "{}", api.last_error());
        // The whole numbers of 256 levels, as bytes with any zero point.
        assert!(!bytes(&api, whole, &fewstep_onnx_options { profile: FEWSTEP_ONNX_UNSIGNED, ..defaults }).is_empty());
        [teacher, student, whole].into_iter().for_each(|model| api.ok((api.fewstep_model_destroy)(model)));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}
