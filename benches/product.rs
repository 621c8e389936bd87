//! The convolution and linear kernels beside rten-gemm, on the shapes of the bundled digits teacher and of a 32x32 U-Net with channels 64, 128, 128.
//!
//! Both get weights that were packed before. A 1x1 convolution or linear layer is one product for both. For a 3x3 convolution rten-gemm is measured
//! twice: `virtual`, its own im2col from an NCHW image (what its convolution does), and `matrix`, one product of an im2col matrix that is ready
//! before the clock starts, which is less than any program that uses it has to do. The programs take turns, block by block, so that whatever else
//! the machine does meets all alike; the table at the end has the medians of the blocks' ratios.

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use fewstep::backend::cpu::kernels::conv::{Conv2d, ConvShape, Epilogue};
use fewstep::backend::cpu::{Isa, ThreadPool};
use rten_gemm::{ColOffsets, GemmExecutor, GemmInputA, GemmInputB, GemmUninitOptions, Im2Col, PackedAMatrix, PackedBMatrix, RowOffsets};
use rten_tensor::NdTensorView;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

/// The layers that take the networks' time, each at batch 1 and 16.
fn shapes() -> Vec<(&'static str, ConvShape)> {
    let mut out = vec![];
    for n in [1, 16] {
        out.extend([
            ("digits 3x3", ConvShape::square(n, 8, 32, 32, 3, 1, 1)),
            ("digits 3x3", ConvShape::square(n, 4, 64, 64, 3, 1, 1)),
            ("digits 3x3", ConvShape::square(n, 4, 128, 64, 3, 1, 1)),
            ("digits attention", ConvShape::linear(n * 16, 64, 64)),
            ("digits time", ConvShape::linear(n, 128, 128)),
            ("U-Net 3x3", ConvShape::square(n, 32, 64, 64, 3, 1, 1)),
            ("U-Net 3x3", ConvShape::square(n, 16, 128, 128, 3, 1, 1)),
            ("U-Net 3x3", ConvShape::square(n, 8, 256, 128, 3, 1, 1)),
            ("U-Net down", ConvShape::square(n, 32, 64, 64, 3, 2, 1)),
            ("U-Net 1x1", ConvShape::square(n, 16, 256, 128, 1, 1, 0)),
            ("U-Net attention", ConvShape::linear(n * 64, 128, 128)),
        ]);
    }
    out
}

fn label(s: &ConvShape) -> String {
    if s.h * s.w == 1 {
        return format!("[{}, {}] -> {}", s.n, s.c_in, s.c_out);
    }
    let stride = if s.stride == [1; 2] { "" } else { ", stride 2" };
    format!("{} x {}x{}, {} -> {}{stride}", s.n, s.h, s.w, s.c_in, s.c_out)
}

/// Numbers in -0.5..0.5 that are the same in every run (a linear congruence's high bits).
fn numbers(len: usize, mut state: u64) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

/// Our kernel with everything that it needs.
struct Ours {
    conv: Conv2d,
    packed: Vec<f32>,
    scratch: Vec<f32>,
    out: Vec<f32>,
    pool: ThreadPool,
}

impl Ours {
    fn new(shape: &ConvShape, weights: &[f32], threads: usize) -> Result<Self, Failure> {
        let (conv, pool) = (Conv2d::new(shape, Isa::detect())?, ThreadPool::new(threads)?);
        let mut packed = vec![0.0; conv.packed_len()];
        conv.pack_weights(weights, &mut packed, (&pool).into())?;
        let (scratch, out) = (vec![0.0; conv.workspace()], vec![0.0; shape.n * shape.p() * shape.q() * shape.c_out]);
        Ok(Self { conv, packed, scratch, out, pool })
    }

    fn run(&mut self, x: &[f32]) -> Result<(), Failure> {
        Ok(self.conv.run(x, &self.packed, &Epilogue::default(), &mut self.out, &mut self.scratch, (&self.pool).into())?)
    }
}

/// `[rows, K] x [K, O]`: rten-gemm's product for linear layers, and for convolutions after an im2col.
struct Matrix {
    a: Vec<f32>,
    size: [usize; 2],
    b: PackedBMatrix<f32>,
    out: Vec<MaybeUninit<f32>>,
}

impl Matrix {
    fn new(gemm: &GemmExecutor, s: &ConvShape, x: &[f32], weights: &[f32]) -> Self {
        let size = [s.n * s.p() * s.q(), s.c_in * s.r * s.s];
        let b = gemm.prepack_b(NdTensorView::from_data([s.c_out, size[1]], weights).transposed());
        Self { a: im2col(s, x), size, b, out: vec![MaybeUninit::uninit(); size[0] * s.c_out] }
    }

