//! Distillation: what a student is, what it is asked to match, and the training step that makes it so.

pub mod cache;
pub mod checkpoint;
pub mod context;
pub mod conv_net;
pub mod dataset;
pub mod distribution;
mod draws;
pub mod evaluations;
pub mod features;
mod fit;
mod importance;
pub mod loss;
pub mod loss_scale;
pub mod objective;
pub mod optimizer;
pub mod options;
mod overflow;
pub mod pace;
pub mod parameters;
pub mod phase;
pub mod picture_dataset;
pub mod points;
mod range;
mod record;
pub mod search;
mod sinusoid;
pub mod student;
mod target_error;
pub mod targets;
pub mod term;
pub mod trainer;
mod training_graph;
mod trajectories;
pub mod trajectory_set;
mod transfer;

#[cfg(test)]
mod distribution_tests;
#[cfg(test)]
mod features_tests;
#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod muon_tests;
#[cfg(test)]
mod per_step_tests;
#[cfg(test)]
mod search_tests;
#[cfg(test)]
mod self_teacher_tests;
#[cfg(test)]
mod set_tests;
#[cfg(test)]
mod student_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trajectories_tests;
#[cfg(test)]
mod trajectory_set_tests;

pub use cache::TrajectoryCache;
pub use checkpoint::OptionGroup;
pub use dataset::Dataset;
pub use distribution::DistributionTerm;
pub use features::FeatureTerm;
pub use objective::Objective;
pub use optimizer::{LearningRate, Optimizer, OptimizerKind};
pub use options::TrainerOptions;
pub use pace::Pace;
pub use parameters::ParameterSet;
pub use points::Point;
pub use search::{Budget, StudentRow, StudentTable, Timing};
pub use student::{Copied, StudentOptions, derive};
pub use targets::Target;
pub use term::{NormKind, Term};
pub use trainer::{StepReport, Trainer, WeightsKind};
pub use trajectory_set::TrajectorySet;
