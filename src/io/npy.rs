//! NumPy arrays: `.npy` files written and read, `.npz` archives read.
//!
//! The array header is parsed here: the libraries for it allocate whatever a header claims, recurse over nested text and panic on some shapes, which a
//! file from outside must not be able to cause. Elements are converted on the way, so that an array lies in memory once, in the type it is used in.

use crate::error::{Error, Result};
use crate::io::file;
use crate::io::zip::{Archive, EntryReader, MAX_NAME, Source};
use crate::memory;
use crate::tensor::{DType, Element, Tensor, checked_numel, try_vec};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// No header of a plain array comes near this; the format allows four gigabytes.
const MAX_HEADER: usize = 1 << 16;
/// NumPy's own limit on dimensions.
const MAX_RANK: usize = 64;
/// Elements that are read and converted at a time.
const PIECE: usize = 4096;
/// So many names are listed in an error.
const SHOWN_NAMES: usize = 20;
/// The types that arrays are written in, as NumPy describes them.
const DESCRIPTORS: [(&str, DType); 6] =
    [("<f4", DType::F32), ("<f2", DType::F16), ("<i4", DType::I32), ("<i8", DType::I64), ("|u1", DType::U8), ("|i1", DType::I8)];

/// Saves a tensor as a `.npy` file, atomically. bf16 has no NumPy type and is refused.
pub fn save_npy(path: &Path, tensor: &Tensor) -> Result<()> {
    let header = build_header(tensor).map_err(|e| e.context(path.display()))?;
    file::write_atomic(path, |w| {
        w.write_all(&header)?;
        w.write_all(tensor.bytes())
    })
}

/// Version 1.0 of the header, padded so that the data begins at a multiple of 64 bytes.
fn build_header(tensor: &Tensor) -> Result<Vec<u8>> {
    let found = DESCRIPTORS.iter().find(|(_, d)| *d == tensor.dtype());
    let (descriptor, _) = found.ok_or_else(|| Error::unsupported(format!("npy has no type for {:?}", tensor.dtype())))?;
    if tensor.shape().len() > MAX_RANK {
        return Err(Error::shape(format!("npy arrays have at most {MAX_RANK} dimensions, found {}", tensor.shape().len())));
    }
    let dims = tensor.shape().iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    // Python tells a tuple of one from a number in brackets by the comma.
    let comma = if tensor.shape().len() == 1 { "," } else { "" };
    let dict = format!("{{'descr': '{descriptor}', 'fortran_order': False, 'shape': ({dims}{comma}), }}");
    let total = (10 + dict.len() + 1).next_multiple_of(64);
    let mut header = Vec::with_capacity(total);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&[1, 0]);
    // Fits: 64 dimensions of 20 digits are far below 65536.
    header.extend_from_slice(&((total - 10) as u16).to_le_bytes());
    header.extend_from_slice(dict.as_bytes());
    header.resize(total - 1, b' ');
    header.push(b'\n');
    Ok(header)
}

/// An open `.npz` archive: named arrays, read one at a time.
pub struct NpzFile<'a> {
    file: String,
    archive: Archive<Box<dyn Source + 'a>>,
}

impl<'a> NpzFile<'a> {
    /// Opens an archive and reads its table of contents.
    pub fn open(path: &Path) -> Result<NpzFile<'static>> {
        let (handle, len) = file::open(path)?;
        NpzFile::new(Box::new(handle), len, &path.display().to_string())
    }

    /// Opens an archive that lies in memory; `file` is its name in errors.
    pub fn from_bytes(bytes: &'a [u8], file: &str) -> Result<Self> {
        Self::new(Box::new(Cursor::new(bytes)), bytes.len() as u64, file)
    }

    fn new(reader: Box<dyn Source + 'a>, len: u64, file: &str) -> Result<Self> {
        let archive = Archive::open(reader, len).map_err(|e| e.context(file))?;
        Ok(Self { file: file.to_string(), archive })
    }

    /// The arrays' names, without `.npy`.
    pub fn names(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.archive.names().map(|n| String::from_utf8_lossy(n.strip_suffix(b".npy").unwrap_or(n)))
    }

    /// Begins to read an array: its shape and type are known then.
    pub fn array(&mut self, name: &str) -> Result<NpyArray<'_, 'a>> {
        if name.len() > MAX_NAME {
            return Err(Error::invalid(format!("{}: a name of {} bytes, arrays have at most {MAX_NAME}", self.file, name.len())));
        }
        let found = [format!("{name}.npy").as_str(), name].into_iter().find_map(|n| self.archive.find(n.as_bytes()));
        let Some(index) = found else { return Err(self.missing(name)) };
        let context = format!("{}: array \"{name}\"", self.file);
        let size = self.archive.size(index);
        let begun = self.archive.read(index).and_then(|entry| begin(Bytes::Entry(entry), size));
        match begun {
            Ok((bytes, header)) => Ok(NpyArray { bytes, header, context }),
            Err(e) => Err(e.context(context)),
        }
    }

    fn missing(&self, name: &str) -> Error {
        let total = self.archive.names().count();
        let names = self.names().take(SHOWN_NAMES).collect::<Vec<_>>().join(", ");
        let more = if total > SHOWN_NAMES { format!(" and {} more", total - SHOWN_NAMES) } else { String::new() };
        Error::not_found(format!("{}: no array \"{name}\"; it has: {names}{more}", self.file))
    }
}

