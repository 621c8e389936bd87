//! The one small convolutional net that images are judged in: with random weights it gives features, of an evaluation or of a loss, trained on labels it is an
//! evaluation's classifier.
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

use super::parameters::{Parameter, Rule};
use crate::error::Result;
use crate::graph::ops::UnaryKind;
use crate::graph::{Graph, TensorType, ValueId};
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
