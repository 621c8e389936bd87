//! A small classifier, trained here on a dataset's labels: whether images look like the class that they were asked for.
//!
//! It learns by the squared error of its scores against 1 for the class and 0 for the others, which trains classifiers as well as cross-entropy does (Hui &
//! Belkin, "Evaluation of neural architectures trained with square loss vs cross-entropy in classification tasks", ICLR 2021) and needs no op that no network
//! has. Its accuracy sees little beside gross faults: it is a check, not a distance.

use super::conv_net::{Compiled, ConvNet};
use super::images::{check, shuffled};
use crate::backend::{Backend, Executable, as_bytes};
use crate::cancel::Stop;
use crate::distill::parameters::{Parameter, State};
use crate::distill::phase::{Phase, Update};
use crate::distill::{Average, Dataset, Optimizer, ParameterSet};
use crate::error::{Error, Result};
use crate::graph::ops::UnaryKind;
use crate::graph::{Graph, Numerics, TensorType, ValueId};
use crate::memory;
use crate::random::{Purpose, fill_normal, uniform_int, words};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// Name of its parameters' set.
const SET: &str = "classifier";
/// Of its weights, of the order of the data, of draws and noise: "classify" as bytes.
const SEED: u64 = u64::from_le_bytes(*b"classify");
/// Training steps.
pub const STEPS: usize = 400;
/// Images of a step.
const BATCH: usize = 64;
/// Deviation of the noise on the images that it learns by: samples are not as clean as data.
const NOISE: f32 = 0.15;
/// One image in so many is not trained on.
const HELD_OUT: usize = 3;
/// The most classes: labels that are no classes make more.
const MOST_CLASSES: usize = 1 << 12;

/// The classifier, trained.
pub struct Classifier {
    net: Compiled,
    each: usize,
    classes: usize,
    /// Share of the held-out images that it names rightly.
    held_out: f64,
}

/// A dataset's images and labels, and which of them are learnt.
struct Data<'a> {
    images: &'a [f32],
    labels: &'a [i32],
    each: usize,
    classes: usize,
    learnt: Vec<usize>,
    held_out: Vec<usize>,
}

impl<'a> Data<'a> {
    fn new(dataset: &'a Dataset) -> Result<Self> {
        let labels = dataset.labels().ok_or_else(|| Error::invalid("a classifier needs a dataset with labels"))?.as_slice::<i32>()?;
        let classes = labels.iter().max().map_or(0, |most| most.unsigned_abs() as usize + 1);
        if classes > MOST_CLASSES {
            return Err(Error::unsupported(format!("the dataset's largest label is {}; a classifier has at most {MOST_CLASSES} classes", classes - 1)));
        }
        if labels.len() < HELD_OUT {
            return Err(Error::invalid(format!(
                "a classifier needs {HELD_OUT} images or more, one of which it does not learn; the dataset has {}",
                labels.len()
            )));
        }
        let mut learnt = shuffled(labels.len(), SEED)?;
        let held_out = memory::copy(&learnt[labels.len() - labels.len() / HELD_OUT..], "an order")?;
        learnt.truncate(labels.len() - held_out.len());
        Ok(Self { images: dataset.images().as_slice()?, labels, each: dataset.images().shape()[1..].iter().product(), classes, learnt, held_out })
    }

    fn image(&self, i: usize) -> &'a [f32] {
        &self.images[i * self.each..][..self.each]
    }

    /// Writes the images [64, H, W, C] and wanted scores [64, classes] of a step.
    fn draw(&self, step: usize, images: &mut [f32], scores: &mut [f32]) {
        scores.fill(0.0);
        for (i, (to, scores)) in images.chunks_exact_mut(self.each).zip(scores.chunks_exact_mut(self.classes)).enumerate() {
            let [at, sample] = [step as u32, i as u32];
            let chosen = self.learnt[uniform_int(words(SEED, Purpose::Data, at, sample, 0)[0], self.learnt.len() as u32) as usize];
            fill_normal(SEED, Purpose::Noise, at, sample, to);
            to.iter_mut().zip(self.image(chosen)).for_each(|(to, v)| *to = v + NOISE * *to);
            scores[self.labels[chosen] as usize] = 1.0;
        }
    }
}

/// The program of a training step.
struct Training {
    exec: Box<dyn Executable>,
    images: ValueId,
    scores: ValueId,
    update: Update,
    set: ParameterSet,
}

