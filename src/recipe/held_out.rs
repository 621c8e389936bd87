//! What a student is worth while it learns: errors on noises that no step sees, beside those of noises that training does see, and pictures.

use crate::backend::Backend;
use crate::cancel::Stop;
use crate::diffusion::{Clip, Table, trailing_pairs};
use crate::distill::trajectory_set::rows_for;
use crate::distill::{Dataset, Trainer, TrajectorySet};
use crate::error::{Error, Result};
use crate::evaluate::paired::MeanSquare;
use crate::evaluate::sampled::{Noises, Sampling, images};
use crate::io::{GridRow, ImageShape};
use crate::memory;
use crate::nn::Model;
use crate::nn::conditions::Values;
use crate::random::Purpose;
use crate::sampling::{RunSpec, SamplingRun, UNROLLED, begin_batch_at, draw_conditions};
use crate::tensor::{DType, try_vec};
use half::f16;

/// Images of a row of a picture.
const SHOWN: usize = 12;
/// Samples side by side.
const BATCH: usize = 64;
/// Key of the draws that a loss is measured with where there are no trajectories.
const KEY: u64 = 0x6865_6c64;
/// Steps of a model's picture that has no grid: a teacher's.
const TEACHER_STEPS: usize = 20;

/// What is measured.
pub struct Measured {
    /// Error on held-out noises, or the loss of held-out draws.
    pub held_out: f64,
    /// The error of the state after each step, on held-out noises.
    pub states: Vec<f64>,
    /// Error on noises that training sees.
    pub training: Option<f64>,
    /// Images that the student made, and in how many steps.
    images: Vec<f32>,
    steps: usize,
}

/// What a stage's student is measured with.
pub struct HeldOut {
    /// Trajectories of noises that training does not see; none where it sees no trajectories, or where they were given and there is no teacher.
    held_out: Option<TrajectorySet>,
    /// How many of the run's own it is measured on too.
    count: usize,
}

impl HeldOut {
    /// Computes the teacher's trajectories where the stage has some.
    pub fn new(trainer: &Trainer, count: usize, progress: &mut dyn FnMut(usize, usize) -> bool, stop: Stop) -> Result<Self> {
        let known = trainer.options().needs().cache && trainer.options().trajectories.is_none();
        let held_out = if known { Some(trainer.held_out_trajectories(count, progress, stop)?) } else { None };
        Ok(Self { held_out, count })
    }

    /// Measures a student.
    pub fn measure(&self, backend: &dyn Backend, trainer: &mut Trainer, student: &Model, stop: Stop) -> Result<Measured> {
        let Some(set) = &self.held_out else {
            if trainer.options().needs().cache {
                let errors = errors(backend, student, &trainer.present_trajectories()?, self.count, stop)?;
                let end = errors.states.last().copied().unwrap_or(0.0);
                return Ok(Measured { held_out: end, training: Some(end), ..errors });
            }
            let loss = trainer.evaluate_until(KEY, stop)?.loss;
            return Ok(Measured { held_out: f64::from(loss), states: vec![], training: None, images: vec![], steps: 0 });
        };
        let found = errors(backend, student, set, self.count, stop)?;
        let training = errors(backend, student, &trainer.present_trajectories()?, self.count, stop)?;
        Ok(Measured { training: Some(training.held_out), ..found })
    }

    /// A picture of what the student makes, beside the teacher where it has some: labels and images [M,H,W,C]. `None` of images that no picture shows.
    pub fn picture(&self, backend: &dyn Backend, measured: Measured, of: &Subject, stop: Stop) -> Result<Option<Picture>> {
        let [height, width, channels] = of.image()?;
        if ![1, 3, 4].contains(&channels) {
            return Ok(None);
        }
        let shape = ImageShape { height, width, channels };
        let Some(set) = &self.held_out else {
            let (images, steps) = of.samples(backend, stop)?;
            return Ok(Some(Picture { rows: vec![(format!("{steps} steps"), images)], shape }));
        };
        let (row, shown) = (height * width * channels, SHOWN.min(set.cache.count));
        let last = &set.cache.states.as_slice::<f16>()?[set.pairs.len() * set.cache.count * row..][..shown * row];
        let teacher = memory::collect(last.iter().map(|v| f32::from(*v)), "a picture")?;
        let student = format!("student, {} step{}", measured.steps, if measured.steps == 1 { "" } else { "s" });
        Ok(Some(Picture { rows: vec![("teacher".to_owned(), teacher), (student, measured.images)], shape }))
    }
}

/// Rows of a picture.
pub struct Picture {
    rows: Vec<(String, Vec<f32>)>,
    /// Of an image.
    pub shape: ImageShape,
}

