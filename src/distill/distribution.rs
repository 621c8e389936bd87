//! A loss between distributions: the images that the student's runs end in are to be spread as the teacher's are. Regression onto a teacher's end gives the mean
//! of what a small student cannot tell apart, which is blurred; this does not ask which noise an image comes from. The features are those of several fixed
//! networks with random weights (Embedding Loss, arXiv 2604.22379), so that nothing is trained beside the student, and nothing has to be shipped.
//!
//! In each network's features it is `MMD²_u` of Gretton et al., "A kernel two-sample test", JMLR 2012, equation 4, over pairs of rows: each is the end x of the
//! student's run and the end y of the teacher's from the same noise, and the mean over all i ≠ j of `k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j)` is
//! unbiased whatever the two have in common; it is exactly 0 where they are the same. The kernel is the cubic one of Bińkowski et al. (arXiv 1801.01401),
//! `k(u, v) = (u·v / d + 1)³`, which has no width that must be chosen.

use super::context::Needs;
use super::conv_net::ConvNet;
use super::points::Point;
use crate::error::{Error, Result};
use crate::graph::ops::UnaryKind;
use crate::graph::{Graph, ValueId};
use crate::memory;
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// The key of the first network's weights, "endpoint" as bytes; the others follow. No evaluation's: what students are judged by is not what they have learned.
pub const SEED: u64 = u64::from_le_bytes(*b"endpoint");
/// The most networks.
const MOST_NETS: usize = 64;
/// The most rows, all pairs of which are compared.
const MOST_ROWS: usize = 4096;

/// The ends of the student's runs and of the teacher's are to be spread alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistributionTerm {
    /// Networks whose features are compared; the loss is the mean over them.
    pub nets: usize,
    /// Factor on this term.
    pub weight: f32,
}

impl Default for DistributionTerm {
    fn default() -> Self {
        Self { nets: 4, weight: 0.1 }
    }
}

impl DistributionTerm {
    /// Where the student is evaluated: along its whole run, through which the gradient flows back.
    pub const POINT: Point = Point::Chain;

    /// What it cannot be built without.
    pub fn needs(&self) -> Needs {
        Self::POINT.kind().needs
    }

    /// Refuses numbers that mean nothing, for steps of so many rows that are computed in this type.
    pub fn check(&self, batch: usize, precision: DType) -> Result<()> {
        if !(1..=MOST_NETS).contains(&self.nets) {
            return Err(Error::invalid(format!("distribution_nets is {}; it must be in 1..={MOST_NETS}", self.nets)));
        }
        if !self.weight.is_finite() {
            return Err(Error::invalid(format!("distribution_weight is {}; it must be finite", self.weight)));
        }
        if !(2..=MOST_ROWS).contains(&batch) {
            return Err(Error::invalid(format!("batch is {batch}; distributions are compared by all pairs of its rows, 2 to {MOST_ROWS}")));
        }
        if precision != DType::F32 {
            return Err(Error::unsupported(format!(
                "precision is {precision:?}; distributions are compared by small differences of large sums, in F32 alone: use that, or no distribution"
            )));
        }
        Ok(())
    }

    /// Before the names of a network's weights.
    fn prefix(number: usize) -> String {
        format!("distribution.{number}.")
    }

    /// The weights of all networks for images [H, W, C], by their names in a program.
    pub fn weights(&self, image: [usize; 3]) -> Result<Vec<(String, Arc<Tensor>)>> {
        let (net, mut all) = (ConvNet { image, classes: None }, vec![]);
        for number in 0..self.nets {
            for parameter in net.initial(SEED.wrapping_add(number as u64))? {
                memory::push(&mut all, (Self::prefix(number) + &parameter.name, parameter.initial), "random networks")?;
            }
        }
        Ok(all)
    }

    /// Appends it for the ends [B,H,W,C] of the student's runs and of the teacher's from the same noises: [1], without the term's factor.
    pub fn loss(&self, g: &mut Graph, ends: [ValueId; 2]) -> Result<ValueId> {
        let &[_, h, w, c] = g.shape(ends[0]) else { return Err(Error::internal("ends that are no images")) };
        let net = ConvNet { image: [h, w, c], classes: None };
        let mut distances = memory::with_capacity(self.nets, "random networks")?;
        for number in 0..self.nets {
            let prefix = Self::prefix(number);
            let [x, y] = ends.map(|end| net.append(g, &prefix, end).map(|outputs| outputs.features));
            distances.push(distance(g, [x?, y?])?);
        }
        let all = g.concat(&distances)?;
        g.mean(all)
    }
}

/// MMD²_u [1] of pairs of features [B, d].
fn distance(g: &mut Graph, [x, y]: [ValueId; 2]) -> Result<ValueId> {
    let rows = g.shape(x)[0];
    let (within, between) = ([kernel(g, x, x)?, kernel(g, y, y)?], kernel(g, x, y)?);
    let of_pairs = g.weighted_sum(&[(1.0, within[0]), (1.0, within[1]), (-2.0, between)])?;
    // All pairs but those of a row with itself, of which B (B - 1) are left of the B² that the mean divides by.
    let mut others = Tensor::zeros(DType::F32, &[rows, rows])?;
    others.as_mut_slice::<f32>()?.iter_mut().enumerate().filter(|(at, _)| at % (rows + 1) != 0).for_each(|(_, v)| *v = rows as f32 / (rows - 1) as f32);
    let others = g.constant("other.rows", others)?;
    let counted = g.mul(of_pairs, others)?;
    g.mean(counted)
}

/// The kernel of all pairs [B, B].
fn kernel(g: &mut Graph, u: ValueId, v: ValueId) -> Result<ValueId> {
    let dims = g.shape(u)[1];
    let products = g.linear(u, v, None)?;
    let base = g.affine(products, 1.0 / dims as f32, 1.0)?;
    let square = g.unary(UnaryKind::Square, base)?;
    g.mul(square, base)
}
