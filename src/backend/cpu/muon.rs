//! Muon's momentum, orthogonal directions and steps, over all matrices at once.

use super::chunks::{GRAIN, vectorised};
use super::kernel::{CpuKernel, Io};
use super::kernels::gemm::{self, Epilogue, Gemm, Layout, Source};
use super::kernels::pool::Shared;
use super::kernels::simd::Isa;
use super::optimizer::{Piece, pieces};
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{Descend, Momentum, Orthogonalize, matrix};
use crate::memory;

/// What lists of matrices are called where there is no memory for them.
const WHAT: &str = "matrices of an optimizer";
/// Floats of scratch from which on no further matrix joins a batch: 16 MiB, enough work for all threads between two barriers.
const BATCH: usize = 4 << 20;

struct MomentumKernel {
    op: Momentum,
    pieces: Vec<Piece>,
}

pub(super) fn momentum(op: &Momentum, outputs: impl Iterator<Item = usize>) -> Result<Box<dyn CpuKernel>> {
    Ok(Box::new(MomentumKernel { op: op.clone(), pieces: pieces(outputs.take(op.parameters))? }))
}

impl CpuKernel for MomentumKernel {
    fn run(&self, io: &Io) -> Result<()> {
        let (scale, keep) = (io.input::<f32>(0)[0], self.op.momentum as f32);
        io.pool.run(self.pieces.len(), &|i| {
            let Piece { tensor, start, len } = self.pieces[i];
            let state = |k: usize| io.shared_output::<f32>(k);
            // SAFETY: each piece of each result belongs to one chunk; the two are different memory.
            let (m, u) = unsafe { (state(tensor).part(start, len), state(self.op.parameters + tensor).part(start, len)) };
            if scale.is_nan() {
                return u.copy_from_slice(m);
            }
            let g = &io.input::<f32>(Momentum::HEAD + 2 * tensor + 1)[start..start + len];
            vectorised(
                io.isa,
                #[inline(always)]
                || {
                    for ((m, u), g) in m.iter_mut().zip(u).zip(g) {
                        let g = g * scale;
                        *m = *m * keep + g;
                        *u = g + *m * keep;
                    }
                },
            );
        })
    }
}

struct DescendKernel {
    op: Descend,
    /// Of each matrix, by its shape.
    factors: Vec<f64>,
    pieces: Vec<Piece>,
}

pub(super) fn descend(op: &Descend, types: &[&TensorType]) -> Result<Box<dyn CpuKernel>> {
    let matrices = || types[Descend::HEAD..].iter().step_by(2);
    let factors = memory::try_collect(matrices().map(|ty| Ok(Descend::factor(matrix(&ty.shape)?))), WHAT)?;
    Ok(Box::new(DescendKernel { op: op.clone(), factors, pieces: pieces(matrices().map(|ty| ty.numel()))? }))
}

impl CpuKernel for DescendKernel {
    fn run(&self, io: &Io) -> Result<()> {
        let (rate, scale) = (f64::from(io.input::<f32>(0)[0]), io.input::<f32>(1)[0]);
        if scale.is_nan() {
            return Ok(());
        }
        let keep = (1.0 - rate * self.op.weight_decay) as f32;
        io.pool.run(self.pieces.len(), &|i| {
            let Piece { tensor, start, len } = self.pieces[i];
            // SAFETY: each piece belongs to one chunk.
            let p = unsafe { io.shared_output::<f32>(tensor).part(start, len) };
            let direction = &io.input::<f32>(Descend::HEAD + 2 * tensor + 1)[start..start + len];
            let step = (rate * self.factors[tensor]) as f32;
            vectorised(
                io.isa,
                #[inline(always)]
                || p.iter_mut().zip(direction).for_each(|(p, o)| *p = *p * keep - step * o),
            );
        })
    }
}

