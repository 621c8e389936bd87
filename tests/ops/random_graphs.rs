//! Random small programs: every pass leaves a program that is valid and means the same, and backends compute it. Once passes combine, this is worth more than
//! rows that somebody thought of. The passes that change numbers (`precision`) or that only a backend understands (`pack`) are compared by backends' own tests.

use crate::common::{Case, TAKES_ALL, check};
use fewstep::backend::cpu::CpuBackend;
use fewstep::cancel::Stop;
use fewstep::graph::ops::*;
use fewstep::graph::reference::{evaluate, to_array};
use fewstep::graph::{Numerics, ValueId, passes};
use fewstep::tensor::Tensor;
use fewstep::{Error, Result};
use std::collections::HashMap;

/// Programs of each run; another number of `FEWSTEP_RANDOM_GRAPHS` tries more.
const PROGRAMS: u64 = 60;
/// Steps of a program.
const STEPS: u64 = 12;
/// Samples of everything.
const N: usize = 2;
/// f32 over a dozen steps, some of which divide by small deviations.
const TOLERANCE: f64 = 1e-3;

/// What grows at random: values [N,H,W,C] or [N,T,C], of which each step takes some.
struct Growing {
    case: Case,
    values: Vec<ValueId>,
    parameters: usize,
}

impl Growing {
    fn new(seed: u64) -> Self {
        let mut case = Case::new(format!("random program {seed}"));
        let values = vec![case.input(&[N, 4, 4, 4]), case.input(&[N, 4, 4, 8]), case.input(&[N, 6, 4])];
        Self { case, values, parameters: 0 }
    }

    fn below(&mut self, n: usize) -> usize {
        (self.case.noise.word() % n as u64) as usize
    }

    /// A value, newer ones more often.
    fn any(&mut self) -> ValueId {
        let recent = self.values.len().min(4);
        let at = if self.below(4) == 0 { self.below(self.values.len()) } else { self.values.len() - 1 - self.below(recent) };
        self.values[at]
    }

    /// A value like another one, if there is one.
    fn like(&mut self, value: ValueId, fits: impl Fn(&[usize], &[usize]) -> bool) -> ValueId {
        let shape = self.case.graph.shape(value).to_vec();
        let alike: Vec<ValueId> = self.values.iter().copied().filter(|v| fits(self.case.graph.shape(*v), &shape)).collect();
        if alike.is_empty() { value } else { alike[self.below(alike.len())] }
    }

    fn parameter(&mut self, shape: &[usize]) -> ValueId {
        self.parameters += 1;
        self.case.state(&format!("p{}", self.parameters), shape)
    }

    /// One more value by an op that fits. Numbers stay near 1, so that errors do.
    fn step(&mut self) -> Result<()> {
        let x = self.any();
        let shape = self.case.graph.shape(x).to_vec();
        let (rank, c) = (shape.len(), shape[shape.len() - 1]);
        if self.below(10) == 0 {
            let segment = self.case.graph.segments().len();
            self.case.graph.begin_segment(format!("segment {segment}"));
        }
        let y = match self.below(14) {
            0..=2 if rank == 4 => {
                let k = [1, 3][self.below(2)];
                let (out, bias) = ([4, 8][self.below(2)], self.below(2) == 0);
                let w = self.parameter(&[out, c, k, k]);
                let bias = if bias { Some(self.parameter(&[out])) } else { None };
                let y = self.case.graph.conv2d(x, w, bias, 1, [k / 2; 4])?;
                self.case.graph.affine(y, 1.0 / ((c * k * k) as f32).sqrt(), 0.0)?
            }
            0..=4 => {
                let (w, bias) = (self.parameter(&[c, c]), self.parameter(&[c]));
                self.case.graph.linear(x, w, Some(bias))?
            }
            5 | 6 => {
                let other = self.like(x, |a, b| a == b);
                self.case.graph.add(x, other)?
            }
            7 => {
                let (gamma, beta) = (self.parameter(&[c]), self.parameter(&[c]));
                let (groups, silu) = ([1, 2, 4][self.below(3)], self.below(2) == 0);
                self.case.graph.group_norm(x, gamma, beta, groups, 1e-3, silu)?
            }
            8 => self.case.graph.unary(UnaryKind::Silu, x)?,
            // Of exact numbers: what a rounding moves over a tie would be a whole step away.
            13 => {
                let given = self.case.input(&shape);
                let scale = self.case.graph.constant("scale", Tensor::from_slice(&[1], &[1.0f32 / 64.0])?)?;
                let zero = self.case.graph.constant("zero", Tensor::from_slice(&[1], &[3i8])?)?;
                let q = self.case.op(Quantize { codes: Codes::I8, axis: None }, &[given, scale, zero]);
                self.case.op(Dequantize { axis: None }, &[q, scale, zero])
            }
            12 => {
                // Read, then overwritten: nobody reads the old version afterwards, whatever a pass moves.
                let state = self.parameter(&shape);
                let sum = self.case.graph.add(x, state)?;
                self.values.push(sum);
                self.case.op(Assign, &[state, x])
            }
            9 => {
                let addend = self.case.input(&[&[N], vec![1; rank - 2].as_slice(), &[c]].concat());
                self.case.graph.add(x, addend)?
            }
            10 if c == 4 => {
                let other = self.like(x, |a, b| a.len() == b.len() && a[..a.len() - 1] == b[..b.len() - 1] && a[a.len() - 1] == 4);
                self.case.graph.push1(Concat.into(), &[x, other])?
            }
            11 if rank == 3 && shape[1].is_multiple_of(4) => self.case.graph.transpose(x)?,
            _ if rank == 4 => self.case.graph.reshape(x, &[N, shape[1] * shape[2], c])?,
            _ => self.case.graph.affine(x, 0.7, 0.0)?,
        };
        self.values.push(y);
        if self.below(6) == 0 {
            self.case.expect(y, TOLERANCE);
        }
        Ok(())
    }

