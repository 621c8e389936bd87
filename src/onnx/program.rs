//! The programs that a file can have, as graphs of one image; the batch of the file is free, since every value's rows are those of the batch.

use crate::cancel::Stop;
use crate::diffusion::{MEMORY, Table};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorType, ValueId};
use crate::memory;
use crate::names::named_enum;
use crate::nn::{Condition, ConditionKind, Guidance, Model, Predictor, Step as Own, When};
use crate::sampling::{Does, Kept};
use crate::tensor::DType;

named_enum! {
    /// What a file computes.
    Kind {
        /// One evaluation of the network: x_t, timesteps and conditions give the prediction.
        Evaluation = "evaluation",
        /// One step of a sampler: x_t, the step's number and conditions give the next state.
        Step = "step",
        /// A whole run: noise and conditions give images.
        Sampler = "sampler",
    }
}

/// The most steps that are written one after the other.
const MOST_STEPS: usize = 64;

/// A value that the host gives or gets.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// Its name in the file.
    pub name: String,
    pub value: ValueId,
    /// Whether it is an image, which files have as [N,C,H,W].
    pub image: bool,
    /// Whether it has a row for each image of the batch, or one for all.
    pub batched: bool,
}

/// A program whose parameters are states without a prefix.
pub(super) struct Program {
    pub graph: Graph,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

/// What a sampler's programs are of.
#[derive(Clone, Copy, Debug)]
pub struct Sampled<'a> {
    /// Coefficients of every step.
    pub table: &'a Table,
    /// If the predictions are guided.
    pub guidance: Option<Guidance>,
}

/// Images, conditions and all else that the programs have in common, while they are written.
struct Draft<'a> {
    model: &'a Model,
    g: Graph,
    image: [usize; 4],
    inputs: Vec<Port>,
}

impl<'a> Draft<'a> {
    fn new(model: &'a Model, [h, w]: [usize; 2]) -> Result<Self> {
        Ok(Self { model, g: Graph::new(), image: [1, h, w, model.roles()?.channels], inputs: vec![] })
    }

    fn input(&mut self, name: &str, ty: TensorType, image: bool, batched: bool) -> Result<ValueId> {
        let value = self.g.input(name, ty)?;
        memory::push(&mut self.inputs, Port { name: name.to_owned(), value, image, batched }, "inputs")?;
        Ok(value)
    }

    fn image(&mut self, name: &str) -> Result<ValueId> {
        let ty = TensorType::f32(&self.image);
        self.input(name, ty, true, true)
    }

    fn conditions(&mut self) -> Result<Vec<ValueId>> {
        let conditions: Vec<Condition> = self.model.roles()?.conditions;
        let (size, mut values) = ([self.image[1], self.image[2]], memory::with_capacity(conditions.len(), "conditions")?);
        for c in &conditions {
            values.push(self.input(&c.name, c.kind.ty(1, size), matches!(c.kind, ConditionKind::Planes { .. }), true)?);
        }
        Ok(values)
    }

    /// The number of a step, one for the whole batch.
    fn step(&mut self) -> Result<ValueId> {
        self.input("step", TensorType::new(DType::I32, &[1]), false, false)
    }

    fn finish(self, outputs: Vec<(String, ValueId)>) -> Result<Program> {
        let output = |(name, value)| Port { name, value, image: true, batched: true };
        Ok(Program { graph: self.g, inputs: self.inputs, outputs: memory::collect(outputs.into_iter().map(output), "outputs")? })
    }
}

impl Program {
    /// x_t, timestep [N], the conditions and, where each step of the grid has parameters of its own, the number of the step that all images are at [1] give the
    /// prediction, the mean if the network gives a variance too.
    pub fn evaluation(model: &Model, size: [usize; 2]) -> Result<Self> {
        let mut w = Draft::new(model, size)?;
        let x = w.image("x_t")?;
        let t = w.input("timestep", TensorType::f32(&[1]), false, true)?;
        let conditions = w.conditions()?;
        let step = if model.own_steps().is_some() { Some(Own::Rows(w.step()?)) } else { None };
        let out = Predictor::new(model, "").predict(&mut w.g, x, When { t, step }, &conditions)?;
        w.finish(vec![("prediction".to_owned(), out)])
    }

    /// x_t, the number of a step [1], the conditions and what the sampler has kept give the next state, and what it keeps then.
    pub fn step(model: &Model, size: [usize; 2], sampled: &Sampled) -> Result<Self> {
        let mut w = Draft::new(model, size)?;
        let x = w.image("x_t")?;
        let row = w.step()?;
        let conditions = w.conditions()?;
        let mut kept: Kept = [None; MEMORY];
        for (i, place) in kept.iter_mut().enumerate().take(sampled.table.memory) {
            *place = Some(w.image(&format!("kept.{i}"))?);
        }
        let does = Does::Any { steps: &sampled.table.steps, row };
        let (next, keeps) = step(&mut w, sampled, does, 0, (x, &kept), &conditions)?;
        let mut outputs = vec![("x_next".to_owned(), next)];
        for (i, (place, new)) in kept.into_iter().zip(keeps).enumerate() {
            if let Some(value) = new.or(place) {
                memory::push(&mut outputs, (format!("kept_next.{i}"), value), "outputs")?;
            }
        }
        w.finish(outputs)
    }

    /// Noise, the unit normal of each image, and the conditions give images: all steps, one after the other.
    pub fn sampler(model: &Model, size: [usize; 2], sampled: &Sampled, stop: Stop) -> Result<Self> {
        let steps = sampled.table.steps.len();
        if steps > MOST_STEPS {
            return Err(Error::unsupported(format!(
                "a run of {steps} steps, each of which is an evaluation in the file, {MOST_STEPS} at most: export the program \"step\", and go through it"
            )));
        }
        let mut w = Draft::new(model, size)?;
        let mut x = w.image("noise")?;
        let conditions = w.conditions()?;
        if sampled.table.initial != 1.0 {
            x = w.g.weighted_sum(&[(sampled.table.initial, x)])?;
        }
        let mut kept: Kept = [None; MEMORY];
        for (k, one) in sampled.table.steps.iter().enumerate() {
            stop.check()?;
            let (next, keeps) = step(&mut w, sampled, Does::One(one), k, (x, &kept), &conditions)?;
            x = next;
            kept.iter_mut().zip(keeps).for_each(|(place, new)| *place = new.or(*place));
        }
        w.finish(vec![("images".to_owned(), x)])
    }
}

/// The state after a step, and what is kept of it anew.
fn step(w: &mut Draft, sampled: &Sampled, does: Does, k: usize, (x, kept): (ValueId, &Kept), conditions: &[ValueId]) -> Result<(ValueId, Kept)> {
    let (t, seen) = (does.number(&mut w.g, "timestep", 1, |s| s.t)?, does.network_input(&mut w.g, x)?);
    let own = if let Does::Any { row, .. } = does { Own::Rows(row) } else { Own::All(k) };
    let predictor = Predictor { guidance: sampled.guidance, ..Predictor::new(w.model, "") };
    let out = predictor.predict(&mut w.g, seen, When { t, step: Some(own) }, conditions)?;
    does.next(&mut w.g, &sampled.table.clip, [x, out], kept, |_| {
        Err(Error::unsupported(
            "this sampler adds noise in its steps, which a file has nobody to draw for: export a sampler with eta 0, or the program \"evaluation\"",
        ))
    })
}
