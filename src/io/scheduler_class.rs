//! diffusers' scheduler classes: which of them say how noisy each timestep is, and what each assumes for keys that its file leaves out.

use super::scheduler_config::{BetaSchedule, TimestepSpacing};
use crate::error::{Error, Result};
use crate::io::json::{Named, named_enum};

named_enum! {
    /// The scheduler classes of diffusers with betas, whose noise schedule is all that a teacher needs.
    SchedulerClass {
        /// DDIM.
        Ddim = "DDIMScheduler",
        /// DDIM, made for sampling in parallel; step for step the same.
        DdimParallel = "DDIMParallelScheduler",
        /// DDPM.
        Ddpm = "DDPMScheduler",
        /// DDPM, made for sampling in parallel; step for step the same.
        DdpmParallel = "DDPMParallelScheduler",
        /// DPM-Solver++ multistep.
        DpmSolverMultistep = "DPMSolverMultistepScheduler",
        /// Euler.
        EulerDiscrete = "EulerDiscreteScheduler",
        /// Euler ancestral.
        EulerAncestral = "EulerAncestralDiscreteScheduler",
        /// LCM.
        Lcm = "LCMScheduler",
        /// PNDM.
        Pndm = "PNDMScheduler",
        /// UniPC multistep.
        UniPcMultistep = "UniPCMultistepScheduler",
        /// DDIM for CogVideoX; its noise schedule is read.
        CogVideoXDdim = "CogVideoXDDIMScheduler",
        /// DPM-Solver++ for CogVideoX; its noise schedule is read.
        CogVideoXDpm = "CogVideoXDPMScheduler",
        /// DDIM backwards; its noise schedule is read.
        DdimInverse = "DDIMInverseScheduler",
        /// DEIS; its noise schedule is read.
        DeisMultistep = "DEISMultistepScheduler",
        /// DPM-Solver++ backwards; its noise schedule is read.
        DpmSolverMultistepInverse = "DPMSolverMultistepInverseScheduler",
        /// DPM-Solver++ SDE; its noise schedule is read.
        DpmSolverSde = "DPMSolverSDEScheduler",
        /// DPM-Solver++ singlestep; its noise schedule is read.
        DpmSolverSinglestep = "DPMSolverSinglestepScheduler",
        /// Heun; its noise schedule is read.
        HeunDiscrete = "HeunDiscreteScheduler",
        /// KDPM2; its noise schedule is read.
        Kdpm2 = "KDPM2DiscreteScheduler",
        /// KDPM2 ancestral; its noise schedule is read.
        Kdpm2Ancestral = "KDPM2AncestralDiscreteScheduler",
        /// LMS; its noise schedule is read.
        LmsDiscrete = "LMSDiscreteScheduler",
        /// RePaint; its noise schedule is read.
        RePaint = "RePaintScheduler",
        /// SA-Solver; its noise schedule is read.
        SaSolver = "SASolverScheduler",
        /// TCD; its noise schedule is read.
        Tcd = "TCDScheduler",
        /// unCLIP; its noise schedule is read.
        UnClip = "UnCLIPScheduler",
    }
}

/// What a class assumes for missing keys. `None` where it has no such key: then the file's is kept and not read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClassDefaults {
    /// `beta_start` and `beta_end`.
    pub betas: (f64, f64),
    /// `beta_schedule`.
    pub beta_schedule: BetaSchedule,
    /// `timestep_spacing`; a class that has it has `steps_offset` too.
    pub spacing: Option<TimestepSpacing>,
    /// `clip_sample`.
    pub clip_sample: Option<bool>,
    /// `set_alpha_to_one`.
    pub set_alpha_to_one: Option<bool>,
    /// Whether there is `thresholding`.
    pub thresholding: bool,
    /// Whether there is `rescale_betas_zero_snr`.
    pub zero_snr: bool,
    /// `snr_shift_scale`.
    pub snr_shift: Option<f64>,
}

impl SchedulerClass {
    /// The class of this name; another is refused with the reason.
    pub(crate) fn read(name: &str, file: &str) -> Result<Self> {
        Self::from_name(name).ok_or_else(|| Error::unsupported(format!("{file}: _class_name \"{name}\" is not supported: {}", refusal(name))))
    }

