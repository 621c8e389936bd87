//! Every kernel and every producer against definitions that know neither stagings nor packings.

use super::super::conv::ConvShape;
use super::super::conv::tests::{each_mac, noise};
use super::super::simd::{self, Isa};
use super::*;
use crate::backend::cpu::ThreadPool;
use crate::error::{Result, Status};
use crate::graph::OpDef;
use crate::graph::ops::{Codes, MOST_PRODUCTS, Quantize};
use crate::graph::reference::array;
use crate::tensor::DType;

/// Whole numbers from a fixed generator.
fn whole(len: usize, seed: u64, low: i32, high: i32) -> Vec<i32> {
    let span = (high - low + 1) as f32;
    noise(len, seed).into_iter().map(|v| (low + ((v + 1.0) * 0.5 * span) as i32).min(high)).collect()
}

/// Large weights, as scaled by their largest: with u8 of the full range most pairs overflow 16 bits.
fn weights(len: usize, seed: u64) -> Vec<i8> {
    whole(len, seed, -127, 127).into_iter().map(|w| w as i8).collect()
}

/// A convolution with the channels of its sources and their numbers.
struct Case {
    shape: ConvShape,
    sources: Vec<usize>,
    zeros: Vec<u8>,
    most: u8,
}

/// Odd channels, strides, single pixels, uneven padding, two sources, widths about a tile's, linear layers, images enough to cross tiles.
fn cases() -> Vec<Case> {
    let sq = ConvShape::square;
    let one = |shape: ConvShape, zero: u8, most: u8| Case { sources: vec![shape.c_in], shape, zeros: vec![zero], most };
    let two = |shape: ConvShape, first: usize, zeros: [u8; 2]| Case { sources: vec![first, shape.c_in - first], shape, zeros: zeros.to_vec(), most: 255 };
    let uneven = |n, h, w, c_in, c_out, r, s, stride, pad| ConvShape { n, h, w, c_in, c_out, r, s, stride, pad };
    let mut all = vec![
        one(sq(1, 8, 64, 64, 3, 1, 1), 6, 129),
        one(sq(3, 4, 17, 33, 3, 1, 1), 255, 255),
        one(sq(1, 1, 5, 7, 3, 1, 1), 0, 255),
        one(sq(3, 5, 3, 19, 3, 2, 1), 128, 255),
        one(sq(1, 9, 64, 40, 3, 2, 1), 128, 200),
        one(sq(3, 6, 20, 31, 1, 1, 0), 77, 255),
        one(sq(2, 7, 64, 32, 1, 2, 0), 1, 255),
        one(ConvShape::linear(37, 50, 45), 128, 255),
        one(ConvShape::linear(1, 130, 8), 128, 255),
        one(uneven(3, 8, 6, 20, 24, 3, 3, [2, 2], [0, 0, 1, 1]), 128, 255),
        one(uneven(1, 5, 11, 6, 34, 1, 4, [1, 2], [2, 3, 0, 1]), 9, 255),
        one(uneven(2, 3, 3, 2, 3, 2, 2, [2, 2], [0, 4, 3, 0]), 200, 255),
        one(uneven(1, 6, 9, 66, 16, 5, 3, [1, 1], [2, 1, 0, 0]), 3, 255),
        two(sq(1, 8, 128, 64, 3, 1, 1), 64, [6, 200]),
        two(sq(3, 4, 20, 17, 3, 1, 1), 7, [128, 0]),
        two(sq(1, 6, 65, 9, 3, 2, 1), 1, [31, 32]),
        two(sq(2, 5, 70, 33, 1, 1, 0), 64, [128, 127]),
    ];
    for (i, w) in [4, 8, 15, 16, 32, 33].into_iter().enumerate() {
        all.push(one(uneven(1 + 2 * (i % 2), 3, w, 13 * (i + 1), 5 + 11 * i, 3, 3, [1, 1], [1; 4]), 6, 130));
        all.push(one(uneven(1, 4, w, 12, 18, 3, 3, [2, 2], [1; 4]), 128, 255));
    }
    all
}

