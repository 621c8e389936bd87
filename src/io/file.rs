//! Whole files: read with a fallible allocation, written so that a crash leaves either the old file or the new one.

use crate::error::{Error, Result};
use crate::io::target::Target;
use crate::io::temporary::TempFile;
use crate::memory;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

/// Opens a regular file for reading and gives its length too.
pub fn open(path: &Path) -> Result<(File, u64)> {
    let named = |e: io::Error| Error::from_io(path, &e);
    let regular = |metadata: Metadata| if metadata.is_file() { Ok(metadata.len()) } else { Err(Error::io(format!("{}: not a regular file", path.display()))) };
    // The kind is asked before opening: opening a pipe would wait for a writer that may never come, opening a device may do something.
    regular(std::fs::metadata(path).map_err(named)?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path).map_err(named)?;
    let len = regular(file.metadata().map_err(named)?)?;
    Ok((file, len))
}

/// Whether there is a regular file at a path. What cannot be told is an error, and so is a link to nothing: somebody has meant something by it, and to go
/// on as if it were not there would be a guess.
pub(super) fn is_file(path: &Path) -> Result<bool> {
    use io::ErrorKind::{NotADirectory, NotFound};
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.is_file()),
        Err(e) if !matches!(e.kind(), NotFound | NotADirectory) => Err(Error::from_io(path, &e)),
        Err(_) if std::fs::symlink_metadata(path).is_ok() => Err(Error::not_found(format!("{}: a link to nothing", path.display()))),
        Err(_) => Ok(false),
    }
}

/// The bytes of a file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    read_at_most(path, u64::MAX, |_| String::new())
}

/// The bytes of a file; one of more than `max` bytes is refused before it is read, with a sentence about its length.
pub fn read_at_most(path: &Path, max: u64, too_long: impl Fn(u64) -> String) -> Result<Vec<u8>> {
    let (file, len) = open(path)?;
    if len > max {
        return Err(Error::corrupt(format!("{}: {}", path.display(), too_long(len))));
    }
    let capacity = usize::try_from(len).map_err(|_| Error::out_of_memory(format!("{}: {len} bytes are more than memory can hold", path.display())))?;
    let mut bytes = memory::with_capacity(capacity, "a file").map_err(|e| e.context(path.display()))?;
    // `take` keeps the buffer from growing past its reservation when the file grows while it is read.
    file.take(len).read_to_end(&mut bytes).map_err(|e| Error::from_io(path, &e))?;
    Ok(bytes)
}

/// The text of a file, which must be UTF-8 and have at most `max` bytes.
pub fn read_text(path: &Path, max: u64) -> Result<String> {
    let bytes = read_at_most(path, max, |len| format!("{len} bytes; a text of at most {max} is expected here"))?;
    String::from_utf8(bytes).map_err(|e| Error::corrupt(format!("{}: not UTF-8 at byte {}", path.display(), e.utf8_error().valid_up_to())))
}

/// Writes a file through `write`, so that `path` holds the old bytes or all of the new ones, never a part.
///
/// Links are followed, a replaced file's mode is kept, and only regular files are replaced (`Target`). The bytes go to a temporary file in the
/// same folder, are flushed to the disk, and take the name in one step. On any failure the temporary file is removed.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let named = |e: io::Error| Error::from_io(path, &e);
    let target = Target::resolve(path)?;
    let temp = TempFile::create(&target).map_err(|e| named(e).context("could not write"))?;
    fill(temp.file(), &target, write).map_err(named)?;
    temp.rename_to(target.path()).map_err(named)?;
    sync_folder(target.folder()).map_err(|e| named(e).context("was replaced, but its folder could not be flushed to the disk"))
}

/// Writes through a buffer, gives the file the mode of what it will replace, and flushes it to the disk.
pub(super) fn fill(file: &File, target: &Target, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(memory::SMALL, file);
    write(&mut writer)?;
    writer.into_inner().map_err(|e| e.into_error())?;
    target.keep_mode(file)?;
    file.sync_all()
}

