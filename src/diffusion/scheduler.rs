//! What a diffusers scheduler configuration means: a schedule, a prediction type and a sampler, with diffusers' quirks.

use super::ddim::DdimConfig;
use super::ddpm::{DdpmConfig, Variance};
use super::dpm::DpmConfig;
use super::euler::EulerConfig;
use super::grid::{PrevRule, Spacing};
use super::lcm::LcmConfig;
use super::parametrisation::Prediction;
use super::pndm::PndmConfig;
use super::sampler::SamplerConfig;
use super::schedule::{BetaSchedule, NoiseSchedule, Rounding, ScheduleConfig};
use super::sigmas::SigmaSpread;
use super::table::Clip;
use super::unipc::UniPcConfig;
use crate::error::{Error, Result};
use crate::io::scheduler_config as file;
use crate::io::scheduler_config::{SchedulerClass, SchedulerConfig};
use crate::names::Named;

impl SchedulerConfig {
    /// The noise schedule, in the precision of PyTorch's own tables.
    pub fn noise_schedule(&self) -> Result<NoiseSchedule> {
        NoiseSchedule::new(ScheduleConfig {
            num_train_timesteps: self.num_train_timesteps,
            beta_start: self.beta_start,
            beta_end: self.beta_end,
            beta_schedule: self.beta_schedule,
            trained_betas: self.trained_betas.clone(),
            rescale_betas_zero_snr: self.rescale_betas_zero_snr,
            snr_shift_scale: self.snr_shift_scale,
            precision: if self.has_float64_betas() { Rounding::Float64 } else { Rounding::Float32 },
        })
    }

    /// Whether the model gives a variance behind its prediction.
    pub fn predicts_variance(&self) -> bool {
        matches!(self.variance_type, Some(file::VarianceType::Learned | file::VarianceType::LearnedRange))
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction_type
    }

    /// CogVideoX makes this kind of betas in float64.
    fn has_float64_betas(&self) -> bool {
        let cog = matches!(self.class, SchedulerClass::CogVideoXDdim | SchedulerClass::CogVideoXDpm);
        cog && self.beta_schedule == BetaSchedule::ScaledLinear && self.trained_betas.is_none()
    }

    /// The sampler that the configuration describes, step for step as diffusers runs it ([`PrevRule::Diffusers`] included; eta is a run's choice there
    /// and 0 here). Classes of which only the noise schedule is known are refused.
    pub fn sampler(&self) -> Result<SamplerConfig> {
        use SchedulerClass as C;
        Ok(match self.class {
            C::Ddim | C::DdimParallel => SamplerConfig::Ddim(self.ddim()),
            C::DpmSolverMultistep => SamplerConfig::DpmSolverPp(self.dpm()?),
            C::EulerDiscrete => SamplerConfig::Euler(self.euler()?),
            C::EulerAncestral => SamplerConfig::Euler(EulerConfig { ancestral: true, ..self.euler()? }),
            C::Ddpm | C::DdpmParallel => SamplerConfig::Ddpm(self.ddpm()?),
            C::Pndm => SamplerConfig::Pndm(self.pndm()),
            C::Lcm => SamplerConfig::Lcm(self.lcm()),
            C::UniPcMultistep => SamplerConfig::UniPc(self.unipc()?),
            other => {
                let name = other.name();
                return Err(Error::unsupported(format!(
                    "the model's scheduler is {name}, whose own sampling is not supported; choose DDIM or DPM-Solver++ (kind)"
                )));
            }
        })
    }

    /// What the class's step does to predicted data in diffusers: nothing where it does not read the keys.
    pub fn clip(&self) -> Clip {
        match self.clip_range() {
            _ if self.thresholds() => Clip::Dynamic { ratio: self.dynamic_thresholding_ratio, max: self.sample_max_value },
            Some(range) => Clip::Range(range),
            None => Clip::None,
        }
    }

