//! Hosts may make division by zero, invalid operations and overflow traps. No schedule or table may raise these flags, whatever it is made of.

use super::{NoiseSchedule, Prediction, SamplerConfig, Weight, loss_coefficients, output_loss_coefficients, trailing_pairs};
use crate::io::scheduler_config::{SchedulerClass, SchedulerConfig};
use crate::names::Named;
use std::arch::asm;

/// Invalid operation, division by zero, overflow in MXCSR.
const TRAPS: u32 = 0x1 | 0x4 | 0x8;

fn flags() -> u32 {
    let mut register = 0u32;
    // SAFETY: stores the register's 32 bits to a local.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut register, options(nostack)) };
    register
}

fn clear() {
    let register = flags() & !0x3f;
    // SAFETY: loads what was read, less the sticky flags.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const register, options(nostack)) };
}

/// An error's sentence may be made with any arithmetic; what counts is what succeeds.
fn quiet<T>(what: &str, work: impl FnOnce() -> crate::Result<T>) -> Option<T> {
    clear();
    let result = work();
    let raised = flags() & TRAPS;
    let result = result.ok()?;
    assert_eq!(raised, 0, "{what} raises flags {raised:#x}");
    Some(result)
}

#[test]
fn the_flags_are_seen() {
    clear();
    assert_ne!(flags() & TRAPS, TRAPS);
    let zero = std::hint::black_box(0.0f64);
    std::hint::black_box(1.0 / zero);
    assert_eq!(flags() & TRAPS, 0x4);
    std::hint::black_box(std::hint::black_box(1e300f64) as f32);
    assert_eq!(flags() & TRAPS, 0xc);
    clear();
}

/// Every class with what changes its arithmetic; options that a class does not know are kept and not read.
#[test]
fn tables_raise_no_flags() {
    let base = [
        "",
        r#", "rescale_betas_zero_snr": true"#,
        r#", "beta_schedule": "squaredcos_cap_v2""#,
        r#", "use_karras_sigmas": true"#,
        r#", "use_exponential_sigmas": true, "final_sigmas_type": "sigma_min""#,
        r#", "use_beta_sigmas": true"#,
        r#", "use_lu_lambdas": true"#,
        r#", "solver_order": 3, "solver_type": "heun", "lower_order_final": false"#,
        r#", "solver_order": 3, "predict_x0": false, "final_sigmas_type": "sigma_min""#,
        r#", "algorithm_type": "sde-dpmsolver++""#,
        r#", "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": 3"#,
        r#", "algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min""#,
        r#", "lambda_min_clipped": -5.1"#,
        r#", "use_karras_sigmas": true, "final_sigmas_type": "sigma_min", "lower_order_final": false"#,
        r#", "skip_prk_steps": true, "clip_sample": true"#,
        r#", "variance_type": "fixed_large", "thresholding": true"#,
        r#", "interpolation_type": "log_linear", "timestep_type": "continuous""#,
        r#", "timestep_scaling": 1e30"#,
        r#", "beta_schedule": "sigmoid""#,
        r#", "beta_start": 1e-9, "beta_end": 0.9999"#,
        r#", "beta_start": 0.9, "beta_end": 0.9, "num_train_timesteps": 40"#,
    ];
    let mut built = 0;
    for (class, _) in SchedulerClass::NAMES {
        for more in base {
            for (prediction, spacing) in [("epsilon", "leading"), ("sample", "linspace"), ("v_prediction", "trailing")] {
                let text = format!(r#"{{"_class_name": "{class}", "prediction_type": "{prediction}", "timestep_spacing": "{spacing}"{more}}}"#);
                let Ok(config) = SchedulerConfig::parse(&text, "s") else { continue };
                let Some(schedule) = quiet(&format!("schedule of {text}"), || config.noise_schedule()) else { continue };
                built += check_tables(&text, &config, &schedule);
                check_losses(&text, &schedule, config.prediction());
            }
        }
    }
    assert!(built > 1000, "{built}");
}

fn check_tables(text: &str, config: &SchedulerConfig, schedule: &NoiseSchedule) -> usize {
    let own = config.sampler().ok();
    let others = [SamplerConfig::Ddim(super::DdimConfig { eta: 1.0, ..Default::default() }), SamplerConfig::DpmSolverPp(super::DpmConfig::default())];
    let tables = own.iter().chain(&others).flat_map(|sampler| [1, 2, 7, 30].map(|steps| (sampler, steps)));
    tables.filter_map(|(sampler, steps)| quiet(&format!("{text} {steps} steps"), || sampler.table(schedule, config.prediction(), steps))).count()
}

fn check_losses(text: &str, schedule: &NoiseSchedule, prediction: Prediction) {
    for weight in [Weight::Const, Weight::Snr, Weight::TruncSnr, Weight::V, Weight::State] {
        for pair in trailing_pairs(schedule.len(), 4).unwrap() {
            quiet(&format!("loss {weight:?} of {text}"), || loss_coefficients(schedule, pair, prediction, weight));
            quiet(&format!("output loss {weight:?} of {text}"), || {
                output_loss_coefficients(schedule, pair.0, Some(pair.1), prediction, Prediction::VPrediction, weight)
            });
        }
    }
    for t in [-1, 0, schedule.len() as i64 - 1] {
        quiet(&format!("snr at {t} of {text}"), || Ok(schedule.snr(t)));
        quiet(&format!("lambda at {t} of {text}"), || Ok(schedule.lambda(t)));
    }
}
