//! A model's sampling run as a program of the graph, compiled once, run step by step; and a single evaluation.

pub mod evaluator;
pub mod run;

pub use evaluator::Evaluator;
pub use run::{Given, RunGraph, RunSpec, SamplingRun, UNROLLED, for_each_batch};

#[cfg(test)]
mod tests;
