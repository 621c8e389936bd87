//! A scheduler's timesteps and every state of a run with the recorded model eps(x, t) = 0.8 sin(1.3 x + t/250), through the sampler's plan. A json file is one run
//! of one sample; a safetensors file has many of one class (tests/interop/record_schedulers.py), each with two samples and the noise of its steps.

use crate::common::{Check, backend, close, fail, read, text, values, write};
use fewstep::backend::as_bytes;
use fewstep::diffusion::Table;
use fewstep::graph::{Graph, TensorType};
use fewstep::io::TensorFile;
use fewstep::io::scheduler_config::SchedulerConfig;
use fewstep::random::Purpose;
use fewstep::sampling::{RunGraph, RunSpec, UNROLLED};
use serde_json::Value;
use std::path::Path;

const MODEL: &str = "eps(x,t) = 0.8*sin(1.3*x + t/250)";

/// One recorded run.
struct Record {
    /// [N, elements] of a state.
    shape: [usize; 2],
    timesteps: Vec<f64>,
    /// The first state and those after each step.
    states: Vec<Vec<f32>>,
    /// What each step drew; zeros where it drew nothing.
    noise: Option<Vec<Vec<f32>>>,
}

pub fn run(case: &Path) -> Check {
    match case.extension().is_some_and(|e| e == "safetensors") {
        true => run_class(case),
        false => run_one(case),
    }
}

fn run_class(path: &Path) -> Check {
    let file = text(TensorFile::open(path))?;
    let class = file.metadata().get("class").ok_or("no class")?;
    check_model(file.metadata().get("model").map_or("", String::as_str))?;
    let mut failed = vec![];
    let cases = file.metadata().iter().filter_map(|(key, value)| Some((key.strip_prefix("case ")?, value)));
    let mut count = 0;
    for (name, value) in cases {
        count += 1;
        if let Err(e) = run_case(&file, class, name, value) {
            failed.push(format!("{name}: {e}"));
        }
    }
    match (count, failed.is_empty()) {
        (0, _) => Err("no cases".into()),
        (_, true) => Ok(()),
        _ => Err(failed.join("\n")),
    }
}

fn run_case(file: &TensorFile, class: &str, name: &str, value: &str) -> Check {
    let json: Value = serde_json::from_str(value).map_err(|e| fail(name, e))?;
    let steps = json["steps"].as_u64().ok_or("no steps")? as usize;
    let table = table(&json["config"], class, steps)?;
    let of = |what: &str| values(file, &format!("{name}.{what}"));
    let start = of("start")?;
    let pieces = |v: Vec<f32>| v.chunks(start.len()).map(<[f32]>::to_vec).collect::<Vec<_>>();
    let noise = file.contains(&format!("{name}.noise")).then(|| of("noise").map(pieces)).transpose()?;
    let record = Record { shape: [2, start.len() / 2], timesteps: of("timesteps")?.into_iter().map(f64::from).collect(), states: pieces(of("states")?), noise };
    let first: Vec<f32> = start.iter().map(|z| z * table.initial as f32).collect();
    close("the first state", &first, &record.states[0], 1e-6, 0.0)?;
    check_timesteps(&table, &record.timesteps)?;
    follow(&table, &record)
}

fn run_one(case: &Path) -> Check {
    let json = std::fs::read_to_string(case).map_err(|e| fail(case.display(), e))?;
    // Python writes -Infinity and NaN bare.
    let quoted = json.replace("-Infinity", "\"-Infinity\"").replace(": Infinity", ": \"Infinity\"").replace(": NaN", ": \"NaN\"");
    let record: Value = serde_json::from_str(&quoted).map_err(|e| fail(case.display(), e))?;
    check_model(record["model"].as_str().unwrap_or(""))?;
    let steps = record["num_inference_steps"].as_u64().ok_or("no num_inference_steps")? as usize;
    let table = table(&record["config"], record["class"].as_str().ok_or("no class")?, steps)?;
    let timesteps: Vec<f64> = record["timesteps"].as_array().ok_or("no timesteps")?.iter().filter_map(Value::as_f64).collect();
    check_timesteps(&table, &timesteps)?;
    let states: Vec<_> = record["states"].as_array().ok_or("no states")?.iter().map(numbers).collect();
    if states.len() != steps + 1 {
        return Err(format!("{} states recorded for {steps} steps", states.len()));
    }
    follow(&table, &Record { shape: [1, states[0].len()], timesteps, states, noise: None })
}

