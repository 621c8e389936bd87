//! How often numbers were met, and what range of them rounding keeps most of.

use super::options::Ends;
use super::range::Range;
use crate::error::Result;
use crate::memory;

/// Bins of a histogram: 8 or 16 to each of the numbers that the range is rounded to.
const BINS: usize = 2048;
/// Ranges that are tried, each a hundredth of the whole narrower than the one before.
const TRIALS: u32 = 80;
/// Exponent of the error that the range is chosen by.
const NORM: f64 = 2.4;

/// Counts of numbers in a range.
pub(super) struct Histogram {
    range: Range,
    counts: Vec<u64>,
}

impl Histogram {
    /// Of nothing yet; of what is in a range.
    pub fn new(range: Range) -> Result<Self> {
        Ok(Self { range, counts: memory::filled(0, BINS, "a histogram")? })
    }

    /// The width of a bin.
    fn width(&self) -> f64 {
        (f64::from(self.range.max) - f64::from(self.range.min)) / BINS as f64
    }

    /// With these numbers too; those out of range count as its ends.
    pub fn add(&mut self, numbers: &[f32]) {
        let (min, per_bin) = (f64::from(self.range.min), self.width().recip());
        if per_bin.is_finite() {
            numbers.iter().for_each(|v| self.counts[(((f64::from(*v) - min) * per_bin) as usize).min(BINS - 1)] += 1);
        }
    }

    /// The part of the range that numbers up to `high` are to reach over.
    pub fn ends(&self, ends: Ends, high: u8) -> Range {
        match ends {
            Ends::MinMax => self.range,
            Ends::Percentile(share) => self.percentile(share),
            Ends::LeastError => self.least_error(high),
        }
    }

    /// Without the bins at either end that together have no more than what is beyond the share.
    fn percentile(&self, share: f64) -> Range {
        let beyond = (1.0 - share) * self.counts.iter().sum::<u64>() as f64;
        let [low, top] = [bins_within(self.counts.iter(), beyond), bins_within(self.counts.iter().rev(), beyond)].map(|bins| bins as f64 * self.width());
        let [min, max] = [f64::from(self.range.min) + low, f64::from(self.range.max) - top];
        Range { min: min.min(0.0) as f32, max: max.max(0.0) as f32 }
    }

    /// The range with the least error of rounding, each number taken for the middle of its bin; of equals the widest.
    fn least_error(&self, high: u8) -> Range {
        let shrunk = |trial: u32| {
            let factor = 1.0 - trial as f32 / 100.0;
            Range { min: self.range.min * factor, max: self.range.max * factor }
        };
        let mut best = (f64::INFINITY, self.range);
        for range in (0..TRIALS).map(shrunk) {
            let error = self.error(range, high);
            if error < best.0 {
                best = (error, range);
            }
        }
        best.1
    }

    /// What rounding to a range's numbers loses.
    fn error(&self, range: Range, high: u8) -> f64 {
        let (scale, numbers) = range.numbers(high);
        let (scale, zero, high) = (f64::from(scale), f64::from(numbers.zero), f64::from(high));
        let lost = |v: f64| (v - ((v / scale).round_ties_even().clamp(-zero, high - zero)) * scale).abs().powf(NORM);
        let middle = |bin: usize| f64::from(self.range.min) + (bin as f64 + 0.5) * self.width();
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bin, count)| *count as f64 * lost(middle(bin))).sum()
    }
}

/// How many of the first bins have no more than `count` numbers together.
fn bins_within<'a>(counts: impl Iterator<Item = &'a u64>, count: f64) -> usize {
    let mut sum = 0;
    counts
        .take_while(|bin| {
            sum += **bin;
            sum as f64 <= count
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of which one stands far out.
    fn met() -> Result<Histogram> {
        let mut numbers: Vec<f32> = (0..10_000u32).map(|i| (i as f32 / 10_000.0 - 0.25) * 4.0).collect();
        numbers.push(10.0);
        let mut histogram = Histogram::new(Range::default().with(&numbers))?;
        histogram.add(&numbers);
        Ok(histogram)
    }

    #[test]
    fn a_number_that_stands_out_is_left_out_where_that_is_asked_for() -> Result<()> {
        let histogram = met()?;
        let all = Range { min: -1.0, max: 10.0 };
        assert_eq!(histogram.ends(Ends::MinMax, 129), all);
        assert_eq!(histogram.ends(Ends::Percentile(1.0), 129), all);
        // One of 10,001 is above; a bin is 0.005 wide.
        let cut = histogram.ends(Ends::Percentile(0.9998), 129);
        assert!((cut.max - 3.0).abs() < 0.02 && (cut.min + 1.0).abs() < 0.02, "{cut:?}");
        let half = histogram.ends(Ends::Percentile(0.75), 129);
        assert!((half.max - 2.0).abs() < 0.02 && half.min.abs() < 0.02, "{half:?}");
        // Of 16 levels; 130 are enough for all of them.
        let least = histogram.ends(Ends::LeastError, 15);
        assert!(least.max < 8.0 && histogram.error(least, 15) < 0.8 * histogram.error(all, 15), "{least:?}");
        Ok(())
    }

    #[test]
    fn what_fills_its_range_keeps_it() -> Result<()> {
        let numbers: Vec<f32> = (0..4096).map(|i| i as f32 / 4096.0).collect();
        let mut histogram = Histogram::new(Range::default().with(&numbers))?;
        histogram.add(&numbers);
        let least = histogram.ends(Ends::LeastError, 255);
        assert!(least.max > 0.98, "{least:?}");
        // Nothing but 0 has a range of nothing.
        let mut nothing = Histogram::new(Range::default())?;
        nothing.add(&[0.0; 8]);
        for ends in [Ends::MinMax, Ends::Percentile(0.99), Ends::LeastError] {
            assert_eq!(nothing.ends(ends, 255), Range::default());
        }
        Ok(())
    }
}
