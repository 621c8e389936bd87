//! What models take and give, through the C functions alone: conditions of every kind, a variance beside the mean, guidance, one evaluation by itself; and a
//! second family, from its config to a resumed run.

use super::{Api, c, scratch, term};
use fewstep::backend::Backend;
use fewstep::backend::cpu::CpuBackend;
use fewstep::ffi::conditioning::*;
use fewstep::ffi::dataset::*;
use fewstep::ffi::evaluator::*;
use fewstep::ffi::model::*;
use fewstep::ffi::runtime::fewstep_runtime;
use fewstep::ffi::sampler::fewstep_sampler_info;
use fewstep::ffi::sampler_options::*;
use fewstep::ffi::trainer::*;
use fewstep::ffi::trainer_options::*;
use fewstep::graph::Graph;
use fewstep::io::SchedulerConfig;
use fewstep::nn::{Inputs, Model, Scope, families};
use fewstep::tensor::Tensor;
use std::cell::RefCell;
use std::ptr::{null, null_mut};

const INVALID: i32 = 1;
const SHAPE: i32 = 2;
const UNSUPPORTED: i32 = 3;
const OUT_OF_MEMORY: i32 = 8;
const NUMERIC: i32 = 13;

/// A U-Net of 8x8 with so many channels in and out.
fn config(reads: usize, gives: usize, more: &str) -> String {
    format!(
        r#"{{"_class_name":"UNet2DModel","sample_size":8,"in_channels":{reads},"out_channels":{gives},"layers_per_block":1,"block_out_channels":[8,8],
"down_block_types":["DownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","UpBlock2D"],"norm_num_groups":4{more}}}"#
    )
}

/// Numbers between -1 and 1.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i + 1) * (37 + 2 * seed) % 101) as f32 - 50.0) / 50.0).collect()
}

fn labels(values: &[i32]) -> fewstep_conditioning {
    fewstep_conditioning { kind: FEWSTEP_CONDITIONING_CLASS_LABELS, reserved: 0, data: values.as_ptr().cast(), count: values.len() }
}

fn planes(values: &[f32]) -> fewstep_conditioning {
    fewstep_conditioning { kind: FEWSTEP_CONDITIONING_PLANES, reserved: 0, data: values.as_ptr().cast(), count: values.len() }
}

/// Off by no more than `tolerance` of the largest number.
fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(off <= tolerance * largest, "{what}: off by {off:e} of {largest:e}");
}

/// What a network makes of [2,8,8,3], without the C functions.
fn network(config: &str, seed: u64, pixels: &[f32], t: &[f32], of: &[i32]) -> fewstep::Result<Vec<f32>> {
    let model = Model::create(families::parse(config, "config")?, SchedulerConfig::default(), seed)?;
    let mut g = Graph::new();
    let x = g.constant("x", Tensor::from_slice(&[2, 8, 8, 3], pixels)?)?;
    let (t, of) = (g.constant("t", Tensor::from_slice(&[2], t)?)?, g.constant("labels", Tensor::from_slice(&[2], of)?)?);
    let out = model.network.build(&mut g, &Scope::new(""), &Inputs { x, t, conditions: &[of] })?;
    g.tap(out);
    let mut exec = CpuBackend::new(1)?.compile(&g)?;
    model.weights.iter().try_for_each(|(name, tensor)| exec.bind(name, tensor.clone()))?;
    exec.prepare()?;
    exec.run_all()?;
    Ok(exec.read_bytes(out)?.of::<f32>()?.to_vec())
}

/// A runtime and what a test makes in it. All of it ends with the test: the library may be unloaded then, and must not be while there are workers.
pub struct Host {
    api: Api,
    runtime: *mut fewstep_runtime,
    models: RefCell<Vec<*mut fewstep_model>>,
    datasets: RefCell<Vec<*mut fewstep_dataset>>,
}

impl Host {
    pub fn new(api: Api, runtime: impl FnOnce(&Api) -> *mut fewstep_runtime) -> Self {
        Self { runtime: runtime(&api), api, models: RefCell::default(), datasets: RefCell::default() }
    }

