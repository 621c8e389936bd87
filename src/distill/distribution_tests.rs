//! The comparison of distributions: what it is in f64, and what it is in a run.

use super::checkpoint::OptionGroup;
use super::distribution::SEED;
use super::tests::{bytes_of, model, options, scratch};
use super::*;
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, as_bytes};
use crate::diffusion::{Weight, trailing_pairs};
use crate::error::{Error, Result, Status};
use crate::graph::{Graph, TensorType, gradients};
use crate::nn::Model;
use crate::random::{Purpose, fill_normal};
use crate::tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// [H, W, C] of an image: not square, and odd.
const IMAGE: [usize; 3] = [7, 6, 2];
const ROWS: usize = 5;

type Weights = BTreeMap<String, Arc<Tensor>>;

/// A 3x3 convolution of x [H,W,C] with one row and column of zeros around it, and SiLU, in f64.
fn conv(weights: &Weights, name: &str, x: &[f64], [h, w, c]: [usize; 3], stride: usize) -> Result<(Vec<f64>, [usize; 3])> {
    let (weight, bias) = (&weights[&format!("{name}.weight")], weights[&format!("{name}.bias")].as_slice::<f32>()?);
    let (out, weight) = (weight.shape()[0], weight.as_slice::<f32>()?);
    let [rows, columns] = [h, w].map(|side| side.div_ceil(stride));
    let mut y = vec![];
    for (i, j, o) in (0..rows).flat_map(|i| (0..columns).flat_map(move |j| (0..out).map(move |o| (i, j, o)))) {
        let mut sum = f64::from(bias[o]);
        for (r, s, k) in (0..3).flat_map(|r| (0..3).flat_map(move |s| (0..c).map(move |k| (r, s, k)))) {
            let (row, column) = ((i * stride + r).wrapping_sub(1), (j * stride + s).wrapping_sub(1));
            if row < h && column < w {
                sum += x[(row * w + column) * c + k] * f64::from(weight[((o * c + k) * 3 + r) * 3 + s]);
            }
        }
        y.push(sum / (1.0 + (-sum).exp()));
    }
    Ok((y, [rows, columns, out]))
}

/// The features of an image of 5 to 8 pixels a side: stride 2 once.
fn features(weights: &Weights, image: &[f64]) -> Result<Vec<f64>> {
    let (x, shape) = conv(weights, "conv.0", image, IMAGE, 1)?;
    let (x, shape) = conv(weights, "conv.1", &x, shape, 2)?;
    let (x, _) = conv(weights, "conv.2", &x, shape, 1)?;
    let weight = weights["features.weight"].as_slice::<f32>()?;
    Ok(weight.chunks_exact(x.len()).map(|row| row.iter().zip(&x).map(|(w, x)| f64::from(*w) * x).sum()).collect())
}

/// Equation 4 of Gretton et al. 2012 for the ends of two sets, the mean over networks, and the mean kernel, which says what its rounding errors are shares of.
fn expected(term: &DistributionTerm, ends: &[Vec<f64>; 2]) -> Result<[f64; 2]> {
    let (all, each) = (term.weights(IMAGE)?, IMAGE.iter().product::<usize>());
    let (mut mean, mut size) = (0.0, 0.0);
    for number in 0..term.nets {
        let prefix = format!("distribution.{number}.");
        let weights: Weights = all.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone()))).collect();
        let of = |set: &[f64]| set.chunks_exact(each).map(|image| features(&weights, image)).collect::<Result<Vec<_>>>();
        let (x, y) = (of(&ends[0])?, of(&ends[1])?);
        let k = |u: &[f64], v: &[f64]| (u.iter().zip(v).map(|(a, b)| a * b).sum::<f64>() / u.len() as f64 + 1.0).powi(3);
        let (mut sum, pairs) = (0.0, (ROWS * (ROWS - 1)) as f64);
        for (i, j) in (0..ROWS).flat_map(|i| (0..ROWS).map(move |j| (i, j))).filter(|(i, j)| i != j) {
            sum += k(&x[i], &x[j]) + k(&y[i], &y[j]) - k(&x[i], &y[j]) - k(&y[i], &x[j]);
            size += (k(&x[i], &x[j]).abs() + k(&y[i], &y[j]).abs()) / pairs / term.nets as f64;
        }
        mean += sum / pairs / term.nets as f64;
    }
    Ok([mean, size])
}

