//! What fixes a sampling run, as C gives it, and its translation into a table of constants.

use super::boundary::{choice, flag};
use super::cancel::fewstep_cancel_token;
use super::conditioning::fewstep_conditioning;
use super::extent::{check_extent, read_size};
use super::grid::{check_steps, fewstep_step_pair, read_grid};
use super::guidance;
use super::options::{Options, size_field};
use super::precision::{FEWSTEP_PRECISION_F32, precision};
use crate::diffusion::{Algorithm, Clip, DdimConfig, DpmConfig, FinalSigma, PrevRule, SamplerConfig, SigmaSpread, SolverType, Spacing, Table};
use crate::error::{Error, Result};
use crate::nn::{Guidance, Model};
use crate::tensor::DType;
use std::mem::offset_of;

/// What the model says: a few-step student's own grid, or the sampler of its scheduler config, step for step as diffusers runs it. Known are DDIM, DPM-Solver++,
/// Euler, Euler ancestral, DDPM, PNDM, LCM and UniPC (orders 1 to 3), each with its class's options; DDIMParallel and DDPMParallel are their plain ones. Every
/// other class with betas opens too, and so can be a teacher, but to sample it by this kind is UNSUPPORTED: choose one of the other kinds. Euler's images are
/// x_0 + sigma noise until its last step: it starts from unit noise times the first sigma, also where noise is given. Some runs evaluate the network more often
/// than they have steps, and each is a step of the sampler: PNDM's once more (but for one step), nine times more with its Runge-Kutta steps; Euler's once more
/// where its config has log_linear and continuous times; those of Euler, DPM-Solver++ (of its own kind too) and UniPC with trailing spacing once more, at
/// timestep -1, for the few numbers of steps (61 and 122 of 1000) where diffusers' rounding makes one more.
pub const FEWSTEP_SAMPLER_FROM_MODEL: i32 = 0;
/// DDIM.
pub const FEWSTEP_SAMPLER_DDIM: i32 = 1;
/// DPM-Solver++ and its relatives, multistep.
pub const FEWSTEP_SAMPLER_DPM_SOLVER_PP: i32 = 2;

/// The predicted image is used as it is.
pub const FEWSTEP_CLIP_NONE: i32 = 0;
/// The predicted image is clamped to -clip_range .. clip_range.
pub const FEWSTEP_CLIP_RANGE: i32 = 1;
/// Dynamic thresholding with threshold_ratio and threshold_max.
pub const FEWSTEP_CLIP_DYNAMIC: i32 = 2;

/// Multiples of T/N from 0.
pub const FEWSTEP_SPACING_LEADING: i32 = 1;
/// Multiples of T/N counted from T; the right one for few steps.
pub const FEWSTEP_SPACING_TRAILING: i32 = 2;
/// Equal parts, both ends included.
pub const FEWSTEP_SPACING_LINSPACE: i32 = 3;

/// Second-order steps by the midpoint rule.
pub const FEWSTEP_SOLVER_MIDPOINT: i32 = 1;
/// Second-order steps by Heun's rule.
pub const FEWSTEP_SOLVER_HEUN: i32 = 2;

/// dpmsolver++.
pub const FEWSTEP_ALGORITHM_DPM_SOLVER_PP: i32 = 1;
/// sde-dpmsolver++.
pub const FEWSTEP_ALGORITHM_SDE_DPM_SOLVER_PP: i32 = 2;
/// dpmsolver.
pub const FEWSTEP_ALGORITHM_DPM_SOLVER: i32 = 3;
/// sde-dpmsolver.
pub const FEWSTEP_ALGORITHM_SDE_DPM_SOLVER: i32 = 4;

/// The noise levels of the timesteps.
pub const FEWSTEP_SIGMAS_SCHEDULE: i32 = 1;
/// Karras' spread.
pub const FEWSTEP_SIGMAS_KARRAS: i32 = 2;
/// Exponential spread.
pub const FEWSTEP_SIGMAS_EXPONENTIAL: i32 = 3;
/// Quantiles of a beta distribution.
pub const FEWSTEP_SIGMAS_BETA: i32 = 4;
/// Lu's spread.
pub const FEWSTEP_SIGMAS_LU: i32 = 5;

/// The last step ends at the clean image.
pub const FEWSTEP_FINAL_SIGMA_ZERO: i32 = 1;
/// The last step ends at the smallest noise level of the schedule.
pub const FEWSTEP_FINAL_SIGMA_MIN: i32 = 2;

