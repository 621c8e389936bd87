//! What tests through the C functions share: a host with a runtime and all that it makes, evaluations, samples and data with conditions.

use super::{Api, c};
use fewstep::backend::Backend;
use fewstep::backend::cpu::CpuBackend;
use fewstep::ffi::conditioning::*;
use fewstep::ffi::dataset::*;
use fewstep::ffi::evaluator::*;
use fewstep::ffi::model::*;
use fewstep::ffi::runtime::fewstep_runtime;
use fewstep::ffi::sampler::{fewstep_sampler, fewstep_sampler_info};
use fewstep::ffi::sampler_options::*;
use fewstep::ffi::trainer_options::*;
use fewstep::graph::Graph;
use fewstep::io::SchedulerConfig;
use fewstep::nn::{Inputs, Model, Scope, families};
use fewstep::tensor::Tensor;
use std::cell::RefCell;
use std::ptr::{null, null_mut};

/// All that a student can be asked to match.
pub const OBJECTIVES: [i32; 6] = [
    FEWSTEP_OBJECTIVE_DENOISE,
    FEWSTEP_OBJECTIVE_OUTPUT,
    FEWSTEP_OBJECTIVE_TEACHER_FORCED,
    FEWSTEP_OBJECTIVE_ON_POLICY,
    FEWSTEP_OBJECTIVE_RESOLVE,
    FEWSTEP_OBJECTIVE_ROLLOUT,
];

pub const INVALID: i32 = 1;
pub const SHAPE: i32 = 2;
pub const UNSUPPORTED: i32 = 3;
pub const OUT_OF_MEMORY: i32 = 8;
pub const NUMERIC: i32 = 13;

/// A U-Net of 8x8 with so many channels in and out.
pub fn config(reads: usize, gives: usize, more: &str) -> String {
    format!(
        r#"{{"_class_name":"UNet2DModel","sample_size":8,"in_channels":{reads},"out_channels":{gives},"layers_per_block":1,"block_out_channels":[8,8],
"down_block_types":["DownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","UpBlock2D"],"norm_num_groups":4{more}}}"#
    )
}

/// Numbers between -1 and 1.
pub fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i + 1) * (37 + 2 * seed) % 101) as f32 - 50.0) / 50.0).collect()
}

pub fn labels(values: &[i32]) -> fewstep_conditioning {
    fewstep_conditioning { kind: FEWSTEP_CONDITIONING_CLASS_LABELS, reserved: 0, data: values.as_ptr().cast(), count: values.len() }
}

pub fn floats(kind: i32, values: &[f32]) -> fewstep_conditioning {
    fewstep_conditioning { kind, reserved: 0, data: values.as_ptr().cast(), count: values.len() }
}

pub fn planes(values: &[f32]) -> fewstep_conditioning {
    floats(FEWSTEP_CONDITIONING_PLANES, values)
}

pub fn vectors(values: &[f32]) -> fewstep_conditioning {
    floats(FEWSTEP_CONDITIONING_VECTOR, values)
}

pub fn tokens(values: &[f32]) -> fewstep_conditioning {
    floats(FEWSTEP_CONDITIONING_TOKENS, values)
}

/// Off by no more than `tolerance` of the largest number.
pub fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let near = |a: f32, b: f32| (a - b).abs() <= tolerance * largest; // NaN is near nothing
    let far = found.iter().zip(expected).find(|(a, b)| !near(**a, **b));
    assert!(far.is_none(), "{what}: {far:?}, allowed {tolerance:e} of {largest:e}");
}

/// What a network makes of [2,8,8,C], without the C functions.
pub fn network(config: &str, seed: u64, pixels: &[f32], t: &[f32], given: Vec<Tensor>) -> fewstep::Result<Vec<f32>> {
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
    pub api: Api,
    pub runtime: *mut fewstep_runtime,
    models: RefCell<Vec<*mut fewstep_model>>,
    datasets: RefCell<Vec<*mut fewstep_dataset>>,
}

impl Host {
    pub fn new(api: Api, runtime: impl FnOnce(&Api) -> *mut fewstep_runtime) -> Self {
        Self { runtime: runtime(&api), api, models: RefCell::default(), datasets: RefCell::default() }
    }

    pub fn keep(&self, model: *mut fewstep_model) -> *mut fewstep_model {
        self.models.borrow_mut().push(model);
        model
    }

