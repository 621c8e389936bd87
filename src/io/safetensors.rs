//! Safetensors files: eight bytes of header length, a JSON header, then the tensors' bytes one after the other.
//!
//! The header's vocabulary (`Dtype`, `TensorInfo`) is the safetensors crate's. Its reader is not used: it adds sizes from the file unchecked,
//! has no name in most of its errors, and gives views into a second copy of the file. Here each tensor is read straight into its own memory.

use crate::error::{Error, Result};
use crate::io::hashing::Hashing;
use crate::io::json_reader::Reader;
use crate::io::{file, foreign};
use crate::memory;
use crate::tensor::{DType, Tensor, checked_numel, try_vec};
use safetensors::tensor::{Dtype, TensorInfo};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

/// What a file's lists are called where there is no memory for them.
const WHAT: &str = "safetensors: entries";
/// The header's key that holds texts instead of a tensor.
const METADATA: &str = "__metadata__";
/// Bytes of the length before the header.
const PREFIX: u64 = 8;
/// No real header comes near this: it takes a hundred bytes a tensor. The format allows 100 MB.
const MAX_HEADER: u64 = 16 << 20;
/// The largest models have some thousands.
const MAX_TENSORS: usize = 1 << 17;
/// Bytes of a tensor's name, and of a key of the metadata.
const MAX_NAME: usize = 1024;
/// What a NumPy array or a PyTorch tensor has at most.
const MAX_RANK: usize = 64;
/// Texts beside the tensors.
const MAX_METADATA: usize = 1024;

/// The tensors of a safetensors file, each in its own memory.
#[derive(Debug)]
pub struct TensorFile {
    file: String,
    tensors: BTreeMap<String, Tensor>,
    metadata: Metadata,
}

impl TensorFile {
    /// Reads a file. F64 tensors become F32; other types stay as they are.
    pub fn open(path: &Path) -> Result<Self> {
        // Not buffered: the header and each tensor are read as wholes.
        let (handle, len) = file::open(path)?;
        Self::load(handle, len, &path.display().to_string())
    }

    /// Reads a file and takes its SHA-256 on the way.
    pub(super) fn open_hashed(path: &Path) -> Result<(Self, String)> {
        let (handle, len) = file::open(path)?;
        let mut reader = Hashing::new(handle);
        let tensors = Self::load(&mut reader, len, &path.display().to_string())?;
        Ok((tensors, reader.digest()))
    }

    /// No tensors yet, to [`TensorFile::absorb`] those of several files.
    pub(super) fn empty(file: &str) -> Self {
        Self { file: file.to_string(), tensors: BTreeMap::new(), metadata: BTreeMap::new() }
    }

    /// Takes another file's tensors, none of which may be here already.
    pub(super) fn absorb(&mut self, other: Self) -> Result<()> {
        if let Some(name) = other.tensors.keys().find(|name| self.tensors.contains_key(*name)) {
            return Err(Error::corrupt(format!("{}: tensor \"{name}\" is in {} and in another shard", self.file, other.file)));
        }
        self.tensors.extend(other.tensors);
        Ok(())
    }

    /// Reads a file that lies in memory; `file` is its name in errors.
    pub fn from_bytes(bytes: &[u8], file: &str) -> Result<Self> {
        Self::load(bytes, bytes.len() as u64, file)
    }

    fn load(mut reader: impl Read, len: u64, file: &str) -> Result<Self> {
        let header = read_header(&mut reader, len, file)?;
        let data_len = len - PREFIX - header.len() as u64;
        let (infos, metadata) = parse_header(&header, data_len, file)?;
        drop(header);
        let mut tensors = BTreeMap::new();
        for (name, info) in infos {
            let tensor = read_tensor(&mut reader, &info).map_err(|e| e.context(format!("{file}: tensor \"{name}\"")))?;
            tensors.insert(name, tensor);
        }
        Ok(Self { file: file.to_string(), tensors, metadata })
    }

