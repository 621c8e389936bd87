//! NumPy arrays: `.npy` files written, `.npz` archives read.
//!
//! The array header is parsed here: the libraries for it allocate whatever a header claims, recurse over nested text and panic on some shapes, which a
//! file from outside must not be able to cause. Elements are converted on the way, so that an array lies in memory once, in the type it is used in.

use crate::error::{Error, Result};
use crate::io::file;
use crate::io::zip::{Archive, EntryReader, MAX_NAME, Source};
use crate::tensor::{DType, Element, Tensor, checked_numel, try_vec};
use std::borrow::Cow;
use std::io::Cursor;
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
        match NpyArray::begin(&mut self.archive, index) {
            Ok((reader, header)) => Ok(NpyArray { reader, header, context }),
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

/// An array whose header was read and whose elements were not.
pub struct NpyArray<'f, 'a> {
    reader: EntryReader<'f, Box<dyn Source + 'a>>,
    header: Header,
    context: String,
}

impl<'f, 'a> NpyArray<'f, 'a> {
    /// Reads the header and checks that the entry holds what it says, before there is memory for it.
    fn begin(archive: &'f mut Archive<Box<dyn Source + 'a>>, index: usize) -> Result<(EntryReader<'f, Box<dyn Source + 'a>>, Header)> {
        let size = archive.size(index);
        let mut reader = archive.read(index)?;
        let (text, header_len) = read_header(&mut reader)?;
        let header = Header::parse(&text)?;
        let bytes = checked_numel(&header.shape).ok().and_then(|n| n.checked_mul(header.scalar.size()));
        if bytes.and_then(|b| b.checked_add(header_len)).map(|b| b as u64) != Some(size) {
            let (shape, scalar) = (&header.shape, header.scalar);
            return Err(Error::corrupt(format!("shape {shape:?} of {scalar:?} does not fit its {size} bytes")));
        }
        Ok((reader, header))
    }

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
        let Self { reader, header, context } = self;
        read_elements(reader, &header, shape, convert).map_err(|e| e.context(context))
    }
}

