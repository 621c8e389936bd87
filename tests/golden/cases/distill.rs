//! Five training steps of each objective on a recorded batch: losses, gradient norms, first gradients, last parameters.

use crate::common::{Check, backend, close, fail, integers, read, text, to_nhwc, values, write};
use crate::trajectory::teacher_dir;
use fewstep::backend::Executable;
use fewstep::diffusion::{Clip, NoiseSchedule, Prediction, Rounding, ScheduleConfig, Table, Walk, Weight, trajectory};
use fewstep::distill::context::{Role, STUDENT, TEACHER, TermContext};
use fewstep::distill::evaluations::Evaluations;
use fewstep::distill::features::FeatureLoss;
use fewstep::distill::parameters::{Parameter, Rule, State};
use fewstep::distill::phase::{Phase, Update};
use fewstep::distill::points::cached::TrajectoryBatch;
use fewstep::distill::points::chain::ChainBatch;
use fewstep::distill::points::data::DataBatch;
use fewstep::distill::{FeatureTerm, NormKind, Objective, Optimizer, ParameterSet, Point, Term};
use fewstep::graph::{Graph, TensorType, ValueId};
use fewstep::io::safetensors::TensorFile;
use fewstep::names::Named;
use fewstep::nn::conditions::Values;
use fewstep::nn::{ConditionKind, Guidance, Model};
use fewstep::random::Purpose;
use fewstep::sampling::{RunSpec, SamplingRun, UNROLLED};
use fewstep::tensor::{DType, Tensor};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The json files; every other file must belong to one of them or to the batch.
pub fn cases(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut cases = vec![];
    for path in crate::sorted(dir)? {
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => cases.push(path),
            Some("safetensors") if path.with_extension("json").exists() || crate::file_name(&path) == "batch.safetensors" => {}
            None if crate::file_name(&path) == "student" => {}
            _ => return Err(format!("nobody reads {}", path.display())),
        }
    }
    Ok(cases)
}

struct Case {
    term: Term,
    features: Vec<FeatureTerm>,
    student: Model,
    teacher: Model,
    prediction: [Prediction; 2],
    pairs: Vec<(i64, i64)>,
    substeps: usize,
    guidance: Option<Guidance>,
    schedule: NoiseSchedule,
}

