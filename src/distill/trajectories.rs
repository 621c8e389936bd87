//! The trajectories that a run's steps draw from, and, where they change while it goes on, those that come next: computed beside its steps, a share of them in
//! each. Which ones a step draws from depends on its number alone, so that a resumed run goes on with the same.

use super::cache::{CacheBuilder, CacheSpec, TrajectoryCache};
use super::trainer::Trainer;
use super::trajectory_set::TrajectorySet;
use crate::cancel::Stop;
use crate::diffusion::Walk;
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::nn::Model;
use std::sync::OnceLock;

/// Trajectories of a training run.
#[derive(Default)]
pub(super) struct Trajectories {
    current: Option<(u64, TrajectoryCache)>,
    /// Those under way.
    next: Option<(u64, CacheBuilder<'static>)>,
}

/// The key of the noises and labels of trajectories: the run's own for the first ones.
pub(super) fn seed_of(seed: u64, generation: u64) -> u64 {
    // Weyl's sequence by the golden ratio: no two generations of a run have the same key.
    seed.wrapping_add(generation.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// The generation of noises that training never sees: no run is so long.
const HELD_OUT: u64 = u64::MAX;

impl Trajectories {
    /// Those that somebody else has computed, if there are any.
    pub fn given(set: Option<&TrajectorySet>) -> Self {
        Self { current: set.map(|set| (0, set.cache.clone())), next: None }
    }

    /// Those of a generation, if they are there.
    pub fn of(&self, generation: u64) -> Option<&TrajectoryCache> {
        self.current.as_ref().filter(|(number, _)| *number == generation).map(|(_, cache)| cache)
    }

    /// Those that are there, whichever.
    fn present(&self) -> Option<&TrajectoryCache> {
        self.current.as_ref().map(|(_, cache)| cache)
    }

    /// Bytes of all that there is.
    pub fn bytes(&self) -> usize {
        self.current.as_ref().map_or(0, |(_, cache)| cache.bytes()) + self.next.as_ref().map_or(0, |(_, builder)| builder.bytes())
    }

    /// What there is to say about the first ones, once.
    pub fn take_warning(&mut self) -> Option<String> {
        self.current.as_mut().and_then(|(_, cache)| cache.warning.take())
    }

    /// Makes those of a generation the present ones: with what is done of them, or from the start. `seed` is the run's.
    pub fn complete(
        &mut self,
        generation: u64,
        seed: u64,
        new: impl FnOnce() -> Result<CacheBuilder<'static>>,
        progress: &mut dyn FnMut(usize, usize) -> bool,
        stop: Stop,
    ) -> Result<()> {
        let mut builder = self.builder(generation, seed, new, stop)?;
        let mut cache = builder.finish(progress, stop)?;
        if self.current.is_some() {
            cache.warning = None; // those before were no other
        }
        self.current = Some((generation, cache));
        self.next = Some((generation, builder));
        Ok(())
    }

    /// Goes on with those of a later generation, until `part` of `whole` is done.
    pub fn advance(
        &mut self,
        generation: u64,
        seed: u64,
        [part, whole]: [u64; 2],
        new: impl FnOnce() -> Result<CacheBuilder<'static>>,
        stop: Stop,
    ) -> Result<()> {
        let mut builder = self.builder(generation, seed, new, stop)?;
        let wanted = |total: usize| (total as u128 * u128::from(part)).div_ceil(u128::from(whole.max(1))) as usize;
        let mut advanced = Ok(false);
        while advanced.is_ok() && builder.progress().0 < wanted(builder.progress().1) {
            advanced = builder.step(stop);
        }
        // What was cut goes on; what has failed half way must be begun again.
        if advanced.as_ref().err().is_none_or(|error| error.status == Status::Cancelled) {
            self.next = Some((generation, builder));
        }
        advanced.map(|_| ())
    }

    /// Frees what only computes more of them.
    pub fn end(&mut self) {
        self.next = None;
    }

    /// The teacher's run with those of a generation under way.
    fn builder(&mut self, generation: u64, seed: u64, new: impl FnOnce() -> Result<CacheBuilder<'static>>, stop: Stop) -> Result<CacheBuilder<'static>> {
        let (known, mut builder) = match self.next.take() {
            Some((number, builder)) => (builder.is_begun() && number == generation, builder),
            None => (false, new()?),
        };
        if !known {
            builder.begin(seed_of(seed, generation), stop)?;
        }
        Ok(builder)
    }
}

impl Trainer {
    /// True where the trajectories of the next step are there, or none are needed.
    pub(super) fn has_cache(&self) -> bool {
        !self.options.needs().cache || self.trajectories.of(self.generation()).is_some()
    }

    /// How often the trajectories of the next step have been replaced.
    pub(super) fn generation(&self) -> u64 {
        self.steps_done.checked_div(self.options.cache_refresh).unwrap_or(0)
    }

    /// Whether any step is to see those after them: none does anything where the learning rate is 0.
    pub(super) fn replaces_after(&self, generation: u64) -> bool {
        let (refresh, optimizer) = (self.options.cache_refresh, &self.options.optimizer);
        refresh != 0 && (generation + 1).checked_mul(refresh).is_some_and(|first| optimizer.rate(first) > 0.0)
    }

    /// Goes on with the trajectories that come after those of the next step, by its share.
    pub(super) fn advance_trajectories(&mut self, stop: Stop) -> Result<()> {
        let (generation, seed) = (self.generation(), self.options.seed);
        if !self.options.needs().cache || !self.replaces_after(generation) {
            return Ok(());
        }
        let whole = self.options.cache_refresh;
        let share = [self.steps_done % whole, whole];
        self.with_trajectories(|this, trajectories| trajectories.advance(generation + 1, seed, share, || this.cache_builder(stop), stop))
    }

    /// Does something to the trajectories that needs the rest too.
    pub(super) fn with_trajectories<R>(&mut self, f: impl FnOnce(&Self, &mut Trajectories) -> R) -> R {
        let mut trajectories = std::mem::take(&mut self.trajectories);
        let result = f(self, &mut trajectories);
        self.trajectories = trajectories;
        result
    }

    /// The trajectories that the next step draws from, for other runs and for files.
    pub fn trajectory_set(&self) -> Result<TrajectorySet> {
        let cache = self.trajectories.of(self.generation());
        self.set_of(cache.ok_or_else(|| Error::state("there are no trajectories yet; prepare the trainer first, with an objective on them"))?.clone())
    }

    /// The trajectories that the last step drew from, or that the first one will: the next step may draw from others, which are not there yet.
    pub fn present_trajectories(&self) -> Result<TrajectorySet> {
        self.set_of(self.trajectories.present().ok_or_else(|| Error::state("there are no trajectories yet; prepare the trainer first"))?.clone())
    }

    /// Trajectories of `count` noises that no step sees, made as this run makes its own.
    pub fn held_out_trajectories(&self, count: usize, progress: &mut dyn FnMut(usize, usize) -> bool, stop: Stop) -> Result<TrajectorySet> {
        let (teacher, spec) = self.cache_spec()?;
        if count == 0 {
            return Err(Error::invalid("there must be at least one held-out trajectory"));
        }
        let mut builder = CacheBuilder::new(self.backend.as_ref(), teacher, CacheSpec { count, ..spec }, stop)?;
        builder.begin(seed_of(self.options.seed, HELD_OUT), stop)?;
        let cache = builder.finish(progress, stop)?;
        self.set_of(cache)
    }

    fn set_of(&self, cache: TrajectoryCache) -> Result<TrajectorySet> {
        let options = &self.options;
        let (conditions, pairs) = (self.student.roles()?.conditions, memory::copy(&options.pairs, "step pairs")?);
        Ok(TrajectorySet { cache, conditions, pairs, substeps: options.substeps, scheduler: self.student.scheduler.clone(), hash: OnceLock::new() })
    }

    /// The teacher, and how it makes trajectories.
    pub(super) fn cache_spec(&self) -> Result<(&Model, CacheSpec)> {
        if !self.options.needs().cache {
            return Err(Error::invalid("no term of the loss is on the teacher's trajectories"));
        }
        let teacher = self.teacher.as_ref().ok_or_else(|| Error::invalid("there is no teacher, only its trajectories"))?;
        let options = &self.options;
        let spec = CacheSpec {
            schedule: self.student.scheduler.noise_schedule()?,
            prediction: teacher.scheduler.prediction(),
            pairs: memory::copy(&options.pairs, "step pairs")?,
            walk: Walk { clip: self.trajectory_clip, ..options.walk(None) },
            count: options.cache_size,
            size: self.size()?,
            batch: options.cache_batch,
            guidance: options.guidance,
            rows: memory::collect(self.rows.iter().cloned(), "conditions")?,
            precision: options.precision,
        };
        Ok((teacher, spec))
    }

    pub(super) fn cache_builder(&self, stop: Stop) -> Result<CacheBuilder<'static>> {
        let (teacher, spec) = self.cache_spec()?;
        CacheBuilder::new(self.backend.as_ref(), teacher, spec, stop)
    }
}
