//! Several sets of parameters and several phases: an alignment layer, 1x1 over the student's output, that learns beside the student.

use super::checkpoint::OptionGroup;
use super::context::{Role, TermContext};
use super::draws::Draws;
use super::loss::Evaluated;
use super::parameters::{Parameter, Rule, STUDENT};
use super::points::{Drawn, Sources};
use super::tests::{bytes_of, model, options, scratch};
use super::training_graph::{Assembly, Losses, TrainingGraph};
use super::*;
use crate::backend::cpu::CpuBackend;
use crate::cancel::Stop;
use crate::diffusion::{Clip, Walk, Weight};
use crate::error::{Result, Status};
use crate::graph::ops::StopGradient;
use crate::graph::{Graph, TensorType, ValueId};
use crate::nn::Model;
use crate::tensor::Tensor;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const ALIGN: &str = "align";

/// How a step is made.
#[derive(Clone, Copy)]
struct How {
    /// The layer learns in a phase before the student's, in which nothing flows back to the student; otherwise both follow one loss.
    phases: bool,
    /// Factor on what the layer's error adds to the student's loss.
    weight: f32,
    rate: f64,
    /// Of the layer in one phase, of the student in two.
    clip_norm: f64,
}

const ONE: How = How { phases: false, weight: 1.0, rate: 1e-2, clip_norm: 1.0 };
const TWO: How = How { phases: true, ..ONE };

fn align(how: How) -> Result<ParameterSet> {
    let initial = |shape: &[usize]| Ok::<_, crate::error::Error>(Arc::new(Tensor::from_slice(shape, &vec![0.5f32; shape.iter().product()])?));
    let parameter = |name: &str, shape: &[usize]| Ok::<_, crate::error::Error>(Parameter { name: name.into(), initial: initial(shape)?, rule: Rule::AdamW });
    let parameters = vec![parameter("bias", &[1])?, parameter("weight", &[1, 1, 1, 1])?];
    let clip_norm = if how.phases { 1.0 } else { how.clip_norm };
    ParameterSet::new(ALIGN, parameters, Optimizer { learning_rate: how.rate, clip_norm, ..options().optimizer })
}

/// The mean square of layer(output) - target.
fn error(g: &mut Graph, output: ValueId, target: ValueId) -> Result<ValueId> {
    let weight = g.state("align.weight", TensorType::f32(&[1, 1, 1, 1]))?;
    let bias = g.state("align.bias", TensorType::f32(&[1]))?;
    let aligned = g.conv2d(output, weight, Some(bias), 1, [0; 4])?;
    let difference = g.sub(aligned, target)?;
    let square = g.mul(difference, difference)?;
    g.mean(square)
}

fn program(how: How, student: &Model, data: &Dataset, options: &TrainerOptions) -> Result<TrainingGraph> {
    let schedule = student.scheduler.noise_schedule()?;
    let context = TermContext {
        student: Role::student(student, student.scheduler.prediction()),
        teacher: None,
        schedule: &schedule,
        pairs: &[],
        walk: Walk { order: 1, substeps: 1, clip: Clip::None },
        self_teacher: None,
    };
    let sources = Sources { dataset: Some(data), cache_size: 0, size: [8, 8] };
    let mut assembly = Assembly::new(options.precision)?;
    assembly.begin(if how.phases { ALIGN } else { STUDENT })?;
    let draws = Draws { inputs: assembly.draws, batch: options.batch, stream: 0 };
    let Drawn::At(at) = Point::Data.draw(&mut assembly.graph, &context, &draws, &sources)? else { unreachable!("data") };
    let mut evaluated = Evaluated::new(&mut assembly.graph, &context, at)?;
    let target = evaluated.target(&mut assembly.graph, &context, Target::Clean)?;
    let sets = ParameterSet::student(student, Optimizer { clip_norm: if how.phases { how.clip_norm } else { 1.0 }, ..options.optimizer.clone() })?;
    if how.phases {
        let detached = assembly.graph.push1(StopGradient.into(), &[evaluated.student])?;
        let loss = error(&mut assembly.graph, detached, target)?;
        assembly.end(loss, vec![align(how)?], &[])?;
        assembly.begin(STUDENT)?;
    }
    let g = &mut assembly.graph;
    let loss = evaluated.loss(g, &context, &options.terms[0], None)?;
    let error = error(g, evaluated.student, target)?;
    let weighted = g.affine(error, how.weight, 0.0)?;
    let total = g.add(loss, weighted)?;
    let all = g.concat(&[total, loss])?;
    g.tap(all);
    let sets = if how.phases { vec![sets] } else { vec![align(how)?, sets] };
    assembly.end(total, sets, &[])?;
    assembly.finish(&Losses { total, all, inside: vec![], factors: vec![], fits: vec![], alignments: vec![] })
}

