//! What Muon does besides AdamW (Jordan 2024, "Muon: An optimizer for hidden layers in neural networks"): a momentum that looks ahead, matrices made nearly
//! orthogonal, and the step along them, each over all matrices of a set in one op.

use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::op::{Alias, Narrow, OpDef, Updated, arity, expect_shape, floats};
use crate::graph::reference::Array;
use crate::memory;
use ndarray::Array2;

/// What an op takes for a matrix: a tensor [O, ...] of two dimensions or more as [O, K], K the product of all but the first.
pub fn matrix(shape: &[usize]) -> Result<[usize; 2]> {
    match shape {
        [rows, rest @ ..] if !rest.is_empty() && !shape.contains(&0) => Ok([*rows, rest.iter().product()]),
        _ => Err(Error::shape(format!("needs a matrix, found shape {shape:?}"))),
    }
}

/// Heavy-ball momentum with Nesterov's look-ahead over P parameters: m = momentum m + scale g, u = scale g + momentum m with the new m. Operands: grad scale
/// [1], then m, g of each. Results: the new m of each, then u of each. A NaN scale changes nothing and gives m as u.
#[derive(Clone, Debug, PartialEq)]
pub struct Momentum {
    /// The share of m that stays.
    pub momentum: f64,
    /// P.
    pub parameters: usize,
}

impl Momentum {
    /// Operands before the first parameter.
    pub const HEAD: usize = 1;
}

impl OpDef for Momentum {
    fn name(&self) -> &'static str {
        "momentum"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let expected = Self::HEAD + 2 * self.parameters;
        arity(inputs, expected..=expected)?;
        floats(inputs)?;
        expect_shape("scale", inputs[0], &[1])?;
        let pairs = || inputs[Self::HEAD..].chunks_exact(2);
        for pair in pairs() {
            expect_shape("gradient", pair[1], &pair[0].shape)?;
        }
        memory::collect(pairs().chain(pairs()).map(|pair| pair[0].clone()), "momentum")
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (scale, mut moved, mut ahead) = (inputs[0].sum(), vec![], vec![]);
        for pair in inputs[Self::HEAD..].chunks_exact(2) {
            let (m, g) = (pair[0], pair[1] * scale);
            let new = if scale.is_nan() { m.clone() } else { m * self.momentum + &g };
            ahead.push(if scale.is_nan() { m.clone() } else { g + &new * self.momentum });
            moved.push(new);
        }
        Ok([moved, ahead].concat())
    }

    fn alias(&self) -> Alias {
        Alias::Updates(Updated { head: Self::HEAD, groups: self.parameters, group: 2, updated: 1 })
    }
}

/// Matrices with the singular vectors of the operands and singular values near 1, about 0.68 to 1.13, none of it above 1.21: x / |x| (Frobenius), then five
/// times x <- a x + b (x x^T) x + c (x x^T)^2 x, an iteration of Newton and Schulz whose polynomial is the steepest at 0 that keeps to these values (Jordan
/// 2024). Directions whose share of |x| is below about 1e-3 stay smaller. Whatever the scale of x, the result is the same; of a matrix of zeros it is zeros,
/// where Jordan adds 1e-7 to |x|. The products are those of the smaller side, on x^T where x has more rows than columns. Operands and results: matrices [O, ...]
/// as [O, K].
#[derive(Clone, Debug, PartialEq)]
pub struct Orthogonalize;

impl Orthogonalize {
    /// How often the polynomial is applied.
    pub const STEPS: usize = 5;
    /// a, b, c.
    pub const COEFFICIENTS: [f64; 3] = [3.4445, -4.775, 2.0315];
    /// No element of a result is larger: 1.2024 is the largest value of the polynomial between 0 and 1.2024, where all singular values stay, and roundings.
    pub const LARGEST: f64 = 1.25;
}

impl OpDef for Orthogonalize {
    fn name(&self) -> &'static str {
        "orthogonalize"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=usize::MAX)?;
        floats(inputs)?;
        inputs.iter().try_for_each(|ty| matrix(&ty.shape).map(drop))?;
        memory::collect(inputs.iter().map(|ty| (*ty).clone()), "matrices")
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        inputs.iter().map(|x| orthogonal(x)).collect()
    }
}

fn orthogonal(x: &Array) -> Result<Array> {
    let (rows, shaped) = (x.shape()[0], |e: ndarray::ShapeError| Error::internal(e.to_string()));
    let flat = Array2::from_shape_vec((rows, x.len() / rows), x.iter().copied().collect()).map_err(shaped)?;
    let tall = flat.nrows() > flat.ncols();
    let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt();
    let mut x_k = if tall { flat.reversed_axes() } else { flat };
    if norm != 0.0 {
        x_k /= norm;
    }
    let [a, b, c] = Orthogonalize::COEFFICIENTS;
    for _ in 0..Orthogonalize::STEPS {
        let gram = x_k.dot(&x_k.t());
        let polynomial = &gram * b + gram.dot(&gram) * c;
        x_k = &x_k * a + polynomial.dot(&x_k);
    }
    let out = if tall { x_k.reversed_axes() } else { x_k };
    Array::from_shape_vec(x.shape(), out.iter().copied().collect()).map_err(shaped)
}

/// A step along P matrices with decoupled weight decay: p = p (1 - lr decay) - lr sqrt(max(1, O/K)) o for p [O, ...] as [O, K]; the root makes what a layer's
/// outputs change by the same for all shapes (Jordan 2024). Operands: lr [1], grad scale [1] (NaN changes nothing), then p, o of each. Results: the new p of
/// each.
#[derive(Clone, Debug, PartialEq)]
pub struct Descend {
    /// Multiplied with the learning rate.
    pub weight_decay: f64,
    /// P.
    pub parameters: usize,
}

impl Descend {
    /// Operands before the first parameter.
    pub const HEAD: usize = 2;

    /// What the step of a matrix [O, K] is multiplied by.
    pub fn factor([rows, columns]: [usize; 2]) -> f64 {
        (rows as f64 / columns as f64).max(1.0).sqrt()
    }
}

impl OpDef for Descend {
    fn name(&self) -> &'static str {
        "descend"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let expected = Self::HEAD + 2 * self.parameters;
        arity(inputs, expected..=expected)?;
        floats(inputs)?;
        expect_shape("lr", inputs[0], &[1])?;
        expect_shape("scale", inputs[1], &[1])?;
        for pair in inputs[Self::HEAD..].chunks_exact(2) {
            matrix(&pair[0].shape)?;
            expect_shape("direction", pair[1], &pair[0].shape)?;
        }
        memory::collect(inputs[Self::HEAD..].chunks_exact(2).map(|pair| pair[0].clone()), "parameters")
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (lr, scale) = (inputs[0].sum(), inputs[1].sum());
        let step = |pair: &[&Array]| {
            let (p, o) = (pair[0], pair[1]);
            let factor = Self::factor([p.shape()[0], p.len() / p.shape()[0]]);
            if scale.is_nan() { p.clone() } else { p * (1.0 - lr * self.weight_decay) - o * (lr * factor) }
        };
        Ok(inputs[Self::HEAD..].chunks_exact(2).map(step).collect())
    }

    fn alias(&self) -> Alias {
        Alias::Updates(Updated { head: Self::HEAD, groups: self.parameters, group: 2, updated: 1 })
    }
}
