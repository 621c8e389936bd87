//! The metrics against what `tests/interop/record_metrics.py` recorded, and on sets whose values are known.

use super::distribution::{Reference, Set};
use super::features::FeatureNet;
use super::images::shuffled;
use super::kernel_distance::KernelSet;
use super::neighbours::{Balls, Overlap};
use super::paired::Paired;
use super::sliced_wasserstein::{Slices, direction};
use crate::backend::cpu::CpuBackend;
use crate::cancel::Stop;
use crate::error::{Result, Status};
use crate::random::{Purpose, fill_normal};
use serde_json::Value;

const STOP: Stop = Stop::NEVER;

fn recorded() -> Vec<Value> {
    serde_json::from_str(include_str!("testdata/metrics.json")).expect("the recording")
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().expect("numbers").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Images of noise.
fn noise(count: usize, each: usize, seed: u64) -> Vec<f32> {
    let mut images = vec![0.0; count * each];
    fill_normal(seed, Purpose::Evaluation, 0, 0, &mut images);
    images.iter_mut().for_each(|v| *v *= 0.5);
    images
}

#[test]
fn the_metrics_are_those_of_numpy_and_scipy() -> Result<()> {
    let cases = recorded();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let near = |what: &str, found: f64, expected: &Value| {
            let expected = expected.as_f64().expect("a number");
            assert!((found - expected).abs() <= 1e-11 * expected.abs().max(1.0), "{} {what}: {found}, recorded {expected}", case["name"]);
        };
        let dims = case["dims"].as_u64().expect("a number") as usize;
        let [real, found, directions] = ["real", "found", "directions"].map(|name| floats(&case[name]));
        let paired = Paired::of(&found, &real, dims)?;
        for (name, value) in [("rmse", paired.rmse), ("median", paired.median), ("p99", paired.p99), ("trimmed", paired.trimmed), ("psnr", paired.psnr)] {
            near(name, value, &case["paired"][name]);
        }
        let slices = |images: &[f32]| {
            let draw = |k: usize, out: &mut [f32]| out.copy_from_slice(&directions[k * dims..][..dims]);
            Slices::of(images, dims, directions.len() / dims, draw, STOP)
        };
        near("sliced Wasserstein", slices(&real)?.distance(&slices(&found)?)?, &case["sliced_wasserstein"]);
        let kernel = |images: &[f32]| KernelSet::new(&wide(images), dims, STOP);
        near("kernel distance", kernel(&real)?.distance(&kernel(&found)?, STOP)?, &case["kernel_distance"]);
        let overlap = Balls::new(&wide(&real), dims, STOP)?.overlap(&Balls::new(&wide(&found), dims, STOP)?, STOP)?;
        let Overlap { precision, recall, density, coverage } = overlap;
        for (name, value) in [("precision", precision), ("recall", recall), ("density", density), ("coverage", coverage)] {
            near(name, value, &case["overlap"][name]);
        }
    }
    Ok(())
}

#[test]
fn equal_sets_have_no_distance_and_a_shift_is_seen() -> Result<()> {
    let (count, image) = (96, [8, 8, 1]);
    let backend = CpuBackend::new(1)?;
    let mut net = FeatureNet::new(&backend, image, STOP)?;
    let [reference, other] = [1, 2].map(|seed| noise(count, 64, seed));
    let shifted: Vec<f32> = other.iter().map(|v| v + 0.3).collect();
    let mut measure = |images: &[f32]| {
        let features = [net.of("reference", &reference, STOP)?, net.of("images", images, STOP)?];
        Reference::new(Set { images: &reference, features: &features[0] }, 64, STOP)?.measure(Set { images, features: &features[1] }, STOP)
    };
    let (same, null, far) = (measure(&reference)?, measure(&other)?, measure(&shifted)?);
    // MMD²_u of a set with itself is below 0: the pairs of equal points are only in the mixed sum.
    assert!(same.sliced_wasserstein == 0.0 && same.kernel_distance < 0.0, "{same:?}");
    assert_eq!([same.precision, same.recall, same.density, same.coverage], [1.0; 4]);
    assert!(null.kernel_distance.abs() < 0.2 && null.coverage > 0.8, "{null:?}");
    assert!(far.sliced_wasserstein > 2.0 * null.sliced_wasserstein && far.kernel_distance > 20.0 * null.kernel_distance.abs(), "{far:?} {null:?}");
    assert!(far.coverage < 0.5 * null.coverage && far.precision < 0.5 * null.precision, "{far:?} {null:?}");
    let paired = Paired::of(&shifted, &other, 64)?;
    assert!((paired.rmse - 0.3).abs() < 1e-6 && (paired.median - 0.3).abs() < 1e-6 && (paired.psnr - 20.0 * (2.0f64 / 0.3).log10()).abs() < 1e-4);
    let equal = Paired::of(&other, &other, 64)?;
    assert_eq!((equal.rmse, equal.p99, equal.psnr), (0.0, 0.0, f64::INFINITY));
    Ok(())
}

/// The worst image, of 40, is left out of two numbers: 5 % of them are two.
#[test]
fn an_outlier_is_seen_by_the_mean_alone() -> Result<()> {
    let exact = noise(40, 4, 3);
    let mut found: Vec<f32> = exact.iter().map(|v| v + 0.125).collect();
    found[17 * 4..18 * 4].iter_mut().for_each(|v| *v += 10.0);
    let paired = Paired::of(&found, &exact, 4)?;
    assert!((paired.median - 0.125).abs() < 1e-6 && (paired.trimmed - 0.125).abs() < 1e-6 && paired.rmse > 1.5 && paired.p99 > 5.0, "{paired:?}");
    Ok(())
}

#[test]
fn what_is_no_set_of_images_is_refused_with_a_sentence() -> Result<()> {
    let backend = CpuBackend::new(1)?;
    let mut net = FeatureNet::new(&backend, [8, 8, 1], STOP)?;
    let mut broken = noise(8, 64, 1);
    broken[3 * 64 + 5] = f32::NAN;
    let good = noise(8, 64, 2);
    let errors = [
        net.of("the student's images", &broken, STOP).err(),
        Paired::of(&broken, &good, 64).err(),
        Paired::of(&good, &broken, 64).err(),
        Slices::of(&broken, 64, 4, direction, STOP).err(),
    ];
    for error in errors {
        let error = error.expect("an error");
        assert!(error.status == Status::Numeric && error.message.contains("image 3") && error.message.contains("element 5"), "{}", error.message);
    }
    let wrong = [
        Paired::of(&good, &good[64..], 64).err(),
        Paired::of(&good[1..], &good[1..], 64).err(),
        Balls::new(&wide(&good[..5 * 64]), 64, STOP).err(),
        KernelSet::new(&wide(&good[..64]), 64, STOP).err(),
        net.of("images", &[], STOP).err(),
    ];
    assert!(wrong.iter().all(|error| error.as_ref().is_some_and(|e| e.status == Status::Shape)), "{wrong:?}");
    let huge = vec![f32::MAX; 64];
    assert!(net.of("images", &huge, STOP).unwrap_err().message.contains("too large"));
    Ok(())
}

#[test]
fn orders_are_permutations_that_stay_as_they_are() -> Result<()> {
    let order = shuffled(50, 7)?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    assert_eq!(order, shuffled(50, 7)?);
    assert_ne!(order, shuffled(50, 8)?);
    assert!(shuffled(0, 1)?.is_empty() && shuffled(1, 1)? == [0]);
    Ok(())
}