/// What all matrices of a batch do before any of them goes on.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Partial sums of the squares of x.
    Squares,
    /// x / |x| to scratch, transposed where x is tall.
    Begin,
    /// x for both of its products.
    Pack,
    /// x x^T.
    Gram,
    /// The same for its product, and what is added to that.
    PackGram,
    /// a + b x x^T + c (x x^T)^2.
    Polynomial,
    /// The polynomial times x.
    Product,
    /// x to the result.
    End,
}

impl Phase {
    const ALL: [Phase; 8] = [Phase::Squares, Phase::Begin, Phase::Pack, Phase::Gram, Phase::PackGram, Phase::Polynomial, Phase::Product, Phase::End];
    const STEP: [Phase; 5] = [Phase::Pack, Phase::Gram, Phase::PackGram, Phase::Polynomial, Phase::Product];
}

/// Floats of the scratch: where they begin, and how many.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: usize,
    len: usize,
}

impl Place {
    /// The next `len` floats, on a line of their own.
    fn next(end: &mut usize, len: usize) -> Result<Self> {
        let at = end.next_multiple_of(16);
        *end = at.checked_add(len).filter(|end| *end <= isize::MAX as usize / 8).ok_or_else(|| Error::shape("a matrix is too large to be orthogonalized"))?;
        Ok(Self { at, len })
    }

    /// # Safety
    /// Nobody writes there while the slice lives.
    unsafe fn read<'a>(self, scratch: Shared<'a>) -> &'a [f32] {
        assert!(self.at + self.len <= scratch.len(), "{self:?} of {}", scratch.len());
        // SAFETY: in bounds by the assertion, unwritten by the caller's promise.
        unsafe { std::slice::from_raw_parts(scratch.as_ptr().add(self.at), self.len) }
    }

    /// To be written by chunks in disjoint parts.
    fn share<'a>(self, scratch: Shared<'a>) -> Shared<'a> {
        assert!(self.at + self.len <= scratch.len(), "{self:?} of {}", scratch.len());
        // SAFETY: in bounds by the assertion; the parts that chunks take are disjoint by the contract of `Shared::part`.
        unsafe { Shared::from_raw(scratch.as_ptr().add(self.at), self.len) }
    }
}

/// One matrix: x [n, k] in scratch, n the smaller side.
struct Matrix {
    /// Which operand and result.
    index: usize,
    n: usize,
    k: usize,
    /// x is the operand transposed.
    tall: bool,
    /// Partial sums, the first and how many.
    sums: Place,
    x: Place,
    /// x^T and x as right factors.
    packed: [Place; 2],
    /// x x^T, and itself as a right factor.
    gram: Place,
    packed_gram: Place,
    /// What is added to (x x^T)^2 before it is multiplied by c.
    addend: Place,
    polynomial: Place,
    /// x x^T; (x x^T)^2; the polynomial times x.
    products: [Gemm; 3],
}

/// A product of [rows, depth] and [depth, columns].
fn product(isa: Isa, [rows, depth, columns]: [usize; 3]) -> Result<Gemm> {
    let layout = Layout { isa, n: columns, channels: depth, taps: 1, images: rows, a_image: depth, c_rows: 1, sample_rows: 1 };
    Gemm::new(layout, &[depth], |_| 0, |_, _| Some(0))
}

impl Matrix {
    /// `sums` and `end` are what the batch has of scratch so far: sums, and floats behind them.
    fn new(index: usize, ty: &TensorType, isa: Isa, sums: &mut usize, end: &mut usize) -> Result<Self> {
        let [rows, columns] = matrix(&ty.shape)?;
        let (n, k) = (rows.min(columns), rows.max(columns));
        let products = [product(isa, [n, k, n])?, product(isa, [n, n, n])?, product(isa, [n, n, k])?];
        let packed = |at: usize| products[at].layout().packed_len().ok_or_else(|| Error::internal("a product without a size"));
        let mut next = |len: usize| Place::next(end, len);
        let places = [next(n * k)?, next(packed(0)?)?, next(packed(2)?)?, next(n * n)?, next(packed(1)?)?, next(n * n)?, next(n * n)?];
        let [x, transposed, straight, gram, packed_gram, addend, polynomial] = places;
        let own = Place { at: *sums, len: (n * k).div_ceil(GRAIN) };
        *sums += own.len;
        let packed = [transposed, straight];
        Ok(Self { index, n, k, tall: rows > columns, sums: own, x, packed, gram, packed_gram, addend, polynomial, products })
    }

