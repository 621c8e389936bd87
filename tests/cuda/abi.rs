//! The C functions on a GPU.

use crate::ffi_common::host::Host;
use crate::ffi_common::*;
use crate::launches::Log;
use fewstep::ffi::device::*;
use fewstep::ffi::precision::*;
use fewstep::ffi::runtime::*;
use fewstep::ffi::sampler_options::*;
use fewstep::ffi::trainer::fewstep_step_report;
use fewstep::ffi::trainer_options::*;
use std::ptr::{null, null_mut};

const INVALID: i32 = 1;
const UNSUPPORTED: i32 = 3;
const OUT_OF_MEMORY: i32 = 8;
const NO_DEVICE: i32 = 9;

pub fn options(api: &Api) -> fewstep_runtime_options {
    api.runtime_options(FEWSTEP_DEVICE_CUDA)
}

/// What the emulated driver counts.
const CALLS: [&std::ffi::CStr; 7] =
    [c"copies_host_to_device", c"graph_launches", c"copies_device_to_host", c"launches", c"memsets", c"allocations", c"host_allocations"];

/// The counts so far; a real driver has none.
fn calls() -> Option<[u64; 7]> {
    let log = Log::if_emulated()?;
    Some(CALLS.map(|name| log.count(name)))
}

/// Sum of squared differences over sum of squares.
fn nmse(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let sum = |f: &dyn Fn(f64, f64) -> f64| found.iter().zip(expected).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum::<f64>();
    sum(&|a, b| (a - b).powi(2)) / sum(&|_, b| b * b)
}

#[test]
fn models_take_and_give_what_they_say() {
    let host = Host::new(Api::load(), Api::gpu);
    networks::planes_beside_x_t(&host);
    networks::the_mean_of_a_learned_variance(&host);
    networks::guidance(&host);
    networks::weights_stay_as_they_are_stored(&host);
}

#[test]
fn images_are_those_of_the_cpu() {
    let api = Api::load();
    let (cpu, cuda) = (api.runtime(1), api.gpu());
    let model = api.model(cpu, 3);
    let mut options = api.sampler_options(4, 3);
    let expected = api.sample(cpu, model, &options, 5, 0, i64::MAX);
    // f32 sums in another order; f16 and bf16 round every activation to 11 and 8 bits, 4 evaluations deep.
    for (precision, tolerance) in [(FEWSTEP_PRECISION_F32, 1e-10), (FEWSTEP_PRECISION_F16, 1e-5), (FEWSTEP_PRECISION_BF16, 1e-3)] {
        options.precision = precision;
        let whole = api.sample(cuda, model, &options, 5, 0, i64::MAX);
        let error = nmse(&whole, &expected);
        assert!(error <= tolerance, "precision {precision}: NMSE {error:.2e}, allowed {tolerance:e}");
        for budget in [0, -1] {
            assert_eq!(api.sample(cuda, model, &options, 5, 0, budget), whole, "precision {precision}, budget {budget}");
        }
    }
}

#[test]
#[ignore = "asks the emulated driver, which counts: make test-cuda"]
fn a_whole_run_is_one_copy_one_graph_and_one_read() {
    Log::open();
    let api = Api::load();
    let cuda = api.gpu();
    let model = api.model(cuda, 3);
    let mut sampler = null_mut();
    // SAFETY: valid pointers throughout.
    unsafe {
        api.ok((api.fewstep_sampler_create)(cuda, model, &api.sampler_options(4, 2), &mut sampler));
        for stepped in [false, true] {
            let before = calls().expect("counters");
            api.begin(sampler, 1, 0, &[3, 4]);
            let mut done = 0;
            api.ok(match stepped {
                false => (api.fewstep_sampler_run)(sampler, None, null_mut(), null()),
                true => (api.fewstep_sampler_step)(sampler, i64::MAX, &mut done),
            });
            assert_eq!(done != 0, stepped);
            let mut out = [0f32; 2 * 64];
            api.ok((api.fewstep_sampler_read)(sampler, out.as_mut_ptr(), out.len()));
            let made: Vec<u64> = calls().expect("counters").iter().zip(before).map(|(a, b)| a - b).collect();
            assert_eq!(made, [1, 1, 1, 0, 0, 0, 0], "stepped {stepped}: {CALLS:?}");
        }
        api.ok((api.fewstep_sampler_destroy)(sampler));
    }
}

