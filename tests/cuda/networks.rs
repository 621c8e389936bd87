//! Small whole programs: training steps and sampling runs.

use crate::common::models;
use crate::run_table;

#[test]
fn training_step() {
    run_table(vec![models::training(true).expect("a graph")]);
}

#[test]
fn sampling_run() {
    run_table(vec![models::sampling(3, true).expect("a graph")]);
}
