//! How a kernel is launched, as its compiled image tells the driver.
//!
//! A cubin is an ELF file with a section `.nv.info.<kernel>` of attributes. NVIDIA does not document them; the numbers here are those that
//! `cuobjdump -elf` prints the names of: EIATTR_MAX_THREADS, EIATTR_KPARAM_INFO, EIATTR_CBANK_PARAM_SIZE.

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SymbolFlags};

/// A symbol that is a kernel (STO_CUDA_ENTRY).
const ENTRY: u8 = 0x10;
/// The attributes that are read.
const MAX_THREADS: u8 = 0x05;
const PARAMETER: u8 = 0x17;
const PARAMETER_BYTES: u8 = 0x19;
/// The format of an attribute whose value has a length of its own; the others keep theirs in the length's place.
const SIZED: u8 = 0x04;
/// A kernel without `__launch_bounds__` takes what any GPU does.
const ANY_THREADS: u32 = 1024;

/// A kernel of a cubin.
#[derive(Debug, PartialEq)]
pub struct Entry {
    pub name: String,
    /// The size of each parameter in bytes.
    pub params: Vec<u32>,
    /// Where each parameter begins in the kernel's parameter buffer, in bytes.
    pub offsets: Vec<u32>,
    /// The most threads of a block.
    pub max_threads: u32,
}

/// All kernels of a cubin.
pub fn entries(cubin: &[u8]) -> Result<Vec<Entry>, String> {
    let file = ElfFile64::<LittleEndian>::parse(cubin).map_err(|e| format!("not a cubin: {e}"))?;
    let kernels = file.symbols().filter(|symbol| matches!(symbol.flags(), SymbolFlags::Elf { st_other, .. } if st_other & ENTRY != 0));
    kernels.map(|symbol| entry(&file, symbol.name().map_err(|e| e.to_string())?)).collect()
}

fn entry(file: &ElfFile64<LittleEndian>, name: &str) -> Result<Entry, String> {
    let section = file.section_by_name(&format!(".nv.info.{name}")).ok_or_else(|| format!("{name}: the cubin says nothing about it"))?;
    let info = section.data().map_err(|e| format!("{name}: {e}"))?;
    read(name, info).ok_or_else(|| format!("{name}: its attributes in the cubin are not understood; is this nvcc newer than build/cubin.rs?"))
}

fn read(name: &str, info: &[u8]) -> Option<Entry> {
    let mut entry = Entry { name: name.to_owned(), params: Vec::new(), offsets: Vec::new(), max_threads: ANY_THREADS };
    let mut params = Vec::new();
    let mut bytes = 0;
    let mut rest = info;
    while let Some((attribute, value)) = next(&mut rest)? {
        match attribute {
            MAX_THREADS => entry.max_threads = (0..3).map(|axis| word(value, 4 * axis)).product::<Option<u32>>()?,
            PARAMETER => params.push(Parameter::read(value)?),
            PARAMETER_BYTES => bytes = half(value, 0)?,
            _ => {}
        }
    }
    params.sort_by_key(|param| param.ordinal);
    let end = params.last().map_or(0, |last| last.offset + last.size);
    let ordered = params.iter().enumerate().all(|(index, param)| param.ordinal as usize == index);
    entry.params = params.iter().map(|param| param.size).collect();
    entry.offsets = params.iter().map(|param| param.offset).collect();
    (ordered && end == bytes).then_some(entry)
}

/// Takes the next attribute off the front: its number and its value.
fn next<'a>(rest: &mut &'a [u8]) -> Option<Option<(u8, &'a [u8])>> {
    if rest.is_empty() {
        return Some(None);
    }
    let (format, attribute) = (*rest.first()?, *rest.get(1)?);
    let (from, to) = if format == SIZED { (4, 4 + half(rest, 2)? as usize) } else { (2, 4) };
    let value = rest.get(from..to)?;
    *rest = &rest[to..];
    Some(Some((attribute, value)))
}

struct Parameter {
    ordinal: u32,
    offset: u32,
    size: u32,
}

impl Parameter {
    /// An index of no use, 16 bits each of ordinal and offset, a word with the size from bit 18 on.
    fn read(value: &[u8]) -> Option<Self> {
        Some(Self { ordinal: half(value, 4)?, offset: half(value, 6)?, size: word(value, 8)? >> 18 })
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?).into())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
