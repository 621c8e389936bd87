//! An evaluation: every model samples the same noises, and what comes out is measured in the same ways.

use super::classifier::{self, Classifier};
use super::distribution::{FEWEST, Reference, Set};
use super::features::FeatureNet;
use super::images::check;
use super::paired::{MeanSquare, Paired};
use super::pool::{self, Pool, SPLITS};
use super::report::{Against, Kind, Report, Row};
use super::sampled::{self, Noises, Sampling};
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::diffusion::{Clip, Table, trailing_pairs};
use crate::distill::Dataset;
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::conditions::Values;
use crate::nn::{ConditionKind, Guidance, Model};
use crate::sampling::{Given, draw_conditions};
use crate::tensor::{DType, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// What the seed of the noises differs by from that of the teacher's other images, which sets are compared with where there is no data.
const OTHER: u64 = u64::from_le_bytes(*b"reversed");

/// What is evaluated, beside the rows.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Samples of each row.
    pub count: usize,
    /// Of these many at a time.
    pub batch: usize,
    /// [H, W] of a sample.
    pub size: [usize; 2],
    /// Seed of their noise, and of their conditions where none are given.
    pub seed: u64,
    /// Steps of the teacher's reference, DDIM on a trailing grid.
    pub reference_steps: usize,
    /// What it does to the data that it predicts; `None`: what the teacher's own scheduler says.
    pub reference_clip: Option<Clip>,
    /// What the teacher computes in.
    pub precision: DType,
    /// If the teacher's predictions are guided.
    pub guidance: Option<Guidance>,
    /// What models are given with the samples; drawn where this is empty: labels evenly, all else with the dataset's rows.
    pub given: Vec<Given<'a>>,
    /// What distributions are compared with, and the classifier learns; the teacher's images of other noises, and no classifier, without.
    pub dataset: Option<&'a Dataset>,
    /// Whether a classifier is trained where the dataset has labels.
    pub classifier: bool,
}

/// Where a row's images come from.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// They are sampled.
    Model(Sampling<'a>),
    /// They are these [M, H, W, C]; `paired` where they are of the report's own noises and conditions.
    Images {
        /// As many as samples.
        images: &'a [f32],
        /// Whether they are compared with the teacher's one by one.
        paired: bool,
    },
}

/// Counts what is done, of what there is to do.
struct Progress<'a> {
    done: usize,
    total: usize,
    report: &'a mut dyn FnMut(usize, usize) -> bool,
}

impl Progress<'_> {
    fn add(&mut self, more: usize) -> Result<()> {
        self.done += more;
        if (self.report)(self.done, self.total) { Ok(()) } else { Err(Error::cancelled("the evaluation was cancelled")) }
    }
}

/// The teacher's own, from the report's noises.
struct Teacher {
    images: Vec<f32>,
    /// States by timestep.
    states: BTreeMap<i64, Vec<f32>>,
}

/// An evaluation that is under way.
struct Evaluation<'a, 'p> {
    backend: &'a dyn Backend,
    teacher: &'a Model,
    options: &'a Options<'a>,
    given: &'a [Given<'a>],
    /// [H, W, C].
    image: [usize; 3],
    progress: Progress<'p>,
    stop: Stop<'a>,
}

