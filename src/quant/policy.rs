//! Which layers compute in whole numbers.

use crate::error::{Error, Result};
use crate::graph::ops::MOST_PRODUCTS;
use crate::memory;
use crate::nn::Layer;

/// Paths of layers that stay in float, `*` standing for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A layer that one of these names stays.
    pub keep: Vec<String>,
}

impl Default for Policy {
    /// The ends of the network, shortcuts, and all that only time and labels go through: what they lose is seen at once, and they take no time.
    fn default() -> Self {
        let keep = ["conv_in", "conv_out", "*.conv_shortcut", "time_embedding.*", "class_embedding.*", "*.time_emb_proj"];
        Self { keep: keep.map(str::to_owned).to_vec() }
    }
}

/// Whether a pattern names a path.
fn names(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = path.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl Policy {
    /// Those of a network's layers that are quantised; an error where a pattern names none, for it was meant to.
    pub fn choose<'a>(&self, layers: &'a [Layer]) -> Result<Vec<&'a Layer>> {
        let defaults = Self::default().keep;
        if let Some(pattern) = self.keep.iter().find(|p| !defaults.contains(p) && !layers.iter().any(|layer| names(p, &layer.path))) {
            let known: Vec<&str> = layers.iter().map(|layer| layer.path.as_str()).take(8).collect();
            return Err(Error::invalid(format!("no layer is named by {pattern:?}; the model's layers begin with {}", known.join(", "))));
        }
        let stays = |layer: &Layer| self.keep.iter().any(|p| names(p, &layer.path)) || layer.products > MOST_PRODUCTS;
        let chosen = memory::collect(layers.iter().filter(|layer| !stays(layer)), "layers")?;
        if chosen.is_empty() {
            return Err(Error::invalid("all layers of the model are to stay in float: there is nothing to quantise"));
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_what_they_say() {
        for (pattern, path, expected) in [
            ("conv_in", "conv_in", true),
            ("conv_in", "conv_in.x", false),
            ("*.conv_shortcut", "up_blocks.0.resnets.1.conv_shortcut", true),
            ("*.conv_shortcut", "conv_shortcut", false),
            ("up_blocks.*.conv1", "up_blocks.0.resnets.1.conv1", true),
            ("up_blocks.*.conv1", "up_blocks.0.resnets.1.conv11", false),
            ("*", "anything", true),
            ("a*b*c", "a.b.b.c", true),
            ("a*b*c", "a.c.b", false),
        ] {
            assert_eq!(names(pattern, path), expected, "{pattern} {path}");
        }
    }
}
