//! A model's sampling run as a program of the graph: compiled once, run step by step.

pub mod run;

pub use run::{RunGraph, RunSpec, SamplingRun, for_each_batch};
