//! What a report's models make of its noises.

use crate::backend::Backend;
use crate::cancel::Stop;
use crate::diffusion::Table;
use crate::error::Result;
use crate::nn::{Guidance, Model};
use crate::random::Purpose;
use crate::sampling::{Given, RunSpec, SamplingRun, UNROLLED, for_each_batch};
use crate::tensor::DType;

/// How a model is sampled.
#[derive(Clone, Debug)]
pub struct Sampling<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its sampler.
    pub table: Table,
    /// Type of the network's activations.
    pub precision: DType,
    /// If the predictions are guided.
    pub guidance: Option<Guidance>,
}

impl Sampling<'_> {
    /// The timesteps that its steps land on, -1 for the last; `None` for a run whose states cannot be compared with others': one that draws noise, scales its
    /// states, or has more than [`UNROLLED`] steps, which are no few-step sampler's.
    pub fn landings(&self) -> Option<impl Iterator<Item = i64> + '_> {
        let steps = &self.table.steps;
        let plain = self.table.initial == 1.0 && steps.iter().all(|s| s.input == 1.0 && s.noise == 0.0 && s.t_next < s.t && s.t_next.fract() == 0.0);
        (plain && steps.len() <= UNROLLED).then(|| steps.iter().map(|step| step.t_next as i64))
    }
}

/// What is sampled: sample i has the noise of (seed, i), as everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Noises<'a> {
    /// Samples.
    pub count: usize,
    /// Of these many at a time.
    pub batch: usize,
    /// [H, W] of a sample.
    pub size: [usize; 2],
    /// Their seed.
    pub seed: u64,
    /// What models are given with them.
    pub given: &'a [Given<'a>],
}

/// Samples; `visit(step, first element, state)` with the states that the steps chosen by `wanted` land on, batch after batch. `progress(images)` after each
/// batch.
pub fn sample(
    backend: &dyn Backend,
    sampling: &Sampling,
    noises: Noises,
    wanted: impl Fn(usize) -> bool,
    mut visit: impl FnMut(usize, usize, &[f32]) -> Result<()>,
    progress: &mut dyn FnMut(usize) -> Result<()>,
    stop: Stop,
) -> Result<()> {
    let Noises { count, batch, size, seed, given } = noises;
    let (table, purpose, precision) = (&sampling.table, Purpose::Evaluation, sampling.precision);
    let spec = RunSpec { table, batch: batch.min(count), size, purpose, precision, guidance: sampling.guidance, unrolled: UNROLLED };
    let mut run = SamplingRun::new_until(backend, sampling.model, &spec, stop)?;
    for_each_batch(&mut run, seed, given, count, |run, first, used, _| {
        let each: usize = run.shape()[1..].iter().product();
        run.draw_noise(stop)?;
        for step in 0..run.steps() {
            run.advance(stop)?;
            if wanted(step) {
                visit(step, first * each, &run.read()?[..used * each])?;
            }
        }
        progress(used)
    })
}

/// The images [M, H, W, C] that it ends at.
pub fn images(backend: &dyn Backend, sampling: &Sampling, noises: Noises, progress: &mut dyn FnMut(usize) -> Result<()>, stop: Stop) -> Result<Vec<f32>> {
    let steps = sampling.table.steps.len();
    let mut images = vec![];
    let keep = |_, _, state: &[f32]| crate::memory::append(&mut images, state, "images");
    sample(backend, sampling, noises, |step| step + 1 == steps, keep, progress, stop)?;
    Ok(images)
}
