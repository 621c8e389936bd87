//! `scheduler_config.json` of diffusers: the noise schedule of a model and the solver that it came with.
//!
//! `DDIMScheduler` and `DPMSolverMultistepScheduler` are understood in full. Teachers often ship another class; of those in
//! [`SchedulerClass`] the noise schedule is read, which means the same everywhere, and the class is remembered.

use crate::error::{Error, Result};
use crate::io::DIFFUSERS_VERSION;
use crate::io::json::{Fields, Named, float, named_enum, number, to_text};
use serde_json::{Map, Value, json};

named_enum! {
    /// The scheduler class that a file names.
    SchedulerClass {
        /// DDIM.
        Ddim = "DDIMScheduler",
        /// DPM-Solver++ multistep.
        DpmSolverMultistep = "DPMSolverMultistepScheduler",
        /// DDPM; its noise schedule is read.
        Ddpm = "DDPMScheduler",
        /// PNDM; its noise schedule is read.
        Pndm = "PNDMScheduler",
        /// Euler; its noise schedule is read.
        EulerDiscrete = "EulerDiscreteScheduler",
        /// Euler ancestral; its noise schedule is read.
        EulerAncestral = "EulerAncestralDiscreteScheduler",
    }
}

named_enum! {
    /// How the betas grow.
    BetaSchedule {
        /// Evenly from start to end.
        Linear = "linear",
        /// Their square roots grow evenly.
        ScaledLinear = "scaled_linear",
        /// From a squared cosine, at most 0.999.
        SquaredCosCapV2 = "squaredcos_cap_v2",
    }
}

named_enum! {
    /// What the model predicts.
    PredictionType {
        /// The noise.
        Epsilon = "epsilon",
        /// The clean image.
        Sample = "sample",
        /// v = a·noise - s·image.
        VPrediction = "v_prediction",
    }
}

named_enum! {
    /// How sampling timesteps are spread.
    TimestepSpacing {
        /// Evenly over the whole range, both ends included.
        Linspace = "linspace",
        /// Multiples of the stride, from 0.
        Leading = "leading",
        /// Multiples of the stride, from the end.
        Trailing = "trailing",
    }
}

named_enum! {
    /// The DPM-Solver variant.
    AlgorithmType {
        /// Deterministic.
        DpmSolverPlusPlus = "dpmsolver++" | "deis",
        /// Stochastic.
        SdeDpmSolverPlusPlus = "sde-dpmsolver++",
        /// Deterministic, on predicted noise (deprecated in diffusers).
        DpmSolver = "dpmsolver",
        /// Stochastic, on predicted noise (deprecated in diffusers).
        SdeDpmSolver = "sde-dpmsolver",
    }
}

named_enum! {
    /// The second-order rule of DPM-Solver.
    SolverType {
        /// Midpoint.
        Midpoint = "midpoint" | "logrho" | "bh1" | "bh2",
        /// Heun.
        Heun = "heun",
    }
}

named_enum! {
    /// Where DPM-Solver ends.
    FinalSigmasType {
        /// At no noise.
        Zero = "zero",
        /// At the schedule's smallest noise.
        SigmaMin = "sigma_min",
    }
}

named_enum! {
    /// A variance that the model predicts in further output channels.
    VarianceType {
        /// Directly.
        Learned = "learned",
        /// As a position between two bounds.
        LearnedRange = "learned_range",
    }
}

/// The most training timesteps; real models have 1000 to 4000.
pub const MAX_TIMESTEPS: usize = 100_000;