    fn isa(&self) -> Isa {
        self.products[0].layout().isa
    }

    /// Where the right factors of x's products, and of its square, lie in x and in x x^T.
    fn sources(&self) -> [Source; 3] {
        let &Self { n, k, .. } = self;
        let of = |channels, column_stride, channel_stride| Source { taps: 1, channels, column_stride, channel_stride };
        [of(k, k, 1), of(n, 1, k), of(n, 1, n)]
    }

    /// Chunks of packing the right factor of [n, k], [k, n] or [n, n].
    fn pack_chunks(&self, which: usize) -> usize {
        gemm::pack_chunks(self.isa(), [self.n, self.k, self.n][which], self.sources()[which].channels)
    }

    /// Rows of so many floats that one chunk takes.
    fn rows_each(width: usize) -> usize {
        (GRAIN / width).max(1)
    }

    fn chunks(&self, phase: Phase) -> usize {
        let rows = |rows: usize, width: usize| rows.div_ceil(Self::rows_each(width));
        match phase {
            Phase::Squares => self.sums.len,
            Phase::Begin => rows(self.n, self.k),
            Phase::Pack => self.pack_chunks(0) + self.pack_chunks(1),
            Phase::Gram => self.products[0].chunks(),
            Phase::PackGram => self.pack_chunks(2) + rows(self.n, self.n),
            Phase::Polynomial => self.products[1].chunks(),
            Phase::Product => self.products[2].chunks(),
            Phase::End if self.tall => rows(self.k, self.n),
            Phase::End => rows(self.n, self.k),
        }
    }

    /// Rows of a phase that goes by rows.
    fn rows(chunk: usize, rows: usize, width: usize) -> std::ops::Range<usize> {
        let each = Self::rows_each(width);
        chunk * each..((chunk + 1) * each).min(rows)
    }

    /// One chunk of a phase.
    ///
    /// # Safety
    /// The phases before it are done, and each of its chunks runs once.
    unsafe fn run(&self, phase: Phase, chunk: usize, io: &Io, sums: Shared<i64>, scratch: Shared) {
        let x = self.x.share(scratch);
        // SAFETY: no phase writes what it reads, all of a chunk's writes are its own, and places are as long as the products' slices.
        unsafe {
            match phase {
                Phase::Squares => self.add_squares(chunk, io, sums),
                Phase::Begin => self.begin(chunk, io, sums, x),
                Phase::Pack => {
                    let which = usize::from(chunk >= self.pack_chunks(0));
                    self.pack(which, chunk - which * self.pack_chunks(0), self.x.read(scratch), self.packed[which].share(scratch));
                }
                Phase::Gram => self.multiply(0, chunk, [self.x, self.packed[0]], &Epilogue::default(), self.gram, scratch),
                Phase::PackGram if chunk < self.pack_chunks(2) => self.pack(2, chunk, self.gram.read(scratch), self.packed_gram.share(scratch)),
                Phase::PackGram => self.prepare_addend(chunk - self.pack_chunks(2), self.gram.read(scratch), self.addend.share(scratch)),
                Phase::Polynomial => {
                    let [.., c] = Orthogonalize::COEFFICIENTS;
                    let epilogue = Epilogue { residual: Some(self.addend.read(scratch)), scale: c as f32, ..Epilogue::default() };
                    self.multiply(1, chunk, [self.gram, self.packed_gram], &epilogue, self.polynomial, scratch);
                }
                Phase::Product => self.multiply(2, chunk, [self.polynomial, self.packed[1]], &Epilogue::default(), self.x, scratch),
                Phase::End => self.end(chunk, self.x.read(scratch), io.shared_output(self.index)),
            }
        }
    }

