//! What models take and give, through the C functions alone: conditions of every kind, a variance beside the mean, guidance, one evaluation by itself; and a
//! second family, from its config to a resumed run.

use super::{Api, TINY, c, scratch, term};
use fewstep::backend::Backend;
use fewstep::backend::cpu::CpuBackend;
use fewstep::cancel::Stop;
use fewstep::ffi::conditioning::*;
use fewstep::ffi::dataset::*;
use fewstep::ffi::evaluator::*;
use fewstep::ffi::model::*;
use fewstep::ffi::precision::*;
use fewstep::ffi::runtime::fewstep_runtime;
use fewstep::ffi::sampler::{fewstep_sampler, fewstep_sampler_info};
use fewstep::ffi::sampler_options::*;
use fewstep::ffi::trainer::*;
use fewstep::ffi::trainer_options::*;
use fewstep::graph::Graph;
use fewstep::io::SchedulerConfig;
use fewstep::nn::{Inputs, Model, Scope, families};
use fewstep::tensor::Tensor;
use std::cell::RefCell;
use std::ptr::{null, null_mut};
use std::sync::Arc;

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

fn floats(kind: i32, values: &[f32]) -> fewstep_conditioning {
    fewstep_conditioning { kind, reserved: 0, data: values.as_ptr().cast(), count: values.len() }
}

fn planes(values: &[f32]) -> fewstep_conditioning {
    floats(FEWSTEP_CONDITIONING_PLANES, values)
}

fn vectors(values: &[f32]) -> fewstep_conditioning {
    floats(FEWSTEP_CONDITIONING_VECTOR, values)
}

fn tokens(values: &[f32]) -> fewstep_conditioning {
    floats(FEWSTEP_CONDITIONING_TOKENS, values)
}

/// Off by no more than `tolerance` of the largest number.
fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(off <= tolerance * largest, "{what}: off by {off:e} of {largest:e}");
}

/// What a network makes of [2,8,8,C], without the C functions.
fn network(config: &str, seed: u64, pixels: &[f32], t: &[f32], given: Vec<Tensor>) -> fewstep::Result<Vec<f32>> {
    let model = Model::create(families::parse(config, "config")?, SchedulerConfig::default(), seed)?;
    let mut g = Graph::new();
    let x = g.constant("x", Tensor::from_slice(&[2, 8, 8, pixels.len() / 128], pixels)?)?;
    let t = g.constant("t", Tensor::from_slice(&[2], t)?)?;
    let conditions = given.into_iter().map(|values| g.constant("given", values)).collect::<fewstep::Result<Vec<_>>>()?;
    let out = model.network.build(&mut g, &Scope::new(""), &Inputs { x, t, conditions: &conditions })?;
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

    fn sampler(&self, runtime: *const fewstep_runtime, model: *const fewstep_model, options: &fewstep_sampler_options) -> *mut fewstep_sampler {
        let mut sampler = null_mut();
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_sampler_create)(runtime, model, options, &mut sampler) });
        sampler
    }

    fn begin_options(&self, given: &[fewstep_conditioning]) -> fewstep_begin_options {
        // SAFETY: plain data that init fills.
        let mut begin: fewstep_begin_options = unsafe { std::mem::zeroed() };
        // SAFETY: a valid pointer.
        self.ok(unsafe { (self.fewstep_begin_options_init)(&mut begin, size_of_val(&begin)) });
        begin.seed = 5;
        (begin.conditionings, begin.conditioning_count) = (given.as_ptr(), given.len());
        begin
    }

    /// Room for a sampler's images.
    fn room(&self, sampler: *mut fewstep_sampler) -> Vec<f32> {
        // SAFETY: plain data that the library fills.
        let mut info: fewstep_sampler_info = unsafe { std::mem::zeroed() };
        info.struct_size = size_of_val(&info) as u32;
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_sampler_get_info)(sampler, &mut info) });
        vec![0f32; (info.batch * info.channels * info.height * info.width) as usize]
    }

    /// The images of a whole run with conditions.
    fn run(&self, runtime: *const fewstep_runtime, model: *const fewstep_model, options: &fewstep_sampler_options, given: &[fewstep_conditioning]) -> Vec<f32> {
        let sampler = self.sampler(runtime, model, options);
        let mut out = self.room(sampler);
        // SAFETY: valid pointers throughout.
        unsafe {
            self.ok((self.fewstep_sampler_destroy)(sampler));
            self.ok((self.fewstep_sample)(runtime, model, options, &self.begin_options(given), out.as_mut_ptr(), out.len()));
        }
        out
    }

    /// The same of a sampler that is there.
    fn run_again(&self, sampler: *mut fewstep_sampler, given: &[fewstep_conditioning]) -> Vec<f32> {
        let mut out = self.room(sampler);
        // SAFETY: valid pointers throughout.
        unsafe {
            self.ok((self.fewstep_sampler_begin)(sampler, &self.begin_options(given)));
            self.ok((self.fewstep_sampler_run)(sampler, None, null_mut(), null()));
            self.ok((self.fewstep_sampler_read)(sampler, out.as_mut_ptr(), out.len()));
        }
        out
    }

    /// `count` images of 8x8 with one channel and what belongs to them.
    fn images(&self, runtime: *const fewstep_runtime, count: usize, given: &[fewstep_conditioning]) -> *mut fewstep_dataset {
        self.sized_images(runtime, count, 8, given)
    }

    fn sized_images(&self, runtime: *const fewstep_runtime, count: usize, side: usize, given: &[fewstep_conditioning]) -> *mut fewstep_dataset {
        let mut out = null_mut();
        self.ok(self.try_images(runtime, count, side, given, &mut out));
        out
    }

    fn try_images(&self, runtime: *const fewstep_runtime, count: usize, side: usize, given: &[fewstep_conditioning], out: &mut *mut fewstep_dataset) -> i32 {
        let pixels = numbers(count * side * side, 3);
        // SAFETY: valid pointers throughout.
        unsafe {
            let mut o: fewstep_dataset_options = std::mem::zeroed();
            self.ok((self.fewstep_dataset_options_init)(&mut o, size_of_val(&o)));
            (o.dtype, o.channels, o.height, o.width, o.count, o.scale, o.shift) = (FEWSTEP_DTYPE_F32, 1, side as u32, side as u32, count, 1.0, 0.0);
            (o.data, o.data_size) = (pixels.as_ptr().cast(), size_of_val(&pixels[..]));
            (o.conditionings, o.conditioning_count) = (given.as_ptr(), given.len());
            (self.fewstep_dataset_create)(runtime, &o, out)
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
    for objective in [FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_OBJECTIVE_OUTPUT, FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_OBJECTIVE_ON_POLICY] {
        let trainer = create(student, data, objective).expect("a trainer");
        let before = loss(trainer);
        train(trainer, 6);
        let after = loss(trainer);
        assert!(after < before, "objective {objective}: {before}, then {after}");
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
