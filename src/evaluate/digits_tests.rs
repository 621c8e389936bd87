//! Whole evaluations of the digits, and the random net.

use super::classifier::{Classifier, STEPS};
use super::conv_net::{Compiled, ConvNet, FEATURES};
use super::evaluation::{Options, Source, evaluate};
use super::features::{FeatureNet, SEED};
use super::report::{Against, COLUMNS, Kind, Report};
use super::sampled::Sampling;
use crate::backend::cpu::CpuBackend;
use crate::cancel::{Stop, cancelled};
use crate::diffusion::{Clip, Table, trailing_pairs};
use crate::distill::Dataset;
use crate::error::{Result, Status};
use crate::graph::reference::{Array, array, evaluate as in_f64, to_array};
use crate::graph::{Graph, TensorType};
use crate::io::NpzFile;
use crate::nn::Model;
use crate::random::{Purpose, fill_normal};
use crate::tensor::{DType, Tensor};
use std::collections::HashMap;
use std::path::Path;

const STOP: Stop = Stop::NEVER;
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples-c/data");

fn teacher() -> Result<Model> {
    Model::open(&Path::new(DATA).join("digits_teacher"))
}

fn digits() -> Result<Dataset> {
    let mut file = NpzFile::open(&Path::new(DATA).join("digits8.npz"))?;
    let images = file.array("images")?.into_f32(&[1797, 8, 8, 1], |v| v / 8.0 - 1.0)?;
    Dataset::new(images, Some(file.array("labels")?.into_i32(&[1797])?))
}

/// The teacher in few steps.
fn in_steps(teacher: &Model, steps: usize) -> Result<Source<'_>> {
    let schedule = teacher.scheduler.noise_schedule()?;
    let pairs = trailing_pairs(schedule.len(), steps)?;
    let table = Table::from_pairs(&schedule, teacher.scheduler.prediction(), &pairs, 0.0, teacher.scheduler.clip())?;
    Ok(Source::Model(Sampling { model: teacher, table, precision: DType::F32, guidance: None }))
}

fn options(count: usize, reference_steps: usize, dataset: Option<&Dataset>) -> Options<'_> {
    let (batch, size, seed, precision) = (16, [8, 8], 5, DType::F32);
    Options { count, batch, size, seed, reference_steps, reference_clip: None, precision, guidance: None, given: vec![], dataset, classifier: true }
}

/// A row that samples as the reference does is it, whichever way they clip; one that does not is not.
#[test]
fn the_reference_clips_as_it_is_told() -> Result<()> {
    let teacher = teacher()?;
    let (schedule, prediction) = (teacher.scheduler.noise_schedule()?, teacher.scheduler.prediction());
    let clips = [teacher.scheduler.clip(), Clip::None];
    assert!(clips[0] != clips[1]);
    let of = |clip| -> Result<Source<'_>> {
        let table = Table::from_pairs(&schedule, prediction, &trailing_pairs(schedule.len(), 4)?, 0.0, clip)?;
        Ok(Source::Model(Sampling { model: &teacher, table, precision: DType::F32, guidance: None }))
    };
    for (reference_clip, same) in [(None, 0), (Some(Clip::None), 1)] {
        let options = Options { reference_clip, classifier: false, ..options(6, 4, None) };
        let report = report(1, &teacher, &options, &[("clipped", of(clips[0])?), ("plain", of(clips[1])?)])?;
        let errors: Vec<f64> = report.rows[3..].iter().map(|row| row.paired.expect("errors").rmse).collect();
        assert!(errors[same] == 0.0 && errors[1 - same] > 0.01, "{reference_clip:?}: {errors:?}");
    }
    Ok(())
}

fn report(threads: usize, teacher: &Model, options: &Options, rows: &[(&str, Source)]) -> Result<Report> {
    evaluate(&CpuBackend::new(threads)?, teacher, options, rows, &mut |_, _| true, STOP)
}