    pub fn keep_data(&self, dataset: *mut fewstep_dataset) -> *mut fewstep_dataset {
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
    pub fn create(&self, runtime: *const fewstep_runtime, config: &str, seed: u64) -> *mut fewstep_model {
        let mut out = null_mut();
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_model_create)(runtime, c(config).as_ptr(), null(), seed, &mut out) });
        out
    }

    pub fn model_info(&self, model: *const fewstep_model) -> fewstep_model_info {
        // SAFETY: plain data that the library fills.
        let mut info: fewstep_model_info = unsafe { std::mem::zeroed() };
        info.struct_size = size_of_val(&info) as u32;
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_model_get_info)(model, &mut info) });
        info
    }

    pub fn condition(&self, model: *const fewstep_model, index: usize) -> Result<fewstep_condition, i32> {
        // SAFETY: plain data that the library fills.
        let mut condition: fewstep_condition = unsafe { std::mem::zeroed() };
        condition.struct_size = size_of_val(&condition) as u32;
        // SAFETY: valid pointers.
        match unsafe { (self.fewstep_model_condition)(model, index, &mut condition) } {
            0 => Ok(condition),
            status => Err(status),
        }
    }

    pub fn evaluator(&self, runtime: *const fewstep_runtime, model: *const fewstep_model, batch: u32) -> (*mut fewstep_evaluator, fewstep_evaluator_info) {
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

    pub fn try_evaluate(&self, evaluator: *mut fewstep_evaluator, x_t: &[f32], t: &[f32], given: &[fewstep_conditioning], out: &mut [f32]) -> i32 {
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
    pub fn evaluate(&self, runtime: *const fewstep_runtime, model: *const fewstep_model, x_t: &[f32], t: &[f32], given: &[fewstep_conditioning]) -> Vec<f32> {
        let (evaluator, info) = self.evaluator(runtime, model, t.len() as u32);
        let mut out = vec![0f32; (info.batch * info.out_channels * info.height * info.width) as usize];
        self.ok(self.try_evaluate(evaluator, x_t, t, given, &mut out));
        // SAFETY: created above.
        self.ok(unsafe { (self.fewstep_evaluator_destroy)(evaluator) });
        out
    }

    pub fn sampler(&self, runtime: *const fewstep_runtime, model: *const fewstep_model, options: &fewstep_sampler_options) -> *mut fewstep_sampler {
        let mut sampler = null_mut();
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_sampler_create)(runtime, model, options, &mut sampler) });
        sampler
    }

    pub fn begin_options(&self, given: &[fewstep_conditioning]) -> fewstep_begin_options {
        // SAFETY: plain data that init fills.
        let mut begin: fewstep_begin_options = unsafe { std::mem::zeroed() };
        // SAFETY: a valid pointer.
        self.ok(unsafe { (self.fewstep_begin_options_init)(&mut begin, size_of_val(&begin)) });
        begin.seed = 5;
        (begin.conditionings, begin.conditioning_count) = (given.as_ptr(), given.len());
        begin
    }

    /// Room for a sampler's images.
    pub fn room(&self, sampler: *mut fewstep_sampler) -> Vec<f32> {
        // SAFETY: plain data that the library fills.
        let mut info: fewstep_sampler_info = unsafe { std::mem::zeroed() };
        info.struct_size = size_of_val(&info) as u32;
        // SAFETY: valid pointers.
        self.ok(unsafe { (self.fewstep_sampler_get_info)(sampler, &mut info) });
        vec![0f32; (info.batch * info.channels * info.height * info.width) as usize]
    }

    /// The images of a whole run with conditions.
    pub fn run(
        &self,
        runtime: *const fewstep_runtime,
        model: *const fewstep_model,
        options: &fewstep_sampler_options,
        given: &[fewstep_conditioning],
    ) -> Vec<f32> {
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
    pub fn run_again(&self, sampler: *mut fewstep_sampler, given: &[fewstep_conditioning]) -> Vec<f32> {
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
    pub fn images(&self, runtime: *const fewstep_runtime, count: usize, given: &[fewstep_conditioning]) -> *mut fewstep_dataset {
        self.sized_images(runtime, count, 8, given)
    }

    pub fn sized_images(&self, runtime: *const fewstep_runtime, count: usize, side: usize, given: &[fewstep_conditioning]) -> *mut fewstep_dataset {
        let mut out = null_mut();
        self.ok(self.try_images(runtime, count, side, given, &mut out));
        out
    }

    pub fn try_images(
        &self,
        runtime: *const fewstep_runtime,
        count: usize,
        side: usize,
        given: &[fewstep_conditioning],
        out: &mut *mut fewstep_dataset,
    ) -> i32 {
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
