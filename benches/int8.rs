//! The int8 convolutions of a 32x32 U-Net with channels 64, 128, 128 on every kernel that the machine has, and the passes that stage their inputs.
//!
//! Weights are packed and inputs staged before the clock starts; scale, bias and residual are part of what is measured. The table at the end has the minima:
//! these machines are shared. A share of 100 % is what the set's instruction computes by its documented rate at the clock that a chain of additions shows.

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use fewstep::backend::cpu::kernels::conv::ConvShape;
use fewstep::backend::cpu::kernels::int8::{CATALOGUE, Conv2d, Epilogue, Form, Input, Kernel, Norm, Rounding, Set, Source, Staging, correct, weight_sums};
use fewstep::backend::cpu::{Isa, ThreadPool};
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

fn layers() -> Vec<(&'static str, ConvShape)> {
    let sq = ConvShape::square;
    vec![
        ("32x32 64->64", sq(1, 32, 64, 64, 3, 1, 1)),
        ("32x32 128->64", sq(1, 32, 128, 64, 3, 1, 1)),
        ("32x32 192->64", sq(1, 32, 192, 64, 3, 1, 1)),
        ("32x32 128->128", sq(1, 32, 128, 128, 3, 1, 1)),
        ("16x16 128->128", sq(1, 16, 128, 128, 3, 1, 1)),
        ("16x16 256->128", sq(1, 16, 256, 128, 3, 1, 1)),
        ("8x8 128->128", sq(1, 8, 128, 128, 3, 1, 1)),
        ("8x8 256->128", sq(1, 8, 256, 128, 3, 1, 1)),
        ("32x32 64->64 stride 2", sq(1, 32, 64, 64, 3, 2, 1)),
        ("1x1 32x32 192->64", sq(1, 32, 192, 64, 1, 1, 0)),
    ]
}

/// Numbers in 0..1 that are the same in every run (a linear congruence's high bits).
fn numbers(len: usize, mut state: u64) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..len).map(|_| next()).collect()
}

/// About normal, as weights scaled by their largest.
fn weights(len: usize) -> Vec<i8> {
    let four: Vec<Vec<f32>> = (0..4).map(|seed| numbers(len, 10 + seed)).collect();
    (0..len).map(|i| ((four.iter().map(|v| v[i]).sum::<f32>() - 2.0) * 64.0) as i8).collect()
}

/// Operations that a core does in a cycle at most: two a product.
fn per_cycle(set: Set) -> Option<f64> {
    match set {
        Set::Avx2 => Some(64.0), // vpmaddubsw, vpmaddwd and vpaddd on three ports; steps added in 16 bits have 77
        Set::AvxVnni => Some(128.0),
        Set::Avx512Vnni => Some(256.0),
        Set::Amx => Some(2048.0),
        Set::Portable | Set::NeonDot | Set::NeonI8mm => None,
    }
}

/// Cycles a second, from a chain of additions of one cycle each.
fn clock() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        const CHAINS: u64 = 20_000;
        let once = || {
            let start = Instant::now();
            // SAFETY: arithmetic on registers.
            unsafe {
                std::arch::asm!(
                    "2:", ".rept 100", "add {x}, {y}", ".endr", "sub {n}, 1", "jnz 2b",
                    x = inout(reg) 1u64 => _, y = in(reg) 3u64, n = inout(reg) CHAINS => _
                )
            };
            100.0 * CHAINS as f64 / start.elapsed().as_secs_f64()
        };
        Some((0..20).map(|_| once()).fold(0.0, f64::max))
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Runs `once` in blocks under criterion; the least time of one run.
fn least(c: &mut Criterion, group: &str, name: &str, work: u64, mut once: impl FnMut() -> Result<(), Failure>) -> Result<Option<f64>, Failure> {
    once()?;
    let (mut best, mut failure) = (f64::INFINITY, None);
    let mut group = c.benchmark_group(group);
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(work));
    group.bench_function(BenchmarkId::from_parameter(name), |b| {
        b.iter_custom(|n| {
            let mut total = Duration::ZERO;
            for _ in 0..n {
                let start = Instant::now();
                failure = once().err().or(failure.take());
                let time = start.elapsed();
                best = best.min(time.as_secs_f64());
                total += time;
            }
            total
        })
    });
    group.finish();
    match failure {
        Some(e) => Err(e),
        None => Ok(best.is_finite().then_some(best)), // else the command line chose other benchmarks
    }
}

