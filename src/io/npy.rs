//! NumPy arrays: `.npy` files written, `.npz` archives read.
//!
//! The archive is the zip crate's affair. The array header is parsed here: the libraries for it allocate whatever a header claims, recurse over
//! nested text and panic on some shapes, which a file from outside must not be able to cause.

use crate::error::{Error, Result};
use crate::io::file;
use crate::tensor::{DType, Tensor, checked_numel, try_vec};
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::Path;
use zip::ZipArchive;
use zip::result::ZipError;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// No header of a plain array comes near this; the format allows four gigabytes.
const MAX_HEADER: usize = 1 << 16;
/// NumPy's own limit on dimensions.
const MAX_RANK: usize = 64;
/// The types that arrays can have, as NumPy describes them.
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

trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// An open `.npz` archive: named arrays, read one at a time.
pub struct NpzFile<'a> {
    file: String,
    archive: ZipArchive<Box<dyn ReadSeek + 'a>>,
}

impl<'a> NpzFile<'a> {
    /// Opens an archive and reads its table of contents.
    pub fn open(path: &Path) -> Result<NpzFile<'static>> {
        let (handle, _) = file::open(path)?;
        NpzFile::new(Box::new(BufReader::new(handle)), &path.display().to_string())
    }

    /// Opens an archive that lies in memory; `file` is its name in errors.
    pub fn from_bytes(bytes: &'a [u8], file: &str) -> Result<Self> {
        Self::new(Box::new(Cursor::new(bytes)), file)
    }

    fn new(reader: Box<dyn ReadSeek + 'a>, file: &str) -> Result<Self> {
        let archive = ZipArchive::new(reader).map_err(|e| zip_error(e).context(file))?;
        Ok(Self { file: file.to_string(), archive })
    }

    /// The arrays' names, without `.npy`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.archive.file_names().map(|n| n.strip_suffix(".npy").unwrap_or(n))
    }

    /// Reads an array of u8, i8, f16, f32, i32 or i64. Fortran order is turned into C order.
    pub fn get(&mut self, name: &str) -> Result<Tensor> {
        let entry = [format!("{name}.npy"), name.to_string()].into_iter().find(|n| self.archive.index_for_name(n).is_some());
        let Some(entry) = entry else {
            let mut names: Vec<_> = self.names().collect();
            names.sort_unstable();
            return Err(Error::not_found(format!("{}: no array \"{name}\"; it has: {}", self.file, names.join(", "))));
        };
        let context = format!("{}: array \"{name}\"", self.file);
        let mut reader = self.archive.by_name(&entry).map_err(|e| zip_error(e).context(&context))?;
        let size = reader.size();
        read_npy(&mut reader, size).map_err(|e| e.context(&context))
    }
}

/// A failure of the archive: the operating system's, or the file's.
fn zip_error(error: ZipError) -> Error {
    match error {
        ZipError::Io(e) => read_error(&e),
        ZipError::UnsupportedArchive(what) => Error::unsupported(format!("archive: {what}")),
        other => Error::corrupt(format!("truncated or not an archive: {other}")),
    }
}

/// Unpacking reports damage as I/O errors; only those of the operating system carry its number.
fn read_error(error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(_) => Error::io(error.to_string()),
        None => Error::corrupt(format!("damaged or truncated: {error}")),
    }
}

/// Reads one array; `size` is how many bytes the archive says it has.
fn read_npy(reader: &mut impl Read, size: u64) -> Result<Tensor> {
    let (text, header_len) = read_header(reader)?;
    let header = Header::parse(&text)?;
    let bytes = checked_numel(&header.shape).ok().and_then(|n| n.checked_mul(header.dtype.size()));
    if bytes.and_then(|b| b.checked_add(header_len)).map(|b| b as u64) != Some(size) {
        let (shape, dtype) = (&header.shape, header.dtype);
        return Err(Error::corrupt(format!("shape {shape:?} of {dtype:?} does not fit its {size} bytes")));
    }
    let mut tensor = Tensor::zeros(header.dtype, &header.shape)?;
    reader.read_exact(tensor.bytes_mut()).map_err(|e| read_error(&e))?;
    // The end must be reached for the checksum to be compared.
    if reader.read(&mut [0u8]).map_err(|e| read_error(&e))? != 0 {
        return Err(Error::corrupt("more data than its size says"));
    }
    if header.fortran_order { to_c_order(&tensor) } else { Ok(tensor) }
}

