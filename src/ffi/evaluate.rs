//! How good images are: several models on the same noises, and the yardsticks beside them.

use super::boundary::{check_out, choice, ffi_boundary, flag, slice, text, to_nhwc};
use super::callback::{FEWSTEP_PHASE_EVALUATE, Watch, fewstep_progress_callback};
use super::cancel::fewstep_cancel_token;
use super::conditioning::{self, Held, fewstep_conditioning};
use super::dataset::fewstep_dataset;
use super::error::fewstep_status;
use super::extent::{check_extent, read_size};
use super::guidance;
use super::handle::{Shared, create, share, share_optional};
use super::model::{ModelHandle, fewstep_model};
use super::options::{self, Item, Options, size_field};
use super::precision::{FEWSTEP_PRECISION_F32, precision};
use super::quality_report::{QualityHandle, fewstep_quality_report};
use super::runtime::fewstep_runtime;
use super::sampler_options::{FEWSTEP_CLIP_NONE, Spec, fewstep_sampler_options};
use super::trainer_options::FEWSTEP_CLIP_FROM_TEACHER;
use crate::diffusion::Clip;
use crate::distill::Dataset;
use crate::error::{Error, Result};
use crate::evaluate::{self, Sampling, Source};
use crate::memory;
use crate::nn::{ConditionKind, Model};
use std::ffi::{c_char, c_void};

/// The most sets of an evaluation, and bytes of a set's name.
const MAX_SETS: usize = 256;
const MAX_NAME: usize = 256;
/// The most samples of an evaluation: every pair of them is looked at.
const MAX_COUNT: u32 = 65_536;

/// How sets of images are evaluated. Fill it with fewstep_evaluate_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_evaluate_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Images of each set, 6 to 65536; 1024 by default. With fewer, what distributions say is mostly chance; the null shows it.
    pub count: u32,
    /// Images side by side; 64 by default.
    pub batch: u32,
    /// Height of the images; 0 (the default) for the teacher's.
    pub height: u32,
    /// Width of the images; 0 (the default) for the teacher's.
    pub width: u32,
    /// Steps of the teacher's reference: DDIM on the trailing grid with eta 0; 50 by default.
    pub reference_steps: u32,
    /// Seed of the noise: image i has the noise of (seed, i), as of a sampler's run that begins with this seed at index 0. 0 by default.
    pub seed: u64,
    /// FEWSTEP_PRECISION_*: what the teacher computes in; f32 by default.
    pub precision: i32,
    /// As in fewstep_sampler_options, of the teacher.
    pub null_label: i32,
    /// As in fewstep_sampler_options, of the teacher; 1 (the default) for none.
    pub guidance_scale: f64,
    /// What all models are given with the images, for `count` images. NULL by default: labels are drawn evenly by the seed, all else from the dataset's rows.
    pub conditionings: *const fewstep_conditioning,
    /// Elements of conditionings.
    pub conditioning_count: usize,
    /// Bytes from one conditioning to the next; sizeof(fewstep_conditioning).
    pub conditioning_stride: usize,
    /// What distributions are compared with: `count` of its images, or half of them where it has fewer than twice as many. NULL (the default) for the teacher's
    /// images of other noises. It also says which labels the classifier learns.
    pub dataset: *const fewstep_dataset,
    /// Stops the call with CANCELLED; only read during it. NULL (the default) for none.
    pub cancel: *const fewstep_cancel_token,
    /// 1 (the default): where the dataset has labels, a small classifier is trained on two thirds of it (400 steps of 64 images), and says how many images look
    /// like the class that they were asked for.
    pub classifier: i32,
    /// What the reference does to the image that it predicts in each step: FEWSTEP_CLIP_FROM_TEACHER (the default), or FEWSTEP_CLIP_NONE. Sets are best compared with
    /// a reference that clips as they do.
    pub reference_clip: i32,
}

