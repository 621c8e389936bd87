//! The one small convolutional net of an evaluation: with random weights it gives features, trained on labels it is the classifier.
//!
//! ```text
//! conv 3x3 C -> 32, SiLU                          at [H, W]
//! conv 3x3, stride 2, 32 -> 64 (64 -> 64), SiLU   until neither side is more than 4
//! conv 3x3 -> 64, SiLU
//! flatten [h, w, channel], linear -> 64           the features
//! SiLU, linear -> classes                         the classifier's scores
//! ```
//! Such a layout with random weights is what Naeem et al. (ICML 2020) recommend where images are not ImageNet's; at 8x8 it sees blur, contrast,
//! copies and missing classes better than a trained classifier's features do, and than pixels.

use crate::backend::{Backend, Executable, as_bytes};
use crate::cancel::{Stop, cancelled};
use crate::distill::parameters::{Parameter, Rule};
use crate::error::Result;
use crate::graph::ops::UnaryKind;
use crate::graph::{Graph, Numerics, TensorType, ValueId};
use crate::memory;
use crate::random::{Purpose, fill_normal};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// Numbers of an image's features.
pub const FEATURES: usize = 64;
/// Channels of the first convolution.
const FIRST: usize = 32;
/// Channels of the others.
const CHANNELS: usize = 64;
/// The longest side of what is flattened.
const SIDE: usize = 4;
/// Pixels that are computed at once, where there are images enough, and the most images.
const PIXELS: usize = 1 << 16;
const BATCH: usize = 64;

/// The net for images [H, W, C].
#[derive(Clone, Copy, Debug)]
pub struct ConvNet {
    /// [H, W, C].
    pub image: [usize; 3],
    /// Of the classifier: how many classes there are.
    pub classes: Option<usize>,
}

/// A layer: its name, its weights' shape [O, I, R, S] or [O, I], its stride.
struct Layer {
    name: String,
    weight: Vec<usize>,
    stride: usize,
}

impl Layer {
    fn conv(name: String, [inputs, outputs]: [usize; 2], stride: usize) -> Self {
        Self { name, weight: vec![outputs, inputs, 3, 3], stride }
    }

    fn linear(name: &str, inputs: usize, outputs: usize) -> Self {
        Self { name: name.to_owned(), weight: vec![outputs, inputs], stride: 1 }
    }
}

/// What the net makes of images.
pub struct Outputs {
    /// [N, 64].
    pub features: ValueId,
    /// Of the classifier [N, classes].
    pub scores: Option<ValueId>,
}

impl ConvNet {
    fn layers(&self) -> Vec<Layer> {
        let [mut h, mut w, mut channels] = self.image;
        let mut layers = vec![Layer::conv("conv.0".into(), [channels, FIRST], 1)];
        channels = FIRST;
        while h.max(w) > SIDE {
            layers.push(Layer::conv(format!("conv.{}", layers.len()), [channels, CHANNELS], 2));
            [h, w] = [h, w].map(|side| side.div_ceil(2));
            channels = CHANNELS;
        }
        layers.push(Layer::conv(format!("conv.{}", layers.len()), [channels, CHANNELS], 1));
        layers.push(Layer::linear("features", h * w * CHANNELS, FEATURES));
        layers.extend(self.classes.map(|classes| Layer::linear("scores", FEATURES, classes)));
        layers
    }

    /// Weights as He et al. (2015, equation 10) draw them, normal with variance 2 / inputs, and biases of 0.
    pub fn initial(&self, seed: u64) -> Result<Vec<Parameter>> {
        let mut parameters = vec![];
        for (i, layer) in self.layers().into_iter().enumerate() {
            let mut weight = Tensor::zeros(DType::F32, &layer.weight)?;
            let deviation = (2.0 / layer.weight[1..].iter().product::<usize>() as f64).sqrt() as f32;
            let values = weight.as_mut_slice::<f32>()?;
            fill_normal(seed, Purpose::Evaluation, 0, i as u32, values);
            values.iter_mut().for_each(|v| *v *= deviation);
            let bias = Tensor::zeros(DType::F32, &layer.weight[..1])?;
            parameters.push(Parameter { name: format!("{}.weight", layer.name), initial: Arc::new(weight), rule: Rule::AdamW });
            parameters.push(Parameter { name: format!("{}.bias", layer.name), initial: Arc::new(bias), rule: Rule::AdamW });
        }
        Ok(parameters)
    }

