//! Zip archives as NumPy writes them: stored and deflated entries, ZIP64, data descriptors. Read one entry at a time, each checked against its CRC.
//!
//! Libraries for it believe the numbers in an archive: a sparse file makes them ask for gigabytes, a crafted one makes them search for hours. Here every
//! number is checked against the file's own length before anything follows from it, and every allocation of such a size is fallible. The format is
//! APPNOTE.TXT 6.3.10 of PKWARE; the names below are its own.

use crate::error::{Error, Result};
use crate::memory;
use crate::tensor::try_vec;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_IGNORE_ADLER32};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

/// The end of central directory record without its comment, which has at most 65,535 bytes.
const END: usize = 22;
const END64: usize = 56;
/// The ZIP64 record may be longer by data that nobody writes.
const MAX_END64: u64 = 1 << 16;
const LOCATOR: usize = 20;
const CENTRAL: usize = 46;
const LOCAL: usize = 30;
/// An archive of arrays has a handful of entries; a directory larger than this is no such thing.
const MAX_DIRECTORY: u64 = 16 << 20;
/// Names of arrays are short: bytes that an entry's name has at most.
pub const MAX_NAME: usize = 1024;
/// Deflate makes at most 258 bytes of two bits: claims beyond this ratio are lies.
const MAX_RATIO: u64 = 1032;
/// What an entry may unpack to whatever it takes in the file.
const FREE_SIZE: u64 = 16 << 20;
/// Above [`FREE_SIZE`], an entry may be so many times larger than what it takes in the file. The sparsest collections of images that people train on
/// (one white shape on black) reach 300; an archive made to cost reaches 1,030.
const LARGE_RATIO: u64 = 512;
/// Deflate looks back so far.
const WINDOW: usize = 32 << 10;
/// Compressed bytes are read in pieces of this.
const INPUT: usize = 16 << 10;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;
const ENCRYPTED: u16 = 1;
/// Sizes follow the data; the local header need not have them.
const DESCRIPTOR: u16 = 8;

/// What archives are read from: a file, or bytes in memory.
pub trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// An open archive: its table of contents.
pub struct Archive<R> {
    reader: R,
    /// The central directory's bytes; entries refer to their names in it.
    directory: Vec<u8>,
    /// Where the directory begins, so where data ends.
    data_end: u64,
    /// In the order of their names.
    entries: Vec<Entry>,
}

/// What the central directory says of one entry.
#[derive(Clone)]
struct Entry {
    name: Range<usize>,
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    /// Of the local header.
    at: u64,
}

impl<R: Source> Archive<R> {
    /// Reads the table of contents of an archive of `len` bytes.
    pub fn open(mut reader: R, len: u64) -> Result<Self> {
        let Place { at, size, count } = find_directory(&mut reader, len)?;
        // Fits: at most MAX_DIRECTORY.
        let mut directory = try_vec::<u8>(size as usize, "archive: its directory")?;
        read_at(&mut reader, at, &mut directory)?;
        let entries = parse_directory(&directory, count, at)?;
        Ok(Self { reader, directory, data_end: at, entries })
    }

    /// The entries' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|entry| &self.directory[entry.name.clone()])
    }

    /// Where an entry of this name stands among [`Archive::names`].
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.entries.binary_search_by(|entry| self.directory[entry.name.clone()].cmp(name)).ok()
    }

    /// How many bytes the entry unpacks to, as the archive says.
    pub fn size(&self, index: usize) -> u64 {
        self.entries[index].size
    }

    /// Begins to read an entry. Its size is one that its bytes can have; whether they have it shows at the end.
    pub fn read(&mut self, index: usize) -> Result<EntryReader<'_, R>> {
        let entry = self.entries[index].clone();
        check_sizes(&entry)?;
        let start = self.data_start(&entry)?;
        if self.data_end.checked_sub(start).is_none_or(|room| room < entry.packed) {
            return Err(Error::corrupt(format!("archive: {} bytes from byte {start} reach into the directory at byte {}", entry.packed, self.data_end)));
        }
        self.reader.seek(SeekFrom::Start(start)).map_err(|e| read_error(&e))?;
        let inflater = if entry.method == DEFLATED { Some(Inflater::new()?) } else { None };
        Ok(EntryReader { reader: &mut self.reader, packed: entry.packed, left: entry.size, crc: crc32fast::Hasher::new(), expected: entry.crc, inflater })
    }

    /// Compares the local header with the directory and gives the place of the data behind it.
    fn data_start(&mut self, entry: &Entry) -> Result<u64> {
        let name = &self.directory[entry.name.clone()];
        let mut header = [0u8; LOCAL + MAX_NAME];
        let header = &mut header[..LOCAL + name.len()];
        if entry.at >= self.data_end {
            return Err(Error::corrupt(format!("archive: an entry at byte {}, behind the data, which ends at byte {}", entry.at, self.data_end)));
        }
        read_at(&mut self.reader, entry.at, header)?;
        let differs = |what: &str| Err(Error::corrupt(format!("archive: the header at byte {} has another {what} than the directory", entry.at)));
        if !header.starts_with(b"PK\x03\x04") {
            return Err(Error::corrupt(format!("archive: no entry at byte {}", entry.at)));
        }
        let (name_len, extra_len) = (u16_at(header, 26), u16_at(header, 28));
        if usize::from(name_len) != name.len() || &header[LOCAL..] != name {
            return differs("name");
        }
        if u16_at(header, 8) != entry.method || (u16_at(header, 6) ^ entry.flags) & (ENCRYPTED | DESCRIPTOR) != 0 {
            return differs("method");
        }
        // Sizes of ZIP64 stand in an extra field; those behind the data are not known here.
        let same = |at: usize, expected: u64| u32_at(header, at) == u32::MAX || u64::from(u32_at(header, at)) == expected;
        let known = entry.flags & DESCRIPTOR == 0;
        if known && !(u32_at(header, 14) == entry.crc && same(18, entry.packed) && same(22, entry.size)) {
            return differs("size or checksum");
        }
        entry.at.checked_add((LOCAL + name.len()) as u64 + u64::from(extra_len)).ok_or_else(|| Error::corrupt("archive: an entry beyond its end"))
    }
}