/// `[N, H, W, C]` numbers; each source's channels in their own range.
fn numbers(case: &Case) -> Vec<u8> {
    let s = &case.shape;
    whole(s.n * s.h * s.w * s.c_in, 1, 0, case.most.into()).into_iter().map(|q| q as u8).collect()
}

/// Sums over q - zero, s32.
fn sums(case: &Case, q: &[u8], w: &[i8]) -> Vec<i32> {
    let s = &case.shape;
    let zero = |channel: usize| i32::from(if channel < case.sources[0] { case.zeros[0] } else { case.zeros[1] });
    let mut out = vec![0; s.n * s.p() * s.q() * s.c_out];
    each_mac(s, |i, j, k| out[k] += (i32::from(q[i]) - zero(i % s.c_in)) * i32::from(w[j]));
    out
}

/// Numbers as floats that are rounded to them again, each source's channels by themselves.
fn sources(case: &Case, q: &[u8]) -> Vec<(Vec<f32>, Rounding)> {
    let mut first = 0;
    let each = case.sources.iter().zip(&case.zeros).map(|(channels, zero)| {
        let own = first..first + channels;
        first += channels;
        let x =
            q.chunks_exact(case.shape.c_in).flat_map(|pixel| pixel[own.clone()].iter().map(|q| (f32::from(*q) - f32::from(*zero)) * 0.25).collect::<Vec<_>>());
        (x.collect(), Rounding { scale: 0.25, zero: *zero, low: 0, high: case.most })
    });
    each.collect()
}

fn staged(case: &Case, conv: &Conv2d, q: &[u8], pool: &ThreadPool) -> Result<Vec<u8>> {
    let owned = sources(case, q);
    let sources: Vec<Source> = owned.iter().map(|(x, rounding)| Source { x, rounding: *rounding }).collect();
    let mut out = vec![0xa5; conv.staging().bytes()];
    Input { sources: &sources, norm: None, silu: false, double: false }.stage(conv.staging(), Isa::detect(), &mut out, pool.into())?;
    Ok(out)
}