/// The CPU's features against the graph's meaning in f64, at two sizes; the first numbers pin seed and layout.
#[test]
fn features_are_those_of_the_graph_in_f64() -> Result<()> {
    let mut pinned: Vec<f64> = vec![];
    for image in [[8, 8, 1], [13, 6, 3]] {
        let each: usize = image.iter().product();
        let mut images = vec![0f32; 3 * each];
        fill_normal(9, Purpose::Evaluation, 0, 0, &mut images);
        let found = FeatureNet::new(&CpuBackend::new(2)?, image, STOP)?.of("images", &images, STOP)?;
        let net = ConvNet { image, classes: None };
        let mut g = Graph::new();
        let shape = [3, image[0], image[1], image[2]];
        let x = g.input("images", TensorType::f32(&shape))?;
        let out = net.append(&mut g, "", x)?.features;
        let mut given: HashMap<_, Array> = HashMap::from([(x, array(&shape, images.iter().copied().map(f64::from).collect())?)]);
        for parameter in net.initial(SEED)? {
            let storage = g.storage(&parameter.name).expect("a state of the net");
            given.insert(g.current(storage), to_array(&parameter.initial)?);
        }
        let exact = &in_f64(&g, &given)?[&out];
        assert_eq!(found.len(), 3 * FEATURES);
        let largest = exact.iter().fold(0f64, |m, v| m.max(v.abs()));
        let worst = found.iter().zip(exact).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(worst < 2e-6 * largest, "{image:?}: {worst:e} of {largest}");
        pinned.extend(exact.iter().take(2).copied());
    }
    let known = [-0.522929, 0.514847, 0.247941, -0.347179];
    assert!(pinned.iter().zip(known).all(|(a, b)| (a - b).abs() < 1e-6), "{pinned:?}");
    Ok(())
}

/// A batch is filled with what was in it: an image's features do not depend on its neighbours.
#[test]
fn features_of_an_image_are_its_own() -> Result<()> {
    let mut images = vec![0f32; 70 * 64];
    fill_normal(3, Purpose::Evaluation, 0, 0, &mut images);
    let net = ConvNet { image: [8, 8, 1], classes: Some(7) };
    let mut compiled = Compiled::new(&CpuBackend::new(1)?, &net, &net.initial(4)?, STOP)?;
    let mut run = |images: &[f32]| {
        let mut rows = vec![];
        compiled.run(images, STOP, |row| {
            rows.push(row.to_vec());
            Ok(())
        })?;
        Ok::<_, crate::Error>(rows)
    };
    let (all, last) = (run(&images)?, run(&images[69 * 64..])?);
    assert!(all.len() == 70 && all.iter().all(|row| row.len() == 7) && last == all[69..]);
    Ok(())
}

#[test]
fn a_report_has_its_yardsticks_and_the_same_bytes_for_any_threads() -> Result<()> {
    let (teacher, digits) = (teacher()?, digits()?);
    let noise: Vec<f32> = (0..48 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let rows = || -> Result<_> {
        Ok([
            ("teacher, 1 step", in_steps(&teacher, 1)?),
            ("teacher, 3 steps", in_steps(&teacher, 3)?),
            ("noise", Source::Images { images: &noise, paired: false }),
        ])
    };
    let options = Options { classifier: false, ..options(48, 10, Some(&digits)) };
    let found = report(1, &teacher, &options, &rows()?)?;
    assert_eq!(report(2, &teacher, &options, &rows()?)?.text()?, found.text()?);
    let kinds: Vec<_> = found.rows.iter().map(|row| row.kind).collect();
    assert_eq!(kinds, [Kind::Null, Kind::NullSpread, Kind::Teacher, Kind::Given, Kind::Given, Kind::Given]);
    assert_eq!((found.compared, found.against), (48, Against::Data));
    let [one, three, noise] = [&found.rows[3], &found.rows[4], &found.rows[5]];
    assert_eq!([one.steps.len(), three.steps.len(), noise.steps.len()], [1, 3, 0]);
    let (one, paired) = (one.paired.expect("errors"), three.paired.expect("errors"));
    assert!(paired.rmse < one.rmse && (three.steps[2] - paired.rmse).abs() < 1e-12 && three.steps[0] < three.steps[2], "{three:?}");
    assert!(noise.paired.is_none() && noise.distribution.expect("measured").kernel_distance > found.rows[2].distribution.expect("measured").kernel_distance);
    let json: serde_json::Value = serde_json::from_str(&found.json()?).expect("JSON");
    assert_eq!(json["rows"].as_array().map(Vec::len), Some(6));
    assert!(COLUMNS.iter().all(|name| json["rows"][3].get(name).is_some()) && json["rows"][0]["rmse"].is_null() && json["rows"][0]["kind"] == "null");
    let text = found.text()?;
    assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("null ")) && text.contains("\nteacher, 3 steps"), "{text}");
    Ok(())
}

