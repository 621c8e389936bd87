//! The students of the study: how each row trains its own, and how they are judged.

use super::digits;
use fewstep::backend::cpu::CpuBackend;
use fewstep::cancel::Stop;
use fewstep::diffusion::{Clip, Table, Weight, trailing_pairs};
use fewstep::distill::{
    Dataset, DistributionTerm, FeatureTerm, LearningRate, NormKind, Objective, Optimizer, OptimizerKind, Point, Term, Trainer, TrainerOptions, TrajectorySet,
    WeightsKind,
};
use fewstep::error::Result;
use fewstep::evaluate::Paired;
use fewstep::nn::conditions::{ConditionKind, Values};
use fewstep::nn::{Model, PerStep};
use fewstep::random::Purpose;
use fewstep::sampling::{RunSpec, SamplingRun, UNROLLED, for_each_batch};
use fewstep::tensor::DType;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Noises that training never sees, and the key of them.
const HELD_OUT: usize = 512;
const KEY: u64 = 77;
/// The reference: DDIM of so many steps.
const REFERENCE: usize = 50;
const BATCH: usize = 64;

/// What all students have in common.
pub struct Study {
    backend: Arc<CpuBackend>,
    teacher: Model,
    data: Dataset,
    labels: Vec<i32>,
    reference: Vec<f32>,
    numbers: Numbers,
    /// The trajectories that were computed last, and of which options: rows of the same seed and grid see the same ones.
    last: RefCell<Option<(TrajectoryKey, Arc<TrajectorySet>)>>,
    /// What went into trajectories since it was asked for.
    preparing: Cell<Duration>,
}

/// How much a student sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// Samples that it is trained on.
    pub samples: usize,
    /// Trajectories that these are of.
    pub noises: usize,
}

/// Grid, seed, and the teacher's order and sub-steps.
type TrajectoryKey = (Vec<(i64, i64)>, u64, usize, usize);

/// A student of a row: how it is made, from how many steps and which seed.
pub type Make = fn(&Study, usize, u64) -> Result<Model>;

/// In the order of the table.
pub fn rows() -> Vec<(&'static str, Make)> {
    vec![
        ("teacher", |study, _, _| Ok(study.teacher.clone())),
        ("scratch", |study, steps, seed| study.train(steps, seed, &[(Objective::Denoise, 1.0)], |_| {})),
        ("output", |study, steps, seed| study.train(steps, seed, &[(Objective::Output, 1.0)], |_| {})),
        ("output_fitted", |study, steps, seed| {
            study.train(steps, seed, &[(Objective::Output, 1.0)], |o| o.terms[0].linear_fit_steps = o.optimizer.total_steps as u32 / 4)
        }),
        ("output+feature", |study, steps, seed| study.train(steps, seed, &[(Objective::Output, 1.0)], |o| o.features = blocks(Point::Data, 0))),
        ("feature+teacher_forced", |study, steps, seed| {
            study.train(steps, seed, &[(Objective::TeacherForced, 1.0)], |o| o.features = blocks(Point::Cached, o.optimizer.total_steps / 2))
        }),
        ("teacher_forced", |study, steps, seed| study.train(steps, seed, &[(Objective::TeacherForced, 1.0)], |_| {})),
        ("on_policy", |study, steps, seed| study.train(steps, seed, &[(Objective::OnPolicy, 1.0)], |_| {})),
        ("mixed", |study, steps, seed| study.train(steps, seed, &[(Objective::TeacherForced, 0.5), (Objective::OnPolicy, 0.5)], |_| {})),
        ("rollout", |study, steps, seed| study.train(steps, seed, &[(Objective::Rollout, 1.0)], |_| {})),
        ("resolve", |study, steps, seed| study.train(steps, seed, &[(Objective::Resolve, 1.0)], |o| o.substeps = 4)),
        ("per_step", |study, steps, seed| {
            let options = study.options(steps, seed, &[(Objective::TeacherForced, 1.0)])?;
            let student = digits::student(&study.teacher, seed)?.for_grid(options.pairs.clone(), PerStep::BiasesAndNorms)?;
            study.run(&student, &study.teacher, options)
        }),
        ("distribution", |study, steps, seed| {
            study.train(steps, seed, &[(Objective::TeacherForced, 1.0)], |o| o.distribution = Some(DistributionTerm::default()))
        }),
        ("self_teacher", Study::self_teacher),
        ("progressive", Study::progressive),
        ("coarse_targets", |study, steps, seed| study.train(steps, seed, &[(Objective::TeacherForced, 1.0)], |o| o.substeps = 8usize.div_ceil(steps))),
        ("order_3", |study, steps, seed| {
            study.train(steps, seed, &[(Objective::TeacherForced, 1.0)], |o| (o.teacher_order, o.substeps) = (3, 20usize.div_ceil(steps)))
        }),
        ("stable", |study, steps, seed| study.train(steps, seed, &[(Objective::TeacherForced, 1.0)], stable)),
        ("fresh", |study, steps, seed| study.train(steps, seed, &[(Objective::TeacherForced, 1.0)], fresh)),
        ("batch_32", |study, steps, seed| {
            study.train(steps, seed, &[(Objective::TeacherForced, 1.0)], |o| {
                o.batch = BATCH / 2;
                o.optimizer.total_steps *= 2;
            })
        }),
        ("muon", |study, steps, seed| study.train(steps, seed, &[(Objective::TeacherForced, 1.0)], muon)),
        ("best", |study, steps, seed| {
            study.train(steps, seed, &[(Objective::TeacherForced, 1.0)], |o| {
                (o.teacher_order, o.substeps) = (3, 20usize.div_ceil(steps));
                stable(o);
                fresh(o);
                muon(o);
            })
        }),
    ]
}