    /// `[rows, O]`, which is NHWC.
    fn run(&mut self, gemm: &GemmExecutor) -> Result<&[f32], Failure> {
        let a = NdTensorView::from_data(self.size, self.a.as_slice());
        Ok(gemm.gemm_uninit(&mut self.out, GemmInputA::Unpacked(a), GemmInputB::Packed(&self.b), GemmUninitOptions::default())?)
    }
}

/// The im2col matrix of an NHWC batch, its columns in the order of OIHW weights.
fn im2col(s: &ConvShape, x: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(s.n * s.p() * s.q() * s.c_in * s.r * s.s);
    for pixel in 0..s.n * s.p() * s.q() {
        let (n, p, q) = (pixel / (s.p() * s.q()), pixel / s.q() % s.p(), pixel % s.q());
        for tap in 0..s.c_in * s.r * s.s {
            let (c, r, t) = (tap / (s.r * s.s), tap / s.s % s.r, tap % s.s);
            let y = (p * s.stride[0] + r).checked_sub(s.pad[0]).filter(|y| *y < s.h);
            let z = (q * s.stride[1] + t).checked_sub(s.pad[1]).filter(|z| *z < s.w);
            out.push(y.zip(z).map_or(0.0, |(y, z)| x[((n * s.h + y) * s.w + z) * s.c_in + c]));
        }
    }
    out
}

/// `[O, K] x im2col(image)` for every image of an NCHW batch, as rten's convolution does it.
struct Virtual<'a> {
    a: PackedAMatrix<f32>,
    images: Vec<Im2Col<'a, f32>>,
    out: Vec<MaybeUninit<f32>>,
}

impl<'a> Virtual<'a> {
    fn new(gemm: &GemmExecutor, s: &ConvShape, nchw: &'a [f32], weights: &[f32]) -> Self {
        let a = gemm.prepack_a(NdTensorView::from_data([s.c_out, s.c_in * s.r * s.s], weights));
        let images = nchw.chunks_exact(s.c_in * s.h * s.w).map(|image| virtual_im2col(gemm, s, image)).collect();
        Self { a, images, out: vec![MaybeUninit::uninit(); s.n * s.c_out * s.p() * s.q()] }
    }

    /// `[N, O, P, Q]`.
    fn run(&mut self, gemm: &GemmExecutor) -> Result<&[f32], Failure> {
        let a = vec![GemmInputA::Packed(&self.a); self.images.len()];
        let b: Vec<_> = self.images.iter().map(GemmInputB::Im2Col).collect();
        Ok(gemm.batched_gemm_uninit(&mut self.out, &a, &b, GemmUninitOptions::default())?)
    }
}

/// Tables of offsets into one CHW image; entries beyond the matrix, up to the kernel's step, lie outside every image.
fn virtual_im2col<'a>(gemm: &GemmExecutor, s: &ConvShape, image: &'a [f32]) -> Im2Col<'a, f32> {
    let (n_rows, n_cols) = (s.c_in * s.r * s.s, s.p() * s.q());
    let table = |len: usize, step: usize, of: &dyn Fn(usize) -> usize, before: usize| {
        let padded = (len..len.next_multiple_of(step)).map(|_| i32::MAX);
        (0..len).map(|i| of(i) as i32 - before as i32).chain(padded).collect::<Vec<_>>()
    };
    let row = |of: &dyn Fn(usize) -> usize| table(n_rows, gemm.im2col_row_count_step(), of, 0);
    let col = |of: &dyn Fn(usize) -> usize, before: usize| table(n_cols, gemm.im2col_col_count_step(), of, before);
    Im2Col {
        image: NdTensorView::from_data([s.c_in, s.h, s.w], image),
        row_offsets: RowOffsets { chan: row(&|i| i / (s.r * s.s) * s.h * s.w), y: row(&|i| i / s.s % s.r * s.w), x: row(&|i| i % s.s) },
        col_offsets: ColOffsets { y: col(&|i| i / s.q() * s.stride[0] * s.w, s.pad[0] * s.w), x: col(&|i| i % s.q() * s.stride[1], s.pad[1]) },
        n_cols,
        n_rows,
        max_y_offset: ((s.h - 1) * s.w) as i32,
        max_x_offset: (s.w - 1) as i32,
    }
}

/// `[n, rows, columns] -> [n, columns, rows]`.
fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    data.chunks_exact(rows * columns).flat_map(|m| (0..rows * columns).map(|i| m[i % rows * columns + i / rows])).collect()
}

