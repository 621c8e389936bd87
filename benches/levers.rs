//! What levers would win that are not built: scales for each step, and coefficients of the sampler that are refitted after quantisation (Q-Sched, arXiv
//! 2509.01624).
//!
//! usage: cargo bench --bench levers -- STUDENT...    few-step students of digits, as `distill_digits` saves them; `make quant-study` gives them

use fewstep::backend::cpu::CpuBackend;
use fewstep::cancel::Stop;
use fewstep::diffusion::Table;
use fewstep::error::{Error, Result};
use fewstep::graph::{Graph, ValueId};
use fewstep::nn::conditions::{ConditionKind, Values};
use fewstep::nn::{Layer, Model};
use fewstep::quant::quantize::with_numbers;
use fewstep::quant::{Ends, Mode, Options, Policy, Range};
use fewstep::random::{self, Purpose};
use fewstep::sampling::{Evaluator, Given};
use fewstep::tensor::DType;
use std::path::Path;

const IMAGES: usize = 256;

/// A student and the states of its own run in floats.
struct Study {
    backend: CpuBackend,
    model: Model,
    table: Table,
    pairs: Vec<(i64, i64)>,
    size: [usize; 2],
    labels: Vec<i32>,
}

fn rmse(a: &[f32], b: &[f32]) -> f64 {
    (a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
}

fn advance(x: &mut [f32], out: &[f32], [of_x, of_out]: [f64; 2]) {
    x.iter_mut().zip(out).for_each(|(x, out)| *x = (f64::from(*x) * of_x + f64::from(*out) * of_out) as f32);
}

/// a and b of the least squares of a x + b out - y.
fn fit(x: &[f32], out: &[f32], y: &[f32]) -> [f64; 2] {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let (xx, xo, oo, xy, oy) = (dot(x, x), dot(x, out), dot(out, out), dot(x, y), dot(out, y));
    let determinant = xx * oo - xo * xo;
    [(xy * oo - oy * xo) / determinant, (oy * xx - xy * xo) / determinant]
}

impl Study {
    fn open(path: &Path) -> Result<Self> {
        let model = Model::open(path)?;
        let pairs = model.student.as_ref().ok_or_else(|| Error::invalid("no student"))?.pairs.clone();
        let table = Table::from_pairs(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), &pairs, 0.0, model.scheduler.clip())?;
        let (size, labels) = (model.size()?, (0..IMAGES as i32).map(|i| i % 10).collect());
        Ok(Self { backend: CpuBackend::new(2)?, model, table, pairs, size, labels })
    }

    fn noise(&self, first: u32) -> Vec<f32> {
        let each = self.size[0] * self.size[1];
        let mut x = vec![0f32; IMAGES * each];
        x.chunks_mut(each).zip(first..).for_each(|(row, sample)| random::fill_normal(9, Purpose::Data, 0, sample, row));
        x
    }

    fn run(&self, evaluator: &mut Evaluator, x: &[f32], step: usize) -> Result<Vec<f32>> {
        let given: [Given; 1] = [(ConditionKind::Labels { classes: 10 }, Values::I32(&self.labels))];
        let given = if self.model.classes().is_some() { &given[..] } else { &[] };
        Ok(evaluator.run(x, &vec![self.table.steps[step].t as f32; IMAGES], given, Stop::NEVER)?.to_vec())
    }

    fn evaluator(&self, model: &Model) -> Result<Evaluator> {
        Evaluator::new_until(&self.backend, model, IMAGES, self.size, DType::F32, Stop::NEVER)
    }

    /// The last state from a noise, the network of each step being one of these or the only one; `coefficients` says what a step does, of x and of out.
    fn sample(&self, networks: &mut [Evaluator], mut x: Vec<f32>, mut coefficients: impl FnMut(usize, &[f32], &[f32]) -> [f64; 2]) -> Result<Vec<f32>> {
        for step in 0..self.pairs.len() {
            let which = step.min(networks.len() - 1);
            let out = self.run(&mut networks[which], &x, step)?;
            let factors = coefficients(step, &x, &out);
            advance(&mut x, &out, factors);
        }
        Ok(x)
    }

    /// The table's.
    fn own(&self, step: usize) -> [f64; 2] {
        [self.table.steps[step].next.x, self.table.steps[step].next.out]
    }

    /// The ranges of what quantised layers read in each step of a run in floats, by layer.
    fn ranges(&self) -> Result<Vec<Vec<(String, Range)>>> {
        let mut chosen: Vec<(String, ValueId)> = vec![];
        let choose = |_: &mut Graph, layers: &[Layer]| {
            chosen = Policy::default().choose(layers)?.iter().map(|layer| (layer.path.clone(), layer.input)).collect();
            Ok(chosen.iter().map(|(_, value)| *value).collect())
        };
        let mut evaluator = Evaluator::observing(&self.backend, &self.model, (IMAGES, self.size, DType::F32), choose, Stop::NEVER)?;
        let (mut x, mut ranges) = (self.noise(0), vec![]);
        for step in 0..self.pairs.len() {
            let out = self.run(&mut evaluator, &x, step)?;
            let range = |(path, value): &(String, ValueId)| Ok((path.clone(), Range::default().with(&evaluator.observed(*value)?)));
            ranges.push(chosen.iter().map(range).collect::<Result<Vec<_>>>()?);
            advance(&mut x, &out, self.own(step));
        }
        Ok(ranges)
    }

    /// The student with numbers over these ranges.
    fn quantized(&self, mode: Mode, ranges: &[&[(String, Range)]]) -> Result<Evaluator> {
        let plain =
            Options { mode, policy: Policy::default(), high: 129, ends: Ends::MinMax, correct_biases: false, samples: 1, batch: 1, size: self.size, seed: 0 };
        let all = ranges.iter().copied().flatten().map(|(path, range)| (path.as_str(), Some(*range)));
        self.evaluator(&with_numbers(&self.model, all, &plain, &self.pairs, Stop::NEVER)?.narrowed()?)
    }

    /// A row of the table: RMSE against the student in floats, of noises that nothing was fitted to.
    fn row(&self, mode: Mode) -> Result<String> {
        let ranges = self.ranges()?;
        let together: Vec<&[(String, Range)]> = ranges.iter().map(Vec::as_slice).collect();
        let mut plain = [self.quantized(mode, &together)?];
        let mut each = together.iter().map(|range| self.quantized(mode, &[range])).collect::<Result<Vec<_>>>()?;
        let mut floats = [self.evaluator(&self.model)?];
        // What each step is to land on, for the noises of the calibration.
        let (mut x, mut states) = (self.noise(0), vec![]);
        for step in 0..self.pairs.len() {
            let out = self.run(&mut floats[0], &x, step)?;
            advance(&mut x, &out, self.own(step));
            states.push(x.clone());
        }
        let mut refitted = vec![];
        self.sample(&mut plain, self.noise(0), |step, x, out| {
            refitted.push(fit(x, out, &states[step]));
            refitted[step]
        })?;
        let held_out = self.noise(1000);
        let exact = self.sample(&mut floats, held_out.clone(), |step, _, _| self.own(step))?;
        let [default, refit] = [false, true].map(|refit| {
            let found = self.sample(&mut plain, held_out.clone(), |step, _, _| if refit { refitted[step] } else { self.own(step) });
            found.map(|found| rmse(&found, &exact))
        });
        let steps = rmse(&self.sample(&mut each, held_out, |step, _, _| self.own(step))?, &exact);
        Ok(format!("| {} | {mode:?} | {:.4} | {steps:.4} | {:.4} |", self.pairs.len(), default?, refit?))
    }
}

fn main() -> Result<()> {
    // Cargo gives options of its own.
    let students: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if students.is_empty() {
        println!("levers: no students to look at; make quant-study trains some");
        return Ok(());
    }
    println!("| steps | mode | as it is | scales for each step | coefficients refitted |\n| --- | --- | --- | --- | --- |");
    for student in &students {
        let study = Study::open(Path::new(student))?;
        for mode in [Mode::W8A8, Mode::W4A8] {
            println!("{}", study.row(mode)?);
        }
    }
    Ok(())
}