#[test]
fn training_steps_are_those_of_the_cpu() {
    let api = Api::load();
    let steps = |runtime: *mut fewstep_runtime, precision: i32, expected_calls: [u64; 7]| -> Vec<f32> {
        let student = api.model(runtime, 3);
        let term = term(FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_WEIGHT_SNR);
        let mut options = api.trainer_options(&term);
        options.batch = 4;
        options.precision = precision;
        let mut trainer = null_mut();
        let data = api.dataset(runtime);
        // SAFETY: valid pointers throughout.
        unsafe {
            api.ok((api.fewstep_trainer_create)(runtime, student, null(), data, &options, &mut trainer));
            let mut losses = vec![];
            for step in 0..5 {
                let before = calls();
                let mut report: fewstep_step_report = std::mem::zeroed();
                report.struct_size = size_of::<fewstep_step_report>() as u32;
                api.ok((api.fewstep_trainer_step)(trainer, &mut report));
                losses.extend([report.loss, report.grad_norm]);
                if let (Some(before), Some(after)) = (before, calls()) {
                    let made: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
                    assert_eq!(made, expected_calls, "step {step}: {CALLS:?}");
                }
            }
            api.ok((api.fewstep_trainer_destroy)(trainer));
            losses
        }
    };
    let expected = steps(api.runtime(1), FEWSTEP_PRECISION_F32, [0; 7]);
    // Five steps of AdamW, whose first ones magnify the rounding of small gradients; then roundings of 2^-11 and 2^-8 an operation.
    for (precision, tolerance) in [(FEWSTEP_PRECISION_F32, 1e-3), (FEWSTEP_PRECISION_F16, 1e-2), (FEWSTEP_PRECISION_BF16, 5e-2)] {
        let found = steps(api.gpu(), precision, [1, 1, 1, 0, 0, 0, 0]);
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= tolerance * b.abs(), "precision {precision}: {found:?}, expected {expected:?}");
        }
    }
}

#[test]
fn more_than_the_sampler_was_planned_for() {
    let api = Api::load();
    limits::check(&api, api.gpu());
}

#[test]
fn devices_are_described_before_they_are_opened() {
    let api = Api::load();
    let count = api.device_count(FEWSTEP_DEVICE_CUDA);
    assert!(count >= 1);
    for index in 0..count as i32 {
        let info = api.device_info(FEWSTEP_DEVICE_CUDA, index);
        let capability = 10 * info.capability_major + info.capability_minor;
        assert_eq!((info.device, info.index, info.usable), (FEWSTEP_DEVICE_CUDA, index, i32::from(capability >= 75)));
        assert!(info.memory_bytes > 1 << 28 && info.processors > 0 && info.uuid != [0; 16], "{info:?}");
        if info.usable == 0 {
            continue;
        }
        let bf16 = if capability >= 80 { 1 << FEWSTEP_PRECISION_BF16 } else { 0 };
        assert_eq!(info.precisions, 1 << FEWSTEP_PRECISION_F32 | 1 << FEWSTEP_PRECISION_F16 | bf16);
        let by_uuid = fewstep_runtime_options { device_uuid: info.uuid.as_ptr(), device_index: 77, ..options(&api) };
        for options in [fewstep_runtime_options { device_index: index, ..options(&api) }, by_uuid] {
            let mut runtime = null_mut();
            // SAFETY: valid pointers.
            api.ok(unsafe { (api.fewstep_runtime_create)(&options, &mut runtime) });
            let made = api.runtime_info(runtime);
            assert_eq!((made.device, made.device_index, made.threads, made.foreign_context), (FEWSTEP_DEVICE_CUDA, index, 0, 0));
            assert_eq!((made.precisions, made.device_uuid, made.device_name), (info.precisions, info.uuid, info.name));
            check_precisions(&api, runtime, info.precisions);
            // SAFETY: created above.
            api.ok(unsafe { (api.fewstep_runtime_destroy)(runtime) });
        }
    }
    // SAFETY: plain data; a valid pointer.
    unsafe {
        let mut info: fewstep_device_info = std::mem::zeroed();
        info.struct_size = size_of::<fewstep_device_info>() as u32;
        let found = (api.fewstep_device_get_info)(FEWSTEP_DEVICE_CUDA, count as i32, &mut info);
        api.fails("one too far", found, NO_DEVICE, &format!("CUDA device {count} does not exist; there are {count}"));
        assert_eq!(info.processors, 0);
    }
}

