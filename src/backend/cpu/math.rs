//! Transcendental functions in plain arithmetic, so that loops over them vectorise. No libm: the same bits for every instruction set without FMA contraction.

/// e^x with a relative error below 2e-7 for x in [-87.3, 88.3]; outside, the value at the nearer end (no infinities, no zeros). NaN stays NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest integer
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let t = x * std::f32::consts::LOG2_E + MAGIC;
    let n = t - MAGIC;
    // ln 2 in two parts (Cody & Waite), so that the remainder is exact to f32.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    // Taylor with minimax-like tail on |r| <= ln(2)/2 (Cephes expf).
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5e-1;
    let y = p * r * r + r + 1.0;
    let power = (t.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127)) << 23;
    y * f32::from_bits(power)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_f32() {
        // 4e-7: the polynomial's 1e-7, its roundings and those of the product.
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let (found, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / exact - 1.0).abs() < 4e-7, "{x}: {found} {exact}");
        }
        assert!(exp(f32::NAN).is_nan() && exp(-1e30) < 1e-37 && exp(1e30).is_finite());
    }
}