/// A set of images to evaluate: those that a model makes, or the program's. Set every field; those that a later version adds may be 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_evaluate_set {
    /// Its name in the report, UTF-8 on one line, at most 256 bytes.
    pub name: *const c_char,
    /// The model that makes the images; NULL where they are given.
    pub model: *const fewstep_model,
    /// How the model is sampled; NULL for a few-step student's own grid. Of it batch, height, width and cancel are not read.
    pub sampler: *const fewstep_sampler_options,
    /// Images [count,C,H,W] where there is no model.
    pub images: *const f32,
    /// Elements of images.
    pub image_count: usize,
    /// Of given images, 1: they were made from the evaluation's own noises and conditionings, and are compared with the teacher's one by one; 0: they are not.
    pub paired: i32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_evaluate_options {
    const NAME: &'static str = "evaluate options";
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            count: 1024,
            batch: 64,
            height: 0,
            width: 0,
            reference_steps: 50,
            seed: 0,
            precision: FEWSTEP_PRECISION_F32,
            null_label: -1,
            guidance_scale: 1.0,
            conditionings: std::ptr::null(),
            conditioning_count: 0,
            conditioning_stride: size_of::<fewstep_conditioning>(),
            dataset: std::ptr::null(),
            cancel: std::ptr::null(),
            classifier: 1,
            reference_clip: FEWSTEP_CLIP_FROM_TEACHER,
        }
    }
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only, all zeros included.
unsafe impl Item for fewstep_evaluate_set {
    const NAME: &'static str = "sets";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// The sizes of an evaluation.
struct Extent {
    count: usize,
    batch: usize,
    size: [usize; 2],
    channels: usize,
}

impl Extent {
    fn read(o: &fewstep_evaluate_options, teacher: &Model) -> Result<Self> {
        if o.count == 0 || o.count > MAX_COUNT {
            return Err(Error::invalid(format!("count is {}; it must be 6 to {MAX_COUNT}", o.count)));
        }
        if o.batch == 0 {
            return Err(Error::invalid("batch is 0; it must be at least 1"));
        }
        let size = read_size(o.height, o.width)?.map_or_else(|| teacher.size(), Ok)?;
        let batch = o.batch.min(o.count) as usize;
        check_extent(teacher, batch, size)?;
        Ok(Self { count: o.count as usize, batch, size, channels: teacher.roles()?.channels })
    }
}

/// A set as it was read; what it borrows is held.
struct ReadSet<'a> {
    name: &'a str,
    model: Option<(Shared<'a, ModelHandle>, fewstep_sampler_options)>,
    /// [M,H,W,C] without a model.
    images: Vec<f32>,
    paired: bool,
}

impl<'a> ReadSet<'a> {
    /// # Safety
    /// The pointers in `set` are NULL, handles of ours, or arrays as their counts say.
    unsafe fn new(set: &fewstep_evaluate_set, i: usize, extent: &Extent) -> Result<Self> {
        let field = |name: &str| format!("sets[{i}].{name}");
        // SAFETY: as promised by the caller.
        let name = unsafe { text(set.name, &field("name"))? };
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!("{} has {} bytes; it must be 1 to {MAX_NAME} on one line", field("name"), name.len())));
        }
        let paired = flag(set.paired, &field("paired"))?;
        if set.reserved != 0 || set.model.is_null() == set.images.is_null() {
            return Err(Error::invalid(format!("sets[{i}] (\"{name}\") must have a model or images, not both, and reserved 0")));
        }
        let [h, w] = extent.size;
        if set.model.is_null() {
            // SAFETY: as promised by the caller.
            let images = unsafe { slice(set.images, set.image_count, &field("images"))? };
            let expected = super::boundary::product(&[extent.count, h, w, extent.channels], &field("images"))?;
            if images.len() != expected {
                let (found, shape) = (images.len(), [extent.count, extent.channels, h, w]);
                return Err(Error::shape(format!("{} is {found}; {shape:?} (N, C, H, W) has {expected} elements", field("image_count"))));
            }
            return Ok(Self { name, model: None, images: to_nhwc(images, [h, w, extent.channels], &field("images"))?, paired });
        }
        // SAFETY: as promised by the caller.
        let (model, sampler) = unsafe { (share(set.model)?, options::read(set.sampler)?) };
        let side = |n: usize| u32::try_from(n).map_err(|_| Error::shape(format!("images of {h}x{w} (height, width) are too large")));
        let sampler = fewstep_sampler_options { batch: side(extent.batch)?, height: side(h)?, width: side(w)?, ..sampler };
        Ok(Self { name, model: Some((model, sampler)), images: vec![], paired: true })
    }

    /// What the evaluation reads.
    ///
    /// # Safety
    /// As [`ReadSet::new`].
    unsafe fn source(&self) -> Result<Source<'_>> {
        let Some((model, sampler)) = &self.model else { return Ok(Source::Images { images: &self.images, paired: self.paired }) };
        // SAFETY: as promised by the caller.
        let Spec { table, precision, guidance, .. } = unsafe { Spec::new(sampler, &model.model).map_err(|e| e.context(self.name))? };
        Ok(Source::Model(Sampling { model: &model.model, table, precision, guidance }))
    }
}

