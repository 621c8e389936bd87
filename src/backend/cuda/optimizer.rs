//! Global norm, clipping, AdamW and the moving average on `cuda/optimizer.cu`.

use super::launch::{Arg, Launch, Lowered, Param};
use super::shared::optimizer::THREADS;
use super::site::Site;
use super::target::Target;
use crate::backend::as_bytes;
use crate::error::{Error, Result};
use crate::graph::ops::{AdamW, ClipScale, Ema};

/// Cuts tensors of these sizes into pieces, one a block: triples of tensor, start and length as the kernels take them, and their number.
pub(super) fn pieces(sizes: impl Iterator<Item = usize>, target: Target) -> Result<(Arg, usize)> {
    let piece = target.tuning().optimizer_piece;
    let mut cut: Vec<i32> = vec![];
    for (i, size) in sizes.enumerate() {
        let size = i32::try_from(size).map_err(|_| Error::unsupported(format!("a tensor of {size} elements")))?;
        for start in (0..size).step_by(piece) {
            cut.extend([i as i32, start, (size - start).min(piece as i32)]);
        }
    }
    let count = cut.len() / 3;
    Ok((Arg::Data(as_bytes(&cut).to_vec()), count))
}

pub(super) fn global_norm(site: &Site) -> Result<Lowered> {
    let (cut, count) = pieces(site.inputs.iter().map(|ty| ty.numel()), site.target)?;
    let tensors = Arg::Table((0..site.inputs.len()).map(Arg::Input).collect());
    let squares = Launch::new("fewstep_square_sums_f32", [count, 1, 1], THREADS)?.arg(tensors).arg(cut).scratch(0);
    let norm = Launch::new("fewstep_norm_f32", [1; 3], THREADS)?.scratch(0).output(0).int(count)?;
    Ok(Lowered { launches: vec![squares, norm], workspace: count * size_of::<f32>() })
}

pub(super) fn clip_scale(op: &ClipScale, site: &Site) -> Result<Lowered> {
    let launch = Launch::new("fewstep_clip_scale_f32", [1; 3], 32)?.input(0).input(1).output(0);
    Ok(launch.int(site.inputs[1].numel())?.value(op.max_norm).into())
}

/// What the AdamW kernel takes of the settings.
#[repr(C)]
#[derive(Clone, Copy)]
struct Settings {
    beta1: f32,
    rest1: f32,
    log_beta1: f32,
    beta2: f32,
    rest2: f32,
    log_beta2: f32,
    eps: f32,
    weight_decay: f32,
}

// SAFETY: eight f32, as `AdamWSettings` in cuda/optimizer.cu.
unsafe impl Param for Settings {}

pub(super) fn adamw(op: &AdamW, site: &Site) -> Result<Lowered> {
    let (cut, count) = pieces(site.outputs.iter().step_by(3).map(|ty| ty.numel()), site.target)?;
    // p, m and v are read and written in place: the results are the storages.
    let own = |i: usize| [Arg::Output(3 * i), Arg::Output(3 * i + 1), Arg::Output(3 * i + 2), Arg::Input(AdamW::HEAD + 4 * i + 3)];
    let settings = Settings {
        beta1: op.beta1 as f32,
        rest1: (1.0 - op.beta1) as f32,
        log_beta1: op.beta1.ln() as f32,
        beta2: op.beta2 as f32,
        rest2: (1.0 - op.beta2) as f32,
        log_beta2: op.beta2.ln() as f32,
        eps: op.eps as f32,
        weight_decay: op.weight_decay as f32,
    };
    let launch = Launch::new("fewstep_adamw_f32", [count, 1, 1], THREADS)?.input(0).input(1).input(2);
    Ok(launch.arg(Arg::Table((0..op.parameters).flat_map(own).collect())).arg(cut).value(settings).into())
}

pub(super) fn ema(op: &Ema, site: &Site) -> Result<Lowered> {
    let (cut, count) = pieces(site.outputs.iter().map(|ty| ty.numel()), site.target)?;
    let own = |i: usize| [Arg::Output(i), Arg::Input(Ema::HEAD + 2 * i + 1)];
    let launch = Launch::new("fewstep_ema_f32", [count, 1, 1], THREADS)?.input(0).input(1);
    Ok(launch.arg(Arg::Table((0..op.parameters).flat_map(own).collect())).arg(cut).into())
}
