//! The net of an evaluation, run over sets of images: its features with random weights, or its scores as a classifier.

pub use crate::distill::conv_net::{ConvNet, FEATURES};

use crate::backend::{Backend, Executable, as_bytes};
use crate::cancel::{Stop, cancelled};
use crate::distill::parameters::Parameter;
use crate::error::Result;
use crate::graph::{Graph, Numerics, TensorType, ValueId};
use crate::memory;

/// Pixels that are computed at once, where there are images enough, and the most images.
const PIXELS: usize = 1 << 16;
const BATCH: usize = 64;

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
