//! Every op x shapes against the f64 reference, at the tolerances of the CPU.

use crate::common::{cases, conv_cases};
use crate::run_table;

#[test]
fn conv2d() {
    run_table(conv_cases::forward());
}

#[test]
fn conv2d_fused() {
    run_table(conv_cases::fused());
}

#[test]
fn conv2d_gradients() {
    run_table(conv_cases::gradients());
}

#[test]
fn unary() {
    run_table(cases::unary());
}

#[test]
fn affine_and_cast() {
    run_table(cases::affine_and_cast());
}

#[test]
fn binary() {
    run_table(cases::binary());
}

#[test]
fn combine_and_threshold() {
    run_table(cases::combine());
}

#[test]
fn resample() {
    run_table(cases::resample());
}

#[test]
fn shapes() {
    run_table(cases::shapes());
}

#[test]
fn reduce() {
    run_table(cases::reduce());
}

#[test]
fn timestep_embedding() {
    run_table(cases::timestep_embedding());
}

#[test]
fn gather() {
    run_table(cases::gather());
}

#[test]
fn random() {
    run_table(cases::random());
}

#[test]
fn norms() {
    run_table(cases::norms());
}

#[test]
fn optimizer() {
    run_table(cases::optimizer());
}

#[test]
fn group_norm() {
    run_table(cases::group_norm());
}

#[test]
fn attention() {
    run_table(cases::attention());
}
