use super::*;
use crate::Status;

const DDIM: &str = r#"{"_class_name": "DDIMScheduler", "_diffusers_version": "0.42.1", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
"beta_schedule": "scaled_linear", "trained_betas": null, "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1, "prediction_type": "v_prediction",
"thresholding": false, "dynamic_thresholding_ratio": 0.995, "clip_sample_range": 2.0, "sample_max_value": 1.0, "timestep_spacing": "trailing",
"rescale_betas_zero_snr": true}"#;

const DPM: &str = r#"{"_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.42.1", "num_train_timesteps": 1000, "beta_start": 0.0001,
"beta_end": 0.02, "beta_schedule": "squaredcos_cap_v2", "trained_betas": null, "solver_order": 3, "prediction_type": "epsilon", "thresholding": false,
"dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "algorithm_type": "dpmsolver++", "solver_type": "heun", "lower_order_final": true,
"euler_at_final": true, "use_karras_sigmas": true, "use_exponential_sigmas": false, "use_beta_sigmas": false, "use_lu_lambdas": false,
"use_flow_sigmas": false, "flow_shift": 1, "final_sigmas_type": "sigma_min", "lambda_min_clipped": -Infinity, "variance_type": null,
"timestep_spacing": "linspace", "steps_offset": 0, "rescale_betas_zero_snr": false, "use_dynamic_shifting": false, "time_shift_type": "exponential"}"#;

/// One of the above with one key changed.
fn with(base: &str, key: &str, value: &str) -> String {
    let base = base.replace("-Infinity", "\"-Infinity\"");
    let mut map: Map<String, Value> = serde_json::from_str(&base).unwrap();
    map.insert(key.into(), serde_json::from_str(value).unwrap());
    Value::Object(map).to_string()
}

fn loose(text: &str) -> Value {
    crate::io::json::parse(text, "t").unwrap()
}

#[test]
fn reads_every_key() {
    let c = SchedulerConfig::parse(DDIM, "s").unwrap();
    assert_eq!((c.class, c.beta_schedule, c.prediction_type), (SchedulerClass::Ddim, BetaSchedule::ScaledLinear, Prediction::VPrediction));
    assert_eq!((c.beta_start, c.beta_end, c.clip_sample, c.clip_sample_range), (0.00085, 0.012, false, 2.0));
    assert_eq!((c.set_alpha_to_one, c.steps_offset, c.timestep_spacing), (false, 1, Spacing::Trailing));
    assert!(c.rescale_betas_zero_snr && c.warnings.is_empty());
    let c = SchedulerConfig::parse(DPM, "s").unwrap();
    assert_eq!((c.class, c.solver_order, c.solver_type), (SchedulerClass::DpmSolverMultistep, 3, SolverType::Heun));
    assert_eq!((c.final_sigmas_type, c.lambda_min_clipped), (FinalSigma::SigmaMin, f64::NEG_INFINITY));
    assert!(c.use_karras_sigmas && c.euler_at_final && !c.clip_sample && c.warnings.is_empty());
}

#[test]
fn every_class_opens_with_its_defaults_and_is_written_back() {
    use Spacing::{Leading, Linspace};
    let (ddpm, sd) = (1e-4, 0.00085);
    let cases = [
        ("DDIMScheduler", true, true, Leading, ddpm),
        ("DDIMParallelScheduler", true, true, Leading, ddpm),
        ("DDIMInverseScheduler", true, true, Leading, ddpm),
        ("DDPMScheduler", true, true, Leading, ddpm),
        ("DDPMParallelScheduler", true, true, Leading, ddpm),
        ("PNDMScheduler", false, false, Leading, ddpm),
        ("DPMSolverMultistepScheduler", false, true, Linspace, ddpm),
        ("DPMSolverMultistepInverseScheduler", false, true, Linspace, ddpm),
        ("DPMSolverSinglestepScheduler", false, true, Linspace, ddpm),
        ("DEISMultistepScheduler", false, true, Linspace, ddpm),
        ("SASolverScheduler", false, true, Linspace, ddpm),
        ("UniPCMultistepScheduler", false, true, Linspace, ddpm),
        ("EulerDiscreteScheduler", false, true, Linspace, ddpm),
        ("EulerAncestralDiscreteScheduler", false, true, Linspace, ddpm),
        ("LMSDiscreteScheduler", false, true, Linspace, ddpm),
        ("HeunDiscreteScheduler", false, true, Linspace, sd),
        ("KDPM2DiscreteScheduler", false, true, Linspace, sd),
        ("KDPM2AncestralDiscreteScheduler", false, true, Linspace, sd),
        ("DPMSolverSDEScheduler", false, true, Linspace, sd),
        ("LCMScheduler", false, true, Leading, sd),
        ("TCDScheduler", false, true, Leading, sd),
        ("CogVideoXDDIMScheduler", true, true, Leading, sd),
        ("CogVideoXDPMScheduler", true, true, Leading, sd),
        ("RePaintScheduler", true, true, Leading, ddpm),
        ("UnCLIPScheduler", true, true, Leading, ddpm),
    ];
    assert_eq!(cases.len(), SchedulerClass::NAMES.len());
    for (class, clip, one, spacing, beta_start) in cases {
        let c = SchedulerConfig::parse(&format!("{{\"_class_name\": \"{class}\"}}"), "s").unwrap();
        assert_eq!((c.class.name(), c.clip_sample, c.set_alpha_to_one, c.timestep_spacing, c.beta_start), (class, clip, one, spacing, beta_start));
        assert_eq!(c, SchedulerConfig::for_class(c.class));
        assert_eq!(SchedulerConfig::parse(&c.to_json().unwrap(), "s").unwrap(), c, "{class}");
    }
    assert_eq!(SchedulerConfig::default().class, SchedulerClass::Ddim);
}

