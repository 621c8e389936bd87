//! The library as a plugin: load, use, unload; threads, callbacks, cancel, struct sizes, stepping.

use crate::alone::alone;
use crate::ffi_common;
use crate::ffi_common::host::Host;
use crate::ffi_common::{Api, TINY, c, networks, term};
use fewstep::ffi::callback::*;
use fewstep::ffi::conditioning::*;
use fewstep::ffi::device::FEWSTEP_DEVICE_CPU;
use fewstep::ffi::grid::fewstep_step_pair;
use fewstep::ffi::model::*;
use fewstep::ffi::runtime::fewstep_runtime_options;
use fewstep::ffi::sampler_options::*;
use fewstep::ffi::trainer::*;
use fewstep::ffi::trainer_options::*;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

fn worker_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("tasks");
    tasks.filter(|t| t.as_ref().is_ok_and(|t| std::fs::read_to_string(t.path().join("comm")).is_ok_and(|name| name.starts_with("fewstep")))).count()
}

/// The number of worker threads once it is this one, or after ten seconds.
fn worker_threads_become(wanted: usize) -> usize {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while worker_threads() != wanted && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    worker_threads()
}

/// Every term's loss, of however many: step reports have the first four.
#[test]
fn losses_of_all_terms() {
    let api = Api::load();
    let runtime = api.runtime(2);
    let model = api.model(runtime, 1);
    let data = api.dataset(runtime);
    let norms = [FEWSTEP_NORM_L2, FEWSTEP_NORM_L1, FEWSTEP_NORM_L2, FEWSTEP_NORM_L1, FEWSTEP_NORM_L1, FEWSTEP_NORM_L2];
    let terms = norms.map(|norm| fewstep_term { norm, weight: 0.5, ..term(FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_WEIGHT_SNR) });
    let mut options = fewstep_trainer_options { batch: 4, ..api.trainer_options(terms.as_ptr()) };
    options.term_count = terms.len();
    let (mut trainer, mut count, mut losses) = (null_mut(), 0, [7f32; 7]);
    // SAFETY: valid pointers throughout.
    unsafe {
        api.ok((api.fewstep_trainer_create)(runtime, model, null(), data, &options, &mut trainer));
        api.ok((api.fewstep_trainer_losses)(trainer, null_mut(), 0, &mut count));
        assert_eq!(count, 6);
        let ask = |to: &mut [f32], count: &mut usize| (api.fewstep_trainer_losses)(trainer, to.as_mut_ptr(), to.len(), count);
        api.fails("too early", ask(&mut losses, &mut count), 14, "no losses yet");
        let mut report: fewstep_step_report = std::mem::zeroed();
        report.struct_size = size_of::<fewstep_step_report>() as u32;
        for call in [|api: &Api, t, r| (api.fewstep_trainer_step)(t, r), |api: &Api, t, r| (api.fewstep_trainer_evaluate)(t, 9, r)] {
            api.ok(call(&api, trainer, &mut report));
            api.ok(ask(&mut losses, &mut count));
            assert!(count == 6 && losses[..4] == report.terms && losses[6] == 7.0, "{losses:?}");
            // One point: the same rows for all terms.
            let by_norm = |i: usize| if norms[i] == FEWSTEP_NORM_L2 { losses[0] } else { losses[1] };
            assert!((0..6).all(|i| losses[i] == by_norm(i)) && losses[0] != losses[1], "{losses:?}");
            let sum: f32 = losses[..6].iter().map(|l| 0.5 * l).sum();
            assert!((sum - report.loss).abs() <= 1e-6 * report.loss, "{sum} {report:?}"); // another order of the sum
        }
        api.fails("too few", ask(&mut losses[..5], &mut count), 2, "6 terms, capacity is 5");
        api.fails("no place", (api.fewstep_trainer_losses)(trainer, null_mut(), 6, &mut count), 1, "losses");
        api.ok((api.fewstep_trainer_destroy)(trainer));
        api.ok((api.fewstep_dataset_destroy)(data));
        api.ok((api.fewstep_model_destroy)(model));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

#[test]
fn models_take_and_give_what_they_say() {
    let host = Host::new(Api::load(), |api| api.runtime(2));
    networks::planes_beside_x_t(&host);
    networks::the_mean_of_a_learned_variance(&host);
    networks::guidance(&host);
    networks::weights_stay_as_they_are_stored(&host);
}

#[test]
fn loads_trains_and_unloads_twenty_times() {
    // It counts the process's threads.
    alone(concat!(module_path!(), "::loads_trains_and_unloads_twenty_times"), || {
        for _ in 0..20 {
            let api = Api::load();
            let runtime = api.runtime(3);
            // A thread gives itself its name once it runs.
            assert_eq!(worker_threads_become(2), 2);
            let model = api.model(runtime, 1);
            let data = api.dataset(runtime);
            let term = term(FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_WEIGHT_SNR);
            let mut options = api.trainer_options(&term);
            options.batch = 4;
            let mut trainer = null_mut();
            // SAFETY: valid pointers; each handle is destroyed once, the parents first: children keep them alive.
            unsafe {
                api.ok((api.fewstep_trainer_create)(runtime, model, null(), data, &options, &mut trainer));
                api.ok((api.fewstep_runtime_destroy)(runtime));
                api.ok((api.fewstep_dataset_destroy)(data));
                api.ok((api.fewstep_trainer_step)(trainer, null_mut()));
                api.ok((api.fewstep_model_destroy)(model));
                api.ok((api.fewstep_trainer_destroy)(trainer));
            }
            // The system lists a thread for a moment after it was joined.
            assert_eq!(worker_threads_become(0), 0, "the last child ends the workers");
            api.library.close().expect("dlclose");
        }
    });
}

#[test]
fn a_sample_depends_on_seed_and_index_alone() {
    let api = Api::load();
    let runtime = api.runtime(2);
    let model = api.model(runtime, 3);
    let all = api.sample(runtime, model, &api.sampler_options(3, 8), 11, 0, -1);
    let image = all.len() / 8;
    for (batch, first) in [(1u32, 5u32), (3, 2), (8, 0), (2, 6)] {
        let part = api.sample(runtime, model, &api.sampler_options(3, batch), 11, first, -1);
        assert!(part == all[first as usize * image..][..part.len()], "batch {batch} from {first}");
    }
    // Any split of the run, inside evaluations too.
    for budget in [0, 1, 50, 700] {
        assert!(api.sample(runtime, model, &api.sampler_options(3, 8), 11, 0, budget) == all, "budget {budget} us");
    }
    // The noise that the run starts from can be asked for.
    // SAFETY: valid pointers.
    unsafe {
        let mut sampler = null_mut();
        api.ok((api.fewstep_sampler_create)(runtime, model, &api.sampler_options(3, 3), &mut sampler));
        let mut noise = vec![0f32; 5 * image];
        api.ok((api.fewstep_sampler_noise)(sampler, 11, 2, 5, noise.as_mut_ptr(), noise.len()));
        let mut one = vec![0f32; image];
        api.ok((api.fewstep_sampler_noise)(sampler, 11, 4, 1, one.as_mut_ptr(), image));
        assert!(one == noise[2 * image..3 * image]);
        api.ok((api.fewstep_sampler_destroy)(sampler));
        api.ok((api.fewstep_model_destroy)(model));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

struct Nosy<'a> {
    api: &'a Api,
    trainer: *mut fewstep_trainer,
    statuses: Vec<i32>,
    thread: std::thread::ThreadId,
}

/// Re-enters and destroys the handle that is running: both must answer STATE.
unsafe extern "C" fn nosy(user: *mut c_void, progress: *const fewstep_progress) -> i32 {
    // SAFETY: `user` is the test's Nosy, `progress` is valid for the call.
    unsafe {
        let nosy = &mut *user.cast::<Nosy>();
        assert_eq!(nosy.thread, std::thread::current().id());
        nosy.statuses.push((nosy.api.fewstep_trainer_step)(nosy.trainer, null_mut()));
        nosy.statuses.push((nosy.api.fewstep_trainer_destroy)(nosy.trainer));
        i32::from((*progress).done >= 2) // non-zero cancels
    }
}

#[test]
fn callbacks_cannot_re_enter_and_can_cancel() {
    let api = Api::load();
    let runtime = api.runtime(2);
    let model = api.model(runtime, 1);
    let data = api.dataset(runtime);
    let term = term(FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_WEIGHT_SNR);
    let mut options = api.trainer_options(&term);
    options.batch = 4;
    // SAFETY: valid pointers throughout.
    unsafe {
        let mut trainer = null_mut();
        api.ok((api.fewstep_trainer_create)(runtime, model, null(), data, &options, &mut trainer));
        let mut nosy_state = Nosy { api: &api, trainer, statuses: vec![], thread: std::thread::current().id() };
        let status = (api.fewstep_trainer_train)(trainer, 100, Some(nosy), (&raw mut nosy_state).cast(), null());
        assert_eq!(status, 12, "{}", api.last_error());
        assert!(nosy_state.statuses.len() >= 4 && nosy_state.statuses.iter().all(|s| *s == 14), "{:?}", nosy_state.statuses);
        // Still usable.
        api.ok((api.fewstep_trainer_step)(trainer, null_mut()));
        // A token cancelled from another thread, in the middle of a long run.
        let mut token = null_mut();
        api.ok((api.fewstep_cancel_token_create)(&mut token));
        let (address, cancel) = (token as usize, api.fewstep_cancel_token_cancel);
        let other = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(30));
            cancel(address as *const _)
        });
        assert_eq!((api.fewstep_trainer_train)(trainer, u64::MAX, None, null_mut(), token), 12);
        assert_eq!(other.join().expect("thread"), 0);
        api.ok((api.fewstep_cancel_token_destroy)(token));
        for status in [
            (api.fewstep_trainer_destroy)(trainer),
            (api.fewstep_model_destroy)(model),
            (api.fewstep_dataset_destroy)(data),
            (api.fewstep_runtime_destroy)(runtime),
        ] {
            api.ok(status);
        }
    }
}