    /// The file's name as errors give it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Every tensor's name, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True when there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The texts that the file carries beside its tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Those texts, which the file then has no more.
    pub fn take_metadata(&mut self) -> BTreeMap<String, String> {
        std::mem::take(&mut self.metadata)
    }

    /// True when the file has this tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| self.missing(name))
    }

    /// A copy of a tensor as f32, which must have this shape and only finite values.
    pub fn get_f32(&self, name: &str, expected_shape: &[usize]) -> Result<Tensor> {
        let tensor = self.get(name)?;
        self.check_shape(name, tensor, expected_shape)?;
        self.finite(name, tensor.to_f32()?)
    }

    /// As [`TensorFile::get_f32`], but moves the tensor out of the file: f32 tensors are not copied.
    pub fn take_f32(&mut self, name: &str, expected_shape: &[usize]) -> Result<Tensor> {
        let tensor = self.take(name, expected_shape)?;
        let tensor = if tensor.dtype() == DType::F32 { tensor } else { tensor.to_f32()? };
        self.finite(name, tensor)
    }

    /// Moves a tensor of floats out of the file in the type that it has there: f32, f16 or bf16; whole numbers become f32. It must have this shape and only
    /// finite values.
    pub fn take_floats(&mut self, name: &str, expected_shape: &[usize]) -> Result<Tensor> {
        let tensor = self.take(name, expected_shape)?;
        let tensor = match tensor.dtype() {
            DType::F32 | DType::F16 | DType::Bf16 => tensor,
            DType::I8 | DType::U8 | DType::I32 | DType::I64 => tensor.to_f32()?,
        };
        self.finite(name, tensor)
    }

    /// The same where whole numbers of one byte stay what they are: weights that have their scales beside them.
    pub fn take_numbers(&mut self, name: &str, expected_shape: &[usize]) -> Result<Tensor> {
        if matches!(self.get(name)?.dtype(), DType::I8 | DType::U8) { self.take(name, expected_shape) } else { self.take_floats(name, expected_shape) }
    }

    /// Moves a tensor out of the file as it is there.
    pub fn take_stored(&mut self, name: &str) -> Result<Tensor> {
        self.tensors.remove(name).ok_or_else(|| self.missing(name))
    }

    fn take(&mut self, name: &str, expected_shape: &[usize]) -> Result<Tensor> {
        self.check_shape(name, self.get(name)?, expected_shape)?;
        self.tensors.remove(name).ok_or_else(|| self.missing(name))
    }

    /// Gives attention tensors of old diffusers files their present names and shapes.
    ///
    /// `query`, `key`, `value`, `proj_attn` become `to_q`, `to_k`, `to_v`, `to_out.0`; weights stored as 1x1 convolutions lose their extra
    /// dimensions. Only tensors inside an `attentions` list are touched.
    pub fn normalise_names(&mut self) -> Result<()> {
        for name in memory::collect(self.tensors.keys().filter(|n| is_attention(n)).cloned(), "names of tensors")? {
            let new = present_name(&name);
            if new != name && self.tensors.contains_key(&new) {
                return Err(Error::corrupt(format!("{}: has both \"{name}\" and its newer name \"{new}\"", self.file)));
            }
            if let Some(tensor) = self.tensors.remove(&name) {
                let tensor = squeeze_linear(&new, tensor)?;
                self.tensors.insert(new, tensor);
            }
        }
        Ok(())
    }

    /// Takes off what wrappers put before the names: `_orig_mod` of torch.compile, which may wrap any layer, and `module` of DataParallel, which wraps
    /// the whole model. No layer of a model has such a name.
    pub fn strip_wrappers(&mut self) -> Result<()> {
        let wrapped = memory::collect(self.tensors.keys().filter(|n| unwrapped(n) != **n).cloned(), "names of tensors")?;
        for name in wrapped {
            let new = unwrapped(&name);
            if self.tensors.contains_key(&new) {
                return Err(Error::corrupt(format!("{}: has both \"{name}\" and \"{new}\"", self.file)));
            }
            if let Some(tensor) = self.tensors.remove(&name) {
                self.tensors.insert(new, tensor);
            }
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> Error {
        let first = self.tensors.keys().next().map_or_else(String::new, |first| format!(", of which the first is \"{first}\""));
        Error::not_found(format!("{}: no tensor \"{name}\" among its {}{first}", self.file, self.tensors.len()))
    }

    fn check_shape(&self, name: &str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
        if tensor.shape() == expected {
            return Ok(());
        }
        Err(Error::shape(format!("{}: tensor \"{name}\": expected shape {expected:?}, found {:?}", self.file, tensor.shape())))
    }

    fn finite(&self, name: &str, tensor: Tensor) -> Result<Tensor> {
        if let Some((i, value)) = tensor.non_finite()? {
            return Err(Error::numeric(format!("{}: tensor \"{name}\": element {i} is {value}, expected a finite number", self.file)));
        }
        Ok(tensor)
    }
}

/// Whether a name belongs to an attention layer.
fn is_attention(name: &str) -> bool {
    name.starts_with("attentions.") || name.contains(".attentions.")
}

/// A tensor's name without what wrappers add.
fn unwrapped(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').filter(|part| *part != "_orig_mod").collect();
    let wrappers = parts.iter().take_while(|part| **part == "module").count();
    parts.drain(..wrappers);
    parts.join(".")
}

/// The present name of an attention tensor.
fn present_name(name: &str) -> String {
    const RENAMED: [(&str, &str); 4] = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
    let Some((stem, kind)) = name.rsplit_once('.') else { return name.to_string() };
    let Some((layer, old)) = stem.rsplit_once('.') else { return name.to_string() };
    match RENAMED.iter().find(|(o, _)| *o == old) {
        Some((_, new)) => format!("{layer}.{new}.{kind}"),
        None => name.to_string(),
    }
}

/// Drops the ones of a linear weight stored as a 1x1 convolution, [O,I,1,1] or [O,I,1].
fn squeeze_linear(name: &str, tensor: Tensor) -> Result<Tensor> {
    let linear = [".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight"].iter().any(|end| name.ends_with(end));
    match *tensor.shape() {
        [o, i, 1] | [o, i, 1, 1] if linear => {
            let mut out = Tensor::zeros(tensor.dtype(), &[o, i])?;
            out.bytes_mut().copy_from_slice(tensor.bytes());
            Ok(out)
        }
        _ => Ok(tensor),
    }
}

/// Reads the length and the header's bytes.
fn read_header(reader: &mut impl Read, len: u64, file: &str) -> Result<Vec<u8>> {
    if len < PREFIX {
        return Err(Error::corrupt(format!("{file}: {len} bytes, too short for a safetensors file")));
    }
    let mut prefix = [0u8; PREFIX as usize];
    reader.read_exact(&mut prefix).map_err(|e| read_error(&e).context(file))?;
    let header_len = u64::from_le_bytes(prefix);
    let room = (len - PREFIX).min(MAX_HEADER);
    if header_len > room {
        if let Some(error) = foreign::recognise(&prefix, reader, file) {
            return Err(error);
        }
        let detail = format!("the length at byte 0 says {header_len} bytes of header, at most {room} are possible");
        return Err(Error::corrupt(format!("{file}: truncated or not a safetensors file: {detail}")));
    }
    // Fits: at most MAX_HEADER.
    let mut header = try_vec::<u8>(header_len as usize, file)?;
    reader.read_exact(&mut header).map_err(|e| read_error(&e).context(file))?;
    Ok(header)
}

type Infos = Vec<(String, TensorInfo)>;
type Metadata = BTreeMap<String, String>;

/// Parses the header; tensors come in the order of their bytes, which they cover without gap or overlap.
fn parse_header(header: &[u8], data_len: u64, file: &str) -> Result<(Infos, Metadata)> {
    let text = std::str::from_utf8(header).map_err(|e| {
        let at = PREFIX + e.valid_up_to() as u64;
        Error::corrupt(format!("{file}: header is not valid JSON: not UTF-8 at byte {at}"))
    })?;
    let (mut infos, metadata) = parse_entries(text).map_err(|e| e.context(file))?;
    infos.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    if let Some(two) = infos.windows(2).find(|two| two[0].0 == two[1].0) {
        return Err(Error::corrupt(format!("{file}: the header has tensor \"{}\" twice", two[0].0)));
    }
    infos.sort_unstable_by_key(|(_, info)| info.data_offsets);
    check_offsets(&infos, data_len, PREFIX + header.len() as u64, file)?;
    Ok((infos, metadata))
}

/// The tensors as the header has them, and the metadata.
fn parse_entries(text: &str) -> Result<(Infos, Metadata)> {
    let mut reader = Reader::new(text, PREFIX);
    if reader.peek() != Some(b'{') {
        return Err(Error::corrupt(format!("header at byte {PREFIX} is not a JSON object")));
    }
    let (mut infos, mut metadata, mut first) = (Infos::new(), None, true);
    reader.open('{')?;
    while let Some(key) = reader.next_key(first)? {
        first = false;
        if key == METADATA {
            let found = parse_metadata(&mut reader).map_err(|e| e.context(METADATA))?;
            if metadata.replace(found).is_some() {
                return Err(reader.refused("a second __metadata__"));
            }
            continue;
        }
        if key.len() > MAX_NAME || infos.len() == MAX_TENSORS {
            return Err(reader.refused(&format!("a name of {} bytes, tensor {}; at most {MAX_NAME}, and {MAX_TENSORS} tensors", key.len(), infos.len())));
        }
        let name = reader.owned(key)?;
        let info = parse_info(&mut reader).map_err(|e| e.context(format!("tensor \"{name}\"")))?;
        reader.push(&mut infos, (name, info))?;
    }
    reader.end()?;
    Ok((infos, metadata.unwrap_or_default()))
}

/// Texts by name, or null.
fn parse_metadata(reader: &mut Reader) -> Result<Metadata> {
    let mut metadata = Metadata::new();
    if reader.word("null") {
        return Ok(metadata);
    }
    reader.open('{')?;
    while let Some(key) = reader.next_key(metadata.is_empty())? {
        if key.len() > MAX_NAME || metadata.len() == MAX_METADATA {
            return Err(reader.refused(&format!("a key of {} bytes, text {}; at most {MAX_NAME}, and {MAX_METADATA} texts", key.len(), metadata.len())));
        }
        let text = reader.string()?;
        let (key, text) = (reader.owned(key)?, reader.owned(text)?);
        metadata.insert(key, text);
    }
    Ok(metadata)
}

/// One tensor's entry of the header; keys that later versions of the format may add are passed over.
fn parse_info(reader: &mut Reader) -> Result<TensorInfo> {
    let (mut dtype, mut shape, mut data_offsets, mut first) = (None, None, None, true);
    reader.open('{')?;
    while let Some(key) = reader.next_key(first)? {
        first = false;
        match &*key {
            "dtype" => dtype = Some(parse_dtype(reader)?),
            "shape" => shape = Some(parse_sizes(reader)?),
            "data_offsets" => data_offsets = Some(parse_sizes(reader)?),
            _ => reader.skip()?,
        }
    }
    let missing = |key: &str| reader.refused(&format!("the entry has no \"{key}\""));
    let (dtype, shape) = (dtype.ok_or_else(|| missing("dtype"))?, shape.ok_or_else(|| missing("shape"))?);
    match data_offsets.ok_or_else(|| missing("data_offsets"))?[..] {
        [start, end] => Ok(TensorInfo { dtype, shape, data_offsets: (start, end) }),
        ref other => Err(reader.refused(&format!("{} data_offsets, expected a first byte and the one after the last", other.len()))),
    }
}

/// A type that this library has in memory.
fn parse_dtype(reader: &mut Reader) -> Result<Dtype> {
    let name = reader.string()?;
    let deserializer: StrDeserializer<serde::de::value::Error> = (*name).into_deserializer();
    let known = Dtype::deserialize(deserializer).ok().filter(|dtype| host_dtype(*dtype).is_some());
    let shown = || name.chars().take(40).collect::<String>();
    known.ok_or_else(|| Error::unsupported(format!("dtype {:?} is not supported; supported: F32, F16, BF16, F64, I8, U8, I32, I64", shown())))
}

fn parse_sizes(reader: &mut Reader) -> Result<Vec<usize>> {
    let mut sizes = Vec::new();
    reader.open('[')?;
    while reader.next_item(sizes.is_empty())? {
        if sizes.len() == MAX_RANK {
            return Err(reader.refused(&format!("more than {MAX_RANK} dimensions")));
        }
        let size = reader.size()?;
        reader.push(&mut sizes, size)?;
    }
    Ok(sizes)
}

/// Checks that every tensor has the bytes that its shape needs, and that all together are the file's data.
fn check_offsets(infos: &[(String, TensorInfo)], data_len: u64, data_start: u64, file: &str) -> Result<()> {
    let mut at = 0usize;
    for (name, info) in infos {
        let corrupt = |what: String| Err(Error::corrupt(format!("{file}: tensor \"{name}\": {what}")));
        let (start, end) = info.data_offsets;
        if start != at {
            return corrupt(format!("expected to start at data byte {at}, found {start}"));
        }
        let needed = checked_numel(&info.shape).ok().and_then(|n| n.checked_mul(info.dtype.bitsize() / 8));
        if needed.is_none() || end.checked_sub(start) != needed {
            return corrupt(format!("{:?} of shape {:?} does not fit data bytes {start}..{end}", info.dtype, info.shape));
        }
        if end as u64 > data_len {
            let missing = end as u64 - data_len;
            return corrupt(format!("file is truncated: the tensor begins at byte {}, the last {missing} bytes are missing", data_start + start as u64));
        }
        at = end;
    }
    if at as u64 != data_len {
        let surplus = data_len - at as u64;
        return Err(Error::corrupt(format!("{file}: {surplus} bytes after the last tensor, at byte {}", data_start + at as u64)));
    }
    Ok(())
}

/// The type that a file's type has in memory.
fn host_dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F32 | Dtype::F64 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        _ => return None,
    })
}