/// Refuses what cannot be unpacked, or cannot become so large.
fn check_sizes(entry: &Entry) -> Result<()> {
    let (packed, size) = (entry.packed, entry.size);
    if entry.flags & ENCRYPTED != 0 {
        return Err(Error::unsupported("archive: the entry is encrypted; save it without a password"));
    }
    match entry.method {
        STORED if packed == size => Ok(()),
        STORED => Err(Error::corrupt(format!("archive: {size} bytes are stored in {packed}"))),
        DEFLATED if size > packed.saturating_mul(MAX_RATIO) => {
            Err(Error::corrupt(format!("archive: says that {packed} bytes unpack to {size}, more than {MAX_RATIO} times as many; deflate cannot")))
        }
        DEFLATED if size > FREE_SIZE && size / LARGE_RATIO > packed => Err(Error::unsupported(format!(
            "archive: {packed} bytes would unpack to {size}; above {FREE_SIZE} bytes at most {LARGE_RATIO} times are allowed; save the array uncompressed (numpy.savez)"
        ))),
        DEFLATED => Ok(()),
        other => {
            Err(Error::unsupported(format!("archive: compression method {other}; stored (0) and deflated (8) are supported: numpy.savez, savez_compressed")))
        }
    }
}

/// Where the central directory lies and how many entries it has.
struct Place {
    at: u64,
    size: u64,
    count: u64,
}

/// Finds the directory through the record at the archive's end; every number is checked against the archive's length.
fn find_directory(reader: &mut impl Source, len: u64) -> Result<Place> {
    let (record_at, record) = find_end(reader, len)?;
    let (place, end) = match find_end64(reader, record_at)? {
        Some(found) => found,
        None => {
            let [disk, first, here, count] = [4, 6, 8, 10].map(|i| u64::from(u16_at(&record, i)));
            (directory_place([disk, first], [here, count], u32_at(&record, 12).into(), u32_at(&record, 16).into())?, record_at)
        }
    };
    if place.at.checked_add(place.size).is_none_or(|after| after > end) {
        return Err(Error::corrupt(format!(
            "archive: truncated, or no archive: its directory of {} bytes at byte {} does not fit {end}",
            place.size, place.at
        )));
    }
    if place.count.checked_mul(CENTRAL as u64).is_none_or(|least| least > place.size) {
        return Err(Error::corrupt(format!("archive: {} entries do not fit a directory of {} bytes", place.count, place.size)));
    }
    if place.size > MAX_DIRECTORY {
        return Err(Error::unsupported(format!("archive: a directory of {} bytes, {MAX_DIRECTORY} at most are read", place.size)));
    }
    Ok(place)
}

/// The directory's place, where all of the archive is in one file: every disk has the number 0, and as many entries as there are.
fn directory_place(disks: [u64; 2], [here, count]: [u64; 2], size: u64, at: u64) -> Result<Place> {
    if disks != [0, 0] || here != count {
        return Err(Error::unsupported("archive: is a part of a split one"));
    }
    Ok(Place { at, size, count })
}