/// Every long call looks at its token, and at its runtime's, before it does anything; cleared, the token lets it through.
#[test]
fn long_calls_see_their_tokens() {
    const CANCELLED: i32 = 12;
    let api = Api::load();
    let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
    // SAFETY: valid pointers throughout.
    unsafe {
        let (mut token, mut runtime) = (null_mut(), null_mut());
        api.ok((api.fewstep_cancel_token_create)(&mut token));
        let with_token = fewstep_runtime_options { threads: 2, cancel: token, ..api.runtime_options(FEWSTEP_DEVICE_CPU) };
        api.ok((api.fewstep_runtime_create)(&with_token, &mut runtime));
        let plain = api.runtime(2);
        let model = api.model(runtime, 1);
        let mut sampler_options = api.sampler_options(2, 1);
        let mut trainer_options = fewstep_trainer_options { steps: 2, substeps: 1, cache_size: 4, cache_batch: 2, batch: 2, ..api.trainer_options(&term) };
        let (mut sampler, mut trainer, mut done, mut other) = (null_mut(), null_mut(), 0, null_mut());
        api.ok((api.fewstep_sampler_create)(runtime, model, &sampler_options, &mut sampler));
        api.begin(sampler, 1, 0, &[0]);
        api.ok((api.fewstep_trainer_create)(runtime, model, model, null(), &trainer_options, &mut trainer));
        let mut report: fewstep_step_report = std::mem::zeroed();
        report.struct_size = size_of::<fewstep_step_report>() as u32;
        let mut student_options: fewstep_student_options = std::mem::zeroed();
        api.ok((api.fewstep_student_options_init)(&mut student_options, size_of_val(&student_options)));
        let (mut pixels, mut target_error) = ([0f32; 64], 0f64);

        api.ok((api.fewstep_cancel_token_cancel)(token));
        let by_runtime = [
            ("model_create", (api.fewstep_model_create)(runtime, c(TINY).as_ptr(), null(), 1, &mut other)),
            ("derive_student", (api.fewstep_model_derive_student)(runtime, model, null(), &mut other)),
            ("sampler_create", (api.fewstep_sampler_create)(runtime, model, &sampler_options, (&raw mut other).cast())),
            ("sampler_step", (api.fewstep_sampler_step)(sampler, -1, &mut done)),
            ("sampler_step of a run", (api.fewstep_sampler_step)(sampler, i64::MAX, &mut done)),
            ("sampler_step of a budget", (api.fewstep_sampler_step)(sampler, 0, &mut done)),
            ("sampler_run", (api.fewstep_sampler_run)(sampler, None, null_mut(), null())),
            ("sample", (api.fewstep_sample)(runtime, model, &sampler_options, null(), pixels.as_mut_ptr(), pixels.len())),
            ("trainer_create", (api.fewstep_trainer_create)(runtime, model, model, null(), &trainer_options, (&raw mut other).cast())),
            ("trainer_prepare", (api.fewstep_trainer_prepare)(trainer, None, null_mut(), null())),
            ("trainer_step", (api.fewstep_trainer_step)(trainer, null_mut())),
            ("trainer_train", (api.fewstep_trainer_train)(trainer, 1, None, null_mut(), null())),
            ("trainer_evaluate", (api.fewstep_trainer_evaluate)(trainer, 1, &mut report)),
            ("trainer_target_error", (api.fewstep_trainer_target_error)(trainer, 2, 1, 0, null(), &mut target_error)),
        ];
        (sampler_options.cancel, trainer_options.cancel, student_options.cancel) = (token, token, token);
        let by_options = [
            ("derive_student", (api.fewstep_model_derive_student)(plain, model, &student_options, &mut other)),
            ("sampler_create", (api.fewstep_sampler_create)(plain, model, &sampler_options, (&raw mut other).cast())),
            ("sample", (api.fewstep_sample)(plain, model, &sampler_options, null(), pixels.as_mut_ptr(), pixels.len())),
            ("trainer_create", (api.fewstep_trainer_create)(plain, model, model, null(), &trainer_options, (&raw mut other).cast())),
        ];
        for (name, status) in by_runtime.into_iter().chain(by_options) {
            assert_eq!(status, CANCELLED, "{name}");
        }
        assert!(other.is_null(), "nothing is written");

        // Nothing is spoilt: all of it goes on. A trainer that is prepared looks at the token too.
        api.ok((api.fewstep_cancel_token_reset)(token));
        api.ok((api.fewstep_sampler_step)(sampler, i64::MAX, &mut done));
        assert_eq!(done, 1);
        api.ok((api.fewstep_trainer_step)(trainer, &mut report));
        api.ok((api.fewstep_cancel_token_cancel)(token));
        assert_eq!((api.fewstep_trainer_step)(trainer, null_mut()), CANCELLED);
        assert_eq!((api.fewstep_trainer_evaluate)(trainer, 1, &mut report), CANCELLED);
        // The runtime looks at a token that is gone as it was; a call's own must be a token.
        api.ok((api.fewstep_cancel_token_destroy)(token));
        assert_eq!((api.fewstep_trainer_step)(trainer, null_mut()), CANCELLED);
        sampler_options.cancel = model.cast();
        api.fails("a model as a token", (api.fewstep_sampler_create)(plain, model, &sampler_options, (&raw mut other).cast()), 1, "cancel");
        for status in [
            (api.fewstep_sampler_destroy)(sampler),
            (api.fewstep_trainer_destroy)(trainer),
            (api.fewstep_model_destroy)(model),
            (api.fewstep_runtime_destroy)(runtime),
            (api.fewstep_runtime_destroy)(plain),
        ] {
            api.ok(status);
        }
    }
}