/// The type that a type in memory has in a file.
fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
    }
}

/// Reads the next tensor's bytes into memory of its own.
fn read_tensor(reader: &mut impl Read, info: &TensorInfo) -> Result<Tensor> {
    let dtype = host_dtype(info.dtype).ok_or_else(|| Error::unsupported(format!("dtype {:?}", info.dtype)))?;
    let mut tensor = Tensor::zeros(dtype, &info.shape)?;
    if info.dtype == Dtype::F64 {
        return read_f64(reader, tensor);
    }
    reader.read_exact(tensor.bytes_mut()).map_err(|e| read_error(&e))?;
    Ok(tensor)
}

/// Reads f64 values as f32, a piece at a time so that the wide values never lie in memory all at once.
fn read_f64(reader: &mut impl Read, mut tensor: Tensor) -> Result<Tensor> {
    let mut buffer = [0u8; 8192];
    for piece in tensor.as_mut_slice::<f32>()?.chunks_mut(buffer.len() / 8) {
        let bytes = &mut buffer[..piece.len() * 8];
        reader.read_exact(bytes).map_err(|e| read_error(&e))?;
        for (value, raw) in piece.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *value = f64::from_le_bytes(*raw) as f32;
        }
    }
    Ok(tensor)
}

/// The length was checked before, so an early end means that the file changed meanwhile.
fn read_error(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::corrupt("the file ends early"),
        _ => Error::io(error.to_string()),
    }
}

