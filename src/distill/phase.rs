//! A phase of a training step: a loss and the sets of parameters that follow its gradient, as three segments of the program. A step runs its phases in order.

use super::loss_scale::LossScaleInputs;
use super::optimizer::Optimizer;
use super::parameters::{Parameter, ParameterSet, Rule, STUDENT, State};
use crate::error::{Error, Result};
use crate::graph::ops::{AdamW, ClipScale, Descend, Ema, GlobalNorm, Momentum, Orthogonalize, Slice};
use crate::graph::{Graph, Plan, TensorType, ValueId, gradients};
use crate::memory;
use crate::tensor::DType;
use std::ops::Range;

/// What lists of a phase are called where there is no memory for them.
const WHAT: &str = "training graph";

/// The parts of a phase, in order.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The loss.
    Forward,
    /// Its gradients; where they are accumulated, their means over the parts of the step so far.
    Backward,
    /// Norms, clipping, the optimizers and the moving average.
    Update,
}

/// The segment of a phase's part: `student.forward`.
pub fn segment(phase: &str, part: Part) -> String {
    let part = match part {
        Part::Forward => "forward",
        Part::Backward => "backward",
        Part::Update => "update",
    };
    format!("{phase}.{part}")
}

/// Where the parts of a phase lie in a plan.
#[derive(Clone, Debug)]
pub(super) struct Segments {
    pub forward: Range<usize>,
    pub update: Range<usize>,
}

impl Segments {
    /// Of the phase with this name.
    pub fn of(plan: &Plan, phase: &str) -> Result<Self> {
        Ok(Self { forward: plan.segment(&segment(phase, Part::Forward))?, update: plan.segment(&segment(phase, Part::Update))? })
    }
}

/// Runtime inputs of a set's update.
#[derive(Clone, Copy)]
pub struct UpdateInputs {
    /// 1 for the first step, i64 [1].
    pub update: ValueId,
    /// Learning rate of what AdamW updates, f32 [1].
    pub rate: ValueId,
    /// Learning rate of what Muon updates, if anything, f32 [1].
    pub muon_rate: Option<ValueId>,
    /// Decay of the moving average, f32 [1].
    pub decay: ValueId,
}

impl UpdateInputs {
    /// Declares them.
    pub fn declare(g: &mut Graph, set: &ParameterSet) -> Result<Self> {
        let name = |input: &str| if set.name() == STUDENT { input.to_string() } else { format!("{}.{input}", set.name()) };
        let muon = set.parameters.iter().any(|p| p.rule == Rule::Muon);
        Ok(Self {
            update: g.input(name("update"), TensorType::new(DType::I64, &[1]))?,
            rate: g.input(name("learning_rate"), TensorType::f32(&[1]))?,
            muon_rate: muon.then(|| g.input(name("muon_learning_rate"), TensorType::f32(&[1]))).transpose()?,
            decay: g.input(name("ema_decay"), TensorType::f32(&[1]))?,
        })
    }
}

/// Runtime input of a step whose gradients are accumulated: before part i of it, from 0, i / (i + 1), so that the moving averages of losses and gradients are
/// their means over the parts; f32 [1].
#[derive(Clone, Copy)]
pub struct AccumulationInput(pub ValueId);

impl AccumulationInput {
    /// Declares it.
    pub fn declare(g: &mut Graph) -> Result<Self> {
        Ok(Self(g.input("gradient_accumulation.decay", TensorType::f32(&[1]))?))
    }

    /// What it is before this part.
    pub fn decay(part: usize) -> f32 {
        part as f32 / (part + 1) as f32
    }

    /// The means of these values over the parts so far, in states of the program that no checkpoint has: each step begins with new ones.
    fn means(self, g: &mut Graph, phase: &str, values: &[ValueId]) -> Result<Vec<ValueId>> {
        let always = g.constant_fill("always", &[1], 1.0)?;
        let mut operands = memory::with_capacity(Ema::HEAD + 2 * values.len(), WHAT)?;
        operands.extend([self.0, always]);
        for (i, value) in values.iter().enumerate() {
            let ty = TensorType::f32(g.shape(*value));
            operands.extend([g.state(format!("accumulated.{phase}.{i}"), ty)?, *value]);
        }
        g.push(Ema { parameters: values.len() }.into(), &operands)
    }
}