/// What is added to the sums, by definition.
fn finished(case: &Case, sums: &[i32], scale: &[f32], more: Option<[&[f32]; 3]>, factor: f32) -> Vec<u32> {
    let (k, sample) = (case.shape.c_out, case.shape.p() * case.shape.q() * case.shape.c_out);
    let each = sums.iter().enumerate().map(|(i, sum)| {
        let mut v = *sum as f32 * scale[i % k];
        if let Some([bias, addend, residual]) = more {
            v += bias[i % k];
            v += addend[i / sample * k + i % k];
            v += residual[i];
            v *= factor;
        }
        v.to_bits()
    });
    each.collect()
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

/// tdpbusd by its definition (Intel's manual, volume 2), so that all but the instructions is tested on every machine.
struct Emulated;

impl tiles::Tiles for Emulated {
    type Floats = simd::Portable;
    const FLOATS: bool = false;
    unsafe fn begin() {}
    unsafe fn multiply(a: [*const u8; 2], stride: usize, offsets: &[u32], b: *const i8, sums: &mut task::Sums) {
        sums.0.fill(0);
        for (step, offset) in offsets.iter().enumerate() {
            for (i, sum) in sums.0.iter_mut().enumerate() {
                let (row, column) = (i / 32, i % 32);
                for k in 0..64 {
                    // SAFETY: rows of 64 bytes of the staging; tiles of 16 rows of 16 columns by four, two a step.
                    let (x, w) = unsafe {
                        let line = a[row / 16].add(*offset as usize + row % 16 * stride);
                        (*line.add(k), *b.add(2048 * step + 1024 * (column / 16) + 64 * (k / 4) + 4 * (column % 16) + k % 4))
                    };
                    *sum += i32::from(x) * i32::from(w);
                }
            }
        }
    }
    unsafe fn end() {}
}

unsafe fn emulated_tiles(task: &task::Task) {
    // SAFETY: the caller's contract.
    unsafe { tiles::run::<Emulated>(task) }
}

/// Signed bytes, as NEON's sdot has them.
unsafe fn emulated_signed(task: &task::Task) {
    let (s, [taps, width]) = (&task.product.staging, task.product.staging.taps());
    let steps = (width * s.pitch).div_ceil(4);
    for panel in task.panels.clone() {
        let (b, finish, columns) = (task.panel(panel), task.finish(panel, 16), task.columns(panel, 16).next_multiple_of(4));
        for row in task.rows.clone() {
            let (base, mut sums) = (task.bases::<1>(row)[0], task::Sums::new());
            for (j, sum) in sums.0.iter_mut().enumerate().take(columns) {
                // SAFETY: the head of the panel, its weights, and the bytes that they meet.
                unsafe {
                    *sum = b.cast::<i32>().add(j).read_unaligned();
                    for (step, i) in (0..taps * steps).flat_map(|step| (0..4).map(move |i| (step, i))) {
                        let x = *base.add(s.tap(step / steps, 0) + step % steps * 4 + i) as i8;
                        *sum += i32::from(x) * i32::from(*b.add(4 * (columns * (step + 1) + j) + i));
                    }
                }
            }
            // SAFETY: the caller's contract.
            unsafe { finish.rows::<simd::Portable>(sums.0.as_ptr(), columns, row, 1) };
        }
    }
}

/// Layouts whose instructions few machines have, in plain arithmetic.
static EMULATED: [Kernel; 2] = [
    Kernel {
        name: "int8_emulated_tiles",
        set: Set::Portable,
        tile: [32, 32],
        lanes: 16,
        form: Form::Tiles,
        packing: pack::Packing::Tiles { size: 1 },
        chunk_macs: 1 << 20,
        run: emulated_tiles,
    },
    Kernel {
        name: "int8_emulated_signed",
        set: Set::Portable,
        tile: [6, 16],
        lanes: 4,
        form: Form::Signed,
        packing: pack::Packing::SignedSteps,
        chunk_macs: 1 << 20,
        run: emulated_signed,
    },
];

/// The kernels that this machine can run, and the layouts of others.
fn kernels() -> impl Iterator<Item = &'static Kernel> {
    CATALOGUE.iter().filter(|kernel| kernel.set.available()).chain(&EMULATED)
}

