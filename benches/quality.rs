//! What an evaluation of the digits teacher in few steps says, and what its metrics cost beside the sampling.
//!
//! usage: cargo bench --bench quality

mod digits;

use fewstep::backend::cpu::CpuBackend;
use fewstep::cancel::Stop;
use fewstep::diffusion::{Table, trailing_pairs};
use fewstep::error::Result;
use fewstep::evaluate::classifier::{Classifier, STEPS};
use fewstep::evaluate::distribution::{Reference, Set};
use fewstep::evaluate::features::FeatureNet;
use fewstep::evaluate::{Options, Sampling, Source, evaluate};
use fewstep::nn::Model;
use fewstep::random::{Purpose, fill_normal};
use fewstep::tensor::DType;
use std::time::Instant;

/// Samples of each row; distributions are compared by half of the digits, 898.
const COUNT: usize = 1024;

fn in_steps(teacher: &Model, steps: usize) -> Result<Source<'_>> {
    let schedule = teacher.scheduler.noise_schedule()?;
    let pairs = trailing_pairs(schedule.len(), steps)?;
    let table = Table::from_pairs(&schedule, teacher.scheduler.prediction(), &pairs, 0.0, teacher.scheduler.clip())?;
    Ok(Source::Model(Sampling { model: teacher, table, precision: DType::F32, guidance: None }))
}

fn report(backend: &CpuBackend) -> Result<()> {
    let (teacher, data) = (digits::teacher()?, digits::data()?);
    let rows = [
        ("teacher, 1 step", in_steps(&teacher, 1)?),
        ("teacher, 2 steps", in_steps(&teacher, 2)?),
        ("teacher, 4 steps", in_steps(&teacher, 4)?),
        ("teacher, 100 steps", in_steps(&teacher, 100)?),
    ];
    let options = Options {
        count: COUNT,
        batch: 64,
        size: [8, 8],
        seed: 5,
        reference_steps: 50,
        reference_clip: None,
        precision: DType::F32,
        guidance: None,
        given: vec![],
        dataset: Some(&data),
        classifier: true,
    };
    println!("{}", evaluate(backend, &teacher, &options, &rows, &mut |_, _| true, Stop::NEVER)?.text()?);
    Ok(())
}

fn times(backend: &CpuBackend) -> Result<()> {
    let at = Instant::now();
    let classifier = Classifier::train(backend, &digits::data()?, || Ok(()), Stop::NEVER)?;
    println!("classifier: {STEPS} steps {:.1} s, {:.3} of what it did not learn", at.elapsed().as_secs_f64(), classifier.held_out());
    for (count, image) in [(1024, [8, 8, 1]), (4096, [8, 8, 1]), (1024, [32, 32, 3])] {
        let each = image.iter().product();
        let mut images = vec![0f32; count * each];
        fill_normal(1, Purpose::Evaluation, 0, 0, &mut images);
        let mut net = FeatureNet::new(backend, image, Stop::NEVER)?;
        let at = Instant::now();
        let features = net.of("images", &images, Stop::NEVER)?;
        let of_features = at.elapsed().as_secs_f64();
        let set = Set { images: &images, features: &features };
        let reference = Reference::new(set, each, Stop::NEVER)?;
        let at = Instant::now();
        reference.measure(set, Stop::NEVER)?;
        println!("{count} images of {image:?}: features {of_features:.2} s, distances {:.2} s a set", at.elapsed().as_secs_f64());
    }
    Ok(())
}

fn main() -> Result<()> {
    let backend = CpuBackend::new(2)?;
    times(&backend)?;
    report(&backend)
}
