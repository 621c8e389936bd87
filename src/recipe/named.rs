//! Recipes that come with the library.

use super::stage::{Recipe, Stage, StageTerm};
use crate::error::{Error, Result};

/// Their names.
const NAMES: [&str; 2] = ["fast", "best"];

/// What both have in common: the teacher's own states, from its third-order solver, matched by Muon in batches of 64.
fn trajectory(grid: u32, steps: u64) -> Stage {
    let term = |objective: &str| StageTerm {
        objective: objective.to_owned(),
        weight: 1.0,
        norm: "l2".to_owned(),
        huber_delta: None,
        step_weight: None,
        linear_fit_steps: 0,
    };
    Stage {
        name: "trajectory".to_owned(),
        steps,
        grid,
        terms: vec![term("teacher_forced")],
        seed: 1,
        optimizer: "muon".to_owned(),
        learning_rate: 2e-3,
        teacher_order: 3,
        cache_size: 12288,
        ..Stage::default()
    }
}

impl Recipe {
    /// The recipe of a name for a student of so many sampler steps.
    ///
    /// `fast` is what `make demo` does: minutes on two cores for small images. `best` trains six times as long, replaces its trajectories by fresh ones on the
    /// way, and lets the learning rate fall in the last fifth only; docs/distillation.md has what each lever won.
    pub fn named(name: &str, grid: u32) -> Result<Self> {
        if grid == 0 {
            return Err(Error::invalid("steps is 0; a student is sampled in one or more"));
        }
        let stage = match name {
            "fast" => trajectory(grid, 4000),
            "best" => Stage { decay: "stable".to_owned(), cache_refresh: 4000, ..trajectory(grid, 24000) },
            _ => return Err(Error::invalid(format!("there is no recipe \"{}\"; there are {}", crate::io::json::shorten(name), NAMES.join(", ")))),
        };
        Ok(Self { stages: vec![stage] })
    }
}