/// How a model is sampled. Fill it with fewstep_sampler_options_init, then change fields. With FEWSTEP_SAMPLER_FROM_MODEL and no pairs, only steps, batch,
/// height, width, precision, guidance and cancel are read, and eta where the model's scheduler is DDIM or the grid a few-step student's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_sampler_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// FEWSTEP_SAMPLER_*; what the model says by default.
    pub kind: i32,
    /// Number of steps, as diffusers counts them. 0 (the default) for the number of pairs, or with FEWSTEP_SAMPLER_FROM_MODEL for a few-step student's own.
    pub steps: u32,
    /// Images side by side; 1 by default.
    pub batch: u32,
    /// Height of the images; 0 (the default) for the model's.
    pub height: u32,
    /// Width of the images; 0 (the default) for the model's.
    pub width: u32,
    /// An explicit grid, sampled with DDIM; NULL by default. With it spacing, steps_offset, diffusers_prev, set_alpha_to_one and use_clipped_model_output
    /// are not read, and steps is 0 or the number of pairs.
    pub pairs: *const fewstep_step_pair,
    /// Elements of pairs, at most 1000.
    pub pair_count: usize,
    /// Bytes from one pair to the next; sizeof(fewstep_step_pair).
    pub pair_stride: usize,
    /// DDIM: share of fresh noise, 0 (the default, deterministic) to 1.
    pub eta: f64,
    /// FEWSTEP_CLIP_RANGE: 1 by default.
    pub clip_range: f64,
    /// FEWSTEP_CLIP_DYNAMIC: quantile; 0.995 by default.
    pub threshold_ratio: f64,
    /// FEWSTEP_CLIP_DYNAMIC: upper bound; 1 by default.
    pub threshold_max: f64,
    /// DPM-Solver: timesteps with a lower half log signal-to-noise ratio are not visited; -infinity (the default) visits all.
    pub lambda_min_clipped: f64,
    /// FEWSTEP_CLIP_*; none by default.
    pub clip: i32,
    /// FEWSTEP_SPACING_*; trailing by default.
    pub spacing: i32,
    /// Added to the timesteps of leading spacing; 0 by default.
    pub steps_offset: i32,
    /// DDIM: 1 lands each step on t - T/N as diffusers' DDIMScheduler does, whatever the grid says; for agreement with diffusers, not for quality. 0 by
    /// default.
    pub diffusers_prev: i32,
    /// DDIM: 1 (the default) ends at the clean image, 0 at the noise level of timestep 0.
    pub set_alpha_to_one: i32,
    /// DDIM: 1 derives the noise again from the clipped image; 0 by default.
    pub use_clipped_model_output: i32,
    /// DPM-Solver: 1 to 3; 2 by default.
    pub solver_order: u32,
    /// DPM-Solver: FEWSTEP_SOLVER_*; midpoint by default.
    pub solver_type: i32,
    /// DPM-Solver: FEWSTEP_ALGORITHM_*; dpmsolver++ by default.
    pub algorithm: i32,
    /// DPM-Solver: FEWSTEP_SIGMAS_*; the schedule's by default.
    pub sigmas: i32,
    /// DPM-Solver: FEWSTEP_FINAL_SIGMA_*; zero by default.
    pub final_sigma: i32,
    /// DPM-Solver: 1 (the default) lowers the order at the end of runs of fewer than 15 steps.
    pub lower_order_final: i32,
    /// DPM-Solver: 1 takes the last step at order 1; 0 by default.
    pub euler_at_final: i32,
    /// FEWSTEP_PRECISION_*: what the network computes in; f32 by default. The images stay f32.
    pub precision: i32,
    /// Stops fewstep_sampler_create, and all of fewstep_sample, with CANCELLED; only read during that call. NULL (the default) for none.
    pub cancel: *const fewstep_cancel_token,
    /// Classifier-free guidance: the prediction is that of null_label plus guidance_scale times how much that of the image's label differs from it. 1 (the
    /// default) for none; any other needs a model with classes, and evaluates the network twice a step.
    pub guidance_scale: f64,
    /// The class that the model was trained to read as none; -1 (the default) for not given.
    pub null_label: i32,
    /// 0.
    pub reserved: u32,
}

