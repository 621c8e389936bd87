//! The values of a program while it is lowered to ONNX's operators.
//!
//! Rank-4 values of the graph are NHWC, ONNX's images are NCHW. Each value has the forms that somebody has asked for: as rows, in the graph's order and under
//! any shape, and with its channels first. Ops that do not care take the form that there is, so that between convolutions nothing is moved. Parameters and what
//! follows from them alone are written when they are read, in the form in which they are read; what is computed from them is computed here, once and for all.

use super::constants::{known, producer, root};
use super::form::{Form, Forms, Numbers, batched, channels_last, channels_second};
use super::options::Options;
use super::proto::{AttributeProto, DataType};
use super::weights::Weights;
use super::writer::{WHAT, Writer, int, ints};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Op, Origin, ValueId};
use crate::memory;
use crate::nn::Model;
use crate::nn::quantization::as_halves;
use crate::tensor::{DType, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// A graph that is being lowered.
pub(super) struct Lowering<'a> {
    pub graph: &'a Graph,
    pub model: &'a Model,
    pub options: &'a Options<'a>,
    forms: Vec<Forms>,
    /// Which values follow from parameters and constants alone.
    constant: Vec<bool>,
    /// Their numbers, where they are not written as what they are made of.
    computed: HashMap<ValueId, Arc<Tensor>>,
    /// Weights in whole numbers, by value and shape.
    whole: HashMap<(ValueId, Vec<i64>), String>,
    /// Constants by value and shape, channels first or not.
    written: HashMap<(ValueId, Vec<i64>, bool), String>,
    pub writer: Writer,
}

/// An error of the library's own.
pub(super) fn wrong_rank(what: &str) -> Error {
    Error::internal(format!("{what} of another rank"))
}

fn fixed(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|d| *d as i64).collect()
}

impl<'a> Lowering<'a> {
    /// Of a program whose states are the model's parameters; `computed` has what follows from these alone.
    pub fn new(graph: &'a Graph, model: &'a Model, options: &'a Options<'a>, computed: HashMap<ValueId, Arc<Tensor>>) -> Result<Self> {
        let mut forms = memory::with_capacity(graph.values().len(), WHAT)?;
        forms.resize_with(graph.values().len(), Forms::default);
        let (whole, written, writer) = Default::default();
        Ok(Self { graph, model, options, forms, constant: known(graph)?, computed, whole, written, writer })
    }

    // Values.