/// A learning rate that stays until the last fifth, and an average over more steps.
fn stable(o: &mut TrainerOptions) {
    (o.optimizer.decay, o.optimizer.ema_decay) = (LearningRate::Stable, 0.998);
}

/// The matrices inside learn by Muon.
fn muon(o: &mut TrainerOptions) {
    o.optimizer.kind = OptimizerKind::Muon;
}

/// Four times as many noises.
fn fresh(o: &mut TrainerOptions) {
    o.cache_refresh = o.optimizer.total_steps.div_ceil(4);
}

/// Blocks of both networks that are to agree, with a factor that falls to 0 over so many steps; 0 for one that stays.
fn blocks(point: Point, decay_steps: u64) -> Vec<FeatureTerm> {
    let feature = |block: &str| {
        let (student, teacher) = (block.to_string(), block.to_string());
        FeatureTerm { point, student, teacher, norm: NormKind::L2, weight: 0.1, decay_steps }
    };
    ["down_blocks.0", "mid_block", "up_blocks.1"].map(feature).to_vec()
}

fn term((objective, weight): &(Objective, f32)) -> Term {
    let on_steps = objective.pair().0.kind().on_grid;
    Term { weight: *weight, ..objective.term(if on_steps { Weight::State } else { Weight::V }, NormKind::L2) }
}

impl Study {
    /// On one thread: as many students are trained at once as there are cores.
    pub fn new(numbers: Numbers) -> Result<Self> {
        let (backend, teacher, data) = (Arc::new(CpuBackend::new(1)?), digits::teacher()?, digits::data()?);
        let labels = (0..HELD_OUT as i32).map(|i| i % 10).collect();
        let mut this = Self { backend, teacher, data, labels, reference: vec![], numbers, last: RefCell::default(), preparing: Cell::default() };
        this.reference = this.ends(&this.teacher, REFERENCE)?;
        Ok(this)
    }

    /// The error of a row's student at the ends of its runs, and the seconds of its training, trajectories apart.
    pub fn measure(&self, make: Make, steps: usize, seed: u64) -> Result<(Paired, f64)> {
        let start = Instant::now();
        let student = make(self, steps, seed)?;
        let seconds = start.elapsed().saturating_sub(self.preparing.take()).as_secs_f64();
        let ends = self.ends(&student, steps)?;
        Ok((Paired::of(&ends, &self.reference, ends.len() / HELD_OUT)?, seconds))
    }

    /// Where a model arrives from the held-out noises in so many steps of DDIM.
    fn ends(&self, model: &Model, steps: usize) -> Result<Vec<f32>> {
        let schedule = model.scheduler.noise_schedule()?;
        let table = Table::from_pairs(&schedule, model.scheduler.prediction(), &trailing_pairs(schedule.len(), steps)?, 0.0, Clip::None)?;
        let (size, purpose) = (model.size()?, Purpose::Evaluation);
        let spec = RunSpec { table: &table, batch: 128, size, purpose, precision: DType::F32, guidance: None, unrolled: UNROLLED };
        let mut run = SamplingRun::new(self.backend.as_ref(), model, &spec)?;
        let given = [(ConditionKind::Labels { classes: 10 }, Values::I32(&self.labels))];
        let mut ends = vec![];
        for_each_batch(&mut run, KEY, &given, HELD_OUT, |run, _, used, _| {
            run.step(None, true)?;
            ends.extend_from_slice(&run.read()?[..used * size[0] * size[1]]);
            Ok(())
        })?;
        Ok(ends)
    }

