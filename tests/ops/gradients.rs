//! Gradient rules against finite differences of the f64 reference, and the CPU against the f64 values of the same graph.

use crate::common::grad_cases::{self, GradCase};
use crate::common::{Case, Noise, compare, load, read};
use fewstep::backend::Backend;
use fewstep::backend::cpu::CpuBackend;
use fewstep::graph::ops::*;
use fewstep::graph::reference::{Array, evaluate, to_array};
use fewstep::graph::{ValueId, gradients};
use fewstep::tensor::Tensor;
use fewstep::{Result, Status};
use std::collections::HashMap;
use std::sync::Arc;

/// Central differences with h = 2^-16 err by h^2 f'''/6, about 1e-10, plus 1e-16 |loss| / h, about 1e-11: far below 1e-6, while a wrong rule is wrong
/// in the first digits.
const STEP: f64 = 1.0 / 65536.0;
const TIGHT: f64 = 1e-6;
/// f32 on the CPU: chains of a few ops, each within 1e-5.
const CPU: f64 = 5e-5;
/// Elements of an operand that are differenced.
const SAMPLES: usize = 24;

/// The case with parameters, loss = sum(w y) and its gradients; the loss itself is in the first place.
fn loss_graph(grad_case: &GradCase) -> Result<(Case, ValueId, Vec<ValueId>)> {
    let mut case = Case::new(grad_case.name.clone());
    let operands: Vec<ValueId> = grad_case.shapes.iter().enumerate().map(|(i, s)| case.state(&format!("p{i}"), s)).collect();
    for p in &operands {
        let mut data = case.given[p].as_slice::<f32>()?.to_vec();
        for v in &mut data {
            let near = grad_case.kinks.iter().find(|k| (*v - **k).abs() < 0.01);
            *v = near.map_or(*v, |k| k + 0.05);
        }
        case.given.insert(*p, Arc::new(Tensor::from_slice(case.graph.shape(*p), &data)?));
    }
    let y = (grad_case.build)(&mut case.graph, &operands)?;
    let shape = case.graph.shape(y).to_vec();
    let w = case.input(&shape);
    let weighted = case.graph.mul(w, y)?;
    let ones = vec![1; case.graph.shape(y).len()];
    let loss = case.op(ReduceSum { shape: ones }, &[weighted]);
    let wrt = operands[..operands.len() - grad_case.fixed].to_vec();
    Ok((case, loss, wrt))
}

fn difference(case: &Case, loss: ValueId, given: &mut HashMap<ValueId, Array>, p: ValueId, at: usize) -> Result<f64> {
    let at_offset = |h: f64, given: &mut HashMap<ValueId, Array>| {
        let element = given.get_mut(&p).and_then(|a| a.iter_mut().nth(at)).expect("element");
        let old = std::mem::replace(element, *element + h);
        let value = evaluate(&case.graph, given).map(|values| values[&loss].sum());
        *given.get_mut(&p).and_then(|a| a.iter_mut().nth(at)).expect("element") = old;
        value
    };
    Ok((at_offset(STEP, given)? - at_offset(-STEP, given)?) / (2.0 * STEP))
}