/// [`write_atomic`] for bytes that lie in memory.
pub fn write_bytes_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |w| w.write_all(bytes))
}

/// Makes a rename durable. File systems that cannot flush a folder say so; the file itself is safe by then.
#[cfg(unix)]
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|f| f.sync_all()) {
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => Ok(()),
        result => result,
    }
}

#[cfg(not(unix))]
pub(super) fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use crate::io::test_util::TestDir;

    fn names(dir: &TestDir) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn writes_and_replaces() {
        let dir = TestDir::new("file-replace");
        let path = dir.join("a.bin");
        write_bytes_atomic(&path, b"old").unwrap();
        write_bytes_atomic(&path, b"newer").unwrap();
        assert_eq!(read(&path).unwrap(), b"newer");
        assert_eq!(names(&dir), ["a.bin"]);
    }

    #[test]
    fn failed_save_leaves_the_old_file() {
        let dir = TestDir::new("file-failed");
        let path = dir.join("a.bin");
        write_bytes_atomic(&path, b"old").unwrap();
        let error = write_atomic(&path, |w| {
            w.write_all(&[7; 100_000])?;
            Err(io::Error::other("disk full"))
        })
        .unwrap_err();
        assert_eq!(error.status, Status::Io);
        assert!(error.message.contains("a.bin") && error.message.contains("disk full"), "{error}");
        assert_eq!(read(&path).unwrap(), b"old");
        assert_eq!(names(&dir), ["a.bin"]);
    }

    #[test]
    fn panicking_writer_leaves_no_temporary_file() {
        let dir = TestDir::new("file-panic");
        let path = dir.join("a.bin");
        let result = std::panic::catch_unwind(|| write_atomic(&path, |_| panic!("writer")));
        assert!(result.is_err());
        assert!(names(&dir).is_empty());
    }

    #[test]
    fn bad_paths_have_their_status() {
        let dir = TestDir::new("file-bad");
        let plain = dir.join("plain");
        write_bytes_atomic(&plain, b"x").unwrap();
        std::fs::create_dir(dir.join("folder")).unwrap();
        let cases = [
            (write_bytes_atomic(&plain.join("below"), b"y"), Status::Io),
            (write_bytes_atomic(&dir.join("folder"), b"y"), Status::Io),
            (write_bytes_atomic(&dir.join("absent/b"), b"y"), Status::NotFound),
            (write_bytes_atomic(Path::new(""), b"y"), Status::InvalidArgument),
            (write_bytes_atomic(Path::new("/"), b"y"), Status::InvalidArgument),
            (read(&dir.join("absent")).map(drop), Status::NotFound),
            (read(dir.path()).map(drop), Status::Io),
        ];
        for (i, (result, status)) in cases.into_iter().enumerate() {
            assert_eq!(result.unwrap_err().status, status, "case {i}");
        }
        assert_eq!(names(&dir), ["folder", "plain"]);
    }

    #[test]
    fn text_must_be_utf8() {
        let dir = TestDir::new("file-utf8");
        write_bytes_atomic(&dir.join("t"), b"ab\xff").unwrap();
        let error = read_text(&dir.join("t"), 3).unwrap_err();
        assert_eq!(error.status, Status::CorruptFile);
        assert!(error.message.contains("byte 2"), "{error}");
    }

    #[test]
    fn long_texts_are_refused_by_their_size() {
        let dir = TestDir::new("file-long");
        // Sparse: reading it would take all memory.
        File::create(dir.join("t")).unwrap().set_len(1 << 40).unwrap();
        let error = read_text(&dir.join("t"), 100).unwrap_err();
        assert_eq!(error.status, Status::CorruptFile);
        assert!(error.message.contains("1099511627776 bytes") && error.message.contains("at most 100"), "{error}");
    }
}