/// A wrong peer would be a fast one.
fn same(ours: &[f32], peer: &[f32], what: &str) -> Result<(), Failure> {
    let largest = ours.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = ours.iter().zip(peer).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    if ours.len() == peer.len() && worst <= 1e-4 * largest { Ok(()) } else { Err(format!("{what} differs by {worst}").into()) }
}

/// Seconds of each program in one block.
type Block = [f64; 3];

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn bench_shape(c: &mut Criterion, kind: &str, s: &ConvShape, threads: usize) -> Result<Option<String>, Failure> {
    let gemm = GemmExecutor::default();
    let [x_len, w_len, _] = s.check()?;
    let (x, weights) = (numbers(x_len, 1), numbers(w_len, 2));
    let nchw = transposed(&x, s.h * s.w, s.c_in);
    let mut ours = Ours::new(s, &weights, threads)?;
    let mut matrix = Matrix::new(&gemm, s, &x, &weights);
    let mut unrolled = (s.r > 1).then(|| Virtual::new(&gemm, s, &nchw, &weights));
    let rayon = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;

    ours.run(&x)?;
    same(&ours.out, matrix.run(&gemm)?, "rten-gemm on a matrix")?;
    if let Some(v) = &mut unrolled {
        same(&ours.out, &transposed(v.run(&gemm)?, s.c_out, s.p() * s.q()), "rten-gemm on an image")?;
    }

    let mut blocks: Vec<(u64, Block)> = vec![];
    let mut block = |n: u64| -> Result<Block, Failure> {
        let start = Instant::now();
        for _ in 0..n {
            ours.run(&x)?;
        }
        let first = start.elapsed();
        // Inside its pool, so that a call does not pay for the way there.
        let peers = rayon.install(|| -> Result<[Duration; 2], String> {
            let start = Instant::now();
            for _ in 0..n {
                matrix.run(&gemm).map_err(|e| e.to_string())?;
            }
            let second = start.elapsed();
            for _ in 0..n {
                unrolled.as_mut().map(|v| v.run(&gemm)).transpose().map_err(|e| e.to_string())?;
            }
            Ok([second, start.elapsed() - second])
        })?;
        Ok([first, peers[0], peers[1]].map(|d| d.as_secs_f64()))
    };
    let mut failure = None;
    let mut group = c.benchmark_group(format!("{kind}, {threads} threads"));
    // Equal blocks; one must be long beside the time for which the threads of the program before it go on spinning.
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(s.flops() as u64));
    group.bench_function(BenchmarkId::from_parameter(label(s)), |b| {
        b.iter_custom(|n| match block(n) {
            Ok(times) => {
                blocks.push((n, times));
                Duration::from_secs_f64(times[0])
            }
            Err(e) => {
                failure = Some(e);
                Duration::from_secs(1)
            }
        })
    });
    group.finish();
    if let Some(e) = failure {
        return Err(e);
    }
    // The warm-up has blocks of other sizes. No block at all: the command line chose other benchmarks.
    let Some(&(n, _)) = blocks.last() else { return Ok(None) };
    blocks.retain(|b| b.0 == n);
    let of = |f: &dyn Fn(&Block) -> f64| median(blocks.iter().map(|b| f(&b.1)).collect());
    let micros = 1e6 * of(&|b| b[0]) / n as f64;
    let virtual_ratio = if s.r > 1 { format!("{:.2}", of(&|b| b[0] / b[2])) } else { "–".into() };
    Ok(Some(format!("| {kind} | {} | {threads} | {micros:.1} | {:.0} | {virtual_ratio} | {:.2} |", label(s), s.flops() / micros / 1e3, of(&|b| b[0] / b[1]))))
}

fn main() -> Result<(), Failure> {
    let mut c = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(60))
        .measurement_time(Duration::from_millis(300))
        .nresamples(1000)
        .without_plots()
        .configure_from_args();
    let mut rows = vec![];
    for threads in [1, 2] {
        for (kind, shape) in shapes() {
            rows.extend(bench_shape(&mut c, kind, &shape, threads)?);
        }
    }
    c.final_summary();
    println!(
        "\n{:?}; rten-gemm's kernel: {}. Ratios are our time over rten-gemm's: below 1 we are faster.",
        Isa::detect(),
        GemmExecutor::<f32>::default().kernel_name()
    );
    println!("| layer | shape | threads | us | GFLOP/s | ours / virtual | ours / matrix |\n| --- | --- | --- | --- | --- | --- | --- |");
    println!("{}", rows.join("\n"));
    Ok(())
}