fn trainer(how: How) -> Result<Trainer> {
    let (model, data) = (model()?, dataset()?);
    let terms = vec![Objective::Denoise.term(Weight::Snr, NormKind::L2)];
    let options = TrainerOptions { terms, ..options() };
    let program = program(how, &model, &data, &options)?;
    let mut trainer = Trainer::of_program(Arc::new(CpuBackend::new(1)?), program, &model, None, options, Clip::None, Stop::NEVER)?;
    trainer.load_initial_state(Stop::NEVER)?;
    trainer.bind_shared(Some(&data), Stop::NEVER)?;
    Ok(trainer)
}

fn dataset() -> Result<Dataset> {
    let pixels: Vec<f32> = (0..16 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    Dataset::new(Tensor::from_slice(&[16, 8, 8, 1], &pixels)?, None)
}

fn weights(trainer: &Trainer, name: &str, kind: WeightsKind) -> Result<Vec<f32>> {
    let set = trainer.sets.iter().find(|set| set.name() == name).expect("the set");
    let mut all = vec![];
    for (_, tensor) in trainer.weights(set, kind)? {
        all.extend_from_slice(tensor.as_slice::<f32>()?);
    }
    Ok(all)
}

/// The loss on the batch that a run begins with, which trains on others.
fn on_one_batch(trainer: &mut Trainer) -> Result<f32> {
    let done = std::mem::replace(&mut trainer.steps_done, 0);
    let report = trainer.evaluate(9)?;
    trainer.steps_done = done;
    Ok(report.loss)
}

fn largest_move(before: &[f32], after: &[f32]) -> f32 {
    before.iter().zip(after).fold(0f32, |most, (b, a)| most.max((a - b).abs()))
}

#[test]
fn every_set_learns_with_its_own_optimizer() -> Result<()> {
    for (how, phases) in [(ONE, vec![STUDENT]), (TWO, vec![ALIGN, STUDENT])] {
        let mut trainer = trainer(how)?;
        let names: Vec<String> = phases.iter().flat_map(|p| ["forward", "backward", "update"].map(|part| format!("{p}.{part}"))).collect();
        assert_eq!(trainer.plan().graph().segments(), names);
        assert_eq!(trainer.sets.iter().map(ParameterSet::name).collect::<Vec<_>>(), [STUDENT, ALIGN], "the student is the first");
        let first = on_one_batch(&mut trainer)?;
        let of = |trainer: &Trainer, kind| Ok::<_, crate::error::Error>([weights(trainer, STUDENT, kind)?, weights(trainer, ALIGN, kind)?]);
        let before = of(&trainer, WeightsKind::Raw)?;
        trainer.step()?;
        let after = of(&trainer, WeightsKind::Raw)?;
        // AdamW's first update moves a weight by its rate, where the gradient is not tiny.
        for (set, rate) in [(0, 1e-3f32), (1, 1e-2)] {
            let moved = largest_move(&before[set], &after[set]);
            assert!((moved - rate).abs() < 0.01 * rate, "{moved} at rate {rate}");
        }
        assert_eq!(of(&trainer, WeightsKind::Ema)?, after, "an average of one");
        for _ in 0..60 {
            trainer.step()?;
        }
        let last = on_one_batch(&mut trainer)?;
        assert!(last < 0.8 * first, "{first} {last}");
        let average = of(&trainer, WeightsKind::Ema)?;
        assert!(average[1] != of(&trainer, WeightsKind::Raw)?[1] && average[1] != before[1]);
    }
    Ok(())
}

#[test]
fn every_set_is_saved_and_resumes_bit_for_bit() -> Result<()> {
    let dir = scratch("sets");
    for (name, how) in [("one", ONE), ("two", TWO)] {
        let path = dir.join(name);
        let mut whole = trainer(how)?;
        (0..3).try_for_each(|_| whole.step().map(drop))?;
        whole.save(&path)?;
        (0..3).try_for_each(|_| whole.step().map(drop))?;
        let mut resumed = trainer(how)?;
        resumed.resume(&path, 0)?;
        (0..3).try_for_each(|_| resumed.step().map(drop))?;
        assert!(bytes_of(&resumed)? == bytes_of(&whole)?, "{name}");
        assert_eq!(resumed.states()?.len(), 4 * (resumed.sets[0].parameters.len() + 2));
        // Another optimizer of the layer is named with it, and may be changed as the student's.
        let mut other = trainer(How { rate: 2e-2, ..how })?;
        let error = other.resume(&path, 0).unwrap_err();
        assert!(error.message.contains("align.learning_rate is 0.02") && error.message.contains("FEWSTEP_RESUME_SCHEDULE"), "{error}");
        other.resume(&path, OptionGroup::Schedule as u32)?;
    }
    // Other sets are other runs, whatever may change.
    let (model, data) = (model()?, dataset()?);
    let terms = vec![Objective::Denoise.term(Weight::Snr, NormKind::L2)];
    let mut alone = Trainer::new(Arc::new(CpuBackend::new(1)?), &model, None, Some(&data), TrainerOptions { terms, ..options() })?;
    let error = alone.resume(&dir.join("one"), OptionGroup::ALL).unwrap_err();
    assert!(error.status == Status::InvalidArgument && error.message.contains("sets is student; the checkpoint was made with student, align"), "{error}");
    alone.save(&dir.join("alone"))?;
    let error = trainer(ONE)?.resume(&dir.join("alone"), OptionGroup::ALL).unwrap_err();
    assert!(error.message.contains("sets is student, align; the checkpoint was made with student"), "{error}");
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

/// A gradient that is of no use to one set: nothing changes, though another set, or another phase, could have gone on.
#[test]
fn a_step_is_done_by_all_sets_or_by_none() -> Result<()> {
    for (how, needle) in
        [(How { weight: 1e25, clip_norm: f64::INFINITY, ..ONE }, "of 'align'"), (How { weight: 1e25, clip_norm: f64::INFINITY, ..TWO }, "step 1")]
    {
        let mut trainer = trainer(how)?;
        let before = bytes_of(&trainer)?;
        let error = trainer.step().unwrap_err();
        assert!(error.status == Status::Numeric && error.message.contains(needle) && error.message.contains("clip_norm"), "{error}");
        assert!(bytes_of(&trainer)? == before, "{needle}");
        assert_eq!(trainer.steps_done(), 0);
    }
    // One that is stopped has done nothing either; it is looked at before the first update.
    let mut trainer = trainer(TWO)?;
    let before = bytes_of(&trainer)?;
    let set = AtomicBool::new(true);
    let error = trainer.step_until(Stop::on(Some(&set), None)).unwrap_err();
    assert!(error.status == Status::Cancelled && bytes_of(&trainer)? == before, "{error}");
    assert_eq!(trainer.step()?.step, 1);
    Ok(())
}

#[test]
fn evaluation_runs_the_forward_passes_alone() -> Result<()> {
    for how in [ONE, TWO] {
        let mut trainer = trainer(how)?;
        trainer.step()?;
        let before = bytes_of(&trainer)?;
        let [first, second] = [trainer.evaluate(5)?, trainer.evaluate(5)?];
        assert_eq!(first, second);
        assert!(first.grad_norm == 0.0 && first.loss > first.terms[0] && bytes_of(&trainer)? == before);
        assert_eq!(trainer.terms(), Some(&first.terms[..1]));
    }
    Ok(())
}

/// A gradient through two of the student's steps in turn: what they compute on the way need not be kept, and nothing comes out otherwise.
#[test]
fn an_unrolled_chain_may_be_computed_again() -> Result<()> {
    let (model, data) = (model()?, dataset()?);
    let run = |again: bool| -> Result<(usize, Vec<Vec<u8>>)> {
        let options = TrainerOptions { terms: vec![Objective::Denoise.term(Weight::Snr, NormKind::L2)], batch: 8, ..options() };
        let schedule = model.scheduler.noise_schedule()?;
        let context = TermContext {
            student: Role::student(&model, model.scheduler.prediction()),
            teacher: None,
            schedule: &schedule,
            pairs: &[],
            walk: Walk { order: 1, substeps: 1, clip: Clip::None },
            self_teacher: None,
        };
        let mut assembly = Assembly::new(options.precision)?;
        assembly.begin(STUDENT)?;
        let draws = Draws { inputs: assembly.draws, batch: options.batch, stream: 0 };
        let g = &mut assembly.graph;
        let sources = Sources { dataset: Some(&data), cache_size: 0, size: [8, 8] };
        let Drawn::At(at) = Point::Data.draw(g, &context, &draws, &sources)? else { unreachable!("data") };
        let (mut x, mut inside) = (at.x, vec![]);
        for _ in 0..3 {
            let mark = g.mark();
            let out = context.student.network.predict(g, x, at.t, &at.conditions)?;
            x = g.weighted_sum(&[(0.9, x), (0.1, out)])?;
            inside.extend(g.values_since(mark)?.into_iter().filter(|v| *v != x));
        }
        let square = g.mul(x, x)?;
        let loss = g.mean(square)?;
        let all = g.concat(&[loss, loss])?;
        g.tap(all);
        let set = ParameterSet::student(&model, options.optimizer.clone())?;
        assembly.end(loss, vec![set], if again { &inside } else { &[] })?;
        let program = assembly.finish(&Losses { total: loss, all, inside: vec![], factors: vec![], fits: vec![], alignments: vec![] })?;
        let mut trainer = Trainer::of_program(Arc::new(CpuBackend::new(1)?), program, &model, None, options, Clip::None, Stop::NEVER)?;
        trainer.load_initial_state(Stop::NEVER)?;
        trainer.bind_shared(Some(&data), Stop::NEVER)?;
        trainer.step()?;
        Ok((trainer.plan().peak_live_bytes(), bytes_of(&trainer)?))
    };
    let ((kept, expected), (again, found)) = (run(false)?, run(true)?);
    assert!(found == expected, "other weights");
    assert!(again < kept, "{again} bytes at once, {kept} where all is kept");
    Ok(())
}