fn load(case: &Path) -> Result<Case, String> {
    let record: Value = serde_json::from_str(&std::fs::read_to_string(case).map_err(|e| fail(case.display(), e))?).map_err(|e| fail(case.display(), e))?;
    let word = |key: &str| record[key].as_str().ok_or_else(|| format!("{}: no {key}", case.display()));
    let objective = match word("objective")? {
        "output" => Objective::Output,
        "teacher_forced" => Objective::TeacherForced,
        "on_policy" => Objective::OnPolicy,
        "resolve" => Objective::Resolve,
        "rollout" => Objective::Rollout,
        other => return Err(format!("{}: unknown objective {other}", case.display())),
    };
    let norm_of = |name: &str| match name {
        "l1" => Ok(NormKind::L1),
        "l2" => Ok(NormKind::L2),
        "huber" => Ok(NormKind::Huber(record["huber_delta"].as_f64().unwrap_or(f64::NAN) as f32)),
        other => Err(format!("{}: unknown norm {other}", case.display())),
    };
    let norm = norm_of(word("norm")?)?;
    let step_weight = text(Weight::from_name(word("weight")?))?;
    let named = |name: &str| Prediction::from_name(name).ok_or_else(|| format!("no prediction type {name}"));
    let prediction = [named(word("student_prediction_type")?)?, named(word("teacher_prediction_type")?)?];
    let list = |v: &Value| v.as_array().map_or_else(Vec::new, |a| a.iter().filter_map(Value::as_i64).collect::<Vec<_>>());
    let lists = |key: &str| record[key].as_array().map_or_else(Vec::new, |a| a.iter().map(list).collect::<Vec<_>>());
    let pairs: Vec<(i64, i64)> = lists("pairs").iter().map(|p| (p[0], p[1])).collect();
    let substeps = lists("teacher_substeps");
    check_substeps(&pairs, &substeps)?;
    let substeps = substeps.first().map_or(0, |grid| grid.len() - 1);
    let guidance = record.get("guidance").map(|guidance| {
        let missing = || format!("{}: guidance of what", case.display());
        let scale = guidance["scale"].as_f64().ok_or_else(missing)?;
        Ok::<_, String>(Guidance { scale, null_label: guidance["null_label"].as_i64().ok_or_else(missing)? as i32 })
    });
    let dir = case.parent().ok_or("no folder")?;
    let student = [dir.join("student"), dir.join("../unet/class_conditional")].into_iter().find(|d| d.exists()).ok_or("no student folder")?;
    let schedule = text(NoiseSchedule::new(ScheduleConfig { precision: Rounding::Float64, ..ScheduleConfig::default() }))?;
    let term = objective.term(step_weight, norm);
    let feature = |f: &Value| {
        let word = |key: &str| f[key].as_str().ok_or_else(|| format!("{}: a feature without {key}", case.display()));
        let weight = f["weight"].as_f64().ok_or_else(|| format!("{}: a feature without weight", case.display()))? as f32;
        let (student, teacher) = (word("student")?.to_string(), word("teacher")?.to_string());
        Ok(FeatureTerm { point: term.point, student, teacher, norm: norm_of(word("norm")?)?, weight, decay_steps: 0 })
    };
    let features = record["features"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(Case {
        term,
        features: features.iter().map(feature).collect::<Result<_, String>>()?,
        student: text(Model::open(&student))?,
        teacher: text(Model::open(&teacher_dir()))?,
        prediction,
        pairs,
        substeps,
        guidance: guidance.transpose()?,
        schedule,
    })
}

fn check_substeps(pairs: &[(i64, i64)], recorded: &[Vec<i64>]) -> Check {
    let grid = text(trajectory::teacher_grid(1000, pairs, recorded.first().map_or(0, |g| g.len() - 1)))?;
    if grid == recorded { Ok(()) } else { Err(format!("teacher sub-steps {grid:?}, recorded {recorded:?}")) }
}

struct Program {
    inputs: Vec<(ValueId, Vec<f32>)>,
    indices: Vec<(ValueId, Vec<i32>)>,
    loss: ValueId,
    /// Each without its factor.
    terms: Vec<ValueId>,
    student: ParameterSet,
    update: Update,
}

const OPTIMIZER: fn() -> Optimizer = || Optimizer { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, clip_norm: 1.0, ..Optimizer::default() };

fn build(g: &mut Graph, case: &Case, batch: &TensorFile, expected: &TensorFile) -> Result<Program, String> {
    let context = TermContext {
        student: Role::student(&case.student, case.prediction[0]),
        teacher: Some(Role::teacher(&case.teacher, case.prediction[1]).guided(case.guidance)),
        schedule: &case.schedule,
        pairs: &case.pairs,
        walk: Walk { order: 1, substeps: case.substeps, clip: Clip::None },
        self_teacher: None,
    };
    // A guided teacher has others.
    let states = text(if case.guidance.is_some() { expected } else { batch }.get("states"))?;
    let image = states.shape()[1..].to_vec();
    let (n, row) = (image[0], image[1..].iter().product::<usize>());
    let all = text(states.to_f32_vec())?;
    // Row i is step pair i.
    let rows = |offset: usize| -> Vec<f32> { (0..n).flat_map(|i| all[((i + offset) * n + i) * row..][..row].to_vec()).collect() };
    let nhwc = |data: Vec<f32>| -> Result<Vec<f32>, String> { to_nhwc(&text(Tensor::from_slice(&image, &data))?) };
    let ty = TensorType::f32(&[n, image[2], image[3], image[1]]);
    let index = TensorType::new(DType::I32, &[n]);
    let labels = text(g.input("labels", index.clone()))?;
    let mut indices = vec![(labels, integers(batch, "class_labels")?)];
    let conditions: Vec<_> = case.student.classes().map(|_| labels).into_iter().collect();
    let (inputs, mut evaluations) = if case.term.point == Point::Data {
        let (data, noise, timestep) = (text(g.input("data", ty.clone()))?, text(g.input("noise", ty))?, text(g.input("t", index))?);
        indices.push((timestep, integers(batch, "output_timesteps")?));
        let at = text(DataBatch { data, noise, place: timestep, conditions }.at(g, &context, false))?;
        (vec![(data, nhwc(values(batch, "data")?)?), (noise, nhwc(values(batch, "noise")?)?)], text(Evaluations::at(g, &context, at))?)
    } else if case.term.point == Point::Chain {
        let noise = text(g.input("noise", ty.clone()))?;
        let targets = (0..n).map(|k| text(g.input(format!("target.{k}"), ty.clone()))).collect::<Result<Vec<_>, _>>()?;
        let mut inputs = vec![(noise, nhwc(values(batch, "x_T")?)?)];
        for (k, target) in targets.iter().enumerate() {
            inputs.push((*target, nhwc(all[(k + 1) * n * row..][..n * row].to_vec())?));
        }
        (inputs, text(Evaluations::along(g, &context, &ChainBatch { noise, targets, conditions }))?)
    } else {
        let (state, target, pair) = (text(g.input("state", ty.clone()))?, text(g.input("target", ty))?, text(g.input("pair", index))?);
        indices.push((pair, (0..n as i32).collect()));
        let trajectories = TrajectoryBatch { pair, state, target, conditions };
        let (from, at) = match case.term.point {
            Point::Own => (values(batch, "x_T")?, text(trajectories.own(g, &context))?),
            _ => (rows(0), text(trajectories.cached(g, &context))?),
        };
        (vec![(state, nhwc(from)?), (target, nhwc(rows(1))?)], text(Evaluations::at(g, &context, at))?)
    };
    let mut loss = text(evaluations.loss(g, &context, &case.term, None))?;
    let (mut terms, mut alignments) = (vec![loss], vec![]);
    for (i, feature) in case.features.iter().enumerate() {
        let FeatureLoss { loss: own, parameters } = text(feature.loss(g, &context, &evaluations, i))?;
        let weighted = text(g.affine(own, feature.weight, 0.0))?;
        loss = text(g.add(loss, weighted))?;
        terms.push(weighted);
        for parameter in parameters {
            let name = parameter.name.strip_prefix(STUDENT).ok_or("not the student's")?.to_string();
            let initial = Arc::new(text(expected.get_f32(&format!("init.{name}"), &parameter.shape))?);
            alignments.push(Parameter { name, initial, rule: Rule::AdamW });
        }
    }
    let student = text(text(ParameterSet::student(&case.student, OPTIMIZER()))?.with(alignments))?;
    let phase = Phase {
        name: "student",
        loss,
        losses: loss,
        sets: std::slice::from_ref(&student),
        recompute: &evaluations.inside,
        loss_scale: None,
        accumulation: None,
    };
    let update = text(phase.append(g))?.updates.remove(0);
    [loss, update.norm].iter().chain(&terms).chain(&update.grads).for_each(|v| g.tap(*v));
    Ok(Program { inputs, indices, loss, terms, student, update })
}

pub fn run(path: &Path) -> Check {
    let case = load(path)?;
    let batch = text(TensorFile::open(&path.with_file_name("batch.safetensors")))?;
    let expected = text(TensorFile::open(&path.with_extension("safetensors")))?;
    if let Some(guidance) = case.guidance {
        check_guided(&case, guidance, &batch, &expected)?;
    }
    let mut g = Graph::new();
    let program = build(&mut g, &case, &batch, &expected)?;
    let mut exec = text(backend()?.compile(&g))?;
    load_weights(exec.as_mut(), &case, &program.student)?;
    for (id, data) in &program.inputs {
        write(exec.as_mut(), *id, data)?;
    }
    for (id, data) in &program.indices {
        write(exec.as_mut(), *id, data)?;
    }
    write(exec.as_mut(), program.update.inputs.rate, &[1e-3f32])?;
    write(exec.as_mut(), program.update.inputs.decay, &[0.9f32])?;
    for k in 0..5i64 {
        write(exec.as_mut(), program.update.inputs.update, &[k + 1])?;
        text(exec.run_all())?;
        close(&format!("loss.{k}"), &read(exec.as_ref(), program.loss)?, &values(&expected, &format!("loss.{k}"))?, 1e-4, 0.0)?;
        if expected.names().any(|name| name == format!("terms.{k}")) {
            let found: Vec<f32> = program.terms.iter().map(|term| read(exec.as_ref(), *term)).collect::<Result<Vec<_>, _>>()?.concat();
            close(&format!("terms.{k}"), &found, &values(&expected, &format!("terms.{k}"))?, 1e-4, 0.0)?;
        }
        close(&format!("grad_norm.{k}"), &read(exec.as_ref(), program.update.norm)?, &values(&expected, &format!("grad_norm.{k}"))?, 1e-3, 0.0)?;
        if k == 0 {
            check_grads(exec.as_ref(), &program, &expected)?;
        }
    }
    check_parameters(exec.as_ref(), &expected)
}

/// The guided teacher's own trajectory.
fn check_guided(case: &Case, guidance: Guidance, batch: &TensorFile, expected: &TensorFile) -> Check {
    let states = text(expected.get("states"))?;
    let image = states.shape()[1..].to_vec();
    let all = text(states.to_f32_vec())?;
    let row = image.iter().product::<usize>();
    let nhwc = |data: &[f32]| to_nhwc(&text(Tensor::from_slice(&image, data))?);
    let grid = text(trajectory::teacher_pairs(1000, &case.pairs, case.substeps))?;
    let table = text(Table::from_pairs(&case.schedule, case.prediction[1], &grid, 0.0, Clip::None))?;
    let (size, purpose, guidance) = ([image[2], image[3]], Purpose::Data, Some(guidance));
    let spec = RunSpec { table: &table, batch: image[0], size, purpose, precision: DType::F32, guidance, unrolled: UNROLLED };
    let mut run = text(SamplingRun::new(backend()?.as_ref(), &case.teacher, &spec))?;
    let labels = integers(batch, "class_labels")?;
    let given = [(ConditionKind::Labels { classes: 10 }, Values::I32(&labels))];
    text(run.begin(0, &(0..image[0] as i32).collect::<Vec<_>>(), &given, Some(&nhwc(&values(batch, "x_T")?)?)))?;
    for k in 1..=case.pairs.len() {
        for _ in 0..case.substeps {
            text(run.step(None, false))?;
        }
        close(&format!("guided state {k}"), &text(run.read())?, &nhwc(&all[k * row..][..row])?, 1e-4, 0.0)?;
    }
    Ok(())
}

fn load_weights(exec: &mut dyn Executable, case: &Case, student: &ParameterSet) -> Check {
    for (name, tensor) in &case.teacher.weights {
        let name = format!("{TEACHER}{name}");
        if exec.plan().graph().storage(&name).is_some() {
            text(exec.bind(&name, tensor.clone()))?;
        }
    }
    for parameter in &student.parameters {
        text(exec.write_storage(&student.key(State::Weight, &parameter.name), parameter.initial.bytes()))?;
    }
    text(exec.prepare())
}

fn check_grads(exec: &dyn Executable, program: &Program, expected: &TensorFile) -> Check {
    let recorded: Vec<&str> = expected.names().filter(|n| n.starts_with("grad.")).collect();
    let mut largest = 0f32;
    for name in &recorded {
        largest = values(expected, name)?.iter().fold(largest, |m, v| m.max(v.abs()));
    }
    for name in recorded {
        let at = program.student.parameters.iter().position(|p| format!("grad.{}", p.name) == name).ok_or_else(|| format!("no parameter for {name}"))?;
        close(name, &read(exec, program.update.grads[at])?, &values(expected, name)?, 1e-3, 1e-3 * f64::from(largest))?;
    }
    Ok(())
}

/// Every element within 1e-4 of its tensor's largest magnitude, widened only where AdamW divides noise by noise: its first steps move an element by about
/// lr g / (|g| + eps), so where |g| is at the rounding level of float32 (1e-6 of the tensor's largest gradient) the direction itself is rounding. The
/// recording's own programs miss the bare tolerance there: PyTorch in float64 by a factor 12 (`tests/interop/adamw_noise.py` shows it).
fn check_parameters(exec: &dyn Executable, expected: &TensorFile) -> Check {
    let recorded: Vec<&str> = expected.names().filter(|n| n.starts_with("param.")).collect();
    if recorded.is_empty() {
        return Err("no parameters recorded".into());
    }
    let clip = (1.0 / f64::from(values(expected, "grad_norm.0")?[0])).min(1.0);
    for name in recorded {
        let plain = &name["param.".len()..];
        let found = text(text(exec.storage_bytes(&format!("{STUDENT}{plain}")))?.of::<f32>())?;
        let reference = values(expected, name)?;
        let grads = values(expected, &format!("grad.{plain}"))?;
        let magnitude = |v: &[f32]| v.iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
        let (scale, noise) = (magnitude(&reference), 1e-6 * clip * magnitude(&grads));
        for (i, ((a, b), g)) in found.iter().zip(&reference).zip(&grads).enumerate() {
            let moved = 5.0 * 1e-3 * (noise / (clip * f64::from(g.abs()) + 1e-8)).min(2.0);
            let off = (f64::from(*a) - f64::from(*b)).abs();
            if off.is_nan() || off > 1e-4 * scale + moved {
                return Err(format!("{name}[{i}]: off by {off:.3e}, allowed {:.3e} + {moved:.3e}; gradient {g:.3e}", 1e-4 * scale));
            }
        }
    }
    Ok(())
}
