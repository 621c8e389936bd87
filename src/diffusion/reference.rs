//! The step of a [`Table`] on the host in f64: what every backend's sampler kernel is compared with.

use super::table::{Clip, MEMORY, Step, Sum, Table};
use crate::error::{Error, Result};

/// What a sampler keeps from step to step, by place. Start empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Empty where nothing was kept yet.
    pub kept: [Vec<f64>; MEMORY],
}

/// One step of `table`: from `x` and the network's `out`, both `samples` equal parts one after the other, to the next x. `z` is unit normal noise and may be missing
/// where the step's noise factor is 0. `history` moves on. Dynamic clipping takes its quantile over each sample.
pub fn apply(table: &Table, step: usize, samples: usize, x: &[f64], out: &[f64], history: &mut History, z: Option<&[f64]>) -> Result<Vec<f64>> {
    table.clip.check()?;
    let s = table.steps.get(step).ok_or_else(|| Error::invalid(format!("sampler step is {step}; the table has {}", table.steps.len())))?;
    check_lengths(samples, x, out, z)?;
    let mut m0: Vec<f64> = x.iter().zip(out).map(|(x, o)| s.x0_x * x + s.x0_out * o).collect();
    if !m0.is_empty() {
        m0.chunks_mut(x.len() / samples).for_each(|sample| clip(table.clip, sample));
    }
    let older = |m: &[f64], factor: f64, i: usize| if factor == 0.0 { Some(0.0) } else { m.get(i).map(|v| factor * v) };
    let sum = |row: &Sum, i: usize| {
        let past = row.kept.iter().zip(&history.kept).map(|(f, m)| older(m, *f, i)).sum::<Option<f64>>().ok_or_else(|| missing(s, step))?;
        Ok(row.x * x[i] + row.out * out[i] + row.m0 * m0[i] + past)
    };
    let noise = |i: usize| if s.noise == 0.0 { Ok(0.0) } else { z.map(|z| s.noise * z[i]).ok_or_else(|| missing(s, step)) };
    let next = (0..x.len()).map(|i| Ok(sum(&s.next, i)? + noise(i)?)).collect::<Result<Vec<_>>>()?;
    let mut kept = history.kept.clone();
    for (place, row) in kept.iter_mut().zip(&s.keep) {
        if let Some(row) = row {
            // What nobody has kept yet moves on as nothing.
            *place = (0..x.len()).map(|i| sum(row, i).ok()).collect::<Option<_>>().unwrap_or_default();
        }
    }
    history.kept = kept;
    Ok(next)
}

fn check_lengths(samples: usize, x: &[f64], out: &[f64], z: Option<&[f64]>) -> Result<()> {
    if samples == 0 || !x.len().is_multiple_of(samples) {
        return Err(Error::shape(format!("x has {} elements, which do not divide into {samples} samples", x.len())));
    }
    if out.len() != x.len() || z.is_some_and(|z| z.len() != x.len()) {
        return Err(Error::shape(format!("x has {} elements; the output has {} and the noise {:?}", x.len(), out.len(), z.map(<[f64]>::len))));
    }
    Ok(())
}

fn missing(s: &Step, step: usize) -> Error {
    Error::state(format!("sampler step {step} needs what the steps before it kept (factors {:?}) and noise (factor {})", s.next.kept, s.noise))
}

/// Clips one sample's predicted data.
pub fn clip(clip: Clip, sample: &mut [f64]) {
    match clip {
        Clip::None => {}
        Clip::Range(r) => sample.iter_mut().for_each(|v| *v = v.max(-r).min(r)),
        Clip::Dynamic { ratio, max } => {
            let s = quantile_of_magnitude(sample, ratio).max(1.0).min(max);
            sample.iter_mut().for_each(|v| *v = v.max(-s).min(s) / s);
        }
    }
}

/// `torch.quantile(|v|, ratio)`: linear interpolation between order statistics; 0 for no elements.
pub fn quantile_of_magnitude(v: &[f64], ratio: f64) -> f64 {
    let mut sorted: Vec<f64> = v.iter().map(|v| v.abs()).collect();
    sorted.sort_by(f64::total_cmp);
    let rank = ratio * sorted.len().saturating_sub(1) as f64;
    let at = |i: usize| sorted.get(i.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0);
    let (low, high) = (at(rank.floor() as usize), at(rank.ceil() as usize));
    low + (high - low) * rank.fract()
}

#[cfg(test)]
mod tests {
    use super::super::dpm::DpmConfig;
    use super::super::parametrisation::Prediction;
    use super::super::sampler::SamplerConfig;
    use super::super::schedule::{NoiseSchedule, ScheduleConfig};
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile_of_magnitude(&[-3.0, 1.0, 2.0, 0.0], 0.5), 1.5);
        assert_eq!(quantile_of_magnitude(&[-3.0, 1.0], 1.0), 3.0);
        assert_eq!(quantile_of_magnitude(&[], 0.5), 0.0);
    }

    #[test]
    fn dynamic_clipping_is_per_sample_and_bounded() {
        let mut v = [4.0, -2.0];
        clip(Clip::Dynamic { ratio: 1.0, max: 2.0 }, &mut v);
        assert_eq!(v, [1.0, -1.0]);
        let mut v = [0.5, -0.25];
        clip(Clip::Dynamic { ratio: 0.5, max: 9.0 }, &mut v);
        assert_eq!(v, [0.5, -0.25]);
    }

    #[test]
    fn wrong_calls_are_errors() {
        let schedule = NoiseSchedule::new(ScheduleConfig::default()).unwrap();
        let table = SamplerConfig::DpmSolverPp(DpmConfig::default()).table(&schedule, Prediction::Epsilon, 4).unwrap();
        let mut h = History::default();
        assert!(apply(&table, 4, 1, &[0.0], &[0.0], &mut h, None).is_err());
        assert!(apply(&table, 0, 2, &[0.0], &[0.0], &mut h, None).is_err());
        assert!(apply(&table, 0, 1, &[0.0], &[0.0, 1.0], &mut h, None).is_err());
        assert!(apply(&table, 1, 1, &[0.0], &[0.0], &mut h, None).unwrap_err().message.contains("steps before it"));
        assert!(apply(&table, 0, 1, &[], &[], &mut h, None).unwrap().is_empty());
    }
}