/// A sampler can be had in a precision where its bit says so, and nowhere else.
fn check_precisions(api: &Api, runtime: *mut fewstep_runtime, bits: u32) {
    let model = api.model(runtime, 3);
    for precision in [FEWSTEP_PRECISION_F32, FEWSTEP_PRECISION_F16, FEWSTEP_PRECISION_BF16] {
        let (options, mut sampler) = (fewstep_sampler_options { precision, ..api.sampler_options(1, 1) }, null_mut());
        // SAFETY: valid pointers; destroyed once.
        unsafe {
            let status = (api.fewstep_sampler_create)(runtime, model, &options, &mut sampler);
            assert_eq!(status, if bits & 1 << precision != 0 { 0 } else { UNSUPPORTED }, "precision {precision}: {}", api.last_error());
            api.ok((api.fewstep_sampler_destroy)(sampler));
        }
    }
    // SAFETY: made above.
    api.ok(unsafe { (api.fewstep_model_destroy)(model) });
}

/// What the emulated driver says it has is read once a process, so other machines are other processes.
const CHILD: &str = "FEWSTEP_TEST_EXPECTED_DEVICES";

#[test]
#[ignore = "asks the emulated driver, which counts: make test-cuda"]
fn other_machines_are_described_too() {
    Log::open();
    for (devices, architecture) in [(0, 80), (3, 80), (1, 75), (1, 120)] {
        let child = std::process::Command::new(std::env::current_exe().expect("self"))
            .args(["--exact", "abi::child_on_another_machine", "--nocapture", "--include-ignored"])
            .envs([("FEWSTEP_EMU_DEVICES", format!("{devices}")), ("FEWSTEP_EMU_ARCHITECTURE", format!("{architecture}")), (CHILD, format!("{devices}"))])
            .output()
            .expect("child");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(child.status.success(), "{devices} of sm_{architecture}:\n{}{}", text(&child.stdout), text(&child.stderr));
    }
}

/// The child of the test above; without its variable there is nothing to do.
#[test]
#[ignore = "a child of other_machines_are_described_too"]
fn child_on_another_machine() {
    let Ok(expected) = std::env::var(CHILD) else { return };
    let api = Api::load();
    assert_eq!(api.device_count(FEWSTEP_DEVICE_CUDA).to_string(), expected);
    if expected != "0" {
        return devices_are_described_before_they_are_opened();
    }
    let mut runtime = null_mut();
    // SAFETY: plain data; valid pointers.
    unsafe {
        let mut info: fewstep_device_info = std::mem::zeroed();
        info.struct_size = size_of::<fewstep_device_info>() as u32;
        api.fails("info", (api.fewstep_device_get_info)(FEWSTEP_DEVICE_CUDA, 0, &mut info), NO_DEVICE, "CUDA error 100");
        api.fails("runtime", (api.fewstep_runtime_create)(&options(&api), &mut runtime), NO_DEVICE, "CUDA error 100");
    }
}