/// Saves tensors atomically. The same tensors give the same bytes in whatever order they come.
pub fn save(path: &Path, tensors: &[(&str, &Tensor)], metadata: &BTreeMap<String, String>) -> Result<()> {
    file::write_atomic(path, writer(tensors, metadata)?)
}

/// What writes a file's bytes, once everything about them is known to be right.
pub(super) fn writer<'a>(
    tensors: &[(&str, &'a Tensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<impl FnOnce(&mut dyn Write) -> io::Result<()> + use<'a>> {
    let (header, order) = build_header(tensors, metadata)?;
    Ok(move |w: &mut dyn Write| write_parts(w, &header, &order))
}

/// The bytes that [`save`] would write.
pub fn serialize(tensors: &[(&str, &Tensor)], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let (header, order) = build_header(tensors, metadata)?;
    let total = order.iter().try_fold(PREFIX as usize + header.len(), |n, t| n.checked_add(t.bytes().len()));
    let total = total.ok_or_else(|| Error::out_of_memory("safetensors: more bytes than memory can hold"))?;
    let mut out = memory::with_capacity(total, "safetensors: the file's bytes")?;
    write_parts(&mut out, &header, &order).map_err(|e| Error::io(e.to_string()))?;
    Ok(out)
}

fn write_parts(w: &mut dyn Write, header: &[u8], order: &[&Tensor]) -> io::Result<()> {
    w.write_all(&(header.len() as u64).to_le_bytes())?;
    w.write_all(header)?;
    order.iter().try_for_each(|t| w.write_all(t.bytes()))
}

/// The header and the order of the data: wide types first, so that every tensor is aligned, then by name, as the Python library does.
fn build_header<'a>(tensors: &[(&str, &'a Tensor)], metadata: &Metadata) -> Result<(Vec<u8>, Vec<&'a Tensor>)> {
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::OutOfMemory => Error::out_of_memory("safetensors: could not allocate the header"),
        _ => Error::internal(format!("safetensors header: {e}")),
    };
    let mut sorted = memory::collect(tensors.iter().copied(), WHAT)?;
    sorted.sort_unstable_by_key(|(name, t)| (std::cmp::Reverse(file_dtype(t.dtype())), *name));
    check_names(&sorted)?;
    let mut header = Fallible(Vec::new());
    write_header(&mut header, &sorted, metadata).map_err(failed)?;
    // Readers that map the file want aligned data; the format allows trailing spaces for that.
    let padding = header.0.len().next_multiple_of(8) - header.0.len();
    header.write_all(&b"       "[..padding]).map_err(failed)?;
    Ok((header.0, memory::collect(sorted.into_iter().map(|(_, t)| t), WHAT)?))
}

