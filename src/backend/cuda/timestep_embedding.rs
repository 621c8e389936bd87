//! The sinusoidal timestep embedding on `cuda/timestep_embedding.cu`.

use super::launch::{Arg, Launch, Lowered};
use super::shared::timestep_embedding::THREADS;
use super::site::Site;
use crate::backend::as_bytes;
use crate::error::Result;
use crate::graph::ops::TimestepEmbedding;

pub(super) fn timestep_embedding(op: &TimestepEmbedding, site: &Site) -> Result<Lowered> {
    let n = site.outputs[0].numel();
    let frequencies = Arg::Data(as_bytes(&op.frequencies()).to_vec());
    let launch = Launch::over("fewstep_timestep_embedding_f32", n, THREADS)?.input(0).arg(frequencies).output(0);
    Ok(launch.int(n)?.int(op.dim)?.int(usize::from(op.flip_sin_to_cos))?.into())
}
