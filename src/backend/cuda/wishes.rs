//! What the backend asks of the passes.

use super::conv2d::{Tiling, packed_len};
use super::group_norm;
use super::shared::conv;
use super::target::Target;
use crate::graph::ops::{ConvGeometry, PackFor};
use crate::graph::passes::{ConvSite, Wishes};
use crate::tensor::DType;

impl Wishes for Target {
    fn packed_len(&self, purpose: PackFor, geometry: ConvGeometry, weights: &[usize], dtype: DType) -> Option<usize> {
        packed_len(purpose, geometry, weights, dtype)
    }

    fn merges_products(&self) -> bool {
        true
    }

    /// A block's tile must lie in one image.
    fn gives_moments(&self, conv: &ConvSite) -> bool {
        (conv.y[1] * conv.y[2]).is_multiple_of(Tiling::of_conv(conv, conv.op.norm.is_some(), *self).rows)
    }

    /// Every tap and tile of columns normalises anew what a norm by itself would once.
    fn normalises(&self, conv: &ConvSite, groups: usize) -> bool {
        let ([n, _, _, c], [_, p, q, o]) = (conv.x, conv.y);
        let tiling = Tiling::of_conv(conv, true, *self);
        let [r, s] = conv.op.geometry.kernel;
        let work = [p, q, c, r, s, o.div_ceil(tiling.columns)].into_iter().fold(n, usize::saturating_mul);
        let fits = c <= conv::NORM_CHANNELS && c / groups <= self.tuning().conv.norm_group && (p * q).is_multiple_of(tiling.rows);
        fits && work <= self.tuning().conv.worth_normalising * self.multiprocessors as usize
    }

    fn norms_by_moments(&self, channels: usize, groups: usize) -> bool {
        group_norm::takes_moments(channels, groups, *self)
    }
}
