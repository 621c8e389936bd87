use super::*;
use crate::Status;
use ::zip::CompressionMethod;
use ::zip::write::{SimpleFileOptions, ZipWriter};
use std::io::{Cursor, Write};

fn packed(entries: &[(&str, Vec<u8>)], method: CompressionMethod, large: bool) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method).large_file(large)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn open(bytes: &[u8]) -> Result<Archive<Cursor<&[u8]>>> {
    Archive::open(Cursor::new(bytes), bytes.len() as u64)
}

/// An entry's bytes, taken in pieces of `piece`.
fn unpack(bytes: &[u8], name: &str, piece: usize) -> Result<Vec<u8>> {
    let mut archive = open(bytes)?;
    let index = archive.find(name.as_bytes()).ok_or_else(|| Error::not_found("no such entry"))?;
    let size = archive.size(index) as usize;
    let mut reader = archive.read(index)?;
    let mut out = try_vec::<u8>(size, "test")?;
    out.chunks_mut(piece).try_for_each(|piece| reader.read_exact(piece))?;
    reader.finish()?;
    Ok(out)
}

/// Bytes that deflate somewhat, by a linear congruence.
fn noise(n: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    };
    (0..n).map(|i| if (i / 700) % 3 == 0 { next() } else { (i / 64) as u8 & 7 }).collect()
}

/// The places of a two-entry archive's parts, for tests that change them.
struct Plain {
    bytes: Vec<u8>,
    central: usize,
    end: usize,
}

fn plain(method: CompressionMethod) -> Plain {
    let bytes = packed(&[("a", noise(3000, 1)), ("b", noise(50, 2))], method, false);
    let find = |what: &[u8]| bytes.windows(4).position(|w| w == what).unwrap();
    Plain { central: find(b"PK\x01\x02"), end: find(b"PK\x05\x06"), bytes }
}

#[test]
fn what_the_library_writes_is_read() {
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        for large in [false, true] {
            let entries =
                [("empty", vec![]), ("one", vec![7]), ("zeros", vec![0; 200_000]), ("näme/with parts.npy", noise(300_001, 5)), ("window", noise(WINDOW, 6))];
            let bytes = packed(&entries, method, large);
            for (name, expected) in &entries {
                for piece in [1 << 20, 4096, 999] {
                    assert!(unpack(&bytes, name, piece).unwrap() == *expected, "{name} {method} {large} {piece}");
                }
            }
            let mut names: Vec<_> = entries.iter().map(|(name, _)| name.as_bytes()).collect();
            names.sort_unstable();
            assert_eq!(open(&bytes).unwrap().names().collect::<Vec<_>>(), names);
        }
    }
}

/// As Python's zipfile writes to a pipe: sizes stand behind the data, the local header has none.
#[test]
fn sizes_behind_the_data_are_read() {
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let Plain { mut bytes, central, .. } = plain(method);
        bytes[6] |= DESCRIPTOR as u8;
        bytes[central + 8] |= DESCRIPTOR as u8;
        bytes[14..26].fill(0);
        assert!(unpack(&bytes, "a", 4096).unwrap() == noise(3000, 1));
    }
}

/// One number of a good archive changed, where it stands and to what.
#[test]
fn archives_that_contradict_themselves_are_refused() {
    const C: Status = Status::CorruptFile;
    const U: Status = Status::Unsupported;
    let rows: [(&str, &str, usize, &[u8], Status); 20] = [
        ("local signature", "local", 0, b"XX", C),
        ("local name", "local", 30, b"z", C),
        ("local name's length", "local", 26, &[9, 0], C),
        ("local extra's length", "local", 28, &[0xff, 0xff], C),
        ("local method", "local", 8, &[1], C),
        ("local flags", "local", 6, &[1], C),
        ("local crc", "local", 14, &[0x55], C),
        ("local size", "local", 22, &[0x55], C),
        ("central signature", "central", 0, b"XX", C),
        ("central crc and local", "both crc", 0, &[0x55], C),
        ("encrypted", "both flags", 0, &[1], U),
        ("another method", "both method", 0, &[12], U),
        ("name's length", "central", 28, &[0, 0xff], C),
        ("comment's length", "central", 32, &[0xff, 0xff], C),
        ("local header's offset", "central", 42, &[0xf0, 0xff, 0xff, 0x7f], C),
        ("offset in ZIP64 that is not there", "central", 42, &[0xff; 4], C),
        ("more entries", "end", 8, &[3, 0, 3, 0], C),
        ("split", "end", 4, &[1], U),
        ("directory's size", "end", 12, &[0xff, 0xff, 0xff], C),
        ("directory's offset", "end", 16, &[0xff, 0xff, 0xff, 0x70], C),
    ];
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        for (what, part, at, new, status) in rows {
            let Plain { mut bytes, central, end } = plain(method);
            let places = match part {
                "local" => vec![at],
                "central" => vec![central + at],
                "end" => vec![end + at],
                "both crc" => vec![14, central + 16],
                "both flags" => vec![6, central + 8],
                _ => vec![8, central + 10],
            };
            places.iter().for_each(|&at| bytes[at..at + new.len()].copy_from_slice(new));
            let error = unpack(&bytes, "a", 4096).unwrap_err();
            assert_eq!(error.status, status, "{what}: {error}");
        }
    }
}

