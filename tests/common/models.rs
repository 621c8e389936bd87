//! Graphs of the shapes that the planner meets: chains, U-Nets with skips, training steps, unrolled sampling.

use super::Case;
use fewstep::Result;
use fewstep::graph::ops::*;
use fewstep::graph::{Graph, TensorType, ValueId, gradients};
use fewstep::nn::{Inputs, Scope, families};
use fewstep::tensor::DType;

/// conv, activation, `depth` times.
pub fn chain(depth: usize) -> Result<Case> {
    let mut case = Case::new(format!("chain of {depth}"));
    let mut x = case.input(&[1, 8, 8, 8]);
    for i in 0..depth {
        let (w, b) = (case.state(&format!("{i}.w"), &[8, 8, 3, 3]), case.state(&format!("{i}.b"), &[8]));
        x = case.graph.conv2d(x, w, Some(b), 1, [1; 4])?;
        x = case.graph.unary(UnaryKind::Silu, x)?;
        x = case.graph.affine(x, 0.5, 0.0)?;
    }
    case.expect(x, 1e-4);
    Ok(case)
}

/// One residual block: norm, conv + time, conv + skip, scale. `norms`: with group norm, else with activations alone.
fn block(case: &mut Case, x: ValueId, time: ValueId, name: &str, out: usize, norms: bool) -> Result<ValueId> {
    let c = case.graph.shape(x)[3];
    let n = case.graph.shape(x)[0];
    let norm = |case: &mut Case, x: ValueId, which: &str, c: usize| -> Result<ValueId> {
        if !norms {
            return case.graph.unary(UnaryKind::Silu, x);
        }
        let (gamma, beta) = (case.state(&format!("{name}.{which}.weight"), &[c]), case.state(&format!("{name}.{which}.bias"), &[c]));
        case.graph.group_norm(x, gamma, beta, 2, 1e-5, true)
    };
    let h = norm(case, x, "norm1", c)?;
    let (w, b) = (case.state(&format!("{name}.conv1.weight"), &[out, c, 3, 3]), case.state(&format!("{name}.conv1.bias"), &[out]));
    let h = case.graph.conv2d(h, w, Some(b), 1, [1; 4])?;
    let width = case.graph.shape(time)[1];
    let (w, b) = (case.state(&format!("{name}.time.weight"), &[out, width]), case.state(&format!("{name}.time.bias"), &[out]));
    let te = case.graph.linear(time, w, Some(b))?;
    let te = case.graph.reshape(te, &[n, 1, 1, out])?;
    let h = case.graph.add(h, te)?;
    let h = norm(case, h, "norm2", out)?;
    let skip = if c == out {
        x
    } else {
        let w = case.state(&format!("{name}.shortcut.weight"), &[out, c, 1, 1]);
        case.graph.conv2d(x, w, None, 1, [0; 4])?
    };
    let (w, b) = (case.state(&format!("{name}.conv2.weight"), &[out, out, 3, 3]), case.state(&format!("{name}.conv2.bias"), &[out]));
    let h = case.graph.conv2d(h, w, Some(b), 1, [1; 4])?;
    let sum = case.graph.add(h, skip)?;
    // Random weights of size 1 would grow the activations without end.
    case.graph.affine(sum, 0.1, 0.0)
}

/// A U-Net of three levels over x [N,H,W,C] at times t [N] (f32); H and W divisible by 4.
pub fn unet(case: &mut Case, x: ValueId, t: ValueId, norms: bool) -> Result<ValueId> {
    let channels = case.graph.shape(x)[3];
    let te = case.op(TimestepEmbedding { dim: 16, flip_sin_to_cos: true, freq_shift: 0.0 }, &[t]);
    let (w, b) = (case.state("time.weight", &[16, 16]), case.state("time.bias", &[16]));
    let te = case.graph.linear(te, w, Some(b))?;
    let te = case.graph.unary(UnaryKind::Silu, te)?;
    let w = case.state("conv_in.weight", &[8, channels, 3, 3]);
    let mut h = case.graph.conv2d(x, w, None, 1, [1; 4])?;
    let mut skips = vec![h];
    for (level, c) in [8usize, 12, 16].into_iter().enumerate() {
        h = block(case, h, te, &format!("down.{level}"), c, norms)?;
        skips.push(h);
        if level < 2 {
            let w = case.state(&format!("down.{level}.down.weight"), &[c, c, 3, 3]);
            h = case.graph.conv2d(h, w, None, 2, [1; 4])?;
            h = case.graph.affine(h, 0.2, 0.0)?;
            skips.push(h);
        }
    }
    if norms {
        let s = case.graph.shape(h).to_vec();
        let tokens = case.graph.reshape(h, &[s[0], s[1] * s[2], s[3]])?;
        let mixed = case.op(Attention { heads: 2, scale: 0.35 }, &[tokens; 3]);
        let mixed = case.graph.reshape(mixed, &s)?;
        h = case.graph.add(h, mixed)?;
    }
    for (level, c) in [(2usize, 16usize), (1, 12), (0, 8)] {
        for part in 0..2 {
            let skip = skips.pop().ok_or_else(|| fewstep::Error::internal("skips"))?;
            h = case.op(Concat, &[h, skip]);
            h = block(case, h, te, &format!("up.{level}.{part}"), c, norms)?;
        }
        if level > 0 {
            h = case.op(Upsample2x, &[h]);
        }
    }
    let w = case.state("conv_out.weight", &[channels, 8, 3, 3]);
    let out = case.graph.conv2d(h, w, None, 1, [1; 4])?;
    case.graph.affine(out, 0.1, 0.0)
}

