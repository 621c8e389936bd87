//! What fixes a training run, as C gives it, and its translation.

use super::boundary::{choice, optional_text, text};
use super::cancel::fewstep_cancel_token;
use super::extent::{check_extent, read_size};
use super::grid::{fewstep_step_pair, read_grid};
use super::guidance;
use super::handle::share_optional;
use super::options::{self, Item, Options, size_field};
use super::precision::{FEWSTEP_PRECISION_F32, precision};
use super::sampler_options::clips;
use super::trajectories::fewstep_trajectories;
use crate::diffusion::{Clip, Weight};
use crate::distill::{Average, DistributionTerm, FeatureTerm, LearningRate, NormKind, Objective, Optimizer, OptimizerKind, Term, TrainerOptions};
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::Model;
use std::ffi::c_char;

/// Match the teacher's prediction at the same noisy image and timestep. Needs a teacher and a dataset.
pub const FEWSTEP_OBJECTIVE_OUTPUT: i32 = 1;
/// Match the teacher's next cached state, from the teacher's own state. Needs a teacher, and a dataset where the teacher takes more than class
/// labels; or `trajectories`, and neither.
pub const FEWSTEP_OBJECTIVE_TEACHER_FORCED: i32 = 2;
/// Match the teacher's next cached state of the same noise, from the state that the student reaches by itself. Needs what TEACHER_FORCED needs.
pub const FEWSTEP_OBJECTIVE_ON_POLICY: i32 = 3;
/// Match the clean image: trains a teacher from data. Needs a dataset.
pub const FEWSTEP_OBJECTIVE_DENOISE: i32 = 4;
/// Match the state where the teacher arrives, in its own steps, from the state that the student reaches by itself: the teacher walks anew in every training
/// step (substeps, at most 64: give a small number, since the default is meant for trajectories that are computed once). Needs a teacher, and what
/// TEACHER_FORCED needs.
pub const FEWSTEP_OBJECTIVE_RESOLVE: i32 = 5;
/// Match all of the teacher's cached states along the student's whole run from their noise, with gradient through the chain of its steps: the mean over the
/// steps, of which the grid has at most 32. A training step evaluates the student once for each step of its grid, and all but the last once more on the way
/// back; memory is about that of one evaluation. Needs what TEACHER_FORCED needs.
pub const FEWSTEP_OBJECTIVE_ROLLOUT: i32 = 6;
/// Match the state where the teacher arrives, in its own steps, from a noisy image at the start of a step of the grid: progressive distillation, where the
/// teacher is the student of twice as many steps and substeps is 2; with any teacher it trains on states of data, which the student's own may be mixed with as
/// another term. Needs a teacher and a dataset, and no trajectories.
pub const FEWSTEP_OBJECTIVE_PROGRESSIVE: i32 = 7;
/// Match the state where the moving average of the student itself lands from the teacher's next cached state, from the teacher's own state: the student learns to
/// do in one step what the teacher's next step and one of its own older self do in two (TRACT, arXiv 2303.04248). steps or pairs are the teacher's steps then, and
/// the student takes self_teacher_steps, each of which goes over as many of them; snapshots have that grid. Not beside objectives whose student takes the grid's
/// steps. Needs what TEACHER_FORCED needs.
pub const FEWSTEP_OBJECTIVE_SELF_TEACHER: i32 = 8;

/// The error of the clean image itself.
pub const FEWSTEP_WEIGHT_CONST: i32 = 1;
/// The error of the noise: signal-to-noise ratio.
pub const FEWSTEP_WEIGHT_SNR: i32 = 2;
/// Signal-to-noise ratio, at least 1.
pub const FEWSTEP_WEIGHT_TRUNC_SNR: i32 = 3;
/// The error of the velocity: signal-to-noise ratio + 1.
pub const FEWSTEP_WEIGHT_V: i32 = 4;
/// The error of the state that the step lands on; for the objectives on trajectories: not OUTPUT, not DENOISE.
pub const FEWSTEP_WEIGHT_STATE: i32 = 5;

