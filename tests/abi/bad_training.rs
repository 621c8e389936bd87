//! What bad options of training get: options, terms of a loss, features.

use crate::bad_input::Fixture;
use crate::ffi_common::{c, term};
use fewstep::ffi::grid::fewstep_step_pair;
use fewstep::ffi::sampler_options::*;
use fewstep::ffi::trainer_options::*;
use std::ptr::{null, null_mut};

const INVALID: i32 = 1;
const OUT_OF_MEMORY: i32 = 8;

fn trainer(f: &Fixture, change: impl FnOnce(&mut fewstep_trainer_options, &mut fewstep_term)) -> i32 {
    let mut term = term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE);
    let mut options = f.api.trainer_options(null());
    options.steps = 2;
    change(&mut options, &mut term);
    options.terms = &term;
    let mut out = null_mut();
    // SAFETY: valid pointers.
    let status = unsafe { (f.api.fewstep_trainer_create)(f.runtime, f.model, f.model, null(), &options, &mut out) };
    assert!(status == 0 || out.is_null());
    status
}

#[test]
fn trainer_options() {
    let f = Fixture::new();
    let row = |name: &str, status: i32, names: &str, change: &dyn Fn(&mut fewstep_trainer_options, &mut fewstep_term)| {
        let found = trainer(&f, change);
        f.api.fails(name, found, status, names);
    };
    row("objective", INVALID, "objective", &|_, t| t.objective = 42);
    row("weight", INVALID, "step_weight", &|_, t| t.step_weight = 42);
    row("norm", INVALID, "norm", &|_, t| t.norm = 0);
    row("nan weight", INVALID, "weight", &|_, t| t.weight = f32::NAN);
    row("linear fit of data", INVALID, "terms[0]: a term's linear_fit_steps is 5", &|_, t| {
        (t.objective, t.step_weight, t.linear_fit_steps) = (FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_WEIGHT_SNR, 5);
    });
    row("no terms", INVALID, "terms", &|o, _| o.term_count = 0);
    row("too many steps", INVALID, "steps is 1001; at most 1000", &|o, _| o.steps = 1001);
    row("too many substeps", INVALID, "1002 teacher steps; at most 1000", &|o, _| o.substeps = 501);
    row("huge batch", INVALID, "batch is 4294967295; it must be in 1..=1048576", &|o, _| o.batch = u32::MAX);
    row("large batch", INVALID, "batch is 1048577; it must be in 1..=1048576", &|o, _| o.batch = (1 << 20) + 1);
    row("batch", INVALID, "batch", &|o, _| o.batch = 0);
    row("rate", INVALID, "learning_rate", &|o, _| o.learning_rate = f64::NAN);
    row("rate beyond f32", INVALID, "learning_rate", &|o, _| o.learning_rate = 1e300);
    row("eps below f32", INVALID, "eps", &|o, _| o.eps = 1e-300);
    row("decay beyond f32", INVALID, "weight_decay", &|o, _| (o.learning_rate, o.weight_decay) = (1e30, 1e30));
    row("beta", INVALID, "beta1", &|o, _| o.beta1 = 1.0);
    row("decay", INVALID, "decay", &|o, _| o.decay = 9);
    row("trajectory clip", INVALID, "trajectory_clip is 4", &|o, _| o.trajectory_clip = 4);
    row("clip range", INVALID, "clip_range", &|o, _| (o.trajectory_clip, o.clip_range) = (FEWSTEP_CLIP_RANGE, 0.0));
    row("threshold", INVALID, "threshold_ratio", &|o, _| (o.trajectory_clip, o.threshold_ratio) = (FEWSTEP_CLIP_DYNAMIC, 2.0));
    row("reserved", INVALID, "reserved", &|o, _| o.reserved = 1);
    row("optimizer", INVALID, "optimizer is 3", &|o, _| o.optimizer = 3);
    row("parts", INVALID, "gradient_accumulation_steps is 1048577; with a batch of 1", &|o, _| (o.batch, o.gradient_accumulation_steps) = (1, 1 << 20 | 1));
    row("distribution", INVALID, "distribution is 2", &|o, _| o.distribution = 2);
    row("nets", INVALID, "distribution_nets is 0", &|o, _| (o.distribution, o.distribution_nets) = (FEWSTEP_DISTRIBUTION_RANDOM_NETS, 0));
    row("its weight", INVALID, "distribution_weight", &|o, _| (o.distribution, o.distribution_weight) = (FEWSTEP_DISTRIBUTION_RANDOM_NETS, f32::NAN));
    row("its batch", INVALID, "batch is 1", &|o, _| (o.distribution, o.batch) = (FEWSTEP_DISTRIBUTION_RANDOM_NETS, 1));
    row("steps of no self-teacher", INVALID, "self_teacher_steps is 2, but no term", &|o, _| o.self_teacher_steps = 2);
    row("grid of a self-teacher", INVALID, "self_teacher_steps is 2, the grid has 3 steps", &|o, t| {
        (t.objective, o.steps, o.self_teacher_steps) = (FEWSTEP_OBJECTIVE_SELF_TEACHER, 3, 2);
    });
    row("rate of Muon", INVALID, "muon_learning_rate is inf", &|o, _| (o.optimizer, o.muon_learning_rate) = (FEWSTEP_OPTIMIZER_MUON, f64::INFINITY));
    row("no rate of Muon", INVALID, "muon_learning_rate is 0", &|o, _| (o.optimizer, o.muon_learning_rate) = (FEWSTEP_OPTIMIZER_MUON, 0.0));
    row("momentum", INVALID, "momentum is 1", &|o, _| (o.optimizer, o.momentum) = (FEWSTEP_OPTIMIZER_MUON, 1.0));
    row("momentum that is no number", INVALID, "momentum is NaN", &|o, _| (o.optimizer, o.momentum) = (FEWSTEP_OPTIMIZER_MUON, f64::NAN));
    row("no cache", INVALID, "cache", &|o, _| o.cache_size = 0);
    row("huge cache", INVALID, "cache", &|o, _| o.cache_size = u32::MAX);
    let pairs = vec![fewstep_step_pair { t: 999, t_next: -1 }; 1001];
    row("too many pairs", INVALID, "count is 1001; at most 1000", &|o, _| {
        (o.steps, o.pairs, o.pair_count, o.pair_stride) = (0, pairs.as_ptr(), pairs.len(), size_of::<fewstep_step_pair>())
    });
    row("no data", INVALID, "dataset", &|_, t| (t.objective, t.step_weight) = (FEWSTEP_OBJECTIVE_DENOISE, FEWSTEP_WEIGHT_SNR));
}