/// The end of central directory record: the last that reaches to the archive's end with its comment.
fn find_end(reader: &mut impl Source, len: u64) -> Result<(u64, [u8; END])> {
    let none = || Error::corrupt(format!("archive: truncated, or no archive: no end record in the last {} of {len} bytes", len.min((END + 0xffff) as u64)));
    // Fits: at most 65,557.
    let tail_len = len.min((END + 0xffff) as u64) as usize;
    let mut tail = try_vec::<u8>(tail_len, "archive: its end")?;
    read_at(reader, len - tail_len as u64, &mut tail)?;
    let fits = |at: &usize| tail[*at..].starts_with(b"PK\x05\x06") && usize::from(u16_at(&tail[*at..], 20)) == tail_len - at - END;
    let at = (0..(tail_len + 1).saturating_sub(END)).rev().find(fits).ok_or_else(none)?;
    let mut record = [0u8; END];
    record.copy_from_slice(&tail[at..at + END]);
    Ok((len - (tail_len - at) as u64, record))
}

/// The ZIP64 record before the end record, if there is one, and where it begins.
fn find_end64(reader: &mut impl Source, end: u64) -> Result<Option<(Place, u64)>> {
    let Some(locator_at) = end.checked_sub(LOCATOR as u64) else { return Ok(None) };
    let mut locator = [0u8; LOCATOR];
    read_at(reader, locator_at, &mut locator)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    let at = u64_at(&locator, 8);
    let mut record = [0u8; END64];
    if at.checked_add(END64 as u64).is_none_or(|after| after > locator_at) {
        return Err(Error::corrupt(format!("archive: its ZIP64 record at byte {at} does not fit {locator_at}")));
    }
    read_at(reader, at, &mut record)?;
    // The size that the record gives itself counts from behind that number.
    let room = (locator_at - at - 12).min(MAX_END64);
    if !record.starts_with(b"PK\x06\x06") || u64_at(&record, 4) > room || u64_at(&record, 4) < (END64 - 12) as u64 {
        return Err(Error::corrupt(format!("archive: no ZIP64 record at byte {at}")));
    }
    let disks = [u32_at(&locator, 4) | u32_at(&record, 16), u32_at(&record, 20)].map(u64::from);
    Ok(Some((directory_place(disks, [24, 32].map(|i| u64_at(&record, i)), u64_at(&record, 40), u64_at(&record, 48))?, at)))
}

/// The entries of a directory that begins at byte `base`, in the order of their names.
fn parse_directory(directory: &[u8], count: u64, base: u64) -> Result<Vec<Entry>> {
    // Fits: count headers fit the directory.
    let mut entries = memory::with_capacity(count as usize, "archive: entries")?;
    let mut at = 0;
    for n in 0..count {
        let cut = |what: &str| Error::corrupt(format!("archive: directory entry {n} at byte {}: {what}", base + at as u64));
        let header = directory.get(at..at + CENTRAL).filter(|h| h.starts_with(b"PK\x01\x02")).ok_or_else(|| cut("not an entry"))?;
        let [name_len, extra_len, comment_len] = [28, 30, 32].map(|i| usize::from(u16_at(header, i)));
        let name = at + CENTRAL..at + CENTRAL + name_len;
        if name_len > MAX_NAME {
            return Err(cut(&format!("a name of {name_len} bytes, at most {MAX_NAME} are possible")));
        }
        let extra = directory.get(name.end..name.end + extra_len).ok_or_else(|| cut("cut short"))?;
        let mut entry = Entry {
            name: name.clone(),
            flags: u16_at(header, 8),
            method: u16_at(header, 10),
            crc: u32_at(header, 16),
            packed: u32_at(header, 20).into(),
            size: u32_at(header, 24).into(),
            at: u32_at(header, 42).into(),
        };
        read_extra(extra, [&mut entry.size, &mut entry.packed, &mut entry.at]).ok_or_else(|| cut("its ZIP64 field is cut short"))?;
        entries.push(entry);
        at = name.end + extra_len + comment_len;
    }
    let name = |entry: &Entry| &directory[entry.name.clone()];
    entries.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    match entries.windows(2).find(|two| name(&two[0]) == name(&two[1])) {
        Some(two) => Err(Error::corrupt(format!("archive: has two entries {:?}", String::from_utf8_lossy(name(&two[0]))))),
        None => Ok(entries),
    }
}

/// Replaces those numbers that do not fit 32 bits by those of the ZIP64 extra field, which has them in this order.
fn read_extra(mut extra: &[u8], numbers: [&mut u64; 3]) -> Option<()> {
    while extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let mut field = extra.get(4..4 + len)?;
        extra = &extra[4 + len..];
        if id != 1 {
            continue;
        }
        for number in numbers {
            if *number == u64::from(u32::MAX) {
                *number = u64_at(field.get(..8)?, 0);
                field = &field[8..];
            }
        }
        return Some(());
    }
    Some(())
}

/// The unpacked bytes of an entry. Reading past its last byte compares the checksum.
pub struct EntryReader<'a, R> {
    reader: &'a mut R,
    /// Bytes of the entry that are still in the file.
    packed: u64,
    /// Bytes that are still to come.
    left: u64,
    crc: crc32fast::Hasher,
    expected: u32,
    inflater: Option<Inflater>,
}