impl Picture {
    /// As a grid has them.
    pub fn rows(&self) -> Vec<GridRow<'_>> {
        self.rows.iter().map(|(label, images)| GridRow { label, images }).collect()
    }

    /// How much larger a pixel is shown, so that images are about as large as a stamp.
    pub fn scale(&self) -> usize {
        (64 / self.shape.height.max(self.shape.width)).clamp(1, 12)
    }
}

/// A student that is shown without a teacher's trajectories.
pub struct Subject<'a> {
    /// It.
    pub student: &'a Model,
    /// Where its conditions come from, if they are no labels.
    pub dataset: Option<&'a Dataset>,
    /// [H, W].
    pub size: [usize; 2],
}

impl Subject<'_> {
    fn image(&self) -> Result<[usize; 3]> {
        Ok([self.size[0], self.size[1], self.student.roles()?.channels])
    }

    /// Images of a few noises by DDIM, on the student's own grid if it has one, and in how many steps.
    fn samples(&self, backend: &dyn Backend, stop: Stop) -> Result<(Vec<f32>, usize)> {
        let (model, roles) = (self.student, self.student.roles()?);
        let train = model.scheduler.num_train_timesteps;
        let pairs = match &model.student {
            Some(own) => memory::copy(&own.pairs, "step pairs")?,
            None => trailing_pairs(train, TEACHER_STEPS.min(train))?,
        };
        let table = Table::from_pairs(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), &pairs, 0.0, Clip::None)?;
        let rows = rows_for(&roles.conditions, self.dataset, self.size)?;
        let conditions = draw_conditions(&roles.conditions, &rows, (SHOWN, self.size), KEY, stop)?;
        let given = roles.conditions.iter().zip(&conditions).map(|(condition, rows)| Ok((condition.kind, Values::of(rows)?)));
        let given = memory::try_collect(given, "conditions")?;
        let noises = Noises { count: SHOWN, batch: SHOWN, size: self.size, seed: KEY, given: &given };
        let sampling = Sampling { model, table, precision: DType::F32, guidance: None };
        Ok((images(backend, &sampling, noises, &mut |_| Ok(()), stop)?, pairs.len()))
    }
}

/// The errors of a student's states against the first trajectories of a set, from whose noises it starts. Its own grid may be coarser than theirs.
fn errors(backend: &dyn Backend, student: &Model, set: &TrajectorySet, count: usize, stop: Stop) -> Result<Measured> {
    let (all, count) = (set.cache.count, count.min(set.cache.count));
    let [height, width, channels] = set.image();
    let row = height * width * channels;
    let pairs = student.student.as_ref().map_or(set.pairs.as_slice(), |own| own.pairs.as_slice());
    let landing = |(_, next): &(i64, i64)| set.pairs.iter().position(|(_, end)| end == next).map(|k| k + 1);
    let landings = memory::try_collect(pairs.iter().map(|pair| landing(pair).ok_or_else(|| Error::internal("a grid with other ends"))), "a grid")?;
    let table = Table::from_pairs(&set.scheduler.noise_schedule()?, student.scheduler.prediction(), pairs, 0.0, Clip::None)?;
    let (batch, size, purpose) = (BATCH.min(count), [height, width], Purpose::Evaluation);
    let spec = RunSpec { table: &table, batch, size, purpose, precision: DType::F32, guidance: None, unrolled: UNROLLED };
    let mut run = SamplingRun::new_until(backend, student, &spec, stop)?;
    let states = set.cache.states.as_slice::<f16>()?;
    let given = set.conditions.iter().zip(&set.cache.conditions).map(|(condition, rows)| Ok((condition.kind, Values::of(rows)?)));
    let given = memory::try_collect(given, "conditions")?;
    let mut sums = memory::filled(MeanSquare::default(), pairs.len(), "errors")?;
    let (mut x_t, mut exact, mut images) = (try_vec::<f32>(batch * row, "states")?, try_vec::<f32>(batch * row, "states")?, vec![]);
    let widen = |to: &mut [f32], step: usize, first: usize| {
        let from = &states[(step * all + first) * row..][..to.len()];
        to.iter_mut().zip(from).for_each(|(to, from)| *to = f32::from(*from));
    };
    for first in (0..count).step_by(batch) {
        let used = batch.min(count - first);
        widen(&mut x_t[..used * row], 0, first);
        begin_batch_at(&mut run, (0, Some(&x_t)), &given, all, first)?;
        for (landing, sum) in landings.iter().zip(&mut sums) {
            run.advance(stop)?;
            let exact = &mut exact[..used * row];
            widen(exact, *landing, first);
            sum.add(&run.read()?[..used * row], exact);
        }
        if first == 0 {
            memory::append(&mut images, &run.read()?[..SHOWN.min(used) * row], "a picture")?;
        }
    }
    let states = memory::collect(sums.into_iter().map(MeanSquare::root), "errors")?;
    let end = states.last().copied().ok_or_else(|| Error::internal("a grid without steps"))?;
    Ok(Measured { held_out: end, states, training: None, images, steps: pairs.len() })
}
