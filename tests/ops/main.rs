//! Op conformance: every op on the CPU against its f64 reference, gradients, state order, plans and refusals.

mod bad_graphs;
mod bf16;
#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod fusion;
mod gradients;
mod no_alloc;
mod plan;
mod quantized;
mod random_graphs;
mod reports;
mod state;
mod stored;
mod weights;
