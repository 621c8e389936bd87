//! Cases of Muon's ops.

use super::Case;
use fewstep::graph::ops::*;

/// Matrices of these shapes, each alone and all together: wide, tall, square, one row, one column, of rank 4, larger than a tile and than a piece.
pub const MATRICES: &[&[usize]] =
    &[&[5, 7], &[7, 5], &[16, 16, 3, 3], &[1, 9], &[9, 1], &[1, 1], &[33, 3, 1, 1], &[17, 17], &[70, 66], &[40, 13, 3, 3], &[130, 4, 3, 3], &[3, 2000]];

/// Five steps of a polynomial that multiplies what is small by up to 3.44: a rounding of 2^-24 of |x| becomes 485 times as large where a singular value is
/// small, 3e-5; elements are a root of the side smaller than singular values, and so are errors.
const ORTHOGONAL: f64 = 1e-4;

/// Muon's three ops; the results of updates are read as the newest versions. Directions do not depend on how large a matrix is, and zeros have none.
pub fn muon() -> Vec<Case> {
    let mut cases = vec![];
    for (i, shapes) in MATRICES.iter().map(|shape| vec![*shape]).chain([MATRICES.to_vec()]).enumerate() {
        let mut case = Case::new(format!("orthogonalize {i}: {shapes:?}"));
        let scale = [1.0, 1e-4, 3e4][i % 3];
        let operands: Vec<_> = shapes.iter().map(|shape| case.input_around(shape, scale, 0.0)).collect();
        for o in case.ops(Orthogonalize, &operands) {
            case.expect(o, ORTHOGONAL);
        }
        cases.push(case);
    }
    let mut zeros = Case::new("orthogonalize zeros beside others");
    let operands = [zeros.data(&[3, 5], &[0f32; 15]), zeros.input(&[5, 3]), zeros.data(&[4, 2], &[0f32; 8])];
    for o in zeros.ops(Orthogonalize, &operands) {
        zeros.expect(o, ORTHOGONAL);
    }
    cases.push(zeros);
    // Squares of these are no numbers of f32. They are made here, since operands are rounded to what plans in half have.
    for scale in [1e30, 1e-30] {
        let mut case = Case::new(format!("orthogonalize at {scale:e}"));
        let unit = case.data(&[1], &[1f32]);
        for (i, shape) in [[7, 5], [70, 66]].iter().enumerate() {
            let (m, g) = (case.state(&format!("m{i}"), shape), case.data(shape, &vec![0f32; shape.iter().product()]));
            let scaled = case.op(Momentum { momentum: scale, parameters: 1 }, &[unit, m, g]);
            let o = case.op(Orthogonalize, &[scaled]);
            case.expect(o, ORTHOGONAL);
        }
        cases.push(case);
    }
    for grad_scale in [1.0f32, 0.3, f32::NAN] {
        let mut case = Case::new(format!("momentum, orthogonalize, descend, scale {grad_scale}"));
        let (lr, scale) = (case.data(&[1], &[2e-2f32]), case.data(&[1], &[grad_scale]));
        let mut operands = vec![scale];
        for (i, shape) in MATRICES.iter().enumerate() {
            operands.extend([case.state(&format!("m{i}"), shape), case.input(shape)]);
        }
        let moved = case.ops(Momentum { momentum: 0.95, parameters: MATRICES.len() }, &operands);
        let (moved, ahead) = moved.split_at(MATRICES.len());
        let mut operands = vec![lr, scale];
        for (i, (shape, direction)) in MATRICES.iter().zip(case.ops(Orthogonalize, ahead)).enumerate() {
            operands.extend([case.state(&format!("p{i}"), shape), direction]);
        }
        let new = case.ops(Descend { weight_decay: 0.1, parameters: MATRICES.len() }, &operands);
        for v in moved.iter().chain(ahead).chain(&new) {
            case.expect(*v, 4e-6);
        }
        cases.push(case);
    }
    cases
}