/// Begins to read a `.npy` file: the array's shape and type are known then.
pub fn open_npy(path: &Path) -> Result<NpyArray<'static, 'static>> {
    let (handle, size) = file::open(path)?;
    let context = path.display().to_string();
    match begin(Bytes::File(BufReader::with_capacity(memory::SMALL, handle)), size) {
        Ok((bytes, header)) => Ok(NpyArray { bytes, header, context }),
        Err(e) => Err(e.context(context)),
    }
}

/// What an array is read from.
enum Bytes<'f, 'a> {
    Entry(EntryReader<'f, Box<dyn Source + 'a>>),
    File(BufReader<File>),
}

impl Bytes<'_, '_> {
    fn read_exact(&mut self, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Entry(entry) => entry.read_exact(out),
            Self::File(file) => file.read_exact(out).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => Error::corrupt("the file ends too early"),
                _ => Error::io(e.to_string()),
            }),
        }
    }

    /// Checks what can only be known at the end.
    fn finish(self) -> Result<()> {
        match self {
            Self::Entry(entry) => entry.finish(),
            Self::File(_) => Ok(()),
        }
    }
}

/// An array whose header was read and whose elements were not.
pub struct NpyArray<'f, 'a> {
    bytes: Bytes<'f, 'a>,
    header: Header,
    context: String,
}

/// Reads the header and checks that there are as many bytes as it says, before there is memory for them.
fn begin<'f, 'a>(mut bytes: Bytes<'f, 'a>, size: u64) -> Result<(Bytes<'f, 'a>, Header)> {
    let (text, header_len) = read_header(&mut bytes)?;
    let header = Header::parse(&text)?;
    let needed = checked_numel(&header.shape).ok().and_then(|n| n.checked_mul(header.scalar.size()));
    if needed.and_then(|b| b.checked_add(header_len)).map(|b| b as u64) != Some(size) {
        let (shape, scalar) = (&header.shape, header.scalar);
        return Err(Error::corrupt(format!("shape {shape:?} of {scalar:?} does not fit its {size} bytes")));
    }
    Ok((bytes, header))
}

impl NpyArray<'_, '_> {
    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.header.shape
    }

    /// `error` with the names of the file and the array before it.
    pub fn named(&self, error: Error) -> Error {
        error.context(&self.context)
    }

    /// The elements as f32 in C order, each through `map`; `shape` may only differ from the array's by ones.
    pub fn into_f32(self, shape: &[usize], map: impl Fn(f32) -> f32) -> Result<Tensor> {
        self.read(shape, |scalar, bytes, out| {
            scalar.to_f32(bytes, out);
            out.iter_mut().for_each(|v| *v = map(*v));
            Ok(())
        })
    }

    /// The elements as i32 in C order, which must be integers of that range; `shape` as in [`NpyArray::into_f32`].
    pub fn into_i32(self, shape: &[usize]) -> Result<Tensor> {
        if matches!(self.header.scalar, Scalar::F16 | Scalar::F32 | Scalar::F64) {
            let scalar = self.header.scalar;
            return Err(self.named(Error::invalid(format!("labels must be integers, found {scalar:?}; save them as int64 (labels.astype(numpy.int64))"))));
        }
        self.read(shape, Scalar::to_i32)
    }

    /// Reads all elements a piece at a time, so that they never lie in memory in the file's type.
    fn read<T: Element>(self, shape: &[usize], convert: impl Fn(Scalar, &[u8], &mut [T]) -> Result<()>) -> Result<Tensor> {
        let Self { bytes, header, context } = self;
        read_elements(bytes, &header, shape, convert).map_err(|e| e.context(context))
    }
}