#[test]
fn classes_without_betas_are_refused_with_the_reason() {
    for (class, reason) in [
        ("EDMEulerScheduler", "continuous time"),
        ("EDMDPMSolverMultistepScheduler", "continuous time"),
        ("FlowMatchEulerDiscreteScheduler", "flow matching"),
        ("ScoreSdeVeScheduler", "continuous time"),
        ("IPNDMScheduler", "continuous time"),
        ("CMStochasticIterativeScheduler", "consistency"),
        ("VQDiffusionScheduler", "tokens"),
        ("MyScheduler", "supported: DDIMScheduler"),
    ] {
        let error = SchedulerConfig::parse(&format!("{{\"_class_name\": \"{class}\"}}"), "s.json").unwrap_err();
        assert_eq!(error.status, Status::Unsupported);
        assert!([class, reason, "s.json", "DDIMScheduler"].iter().all(|w| error.message.contains(w)), "{error}");
    }
}

/// What a class or this library does not know, or knows and does not use, is in the file that is written.
#[test]
fn keys_are_kept_as_they_are() {
    let cases = [
        r#"{"_class_name": "EulerDiscreteScheduler", "clip_sample": true, "set_alpha_to_one": false, "skip_prk_steps": true, "sigma_max": 80.5, "timestep_type": "continuous"}"#,
        r#"{"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "set_alpha_to_one": false}"#,
        r#"{"_class_name": "DDPMScheduler", "variance_type": "of_my_own"}"#,
        r#"{"_class_name": "DPMSolverMultistepScheduler", "variance_type": "of_my_own"}"#,
        r#"{"_class_name": "PNDMScheduler", "rescale_betas_zero_snr": true, "skip_prk_steps": true, "clip_sample": false}"#,
        r#"{"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": false, "flow_shift": 3.5, "time_shift_type": "linear"}"#,
        r#"{"_class_name": "DEISMultistepScheduler", "solver_order": 3, "algorithm_type": "deis", "use_flow_sigmas": false, "use_karras_sigmas": true}"#,
        r#"{"_class_name": "UniPCMultistepScheduler", "solver_order": 7, "solver_p": {"a": [1, "b"]}, "disable_corrector": [0, 3], "solver_type": "bh1"}"#,
        r#"{"_class_name": "TCDScheduler", "original_inference_steps": 20, "my_note": {"nested": [1.5, null, "ü"]}}"#,
        r#"{"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2], "num_train_timesteps": 2, "beta_schedule": "mine", "_name_or_path": "somewhere"}"#,
    ];
    for text in cases {
        let config = SchedulerConfig::parse(text, "s").unwrap();
        let Value::Object(before) = loose(text) else { panic!() };
        let after = loose(&config.to_json().unwrap());
        for (key, value) in before {
            assert_eq!(after[&key], value, "{key} of {text}");
        }
        assert_eq!(SchedulerConfig::parse(&config.to_json().unwrap(), "s").unwrap(), config);
        assert_eq!(config.warnings.len(), usize::from(text.contains("my_note")), "{:?}", config.warnings);
    }
    let config = SchedulerConfig::parse(&with(DDIM, "my_note", &format!("\"{}\"", "x".repeat(MAX_OTHER))), "s").unwrap();
    assert!(!config.to_json().unwrap().contains("my_note") && config.warnings[1].contains("too large to be kept"), "{:?}", config.warnings);
}

