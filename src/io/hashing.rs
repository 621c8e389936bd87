//! SHA-256 of what passes by on its way to or from a file.

use sha2::Digest;
use std::io::{self, Read, Write};

/// A reader or writer that hashes what goes through it.
pub(super) struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

/// SHA-256 of pieces, one behind the other.
#[derive(Default)]
pub(crate) struct Sha256(sha2::Sha256);

impl Sha256 {
    /// With this piece too.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// In hexadecimal as sha256sum prints it.
    pub fn digest(self) -> String {
        hex(&self.0.finalize())
    }
}

impl<T> Hashing<T> {
    pub fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::default() }
    }

    /// The hash of everything so far.
    pub fn digest(self) -> String {
        self.hash.digest()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The hash of bytes in memory.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut hash = Sha256::default();
    hash.update(bytes);
    hash.digest()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|d| char::from_digit(d.into(), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_and_writers_hash_alike() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), expected);
        let mut reader = Hashing::new(&b"abc"[..]);
        let mut writer = Hashing::new(vec![]);
        io::copy(&mut reader, &mut writer).unwrap();
        assert_eq!((reader.digest(), writer.digest()), (expected.to_string(), expected.to_string()));
    }
}