/// A loss and what follows its gradient. The nodes of the loss are those of the segment that [`Phase::begin`] has begun.
pub struct Phase<'a> {
    /// Its name, which its segments begin with.
    pub name: &'a str,
    /// What falls [1].
    pub loss: ValueId,
    /// What is reported of it: itself, and what it is the sum of [1 + losses].
    pub losses: ValueId,
    /// What learns.
    pub sets: &'a [ParameterSet],
    /// Values that are computed again in the backward pass instead of being kept: those inside the steps of an unrolled chain ([`Graph::values_since`]).
    pub recompute: &'a [ValueId],
    /// Inputs that scale the loss; f16 only.
    pub loss_scale: Option<LossScaleInputs>,
    /// Where a step has several parts.
    pub accumulation: Option<AccumulationInput>,
}

/// What a phase has added.
pub struct Appended {
    /// For each of its sets.
    pub updates: Vec<Update>,
    /// What is reported of the loss, over all parts of the step [1 + losses].
    pub losses: ValueId,
}

/// What a phase has added for one of its sets.
pub struct Update {
    /// Its runtime inputs.
    pub inputs: UpdateInputs,
    /// Global gradient norm before clipping [1].
    pub norm: ValueId,
    /// Gradients before clipping, of the scaled loss if it is scaled, in the order of the set's parameters.
    pub grads: Vec<ValueId>,
}

impl Phase<'_> {
    /// Begins the segment of the phase's loss.
    pub fn begin(g: &mut Graph, name: &str) {
        g.begin_segment(segment(name, Part::Forward));
    }

    /// Appends backward pass, clipping, the optimizers and the moving average. Where the gradient of one set is of no use, no set changes.
    pub fn append(&self, g: &mut Graph) -> Result<Appended> {
        g.begin_segment(segment(self.name, Part::Backward));
        let states = self.sets.iter().flat_map(|set| set.parameters.iter().map(move |p| (set.key(State::Weight, &p.name), p.initial.shape())));
        let values = memory::try_collect(states.map(|(key, shape)| g.state(key, TensorType::f32(shape))), WHAT)?;
        let scaled = self.loss_scale.map_or(Ok(self.loss), |s| g.mul(self.loss, s.factor))?;
        let mut grads = gradients(g, scaled, &values, self.recompute)?;
        let losses = self.over_all_parts(g, &mut grads)?;
        g.begin_segment(segment(self.name, Part::Update));
        let (mut updates, mut left) = (memory::with_capacity(self.sets.len(), WHAT)?, &*grads);
        for set in self.sets {
            let (own, others) = left.split_at(set.parameters.len());
            left = others;
            let norm = g.push1(GlobalNorm.into(), own)?;
            let norm = self.unscaled(g, norm)?;
            updates.push(Update { inputs: UpdateInputs::declare(g, set)?, norm, grads: memory::copy(own, WHAT)? });
        }
        let good = self.good(g, losses, &updates)?;
        for (set, update) in self.sets.iter().zip(&updates) {
            let scale = g.push1(ClipScale::new(set.optimizer.clip_norm).into(), &[update.norm, good])?;
            let scale = self.unscaled(g, scale)?;
            append_update(g, set, update, scale)?;
        }
        Ok(Appended { updates, losses })
    }

    /// Where gradients are accumulated, they become their means. What is reported of the loss.
    fn over_all_parts(&self, g: &mut Graph, grads: &mut Vec<ValueId>) -> Result<ValueId> {
        let Some(accumulation) = self.accumulation else { return Ok(self.losses) };
        memory::push(grads, self.losses, WHAT)?;
        *grads = accumulation.means(g, self.name, grads)?;
        grads.pop().ok_or_else(|| Error::internal("a loss without a mean"))
    }

    fn unscaled(&self, g: &mut Graph, value: ValueId) -> Result<ValueId> {
        self.loss_scale.map_or(Ok(value), |s| g.mul(value, s.inverse))
    }

    /// A number [1] that is finite where the loss is, and every set's gradient is of use.
    fn good(&self, g: &mut Graph, losses: ValueId, updates: &[Update]) -> Result<ValueId> {
        let loss = if self.accumulation.is_some() { g.push1(Slice { start: 0, len: 1 }.into(), &[losses])? } else { self.loss };
        let mut good = loss;
        if updates.len() > 1 {
            for (set, update) in self.sets.iter().zip(updates) {
                let scale = g.push1(ClipScale::new(set.optimizer.clip_norm).into(), &[update.norm, loss])?;
                good = g.add(good, scale)?;
            }
        }
        Ok(good)
    }
}

