//! Runs recorded with diffusers, repeated with the host reference. Three are kept beside this file; `FEWSTEP_GOLDEN_DIR` names a folder with more (files as
//! `golden/schedulers/*.json`; optional keys `eta`, `use_clipped_model_output`, `samples` and `noise`, one list a step).

use super::reference::{History, apply};
use super::sampler::SamplerConfig;
use super::table::{Clip, MEMORY, Sum, Table};
use crate::io::scheduler_config::SchedulerConfig;
use serde_json::Value;

/// The toy network of the recordings.
fn model(x: f64, t: f64) -> f64 {
    0.8 * (1.3 * x + t / 250.0).sin()
}

fn floats(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

/// One step with float32 coefficients, states and arithmetic, as a backend takes it. Without dynamic clipping.
fn apply_f32(table: &Table, step: usize, x: &[f32], out: &[f32], kept: &mut [Vec<f32>; MEMORY], z: Option<&[f64]>) -> Vec<f32> {
    let s = &table.steps[step];
    let r = if let Clip::Range(r) = table.clip { r as f32 } else { f32::INFINITY };
    let m0: Vec<f32> = x.iter().zip(out).map(|(x, o)| (s.x0_x as f32 * x + s.x0_out as f32 * o).clamp(-r, r)).collect();
    let sum = |row: &Sum, i: usize| {
        let past = row.kept.iter().zip(kept.iter()).map(|(f, m)| *f as f32 * m.get(i).copied().unwrap_or(0.0)).sum::<f32>();
        row.x as f32 * x[i] + row.out as f32 * out[i] + row.m0 as f32 * m0[i] + past
    };
    let next = (0..x.len()).map(|i| sum(&s.next, i) + s.noise as f32 * z.map_or(0.0, |z| z[i] as f32)).collect();
    let new = s.keep.map(|row| row.map(|row| (0..x.len()).map(|i| sum(&row, i)).collect::<Vec<_>>()));
    kept.iter_mut().zip(new).for_each(|(old, new)| *old = new.unwrap_or(std::mem::take(old)));
    next
}

/// Largest |a - b| over the largest |b|.
fn relative(a: impl Iterator<Item = f64>, b: &[f64]) -> f64 {
    let scale = b.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    let error = a.zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m: f64, e| if e.is_nan() { f64::INFINITY } else { m.max(e) });
    error / scale
}

/// Repeats one recording in f64 and in f32; the larger of the two relative errors, over the run.
fn worst_error(text: &str) -> f64 {
    let json: Value = serde_json::from_str(&text.replace("-Infinity", "\"-Infinity\"").replace("NaN", "null")).unwrap();
    let mut config = json["config"].clone();
    config["_class_name"] = json["class"].clone();
    let config = SchedulerConfig::parse(&config.to_string(), "recorded").unwrap();
    let mut sampler = config.sampler().unwrap();
    if let SamplerConfig::Ddim(c) = &mut sampler {
        c.eta = json["eta"].as_f64().unwrap_or(0.0);
        c.use_clipped_model_output = json["use_clipped_model_output"].as_bool().unwrap_or(false);
    }
    let steps = json["num_inference_steps"].as_u64().unwrap() as usize;
    let table = sampler.table(&config.noise_schedule().unwrap(), config.prediction(), steps).unwrap();
    assert_eq!(table.steps.iter().map(|s| s.t).collect::<Vec<_>>(), floats(&json["timesteps"]));
    let states: Vec<Vec<f64>> = json["states"].as_array().unwrap().iter().map(floats).collect();
    let samples = json["samples"].as_u64().unwrap_or(1) as usize;
    let (mut x, mut history, mut worst) = (states[0].clone(), History::default(), 0.0_f64);
    let (mut x32, mut history32) = (states[0].iter().map(|v| *v as f32).collect::<Vec<_>>(), [const { Vec::new() }; MEMORY]);
    for (i, reference) in states[1..].iter().enumerate() {
        let t = table.steps[i].t;
        let z = json["noise"].get(i).map(floats);
        let out: Vec<f64> = x.iter().map(|x| model(*x, t)).collect();
        x = apply(&table, i, samples, &x, &out, &mut history, z.as_deref()).unwrap();
        worst = worst.max(relative(x.iter().copied(), reference));
        if !matches!(table.clip, Clip::Dynamic { .. }) {
            let out: Vec<f32> = x32.iter().map(|x| model(f64::from(*x), t) as f32).collect();
            x32 = apply_f32(&table, i, &x32, &out, &mut history32, z.as_deref());
            worst = worst.max(relative(x32.iter().map(|v| f64::from(*v)), reference));
        }
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