#[test]
fn struct_sizes_follow_the_rules() {
    let api = Api::load();
    let runtime = api.runtime(1);
    let model = api.model(runtime, 1);
    #[repr(C)]
    struct Larger {
        options: fewstep::ffi::sampler_options::fewstep_sampler_options,
        tail: [u8; 16],
    }
    // SAFETY: valid pointers throughout; Larger starts with the options.
    unsafe {
        let mut sampler = null_mut();
        let mut larger = Larger { options: api.sampler_options(2, 1), tail: [0; 16] };
        larger.options.struct_size = size_of::<Larger>() as u32;
        api.ok((api.fewstep_sampler_create)(runtime, model, (&raw const larger).cast(), &mut sampler)); // a zero tail of a later version
        api.ok((api.fewstep_sampler_destroy)(sampler));
        larger.tail[15] = 1;
        sampler = null_mut();
        let status = (api.fewstep_sampler_create)(runtime, model, (&raw const larger).cast(), &mut sampler);
        api.fails("tail", status, 1, "means nothing to this version"); // something that this version does not know was asked for
        for size in [0, 4] {
            larger.options.struct_size = size;
            let status = (api.fewstep_sampler_create)(runtime, model, (&raw const larger).cast(), &mut sampler);
            api.fails("struct_size", status, 1, "struct_size");
        }
        assert!(sampler.is_null(), "outputs are written only on success");
        api.ok((api.fewstep_model_destroy)(model));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

/// A caller with an older header gets no byte more than it has room for, one with a newer header zeros in what this version does not know.
#[test]
fn defaults_fill_what_the_caller_has() {
    let api = Api::load();
    const KNOWN: usize = size_of::<fewstep_runtime_options>();
    const FIRST: usize = std::mem::offset_of!(fewstep_runtime_options, device_uuid);
    for size in [FIRST, KNOWN, KNOWN + 16] {
        let mut room = [0xAAu8; KNOWN + 32];
        // SAFETY: `room` has `size` bytes.
        api.ok(unsafe { (api.fewstep_runtime_options_init)(room.as_mut_ptr().cast(), size) });
        assert_eq!(room[..4], (size as u32).to_ne_bytes(), "struct_size");
        assert!(room[KNOWN.min(size)..size].iter().all(|b| *b == 0), "{size}: a later version's fields");
        assert!(room[size..].iter().all(|b| *b == 0xAA), "{size}: written past the caller's struct");
        let mut runtime = null_mut();
        // SAFETY: the struct has the size that it says.
        unsafe {
            api.ok((api.fewstep_runtime_create)(room.as_ptr().cast(), &mut runtime));
            api.ok((api.fewstep_runtime_destroy)(runtime));
        }
    }
    let mut options = api.runtime_options(0);
    for size in [0, FIRST - 1, 4097, usize::MAX] {
        // SAFETY: refused before anything is written.
        let status = unsafe { (api.fewstep_runtime_options_init)(&mut options, size) };
        api.fails("a size", status, 1, "struct_size");
    }
}

#[test]
fn one_model_serves_samplers_on_many_threads() {
    let api = Api::load();
    let runtime = api.runtime(2);
    let model = api.model(runtime, 9);
    api.sample_side_by_side(runtime, model);
    // SAFETY: each handle is destroyed once.
    unsafe {
        api.ok((api.fewstep_model_destroy)(model));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

#[test]
fn the_one_call_sample_equals_the_stepwise_one_and_models_round_trip() {
    let api = Api::load();
    let runtime = api.runtime(2);
    let model = api.model(runtime, 4);
    let dir = ffi_common::scratch("roundtrip");
    let path = dir.join("model");
    // SAFETY: valid pointers throughout.
    unsafe {
        api.ok((api.fewstep_model_save)(model, c(&path.to_string_lossy()).as_ptr()));
        let again = api.open(runtime, &path.to_string_lossy());
        let options = api.sampler_options(2, 1);
        let expected = api.sample(runtime, model, &options, 1, 0, -1);
        assert!(api.sample(runtime, again, &options, 1, 0, -1) == expected);
        // From memory.
        let weights = std::fs::read(path.join("unet/diffusion_pytorch_model.safetensors")).expect("weights");
        let mut memory = null_mut();
        api.ok((api.fewstep_model_open_memory)(runtime, c(TINY).as_ptr(), null(), weights.as_ptr().cast(), weights.len(), &mut memory));
        assert!(api.sample(runtime, memory, &options, 1, 0, -1) == expected);
        let labels = [0i32];
        let classes = fewstep_conditioning { kind: FEWSTEP_CONDITIONING_CLASS_LABELS, reserved: 0, data: labels.as_ptr().cast(), count: 1 };
        let mut begin: fewstep_begin_options = std::mem::zeroed();
        api.ok((api.fewstep_begin_options_init)(&mut begin, size_of_val(&begin)));
        (begin.seed, begin.conditionings, begin.conditioning_count, begin.conditioning_stride) = (1, &classes, 1, size_of::<fewstep_conditioning>());
        let mut out = vec![0f32; expected.len()];
        api.ok((api.fewstep_sample)(runtime, model, &options, &begin, out.as_mut_ptr(), out.len()));
        assert!(out == expected);
        for m in [memory, again, model] {
            api.ok((api.fewstep_model_destroy)(m));
        }
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

#[test]
fn a_grid_of_its_own_needs_the_one_file_form() {
    let api = Api::load();
    let runtime = api.runtime(1);
    let teacher = api.model(runtime, 0);
    let dir = ffi_common::scratch("own_grid");
    let (folder, file) = (c(&dir.join("folder").to_string_lossy()), c(&dir.join("student.safetensors").to_string_lossy()));
    let pairs = [fewstep_step_pair { t: 999, t_next: 700 }, fewstep_step_pair { t: 700, t_next: 100 }, fewstep_step_pair { t: 100, t_next: -1 }];
    // SAFETY: valid pointers throughout.
    unsafe {
        let mut options: fewstep_student_options = std::mem::zeroed();
        api.ok((api.fewstep_student_options_init)(&mut options, size_of_val(&options)));
        (options.pairs, options.pair_count) = (pairs.as_ptr(), pairs.len());
        let mut student = null_mut();
        api.ok((api.fewstep_model_derive_student)(runtime, teacher, &options, &mut student));
        let found = (api.fewstep_model_save)(student, folder.as_ptr());
        api.fails("folder", found, 3, "fewstep_model_save_file");
        assert!(!dir.join("folder").exists());
        api.ok((api.fewstep_model_save_file)(student, file.as_ptr()));
        let bytes = std::fs::read(dir.join("student.safetensors")).expect("saved");
        let (mut buffered, opened) = (null_mut(), api.open(runtime, &dir.join("student.safetensors").to_string_lossy()));
        api.ok((api.fewstep_model_open_buffer)(runtime, bytes.as_ptr().cast(), bytes.len(), &mut buffered));
        drop(bytes); // copied
        let mut options = api.sampler_options(0, 1);
        options.kind = FEWSTEP_SAMPLER_FROM_MODEL;
        let expected = api.sample(runtime, student, &options, 1, 0, -1);
        for again in [opened, buffered] {
            let (mut found, mut count) = ([fewstep_step_pair { t: 0, t_next: 0 }; 3], 0);
            api.ok((api.fewstep_model_pairs)(again, found.as_mut_ptr(), found.len(), &mut count));
            assert!(found == pairs && count == pairs.len());
            assert!(api.sample(runtime, again, &options, 1, 0, -1) == expected);
            api.ok((api.fewstep_model_destroy)(again));
        }
        for m in [student, teacher] {
            api.ok((api.fewstep_model_destroy)(m));
        }
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}
