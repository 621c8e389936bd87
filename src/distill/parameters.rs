//! Sets of parameters that learn together: the student's, and whatever else a loss has that learns. Each has an optimizer; updates, averages, snapshots and
//! checkpoints go over the sets.

use super::optimizer::{Optimizer, OptimizerKind};
use crate::error::{Error, Result};
use crate::graph::ops::{Descend, matrix};
use crate::memory;
use crate::nn::Model;
use crate::tensor::{DType, Tensor};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The student's set.
pub const STUDENT: &str = "student";
/// The set of the changes of a quantised student's scales.
pub const SCALES: &str = "scales";

/// What training keeps of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The parameter itself.
    Weight,
    /// AdamW's mean of gradients.
    FirstMoment,
    /// AdamW's mean of squared gradients.
    SecondMoment,
    /// Muon's sum of gradients.
    Momentum,
    /// The moving average.
    Average,
}

impl State {
    /// What it is of a parameter that has not learned yet.
    pub(super) fn beginning(self, parameter: &Parameter) -> Result<Tensor> {
        match self {
            State::Weight | State::Average => parameter.initial.to_f32(),
            State::FirstMoment | State::SecondMoment | State::Momentum => Tensor::zeros(DType::F32, parameter.initial.shape()),
        }
    }
}

/// What updates a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// AdamW.
    AdamW,
    /// Muon; the parameter is a matrix [O, ...].
    Muon,
}

impl Rule {
    /// What is kept of such a parameter, in the order of checkpoints.
    pub const fn states(self) -> &'static [State] {
        match self {
            Rule::AdamW => &[State::Weight, State::FirstMoment, State::SecondMoment, State::Average],
            Rule::Muon => &[State::Weight, State::Momentum, State::Average],
        }
    }
}

/// A parameter of a set.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name within the set.
    pub name: String,
    /// What it begins as, f32; its average too. The moments begin as zeros.
    pub initial: Arc<Tensor>,
    /// What updates it.
    pub rule: Rule,
}

/// Parameters that learn together.
#[derive(Clone, Debug)]
pub struct ParameterSet {
    /// Its name.
    name: String,
    /// In the order of gradients, updates and checkpoints.
    pub parameters: Vec<Parameter>,
    /// How they learn.
    pub optimizer: Optimizer,
}

impl ParameterSet {
    /// A set of f32 parameters, at least one. Its parameters are states `name.` + their name.
    pub fn new(name: &str, parameters: Vec<Parameter>, optimizer: Optimizer) -> Result<Self> {
        if parameters.is_empty() {
            return Err(Error::internal(format!("parameter set '{name}' is empty")));
        }
        if let Some(other) = parameters.iter().find(|p| p.initial.dtype() != DType::F32) {
            return Err(Error::unsupported(format!("parameter '{}' of '{name}' is {:?}; only f32 is trained", other.name, other.initial.dtype())));
        }
        Ok(Self { name: name.to_string(), parameters, optimizer })
    }

    /// All weights of the network that learns; the scales of whole numbers stay. Muon, if it is asked for, updates those that the network calls hidden.
    pub fn student(model: &Model, optimizer: Optimizer) -> Result<Self> {
        let hidden = if optimizer.kind == OptimizerKind::Muon { model.network.hidden_weights()? } else { BTreeSet::new() };
        let rule = |name: &String| if hidden.contains(name) { Rule::Muon } else { Rule::AdamW };
        let parameter = |(name, initial): (&String, &Arc<Tensor>)| Parameter { name: name.clone(), initial: initial.clone(), rule: rule(name) };
        Self::new(STUDENT, memory::collect(model.weights.iter().filter(|(name, _)| model.learns(name)).map(parameter), "parameters")?, optimizer)
    }

    /// The same set with further parameters behind its own.
    pub fn with(mut self, parameters: impl IntoIterator<Item = Parameter>) -> Result<Self> {
        parameters.into_iter().try_for_each(|parameter| memory::push(&mut self.parameters, parameter, "parameters"))?;
        Ok(self)
    }

    /// The changes of the scales of a student's whole numbers, 0 at first.
    pub fn scales(model: &Model, optimizer: Optimizer) -> Result<Self> {
        let scales = model.weights.iter().filter(|(name, _)| !model.learns(name));
        let parameter = |(name, scale): (&String, &Arc<Tensor>)| {
            Ok(Parameter { name: name.clone(), initial: Arc::new(Tensor::zeros(DType::F32, scale.shape())?), rule: Rule::AdamW })
        };
        Self::new(SCALES, memory::try_collect(scales.map(parameter), "parameters")?, optimizer)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a state of a parameter is called, in programs and in checkpoints. The student's moments and averages have no set in their name: they are older
    /// than sets.
    pub fn key(&self, state: State, parameter: &str) -> String {
        let set = if self.name == STUDENT && state != State::Weight { "" } else { &format!("{}.", self.name) };
        let kind = match state {
            State::Weight => "",
            State::FirstMoment => "adamw.m.",
            State::SecondMoment => "adamw.v.",
            State::Momentum => "muon.m.",
            State::Average => "ema.",
        };
        format!("{set}{kind}{parameter}")
    }

    /// Every state of every parameter.
    pub fn states(&self) -> impl Iterator<Item = (State, &Parameter, String)> {
        self.parameters.iter().flat_map(move |p| p.rule.states().iter().map(move |state| (*state, p, self.key(*state, &p.name))))
    }

    /// Learning rate of a parameter in the step after `done` steps.
    pub fn rate(&self, rule: Rule, done: u64) -> f64 {
        match rule {
            Rule::AdamW => self.optimizer.rate(done),
            Rule::Muon => self.optimizer.muon_rate(done),
        }
    }

    /// The most that a step of Muon's is multiplied by beside its rate; `None` where it updates nothing.
    pub fn largest_factor(&self) -> Option<f64> {
        let factor = |p: &Parameter| Some(Descend::factor(matrix(p.initial.shape()).ok()?));
        self.parameters.iter().filter(|p| p.rule == Rule::Muon).filter_map(factor).reduce(f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These names are on people's disks.
    #[test]
    fn states_keep_their_names() -> Result<()> {
        let initial = || Arc::new(Tensor::from_slice(&[1], &[0f32]).expect("a tensor"));
        let parameter = || Parameter { name: "conv_in.bias".into(), initial: initial(), rule: Rule::AdamW };
        for (set, expected) in [
            ("student", ["student.conv_in.bias", "adamw.m.conv_in.bias", "adamw.v.conv_in.bias", "ema.conv_in.bias"]),
            ("align", ["align.conv_in.bias", "align.adamw.m.conv_in.bias", "align.adamw.v.conv_in.bias", "align.ema.conv_in.bias"]),
        ] {
            let set = ParameterSet::new(set, vec![parameter()], Optimizer::default())?;
            assert_eq!(set.states().map(|(.., key)| key).collect::<Vec<_>>(), expected);
        }
        let matrix = Parameter { name: "conv1.weight".into(), rule: Rule::Muon, ..parameter() };
        let set = ParameterSet::new("student", vec![matrix], Optimizer::default())?;
        assert_eq!(set.states().map(|(.., key)| key).collect::<Vec<_>>(), ["student.conv1.weight", "muon.m.conv1.weight", "ema.conv1.weight"]);
        assert!(ParameterSet::new("none", vec![], Optimizer::default()).is_err());
        let half = Parameter { initial: Arc::new(Tensor::zeros(DType::F16, &[1])?), ..parameter() };
        assert!(ParameterSet::new("half", vec![half], Optimizer::default()).is_err());
        Ok(())
    }
}