/// Distributions are not compared.
pub const FEWSTEP_DISTRIBUTION_NONE: i32 = 0;
/// The images that the student's runs end in are to be spread as the ends of the teacher's trajectories are, in features of fixed networks with random weights
/// (arXiv 2604.22379): the unbiased squared maximum mean discrepancy (Gretton et al. 2012, equation 4), which may be a little below 0, with the cubic kernel of
/// arXiv 1801.01401. The gradient flows through all steps of the run, of which the grid has at most 32, as that of ROLLOUT, with which it shares draws and
/// evaluations. Needs what TEACHER_FORCED needs, a batch of 2 to 4096, and f32. It does not say which noise an image comes from: give it beside an objective.
pub const FEWSTEP_DISTRIBUTION_RANDOM_NETS: i32 = 1;

/// |d|.
pub const FEWSTEP_NORM_L1: i32 = 1;
/// d^2.
pub const FEWSTEP_NORM_L2: i32 = 2;
/// d^2/2 where |d| is at most huber_delta, huber_delta (|d| - huber_delta/2) elsewhere.
pub const FEWSTEP_NORM_HUBER: i32 = 3;

/// The learning rate stays constant after the warm-up.
pub const FEWSTEP_DECAY_CONSTANT: i32 = 1;
/// The learning rate falls to 0 at total_steps along half a cosine.
pub const FEWSTEP_DECAY_COSINE: i32 = 2;
/// The learning rate stays constant after the warm-up and falls to 0 over the last fifth of total_steps, as 1 - sqrt(x) (Hägele et al. 2024): a run that is
/// saved before may be resumed with more total_steps (FEWSTEP_RESUME_SCHEDULE) as if it had had them from the start.
pub const FEWSTEP_DECAY_STABLE: i32 = 3;

/// AdamW for all parameters (Loshchilov and Hutter 2019).
pub const FEWSTEP_OPTIMIZER_ADAMW: i32 = 1;
/// Muon for the matrices inside the network, AdamW for all others: the first and last layers, embeddings of conditions, biases, norms and scales (Jordan 2024,
/// "Muon: An optimizer for hidden layers in neural networks"). The sum of a matrix's gradients is made orthogonal before the step, so that all directions in it
/// learn equally fast, whatever the size of the gradient. That takes about 3 n/m of the time of a layer and its gradients, n the smaller side of its matrix and m
/// the pixels of a batch that it is applied to. benches/README.md has what it wins.
pub const FEWSTEP_OPTIMIZER_MUON: i32 = 2;

/// trajectory_clip: clamp or threshold as the scheduler config of the teacher says, so that it runs as its own sampler runs it.
pub const FEWSTEP_CLIP_FROM_TEACHER: i32 = 3;

/// One term of a loss, which is the weighted sum of its terms. Set every field; those that a later version adds may be 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_term {
    /// FEWSTEP_OBJECTIVE_*.
    pub objective: i32,
    /// FEWSTEP_WEIGHT_*: weight of each timestep.
    pub step_weight: i32,
    /// FEWSTEP_NORM_*.
    pub norm: i32,
    /// Factor on this term.
    pub weight: f32,
    /// For FEWSTEP_NORM_HUBER.
    pub huber_delta: f32,
    /// For FEWSTEP_OBJECTIVE_OUTPUT; 0 for none: steps of a warm-up. In the first of them the student's prediction, over the batch, is compared after the best
    /// common factor, so that a student that is too small for the whole of its teacher's output learns its form first (arXiv 2605.19729); that is granted less
    /// and less, and after them not at all. The loss that a step reports is the one that is left.
    pub linear_fit_steps: u32,
}

