//! The op conformance harness: a [`Case`] is a graph with its numbers; [`check`] runs it on any backend and compares with the f64 reference.

#![allow(dead_code)] // every test binary uses its own part

pub mod accumulation;
pub mod alone;
pub mod cases;
pub mod conv_cases;
pub mod grad_cases;
pub mod models;
pub mod muon_cases;
mod op_tests;
pub mod stored;

use fewstep::Result;
use fewstep::backend::cpu::{CpuBackend, Isa};
use fewstep::backend::{Backend, Executable};
use fewstep::graph::ops::{PackConv, Reshape};
use fewstep::graph::reference::{Array, evaluate, to_array};
use fewstep::graph::{Graph, Narrowing, Op, Origin, Packed, Target, TensorType, ValueId};
use fewstep::tensor::{DType, Element, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// A backend that gives the passes one answer.
pub struct Answers {
    /// To whatever a pass offers.
    pub accepts: bool,
    /// Whether weights are packed: into as many numbers.
    pub packs: bool,
}

/// Takes whatever a pass offers.
pub const TAKES_ALL: Answers = Answers { accepts: true, packs: false };

impl Target for Answers {
    fn accepts(&self, _: &Op, _: &[&TensorType]) -> bool {
        self.accepts
    }

    fn narrowing(&self, _: DType) -> Result<Narrowing> {
        Ok(Narrowing::Activations)
    }

    fn packed(&self, op: &Op, types: &[&TensorType]) -> Option<Packed> {
        let (.., weight) = PackConv::of(op).filter(|_| self.packs)?;
        Some(TensorType::new(types[0].dtype, &[types[weight].numel()]).into())
    }
}

/// A fixed stream of numbers (splitmix64), so that every run tests the same.
pub struct Noise(pub u64);

impl Noise {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In -1..1, with 24 random bits.
    pub fn float(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }
}

/// Panics unless every op there is stands in one of the cases, so that no op is without a kernel that was compared with its meaning.
pub fn check_every_op_has_a_row<'a>(cases: impl Iterator<Item = &'a Case>) {
    // Passes make these of the convolutions and norms of the rows.
    let mut found: std::collections::BTreeSet<&str> = ["PackConv", "FusedConv2d", "FusedGroupNorm"].into();
    for case in cases {
        found.extend(case.graph.nodes().iter().map(|node| node.op.variant()));
    }
    let missing: Vec<_> = Op::VARIANTS.iter().filter(|op| !found.contains(*op)).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}

/// A graph, the numbers that it runs on, and the values to compare with their tolerances (0: exactly the reference rounded to the value's type).
pub struct Case {
    pub name: String,
    pub graph: Graph,
    pub given: HashMap<ValueId, Arc<Tensor>>,
    pub expect: Vec<(ValueId, f64)>,
    pub noise: Noise,
}