impl<'a> Evaluation<'a, '_> {
    fn each(&self) -> usize {
        self.image.iter().product()
    }

    fn noises(&self, seed: u64) -> Noises<'a> {
        let &Options { count, batch, size, .. } = self.options;
        Noises { count, batch, size, seed, given: self.given }
    }

    fn steps_of_teacher(&self, pairs: &[(i64, i64)]) -> Result<Sampling<'a>> {
        let (teacher, scheduler) = (self.teacher, &self.teacher.scheduler);
        let table = Table::from_pairs(
            &scheduler.noise_schedule()?,
            scheduler.prediction(),
            pairs,
            0.0,
            self.options.reference_clip.unwrap_or_else(|| scheduler.clip()),
        )?;
        Ok(Sampling { model: teacher, table, precision: self.options.precision, guidance: self.options.guidance })
    }

    fn reference_grid(&self) -> Result<Vec<(i64, i64)>> {
        trailing_pairs(self.teacher.scheduler.noise_schedule()?.len(), self.options.reference_steps)
    }

    /// The images that a sampler ends at.
    fn images(&mut self, sampling: &Sampling, seed: u64) -> Result<Vec<f32>> {
        let noises = self.noises(seed);
        sampled::images(self.backend, sampling, noises, &mut |images| self.progress.add(images), self.stop)
    }

    /// The teacher's images on the reference's grid, and its states at timesteps between: on the same grid where it has them, on one with them otherwise.
    fn teacher_images(&mut self, wanted: &BTreeSet<i64>) -> Result<Teacher> {
        let (grid, seed) = (self.reference_grid()?, self.options.seed);
        let refined = refined(&grid, wanted)?;
        let mut states = BTreeMap::new();
        let images = if grid == refined {
            self.teacher_states(&grid, wanted, &mut states)?
        } else {
            self.teacher_states(&refined, wanted, &mut states)?;
            self.images(&self.steps_of_teacher(&grid)?, seed)?
        };
        Ok(Teacher { images, states })
    }

    /// The images at the end of a grid, and the states of some of its timesteps.
    fn teacher_states(&mut self, grid: &[(i64, i64)], wanted: &BTreeSet<i64>, states: &mut BTreeMap<i64, Vec<f32>>) -> Result<Vec<f32>> {
        let (sampling, noises) = (self.steps_of_teacher(grid)?, self.noises(self.options.seed));
        let (mut images, last) = (vec![], grid.len() - 1);
        let keep = |step: usize, _, state: &[f32]| {
            let to = if step == last { &mut images } else { states.entry(grid[step].1).or_default() };
            memory::append(to, state, "states of the teacher")
        };
        let chosen = |step: usize| step == last || wanted.contains(&grid[step].1);
        sampled::sample(self.backend, &sampling, noises, chosen, keep, &mut |images| self.progress.add(images), self.stop)?;
        Ok(images)
    }

    /// The images of a row's model, and the RMSE of its states.
    fn row_images(&mut self, sampling: &Sampling, teacher: &Teacher) -> Result<(Vec<f32>, Vec<f64>)> {
        let landings = landings(sampling, self.teacher)?;
        let landings = landings.filter(|landings| landings[..landings.len() - 1].iter().all(|t| teacher.states.contains_key(t)));
        let last = sampling.table.steps.len() - 1;
        let mut errors = memory::filled(MeanSquare::default(), landings.as_ref().map_or(0, Vec::len), "errors")?;
        let mut images = vec![];
        let visit = |step: usize, first: usize, state: &[f32]| {
            if let Some(landings) = &landings {
                let exact = if step == last { &teacher.images } else { &teacher.states[&landings[step]] };
                errors[step].add(state, &exact[first..]);
            }
            if step == last { memory::append(&mut images, state, "images") } else { Ok(()) }
        };
        let noises = self.noises(self.options.seed);
        let chosen = |step| step == last || landings.is_some();
        sampled::sample(self.backend, sampling, noises, chosen, visit, &mut |images| self.progress.add(images), self.stop)?;
        Ok((images, memory::collect(errors.into_iter().map(MeanSquare::root), "errors")?))
    }

    /// The pool that sets are compared with, of 2n images.
    fn pool(&mut self, n: usize, teacher: &Teacher, net: &mut FeatureNet) -> Result<Pool> {
        let images = match self.options.dataset {
            Some(dataset) => pool::of_dataset(dataset, n)?,
            None => {
                let mut images = memory::copy(&teacher.images, "images of the reference")?;
                let other = self.images(&self.steps_of_teacher(&self.reference_grid()?)?, self.options.seed ^ OTHER)?;
                memory::append(&mut images, &other, "images of the reference")?;
                images
            }
        };
        Pool::new(images, self.each(), net, self.stop)
    }

    fn classifier(&mut self) -> Result<Option<Classifier>> {
        match self.options.dataset.filter(|dataset| self.options.classifier && dataset.labels().is_some()) {
            None => Ok(None),
            Some(dataset) => Classifier::train(self.backend, dataset, || self.progress.add(1), self.stop).map(Some),
        }
    }

    /// What sets are measured with, and the rows of the null, its spread and the teacher.
    fn yardsticks(&mut self, compared: usize, teacher: &Teacher) -> Result<(Measures<'a>, Vec<Row>)> {
        let mut net = FeatureNet::new(self.backend, self.image, self.stop)?;
        let pool = self.pool(compared, teacher, &mut net)?;
        let stop = self.stop;
        let (reference, [null, spread]) = pool.reference(|| self.progress.add(1), stop)?;
        let classifier = self.classifier()?;
        let of_null = |name: &str, kind, distribution, accuracy| {
            let distribution = Some(distribution);
            Row { name: name.to_owned(), kind, paired: None, steps: vec![], distribution, accuracy }
        };
        let null = of_null("null", Kind::Null, null, classifier.as_ref().map(Classifier::held_out));
        let spread = of_null("null, spread", Kind::NullSpread, spread, None);
        let mut measures = Measures { net, reference, compared, classifier, each: self.each(), stop };
        let name = format!("teacher, {} steps", self.options.reference_steps);
        let own = measures.row((&name, Kind::Teacher), &teacher.images, None, self.labels())?;
        self.progress.add(1)?;
        Ok((measures, memory::collect([null, spread, own], "a report")?))
    }

    /// The row of a set.
    fn row(&mut self, name: &str, source: &Source, teacher: &Teacher, measures: &mut Measures<'a>) -> Result<Row> {
        match source {
            Source::Images { images, paired } => {
                let (exact, labels) = if *paired { (Some(teacher.images.as_slice()), self.labels()) } else { (None, None) };
                measures.row((name, Kind::Given), images, exact, labels)
            }
            Source::Model(sampling) => {
                let (images, steps) = self.row_images(sampling, teacher)?;
                let row = measures.row((name, Kind::Given), &images, Some(&teacher.images), self.labels())?;
                Ok(Row { steps, ..row })
            }
        }
    }

    /// The samples' labels, if they have any.
    fn labels(&self) -> Option<&'a [i32]> {
        self.given.iter().find_map(|(kind, values)| match (kind, values) {
            (ConditionKind::Labels { .. }, Values::I32(labels)) => Some(*labels),
            _ => None,
        })
    }
}

