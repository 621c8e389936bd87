//! Runs recorded with diffusers, repeated with the host reference. Three are kept beside this file; `FEWSTEP_GOLDEN_DIR` names a folder with more (files as
//! `golden/schedulers/*.json`; optional keys `eta`, `use_clipped_model_output`, `samples` and `noise`, one list a step).

use super::diffusers::SchedulerConfig;
use super::reference::{History, apply};
use super::sampler::{SamplerConfig, Table};
use serde_json::Value;

/// The toy network of the recordings.
fn model(x: f64, t: f64) -> f64 {
    0.8 * (1.3 * x + t / 250.0).sin()
}

fn floats(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

/// Repeats one recording; the largest error relative to the largest value of each state, over the run.
fn worst_error(text: &str) -> f64 {
    let json: Value = serde_json::from_str(&text.replace("-Infinity", "\"-Infinity\"").replace("NaN", "null")).unwrap();
    let mut config = json["config"].clone();
    config["_class_name"] = json["class"].clone();
    let mut config = SchedulerConfig::from_json(&config).unwrap();
    if let SamplerConfig::Ddim(c) = &mut config.sampler {
        c.eta = json["eta"].as_f64().unwrap_or(0.0);
        c.use_clipped_model_output = json["use_clipped_model_output"].as_bool().unwrap_or(false);
    }
    let steps = json["num_inference_steps"].as_u64().unwrap() as usize;
    let table = Table::build(&config.noise_schedule().unwrap(), config.prediction, &config.sampler, steps).unwrap();
    assert_eq!(table.steps.iter().map(|s| s.t).collect::<Vec<_>>(), floats(&json["timesteps"]));
    let states: Vec<Vec<f64>> = json["states"].as_array().unwrap().iter().map(floats).collect();
    let samples = json["samples"].as_u64().unwrap_or(1) as usize;
    let (mut x, mut history, mut worst) = (states[0].clone(), History::default(), 0.0_f64);
    for (i, reference) in states[1..].iter().enumerate() {
        let out: Vec<f64> = x.iter().map(|x| model(*x, table.steps[i].t)).collect();
        let z = json["noise"].get(i).map(floats);
        x = apply(&table, i, samples, &x, &out, &mut history, z.as_deref()).unwrap();
        let scale = reference.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        let error = x.iter().zip(reference).map(|(a, b)| (a - b).abs()).fold(0.0, |m: f64, e| if e.is_nan() { f64::INFINITY } else { m.max(e) });
        worst = worst.max(error / scale);
    }
    assert_eq!(states.len(), table.steps.len() + 1);
    worst
}

#[test]
fn recorded_runs() {
    let kept = [
        include_str!("testdata/ddim_zero_snr_trailing.json"),
        include_str!("testdata/ddim_sample_prediction_clip2.json"),
        include_str!("testdata/dpmpp_2m_karras_8.json"),
    ];
    for text in kept {
        let error = worst_error(text);
        assert!(error < 1e-4, "{error:e}");
    }
}

#[test]
fn recorded_runs_elsewhere() {
    let Some(folder) = std::env::var_os("FEWSTEP_GOLDEN_DIR") else { return };
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut bad = 0;
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "json")) {
        let text = std::fs::read_to_string(file).unwrap();
        let result = std::panic::catch_unwind(|| worst_error(&text));
        let failed = !result.as_ref().is_ok_and(|e| *e < 1e-4);
        bad += usize::from(failed);
        println!("{} {result:?}{}", file.file_name().unwrap().to_string_lossy(), if failed { " FAILED" } else { "" });
    }
    assert_eq!(bad, 0);
}
