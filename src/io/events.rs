//! TensorBoard's event files: records of TFRecord (tensorflow/core/lib/io/record_writer.h) that hold Event messages (tensorflow/core/util/event.proto), of which
//! scalars, pictures and the start of a session are written here. Compared with tensorboard's own writer by tests/interop/record_events.py.

use crate::error::{Error, Result};
use crate::memory;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What an event says beside its time and step.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The format's version, which a file begins with.
    Version,
    /// A session begins at this step: what other files have of later ones was lost, and is not shown.
    Start,
    /// A number by its tag.
    Scalar(&'a str, f32),
    /// A PNG picture by its tag: [height, width], channels, the file's bytes.
    Picture(&'a str, [usize; 2], usize, &'a [u8]),
}

/// A file of events that is appended to.
pub struct EventWriter {
    path: PathBuf,
    file: File,
    record: Vec<u8>,
}

impl EventWriter {
    /// Makes a file of its own in a folder, whose name has the time (seconds since 1970), as TensorBoard wants it, and begins a session at `step`.
    pub fn create(folder: &Path, time: f64, step: u64) -> Result<Self> {
        // Two sessions in one second get different names.
        let process = std::process::id();
        for number in 0..1000 {
            let path = folder.join(format!("events.out.tfevents.{:010}.fewstep.{process}.{number}", time as u64));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut this = Self { path, file, record: vec![] };
                    this.write(time, 0, Event::Version)?;
                    this.write(time, step, Event::Start)?;
                    return Ok(this);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::from_io(&path, &e)),
            }
        }
        Err(Error::io(format!("{}: a thousand event files of this second", folder.display())))
    }

    /// Appends an event.
    pub fn write(&mut self, time: f64, step: u64, event: Event) -> Result<()> {
        self.record.clear();
        append_record(&mut self.record, time, step, event)?;
        self.file.write_all(&self.record).map_err(|e| Error::from_io(&self.path, &e))
    }
}

/// What events are called where there is no memory for them.
const WHAT: &str = "an event";

/// Appends the record of an event: its length and the checksum of that, the message, its checksum.
fn append_record(out: &mut Vec<u8>, time: f64, step: u64, event: Event) -> Result<()> {
    let body = message(time, step, event)?;
    let length = (body.len() as u64).to_le_bytes();
    memory::append(out, &length, WHAT)?;
    memory::append(out, &masked_crc(&length).to_le_bytes(), WHAT)?;
    memory::append(out, &body, WHAT)?;
    memory::append(out, &masked_crc(&body).to_le_bytes(), WHAT)
}

/// The Event: wall_time = 1, step = 2, then file_version = 3, summary = 5 or session_log = 7.
fn message(time: f64, step: u64, event: Event) -> Result<Vec<u8>> {
    let mut out = Message::default();
    out.fixed64(1, time.to_bits())?;
    if step != 0 {
        out.varint(2, step)?;
    }
    match event {
        Event::Version => out.bytes(3, b"brain.Event:2")?,
        Event::Start => {
            let mut log = Message::default();
            log.varint(1, 1)?; // status = START
            out.bytes(7, &log.0)?;
        }
        Event::Scalar(tag, value) => {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes())?;
            entry.fixed32(2, value.to_bits())?; // simple_value
            out.summary(&entry)?;
        }
        Event::Picture(tag, [height, width], channels, png) => {
            let mut picture = Message::default();
            picture.varint(1, height as u64)?;
            picture.varint(2, width as u64)?;
            picture.varint(3, channels as u64)?; // colorspace: 1 grey, 3 RGB, 4 RGBA
            picture.bytes(4, png)?;
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes())?;
            entry.bytes(4, &picture.0)?;
            out.summary(&entry)?;
        }
    }
    Ok(out.0)
}

/// A message in protobuf's wire format.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, mut value: u64) -> Result<()> {
        while value >= 0x80 {
            memory::push(&mut self.0, value as u8 | 0x80, WHAT)?;
            value >>= 7;
        }
        memory::push(&mut self.0, value as u8, WHAT)
    }

    fn varint(&mut self, field: u64, value: u64) -> Result<()> {
        self.number(field << 3)?;
        self.number(value)
    }

    fn fixed64(&mut self, field: u64, bits: u64) -> Result<()> {
        self.number(field << 3 | 1)?;
        memory::append(&mut self.0, &bits.to_le_bytes(), WHAT)
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) -> Result<()> {
        self.number(field << 3 | 2)?;
        self.number(bytes.len() as u64)?;
        memory::append(&mut self.0, bytes, WHAT)
    }

    fn fixed32(&mut self, field: u64, bits: u32) -> Result<()> {
        self.number(field << 3 | 5)?;
        memory::append(&mut self.0, &bits.to_le_bytes(), WHAT)
    }

    /// A summary of one value.
    fn summary(&mut self, value: &Self) -> Result<()> {
        let mut summary = Self::default();
        summary.bytes(1, &value.0)?;
        self.bytes(5, &summary.0)
    }
}

/// CRC-32C, turned and shifted, so that the checksum of bytes that hold checksums is none of theirs (tensorflow/core/lib/hash/crc32c.h).
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's polynomial, reflected.
const CASTAGNOLI: u32 = 0x82f6_3b78;
const TABLE: [u32; 256] = {
    let (mut table, mut i) = ([0u32; 256], 0);
    while i < 256 {
        let (mut crc, mut bit) = (i as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ CASTAGNOLI } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::test_util::TestDir;

    /// RFC 3720, appendix B.4.
    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }

    /// testdata/events.bin was written by tests/interop/record_events.py: tensorboard's RecordWriter, and the messages that its protobuf classes serialize.
    #[test]
    fn records_are_those_of_tensorboard() {
        let mut found = vec![];
        let png = [0x89, b'P', b'N', b'G', 0, 255];
        let events = [
            (0, Event::Version),
            (300, Event::Start),
            (300, Event::Scalar("loss", 0.5)),
            (1 << 40, Event::Scalar("held_out/step 2", -1.5e-9)),
            (301, Event::Picture("samples", [200, 3000], 3, &png)),
        ];
        for (i, (step, event)) in events.into_iter().enumerate() {
            append_record(&mut found, 1_700_000_000.25 + i as f64, step, event).unwrap();
        }
        assert_eq!(found, include_bytes!("testdata/events.bin"));
    }

    #[test]
    fn files_have_names_of_their_own() {
        let dir = TestDir::new("events");
        let mut writers: Vec<_> = (0..3).map(|_| EventWriter::create(dir.path(), 1.7e9, 7).unwrap()).collect();
        writers[1].write(1.7e9, 8, Event::Scalar("loss", 1.0)).unwrap();
        let sizes: Vec<_> = writers.iter().map(|w| std::fs::metadata(&w.path).unwrap().len()).collect();
        assert!(sizes[0] == sizes[2] && sizes[1] > sizes[0]);
        assert!(EventWriter::create(&dir.join("absent"), 0.0, 0).is_err_and(|e| e.status == crate::Status::NotFound));
    }
}