impl Training {
    fn new(backend: &dyn Backend, net: &ConvNet, classes: usize, stop: Stop) -> Result<Self> {
        let optimizer = Optimizer {
            learning_rate: 2e-3,
            warmup_steps: 1,
            total_steps: STEPS as u64,
            weight_decay: 1e-3,
            average: Average::Exponential(0.98),
            ..Optimizer::default()
        };
        let set = ParameterSet::new(SET, net.initial(SEED)?, optimizer)?;
        let [h, w, c] = net.image;
        let mut g = Graph::new();
        Phase::begin(&mut g, SET);
        let images = g.input("images", TensorType::f32(&[BATCH, h, w, c]))?;
        let scores = g.input("scores", TensorType::f32(&[BATCH, classes]))?;
        let found = net.append(&mut g, &format!("{SET}."), images)?.scores.ok_or_else(|| Error::internal("a classifier without scores"))?;
        let error = g.sub(found, scores)?;
        let square = g.unary(UnaryKind::Square, error)?;
        let loss = g.mean(square)?;
        let sets = std::slice::from_ref(&set);
        let phase = Phase { name: SET, loss, losses: loss, sets, recompute: &[], loss_scale: None, accumulation: None };
        let update = phase.append(&mut g)?.updates.pop().ok_or_else(|| Error::internal("a phase without sets"))?;
        let mut exec = backend.compile_until(&g, &Numerics::F32, stop)?;
        exec.prepare_until(stop)?;
        for (state, parameter, key) in set.states() {
            let beginning = if matches!(state, State::Weight | State::Average) { Some(&parameter.initial) } else { None };
            beginning.map_or(Ok(()), |tensor| exec.write_storage(&key, tensor.bytes()))?;
        }
        Ok(Self { exec, images, scores, update, set })
    }

    fn step(&mut self, step: usize, images: &[f32], scores: &[f32]) -> Result<()> {
        let (done, inputs) = (step as u64, self.update.inputs);
        let [rate, decay] = [self.set.optimizer.rate(done), self.set.optimizer.average_decay(done)].map(|v| v as f32);
        self.exec.write_bytes(self.images, as_bytes(images))?;
        self.exec.write_bytes(self.scores, as_bytes(scores))?;
        self.exec.write_bytes(inputs.update, as_bytes(&[done as i64 + 1]))?;
        self.exec.write_bytes(inputs.rate, as_bytes(&[rate]))?;
        self.exec.write_bytes(inputs.decay, as_bytes(&[decay]))?;
        self.exec.run_all()
    }

    /// The averaged parameters.
    fn parameters(&self) -> Result<Vec<Parameter>> {
        let average = |p: &Parameter| {
            let bytes = self.exec.storage_bytes(&self.set.key(State::Average, &p.name))?;
            let mut tensor = Tensor::zeros(DType::F32, p.initial.shape())?;
            tensor.as_mut_slice::<f32>()?.copy_from_slice(&bytes.of::<f32>()?);
            Ok(Parameter { initial: Arc::new(tensor), ..p.clone() })
        };
        memory::try_collect(self.set.parameters.iter().map(average), "parameters")
    }
}

impl Classifier {
    /// Trained on two thirds of a dataset with labels, always in the same way. `progress()` after each of [`STEPS`] steps.
    pub fn train(backend: &dyn Backend, dataset: &Dataset, mut progress: impl FnMut() -> Result<()>, stop: Stop) -> Result<Self> {
        let data = Data::new(dataset)?;
        let image = <[usize; 3]>::try_from(&dataset.images().shape()[1..]).map_err(|_| Error::internal("images of another rank"))?;
        let net = ConvNet { image, classes: Some(data.classes) };
        let mut training = Training::new(backend, &net, data.classes, stop)?;
        let (mut images, mut scores) = (memory::filled(0f32, BATCH * data.each, "a batch")?, memory::filled(0f32, BATCH * data.classes, "a batch")?);
        for step in 0..STEPS {
            stop.check()?;
            data.draw(step, &mut images, &mut scores);
            training.step(step, &images, &scores)?;
            progress()?;
        }
        let net = Compiled::new(backend, &net, &training.parameters()?, stop)?;
        let mut this = Self { net, each: data.each, classes: data.classes, held_out: 0.0 };
        let mut images = memory::with_capacity(data.held_out.len() * data.each, "held-out images")?;
        data.held_out.iter().for_each(|i| images.extend_from_slice(data.image(*i)));
        let labels = memory::collect(data.held_out.iter().map(|i| data.labels[*i]), "held-out labels")?;
        this.held_out = this.accuracy("held-out images", &images, &labels, stop)?;
        Ok(this)
    }

    /// Share of the images that it was not trained on which it names rightly.
    pub fn held_out(&self) -> f64 {
        self.held_out
    }

    /// Share of images [M, H, W, C] whose highest score is that of their label [M]; the first of equal ones counts, and a label that the dataset has not is
    /// never right.
    pub fn accuracy(&mut self, name: &str, images: &[f32], labels: &[i32], stop: Stop) -> Result<f64> {
        let count = check(name, images, self.each)?;
        if labels.len() != count {
            return Err(Error::shape(format!("{name}: {count} images have {} labels", labels.len())));
        }
        let (mut right, mut labels, classes) = (0usize, labels.iter(), self.classes);
        self.net.run(images, stop, |scores| {
            let best = (1..classes).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
            right += usize::from(labels.next().is_some_and(|label| *label == best as i32));
            Ok(())
        })?;
        Ok(right as f64 / count as f64)
    }
}
