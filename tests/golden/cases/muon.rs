//! Four steps of Muon on recorded gradients (tests/interop/record_muon.py).

use crate::common::{Check, backend, close, read, text, values, write};
use fewstep::backend::as_bytes;
use fewstep::graph::ops::{Descend, Momentum, Orthogonalize};
use fewstep::graph::{Graph, TensorType};
use fewstep::io::safetensors::TensorFile;
use std::path::Path;

/// Five steps of a polynomial that multiplies the roundings of small singular values by 485 at most.
const TOLERANCE: f64 = 1e-4;

pub fn run(case: &Path) -> Check {
    let io = text(TensorFile::open(case))?;
    let count = (0..).take_while(|i| io.get(&format!("init.{i}")).is_ok()).count();
    if count == 0 {
        return Err("no matrix is recorded".into());
    }
    let mut g = Graph::new();
    let build = |g: &mut Graph| -> fewstep::Result<_> {
        let (lr, scale) = (g.input("lr", TensorType::f32(&[1]))?, g.input("scale", TensorType::f32(&[1]))?);
        let (mut moved, mut descended, mut grads) = (vec![scale], vec![lr, scale], vec![]);
        for i in 0..count {
            let ty = TensorType::f32(io.get(&format!("init.{i}"))?.shape());
            grads.push(g.input(format!("g{i}"), ty.clone())?);
            moved.extend([g.state(format!("m{i}"), ty.clone())?, grads[i]]);
            descended.extend([g.state(format!("p{i}"), ty)?; 2]); // the second is the direction's place
        }
        let ahead = g.push(Momentum { momentum: 0.95, parameters: count }.into(), &moved)?.split_off(count);
        let directions = g.push(Orthogonalize.into(), &ahead)?;
        for (i, direction) in directions.iter().enumerate() {
            descended[Descend::HEAD + 2 * i + 1] = *direction;
            g.tap(*direction);
        }
        g.push(Descend { weight_decay: 0.1, parameters: count }.into(), &descended)?;
        Ok((lr, scale, grads, directions))
    };
    let (lr, scale, grads, directions) = text(build(&mut g))?;
    let mut exec = text(backend()?.compile(&g))?;
    for i in 0..count {
        text(exec.write_storage(&format!("p{i}"), as_bytes(&values(&io, &format!("init.{i}"))?)))?;
    }
    text(exec.prepare())?;
    write(exec.as_mut(), lr, &[0.02f32])?;
    write(exec.as_mut(), scale, &[0.5f32])?;
    for k in 0..4 {
        for (i, grad) in grads.iter().enumerate() {
            write(exec.as_mut(), *grad, &values(&io, &format!("grad.{i}.{k}"))?)?;
        }
        text(exec.run_all())?;
        for (i, direction) in directions.iter().enumerate() {
            let expected = |what: &str| values(&io, &format!("{what}.{i}.{k}"));
            close(&format!("direction.{i}.{k}"), &read(exec.as_ref(), *direction)?, &expected("direction")?, TOLERANCE, 0.0)?;
            for (state, name) in [("p", "param"), ("m", "momentum")] {
                let found = text(text(exec.storage_bytes(&format!("{state}{i}")))?.of::<f32>())?;
                close(&format!("{name}.{i}.{k}"), &found, &expected(name)?, 1e-5, 0.0)?;
            }
        }
    }
    Ok(())
}