#[test]
fn bad_devices_get_a_sentence() {
    let api = Api::load();
    let mut runtime = null_mut();
    let mut create = |row: &str, o: &fewstep_runtime_options, status: i32, needle: &str| {
        // SAFETY: valid pointers.
        api.fails(row, unsafe { (api.fewstep_runtime_create)(o, &mut runtime) }, status, needle);
    };
    let plain = options(&api);
    create("index", &fewstep_runtime_options { device_index: 77, ..plain }, NO_DEVICE, "device 77");
    create("negative", &fewstep_runtime_options { device_index: -1, ..plain }, INVALID, "device_index");
    create("uuid", &fewstep_runtime_options { device_uuid: [7u8; 16].as_ptr(), ..plain }, NO_DEVICE, "0707");
    create("stream alone", &fewstep_runtime_options { cuda_stream: std::ptr::dangling_mut(), ..plain }, INVALID, "cuda_context");
    create("cpu", &fewstep_runtime_options { device: FEWSTEP_DEVICE_CPU, cuda_stream: std::ptr::dangling_mut(), ..plain }, INVALID, "CPU");
    let cpu = api.runtime(1);
    let model = api.model(cpu, 3);
    let mut sampler = null_mut();
    for (precision, status, needle) in [(FEWSTEP_PRECISION_F16, UNSUPPORTED, "CPU"), (9, INVALID, "precision")] {
        let options = fewstep_sampler_options { precision, ..api.sampler_options(2, 1) };
        // SAFETY: valid pointers.
        api.fails("precision", unsafe { (api.fewstep_sampler_create)(cpu, model, &options, &mut sampler) }, status, needle);
        let term = term(FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_WEIGHT_SNR);
        let options = fewstep_trainer_options { precision, ..api.trainer_options(&term) };
        let (data, mut trainer) = (api.dataset(cpu), null_mut());
        // SAFETY: valid pointers.
        api.fails("precision of training", unsafe { (api.fewstep_trainer_create)(cpu, model, null(), data, &options, &mut trainer) }, status, needle);
    }
}

#[test]
#[ignore = "asks the emulated driver, which counts: make test-cuda"]
fn too_little_memory_is_said_and_the_runtime_goes_on() {
    // Which batch is too large for a real GPU is its own affair; the emulated one has 4 GiB.
    Log::open();
    let api = Api::load();
    let cuda = api.gpu();
    let model = api.model(cuda, 3);
    let mut sampler = null_mut();
    // SAFETY: valid pointers.
    let status = unsafe { (api.fewstep_sampler_create)(cuda, model, &api.sampler_options(3, 1 << 19), &mut sampler) };
    api.fails("batch of 2^19", status, OUT_OF_MEMORY, "bytes");
    assert!(sampler.is_null());
    assert_eq!(api.sample(cuda, model, &api.sampler_options(2, 1), 5, 0, i64::MAX).len(), 8 * 8);
}

/// The driver does not survive a fork, so nothing in a child asks it: a sentence, and handles that can be given back.
#[cfg(unix)]
#[test]
fn a_forked_child_is_told_so() {
    const STATE: i32 = 14;
    let api = Api::load();
    let runtime = api.gpu();
    let model = api.model(runtime, 3);
    let options = api.sampler_options(2, 2);
    let expected = api.sample(runtime, model, &options, 5, 0, i64::MAX);
    let (mut inherited, mut image) = (null_mut(), [0f32; 2 * 64]);
    // SAFETY: valid pointers.
    unsafe {
        api.ok((api.fewstep_sampler_create)(runtime, model, &options, &mut inherited));
        api.begin(inherited, 5, 0, &[0, 1]);
        api.ok((api.fewstep_sampler_run)(inherited, None, null_mut(), null()));
    }
    let mut in_child = || {
        let (mut count, mut sampler, mut another) = (0, null_mut(), null_mut());
        // SAFETY: valid pointers, and handles of the library that are destroyed once in this process.
        unsafe {
            api.fails("count", (api.fewstep_device_count)(FEWSTEP_DEVICE_CUDA, &mut count), STATE, "fork");
            api.fails("runtime", (api.fewstep_runtime_create)(&self::options(&api), &mut another), STATE, "fork");
            api.fails("sampler", (api.fewstep_sampler_create)(runtime, model, &options, &mut sampler), STATE, "fork");
            api.fails("read", (api.fewstep_sampler_read)(inherited, image.as_mut_ptr(), image.len()), STATE, "fork");
            api.ok((api.fewstep_sampler_destroy)(inherited));
            api.ok((api.fewstep_model_destroy)(model));
            api.ok((api.fewstep_runtime_destroy)(runtime));
        }
        api.runtime(2); // the CPU is as good as ever
    };
    // SAFETY: the child calls the library, which is what is tested, and leaves without running anything of the test harness.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut in_child)).is_err();
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(failed)) };
    }
    let mut status = -1;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child failed");
    assert_eq!(api.sample(runtime, model, &options, 5, 0, i64::MAX), expected, "the parent goes on");
}