/// What the options say, of a teacher and what was read beside them.
fn read<'a>(
    o: &fewstep_evaluate_options,
    extent: &Extent,
    teacher: &Model,
    dataset: Option<&'a Dataset>,
    given: &'a [(ConditionKind, Held)],
) -> Result<evaluate::Options<'a>> {
    super::grid::check_steps(o.reference_steps)?;
    Ok(evaluate::Options {
        count: extent.count,
        batch: extent.batch,
        size: extent.size,
        seed: o.seed,
        reference_steps: o.reference_steps as usize,
        reference_clip: choice(o.reference_clip, "reference_clip", &[(FEWSTEP_CLIP_FROM_TEACHER, None), (FEWSTEP_CLIP_NONE, Some(Clip::None))])?,
        precision: precision(o.precision)?,
        guidance: guidance::read(o.guidance_scale, o.null_label, 0, Some(teacher))?,
        given: memory::collect(given.iter().map(|(kind, held)| (*kind, held.values())), "conditionings")?,
        dataset,
        classifier: flag(o.classifier, "classifier")?,
    })
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_evaluate_options_init(options: *mut fewstep_evaluate_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Evaluates sets of images: every model samples the same noises with the same conditionings, and all sets are measured in the same ways (fewstep_quality). The
/// report has, before the `set_count` sets, the rows that they are to be read beside: what images of the reference get against others of it, twice (mean and
/// spread over four splits), and the teacher with its reference solver. Give further controls as sets: the teacher in as few steps as the student, a small net
/// trained from scratch, a student that only matches outputs. `sets` has `set_count` elements, at most 256, `set_stride` bytes apart
/// (sizeof(fewstep_evaluate_set)); it may have none. `options` may be NULL for the defaults. `progress` may be NULL and reports FEWSTEP_PHASE_EVALUATE.
///
/// Distributions are compared in features of a small convolutional net with random weights, the same for ever for images of one size: no number is an FID or a
/// KID of papers, and none is comparable but with others of this library at the same number of images. Time grows with the square of that: 1024 images take
/// about a second for each set, beside their sampling. Memory: a few sets of images at a time, and the teacher's states at the timesteps that few-step
/// sets land on.
///
/// The caller owns `*out` and gives it to fewstep_quality_report_destroy; it keeps the runtime alive. Any thread may call. Returns OK, INVALID_ARGUMENT (also
/// for a dataset of fewer than 12 images), SHAPE (sizes that do not fit together), NUMERIC (an image that is not finite), CANCELLED, UNSUPPORTED or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_evaluate(
    runtime: *const fewstep_runtime,
    teacher: *const fewstep_model,
    options: *const fewstep_evaluate_options,
    sets: *const fewstep_evaluate_set,
    set_count: usize,
    set_stride: usize,
    progress: fewstep_progress_callback,
    user: *mut c_void,
    out: *mut *mut fewstep_quality_report,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, teacher) = (share(runtime)?, share(teacher)?);
        check_out(out, "out")?;
        let o = options::read(options)?;
        let watch = Watch::new(progress, user, o.cancel)?;
        let dataset = share_optional(o.dataset)?;
        let extent = Extent::read(&o, &teacher.model)?;
        let given = conditioning::read(o.conditionings, o.conditioning_count, o.conditioning_stride, extent.count, extent.size)?;
        let options = read(&o, &extent, &teacher.model, dataset.as_ref().map(|d| &d.dataset), &given)?;
        let items = options::array(sets, set_count, set_stride, MAX_SETS)?;
        let sets = memory::try_collect(items.iter().enumerate().map(|(i, set)| ReadSet::new(set, i, &extent)), "sets")?;
        let rows = memory::try_collect(sets.iter().map(|set| Ok((set.name, set.source()?))), "sets")?;
        create(out, || {
            let found = watch.counting(FEWSTEP_PHASE_EVALUATE, |report| {
                evaluate::evaluate(runtime.backend.as_ref(), &teacher.model, &options, &rows, report, watch.stop(&runtime))
            });
            QualityHandle::new(runtime.clone(), found?)
        })
    })
}
