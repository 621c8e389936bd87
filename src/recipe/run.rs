//! A recipe's run: stage after stage, with what it measures, writes and says on the way.

use super::folder::{Folder, is_there};
use super::held_out::{HeldOut, Measured, Subject};
use super::log::{Line, Log, now};
use super::stage::{Recipe, Stage};
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::distill::{Dataset, Pace, StepReport, Trainer, TrajectorySet, WeightsKind};
use crate::error::{Error, Result, Status};
use crate::io::{file, save_grid};
use crate::memory;
use crate::nn::Model;
use std::path::Path;
use std::sync::Arc;

/// What a run is made of.
pub struct Setup<'a> {
    /// Where it runs.
    pub backend: Arc<dyn Backend>,
    /// What the first stage begins with.
    pub student: &'a Model,
    /// Whom stages learn from, but for those that learn from the one before.
    pub teacher: Option<&'a Model>,
    /// Images, and what else a teacher is given.
    pub dataset: Option<&'a Dataset>,
    /// In place of a teacher's own, for all stages on trajectories.
    pub trajectories: Option<Arc<TrajectorySet>>,
    /// Where it keeps what it needs to go on, and writes what people look at; it forgets everything without.
    pub folder: Option<&'a Path>,
    /// Noises that errors are measured on; 0 for no such errors, and no pictures.
    pub held_out: usize,
    /// Steps from one line of the metrics to the next.
    pub log_every: u64,
    /// Steps from one measurement to the next.
    pub evaluate_every: u64,
    /// Steps from one checkpoint to the next.
    pub save_every: u64,
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Computing the teacher's trajectories.
    Prepare,
    /// Training.
    Train,
}

/// How far a run is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Its stage, from 0.
    pub stage: usize,
    /// How many there are.
    pub stages: usize,
    /// What is done of the phase.
    pub done: u64,
    /// What there is to do.
    pub total: u64,
    /// Of the last step.
    pub report: StepReport,
    /// Of the stage's steps.
    pub pace: Pace,
    /// Images of a step.
    pub batch: usize,
    /// Steps of the run that are still to come, those of later stages as steps of this one's batch, whose images are taken to cost as much.
    pub steps_left: f64,
}

/// Who is told of a run; an error ends it.
pub trait Watch {
    /// After each step.
    fn progress(&mut self, progress: &Progress) -> Result<()>;
    /// Something odd.
    fn warn(&mut self, message: &str);
}

/// Runs a recipe, or goes on with it; the last stage's student. What is done when it is cancelled is kept in the folder.
pub fn run(recipe: &Recipe, setup: &Setup, watch: &mut dyn Watch, stop: Stop) -> Result<Model> {
    recipe.check()?;
    let (folder, _lock) = setup.folder.map(|path| Folder::open(path, recipe)).transpose()?.unzip();
    let mut run = Run { recipe, setup, folder, watch, stop };
    let mut student = setup.student.clone();
    for stage in 0..recipe.stages.len() {
        let finished = folder.map_or(Ok(None), |folder| folder.finished(stage))?;
        let next = match finished {
            Some(next) => next,
            None => run.stage(stage, &student).map_err(|e| e.context(format!("stage {} of {}", stage + 1, recipe.stages.len())))?,
        };
        student = next;
    }
    Ok(student)
}

struct Run<'a> {
    recipe: &'a Recipe,
    setup: &'a Setup<'a>,
    folder: Option<Folder<'a>>,
    watch: &'a mut dyn Watch,
    stop: Stop<'a>,
}

/// A stage under way.
struct Work<'a> {
    number: usize,
    stage: &'a Stage,
    trainer: Trainer,
    names: Vec<String>,
    held_out: Option<HeldOut>,
    log: Option<Log<'a>>,
    /// Held-out errors, in order.
    errors: Vec<f64>,
    best: Option<Model>,
    pace: Pace,
    /// Sums of the loss and of its parts since the last line, and of how many steps.
    sums: Vec<f64>,
    summed: u64,
}

impl<'a> Run<'a> {
    fn stage(&mut self, number: usize, student: &Model) -> Result<Model> {
        let mut work = self.begin(number, student)?;
        let steps = work.stage.steps;
        if work.trainer.steps_done() == 0 {
            self.measure(&mut work)?;
        }
        work.pace.start();
        while work.trainer.steps_done() < steps && !work.is_exhausted() {
            let stepped = self.step(&mut work);
            if let (Err(e), Some(folder)) = (&stepped, self.folder)
                && e.status == Status::Cancelled
            {
                work.trainer.save(&folder.checkpoint(number))?;
            }
            stepped?;
        }
        let made = match work.best.take() {
            Some(best) => best,
            None => work.trainer.snapshot(WeightsKind::Ema)?,
        };
        if let Some(folder) = self.folder {
            folder.finish(number, &made)?;
        }
        Ok(made)
    }

