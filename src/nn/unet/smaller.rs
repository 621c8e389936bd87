//! The smaller U-Nets that a search of students tries.

use super::config::{DownBlock, UNetConfig, UpBlock};
use super::student;
use crate::nn::network::patch_between;
use serde_json::{Map, Value};

/// Shares of the teacher's channels.
const WIDTHS: [usize; 4] = [4, 3, 2, 1];
/// What they are shares of.
const WHOLE: usize = 4;
/// The most stages that are left out.
const FEWER_STAGES: usize = 2;

/// Patches of every combination of: fewer stages, fewer channels (3/4, 1/2 and 1/4), half as many residual blocks or one, attention at the lowest resolution
/// alone or none, linear attention, no mid block, half the time embedding. The first is the teacher itself, an empty patch.
pub(super) fn smaller(teacher: &UNetConfig) -> Vec<Map<String, Value>> {
    let axes: [fn(&UNetConfig) -> Vec<UNetConfig>; 6] = [fewer_stages, narrower, fewer_blocks, less_attention, without_mid, smaller_time];
    let all = axes.iter().fold(vec![teacher.clone()], |configs, axis| configs.iter().flat_map(axis).collect());
    let settings = teacher.to_settings();
    let mut patches: Vec<Map<String, Value>> = vec![];
    for config in all.iter().filter(|config| config.validate().is_ok()) {
        let patch = patch_between(&settings, &config.to_settings());
        if !patches.contains(&patch) {
            patches.push(patch);
        }
    }
    patches
}

/// The innermost ones go.
fn fewer_stages(c: &UNetConfig) -> Vec<UNetConfig> {
    let all = c.block_out_channels.len();
    let kept = (all.saturating_sub(FEWER_STAGES).max(1)..=all).rev();
    kept.map(|kept| student::outermost(c, kept)).collect()
}

/// All stages alike, in whole groups of the norms, and in whole heads where the teacher's are.
fn narrower(c: &UNetConfig) -> Vec<UNetConfig> {
    let groups = lcm(c.norm_num_groups, c.attn_norm_num_groups.unwrap_or(1));
    let of = |channels: usize, share: usize| {
        let heads = c.attention_head_dim.filter(|dim| channels.is_multiple_of(lcm(groups, *dim))).unwrap_or(1);
        let unit = lcm(groups, heads);
        (channels * share / WHOLE / unit * unit).max(unit)
    };
    let narrow = |share: usize| UNetConfig { block_out_channels: c.block_out_channels.iter().map(|channels| of(*channels, share)).collect(), ..c.clone() };
    WIDTHS.into_iter().map(|share| if share == WHOLE { c.clone() } else { narrow(share) }).collect()
}

fn fewer_blocks(c: &UNetConfig) -> Vec<UNetConfig> {
    [c.layers_per_block, c.layers_per_block.div_ceil(2), 1].map(|layers_per_block| UNetConfig { layers_per_block, ..c.clone() }).into()
}

fn less_attention(c: &UNetConfig) -> Vec<UNetConfig> {
    let innermost = c.down_block_types.len() - 1;
    let kept = |at: usize, stage: usize| at == stage;
    let none = UNetConfig {
        down_block_types: vec![DownBlock::Plain; innermost + 1],
        up_block_types: vec![UpBlock::Plain; innermost + 1],
        add_attention: false,
        ..c.clone()
    };
    let lowest = UNetConfig {
        down_block_types: c.down_block_types.iter().enumerate().map(|(i, block)| if kept(i, innermost) { *block } else { DownBlock::Plain }).collect(),
        up_block_types: c.up_block_types.iter().enumerate().map(|(i, block)| if kept(i, 0) { *block } else { UpBlock::Plain }).collect(),
        ..c.clone()
    };
    [c, &lowest, &none].into_iter().flat_map(|config| [config.clone(), config.with_linear_attention()]).collect()
}

fn without_mid(c: &UNetConfig) -> Vec<UNetConfig> {
    vec![c.clone(), UNetConfig { mid_block_type: None, ..c.clone() }]
}

fn smaller_time(c: &UNetConfig) -> Vec<UNetConfig> {
    vec![c.clone(), UNetConfig { time_embedding_dim: Some((c.time_embed_dim() / 2).max(1)), ..c.clone() }]
}

fn lcm(a: usize, b: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a.max(1)
    };
    a / gcd(a, b) * b
}