/// What a sampling run starts from. Fill it with fewstep_begin_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_begin_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Index of the batch's first image; the others follow. The noise of an image is a function of seed and index, whatever the batch and its place in
    /// it. 0 by default.
    pub first_index: u32,
    /// Seed of the noise; 0 by default.
    pub seed: u64,
    /// Index of each image, instead of first_index; NULL by default.
    pub indices: *const u32,
    /// Elements of indices: the batch, or 0.
    pub index_count: usize,
    /// Conditionings; all that fewstep_model_condition lists. NULL by default.
    pub conditionings: *const fewstep_conditioning,
    /// Elements of conditionings.
    pub conditioning_count: usize,
    /// Bytes from one conditioning to the next; sizeof(fewstep_conditioning).
    pub conditioning_stride: usize,
    /// Initial noise [N,C,H,W] that replaces the drawn one, unit normal whatever the sampler; NULL by default.
    pub noise: *const f32,
    /// Elements of noise: N*C*H*W, or 0.
    pub noise_count: usize,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_sampler_options {
    const NAME: &'static str = "sampler options";
    const FIRST_SIZE: usize = offset_of!(Self, cancel);
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            kind: FEWSTEP_SAMPLER_FROM_MODEL,
            steps: 0,
            batch: 1,
            height: 0,
            width: 0,
            pairs: std::ptr::null(),
            pair_count: 0,
            pair_stride: size_of::<fewstep_step_pair>(),
            eta: 0.0,
            clip_range: 1.0,
            threshold_ratio: 0.995,
            threshold_max: 1.0,
            lambda_min_clipped: f64::NEG_INFINITY,
            clip: FEWSTEP_CLIP_NONE,
            spacing: FEWSTEP_SPACING_TRAILING,
            steps_offset: 0,
            diffusers_prev: 0,
            set_alpha_to_one: 1,
            use_clipped_model_output: 0,
            solver_order: 2,
            solver_type: FEWSTEP_SOLVER_MIDPOINT,
            algorithm: FEWSTEP_ALGORITHM_DPM_SOLVER_PP,
            sigmas: FEWSTEP_SIGMAS_SCHEDULE,
            final_sigma: FEWSTEP_FINAL_SIGMA_ZERO,
            lower_order_final: 1,
            euler_at_final: 0,
            precision: FEWSTEP_PRECISION_F32,
            cancel: std::ptr::null(),
            guidance_scale: 1.0,
            null_label: -1,
            reserved: 0,
        }
    }
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_begin_options {
    const NAME: &'static str = "begin options";
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            first_index: 0,
            seed: 0,
            indices: std::ptr::null(),
            index_count: 0,
            conditionings: std::ptr::null(),
            conditioning_count: 0,
            conditioning_stride: size_of::<fewstep_conditioning>(),
            noise: std::ptr::null(),
            noise_count: 0,
        }
    }
}

/// A run's constants, batch and image size.
pub(super) struct Spec {
    /// Coefficients of every step.
    pub(super) table: Table,
    /// N.
    pub(super) batch: usize,
    /// [H, W].
    pub(super) size: [usize; 2],
    /// Of the activations.
    pub(super) precision: DType,
    /// Of the predictions.
    pub(super) guidance: Option<Guidance>,
}

impl Spec {
    /// # Safety
    /// The pointers in `o` are NULL or arrays as their counts and strides say.
    pub(super) unsafe fn new(o: &fewstep_sampler_options, model: &Model) -> Result<Self> {
        if o.batch == 0 {
            return Err(Error::invalid("batch is 0; it must be at least 1"));
        }
        let size = read_size(o.height, o.width)?.map_or_else(|| model.size(), Ok)?;
        check_extent(model, o.batch as usize, size)?;
        // SAFETY: as promised by the caller.
        let table = unsafe { table(o, model)? };
        let guidance = guidance::read(o.guidance_scale, o.null_label, o.reserved, Some(model))?;
        Ok(Self { table, batch: o.batch as usize, size, precision: precision(o.precision)?, guidance })
    }
}

/// # Safety
/// As [`Spec::new`].
unsafe fn table(o: &fewstep_sampler_options, model: &Model) -> Result<Table> {
    let kinds = [FEWSTEP_SAMPLER_FROM_MODEL, FEWSTEP_SAMPLER_DDIM, FEWSTEP_SAMPLER_DPM_SOLVER_PP];
    let kind = choice(o.kind, "kind", &kinds.map(|k| (k, k)))?;
    let schedule = model.scheduler.noise_schedule()?;
    let prediction = model.scheduler.prediction();
    if o.pair_count != 0 {
        // SAFETY: as promised by the caller.
        let pairs = unsafe { read_grid(schedule.len(), o.steps, o.pairs, o.pair_count, o.pair_stride)? };
        if kind == FEWSTEP_SAMPLER_DPM_SOLVER_PP {
            return Err(Error::unsupported("pairs are sampled with DDIM; kind is DPM-Solver++"));
        }
        return Table::from_pairs(&schedule, prediction, &pairs, o.eta, clip(o)?);
    }
    check_steps(o.steps)?;
    let config = match (kind, &model.student) {
        (FEWSTEP_SAMPLER_FROM_MODEL, Some(own)) if o.steps == 0 || o.steps as usize == own.pairs.len() => {
            return Table::from_pairs(&schedule, prediction, &own.pairs, o.eta, model.scheduler.clip());
        }
        (FEWSTEP_SAMPLER_FROM_MODEL, _) => match model.scheduler.sampler()? {
            SamplerConfig::Ddim(config) => SamplerConfig::Ddim(DdimConfig { eta: o.eta, ..config }),
            other => other,
        },
        (FEWSTEP_SAMPLER_DDIM, _) => SamplerConfig::Ddim(ddim(o)?),
        _ => SamplerConfig::DpmSolverPp(dpm(o)?),
    };
    if o.steps == 0 {
        return Err(Error::invalid("steps is 0: give the number of steps, pairs, or a few-step student with FEWSTEP_SAMPLER_FROM_MODEL"));
    }
    config.table(&schedule, prediction, o.steps as usize)
}

