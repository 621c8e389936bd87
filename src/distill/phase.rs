//! A phase of a training step: a loss and the sets of parameters that follow its gradient, as three segments of the program. A step runs its phases in order.

use super::loss_scale::LossScaleInputs;
use super::optimizer::Optimizer;
use super::parameters::{Parameter, ParameterSet, Rule, STUDENT, State};
use crate::error::{Error, Result};
use crate::graph::ops::{AdamW, ClipScale, Descend, Ema, GlobalNorm, Momentum, Orthogonalize};
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
    /// Its gradients.
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

/// A loss and what follows its gradient. The nodes of the loss are those of the segment that [`Phase::begin`] has begun.
pub struct Phase<'a> {
    /// Its name, which its segments begin with.
    pub name: &'a str,
    /// What falls [1].
    pub loss: ValueId,
    /// What learns.
    pub sets: &'a [ParameterSet],
    /// Values that are computed again in the backward pass instead of being kept: those inside the steps of an unrolled chain ([`Graph::values_since`]).
    pub recompute: &'a [ValueId],
    /// Inputs that scale the loss; f16 only.
    pub loss_scale: Option<LossScaleInputs>,
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
    pub fn append(&self, g: &mut Graph) -> Result<Vec<Update>> {
        g.begin_segment(segment(self.name, Part::Backward));
        let states = self.sets.iter().flat_map(|set| set.parameters.iter().map(move |p| (set.key(State::Weight, &p.name), p.initial.shape())));
        let values = memory::try_collect(states.map(|(key, shape)| g.state(key, TensorType::f32(shape))), WHAT)?;
        let scaled = self.loss_scale.map_or(Ok(self.loss), |s| g.mul(self.loss, s.factor))?;
        let grads = gradients(g, scaled, &values, self.recompute)?;
        g.begin_segment(segment(self.name, Part::Update));
        let (mut updates, mut left) = (memory::with_capacity(self.sets.len(), WHAT)?, &*grads);
        for set in self.sets {
            let (own, others) = left.split_at(set.parameters.len());
            left = others;
            let norm = g.push1(GlobalNorm.into(), own)?;
            let norm = self.unscaled(g, norm)?;
            updates.push(Update { inputs: UpdateInputs::declare(g, set)?, norm, grads: memory::copy(own, WHAT)? });
        }
        let good = self.good(g, &updates)?;
        for (set, update) in self.sets.iter().zip(&updates) {
            let scale = g.push1(ClipScale::new(set.optimizer.clip_norm).into(), &[update.norm, good])?;
            let scale = self.unscaled(g, scale)?;
            append_update(g, set, update, scale)?;
        }
        Ok(updates)
    }

    fn unscaled(&self, g: &mut Graph, value: ValueId) -> Result<ValueId> {
        self.loss_scale.map_or(Ok(value), |s| g.mul(value, s.inverse))
    }

    /// A number [1] that is finite where the loss is, and every set's gradient is of use.
    fn good(&self, g: &mut Graph, updates: &[Update]) -> Result<ValueId> {
        let mut good = self.loss;
        if updates.len() > 1 {
            for (set, update) in self.sets.iter().zip(updates) {
                let scale = g.push1(ClipScale::new(set.optimizer.clip_norm).into(), &[update.norm, self.loss])?;
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
