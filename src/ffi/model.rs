//! Models: opened, created, derived, saved and asked.

use super::boundary::{check_out, choice, ffi_boundary, optional_text, path, put, slice, slice_mut, text};
use super::cancel::{Cancel, fewstep_cancel_token};
use super::conditioning::fewstep_condition;
use super::error::fewstep_status;
use super::grid::{fewstep_step_pair, read_grid};
use super::handle::{self, Opaque, create, share};
use super::options::{self, Options, Report, check_report, size_field, write_report};
use super::runtime::{FEWSTEP_LOG_WARNING, Runtime, fewstep_runtime};
use crate::diffusion::Prediction;
use crate::distill::{Copied, StudentOptions, derive};
use crate::error::{Error, Result};
use crate::io::{SchedulerConfig, json};
use crate::nn::{Model, PerStep, families};
use serde_json::{Map, Value};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// The network predicts the noise (epsilon).
pub const FEWSTEP_PREDICTION_EPSILON: i32 = 1;
/// The network predicts the clean image.
pub const FEWSTEP_PREDICTION_SAMPLE: i32 = 2;
/// The network predicts the velocity v; what a few-step student should predict.
pub const FEWSTEP_PREDICTION_V: i32 = 3;

/// A student begins at random.
pub const FEWSTEP_COPY_NOTHING: i32 = 0;
/// A student begins with the teacher's tensors of the same role and shape. Of a UNet2DModel with fewer blocks the roles are those of BK-SDM: of a down stage
/// the last blocks are left out, of an up stage those in the middle; with fewer stages the innermost ones.
pub const FEWSTEP_COPY_SAME_SHAPE: i32 = 1;
/// The same, and of a tensor with more channels those that matter most. A channel matters as much as the squares of all weights that make it or read it, those
/// behind a group norm times the norm's scale. It is left out everywhere or nowhere: in convolutions, norms, skip connections and additions alike. Every group
/// of a norm keeps as many of its own channels as the student's groups have, and attention whole heads where these are as wide as the teacher's. What reads a
/// timestep's sines and cosines is fitted to the fewer that there are, by least squares over the schedule.
pub const FEWSTEP_COPY_CHANNELS: i32 = 2;

const COPIES: [(i32, Copied); 3] =
    [(FEWSTEP_COPY_NOTHING, Copied::Nothing), (FEWSTEP_COPY_SAME_SHAPE, Copied::SameShape), (FEWSTEP_COPY_CHANNELS, Copied::Channels)];

pub(super) const PREDICTIONS: [(i32, Prediction); 3] =
    [(FEWSTEP_PREDICTION_EPSILON, Prediction::Epsilon), (FEWSTEP_PREDICTION_SAMPLE, Prediction::Sample), (FEWSTEP_PREDICTION_V, Prediction::VPrediction)];

/// All steps of a student share all parameters.
pub const FEWSTEP_PER_STEP_NONE: i32 = 0;
/// Each step of a student's grid has the biases of all layers, and the scales and shifts of all norms, of its own; they begin alike and learn with the rest.
pub const FEWSTEP_PER_STEP_BIASES_AND_NORMS: i32 = 1;

const PER_STEP: [(i32, PerStep); 2] = [(FEWSTEP_PER_STEP_NONE, PerStep::None), (FEWSTEP_PER_STEP_BIASES_AND_NORMS, PerStep::BiasesAndNorms)];

/// Architecture, weights, and how they are meant to be sampled. Immutable: any number of trainers and samplers may use one model, on many threads.
pub struct fewstep_model {
    _private: [u8; 0],
}