#[test]
fn features() {
    let f = Fixture::new();
    let (block, none) = (c("mid_block"), c("middle"));
    let good = || fewstep_feature {
        objective: FEWSTEP_OBJECTIVE_TEACHER_FORCED,
        norm: FEWSTEP_NORM_L2,
        student: block.as_ptr(),
        teacher: null(),
        decay_steps: 0,
        weight: 1.0,
        reserved: 0,
    };
    let row = |name: &str, names: &str, change: &dyn Fn(&mut fewstep_feature)| {
        let mut feature = good();
        change(&mut feature);
        let found = trainer(&f, |o, _| (o.features, o.feature_count) = (&feature, 1));
        f.api.fails(name, found, INVALID, names);
    };
    row("objective", "features[0].objective is 42", &|f| f.objective = 42);
    row("chain", "features[0]: a feature's point is Chain", &|f| f.objective = FEWSTEP_OBJECTIVE_ROLLOUT);
    row("norm", "features[0].norm is 3", &|f| f.norm = FEWSTEP_NORM_HUBER);
    row("weight", "features[0].weight is inf", &|f| f.weight = f32::INFINITY);
    row("reserved", "features[0].reserved", &|f| f.reserved = 1);
    row("no block", "features[0].student is NULL", &|f| f.student = null());
    row("unknown block", "the student has no block 'middle'; it has", &|f| f.student = none.as_ptr());
    row("unknown block of the teacher", "the teacher has no block 'middle'; it has", &|f| f.teacher = none.as_ptr());
    row("no data", "dataset", &|f| f.objective = FEWSTEP_OBJECTIVE_OUTPUT);
    let feature = good();
    let found = trainer(&f, |o, _| (o.features, o.feature_count, o.feature_stride) = (&feature, 1, 8));
    f.api.fails("stride", found, INVALID, "stride");
    let found = trainer(&f, |o, _| (o.features, o.feature_count) = (null(), 1));
    f.api.fails("NULL", found, INVALID, "features");
    let found = trainer(&f, |o, _| (o.features, o.feature_count) = (&feature, usize::MAX));
    f.api.fails("count", found, INVALID, "count is");
}

/// A loss has as many terms as there are; a number of them that no memory holds is an error before the first one is read.
#[test]
fn too_many_terms() {
    let f = Fixture::new();
    let terms = vec![term(FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE); 65];
    for (count, expected, needle) in [(0, INVALID, "one or more terms"), (usize::MAX, INVALID, "count is"), (usize::MAX / 8192, OUT_OF_MEMORY, "terms")] {
        let mut options = f.api.trainer_options(terms.as_ptr());
        (options.steps, options.term_count) = (2, count);
        let mut out = null_mut();
        // SAFETY: valid pointers; counts beyond the array are refused before it is read.
        let status = unsafe { (f.api.fewstep_trainer_create)(f.runtime, f.model, f.model, null(), &options, &mut out) };
        f.api.fails("terms", status, expected, needle);
        assert!(out.is_null());
    }
}
