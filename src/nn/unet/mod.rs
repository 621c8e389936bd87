//! diffusers' `UNet2DModel`.

mod build;
mod config;
mod smaller;
mod student;
mod validate;

pub use config::UNetConfig;

use super::conditions::{Condition, ConditionKind};
use super::network::{Family, Inputs, Network, Signature, Unknown};
use super::scope::Scope;
use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId};
use config::ClassEmbedding;
use serde_json::{Map, Value};
use std::sync::Arc;

/// The family.
pub static FAMILY: Family = Family {
    class: config::CLASS,
    read: |fields| Ok(Arc::new(UNetConfig::from_fields(fields)?)),
    recognises: |config| config.get("block_out_channels").is_some(),
};

impl Network for UNetConfig {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn signature(&self) -> Signature {
        let classes = match self.class_embedding() {
            ClassEmbedding::None => None,
            ClassEmbedding::Table(n) => Some(n),
            ClassEmbedding::Timestep => Some(self.num_class_embeds.unwrap_or(i32::MAX as usize)),
        };
        let labels = classes.map(|classes| Condition { name: "labels".to_owned(), kind: ConditionKind::Labels { classes } });
        Signature {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            size: self.sample_size.map(|(h, w)| [h, w]),
            size_multiple: self.size_multiple(),
            widest: self.block_out_channels.iter().copied().chain([self.in_channels, self.out_channels]).max().unwrap_or(1),
            conditions: labels.into_iter().collect(),
        }
    }

    fn settings(&self) -> Map<String, Value> {
        self.to_settings()
    }

    fn unknown(&self) -> &Unknown {
        &self.unknown
    }

    fn build(&self, g: &mut Graph, scope: &Scope, at: &Inputs) -> Result<ValueId> {
        build::build(self, g, scope, at)
    }

    fn adapt(&self, settings: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<()> {
        student::adapt(self, settings, patch)
    }

    fn outer_layers(&self) -> &'static [&'static str] {
        &["conv_in", "conv_out", "class_embedding.linear_1", "class_embedding.linear_2"]
    }

    fn smaller(&self) -> Vec<Map<String, Value>> {
        smaller::smaller(self)
    }

    fn role(&self, name: &str, teacher: &dyn Network) -> Option<String> {
        student::role(self, name, &teacher.settings())
    }

    fn check_trainable(&self) -> Result<()> {
        if self.dropout > 0.0 {
            return Err(Error::unsupported(format!("dropout is {}; training supports 0 only", self.dropout)));
        }
        Ok(())
    }
}
