//! A recipe's run on a tiny network: what it says, what it leaves, and that a run that was cut off anywhere goes on to the same bits.

use super::*;
use crate::backend::cpu::CpuBackend;
use crate::cancel::Stop;
use crate::distill::Dataset;
use crate::error::{Error, Result, Status};
use crate::io::SchedulerConfig;
use crate::io::test_util::TestDir;
use crate::nn::{Model, families};
use crate::tensor::Tensor;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

const TINY: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[8,8],
"down_block_types":["DownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","UpBlock2D"],"norm_num_groups":4}"#;

/// Four stages: one from data, one on trajectories with a refreshed cache, one that learns from itself, one that takes two steps of that one at once.
const RECIPE: &str = r#"{"stages": [
  {"name": "data", "steps": 3, "batch": 2, "terms": [{"objective": "denoise"}]},
  {"name": "states", "steps": 7, "batch": 2, "grid": 2, "terms": [{"objective": "teacher_forced", "weight": 0.5}, {"objective": "on_policy", "norm": "l1"}],
   "features": [{"objective": "teacher_forced", "student": "mid_block", "decay_steps": 4}],
   "optimizer": "muon", "teacher_order": 2, "substeps": 2, "cache_size": 6, "cache_batch": 4, "cache_refresh": 3, "warmup_steps": 2},
  {"name": "itself", "steps": 3, "batch": 1, "gradient_accumulation_steps": 2, "grid": 4,
   "self_teacher_steps": 2, "substeps": 1, "cache_size": 4, "terms": [{"objective": "self_teacher"}]},
  {"name": "halve", "steps": 4, "batch": 2, "grid": 1, "teacher": "previous", "substeps": 2, "terms": [{"objective": "progressive"}]}
]}"#;

fn model(seed: u64) -> Result<Model> {
    Model::create(families::parse(TINY, "config.json")?, SchedulerConfig::default(), seed)
}

fn data() -> Result<Dataset> {
    let images: Vec<f32> = (0..10 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
    Dataset::new(Tensor::from_slice(&[10, 8, 8, 1], &images)?, None)
}

/// Counts what it is told, and ends the run at a number of them.
struct Told {
    left: usize,
    with: fn() -> Error,
    seen: Vec<Progress>,
}

impl Watch for Told {
    fn progress(&mut self, progress: &Progress) -> Result<()> {
        self.seen.push(progress.clone());
        self.left = self.left.checked_sub(1).ok_or_else(self.with)?;
        Ok(())
    }

    fn warn(&mut self, _: &str) {}
}

fn go(recipe: &str, folder: Option<&Path>, left: usize, with: fn() -> Error) -> Result<(Model, Vec<Progress>)> {
    let mut told = Told { left, with, seen: vec![] };
    let model = go_watched(recipe, folder, &mut told)?;
    Ok((model, told.seen))
}

fn go_watched(recipe: &str, folder: Option<&Path>, watch: &mut dyn Watch) -> Result<Model> {
    let (student, teacher, data) = (model(1)?, model(2)?, data()?);
    let setup = Setup {
        backend: Arc::new(CpuBackend::new(1)?),
        student: &student,
        teacher: Some(&teacher),
        dataset: Some(&data),
        trajectories: None,
        folder,
        held_out: 5,
        log_every: 2,
        evaluate_every: 3,
        save_every: 2,
    };
    run(&Recipe::parse(recipe)?, &setup, watch, Stop::NEVER)
}

const NEVER: usize = usize::MAX;

fn cancelled() -> Error {
    Error::cancelled("enough")
}

/// As if the process had gone: nothing is saved.
fn killed() -> Error {
    Error::state("killed")
}

/// The lines of the metrics, without what depends on the clock.
fn lines(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        ["time", "samples_per_second"].iter().for_each(|key| drop(line.as_object_mut().unwrap().remove(*key)));
        line
    };
    text.lines().map(parse).collect()
}

fn weights(model: &Model) -> Vec<(String, Vec<u8>)> {
    model.weights.iter().map(|(name, tensor)| (name.clone(), tensor.bytes().to_vec())).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with("events.out.tfevents.") && name != "run.lock");
    names.sort();
    names
}