    fn add_squares(&self, chunk: usize, io: &Io, sums: Shared<i64>) {
        let x = io.input::<f32>(self.index);
        let mut lanes = [0f64; 8];
        for block in x[chunk * GRAIN..x.len().min((chunk + 1) * GRAIN)].chunks(8) {
            lanes.iter_mut().zip(block).for_each(|(lane, v)| *lane += f64::from(*v) * f64::from(*v));
        }
        // SAFETY: each chunk has its own element.
        unsafe { sums.part(self.sums.at + chunk, 1)[0] = lanes.iter().sum::<f64>().to_bits() as i64 };
    }

    /// # Safety
    /// All sums are there, and nobody writes them any more.
    unsafe fn begin(&self, chunk: usize, io: &Io, sums: Shared<i64>, to: Shared) {
        assert!(self.sums.at + self.sums.len <= sums.len());
        // SAFETY: in bounds by the assertion, unwritten by the caller's promise.
        let sums = unsafe { std::slice::from_raw_parts(sums.as_ptr().add(self.sums.at), self.sums.len) };
        let norm = sums.iter().map(|bits| f64::from_bits(*bits as u64)).sum::<f64>().sqrt();
        let factor = if norm == 0.0 { 0.0 } else { norm.recip() };
        let (from, scaled) = (io.input::<f32>(self.index), |v: f32| (f64::from(v) * factor) as f32);
        for row in Self::rows(chunk, self.n, self.k) {
            // SAFETY: each row belongs to one chunk.
            let to = unsafe { to.part(row * self.k, self.k) };
            if self.tall {
                to.iter_mut().zip(from[row..].iter().step_by(self.n)).for_each(|(to, v)| *to = scaled(*v));
            } else {
                to.iter_mut().zip(&from[row * self.k..]).for_each(|(to, v)| *to = scaled(*v));
            }
        }
    }

    /// # Safety
    /// That of [`gemm::pack_chunk`].
    unsafe fn pack(&self, which: usize, chunk: usize, from: &[f32], to: Shared) {
        let columns = [self.n, self.k, self.n][which];
        // SAFETY: as promised by the caller.
        unsafe { gemm::pack_chunk(self.isa(), columns, self.sources()[which], from, to, chunk) }
    }

    /// (b gram + a I) / c, to which the product adds gram^2 before it multiplies all by c.
    fn prepare_addend(&self, chunk: usize, gram: &[f32], to: Shared) {
        let [a, b, c] = Orthogonalize::COEFFICIENTS;
        for row in Self::rows(chunk, self.n, self.n) {
            // SAFETY: each row belongs to one chunk.
            let to = unsafe { to.part(row * self.n, self.n) };
            to.iter_mut().zip(&gram[row * self.n..]).for_each(|(to, v)| *to = (b / c) as f32 * v);
            to[row] += (a / c) as f32;
        }
    }

    /// # Safety
    /// Nobody writes the factors and what the epilogue reads, and each chunk runs once.
    unsafe fn multiply(&self, which: usize, chunk: usize, [left, right]: [Place; 2], epilogue: &Epilogue, to: Place, scratch: Shared) {
        // SAFETY: places have the lengths of the product that they were made for; the rest is promised by the caller.
        unsafe { self.products[which].run_chunk(chunk, &[left.read(scratch)], right.read(scratch), epilogue, to.share(scratch)) }
    }

    fn end(&self, chunk: usize, x: &[f32], to: Shared) {
        let [rows, columns] = if self.tall { [self.k, self.n] } else { [self.n, self.k] };
        for row in Self::rows(chunk, rows, columns) {
            // SAFETY: each row belongs to one chunk.
            let to = unsafe { to.part(row * columns, columns) };
            if self.tall {
                to.iter_mut().zip(x[row..].iter().step_by(rows)).for_each(|(to, v)| *to = *v);
            } else {
                to.copy_from_slice(&x[row * columns..][..columns]);
            }
        }
    }
}

