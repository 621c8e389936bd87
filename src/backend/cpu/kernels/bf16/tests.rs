//! Every kernel against sums in f64 of the same rounded factors, and the same bits from all of them. Tolerance: that of sums in f32, a millionth of the sum of the
//! products' sizes; a factor that is not rounded, or rounded otherwise, is some thousandths off.

use super::super::conv::Epilogue;
use super::super::conv::tests::{assert_close, each_mac, noise, shapes};
use super::super::int8::stage::Bf16;
use super::super::int8::task::Sums;
use super::super::int8::tiles::Tiles;
use super::super::int8::{Input, Norm, Source, Staging};
use super::super::simd::Isa;
use super::super::workers::Workers;
use super::weight_grad::Outer;
use super::*;
use crate::backend::cpu::ThreadPool;
use crate::backend::cpu::math::sigmoid;
use crate::error::Status;
use half::slice::HalfFloatSliceExt;

fn rounded(v: f32) -> f64 {
    bf16::from_f32(v).to_f64()
}

/// What an x, the weights and a y are by definition: three sums of products of rounded factors, each with the sum of their sizes.
fn expected(s: &ConvShape, len: usize, mut term: impl FnMut(usize, usize, usize) -> (usize, f64)) -> Vec<(f64, f64)> {
    let mut sums = vec![(0.0, 0.0); len];
    each_mac(s, |i, j, k| {
        let (at, product) = term(i, j, k);
        sums[at].0 += product;
        sums[at].1 += product.abs();
    });
    sums
}

/// More than the tables of f32: widths about a tile's, several images of uneven rows, panels that are not full, sums of many parts.
fn all_shapes() -> Vec<ConvShape> {
    let sq = ConvShape::square;
    let more = [
        sq(2, 16, 33, 34, 3, 1, 1),
        sq(1, 32, 32, 32, 3, 1, 1),
        sq(3, 15, 16, 48, 3, 2, 1),
        sq(2, 10, 20, 40, 5, 2, 2),
        sq(20, 4, 18, 33, 3, 1, 1),
        ConvShape { n: 2, h: 7, w: 9, c_in: 40, c_out: 20, r: 3, s: 2, stride: [3, 2], pad: [1, 0, 2, 1] },
        ConvShape::linear(3000, 20, 17),
        sq(1, 48, 3, 32, 3, 1, 1),
    ];
    shapes().into_iter().chain(more).collect()
}

