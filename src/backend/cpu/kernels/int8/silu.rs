//! SiLU by polynomials: the same separately rounded operations on every instruction set, hence the same bits. No exponential, no division, no FMA.
//!
//! silu(v) = max(v, 0) + g(|v|) with g(w) = -w / (1 + e^w), an even rest that is all but gone at 8: a cubic on each of eight unit intervals is within 1.1e-4 of it
//! below 8 (a hundredth of a step for scales of 0.01 and more) and within 2.7e-3 beyond, where it stays what it is at 8. Eight coefficients are one register of AVX2.

use super::super::simd::Simd;

/// Coefficients of f^0 to f^3 by interval, f being what |v| is above its whole part; a test bounds their error.
const CUBICS: [[f32; 8]; 4] = [
    [0.000_106_706_79, -0.268_995_64, -0.238_451_12, -0.142_288_67, -0.071_944_535, -0.033_462_577, -0.014_834_566, -0.006_376_733],
    [-0.503_658_4, -0.070_736_155, 0.092_298_78, 0.088_492_56, 0.052_666_947, 0.026_493_706, 0.012_287_9, 0.005_439_782],
    [0.269_741_6, 0.144_100_93, 0.017_060_239, -0.018_330_352, -0.016_453_795, -0.009_481_655, -0.004_697_661, -0.002_161_767_6],
    [-0.035_024_583, -0.042_829_21, -0.013_230_802, 0.000_170_573_34, 0.002_267_455_2, 0.001_616_465_6, 0.000_868_141_3, 0.000_416_542_58],
];
/// The largest number below 8.
const LAST: f32 = 7.999_999_5;

/// The definition.
pub fn silu(v: f32) -> f32 {
    let w = if v.abs() < LAST { v.abs() } else { LAST };
    let interval = w as usize;
    let f = w - interval as f32;
    let [c0, c1, c2, c3] = CUBICS.map(|row| row[interval]);
    let g = ((c3 * f + c2) * f + c1) * f + c0;
    (if 0.0 > v { 0.0 } else { v }) + g
}

/// The coefficients in registers.
#[derive(Clone, Copy)]
pub struct Cubics<S: Simd>([S::Table; 4]);

impl<S: Simd> Cubics<S> {
    /// # Safety
    /// The machine supports `S`.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        // SAFETY: the caller's contract. No closures: they would not be compiled for S.
        unsafe { Self([S::table(&CUBICS[0]), S::table(&CUBICS[1]), S::table(&CUBICS[2]), S::table(&CUBICS[3])]) }
    }

    /// As [`silu`], bit for bit.
    ///
    /// # Safety
    /// The machine supports `S`.
    #[inline(always)]
    pub unsafe fn silu(&self, v: S::V) -> S::V {
        // SAFETY: the caller's contract; indices are below 8.
        unsafe {
            let w = S::min(S::abs(v), S::splat(LAST));
            let f = S::sub(w, S::whole(w));
            let g = S::add(S::mul(S::look_up(self.0[3], w), f), S::look_up(self.0[2], w));
            let g = S::add(S::mul(g, f), S::look_up(self.0[1], w));
            let g = S::add(S::mul(g, f), S::look_up(self.0[0], w));
            S::add(S::max(S::splat(0.0), v), g)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_silu_is_near_silu() {
        let mut worst: f64 = 0.0;
        for i in -40_000..40_000 {
            let v = i as f32 * 5e-4;
            let exact = f64::from(v) / (1.0 + (-f64::from(v)).exp());
            worst = worst.max((f64::from(silu(v)) - exact).abs());
        }
        // Within |v| < 8 the fit's error is 1.1e-4; beyond, g stays what it is at 8, -0.0027.
        assert!(worst < 2.8e-3, "{worst}");
        let inner = (-16_000..16_000).map(|i| i as f32 * 5e-4).map(|v| (f64::from(silu(v)) - f64::from(v) / (1.0 + (-f64::from(v)).exp())).abs());
        assert!(inner.fold(0.0, f64::max) < 1.2e-4);
        assert!(silu(f32::NAN).is_nan() && silu(f32::INFINITY) == f32::INFINITY);
    }
}