/// What sets of images are measured with.
struct Measures<'a> {
    net: FeatureNet,
    reference: Reference,
    /// Images of a set.
    compared: usize,
    classifier: Option<Classifier>,
    /// Elements of an image.
    each: usize,
    stop: Stop<'a>,
}

impl Measures<'_> {
    /// A row of images; `exact` are the teacher's of the same noises, `labels` what they should show.
    fn row(&mut self, (name, kind): (&str, Kind), images: &[f32], exact: Option<&[f32]>, labels: Option<&[i32]>) -> Result<Row> {
        let (each, stop) = (self.each, self.stop);
        let paired = exact.map(|exact| Paired::of(images, exact, each)).transpose()?;
        let compared = &images[..self.compared * each];
        let features = self.net.of("images", compared, stop)?;
        let distribution = Some(self.reference.measure(Set { images: compared, features: &features }, stop)?);
        let accuracy = match (&mut self.classifier, labels) {
            (Some(classifier), Some(labels)) => Some(classifier.accuracy("images", images, labels, stop)?),
            _ => None,
        };
        Ok(Row { name: name.to_owned(), kind, paired, steps: vec![], distribution, accuracy })
    }
}

/// A grid that also visits these timesteps.
fn refined(grid: &[(i64, i64)], wanted: &BTreeSet<i64>) -> Result<Vec<(i64, i64)>> {
    let (first, last) = (grid[0].0, grid[grid.len() - 1].1);
    let mut visited: BTreeSet<i64> = grid.iter().flat_map(|(t, next)| [*t, *next]).collect();
    visited.extend(wanted.iter().filter(|t| **t < first && **t > last));
    let falling = memory::collect(visited.into_iter().rev(), "timesteps")?;
    memory::collect(falling.windows(2).map(|w| (w[0], w[1])), "timesteps")
}

/// An error where a row cannot be what the report is of.
fn check_row(name: &str, source: &Source, teacher: &Model, (count, image): (usize, [usize; 3])) -> Result<()> {
    match source {
        Source::Model(sampling) if sampling.table.steps.is_empty() => Err(Error::invalid(format!("{name}: a sampler without steps makes no images"))),
        Source::Model(sampling) => {
            let [own, channels] = [sampling.model, teacher].map(|model| model.roles().map(|roles| roles.channels));
            let (own, channels) = (own?, channels?);
            if own != channels {
                return Err(Error::shape(format!("its images have {own} channels, the teacher's {channels}")).context(name));
            }
            Ok(())
        }
        Source::Images { images, .. } => {
            let found = check(name, images, image.iter().product())?;
            if found != count {
                return Err(Error::shape(format!("{name}: {found} images; every row has {count}, as the options say")));
            }
            Ok(())
        }
    }
}

/// How many images of a set distributions are compared by.
fn compared(count: usize, dataset: Option<&Dataset>, [h, w, c]: [usize; 3]) -> Result<usize> {
    let Some(dataset) = dataset else {
        return if count >= FEWEST { Ok(count) } else { Err(Error::invalid(format!("count is {count}; an evaluation needs {FEWEST} images or more"))) };
    };
    if dataset.images().shape()[1..] != [h, w, c] {
        let found = &dataset.images().shape()[1..];
        return Err(Error::shape(format!("the dataset's images are {found:?}, the samples {:?} (H, W, C)", [h, w, c])));
    }
    match count.min(dataset.len() / 2) {
        n if n >= FEWEST => Ok(n),
        _ => Err(Error::invalid(format!(
            "count is {count} and the dataset has {} images; an evaluation needs {FEWEST} samples and twice as many images",
            dataset.len()
        ))),
    }
}

