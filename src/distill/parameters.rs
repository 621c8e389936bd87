//! Sets of parameters that learn together: the student's, and whatever else a loss has that learns. Each has an optimizer; updates, averages, snapshots and
//! checkpoints go over the sets.

use super::optimizer::Optimizer;
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::Model;
use crate::tensor::{DType, Tensor};
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
    /// The moving average.
    Average,
}

impl State {
    /// All of them, in the order of checkpoints.
    pub const ALL: [State; 4] = [State::Weight, State::FirstMoment, State::SecondMoment, State::Average];

    /// What it is of a parameter that has not learned yet.
    pub(super) fn beginning(self, parameter: &Parameter) -> Result<Tensor> {
        match self {
            State::Weight | State::Average => parameter.initial.to_f32(),
            State::FirstMoment | State::SecondMoment => Tensor::zeros(DType::F32, parameter.initial.shape()),
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

    /// All weights of the network that learns; the scales of whole numbers stay.
    pub fn student(model: &Model, optimizer: Optimizer) -> Result<Self> {
        let parameter = |(name, initial): (&String, &Arc<Tensor>)| Parameter { name: name.clone(), initial: initial.clone() };
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
        let parameter =
            |(name, scale): (&String, &Arc<Tensor>)| Ok(Parameter { name: name.clone(), initial: Arc::new(Tensor::zeros(DType::F32, scale.shape())?) });
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
            State::Average => "ema.",
        };
        format!("{set}{kind}{parameter}")
    }

    /// Every state of every parameter.
    pub fn states(&self) -> impl Iterator<Item = (State, &Parameter, String)> {
        self.parameters.iter().flat_map(move |p| State::ALL.into_iter().map(move |state| (state, p, self.key(state, &p.name))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These names are on people's disks.
    #[test]
    fn states_keep_their_names() -> Result<()> {
        let parameter = || Parameter { name: "conv_in.bias".into(), initial: Arc::new(Tensor::from_slice(&[1], &[0f32]).expect("a tensor")) };
        for (set, expected) in [
            ("student", ["student.conv_in.bias", "adamw.m.conv_in.bias", "adamw.v.conv_in.bias", "ema.conv_in.bias"]),
            ("align", ["align.conv_in.bias", "align.adamw.m.conv_in.bias", "align.adamw.v.conv_in.bias", "align.ema.conv_in.bias"]),
        ] {
            let set = ParameterSet::new(set, vec![parameter()], Optimizer::default())?;
            assert_eq!(set.states().map(|(.., key)| key).collect::<Vec<_>>(), expected);
        }
        assert!(ParameterSet::new("none", vec![], Optimizer::default()).is_err());
        let half = Parameter { initial: Arc::new(Tensor::zeros(DType::F16, &[1])?), ..parameter() };
        assert!(ParameterSet::new("half", vec![half], Optimizer::default()).is_err());
        Ok(())
    }
}