/// How a student differs from its teacher. Fill it with fewstep_student_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_student_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// FEWSTEP_PREDICTION_*: what the student predicts; v by default.
    pub prediction: i32,
    /// JSON, the keys of config.json that differ from the teacher's, with their values: {"block_out_channels": [32, 64], "layers_per_block": 1}. A key that the
    /// network does not have is refused; null is the value null. Of a UNet2DModel fewer block_out_channels than the teacher's drop the innermost stages, so
    /// that the types of the others stay; to drop attention, give down_block_types, up_block_types and add_attention; for linear attention, whose time grows with
    /// the pixels instead of their square, the types "LinearAttnDownBlock2D", "LinearAttnUpBlock2D" and mid_block_type "UNetMidBlock2DLinearAttn", which
    /// diffusers does not have. NULL (the default) for the teacher's architecture. Copied.
    pub config_patch: *const c_char,
    /// FEWSTEP_COPY_*: which of the teacher's weights the student begins with; FEWSTEP_COPY_NOTHING by default. What is not copied begins at random.
    pub copy_weights: i32,
    /// The student's sampler steps, evenly spread from the noisiest timestep ("trailing"); 0 (the default) for none yet, or when `pairs` is given.
    pub steps: u32,
    /// Seed of the random weights.
    pub seed: u64,
    /// The student's grid, explicitly: each pair starts where the one before it ended. NULL by default.
    pub pairs: *const fewstep_step_pair,
    /// Elements of pairs, at most 1000.
    pub pair_count: usize,
    /// Bytes from one pair to the next; sizeof(fewstep_step_pair).
    pub pair_stride: usize,
    /// Stops fewstep_model_derive_student with CANCELLED; only read during that call. NULL (the default) for none.
    pub cancel: *const fewstep_cancel_token,
    /// FEWSTEP_PER_STEP_*: what each step of the student's grid, which must be given, has of its own; NONE by default. Such a student has nothing for other
    /// timesteps: it is trained by objectives on its grid's steps (not OUTPUT, not DENOISE) and sampled with FEWSTEP_SAMPLER_FROM_MODEL, in as much time as
    /// any other; it is saved as one file, is no teacher, and is not quantised to whole numbers.
    pub per_step_weights: i32,
    /// 0.
    pub reserved: u32,
}

/// What a model is. Set struct_size before fewstep_model_get_info fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_model_info {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// FEWSTEP_PREDICTION_*.
    pub prediction: i32,
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes of the weights in memory, each in the type of the model's file: four for f32, two for f16 and bf16, one in a quantised layer.
    pub weight_bytes: u64,
    /// Channels that the network reads: those of x_t, and of planes beside it.
    pub in_channels: u32,
    /// Channels that the network gives: those of x_t, or twice as many where it gives a variance behind its prediction.
    pub out_channels: u32,
    /// Height that the config names, 0 when it names none.
    pub height: u32,
    /// Width that the config names, 0 when it names none.
    pub width: u32,
    /// Heights and widths must be multiples of this.
    pub size_multiple: u32,
    /// Classes of a class-conditional model, which needs a label for each image; 0 for a model without labels.
    pub classes: u32,
    /// Steps of a few-step student's own grid; 0 for other models.
    pub steps: u32,
    /// Training timesteps of the noise schedule.
    pub num_train_timesteps: u32,
    /// Channels of the images that are sampled (x_t); 0 for a model that cannot be sampled, because its network gives another number of channels.
    pub channels: u32,
    /// What the model takes beside images and timesteps: how many conditions fewstep_model_condition lists.
    pub conditions: u32,
    /// Layers that compute in whole numbers: of a model that fewstep_quantize made, or that was opened from the file of such a one; 0 for other models.
    pub quantized_layers: u32,
    /// FEWSTEP_PER_STEP_*: what each step of a few-step student's grid has of its own; NONE for other models.
    pub per_step_weights: i32,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_student_options {
    const NAME: &'static str = "student options";
    const FIRST_SIZE: usize = std::mem::offset_of!(Self, per_step_weights);
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            prediction: FEWSTEP_PREDICTION_V,
            config_patch: std::ptr::null(),
            copy_weights: FEWSTEP_COPY_NOTHING,
            steps: 0,
            seed: 0,
            pairs: std::ptr::null(),
            pair_count: 0,
            pair_stride: size_of::<fewstep_step_pair>(),
            cancel: std::ptr::null(),
            per_step_weights: FEWSTEP_PER_STEP_NONE,
            reserved: 0,
        }
    }
}