/// A further term of the loss: a block of the student is to give what a block of the teacher gives for the same x_t. What the student's gives [N,H,W,C] is
/// brought to the teacher's channels by a 1x1 convolution that learns with the student and is in no snapshot (FitNets, Romero et al. 2015); their difference is
/// divided by the variance of the teacher's feature over the batch for FEWSTEP_NORM_L2, by its root for FEWSTEP_NORM_L1. Set every field; those that a later
/// version adds may be 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_feature {
    /// FEWSTEP_OBJECTIVE_*: both networks are evaluated where a term of it is; terms and features there share draws and evaluations. Not ROLLOUT.
    pub objective: i32,
    /// FEWSTEP_NORM_L1 or FEWSTEP_NORM_L2.
    pub norm: i32,
    /// Path of the student's block, as diffusers calls the module: "down_blocks.0", "mid_block", "up_blocks.1.resnets.0". A path that there is not is an error
    /// that lists those that there are. UTF-8, read during the call.
    pub student: *const c_char,
    /// Path of the teacher's block; NULL for the same path. Its height and width must be those of the student's.
    pub teacher: *const c_char,
    /// Steps over which the factor falls to 0, evenly, so that features lead and the other terms finish; 0 for a factor that stays. At 0 it costs the time that
    /// it did before: save, and go on without features by FEWSTEP_RESUME_LOSS.
    pub decay_steps: u64,
    /// Factor on this term.
    pub weight: f32,
    /// 0.
    pub reserved: u32,
}

