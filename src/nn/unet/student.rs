//! Smaller U-Nets than their teachers: what follows from a change of the config, and which of the teacher's weights fit.

use super::config::UNetConfig;
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// With fewer stages the outermost ones stay, so that resolutions keep their kind of block; the attention's own number of groups follows that of all norms.
pub(super) fn adapt(teacher: &UNetConfig, settings: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<()> {
    if let Some(channels) = patch.get("block_out_channels").and_then(Value::as_array) {
        let (own, stages) = (channels.len(), teacher.block_out_channels.len());
        if own == 0 || own > stages {
            return Err(Error::invalid(format!("config_patch: block_out_channels has {own} stages; a student has 1 to {stages} (the teacher's)")));
        }
        for (key, kept) in [("down_block_types", 0..own), ("up_block_types", stages - own..stages)] {
            if let (None, Some(types)) = (patch.get(key), settings.get_mut(key).and_then(Value::as_array_mut)) {
                *types = types[kept].to_vec();
            }
        }
    }
    if let (Some(groups), false, Some(_)) = (patch.get("norm_num_groups"), patch.contains_key("attn_norm_num_groups"), teacher.attn_norm_num_groups) {
        settings.insert("attn_norm_num_groups".to_owned(), groups.clone());
    }
    Ok(())
}

/// The last residual block of an up stage has the teacher's last one as its role, since both read the narrower skip connection; stages are matched from the
/// outside.
pub(super) fn role(student: &UNetConfig, name: &str, teacher: &Map<String, Value>) -> String {
    let stages = teacher["block_out_channels"].as_array().map_or(0, Vec::len);
    let layers = &teacher["layers_per_block"];
    let mut parts: Vec<String> = name.split('.').map(str::to_owned).collect();
    if parts.len() > 4 && parts[0] == "up_blocks" {
        if let Ok(stage) = parts[1].parse::<usize>() {
            parts[1] = (stage + stages).saturating_sub(student.block_out_channels.len()).to_string();
        }
        if (parts[2] == "resnets" || parts[2] == "attentions") && parts[3] == student.layers_per_block.to_string() {
            parts[3] = layers.to_string();
        }
    }
    parts.join(".")
}