    /// The stage where it was, and all that goes with it.
    fn begin(&mut self, number: usize, student: &Model) -> Result<Work<'a>> {
        let (recipe, stage) = (self.recipe, &self.recipe.stages[number]);
        let (mut trainer, resumed) = self.trainer(number, student)?;
        let mut log = self.folder.map(|folder| Log::open(folder, recipe, number, resumed)).transpose()?;
        let held_out = self.prepare(number, &mut trainer)?;
        let errors = log.as_mut().map(Log::take_errors).unwrap_or_default();
        let best = match self.folder {
            Some(folder) if stage.patience != 0 && resumed.is_some() => folder.best(number)?,
            _ => None,
        };
        let sums = memory::filled(0.0, 1 + trainer.options().losses(), "losses")?;
        Ok(Work { number, stage, trainer, names: stage.loss_names(), held_out, log, errors, best, pace: Pace::default(), sums, summed: 0 })
    }

    /// The stage's trainer, and after how many steps it goes on, if it does.
    fn trainer(&self, number: usize, student: &Model) -> Result<(Trainer, Option<u64>)> {
        let (setup, stage) = (self.setup, &self.recipe.stages[number]);
        let progressive = stage.learns_from_previous()?;
        // As a teacher it is a network like any other, whatever grid it was made for.
        let previous = progressive.then(|| Model { student: None, ..student.clone() });
        let teacher = previous.as_ref().or(setup.teacher);
        let given = setup.trajectories.as_ref().filter(|_| !progressive);
        let mut trainer = Trainer::new_until(setup.backend.clone(), student, teacher, setup.dataset, stage.options(student, given)?, self.stop)?;
        if let Some(folder) = self.folder {
            let checkpoint = folder.checkpoint(number);
            if is_there(&checkpoint)? {
                trainer.resume(&checkpoint, 0)?;
                let done = trainer.steps_done();
                return Ok((trainer, Some(done)));
            }
        }
        Ok((trainer, None))
    }

    /// Computes what the stage's steps read, and what its student is measured with: nothing where nobody reads the errors.
    fn prepare(&mut self, number: usize, trainer: &mut Trainer) -> Result<Option<HeldOut>> {
        let wanted = self.folder.is_some() || self.recipe.stages[number].patience != 0;
        let count = if wanted { self.setup.held_out } else { 0 };
        let mut answered = Ok(());
        let mut report = |done: usize, total: usize| {
            answered = self.watch.progress(&self.recipe.preparing(number, done, total));
            answered.is_ok()
        };
        let made = trainer.prepare(&mut report, self.stop).and_then(|()| match count {
            0 => Ok(None),
            count => HeldOut::new(trainer, count, &mut report, self.stop).map(Some),
        });
        // The watcher's own words say who stopped it.
        answered?;
        if let Some(warning) = trainer.take_warning() {
            self.watch.warn(&warning);
        }
        made
    }

    /// One step, and what is due after it.
    fn step(&mut self, work: &mut Work<'a>) -> Result<()> {
        let report = work.trainer.step_until(self.stop)?;
        work.pace.step();
        work.add(&report);
        let (done, last) = (report.step, report.step == work.stage.steps);
        let due = |every: u64| last || (every != 0 && done.is_multiple_of(every));
        let (measured, saved) = (due(self.setup.evaluate_every), due(self.setup.save_every) && !last);
        if measured || saved || due(self.setup.log_every) {
            work.log_losses(&report)?;
        }
        if measured {
            self.measure(work)?;
        }
        if let (true, Some(folder)) = (saved, self.folder) {
            work.trainer.save(&folder.checkpoint(work.number))?;
        }
        self.watch.progress(&self.training(work, &report))
    }

    fn training(&self, work: &Work, report: &StepReport) -> Progress {
        let (stage, number) = (work.stage, work.number);
        let later = self.recipe.stages[number + 1..].iter();
        let later: f64 = later.map(|s| s.steps as f64 * s.rows() as f64 / stage.rows() as f64).sum();
        Progress {
            phase: Phase::Train,
            stage: number,
            stages: self.recipe.stages.len(),
            done: report.step,
            total: stage.steps,
            report: report.clone(),
            pace: work.pace,
            batch: stage.rows(),
            steps_left: (stage.steps - report.step) as f64 + later,
        }
    }

    /// What the student is worth, in the log, as a picture, and for the stage's patience.
    fn measure(&mut self, work: &mut Work<'a>) -> Result<()> {
        let Some(held_out) = work.held_out.take() else { return Ok(()) };
        let measured = self.measure_with(work, &held_out);
        work.held_out = Some(held_out);
        work.pace.start(); // measuring is no part of a step
        measured
    }

    fn measure_with(&mut self, work: &mut Work<'a>, held_out: &HeldOut) -> Result<()> {
        let (backend, stop) = (self.setup.backend.as_ref(), self.stop);
        let student = work.trainer.snapshot(WeightsKind::Ema)?;
        let measured = held_out.measure(backend, &mut work.trainer, &student, stop)?;
        work.judge(measured.held_out, &student, self.folder)?;
        let line = work.line_of(&measured);
        if let (Some(log), Some(folder)) = (&mut work.log, self.folder) {
            log.write(&line)?;
            log.draw()?;
            let subject = Subject { student: &student, dataset: self.setup.dataset, size: work.trainer.size()? };
            if let Some(picture) = held_out.picture(backend, measured, &subject, stop)? {
                let path = folder.file(&format!("samples-{}-{:07}.png", line.stage, line.step));
                save_grid(&path, &picture.rows(), picture.shape, picture.scale())?;
                let png = file::read(&path)?;
                // IHDR is the first chunk: width and height, most significant byte first.
                let side = |at: usize| png[at..at + 4].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
                log.picture(&line, [side(20), side(16)], &png)?;
            }
        }
        Ok(())
    }
}

