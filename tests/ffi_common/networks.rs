//! What models take and give, through the C functions alone: planes beside x_t, a variance beside the mean, guidance, weights as they are stored, one evaluation
//! by itself.

use super::host::*;
use super::{TINY, c, scratch, term};
use fewstep::cancel::Stop;
use fewstep::ffi::conditioning::*;
use fewstep::ffi::model::*;
use fewstep::ffi::sampler_options::*;
use fewstep::ffi::trainer::*;
use fewstep::ffi::trainer_options::*;
use fewstep::io::SchedulerConfig;
use fewstep::nn::{Model, families};
use fewstep::tensor::Tensor;
use std::ptr::{null, null_mut};
use std::sync::Arc;

/// A network that reads more channels than it gives is given planes beside x_t, when it samples and when it trains.
pub fn planes_beside_x_t(host: &Host) {
    let (api, runtime) = (&host.api, host.runtime);
    let model = host.keep(api.create(runtime, &config(3, 1, r#","num_class_embeds":4"#), 3));
    let info = api.model_info(model);
    assert_eq!((info.in_channels, info.out_channels, info.channels, info.conditions, info.classes), (3, 1, 1, 2, 4));
    let [first, second] = [0, 1].map(|i| api.condition(model, i).expect("a condition"));
    assert_eq!((first.kind, first.classes, first.channels), (FEWSTEP_CONDITIONING_CLASS_LABELS, 4, 0));
    assert_eq!((second.kind, second.classes, second.channels), (FEWSTEP_CONDITIONING_PLANES, 0, 2));
    assert_eq!(api.condition(model, 2).expect_err("no third"), INVALID);

    // The network by itself on pixels of three channels, of which the first is x_t's.
    let (x, beside, of) = (numbers(2 * 64, 1), numbers(2 * 2 * 64, 2), [1i32, 3]);
    let pixels: Vec<f32> = (0..2 * 64).flat_map(|at| [x[at], beside[at / 64 * 128 + at % 64], beside[at / 64 * 128 + 64 + at % 64]]).collect();
    let found = api.evaluate(runtime, model, &x, &[7.0, 900.0], &[planes(&beside), labels(&of)]);
    let given = vec![Tensor::from_slice(&[2], &of).expect("labels")];
    close("x_t and planes", &found, &network(&config(3, 1, r#","num_class_embeds":4"#), 3, &pixels, &[7.0, 900.0], given).expect("an evaluation"), 1e-5);
    let swapped: Vec<f32> = (0..2).flat_map(|n| [&beside[n * 128 + 64..][..64], &beside[n * 128..][..64]].concat()).collect();
    assert_ne!(api.evaluate(runtime, model, &x, &[7.0, 900.0], &[planes(&swapped), labels(&of)]), found, "the order of planes matters");

    let (evaluator, _) = api.evaluator(runtime, model, 2);
    let mut out = vec![0f32; 128];
    let mut fails = |row: &str, given: &[fewstep_conditioning], status: i32, needle: &str| {
        let found = api.try_evaluate(evaluator, &x, &[7.0, 900.0], given, &mut out);
        api.fails(row, found, status, needle);
    };
    fails("nothing", &[], INVALID, "class labels");
    fails("labels alone", &[labels(&of)], INVALID, "planes");
    fails("one plane", &[labels(&of), planes(&beside[..128])], SHAPE, "planes: 2 images need 256");
    fails("planes twice", &[labels(&of), planes(&beside), planes(&beside)], INVALID, "does not take");
    fails("a label beyond", &[labels(&[1, 4]), planes(&beside)], INVALID, "label 4");
    fails("half a plane", &[labels(&of), planes(&beside[..100])], SHAPE, "count is 100");
    let empty = fewstep_conditioning { data: null(), ..planes(&beside) };
    fails("no data", &[labels(&of), empty], INVALID, "conditionings[1].data");
    fails("another kind", &[labels(&of), fewstep_conditioning { kind: 9, ..planes(&beside) }], INVALID, "kind is 9");
    fails("vectors", &[fewstep_conditioning { kind: FEWSTEP_CONDITIONING_VECTOR, ..planes(&beside) }, labels(&of)], INVALID, "planes");
    let fails = |row: &str, x: &[f32], t: &[f32], out: &mut [f32], status: i32, needle: &str| {
        let found = api.try_evaluate(evaluator, x, t, &[labels(&of), planes(&beside)], out);
        api.fails(row, found, status, needle);
    };
    let mut out = vec![7f32; 128];
    fails("a short x_t", &x[..127], &[7.0, 900.0], &mut out, SHAPE, "x_t_count is 127");
    fails("one timestep", &x, &[7.0], &mut out, SHAPE, "timesteps");
    fails("a NaN", &x, &[7.0, f32::NAN], &mut out, NUMERIC, "timesteps[1] is NaN");
    fails("a small buffer", &x, &[7.0, 900.0], &mut out[..127], SHAPE, "capacity is 127");
    assert!(out.iter().all(|v| *v == 7.0), "outputs are written only on success");
    // SAFETY: created above.
    api.ok(unsafe { (api.fewstep_evaluator_destroy)(evaluator) });

    let options = api.sampler_options(2, 2);
    let images = api.run(runtime, model, &options, &[labels(&of), planes(&beside)]);
    assert!(images.len() == 128 && images.iter().all(|v| v.is_finite()));
    assert_ne!(images, api.run(runtime, model, &options, &[labels(&of), planes(&swapped)]));

    // A teacher's trajectories take the conditions of the data's rows.
    let (classes, rows) = ([0, 1, 2, 3, 0, 1], numbers(6 * 128, 4));
    let data = host.keep_data(api.images(runtime, 6, &[labels(&classes), planes(&rows)]));
    let train = |student, data, objective| -> Result<f32, i32> {
        let term = term(objective, if objective == FEWSTEP_OBJECTIVE_TEACHER_FORCED { FEWSTEP_WEIGHT_STATE } else { FEWSTEP_WEIGHT_SNR });
        let mut o = api.trainer_options(&term);
        (o.batch, o.steps, o.substeps, o.cache_size, o.cache_batch, o.warmup_steps) = (16, 2, 1, 5, 3, 0);
        o.trajectory_clip = FEWSTEP_CLIP_NONE;
        let mut trainer = null_mut();
        // SAFETY: valid pointers throughout.
        unsafe {
            let status = (api.fewstep_trainer_create)(runtime, student, model, data, &o, &mut trainer);
            if status != 0 {
                return Err(status);
            }
            let mut report: fewstep_step_report = std::mem::zeroed();
            report.struct_size = size_of_val(&report) as u32;
            api.ok((api.fewstep_trainer_step)(trainer, &mut report));
            api.ok((api.fewstep_trainer_destroy)(trainer));
            Ok(report.loss)
        }
    };
    for objective in OBJECTIVES {
        api.fails("no dataset", train(model, null(), objective).expect_err("refused"), INVALID, "dataset");
        assert!(train(model, data, objective).expect("a step").is_finite());
    }
    // The teacher itself does what its own trajectories do, if it is given what they were given; another network does not.
    let other = host.keep(api.create(runtime, &config(3, 1, r#","num_class_embeds":4"#), 4));
    let [own, others] = [model, other].map(|student| train(student, data, FEWSTEP_OBJECTIVE_TEACHER_FORCED).expect("a step"));
    assert!(others > 100.0 * own, "{own} of the teacher, {others} of another network");
    let large = host.keep_data(api.sized_images(runtime, 6, 16, &[labels(&classes), planes(&numbers(6 * 2 * 256, 4))]));
    api.fails(
        "another size",
        train(model, large, FEWSTEP_OBJECTIVE_TEACHER_FORCED).expect_err("refused"),
        SHAPE,
        "512 numbers each, those of samples of [8, 8]",
    );
}

/// A network that gives twice the channels that it reads is sampled by the first half, whatever the other is.
pub fn the_mean_of_a_learned_variance(host: &Host) {
    let (api, runtime) = (&host.api, host.runtime);
    let both = host.keep(api.create(runtime, &config(1, 2, ""), 9));
    let info = api.model_info(both);
    assert_eq!((info.in_channels, info.out_channels, info.channels, info.conditions), (1, 2, 1, 0));
    let options = api.sampler_options(1, 2);
    let found = api.run(runtime, both, &options, &[]);
    // One step of DDIM from t = 999 to the clean image: x_0 = (x_T - sigma epsilon) / alpha, from the mean alone, which is the first of two planes.
    let noise = {
        let mut noise = vec![0f32; 128];
        let mut sampler = null_mut();
        // SAFETY: valid pointers throughout.
        unsafe {
            api.ok((api.fewstep_sampler_create)(runtime, both, &options, &mut sampler));
            api.ok((api.fewstep_sampler_noise)(sampler, 5, 0, 2, noise.as_mut_ptr(), noise.len()));
            api.ok((api.fewstep_sampler_destroy)(sampler));
        }
        noise
    };
    let whole = api.evaluate(runtime, both, &noise, &[999.0, 999.0], &[]);
    assert_eq!(whole.len(), 256);
    let mean: Vec<f32> = (0..2).flat_map(|n| whole[n * 128..][..64].to_vec()).collect();
    // The default schedule: 1000 linear betas from 1e-4 to 0.02.
    let alphas_cumprod = (0..1000).map(|t| 1.0 - (1e-4 + (0.02 - 1e-4) * t as f64 / 999.0)).product::<f64>();
    let (alpha, sigma) = (alphas_cumprod.sqrt(), (1.0 - alphas_cumprod).sqrt());
    let expected: Vec<f32> = noise.iter().zip(&mean).map(|(x, e)| ((f64::from(*x) - sigma * f64::from(*e)) / alpha) as f32).collect();
    // The difference of two close numbers, divided by alpha = 0.006.
    close("one step", &found, &expected, 1e-4);
}

/// Guidance is linear in the two predictions, and one step of DDIM in the prediction.
pub fn guidance(host: &Host) {
    let (api, runtime) = (&host.api, host.runtime);
    let model = host.keep(api.model(runtime, 3));
    let mut options = api.sampler_options(1, 2);
    let of = [3i32, 7];
    let [label, none] = [&of[..], &[0, 0]].map(|of| api.run(runtime, model, &options, &[labels(of)]));
    (options.guidance_scale, options.null_label) = (2.5, 0);
    let found = api.run(runtime, model, &options, &[labels(&of)]);
    let expected: Vec<f32> = label.iter().zip(&none).map(|(l, n)| n + 2.5 * (l - n)).collect();
    close("scale 2.5", &found, &expected, 1e-4);
    options.guidance_scale = 1.0;
    assert_eq!(api.run(runtime, model, &options, &[labels(&of)]), label, "a scale of 1 is none");
    let fails = |row: &str, change: &dyn Fn(&mut fewstep_sampler_options), model, needle: &str| {
        let mut options = api.sampler_options(1, 1);
        options.guidance_scale = 2.0;
        options.null_label = 0;
        change(&mut options);
        let mut sampler = null_mut();
        // SAFETY: valid pointers.
        api.fails(row, unsafe { (api.fewstep_sampler_create)(runtime, model, &options, &mut sampler) }, INVALID, needle);
    };
    fails("no null label", &|o| o.null_label = -1, model, "null_label is -1");
    fails("a label beyond", &|o| o.null_label = 10, model, "null_label is 10");
    fails("not finite", &|o| o.guidance_scale = f64::INFINITY, model, "guidance_scale is inf");
    fails("NaN", &|o| o.guidance_scale = f64::NAN, model, "guidance_scale is NaN");
    fails("reserved", &|o| o.reserved = 1, model, "reserved");
    fails("no classes", &|_| (), host.keep(api.create(runtime, &config(1, 1, ""), 1)), "no classes");
    let many = fewstep_sampler_options { batch: u32::MAX, guidance_scale: 2.0, null_label: 0, ..api.sampler_options(1, 1) };
    let mut sampler = null_mut();
    // SAFETY: valid pointers.
    let status = unsafe { (api.fewstep_sampler_create)(runtime, model, &many, &mut sampler) };
    // A GPU's kernels have 32 bits for it, a CPU's plan is larger than any memory.
    assert!([UNSUPPORTED, OUT_OF_MEMORY].contains(&status), "too many images: {status}, {}", api.last_error());
    // A student learns the guided teacher: other trajectories, another loss.
    let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
    let losses = [1.0, 2.5].map(|scale| {
        let mut o = api.trainer_options(&term);
        (o.batch, o.steps, o.substeps, o.cache_size, o.cache_batch, o.warmup_steps) = (8, 2, 1, 9, 4, 0);
        (o.guidance_scale, o.null_label, o.trajectory_clip) = (scale, 0, FEWSTEP_CLIP_NONE);
        let mut trainer = null_mut();
        // SAFETY: valid pointers throughout.
        unsafe {
            let mut report: fewstep_step_report = std::mem::zeroed();
            report.struct_size = size_of_val(&report) as u32;
            api.ok((api.fewstep_trainer_create)(runtime, model, model, null(), &o, &mut trainer));
            api.ok((api.fewstep_trainer_step)(trainer, &mut report));
            api.ok((api.fewstep_trainer_destroy)(trainer));
            report.loss
        }
    });
    // The teacher itself lands where its own trajectories do, up to the f16 of the cache; on guided ones it cannot.
    assert!(losses[1] > 100.0 * losses[0], "{losses:?}");
}

/// A model of a file of f16 holds half the bytes, samples as the same numbers in f32 do, is saved as it was, teaches, and has students of f32.
pub fn weights_stay_as_they_are_stored(host: &Host) {
    let (api, runtime) = (&host.api, host.runtime);
    let folder = scratch("stored");
    let at = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    let mut half = Model::create(families::parse(TINY, "config").expect("a config"), SchedulerConfig::default(), 3).expect("a model");
    for tensor in half.weights.values_mut() {
        let values: Vec<_> = tensor.as_slice::<f32>().expect("f32").iter().map(|v| half::f16::from_f32(*v)).collect();
        *tensor = Arc::new(Tensor::from_slice(tensor.shape(), &values).expect("memory"));
    }
    half.save_file(at("half").as_ref()).expect("a file");
    half.widened(Stop::NEVER).and_then(|wide| wide.save_file(at("wide").as_ref())).expect("a file");
    let [stored, wide] = ["half", "wide"].map(|name| host.keep(api.open(runtime, &at(name))));
    let [info, plain] = [stored, wide].map(|model| api.model_info(model));
    assert_eq!((info.weight_bytes, plain.weight_bytes), (2 * info.parameters, 4 * info.parameters));
    let options = api.sampler_options(2, 3);
    let images = api.sample(runtime, wide, &options, 5, 0, -1);
    // SAFETY: valid pointers throughout.
    unsafe {
        api.ok((api.fewstep_model_save_file)(stored, c(&at("again")).as_ptr()));
        api.ok((api.fewstep_model_save)(stored, c(&at("folder")).as_ptr()));
    }
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a file");
    assert!(read("again") == read("half"), "saved as it was opened");
    for model in [stored, host.keep(api.open(runtime, &at("folder"))), host.keep(api.open(runtime, &at("again")))] {
        assert_eq!(api.model_info(model).weight_bytes, 2 * info.parameters);
        assert!(api.sample(runtime, model, &options, 5, 0, -1) == images, "the images of f32");
    }
    // SAFETY: valid pointers throughout.
    let losses = unsafe {
        let mut derived: fewstep_student_options = std::mem::zeroed();
        api.ok((api.fewstep_student_options_init)(&mut derived, size_of_val(&derived)));
        (derived.copy_weights, derived.prediction) = (1, FEWSTEP_PREDICTION_EPSILON);
        let mut student = null_mut();
        api.ok((api.fewstep_model_derive_student)(runtime, stored, &derived, &mut student));
        host.keep(student);
        assert_eq!(api.model_info(student).weight_bytes, 4 * info.parameters);
        let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
        [(student, stored), (stored, stored), (student, wide)].map(|(student, teacher)| {
            let mut o = api.trainer_options(&term);
            (o.batch, o.steps, o.substeps, o.cache_size, o.cache_batch, o.warmup_steps) = (4, 2, 2, 5, 3, 0);
            let (mut trainer, mut snapshot) = (null_mut(), null_mut());
            let mut report: fewstep_step_report = std::mem::zeroed();
            report.struct_size = size_of_val(&report) as u32;
            api.ok((api.fewstep_trainer_create)(runtime, student, teacher, null(), &o, &mut trainer));
            let losses = [0; 2].map(|_| {
                api.ok((api.fewstep_trainer_step)(trainer, &mut report));
                report.loss
            });
            api.ok((api.fewstep_trainer_snapshot)(trainer, FEWSTEP_WEIGHTS_RAW, &mut snapshot));
            assert_eq!(api.model_info(host.keep(snapshot)).weight_bytes, 4 * info.parameters);
            api.ok((api.fewstep_trainer_destroy)(trainer));
            losses
        })
    };
    assert!(losses[0][1] != losses[0][0] && losses.iter().all(|other| *other == losses[0]), "{losses:?}");
    std::fs::remove_dir_all(folder).expect("clean up");
}
