//! Muon's momentum, orthogonal directions and steps on `cuda/muon.cu`.

use super::launch::{Arg, Launch, Lowered};
use super::optimizer::pieces;
use super::shared::optimizer::THREADS;
use super::site::Site;
use super::target::Target;
use crate::backend::as_bytes;
use crate::error::{Error, Result};
use crate::graph::ops::{Descend, Momentum, Orthogonalize, matrix};

pub(super) fn momentum(op: &Momentum, site: &Site) -> Result<Lowered> {
    let (cut, count) = pieces(site.outputs[..op.parameters].iter().map(|ty| ty.numel()), site.target)?;
    // m is read and written in place: the result is the storage.
    let own = |i: usize| [Arg::Output(i), Arg::Output(op.parameters + i), Arg::Input(Momentum::HEAD + 2 * i + 1)];
    let launch = Launch::new("fewstep_momentum_f32", [count, 1, 1], THREADS)?.input(0);
    Ok(launch.arg(Arg::Table((0..op.parameters).flat_map(own).collect())).arg(cut).value(op.momentum as f32).into())
}

pub(super) fn descend(op: &Descend, site: &Site) -> Result<Lowered> {
    let (cut, count) = pieces(site.outputs.iter().map(|ty| ty.numel()), site.target)?;
    let factors = site.outputs.iter().map(|ty| Ok(Descend::factor(matrix(&ty.shape)?) as f32)).collect::<Result<Vec<f32>>>()?;
    let own = |i: usize| [Arg::Output(i), Arg::Input(Descend::HEAD + 2 * i + 1)];
    let launch = Launch::new("fewstep_descend_f32", [count, 1, 1], THREADS)?.input(0).input(1);
    let launch = launch.arg(Arg::Table((0..op.parameters).flat_map(own).collect())).arg(Arg::Data(as_bytes(&factors).to_vec()));
    Ok(launch.arg(cut).value(op.weight_decay as f32).into())
}

/// A matrix x [n, k] in scratch, n the smaller side; addresses are bytes of the scratch.
struct Matrix {
    n: usize,
    k: usize,
    tall: bool,
    /// Two, which steps read and write in turn.
    x: [usize; 2],
    gram: usize,
    polynomial: usize,
}

/// Floats of a chunk of sixteen bytes: rows are whole ones.
const CHUNK: usize = 4;

impl Matrix {
    fn pitch(&self) -> usize {
        self.k.next_multiple_of(CHUNK)
    }

    fn gram_pitch(&self) -> usize {
        self.n.next_multiple_of(CHUNK)
    }

    /// The next matrix behind `end` bytes of scratch.
    fn new([rows, columns]: [usize; 2], end: &mut usize) -> Result<Self> {
        let mut matrix = Self { n: rows.min(columns), k: rows.max(columns), tall: rows > columns, x: [0; 2], gram: 0, polynomial: 0 };
        let large = || Error::unsupported(format!("a matrix of {rows}x{columns}: it must have fewer than 2^31 elements"));
        let floats = |pitch: usize| matrix.n.checked_mul(pitch).filter(|n| *n <= i32::MAX as usize).ok_or_else(large);
        let (x, gram) = (floats(matrix.pitch())?, floats(matrix.gram_pitch())?);
        let mut next = |floats: usize| {
            let at = end.next_multiple_of(256);
            *end = at + floats * size_of::<f32>();
            at
        };
        matrix.x = [next(x), next(x)];
        (matrix.gram, matrix.polynomial) = (next(gram), next(gram));
        Ok(matrix)
    }
}

/// Matrices as the kernels take them, with the pieces of the operands that their norms are in.
fn described(matrices: &[Matrix], target: Target) -> Arg {
    let (piece, mut first, mut all) = (target.tuning().optimizer_piece, 0, vec![]);
    for m in matrices {
        let count = (m.n * m.k).div_ceil(piece);
        // Each is below 2^31, as the number of elements is.
        all.extend([m.n, m.k, m.pitch(), m.gram_pitch(), usize::from(m.tall), first, count].map(|n| n as i32));
        first += count;
    }
    Arg::Data(as_bytes(&all).to_vec())
}

/// Tiles of matrices of these sizes, those that `keep` says of row and column; and their number.
fn tiles(sizes: impl Iterator<Item = [usize; 2]>, side: usize, keep: impl Fn(usize, usize) -> bool) -> (Arg, usize) {
    let mut cut: Vec<i32> = vec![];
    for (i, [rows, columns]) in sizes.enumerate() {
        for row in (0..rows).step_by(side) {
            for column in (0..columns).step_by(side).filter(|column| keep(row, *column)) {
                cut.extend([i as i32, row as i32, column as i32]);
            }
        }
    }
    let count = cut.len() / 3;
    (Arg::Data(as_bytes(&cut).to_vec()), count)
}

pub(super) fn orthogonalize(site: &Site) -> Result<Lowered> {
    let (operands, parts) = pieces(site.inputs.iter().map(|ty| ty.numel()), site.target)?;
    let mut workspace = parts * 2 * size_of::<f32>();
    let matrices = site.inputs.iter().map(|ty| Matrix::new(matrix(&ty.shape)?, &mut workspace)).collect::<Result<Vec<Matrix>>>()?;
    let (padded, count) = pieces(matrices.iter().map(|m| m.n * m.pitch()), site.target)?;
    let at = |place: &dyn Fn(&Matrix) -> usize| Arg::Table(matrices.iter().map(|m| Arg::Scratch(place(m))).collect());
    let all = described(&matrices, site.target);
    let inputs = || Arg::Table((0..matrices.len()).map(Arg::Input).collect());
    let mut launches = vec![
        Launch::new("fewstep_orthogonalize_norms_f32", [parts, 1, 1], THREADS)?.arg(inputs()).arg(operands).scratch(0),
        Launch::new("fewstep_orthogonalize_begin_f32", [count, 1, 1], THREADS)?.arg(inputs()).arg(at(&|m| m.x[0])).arg(all.clone()).arg(padded).scratch(0),
    ];
    let side = if matrices.iter().any(|m| m.n > 32) { 64 } else { 32 };
    let product = |name: &str, count: usize| Launch::new(format!("fewstep_orthogonalize_{name}_f32_{side}x{side}"), [count, 1, 1], side * side / 16);
    let (upper, uppers) = tiles(matrices.iter().map(|m| [m.n; 2]), side, |row, column| row <= column);
    let (whole, wholes) = tiles(matrices.iter().map(|m| [m.n, m.k]), side, |_, _| true);
    let [a, b, c] = Orthogonalize::COEFFICIENTS.map(|v| v as f32);
    for step in 0..Orthogonalize::STEPS {
        let last = step + 1 == Orthogonalize::STEPS;
        let (gram, polynomial, x) = (at(&|m| m.gram), at(&|m| m.polynomial), at(&|m| m.x[step % 2]));
        let next = if last { Arg::Table((0..matrices.len()).map(Arg::Output).collect()) } else { at(&|m| m.x[1 - step % 2]) };
        let grams = product("gram", uppers)?.arg(x.clone()).arg(gram.clone()).arg(all.clone()).arg(upper.clone());
        let polynomials = product("polynomial", uppers)?.arg(gram).arg(polynomial.clone()).arg(all.clone()).arg(upper.clone());
        let products = product("product", wholes)?.arg(polynomial).arg(x).arg(next).arg(all.clone()).arg(whole.clone());
        launches.extend([grams, polynomials.value(a).value(b).value(c), products.value(i32::from(last))]);
    }
    Ok(Lowered { launches, workspace })
}