    /// Appends the net for images x [N, H, W, C]. Its parameters are states, `prefix` and their name.
    pub fn append(&self, g: &mut Graph, prefix: &str, x: ValueId) -> Result<Outputs> {
        let batch = g.shape(x)[0];
        let (mut value, mut features) = (x, None);
        for layer in self.layers() {
            let weight = g.state(format!("{prefix}{}.weight", layer.name), TensorType::f32(&layer.weight))?;
            let bias = g.state(format!("{prefix}{}.bias", layer.name), TensorType::f32(&layer.weight[..1]))?;
            if layer.weight.len() == 4 {
                let conv = g.conv2d(value, weight, Some(bias), layer.stride, [1; 4])?;
                value = g.unary(UnaryKind::Silu, conv)?;
            } else if features.is_none() {
                let flat = g.reshape(value, &[batch, layer.weight[1]])?;
                value = g.linear(flat, weight, Some(bias))?;
                features = Some(value);
            } else {
                let active = g.unary(UnaryKind::Silu, value)?;
                value = g.linear(active, weight, Some(bias))?;
            }
        }
        let features = features.unwrap_or(value);
        Ok(Outputs { features, scores: self.classes.map(|_| value) })
    }
}

/// The net with its weights, compiled. It computes in f32.
pub struct Compiled {
    exec: Box<dyn Executable>,
    x: ValueId,
    out: ValueId,
    /// Elements of an image.
    each: usize,
    /// Images of a batch.
    batch: usize,
    /// Numbers of an image's result.
    width: usize,
}

impl Compiled {
    /// The net with these parameters; the scores of a classifier, features otherwise.
    pub fn new(backend: &dyn Backend, net: &ConvNet, parameters: &[Parameter], stop: Stop) -> Result<Self> {
        let [h, w, c] = net.image;
        let batch = (PIXELS / (h * w).max(1)).clamp(1, BATCH);
        let mut g = Graph::new();
        let x = g.input("images", TensorType::f32(&[batch, h, w, c]))?;
        let outputs = net.append(&mut g, "", x)?;
        let out = outputs.scores.unwrap_or(outputs.features);
        g.tap(out);
        let width = g.shape(out)[1];
        let mut exec = backend.compile_until(&g, &Numerics::F32, stop)?;
        parameters.iter().try_for_each(|p| exec.bind(&p.name, p.initial.clone()))?;
        exec.prepare_until(stop)?;
        Ok(Self { exec, x, out, each: h * w * c, batch, width })
    }

    /// What it gives for images [M, H, W, C]: [M, width], row after row to `take`.
    pub fn run(&mut self, images: &[f32], stop: Stop, mut take: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let mut batch = memory::filled(0f32, self.batch * self.each, "a batch of images")?;
        for part in images.chunks(self.batch * self.each) {
            batch[..part.len()].copy_from_slice(part); // behind them is what was there: nobody reads its results
            self.exec.write_bytes(self.x, as_bytes(&batch))?;
            let end = self.exec.plan().order().len();
            if self.exec.run_until(self.exec.plan().prepared()..end, stop)? < end {
                return Err(cancelled());
            }
            let rows = part.len() / self.each;
            self.exec.read_bytes(self.out)?.of::<f32>()?.chunks_exact(self.width).take(rows).try_for_each(&mut take)?;
        }
        Ok(())
    }
}