fn check(grad_case: &GradCase, backend: Option<&dyn Backend>) -> std::result::Result<(), String> {
    let named = |e: fewstep::Error| format!("{}: {e}", grad_case.name);
    let (mut case, loss, wrt) = loss_graph(grad_case).map_err(named)?;
    let forward = Case { graph: case.graph.clone(), given: case.given.clone(), ..Case::new("forward") };
    let grads = gradients(&mut case.graph, loss, &wrt, &[]).map_err(named)?;
    let reference = case.reference().map_err(named)?;
    let mut given: HashMap<ValueId, Array> = case.given.iter().map(|(id, t)| (*id, to_array(t).expect("array"))).collect();
    let mut noise = Noise(1);
    for (p, grad) in wrt.iter().zip(&grads) {
        let analytic = &reference[grad];
        // An operand whose gradient is all zero is measured against the loss's other derivatives.
        let scale = grads.iter().flat_map(|g| reference[g].iter()).fold(1e-3f64, |m, v| m.max(v.abs()));
        for k in 0..analytic.len().min(SAMPLES) {
            let at = if analytic.len() <= SAMPLES { k } else { noise.word() as usize % analytic.len() };
            let numeric = difference(&forward, loss, &mut given, *p, at).map_err(named)?;
            let exact = *analytic.iter().nth(at).expect("element");
            if (numeric - exact).abs() > TIGHT * scale {
                return Err(format!("{}: d/d{}[{at}] is {exact:e}, differences give {numeric:e}", grad_case.name, case.graph.value(*p).name));
            }
        }
    }
    let Some(backend) = backend else { return Ok(()) };
    for v in grads.iter().chain([&loss]) {
        case.graph.tap(*v);
    }
    let mut exe = backend.compile(&case.graph).map_err(named)?;
    load(&mut *exe, &case.graph, &case.given).map_err(named)?;
    exe.run_all().map_err(named)?;
    for v in grads.iter().chain([&loss]) {
        let got = read(&*exe, &case.graph, *v).map_err(named)?;
        // Cancellation in the loss and in gradients that are zero but for rounding: no finer than the f32 rounding of a number of size 1.
        if reference[v].iter().any(|x| x.abs() > 1e-2) {
            compare(&format!("{} on the backend, '{}'", grad_case.name, case.graph.value(*v).name), &got, &reference[v], CPU)?;
        }
    }
    Ok(())
}

