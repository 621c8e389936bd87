//! Distillation: what a student is, what it is asked to match, and the training step that makes it so.

pub mod cache;
pub mod checkpoint;
pub mod dataset;
pub mod loss_scale;
pub mod objective;
pub mod options;
mod overflow;
mod range;
mod record;
pub mod student;
pub mod trainer;
pub mod training_graph;

#[cfg(test)]
mod tests;

pub use cache::TrajectoryCache;
pub use checkpoint::OptionGroup;
pub use dataset::Dataset;
pub use objective::{NormKind, Objective, Term};
pub use options::{LearningRate, TrainerOptions};
pub use student::{StudentOptions, derive};
pub use trainer::{StepReport, Trainer, WeightsKind};
