//! What an architecture is to everybody else: what it takes and gives, how it is built, and what its config.json says.

use super::conditions::Condition;
use super::scope::{Layer, Parameter, Scope};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorType, ValueId};
use crate::io::json::Fields;
use crate::io::json_writer::to_text;
use crate::memory;
use crate::names::Named;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// The most parameters of a network, 2^40.
pub const MAX_PARAMETERS: u64 = 1 << 40;

/// A kind of network.
#[derive(Debug)]
pub struct Family {
    /// `_class_name` of its config.json.
    pub class: &'static str,
    /// Reads the rest of a config.json.
    pub(crate) read: fn(Fields) -> Result<Arc<dyn Network>>,
    /// Whether a config.json without a class is of this family.
    pub recognises: fn(&Value) -> bool,
}

/// What a network takes and gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// Channels of the image that it reads: those of x_t, and of what is laid beside it.
    pub in_channels: usize,
    /// Channels of what it gives.
    pub out_channels: usize,
    /// [H, W] that its config names.
    pub size: Option<[usize; 2]>,
    /// Heights and widths must be multiples of this.
    pub size_multiple: usize,
    /// The most channels of any value inside.
    pub widest: usize,
    /// What it takes beside image and timestep, in this order.
    pub conditions: Vec<Condition>,
}

/// What one evaluation of a network reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The image [B,H,W,in_channels].
    pub x: ValueId,
    /// Timesteps f32 [B].
    pub t: ValueId,
    /// One value for each condition of the signature.
    pub conditions: &'a [ValueId],
}

/// What a config.json says beside the settings that its family knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unknown {
    /// The keys that this library does not know. Written back as they were.
    pub other: Map<String, Value>,
    /// What was said that was ignored.
    pub warnings: Vec<String>,
}

/// An architecture with its numbers. A family's folder has one implementation; `families.rs` lists them.
pub trait Network: fmt::Debug + Send + Sync {
    /// The family.
    fn family(&self) -> &'static Family;

    /// What it takes and gives.
    fn signature(&self) -> Signature;

    /// Every key of the config.json that the family knows, with its value.
    fn settings(&self) -> Map<String, Value>;

    /// What else the config.json said.
    fn unknown(&self) -> &Unknown;

    /// The output [B,H,W,out_channels]. What blocks give is told the scope ([`Scope::feature`]).
    fn build(&self, g: &mut Graph, scope: &Scope, at: &Inputs) -> Result<ValueId>;

    /// Paths of its layers that are not inside: those that read what it is given, or make what it gives. Optimizers for the matrices inside leave them out. It may
    /// name layers that a config has not.
    fn outer_layers(&self) -> &'static [&'static str];

    /// Changes in a student's settings what follows from `patch`, the keys that differ from its teacher's, where these do not say it.
    fn adapt(&self, _settings: &mut Map<String, Value>, _patch: &Map<String, Value>) -> Result<()> {
        Ok(())
    }

    /// The name of the teacher's parameter that has the role of this network's `name`; `None` where none has.
    fn role(&self, name: &str, _teacher: &dyn Network) -> Option<String> {
        Some(name.to_owned())
    }

    /// The smaller networks that a search of students tries, each as the keys that differ; empty where a family has no such list.
    fn smaller(&self) -> Vec<Map<String, Value>> {
        vec![]
    }

    /// Refuses what cannot be trained.
    fn check_trainable(&self) -> Result<()> {
        Ok(())
    }
}

impl dyn Network + '_ {
    /// The text of a config.json that opens as this network.
    pub fn to_json(&self) -> Result<String> {
        to_text(&self.settings(), &self.unknown().other, "config.json")
    }

    /// Every parameter, in the order in which the forward pass meets them; an error where they are more than there can be.
    pub fn parameters(&self) -> Result<Vec<Parameter>> {
        let parameters = self.small(|_, scope, _| scope.into_parameters())?;
        count(&parameters)?;
        Ok(parameters)
    }

    /// Names of the weights of its inner layers, each a matrix [O, ...]: no tables, no norms and none of [`Network::outer_layers`].
    pub fn hidden_weights(&self) -> Result<BTreeSet<String>> {
        let inner = |p: &Parameter| p.layer().is_some_and(|layer| !self.outer_layers().contains(&layer));
        Ok(self.parameters()?.into_iter().filter(inner).map(|p| p.name).collect())
    }

    /// Its layers, in the order in which the forward pass meets them. The values that they read are of no graph that is left.
    pub fn layers(&self) -> Result<Vec<Layer>> {
        self.small(|_, scope, _| scope.into_met().layers)
    }

    /// Its program for the smallest image, and the output.
    pub fn smallest(&self) -> Result<(Graph, ValueId)> {
        self.small(|graph, _, output| (graph, output))
    }

    /// Its program for one image of `size` [H, W], what that has met, and the output.
    pub(crate) fn program<T>(&self, size: [usize; 2], met: impl FnOnce(Graph, Scope, ValueId) -> T) -> Result<T> {
        let signature = self.signature();
        let mut g = Graph::new();
        let x = g.input("x", TensorType::f32(&[1, size[0], size[1], signature.in_channels]))?;
        let t = g.input("t", TensorType::f32(&[1]))?;
        let condition = |c: &Condition| g.input(c.name.clone(), c.kind.ty(1, size));
        let conditions = memory::try_collect(signature.conditions.iter().map(condition), "conditions")?;
        let scope = Scope::new("");
        let output = self.build(&mut g, &scope, &Inputs { x, t, conditions: &conditions })?;
        Ok(met(g, scope, output))
    }

    /// The same for the smallest image.
    fn small<T>(&self, met: impl FnOnce(Graph, Scope, ValueId) -> T) -> Result<T> {
        self.program([self.signature().size_multiple; 2], met)
    }
}

/// How many numbers parameters have; an error where they are more than there can be.
pub(super) fn count(parameters: &[Parameter]) -> Result<u64> {
    let count = |p: &Parameter| p.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64));
    let total = parameters.iter().try_fold(0u64, |sum, p| sum.checked_add(count(p)?)).filter(|n| *n <= MAX_PARAMETERS);
    total.ok_or_else(|| Error::invalid(format!("the model has more than {MAX_PARAMETERS} parameters")))
}

/// The keys of some settings that differ from others, with their values.
pub fn patch_between(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
    to.iter().filter(|(key, value)| from.get(*key) != Some(value)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The names of a list of choices, as a config.json has them.
pub fn names<E: Named>(values: &[E]) -> Value {
    values.iter().map(|v| v.name()).collect()
}