/// What FEWSTEP_CLIP_* mean with an options struct's clip_range, threshold_ratio and threshold_max.
pub(super) fn clips(range: f64, ratio: f64, max: f64) -> [(i32, Clip); 3] {
    [(FEWSTEP_CLIP_NONE, Clip::None), (FEWSTEP_CLIP_RANGE, Clip::Range(range)), (FEWSTEP_CLIP_DYNAMIC, Clip::Dynamic { ratio, max })]
}

fn clip(o: &fewstep_sampler_options) -> Result<Clip> {
    choice(o.clip, "clip", &clips(o.clip_range, o.threshold_ratio, o.threshold_max))
}

fn spacing(o: &fewstep_sampler_options) -> Result<Spacing> {
    let known = [(FEWSTEP_SPACING_LEADING, Spacing::Leading), (FEWSTEP_SPACING_TRAILING, Spacing::Trailing), (FEWSTEP_SPACING_LINSPACE, Spacing::Linspace)];
    choice(o.spacing, "spacing", &known)
}

fn ddim(o: &fewstep_sampler_options) -> Result<DdimConfig> {
    Ok(DdimConfig {
        spacing: spacing(o)?,
        steps_offset: i64::from(o.steps_offset),
        eta: o.eta,
        clip: clip(o)?,
        set_alpha_to_one: flag(o.set_alpha_to_one, "set_alpha_to_one")?,
        prev_rule: if flag(o.diffusers_prev, "diffusers_prev")? { PrevRule::Diffusers } else { PrevRule::Schedule },
        use_clipped_model_output: flag(o.use_clipped_model_output, "use_clipped_model_output")?,
    })
}

fn dpm(o: &fewstep_sampler_options) -> Result<DpmConfig> {
    if !(1..=3).contains(&o.solver_order) {
        return Err(Error::invalid(format!("solver_order is {}; it must be 1, 2 or 3", o.solver_order)));
    }
    if o.lambda_min_clipped.is_nan() {
        return Err(Error::invalid("lambda_min_clipped is NaN"));
    }
    let algorithms = [
        (FEWSTEP_ALGORITHM_DPM_SOLVER_PP, Algorithm::DpmSolverPp),
        (FEWSTEP_ALGORITHM_SDE_DPM_SOLVER_PP, Algorithm::SdeDpmSolverPp),
        (FEWSTEP_ALGORITHM_DPM_SOLVER, Algorithm::DpmSolver),
        (FEWSTEP_ALGORITHM_SDE_DPM_SOLVER, Algorithm::SdeDpmSolver),
    ];
    let spreads = [
        (FEWSTEP_SIGMAS_SCHEDULE, SigmaSpread::Schedule),
        (FEWSTEP_SIGMAS_KARRAS, SigmaSpread::Karras),
        (FEWSTEP_SIGMAS_EXPONENTIAL, SigmaSpread::Exponential),
        (FEWSTEP_SIGMAS_BETA, SigmaSpread::Beta),
        (FEWSTEP_SIGMAS_LU, SigmaSpread::Lu),
    ];
    Ok(DpmConfig {
        spacing: spacing(o)?,
        steps_offset: i64::from(o.steps_offset),
        order: o.solver_order as usize,
        solver_type: choice(o.solver_type, "solver_type", &[(FEWSTEP_SOLVER_MIDPOINT, SolverType::Midpoint), (FEWSTEP_SOLVER_HEUN, SolverType::Heun)])?,
        algorithm: choice(o.algorithm, "algorithm", &algorithms)?,
        sigmas: choice(o.sigmas, "sigmas", &spreads)?,
        lower_order_final: flag(o.lower_order_final, "lower_order_final")?,
        euler_at_final: flag(o.euler_at_final, "euler_at_final")?,
        final_sigmas: choice(o.final_sigma, "final_sigma", &[(FEWSTEP_FINAL_SIGMA_ZERO, FinalSigma::Zero), (FEWSTEP_FINAL_SIGMA_MIN, FinalSigma::SigmaMin)])?,
        lambda_min_clipped: o.lambda_min_clipped,
        clip: clip(o)?,
    })
}
