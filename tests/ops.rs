//! Op conformance: every op on the CPU against its f64 reference, gradients, state order, plans and refusals.

mod common;
#[path = "ops/bad_graphs.rs"]
mod bad_graphs;
#[path = "ops/conformance.rs"]
mod conformance;
#[path = "ops/gradients.rs"]
mod gradients;
#[path = "ops/plan.rs"]
mod plan;
#[path = "ops/state.rs"]
mod state;