/// Everything that fixes a training run, beside the networks and the data. Fill it with fewstep_trainer_options_init, then change fields; terms, features or
/// a distribution must be given.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_trainer_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// Images of a step, or of each of its parts (gradient_accumulation_steps); 64 by default.
    pub batch: u32,
    /// Key of every random draw; 0 by default.
    pub seed: u64,
    /// The loss: one term or more, or features. Terms that are evaluated at the same points (OUTPUT and DENOISE are, and ON_POLICY and RESOLVE) share their
    /// draws and the student's evaluation, so that several of them take little more time than one.
    pub terms: *const fewstep_term,
    /// Elements of terms.
    pub term_count: usize,
    /// Bytes from one term to the next; sizeof(fewstep_term).
    pub term_stride: usize,
    /// The student's grid, explicitly. NULL (the default), with steps 0: the grid that the student was derived with.
    pub pairs: *const fewstep_step_pair,
    /// Elements of pairs, at most 1000.
    pub pair_count: usize,
    /// Bytes from one pair to the next; sizeof(fewstep_step_pair).
    pub pair_stride: usize,
    /// Sampler steps of the student, evenly spread ("trailing"), instead of pairs; 0 by default.
    pub steps: u32,
    /// Teacher steps inside each step of the student, at most 1000 in all; 0 (the default) for 32 or a little more in all with DDIM, 24 and 20 with
    /// teacher_order 2 and 3. What a student is trained to match is no closer to the teacher than these steps: fewstep_trainer_target_error measures how close.
    pub substeps: u32,
    /// Teacher trajectories that are computed before training and kept in memory; 8192 by default.
    pub cache_size: u32,
    /// Trajectories that are computed side by side; 128 by default.
    pub cache_batch: u32,
    /// Peak learning rate of what AdamW updates; 1e-3 by default.
    pub learning_rate: f64,
    /// Steps of linear warm-up; 100 by default.
    pub warmup_steps: u64,
    /// Where the cosine ends, or the last fifth that decays, and by which scale_learning_rate's last step is told; 1000 by default.
    pub total_steps: u64,
    /// AdamW; 0.9 by default.
    pub beta1: f64,
    /// AdamW; 0.999 by default.
    pub beta2: f64,
    /// AdamW; 1e-8 by default.
    pub eps: f64,
    /// Decoupled weight decay, multiplied with the learning rate; 0 by default.
    pub weight_decay: f64,
    /// Largest global gradient norm; 1 by default, infinity for no clipping.
    pub clip_norm: f64,
    /// Decay of the weights' moving average if it is exponential, in [0, 1); below 0 (the default) it is over a share of the run, ema_relative_width.
    pub ema_decay: f64,
    /// Height of the images; 0 (the default) for the student's.
    pub height: u32,
    /// Width of the images; 0 (the default) for the student's.
    pub width: u32,
    /// FEWSTEP_DECAY_*; the cosine by default.
    pub decay: i32,
    /// FEWSTEP_PRECISION_*: what the networks compute in while training; f32 by default. Weights, statistics, losses and the update are f32 in any case; in f16
    /// the loss is scaled, and a step whose gradients overflow is done again at half the scale.
    pub precision: i32,
    /// What is done to the image that the teacher predicts in each step of its trajectories: FEWSTEP_CLIP_FROM_TEACHER (the default), or FEWSTEP_CLIP_NONE,
    /// FEWSTEP_CLIP_RANGE or FEWSTEP_CLIP_DYNAMIC with the fields below. The objectives on trajectories match the states that come of it. Nothing else clips:
    /// not the student's own steps in ON_POLICY and the like, since a few-step student is sampled without; nor the prediction that OUTPUT matches, which is the
    /// network's.
    /// A teacher that needs it shows at timesteps that are nearly pure noise, where an error of its noise is a thousand times that of its image: without it
    /// its states can leave the range of images for good. States that are far out of range are a warning in the runtime's log, once for the trajectories.
    pub trajectory_clip: i32,
    /// 0.
    pub reserved: u32,
    /// FEWSTEP_CLIP_RANGE: 1 by default.
    pub clip_range: f64,
    /// FEWSTEP_CLIP_DYNAMIC: quantile; 0.995 by default.
    pub threshold_ratio: f64,
    /// FEWSTEP_CLIP_DYNAMIC: upper bound; 1 by default.
    pub threshold_max: f64,
    /// Stops fewstep_trainer_create with CANCELLED; only read during that call. NULL (the default) for none.
    pub cancel: *const fewstep_cancel_token,
    /// Classifier-free guidance of the teacher (whose features are those of its evaluation with the labels), on its trajectories, where its output is matched
    /// and where it walks for RESOLVE, so that a student learns the guided teacher and samples without guidance; see fewstep_sampler_options. 1 (the default)
    /// for none.
    pub guidance_scale: f64,
    /// The class that the teacher was trained to read as none; -1 (the default) for not given.
    pub null_label: i32,
    /// 0.
    pub reserved2: u32,
    /// Of a quantised student: peak learning rate of the scales of its whole numbers, as a share of each scale (3e-4 changes them by that much a step), with
    /// the warm-up and the decay of learning_rate; from nine tenths of total_steps on they stay, whatever the decay. 0 (the default) leaves them as they were
    /// calibrated. Scales of groups of weights (FEWSTEP_QUANTIZE_W4) do not learn: UNSUPPORTED.
    pub scale_learning_rate: f64,
    /// More of the loss: blocks of both networks that are to agree; NULL (the default) for none. They need a teacher.
    pub features: *const fewstep_feature,
    /// Elements of features.
    pub feature_count: usize,
    /// Bytes from one feature to the next; sizeof(fewstep_feature).
    pub feature_stride: usize,
    /// Solver of the teacher on its trajectories and where it walks for RESOLVE and PROGRESSIVE: 1 (the default) is DDIM, 2 and 3 are multistep DPM-Solver++,
    /// which comes closer with as many evaluations (20 steps of order 3 about as close as 32 of DDIM).
    pub teacher_order: u32,
    /// Training steps after which all trajectories are replaced by fresh ones, so that a long run does not learn the noises of its cache by heart; 0 (the
    /// default) for never. The next ones are computed beside those steps, a share in each, which takes memory for both and makes every step longer by that
    /// share: cache_size * (teacher steps) / cache_refresh evaluations of the teacher.
    pub cache_refresh: u32,
    /// FEWSTEP_OPTIMIZER_*; AdamW by default.
    pub optimizer: i32,
    /// Parts of a step, one after the other, whose gradients are averaged before the update: a step of so many times batch images, in the memory of batch and of
    /// one more gradient; 1 by default, and 0 says the same. The rows are those that one part of that size draws. Features, distributions and linear fits are
    /// of each part. An evaluation is of one part.
    pub gradient_accumulation_steps: u32,
    /// FEWSTEP_OPTIMIZER_MUON: peak learning rate of what Muon updates, with the warm-up and the decay of learning_rate; 0.02 by default. A step changes the
    /// singular values of a matrix by about as much, whatever the gradients.
    pub muon_learning_rate: f64,
    /// FEWSTEP_OPTIMIZER_MUON: the share of the sum of gradients that stays from step to step, below 1; 0.95 by default.
    pub momentum: f64,
    /// Trajectories that are there already, in place of a teacher's, which objectives on trajectories need none of then: their grid and number stand for pairs
    /// and cache_size. NULL (the default) for none.
    pub trajectories: *const fewstep_trajectories,
    /// FEWSTEP_DISTRIBUTION_*: a further term of the loss, behind the features; NONE by default.
    pub distribution: i32,
    /// FEWSTEP_DISTRIBUTION_RANDOM_NETS: networks whose features are compared, 1 to 64; the loss is the mean over them. 4 by default. They are the same in all
    /// runs, and none of those that fewstep_evaluate has.
    pub distribution_nets: u32,
    /// FEWSTEP_DISTRIBUTION_RANDOM_NETS: factor on this term; 0.1 by default.
    pub distribution_weight: f32,
    /// FEWSTEP_OBJECTIVE_SELF_TEACHER: sampler steps that the student is to take, fewer than the grid has and a divisor of their number; 1 by default.
    pub self_teacher_steps: u32,
    /// ema_decay below 0: how much of the run the moving average is over, as the deviation of its profile in lengths of the run so far, 0.001 to 0.288 (all
    /// steps alike); 0.05 by default. The weights of step t count as much as t^gamma (Karras et al. 2024, arXiv 2312.02696, section 3.1).
    pub ema_relative_width: f64,
}