    /// The same noise schedule with the settings of a few-step student: DDIM, trailing spacing, no clipping, a clean last step. Nothing else of this
    /// configuration is in it; a schedule that DDIM's configuration has no name for, or that DDIM makes in another precision, becomes a list of betas.
    pub fn for_student(&self, prediction: Prediction) -> Result<Self> {
        let plain = SchedulerClass::Ddim;
        let named = self.snr_shift_scale == 1.0 && plain.has_schedule(self.beta_schedule) && !self.has_float64_betas();
        let (beta_schedule, trained_betas) = match named {
            true => (self.beta_schedule, self.trained_betas.clone()),
            false => (BetaSchedule::Linear, Some(self.noise_schedule()?.betas()?)),
        };
        Ok(Self {
            num_train_timesteps: self.num_train_timesteps,
            beta_start: self.beta_start,
            beta_end: self.beta_end,
            beta_schedule,
            trained_betas,
            rescale_betas_zero_snr: named && self.rescale_betas_zero_snr,
            prediction_type: prediction,
            timestep_spacing: Spacing::Trailing,
            clip_sample: false,
            ..Self::for_class(plain)
        })
    }

    fn ddim(&self) -> DdimConfig {
        DdimConfig {
            spacing: self.timestep_spacing,
            steps_offset: self.steps_offset as i64,
            eta: 0.0,
            clip: self.clip(),
            set_alpha_to_one: self.set_alpha_to_one,
            prev_rule: PrevRule::Diffusers,
            use_clipped_model_output: false,
        }
    }

    fn ddpm(&self) -> Result<DdpmConfig> {
        use file::VarianceType as V;
        let variance = match self.variance_type {
            None | Some(V::FixedSmall | V::FixedSmallLog) => Variance::Small,
            Some(V::FixedLarge) => Variance::Large,
            Some(V::FixedLargeLog) => {
                return Err(Error::unsupported(
                    "variance_type is fixed_large_log, of which diffusers takes the root of a negative number (NaN); use fixed_large, or sample with DDIM or \
                     DPM-Solver++ (kind)",
                ));
            }
            Some(learned) => return Err(learned_variance(learned)),
        };
        Ok(DdpmConfig { spacing: self.timestep_spacing, steps_offset: self.steps_offset as i64, variance, clip: self.clip() })
    }

    fn pndm(&self) -> PndmConfig {
        PndmConfig {
            spacing: self.timestep_spacing,
            steps_offset: self.steps_offset as i64,
            skip_prk_steps: self.skip_prk_steps,
            set_alpha_to_one: self.set_alpha_to_one,
        }
    }

    fn lcm(&self) -> LcmConfig {
        LcmConfig { original_steps: self.original_inference_steps, timestep_scaling: self.timestep_scaling, clip: self.clip() }
    }

    fn euler(&self) -> Result<EulerConfig> {
        Ok(EulerConfig {
            spacing: self.timestep_spacing,
            steps_offset: self.steps_offset as i64,
            ancestral: false,
            sigmas: self.spread()?,
            log_linear: self.interpolation_type == file::InterpolationType::LogLinear,
            // For other predictions diffusers goes on with timesteps.
            continuous: self.timestep_type == file::TimestepType::Continuous && self.prediction() == Prediction::VPrediction,
            range: [self.sigma_min, self.sigma_max],
            final_sigmas: self.final_sigmas_type,
        })
    }

    fn unipc(&self) -> Result<UniPcConfig> {
        if self.solver_p {
            return Err(Error::unsupported("solver_p is set; UniPC with another predictor is not supported: sample with DDIM or DPM-Solver++ (kind)"));
        }
        Ok(UniPcConfig {
            spacing: self.timestep_spacing,
            steps_offset: self.steps_offset as i64,
            order: self.solver_order,
            predict_x0: self.predict_x0,
            bh1: self.unipc_type == file::UniPcType::Bh1,
            lower_order_final: self.lower_order_final,
            disable_corrector: self.disable_corrector.clone(),
            sigmas: self.spread()?,
            range: [self.sigma_min, self.sigma_max],
            final_sigmas: self.final_sigmas_type,
            clip: self.clip(),
        })
    }

    fn dpm(&self) -> Result<DpmConfig> {
        Ok(DpmConfig {
            spacing: self.timestep_spacing,
            steps_offset: self.steps_offset as i64,
            order: self.solver_order,
            solver_type: self.solver_type,
            algorithm: self.algorithm_type,
            sigmas: self.spread()?,
            lower_order_final: self.lower_order_final,
            euler_at_final: self.euler_at_final,
            final_sigmas: self.final_sigmas_type,
            lambda_min_clipped: self.lambda_min_clipped,
            clip: self.clip(),
        })
    }