// SAFETY: repr(C), numbers only, no gap.
unsafe impl Report for fewstep_model_info {
    const NAME: &'static str = "model info";
    const FIRST_SIZE: usize = std::mem::offset_of!(Self, channels);
}

/// What a model handle owns.
pub(crate) struct ModelHandle {
    /// Kept alive.
    pub(crate) runtime: Arc<Runtime>,
    /// The model itself; children share it.
    pub(crate) model: Arc<Model>,
}

impl Opaque for fewstep_model {
    type Inner = ModelHandle;
    const NAME: &'static str = "model";
    const TAG: u64 = u64::from_le_bytes(*b"fs.model");
}

impl ModelHandle {
    /// Wraps a model and logs what was odd about it.
    pub(crate) fn new(runtime: Arc<Runtime>, model: Model) -> Self {
        model.warnings.iter().for_each(|w| runtime.log(FEWSTEP_LOG_WARNING, w));
        Self { runtime, model: Arc::new(model) }
    }

    fn info(&self) -> fewstep_model_info {
        let model = &self.model;
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let signature = model.network.signature();
        let [height, width] = signature.size.unwrap_or_default();
        let roles = model.roles().ok();
        let prediction = PREDICTIONS.iter().find(|(_, p)| *p == model.scheduler.prediction());
        fewstep_model_info {
            struct_size: size_field::<fewstep_model_info>(),
            prediction: prediction.map_or(0, |(number, _)| *number),
            parameters: model.parameter_count() as u64,
            weight_bytes: model.weights.values().map(|t| t.bytes().len() as u64).sum(),
            in_channels: narrow(signature.in_channels),
            out_channels: narrow(signature.out_channels),
            height: narrow(height),
            width: narrow(width),
            size_multiple: narrow(signature.size_multiple),
            classes: narrow(model.classes().unwrap_or(0)),
            steps: narrow(model.student.as_ref().map_or(0, |s| s.pairs.len())),
            num_train_timesteps: narrow(model.scheduler.num_train_timesteps),
            channels: narrow(roles.as_ref().map_or(0, |r| r.channels)),
            conditions: narrow(roles.as_ref().map_or(0, |r| r.conditions.len())),
            quantized_layers: narrow(model.quantization.as_ref().map_or(0, |q| q.layers.len())),
            per_step_weights: PER_STEP.iter().find(|(_, own)| *own == model.per_step()).map_or(FEWSTEP_PER_STEP_NONE, |(number, _)| *number),
        }
    }
}

/// # Safety
/// The pointers in `options` are NULL or arrays as their counts say.
unsafe fn student_options(options: &fewstep_student_options, teacher: &Model) -> Result<StudentOptions> {
    // SAFETY: as promised by the caller.
    let config_patch = match unsafe { optional_text(options.config_patch, "config_patch")? } {
        None => Map::new(),
        Some(text) => match json::parse(text, "config_patch")? {
            Value::Object(patch) => patch,
            other => return Err(Error::invalid(format!("config_patch: expected an object, found {}", json::describe(&other)))),
        },
    };
    if options.reserved != 0 {
        return Err(Error::invalid("student options: reserved must be 0"));
    }
    Ok(StudentOptions {
        config_patch,
        prediction: choice(options.prediction, "prediction", &PREDICTIONS)?,
        weights: choice(options.copy_weights, "copy_weights", &COPIES)?,
        seed: options.seed,
        per_step: choice(options.per_step_weights, "per_step_weights", &PER_STEP)?,
        // SAFETY: as promised by the caller.
        pairs: unsafe { read_grid(teacher.scheduler.num_train_timesteps, options.steps, options.pairs, options.pair_count, options.pair_stride)? },
    })
}