/// The U-Net alone.
pub fn u_shape(norms: bool) -> Result<Case> {
    let mut case = Case::new("u-net");
    let x = case.input(&[2, 8, 8, 3]);
    let t = case.data(&[2], &[3.0f32, 500.0]);
    let y = unet(&mut case, x, t, norms)?;
    case.expect(y, 2e-4);
    Ok(case)
}

/// A training step: noise and rows drawn inside, loss, gradients, clipping, AdamW, EMA.
pub fn training(norms: bool) -> Result<Case> {
    let mut case = Case::new("training");
    let (seed, step) = (case.data(&[1], &[11i64]), case.data(&[1], &[3i64]));
    let data = case.input(&[5, 8, 8, 3]);
    let (samples, first) = (case.data(&[2], &[0i32, 1]), case.data(&[1], &[0i32]));
    let purpose = fewstep::random::Purpose::Noise;
    let rows = case.op(RandomInt { purpose, bound: 5, count: 2, stream: 0 }, &[seed, step, first]);
    let x0 = case.graph.gather(data, rows)?;
    let z = case.op(RandomNormal { purpose, image: [8, 8, 3] }, &[seed, step, samples]);
    let times = case.op(RandomInt { purpose, bound: 1000, count: 2, stream: 1 }, &[seed, step, first]);
    let t = case.op(Cast { to: DType::F32 }, &[times]);
    let coef = case.data(&[1, 2], &[0.8f32, 0.6]);
    let x = case.op(Combine { first: 0 }, &[coef, x0, z]);
    let y = unet(&mut case, x, t, norms)?;
    let difference = case.graph.sub(y, x0)?;
    let square = case.graph.unary(UnaryKind::Square, difference)?;
    let loss = case.graph.mean(square)?;
    let parameters: Vec<(String, ValueId)> = case.graph.storages().iter().map(|s| (s.name.clone(), s.current)).collect();
    let wrt: Vec<ValueId> = parameters.iter().map(|p| p.1).collect();
    let grads = gradients(&mut case.graph, loss, &wrt, &[])?;
    case.graph.begin_segment("update");
    let norm = case.op(GlobalNorm, &grads);
    let scale = case.op(ClipScale { max_norm: 1.0 }, &[norm, loss]);
    let (lr, decay) = (case.data(&[1], &[1e-3f32]), case.data(&[1], &[0.99f32]));
    let mut operands = vec![lr, step, scale];
    for ((name, p), g) in parameters.iter().zip(&grads) {
        let ty = case.graph.value(*p).ty.clone();
        operands.extend([*p, case.graph.state(format!("{name}.m"), ty.clone())?, case.graph.state(format!("{name}.v"), ty)?, *g]);
    }
    for moment in operands[3..].chunks_exact(4).flat_map(|c| [c[1], c[2]]) {
        let ty = &case.graph.value(moment).ty;
        case.given.insert(moment, std::sync::Arc::new(fewstep::tensor::Tensor::zeros(DType::F32, &ty.shape)?));
    }
    let new = case.ops(AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, parameters: grads.len() }, &operands);
    let mut pairs = vec![decay, scale];
    for (i, (name, p)) in parameters.iter().enumerate() {
        let shape = case.graph.shape(*p).to_vec();
        pairs.extend([case.state(&format!("{name}.ema"), &shape), new[3 * i]]);
    }
    let averages = case.ops(Ema { parameters: grads.len() }, &pairs);
    case.expect(loss, 2e-4);
    case.expect(norm, 1e-3);
    // The first AdamW steps divide a gradient by its own size: an f32 error in a tiny gradient can turn its sign. Averages keep 1 % of a step.
    for v in averages {
        case.expect(v, 1e-3);
    }
    Ok(case)
}

/// `steps` evaluations and sampler updates, a segment each.
pub fn sampling(steps: usize, norms: bool) -> Result<Case> {
    let mut case = Case::new(format!("sampling in {steps}"));
    let mut x = case.input(&[1, 8, 8, 3]);
    let t = case.graph.constant("times", fewstep::tensor::Tensor::from_slice(&[1], &[400f32])?)?;
    for i in 0..steps {
        case.graph.begin_segment(format!("step {i}"));
        let y = unet(&mut case, x, t, norms)?;
        let coef = case.graph.constant(format!("coef.{i}"), fewstep::tensor::Tensor::from_slice(&[1, 2], &[0.9f32, -0.1])?)?;
        x = case.op(Combine { first: 0 }, &[coef, x, y]);
    }
    let ty = TensorType::f32(&[1, 8, 8, 3]);
    let slot = case.graph.state("sample", ty)?;
    case.given.insert(slot, std::sync::Arc::new(fewstep::tensor::Tensor::zeros(DType::F32, &[1, 8, 8, 3])?));
    let done = case.op(Assign, &[slot, x]);
    case.expect(done, 5e-4);
    Ok(case)
}

/// `student_s` of benches/peers.py: 4.44 M parameters, attention at 8x8.
const STUDENT_S: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 1,
    "block_out_channels": [64, 128, 128], "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"], "attention_head_dim": 32, "norm_num_groups": 32}"#;

/// One evaluation of it.
pub fn student_s(batch: usize) -> Result<Graph> {
    let network = families::parse(STUDENT_S, "student_s")?;
    let mut graph = Graph::new();
    let (x, t) = (graph.input("x", TensorType::f32(&[batch, 32, 32, 3]))?, graph.input("t", TensorType::f32(&[batch]))?);
    let out = network.build(&mut graph, &Scope::new(""), &Inputs { x, t, conditions: &[] })?;
    graph.tap(out);
    Ok(graph)
}