    /// At most one of karras, exponential and beta may be asked for; Lu gives way to Karras and goes before the others, as in diffusers.
    fn spread(&self) -> Result<SigmaSpread> {
        self.check_sigmas()?;
        Ok(match (self.use_karras_sigmas, self.use_lu_lambdas, self.use_exponential_sigmas, self.use_beta_sigmas) {
            (true, ..) => SigmaSpread::Karras,
            (_, true, ..) => SigmaSpread::Lu,
            (_, _, true, _) => SigmaSpread::Exponential,
            (.., true) => SigmaSpread::Beta,
            _ => SigmaSpread::Schedule,
        })
    }
}

fn learned_variance(kind: file::VarianceType) -> Error {
    Error::unsupported(format!(
        "variance_type is {}: DDPM with a variance that the model predicts is not supported; choose another kind of sampler, which reads the mean alone",
        kind.name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(class: &str, more: &str) -> SchedulerConfig {
        SchedulerConfig::parse(&format!("{{\"_class_name\": \"{class}Scheduler\"{more}}}"), "s").unwrap()
    }

    fn table(class: &str, more: &str, steps: usize) -> Result<super::super::Table> {
        let config = parse(class, more);
        config.sampler()?.table(&config.noise_schedule()?, config.prediction(), steps)
    }

    #[test]
    fn what_a_sampler_cannot_do_is_named() {
        let cases = [
            ("DEISMultistep", "", 5, "DEISMultistepScheduler"),
            ("UniPCMultistep", ", \"solver_order\": 4", 5, "solver_order is 4"),
            ("UniPCMultistep", ", \"solver_p\": {}", 5, "solver_p"),
            ("UniPCMultistep", &format!(", \"a_note\": \"{}\", \"solver_p\": {{\"a\": 1}}", "x".repeat(file::MAX_OTHER - 10)), 5, "solver_p"),
            ("UniPCMultistep", ", \"lower_order_final\": false", 5, "lower_order_final"),
            ("UniPCMultistep", ", \"lower_order_final\": false, \"predict_x0\": false", 1, "predict_x0 false"),
            ("EulerDiscrete", ", \"use_karras_sigmas\": true, \"sigma_max\": 1e25, \"timestep_spacing\": \"leading\"", 5, "sigma_max"),
            ("UniPCMultistep", ", \"use_karras_sigmas\": true, \"sigma_min\": 1e-50", 5, "sigma does not fall"),
            ("UniPCMultistep", ", \"predict_x0\": false", 5, "predict_x0 false"),
            ("DDPM", ", \"variance_type\": \"learned_range\"", 5, "learned_range"),
            ("DDPM", ", \"variance_type\": \"fixed_large_log\"", 5, "fixed_large_log"),
            ("PNDM", ", \"prediction_type\": \"sample\"", 5, "prediction_type sample"),
            ("PNDM", "", 3, "skip_prk_steps"),
            ("EulerAncestralDiscrete", ", \"prediction_type\": \"sample\"", 5, "prediction_type sample"),
            ("EulerDiscrete", ", \"use_karras_sigmas\": true", 0, "steps is 0"),
            ("LCM", "", 51, "original_inference_steps"),
            ("LCM", ", \"original_inference_steps\": 2000", 4, "original_inference_steps is 2000"),
            ("LCM", "", usize::MAX, "steps"),
            ("DDPM", ", \"rescale_betas_zero_snr\": true, \"timestep_spacing\": \"trailing\"", 5, "v_prediction"),
        ];
        for (class, more, steps, words) in cases {
            let error = table(class, more, steps).unwrap_err();
            assert!(error.message.contains(words), "{class} {more}: {error}");
        }
    }

    /// As diffusers' steps clip, by class: those of CogVideoX and TCD do not read the keys, RePaint's clamps to 1, UniPC's thresholds predicted data only.
    #[test]
    fn clipping_is_that_of_the_class() {
        let range = ", \"clip_sample\": true, \"clip_sample_range\": 2";
        let threshold = ", \"thresholding\": true, \"dynamic_thresholding_ratio\": 0.9, \"sample_max_value\": 0.5, \"clip_sample\": true";
        let dynamic = Clip::Dynamic { ratio: 0.9, max: 0.5 };
        for (class, by_range, by_threshold) in [
            ("DDIM", Clip::Range(2.0), dynamic),
            ("DDPM", Clip::Range(2.0), dynamic),
            ("LCM", Clip::Range(2.0), dynamic),
            ("HeunDiscrete", Clip::Range(2.0), Clip::Range(1.0)),
            ("DDIMInverse", Clip::Range(2.0), Clip::Range(1.0)),
            ("RePaint", Clip::Range(1.0), Clip::Range(1.0)),
            ("DPMSolverMultistep", Clip::None, dynamic),
            ("UniPCMultistep", Clip::None, dynamic),
            ("EulerDiscrete", Clip::None, Clip::None),
            ("PNDM", Clip::None, Clip::None),
            ("TCD", Clip::None, Clip::None),
            ("CogVideoXDDIM", Clip::None, Clip::None),
            ("CogVideoXDPM", Clip::None, Clip::None),
        ] {
            assert_eq!((parse(class, range).clip(), parse(class, threshold).clip()), (by_range, by_threshold), "{class}");
        }
        let noise = parse("UniPCMultistep", &format!("{threshold}, \"predict_x0\": false"));
        assert!(noise.clip() == Clip::None && noise.thresholding && noise.sample_max_value == 0.5);
    }

    /// PNDM evaluates more often than it steps, and those with sigmas where numpy's arange has one more; every other sampler once a step. Classes for
    /// sampling in parallel are their plain ones.
    #[test]
    fn evaluations_of_a_run() {
        for (class, more, steps, evaluations) in [
            ("PNDM", "", 10, 19),
            ("PNDM", "", 4, 13),
            ("PNDM", ", \"skip_prk_steps\": true", 10, 11),
            ("PNDM", ", \"skip_prk_steps\": true", 1, 1),
            ("EulerDiscrete", "", 10, 10),
            ("EulerDiscrete", ", \"timestep_spacing\": \"trailing\"", 61, 62),
            ("DPMSolverMultistep", ", \"timestep_spacing\": \"trailing\"", 122, 123),
            ("DDIM", ", \"timestep_spacing\": \"trailing\"", 61, 61),
            ("UniPCMultistep", "", 10, 10),
            ("LCM", "", 4, 4),
        ] {
            assert_eq!(table(class, more, steps).unwrap().steps.len(), evaluations, "{class}");
        }
        assert_eq!(table("DDIM", "", 9).unwrap(), table("DDIMParallel", "", 9).unwrap());
        assert_eq!(table("DDPM", "", 9).unwrap(), table("DDPMParallel", "", 9).unwrap());
    }

    /// A student has its teacher's noise levels in a config that diffusers' DDIM understands, and nothing else of its config.
    #[test]
    fn students_have_the_noise_levels_of_any_teacher() {
        for (class, more) in [
            ("DDIM", ", \"thresholding\": true, \"steps_offset\": 1, \"my_note\": 1"),
            ("UniPCMultistep", ", \"rescale_betas_zero_snr\": true"),
            ("DDPM", ", \"beta_schedule\": \"sigmoid\", \"variance_type\": \"fixed_large\""),
            ("DDPM", ", \"beta_schedule\": \"laplace\", \"rescale_betas_zero_snr\": true"),
            ("HeunDiscrete", ", \"beta_schedule\": \"exp\""),
            ("CogVideoXDDIM", ""),
            ("CogVideoXDDIM", ", \"snr_shift_scale\": 1"),
            // In float32 the noise levels near zero would be others.
            ("CogVideoXDDIM", ", \"snr_shift_scale\": 1, \"rescale_betas_zero_snr\": true"),
            ("CogVideoXDPM", ", \"rescale_betas_zero_snr\": true"),
            ("UnCLIP", ""),
        ] {
            let teacher = parse(class, more);
            let student = teacher.for_student(Prediction::VPrediction).unwrap();
            let saved = SchedulerConfig::parse(&student.to_json().unwrap(), "s").unwrap();
            assert!(saved == student, "{class} {more}");
            assert_eq!((saved.class, saved.clip(), saved.steps_offset, saved.other.len()), (SchedulerClass::Ddim, Clip::None, 0, 0), "{class}");
            let (ours, theirs) = (saved.noise_schedule().unwrap(), teacher.noise_schedule().unwrap());
            assert!(ours.agrees_with(&theirs), "{class} {more}");
            assert_eq!(ours.zero_terminal_snr(), theirs.zero_terminal_snr());
        }
        let [a, b] = ["DDIM", "LCM"].map(|class| parse(class, "").noise_schedule().unwrap());
        assert!(!a.agrees_with(&b));
    }
}