impl Case {
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
        Self { name, graph: Graph::new(), given: HashMap::new(), expect: vec![], noise: Noise(seed) }
    }

    /// A runtime input with the given numbers.
    pub fn data<T: Element>(&mut self, shape: &[usize], data: &[T]) -> ValueId {
        let id = self.graph.input(format!("in{}", self.given.len()), TensorType::new(T::DTYPE, shape)).expect("input");
        self.given.insert(id, Arc::new(Tensor::from_slice(shape, data).expect("tensor")));
        id
    }

    /// A runtime input of noise in -scale..scale around `shift`.
    pub fn input_around(&mut self, shape: &[usize], scale: f32, shift: f32) -> ValueId {
        let data: Vec<f32> = self.noise.floats(shape.iter().product()).iter().map(|v| v * scale + shift).collect();
        self.data(shape, &data)
    }

    /// A runtime input of noise in -1..1.
    pub fn input(&mut self, shape: &[usize]) -> ValueId {
        self.input_around(shape, 1.0, 0.0)
    }

    /// A runtime input of integers in lo..hi.
    pub fn ints(&mut self, shape: &[usize], lo: i32, hi: i32) -> ValueId {
        let data: Vec<i32> = (0..shape.iter().product()).map(|_| lo + (self.noise.word() % (hi - lo) as u64) as i32).collect();
        self.data(shape, &data)
    }

    /// Noise that has passed a convolution by 1: the same numbers, which a plan in a narrow type has in that type.
    pub fn activations(&mut self, shape: &[usize]) -> ValueId {
        let x = self.input(shape);
        let one = self.graph.constant("one", Tensor::from_slice(&[1; 4], &[1f32]).expect("tensor")).expect("a constant");
        let flat = self.op(Reshape { shape: vec![shape.iter().product(), 1, 1, 1] }, &[x]);
        let same = self.graph.conv2d(flat, one, None, 1, [0; 4]).expect("a convolution");
        self.op(Reshape { shape: shape.to_vec() }, &[same])
    }

    /// A storage whose first version is noise; a second call with the same name gives its newest version.
    pub fn state(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let known = self.graph.storage(name).is_some();
        let id = self.graph.state(name, TensorType::f32(shape)).expect("state");
        if !known {
            let data = self.noise.floats(shape.iter().product());
            self.given.insert(id, Arc::new(Tensor::from_slice(shape, &data).expect("tensor")));
        }
        id
    }

    pub fn ops(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Vec<ValueId> {
        self.graph.push(op.into(), inputs).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    pub fn op(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> ValueId {
        self.ops(op, inputs)[0]
    }

    /// Taps a value and compares it.
    pub fn expect(&mut self, value: ValueId, tolerance: f64) {
        self.graph.tap(value);
        self.expect.push((value, tolerance));
    }

    /// All values in f64.
    pub fn reference(&self) -> Result<HashMap<ValueId, Array>> {
        self.reference_of(&self.given)
    }

    /// The same on other numbers.
    pub fn reference_of(&self, given: &HashMap<ValueId, Arc<Tensor>>) -> Result<HashMap<ValueId, Array>> {
        let given = given.iter().map(|(id, t)| Ok((*id, to_array(t)?))).collect::<Result<HashMap<_, _>>>()?;
        evaluate(&self.graph, &given)
    }
}

/// Binds and writes everything that a case gives, then prepares.
pub fn load(exe: &mut dyn Executable, graph: &Graph, given: &HashMap<ValueId, Arc<Tensor>>) -> Result<()> {
    let frozen = graph.frozen_storages()?;
    for (id, tensor) in given {
        let value = graph.value(*id);
        match value.storage {
            Some(s) if frozen[s.0 as usize] => exe.bind(&value.name, tensor.clone())?,
            Some(_) => exe.write_storage(&value.name, tensor.bytes())?,
            None => exe.write_bytes(*id, tensor.bytes())?,
        }
    }
    exe.prepare()
}

/// The numbers of a value after a run.
pub fn read(exe: &dyn Executable, graph: &Graph, value: ValueId) -> Result<Vec<f64>> {
    let bytes = exe.read_bytes(value)?;
    Ok(match graph.value(value).ty.dtype {
        DType::F32 => bytes.of::<f32>()?.iter().map(|v| f64::from(*v)).collect(),
        DType::I8 => bytes.of::<i8>()?.iter().map(|v| f64::from(*v)).collect(),
        DType::U8 => bytes.of::<u8>()?.iter().map(|v| f64::from(*v)).collect(),
        DType::I32 => bytes.of::<i32>()?.iter().map(|v| f64::from(*v)).collect(),
        DType::I64 => bytes.of::<i64>()?.iter().map(|v| *v as f64).collect(),
        other => panic!("no test reads {other:?}"),
    })
}

/// Largest |got - want| in units of max|want|: the natural scale of an f32 computation, whose rounding errors are proportional to its large
/// elements, also in the small ones that they cancel to. NaN must meet NaN. With tolerance 0 the f32-rounded reference must be met exactly.
pub fn compare(what: &str, got: &[f64], want: &Array, tolerance: f64) -> std::result::Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} elements, expected {}", got.len(), want.len()));
    }
    let scale = want.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let fits = if tolerance == 0.0 { *g == *w || *g == f64::from(*w as f32) } else { (g - w).abs() <= tolerance * scale || g == w };
        if !(fits || g.is_nan() && w.is_nan()) {
            return Err(format!("{what}: element {i} is {g:e}, expected {w:e}; allowed {tolerance:e} of {scale:e}"));
        }
    }
    Ok(())
}

/// Runs a case on a backend and compares; returns the bytes of everything compared.
pub fn check(backend: &dyn Backend, case: &Case, reference: &HashMap<ValueId, Array>) -> std::result::Result<Vec<u8>, String> {
    let named = |e: fewstep::Error| format!("{}: {e}", case.name);
    let mut exe = backend.compile(&case.graph).map_err(named)?;
    load(&mut *exe, &case.graph, &case.given).map_err(named)?;
    exe.run_all().map_err(named)?;
    let mut bytes = vec![];
    for (value, tolerance) in &case.expect {
        let got = read(&*exe, &case.graph, *value).map_err(named)?;
        compare(&format!("{} '{}'", case.name, case.graph.value(*value).name), &got, &reference[value], *tolerance)?;
        bytes.extend_from_slice(&exe.read_bytes(*value).map_err(named)?);
    }
    Ok(bytes)
}

/// Backends that must give equal bytes, by instruction set: thread counts 1, 2 and 3 (more threads than this machine may have cores).
pub fn cpu_backends() -> Vec<(String, Vec<Box<dyn Backend>>)> {
    let threads = |isa| (1..=3).map(|n| Box::new(CpuBackend::with_isa(n, isa).expect("threads")) as Box<dyn Backend>).collect();
    Isa::all().map(|isa| (format!("{isa:?}"), threads(isa))).collect()
}

/// Runs a table on the CPU: every instruction set, every thread count, equal bytes across thread counts. Panics with all failures.
pub fn run_table(cases: Vec<Case>) {
    let mut failures = vec![];
    let backends = cpu_backends();
    for case in &cases {
        let reference = match case.reference() {
            Ok(r) => r,
            Err(e) => {
                failures.push(format!("{}: reference: {e}", case.name));
                continue;
            }
        };
        for (isa, group) in &backends {
            let runs: Vec<_> = group.iter().map(|b| check(&**b, case, &reference)).collect();
            for (i, run) in runs.iter().enumerate() {
                match run {
                    Err(e) => failures.push(format!("[{isa}, {} threads] {e}", i + 1)),
                    Ok(bytes) if runs[0].as_ref().is_ok_and(|first| first != bytes) => {
                        failures.push(format!("[{isa}] {}: bytes depend on the threads", case.name))
                    }
                    Ok(_) => {}
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {} cases x backends failed:\n{}", failures.len(), cases.len(), failures[..failures.len().min(20)].join("\n"));
}

/// True for a value that the host gives.
pub fn is_given(graph: &Graph, value: ValueId) -> bool {
    matches!(graph.value(value).origin, Origin::Input | Origin::State)
}
