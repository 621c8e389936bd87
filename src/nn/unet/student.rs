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
        let types = outermost(teacher, own).to_settings();
        for key in ["down_block_types", "up_block_types"] {
            if !patch.contains_key(key) {
                settings.insert(key.to_owned(), types[key].clone());
            }
        }
    }
    if let (Some(groups), false, Some(_)) = (patch.get("norm_num_groups"), patch.contains_key("attn_norm_num_groups"), teacher.attn_norm_num_groups) {
        settings.insert("attn_norm_num_groups".to_owned(), groups.clone());
    }
    Ok(())
}

/// The same with its `kept` outermost stages.
pub(super) fn outermost(c: &UNetConfig, kept: usize) -> UNetConfig {
    let dropped = c.block_out_channels.len() - kept;
    UNetConfig {
        block_out_channels: c.block_out_channels[..kept].to_vec(),
        down_block_types: c.down_block_types[..kept].to_vec(),
        up_block_types: c.up_block_types[dropped..].to_vec(),
        ..c.clone()
    }
}

/// Which block a student's block takes its weights from, as BK-SDM removes blocks (Kim et al. 2023, section 3.2): of a down stage the last ones are left out,
/// of an up stage those in the middle, since its first block reads the stage before and its last the narrower skip connection. Fewer stages are matched from
/// the outside: the innermost ones are left out. Attention goes with its residual block. More blocks than the teacher has are of no role.
pub(super) fn role(student: &UNetConfig, name: &str, teacher: &Map<String, Value>) -> Option<String> {
    let stages = teacher["block_out_channels"].as_array().map_or(0, Vec::len);
    let last = teacher["layers_per_block"].as_u64().and_then(|layers| usize::try_from(layers).ok())?;
    let mut parts: Vec<String> = name.split('.').map(str::to_owned).collect();
    if parts.len() < 5 || parts[0] != "up_blocks" {
        return Some(name.to_owned());
    }
    let [stage, layer] = [1, 3].map(|at| parts[at].parse::<usize>().ok());
    parts[1] = (stage? + stages).checked_sub(student.block_out_channels.len())?.to_string();
    if parts[2] == "resnets" || parts[2] == "attentions" {
        let layer = layer?;
        let is_last = layer == student.layers_per_block;
        if !is_last && layer >= last {
            return None;
        }
        parts[3] = if is_last { last } else { layer }.to_string();
    }
    Some(parts.join("."))
}
