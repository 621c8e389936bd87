//! `scheduler_config.json` of diffusers: the noise schedule of a model and the solver that it came with.
//!
//! Every class with betas is read ([`SchedulerClass`]): its noise schedule means the same everywhere. Those that this library samples as diffusers does are
//! understood in full; what a class or this library does not know is kept as it is and written back.

use crate::error::{Error, Result};
use crate::io::DIFFUSERS_VERSION;
use crate::io::json::{self, Fields, float, number};
use crate::io::json_writer::to_text;
pub use crate::io::scheduler_class::SchedulerClass;
use crate::io::scheduler_class::{ClassDefaults, SAMPLING_KEYS};
pub use crate::io::scheduler_names::*;
use crate::names::Named;
use serde_json::{Map, Value, json};

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
    pub prediction_type: Prediction,
    /// Whether the predicted image is limited by a quantile of its values.
    pub thresholding: bool,
    /// Which quantile.
    pub dynamic_thresholding_ratio: f64,
    /// The largest limit that thresholding may choose.
    pub sample_max_value: f64,
    /// How sampling timesteps are spread.
    pub timestep_spacing: Spacing,
    /// Added to leading timesteps.
    pub steps_offset: usize,
    /// Whether the last timestep is made pure noise.
    pub rescale_betas_zero_snr: bool,

    /// DDIM, DDPM, LCM and their kin: whether the predicted image is clamped.
    pub clip_sample: bool,
    /// To plus and minus this.
    pub clip_sample_range: f64,
    /// DDIM, PNDM: whether the step past the first timestep ends at no noise, or at that of timestep 0.
    pub set_alpha_to_one: bool,

    /// DPM-Solver, UniPC: order. DPM-Solver has 1 to 3.
    pub solver_order: usize,
    /// DPM-Solver: variant.
    pub algorithm_type: Algorithm,
    /// DPM-Solver: second-order rule.
    pub solver_type: SolverType,
    /// DPM-Solver, UniPC: lower orders at the end (DPM-Solver: of short runs).
    pub lower_order_final: bool,
    /// DPM-Solver: first order in the last step.
    pub euler_at_final: bool,
    /// DPM-Solver, Euler, UniPC: Karras' noise levels.
    pub use_karras_sigmas: bool,
    /// DPM-Solver, Euler, UniPC: exponential noise levels.
    pub use_exponential_sigmas: bool,
    /// DPM-Solver, Euler, UniPC: noise levels from a beta distribution.
    pub use_beta_sigmas: bool,
    /// DPM-Solver: Lu's noise levels.
    pub use_lu_lambdas: bool,
    /// DPM-Solver, Euler, UniPC: where the last step ends.
    pub final_sigmas_type: FinalSigma,
    /// DPM-Solver: half log signal-to-noise ratio below which no timestep lies; -infinity for no limit.
    pub lambda_min_clipped: f64,
    /// DDPM: the variance of the noise that it adds. DPM-Solver: the learned ones say that the model predicts it beside the image, the others nothing.
    pub variance_type: Option<VarianceType>,
    /// Euler: how sigmas between timesteps are found.
    pub interpolation_type: InterpolationType,
    /// Euler: what the network is given as time.
    pub timestep_type: TimestepType,
    /// Euler, UniPC: the smallest sigma of a spread other than the schedule's; none for the last of the run.
    pub sigma_min: Option<f64>,
    /// Euler, UniPC: the largest.
    pub sigma_max: Option<f64>,
    /// PNDM: whether the Runge-Kutta steps at the start are left out.
    pub skip_prk_steps: bool,
    /// LCM: steps of the solver that the model was distilled with, of which sampling visits some.
    pub original_inference_steps: usize,
    /// LCM: factor of timesteps in the boundary condition.
    pub timestep_scaling: f64,
    /// UniPC: whether predicted images are extrapolated (else predicted noise).
    pub predict_x0: bool,
    /// UniPC: its B(h).
    pub unipc_type: UniPcType,
    /// UniPC: steps whose result is not corrected.
    pub disable_corrector: Vec<usize>,
    /// UniPC: whether another scheduler, which only [`SchedulerConfig::other`] has, predicts in its place.
    pub solver_p: bool,
    /// CogVideoX: factor by which 1/snr is changed; 1 for others.
    pub snr_shift_scale: f64,

    /// The file's other keys: what the class or this library does not know. Written back as they were, at most [`MAX_OTHER`] bytes of them.
    pub other: Map<String, Value>,
    /// What the file said that was ignored; not part of the configuration.
    pub warnings: Vec<String>,
}

