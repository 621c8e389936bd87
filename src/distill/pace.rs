//! How fast a run goes, and how long it will take.

use std::time::Instant;

/// Of how many steps the pace is a mean: long enough to be steady, short enough to follow a machine that gets busy.
const WINDOW: f64 = 50.0;

/// The pace of steps of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    last: Option<Instant>,
    steps: f64,
    seconds_per_step: f64,
}

impl Pace {
    /// Counts from now on: what was done since the last step was none.
    pub fn start(&mut self) {
        self.last = Some(Instant::now());
    }

    /// A step is done.
    pub fn step(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.add(now.duration_since(last).as_secs_f64());
        }
    }

    fn add(&mut self, seconds: f64) {
        self.steps = (self.steps + 1.0).min(WINDOW);
        self.seconds_per_step += (seconds - self.seconds_per_step) / self.steps;
    }

    /// Images a second, in steps of so many; 0 before the first.
    pub fn samples_per_second(&self, batch: usize) -> f64 {
        if self.seconds_per_step > 0.0 { batch as f64 / self.seconds_per_step } else { 0.0 }
    }

    /// Seconds that so many more steps take; `None` before the first.
    pub fn seconds_left(&self, steps: f64) -> Option<f64> {
        (self.steps > 0.0).then_some(self.seconds_per_step * steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_a_mean_that_follows_changes() {
        let mut pace = Pace::default();
        assert_eq!((pace.samples_per_second(64), pace.seconds_left(10.0)), (0.0, None));
        [0.1, 0.3].iter().for_each(|s| pace.add(*s));
        assert!((pace.samples_per_second(64) - 320.0).abs() < 1e-9 && (pace.seconds_left(10.0).unwrap() - 2.0).abs() < 1e-9);
        // From then on twice as slow: after ten windows nothing else is left of the mean (e^-10 of the difference).
        (0..500).for_each(|_| pace.add(0.4));
        assert!((pace.seconds_left(1.0).unwrap() - 0.4).abs() < 1e-4);
    }
}