/// Opens a model: a diffusers folder or a file of fewstep_model_save_file. `path` is UTF-8.
///
/// The folder may be a pipeline's (with `unet/` and `scheduler/`), a flat one, that of a network alone (`unet`, `unet_ema`), a hub cache's, or one with a
/// single model below it; any file of a model stands for the model. Weights are safetensors of f32, f16, bf16 or f64, in one file or in shards with their
/// index. Where there is no plain file, a variant is taken: `ema`, `fp16`, `bf16`, `non_ema`, or else the only safetensors file; fewstep_model_open_variant
/// names one. They stay in the type that they have there, f16 and bf16 at half the memory of f32 (f64 becomes f32), and everything that reads them computes
/// as if they were f32. Names may begin with `module.` or `_orig_mod.`. A network without a scheduler_config.json takes that of the folders above it.
///
/// What was chosen, found elsewhere than expected or assumed (DDIM's defaults where no scheduler is found) and oddities, such as unknown keys of a config,
/// go to the runtime's log as warnings, each with the names of the files.
///
/// A folder that fewstep_model_save wrote names its files by their SHA-256 in `fewstep.json`. One with a file that is another is refused, CORRUPT_FILE: it
/// would be a mixture of two models. Where the change was meant, delete `fewstep.json`, or only its "parts" to keep a student's grid. Folders without such
/// hashes open as they are. A save that was killed after its commit is finished if the folder can be written to and no link leads out of it; if not, the
/// new model is read all the same. Where others have written into the folder after such a save, it is refused, CORRUPT_FILE, with the ways out.
///
/// The caller owns `*out` and gives it to fewstep_model_destroy; it keeps the runtime alive. Any thread may call, also while the folder is saved into: what
/// opens is the model before or after.
/// Returns OK, INVALID_ARGUMENT, NOT_FOUND (no such file or tensor), IO, CORRUPT_FILE (also a Git LFS pointer), SHAPE (a tensor of the wrong shape),
/// UNSUPPORTED (another model class or option, pickled weights, whole numbers without a record of what they stand for), VERSION_MISMATCH (a file of a later
/// fewstep), NUMERIC (weights that are not finite) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_open(runtime: *const fewstep_runtime, path: *const c_char, out: *mut *mut fewstep_model) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        let path = self::path(path, "path")?;
        create(out, || Ok(ModelHandle::new(runtime.clone(), Model::open(path)?)))
    })
}

/// Opens a model folder with the weights of one variant: `diffusion_pytorch_model.fp16.safetensors` is "fp16", in one file or in shards. "" is the plain
/// file and nothing else; NULL leaves the choice to fewstep_model_open. `path` is a folder.
///
/// Ownership, threads and codes as fewstep_model_open; NOT_FOUND where the folder has no such variant (the sentence names those that it has).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_open_variant(
    runtime: *const fewstep_runtime,
    path: *const c_char,
    variant: *const c_char,
    out: *mut *mut fewstep_model,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        let (path, variant) = (self::path(path, "path")?, optional_text(variant, "variant")?);
        create(out, || Ok(ModelHandle::new(runtime.clone(), variant.map_or_else(|| Model::open(path), |v| Model::open_variant(path, v))?)))
    })
}

/// The same from the bytes of a file of fewstep_model_save_file, which are copied: for models that ship inside another file.
///
/// Ownership, threads and codes as fewstep_model_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_open_buffer(
    runtime: *const fewstep_runtime,
    data: *const c_void,
    size: usize,
    out: *mut *mut fewstep_model,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        if data.is_null() {
            return Err(super::boundary::null("data"));
        }
        let bytes = slice(data.cast::<u8>(), size, "data")?;
        create(out, || Ok(ModelHandle::new(runtime.clone(), Model::from_bytes(bytes)?)))
    })
}

