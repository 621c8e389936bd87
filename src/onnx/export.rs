//! A model's program as the messages of a file: its inputs and outputs, and what a host needs to know beside them.

use super::constants::computed;
use super::form::{Form, batched};
use super::lower::lower;
use super::lowering::Lowering;
use super::options::Options;
use super::program::{Kind, Port, Program};
use super::proto::{
    DataType, Dimension, DimensionProto, IR_VERSION, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorShapeProto, TensorTypeProto, TypeProto,
    ValueInfoProto,
};
use super::writer::WHAT;
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::io::json::MAX_TEXT;
use crate::io::json_writer::text_of;
use crate::memory;
use crate::names::Named;
use crate::nn::Model;
use crate::tensor::DType;

/// The messages of a file.
pub(super) fn model_of(model: &Model, options: &Options, stop: Stop) -> Result<ModelProto> {
    if !Options::OPSETS.contains(&options.opset) {
        let (first, last) = (Options::OPSETS.start(), Options::OPSETS.end());
        return Err(Error::invalid(format!("opset is {}; files are written for {first} to {last}", options.opset)));
    }
    let sampled = || options.sampled.as_ref().ok_or_else(|| Error::invalid(format!("the program \"{}\" needs a sampler", options.kind.name())));
    let program = || match options.kind {
        Kind::Evaluation => Program::evaluation(model, options.size),
        Kind::Step => Program::step(model, options.size, sampled()?),
        Kind::Sampler => Program::sampler(model, options.size, sampled()?, stop),
    };
    // One to compute constants of, one to write.
    let computed = computed(program()?.graph, model, stop)?;
    let program = program()?;
    let mut lowering = Lowering::new(&program.graph, model, options, computed)?;
    let inputs = memory::try_collect(program.inputs.iter().map(|port| given(&mut lowering, port)), WHAT)?;
    lower(&mut lowering, &memory::collect(program.outputs.iter().map(|port| port.value), WHAT)?, stop)?;
    let outputs = memory::try_collect(program.outputs.iter().map(|port| result(&mut lowering, port)), WHAT)?;
    let mut graph = lowering.writer.out;
    (graph.name, graph.input, graph.output) = (options.kind.name().to_owned(), inputs, outputs);
    Ok(ModelProto {
        ir_version: IR_VERSION,
        producer_name: "fewstep".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: String::new(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: options.opset }],
        metadata_props: metadata(model, options)?,
    })
}

/// An input, whose name its value then has.
fn given(l: &mut Lowering, port: &Port) -> Result<ValueInfoProto> {
    let (name, shape) = (l.writer.unique(&port.name)?, l.shape(port.value));
    let rows = if port.batched { Dimension::Param("batch".to_owned()) } else { Dimension::Value(1) };
    let whole = l.graph.value(port.value).ty.dtype == DType::I32;
    let form = if port.image { Form::First } else { Form::Rows(batched(shape)) };
    l.set(port.value, form, name.clone())?;
    Ok(info(name, if whole { DataType::Int64 } else { DataType::Float }, rows, shape, port.image))
}

/// An output, under its own name.
fn result(l: &mut Lowering, port: &Port) -> Result<ValueInfoProto> {
    let from = l.first(port.value)?;
    let name = l.writer.unique(&port.name)?;
    let name = l.writer.emit("Identity", &[&from], vec![], name)?;
    Ok(info(name, DataType::Float, Dimension::Param("batch".to_owned()), l.shape(port.value), port.image))
}

fn info(name: String, ty: DataType, rows: Dimension, shape: &[usize], image: bool) -> ValueInfoProto {
    let each = &shape[1..];
    let inner = if image { [&each[each.len() - 1..], &each[..each.len() - 1]].concat() } else { each.to_vec() };
    let dims = std::iter::once(rows).chain(inner.iter().map(|d| Dimension::Value(*d as i64)));
    let dim = dims.map(|value| DimensionProto { value: Some(value) }).collect();
    let tensor_type = Some(TensorTypeProto { elem_type: ty as i32, shape: Some(TensorShapeProto { dim }) });
    ValueInfoProto { name, r#type: Some(TypeProto { tensor_type }) }
}

/// What a host needs to know beside the program, under keys that begin with `fewstep.`.
fn metadata(model: &Model, options: &Options) -> Result<Vec<StringStringEntryProto>> {
    let mut all = vec![("program", options.kind.name().to_owned()), ("prediction_type", model.scheduler.prediction().name().to_owned())];
    if let Some(classes) = model.classes() {
        all.push(("classes", classes.to_string()));
    }
    if let Some(student) = &model.student {
        all.push(("pairs", text_of(&student.pairs, MAX_TEXT, WHAT)?));
    }
    if let Some(sampled) = options.sampled.filter(|_| options.kind != Kind::Evaluation) {
        let timesteps = memory::collect(sampled.table.steps.iter().map(|step| step.t), WHAT)?;
        all.push(("timesteps", text_of(&timesteps, MAX_TEXT, WHAT)?));
        all.push(("initial", sampled.table.initial.to_string()));
    }
    if let Some(quantization) = &model.quantization {
        all.push(("profile", options.profile.name().to_owned()));
        if let Some(provenance) = &quantization.provenance {
            all.push(("quantization", text_of(provenance, MAX_TEXT, WHAT)?));
        }
    }
    all.push(("scheduler", model.scheduler.to_json()?));
    let entry = |(key, value): (&str, String)| StringStringEntryProto { key: format!("fewstep.{key}"), value };
    memory::collect(all.into_iter().map(entry), WHAT)
}
