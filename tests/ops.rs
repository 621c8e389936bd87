//! Op conformance: every op on the CPU against its f64 reference, gradients, state order, plans and refusals.

#[path = "ops/bad_graphs.rs"]
mod bad_graphs;
mod common;
#[path = "ops/conformance.rs"]
mod conformance;
#[path = "ops/fusion.rs"]
mod fusion;
#[path = "ops/gradients.rs"]
mod gradients;
#[path = "ops/plan.rs"]
mod plan;
#[path = "ops/random_graphs.rs"]
mod random_graphs;
#[path = "ops/reports.rs"]
mod reports;
#[path = "ops/state.rs"]
mod state;
#[path = "ops/weights.rs"]
mod weights;