/// The same from the files of a diffusers folder in memory: the texts of `config.json` and `scheduler_config.json` (NULL for diffusers' defaults) and the
/// bytes of the safetensors file. Everything is copied. A few-step student's grid is in none of them, nor what the numbers of a quantised model stand for,
/// which are UNSUPPORTED here: open such models with fewstep_model_open_buffer, from the bytes of a file of fewstep_model_save_file.
///
/// Ownership, threads and codes as fewstep_model_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_open_memory(
    runtime: *const fewstep_runtime,
    config_json: *const c_char,
    scheduler_json: *const c_char,
    weights: *const c_void,
    weights_size: usize,
    out: *mut *mut fewstep_model,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        let (config, scheduler) = (text(config_json, "config_json")?, optional_text(scheduler_json, "scheduler_json")?);
        if weights.is_null() {
            return Err(super::boundary::null("weights"));
        }
        let bytes = slice(weights.cast::<u8>(), weights_size, "weights")?;
        create(out, || Ok(ModelHandle::new(runtime.clone(), Model::from_memory(config, scheduler, bytes)?)))
    })
}

/// Creates a model with random weights, as PyTorch would initialise it, from the text of a diffusers `config.json` and of a `scheduler_config.json`
/// (NULL for DDIM's defaults). The weights are a function of `seed`.
///
/// Ownership and threads as fewstep_model_open. Returns OK, INVALID_ARGUMENT, CORRUPT_FILE (text that is not JSON), UNSUPPORTED, CANCELLED (by the runtime's
/// token) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_create(
    runtime: *const fewstep_runtime,
    config_json: *const c_char,
    scheduler_json: *const c_char,
    seed: u64,
    out: *mut *mut fewstep_model,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let runtime = share(runtime)?;
        let (config, scheduler) = (text(config_json, "config_json")?, optional_text(scheduler_json, "scheduler_json")?);
        create(out, || {
            let network = families::parse(config, "config_json")?;
            let scheduler = scheduler.map_or_else(|| Ok(SchedulerConfig::default()), |text| SchedulerConfig::parse(text, "scheduler_json"))?;
            let warnings = [network.unknown().warnings.clone(), scheduler.warnings.clone()].concat();
            let model = Model { warnings, ..Model::create_until(network, scheduler, seed, runtime.stop())? };
            Ok(ModelHandle::new(runtime.clone(), model))
        })
    })
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_student_options_init(options: *mut fewstep_student_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Makes an initial student of a teacher: a smaller architecture, random or copied weights, and the grid that it will be trained for. `options` may be
/// NULL for the teacher's own architecture. Its weights are f32, whatever the teacher's are stored in.
///
/// Ownership and threads as fewstep_model_open. Returns OK, INVALID_ARGUMENT, CORRUPT_FILE (a config_patch that is not JSON), UNSUPPORTED, CANCELLED or
/// OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_derive_student(
    runtime: *const fewstep_runtime,
    teacher: *const fewstep_model,
    options: *const fewstep_student_options,
    out: *mut *mut fewstep_model,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, teacher) = (share(runtime)?, share(teacher)?);
        let options = options::read(options)?;
        let cancel = Cancel::new(options.cancel)?;
        let options = student_options(&options, &teacher.model)?;
        create(out, || Ok(ModelHandle::new(runtime.clone(), derive(&teacher.model, &options, runtime.stop_or(&cancel))?)))
    })
}

/// Saves a model as a diffusers folder that `DDIMPipeline.from_pretrained` opens and fewstep_model_open reads back. The folder is created. `path` is UTF-8.
/// Weights are written in the types that the model holds them in: one of a file of f16 is saved as f16. fewstep_quantize makes a model of f16 or bfloat16 of one
/// in f32.
///
/// The folder is saved as a whole: if the call fails, or the process or the machine dies meanwhile, it holds the model that was there before or the new one,
/// never a mixture. Other files in it stay, but for the shards of an older model. Links among its files are followed, modes are kept; a file of the
/// model's whose place is taken by something else, such as a pipe or a folder, is refused with IO. Two savers of one folder wait for each other, for at
/// most a minute (not on file systems without locks: there a mixture is possible, and refused when it is opened). The old and the new model lie side
/// by side for a moment: the disk needs room for both.
///
/// Any thread may call, also while others use the model. Returns OK, INVALID_ARGUMENT, UNSUPPORTED (a quantised model, parameters of
/// each step, or a grid, that diffusers cannot express: use fewstep_model_save_file; a config of more text than is read), NUMERIC (a weight that is not finite,
/// which could not be opened again; nothing is written), IO, NOT_FOUND, VERSION_MISMATCH (an unfinished save of a later fewstep) or OUT_OF_MEMORY. After IO the
/// sentence tells whether the new model is already the one that opens (it could not be put into place whole, and the next save or opening goes on) or the old
/// one still is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_save(model: *const fewstep_model, path: *const c_char) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let model = share(model)?;
        model.model.save(self::path(path, "path")?)
    })
}