/// Accuracies of the classifier: of data that it has not seen, of the teacher's samples, of the same with other labels.
#[test]
fn the_classifier_knows_digits() -> Result<()> {
    let (digits, backend) = (digits()?, CpuBackend::new(2)?);
    let mut steps = 0;
    let mut count = || {
        steps += 1;
        Ok(())
    };
    let mut classifier = Classifier::train(&backend, &digits, &mut count, STOP)?;
    assert!(steps == STEPS && classifier.held_out() > 0.95, "{}", classifier.held_out());
    let (images, labels) = (digits.images().as_slice::<f32>()?, digits.labels().expect("labels").as_slice::<i32>()?);
    let all = classifier.accuracy("digits", images, labels, STOP)?;
    let others: Vec<i32> = labels.iter().map(|label| (label + 1) % 10).collect();
    assert!(all >= classifier.held_out() && classifier.accuracy("digits", images, &others, STOP)? < 0.02, "{all}");
    assert!(classifier.accuracy("digits", images, &labels[1..], STOP).is_err());
    assert!(Classifier::train(&backend, &Dataset::new(Tensor::from_slice(&[1, 8, 8, 1], &images[..64])?, None)?, || Ok(()), STOP).is_err());
    assert_eq!(Classifier::train(&backend, &digits, || Err(cancelled()), STOP).err().map(|e| e.status), Some(Status::Cancelled));
    Ok(())
}

/// Without data the teacher is its own reference, and nobody learns its labels.
#[test]
fn the_teacher_is_the_reference_where_there_are_no_data() -> Result<()> {
    let teacher = teacher()?;
    let mut told = vec![];
    let mut progress = |done, total| {
        told.push((done, total));
        true
    };
    let found = evaluate(&CpuBackend::new(2)?, &teacher, &options(24, 6, None), &[("same", in_steps(&teacher, 6)?)], &mut progress, STOP)?;
    assert_eq!(found.against, Against::Teacher);
    assert!(found.rows.iter().all(|row| row.accuracy.is_none()));
    let same = &found.rows[3];
    assert!(same.paired.is_some_and(|p| p.rmse == 0.0 && p.psnr == f64::INFINITY) && same.steps == [0.0; 6], "{same:?}");
    assert_eq!(same.distribution, found.rows[2].distribution);
    let (done, total) = *told.last().expect("progress");
    assert!(done == total && told.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 == total), "{told:?}");
    Ok(())
}

#[test]
fn bad_evaluations_are_refused_and_stopped() -> Result<()> {
    let (teacher, digits, backend) = (teacher()?, digits()?, CpuBackend::new(1)?);
    let run = |options: &Options, rows: &[(&str, Source)], go_on: bool| evaluate(&backend, &teacher, options, rows, &mut |_, _| go_on, STOP);
    let images = vec![f32::INFINITY; 24 * 64];
    let paired = |images| [("bad", Source::Images { images, paired: true })];
    let wide = Options { size: [16, 16], ..options(24, 4, Some(&digits)) };
    for (options, rows, status, needle) in [
        (options(5, 4, None), vec![], Status::InvalidArgument, "count is 5"),
        (options(5, 4, Some(&digits)), vec![], Status::InvalidArgument, "1797 images"),
        (Options { batch: 0, ..options(24, 4, None) }, vec![], Status::InvalidArgument, "batch"),
        (options(24, 4, None), paired(&images).to_vec(), Status::Numeric, "bad: image 0"),
        (options(24, 4, None), paired(&images[64..]).to_vec(), Status::Numeric, "bad: image 0"),
        (wide, vec![], Status::Shape, "[16, 16, 1]"),
        (options(24, 0, None), vec![], Status::InvalidArgument, "steps is 0"),
    ] {
        let error = run(&options, &rows, true).unwrap_err();
        assert!(error.status == status && error.message.contains(needle), "{}", error.message);
    }
    assert!(run(&options(24, 4, None), &paired(&[0.0; 23 * 64]), true).unwrap_err().message.contains("23 images"));
    assert_eq!(run(&options(24, 4, None), &[], false).unwrap_err().status, Status::Cancelled);
    let flag = std::sync::atomic::AtomicBool::new(true);
    let stopped = evaluate(&backend, &teacher, &options(24, 4, None), &[], &mut |_, _| true, Stop::from(&flag));
    assert_eq!(stopped.unwrap_err().status, Status::Cancelled);
    Ok(())
}