    /// The options of a student that is trained from all samples.
    fn options(&self, steps: usize, seed: u64, terms: &[(Objective, f32)]) -> Result<TrainerOptions> {
        let total_steps = (self.numbers.samples / BATCH) as u64;
        Ok(TrainerOptions {
            seed,
            batch: BATCH,
            terms: terms.iter().map(term).collect(),
            pairs: trailing_pairs(self.teacher.scheduler.num_train_timesteps, steps)?,
            substeps: 32usize.div_ceil(steps),
            cache_size: self.numbers.noises,
            optimizer: Optimizer { learning_rate: 2e-3, total_steps, ..Optimizer::default() },
            trajectory_clip: Some(Clip::None),
            ..TrainerOptions::default()
        })
    }

    fn train(&self, steps: usize, seed: u64, terms: &[(Objective, f32)], change: impl FnOnce(&mut TrainerOptions)) -> Result<Model> {
        let mut options = self.options(steps, seed, terms)?;
        change(&mut options);
        self.run(&digits::student(&self.teacher, seed)?, &self.teacher, options)
    }

    fn run(&self, student: &Model, teacher: &Model, mut options: TrainerOptions) -> Result<Model> {
        let steps = options.optimizer.total_steps;
        let shared = std::ptr::eq(teacher, &self.teacher) && options.cache_refresh == 0;
        let key = (options.pairs.clone(), options.seed, options.teacher_order, options.substeps);
        options.trajectories = self.last.borrow().as_ref().filter(|(last, _)| shared && *last == key).map(|(_, set)| set.clone());
        let mut trainer = Trainer::new(self.backend.clone(), student, Some(teacher), Some(&self.data), options)?;
        let start = Instant::now();
        trainer.prepare(&mut |_, _| true, Stop::NEVER)?;
        self.preparing.set(self.preparing.get() + start.elapsed());
        if shared && trainer.cache_bytes() > 0 {
            *self.last.borrow_mut() = Some((key, Arc::new(trainer.trajectory_set()?)));
        }
        for _ in 0..steps {
            trainer.step()?;
        }
        trainer.snapshot(WeightsKind::Ema)
    }

    /// The errors of what a student of two steps is trained to match, by solver and steps of the teacher.
    pub fn targets(&self) -> Result<()> {
        println!("| order | teacher steps | RMSE against {REFERENCE} steps of DDIM |\n| --- | --- | --- |");
        for (order, all) in [(1, [12usize, 16, 20, 32]), (2, [12, 16, 20, 24]), (3, [12, 16, 20, 24])] {
            for steps in all {
                let options = TrainerOptions { teacher_order: order, substeps: steps / 2, ..self.options(2, 1, &[(Objective::TeacherForced, 1.0)])? };
                let trainer = Trainer::new(self.backend.clone(), &digits::student(&self.teacher, 1)?, Some(&self.teacher), None, options)?;
                println!("| {order} | {steps} | {:.4} |", trainer.target_error(REFERENCE, HELD_OUT, KEY, Stop::NEVER)?);
            }
        }
        println!();
        Ok(())
    }

    /// A student whose steps go over those of a grid of eight, learned from the teacher's next state and its own average after it (arXiv 2303.04248).
    fn self_teacher(&self, steps: usize, seed: u64) -> Result<Model> {
        let mut options = self.options(8, seed, &[(Objective::SelfTeacher, 1.0)])?;
        options.self_teacher_steps = steps;
        self.run(&digits::student(&self.teacher, seed)?, &self.teacher, options)
    }

    /// A student of eight steps, and then ones of half as many, each of which learns to take two steps of the one before at once (arXiv 2202.00512). All of them
    /// together see the samples of any other row.
    fn progressive(&self, steps: usize, seed: u64) -> Result<Model> {
        let grids: Vec<usize> = [8, 4, 2, 1].into_iter().filter(|grid| *grid >= steps).collect();
        let (mut student, mut teacher) = (digits::student(&self.teacher, seed)?, self.teacher.clone());
        for grid in &grids {
            let mut options = self.options(*grid, seed, &[(Objective::Progressive, 1.0)])?;
            options.substeps = if *grid == 8 { 4 } else { 2 };
            options.optimizer.total_steps /= grids.len() as u64;
            student = self.run(&student, &teacher, options)?;
            teacher = Model { student: None, ..student.clone() };
        }
        Ok(student)
    }
}
