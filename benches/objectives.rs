//! What a step of each objective costs: time, outputs of the teacher and of the student, memory. The demo's student on a grid of four steps, batch 64, two
//! threads.
//!
//! usage: cargo bench --bench objectives

mod digits;

use fewstep::backend::cpu::CpuBackend;
use fewstep::diffusion::{Weight, grid};
use fewstep::distill::{Dataset, FeatureTerm, NormKind, Objective, Point, Term, Trainer, TrainerOptions};
use fewstep::error::Result;
use fewstep::tensor::{DType, Tensor};
use std::sync::Arc;
use std::time::Instant;

const STEPS: usize = 4;
const BATCH: usize = 64;

/// Images that cost what any others do.
fn dataset() -> Result<Dataset> {
    Dataset::new(Tensor::zeros(DType::F32, &[BATCH, 8, 8, 1])?, Some(Tensor::zeros(DType::I32, &[BATCH])?))
}

/// A loss to measure.
struct Row {
    name: &'static str,
    terms: Vec<Term>,
    features: Vec<FeatureTerm>,
}

fn rows() -> Vec<Row> {
    let term = |objective: Objective| objective.term(if objective.pair().0 == Point::Data { Weight::V } else { Weight::State }, NormKind::L2);
    let row = |name, objective: Objective| Row { name, terms: vec![term(objective)], features: vec![] };
    let feature = |block: &str| {
        let (student, teacher) = (block.to_string(), block.to_string());
        FeatureTerm { point: Point::Data, student, teacher, norm: NormKind::L2, weight: 0.1, decay_steps: 0 }
    };
    let blocks = || ["down_blocks.0", "mid_block", "up_blocks.1"].map(feature).to_vec();
    vec![
        row("denoise", Objective::Denoise),
        row("output", Objective::Output),
        Row { name: "three features", terms: vec![], features: blocks() },
        Row { name: "output and three features", terms: vec![term(Objective::Output)], features: blocks() },
        row("teacher_forced", Objective::TeacherForced),
        row("on_policy", Objective::OnPolicy),
        row("resolve", Objective::Resolve),
        row("rollout", Objective::Rollout),
    ]
}

/// How often a network's output is computed on the way to the loss. Features alone need no outputs; what a chain computes again for its gradients is not
/// counted.
fn evaluations(trainer: &Trainer, network: &str) -> usize {
    let graph = trainer.plan().graph();
    trainer
        .plan()
        .order()
        .iter()
        .flat_map(|node| &graph.nodes()[node.0 as usize].outputs)
        .filter(|value| graph.value(**value).name == format!("{network}.output"))
        .count()
}

fn main() -> Result<()> {
    let teacher = digits::teacher()?;
    let (student, data) = (digits::student(&teacher, 0)?, dataset()?);
    println!(
        "| objective | ms a step, least (median) | steps a second | outputs of the teacher | of the student | MB | of teacher_forced's |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    let mut lines = vec![];
    for Row { name, terms, features } in rows() {
        let pairs = grid::trailing_pairs(student.scheduler.num_train_timesteps, STEPS)?;
        let options = TrainerOptions { batch: BATCH, terms, features, pairs, substeps: 4, cache_size: 128, ..TrainerOptions::default() };
        let mut trainer = Trainer::new(Arc::new(CpuBackend::new(2)?), &student, Some(&teacher), Some(&data), options)?;
        let mut times = vec![];
        for _ in 0..23 {
            let start = Instant::now();
            trainer.step()?;
            times.push(1e3 * start.elapsed().as_secs_f64());
        }
        let mut times = times.split_off(3); // the first make the cache and fill others
        times.sort_by(f64::total_cmp);
        lines.push((name, times, [evaluations(&trainer, "teacher"), evaluations(&trainer, "student")], trainer.memory().total() as f64 / 1e6));
    }
    let whole = lines.iter().find(|(name, ..)| *name == "teacher_forced").map_or(f64::NAN, |(.., bytes)| *bytes);
    for (name, times, [teacher, student], bytes) in lines {
        let (least, median) = (times[0], times[times.len() / 2]);
        println!("| {name} | {least:.1} ({median:.1}) | {:.0} | {teacher} | {student} | {bytes:.1} | {:.2} |", 1e3 / median, bytes / whole);
    }
    Ok(())
}