    fn finish(mut self) -> Case {
        let last: Vec<ValueId> = self.values[self.values.len() - 3..].to_vec();
        for value in last {
            if !self.case.expect.iter().any(|(tapped, _)| *tapped == value) {
                self.case.expect(value, TOLERANCE);
            }
        }
        self.case
    }
}

fn program(seed: u64) -> Result<Case> {
    let mut growing = Growing::new(seed);
    (0..STEPS).try_for_each(|_| growing.step())?;
    Ok(growing.finish())
}

/// What a program means after a pass, in f64, beside what it meant before all of them.
pub fn same_meaning(case: &Case) -> Result<()> {
    let expected = case.reference()?;
    let names: HashMap<&str, ValueId> = case.given.keys().map(|id| (case.graph.value(*id).name.as_str(), *id)).collect();
    let mut stages = vec![];
    passes::run(&case.graph, &Numerics::F32, &TAKES_ALL, Stop::NEVER, &mut |name, graph| {
        graph.verify().map_err(|e| e.context(name))?;
        stages.push((name, graph.clone()));
        Ok(())
    })?;
    for (name, graph) in stages {
        let mut given = HashMap::new();
        for i in 0..graph.values().len() {
            let id = ValueId(i as u32);
            if let Some(original) = names.get(graph.value(id).name.as_str()).filter(|_| !matches!(graph.value(id).origin, fewstep::graph::Origin::Node { .. }))
            {
                given.insert(id, to_array(&case.given[original])?);
            }
        }
        let found = evaluate(&graph, &given)?;
        assert_eq!(graph.outputs().len(), case.expect.len(), "{}: taps after {name}", case.name);
        // Taps keep their order.
        for (tap, (value, _)) in graph.outputs().iter().zip(&case.expect) {
            let (a, b) = (&expected[value], &found[tap]);
            // f64 in another order of sums; variances of near-constant groups magnify it. NaN is near nothing.
            let near = a.shape() == b.shape() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-9 * (1.0 + a.abs()));
            if !near {
                return Err(Error::internal(format!("{}: after {name} '{}' differs\n{}\nnow\n{graph}", case.name, graph.value(*tap).name, case.graph)));
            }
        }
    }
    Ok(())
}

#[test]
fn passes_keep_the_meaning_and_the_cpu_computes_it() -> Result<()> {
    let programs = std::env::var("FEWSTEP_RANDOM_GRAPHS").ok().and_then(|n| n.parse().ok()).unwrap_or(PROGRAMS);
    let backend = CpuBackend::new(2)?;
    for seed in 0..programs {
        let case = program(seed)?;
        same_meaning(&case)?;
        if let Err(message) = check(&backend, &case, &case.reference()?) {
            panic!("{message}\n{}", case.graph);
        }
    }
    Ok(())
}