fn ends(seeds: [u64; 2]) -> [Vec<f32>; 2] {
    seeds.map(|seed| {
        let mut values = vec![0f32; ROWS * IMAGE.iter().product::<usize>()];
        fill_normal(seed, Purpose::Init, 0, 0, &mut values);
        values
    })
}

/// The loss and its gradient at the first ends, on the graph.
fn found(term: &DistributionTerm, ends: &[Vec<f32>; 2]) -> Result<(f64, Vec<f32>)> {
    let (backend, mut g) = (CpuBackend::new(2)?, Graph::new());
    let shape = [&[ROWS], &IMAGE[..]].concat();
    let ty = TensorType::f32(&shape);
    let (x, y) = (g.state("x", ty.clone())?, g.input("y", ty)?);
    let loss = term.loss(&mut g, [x, y])?;
    let gradient = gradients(&mut g, loss, &[x], &[])?[0];
    g.tap(loss);
    g.tap(gradient);
    let mut exec = backend.compile(&g)?;
    for (name, tensor) in term.weights(IMAGE)? {
        exec.bind(&name, tensor)?;
    }
    exec.bind("x", Arc::new(Tensor::from_slice(&shape, &ends[0])?))?;
    exec.prepare()?;
    exec.write_bytes(y, as_bytes(&ends[1]))?;
    exec.run_all()?;
    let value = f64::from(exec.read_bytes(loss)?.of::<f32>()?[0]);
    Ok((value, exec.read_bytes(gradient)?.of::<f32>()?.to_vec()))
}