/// A scheduler's configuration, field by field as diffusers names them. Fields that a class does not have keep values that change nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// The class that the file names.
    pub class: SchedulerClass,
    /// Timesteps of training.
    pub num_train_timesteps: usize,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// How the betas grow.
    pub beta_schedule: BetaSchedule,
    /// The betas themselves, one a timestep; they replace the three fields above.
    pub trained_betas: Option<Vec<f64>>,
    /// What the model predicts.
    pub prediction_type: PredictionType,
    /// Whether the predicted image is limited by a quantile of its values.
    pub thresholding: bool,
    /// Which quantile.
    pub dynamic_thresholding_ratio: f64,
    /// The largest limit that thresholding may choose.
    pub sample_max_value: f64,
    /// How sampling timesteps are spread.
    pub timestep_spacing: TimestepSpacing,
    /// Added to leading timesteps.
    pub steps_offset: usize,
    /// Whether the last timestep is made pure noise.
    pub rescale_betas_zero_snr: bool,

    /// DDIM, DDPM: whether the predicted image is clamped.
    pub clip_sample: bool,
    /// DDIM, DDPM: to plus and minus this.
    pub clip_sample_range: f64,
    /// DDIM, PNDM: whether the step past the first timestep ends at no noise, or at that of timestep 0.
    pub set_alpha_to_one: bool,

    /// DPM-Solver: order, 1 to 3.
    pub solver_order: usize,
    /// DPM-Solver: variant.
    pub algorithm_type: AlgorithmType,
    /// DPM-Solver: second-order rule.
    pub solver_type: SolverType,
    /// DPM-Solver: lower orders at the end of short runs.
    pub lower_order_final: bool,
    /// DPM-Solver: first order in the last step.
    pub euler_at_final: bool,
    /// DPM-Solver, Euler: Karras' noise levels.
    pub use_karras_sigmas: bool,
    /// DPM-Solver, Euler: exponential noise levels.
    pub use_exponential_sigmas: bool,
    /// DPM-Solver, Euler: noise levels from a beta distribution.
    pub use_beta_sigmas: bool,
    /// DPM-Solver: Lu's noise levels.
    pub use_lu_lambdas: bool,
    /// DPM-Solver, Euler: where the last step ends.
    pub final_sigmas_type: FinalSigmasType,
    /// DPM-Solver: half log signal-to-noise ratio below which no timestep lies; -infinity for no limit.
    pub lambda_min_clipped: f64,
    /// DPM-Solver, DDPM: a variance that the model predicts beside the image.
    pub variance_type: Option<VarianceType>,

    /// What the file said that was ignored; not part of the configuration.
    pub warnings: Vec<String>,
}

impl Default for SchedulerConfig {
    /// DDIM as diffusers makes it.
    fn default() -> Self {
        Self::for_class(SchedulerClass::Ddim)
    }
}

impl SchedulerConfig {
    /// What diffusers assumes for keys that are missing, which differs from class to class.
    pub fn for_class(class: SchedulerClass) -> Self {
        use SchedulerClass as C;
        Self {
            class,
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            prediction_type: PredictionType::Epsilon,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            timestep_spacing: match class {
                C::Ddim | C::Ddpm | C::Pndm => TimestepSpacing::Leading,
                C::DpmSolverMultistep | C::EulerDiscrete | C::EulerAncestral => TimestepSpacing::Linspace,
            },
            steps_offset: 0,
            rescale_betas_zero_snr: false,
            clip_sample: matches!(class, C::Ddim | C::Ddpm),
            clip_sample_range: 1.0,
            set_alpha_to_one: class != C::Pndm,
            solver_order: 2,
            algorithm_type: AlgorithmType::DpmSolverPlusPlus,
            solver_type: SolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            use_lu_lambdas: false,
            final_sigmas_type: FinalSigmasType::Zero,
            lambda_min_clipped: f64::NEG_INFINITY,
            variance_type: None,
            warnings: Vec::new(),
        }
    }

