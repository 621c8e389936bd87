//! What a convolution reads that is staged: the statistics of a norm, if there is one; then x, normalised, rounded to where the kernel reads it.

use super::group_norm::Statistics;
use super::kernel::Io;
use super::kernels::gemm::MOST_SOURCES;
use super::kernels::int8::stage::Element;
use super::kernels::int8::{Input, Norm, Source, Staging};
use crate::error::Result;
use crate::graph::TensorType;
use crate::graph::ops::{FusedConv2d, NormOperands};
use std::ops::Range;

pub(super) struct StagedInput {
    /// The operands that x is joined of.
    x: Range<usize>,
    norm: Option<AbsorbedNorm>,
}

struct AbsorbedNorm {
    statistics: Statistics,
    at: NormOperands,
    silu: bool,
}

impl StagedInput {
    /// That of an op whose norm, if it has one, comes without moments.
    pub fn of(op: &FusedConv2d, types: &[&TensorType]) -> Result<Self> {
        let (at, joined) = (op.operands(), TensorType::f32(&op.extents(types)?[0]));
        let norm = op.norm.as_ref().zip(at.norm).map(|(norm, own)| {
            let statistics = Statistics::new(&norm.norm, &joined, &types[at.x.clone()]);
            AbsorbedNorm { statistics, at: own, silu: norm.norm.silu }
        });
        Ok(Self { x: at.x, norm })
    }

    /// Floats of scratch that [`StagedInput::write`] needs.
    pub fn workspace(&self) -> usize {
        self.norm.as_ref().map_or(0, |norm| norm.statistics.workspace())
    }

    /// Writes all of `out` that kernels look at.
    pub fn write<E: Element>(&self, io: &Io, staging: &Staging, rounding: E, out: &mut [u8], scratch: &mut [f32]) -> Result<()> {
        let found = match &self.norm {
            Some(norm) => Some(norm.statistics.find(io, [io.input(norm.at.gamma), io.input(norm.at.beta)], scratch, |_, _, _, _| {})?),
            None => None,
        };
        let mut sources = [Source { x: &[], rounding }; MOST_SOURCES];
        self.x.clone().zip(&mut sources).for_each(|(i, source)| source.x = io.input(i));
        let input = Input {
            sources: &sources[..self.x.len()],
            norm: found.map(|[factor, shift]| Norm { factor, shift }),
            silu: self.norm.as_ref().is_some_and(|norm| norm.silu),
            double: false,
        };
        input.stage(staging, io.isa, out, io.pool)
    }
}
