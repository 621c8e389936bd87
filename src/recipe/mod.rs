//! Recipes: training in stages that go by themselves, may be cut off at any time and go on where they were, and leave behind what people look at.
//!
//! `stage.rs` is what a recipe says, `named.rs` those that come with the library, `run.rs` the order of work. A run's folder (`folder.rs`) has its checkpoints and
//! students, `log.rs` writes the metrics (JSON lines, TensorBoard's events, a chart), `held_out.rs` measures and draws what the student makes of noises that
//! training never sees.

mod folder;
mod held_out;
mod log;
mod named;
mod run;
mod stage;

pub use run::{Phase, Progress, Setup, Watch, run};
pub use stage::{OBJECTIVES, Recipe, Stage, StageFeature, StageTerm};

#[cfg(test)]
mod tests;