/// Runs `f` with every kernel and pool: all must give the same bits, near what is expected.
fn check(what: &str, expected: &[(f64, f64)], f: impl Fn(&'static Kernel, Isa, Workers) -> Result<Vec<f32>>) -> Result<()> {
    let pools = [ThreadPool::new(1)?, ThreadPool::new(3)?];
    let mut bits: Option<Vec<u32>> = None;
    for (kernel, isa) in Kernel::all().flat_map(|kernel| Isa::all().map(move |isa| (kernel, isa))) {
        for pool in &pools {
            let out = f(kernel, isa, pool.into())?;
            let what = format!("{what} {kernel:?} {isa:?} {} threads", pool.threads());
            assert_close(&out, expected, &what);
            let found: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
            assert!(bits.as_ref().is_none_or(|bits| *bits == found), "{what}: other bits");
            bits = Some(found);
        }
    }
    Ok(())
}

#[test]
fn bf16_convolutions_match_f64() -> Result<()> {
    for s in all_shapes() {
        let [nx, nw, ny] = s.check()?;
        let (x, w) = (noise(nx, 1), noise(nw, 2));
        let (bias, addend, residual) = (noise(s.c_out, 3), noise(s.n * s.c_out, 4), noise(ny, 5));
        let plain = expected(&s, ny, |i, j, k| (k, rounded(x[i]) * rounded(w[j])));
        for full in [false, true] {
            let epilogue =
                if full { Epilogue { bias: Some(&bias), addend: Some(&addend), residual: Some(&residual), scale: 0.5 } } else { Epilogue::default() };
            let mut expected = plain.clone();
            if full {
                let sample = s.p() * s.q() * s.c_out;
                for (k, e) in expected.iter_mut().enumerate() {
                    let (o, n) = (k % s.c_out, k / sample);
                    e.0 = (e.0 + f64::from(bias[o]) + f64::from(addend[n * s.c_out + o]) + f64::from(residual[k])) * 0.5;
                }
            }
            check(&format!("{s:?}"), &expected, |kernel, isa, pool| {
                let conv = Conv2d::new(&s, &[s.c_in], kernel)?;
                let mut packed = vec![bf16::NAN; conv.packed_len()];
                conv.pack_weights(&w, &mut packed, pool)?;
                let (mut staged, mut out) = (vec![0xa5; conv.staging().bytes()], vec![f32::NAN; ny]);
                conv.stage(&x, isa, &mut staged, pool)?;
                conv.run(&staged, &packed, &epilogue, &mut out, pool)?;
                Ok(out)
            })?;
        }
    }
    Ok(())
}

#[test]
fn bf16_input_gradients_match_f64() -> Result<()> {
    let mut count = 0;
    for s in all_shapes() {
        let [nx, nw, ny] = s.check()?;
        if turned(&s).is_none() {
            let refused = Conv2d::input_grad(&s, &DEFINITION).map(drop).expect_err("a stride");
            assert!(refused.status == Status::Unsupported && refused.message.contains("f32"), "{refused}");
            continue;
        }
        count += 1;
        let (dy, w) = (noise(ny, 1), noise(nw, 2));
        let expected = expected(&s, nx, |i, j, k| (i, rounded(dy[k]) * rounded(w[j])));
        check(&format!("{s:?}"), &expected, |kernel, isa, pool| {
            let conv = Conv2d::input_grad(&s, kernel)?;
            let mut packed = vec![bf16::NAN; conv.packed_len()];
            conv.pack_weights(&w, &mut packed, pool)?;
            let (mut staged, mut dx) = (vec![0xa5; conv.staging().bytes()], vec![f32::NAN; nx]);
            conv.stage(&dy, isa, &mut staged, pool)?;
            conv.run(&staged, &packed, &Epilogue::default(), &mut dx, pool)?;
            Ok(dx)
        })?;
    }
    assert!(count > 10, "{count}");
    Ok(())
}

#[test]
fn bf16_weight_gradients_match_f64() -> Result<()> {
    for s in all_shapes() {
        let [nx, nw, ny] = s.check()?;
        let (x, dy) = (noise(nx, 1), noise(ny, 2));
        let expected = expected(&s, nw, |i, j, k| (j, rounded(x[i]) * rounded(dy[k])));
        check(&format!("{s:?}"), &expected, |kernel, isa, pool| {
            let grad = WeightGrad::new(&s, kernel)?;
            let (mut scratch, mut dw) = (vec![f32::NAN; grad.workspace() / 4], vec![f32::NAN; nw]);
            grad.run(&x, &dy, &mut dw, &mut scratch, isa, pool)?;
            assert!(grad.run(&x[1..], &dy, &mut dw, &mut scratch, isa, pool).is_err() && grad.run(&x, &dy, &mut dw, &mut [], isa, pool).is_err());
            Ok(dw)
        })?;
    }
    Ok(())
}

/// Floats of every kind: ties and their neighbours, denormals of either type, beyond bf16's range, not finite.
fn strange(len: usize) -> Vec<f32> {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MIN_POSITIVE / 8.0, f32::MAX, f32::MIN, 1e-40, f32::from_bits(0x7f80_0001)];
    let mut x = noise(len, 7);
    for (i, v) in x.iter_mut().enumerate() {
        match i % 4 {
            0 => *v = f32::from_bits(v.to_bits() & 0xffff_0000 | (0x8000 + i as u32 / 4 % 3 - 1)),
            1 => *v = special[i / 4 % special.len()],
            _ => {}
        }
    }
    x
}