fn table(cases: Vec<GradCase>) {
    let backend = CpuBackend::new(2).expect("backend");
    let failures: Vec<String> = cases.iter().filter_map(|c| check(c, Some(&backend)).err()).collect();
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn convolution_gradients() {
    table(grad_cases::convolutions());
}

#[test]
fn elementwise_gradients() {
    table(grad_cases::elementwise());
}

#[test]
fn moving_gradients() {
    table(grad_cases::moves());
}

/// The rule of Esser et al. 2020, eq. 3 and 5, written out: no differences are near a gradient that passes straight through a rounding.
#[test]
fn fake_quantize_rule() -> Result<()> {
    for axis in [None, Some(0), Some(1), Some(2)] {
        let shape = [3usize, 4, 2];
        let mut case = Case::new(format!("fake quantize {axis:?}"));
        let x = case.state("x", &shape);
        let channels = axis.map_or(1, |axis| shape[axis]);
        let scale = case.state("scale", &[channels]);
        // Of 0.002 and more: about half of -1 .. 1 lie beyond -128 and 127 of them.
        let scales: Vec<f32> = (0..channels).map(|c| 0.002 + 0.003 * c as f32).collect();
        case.given.insert(scale, Arc::new(Tensor::from_slice(&[channels], &scales)?));
        let zeros: Vec<i8> = (0..channels).map(|c| 5 - 9 * c as i8).collect();
        let zero = case.data(&[channels], &zeros);
        let y = case.op(FakeQuantize { codes: Codes::I8, axis, scale_gradient: 0.5 }, &[x, scale, zero]);
        let w = case.input(&shape);
        let weighted = case.graph.mul(w, y)?;
        let loss = case.op(ReduceSum { shape: vec![1; 3] }, &[weighted]);
        let grads = gradients(&mut case.graph, loss, &[x, scale], &[])?;
        let (mut dx, mut dscale) = (vec![], vec![0f64; channels]);
        let (xs, ws) = (case.given[&x].as_slice::<f32>()?, case.given[&w].as_slice::<f32>()?);
        for (i, (x, w)) in xs.iter().zip(ws).enumerate() {
            let at = [i / 8, i / 2 % 4, i % 2];
            let c = axis.map_or(0, |axis| at[axis]);
            let v = f64::from(*x) / f64::from(scales[c]);
            let (negative, positive) = (128.0 + f64::from(zeros[c]), 127.0 - f64::from(zeros[c]));
            let inside = -negative < v && v < positive;
            let slope = if inside {
                v.round_ties_even() - v
            } else if v < 0.0 {
                -negative
            } else {
                positive
            };
            dx.push(if inside { f64::from(*w) } else { 0.0 });
            dscale[c] += 0.5 * slope * f64::from(*w);
        }
        assert!(dx.contains(&0.0) && dx.iter().any(|d| *d != 0.0), "both sides are tried");
        let reference = case.reference()?;
        case.expect(grads[0], 1e-6);
        case.expect(grads[1], CPU);
        for (grad, expected) in grads.iter().zip([dx, dscale]) {
            let found: Vec<f64> = reference[grad].iter().copied().collect();
            let expected = Array::from_shape_vec(case.graph.shape(*grad), expected).expect("an array");
            compare(&case.name, &found, &expected, 1e-12).unwrap_or_else(|e| panic!("{e}"));
        }
        crate::common::check(&CpuBackend::new(2)?, &case, &reference).unwrap_or_else(|e| panic!("{e}"));
    }
    Ok(())
}

#[test]
fn group_norm_rule() {
    let failures: Vec<String> = grad_cases::group_norms().iter().filter_map(|c| check(c, None).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn group_norm_gradients() {
    table(grad_cases::group_norms());
}

#[test]
fn attention_rule() {
    let failures: Vec<String> = grad_cases::attentions().iter().filter_map(|c| check(c, None).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn attention_gradients() {
    table(grad_cases::attentions());
}

/// x1 = f(x0; w), x2 = f(x1; w), loss = mean(x2^2): the gradient of w sums over both steps.
fn two_steps(recompute: bool) -> Result<(Case, Vec<ValueId>)> {
    let mut case = Case::new("two steps");
    let mut x = case.input(&[2, 9, 7, 3]);
    let (w1, b1, w2) = (case.state("w1", &[20, 3, 3, 3]), case.state("b1", &[20]), case.state("w2", &[3, 20, 3, 3]));
    let time = case.input(&[2, 1, 1, 20]);
    let mut inner = vec![];
    for _ in 0..2 {
        let mark = case.graph.mark();
        let h = case.graph.conv2d(x, w1, Some(b1), 1, [1; 4])?;
        let timed = case.graph.add(h, time)?;
        let active = case.graph.unary(UnaryKind::Silu, timed)?;
        let step = case.graph.conv2d(active, w2, None, 1, [1; 4])?;
        x = case.graph.add(step, x)?;
        // All but the state itself.
        inner.extend(case.graph.values_since(mark)?.into_iter().filter(|v| *v != x));
    }
    let square = case.graph.mul(x, x)?;
    let loss = case.graph.mean(square)?;
    let mut read = gradients(&mut case.graph, loss, &[w1, b1, w2, time], if recompute { &inner } else { &[] })?;
    read.push(loss);
    for v in &read {
        case.expect(*v, 2e-5);
    }
    Ok((case, read))
}

#[test]
fn recomputation_gives_equal_bits() -> Result<()> {
    let backend = CpuBackend::new(2)?;
    let mut bytes: Vec<Vec<u8>> = vec![];
    let mut sizes = vec![];
    for recompute in [false, true] {
        let (case, read) = two_steps(recompute)?;
        let reference = case.reference()?;
        bytes.push(crate::common::check(&backend, &case, &reference).unwrap_or_else(|e| panic!("{e}")));
        sizes.push((case.graph.nodes().len(), backend.compile(&case.graph)?.plan().peak_live_bytes()));
        assert_eq!(read.len(), 5);
    }
    assert_eq!(bytes[0], bytes[1]);
    assert!(sizes[1].0 > sizes[0].0, "nothing was recomputed");
    assert!(sizes[1].1 < sizes[0].1, "recomputation saves no memory: {sizes:?}");
    Ok(())
}

#[test]
fn chain_gradient_matches_differences() {
    // The chain as one function of its weights: every use counts.
    let build = |g: &mut fewstep::graph::Graph, v: &[ValueId]| {
        let mut x = v[0];
        for _ in 0..2 {
            let h = g.conv2d(x, v[1], Some(v[2]), 1, [1; 4])?;
            let h = g.unary(UnaryKind::Silu, h)?;
            x = g.add(h, x)?;
        }
        Ok(x)
    };
    let case = GradCase { name: "chain".into(), shapes: vec![vec![1, 3, 3, 2], vec![2, 2, 3, 3], vec![2]], fixed: 0, kinks: vec![], build: Box::new(build) };
    table(vec![case]);
}

#[test]
fn stop_gradient_stops() -> Result<()> {
    let mut case = Case::new("stop gradient");
    let (p, q) = (case.state("p", &[5]), case.state("q", &[5]));
    let stopped = case.op(StopGradient, &[p]);
    // d/dp of sum(stop(p) p q) is stop(p) q, not 2 p q; q gets all of it.
    let pp = case.graph.mul(stopped, p)?;
    let y = case.graph.mul(pp, q)?;
    let loss = case.op(ReduceSum { shape: vec![1] }, &[y]);
    let grads = gradients(&mut case.graph, loss, &[p, q], &[])?;
    let values = case.reference()?;
    let (p, q) = (&values[&p], &values[&q]);
    assert_eq!(values[&grads[0]], p * q);
    assert_eq!(values[&grads[1]], p * p);
    Ok(())
}

#[test]
fn unreachable_parameters_get_zeros() -> Result<()> {
    let mut case = Case::new("unreachable");
    let (p, q, r) = (case.state("p", &[5]), case.state("q", &[2, 3]), case.state("r", &[4]));
    let stopped = case.op(StopGradient, &[r]);
    let loss = case.graph.mean(p)?;
    let unused = case.graph.mean(stopped)?;
    let loss = case.graph.add(loss, unused)?;
    let grads = gradients(&mut case.graph, loss, &[q, r], &[])?;
    // Zeros also where the parameter itself is not finite.
    case.given.insert(q, Arc::new(Tensor::from_slice(&[2, 3], &[f32::INFINITY, f32::NAN, 1.0, -1.0, 0.0, 5.0])?));
    for g in &grads {
        case.graph.tap(*g);
    }
    let backend = CpuBackend::new(1)?;
    let mut exe = backend.compile(&case.graph)?;
    load(&mut *exe, &case.graph, &case.given)?;
    exe.run_all()?;
    for (g, len) in grads.iter().zip([6, 4]) {
        assert_eq!(read(&*exe, &case.graph, *g)?, vec![0.0; len]);
    }
    Ok(())
}

#[test]
fn a_loss_must_be_one_number() -> Result<()> {
    let mut case = Case::new("loss");
    let p = case.state("p", &[2, 3]);
    let y = case.graph.mul(p, p)?;
    let error = gradients(&mut case.graph, y, &[p], &[]).expect_err("a vector is no loss");
    assert_eq!(error.status, Status::Shape);
    assert!(error.message.contains("[2, 3]"), "{error}");
    Ok(())
}

/// Statistics and log-sum-exp are side results: a loss that needs their gradient is refused, never silently wrong.
#[test]
fn gradients_through_side_results_are_refused() -> Result<()> {
    for attention in [false, true] {
        let mut case = Case::new("side results");
        let x = case.state("x", &[2, 3, 4]);
        let out = if attention {
            case.ops(Attention { heads: 2, scale: 1.0 }, &[x, x, x])
        } else {
            let (gamma, beta) = (case.state("gamma", &[4]), case.state("beta", &[4]));
            case.ops(GroupNorm::new(2, 1e-5, false), &[x, gamma, beta])
        };
        let (main, side) = (case.graph.mean(out[0])?, case.graph.mean(out[1])?);
        let loss = case.graph.add(main, side)?;
        for loss in [loss, side] {
            let error = gradients(&mut case.graph.clone(), loss, &[x], &[]).expect_err("refused");
            assert_eq!(error.status, Status::Unsupported, "{error}");
        }
    }
    Ok(())
}