#[test]
fn a_run_that_was_cut_off_anywhere_goes_on_to_the_same_bits() -> Result<()> {
    let dir = TestDir::new("recipe-cut");
    let whole = dir.join("whole");
    let (exact, seen) = go(RECIPE, Some(&whole), NEVER, killed)?;
    let expected = lines(&whole);
    assert_eq!(exact.student.as_ref().map(|own| own.pairs.clone()), Some(vec![(999, -1)]));
    // Without a folder it is the same run.
    assert_eq!(weights(&go(RECIPE, None, NEVER, killed)?.0), weights(&exact));
    // Every third place: each phase has more of them.
    for cut in (0..seen.len()).step_by(3) {
        for (name, with, status) in [("killed", killed as fn() -> Error, Status::State), ("cancelled", cancelled, Status::Cancelled)] {
            let folder = dir.join(&format!("{name}-{cut}"));
            let error = go(RECIPE, Some(&folder), cut, with).map(drop).unwrap_err();
            assert_eq!(error.status, status, "{name} {cut}: {error}");
            if name == "killed" {
                // A line that was half written.
                use std::io::Write;
                let mut metrics = std::fs::OpenOptions::new().append(true).open(folder.join("metrics.jsonl")).unwrap();
                metrics.write_all(b"{\"stage\": 9, \"na").unwrap();
            }
            let (model, _) = go(RECIPE, Some(&folder), NEVER, killed)?;
            assert_eq!(weights(&model), weights(&exact), "{name} {cut}");
            let errors = |lines: &[Value]| lines.iter().filter(|line| line.get("held_out").is_some()).cloned().collect::<Vec<_>>();
            let found = lines(&folder);
            assert_eq!(errors(&found), errors(&expected), "{name} {cut}");
            assert!(name == "cancelled" || found == expected, "{name} {cut}: {found:?}");
            assert_eq!(names(&folder), names(&whole), "{name} {cut}");
        }
    }
    // A run that is done does nothing more.
    let (again, seen) = go(RECIPE, Some(&whole), 0, killed)?;
    assert!(seen.is_empty() && weights(&again) == weights(&exact));
    Ok(())
}

#[test]
fn a_run_leaves_what_people_look_at() -> Result<()> {
    let dir = TestDir::new("recipe-files");
    let folder = dir.join("run");
    let (_, seen) = go(RECIPE, Some(&folder), NEVER, killed)?;
    let mut expected = vec!["metrics.jsonl", "progress.svg", "recipe.json"];
    let pictures =
        [(1, 0), (1, 3), (2, 0), (2, 3), (2, 6), (2, 7), (3, 0), (3, 3), (4, 0), (4, 3), (4, 4)].map(|(stage, step)| format!("samples-{stage}-{step:07}.png"));
    expected.extend(pictures.iter().map(String::as_str));
    expected.extend(["stage-1.safetensors", "stage-2.safetensors", "stage-3.safetensors", "stage-4.safetensors"]);
    assert_eq!(names(&folder), expected);
    let lines = lines(&folder);
    let of = |stage: usize, key: &str| lines.iter().filter(|l| l["stage"] == stage && l.get(key).is_some()).collect::<Vec<_>>();
    let steps = |stage: usize, key: &str| of(stage, key).iter().map(|l| l["step"].as_u64().unwrap()).collect::<Vec<_>>();
    // Every second step, before each measurement and at the end.
    assert_eq!(steps(2, "loss"), [2, 3, 4, 6, 7]);
    assert_eq!(steps(2, "held_out"), [0, 3, 6, 7]);
    let losses: Vec<&String> = of(2, "losses")[0]["losses"].as_object().unwrap().keys().collect();
    assert_eq!(losses, ["mid_block", "on_policy", "teacher_forced"]);
    for line in of(2, "held_out") {
        // Both networks are random: errors of a few times the noise, of two states each, on both sets of noises.
        let states: Vec<f64> = line["held_out_states"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert!(states.len() == 2 && states[1] == line["held_out"].as_f64().unwrap() && states.iter().all(|e| *e > 0.0 && *e < 1e3), "{line}");
        assert!(line["training"].as_f64().unwrap() != states[1], "{line}");
    }
    // A student of two steps, measured where the trajectories of four steps have its states.
    assert!(of(3, "held_out").iter().all(|line| line["held_out_states"].as_array().unwrap().len() == 2));
    assert!(of(1, "training").is_empty() && of(1, "held_out")[0].get("held_out_states").is_none());
    let trained: Vec<_> = seen.iter().filter(|p| p.phase == Phase::Train).map(|p| (p.stage, p.done, p.total)).collect();
    let counted: Vec<_> = [3, 7, 3, 4].iter().enumerate().flat_map(|(stage, n)| (1..=*n).map(move |i| (stage, i, *n))).collect();
    assert_eq!(trained, counted);
    assert!(seen.iter().filter(|p| p.phase == Phase::Train).all(|p| p.pace.samples_per_second(p.batch) > 0.0));
    assert_eq!(seen.iter().filter(|p| p.phase == Phase::Train).map(|p| p.steps_left).collect::<Vec<_>>(), (0..17).rev().map(f64::from).collect::<Vec<_>>());
    let text = std::fs::read_to_string(folder.join("recipe.json")).unwrap();
    assert_eq!(Recipe::parse(&text)?, Recipe::parse(RECIPE)?);
    // The same folder is no place for another recipe.
    let error = go(&RECIPE.replace("\"steps\": 7", "\"steps\": 8"), Some(&folder), NEVER, killed).map(drop).unwrap_err();
    assert!(error.status == Status::InvalidArgument && error.message.contains("another recipe"), "{error}");
    Ok(())
}

/// At a learning rate that does nothing, no error is better than the first: the stage ends when its patience does, with the student that it began with.
#[test]
fn patience_ends_a_stage_with_its_best_student() -> Result<()> {
    let dir = TestDir::new("recipe-patience");
    let text = r#"{"stages": [{"steps": 100, "batch": 2, "grid": 2, "patience": 2, "learning_rate": LR, "decay": "constant", "warmup_steps": 0,
        "cache_size": 4, "substeps": 1, "terms": [{"objective": "teacher_forced"}]}]}"#;
    let folder = dir.join("run");
    let still = text.replace("LR", "1e-30");
    assert!(go(&still, Some(&folder), 8, killed).is_err());
    let (found, seen) = go(&still, Some(&folder), NEVER, killed)?;
    assert_eq!(weights(&found), weights(&model(1)?));
    assert_eq!(seen.last().map(|p| p.done), Some(6));
    assert!(!names(&folder).iter().any(|name| name.contains("best") || name.contains("checkpoint")));
    // One that learns goes on.
    let (_, seen) = go(&text.replace("LR", "1e-3").replace("100", "9"), None, NEVER, killed)?;
    assert_eq!(seen.last().map(|p| p.done), Some(9));
    Ok(())
}