/// The most bytes of unknown keys and values that a config keeps.
pub const MAX_OTHER: usize = 64 << 10;

/// The most steps that LCM or UniPC may name.
const MAX_STEPS: usize = 100_000;

impl Default for SchedulerConfig {
    /// DDIM as diffusers makes it.
    fn default() -> Self {
        Self::for_class(SchedulerClass::Ddim)
    }
}

impl SchedulerConfig {
    /// What diffusers assumes for keys that are missing, which differs from class to class.
    pub fn for_class(class: SchedulerClass) -> Self {
        let d = class.defaults();
        Self {
            class,
            num_train_timesteps: 1000,
            beta_start: d.betas.0,
            beta_end: d.betas.1,
            beta_schedule: d.beta_schedule,
            trained_betas: None,
            prediction_type: Prediction::Epsilon,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            timestep_spacing: d.spacing.unwrap_or(Spacing::Leading),
            steps_offset: 0,
            rescale_betas_zero_snr: false,
            clip_sample: d.clip_sample.unwrap_or(false),
            clip_sample_range: 1.0,
            set_alpha_to_one: d.set_alpha_to_one.unwrap_or(true),
            solver_order: 2,
            algorithm_type: Algorithm::DpmSolverPp,
            solver_type: SolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            use_lu_lambdas: false,
            final_sigmas_type: FinalSigma::Zero,
            lambda_min_clipped: f64::NEG_INFINITY,
            variance_type: class.is_ddpm().then_some(VarianceType::FixedSmall),
            interpolation_type: InterpolationType::Linear,
            timestep_type: TimestepType::Discrete,
            sigma_min: None,
            sigma_max: None,
            skip_prk_steps: false,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            predict_x0: true,
            unipc_type: UniPcType::Bh2,
            disable_corrector: Vec::new(),
            solver_p: false,
            snr_shift_scale: d.snr_shift.unwrap_or(1.0),
            other: Map::new(),
            warnings: Vec::new(),
        }
    }