    /// The classes that diffusers has, by the defaults of their constructors (0.42).
    pub(crate) fn defaults(self) -> ClassDefaults {
        use BetaSchedule::{Linear, ScaledLinear, SquaredCosCapV2};
        use SchedulerClass as C;
        use TimestepSpacing::{Leading, Linspace};
        let ddim = ClassDefaults {
            betas: (1e-4, 0.02),
            beta_schedule: Linear,
            spacing: Some(Leading),
            clip_sample: Some(true),
            set_alpha_to_one: Some(true),
            thresholding: true,
            zero_snr: true,
            snr_shift: None,
        };
        let solver = ClassDefaults { spacing: Some(Linspace), clip_sample: None, set_alpha_to_one: None, zero_snr: false, ..ddim };
        let k_diffusion = ClassDefaults { betas: (0.00085, 0.012), thresholding: false, ..solver };
        match self {
            C::Ddim | C::DdimParallel => ddim,
            C::DdimInverse => ClassDefaults { thresholding: false, ..ddim },
            C::Ddpm | C::DdpmParallel => ClassDefaults { set_alpha_to_one: None, ..ddim },
            C::RePaint => ClassDefaults { spacing: None, set_alpha_to_one: None, thresholding: false, zero_snr: false, ..ddim },
            C::UnClip => ClassDefaults { beta_schedule: SquaredCosCapV2, spacing: None, set_alpha_to_one: None, thresholding: false, zero_snr: false, ..ddim },
            C::CogVideoXDdim | C::CogVideoXDpm => {
                ClassDefaults { betas: (0.00085, 0.012), beta_schedule: ScaledLinear, thresholding: false, snr_shift: Some(3.0), ..ddim }
            }
            C::Lcm | C::Tcd => ClassDefaults { betas: (0.00085, 0.012), beta_schedule: ScaledLinear, clip_sample: Some(false), ..ddim },
            C::Pndm => ClassDefaults { clip_sample: None, set_alpha_to_one: Some(false), thresholding: false, zero_snr: false, ..ddim },
            C::DpmSolverMultistep | C::UniPcMultistep => ClassDefaults { zero_snr: true, ..solver },
            C::DeisMultistep | C::DpmSolverMultistepInverse | C::DpmSolverSinglestep | C::SaSolver => solver,
            C::EulerDiscrete | C::EulerAncestral => ClassDefaults { thresholding: false, zero_snr: true, ..solver },
            C::LmsDiscrete => ClassDefaults { thresholding: false, ..solver },
            C::HeunDiscrete => ClassDefaults { clip_sample: Some(false), ..k_diffusion },
            C::Kdpm2 | C::Kdpm2Ancestral | C::DpmSolverSde => k_diffusion,
        }
    }

    /// Whether it is DDPM's ancestral sampling.
    pub(crate) fn is_ddpm(self) -> bool {
        matches!(self, Self::Ddpm | Self::DdpmParallel)
    }

    /// Whether diffusers knows this `beta_schedule` for the class.
    pub(crate) fn has_schedule(self, schedule: BetaSchedule) -> bool {
        use SchedulerClass as C;
        match schedule {
            BetaSchedule::SquaredCosCapV2 => true,
            BetaSchedule::Linear | BetaSchedule::ScaledLinear => self != C::UnClip,
            BetaSchedule::Sigmoid => matches!(self, C::Ddpm | C::DdpmParallel | C::RePaint),
            BetaSchedule::Laplace => matches!(self, C::Ddpm | C::DdpmParallel),
            BetaSchedule::Exp => self == C::HeunDiscrete,
        }
    }

    /// Whether a step of the class does with predicted data what `clip_sample` and `thresholding` say. Those of CogVideoX and TCD do not read the keys.
    pub(crate) fn clips(self) -> bool {
        !matches!(self, Self::CogVideoXDdim | Self::CogVideoXDpm | Self::Tcd)
    }

    /// Whether the class can be set to flow matching.
    pub(crate) fn has_flow(self) -> bool {
        use SchedulerClass as C;
        matches!(self, C::DpmSolverMultistep | C::UniPcMultistep | C::DeisMultistep | C::DpmSolverMultistepInverse | C::DpmSolverSinglestep | C::SaSolver)
    }

    /// Whether the class lets a config choose Karras', exponential or beta sigmas, and this library reads the choice.
    pub(crate) fn has_sigmas(self) -> bool {
        matches!(self, Self::DpmSolverMultistep | Self::EulerDiscrete | Self::UniPcMultistep)
    }
}

/// Keys of diffusers' schedulers that change how their own class samples, or nothing, and are kept as they are.
pub(crate) const SAMPLING_KEYS: [&str; 43] = [
    "algorithm_type",
    "beta_schedule",
    "clip_sample",
    "clip_sample_range",
    "corrector_order",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "eta",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "noise_sampler_seed",
    "original_inference_steps",
    "predict_x0",
    "predictor_order",
    "rescale_betas_zero_snr",
    "sample_max_value",
    "set_alpha_to_one",
    "shift_terminal",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "snr_shift_scale",
    "solver_order",
    "solver_p",
    "solver_type",
    "steps_offset",
    "tau_func",
    "thresholding",
    "time_shift_type",
    "timestep_scaling",
    "timestep_spacing",
    "timestep_type",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
    "variance_type",
];

/// Why a class has no noise schedule of betas, or that nobody knows it.
fn refusal(name: &str) -> String {
    const EDM: &str = "EDM's noise levels are of a continuous time, not of betas";
    const FLOW: &str = "it is for flow matching, which has no betas";
    const CONSISTENCY: &str = "consistency models have Karras' noise levels, not betas";
    const SDE: &str = "its noise levels are of a continuous time, not of betas";
    const TOKENS: &str = "it samples tokens, not images with noise";
    let known = [
        ("EDM", EDM),
        ("CosineDPMSolverMultistep", EDM),
        ("KarrasVe", EDM),
        ("FlowM", FLOW),
        ("Helios", FLOW),
        ("LTXEulerAncestralRF", FLOW),
        ("SCM", FLOW),
        ("CMStochasticIterative", CONSISTENCY),
        ("ConsistencyDecoder", CONSISTENCY),
        ("ScoreSde", SDE),
        ("IPNDM", SDE),
        ("DDPMWuerstchen", SDE),
        ("VQDiffusion", TOKENS),
        ("Amused", TOKENS),
        ("BlockRefinement", TOKENS),
    ];
    if let Some((_, reason)) = known.iter().find(|(start, _)| name.starts_with(start)) {
        return format!("{reason}; a scheduler with betas is needed, such as DDIMScheduler");
    }
    let names = SchedulerClass::NAMES.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
    format!("supported: {names}")
}
