//! A scheduler's timesteps and every state of a run with the recorded model eps(x, t) = 0.8 sin(1.3 x + t/250), through the sampler's plan.

use crate::common::{Check, backend, close, fail, text, write};
use fewstep::backend::as_bytes;
use fewstep::diffusion::run::{RunGraph, RunSpec};
use fewstep::diffusion::{Purpose, Table};
use fewstep::graph::{Graph, TensorType};
use fewstep::io::scheduler_config::SchedulerConfig;
use serde_json::Value;
use std::path::Path;

pub fn run(case: &Path) -> Check {
    let json = std::fs::read_to_string(case).map_err(|e| fail(case.display(), e))?;
    // Python writes -Infinity and NaN bare.
    let quoted = json.replace("-Infinity", "\"-Infinity\"").replace(": Infinity", ": \"Infinity\"").replace(": NaN", ": \"NaN\"");
    let record: Value = serde_json::from_str(&quoted).map_err(|e| fail(case.display(), e))?;
    let expected_model = "eps(x,t) = 0.8*sin(1.3*x + t/250)";
    if record["model"] != expected_model {
        return Err(format!("the recorded model is {}, this test knows {expected_model}", record["model"]));
    }
    let mut config = record["config"].clone();
    config["_class_name"] = record["class"].clone();
    let config = text(SchedulerConfig::parse(&config.to_string(), &case.display().to_string()))?;
    let steps = record["num_inference_steps"].as_u64().ok_or("no num_inference_steps")? as usize;
    let table = text(Table::build(&text(config.noise_schedule())?, config.prediction(), &text(config.sampler())?, steps))?;
    let timesteps: Vec<f64> = record["timesteps"].as_array().ok_or("no timesteps")?.iter().filter_map(Value::as_f64).collect();
    let found: Vec<f64> = table.steps.iter().map(|s| s.t).collect();
    if found != timesteps {
        return Err(format!("timesteps {found:?}, expected {timesteps:?}"));
    }
    let mut states = vec![];
    for state in record["states"].as_array().ok_or("no states")? {
        states.push(numbers(state));
    }
    if states.len() != steps + 1 {
        return Err(format!("{} states recorded for {steps} steps", states.len()));
    }
    follow(&table, &timesteps, &states)
}

/// All numbers of a nested list, in order.
fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        other => other.as_f64().map(|v| v as f32).into_iter().collect(),
    }
}

fn follow(table: &Table, timesteps: &[f64], states: &[Vec<f32>]) -> Check {
    let mut g = Graph::new();
    let shape = [1, 1, states[0].len(), 1];
    let spec = RunSpec { table, batch: 1, size: [1, states[0].len()], purpose: Purpose::Evaluation, precision: fewstep::tensor::DType::F32 };
    let build = |g: &mut Graph| -> fewstep::Result<_> {
        let mut run = RunGraph::start(g, &spec, shape)?;
        let mut outputs = vec![];
        for k in 0..table.steps.len() {
            g.begin_segment(format!("step {k}"));
            let out = g.input(format!("out.{k}"), TensorType::f32(&shape))?;
            run.update(g, table, k, out)?;
            outputs.push(out);
        }
        Ok(outputs)
    };
    let outputs = text(build(&mut g))?;
    let mut exec = text(backend()?.compile(&g))?;
    text(exec.prepare())?;
    text(exec.write_storage("sampler.x", as_bytes(&states[0])))?;
    for (k, t) in timesteps.iter().enumerate() {
        let x: Vec<f32> = text(text(exec.storage_bytes("sampler.x"))?.of::<f32>())?.to_vec();
        let out: Vec<f32> = x.iter().map(|x| (0.8 * (1.3 * f64::from(*x) + t / 250.0).sin()) as f32).collect();
        write(exec.as_mut(), outputs[k], &out)?;
        let segment = exec.plan().segments()[k + 1].clone();
        text(exec.run(segment))?;
        let next = text(text(exec.storage_bytes("sampler.x"))?.of::<f32>())?;
        close(&format!("state {}", k + 1), &next, &states[k + 1], 1e-4, 0.0)?;
    }
    Ok(())
}
