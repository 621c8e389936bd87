//! Which students fit a budget: those of the teacher's family that are smaller, by what they cost and how long they take here.

use super::student::{StudentOptions, derive};
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::conditions::Values;
use crate::nn::families::patched;
use crate::nn::{Condition, Cost, Model};
use crate::random::{Purpose, fill_normal};
use crate::sampling::{Evaluator, Given};
use crate::tensor::{DType, Tensor, try_vec};
use serde_json::{Map, Value};
use std::time::Instant;

/// How a model is timed.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Images at once.
    pub batch: usize,
    /// [H, W] of an image.
    pub size: [usize; 2],
    /// What it computes in.
    pub precision: DType,
    /// Evaluations of which the median counts, after one that does not.
    pub repeats: usize,
    /// Evaluations for a sample of a student, and of the teacher.
    pub steps: [usize; 2],
}

/// What a student may cost; `None` for no bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    /// Parameters.
    pub parameters: Option<u64>,
    /// Floating-point operations of an evaluation of one image.
    pub flops: Option<u64>,
    /// Milliseconds for a sample.
    pub ms: Option<f64>,
}

impl Budget {
    fn allows(&self, cost: &Cost) -> bool {
        self.parameters.is_none_or(|most| cost.parameters <= most) && self.flops.is_none_or(|most| cost.flops <= most)
    }
}

/// What a model costs.
#[derive(Clone, Debug)]
pub struct StudentRow {
    /// The keys that differ from the teacher's.
    pub patch: Map<String, Value>,
    /// Before anything is measured.
    pub cost: Cost,
    /// Bytes of its weights in memory.
    pub weight_bytes: u64,
    /// Milliseconds for a sample.
    pub ms: f64,
    /// The teacher's milliseconds for a sample, divided by these.
    pub speedup: f64,
}

/// Students that fit.
#[derive(Clone, Debug)]
pub struct StudentTable {
    /// The teacher, then the students, those of the most operations first.
    pub rows: Vec<StudentRow>,
    /// Smaller networks of the family.
    pub candidates: usize,
    /// Those of them that were measured.
    pub measured: usize,
}

/// A candidate before it is measured.
struct Candidate {
    patch: Map<String, Value>,
    cost: Cost,
}

/// The students that fit a budget, at most `most` of them. Those whose parameters or operations are too many are left out first; the others are measured from
/// the one of the most operations down, until so many fit. `report` is told how many models of how many were measured, and answers whether to go on.
pub fn search(
    backend: &dyn Backend,
    teacher: &Model,
    (budget, timing, most): (Budget, Timing, usize),
    report: &mut dyn FnMut(usize, usize) -> bool,
    stop: Stop,
) -> Result<StudentTable> {
    let (all, fitting) = candidates(teacher, &budget, timing.size, stop)?;
    let total = fitting.len() + 1;
    let mut tell = |done: usize| if report(done, total) { Ok(()) } else { Err(Error::cancelled("the search was cancelled")) };
    let first = row_of_teacher(backend, teacher, timing, stop)?;
    tell(1)?;
    let teacher_ms = first.ms;
    let mut table = StudentTable { rows: vec![first], candidates: all, measured: 0 };
    for Candidate { patch, cost } in fitting {
        if table.rows.len() - 1 == most {
            break;
        }
        let prediction = teacher.scheduler.prediction();
        let options = StudentOptions { config_patch: patch, prediction, ..StudentOptions::default() };
        let student = derive(teacher, &options, stop)?;
        let ms = milliseconds(backend, &student, timing, timing.steps[0], stop)?;
        table.measured += 1;
        if budget.ms.is_none_or(|most| ms <= most) {
            let row = StudentRow { patch: options.config_patch, cost, weight_bytes: weight_bytes(&student), ms, speedup: teacher_ms / ms };
            memory::push(&mut table.rows, row, "rows")?;
        }
        tell(1 + table.measured)?;
    }
    if table.measured + 1 < total {
        tell(total)?;
    }
    Ok(table)
}

