//! The nodes and numbers of a file that is being written.

use super::proto::{AttributeProto, AttributeType, DataType, GraphProto, NodeProto, TensorProto};
use crate::error::Result;
use crate::memory;
use std::collections::HashMap;

/// What lists of a file are called where there is no memory for them.
pub(super) const WHAT: &str = "an ONNX graph";

/// A graph of the file.
#[derive(Default)]
pub(super) struct Writer {
    pub out: GraphProto,
    /// Small tables of this file's own.
    tables: HashMap<(i32, Vec<i64>, Vec<u8>), String>,
    names: HashMap<String, usize>,
}

impl Writer {
    /// A name that nothing else has.
    pub fn unique(&mut self, hint: &str) -> Result<String> {
        let hint = if hint.is_empty() { "value" } else { hint };
        let used = self.names.get(hint).copied().unwrap_or(0);
        memory::insert(&mut self.names, hint.to_owned(), used + 1, WHAT)?;
        if used == 0 { Ok(hint.to_owned()) } else { self.unique(&format!("{hint}/{used}")) }
    }

    /// Appends a node whose one result has this name, which is unique already.
    pub fn emit(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>, name: String) -> Result<String> {
        let input = inputs.iter().map(|i| (*i).to_owned()).collect();
        let node = NodeProto { input, output: vec![name.clone()], name: format!("{op}:{name}"), op_type: op.to_owned(), attribute };
        memory::push(&mut self.out.node, node, WHAT)?;
        Ok(name)
    }

    /// A table of whole numbers, such as a shape.
    pub fn table_of(&mut self, values: &[i64]) -> Result<String> {
        self.table(DataType::Int64, &[values.len() as i64], values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A whole number.
    pub fn whole(&mut self, value: i64) -> Result<String> {
        self.table(DataType::Int64, &[], value.to_le_bytes().to_vec())
    }

    /// A number.
    pub fn scalar(&mut self, value: f32) -> Result<String> {
        self.table(DataType::Float, &[], value.to_le_bytes().to_vec())
    }

    /// Numbers under a shape.
    pub fn floats(&mut self, dims: &[i64], values: &[f32]) -> Result<String> {
        self.table(DataType::Float, dims, memory::collect(values.iter().flat_map(|v| v.to_le_bytes()), WHAT)?)
    }

    /// A small table; equal ones are one.
    pub fn table(&mut self, ty: DataType, dims: &[i64], bytes: Vec<u8>) -> Result<String> {
        let key = (ty as i32, dims.to_vec(), bytes);
        if let Some(name) = self.tables.get(&key) {
            return Ok(name.clone());
        }
        let name = self.unique("constant")?;
        self.initializer(&name, ty, dims, memory::copy(&key.2, WHAT)?)?;
        memory::insert(&mut self.tables, key, name.clone(), WHAT)?;
        Ok(name)
    }

    /// Numbers of the file under a name that is unique already.
    pub fn initializer(&mut self, name: &str, ty: DataType, dims: &[i64], raw_data: Vec<u8>) -> Result<()> {
        let tensor = TensorProto { dims: dims.to_vec(), data_type: ty as i32, name: name.to_owned(), raw_data, ..Default::default() };
        memory::push(&mut self.out.initializer, tensor, WHAT)
    }
}

/// An attribute that is a whole number.
pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i, r#type: AttributeType::Int as i32, ..Default::default() }
}

/// One that is several.
pub(super) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.to_owned(), ints: ints.to_vec(), r#type: AttributeType::Ints as i32, ..Default::default() }
}

/// One that is a number.
pub(super) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), f, r#type: AttributeType::Float as i32, ..Default::default() }
}

/// One that is a word.
pub(super) fn word(name: &str, s: &str) -> AttributeProto {
    AttributeProto { name: name.to_owned(), s: s.as_bytes().to_vec(), r#type: AttributeType::String as i32, ..Default::default() }
}