#[test]
fn only_ddpm_and_its_like_have_their_schedules() {
    for (class, schedule, ok) in [
        ("DDPMScheduler", "sigmoid", true),
        ("DDPMScheduler", "laplace", true),
        ("RePaintScheduler", "sigmoid", true),
        ("HeunDiscreteScheduler", "exp", true),
        ("DDIMScheduler", "sigmoid", false),
        ("RePaintScheduler", "laplace", false),
        ("UnCLIPScheduler", "linear", false),
    ] {
        let result = SchedulerConfig::parse(&format!("{{\"_class_name\": \"{class}\", \"beta_schedule\": \"{schedule}\"}}"), "s.json");
        match result {
            Ok(config) => assert!(ok && config.beta_schedule.name() == schedule),
            Err(e) => assert!(!ok && e.status == Status::Unsupported && e.message.contains(schedule) && e.message.contains(class), "{e}"),
        }
    }
}

#[test]
fn writes_what_diffusers_writes() {
    for text in [DDIM, DPM] {
        let json = SchedulerConfig::parse(text, "s").unwrap().to_json().unwrap();
        assert_eq!(loose(&json), loose(text));
        assert_eq!(json.contains("\"lambda_min_clipped\": -Infinity"), text == DPM);
    }
}

#[test]
fn diffusers_own_substitutions_are_made() {
    let parse = |base: &str, key: &str, value: &str| SchedulerConfig::parse(&with(base, key, value), "s").unwrap();
    assert_eq!(parse(DPM, "algorithm_type", "\"deis\"").algorithm_type, Algorithm::DpmSolverPp);
    assert_eq!(parse(DPM, "algorithm_type", "\"sde-dpmsolver++\"").algorithm_type, Algorithm::SdeDpmSolverPp);
    for name in ["logrho", "bh1", "bh2"] {
        let config = parse(DPM, "solver_type", &format!("\"{name}\""));
        assert_eq!((config.solver_type, config.solver_type.name()), (SolverType::Midpoint, "midpoint"));
    }
    assert_eq!(parse(DPM, "lambda_min_clipped", "-5.1").lambda_min_clipped, -5.1);
    // What from_config makes of DDPM's.
    for kind in VarianceType::NAMES.iter().map(|(_, kind)| *kind) {
        let config = parse(DPM, "variance_type", &format!("\"{}\"", kind.name()));
        assert_eq!((config.variance_type, &loose(&config.to_json().unwrap())["variance_type"]), (Some(kind), &Value::from(kind.name())));
    }
    let ddpm = with(DDIM, "_class_name", "\"DDPMScheduler\"");
    assert_eq!(parse(&ddpm, "variance_type", "\"fixed_large\"").variance_type, Some(VarianceType::FixedLarge));
    assert_eq!(parse(&ddpm, "variance_type", "null").variance_type, None);
    assert_eq!(parse(&ddpm, "variance_type", "\"learned\"").variance_type, Some(VarianceType::Learned));
    let old = r#"{"_class_name": "DDPMScheduler", "predict_epsilon": false, "tensor_format": "pt"}"#;
    let old = SchedulerConfig::parse(old, "s").unwrap();
    assert_eq!((old.prediction_type, old.warnings.len()), (Prediction::Sample, 1));
}

#[test]
fn trained_betas_replace_the_schedule() {
    let text = r#"{"_class_name": "DDIMScheduler", "num_train_timesteps": 3, "trained_betas": [0.1, 0.2, 0.3], "beta_schedule": "trained"}"#;
    let config = SchedulerConfig::parse(text, "s").unwrap();
    assert_eq!(config.trained_betas.as_deref(), Some(&[0.1, 0.2, 0.3][..]));
    assert_eq!(SchedulerConfig::parse(&config.to_json().unwrap(), "s").unwrap(), config);
    for betas in ["[0.1, 0.2]", "[0.1, 0.2, 1.5]", "[0.1, 0.2, -0.1]", "[0.1, 0.2, NaN]", "[0.1, 0.2, \"x\"]", "0.1", "[]"] {
        let error = SchedulerConfig::parse(&text.replace("[0.1, 0.2, 0.3]", betas), "s.json").unwrap_err();
        assert_eq!(error.status, Status::InvalidArgument, "{betas}");
        assert!(error.message.contains("trained_betas") && error.message.contains("s.json"), "{error}");
    }
}