/// Names that the format keeps for itself, and names that occur twice.
fn check_names(tensors: &[(&str, &Tensor)]) -> Result<()> {
    let mut names: Vec<&str> = memory::collect(tensors.iter().map(|(name, _)| *name), WHAT)?;
    names.sort_unstable();
    let twice = names.windows(2).find(|two| two[0] == two[1]).map(|two| two[0]);
    match twice.or(names.contains(&METADATA).then_some(METADATA)) {
        Some(name) => Err(Error::invalid(format!("safetensors: the tensor name \"{name}\" is reserved or occurs twice"))),
        None => Ok(()),
    }
}

/// The JSON of the header, compact, tensors in the order of their data.
fn write_header(w: &mut impl Write, tensors: &[(&str, &Tensor)], metadata: &Metadata) -> io::Result<()> {
    w.write_all(b"{")?;
    let mut comma = "";
    if !metadata.is_empty() {
        write!(w, "\"{METADATA}\":")?;
        serde_json::to_writer(&mut *w, metadata)?;
        comma = ",";
    }
    let mut at = 0;
    for (name, tensor) in tensors {
        // Fits: all of them lie in memory.
        let end = at + tensor.bytes().len();
        w.write_all(comma.as_bytes())?;
        serde_json::to_writer(&mut *w, name)?;
        w.write_all(b":{\"dtype\":")?;
        serde_json::to_writer(&mut *w, &file_dtype(tensor.dtype()))?;
        w.write_all(b",\"shape\":")?;
        serde_json::to_writer(&mut *w, tensor.shape())?;
        write!(w, ",\"data_offsets\":[{at},{end}]}}")?;
        comma = ",";
        at = end;
    }
    w.write_all(b"}")
}

/// Bytes in memory that may not be had.
struct Fallible(Vec<u8>);

impl Write for Fallible {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        memory::append(&mut self.0, bytes, "header").map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "safetensors_tests.rs"]
mod tests;