fn bench_layer(c: &mut Criterion, kernel: &'static Kernel, most: u8, layer: &str, s: &ConvShape, threads: usize) -> Result<Option<f64>, Failure> {
    let [x_len, w_len, y_len] = s.check()?;
    let (pool, conv) = (ThreadPool::new(threads)?, Conv2d::new(s, &[s.c_in], most, kernel)?);
    let rounding = Rounding { scale: 1.0 / f32::from(most), zero: 6, low: 0, high: most };
    let (x, w) = (numbers(x_len, 1), weights(w_len));
    let mut staged = vec![0; conv.staging().bytes() + 64];
    let start = staged.as_ptr().align_offset(64);
    let staged = &mut staged[start..][..conv.staging().bytes()];
    Input { sources: &[Source { x: &x, rounding }], norm: None, silu: false, double: false }.stage(conv.staging(), Isa::detect(), staged, (&pool).into())?;
    let mut packed = vec![0i8; conv.packed_len() + 64];
    let start = packed.as_ptr().align_offset(64);
    let packed = &mut packed[start..][..conv.packed_len()];
    conv.pack_weights(&w, packed, (&pool).into())?;
    let (mut sums, mut correction) = (vec![0; s.c_out], vec![0; s.c_out]);
    weight_sums(s, &[s.c_in], &w, &mut sums)?;
    correct(&sums, &[rounding.zero], &mut correction)?;
    let (scale, bias, residual, mut out) = (numbers(s.c_out, 3), numbers(s.c_out, 4), numbers(y_len, 5), vec![0.0; y_len]);
    let epilogue = Epilogue { correction: &correction, scale: &scale, bias: Some(&bias), addend: None, residual: Some(&residual), factor: 1.0 };
    let group = format!("{} up to {most}, {threads} threads", kernel.name);
    least(c, &group, layer, s.flops() as u64, || Ok(conv.run(staged, packed, &epilogue, &mut out, (&pool).into())?))
}

/// The pass that stages a normalised input, with SiLU and without, for padded images and for tiles.
fn bench_stage(c: &mut Criterion, isa: Isa, hw: usize, channels: usize, form: Form, silu: bool) -> Result<Option<f64>, Failure> {
    let s = ConvShape::square(1, hw, channels, channels, 3, 1, 1);
    let (pool, staging) = (ThreadPool::new(1)?, Staging::new(&s, &[channels], 255, form)?);
    let (x, mut out) = (numbers(hw * hw * channels, 1), vec![0; staging.bytes()]);
    let (factor, shift) = (numbers(channels, 2), numbers(channels, 3));
    let sources = [Source { x: &x, rounding: Rounding { scale: 0.02, zero: 14, low: 0, high: 255 } }];
    let input = Input { sources: &sources, norm: silu.then_some(Norm { factor: &factor, shift: &shift }), silu, double: false };
    let what = if silu { "norm, SiLU, rounding" } else { "rounding" };
    least(c, &format!("{isa:?} {form:?} {what}"), &format!("{hw}x{hw} {channels}"), x.len() as u64, || {
        Ok(input.stage(&staging, isa, &mut out, (&pool).into())?)
    })
}

fn main() -> Result<(), Failure> {
    let mut c = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(10))
        .measurement_time(Duration::from_millis(60))
        .nresamples(100)
        .without_plots()
        .configure_from_args();
    let clock = clock();
    let mut rows = vec![];
    for threads in [1, 2] {
        for kernel in CATALOGUE.iter().filter(|kernel| kernel.set.available()) {
            let mosts: &[u8] = if kernel.set == Set::Avx2 { &[129, 255] } else { &[255] };
            for most in mosts {
                for (layer, s) in layers() {
                    let Some(time) = bench_layer(&mut c, kernel, *most, layer, &s, threads)? else { continue };
                    let peak = clock.zip(per_cycle(kernel.set)).map(|(clock, ops)| clock * ops * threads as f64);
                    let share = peak.map_or("–".into(), |peak| format!("{:.0} %", 100.0 * s.flops() / time / peak));
                    rows.push(format!("| {} | {most} | {layer} | {threads} | {:.1} | {:.0} | {share} |", kernel.name, 1e6 * time, s.flops() / time / 1e9));
                }
            }
        }
    }
    let mut stages = vec![];
    for isa in Isa::all() {
        for (hw, channels, form) in [(32, 64, Form::Packed), (8, 128, Form::Packed), (8, 128, Form::Tiles)] {
            for silu in [false, true] {
                let Some(time) = bench_stage(&mut c, isa, hw, channels, form, silu)? else { continue };
                let each = time / (hw * hw * channels) as f64;
                let cycles = clock.map_or("–".into(), |clock| format!("{:.2}", each * clock));
                let what = if silu { "norm, SiLU, rounding" } else { "rounding" };
                stages.push(format!("| {isa:?} | {what} | {form:?} | {hw}x{hw} {channels} | {:.1} | {cycles} |", 1e6 * time));
            }
        }
    }
    c.final_summary();
    println!("\n{:.2} GHz; best set: {}", clock.unwrap_or(0.0) / 1e9, Set::detect().name());
    println!("| kernel | numbers up to | layer | threads | us | GOP/s | of peak |\n| --- | --- | --- | --- | --- | --- | --- |\n{}", rows.join("\n"));
    println!("\n| floats | pass | form | input | us | cycles an element |\n| --- | --- | --- | --- | --- | --- |\n{}", stages.join("\n"));
    Ok(())
}