#[test]
fn int8_kernels_equal_the_definition() -> Result<()> {
    let pools = [ThreadPool::new(1)?, ThreadPool::new(2)?];
    for case in cases() {
        let s = &case.shape;
        let (q, w) = (numbers(&case), weights(s.c_out * s.c_in * s.r * s.s, 2));
        let exact = sums(&case, &q, &w);
        // Odd scales: a product that is not rounded before the bias is added would show.
        let (scale, bias) = (noise(s.c_out, 3), noise(s.c_out, 4));
        let (addend, residual) = (noise(s.n * s.c_out, 5), noise(exact.len(), 6));
        let mut of_source = vec![0; case.sources.len() * s.c_out];
        weight_sums(s, &case.sources, &w, &mut of_source)?;
        let mut correction = vec![0; s.c_out];
        correct(&of_source, &case.zeros, &mut correction)?;
        for kernel in kernels() {
            let name = format!("{kernel:?} {s:?} {:?}", case.sources);
            let conv = Conv2d::new(s, &case.sources, case.most, kernel)?;
            for pool in &pools {
                let mut packed = vec![0x5a; conv.packed_len()];
                conv.pack_weights(&w, &mut packed, pool.into())?;
                let staged = staged(&case, &conv, &q, pool)?;
                for (more, factor) in [(None, 1.0), (Some([&*bias, &*addend, &*residual]), 1.0), (Some([&*bias, &*addend, &*residual]), 0.7)] {
                    let e = Epilogue {
                        correction: &correction,
                        scale: &scale,
                        bias: more.map(|m| m[0]),
                        addend: more.map(|m| m[1]),
                        residual: more.map(|m| m[2]),
                        factor,
                    };
                    let mut out = vec![f32::NAN; exact.len()];
                    conv.run(&staged, &packed, &e, &mut out, pool.into())?;
                    assert!(bits(&out) == finished(&case, &exact, &scale, more, factor), "{name}, {} threads, {factor}", pool.threads());
                    out.fill(f32::NAN);
                    let images = conv.staging().images();
                    conv.run_images(images, &staged, &packed, &e, &mut out)?;
                    assert!(bits(&out) == finished(&case, &exact, &scale, more, factor), "{name}, on this thread");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn int8_sums_at_their_limits_are_exact() -> Result<()> {
    // The most products with the largest factors, of either sign, and what overflows 16 bits soonest: pairs of equal signs.
    let pool = ThreadPool::new(1)?;
    let k = MOST_PRODUCTS;
    for (zero, number) in [(0u8, 255u8), (255, 0), (128, 255), (255, 255)] {
        for kernel in kernels() {
            let shape = ConvShape::linear(3, k, 5);
            let conv = Conv2d::new(&shape, &[k], 255, kernel)?;
            let w: Vec<i8> = (0..5 * k).map(|i| if (i / k).is_multiple_of(2) { 127 } else { -127 }).collect();
            let mut packed = vec![0; conv.packed_len()];
            conv.pack_weights(&w, &mut packed, (&pool).into())?;
            let x = vec![f32::from(number) - f32::from(zero); 3 * k];
            let source = Source { x: &x, rounding: Rounding { scale: 1.0, zero, low: 0, high: 255 } };
            let mut staged = vec![0; conv.staging().bytes()];
            Input { sources: &[source], norm: None, silu: false, double: false }.stage(conv.staging(), Isa::detect(), &mut staged, (&pool).into())?;
            let (mut sums, mut correction) = ([0; 5], [0; 5]);
            weight_sums(&shape, &[k], &w, &mut sums)?;
            correct(&sums, &[zero], &mut correction)?;
            let mut out = [f32::NAN; 15];
            let e = Epilogue { correction: &correction, scale: &[1.0; 5], bias: None, addend: None, residual: None, factor: 1.0 };
            conv.run(&staged, &packed, &e, &mut out, (&pool).into())?;
            let sum = (i32::from(number) - i32::from(zero)) * 127 * k as i32;
            let expected: Vec<f32> = (0..15).map(|i| if i % 5 % 2 == 0 { sum as f32 } else { -sum as f32 }).collect();
            assert_eq!(out.to_vec(), expected, "{kernel:?} {zero} {number}");
        }
    }
    Ok(())
}

/// Tables of floats that meet every branch: near ties, far away, none at all.
fn strange(len: usize, scale: f32) -> Vec<f32> {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MIN_POSITIVE / 8.0, f32::MAX, f32::MIN, 1e-30];
    let mut x = noise(len, 7);
    for (i, v) in x.iter_mut().enumerate() {
        *v = match i % 5 {
            0 => *v * scale * 300.0,
            1 => *v * scale * 4.0,
            // A tie, or its neighbour.
            2 | 3 => {
                let tie = ((*v * 300.0).round() + 0.5) * scale;
                f32::from_bits((tie.to_bits() as i32 + i as i32 / 5 % 3 - 1) as u32)
            }
            _ if i % 35 == 4 => special[i / 35 % special.len()],
            _ => *v,
        };
    }
    x
}

/// A staged byte of every pixel and tap is what the definition puts there; `value` of an image's pixel and channel.
fn check_staged(staging: &Staging, s: &ConvShape, zeros: &[u8], out: &[u8], value: impl Fn(usize, usize, usize, usize) -> u8, what: &str) {
    let (image_rows, image_columns) = if staging.linear { (1, s.n) } else { (s.h, s.w) };
    let zero = |c: usize| if c < staging.sources[0] { zeros[0] } else { zeros[1] };
    for image in 0..staging.images() {
        for (y, x) in (0..staging.out[0]).flat_map(|y| (0..staging.out[1]).map(move |x| (y, x))) {
            for (r, t) in (0..s.r).flat_map(|r| (0..s.s).map(move |t| (r, t))) {
                let at = staging.base(image, y, x) + staging.tap(r, t);
                let (yy, xx) = ((y * s.stride[0] + r).wrapping_sub(s.pad[0]), (x * s.stride[1] + t).wrapping_sub(s.pad[1]));
                for c in 0..s.c_in {
                    let expected = if yy < image_rows && xx < image_columns { value(image, yy, xx, c) } else { zero(c) };
                    let found = out[at + c].wrapping_sub(staging.offset());
                    assert_eq!(found, expected, "{what}: image {image}, output {y} {x}, tap {r} {t}, channel {c}");
                }
            }
        }
    }
}

#[test]
fn int8_producers_equal_the_definition() -> Result<()> {
    let pools = [ThreadPool::new(1)?, ThreadPool::new(2)?];
    let scales = [0.0123, 1.0, 0.25, 3.7e-5, 1e-38, 1e35];
    for (number, case) in cases().into_iter().enumerate() {
        let s = &case.shape;
        let linear = s.h == 1 && s.w == 1 && s.pointwise();
        for (double, norm, silu) in
            [(false, false, false), (false, true, true), (true, true, true), (true, false, false), (false, true, false), (false, false, true)]
        {
            if double && (s.h % 2 != 0 || s.w % 2 != 0) {
                continue;
            }
            let by = if double { 2 } else { 1 };
            let [h, w] = [s.h / by, s.w / by];
            let scale = scales[number % scales.len()];
            let x: Vec<Vec<f32>> = case.sources.iter().map(|c| strange(s.n * h * w * c, scale)).collect();
            let roundings: Vec<Rounding> =
                case.zeros.iter().map(|zero| Rounding { scale, zero: *zero, low: zero / 2, high: case.most.min(zero.saturating_add(100)) }).collect();
            let sources: Vec<Source> = x.iter().zip(&roundings).map(|(x, rounding)| Source { x, rounding: *rounding }).collect();
            let [factor, shift] = [8, 9].map(|seed| noise(s.n * s.c_in, seed));
            let input = Input { sources: &sources, norm: norm.then_some(Norm { factor: &factor, shift: &shift }), silu, double };
            let value = |image: usize, y: usize, xx: usize, c: usize| {
                let (source, own) = if c < case.sources[0] { (0, c) } else { (1, c - case.sources[0]) };
                let mut v = x[source][((image * h + y / by) * w + xx / by) * case.sources[source] + own];
                if norm {
                    let at = (if linear { xx } else { image }) * s.c_in + c;
                    v = v * factor[at] + shift[at];
                }
                stage::round(if silu { stage::silu(v) } else { v }, &roundings[source])
            };
            for form in [Form::Packed, Form::Signed, Form::Tiles] {
                let staging = Staging::new(s, &case.sources, case.most, form)?;
                let mut bytes: Option<Vec<u8>> = None;
                for isa in Isa::all() {
                    for pool in &pools {
                        let mut out = vec![0xa5; staging.bytes()];
                        input.stage(&staging, isa, &mut out, pool.into())?;
                        let what = format!("{s:?} {form:?} {isa:?} double {double} norm {norm} silu {silu}");
                        if bytes.is_none() {
                            check_staged(&staging, s, &case.zeros, &out, value, &what);
                        }
                        assert!(bytes.as_ref().is_none_or(|b| *b == out), "{what}: bytes depend on threads or instructions");
                        bytes = Some(out);
                    }
                }
                let mut out = vec![0xa5; staging.bytes()];
                input.stage_images(&staging, Isa::detect(), staging.images(), &mut out)?;
                assert!(bytes == Some(out), "{s:?} {form:?}: on this thread");
            }
        }
    }
    Ok(())
}

#[test]
fn int8_rounding_is_the_ops() -> Result<()> {
    for scale in [0.0123f32, 1.0, 0.1, 3.7e-5, 7.0e20] {
        for (zero, low, high) in [(0u8, 0, 255), (6, 0, 129), (128, 1, 255), (255, 0, 255)] {
            let x = strange(5000, scale);
            let [scales, zeros] = [array(&[1], vec![scale.into()])?, array(&[1], vec![zero.into()])?];
            let wide = array(&[x.len()], x.iter().map(|v| f64::from(*v)).collect())?;
            let expected = Quantize { codes: Codes { dtype: DType::U8, low, high }, axis: None }.reference(&[&wide, &scales, &zeros])?;
            for (x, e) in x.iter().zip(expected[0].iter()) {
                assert_eq!(f64::from(stage::round(*x, &Rounding { scale, zero, low: low as u8, high: high as u8 })), *e, "{x} / {scale} + {zero}");
            }
        }
    }
    Ok(())
}

#[test]
fn int8_bad_input_is_an_error() -> Result<()> {
    let pool = ThreadPool::new(1)?;
    let kernel = &CATALOGUE[0];
    let shape = ConvShape::square(2, 4, 4, 4, 3, 1, 1);
    let many = Conv2d::new(&ConvShape::square(1, 4, 7334, 4, 3, 1, 1), &[7334], 255, kernel).expect_err("66,006 products");
    assert!(many.status == Status::Unsupported && many.message.contains("66006 products") && many.message.contains("float"), "{many}");
    assert!(Conv2d::new(&shape, &[3], 255, kernel).is_err() && Conv2d::new(&shape, &[4, 0], 255, kernel).is_err());
    assert!(Conv2d::new(&ConvShape { h: 0, ..shape }, &[4], 255, kernel).is_err());
    assert!(Conv2d::new(&ConvShape { h: 1 << 20, w: 1 << 20, ..shape }, &[4], 255, kernel).is_err());
    for missing in CATALOGUE.iter().filter(|kernel| !kernel.set.available()) {
        let refused = Conv2d::new(&shape, &[4], 255, missing).expect_err("a machine without it");
        assert!(refused.message.contains(missing.set.name()), "{refused}");
    }

    let conv = Conv2d::new(&shape, &[4], 200, kernel)?;
    let mut w = vec![1i8; 144];
    let mut packed = vec![0i8; conv.packed_len()];
    assert!(conv.pack_weights(&w[1..], &mut packed, (&pool).into()).is_err());
    assert!(conv.pack_weights(&w, &mut packed[1..], (&pool).into()).is_err());
    w[77] = -128;
    assert!(conv.pack_weights(&w, &mut packed, (&pool).into()).expect_err("-128").message.contains("weight 77"));

    let good = Rounding { scale: 0.1, zero: 6, low: 0, high: 200 };
    let x = [0.0; 128];
    let mut staged = vec![0; conv.staging().bytes()];
    let mut stage = |x: &[f32], rounding: Rounding, double: bool, cut: usize| {
        let sources = [Source { x, rounding }];
        let len = staged.len() - cut;
        Input { sources: &sources, norm: None, silu: false, double }.stage(conv.staging(), Isa::Portable, &mut staged[..len], (&pool).into())
    };
    stage(&x, good, false, 0)?;
    assert!(stage(&x[1..], good, false, 0).is_err() && stage(&x, good, true, 0).is_err() && stage(&x, good, false, 1).is_err());
    for bad in [
        Rounding { scale: 0.0, ..good },
        Rounding { scale: f32::NAN, ..good },
        Rounding { scale: f32::INFINITY, ..good },
        Rounding { scale: -1.0, ..good },
        Rounding { high: 201, ..good },
        Rounding { low: 7, ..good },
        Rounding { zero: 201, high: 200, ..good },
    ] {
        assert_eq!(stage(&x, bad, false, 0).expect_err("bad").status, Status::InvalidArgument, "{bad:?}");
    }

    let (scale, correction, mut out) = ([1.0; 4], [0; 4], vec![0.0; 128]);
    let e = Epilogue { correction: &correction, scale: &scale, bias: None, addend: None, residual: None, factor: 1.0 };
    conv.run(&staged, &packed, &e, &mut out, (&pool).into())?;
    assert!(conv.run(&staged[1..], &packed, &e, &mut out, (&pool).into()).is_err());
    assert!(conv.run(&staged, &packed[1..], &e, &mut out, (&pool).into()).is_err());
    assert!(conv.run(&staged, &packed, &e, &mut out[1..], (&pool).into()).is_err());
    assert!(conv.run_images(3, &staged, &packed, &e, &mut out).is_err());
    for bad in [
        Epilogue { correction: &[0; 3], ..e },
        Epilogue { scale: &[0.0; 5], ..e },
        Epilogue { bias: Some(&[0.0; 3]), ..e },
        Epilogue { addend: Some(&[0.0; 4]), ..e },
        Epilogue { residual: Some(&[0.0; 4]), ..e },
    ] {
        assert!(conv.run(&staged, &packed, &bad, &mut out, (&pool).into()).is_err());
    }
    assert!(weight_sums(&shape, &[3], &w, &mut [0; 4]).is_err() && correct(&[0; 4], &[1, 2], &mut [0; 4]).is_err());
    Ok(())
}

#[test]
fn int8_images_may_be_computed_one_by_one() -> Result<()> {
    let pool = ThreadPool::new(2)?;
    let shape = ConvShape::square(5, 6, 20, 24, 3, 1, 1);
    let case = Case { shape, sources: vec![20], zeros: vec![6], most: 130 };
    let (q, w) = (numbers(&case), weights(24 * 20 * 9, 2));
    for kernel in kernels() {
        let conv = Conv2d::new(&shape, &[20], 130, kernel)?;
        let mut packed = vec![0; conv.packed_len()];
        conv.pack_weights(&w, &mut packed, (&pool).into())?;
        let staged = staged(&case, &conv, &q, &pool)?;
        let (scale, correction, addend) = (noise(24, 3), whole(24, 4, -1000, 1000), noise(5 * 24, 5));
        let e = Epilogue { correction: &correction, scale: &scale, bias: None, addend: Some(&addend), residual: None, factor: 1.0 };
        let mut expected = vec![f32::NAN; 5 * 36 * 24];
        conv.run(&staged, &packed, &e, &mut expected, (&pool).into())?;
        let (mut out, size) = (vec![f32::NAN; expected.len()], conv.staging().image_bytes());
        for (first, images) in [(0, 2), (2, 1), (3, 2)] {
            let part = Epilogue { addend: Some(&addend[first * 24..(first + images) * 24]), ..e };
            conv.run_images(images, &staged[first * size..(first + images) * size], &packed, &part, &mut out[first * 36 * 24..(first + images) * 36 * 24])?;
        }
        assert!(bits(&out) == bits(&expected), "{kernel:?}");
    }
    Ok(())
}

#[test]
fn int8_shapes_get_the_kernel_of_their_set() {
    let wide = ConvShape::square(1, 32, 64, 64, 3, 1, 1);
    for set in Set::all() {
        assert_eq!(Kernel::of(set, &wide).set, set);
    }
    // A few channels of three are no work for tiles.
    let narrow = ConvShape::square(1, 32, 3, 64, 3, 1, 1);
    let lower = Kernel::of(Set::Amx, &narrow).set;
    assert!(lower == Set::Avx512Vnni || cfg!(not(target_arch = "x86_64")), "{lower:?}");
    assert_eq!([Kernel::detect(&narrow).set, Kernel::detect(&wide).set], [Set::detect_vectors(), Set::detect()]);
    // Tiles are asked for only for what fills them.
    assert_eq!(Kernel::chosen(&narrow, || panic!("asked"), || Set::Portable).set, Set::Portable);
    assert_eq!(Kernel::chosen(&wide, || Set::Portable, || panic!("not asked")).set, Set::Portable);
    let names: std::collections::BTreeSet<&str> = CATALOGUE.iter().map(|kernel| kernel.name).collect();
    assert!(names.len() == CATALOGUE.len() && names.iter().all(|name| name.starts_with("int8_")));
}