    /// Parses and validates a `scheduler_config.json`; `file` is its name in errors.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let mut f = Fields::parse(text, file)?;
        let class = match f.take("_class_name") {
            Some(Value::String(name)) => f.to_choice("_class_name", &name)?,
            Some(other) => return Err(f.invalid("_class_name", "the name of a scheduler", &other)),
            None => return Err(Error::unsupported(format!("{file}: _class_name is missing, so the scheduler is unknown"))),
        };
        let mut config = Self::for_class(class);
        config.read_schedule(&mut f)?;
        config.read_clipping(&mut f)?;
        match class {
            SchedulerClass::DpmSolverMultistep => config.read_solver(&mut f)?,
            SchedulerClass::Ddpm => config.variance_type = read_variance(&mut f, false)?,
            SchedulerClass::Pndm | SchedulerClass::EulerDiscrete | SchedulerClass::EulerAncestral => config.read_sigmas(&mut f)?,
            SchedulerClass::Ddim => {}
        }
        config.validate().map_err(|e| e.context(file))?;
        config.warnings = f.warnings();
        Ok(config)
    }

    /// The keys that every class shares.
    fn read_schedule(&mut self, f: &mut Fields) -> Result<()> {
        self.num_train_timesteps = f.size("num_train_timesteps", self.num_train_timesteps, 1..=MAX_TIMESTEPS)?;
        self.beta_start = f.float("beta_start", self.beta_start)?;
        self.beta_end = f.float("beta_end", self.beta_end)?;
        self.trained_betas = read_betas(f)?;
        self.beta_schedule = match self.trained_betas {
            // Then the name is not looked at, whatever it is.
            Some(_) => f.take("beta_schedule").and_then(|v| BetaSchedule::from_name(v.as_str()?)).unwrap_or(self.beta_schedule),
            None => f.choice("beta_schedule", self.beta_schedule)?,
        };
        // Before prediction_type there was this flag; false meant that the model gives the image.
        if !f.bool("predict_epsilon", true)? {
            self.prediction_type = PredictionType::Sample;
        }
        self.prediction_type = f.choice("prediction_type", self.prediction_type)?;
        self.timestep_spacing = f.choice("timestep_spacing", self.timestep_spacing)?;
        self.steps_offset = f.size("steps_offset", self.steps_offset, 0..=MAX_TIMESTEPS)?;
        self.rescale_betas_zero_snr = f.bool("rescale_betas_zero_snr", self.rescale_betas_zero_snr)?;
        Ok(())
    }

    fn read_clipping(&mut self, f: &mut Fields) -> Result<()> {
        self.thresholding = f.bool("thresholding", self.thresholding)?;
        self.dynamic_thresholding_ratio = f.float("dynamic_thresholding_ratio", self.dynamic_thresholding_ratio)?;
        self.sample_max_value = f.float("sample_max_value", self.sample_max_value)?;
        if matches!(self.class, SchedulerClass::Ddim | SchedulerClass::Ddpm) {
            self.clip_sample = f.bool("clip_sample", self.clip_sample)?;
            self.clip_sample_range = f.float("clip_sample_range", self.clip_sample_range)?;
        }
        if matches!(self.class, SchedulerClass::Ddim | SchedulerClass::Pndm) {
            self.set_alpha_to_one = f.bool("set_alpha_to_one", self.set_alpha_to_one)?;
        }
        Ok(())
    }

    fn read_solver(&mut self, f: &mut Fields) -> Result<()> {
        self.solver_order = f.size("solver_order", self.solver_order, 1..=3)?;
        self.algorithm_type = f.choice("algorithm_type", self.algorithm_type)?;
        self.solver_type = f.choice("solver_type", self.solver_type)?;
        self.lower_order_final = f.bool("lower_order_final", self.lower_order_final)?;
        self.euler_at_final = f.bool("euler_at_final", self.euler_at_final)?;
        self.use_lu_lambdas = f.bool("use_lu_lambdas", self.use_lu_lambdas)?;
        self.lambda_min_clipped = f.float("lambda_min_clipped", self.lambda_min_clipped)?;
        self.variance_type = read_variance(f, true)?;
        for key in ["use_flow_sigmas", "use_dynamic_shifting"] {
            if f.bool(key, false)? {
                return Err(Error::unsupported(format!("{}: {key} true is not supported", f.file())));
            }
        }
        // These two matter only with the keys above.
        f.take("flow_shift");
        f.take("time_shift_type");
        self.read_sigmas(f)
    }

    /// The noise levels that DPM-Solver and Euler can choose from.
    fn read_sigmas(&mut self, f: &mut Fields) -> Result<()> {
        self.use_karras_sigmas = f.bool("use_karras_sigmas", self.use_karras_sigmas)?;
        self.use_exponential_sigmas = f.bool("use_exponential_sigmas", self.use_exponential_sigmas)?;
        self.use_beta_sigmas = f.bool("use_beta_sigmas", self.use_beta_sigmas)?;
        self.final_sigmas_type = f.choice("final_sigmas_type", self.final_sigmas_type)?;
        Ok(())
    }

    /// Refuses numbers that give no noise schedule, and choices that exclude each other.
    pub fn validate(&self) -> Result<()> {
        let wrong = |key: &str, expected: &str, found: &dyn std::fmt::Display| Err(Error::invalid(format!("{key}: expected {expected}, found {found}")));
        if !(1..=MAX_TIMESTEPS).contains(&self.num_train_timesteps) {
            return wrong("num_train_timesteps", "1 to 100000", &self.num_train_timesteps);
        }
        if !(0.0..1.0).contains(&self.beta_start) {
            return wrong("beta_start", "at least 0 and less than 1", &self.beta_start);
        }
        if !(self.beta_end > 0.0 && self.beta_end < 1.0) {
            return wrong("beta_end", "more than 0 and less than 1", &self.beta_end);
        }
        if !(self.clip_sample_range.is_finite() && self.clip_sample_range > 0.0) {
            return wrong("clip_sample_range", "a positive number", &self.clip_sample_range);
        }
        if !(0.0..=1.0).contains(&self.dynamic_thresholding_ratio) {
            return wrong("dynamic_thresholding_ratio", "0 to 1", &self.dynamic_thresholding_ratio);
        }
        if !(self.sample_max_value.is_finite() && self.sample_max_value > 0.0) {
            return wrong("sample_max_value", "a positive number", &self.sample_max_value);
        }
        if !(1..=3).contains(&self.solver_order) {
            return wrong("solver_order", "1, 2 or 3", &self.solver_order);
        }
        if self.lambda_min_clipped.is_nan() || self.lambda_min_clipped == f64::INFINITY {
            return wrong("lambda_min_clipped", "a number or -Infinity", &self.lambda_min_clipped);
        }
        self.check_sigmas()?;
        self.check_betas()
    }

    fn check_sigmas(&self) -> Result<()> {
        let chosen = [self.use_karras_sigmas, self.use_exponential_sigmas, self.use_beta_sigmas];
        if chosen.iter().filter(|c| **c).count() > 1 {
            return Err(Error::invalid("use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: only one of them can be true"));
        }
        Ok(())
    }

    fn check_betas(&self) -> Result<()> {
        let Some(betas) = &self.trained_betas else { return Ok(()) };
        if betas.len() != self.num_train_timesteps {
            let (found, expected) = (betas.len(), self.num_train_timesteps);
            return Err(Error::invalid(format!("trained_betas: expected {expected} values as num_train_timesteps says, found {found}")));
        }
        match betas.iter().position(|b| !(0.0..=1.0).contains(b)) {
            Some(i) => Err(Error::invalid(format!("trained_betas: value {i} is {}, expected 0 to 1", betas[i]))),
            None => Ok(()),
        }
    }

    /// Writes a `scheduler_config.json` that diffusers opens: every key of DDIM and DPM-Solver, of other classes those that were read.
    pub fn to_json(&self) -> String {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| drop(map.insert(key.to_string(), value));
        put("_class_name", json!(self.class.name()));
        put("_diffusers_version", json!(DIFFUSERS_VERSION));
        put("num_train_timesteps", json!(self.num_train_timesteps));
        put("beta_start", float(self.beta_start));
        put("beta_end", float(self.beta_end));
        put("beta_schedule", json!(self.beta_schedule.name()));
        put("trained_betas", json!(self.trained_betas));
        put("prediction_type", json!(self.prediction_type.name()));
        put("timestep_spacing", json!(self.timestep_spacing.name()));
        put("steps_offset", json!(self.steps_offset));
        use SchedulerClass as C;
        match self.class {
            C::Ddim | C::Ddpm => self.put_clipping(&mut put),
            C::DpmSolverMultistep => self.put_solver(&mut put),
            C::Pndm => put("set_alpha_to_one", json!(self.set_alpha_to_one)),
            C::EulerDiscrete => self.put_sigmas(&mut put),
            C::EulerAncestral => {}
        }
        if self.class != C::Pndm {
            put("rescale_betas_zero_snr", json!(self.rescale_betas_zero_snr));
        }
        to_text(map)
    }

    fn put_thresholding(&self, put: &mut impl FnMut(&str, Value)) {
        put("thresholding", json!(self.thresholding));
        put("dynamic_thresholding_ratio", float(self.dynamic_thresholding_ratio));
        put("sample_max_value", float(self.sample_max_value));
    }

    fn put_clipping(&self, put: &mut impl FnMut(&str, Value)) {
        self.put_thresholding(put);
        put("clip_sample", json!(self.clip_sample));
        put("clip_sample_range", float(self.clip_sample_range));
        match (self.class, self.variance_type) {
            (SchedulerClass::Ddim, _) => put("set_alpha_to_one", json!(self.set_alpha_to_one)),
            (_, Some(kind)) => put("variance_type", json!(kind.name())),
            (_, None) => {}
        }
    }

    fn put_solver(&self, put: &mut impl FnMut(&str, Value)) {
        self.put_thresholding(put);
        self.put_sigmas(put);
        put("solver_order", json!(self.solver_order));
        put("algorithm_type", json!(self.algorithm_type.name()));
        put("solver_type", json!(self.solver_type.name()));
        put("lower_order_final", json!(self.lower_order_final));
        put("euler_at_final", json!(self.euler_at_final));
        put("use_lu_lambdas", json!(self.use_lu_lambdas));
        put("use_flow_sigmas", json!(false));
        put("flow_shift", number(1.0));
        put("lambda_min_clipped", float(self.lambda_min_clipped));
        put("variance_type", json!(self.variance_type.map(Named::name)));
        put("use_dynamic_shifting", json!(false));
        put("time_shift_type", json!("exponential"));
    }

    fn put_sigmas(&self, put: &mut impl FnMut(&str, Value)) {
        put("use_karras_sigmas", json!(self.use_karras_sigmas));
        put("use_exponential_sigmas", json!(self.use_exponential_sigmas));
        put("use_beta_sigmas", json!(self.use_beta_sigmas));
        put("final_sigmas_type", json!(self.final_sigmas_type.name()));
    }
}

fn read_betas(f: &mut Fields) -> Result<Option<Vec<f64>>> {
    match f.take("trained_betas") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            f.list("trained_betas", &items, MAX_TIMESTEPS, |v| v.as_f64().ok_or_else(|| f.invalid("trained_betas", "numbers", v))).map(Some)
        }
        Some(other) => Err(f.invalid("trained_betas", "a list of numbers or null", &other)),
    }
}

/// DDPM's other variances concern its own sampling and nothing else; DPM-Solver has no others.
fn read_variance(f: &mut Fields, strict: bool) -> Result<Option<VarianceType>> {
    match f.opt_text("variance_type", None)? {
        Some(name) if strict => f.to_choice("variance_type", &name).map(Some),
        Some(name) => Ok(VarianceType::from_name(&name)),
        None => Ok(None),
    }
}

#[cfg(test)]
#[path = "scheduler_config_tests.rs"]
mod tests;
