//! A model's sampling run as a program of the graph, compiled once, run step by step; and a single evaluation.

pub mod conditions;
pub mod evaluator;
pub mod program;
pub mod run;

pub use conditions::{check_rows, draw_conditions};
pub use evaluator::Evaluator;
pub use program::{Does, Kept, RunGraph, RunSpec, UNROLLED};
pub use run::{Given, Rows, SamplingRun, begin_batch, begin_batch_at, for_each_batch};

#[cfg(test)]
mod tests;