    /// Shape of a value of one image.
    pub fn shape(&self, v: ValueId) -> &'a [usize] {
        self.graph.shape(v)
    }

    /// Whether a value follows from parameters and constants alone.
    pub fn is_constant(&self, v: ValueId) -> bool {
        self.constant[v.0 as usize]
    }

    /// The value whose memory a view is.
    pub fn root(&self, v: ValueId) -> ValueId {
        root(self.graph, v)
    }

    /// The node that gives a value.
    pub fn producer(&self, v: ValueId) -> Option<&'a Node> {
        producer(self.graph, v)
    }

    /// A value in the graph's order and shape.
    pub fn rows(&mut self, v: ValueId) -> Result<String> {
        let dims = self.dims(v);
        self.rows_as(v, dims)
    }

    /// A value in the graph's order under another shape.
    pub fn rows_as(&mut self, v: ValueId, dims: Vec<i64>) -> Result<String> {
        if self.is_constant(v) {
            return self.constant_as(v, dims, false);
        }
        let root = self.root(v);
        self.written_out(root)?;
        let find = |forms: &Forms| forms.rows.iter().find(|(known, _)| *known == dims).map(|(_, name)| name.clone());
        if let Some(name) = find(&self.forms[root.0 as usize]) {
            return Ok(name);
        }
        if self.forms[root.0 as usize].rows.is_empty() {
            let first = self.forms[root.0 as usize].first.clone().ok_or_else(|| Error::internal("a value that no node has written"))?;
            let (order, of_root) = (channels_last(self.shape(root).len()), self.dims(root));
            let name = self.emit("Transpose", &[&first], vec![ints("perm", &order)], root)?;
            self.set(root, Form::Rows(of_root), name)?;
            if let Some(name) = find(&self.forms[root.0 as usize]) {
                return Ok(name);
            }
        }
        let from = self.forms[root.0 as usize].rows[0].1.clone();
        let to = self.writer.table_of(&dims)?;
        let name = self.emit("Reshape", &[&from, &to], vec![], v)?;
        memory::push(&mut self.forms[root.0 as usize].rows, (dims, name.clone()), WHAT)?;
        Ok(name)
    }

    /// A value of rank 3 or 4 with its channels first.
    pub fn first(&mut self, v: ValueId) -> Result<String> {
        let shape = self.shape(v);
        let (channels, spatial) = (shape[shape.len() - 1] as i64, &shape[1..shape.len() - 1]);
        let dims = |batch: i64| [batch, channels].into_iter().chain(spatial.iter().map(|d| *d as i64)).collect::<Vec<_>>();
        if self.is_constant(v) {
            return self.constant_as(v, dims(shape[0] as i64), true);
        }
        self.written_out(v)?;
        if let Some(name) = &self.forms[v.0 as usize].first {
            return Ok(name.clone());
        }
        let name = if spatial.iter().all(|d| *d == 1) {
            self.rows_as(v, dims(-1))?
        } else {
            let rows = self.rows(v)?;
            self.emit("Transpose", &[&rows], vec![ints("perm", &channels_second(shape.len()))], v)?
        };
        self.forms[v.0 as usize].first = Some(name.clone());
        Ok(name)
    }

    /// Whether a value is there with its channels first.
    pub fn has_first(&self, v: ValueId) -> bool {
        let forms = &self.forms[v.0 as usize];
        forms.first.is_some() || forms.numbers.as_ref().is_some_and(|numbers| numbers.form == Form::First)
    }

    /// A value in a form that it has, for ops that do not care.
    pub fn any(&mut self, v: ValueId) -> Result<(String, Form)> {
        if !self.is_constant(v) {
            let root = self.root(v);
            self.written_out(root)?;
            if self.has_first(v) {
                return Ok((self.first(v)?, Form::First));
            }
            if let Some((dims, name)) = self.forms[root.0 as usize].rows.first() {
                return Ok((name.clone(), Form::Rows(dims.clone())));
            }
        }
        Ok((self.rows(v)?, Form::Rows(self.dims(v))))
    }

    /// Values of one rank in one form, for ops that take several: with channels first (true) where one of them is there so, else as rows.
    pub fn alike(&mut self, values: &[ValueId]) -> Result<(Vec<String>, bool)> {
        let first = values.iter().any(|v| self.has_first(*v));
        let names = memory::try_collect(values.iter().map(|v| if first { self.first(*v) } else { self.rows(*v) }), WHAT)?;
        Ok((names, first))
    }

    /// Says what the result of such an op is.
    pub fn set_alike(&mut self, v: ValueId, first: bool, name: String) -> Result<()> {
        if first { self.set(v, Form::First, name) } else { self.set_rows(v, name) }
    }

    /// Says what a value is in a form.
    pub fn set(&mut self, v: ValueId, form: Form, name: String) -> Result<()> {
        let forms = &mut self.forms[v.0 as usize];
        match form {
            Form::First => forms.first = Some(name),
            Form::Rows(dims) => memory::push(&mut forms.rows, (dims, name), WHAT)?,
        }
        Ok(())
    }

    /// The same in the graph's order and shape.
    pub fn set_rows(&mut self, v: ValueId, name: String) -> Result<()> {
        let dims = self.dims(v);
        self.set(v, Form::Rows(dims), name)
    }

    /// Says which whole numbers a value stands for; its floats are written when somebody asks.
    pub fn set_numbers(&mut self, v: ValueId, numbers: Numbers) {
        self.forms[v.0 as usize].numbers = Some(numbers);
    }

    /// The whole numbers that a value stands for, or that the value stands for whose view it is.
    pub fn numbers(&self, v: ValueId) -> Option<Numbers> {
        self.forms[self.root(v).0 as usize].numbers.clone()
    }

    /// The shape of a value in the file: its rows are those of the batch, unless it follows from parameters alone.
    pub fn dims(&self, v: ValueId) -> Vec<i64> {
        if self.is_constant(v) { fixed(self.shape(v)) } else { batched(self.shape(v)) }
    }

    /// Writes the floats of a value of which only whole numbers are there.
    fn written_out(&mut self, v: ValueId) -> Result<()> {
        let forms = &self.forms[v.0 as usize];
        if !(forms.rows.is_empty() && forms.first.is_none()) {
            return Ok(());
        }
        let Some(numbers) = forms.numbers.clone() else { return Ok(()) };
        let name = self.emit("DequantizeLinear", &[&numbers.name, &numbers.scale, &numbers.zero], vec![], v)?;
        self.set(v, numbers.form, name)
    }

    // Nodes.

    /// Appends a node with one result, which is called after a value.
    pub fn emit(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>, after: ValueId) -> Result<String> {
        let name = self.writer.unique(&self.graph.value(after).name)?;
        self.writer.emit(op, inputs, attribute, name)
    }

    /// A table of whole numbers, such as a shape.
    pub fn table_of(&mut self, values: &[i64]) -> Result<String> {
        self.writer.table_of(values)
    }

    /// A number.
    pub fn scalar(&mut self, value: f32) -> Result<String> {
        self.writer.scalar(value)
    }

    // Constants.

    /// A constant under a shape; with `first` it is of rank 3 or 4, and `dims` those of its channels first.
    fn constant_as(&mut self, v: ValueId, dims: Vec<i64>, first: bool) -> Result<String> {
        let root = self.root(v);
        let key = (root, dims, first);
        if let Some(name) = self.written.get(&key) {
            return Ok(name.clone());
        }
        let name = match self.whole_weights(v)?.filter(|_| !first) {
            Some(weights) => weights.write_floats(&mut self.writer, &key.1)?,
            None => self.write_constant(v, &key.1, first)?,
        };
        memory::insert(&mut self.written, key, name.clone(), WHAT)?;
        Ok(name)
    }

    fn write_constant(&mut self, v: ValueId, dims: &[i64], first: bool) -> Result<String> {
        let tensor = self.tensor(v)?;
        let tensor = if first { Arc::new(channels_first(&tensor, self.shape(v))?) } else { tensor };
        // Names of parameters are the file's; a cast of one is called after it.
        let source = self.parameter(v);
        let hint = source.map_or_else(|| self.graph.value(v).name.clone(), |(name, _)| name.to_owned());
        let narrow = match source.map(|(_, stored)| stored.dtype()) {
            Some(stored @ (DType::F16 | DType::Bf16)) => as_halves(&tensor, stored)?,
            Some(_) if self.options.half => as_halves(&tensor, DType::F16)?,
            _ => tensor.clone(),
        };
        let name = self.writer.unique(&hint)?;
        let bytes = |tensor: &Tensor| memory::copy(tensor.bytes(), WHAT);
        match narrow.dtype() {
            DType::F16 | DType::Bf16 => {
                let ty = if narrow.dtype() == DType::F16 { DataType::Float16 } else { DataType::Bfloat16 };
                self.writer.initializer(&name, ty, dims, bytes(&narrow)?)?;
                let wide = self.writer.unique(&format!("{name}.f32"))?;
                self.writer.emit("Cast", &[&name], vec![int("to", DataType::Float as i64)], wide)
            }
            DType::F32 => self.writer.initializer(&name, DataType::Float, dims, bytes(&tensor)?).map(|()| name),
            DType::I32 => {
                // Indices and the like are 64 bits wide in the file.
                let wide = memory::collect(tensor.as_slice::<i32>()?.iter().flat_map(|v| i64::from(*v).to_le_bytes()), WHAT)?;
                self.writer.initializer(&name, DataType::Int64, dims, wide).map(|()| name)
            }
            other => Err(Error::internal(format!("a constant of {other:?}"))),
        }
    }

    /// The parameter that a constant is, as f32 and under any shape, and what it is stored as.
    pub fn parameter(&self, v: ValueId) -> Option<(&'a str, &'a Arc<Tensor>)> {
        let root = self.root(v);
        let value = self.graph.value(root);
        match (&value.origin, self.producer(root)) {
            (Origin::State, _) => {
                let stored = self.model.weights.get(&value.name)?;
                Some((value.name.as_str(), stored))
            }
            (_, Some(Node { op: Op::Cast(_), inputs, .. })) => self.parameter(inputs[0]),
            _ => None,
        }
    }

    /// The whole numbers that a constant is made of, if it is a layer's weights in them.
    pub fn whole_weights(&mut self, v: ValueId) -> Result<Option<Weights>> {
        let Some(Node { op: Op::Dequantize(_), inputs, .. }) = self.producer(self.root(v)) else { return Ok(None) };
        let Some((name, numbers)) = self.parameter(inputs[0]).filter(|(_, stored)| stored.dtype() == DType::I8) else { return Ok(None) };
        // Four bits are for weights alone: products of bytes want bytes of both.
        let layer = self.model.quantization.as_ref().and_then(|q| q.layer(q.layer_of(name)?));
        let bits = layer.filter(|layer| layer.input.is_none()).map_or(8, |layer| layer.weights.bits);
        Ok(Some(Weights { name: name.to_owned(), numbers: numbers.clone(), scales: self.tensor(inputs[1])?, bits }))
    }

    /// The numbers of such weights under a shape.
    pub fn numbers_of(&mut self, weights: &Weights, w: ValueId, dims: &[i64]) -> Result<String> {
        let key = (self.root(w), memory::copy(dims, WHAT)?);
        if let Some(name) = self.whole.get(&key) {
            return Ok(name.clone());
        }
        let name = weights.write(&mut self.writer, dims)?;
        memory::insert(&mut self.whole, key, name.clone(), WHAT)?;
        Ok(name)
    }

    /// Whole numbers of an image, with the channels first.
    pub fn numbers_first(&mut self, numbers: &Numbers, x: ValueId) -> Result<String> {
        if numbers.form == Form::First && self.root(x) == x {
            return Ok(numbers.name.clone());
        }
        let (rows, order) = (self.numbers_as(numbers, x, &batched(self.shape(x)))?, channels_second(self.shape(x).len()));
        self.emit("Transpose", &[&rows], vec![ints("perm", &order)], x)
    }

    /// Whole numbers in the graph's order under a shape.
    pub fn numbers_as(&mut self, numbers: &Numbers, x: ValueId, dims: &[i64]) -> Result<String> {
        let (known, name) = match &numbers.form {
            Form::Rows(known) => (known.clone(), numbers.name.clone()),
            Form::First => {
                let shape = self.shape(self.root(x));
                (batched(shape), self.emit("Transpose", &[&numbers.name], vec![ints("perm", &channels_last(shape.len()))], x)?)
            }
        };
        if known == dims {
            return Ok(name);
        }
        let shape = self.table_of(dims)?;
        self.emit("Reshape", &[&name, &shape], vec![], x)
    }

    /// A constant's numbers: f32, or i32.
    pub fn tensor(&mut self, v: ValueId) -> Result<Arc<Tensor>> {
        if let Some((_, stored)) = self.parameter(v) {
            return if stored.dtype() == DType::F32 { Ok(stored.clone()) } else { stored.to_f32().map(Arc::new) };
        }
        let root = self.root(v);
        if let Origin::Const(tensor) = &self.graph.value(root).origin {
            return Ok(tensor.clone());
        }
        if let Origin::Fill(x) = self.graph.value(root).origin {
            let shape = self.shape(root);
            return Ok(Arc::new(Tensor::from_slice(shape, &memory::filled(x, shape.iter().product(), WHAT)?)?));
        }
        let missing = || Error::internal(format!("'{}' was not computed", self.graph.value(root).name));
        self.computed.get(&root).cloned().ok_or_else(missing)
    }
}

/// The numbers of a constant of this shape [..., C], channels before all but the first dimension.
fn channels_first(tensor: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let (n, c) = (shape[0], shape[shape.len() - 1]);
    let each = shape[1..shape.len() - 1].iter().product::<usize>();
    let mut moved = Tensor::zeros(DType::F32, shape)?;
    let (from, to) = (tensor.as_slice::<f32>()?, moved.as_mut_slice::<f32>()?);
    for (i, (p, k)) in (0..n).flat_map(|i| (0..each).flat_map(move |p| (0..c).map(move |k| (i, (p, k))))) {
        to[(i * c + k) * each + p] = from[(i * each + p) * c + k];
    }
    Ok(moved)
}