#[test]
fn names_that_occur_twice_or_are_long_are_refused() {
    let Plain { mut bytes, central, .. } = plain(CompressionMethod::Stored);
    let second = central + 1 + bytes[central + 1..].windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    bytes[second + CENTRAL] = b'a';
    let error = open(&bytes).map(drop).unwrap_err();
    assert!(error.status == Status::CorruptFile && error.message.contains("two entries \"a\""), "{error}");
    let long = "n".repeat(MAX_NAME + 1);
    let error = open(&packed(&[(&long, vec![])], CompressionMethod::Stored, false)).map(drop).unwrap_err();
    assert!(error.status == Status::CorruptFile && error.message.contains("1025 bytes"), "{error}");
    assert!(open(&packed(&[(&long[1..], vec![])], CompressionMethod::Stored, false)).is_ok());
}

/// A source of `len` bytes that has only the end of them, and counts what is read.
struct Sparse<'a> {
    tail: &'a [u8],
    len: u64,
    at: u64,
    read: u64,
}

impl Read for Sparse<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = (out.len() as u64).min(self.len.saturating_sub(self.at)) as usize;
        for (i, byte) in out[..n].iter_mut().enumerate() {
            *byte = (self.at + i as u64).checked_sub(self.len - self.tail.len() as u64).map_or(0, |at| self.tail[at as usize]);
        }
        self.at += n as u64;
        self.read += n as u64;
        Ok(n)
    }
}

impl Seek for Sparse<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(at) => self.at = at,
            _ => return Err(io::Error::other("only from the start")),
        }
        Ok(self.at)
    }
}

/// The ZIP64 record, its locator and the end record, for an archive of `len` bytes in all.
fn end64(len: u64, record: u64, count: u64, size: u64, at: u64, record_size: u64) -> Vec<u8> {
    let mut out = b"PK\x06\x06".to_vec();
    out.extend(record_size.to_le_bytes());
    out.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    [count, count, size, at].iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend(b"PK\x06\x07\0\0\0\0");
    out.extend(record.to_le_bytes());
    out.extend([1, 0, 0, 0]);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([0xff; 12]);
    out.extend([0, 0]);
    assert!(out.len() == END64 + LOCATOR + END && len >= out.len() as u64);
    out
}

/// Sparse archives of 100 GB whose records claim what their length would allow: nothing is read but the end, nothing large is asked for.
#[test]
fn records_of_sparse_archives_cost_nothing() {
    let len = 100u64 << 30;
    let record = len - (END64 + LOCATOR + END) as u64;
    let rows = [
        ("2 billion entries", end64(len, record, record / 50, record / 50 * 46, record / 50, 44), Status::Unsupported),
        ("entries beyond the directory", end64(len, record, record, 1000, 0, 44), Status::CorruptFile),
        ("entries whose bytes overflow", end64(len, record, u64::MAX, 1000, 0, 44), Status::CorruptFile),
        ("directory beyond the record", end64(len, record, 1, 46, record - 45, 44), Status::CorruptFile),
        ("directory that overflows", end64(len, record, 1, u64::MAX, 1, 44), Status::CorruptFile),
        ("record of 100 GB", end64(len, 0, 1, 46, 0, record), Status::CorruptFile),
        ("record behind its locator", end64(len, len, 1, 46, 0, 44), Status::CorruptFile),
        ("record that overflows", end64(len, u64::MAX - 3, 1, 46, 0, 44), Status::CorruptFile),
        ("record shorter than one", end64(len, record, 1, 46, 0, 43), Status::CorruptFile),
    ];
    for (what, tail, status) in rows {
        let mut source = Sparse { tail: &tail, len, at: 0, read: 0 };
        let error = Archive::open(&mut source, len).map(drop).unwrap_err();
        assert_eq!(error.status, status, "{what}: {error}");
        assert!(source.read < 100_000, "{what}: {} bytes read", source.read);
    }
}