#[test]
fn it_is_the_unbiased_distance_of_pairs_and_so_is_its_gradient() -> Result<()> {
    for (nets, seeds) in [(1, [1, 2]), (3, [3, 4])] {
        let (term, ends) = (DistributionTerm { nets, weight: 1.0 }, ends(seeds));
        let wide = ends.each_ref().map(|set| set.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
        let ([value, size], (loss, gradient)) = (expected(&term, &wide)?, found(&term, &ends)?);
        // Sums of kernels in f32, of features that are sums of some hundreds of products.
        assert!((loss - value).abs() <= 2e-5 * size && value.abs() > 1e-3 * size, "{nets} nets: {loss}, expected {value} of kernels of {size}");
        let scale = gradient.iter().fold(0f32, |m, v| m.max(v.abs()));
        for at in [0, 17, 83, 84, 200, wide[0].len() - 1] {
            let moved = |by: f64| {
                let mut wide = wide.clone();
                wide[0][at] += by;
                expected(&term, &wide).map(|[value, _]| value)
            };
            // Central differences in f64: an error of 1e-8 of the third derivative.
            let slope = (moved(1e-4)? - moved(-1e-4)?) / 2e-4;
            assert!((f64::from(gradient[at]) - slope).abs() <= 1e-4 * f64::from(scale), "{nets} nets, pixel {at}: {}, expected {slope}", gradient[at]);
        }
        let (same, _) = found(&term, &[ends[0].clone(), ends[0].clone()])?;
        assert!(same.abs() <= 1e-6 * size, "sets that are the same: {same} of kernels of {size}");
    }
    Ok(())
}

#[test]
fn its_networks_are_no_evaluations_and_differ() -> Result<()> {
    let evaluation = crate::evaluate::features::SEED;
    assert!((0..64).all(|number| SEED + number != evaluation));
    let all = DistributionTerm { nets: 2, weight: 1.0 }.weights([8, 8, 1])?;
    let first = |number: usize| all.iter().find(|(name, _)| *name == format!("distribution.{number}.conv.0.weight")).map(|(_, tensor)| tensor.bytes().to_vec());
    assert!(first(0).is_some() && first(1).is_some() && first(0) != first(1));
    Ok(())
}

fn trainer(terms: &[Objective], distribution: Option<DistributionTerm>, change: impl FnOnce(&mut TrainerOptions)) -> Result<Trainer> {
    let (student, teacher) = (model()?, Model { weights: Model::create(model()?.network, model()?.scheduler, 9)?.weights, ..model()? });
    let terms = terms.iter().map(|objective| objective.term(Weight::State, NormKind::L2)).collect();
    let mut o = TrainerOptions { terms, distribution, batch: 8, cache_size: 64, ..options() };
    change(&mut o);
    Trainer::new(Arc::new(CpuBackend::new(1)?), &student, Some(&teacher), None, o)
}

const TERM: DistributionTerm = DistributionTerm { nets: 2, weight: 0.5 };

#[test]
fn students_learn_by_it_and_share_the_run_of_a_rollout() -> Result<()> {
    let mut alone = trainer(&[], Some(TERM), |_| {})?;
    let first = alone.evaluate(3)?;
    assert_eq!(first.loss, 0.5 * first.terms[0]);
    (0..60).try_for_each(|_| alone.step().map(drop))?;
    let last = (0..60).map(|_| alone.step().map(|report| report.loss)).collect::<Result<Vec<_>>>()?.iter().sum::<f32>() / 60.0;
    assert!(last < 0.8 * first.loss, "{first:?}, {last} after 60 steps");
    let (mut both, mut rollout) = (trainer(&[Objective::Rollout], Some(TERM), |_| {})?, trainer(&[Objective::Rollout], None, |_| {})?);
    let (both, rollout) = (both.evaluate(3)?, rollout.evaluate(3)?);
    assert!((both.terms[0] - rollout.terms[0]).abs() <= 1e-5 * rollout.terms[0], "{both:?} and {rollout:?} draw the same");
    assert!((both.terms[1] - first.terms[0]).abs() <= 1e-4 * first.terms[0].abs(), "{both:?} and {first:?} draw the same");
    Ok(())
}

#[test]
fn a_run_with_it_is_resumed_to_the_bit() -> Result<()> {
    let dir = scratch("distribution");
    let path = dir.join("run");
    let made = |term: Option<DistributionTerm>| trainer(&[Objective::TeacherForced], term, |_| {});
    let mut whole = made(Some(TERM))?;
    (0..2).try_for_each(|_| whole.step().map(drop))?;
    whole.save(&path)?;
    (0..2).try_for_each(|_| whole.step().map(drop))?;
    let mut resumed = made(Some(TERM))?;
    resumed.resume(&path, 0)?;
    (0..2).try_for_each(|_| resumed.step().map(drop))?;
    assert!(bytes_of(&resumed)? == bytes_of(&whole)?);
    for other in [None, Some(DistributionTerm { nets: 3, ..TERM })] {
        let error = made(other)?.resume(&path, 0).unwrap_err();
        assert!(error.message.contains("option distribution is") && error.message.contains("FEWSTEP_RESUME_LOSS"), "{error}");
        made(other)?.resume(&path, OptionGroup::Loss as u32)?;
    }
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

#[test]
fn what_cannot_be_compared_is_named() -> Result<()> {
    type Change = fn(&mut TrainerOptions);
    let cases: [(DistributionTerm, Change, Status, &str); 7] = [
        (DistributionTerm { nets: 0, ..TERM }, |_| {}, Status::InvalidArgument, "distribution_nets is 0"),
        (DistributionTerm { nets: 65, ..TERM }, |_| {}, Status::InvalidArgument, "1..=64"),
        (DistributionTerm { weight: f32::NAN, ..TERM }, |_| {}, Status::InvalidArgument, "distribution_weight is NaN"),
        (TERM, |o| o.batch = 1, Status::InvalidArgument, "2 to 4096"),
        (TERM, |o| o.batch = 4097, Status::InvalidArgument, "batch is 4097"),
        (TERM, |o| o.precision = DType::Bf16, Status::Unsupported, "in F32 alone"),
        (TERM, |o| o.pairs = trailing_pairs(1000, 33).unwrap_or_default(), Status::InvalidArgument, "the grid has 33 steps"),
    ];
    for (term, change, status, needle) in cases {
        let error: Error = trainer(&[], Some(term), change).err().expect(needle);
        assert!(error.status == status && error.message.contains(needle), "{error}");
    }
    Ok(())
}
