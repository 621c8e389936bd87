//! A timestep's sines and cosines by fewer of them: the frequencies follow from their number, so a narrower student has others than its teacher, none of which
//! can be chosen.

use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::ops::TimestepEmbedding;
use crate::memory;

/// A ridge on the normal equations, as a share of their mean diagonal: neighbouring low frequencies are nearly the same function.
const RIDGE: f64 = 1e-4;

/// The matrix [student's dim, teacher's dim] by which weights that read the teacher's sinusoid become weights that read the student's: least squares over the
/// timesteps 0..steps, min |F m - f|^2 for F [steps, student's], f [steps, teacher's].
pub(super) fn projection(student: &TimestepEmbedding, teacher: &TimestepEmbedding, steps: usize, stop: Stop) -> Result<Vec<Vec<f64>>> {
    let (own, other) = (student.dim, teacher.dim);
    let mut gram = rows(own, own)?;
    let mut cross = rows(own, other)?;
    for t in 0..steps {
        stop.check()?;
        let (mine, theirs) = (values(student, t)?, values(teacher, t)?);
        for (i, v) in mine.iter().enumerate() {
            gram[i].iter_mut().zip(&mine).for_each(|(sum, w)| *sum += v * w);
            cross[i].iter_mut().zip(&theirs).for_each(|(sum, w)| *sum += v * w);
        }
    }
    let ridge = RIDGE * (0..own).map(|i| gram[i][i]).sum::<f64>() / own as f64;
    (0..own).for_each(|i| gram[i][i] += ridge.max(f64::MIN_POSITIVE));
    solve(&mut gram, &mut cross, stop)?;
    Ok(cross)
}

/// The sinusoid of a timestep.
fn values(of: &TimestepEmbedding, t: usize) -> Result<Vec<f64>> {
    let frequencies = of.frequencies();
    let half = frequencies.len();
    let mut out = memory::filled(0.0, of.dim, WHAT)?;
    for (i, frequency) in frequencies.into_iter().enumerate() {
        let (sin, cos) = (t as f64 * f64::from(frequency)).sin_cos();
        let [first, second] = if of.flip_sin_to_cos { [cos, sin] } else { [sin, cos] };
        (out[i], out[half + i]) = (first, second);
    }
    Ok(out)
}

fn rows(count: usize, width: usize) -> Result<Vec<Vec<f64>>> {
    memory::try_collect((0..count).map(|_| memory::filled(0.0, width, WHAT)), WHAT)
}

/// Solves a x = b for a positive definite `a`, in place: elimination, then back (Golub and Van Loan 2013, section 3.2; no pivots are needed).
fn solve(a: &mut [Vec<f64>], b: &mut [Vec<f64>], stop: Stop) -> Result<()> {
    let n = a.len();
    let below = |rows: &mut [Vec<f64>], from: usize, to: usize, factor: f64| {
        let (head, tail) = rows.split_at_mut(to);
        tail[0].iter_mut().zip(&head[from]).for_each(|(v, w)| *v -= factor * w);
    };
    for i in 0..n {
        stop.check()?;
        for j in i + 1..n {
            let factor = a[j][i] / a[i][i];
            below(a, i, j, factor);
            below(b, i, j, factor);
        }
    }
    for i in (0..n).rev() {
        stop.check()?;
        let (head, tail) = b.split_at_mut(i + 1);
        for (later, row) in tail.iter().enumerate() {
            let factor = a[i][i + 1 + later];
            head[i].iter_mut().zip(row).for_each(|(v, w)| *v -= factor * w);
        }
        head[i].iter_mut().for_each(|v| *v /= a[i][i]);
    }
    Ok(())
}

const WHAT: &str = "least squares of sinusoids";

#[cfg(test)]
mod tests {
    use super::*;

    fn sinusoid(dim: usize) -> TimestepEmbedding {
        TimestepEmbedding { dim, flip_sin_to_cos: true, freq_shift: 0.0 }
    }

    /// What weights read through the matrix is what they read before: exactly where the frequencies are the same, up to those that cannot be told from so few
    /// where not, and better than by the nearest frequencies or the first ones.
    #[test]
    fn half_of_the_frequencies_say_most_of_what_all_said() -> Result<()> {
        let error = |student: &TimestepEmbedding, teacher: &TimestepEmbedding, m: &[Vec<f64>], from: usize| -> Result<f64> {
            let mut sum = 0.0;
            for t in 0..1000 {
                let (mine, theirs) = (values(student, t)?, values(teacher, t)?);
                for (k, exact) in theirs.iter().enumerate().filter(|(k, _)| k % (teacher.dim / 2) >= from) {
                    sum += (mine.iter().zip(m).map(|(v, row)| v * row[k]).sum::<f64>() - exact).powi(2);
                }
            }
            Ok(sum / 1000.0 / (teacher.dim - 2 * from) as f64)
        };
        let same = error(&sinusoid(16), &sinusoid(16), &projection(&sinusoid(16), &sinusoid(16), 1000, Stop::NEVER)?, 0)?;
        // The ridge alone: of the order of its square.
        assert!(same < 1e-4, "{same}");
        let m = projection(&sinusoid(16), &sinusoid(32), 1000, Stop::NEVER)?;
        let slow = error(&sinusoid(16), &sinusoid(32), &m, 8)?;
        // Frequencies of less than 1/100 turn at most ten times over all timesteps; a sine's own mean square is 1/2.
        assert!(slow < 0.01, "{slow}");
        let nearest = |i: usize, k: usize| f64::from(u8::from(k / 16 == i / 8 && (k % 16).div_ceil(2).min(7) == i % 8));
        let nearest = (0..16).map(|i| (0..32).map(|k| nearest(i, k)).collect()).collect::<Vec<Vec<f64>>>();
        let (found, naive) = (error(&sinusoid(16), &sinusoid(32), &m, 0)?, error(&sinusoid(16), &sinusoid(32), &nearest, 0)?);
        assert!(found < 0.5 * naive, "{found} {naive}");
        Ok(())
    }
}