#[test]
fn recipes_say_what_is_wrong_with_them() {
    let stage = |more: &str| format!("{{\"stages\": [{{\"steps\": 1, \"terms\": [{{\"objective\": \"output\"}}]{more}}}]}}");
    let term = |term: &str| format!("{{\"stages\": [{{\"steps\": 1, \"terms\": [{term}]}}]}}");
    let rows: [(String, &str); 18] = [
        (String::new(), "byte 0"),
        ("[]".into(), "recipe"),
        ("{\"stages\": []}".into(), "0 stages; it has 1 to 64"),
        (format!("{{\"stages\": [{}]}}", vec!["{\"steps\": 1}"; 65].join(",")), "stages has 65 items; at most 64"),
        ("{\"stages\": [{}]}".into(), "stages[0]: steps is 0"),
        (stage(", \"learning_rat\": 1"), "learning_rat"),
        (stage(", \"optimizer\": \"sgd\""), "optimizer is \"sgd\"; it must be adamw, muon"),
        (stage(", \"decay\": \"linear\""), "constant, cosine, stable"),
        (stage(", \"precision\": \"f64\""), "f32, f16, bf16"),
        (stage(", \"teacher\": \"previous\""), "no stage before the first"),
        (stage(", \"trajectory_clip\": \"range\", \"clip_range\": -1"), "range"),
        (term("{\"objective\": \"outputs\"}"), "terms[0]: objective is \"outputs\"; it must be output, "),
        (term("{\"objective\": \"output\", \"norm\": \"huber\"}"), "huber_delta"),
        (term("{\"objective\": \"output\", \"step_weight\": \"x\"}"), "weight"),
        (term("{\"weight\": 1}"), "recipe: stages[0]: terms[0]: missing field `objective`"),
        (term("{\"objective\": \"output\", \"wait\": 1}"), "wait"),
        ("{\"stages\": 3}".into(), "recipe: stages: expected a list, found 3"),
        ("{\"stages\": [{\"steps\": 1}], \"stage\": 1}".into(), "unknown field \"stage\""),
    ];
    for (text, words) in rows {
        let error = Recipe::parse(&text).map(drop).unwrap_err();
        assert!(error.status == Status::InvalidArgument && error.message.contains(words) && error.message.len() < 400, "{text}: {error}");
    }
    let error = Recipe::named("quick", 2).map(drop).unwrap_err();
    assert!(error.message.contains("fast, best"), "{error}");
    for name in ["fast", "best"] {
        let recipe = Recipe::named(name, 2).unwrap();
        recipe.check().unwrap();
        assert_eq!(Recipe::parse(&recipe.text().unwrap()).unwrap(), recipe);
    }
}

/// A watcher that begins a second run in the folder of the one that it watches.
struct Nested<'a>(&'a Path);

impl Watch for Nested<'_> {
    fn progress(&mut self, _: &Progress) -> Result<()> {
        go(RECIPE, Some(self.0), NEVER, killed).map(drop)
    }

    fn warn(&mut self, _: &str) {}
}

#[test]
fn a_folder_has_one_run_at_a_time() -> Result<()> {
    let dir = TestDir::new("recipe-lock");
    let folder = dir.join("run");
    let error = go_watched(RECIPE, Some(&folder), &mut Nested(&folder)).map(drop).unwrap_err();
    assert!(error.status == Status::State && error.message.contains("another run is under way"), "{error}");
    go(RECIPE, Some(&folder), NEVER, killed).map(drop)
}

#[test]
fn damaged_metrics_are_told_by_their_line() -> Result<()> {
    let dir = TestDir::new("recipe-damage");
    let folder = dir.join("run");
    assert!(go(RECIPE, Some(&folder), 20, killed).is_err());
    let path = folder.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"stage\"", "\"stag\"", 1)).unwrap();
    let error = go(RECIPE, Some(&folder), NEVER, killed).map(drop).unwrap_err();
    assert!(error.status == Status::CorruptFile && error.message.contains("metrics.jsonl: line 1"), "{error}");
    Ok(())
}
