//! Parameters that each step of a few-step student has of its own: vectors, small beside the weights that all steps share. A network that is evaluated at two
//! timesteps is two functions; what it shares between them is a constraint that costs a small student more than a large one (one set of weights for each step:
//! O2MKD, arXiv 2410.04191).

use super::scope::{Initial, Parameter};
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::memory;
use crate::names::{Named, named_enum};

named_enum! {
    /// What each step of the student's grid has of its own; the words are those of `fewstep.json` and of checkpoints.
    PerStep {
        /// Nothing: all steps share all parameters.
        None = "none",
        /// The biases of layers, and the scales and shifts of norms.
        BiasesAndNorms = "biases_and_norms",
    }
}

impl serde::Serialize for PerStep {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl PerStep {
    /// Whether all steps share all parameters.
    pub fn is_none(&self) -> bool {
        *self == PerStep::None
    }

    /// The shape that a parameter is stored in, for a grid of so many steps: that of each step behind their number.
    pub fn shape(self, parameter: &Parameter, steps: usize) -> Vec<usize> {
        let own = matches!(parameter.initial, Initial::Ones | Initial::Zeros) || parameter.name.ends_with(".bias");
        if self.is_none() || !own { parameter.shape.clone() } else { [&[steps], parameter.shape.as_slice()].concat() }
    }
}

/// Which step of its own grid a student is evaluated in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The whole batch in this one.
    All(usize),
    /// Each row in its own, i32 [B].
    Rows(ValueId),
}

/// When a network is evaluated.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// Timesteps f32 [B].
    pub t: ValueId,
    /// The steps of the student's grid that these are; `None` off it, where a network with parameters of each step cannot be evaluated.
    pub step: Option<Step>,
}

impl From<ValueId> for When {
    fn from(t: ValueId) -> Self {
        Self { t, step: None }
    }
}

/// The steps of a grid that begin at these timesteps; an error for one at which none begins.
pub fn steps_at(pairs: &[(i64, i64)], timesteps: &[f32]) -> Result<Vec<i32>> {
    let step = |t: &f32| {
        let step = pairs.iter().position(|pair| pair.0 as f32 == *t).and_then(|step| i32::try_from(step).ok());
        step.ok_or_else(|| {
            Error::unsupported(format!(
                "timestep {t}: each step of the student's grid {pairs:?} has parameters of its own: it is evaluated at the timesteps that its steps begin at"
            ))
        })
    };
    memory::try_collect(timesteps.iter().map(step), "steps of a grid")
}
