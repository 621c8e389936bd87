//! Weights that are stored in f16 or bf16 stay so; what is computed is what the same numbers in f32 give.

use crate::common::accumulation::{a_run_goes_on_in_parts, parts_are_one_batch};
use crate::common::stored::{FILES, model, pair, run, samples_are_those_of_f32, training_is_that_of_f32};
use crate::common::{Answers, TAKES_ALL};
use fewstep::Result;
use fewstep::backend::Backend;
use fewstep::backend::cpu::CpuBackend;
use fewstep::cancel::Stop;
use fewstep::graph::passes;
use fewstep::graph::{Graph, Numerics, Op, TensorType};
use fewstep::nn::{Predictor, families};
use fewstep::tensor::DType;
use std::sync::Arc;

#[test]
fn samples() -> Result<()> {
    samples_are_those_of_f32(&CpuBackend::new(2)?, &[(DType::F32, 100), (DType::F32, 0)])
}

#[test]
fn training() -> Result<()> {
    let backend: Arc<dyn Backend> = Arc::new(CpuBackend::new(2)?);
    training_is_that_of_f32(&backend, &FILES)
}

#[test]
fn accumulated_gradients() -> Result<()> {
    let backend: Arc<dyn Backend> = Arc::new(CpuBackend::new(2)?);
    parts_are_one_batch(&backend, &[2, 4], (DType::F32, 1.0), 2e-5)?;
    let path = std::env::temp_dir().join(format!("fewstep-parts-{}.safetensors", std::process::id()));
    let done = a_run_goes_on_in_parts(&backend, &path);
    let _ = std::fs::remove_file(&path);
    done
}

#[test]
fn a_second_sampler_costs_no_weights() -> Result<()> {
    for (file, types) in FILES {
        let backend = CpuBackend::new(2)?;
        let [stored, wide] = pair(&model(3)?, types)?;
        let other = CpuBackend::new(2)?;
        let _f32 = run(&other, &wide, 1, DType::F32, 100)?;
        let one = run(&backend, &stored, 1, DType::F32, 100)?;
        let bytes = backend.packed_bytes();
        assert!(bytes > 0 && bytes == one.memory().shared && bytes == other.packed_bytes(), "{file}: {bytes} bytes packed");
        let two = run(&backend, &stored, 3, DType::F32, 100)?;
        assert_eq!(backend.packed_bytes(), bytes, "{file}");
        drop(one);
        assert_eq!(backend.packed_bytes(), bytes, "{file}");
        drop(two);
        assert_eq!(backend.packed_bytes(), 0, "{file}");
    }
    Ok(())
}

/// Every pass finds in a program of narrow weights what it finds in one of f32, whatever a backend takes: the programs differ in the casts, one a weight.
#[test]
fn passes_find_the_same() -> Result<()> {
    for (file, types) in FILES {
        for answers in [TAKES_ALL, Answers { accepts: true, packs: true }, Answers { accepts: false, packs: true }] {
            for dtype in [DType::F32, DType::F16] {
                let [found, expected] = pair(&model(3)?, types)?.map(|model| -> Result<Vec<(&str, Vec<Op>, usize)>> {
                    let mut g = Graph::new();
                    let x = g.input("x", TensorType::f32(&[2, 8, 8, 1]))?;
                    let (t, labels) = (g.input("t", TensorType::f32(&[2]))?, g.input("labels", TensorType::new(DType::I32, &[2]))?);
                    for _ in 0..2 {
                        let out = Predictor::new(&model, "").predict(&mut g, x, t, &[labels])?;
                        g.tap(out);
                    }
                    let mut seen = vec![];
                    passes::run(&g, &Numerics::of(dtype)?, &answers, Stop::NEVER, &mut |pass, g| {
                        g.verify()?;
                        let stored = |v: &fewstep::graph::ValueId| g.value(*v).storage.is_some() && g.value(*v).ty.dtype != DType::F32;
                        let widens = |n: &&fewstep::graph::Node| matches!(n.op, Op::Cast(_)) && stored(&n.inputs[0]);
                        seen.push((pass, g.nodes().iter().filter(|n| !widens(n)).map(|n| n.op.clone()).collect(), g.nodes().iter().filter(widens).count()));
                        Ok(())
                    })?;
                    Ok(seen)
                });
                let narrow = pair(&model(3)?, types)?[0].weights.values().filter(|w| w.dtype() != DType::F32).count();
                let merges = |op: &Op| matches!(op, Op::FusedConv2d(op) if !op.parts.is_empty());
                assert_eq!(
                    expected.as_ref().is_ok_and(|seen| seen.iter().any(|(_, ops, _)| ops.iter().any(merges))),
                    answers.accepts,
                    "q, k and v are one product"
                );
                for ((pass, ops, casts), (_, plain, none)) in found?.into_iter().zip(expected?) {
                    assert_eq!((casts, none), (narrow, 0), "{file} {pass}");
                    assert!(ops == plain, "{file}, activations in {dtype:?}: {pass} found something else");
                }
            }
        }
    }
    Ok(())
}

/// What a network says of its parameters does not depend on what they are stored in.
#[test]
fn half_the_bytes() -> Result<()> {
    let [stored, wide] = pair(&model(3)?, &[DType::F16])?;
    let bytes = |model: &fewstep::nn::Model| model.weights.values().map(|w| w.bytes().len()).sum::<usize>();
    assert_eq!(2 * bytes(&stored), bytes(&wide));
    assert_eq!(bytes(&stored.widened(Stop::NEVER)?), bytes(&wide));
    assert_eq!(stored.network.parameters()?, wide.network.parameters()?);
    assert!(families::parse(&stored.network.to_json()?, "config").is_ok());
    Ok(())
}