fn read_elements<T: Element>(mut bytes: Bytes, header: &Header, shape: &[usize], convert: impl Fn(Scalar, &[u8], &mut [T]) -> Result<()>) -> Result<Tensor> {
    let mut tensor = Tensor::zeros(T::DTYPE, shape)?;
    let (scalar, size) = (header.scalar, header.scalar.size());
    let mut raw = try_vec::<u8>(PIECE * size, "npy: a buffer")?;
    let mut piece = try_vec::<T>(PIECE, "npy: a buffer")?;
    let mut places = Places::new(header);
    let out = tensor.as_mut_slice::<T>()?;
    for start in (0..out.len()).step_by(PIECE) {
        let n = PIECE.min(out.len() - start);
        let (raw, piece) = (&mut raw[..n * size], &mut piece[..n]);
        bytes.read_exact(raw)?;
        if header.big_endian {
            raw.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        convert(scalar, raw, piece)?;
        match &mut places {
            None => out[start..start + n].copy_from_slice(piece),
            Some(places) => piece.iter().for_each(|v| out[places.next()] = *v),
        }
    }
    bytes.finish()?;
    Ok(tensor)
}

/// Where the elements of an array in Fortran order, whose first index runs fastest, stand in C order.
struct Places {
    /// Of each dimension: its size, its stride in C order, the present index.
    dims: Vec<(usize, usize, usize)>,
    at: usize,
}

impl Places {
    /// `None` where both orders are the same.
    fn new(header: &Header) -> Option<Self> {
        if !header.fortran_order || header.shape.len() < 2 || header.shape.contains(&0) {
            return None;
        }
        let stride = |i: usize| header.shape[i + 1..].iter().product();
        Some(Self { dims: header.shape.iter().enumerate().map(|(i, &dim)| (dim, stride(i), 0)).collect(), at: 0 })
    }

    fn next(&mut self) -> usize {
        let found = self.at;
        for (dim, stride, index) in &mut self.dims {
            *index += 1;
            self.at += *stride;
            if *index < *dim {
                break;
            }
            self.at -= *dim * *stride;
            *index = 0;
        }
        found
    }
}

/// Reads the header's text; also gives how many bytes came before the data.
fn read_header(bytes: &mut Bytes) -> Result<(String, usize)> {
    let mut start = [0u8; 8];
    bytes.read_exact(&mut start)?;
    if !start.starts_with(MAGIC) {
        return Err(Error::corrupt("not a NumPy array: wrong magic bytes"));
    }
    let mut len = [0u8; 4];
    let width = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(Error::version(format!("npy format {version}.{}; versions 1 to 3 are known", start[7]))),
    };
    bytes.read_exact(&mut len[..width])?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_HEADER {
        return Err(Error::corrupt(format!("npy header of {len} bytes, at most {MAX_HEADER} are possible")));
    }
    let mut text = try_vec::<u8>(len, "npy header")?;
    bytes.read_exact(&mut text)?;
    let text = String::from_utf8(text).map_err(|_| Error::corrupt("npy header is not UTF-8"))?;
    Ok((text, 8 + width + len))
}

/// The types that elements can have in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scalar {
    F16,
    F32,
    F64,
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
}

/// What NumPy calls them, behind the sign of the byte order.
const SCALARS: [(&str, Scalar); 12] = [
    ("f2", Scalar::F16),
    ("f4", Scalar::F32),
    ("f8", Scalar::F64),
    ("b1", Scalar::Bool),
    ("u1", Scalar::U8),
    ("u2", Scalar::U16),
    ("u4", Scalar::U32),
    ("u8", Scalar::U64),
    ("i1", Scalar::I8),
    ("i2", Scalar::I16),
    ("i4", Scalar::I32),
    ("i8", Scalar::I64),
];

impl Scalar {
    /// The type and whether its bytes are in big-endian order.
    fn from_descriptor(text: &str) -> Option<(Self, bool)> {
        let (order, name) = (text.get(..1)?, text.get(1..)?);
        let (_, scalar) = SCALARS.iter().find(|(n, _)| *n == name)?;
        match order {
            "<" | "=" => Some((*scalar, false)),
            ">" => Some((*scalar, scalar.size() > 1)),
            "|" if scalar.size() == 1 => Some((*scalar, false)),
            _ => None,
        }
    }

