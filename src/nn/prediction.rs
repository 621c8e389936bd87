//! One evaluation of a model as samplers and losses see it: x_t, a timestep and conditions in, the prediction out.

use super::conditions::{Condition, ConditionKind};
use super::model::Model;
use super::network::Inputs;
use super::per_step::When;
use super::scope::{Feature, Met, Scope};
use crate::error::{Error, Result};
use crate::graph::ops::{Concat, IntAffine, Slice};
use crate::graph::{Graph, ValueId};
use crate::memory;

/// What the channels of a model's network are.
#[derive(Clone, Debug, PartialEq)]
pub struct Roles {
    /// Channels of x_t and of the prediction.
    pub channels: usize,
    /// What the model takes beside x_t and the timestep, in this order; planes that the network reads beside x_t are the last.
    pub conditions: Vec<Condition>,
}

/// Classifier-free guidance (Ho and Salimans 2021, equation 6, in the form of its w + 1 = scale): out(null) + scale (out(label) - out(null)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// 1 is the conditional prediction alone.
    pub scale: f64,
    /// The class that the model was trained to read as none.
    pub null_label: i32,
}

impl Guidance {
    /// That of a scale; `None` for 1, which is none.
    pub fn of(scale: f64, null_label: i32) -> Option<Self> {
        (scale != 1.0).then_some(Self { scale, null_label })
    }
}

impl Model {
    /// What the network's channels are: one that gives twice the channels that it reads predicts a variance behind the mean; channels that it reads beyond
    /// those of the prediction are planes beside x_t.
    pub fn roles(&self) -> Result<Roles> {
        let signature = self.network.signature();
        let (reads, gives) = (signature.in_channels, signature.out_channels);
        let channels = if gives == 2 * reads { reads } else { gives };
        let planes = reads.checked_sub(channels).ok_or_else(|| {
            let expected = "as many, fewer (the others are planes beside x_t) or twice as many (with a variance)";
            Error::unsupported(format!("the network gives {gives} channels for {reads}; a model that can be sampled gives {expected}"))
        })?;
        let mut conditions = signature.conditions;
        if planes > 0 {
            let planes = Condition { name: "planes".to_owned(), kind: ConditionKind::Planes { channels: planes } };
            memory::push(&mut conditions, planes, "conditions")?;
        }
        Ok(Roles { channels, conditions })
    }

    /// Refuses guidance for what it cannot be done with.
    pub fn check_guidance(&self, guidance: &Guidance) -> Result<()> {
        let classes = self.classes().ok_or_else(|| Error::invalid("guidance_scale is not 1, but the model has no classes"))?;
        if !guidance.scale.is_finite() || guidance.scale.abs() > f64::from(f32::MAX) {
            return Err(Error::invalid(format!("guidance_scale is {}; it must be finite", guidance.scale)));
        }
        if usize::try_from(guidance.null_label).is_ok_and(|label| label < classes) {
            return Ok(());
        }
        Err(Error::invalid(format!("null_label is {}; guidance needs the model's class for none, in 0..{classes}", guidance.null_label)))
    }
}

/// A prediction, and what blocks have given on the way.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// [B,H,W,channels].
    pub output: ValueId,
    /// Of a guided prediction: those of the evaluation with the labels.
    pub features: Vec<Feature>,
}

/// A model whose parameters are states of a graph.
#[derive(Clone, Copy, Debug)]
pub struct Predictor<'a> {
    /// Architecture and what its output reads as.
    pub model: &'a Model,
    /// Before the parameters' names.
    pub prefix: &'a str,
    /// If the prediction is guided.
    pub guidance: Option<Guidance>,
    /// If the scales of its whole numbers learn: before the names of their changes ([`Scope::with_scale_changes`]).
    pub scale_changes: Option<&'a str>,
}

impl<'a> Predictor<'a> {
    /// Without guidance.
    pub fn new(model: &'a Model, prefix: &'a str) -> Self {
        Self { model, prefix, guidance: None, scale_changes: None }
    }

    /// The prediction [B,H,W,channels] for x_t [B,H,W,channels] at timesteps f32 [B], or those and the steps that they are of; `conditions` are the model's, in
    /// their order.
    pub fn predict(&self, g: &mut Graph, x_t: ValueId, at: impl Into<When>, conditions: &[ValueId]) -> Result<ValueId> {
        self.predicted(g, x_t, at, conditions).map(|predicted| predicted.output)
    }

    /// The same with features.
    pub fn predicted(&self, g: &mut Graph, x_t: ValueId, at: impl Into<When>, conditions: &[ValueId]) -> Result<Predicted> {
        let (roles, at) = (self.model.roles()?, at.into());
        if conditions.len() != roles.conditions.len() {
            return Err(Error::internal(format!("{} conditions for a model with {}", conditions.len(), roles.conditions.len())));
        }
        let Some(guidance) = self.guidance.filter(|guidance| guidance.scale != 1.0) else { return self.evaluate(g, &roles, x_t, at, conditions) };
        let without = roles.conditions.iter().zip(conditions).map(|(c, given)| match c.kind {
            // null = label - label + null: a value of every image, whatever their number.
            ConditionKind::Labels { .. } => g.push1(IntAffine { scale: -1, shift: guidance.null_label }.into(), &[*given, *given]),
            _ => Ok(*given),
        });
        let without = memory::try_collect(without, "conditions")?;
        let none = self.evaluate(g, &roles, x_t, at, &without)?.output;
        let label = self.evaluate(g, &roles, x_t, at, conditions)?;
        Ok(Predicted { output: g.weighted_sum(&[(1.0 - guidance.scale, none), (guidance.scale, label.output)])?, ..label })
    }

    /// The mean of the output.
    fn evaluate(&self, g: &mut Graph, roles: &Roles, x_t: ValueId, at: When, conditions: &[ValueId]) -> Result<Predicted> {
        let (out, Met { features, .. }) = self.output_and_met(g, x_t, at, conditions)?;
        let mean = |g: &mut Graph| g.push1(Slice { start: 0, len: roles.channels }.into(), &[out]);
        let output = if g.shape(out).last() == Some(&roles.channels) { out } else { mean(g)? };
        Ok(Predicted { output, features })
    }

    /// All that the network gives [B,H,W,out_channels]: a variance too, behind the mean. Not guided.
    pub fn output(&self, g: &mut Graph, x_t: ValueId, at: impl Into<When>, conditions: &[ValueId]) -> Result<ValueId> {
        self.output_and_met(g, x_t, at, conditions).map(|(out, _)| out)
    }

    /// The same, and what the network is made of.
    pub fn output_and_met(&self, g: &mut Graph, x_t: ValueId, at: impl Into<When>, conditions: &[ValueId]) -> Result<(ValueId, Met)> {
        let When { t, step } = at.into();
        let own = self.model.network.signature().conditions.len();
        let x = match conditions.get(own) {
            None => x_t,
            Some(planes) => g.push1(Concat.into(), &[x_t, *planes])?,
        };
        let steps = self.model.steps_read(g, step)?;
        let scope =
            Scope::of(self.prefix, &self.model.weights).quantized(self.model.quantization.as_ref()).with_scale_changes(self.scale_changes).of_steps(steps);
        let out = self.model.network.build(g, &scope, &Inputs { x, t, conditions: &conditions[..own] })?;
        Ok((out, scope.into_met()))
    }
}
