//! What a training run is refused for before it is planned: networks, data, grids and trajectories that do not fit together.

use super::dataset::Dataset;
use super::options::TrainerOptions;
use super::trajectory_set::TrajectorySet;
use crate::error::{Error, Result};
use crate::names::Named;
use crate::nn::conditions::describe;
use crate::nn::{Model, Quantization};

/// Refuses networks and data that do not fit together.
pub(super) fn check_networks(student: &Model, teacher: Option<&Model>, dataset: Option<&Dataset>, options: &TrainerOptions) -> Result<()> {
    student.network.check_trainable()?;
    if options.learns_scales() {
        let layers = student.quantization.iter().flat_map(|quantization| &quantization.layers);
        if layers.clone().next().is_none() {
            return Err(Error::invalid("scale_learning_rate is not 0, but the student has no scales: it computes in floats"));
        }
        // What would be sampled is not what was trained: a model keeps such scales as f16.
        if let Some((path, _)) = layers.clone().find(|(_, layer)| layer.weights.group.is_some()) {
            return Err(Error::unsupported(format!("scale_learning_rate is not 0, but scales of groups of weights, as those of '{path}', do not learn")));
        }
    }
    check_own_steps(student, teacher, options)?;
    check_grids(student, teacher, options)?;
    let needs = options.needs();
    if needs.teacher && teacher.is_none() {
        return Err(Error::invalid("the objectives need a teacher"));
    }
    match &options.trajectories {
        None if needs.cache && teacher.is_none() => return Err(Error::invalid("the objectives need a teacher, or trajectories of one")),
        Some(set) if needs.cache => check_trajectories(set, student, options)?,
        _ => {}
    }
    let roles = student.roles()?;
    if needs.dataset {
        let data = dataset.ok_or_else(|| Error::invalid("the objectives need a dataset"))?;
        let [h, w] = options.size.map_or_else(|| student.size(), Ok)?;
        let (expected, found) = ([h, w, roles.channels], &data.images().shape()[1..]);
        if found != expected {
            return Err(Error::shape(format!("dataset images are {found:?} (H, W, C), the student takes {expected:?}")));
        }
        data.conditions_of(&roles.conditions)?;
    }
    let Some(teacher) = teacher else { return options.guidance.map_or(Ok(()), |_| Err(Error::invalid("guidance_scale is not 1, but there is no teacher"))) };
    options.guidance.map_or(Ok(()), |guidance| teacher.check_guidance(&guidance))?;
    let own = teacher.roles()?;
    if roles.channels != own.channels {
        return Err(Error::shape(format!("channels of x_t: the student has {}, the teacher {}", roles.channels, own.channels)));
    }
    if roles.conditions != own.conditions {
        let [student, teacher] = [&roles, &own].map(|roles| describe(&roles.conditions));
        return Err(Error::shape(format!("the student takes {student}, the teacher {teacher}")));
    }
    if !student.scheduler.noise_schedule()?.agrees_with(&teacher.scheduler.noise_schedule()?) {
        return Err(Error::invalid("student and teacher have different noise schedules"));
    }
    Ok(())
}

/// Refuses to evaluate a network off the grid whose steps have parameters of their own.
fn check_own_steps(student: &Model, teacher: Option<&Model>, options: &TrainerOptions) -> Result<()> {
    if let Some(pairs) = teacher.and_then(Model::own_steps) {
        return Err(Error::unsupported(format!(
            "each step of the teacher's grid {pairs:?} has parameters of its own, and a teacher is evaluated off it: train one without per_step_weights"
        )));
    }
    if options.joins_steps() && (student.own_steps().is_some() || student.quantization.is_some()) {
        let way_out = "train a plain student, and quantise it then";
        return Err(Error::unsupported(format!(
            "a SelfTeacher term evaluates the student off its own grid, and it is quantised or has parameters of each step: {way_out}"
        )));
    }
    let Some(own) = student.own_steps() else { return Ok(()) };
    let what = format!("each step of the student's grid {own:?} has parameters of its own");
    if let Some(point) = options.points().find(|point| !point.kind().on_grid) {
        return Err(Error::unsupported(format!("a term's point is {}, at any timestep; {what}: use an objective on the grid's steps", point.name())));
    }
    if options.pairs != *own {
        return Err(Error::unsupported(format!("{what}, the trainer's pairs are {:?}: leave pairs and steps out", options.pairs)));
    }
    Ok(())
}

/// Refuses to evaluate a quantised network where its ranges are not known: off its own grid.
fn check_grids(student: &Model, teacher: Option<&Model>, options: &TrainerOptions) -> Result<()> {
    let ranges = |model: &Model| model.quantization.as_ref().is_some_and(Quantization::has_ranges);
    if teacher.is_some_and(ranges) {
        return Err(Error::unsupported("the teacher is quantised, for no grid but its own: give the model that it was made of"));
    }
    let Some(quantization) = student.quantization.as_ref().filter(|_| ranges(student)) else { return Ok(()) };
    let own = &quantization.pairs;
    if let Some(point) = options.points().find(|point| !point.kind().on_grid) {
        let point = point.name();
        return Err(Error::unsupported(format!("a term's point is {point}, at any timestep; the student is quantised for its own grid {own:?} alone")));
    }
    if options.pairs != *own {
        return Err(Error::unsupported(format!("the student is quantised for its own grid {own:?}, the trainer's pairs are {:?}", options.pairs)));
    }
    Ok(())
}

/// Refuses trajectories that are for another run.
fn check_trajectories(set: &TrajectorySet, student: &Model, options: &TrainerOptions) -> Result<()> {
    let roles = student.roles()?;
    let [h, w] = options.size.map_or_else(|| student.size(), Ok)?;
    let expected = [h, w, roles.channels];
    if set.image() != expected {
        return Err(Error::shape(format!("the trajectories' states are {:?} (H, W, C), the student takes {expected:?}", set.image())));
    }
    if set.conditions != roles.conditions {
        let [found, expected] = [&set.conditions, &roles.conditions].map(|conditions| describe(conditions));
        return Err(Error::shape(format!("the trajectories have {found}, the student takes {expected}")));
    }
    if options.pairs != set.pairs {
        return Err(Error::invalid(format!("the trajectories are for the grid {:?}, the trainer's pairs are {:?}", set.pairs, options.pairs)));
    }
    if options.cache_size != set.cache.count {
        return Err(Error::invalid(format!("cache_size is {}, the trajectories are {}", options.cache_size, set.cache.count)));
    }
    if options.cache_refresh != 0 {
        return Err(Error::invalid("cache_refresh is not 0, but trajectories are given: only a teacher makes fresh ones"));
    }
    if !student.scheduler.noise_schedule()?.agrees_with(&set.scheduler.noise_schedule()?) {
        return Err(Error::invalid("the trajectories are of another noise schedule than the student's"));
    }
    Ok(())
}