/// The optimizers and the moving average of a set, whose gradients are multiplied by `scale`.
fn append_update(g: &mut Graph, set: &ParameterSet, update: &Update, scale: ValueId) -> Result<()> {
    append_adamw(g, set, update, scale)?;
    append_muon(g, set, update, scale)?;
    let count = set.parameters.len();
    let mut operands = memory::with_capacity(Ema::HEAD + 2 * count, WHAT)?;
    operands.extend([update.inputs.decay, scale]);
    for p in &set.parameters {
        operands.extend([state(g, set, State::Average, p)?, state(g, set, State::Weight, p)?]);
    }
    g.push(Ema { parameters: count }.into(), &operands)?;
    Ok(())
}

/// The newest version of a state.
fn state(g: &mut Graph, set: &ParameterSet, state: State, p: &Parameter) -> Result<ValueId> {
    g.state(set.key(state, &p.name), TensorType::f32(p.initial.shape()))
}

/// Parameters that a rule updates, with their gradients.
fn those_of<'a>(set: &'a ParameterSet, update: &'a Update, rule: Rule) -> Result<Vec<(&'a Parameter, ValueId)>> {
    memory::collect(set.parameters.iter().zip(update.grads.iter().copied()).filter(|(p, _)| p.rule == rule), WHAT)
}

fn append_adamw(g: &mut Graph, set: &ParameterSet, update: &Update, scale: ValueId) -> Result<()> {
    let (own, inputs) = (those_of(set, update, Rule::AdamW)?, &update.inputs);
    if own.is_empty() {
        return Ok(());
    }
    let mut operands = memory::with_capacity(AdamW::HEAD + 4 * own.len(), WHAT)?;
    operands.extend([inputs.rate, inputs.update, scale]);
    for (p, grad) in &own {
        operands.extend([state(g, set, State::Weight, p)?, state(g, set, State::FirstMoment, p)?, state(g, set, State::SecondMoment, p)?, *grad]);
    }
    let Optimizer { beta1, beta2, eps, weight_decay, .. } = set.optimizer;
    g.push(AdamW { beta1, beta2, eps, weight_decay, parameters: own.len() }.into(), &operands)?;
    Ok(())
}

/// Three ops for all matrices, so that a program has as few nodes with Muon as without.
fn append_muon(g: &mut Graph, set: &ParameterSet, update: &Update, scale: ValueId) -> Result<()> {
    let own = those_of(set, update, Rule::Muon)?;
    if own.is_empty() {
        return Ok(());
    }
    let rate = update.inputs.muon_rate.ok_or_else(|| Error::internal("matrices without a learning rate"))?;
    let Optimizer { momentum, weight_decay, .. } = set.optimizer;
    let mut operands = memory::with_capacity(Momentum::HEAD + 2 * own.len(), WHAT)?;
    operands.push(scale);
    for (p, grad) in &own {
        operands.extend([state(g, set, State::Momentum, p)?, *grad]);
    }
    let moved = g.push(Momentum { momentum, parameters: own.len() }.into(), &operands)?;
    let directions = g.push(Orthogonalize.into(), &moved[own.len()..])?;
    let mut operands = memory::with_capacity(Descend::HEAD + 2 * own.len(), WHAT)?;
    operands.extend([rate, scale]);
    for ((p, _), direction) in own.iter().zip(directions) {
        operands.extend([state(g, set, State::Weight, p)?, direction]);
    }
    g.push(Descend { weight_decay, parameters: own.len() }.into(), &operands)?;
    Ok(())
}
