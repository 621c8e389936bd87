//! One evaluation of a network: what it makes of an image, a timestep and conditions, whole, with a variance if it gives one.

use super::run::{Given, check_given};
use crate::backend::{Backend, Executable, HostSlice, Memory, as_bytes};
use crate::cancel::{Stop, cancelled};
use crate::error::{Error, Result};
use crate::graph::{Graph, Numerics, TensorType, ValueId};
use crate::memory;
use crate::nn::per_step::steps_at;
use crate::nn::quantization::check_timestep;
use crate::nn::{Condition, Layer, Model, Predictor, Step, When};
use crate::tensor::DType;

/// A compiled evaluation. One thread at a time.
pub struct Evaluator {
    exec: Box<dyn Executable>,
    x: ValueId,
    t: ValueId,
    conditions: Vec<Condition>,
    inputs: Vec<ValueId>,
    out: ValueId,
    shape: [usize; 4],
    out_channels: usize,
    /// Of a quantised model: the timesteps that its ranges are of.
    grid: Option<Vec<(i64, i64)>>,
    /// Of a student whose steps have parameters of their own: where the images' steps go, i32 [N], and the grid.
    steps: Option<(ValueId, Vec<(i64, i64)>)>,
}

impl Evaluator {
    /// Plans and compiles it for `batch` images of `size` [H, W]; a cancelled error where `stop` is set before it is done.
    pub fn new_until(backend: &dyn Backend, model: &Model, batch: usize, size: [usize; 2], precision: DType, stop: Stop) -> Result<Self> {
        Self::observing(backend, model, (batch, size, precision), |_, _| Ok(vec![]), stop)
    }

    /// The same where more can be looked at after each run ([`Evaluator::observed`]): `choose` gives those values, of the network's layers or of what it adds to
    /// the graph.
    pub fn observing(
        backend: &dyn Backend,
        model: &Model,
        (batch, size, precision): (usize, [usize; 2], DType),
        choose: impl FnOnce(&mut Graph, &[Layer]) -> Result<Vec<ValueId>>,
        stop: Stop,
    ) -> Result<Self> {
        let roles = model.roles()?;
        let shape = [batch, size[0], size[1], roles.channels];
        let mut g = Graph::new();
        g.begin_segment("evaluation");
        let x = g.input("x_t", TensorType::f32(&shape))?;
        let t = g.input("timestep", TensorType::f32(&[batch]))?;
        let input = |c: &Condition| g.input(c.name.clone(), c.kind.ty(batch, size));
        let inputs = memory::try_collect(roles.conditions.iter().map(input), "conditions")?;
        let own = |pairs: &[(i64, i64)]| Ok((g.input("step", TensorType::new(DType::I32, &[batch]))?, memory::copy(pairs, "pairs")?));
        let steps = model.own_steps().map(own).transpose()?;
        let when = When { t, step: steps.as_ref().map(|(step, _)| Step::Rows(*step)) };
        let (out, met) = Predictor::new(model, "").output_and_met(&mut g, x, when, &inputs)?;
        g.tap(out);
        choose(&mut g, &met.layers)?.into_iter().for_each(|value| g.tap(value));
        let out_channels = g.shape(out)[3];
        let mut exec = backend.compile_until(&g, &Numerics::of(precision)?, stop)?;
        for (name, tensor) in &model.weights {
            stop.check()?;
            exec.bind(name, tensor.clone())?;
        }
        exec.prepare_until(stop)?;
        let grid = model
            .quantization
            .as_ref()
            .filter(|quantization| quantization.has_ranges())
            .map(|quantization| memory::copy(&quantization.pairs, "pairs"))
            .transpose()?;
        Ok(Self { exec, x, t, conditions: roles.conditions, inputs, out, shape, out_channels, grid, steps })
    }

    /// What a chosen value was in the last run.
    pub fn observed(&self, value: ValueId) -> Result<HostSlice<'_, f32>> {
        self.exec.read_bytes(value)?.of::<f32>()
    }

    /// [N,H,W,C] of x_t.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Memory that it holds beside the model's weights.
    pub fn memory(&self) -> Memory {
        self.exec.memory()
    }

    /// The network's output [N,H,W,out_channels] for x_t [N,H,W,C], a timestep of each image, and conditions; a quantised model, or one whose steps have
    /// parameters of their own, has one at the timesteps of its own grid alone. A cancelled error where `stop` is set before it is done.
    pub fn run(&mut self, x_t: &[f32], timesteps: &[f32], given: &[Given], stop: Stop) -> Result<HostSlice<'_, f32>> {
        let [n, h, w, _] = self.shape;
        let numel = self.shape.iter().product::<usize>();
        for (name, values, expected) in [("x_t", x_t, numel), ("timesteps", timesteps, n)] {
            if values.len() != expected {
                return Err(Error::shape(format!("{name}: expected {expected} numbers, found {}", values.len())));
            }
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                return Err(Error::numeric(format!("{name}[{i}] is {}; it must be finite", values[i])));
            }
        }
        if let Some(grid) = &self.grid {
            timesteps.iter().try_for_each(|t| check_timestep(grid, f64::from(*t)))?;
        }
        if let Some((input, grid)) = &self.steps {
            self.exec.write_bytes(*input, as_bytes(&steps_at(grid, timesteps)?))?;
        }
        let taken = check_given(&self.conditions, given, n, [h, w])?;
        self.exec.write_bytes(self.x, as_bytes(x_t))?;
        self.exec.write_bytes(self.t, as_bytes(timesteps))?;
        for (input, from) in self.inputs.iter().zip(taken) {
            self.exec.write_bytes(*input, given[from].1.bytes())?;
        }
        let end = self.exec.plan().order().len();
        if self.exec.run_until(self.exec.plan().prepared()..end, stop)? < end {
            return Err(cancelled());
        }
        let out = self.exec.read_bytes(self.out)?.of::<f32>()?;
        match out.iter().position(|v| !v.is_finite()) {
            None => Ok(out),
            Some(i) => Err(Error::numeric(format!("the network's output is {} at element {i}", out[i]))),
        }
    }
}