    /// Parses and validates a `scheduler_config.json`; `file` is its name in errors.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let mut f = Fields::parse(text, file)?;
        let class = match f.take("_class_name") {
            Some(Value::String(name)) => SchedulerClass::read(&name, file)?,
            Some(other) => return Err(f.invalid("_class_name", "the name of a scheduler", &other)),
            None => return Err(Error::unsupported(format!("{file}: _class_name is missing, so the scheduler is unknown"))),
        };
        f.take("_diffusers_version");
        let mut config = Self::for_class(class);
        config.read_schedule(&mut f)?;
        config.read_grid(&mut f, &class.defaults())?;
        config.read_clipping(&mut f, &class.defaults())?;
        config.refuse_flow(&f)?;
        use SchedulerClass as C;
        match class {
            C::DpmSolverMultistep => config.read_solver(&mut f)?,
            C::UniPcMultistep => config.read_unipc(&mut f)?,
            C::EulerDiscrete => config.read_euler(&mut f)?,
            C::Lcm => config.read_lcm(&mut f)?,
            C::Pndm => config.skip_prk_steps = f.bool("skip_prk_steps", false)?,
            C::Ddpm | C::DdpmParallel => config.read_variance(&mut f)?,
            _ => {}
        }
        if class.has_sigmas() {
            config.read_sigmas(&mut f)?;
        }
        config.validate().map_err(|e| e.context(file))?;
        if matches!(class, C::DpmSolverMultistep | C::UniPcMultistep) {
            put_flow(&mut |key, value| drop(f.take_equal(key, &value)));
        }
        (config.other, config.warnings) = f.rest(&SAMPLING_KEYS, MAX_OTHER);
        Ok(config)
    }

    /// The keys that make the noise schedule, and what the model predicts.
    fn read_schedule(&mut self, f: &mut Fields) -> Result<()> {
        self.num_train_timesteps = f.size("num_train_timesteps", self.num_train_timesteps, 1..=MAX_TIMESTEPS)?;
        self.beta_start = f.float("beta_start", self.beta_start)?;
        self.beta_end = f.float("beta_end", self.beta_end)?;
        self.trained_betas = read_betas(f)?;
        match f.peek("beta_schedule").and_then(Value::as_str).and_then(BetaSchedule::from_name) {
            // Then the name is not looked at, whatever it is.
            None if self.trained_betas.is_some() => {}
            _ => self.beta_schedule = f.choice("beta_schedule", self.beta_schedule)?,
        }
        if self.trained_betas.is_none() && !self.class.has_schedule(self.beta_schedule) {
            let (file, name, class) = (f.file(), self.beta_schedule.name(), self.class.name());
            return Err(Error::unsupported(format!("{file}: beta_schedule \"{name}\" is not one of {class}'s")));
        }
        // Before prediction_type there was this flag; false meant that the model gives the image.
        if !f.bool("predict_epsilon", true)? {
            self.prediction_type = Prediction::Sample;
        }
        self.prediction_type = f.choice("prediction_type", self.prediction_type)?;
        Ok(())
    }

    fn read_grid(&mut self, f: &mut Fields, has: &ClassDefaults) -> Result<()> {
        if has.spacing.is_some() {
            self.timestep_spacing = f.choice("timestep_spacing", self.timestep_spacing)?;
            self.steps_offset = f.size("steps_offset", self.steps_offset, 0..=MAX_TIMESTEPS)?;
        }
        if has.zero_snr {
            self.rescale_betas_zero_snr = f.bool("rescale_betas_zero_snr", self.rescale_betas_zero_snr)?;
        }
        if has.snr_shift.is_some() {
            self.snr_shift_scale = f.finite("snr_shift_scale", self.snr_shift_scale, "a positive number", |v| v > 0.0)?;
        }
        Ok(())
    }

    fn read_clipping(&mut self, f: &mut Fields, has: &ClassDefaults) -> Result<()> {
        if has.thresholding {
            self.thresholding = f.bool("thresholding", self.thresholding)?;
            self.dynamic_thresholding_ratio = f.float("dynamic_thresholding_ratio", self.dynamic_thresholding_ratio)?;
            self.sample_max_value = f.float("sample_max_value", self.sample_max_value)?;
        }
        if has.clip_sample.is_some() {
            self.clip_sample = f.bool("clip_sample", self.clip_sample)?;
            self.clip_sample_range = f.float("clip_sample_range", self.clip_sample_range)?;
        }
        if has.set_alpha_to_one.is_some() {
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
        self.read_variance(f)
    }

    /// Flow matching is refused where a config asks for it; its other keys matter only then and are kept.
    fn refuse_flow(&self, f: &Fields) -> Result<()> {
        let asked = |key: &&&str| self.class.has_flow() && f.peek(key) == Some(&Value::Bool(true));
        match ["use_flow_sigmas", "use_dynamic_shifting"].iter().find(asked) {
            Some(key) => Err(Error::unsupported(format!("{}: {key} true is not supported: it is for flow matching, which has no betas", f.file()))),
            None => Ok(()),
        }
    }

    fn read_unipc(&mut self, f: &mut Fields) -> Result<()> {
        self.solver_order = f.size("solver_order", self.solver_order, 1..=MAX_STEPS)?;
        self.unipc_type = f.choice("solver_type", self.unipc_type)?;
        self.predict_x0 = f.bool("predict_x0", self.predict_x0)?;
        self.lower_order_final = f.bool("lower_order_final", self.lower_order_final)?;
        self.disable_corrector = f.sizes("disable_corrector", &[], 0..=MAX_STEPS)?;
        // Asked here, since what is written back of the other keys has a limit.
        self.solver_p = f.peek("solver_p").is_some_and(|v| !v.is_null());
        self.read_sigma_range(f)
    }

    fn read_euler(&mut self, f: &mut Fields) -> Result<()> {
        self.interpolation_type = f.choice("interpolation_type", self.interpolation_type)?;
        self.timestep_type = f.choice("timestep_type", self.timestep_type)?;
        self.read_sigma_range(f)
    }

    fn read_sigma_range(&mut self, f: &mut Fields) -> Result<()> {
        let mut read = |key: &str| match f.peek(key) {
            None | Some(Value::Null) => Ok(f.take(key).and(None)),
            Some(_) => f.finite(key, 1.0, "a positive number", |v| v > 0.0).map(Some),
        };
        self.sigma_min = read("sigma_min")?;
        self.sigma_max = read("sigma_max")?;
        match (self.sigma_min, self.sigma_max) {
            (Some(low), Some(high)) if low >= high => Err(Error::invalid(format!("{}: sigma_min is {low}, not below sigma_max, {high}", f.file()))),
            _ => Ok(()),
        }
    }

    fn read_lcm(&mut self, f: &mut Fields) -> Result<()> {
        self.original_inference_steps = f.size("original_inference_steps", self.original_inference_steps, 1..=MAX_STEPS)?;
        self.timestep_scaling = f.finite("timestep_scaling", self.timestep_scaling, "a finite number", |_| true)?;
        Ok(())
    }

    /// Of DDPM and DPM-Solver. One that diffusers does not know is DDPM's small one there, and none for DPM-Solver; it is kept as it is.
    fn read_variance(&mut self, f: &mut Fields) -> Result<()> {
        match f.peek("variance_type") {
            Some(Value::String(name)) if VarianceType::from_name(name).is_none() => self.variance_type = None,
            _ => self.variance_type = f.opt_choice("variance_type", self.variance_type)?,
        }
        Ok(())
    }

    /// The noise levels that DPM-Solver, Euler and UniPC can choose from.
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
        for (key, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if self.reads_beta_range() && !(beta > 0.0 && beta < 1.0) {
                return wrong(key, "more than 0 and less than 1", &beta);
            }
        }
        if self.thresholds() && !(0.0..=1.0).contains(&self.dynamic_thresholding_ratio) {
            return wrong("dynamic_thresholding_ratio", "0 to 1", &self.dynamic_thresholding_ratio);
        }
        if self.thresholds() && !is_limit(self.sample_max_value) {
            return wrong("sample_max_value", "a positive number that float32 holds", &self.sample_max_value);
        }
        if self.clip_range().is_some_and(|range| !is_limit(range)) {
            return wrong("clip_sample_range", "a positive number that float32 holds", &self.clip_sample_range);
        }
        if self.class != SchedulerClass::UniPcMultistep && !(1..=3).contains(&self.solver_order) {
            return wrong("solver_order", "1, 2 or 3", &self.solver_order);
        }
        if self.lambda_min_clipped.is_nan() || self.lambda_min_clipped == f64::INFINITY {
            return wrong("lambda_min_clipped", "a number or -Infinity", &self.lambda_min_clipped);
        }
        self.check_sigmas()?;
        self.check_betas()
    }

    /// Whether the noise schedule is made of `beta_start` and `beta_end`.
    fn reads_beta_range(&self) -> bool {
        let made_of_range = matches!(self.beta_schedule, BetaSchedule::Linear | BetaSchedule::ScaledLinear | BetaSchedule::Sigmoid);
        made_of_range && self.trained_betas.is_none()
    }

    /// Whether the class's step limits the predicted image by a quantile of its values.
    pub fn thresholds(&self) -> bool {
        self.thresholding && self.predict_x0 && self.class.clips()
    }

    /// What the class's step clamps the predicted image to, if it clamps and does not threshold it.
    pub fn clip_range(&self) -> Option<f64> {
        let clamps = self.clip_sample && self.class.clips() && !self.thresholds();
        // RePaint's range is no key of its own.
        clamps.then_some(if self.class == SchedulerClass::RePaint { 1.0 } else { self.clip_sample_range })
    }

    /// An error unless at most one of three spreads of sigmas is chosen.
    pub fn check_sigmas(&self) -> Result<()> {
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

    /// Writes a `scheduler_config.json` that diffusers opens: every key of the class that this library reads, and what else its file had.
    pub fn to_json(&self) -> Result<String> {
        let has = self.class.defaults();
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| drop(map.insert(key.to_string(), value));
        put("_class_name", json!(self.class.name()));
        put("_diffusers_version", json!(DIFFUSERS_VERSION));
        put("num_train_timesteps", json!(self.num_train_timesteps));
        put("beta_schedule", json!(self.beta_schedule.name()));
        put("prediction_type", json!(self.prediction_type.name()));
        if self.class != SchedulerClass::UnClip {
            put("beta_start", float(self.beta_start));
            put("beta_end", float(self.beta_end));
            let betas = self.trained_betas.as_ref().map(|betas| json::floats(betas, "trained_betas")).transpose()?;
            put("trained_betas", betas.unwrap_or(Value::Null));
        }
        self.put_grid(&mut put, &has);
        self.put_clipping(&mut put, &has);
        use SchedulerClass as C;
        match self.class {
            C::DpmSolverMultistep => self.put_solver(&mut put),
            C::UniPcMultistep => self.put_unipc(&mut put),
            C::EulerDiscrete => self.put_euler(&mut put),
            C::Lcm => {
                put("original_inference_steps", json!(self.original_inference_steps));
                put("timestep_scaling", float(self.timestep_scaling));
            }
            C::Pndm => put("skip_prk_steps", json!(self.skip_prk_steps)),
            C::Ddpm | C::DdpmParallel => put("variance_type", json!(self.variance_type.map(Named::name))),
            _ => {}
        }
        if self.class.has_sigmas() {
            self.put_sigmas(&mut put);
        }
        to_text(&map, &self.other, "scheduler_config.json")
    }

    fn put_grid(&self, put: &mut impl FnMut(&str, Value), has: &ClassDefaults) {
        if has.spacing.is_some() {
            put("timestep_spacing", json!(self.timestep_spacing.name()));
            put("steps_offset", json!(self.steps_offset));
        }
        if has.zero_snr {
            put("rescale_betas_zero_snr", json!(self.rescale_betas_zero_snr));
        }
        if has.snr_shift.is_some() {
            put("snr_shift_scale", float(self.snr_shift_scale));
        }
    }

    fn put_clipping(&self, put: &mut impl FnMut(&str, Value), has: &ClassDefaults) {
        if has.thresholding {
            put("thresholding", json!(self.thresholding));
            put("dynamic_thresholding_ratio", float(self.dynamic_thresholding_ratio));
            put("sample_max_value", float(self.sample_max_value));
        }
        if has.clip_sample.is_some() {
            put("clip_sample", json!(self.clip_sample));
            put("clip_sample_range", float(self.clip_sample_range));
        }
        if has.set_alpha_to_one.is_some() {
            put("set_alpha_to_one", json!(self.set_alpha_to_one));
        }
    }

    fn put_solver(&self, put: &mut impl FnMut(&str, Value)) {
        put("solver_order", json!(self.solver_order));
        put("algorithm_type", json!(self.algorithm_type.name()));
        put("solver_type", json!(self.solver_type.name()));
        put("lower_order_final", json!(self.lower_order_final));
        put("euler_at_final", json!(self.euler_at_final));
        put("use_lu_lambdas", json!(self.use_lu_lambdas));
        put("lambda_min_clipped", float(self.lambda_min_clipped));
        put("variance_type", json!(self.variance_type.map(Named::name)));
        put_flow(put);
    }

    fn put_unipc(&self, put: &mut impl FnMut(&str, Value)) {
        put("solver_order", json!(self.solver_order));
        put("solver_type", json!(self.unipc_type.name()));
        put("predict_x0", json!(self.predict_x0));
        put("lower_order_final", json!(self.lower_order_final));
        put("disable_corrector", json!(self.disable_corrector));
        self.put_sigma_range(put);
        put_flow(put);
    }

    fn put_euler(&self, put: &mut impl FnMut(&str, Value)) {
        put("interpolation_type", json!(self.interpolation_type.name()));
        put("timestep_type", json!(self.timestep_type.name()));
        self.put_sigma_range(put);
    }

    fn put_sigma_range(&self, put: &mut impl FnMut(&str, Value)) {
        put("sigma_min", self.sigma_min.map_or(Value::Null, float));
        put("sigma_max", self.sigma_max.map_or(Value::Null, float));
    }

    fn put_sigmas(&self, put: &mut impl FnMut(&str, Value)) {
        put("use_karras_sigmas", json!(self.use_karras_sigmas));
        put("use_exponential_sigmas", json!(self.use_exponential_sigmas));
        put("use_beta_sigmas", json!(self.use_beta_sigmas));
        put("final_sigmas_type", json!(self.final_sigmas_type.name()));
    }
}

/// Whether a step can limit float32 values to it: a positive number that float32 rounds neither to 0 nor to infinity.
pub(crate) fn is_limit(value: f64) -> bool {
    (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&value)
}

/// What diffusers' solvers write beside their own keys; a file's other values of them are kept and go before these.
fn put_flow(put: &mut impl FnMut(&str, Value)) {
    put("use_flow_sigmas", json!(false));
    put("flow_shift", number(1.0));
    put("use_dynamic_shifting", json!(false));
    put("time_shift_type", json!("exponential"));
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

#[cfg(test)]
#[path = "scheduler_config_tests.rs"]
mod tests;
