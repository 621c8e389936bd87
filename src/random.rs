//! The one source of randomness: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and our own normals.
//!
//! A random number is a pure function of where it is used, so nothing depends on batch size, thread count or device:
//! ```text
//! key     = [seed low word, seed high word]
//! counter = [block, sample, step, purpose]       block = element / 4, element in logical C, H, W order within the sample
//! ```
//! and element i is word (or normal) i % 4 of its block. Words are bit-equal everywhere. So are the normals: they use IEEE f32 multiply, add, square root and
//! integer operations only, in the order written here, without contraction to fused multiply-adds and without libm. CUDA code must use `__fmul_rn`,
//! `__fadd_rn`, `__fsqrt_rn` and `__uint2float_rn` in the same order.

/// What a random number is for; the last word of the counter. The numbers never change.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The noise a sampling run starts from.
    Init = 0,
    /// Which data a training step takes, and its augmentation.
    Data = 1,
    /// Which timestep a training step takes.
    Timestep = 2,
    /// Noise added to data in training, and the fresh noise of a stochastic sampler.
    Noise = 3,
    /// Noise of held-out evaluation.
    Evaluation = 4,
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox4x32.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [p0, p1] = [u64::from(MULTIPLIERS[0]) * u64::from(counter[0]), u64::from(MULTIPLIERS[1]) * u64::from(counter[2])];
        counter = [(p1 >> 32) as u32 ^ counter[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ counter[3] ^ key[1], p0 as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The four random words of a block.
pub fn words(seed: u64, purpose: Purpose, step: u32, sample: u32, block: u32) -> [u32; 4] {
    philox4x32([block, sample, step, purpose as u32], [seed as u32, (seed >> 32) as u32])
}

/// Four independent unit normals from four words, by Box-Muller: words 0 and 1 make normals 0 and 1, words 2 and 3 the others. |z| ≤ 6.77; absolute error at most
/// 1e-6 against exact arithmetic.
pub fn normal4(w: [u32; 4]) -> [f32; 4] {
    let [a, b] = normal_pair(w[0], w[1]);
    let [c, d] = normal_pair(w[2], w[3]);
    [a, b, c, d]
}

/// Fills one sample with unit normals, element i in logical C, H, W order. Repeats after 2^34 elements.
pub fn fill_normal(seed: u64, purpose: Purpose, step: u32, sample: u32, out: &mut [f32]) {
    for (block, four) in out.chunks_mut(4).enumerate() {
        let z = normal4(words(seed, purpose, step, sample, block as u32));
        four.copy_from_slice(&z[..four.len()]);
    }
}

/// Uniform in (0, 1), never an end: the middle of one of 2^23 equal parts. Exact in f32.
pub fn uniform(word: u32) -> f32 {
    ((word >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
}

/// Uniform integer in 0 .. n, by the high word of a product (bias below n / 2^32); 0 for n = 0.
pub fn uniform_int(word: u32, n: u32) -> u32 {
    ((u64::from(word) * u64::from(n)) >> 32) as u32
}

fn normal_pair(radius: u32, angle: u32) -> [f32; 2] {
    // u in (0, 1] as (w + 1/2) / 2^32 rounded: small u keep their full precision, which the tails need.
    let u = radius as f32 * 2.328_306_4e-10 + 1.164_153_2e-10;
    let r = (-2.0 * ln(u)).sqrt();
    let [sin, cos] = sin_cos_turn(angle);
    [r * cos, r * sin]
}

/// Natural logarithm of a positive normal number up to 1, within 2 ulp (1 is exact). The polynomial is that of Cephes `logf` (Moshier).
fn ln(u: f32) -> f32 {
    // u = m 2^e with m in [sqrt(1/2), sqrt(2)).
    let shifted = u.to_bits().wrapping_sub(0x3F35_04F3) as i32;
    let e = (shifted >> 23) as f32;
    let m = f32::from_bits(u.to_bits().wrapping_sub((shifted & !0x007F_FFFF) as u32));
    let x = m - 1.0;
    let z = x * x;
    let mut p = 7.037_683_6e-2_f32;
    for c in [-1.151_461e-1_f32, 1.167_699_9e-1, -1.242_014_1e-1, 1.424_932_3e-1, -1.666_805_8e-1, 2.000_071_5e-1, -2.499_999_4e-1, 3.333_333e-1] {
        p = p * x + c;
    }
    // ln 2 in two parts, the larger with few bits so that e times it is exact.
    let y = (x * z) * p + e * -2.121_944_4e-4;
    let y = y - 0.5 * z;
    (x + y) + e * (355.0 / 512.0)
}

/// Sine and cosine of `word` / 2^32 of a turn, within 1e-7. The reduction to an eighth of a turn is exact, in integers; the polynomials are those of Cephes `sinf`.
fn sin_cos_turn(word: u32) -> [f32; 2] {
    let quarter = word.wrapping_add(1 << 29) >> 30;
    let rest = word.wrapping_sub(quarter << 30) as i32;
    let x = rest as f32 * 1.462_918e-9; // 2 pi / 2^32
    let z = x * x;
    let s = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z + -1.666_665_5e-1) * z;
    let sin = s * x + x;
    let c = ((2.443_315_7e-5 * z + -1.388_731_6e-3) * z + 4.166_664_6e-2) * z;
    let cos = (c * z + -0.5 * z) + 1.0;
    match quarter & 3 {
        0 => [sin, cos],
        1 => [cos, -sin],
        2 => [-sin, -cos],
        _ => [-cos, sin],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer tests of Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox4x32(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn counter_layout() {
        let w = words(0x0123_4567_89ab_cdef, Purpose::Noise, 7, 8, 9);
        assert_eq!(w, philox4x32([9, 8, 7, 3], [0x89ab_cdef, 0x0123_4567]));
        let (mut all, mut again) = ([0.0; 11], [0.0; 5]);
        fill_normal(5, Purpose::Init, 0, 3, &mut all);
        fill_normal(5, Purpose::Init, 0, 3, &mut again);
        assert_eq!(all[..5], again);
        assert_eq!(all[4..8], normal4(words(5, Purpose::Init, 0, 3, 1)));
    }

    /// Bits computed independently with numpy's float32 operations, one rounding each, in the order of `normal_pair`: a change of any operation's order shows here, and
    /// CUDA and the emulator are held to the same.
    #[test]
    fn normals_are_bit_stable() {
        let z = normal4([0, 0x2000_0000, u32::MAX, 0xE000_0000]);
        assert_eq!(z.map(f32::to_bits), [0x4099_0B91, 0x4099_0B92, 0x8000_0000, 0]);
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for block in 0..4096 {
            for z in normal4(words(42, Purpose::Init, 0, 0, block)) {
                hash = (hash ^ u64::from(z.to_bits())).wrapping_mul(0x0100_0000_01b3);
            }
        }
        assert_eq!(hash, 0x496d_4711_e880_5d0a, "{hash:#x}");
    }

    /// Against f64 arithmetic on the same words, dense over both words' ranges.
    #[test]
    fn accuracy() {
        let (mut worst, mut far) = (0.0_f64, 0.0_f64);
        for i in 0..400_000_u32 {
            let [a, b, ..] = words(1, Purpose::Evaluation, 0, 0, i);
            // Every eighth radius far out in the tail, every ninth near the centre.
            let radius = if i % 8 == 0 {
                a >> (i / 8 % 32)
            } else if i % 9 == 0 {
                !(a >> 20)
            } else {
                a
            };
            let z = normal_pair(radius, b);
            let u = f64::from(radius as f32 * 2.328_306_4e-10 + 1.164_153_2e-10);
            let (r, angle) = ((-2.0 * u.ln()).sqrt(), f64::from(b) / 4_294_967_296.0 * std::f64::consts::TAU);
            for (z, exact) in z.into_iter().zip([r * angle.cos(), r * angle.sin()]) {
                worst = worst.max((f64::from(z) - exact).abs() / r.max(1e-3));
                far = far.max(exact.abs());
            }
        }
        assert!(worst < 1e-6, "{worst}");
        assert!(far > 6.0 && normal_pair(0, 0)[0] > 6.7, "{far}");
    }

    #[test]
    fn no_word_makes_a_number_that_is_not_finite() {
        for radius in [0, 1, 2, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FF7F, 0xFFFF_FF80, u32::MAX] {
            for angle in [0, 1, 0x1FFF_FFFF, 0x2000_0000, 0x3FFF_FFFF, 0x4000_0000, 0x8000_0000, u32::MAX] {
                assert!(normal_pair(radius, angle).iter().all(|z| z.is_finite()), "{radius:#x} {angle:#x}");
            }
        }
    }

    #[test]
    fn moments_and_distribution() {
        let mut z = vec![0.0_f32; 1 << 18];
        fill_normal(2024, Purpose::Init, 0, 0, &mut z);
        let n = z.len() as f64;
        let moment = |k: i32| z.iter().map(|v| f64::from(*v).powi(k)).sum::<f64>() / n;
        // Standard errors: 1/sqrt(n), sqrt(2/n), sqrt(15/n), sqrt(96/n); four of each allowed.
        for (k, expected, spread) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            assert!((moment(k) - expected).abs() < 4.0 * (spread / n as f64).sqrt(), "moment {k}: {}", moment(k));
        }
        let lag = z.windows(2).map(|w| f64::from(w[0] * w[1])).sum::<f64>() / n;
        assert!(lag.abs() < 4.0 / n.sqrt(), "{lag}");
        z.sort_by(f32::total_cmp);
        let ks = z.iter().enumerate().map(|(i, v)| (normal_cdf(f64::from(*v)) - (i as f64 + 0.5) / n).abs()).fold(0.0, f64::max);
        assert!(ks < 1.63 / n.sqrt(), "{ks}"); // the 1 % point of Kolmogorov's distribution
    }

    #[test]
    fn uniforms_stay_inside() {
        assert!(uniform(0) > 0.0 && uniform(u32::MAX) < 1.0);
        assert_eq!((uniform_int(0, 7), uniform_int(u32::MAX, 7), uniform_int(u32::MAX, 0)), (0, 6, 0));
        let mut counts = [0_u32; 7];
        for block in 0..7000 {
            for w in words(3, Purpose::Timestep, 0, 0, block) {
                counts[uniform_int(w, 7) as usize] += 1;
            }
        }
        assert!(counts.iter().all(|c| c.abs_diff(4000) < 250), "{counts:?}");
    }

    /// Φ by its series 1/2 + φ(x) (x + x³/3 + x⁵/15 + …), good to 1e-12 for |x| < 6.
    fn normal_cdf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for i in 1..120 {
            term *= x * x / f64::from(2 * i + 1);
            sum += term;
        }
        0.5 + sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
    }
}
