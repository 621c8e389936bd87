//! A second family of networks, through the C functions alone: from its config to a resumed run, with labels, vectors and tokens.

use super::host::*;
use super::{c, scratch, term};
use fewstep::ffi::conditioning::*;
use fewstep::ffi::model::*;
use fewstep::ffi::precision::*;
use fewstep::ffi::sampler::fewstep_sampler;
use fewstep::ffi::sampler_options::*;
use fewstep::ffi::trainer::*;
use fewstep::ffi::trainer_options::*;
use fewstep::nn::Model;
use fewstep::tensor::Tensor;
use std::ptr::{null, null_mut};

/// A second family goes from its config to a resumed run with no function of its own.
pub fn a_second_family(host: &Host) {
    let (api, runtime) = (&host.api, host.runtime);
    const MIXER: &str =
        r#"{"_class_name":"MixerModel","sample_size":8,"in_channels":1,"out_channels":1,"num_layers":2,"hidden_size":16,"num_class_embeds":10}"#;
    let teacher = host.keep(api.create(runtime, MIXER, 4));
    let folder = scratch(&format!("mixer-{}", api.runtime_info(runtime).device));
    let text = |name: &str| c(folder.join(name).to_str().expect("UTF-8"));
    let options = api.sampler_options(2, 3);
    // SAFETY: valid pointers throughout.
    unsafe {
        for save in [api.fewstep_model_save, api.fewstep_model_save_file] {
            let path = text(if save as usize == api.fewstep_model_save as usize { "folder" } else { "file.safetensors" });
            api.ok(save(teacher, path.as_ptr()));
            let again = host.keep(api.open(runtime, path.to_str().expect("UTF-8")));
            assert_eq!(api.sample(runtime, again, &options, 5, 0, -1), api.sample(runtime, teacher, &options, 5, 0, -1));
        }
        let mut derived: fewstep_student_options = std::mem::zeroed();
        api.ok((api.fewstep_student_options_init)(&mut derived, size_of_val(&derived)));
        let wrong = c(r#"{"layers_per_block": 1}"#);
        derived.config_patch = wrong.as_ptr();
        let mut student = null_mut();
        api.fails("a U-Net's key", (api.fewstep_model_derive_student)(runtime, teacher, &derived, &mut student), INVALID, "layers_per_block");
        let patch = c(r#"{"num_layers": 1}"#);
        (derived.config_patch, derived.copy_weights, derived.steps) = (patch.as_ptr(), 1, 2);
        api.ok((api.fewstep_model_derive_student)(runtime, teacher, &derived, &mut student));
        host.keep(student);
        assert!(api.model_info(student).parameters < api.model_info(teacher).parameters);
        let term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
        let mut o = api.trainer_options(&term);
        (o.batch, o.substeps, o.cache_size, o.cache_batch, o.warmup_steps) = (8, 2, 16, 8, 0);
        let [mut first, mut second] = [null_mut(), null_mut()];
        let train = |trainer| api.ok((api.fewstep_trainer_train)(trainer, 3, None, null_mut(), null()));
        let snapshot = |trainer| {
            let mut model = null_mut();
            api.ok((api.fewstep_trainer_snapshot)(trainer, FEWSTEP_WEIGHTS_RAW, &mut model));
            api.sample(runtime, host.keep(model), &options, 5, 0, -1)
        };
        api.ok((api.fewstep_trainer_create)(runtime, student, teacher, null(), &o, &mut first));
        train(first);
        api.ok((api.fewstep_trainer_save)(first, text("run").as_ptr()));
        train(first);
        api.ok((api.fewstep_trainer_create)(runtime, student, teacher, null(), &o, &mut second));
        api.ok((api.fewstep_trainer_resume)(second, text("run").as_ptr()));
        train(second);
        let images = snapshot(first);
        assert!(images == snapshot(second), "resumed bit for bit");
        [first, second].iter().for_each(|trainer| api.ok((api.fewstep_trainer_destroy)(*trainer)));
        assert!(images != api.sample(runtime, student, &options, 5, 0, -1), "trained");
        // Weights for each pair of pixels: no other size.
        let mut sampler = null_mut();
        let large = fewstep_sampler_options { height: 16, width: 16, ..options };
        api.fails("another size", (api.fewstep_sampler_create)(runtime, teacher, &large, &mut sampler), SHAPE, "8x8");
    }
    std::fs::remove_dir_all(&folder).expect("clean up");
}

/// A network that is given labels of 4 classes, vectors of 3 numbers and 5 tokens of 2.
const GIVEN_ALL: &str = r#"{"_class_name":"MixerModel","sample_size":8,"in_channels":1,"out_channels":1,"num_layers":2,"hidden_size":16,
"num_class_embeds":4,"vector_dim":3,"num_context_tokens":5,"context_dim":2}"#;

/// Values of those for so many images.
struct All {
    labels: Vec<i32>,
    vectors: Vec<f32>,
    tokens: Vec<f32>,
}

impl All {
    fn new(count: usize) -> Self {
        Self { labels: (0..count).map(|i| (3 * i + 1) as i32 % 4).collect(), vectors: numbers(count * 3, 1), tokens: numbers(count * 10, 2) }
    }

    fn given(&self) -> [fewstep_conditioning; 3] {
        [labels(&self.labels), vectors(&self.vectors), tokens(&self.tokens)]
    }
}

/// Labels, vectors and tokens side by side: what C is told of them, one evaluation, samples, what is refused, and a file of the model.
pub fn vectors_and_tokens(host: &Host) {
    let (api, runtime) = (&host.api, host.runtime);
    let mut none = null_mut();
    let half = GIVEN_ALL.replace(r#","context_dim":2"#, "");
    // SAFETY: valid pointers.
    let status = unsafe { (api.fewstep_model_create)(runtime, c(&half).as_ptr(), null(), 3, &mut none) };
    api.fails("tokens of no width", status, INVALID, "num_context_tokens and context_dim go together");
    let model = host.keep(api.create(runtime, GIVEN_ALL, 3));
    assert_eq!((api.model_info(model).conditions, api.model_info(model).classes), (3, 4));
    let listed = [0, 1, 2].map(|i| api.condition(model, i).map(|c| (c.kind, c.classes, c.length, c.width, c.channels)).expect("a condition"));
    let expected = [(FEWSTEP_CONDITIONING_CLASS_LABELS, 4, 0, 0, 0), (FEWSTEP_CONDITIONING_VECTOR, 0, 0, 3, 0), (FEWSTEP_CONDITIONING_TOKENS, 0, 5, 2, 0)];
    assert_eq!(listed, expected);
    assert_eq!(api.condition(model, 3).expect_err("no fourth"), INVALID);

    // The network by itself, in whatever order C gives the kinds; values of an image stay its own.
    let (all, x, t) = (All::new(2), numbers(2 * 64, 4), [7.0, 900.0]);
    let [of, vector, sequence] = all.given();
    let found = api.evaluate(runtime, model, &x, &t, &[sequence, of, vector]);
    let alone = [Tensor::from_slice(&[2], &all.labels), Tensor::from_slice(&[2, 3], &all.vectors), Tensor::from_slice(&[2, 5, 2], &all.tokens)];
    let alone = network(GIVEN_ALL, 3, &x, &t, alone.map(|values| values.expect("values")).into()).expect("an evaluation");
    close("labels, vectors and tokens", &found, &alone, 1e-5);
    let swap = |values: &[f32]| [&values[values.len() / 2..], &values[..values.len() / 2]].concat();
    let other = All { labels: vec![all.labels[1], all.labels[0]], vectors: swap(&all.vectors), tokens: swap(&all.tokens) };
    close("the images exchanged", &api.evaluate(runtime, model, &swap(&x), &[900.0, 7.0], &other.given()), &swap(&alone), 1e-5);

    // Samples follow each of them. One sampler, begun anew, gives what one of its own gives.
    let options = api.sampler_options(2, 2);
    let images = api.run(runtime, model, &options, &all.given());
    let sampler = api.sampler(runtime, model, &options);
    for i in 0..3 {
        let mut given = all.given();
        given[i] = other.given()[i];
        let changed = api.run(runtime, model, &options, &given);
        assert_ne!(changed, images, "conditionings[{i}] changes the samples");
        assert!(api.run_again(sampler, &given) == changed, "conditionings[{i}] of a sampler begun anew");
        assert!(api.run_again(sampler, &all.given()) == images, "and back");
    }
    // Guidance is between labels; each image's vector and tokens are its own in both evaluations.
    let guided = fewstep_sampler_options { guidance_scale: 2.5, null_label: 0, ..api.sampler_options(1, 2) };
    let null = [0, 0];
    let [label, without] = [of, labels(&null)].map(|of| api.run(runtime, model, &api.sampler_options(1, 2), &[of, vector, sequence]));
    let expected: Vec<f32> = label.iter().zip(&without).map(|(l, n)| n + 2.5 * (l - n)).collect();
    close("scale 2.5", &api.run(runtime, model, &guided, &all.given()), &expected, 1e-4);
    // Half precision, where the device has it: 8 bits of bf16, through a network of few layers and two steps.
    let bits = api.runtime_info(runtime).precisions;
    for precision in [FEWSTEP_PRECISION_F16, FEWSTEP_PRECISION_BF16].into_iter().filter(|precision| bits >> precision & 1 == 1) {
        let narrow = fewstep_sampler_options { precision, ..options };
        close("in half precision", &api.run(runtime, model, &narrow, &all.given()), &images, 5e-2);
    }
    refusals(host, model, sampler, &all);
    // SAFETY: created above.
    api.ok(unsafe { (api.fewstep_sampler_destroy)(sampler) });

    let folder = scratch(&format!("given-{}", api.runtime_info(runtime).device));
    for (name, save) in [("folder", api.fewstep_model_save), ("file.safetensors", api.fewstep_model_save_file)] {
        let path = folder.join(name);
        let path = path.to_str().expect("UTF-8");
        // SAFETY: valid pointers.
        api.ok(unsafe { save(model, c(path).as_ptr()) });
        assert!(api.run(runtime, host.keep(api.open(runtime, path)), &options, &all.given()) == images, "{name}: the same samples");
    }
    std::fs::remove_dir_all(&folder).expect("clean up");
}

/// An evaluator, a sampler and a data set say what is wrong with vectors and tokens, and whose they are.
fn refusals(host: &Host, model: *const fewstep_model, sampler: *mut fewstep_sampler, all: &All) {
    let (api, runtime) = (&host.api, host.runtime);
    let [of, vector, sequence] = all.given();
    let with = |values: &[f32], at: usize, v: f32| values.iter().enumerate().map(|(i, old)| if i == at { v } else { *old }).collect::<Vec<f32>>();
    let (long, short, odd, plane) = (numbers(8, 1), numbers(16, 1), numbers(5, 1), numbers(128, 1));
    let (nan, infinite) = (with(&all.vectors, 4, f32::NAN), with(&all.tokens, 19, f32::INFINITY));
    let (evaluator, _) = api.evaluator(runtime, model, 2);
    let mut out = vec![7f32; 128];
    let rows: [(&str, &[fewstep_conditioning], i32, &str); 11] = [
        ("no labels", &[vector, sequence], INVALID, "needs class labels"),
        ("no vectors", &[of, sequence], INVALID, "needs vectors"),
        ("no tokens", &[of, vector], INVALID, "needs tokens"),
        ("vectors twice", &[of, vector, vector, sequence], INVALID, "vectors were given, which the model does not take"),
        ("planes", &[of, vector, sequence, planes(&plane)], INVALID, "planes were given"),
        ("wide vectors", &[of, vectors(&long), sequence], SHAPE, "vectors: 2 images need 6 numbers, found 8"),
        ("few tokens", &[of, vector, tokens(&short)], SHAPE, "tokens: 2 images need 20 numbers, found 16"),
        ("half a vector", &[of, vectors(&odd), sequence], SHAPE, "conditionings[1].count is 5"),
        ("half a token", &[of, vector, tokens(&odd)], SHAPE, "conditionings[2].count is 5"),
        ("a NaN", &[of, vectors(&nan), sequence], NUMERIC, "vectors: element 4 is NaN"),
        ("an infinity", &[of, vector, tokens(&infinite)], NUMERIC, "tokens: element 19 is inf"),
    ];
    for (row, given, status, needle) in rows {
        api.fails(row, api.try_evaluate(evaluator, &numbers(128, 4), &[7.0, 900.0], given, &mut out), status, needle);
        // SAFETY: valid pointers.
        api.fails(row, unsafe { (api.fewstep_sampler_begin)(sampler, &api.begin_options(given)) }, status, needle);
        // A data set has no model: it refuses what no model takes.
        let mut data = null_mut();
        let made = api.try_images(runtime, 2, 8, given, &mut data);
        if status == NUMERIC || needle.starts_with("conditionings") {
            api.fails(row, made, status, needle);
        } else {
            api.ok(made);
            host.keep_data(data);
        }
    }
    assert!(out.iter().all(|v| *v == 7.0), "outputs are written only on success");
    // SAFETY: created above.
    api.ok(unsafe { (api.fewstep_evaluator_destroy)(evaluator) });
}

/// Training with them: a teacher's trajectories take rows of the data, every layer that reads them learns, and a resumed run is the one that went on.
pub fn training_with_vectors_and_tokens(host: &Host) {
    let (api, runtime) = (&host.api, host.runtime);
    let teacher = host.keep(api.create(runtime, GIVEN_ALL, 4));
    let folder = scratch(&format!("given-run-{}", api.runtime_info(runtime).device));
    let text = |name: &str| c(folder.join(name).to_str().expect("UTF-8"));
    let all = All::new(6);
    let data = host.keep_data(api.images(runtime, 6, &all.given()));
    let create = |student, data, objective| -> Result<*mut fewstep_trainer, i32> {
        let term = term(objective, if objective == FEWSTEP_OBJECTIVE_TEACHER_FORCED { FEWSTEP_WEIGHT_STATE } else { FEWSTEP_WEIGHT_SNR });
        let mut o = api.trainer_options(&term);
        (o.batch, o.steps, o.substeps, o.cache_size, o.cache_batch, o.warmup_steps) = (8, 2, 1, 9, 4, 0);
        (o.trajectory_clip, o.learning_rate) = (FEWSTEP_CLIP_NONE, 1e-2);
        let mut trainer = null_mut();
        // SAFETY: valid pointers.
        match unsafe { (api.fewstep_trainer_create)(runtime, student, teacher, data, &o, &mut trainer) } {
            0 => Ok(trainer),
            status => Err(status),
        }
    };
    // SAFETY: valid pointers throughout.
    let train = |trainer, steps| api.ok(unsafe { (api.fewstep_trainer_train)(trainer, steps, None, null_mut(), null()) });
    // SAFETY: made by `create`, and destroyed once.
    let destroy = |trainer| api.ok(unsafe { (api.fewstep_trainer_destroy)(trainer) });
    let loss = |trainer| {
        // SAFETY: plain data that the library fills.
        let mut report: fewstep_step_report = unsafe { std::mem::zeroed() };
        report.struct_size = size_of_val(&report) as u32;
        // SAFETY: valid pointers.
        api.ok(unsafe { (api.fewstep_trainer_evaluate)(trainer, 11, &mut report) });
        report.loss
    };
    let student = host.keep(api.create(runtime, GIVEN_ALL, 5));
    for objective in OBJECTIVES {
        let trainer = create(student, data, objective).expect("a trainer");
        let before = loss(trainer);
        train(trainer, 6);
        let after = loss(trainer);
        // So few steps of a random network need not lower every loss; that the conditions reach what learns is shown below.
        assert!(after.is_finite() && after != before, "objective {objective}: {before}, then {after}");
        destroy(trainer);
    }
    // The teacher itself does what its own trajectories do only if each is given the rows that the trajectory was given.
    let [own, others] = [teacher, student].map(|student| {
        let trainer = create(student, data, FEWSTEP_OBJECTIVE_TEACHER_FORCED).expect("a trainer");
        let loss = loss(trainer);
        destroy(trainer);
        loss
    });
    assert!(others > 100.0 * own, "{own} of the teacher, {others} of another network");

    let refused = |row: &str, student, data, status: i32, needle: &str| {
        api.fails(row, create(student, data, FEWSTEP_OBJECTIVE_TEACHER_FORCED).expect_err("refused"), status, needle);
    };
    let [of, vector, sequence] = all.given();
    let few = |given: &[fewstep_conditioning]| host.keep_data(api.images(runtime, 6, given));
    refused("no data", student, null(), INVALID, "need vectors: give a dataset");
    refused("no vectors", student, few(&[of, sequence]), INVALID, "dataset: the model needs vectors");
    refused("no tokens", student, few(&[of, vector]), INVALID, "dataset: the model needs tokens");
    refused("narrow vectors", student, few(&[of, vectors(&all.vectors[..12]), sequence]), SHAPE, "dataset: vectors: 6 images need 18 numbers, found 12");
    refused("few tokens", student, few(&[of, vector, tokens(&all.tokens[..48])]), SHAPE, "dataset: tokens: 6 images need 60 numbers, found 48");
    let shorter = host.keep(api.create(runtime, &GIVEN_ALL.replace(r#""num_context_tokens":5"#, r#""num_context_tokens":4"#), 5));
    refused("another student", shorter, data, SHAPE, "4 tokens of 2 numbers");

    let [first, second] = [0, 1].map(|_| create(student, data, FEWSTEP_OBJECTIVE_TEACHER_FORCED).expect("a trainer"));
    let snapshot = |trainer, name: &str| {
        let mut model = null_mut();
        // SAFETY: valid pointers.
        unsafe {
            api.ok((api.fewstep_trainer_snapshot)(trainer, FEWSTEP_WEIGHTS_RAW, &mut model));
            api.ok((api.fewstep_model_save_file)(host.keep(model), text(name).as_ptr()));
        }
        Model::open(&folder.join(name)).expect("a snapshot").weights
    };
    let before = snapshot(first, "before.safetensors");
    train(first, 3);
    // SAFETY: valid pointers.
    api.ok(unsafe { (api.fewstep_trainer_save)(first, text("run").as_ptr()) });
    train(first, 3);
    // SAFETY: valid pointers.
    api.ok(unsafe { (api.fewstep_trainer_resume)(second, text("run").as_ptr()) });
    train(second, 3);
    assert_eq!(loss(first), loss(second), "resumed bit for bit");
    let [after, resumed] = [(first, "first.safetensors"), (second, "second.safetensors")].map(|(trainer, name)| snapshot(trainer, name));
    assert_eq!(after.len(), resumed.len());
    for (name, tensor) in &after {
        assert!(tensor.bytes() == resumed[name].bytes(), "{name}: resumed bit for bit");
        assert!(tensor.bytes() != before[name].bytes(), "{name}: learns");
    }
    for name in ["class_embedding.weight", "vector_embedding.weight", "context_proj.weight", "context_mix.weight"] {
        assert!(after.contains_key(name), "{name}");
    }
    destroy(first);
    destroy(second);
    std::fs::remove_dir_all(&folder).expect("clean up");
}