impl Recipe {
    fn preparing(&self, stage: usize, done: usize, total: usize) -> Progress {
        Progress {
            phase: Phase::Prepare,
            stage,
            stages: self.stages.len(),
            done: done as u64,
            total: total as u64,
            report: StepReport::default(),
            pace: Pace::default(),
            batch: self.stages[stage].rows(),
            steps_left: 0.0,
        }
    }
}

impl Work<'_> {
    fn add(&mut self, report: &StepReport) {
        let parts = self.trainer.terms().unwrap_or_default().iter().copied();
        self.sums.iter_mut().zip(std::iter::once(report.loss).chain(parts)).for_each(|(sum, loss)| *sum += f64::from(loss));
        self.summed += 1;
    }

    fn line(&self) -> Line {
        Line { stage: self.number + 1, name: self.stage.name.clone(), step: self.trainer.steps_done(), time: now(), ..Line::default() }
    }

    fn line_of(&self, measured: &Measured) -> Line {
        Line { held_out: Some(measured.held_out), held_out_states: measured.states.clone(), training: measured.training, ..self.line() }
    }

    /// A line of what the steps since the last one did.
    fn log_losses(&mut self, report: &StepReport) -> Result<()> {
        if self.summed == 0 {
            return Ok(());
        }
        let mean = |sum: f64| sum / self.summed as f64;
        let line = Line {
            loss: Some(mean(self.sums[0])),
            losses: self.names.iter().cloned().zip(self.sums[1..].iter().map(|sum| mean(*sum))).collect(),
            grad_norm: Some(f64::from(report.grad_norm)),
            learning_rate: Some(f64::from(report.learning_rate)),
            samples_per_second: Some(self.pace.samples_per_second(self.stage.rows())),
            ..self.line()
        };
        self.sums.fill(0.0);
        self.summed = 0;
        self.log.as_mut().map_or(Ok(()), |log| log.write(&line))
    }

    /// Keeps the student if it is the best so far, where the stage ends early.
    fn judge(&mut self, error: f64, student: &Model, folder: Option<Folder>) -> Result<()> {
        if !error.is_finite() {
            return Err(Error::numeric(format!("the held-out error after {} steps is {error}", self.trainer.steps_done())));
        }
        let best = self.errors.iter().all(|other| error < *other);
        memory::push(&mut self.errors, error, "errors")?;
        if best && self.stage.patience != 0 {
            if let Some(folder) = folder {
                folder.keep_best(self.number, student)?;
            }
            self.best = Some(student.clone());
        }
        Ok(())
    }

    /// Whether the last errors were no better than one before them.
    fn is_exhausted(&self) -> bool {
        let best = self.errors.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
        self.stage.patience != 0 && self.errors.len() > best + self.stage.patience as usize
    }
}
