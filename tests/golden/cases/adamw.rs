//! Ten AdamW steps with clipping and a moving average on sum((p - target)^2).

use crate::common::{Check, backend, close, read, text, values, write};
use fewstep::backend::as_bytes;
use fewstep::graph::ops::{AdamW, ClipScale, Ema, GlobalNorm, ReduceSum, UnaryKind};
use fewstep::graph::{Graph, TensorType, gradients};
use fewstep::io::safetensors::TensorFile;
use fewstep::tensor::{DType, Tensor};
use std::path::Path;
use std::sync::Arc;

pub fn run(case: &Path) -> Check {
    let io = text(TensorFile::open(case))?;
    let shape = text(io.get("init"))?.shape().to_vec();
    let mut g = Graph::new();
    let build = |g: &mut Graph| -> fewstep::Result<_> {
        let ty = TensorType::f32(&shape);
        let rate = g.input("lr", TensorType::f32(&[1]))?;
        let step = g.input("step", TensorType::new(DType::I64, &[1]))?;
        let decay = g.input("decay", TensorType::f32(&[1]))?;
        let (p, m, v, e) = (g.state("p", ty.clone())?, g.state("m", ty.clone())?, g.state("v", ty.clone())?, g.state("ema", ty.clone())?);
        let target = g.state("target", ty)?;
        let d = g.sub(p, target)?;
        let squared = g.unary(UnaryKind::Square, d)?;
        let sum = g.push1(ReduceSum { shape: vec![1; shape.len()] }.into(), &[squared])?;
        let loss = g.reshape(sum, &[1])?;
        let grad = gradients(g, loss, &[p], &[])?[0];
        let norm = g.push1(GlobalNorm.into(), &[grad])?;
        g.tap(norm);
        let scale = g.push1(ClipScale { max_norm: 1.0 }.into(), &[norm, loss])?;
        let adamw = AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, parameters: 1 };
        let updated = g.push(adamw.into(), &[rate, step, scale, p, m, v, grad])?;
        g.push(Ema { parameters: 1 }.into(), &[decay, scale, e, updated[0]])?;
        Ok((rate, step, decay, norm))
    };
    let (rate, step, decay, norm) = text(build(&mut g))?;
    let mut exec = text(backend()?.compile(&g))?;
    let target = text(Tensor::from_slice(&shape, &values(&io, "target")?))?;
    text(exec.bind("target", Arc::new(target)))?;
    for state in ["p", "ema"] {
        text(exec.write_storage(state, as_bytes(&values(&io, "init")?)))?;
    }
    text(exec.prepare())?;
    write(exec.as_mut(), rate, &[1e-2f32])?;
    write(exec.as_mut(), decay, &[0.95f32])?;
    for k in 0..10 {
        write(exec.as_mut(), step, &[k as i64 + 1])?;
        text(exec.run_all())?;
        close(&format!("grad_norm.{k}"), &read(exec.as_ref(), norm)?, &values(&io, &format!("grad_norm.{k}"))?, 1e-4, 0.0)?;
        for (state, name) in [("p", "param"), ("ema", "ema")] {
            let found = text(text(exec.storage_bytes(state))?.of::<f32>())?;
            close(&format!("{name}.{k}"), &found, &values(&io, &format!("{name}.{k}"))?, 1e-4, 0.0)?;
        }
    }
    Ok(())
}