/// Evaluates rows (name, source) beside the teacher and the null. `progress(done, total)`, of samples, measured sets and steps of the classifier, returning
/// false cancels, and so does `stop`.
pub fn evaluate(
    backend: &dyn Backend,
    teacher: &Model,
    options: &Options,
    rows: &[(&str, Source)],
    progress: &mut dyn FnMut(usize, usize) -> bool,
    stop: Stop,
) -> Result<Report> {
    let &Options { count, size, seed, dataset, .. } = options;
    let roles = teacher.roles()?;
    let image = [size[0], size[1], roles.channels];
    if options.batch == 0 {
        return Err(Error::invalid("the batch of an evaluation must be at least 1"));
    }
    let compared = compared(count, dataset, image)?;
    rows.iter().try_for_each(|(name, source)| check_row(name, source, teacher, (count, image)))?;
    let drawn = if options.given.is_empty() { drawn(teacher, options, stop)? } else { vec![] };
    let given = match options.given.is_empty() {
        true => memory::try_collect(roles.conditions.iter().zip(&drawn).map(|(condition, rows)| Ok((condition.kind, Values::of(rows)?))), "conditions")?,
        false => memory::copy(&options.given, "conditions")?,
    };
    let mut wanted = BTreeSet::new();
    for sampling in rows.iter().filter_map(|(_, source)| model_of(source)) {
        wanted.extend(landings(sampling, teacher)?.into_iter().flatten().filter(|t| *t >= 0));
    }
    let mut this = Evaluation { backend, teacher, options, given: &given, image, progress: Progress { done: 0, total: 0, report: progress }, stop };
    this.progress.total = total(&this, rows, &wanted)?;
    let own = this.teacher_images(&wanted)?;
    let (mut measures, mut found) = this.yardsticks(compared, &own)?;
    for (name, source) in rows {
        let row = this.row(name, source, &own, &mut measures).map_err(|e| e.context(name))?;
        memory::push(&mut found, row, "a report")?;
        this.progress.add(1)?;
    }
    let against = if dataset.is_some() { Against::Data } else { Against::Teacher };
    Ok(Report { rows: found, count, seed, compared, against, reference_steps: options.reference_steps })
}

fn model_of<'s, 'a>(source: &'s Source<'a>) -> Option<&'s Sampling<'a>> {
    match source {
        Source::Model(sampling) => Some(sampling),
        Source::Images { .. } => None,
    }
}

/// The timesteps that a sampler's steps land on, where the teacher's states are of the same noise levels.
fn landings(sampling: &Sampling, teacher: &Model) -> Result<Option<Vec<i64>>> {
    let [own, its] = [teacher, sampling.model].map(|model| model.scheduler.noise_schedule());
    let landings = if own?.agrees_with(&its?) { sampling.landings() } else { None };
    landings.map(|landings| memory::collect(landings, "timesteps")).transpose()
}

/// What the samples are given, drawn as a calibration's are.
fn drawn(teacher: &Model, options: &Options, stop: Stop) -> Result<Vec<Tensor>> {
    let conditions = teacher.roles()?.conditions;
    let rows = match options.dataset {
        // Labels are drawn evenly, whatever the dataset's share of each: the null has the dataset's.
        Some(dataset) if conditions.iter().any(|c| !matches!(c.kind, ConditionKind::Labels { .. })) => dataset.conditions_of(&conditions)?,
        _ => vec![],
    };
    draw_conditions(&conditions, &rows, (options.count, options.size), options.seed, stop)
}

/// What there is to do: samples, sets to measure, steps of the classifier.
fn total(of: &Evaluation, rows: &[(&str, Source)], landings: &BTreeSet<i64>) -> Result<usize> {
    let grid = of.reference_grid()?;
    let runs = 1 + usize::from(refined(&grid, landings)? != grid) + usize::from(of.options.dataset.is_none());
    let runs = runs + rows.iter().filter(|(_, source)| model_of(source).is_some()).count();
    let trained = of.options.dataset.is_some_and(|dataset| of.options.classifier && dataset.labels().is_some());
    Ok(runs * of.options.count + SPLITS + 1 + rows.len() + if trained { classifier::STEPS } else { 0 })
}