/// Reads the header's text; also gives how many bytes came before the data.
fn read_header(reader: &mut impl Read) -> Result<(String, usize)> {
    let mut start = [0u8; 8];
    reader.read_exact(&mut start).map_err(|e| read_error(&e))?;
    if !start.starts_with(MAGIC) {
        return Err(Error::corrupt("not a NumPy array: wrong magic bytes"));
    }
    let mut len = [0u8; 4];
    let width = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(Error::version(format!("npy format {version}.{}; versions 1 to 3 are known", start[7]))),
    };
    reader.read_exact(&mut len[..width]).map_err(|e| read_error(&e))?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_HEADER {
        return Err(Error::corrupt(format!("npy header of {len} bytes, at most {MAX_HEADER} are possible")));
    }
    let mut text = try_vec::<u8>(len, "npy header")?;
    reader.read_exact(&mut text).map_err(|e| read_error(&e))?;
    let text = String::from_utf8(text).map_err(|_| Error::corrupt("npy header is not UTF-8"))?;
    Ok((text, 8 + width + len))
}

/// What a header says.
#[derive(Debug, PartialEq)]
struct Header {
    dtype: DType,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Parses the Python dictionary `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, in any order of keys.
    fn parse(text: &str) -> Result<Self> {
        let corrupt = || Error::corrupt(format!("npy header not understood: {:?}", text.chars().take(120).collect::<String>()));
        let (mut dtype, mut fortran_order, mut shape) = (None, None, None);
        let mut p = Parser(text);
        p.token("{").ok_or_else(corrupt)?;
        while p.token("}").is_none() {
            let key = p.quoted().ok_or_else(corrupt)?;
            p.token(":").ok_or_else(corrupt)?;
            match key {
                "descr" => dtype = Some(p.descriptor().ok_or_else(corrupt)??),
                "fortran_order" => fortran_order = Some(p.boolean().ok_or_else(corrupt)?),
                "shape" => shape = Some(p.tuple().ok_or_else(corrupt)?),
                _ => return Err(corrupt()),
            }
            if p.token(",").is_none() {
                p.token("}").ok_or_else(corrupt)?;
                break;
            }
        }
        match (dtype, fortran_order, shape, p.0.trim()) {
            (Some(dtype), Some(fortran_order), Some(shape), "") => Ok(Self { dtype, fortran_order, shape }),
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

    fn descriptor(&mut self) -> Option<Result<DType>> {
        if self.0.trim_start().starts_with('[') {
            return Some(Err(Error::unsupported("structured NumPy arrays are not supported")));
        }
        let found = self.quoted()?;
        let known = DESCRIPTORS.iter().find(|(d, _)| *d == found).map(|(_, dtype)| *dtype);
        Some(known.ok_or_else(|| {
            let names = DESCRIPTORS.map(|(d, _)| d).join(", ");
            Error::unsupported(format!("NumPy type \"{found}\" is not supported; supported: {names}"))
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

/// Copies an array whose first index runs fastest into one whose last index does.
fn to_c_order(source: &Tensor) -> Result<Tensor> {
    let (shape, size) = (source.shape().to_vec(), source.dtype().size());
    let mut out = Tensor::zeros(source.dtype(), &shape)?;
    if out.numel() == 0 {
        // Strides of an array with a zero among its dimensions may overflow.
        return Ok(out);
    }
    let mut strides = vec![size; shape.len()];
    for i in 1..shape.len() {
        strides[i] = strides[i - 1] * shape[i - 1];
    }
    let mut index = vec![0usize; shape.len()];
    for element in out.bytes_mut().chunks_exact_mut(size) {
        let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
        element.copy_from_slice(&source.bytes()[at..at + size]);
        for (i, dim) in index.iter_mut().zip(&shape).rev() {
            *i += 1;
            if *i < *dim {
                break;
            }
            *i = 0;
        }
    }
    Ok(out)
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

    #[test]
    fn arrays_round_trip() {
        let dir = TestDir::new("npy-round");
        let tensors = [
            Tensor::from_slice(&[2, 1, 2], &[1.0f32, -2.0, f32::NAN, 4.0]).unwrap(),
            Tensor::from_slice(&[], &[i64::MIN]).unwrap(),
            Tensor::from_slice(&[3], &[1i32, -2, 3]).unwrap(),
            Tensor::from_slice(&[2], &[1u8, 200]).unwrap(),
            Tensor::zeros(DType::F32, &[0, 5]).unwrap(),
        ];
        for tensor in &tensors {
            save_npy(&dir.join("t.npy"), tensor).unwrap();
            let bytes = std::fs::read(dir.join("t.npy")).unwrap();
            for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
                std::fs::write(dir.join("t.npz"), npz(&[("x.npy", bytes.clone()), ("y.npy", vec![])], method)).unwrap();
                let mut file = NpzFile::open(&dir.join("t.npz")).unwrap();
                let got = file.get("x").unwrap();
                assert_eq!((got.dtype(), got.shape(), got.bytes()), (tensor.dtype(), tensor.shape(), tensor.bytes()));
                let mut names: Vec<_> = file.names().collect();
                names.sort_unstable();
                assert_eq!(names, ["x", "y"]);
            }
        }
    }

    #[test]
    fn fortran_order_and_odd_spellings_are_read() {
        let data = [1u8, 4, 2, 5, 3, 6];
        let text = "{\"shape\":(2L , 3) ,'fortran_order':True, 'descr': '|u1'}   \n";
        let mut file = stored(npy(text, &data));
        let got = NpzFile::from_bytes(&file, "f").unwrap().get("a").unwrap();
        assert_eq!((got.shape(), got.bytes()), (&[2, 3][..], &[1u8, 2, 3, 4, 5, 6][..]));
        file = stored(npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }\n", &7i32.to_le_bytes()));
        assert_eq!(NpzFile::from_bytes(&file, "f").unwrap().get("a").unwrap().as_slice::<i32>().unwrap(), [7]);
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
            ("double", with("<f8", "(1,)"), Status::Unsupported),
            ("big endian", with(">f4", "(2,)"), Status::Unsupported),
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
            let error = NpzFile::from_bytes(&stored(bytes), "f.npz").unwrap().get("a").map(drop).unwrap_err();
            assert_eq!(error.status, status, "{what}: {error}");
            assert!(error.message.starts_with("f.npz: array \"a\": "), "{what}: {error}");
        }
    }

    #[test]
    fn missing_arrays_are_named_with_those_that_exist() {
        let bytes = npz(&[("images.npy", vec![]), ("labels.npy", vec![])], zip::CompressionMethod::Stored);
        let error = NpzFile::from_bytes(&bytes, "d.npz").unwrap().get("data").map(drop).unwrap_err();
        assert_eq!(error.status, Status::NotFound);
        for word in ["d.npz", "\"data\"", "images", "labels"] {
            assert!(error.message.contains(word), "{error}");
        }
        let dir = TestDir::new("npz-absent");
        assert_eq!(NpzFile::open(&dir.join("absent.npz")).map(drop).unwrap_err().status, Status::NotFound);
    }

    #[test]
    fn damaged_archives_are_corrupt_and_never_panic() {
        let array = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (64,), }\n", &(0..64).collect::<Vec<u8>>());
        for garbage in [vec![], vec![0u8; 100], b"PK\x03\x04 not an archive at all".to_vec()] {
            assert_eq!(NpzFile::from_bytes(&garbage, "g").map(drop).unwrap_err().status, Status::CorruptFile);
        }
        for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
            let bytes = npz(&[("a.npy", array.clone())], method);
            for len in 0..bytes.len() {
                let status = NpzFile::from_bytes(&bytes[..len], "t").and_then(|mut f| f.get("a")).map(drop).unwrap_err().status;
                assert!(matches!(status, Status::CorruptFile | Status::NotFound), "{len}: {status:?}");
            }
            for i in 0..bytes.len() {
                for flip in [1u8, 0x80, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[i] ^= flip;
                    let _ = NpzFile::from_bytes(&bytes, "t").and_then(|mut f| f.get("a"));
                }
            }
        }
    }

    #[test]
    fn changed_data_fails_the_checksum() {
        let mut bytes = stored(npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }\n", &[11, 22, 33, 44]));
        let at = bytes.windows(4).position(|w| w == [11, 22, 33, 44]).unwrap();
        bytes[at] = 12;
        assert_eq!(NpzFile::from_bytes(&bytes, "t").unwrap().get("a").map(drop).unwrap_err().status, Status::CorruptFile);
    }
}