fn check_model(found: &str) -> Check {
    if found == MODEL { Ok(()) } else { Err(format!("the recorded model is {found}, this test knows {MODEL}")) }
}

/// The table that the library makes of a recorded config.
fn table(config: &Value, class: &str, steps: usize) -> Result<Table, String> {
    let mut config = config.clone();
    config["_class_name"] = class.into();
    let config = text(SchedulerConfig::parse(&config.to_string(), class))?;
    text(text(config.sampler())?.table(&text(config.noise_schedule())?, config.prediction(), steps))
}

/// To the last bits of float32: Euler's are not whole numbers.
fn check_timesteps(table: &Table, expected: &[f64]) -> Check {
    let found: Vec<f64> = table.steps.iter().map(|s| s.t).collect();
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 2e-6 * b.abs().max(1.0);
    if found.len() == expected.len() && found.iter().zip(expected).all(near) { Ok(()) } else { Err(format!("timesteps {found:?}, expected {expected:?}")) }
}

/// All numbers of a nested list, in order.
fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        other => other.as_f64().map(|v| v as f32).into_iter().collect(),
    }
}

fn follow(table: &Table, record: &Record) -> Check {
    let [batch, row] = record.shape;
    let mut g = Graph::new();
    let shape = [batch, 1, row, 1];
    let spec =
        RunSpec { table, batch, size: [1, row], purpose: Purpose::Evaluation, precision: fewstep::tensor::DType::F32, guidance: None, unrolled: UNROLLED };
    let build = |g: &mut Graph| -> fewstep::Result<_> {
        let run = RunGraph::start(g, &spec, shape)?;
        let mut inputs = vec![];
        for k in 0..table.steps.len() {
            // A segment that holds nothing is none.
            let scaled = table.steps[k].input != 1.0;
            if scaled {
                g.begin_segment(format!("input {k}"));
            }
            let seen = Some(run.network_input(g, table, k)?).filter(|_| scaled);
            seen.into_iter().for_each(|seen| g.tap(seen));
            g.begin_segment(format!("step {k}"));
            let out = g.input(format!("out.{k}"), TensorType::f32(&shape))?;
            let z = record.noise.is_some().then(|| g.input(format!("z.{k}"), TensorType::f32(&shape))).transpose()?;
            run.update(g, table, k, out, z)?;
            inputs.push((seen, out, z));
        }
        Ok(inputs)
    };
    let inputs = text(build(&mut g))?;
    let mut exec = text(backend()?.compile(&g))?;
    text(exec.prepare())?;
    text(exec.write_storage("sampler.x", as_bytes(&record.states[0])))?;
    for (k, t) in record.timesteps.iter().enumerate() {
        let (seen, out, z) = inputs[k];
        let x = match seen {
            Some(seen) => {
                let scale = text(exec.plan().segment(&format!("input {k}")))?;
                text(exec.run(scale))?;
                read(exec.as_ref(), seen)?
            }
            None => text(text(exec.storage_bytes("sampler.x"))?.of::<f32>())?.to_vec(),
        };
        let value: Vec<f32> = x.iter().map(|x| (0.8 * (1.3 * f64::from(*x) + t / 250.0).sin()) as f32).collect();
        write(exec.as_mut(), out, &value)?;
        if let (Some(z), Some(noise)) = (z, &record.noise) {
            write(exec.as_mut(), z, &noise[k])?;
        }
        let step = text(exec.plan().segment(&format!("step {k}")))?;
        text(exec.run(step))?;
        let next = text(text(exec.storage_bytes("sampler.x"))?.of::<f32>())?;
        close(&format!("state {}", k + 1), &next, &record.states[k + 1], 1e-4, 0.0)?;
    }
    Ok(())
}