#[test]
fn unsupported_values_are_named() {
    let cases = [
        (DDIM, "_class_name", "\"FlowMatchEulerDiscreteScheduler\"", "FlowMatchEulerDiscreteScheduler"),
        (DDIM, "beta_schedule", "\"sigmoid\"", "sigmoid"),
        (DDIM, "prediction_type", "\"flow_prediction\"", "flow_prediction"),
        (DDIM, "timestep_spacing", "\"logarithmic\"", "logarithmic"),
        (DPM, "algorithm_type", "\"unipc\"", "\"unipc\""),
        (DPM, "solver_type", "\"rk4\"", "rk4"),
        (DPM, "final_sigmas_type", "\"one\"", "one"),
        (DPM, "use_flow_sigmas", "true", "use_flow_sigmas"),
        (DPM, "use_dynamic_shifting", "true", "use_dynamic_shifting"),
    ];
    for (base, key, value, words) in cases {
        let error = SchedulerConfig::parse(&with(base, key, value), "s.json").unwrap_err();
        assert_eq!(error.status, Status::Unsupported, "{key} {value}: {error}");
        assert!([words, key, "s.json"].iter().all(|w| error.message.contains(w)), "{error}");
    }
    assert_eq!(SchedulerConfig::parse("{}", "s").unwrap_err().status, Status::Unsupported);
}

#[test]
fn numbers_that_cannot_be_meant_are_refused() {
    let (clipped, thresholded) = (with(DDIM, "clip_sample", "true"), with(DDIM, "thresholding", "true"));
    let cases = [
        (DDIM, "num_train_timesteps", "0"),
        (DDIM, "num_train_timesteps", "-5"),
        (DDIM, "num_train_timesteps", "1000000000000"),
        (DDIM, "num_train_timesteps", "10.5"),
        (DDIM, "beta_start", "-0.1"),
        (DDIM, "beta_start", "\"NaN\""),
        (DDIM, "beta_start", "\"small\""),
        (DDIM, "beta_start", "0"),
        (DDIM, "beta_end", "1"),
        (DDIM, "beta_end", "0"),
        (DDIM, "clip_sample", "3"),
        (&clipped, "clip_sample_range", "0"),
        (&clipped, "clip_sample_range", "1e-50"),
        (&clipped, "clip_sample_range", "1e39"),
        (DDIM, "clip_sample_range", "\"wide\""),
        (&thresholded, "sample_max_value", "\"Infinity\""),
        (&thresholded, "sample_max_value", "1e-50"),
        (&thresholded, "sample_max_value", "1e39"),
        (&thresholded, "dynamic_thresholding_ratio", "1.5"),
        (DDIM, "steps_offset", "-1"),
        (DDIM, "_class_name", "7"),
        (DPM, "solver_order", "4"),
        (DPM, "solver_order", "0"),
        (DPM, "lambda_min_clipped", "\"Infinity\""),
        (DPM, "lambda_min_clipped", "\"NaN\""),
        (DPM, "use_beta_sigmas", "true"),
        (DPM, "timestep_spacing", "null"),
    ];
    for (base, key, value) in cases {
        let error = SchedulerConfig::parse(&with(base, key, value), "s.json").unwrap_err();
        assert_eq!(error.status, Status::InvalidArgument, "{key} {value}: {error}");
        assert!(error.message.starts_with("s.json") && error.message.contains(key), "{error}");
    }
    assert_eq!(SchedulerConfig::parse("not json", "s").unwrap_err().status, Status::CorruptFile);
}

/// As in diffusers, which hands them on.
#[test]
fn numbers_that_nobody_reads_are_kept_whatever_they_are() {
    let cosine = with(DDIM, "beta_schedule", "\"squaredcos_cap_v2\"");
    let (thresholded, clipped) = (with(DDIM, "thresholding", "true"), with(DDIM, "clip_sample", "true"));
    let noise = with(&thresholded.replace("DDIMScheduler", "UniPCMultistepScheduler"), "predict_x0", "false");
    for (base, key, value) in [
        (&*cosine, "beta_end", "1"),
        (&cosine, "beta_start", "0"),
        (DDIM, "sample_max_value", "0"),
        (DDIM, "dynamic_thresholding_ratio", "1.5"),
        (DDIM, "clip_sample_range", "-1"),
        (&thresholded, "clip_sample_range", "0"),
        (&noise, "sample_max_value", "0"),
        (&clipped.replace("DDIMScheduler", "TCDScheduler"), "clip_sample_range", "0"),
        (&clipped.replace("DDIMScheduler", "RePaintScheduler"), "clip_sample_range", "0"),
    ] {
        let config = SchedulerConfig::parse(&with(base, key, value), "s").unwrap();
        assert_eq!(loose(&config.to_json().unwrap())[key].as_f64(), value.parse().ok(), "{key} of {base}");
        config.noise_schedule().unwrap();
    }
}
