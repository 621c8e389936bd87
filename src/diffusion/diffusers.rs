//! What a diffusers scheduler configuration means: a schedule, a prediction type and a sampler, with diffusers' quirks.

use super::dpm::{Algorithm, DpmConfig, SolverType};
use super::grid::{PrevRule, Spacing};
use super::parametrisation::Prediction;
use super::sampler::{Clip, DdimConfig, SamplerConfig};
use super::schedule::{BetaSchedule, NoiseSchedule, Precision, ScheduleConfig};
use super::sigmas::{FinalSigma, SigmaSpread};
use crate::error::{Error, Result};
use crate::io::scheduler_config as file;
use crate::io::scheduler_config::{SchedulerClass, SchedulerConfig};

impl SchedulerConfig {
    /// The noise schedule, in the precision of PyTorch's own tables.
    pub fn noise_schedule(&self) -> Result<NoiseSchedule> {
        NoiseSchedule::new(ScheduleConfig {
            num_train_timesteps: self.num_train_timesteps,
            beta_start: self.beta_start,
            beta_end: self.beta_end,
            beta_schedule: match self.beta_schedule {
                file::BetaSchedule::Linear => BetaSchedule::Linear,
                file::BetaSchedule::ScaledLinear => BetaSchedule::ScaledLinear,
                file::BetaSchedule::SquaredCosCapV2 => BetaSchedule::SquaredcosCapV2,
            },
            trained_betas: self.trained_betas.clone(),
            rescale_betas_zero_snr: self.rescale_betas_zero_snr,
            precision: Precision::Float32,
        })
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        match self.prediction_type {
            file::PredictionType::Epsilon => Prediction::Epsilon,
            file::PredictionType::Sample => Prediction::Sample,
            file::PredictionType::VPrediction => Prediction::VPrediction,
        }
    }

    /// The sampler that the configuration describes, step for step as diffusers runs it ([`PrevRule::Diffusers`] included; eta is a run's choice there
    /// and 0 here). Classes whose noise schedule alone is read (DDPM, PNDM, Euler) are sampled with DDIM.
    pub fn sampler(&self) -> Result<SamplerConfig> {
        match self.class {
            SchedulerClass::DpmSolverMultistep => Ok(SamplerConfig::DpmSolverPp(self.dpm()?)),
            _ => Ok(SamplerConfig::Ddim(self.ddim())),
        }
    }

    /// The same noise schedule with the settings of a few-step student: DDIM, trailing spacing, no clipping, a clean last step.
    pub fn for_student(&self, prediction: Prediction) -> Self {
        Self {
            class: SchedulerClass::Ddim,
            prediction_type: match prediction {
                Prediction::Epsilon => file::PredictionType::Epsilon,
                Prediction::Sample => file::PredictionType::Sample,
                Prediction::VPrediction => file::PredictionType::VPrediction,
            },
            timestep_spacing: file::TimestepSpacing::Trailing,
            steps_offset: 0,
            clip_sample: false,
            thresholding: false,
            set_alpha_to_one: true,
            warnings: vec![],
            ..self.clone()
        }
    }

    /// What is done to predicted data in every step, whatever the class: what a class does not have is off.
    pub fn clip(&self) -> Clip {
        match self.thresholding() {
            Clip::None if self.clip_sample => Clip::Range(self.clip_sample_range),
            other => other,
        }
    }

    fn ddim(&self) -> DdimConfig {
        DdimConfig {
            spacing: self.spacing(),
            steps_offset: self.steps_offset as i64,
            eta: 0.0,
            clip: self.clip(),
            set_alpha_to_one: self.set_alpha_to_one,
            prev_rule: PrevRule::Diffusers,
            use_clipped_model_output: false,
        }
    }

    fn dpm(&self) -> Result<DpmConfig> {
        if self.variance_type.is_some() {
            return Err(Error::unsupported("variance_type is set; sampling with a learned variance is not supported"));
        }
        Ok(DpmConfig {
            spacing: self.spacing(),
            steps_offset: self.steps_offset as i64,
            order: self.solver_order,
            solver_type: match self.solver_type {
                file::SolverType::Midpoint => SolverType::Midpoint,
                file::SolverType::Heun => SolverType::Heun,
            },
            algorithm: match self.algorithm_type {
                file::AlgorithmType::DpmSolverPlusPlus => Algorithm::DpmSolverPp,
                file::AlgorithmType::SdeDpmSolverPlusPlus => Algorithm::SdeDpmSolverPp,
                file::AlgorithmType::DpmSolver => Algorithm::DpmSolver,
                file::AlgorithmType::SdeDpmSolver => Algorithm::SdeDpmSolver,
            },
            sigmas: self.spread()?,
            lower_order_final: self.lower_order_final,
            euler_at_final: self.euler_at_final,
            final_sigmas: match self.final_sigmas_type {
                file::FinalSigmasType::Zero => FinalSigma::Zero,
                file::FinalSigmasType::SigmaMin => FinalSigma::SigmaMin,
            },
            lambda_min_clipped: self.lambda_min_clipped,
            clip: self.thresholding(),
        })
    }

    /// At most one of karras, exponential and beta may be asked for; Lu gives way to Karras and goes before the others, as in diffusers.
    fn spread(&self) -> Result<SigmaSpread> {
        let exclusive = [self.use_karras_sigmas, self.use_exponential_sigmas, self.use_beta_sigmas];
        if exclusive.iter().filter(|on| **on).count() > 1 {
            return Err(Error::invalid("only one of use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas can be true"));
        }
        Ok(match (self.use_karras_sigmas, self.use_lu_lambdas, self.use_exponential_sigmas, self.use_beta_sigmas) {
            (true, ..) => SigmaSpread::Karras,
            (_, true, ..) => SigmaSpread::Lu,
            (_, _, true, _) => SigmaSpread::Exponential,
            (.., true) => SigmaSpread::Beta,
            _ => SigmaSpread::Schedule,
        })
    }

    fn thresholding(&self) -> Clip {
        if self.thresholding { Clip::Dynamic { ratio: self.dynamic_thresholding_ratio, max: self.sample_max_value } } else { Clip::None }
    }

    fn spacing(&self) -> Spacing {
        match self.timestep_spacing {
            file::TimestepSpacing::Leading => Spacing::Leading,
            file::TimestepSpacing::Trailing => Spacing::Trailing,
            file::TimestepSpacing::Linspace => Spacing::Linspace,
        }
    }
}