fn read_elements<T: Element, R: Source>(
    mut reader: EntryReader<'_, R>,
    header: &Header,
    shape: &[usize],
    convert: impl Fn(Scalar, &[u8], &mut [T]) -> Result<()>,
) -> Result<Tensor> {
    let mut tensor = Tensor::zeros(T::DTYPE, shape)?;
    let (scalar, size) = (header.scalar, header.scalar.size());
    let mut raw = try_vec::<u8>(PIECE * size, "npy: a buffer")?;
    let mut piece = try_vec::<T>(PIECE, "npy: a buffer")?;
    let mut places = Places::new(header);
    let out = tensor.as_mut_slice::<T>()?;
    for start in (0..out.len()).step_by(PIECE) {
        let n = PIECE.min(out.len() - start);
        let (raw, piece) = (&mut raw[..n * size], &mut piece[..n]);
        reader.read_exact(raw)?;
        if header.big_endian {
            raw.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        convert(scalar, raw, piece)?;
        match &mut places {
            None => out[start..start + n].copy_from_slice(piece),
            Some(places) => piece.iter().for_each(|v| out[places.next()] = *v),
        }
    }
    reader.finish()?;
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
fn read_header<R: Source>(reader: &mut EntryReader<'_, R>) -> Result<(String, usize)> {
    let mut start = [0u8; 8];
    reader.read_exact(&mut start)?;
    if !start.starts_with(MAGIC) {
        return Err(Error::corrupt("not a NumPy array: wrong magic bytes"));
    }
    let mut len = [0u8; 4];
    let width = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(Error::version(format!("npy format {version}.{}; versions 1 to 3 are known", start[7]))),
    };
    reader.read_exact(&mut len[..width])?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_HEADER {
        return Err(Error::corrupt(format!("npy header of {len} bytes, at most {MAX_HEADER} are possible")));
    }
    let mut text = try_vec::<u8>(len, "npy header")?;
    reader.read_exact(&mut text)?;
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
mod tests {
    use super::*;
    use crate::Status;
    use crate::io::test_util::TestDir;
    use std::io::Write;
    use zip::write::{SimpleFileOptions, ZipWriter};

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        [&MAGIC[..], &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn npz(entries: &[(&str, Vec<u8>)], method: zip::CompressionMethod) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn stored(npy: Vec<u8>) -> Vec<u8> {
        npz(&[("a.npy", npy)], zip::CompressionMethod::Stored)
    }

    #[test]
    fn written_header_is_what_numpy_writes() {
        let header = build_header(&Tensor::zeros(DType::F32, &[2, 3]).unwrap()).unwrap();
        assert_eq!(header.len(), 128);
        assert!(header.starts_with(b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"), "{header:?}");
        assert_eq!(build_header(&Tensor::zeros(DType::Bf16, &[1]).unwrap()).unwrap_err().status, Status::Unsupported);
        assert_eq!(build_header(&Tensor::zeros(DType::F32, &[1; 65]).unwrap()).unwrap_err().status, Status::Shape);
    }

    /// An array's header with this type and shape, and its data.
    fn array(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        npy(&format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n"), data)
    }

    fn f32s(npy: Vec<u8>, shape: &[usize]) -> Result<Vec<f32>> {
        NpzFile::from_bytes(&stored(npy), "f.npz")?.array("a")?.into_f32(shape, |v| v)?.as_slice::<f32>().map(<[f32]>::to_vec)
    }

    fn i32s(npy: Vec<u8>, shape: &[usize]) -> Result<Vec<i32>> {
        NpzFile::from_bytes(&stored(npy), "f.npz")?.array("a")?.into_i32(shape)?.as_slice::<i32>().map(<[i32]>::to_vec)
    }

    #[test]
    fn arrays_round_trip() {
        let dir = TestDir::new("npy-round");
        let tensors = [
            (Tensor::from_slice(&[2, 1, 2], &[1.0f32, -2.0, 0.5, 4.0]).unwrap(), vec![1.0, -2.0, 0.5, 4.0]),
            (Tensor::from_slice(&[], &[i64::MIN]).unwrap(), vec![i64::MIN as f32]),
            (Tensor::from_slice(&[3], &[1i32, -2, 3]).unwrap(), vec![1.0, -2.0, 3.0]),
            (Tensor::from_slice(&[2], &[1u8, 200]).unwrap(), vec![1.0, 200.0]),
            (Tensor::from_slice(&[2 * PIECE + 3], &vec![7i8; 2 * PIECE + 3]).unwrap(), vec![7.0; 2 * PIECE + 3]),
            (Tensor::zeros(DType::F32, &[0, 5]).unwrap(), vec![]),
        ];
        for (tensor, expected) in &tensors {
            save_npy(&dir.join("t.npy"), tensor).unwrap();
            let bytes = std::fs::read(dir.join("t.npy")).unwrap();
            for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
                std::fs::write(dir.join("t.npz"), npz(&[("x.npy", bytes.clone()), ("y.npy", vec![])], method)).unwrap();
                let mut file = NpzFile::open(&dir.join("t.npz")).unwrap();
                let array = file.array("x").unwrap();
                assert_eq!(array.shape(), tensor.shape());
                let doubled = array.into_f32(tensor.shape(), |v| 2.0 * v).unwrap();
                assert!(doubled.as_slice::<f32>().unwrap().iter().zip(expected).all(|(a, b)| *a == 2.0 * b) && doubled.shape() == tensor.shape());
                assert_eq!(file.names().collect::<Vec<_>>(), ["x", "y"]);
            }
        }
    }

    #[test]
    fn every_type_is_read_in_both_byte_orders() {
        macro_rules! row {
            ($name:literal, $t:ty, $values:expr, $floats:expr) => {
                (
                    $name,
                    $values.iter().flat_map(|v: &$t| v.to_le_bytes()).collect::<Vec<u8>>(),
                    $values.iter().flat_map(|v: &$t| v.to_be_bytes()).collect(),
                    $floats,
                )
            };
        }
        /// Name, bytes in either order, the values as f32.
        type Row<'a> = (&'a str, Vec<u8>, Vec<u8>, [f32; 2]);
        let rows: [Row; 12] = [
            row!("f2", half::f16, [half::f16::from_f32(0.5), half::f16::from_f32(-3.0)], [0.5, -3.0]),
            row!("f4", f32, [0.1, -1e30], [0.1, -1e30]),
            // Rounded once to the nearest, and too large.
            row!("f8", f64, [0.1, 1e300], [0.1, f32::INFINITY]),
            row!("b1", u8, [0, 1], [0.0, 1.0]),
            row!("u1", u8, [3, 255], [3.0, 255.0]),
            row!("u2", u16, [3, 65535], [3.0, 65535.0]),
            row!("u4", u32, [3, u32::MAX], [3.0, 4294967296.0]),
            row!("u8", u64, [3, u64::MAX], [3.0, 18446744073709551616.0]),
            row!("i1", i8, [-3, 127], [-3.0, 127.0]),
            row!("i2", i16, [-3, 32767], [-3.0, 32767.0]),
            row!("i4", i32, [-3, i32::MAX], [-3.0, 2147483648.0]),
            row!("i8", i64, [-3, i64::MIN], [-3.0, -9223372036854775808.0]),
        ];
        for (name, little, big, expected) in rows {
            for (order, data) in [("<", &little), ("=", &little), (">", &big)] {
                assert_eq!(f32s(array(&format!("{order}{name}"), "False", "(2,)", data), &[2]).unwrap(), expected, "{order}{name}");
            }
            let narrow = little.len() == 2;
            assert_eq!(f32s(array(&format!("|{name}"), "False", "(2,)", &little), &[2]).is_ok(), narrow, "|{name}");
            let found = i32s(array(&format!(">{name}"), "False", "(1,)", &big[..big.len() / 2]), &[1]);
            match name {
                "f2" | "f4" | "f8" => assert!(found.unwrap_err().message.contains("labels must be integers, found F")),
                "b1" => assert_eq!(found.unwrap(), [0]),
                _ => assert_eq!(found.unwrap(), [expected[0] as i32], "{name}"),
            }
            if matches!(name, "u4" | "u8" | "i8") {
                let error = i32s(array(&format!("<{name}"), "False", "(2,)", &little), &[2]).unwrap_err();
                assert!(error.status == Status::InvalidArgument && error.message.starts_with("f.npz: array \"a\": label"), "{error}");
            }
        }
    }

    #[test]
    fn fortran_order_and_odd_spellings_are_read() {
        let text = "{\"shape\":(2L , 3) ,'fortran_order':True, 'descr': '|u1'}   \n";
        assert_eq!(f32s(npy(text, &[1, 4, 2, 5, 3, 6]), &[2, 3]).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        // Larger than a piece, three dimensions: the value at [i,j,k] stands at i + 30·(j + 40·k).
        let (a, b, c) = (30, 40, 50);
        let data: Vec<u8> = (0..a * b * c).flat_map(|at| (at as u32).to_le_bytes()).collect();
        let expected: Vec<f32> = (0..a * b * c).map(|at| (at / (b * c) + a * (at / c % b + b * (at % c))) as f32).collect();
        assert_eq!(f32s(array("<u4", "True", "(30, 40, 50)", &data), &[a, b, c, 1]).unwrap(), expected);
        for (shape, dims) in [("(0, 18446744073709551615)", vec![0, 7]), ("(3, 0)", vec![3, 0]), ("()", vec![])] {
            let data = if dims.is_empty() { &[9u8][..] } else { &[] };
            assert_eq!(f32s(array("|u1", "True", shape, data), &dims).unwrap().len(), data.len(), "{shape}");
        }
    }

    #[test]
    fn bad_arrays_are_refused() {
        let with = |descr: &str, shape: &str| npy(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"), &[0; 8]);
        let mut future = with("<f4", "(2,)");
        future[6] = 9;
        let cases = [
            ("empty", vec![], Status::CorruptFile),
            ("magic", vec![7; 80], Status::CorruptFile),
            ("version", future, Status::VersionMismatch),
            ("header cut", with("<f4", "(2,)")[..30].to_vec(), Status::CorruptFile),
            ("short data", with("<f4", "(3,)"), Status::CorruptFile),
            ("long data", with("<f4", "(1,)"), Status::CorruptFile),
            ("complex", with("<c8", "(1,)"), Status::Unsupported),
            ("long double", with("<f16", "(1,)"), Status::Unsupported),
            ("no byte order", with("f4", "(2,)"), Status::Unsupported),
            ("text", with("é", "(1,)"), Status::Unsupported),
            ("object", with("|O", "(1,)"), Status::Unsupported),
            ("structured", npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }\n", &[0; 8]), Status::Unsupported),
            ("negative", with("<f4", "(-2,)"), Status::CorruptFile),
            ("not a tuple", with("<f4", "2"), Status::CorruptFile),
            ("huge", with("<f4", "(4611686018427387904, 4)"), Status::CorruptFile),
            ("huge and nothing", with("<f4", "(0, 18446744073709551615, 18446744073709551615)"), Status::CorruptFile),
            ("too large a number", with("<f4", "(99999999999999999999999,)"), Status::CorruptFile),
            ("nested", npy(&"(".repeat(60_000), &[]), Status::CorruptFile),
            ("missing key", npy("{'descr': '<f4', 'shape': (2,)}\n", &[0; 8]), Status::CorruptFile),
            ("unknown key", npy("{'descr': '<f4', 'order': False, 'shape': (2,)}\n", &[0; 8]), Status::CorruptFile),
            ("trailing", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x\n", &[0; 8]), Status::CorruptFile),
        ];
        for (what, bytes, status) in cases {
            let error = f32s(bytes, &[2]).unwrap_err();
            assert_eq!(error.status, status, "{what}: {error}");
            assert!(error.message.starts_with("f.npz: array \"a\": "), "{what}: {error}");
        }
    }

    #[test]
    fn missing_arrays_are_named_with_those_that_exist() {
        let bytes = npz(&[("images.npy", vec![]), ("labels.npy", vec![])], zip::CompressionMethod::Stored);
        let error = NpzFile::from_bytes(&bytes, "d.npz").unwrap().array("data").map(drop).unwrap_err();
        assert_eq!(error.status, Status::NotFound);
        for word in ["d.npz", "\"data\"", "images", "labels"] {
            assert!(error.message.contains(word), "{error}");
        }
        let many: Vec<_> = (0..50).map(|i| format!("x{i:02}.npy")).collect();
        let bytes = npz(&many.iter().map(|n| (n.as_str(), vec![])).collect::<Vec<_>>(), zip::CompressionMethod::Stored);
        let error = NpzFile::from_bytes(&bytes, "d.npz").unwrap().array("data").map(drop).unwrap_err();
        assert!(error.message.ends_with("x18, x19 and 30 more"), "{error}");
        assert_eq!(NpzFile::from_bytes(&bytes, "d.npz").unwrap().array(&"n".repeat(1 << 20)).map(drop).unwrap_err().status, Status::InvalidArgument);
        let dir = TestDir::new("npz-absent");
        assert_eq!(NpzFile::open(&dir.join("absent.npz")).map(drop).unwrap_err().status, Status::NotFound);
    }

    /// Archives as such are tested in zip_tests.rs; here, that damage reaches the caller as a status with the file's name.
    #[test]
    fn damaged_archives_are_corrupt_and_never_panic() {
        for garbage in [vec![], vec![0u8; 100], b"PK\x03\x04 not an archive at all".to_vec()] {
            let error = NpzFile::from_bytes(&garbage, "g").map(drop).unwrap_err();
            assert!(error.status == Status::CorruptFile && error.message.starts_with("g: "), "{error}");
        }
        let read = |bytes: &[u8]| NpzFile::from_bytes(bytes, "t").and_then(|mut f| f.array("a")?.into_f32(&[64], |v| v));
        for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
            let bytes = npz(&[("a.npy", array("|u1", "False", "(64,)", &(0..64).collect::<Vec<u8>>()))], method);
            for len in 0..bytes.len() {
                assert_eq!(read(&bytes[..len]).map(drop).unwrap_err().status, Status::CorruptFile, "{len}");
            }
            for i in 0..bytes.len() {
                for flip in [1u8, 0x80, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[i] ^= flip;
                    let _ = read(&bytes);
                }
            }
        }
    }

    #[test]
    fn changed_data_fails_the_checksum() {
        let mut bytes = stored(array("|u1", "False", "(4,)", &[11, 22, 33, 44]));
        let at = bytes.windows(4).position(|w| w == [11, 22, 33, 44]).unwrap();
        bytes[at] = 12;
        let error = NpzFile::from_bytes(&bytes, "t").unwrap().array("a").unwrap().into_f32(&[4], |v| v).map(drop).unwrap_err();
        assert!(error.status == Status::CorruptFile && error.message.contains("checksum"), "{error}");
    }
}
