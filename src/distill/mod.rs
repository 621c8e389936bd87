//! Distillation: what a student is, what it is asked to match, and the training step that makes it so.

pub mod cache;
mod checkpoint;
pub mod dataset;
pub mod loss_scale;
pub mod objective;
pub mod student;
pub mod trainer;
pub mod training_graph;

pub use cache::TrajectoryCache;
pub use dataset::Dataset;
pub use objective::{NormKind, Objective, Term};
pub use student::{StudentOptions, derive};
pub use trainer::{LearningRate, StepReport, Trainer, TrainerOptions, WeightsKind};
