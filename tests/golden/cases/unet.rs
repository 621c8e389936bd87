//! A U-Net's output, loss and all gradients.

use crate::common::{Check, backend, close, fail, integers, read, text, to_nhwc, values, write};
use fewstep::graph::ops::UnaryKind;
use fewstep::graph::{Graph, TensorType, ValueId, gradients};
use fewstep::io::safetensors::TensorFile;
use fewstep::nn::{Model, Predictor};
use fewstep::tensor::{DType, Tensor};
use std::path::Path;

struct Net {
    graph: Graph,
    x: ValueId,
    t: ValueId,
    labels: Option<ValueId>,
    out: ValueId,
}

fn build(model: &Model, sample: &Tensor) -> fewstep::Result<Net> {
    let &[n, c, h, w] = sample.shape() else { return Err(fewstep::Error::shape("sample is not [N,C,H,W]")) };
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32(&[n, h, w, c]))?;
    let t = graph.input("t", TensorType::f32(&[n]))?;
    let labels = model.classes().map(|_| graph.input("labels", TensorType::new(DType::I32, &[n]))).transpose()?;
    let out = Predictor::new(model, "").predict(&mut graph, x, t, labels.as_slice())?;
    graph.tap(out);
    Ok(Net { graph, x, t, labels, out })
}

pub fn run(case: &Path) -> Check {
    let model = text(Model::open(case))?;
    let io = text(TensorFile::open(&case.join("io.safetensors")))?;
    let sample = text(io.get("sample"))?;
    let expected = to_nhwc(text(io.get("output"))?)?;

    // Inference: fused, frozen weights packed once.
    let net = text(build(&model, sample))?;
    let mut exec = text(backend()?.compile(&net.graph))?;
    for (name, tensor) in &model.weights {
        text(exec.bind(name, tensor.clone()))?;
    }
    text(exec.prepare())?;
    let feed = |exec: &mut dyn fewstep::backend::Executable, net: &Net| -> Check {
        write(exec, net.x, &to_nhwc(sample)?)?;
        write(exec, net.t, &values(&io, "timestep")?)?;
        match net.labels {
            Some(labels) => write(exec, labels, &integers(&io, "class_labels")?),
            None => Ok(()),
        }
    };
    feed(exec.as_mut(), &net)?;
    text(exec.run_all())?;
    close("output", &read(exec.as_ref(), net.out)?, &expected, 1e-4, 0.0)?;

    // Training: mean squared error and the gradient of every parameter.
    let mut net = text(build(&model, sample))?;
    let (loss, grads, target) = text(loss_and_grads(&mut net, &model))?;
    let mut exec = text(backend()?.compile(&net.graph))?;
    for (name, tensor) in &model.weights {
        text(exec.bind(name, tensor.clone()))?;
    }
    text(exec.prepare())?;
    feed(exec.as_mut(), &net)?;
    write(exec.as_mut(), target, &to_nhwc(text(io.get("target"))?)?)?;
    text(exec.run_all())?;
    close("output while training", &read(exec.as_ref(), net.out)?, &expected, 1e-4, 0.0)?;
    close("loss", &read(exec.as_ref(), loss)?, &values(&io, "loss")?, 1e-4, 0.0)?;
    let mut recorded: Vec<&str> = io.names().filter(|n| n.starts_with("grad.")).collect();
    recorded.sort_unstable();
    let largest = recorded.iter().map(|n| values(&io, n).map(|v| v.iter().fold(0f32, |m, x| m.max(x.abs())))).try_fold(0f32, |m, v| v.map(|v| m.max(v)))?;
    if recorded.len() != grads.len() {
        return Err(fail(case.display(), format!("{} gradients recorded, the model has {} parameters", recorded.len(), grads.len())));
    }
    for (name, grad) in &grads {
        let name = format!("grad.{name}");
        close(&name, &read(exec.as_ref(), *grad)?, &values(&io, &name)?, 1e-3, 1e-3 * f64::from(largest))?;
    }
    Ok(())
}

type Gradients = Vec<(String, ValueId)>;

fn loss_and_grads(net: &mut Net, model: &Model) -> fewstep::Result<(ValueId, Gradients, ValueId)> {
    let g = &mut net.graph;
    let target = g.input("target", g.value(net.out).ty.clone())?;
    let d = g.sub(net.out, target)?;
    let squared = g.unary(UnaryKind::Square, d)?;
    let loss = g.mean(squared)?;
    let names: Vec<String> = model.weights.keys().cloned().collect();
    let params = names.iter().map(|n| g.state(n.clone(), TensorType::f32(model.weights[n].shape()))).collect::<fewstep::Result<Vec<_>>>()?;
    let grads = gradients(g, loss, &params, &[])?;
    g.tap(loss);
    grads.iter().for_each(|v| g.tap(*v));
    Ok((loss, names.into_iter().zip(grads).collect(), target))
}