    /// Bytes of one element.
    fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::F16 | Self::U16 | Self::I16 => 2,
            Self::F32 | Self::U32 | Self::I32 => 4,
            Self::F64 | Self::U64 | Self::I64 => 8,
        }
    }

    /// Little-endian elements, rounded to f32 where they do not fit it; what is too large becomes infinite.
    fn to_f32(self, bytes: &[u8], out: &mut [f32]) {
        macro_rules! each {
            ($t:ty, $convert:expr) => {
                out.iter_mut().zip(bytes.as_chunks::<{ size_of::<$t>() }>().0).for_each(|(o, raw)| *o = $convert(<$t>::from_le_bytes(*raw)))
            };
        }
        match self {
            Self::F16 => each!(half::f16, half::f16::to_f32),
            Self::F32 => each!(f32, |v| v),
            Self::F64 => each!(f64, |v| v as f32),
            Self::Bool => each!(u8, |v: u8| f32::from(v != 0)),
            Self::U8 => each!(u8, f32::from),
            Self::U16 => each!(u16, f32::from),
            Self::U32 => each!(u32, |v| v as f32),
            Self::U64 => each!(u64, |v| v as f32),
            Self::I8 => each!(i8, f32::from),
            Self::I16 => each!(i16, f32::from),
            Self::I32 => each!(i32, |v| v as f32),
            Self::I64 => each!(i64, |v| v as f32),
        }
    }

    /// Little-endian integers.
    fn to_i32(self, bytes: &[u8], out: &mut [i32]) -> Result<()> {
        macro_rules! each {
            ($t:ty) => {
                for (o, raw) in out.iter_mut().zip(bytes.as_chunks::<{ size_of::<$t>() }>().0) {
                    let value = <$t>::from_le_bytes(*raw);
                    *o = i32::try_from(value).map_err(|_| Error::invalid(format!("label {value} is too large")))?;
                }
            };
        }
        match self {
            Self::F16 | Self::F32 | Self::F64 => return Err(Error::invalid(format!("expected integers, found {self:?}"))),
            Self::Bool | Self::U8 => each!(u8),
            Self::U16 => each!(u16),
            Self::U32 => each!(u32),
            Self::U64 => each!(u64),
            Self::I8 => each!(i8),
            Self::I16 => each!(i16),
            Self::I32 => each!(i32),
            Self::I64 => each!(i64),
        }
        Ok(())
    }
}

/// What a header says.
#[derive(Debug, PartialEq)]
struct Header {
    scalar: Scalar,
    big_endian: bool,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Parses the Python dictionary `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, in any order of keys.
    fn parse(text: &str) -> Result<Self> {
        let corrupt = || Error::corrupt(format!("npy header not understood: {:?}", text.chars().take(120).collect::<String>()));
        let (mut scalar, mut fortran_order, mut shape) = (None, None, None);
        let mut p = Parser(text);
        p.token("{").ok_or_else(corrupt)?;
        while p.token("}").is_none() {
            let key = p.quoted().ok_or_else(corrupt)?;
            p.token(":").ok_or_else(corrupt)?;
            match key {
                "descr" => scalar = Some(p.descriptor().ok_or_else(corrupt)??),
                "fortran_order" => fortran_order = Some(p.boolean().ok_or_else(corrupt)?),
                "shape" => shape = Some(p.tuple().ok_or_else(corrupt)?),
                _ => return Err(corrupt()),
            }
            if p.token(",").is_none() {
                p.token("}").ok_or_else(corrupt)?;
                break;
            }
        }
        match (scalar, fortran_order, shape, p.0.trim()) {
            (Some((scalar, big_endian)), Some(fortran_order), Some(shape), "") => Ok(Self { scalar, big_endian, fortran_order, shape }),
            _ => Err(corrupt()),
        }
    }
}

/// The rest of a header. Each method takes something from its front, or gives `None`.
struct Parser<'a>(&'a str);

impl<'a> Parser<'a> {
    fn token(&mut self, token: &str) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(token)?;
        Some(())
    }

    fn quoted(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (inside, rest) = text[1..].split_once(quote)?;
        self.0 = rest;
        Some(inside)
    }

    fn boolean(&mut self) -> Option<bool> {
        self.token("True").map(|()| true).or_else(|| self.token("False").map(|()| false))
    }

    fn descriptor(&mut self) -> Option<Result<(Scalar, bool)>> {
        if self.0.trim_start().starts_with('[') {
            return Some(Err(Error::unsupported("structured NumPy arrays are not supported")));
        }
        let found = self.quoted()?;
        Some(Scalar::from_descriptor(found).ok_or_else(|| {
            let (names, shown) = (SCALARS.map(|(n, _)| n).join(", "), found.chars().take(40).collect::<String>());
            Error::unsupported(format!("NumPy type \"{shown}\" is not supported; supported, in either byte order: {names}"))
        }))
    }

    fn tuple(&mut self) -> Option<Vec<usize>> {
        let mut dims = Vec::new();
        self.token("(")?;
        while self.token(")").is_none() {
            self.0 = self.0.trim_start();
            let digits = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
            let (number, rest) = self.0.split_at(digits);
            dims.push(number.parse().ok().filter(|_| dims.len() < MAX_RANK)?);
            // Python 2 wrote long integers with an L.
            self.0 = rest.strip_prefix('L').unwrap_or(rest);
            if self.token(",").is_none() {
                self.token(")")?;
                break;
            }
        }
        Some(dims)
    }
}

#[cfg(test)]
#[path = "npy_tests.rs"]
mod tests;