// SAFETY: repr(C), six 4-byte numbers.
unsafe impl Item for fewstep_term {
    const NAME: &'static str = "terms";
    const FIRST_SIZE: usize = size_of::<Self>();
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Item for fewstep_feature {
    const NAME: &'static str = "features";
    const FIRST_SIZE: usize = size_of::<Self>();
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_trainer_options {
    const NAME: &'static str = "trainer options";
    const FIRST_SIZE: usize = std::mem::offset_of!(Self, trajectory_clip);
    fn defaults() -> Self {
        let d = TrainerOptions::default();
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            struct_size: size_field::<Self>(),
            batch: narrow(d.batch),
            seed: d.seed,
            terms: std::ptr::null(),
            term_count: 0,
            term_stride: size_of::<fewstep_term>(),
            pairs: std::ptr::null(),
            pair_count: 0,
            pair_stride: size_of::<fewstep_step_pair>(),
            steps: 0,
            substeps: 0,
            cache_size: narrow(d.cache_size),
            cache_batch: narrow(d.cache_batch),
            learning_rate: d.optimizer.learning_rate,
            warmup_steps: d.optimizer.warmup_steps,
            total_steps: d.optimizer.total_steps,
            beta1: d.optimizer.beta1,
            beta2: d.optimizer.beta2,
            eps: d.optimizer.eps,
            weight_decay: d.optimizer.weight_decay,
            clip_norm: d.optimizer.clip_norm,
            ema_decay: -1.0,
            height: 0,
            width: 0,
            decay: FEWSTEP_DECAY_COSINE,
            precision: FEWSTEP_PRECISION_F32,
            trajectory_clip: FEWSTEP_CLIP_FROM_TEACHER,
            reserved: 0,
            clip_range: 1.0,
            threshold_ratio: 0.995,
            threshold_max: 1.0,
            cancel: std::ptr::null(),
            guidance_scale: 1.0,
            null_label: -1,
            reserved2: 0,
            scale_learning_rate: d.scale_learning_rate,
            features: std::ptr::null(),
            feature_count: 0,
            feature_stride: size_of::<fewstep_feature>(),
            teacher_order: narrow(d.teacher_order),
            cache_refresh: 0,
            optimizer: FEWSTEP_OPTIMIZER_ADAMW,
            gradient_accumulation_steps: narrow(d.gradient_accumulation_steps),
            muon_learning_rate: d.optimizer.muon_learning_rate,
            momentum: d.optimizer.momentum,
            trajectories: std::ptr::null(),
            distribution: FEWSTEP_DISTRIBUTION_NONE,
            distribution_nets: narrow(DistributionTerm::default().nets),
            distribution_weight: DistributionTerm::default().weight,
            self_teacher_steps: narrow(d.self_teacher_steps),
            ema_relative_width: Optimizer::WIDTH,
        }
    }
}

const OBJECTIVES: [(i32, Objective); 8] = [
    (FEWSTEP_OBJECTIVE_OUTPUT, Objective::Output),
    (FEWSTEP_OBJECTIVE_TEACHER_FORCED, Objective::TeacherForced),
    (FEWSTEP_OBJECTIVE_ON_POLICY, Objective::OnPolicy),
    (FEWSTEP_OBJECTIVE_DENOISE, Objective::Denoise),
    (FEWSTEP_OBJECTIVE_RESOLVE, Objective::Resolve),
    (FEWSTEP_OBJECTIVE_ROLLOUT, Objective::Rollout),
    (FEWSTEP_OBJECTIVE_PROGRESSIVE, Objective::Progressive),
    (FEWSTEP_OBJECTIVE_SELF_TEACHER, Objective::SelfTeacher),
];

fn term(i: usize, t: &fewstep_term) -> Result<Term> {
    let weights = [
        (FEWSTEP_WEIGHT_CONST, Weight::Const),
        (FEWSTEP_WEIGHT_SNR, Weight::Snr),
        (FEWSTEP_WEIGHT_TRUNC_SNR, Weight::TruncSnr),
        (FEWSTEP_WEIGHT_V, Weight::V),
        (FEWSTEP_WEIGHT_STATE, Weight::State),
    ];
    let norms = [(FEWSTEP_NORM_L1, NormKind::L1), (FEWSTEP_NORM_L2, NormKind::L2), (FEWSTEP_NORM_HUBER, NormKind::Huber(t.huber_delta))];
    let name = |field: &str| format!("terms[{i}].{field}");
    if t.norm == FEWSTEP_NORM_HUBER && !(t.huber_delta > 0.0 && t.huber_delta.is_finite()) {
        return Err(Error::invalid(format!("{} is {}; it must be above 0", name("huber_delta"), t.huber_delta)));
    }
    if !t.weight.is_finite() {
        return Err(Error::invalid(format!("{} is {}; it must be finite", name("weight"), t.weight)));
    }
    let objective = choice(t.objective, &name("objective"), &OBJECTIVES)?;
    let (step_weight, norm) = (choice(t.step_weight, &name("step_weight"), &weights)?, choice(t.norm, &name("norm"), &norms)?);
    let term = Term { weight: t.weight, linear_fit_steps: t.linear_fit_steps, ..objective.term(step_weight, norm) };
    term.check().map_err(|e| e.context(format!("terms[{i}]")))?;
    Ok(term)
}

/// # Safety
/// The paths are NULL or C strings.
unsafe fn feature(i: usize, f: &fewstep_feature) -> Result<FeatureTerm> {
    let name = |field: &str| format!("features[{i}].{field}");
    if !f.weight.is_finite() {
        return Err(Error::invalid(format!("{} is {}; it must be finite", name("weight"), f.weight)));
    }
    if f.reserved != 0 {
        return Err(Error::invalid(format!("{} must be 0", name("reserved"))));
    }
    let (point, _) = choice(f.objective, &name("objective"), &OBJECTIVES)?.pair();
    let norm = choice(f.norm, &name("norm"), &[(FEWSTEP_NORM_L1, NormKind::L1), (FEWSTEP_NORM_L2, NormKind::L2)])?;
    memory::check()?; // for the paths
    // SAFETY: as promised by the caller.
    let (student, teacher) = unsafe { (text(f.student, &name("student"))?, optional_text(f.teacher, &name("teacher"))?) };
    let term = FeatureTerm { point, student: student.into(), teacher: teacher.unwrap_or(student).into(), norm, weight: f.weight, decay_steps: f.decay_steps };
    term.check().map_err(|e| e.context(format!("features[{i}]")))?;
    Ok(term)
}

fn optimizer(o: &fewstep_trainer_options) -> Result<Optimizer> {
    for (name, v) in [("learning_rate", o.learning_rate), ("eps", o.eps)] {
        if !v.is_finite() {
            return Err(Error::invalid(format!("{name} is {v}; it must be finite")));
        }
    }
    let decays = [(FEWSTEP_DECAY_CONSTANT, LearningRate::Constant), (FEWSTEP_DECAY_COSINE, LearningRate::Cosine), (FEWSTEP_DECAY_STABLE, LearningRate::Stable)];
    let kinds = [(FEWSTEP_OPTIMIZER_ADAMW, OptimizerKind::AdamW), (FEWSTEP_OPTIMIZER_MUON, OptimizerKind::Muon)];
    Ok(Optimizer {
        kind: choice(o.optimizer, "optimizer", &kinds)?,
        muon_learning_rate: o.muon_learning_rate,
        momentum: o.momentum,
        learning_rate: o.learning_rate,
        warmup_steps: o.warmup_steps,
        total_steps: o.total_steps,
        decay: choice(o.decay, "decay", &decays)?,
        beta1: o.beta1,
        beta2: o.beta2,
        eps: o.eps,
        weight_decay: o.weight_decay,
        clip_norm: o.clip_norm,
        average: if o.ema_decay < 0.0 { Average::Power(o.ema_relative_width) } else { Average::Exponential(o.ema_decay) },
        ..Optimizer::default()
    })
}

/// `None` for what the teacher's scheduler says.
fn trajectory_clip(o: &fewstep_trainer_options) -> Result<Option<Clip>> {
    let [none, range, dynamic] = clips(o.clip_range, o.threshold_ratio, o.threshold_max).map(|(kind, clip)| (kind, Some(clip)));
    let known = [(FEWSTEP_CLIP_FROM_TEACHER, None), none, range, dynamic];
    if o.reserved != 0 {
        return Err(Error::invalid("trainer options: reserved must be 0"));
    }
    let clip = choice(o.trajectory_clip, "trajectory_clip", &known)?;
    clip.unwrap_or_default().check()?;
    Ok(clip)
}

fn distribution(o: &fewstep_trainer_options) -> Result<Option<DistributionTerm>> {
    let term = DistributionTerm { nets: o.distribution_nets as usize, weight: o.distribution_weight };
    choice(o.distribution, "distribution", &[(FEWSTEP_DISTRIBUTION_NONE, None), (FEWSTEP_DISTRIBUTION_RANDOM_NETS, Some(term))])
}

/// The Rust options that C's options mean for this student.
///
/// # Safety
/// The pointers in `o` are NULL or arrays as their counts and strides say; trajectories came from this library.
pub(super) unsafe fn translate(o: &fewstep_trainer_options, student: &Model, teacher: Option<&Model>) -> Result<TrainerOptions> {
    // SAFETY: as promised by the caller.
    let (terms, features, pairs, trajectories) = unsafe {
        let terms = options::array(o.terms, o.term_count, o.term_stride, options::MOST)?;
        let features = options::array(o.features, o.feature_count, o.feature_stride, options::MOST)?;
        let features = memory::try_collect(features.iter().enumerate().map(|(i, f)| feature(i, f)), "features")?;
        let pairs = read_grid(student.scheduler.num_train_timesteps, o.steps, o.pairs, o.pair_count, o.pair_stride)?;
        (terms, features, pairs, share_optional(o.trajectories)?.map(|given| given.set.clone()))
    };
    let size = read_size(o.height, o.width)?;
    check_extent(student, o.batch.max(o.cache_batch.min(o.cache_size)) as usize, size.map_or_else(|| student.size(), Ok)?)?;
    TrainerOptions {
        seed: o.seed,
        batch: o.batch as usize,
        gradient_accumulation_steps: o.gradient_accumulation_steps.max(1) as usize,
        terms: memory::try_collect(terms.iter().enumerate().map(|(i, t)| term(i, t)), "terms")?,
        features,
        distribution: distribution(o)?,
        pairs,
        self_teacher_steps: o.self_teacher_steps as usize,
        teacher_order: o.teacher_order as usize,
        substeps: o.substeps as usize,
        cache_refresh: u64::from(o.cache_refresh),
        cache_size: o.cache_size as usize,
        trajectories,
        cache_batch: o.cache_batch as usize,
        optimizer: optimizer(o)?,
        scale_learning_rate: o.scale_learning_rate,
        size,
        precision: precision(o.precision)?,
        trajectory_clip: trajectory_clip(o)?,
        guidance: guidance::read(o.guidance_scale, o.null_label, o.reserved2, teacher)?,
        ..TrainerOptions::default()
    }
    .completed(student)
}