/// What one student costs beside its teacher.
pub fn measure(backend: &dyn Backend, teacher: &Model, student: &Model, timing: Timing, stop: Stop) -> Result<StudentRow> {
    let exact = row_of_teacher(backend, teacher, timing, stop)?;
    let ms = milliseconds(backend, student, timing, timing.steps[0], stop)?;
    let cost = Cost::of(student.network.as_ref(), timing.size)?;
    Ok(StudentRow { patch: Map::new(), cost, weight_bytes: weight_bytes(student), ms, speedup: exact.ms / ms })
}

fn row_of_teacher(backend: &dyn Backend, teacher: &Model, timing: Timing, stop: Stop) -> Result<StudentRow> {
    let ms = milliseconds(backend, teacher, timing, timing.steps[1], stop)?;
    let cost = Cost::of(teacher.network.as_ref(), timing.size)?;
    Ok(StudentRow { patch: Map::new(), cost, weight_bytes: weight_bytes(teacher), ms, speedup: 1.0 })
}

fn weight_bytes(model: &Model) -> u64 {
    model.weights.values().map(|tensor| tensor.bytes().len() as u64).sum()
}

/// How many smaller networks there are, and those that fit before anything is measured, of the most operations first. With fewer stages a mid block is at a
/// higher resolution: a network that computes more than the teacher is not smaller.
fn candidates(teacher: &Model, budget: &Budget, size: [usize; 2], stop: Stop) -> Result<(usize, Vec<Candidate>)> {
    let network = teacher.network.as_ref();
    let patches = network.smaller();
    if patches.is_empty() {
        return Err(Error::unsupported(format!(
            "a {} has no list of smaller networks to search; derive students by config_patch, with fewstep_model_derive_student",
            network.family().class
        )));
    }
    let whole = Cost::of(network, size)?;
    let (mut all, mut fitting) = (0, vec![]);
    for patch in patches.into_iter().filter(|patch| !patch.is_empty()) {
        stop.check()?;
        let cost = Cost::of(patched(network, &patch)?.as_ref(), size)?;
        if cost.flops > whole.flops {
            continue;
        }
        all += 1;
        if budget.allows(&cost) {
            memory::push(&mut fitting, Candidate { patch, cost }, "candidates")?;
        }
    }
    fitting.sort_by_key(|candidate| std::cmp::Reverse((candidate.cost.flops, candidate.cost.parameters)));
    Ok((all, fitting))
}

/// Milliseconds for a sample: the median of some evaluations of a batch, for each image, times `steps`.
fn milliseconds(backend: &dyn Backend, model: &Model, timing: Timing, steps: usize, stop: Stop) -> Result<f64> {
    let Timing { batch, size, precision, repeats, .. } = timing;
    let mut evaluator = Evaluator::new_until(backend, model, batch, size, precision, stop)?;
    let mut x = try_vec(evaluator.shape().iter().product(), "images")?;
    fill_normal(0, Purpose::Evaluation, 0, 0, &mut x);
    // A quantised model has ranges for the timesteps of its own grid alone.
    let grid = model.quantization.as_ref().and_then(|quantization| quantization.pairs.first());
    let t = grid.map_or(model.scheduler.num_train_timesteps as f32 - 1.0, |(t, _)| *t as f32);
    let timesteps = memory::filled(t, batch, "timesteps")?;
    let conditions = model.roles()?.conditions;
    let zeros = |c: &Condition| {
        let ty = c.kind.rows(batch, size);
        Tensor::zeros(ty.dtype, &ty.shape)
    };
    let tensors = memory::try_collect(conditions.iter().map(zeros), "conditions")?;
    let given = memory::try_collect(conditions.iter().zip(&tensors).map(|(c, tensor)| Ok((c.kind, Values::of(tensor)?))), "conditions")?;
    let mut times = memory::with_capacity(repeats, "times")?;
    run(&mut evaluator, &x, &timesteps, &given, stop)?;
    for _ in 0..repeats {
        times.push(run(&mut evaluator, &x, &timesteps, &given, stop)?);
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).ok_or_else(|| Error::invalid("repeats is 0; a model is timed by at least one evaluation"))?;
    Ok(median / batch as f64 * steps as f64)
}

/// Milliseconds of one evaluation.
fn run(evaluator: &mut Evaluator, x: &[f32], timesteps: &[f32], given: &[Given], stop: Stop) -> Result<f64> {
    let start = Instant::now();
    evaluator.run(x, timesteps, given, stop)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
