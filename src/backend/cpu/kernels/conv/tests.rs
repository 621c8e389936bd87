//! The convolution kernels against a direct f64 convolution.

use super::*;
use crate::backend::cpu::ThreadPool;
use crate::backend::cpu::kernels::simd::Isa;

/// Numbers in -1..1 from a fixed generator, so that every run tests the same.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Calls `f(x index, weight index, y index)` for every multiply-add; the definition that all three kernels are tested against.
pub(crate) fn each_mac(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let (p, q) = (s.p(), s.q());
    for n in 0..s.n {
        for (py, qx) in (0..p).flat_map(|a| (0..q).map(move |b| (a, b))) {
            for (r, t) in (0..s.r).flat_map(|a| (0..s.s).map(move |b| (a, b))) {
                let (y, x) = ((py * s.stride[0] + r).wrapping_sub(s.pad[0]), (qx * s.stride[1] + t).wrapping_sub(s.pad[1]));
                if y >= s.h || x >= s.w {
                    continue;
                }
                for o in 0..s.c_out {
                    for c in 0..s.c_in {
                        f(((n * s.h + y) * s.w + x) * s.c_in + c, ((o * s.c_in + c) * s.r + r) * s.s + t, ((n * p + py) * q + qx) * s.c_out + o);
                    }
                }
            }
        }
    }
}

/// The shapes that all convolution tests run: every tail, border, stride and special path at least once.
pub(crate) fn shapes() -> Vec<ConvShape> {
    let sq = ConvShape::square;
    vec![
        sq(1, 8, 8, 8, 3, 1, 1),
        sq(2, 5, 17, 33, 3, 1, 1),
        sq(9, 4, 24, 48, 3, 1, 1),
        sq(1, 9, 3, 31, 3, 1, 1),
        sq(2, 7, 1, 5, 3, 2, 1),
        sq(1, 8, 4, 3, 3, 1, 0),
        sq(3, 6, 20, 1, 1, 1, 0),
        sq(2, 6, 18, 40, 1, 2, 0),
        sq(2, 9, 19, 16, 3, 2, 1),
        sq(1, 8, 130, 70, 3, 1, 1),
        sq(5, 1, 40, 65, 3, 1, 1),
        sq(1, 12, 2, 18, 5, 3, 2),
        ConvShape { n: 2, h: 8, w: 6, c_in: 20, c_out: 24, r: 3, s: 3, stride: [2, 2], pad: [0, 0, 1, 1] },
        ConvShape { n: 1, h: 5, w: 11, c_in: 6, c_out: 34, r: 1, s: 4, stride: [1, 3], pad: [2, 3, 0, 1] },
        ConvShape { n: 1, h: 3, w: 3, c_in: 2, c_out: 3, r: 2, s: 2, stride: [2, 2], pad: [0, 4, 3, 0] },
        ConvShape::linear(37, 50, 45),
        ConvShape::linear(1, 7, 130),
    ]
}

/// Worst difference from the reference in units of the sum of magnitudes; f32 sums of K products stay far below 1e-6 of it.
pub(crate) fn assert_close(found: &[f32], expected: &[(f64, f64)], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, (e, magnitude))) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() <= 1e-6 * (magnitude + 1.0), "{what}: element {i} is {f}, expected {e}");
    }
}