impl<R: Source> EntryReader<'_, R> {
    /// Fills the buffer.
    pub fn read_exact(&mut self, out: &mut [u8]) -> Result<()> {
        let short = || Error::corrupt("archive: the entry ends early");
        self.left = self.left.checked_sub(out.len() as u64).ok_or_else(short)?;
        match &mut self.inflater {
            Some(inflater) => inflater.read_exact(&mut self.reader, &mut self.packed, out)?,
            None => {
                self.packed = self.packed.checked_sub(out.len() as u64).ok_or_else(short)?;
                self.reader.read_exact(out).map_err(|e| read_error(&e))?;
            }
        }
        self.crc.update(out);
        Ok(())
    }

    /// Checks that nothing follows and that what came is what was packed.
    pub fn finish(mut self) -> Result<()> {
        if let Some(inflater) = &mut self.inflater {
            inflater.finish(&mut self.reader, &mut self.packed)?;
        }
        if self.left != 0 || self.packed != 0 {
            return Err(Error::corrupt(format!("archive: {} unpacked and {} packed bytes more than were expected", self.left, self.packed)));
        }
        let found = self.crc.finalize();
        if found != self.expected {
            return Err(Error::corrupt(format!("archive: checksum {found:08x}, expected {:08x}: the data is damaged", self.expected)));
        }
        Ok(())
    }
}

/// A deflated stream being unpacked. Its parts lie on the heap, each in a fallible allocation: together they would fill a small stack.
struct Inflater {
    /// One.
    state: Vec<DecompressorOxide>,
    /// The last bytes that were unpacked, in a ring.
    window: Vec<u8>,
    /// Bytes of the window that nobody has taken.
    ready: Range<usize>,
    input: Vec<u8>,
    unread: Range<usize>,
    done: bool,
}

impl Inflater {
    fn new() -> Result<Self> {
        let mut state = memory::with_capacity(1, "archive: a decompressor")?;
        state.push(DecompressorOxide::new());
        let (window, input) = (try_vec(WINDOW, "archive: a window")?, try_vec(INPUT, "archive: a buffer")?);
        Ok(Self { state, window, ready: 0..0, input, unread: 0..0, done: false })
    }

    fn read_exact(&mut self, reader: &mut impl Read, packed: &mut u64, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            if self.ready.is_empty() {
                if self.done {
                    return Err(Error::corrupt("archive: the deflated data ends early"));
                }
                self.advance(reader, packed)?;
                continue;
            }
            let n = out.len().min(self.ready.len());
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(&self.window[self.ready.start..self.ready.start + n]);
            self.ready.start += n;
            out = later;
        }
        Ok(())
    }

    /// The stream must be at its end, all of its bytes taken.
    fn finish(&mut self, reader: &mut impl Read, packed: &mut u64) -> Result<()> {
        while !self.done && self.ready.is_empty() {
            self.advance(reader, packed)?;
        }
        if !self.ready.is_empty() || !self.unread.is_empty() {
            return Err(Error::corrupt("archive: more deflated data than the entry's size says"));
        }
        Ok(())
    }

    /// Unpacks the next piece into the window, whose bytes were all taken.
    fn advance(&mut self, reader: &mut impl Read, packed: &mut u64) -> Result<()> {
        if self.unread.is_empty() && *packed > 0 {
            // Fits: at most INPUT.
            let n = (INPUT as u64).min(*packed) as usize;
            reader.read_exact(&mut self.input[..n]).map_err(|e| read_error(&e))?;
            *packed -= n as u64;
            self.unread = 0..n;
        }
        let at = self.ready.end % WINDOW;
        let flags = TINFL_FLAG_IGNORE_ADLER32 | if *packed > 0 { TINFL_FLAG_HAS_MORE_INPUT } else { 0 };
        let (status, taken, written) = decompress(&mut self.state[0], &self.input[self.unread.clone()], &mut self.window, at, flags);
        self.unread.start += taken;
        self.ready = at..at + written;
        match status {
            TINFLStatus::Done => self.done = true,
            TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput if taken + written > 0 => {}
            _ => return Err(Error::corrupt("archive: damaged deflated data")),
        }
        Ok(())
    }
}

fn read_at(reader: &mut impl Source, at: u64, out: &mut [u8]) -> Result<()> {
    reader.seek(SeekFrom::Start(at)).and_then(|_| reader.read_exact(out)).map_err(|e| read_error(&e))
}

/// The lengths were checked before, so an early end is the archive's fault.
fn read_error(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::corrupt("archive: truncated"),
        _ => Error::io(error.to_string()),
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

#[cfg(test)]
#[path = "zip_tests.rs"]
mod tests;