/// Nothing but end records, none of which fits: no more than the tail is read, once.
#[test]
fn many_end_records_are_searched_once() {
    let record = b"PK\x05\x06\0\0\0\0\x01\0\x01\0\x2e\0\0\0\0\0\0\0\0\0";
    assert_eq!(record.len(), END);
    let mut tail = record.repeat(3000);
    // So none of them reaches to the end.
    tail.push(0);
    let len = 512 << 20;
    let mut source = Sparse { tail: &tail, len, at: 0, read: 0 };
    let error = Archive::open(&mut source, len).map(drop).unwrap_err();
    assert_eq!(error.status, Status::CorruptFile, "{error}");
    assert!(source.read <= (END + 0xffff) as u64, "{}", source.read);
}

/// A deflated entry whose directory and header claim `size` bytes.
fn claiming(data: &[u8], size: u32) -> Vec<u8> {
    let mut bytes = packed(&[("a", data.to_vec())], CompressionMethod::Deflated, false);
    let central = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    for at in [22, central + 24] {
        bytes[at..at + 4].copy_from_slice(&size.to_le_bytes());
    }
    bytes
}

#[test]
fn sizes_that_deflate_cannot_give_are_refused_before_there_is_memory() {
    let read = |bytes: &[u8]| open(bytes).and_then(|mut archive| archive.read(0).map(drop));
    let error = read(&claiming(&noise(100, 3), u32::MAX - 1)).unwrap_err();
    assert!(error.status == Status::CorruptFile && error.message.contains("1032"), "{error}");
    // Zeros do reach the ratio, and above a size nobody trains on them.
    let error = read(&packed(&[("a", vec![0; 17 << 20])], CompressionMethod::Deflated, false)).unwrap_err();
    assert!(error.status == Status::Unsupported && error.message.contains("512") && error.message.contains("numpy.savez"), "{error}");
    assert!(read(&packed(&[("a", vec![0; 15 << 20])], CompressionMethod::Deflated, false)).is_ok());
    let stored = plain(CompressionMethod::Stored);
    let mut bytes = stored.bytes;
    for at in [22, stored.central + 24] {
        bytes[at] ^= 1;
    }
    assert_eq!(read(&bytes).unwrap_err().status, Status::CorruptFile);
}

#[test]
fn data_of_another_length_than_the_size_is_refused() {
    for (size, what) in [(2999, "shorter"), (3001, "longer"), (0, "nothing")] {
        let error = unpack(&claiming(&noise(3000, 1), size), "a", 4096).unwrap_err();
        assert_eq!(error.status, Status::CorruptFile, "{what}: {error}");
    }
}

/// Every truncation is an error; no changed byte gives other data, a panic or a loop.
#[test]
fn damaged_archives_are_refused_or_give_what_was_packed() {
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let Plain { bytes, .. } = plain(method);
        let expected = noise(3000, 1);
        for len in 0..bytes.len() {
            let error = unpack(&bytes[..len], "a", 4096).unwrap_err();
            assert_eq!(error.status, Status::CorruptFile, "{len}: {error}");
        }
        for i in 0..bytes.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[i] ^= flip;
                assert!(unpack(&bytes, "a", 4096).map_or(true, |got| got == expected), "byte {i}");
            }
        }
    }
}

/// Where both take a damaged archive, both give the same bytes.
#[test]
fn the_library_agrees() {
    let bytes = packed(&[("a", noise(70_000, 9)), ("b", vec![0; 9])], CompressionMethod::Deflated, true);
    let theirs = |bytes: &[u8]| {
        let mut out = vec![];
        ::zip::ZipArchive::new(Cursor::new(bytes)).ok()?.by_name("a").ok()?.read_to_end(&mut out).ok()?;
        Some(out)
    };
    let mut compared = 0;
    for i in (0..bytes.len()).rev().take(400) {
        let mut bytes = bytes.clone();
        bytes[i] = bytes[i].wrapping_add(1);
        if let (Ok(ours), Some(theirs)) = (unpack(&bytes, "a", 1 << 20), theirs(&bytes)) {
            assert!(ours == theirs, "byte {i}");
            compared += 1;
        }
    }
    assert!(compared > 0);
}