/// Matrices that go through the phases together, so that small ones keep all threads busy.
struct Batch {
    matrices: Vec<Matrix>,
    /// For each phase, the number of each matrix's first chunk, and of all chunks.
    firsts: Vec<Vec<usize>>,
    /// Elements of scratch: f64 sums, to the end of a line, then floats.
    sums: usize,
    floats: usize,
}

impl Batch {
    fn new(matrices: Vec<Matrix>, sums: usize, floats: usize) -> Result<Self> {
        let firsts = |phase: &Phase| {
            let mut firsts = memory::with_capacity(matrices.len() + 1, WHAT)?;
            firsts.push(0);
            for matrix in &matrices {
                firsts.push(firsts[firsts.len() - 1] + matrix.chunks(*phase));
            }
            Ok::<_, Error>(firsts)
        };
        let firsts = memory::try_collect(Phase::ALL.iter().map(firsts), WHAT)?;
        Ok(Self { matrices, firsts, sums: sums.next_multiple_of(8), floats })
    }

    /// Bytes of scratch.
    fn workspace(&self) -> usize {
        self.sums * size_of::<i64>() + self.floats.next_multiple_of(2) * size_of::<f32>()
    }

    fn phase(&self, phase: Phase, io: &Io, sums: Shared<i64>, scratch: Shared) -> Result<()> {
        let firsts = &self.firsts[phase as usize];
        io.pool.run(firsts[self.matrices.len()], &|i| {
            let at = firsts.partition_point(|first| *first <= i) - 1;
            // SAFETY: phases run in order, each chunk once.
            unsafe { self.matrices[at].run(phase, i - firsts[at], io, sums, scratch) }
        })
    }

    fn run(&self, io: &Io) -> Result<()> {
        let scratch = io.scratch::<i64>(); // the sums are bits of f64
        let (sums, rest) = scratch.split_at_mut(self.sums);
        // SAFETY: twice as many floats, of whose contents nobody knows anything yet.
        let floats = unsafe { Shared::<f32>::from_raw(rest.as_mut_ptr().cast(), 2 * rest.len()) };
        let sums = Shared::new(sums);
        let mut run = |phase: Phase| self.phase(phase, io, sums, floats);
        run(Phase::Squares)?;
        run(Phase::Begin)?;
        for _ in 0..Orthogonalize::STEPS {
            Phase::STEP.into_iter().try_for_each(&mut run)?;
        }
        run(Phase::End)
    }
}

struct OrthogonalizeKernel(Vec<Batch>);

pub(super) fn orthogonalize(types: &[&TensorType], isa: Isa) -> Result<Box<dyn CpuKernel>> {
    let (mut batches, mut matrices) = (vec![], vec![]);
    let (mut sums, mut floats) = (0, 0);
    for (index, ty) in types.iter().enumerate() {
        memory::push(&mut matrices, Matrix::new(index, ty, isa, &mut sums, &mut floats)?, WHAT)?;
        if floats >= BATCH || index + 1 == types.len() {
            memory::push(&mut batches, Batch::new(std::mem::take(&mut matrices), sums, floats)?, WHAT)?;
            (sums, floats) = (0, 0);
        }
    }
    Ok(Box::new(OrthogonalizeKernel(batches)))
}

impl CpuKernel for OrthogonalizeKernel {
    fn workspace(&self) -> usize {
        self.0.iter().map(Batch::workspace).max().unwrap_or(0)
    }

    fn table_bytes(&self) -> usize {
        let matrix = |m: &Matrix| size_of::<Matrix>() + m.products.iter().map(Gemm::table_bytes).sum::<usize>();
        let batch = |b: &Batch| b.matrices.iter().map(matrix).sum::<usize>() + Phase::ALL.len() * (b.matrices.len() + 1) * size_of::<usize>();
        self.0.iter().map(batch).sum()
    }

    fn run(&self, io: &Io) -> Result<()> {
        self.0.iter().try_for_each(|batch| batch.run(io))
    }
}