    fn keep(&self, model: *mut fewstep_model) -> *mut fewstep_model {
        self.models.borrow_mut().push(model);
        model
    }

    fn keep_data(&self, dataset: *mut fewstep_dataset) -> *mut fewstep_dataset {
        self.datasets.borrow_mut().push(dataset);
        dataset
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: each handle is destroyed once.
        unsafe {
            for model in self.models.take() {
                (self.api.fewstep_model_destroy)(model);
            }
            for dataset in self.datasets.take() {
                (self.api.fewstep_dataset_destroy)(dataset);
            }
            (self.api.fewstep_runtime_destroy)(self.runtime);
        }
    }
}

impl Api {
    fn create(&self, runtime: *const fewstep_runtime, config: &str, seed: u64) -> *mut fewstep_model {
        let mut out = null_mut();
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_model_create)(runtime, c(config).as_ptr(), null(), seed, &mut out) });
        out
    }

    fn model_info(&self, model: *const fewstep_model) -> fewstep_model_info {
        // SAFETY: plain data that the library fills.
        let mut info: fewstep_model_info = unsafe { std::mem::zeroed() };
        info.struct_size = size_of_val(&info) as u32;
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_model_get_info)(model, &mut info) });
        info
    }

    fn condition(&self, model: *const fewstep_model, index: usize) -> Result<fewstep_condition, i32> {
        // SAFETY: plain data that the library fills.
        let mut condition: fewstep_condition = unsafe { std::mem::zeroed() };
        condition.struct_size = size_of_val(&condition) as u32;
        // SAFETY: valid pointers.
        match unsafe { (self.fewstep_model_condition)(model, index, &mut condition) } {
            0 => Ok(condition),
            status => Err(status),
        }
    }

    fn evaluator(&self, runtime: *const fewstep_runtime, model: *const fewstep_model, batch: u32) -> (*mut fewstep_evaluator, fewstep_evaluator_info) {
        // SAFETY: valid pointers throughout.
        unsafe {
            let mut options: fewstep_evaluator_options = std::mem::zeroed();
            self.ok((self.fewstep_evaluator_options_init)(&mut options, size_of_val(&options)));
            options.batch = batch;
            let mut out = null_mut();
            self.ok((self.fewstep_evaluator_create)(runtime, model, &options, &mut out));
            let mut info: fewstep_evaluator_info = std::mem::zeroed();
            info.struct_size = size_of_val(&info) as u32;
            self.ok((self.fewstep_evaluator_get_info)(out, &mut info));
            (out, info)
        }
    }

    fn try_evaluate(&self, evaluator: *mut fewstep_evaluator, x_t: &[f32], t: &[f32], given: &[fewstep_conditioning], out: &mut [f32]) -> i32 {
        // SAFETY: valid pointers throughout.
        unsafe {
            let mut evaluation: fewstep_evaluation = std::mem::zeroed();
            self.ok((self.fewstep_evaluation_init)(&mut evaluation, size_of_val(&evaluation)));
            (evaluation.x_t, evaluation.x_t_count) = (x_t.as_ptr(), x_t.len());
            (evaluation.timesteps, evaluation.timestep_count) = (t.as_ptr(), t.len());
            (evaluation.conditionings, evaluation.conditioning_count) = (given.as_ptr(), given.len());
            (self.fewstep_evaluator_run)(evaluator, &evaluation, out.as_mut_ptr(), out.len())
        }
    }

    /// One evaluation of a model on [N,C,H,W].
    fn evaluate(&self, runtime: *const fewstep_runtime, model: *const fewstep_model, x_t: &[f32], t: &[f32], given: &[fewstep_conditioning]) -> Vec<f32> {
        let (evaluator, info) = self.evaluator(runtime, model, t.len() as u32);
        let mut out = vec![0f32; (info.batch * info.out_channels * info.height * info.width) as usize];
        self.ok(self.try_evaluate(evaluator, x_t, t, given, &mut out));
        // SAFETY: created above.
        self.ok(unsafe { (self.fewstep_evaluator_destroy)(evaluator) });
        out
    }

    /// The images of a whole run with conditions.
    fn run(&self, runtime: *const fewstep_runtime, model: *const fewstep_model, options: &fewstep_sampler_options, given: &[fewstep_conditioning]) -> Vec<f32> {
        // SAFETY: valid pointers throughout.
        unsafe {
            let mut begin: fewstep_begin_options = std::mem::zeroed();
            self.ok((self.fewstep_begin_options_init)(&mut begin, size_of_val(&begin)));
            begin.seed = 5;
            (begin.conditionings, begin.conditioning_count) = (given.as_ptr(), given.len());
            let mut sampler = null_mut();
            self.ok((self.fewstep_sampler_create)(runtime, model, options, &mut sampler));
            let mut info: fewstep_sampler_info = std::mem::zeroed();
            info.struct_size = size_of_val(&info) as u32;
            self.ok((self.fewstep_sampler_get_info)(sampler, &mut info));
            self.ok((self.fewstep_sampler_destroy)(sampler));
            let mut out = vec![0f32; (info.batch * info.channels * info.height * info.width) as usize];
            self.ok((self.fewstep_sample)(runtime, model, options, &begin, out.as_mut_ptr(), out.len()));
            out
        }
    }

    /// `count` images of 8x8 with one channel and what belongs to them.
    fn images(&self, runtime: *const fewstep_runtime, count: usize, given: &[fewstep_conditioning]) -> *mut fewstep_dataset {
        self.sized_images(runtime, count, 8, given)
    }

    fn sized_images(&self, runtime: *const fewstep_runtime, count: usize, side: usize, given: &[fewstep_conditioning]) -> *mut fewstep_dataset {
        let pixels = numbers(count * side * side, 3);
        // SAFETY: valid pointers throughout.
        unsafe {
            let mut o: fewstep_dataset_options = std::mem::zeroed();
            self.ok((self.fewstep_dataset_options_init)(&mut o, size_of_val(&o)));
            (o.dtype, o.channels, o.height, o.width, o.count, o.scale, o.shift) = (FEWSTEP_DTYPE_F32, 1, side as u32, side as u32, count, 1.0, 0.0);
            (o.data, o.data_size) = (pixels.as_ptr().cast(), size_of_val(&pixels[..]));
            (o.conditionings, o.conditioning_count) = (given.as_ptr(), given.len());
            let mut out = null_mut();
            self.ok((self.fewstep_dataset_create)(runtime, &o, &mut out));
            out
        }
    }
}

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
    close("x_t and planes", &found, &network(&config(3, 1, r#","num_class_embeds":4"#), 3, &pixels, &[7.0, 900.0], &of).expect("an evaluation"), 1e-5);
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
    for objective in [FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_OBJECTIVE_OUTPUT, FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_OBJECTIVE_ON_POLICY] {
        api.fails("no dataset", train(model, null(), objective).expect_err("refused"), INVALID, "dataset");
        assert!(train(model, data, objective).expect("a step").is_finite());
    }
    // The teacher itself does what its own trajectories do, if it is given what they were given; another network does not.
    let other = host.keep(api.create(runtime, &config(3, 1, r#","num_class_embeds":4"#), 4));
    let [own, others] = [model, other].map(|student| train(student, data, FEWSTEP_OBJECTIVE_TEACHER_FORCED).expect("a step"));
    assert!(others > 100.0 * own, "{own} of the teacher, {others} of another network");
    let large = host.keep_data(api.sized_images(runtime, 6, 16, &[labels(&classes), planes(&numbers(6 * 2 * 256, 4))]));
    api.fails("another size", train(model, large, FEWSTEP_OBJECTIVE_TEACHER_FORCED).expect_err("refused"), SHAPE, "[16, 16]");
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
        (o.batch, o.steps, o.substeps, o.cache_size, o.cache_batch, o.warmup_steps) = (4, 2, 1, 5, 3, 0);
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