#[test]
fn forward_matches_f64() -> Result<()> {
    let pools = [ThreadPool::new(1)?, ThreadPool::new(3)?];
    for s in shapes() {
        let [nx, nw, ny] = s.check()?;
        let (x, w) = (noise(nx, 1), noise(nw, 2));
        let (bias, addend, residual) = (noise(s.c_out, 3), noise(s.n * s.c_out, 4), noise(ny, 5));
        for full in [false, true] {
            let epilogue =
                if full { Epilogue { bias: Some(&bias), addend: Some(&addend), residual: Some(&residual), scale: 0.5 } } else { Epilogue::default() };
            let mut expected = vec![(0.0, 0.0); ny];
            each_mac(&s, |i, j, k| {
                let product = f64::from(x[i]) * f64::from(w[j]);
                expected[k].0 += product;
                expected[k].1 += product.abs();
            });
            if full {
                let sample = s.p() * s.q() * s.c_out;
                for (k, e) in expected.iter_mut().enumerate() {
                    let (o, n) = (k % s.c_out, k / sample);
                    e.0 = (e.0 + f64::from(bias[o]) + f64::from(addend[n * s.c_out + o]) + f64::from(residual[k])) * 0.5;
                }
            }
            for isa in Isa::all() {
                let conv = Conv2d::new(&s, isa)?;
                let mut bytes: Option<Vec<u32>> = None;
                for pool in pools.iter().map(Workers::from) {
                    let mut packed = vec![f32::NAN; conv.packed_len()];
                    conv.pack_weights(&w, &mut packed, pool)?;
                    let mut out = vec![f32::NAN; ny];
                    let mut scratch = vec![f32::NAN; conv.workspace()];
                    conv.run(&x, &packed, &epilogue, &mut out, &mut scratch, pool)?;
                    assert_close(&out, &expected, &format!("{s:?} {isa:?}"));
                    let bits: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
                    assert!(bytes.as_ref().is_none_or(|b| *b == bits), "{s:?} {isa:?}: bytes depend on the threads");
                    bytes = Some(bits);
                }
            }
        }
    }
    Ok(())
}

/// Whatever stands beside it: pixels at the border, which lack taps, are computed with the others where there are few, and so many taps that their weights are
/// taken in blocks.
#[test]
fn an_image_is_the_same_bits_in_any_batch() -> Result<()> {
    let pool = ThreadPool::new(2)?;
    for (side, c_in, c_out, kernel) in [(4, 128, 64, 3), (4, 256, 40, 3), (2, 300, 33, 3), (3, 160, 16, 5), (8, 130, 32, 3)] {
        for isa in Isa::all() {
            let mut first: Option<Vec<u32>> = None;
            for n in 1..=5 {
                let s = ConvShape::square(n, side, c_in, c_out, kernel, 1, kernel / 2);
                let [nx, nw, ny] = s.check()?;
                let (x, w) = (noise(nx / n, 1).repeat(n), noise(nw, 2));
                let conv = Conv2d::new(&s, isa)?;
                let mut packed = vec![f32::NAN; conv.packed_len()];
                conv.pack_weights(&w, &mut packed, (&pool).into())?;
                let (mut out, mut scratch) = (vec![f32::NAN; ny], vec![f32::NAN; conv.workspace()]);
                conv.run(&x, &packed, &Epilogue::default(), &mut out, &mut scratch, (&pool).into())?;
                for image in out.chunks(ny / n) {
                    let bits: Vec<u32> = image.iter().map(|v| v.to_bits()).collect();
                    assert!(first.as_ref().is_none_or(|first| *first == bits), "{s:?} {isa:?}");
                    first = Some(bits);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn wrong_sizes_are_errors() -> Result<()> {
    let pool = ThreadPool::new(1)?;
    let good = ConvShape::square(1, 4, 4, 4, 3, 1, 1);
    let bad = [
        ConvShape { c_in: 0, ..good },
        ConvShape { stride: [0, 1], ..good },
        ConvShape { r: 7, ..good },
        ConvShape { n: usize::MAX, ..good },
        ConvShape { pad: [usize::MAX; 4], ..good },
    ];
    for s in bad {
        assert!(Conv2d::new(&s, Isa::Portable).is_err(), "{s:?}");
    }
    let conv = Conv2d::new(&good, Isa::Portable)?;
    let mut packed = vec![0.0; conv.packed_len()];
    let (mut out, mut scratch) = (vec![0.0; 64], vec![0.0; conv.workspace()]);
    assert!(conv.pack_weights(&[0.0; 3], &mut packed, (&pool).into()).is_err());
    let e = Epilogue::default();
    assert!(conv.run(&[0.0; 63], &packed, &e, &mut out, &mut scratch, (&pool).into()).is_err());
    assert!(conv.run(&[0.0; 64], &packed[1..], &e, &mut out, &mut scratch, (&pool).into()).is_err());
    assert!(conv.run(&[0.0; 64], &packed, &e, &mut out[1..], &mut scratch, (&pool).into()).is_err());
    assert!(conv.run(&[0.0; 64], &packed, &e, &mut out, &mut [], (&pool).into()).is_err());
    assert!(conv.run(&[0.0; 64], &packed, &Epilogue { bias: Some(&[0.0; 3]), ..e }, &mut out, &mut scratch, (&pool).into()).is_err());
    Ok(())
}