/// Saves a model as one file, whatever its grid: safetensors with the configs in its metadata, which fewstep_model_open and fewstep_model_open_buffer
/// read back. It appears whole or not at all. `path` is UTF-8. Weights are written as fewstep_model_save does.
///
/// Any thread may call, also while others use the model. Returns OK, INVALID_ARGUMENT, UNSUPPORTED (a config of more text than is read), NUMERIC (a weight
/// that is not finite, which could not be opened again; nothing is written), IO, NOT_FOUND (no such folder) or OUT_OF_MEMORY; what holds for all files that are
/// written, and what IO means, is at the top of this header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_save_file(model: *const fewstep_model, path: *const c_char) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let model = share(model)?;
        model.model.save_file(self::path(path, "path")?)
    })
}

/// Fills `*out`, whose struct_size the caller has set.
///
/// Any thread may call, also while others use the model. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_get_info(model: *const fewstep_model, out: *mut fewstep_model_info) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let model = share(model)?;
        let size = check_report(out)?;
        write_report(out, size, model.info());
        Ok(())
    })
}

/// The `index`th of what a model takes beside images and timesteps: fills `*out`, whose struct_size the caller has set. fewstep_model_info tells how many there
/// are.
///
/// Any thread may call, also while others use the model. Returns OK, INVALID_ARGUMENT (also for an index beyond the last) or UNSUPPORTED (a model that cannot
/// be sampled).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_condition(model: *const fewstep_model, index: usize, out: *mut fewstep_condition) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let model = share(model)?;
        let size = check_report(out)?;
        let conditions = model.model.roles()?.conditions;
        let missing = || Error::invalid(format!("index is {index}; the model takes {} conditions", conditions.len()));
        write_report(out, size, fewstep_condition::of(conditions.get(index).ok_or_else(missing)?));
        Ok(())
    })
}

/// The grid of a few-step student: writes its pairs to `pairs` and their number to `*count`; 0 for other models. With `pairs` NULL and `capacity` 0 only
/// the number is written.
///
/// Any thread may call, also while others use the model. Returns OK, INVALID_ARGUMENT, or SHAPE (capacity is too small).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_pairs(model: *const fewstep_model, pairs: *mut fewstep_step_pair, capacity: usize, count: *mut usize) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let model = share(model)?;
        check_out(count, "count")?;
        let own: &[(i64, i64)] = model.model.student.as_ref().map_or(&[], |s| &s.pairs);
        if !pairs.is_null() || capacity != 0 {
            if capacity < own.len() {
                return Err(Error::shape(format!("the model has {} pairs, capacity is {capacity}", own.len())));
            }
            let narrow = |n: i64| i32::try_from(n).map_err(|_| Error::corrupt(format!("timestep {n} of the model's grid is too large")));
            for (to, from) in slice_mut(pairs, own.len(), "pairs")?.iter_mut().zip(own) {
                *to = fewstep_step_pair { t: narrow(from.0)?, t_next: narrow(from.1)? };
            }
        }
        put(count, own.len());
        Ok(())
    })
}

/// Destroys a model. NULL is fine. Trainers and samplers made from it keep what they need.
///
/// Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the model (nothing happens then).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_destroy(model: *mut fewstep_model) -> fewstep_status {
    // SAFETY: `model` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe { handle::destroy(model) })
}