#[test]
fn bf16_producers_equal_the_definition() -> Result<()> {
    let two = |shape: ConvShape, first: usize| (shape, vec![first, shape.c_in - first]);
    let sq = ConvShape::square;
    let cases = [
        (sq(2, 5, 33, 8, 3, 1, 1), vec![33]),
        two(sq(2, 6, 37, 8, 3, 2, 1), 5),
        two(sq(1, 16, 40, 8, 3, 1, 1), 32),
        (ConvShape::linear(19, 45, 7), vec![45]),
        (ConvShape { n: 3, h: 5, w: 4, c_in: 6, c_out: 3, r: 2, s: 3, stride: [1, 2], pad: [1, 0, 0, 2] }, vec![6]),
    ];
    let pools = [ThreadPool::new(1)?, ThreadPool::new(3)?];
    for (s, sources) in cases {
        let x: Vec<Vec<f32>> = sources.iter().map(|c| strange(s.n * s.h * s.w * c)).collect();
        let [factor, shift] = [8, 9].map(|seed| noise(s.n * s.c_in, seed));
        let staging = Staging::new(&s, &sources, 0, Form::Bf16Tiles)?;
        let linear = s.h == 1 && s.w == 1 && s.pointwise();
        for (norm, silu) in [(false, false), (true, true), (true, false), (false, true)] {
            let given: Vec<_> = x.iter().map(|x| Source { x, rounding: Bf16 }).collect();
            let input = Input { sources: &given, norm: norm.then_some(Norm { factor: &factor, shift: &shift }), silu, double: false };
            let value = |image: usize, y: usize, column: usize, c: usize| {
                let (source, own) = if c < sources[0] { (0, c) } else { (1, c - sources[0]) };
                let (h, w) = if linear { (1, s.n) } else { (s.h, s.w) };
                let mut v = x[source][((image * h + y) * w + column) * sources[source] + own];
                if norm {
                    let at = (if linear { column } else { image }) * s.c_in + c;
                    v = v * factor[at] + shift[at];
                }
                bf16::from_f32(if silu { v * sigmoid(v) } else { v })
            };
            for isa in Isa::all() {
                for pool in &pools {
                    let mut out = vec![0xa5; staging.bytes()];
                    input.stage(&staging, isa, &mut out, pool.into())?;
                    for (image, y, column) in (0..staging.images()).flat_map(|image| {
                        let [p, q] = staging.out;
                        (0..p).flat_map(move |y| (0..q).map(move |x| (image, y, x)))
                    }) {
                        for (r, t) in (0..s.r).flat_map(|r| (0..s.s).map(move |t| (r, t))) {
                            let at = staging.base(image, y, column) + staging.tap(r, t);
                            let (yy, xx) = ((y * s.stride[0] + r).wrapping_sub(s.pad[0]), (column * s.stride[1] + t).wrapping_sub(s.pad[1]));
                            let (h, w) = if linear { (1, s.n) } else { (s.h, s.w) };
                            for c in 0..s.c_in.next_multiple_of(32) {
                                let found = bf16::from_ne_bytes([out[at + 2 * c], out[at + 2 * c + 1]]);
                                let expected = if yy < h && xx < w && c < s.c_in { value(image, yy, xx, c) } else { bf16::ZERO };
                                // The bits of what is no number are the machine's.
                                let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                                assert!(
                                    same,
                                    "{s:?} {isa:?} {norm} {silu}: image {image}, output {y} {column}, tap {r} {t}, channel {c}: {found:?}, {expected:?}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// What the manual says that a sum of single f32 products would not give, of two tiles' rows 0 and columns 0.
#[test]
fn bf16_definition_is_the_instructions() {
    let tiny = f32::MIN_POSITIVE;
    type Row<'a> = (&'a str, &'a [[f32; 2]], &'a [[f32; 2]], f32);
    let rows: [Row; 6] = [
        ("pairs have a sum each", &[[16777216.0, 1.0], [0.0, 1.0]], &[[1.0; 2]; 2], 16777218.0),
        ("and are added at the end", &[[1.0, 16777216.0], [1.0, 0.0]], &[[1.0; 2]; 2], 16777218.0),
        ("denormal factors are 0", &[[tiny / 2.0, 0.0]], &[[16.0; 2]], 0.0),
        ("denormal sums are 0", &[[tiny, 0.0]; 4], &[[0.125; 2]; 4], 0.0),
        ("what is just normal is not", &[[tiny, 0.0]], &[[1.0; 2]], tiny),
        ("products are not rounded by themselves", &[[1.0078125, 0.0], [-1.0, 0.0]], &[[1.0078125, 0.0], [1.015625, 0.0]], 1.0 / 16384.0),
    ];
    for (what, a, b, expected) in rows {
        let [mut x, mut w] = [[bf16::ZERO; 512]; 2];
        for (k, (a, b)) in a.iter().zip(b).enumerate() {
            x[2 * k..2 * k + 2].copy_from_slice(&a.map(bf16::from_f32));
            w[32 * k..32 * k + 2].copy_from_slice(&b.map(bf16::from_f32));
        }
        let (a, b) = ([x.as_ptr().cast::<u8>(); 2], [w.as_ptr().cast::<u8>(); 2]);
        let mut weights = [bf16::ZERO; 1024];
        weights[..512].copy_from_slice(&w);
        let mut sums = Sums::new();
        // SAFETY: a tile each, rows of 64 bytes.
        unsafe { <definition::Definition as Outer>::multiply(a, b, &[[0, 0]], &mut sums) };
        assert_eq!(f32::from_bits(sums.0[0] as u32), expected, "{what}");
        // SAFETY: as above; two tiles of weights.
        unsafe { <definition::Definition as Tiles>::multiply(a, 64, &[0], weights.as_ptr().cast(), &mut sums) };
        assert_eq!(f32::from_bits(sums.0[0] as u32), expected, "{what}");
    }
}

#[test]
fn bf16_weights_are_rounded_as_slices_are() -> Result<()> {
    let (s, pool) = (ConvShape::linear(1, 32, 32), ThreadPool::new(1)?);
    let conv = Conv2d::new(&s, &[32], &DEFINITION)?;
    let w = strange(1024);
    let [mut packed, mut expected] = [(); 2].map(|()| vec![bf16::ZERO; 1024]);
    conv.pack_weights(&w, &mut packed, (&pool).into())?;
    expected.convert_from_f32_slice(&w);
    let sorted = |all: &[bf16]| {
        let mut bits: Vec<u16> = all.iter().filter(|v| !v.is_nan()).map(|v| v.to_bits()).collect();
        bits.sort_unstable();
        bits
    };
    assert_eq!(sorted(&packed), sorted(&expected));
    assert!(conv.pack_weights(&w[1..], &mut packed, (&pool).into()).is_err() && conv.pack_weights(&w, &mut packed[1..], (&pool).into()).is_err());
    Ok(())
}

/// The system is asked only where nothing stands against it, and every refusal says what to do.
#[test]
fn bf16_tiles_are_asked_for_only_where_they_may_be() {
    for (limit, has, granted, expected, needles) in [
        (None, true, true, None, [""; 2]),
        (Some("amx"), true, true, None, [""; 2]),
        (Some("avx512"), true, true, Some(Lack::Forbidden("avx512")), ["FEWSTEP_ISA=avx512", "use f32"]),
        (Some("avx2"), false, true, Some(Lack::Forbidden("avx2")), ["FEWSTEP_ISA=avx2", "use f32"]),
        (None, false, true, Some(Lack::Absent), ["lacks", "use f32"]),
        (Some("amx"), true, false, Some(Lack::Refused), ["refuses", "signal stack"]),
    ] {
        let asked = std::cell::Cell::new(false);
        let found = lack(limit, has, || {
            asked.set(true);
            granted
        });
        assert_eq!(found, expected, "{limit:?}");
        assert_eq!(asked.get(), has && matches!(limit, None | Some("amx")), "{limit:?}");
        if let Some(lack) = found {
            let error = refusal(lack);
            assert!(error.status == Status::Unsupported && needles.iter().all(|needle| error.message.contains(needle)), "{error}");
        }
    }
    assert!(Kernel::is_possible() || Kernel::detect().is_err());
}

#[test]
fn bf16_is_for_what_fills_tiles() {
    let sq = |hw: usize, c_in: usize, c_out: usize| ConvShape::square(1, hw, c_in, c_out, 3, 1, 1);
    for (shape, forward, weights) in [
        (sq(32, 64, 64), true, true),
        (sq(8, 16, 32), true, true),
        (sq(32, 3, 64), false, false),
        (sq(32, 64, 3), false, false),
        (ConvShape::linear(1, 256, 256), false, false),
        (ConvShape::linear(16, 256, 256), true, true),
    ] {
        assert_eq!((Kernel::pays(&shape), WeightGrad::pays(&shape)), (forward, weights), "{shape:?}");
    }
}
