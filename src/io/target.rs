//! What a save replaces: links are followed, mode and owner are kept, and only regular files are ever written.
//!
//! A save makes a new file and renames it over the old one. Without care that would turn a link, a pipe or a device into a plain file, and a private
//! file into one that everybody can read. What a rename cannot keep: other hard links to the old file go on naming the old contents, and access
//! control lists are those of a new file.

use crate::error::{Error, Result};
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// A regular file that is to be replaced, or the place of a new one, behind all links.
pub(super) struct Target {
    path: PathBuf,
    replaced: Option<Metadata>,
}

impl Target {
    /// Follows the links of `path`. A link to nothing stands for a file that is to be made; what is no regular file is refused, unopened.
    pub fn resolve(path: &Path) -> Result<Self> {
        let named = |e: io::Error| Error::from_io(path, &e);
        if path.file_name().is_none() {
            return Err(Error::invalid(format!("{:?}: not a file name", path.display().to_string())));
        }
        let replaced = match std::fs::metadata(path) {
            Ok(found) if found.is_file() => Some(found),
            Ok(found) => return Err(Error::io(format!("{}: is {}; only regular files are written", path.display(), kind_of(found.file_type())))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(named(e)),
        };
        let mut at = path.to_path_buf();
        for _ in 0..=MAX_LINKS {
            match std::fs::symlink_metadata(&at) {
                Ok(found) if found.is_symlink() => at = folder_of(&at).join(std::fs::read_link(&at).map_err(named)?),
                // Links of /proc lead elsewhere than their text says.
                Ok(found) if replaced.as_ref().is_some_and(|r| same_file(r, &found)) => return Ok(Self { path: at, replaced }),
                Err(e) if e.kind() == io::ErrorKind::NotFound && replaced.is_none() => return Ok(Self { path: at, replaced }),
                Ok(_) => break,
                Err(e) => return Err(named(e)),
            }
        }
        Err(Error::io(format!("{}: its links lead round in a circle, or to no path that can be replaced", path.display())))
    }

    /// The place of a file that is this library's own: a link there is replaced by it, and not followed.
    pub fn own(path: PathBuf) -> Self {
        Self { path, replaced: None }
    }

    /// The file's own path, which is no link.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that the file lies in, where its successor is made: renaming is atomic only within a file system.
    pub fn folder(&self) -> &Path {
        folder_of(&self.path)
    }

    /// How the successor is made: as any new file where there is none yet, else for the owner alone until [`Target::keep_mode`].
    pub fn creation(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, if self.replaced.is_some() { 0o600 } else { 0o666 });
        options
    }

    /// Gives the successor the mode of the file that it replaces and, where that is permitted, its owner and group.
    #[cfg(unix)]
    pub fn keep_mode(&self, file: &File) -> io::Result<()> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
        let Some(old) = &self.replaced else { return Ok(()) };
        let new = file.metadata()?;
        let mut mode = old.mode() & 0o7777;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) && fchown(file, Some(old.uid()), Some(old.gid())).is_err() {
            mode &= 0o777;
            if old.gid() != new.gid() && fchown(file, None, Some(old.gid())).is_err() {
                // The group is another one than the mode was meant for: it gets what everybody gets.
                mode = (mode & !0o070) | ((mode & 0o007) << 3);
            }
        }
        if new.mode() & 0o7777 == mode {
            return Ok(()); // also where a file system has no modes and refuses to change them
        }
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    }

    #[cfg(not(unix))]
    pub fn keep_mode(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }
}

/// The folder that a path lies in; a bare name lies in the current one.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether two descriptions are of one file.
#[cfg(unix)]
pub(super) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
pub(super) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    a.file_type() == b.file_type()
}

/// A file's kind in words.
fn kind_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        } else if kind.is_socket() {
            return "a socket";
        } else if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "no regular file" }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::Status;
    use crate::io::file::{read, write_atomic, write_bytes_atomic};
    use crate::io::test_util::TestDir;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn links_stay_and_their_targets_are_replaced() {
        let dir = TestDir::new("target-links");
        std::fs::create_dir(dir.join("runs")).unwrap();
        fs::write(dir.join("runs/7.npy"), "old").unwrap();
        // (link, what it says, the file that it stands for)
        for (link, text, file) in [
            ("latest.npy", "runs/7.npy", "runs/7.npy"),
            ("again.npy", "latest.npy", "runs/7.npy"),
            ("runs/up.npy", "../runs/./7.npy", "runs/7.npy"),
            ("new.npy", "runs/8.npy", "runs/8.npy"),
        ] {
            symlink(text, dir.join(link)).unwrap();
            write_bytes_atomic(&dir.join(link), link.as_bytes()).unwrap();
            assert_eq!(fs::read_link(dir.join(link)).unwrap(), Path::new(text));
            assert!(dir.join(file).symlink_metadata().unwrap().is_file());
            assert_eq!(read(&dir.join(file)).unwrap(), link.as_bytes());
        }
        // No temporary file beside the link or beside its target.
        let count = |folder: &Path| fs::read_dir(folder).unwrap().count();
        assert_eq!((count(dir.path()), count(&dir.join("runs"))), (4, 3));
    }

    #[test]
    fn links_that_lead_nowhere_are_refused() {
        let dir = TestDir::new("target-loops");
        for (link, text, status) in [("a", "b", Status::Io), ("b", "a", Status::Io), ("self", "self", Status::Io), ("far", "absent/f", Status::NotFound)] {
            symlink(text, dir.join(link)).unwrap();
            if link != "a" {
                let error = write_bytes_atomic(&dir.join(link), b"x").unwrap_err();
                assert_eq!(error.status, status, "{error}");
                assert!(error.message.contains(link), "{error}");
            }
        }
    }

    #[test]
    fn the_mode_of_a_replaced_file_is_kept_and_it_is_never_wider() {
        let dir = TestDir::new("target-modes");
        for wanted in [0o600, 0o640, 0o444, 0o755, 0o4711] {
            let path = dir.join(&format!("{wanted:o}"));
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).unwrap();
            let folder = dir.path().to_path_buf();
            write_atomic(&path, |w| {
                // While it is written, nobody else may read it.
                let temporary = fs::read_dir(&folder)?.flatten().find(|e| e.file_name().to_string_lossy().ends_with(".tmp")).unwrap();
                assert_eq!(mode(&temporary.path()), 0o600);
                w.write_all(b"new")
            })
            .unwrap();
            assert_eq!((mode(&path), read(&path).unwrap().as_slice()), (wanted, &b"new"[..]));
        }
        write_bytes_atomic(&dir.join("fresh"), b"x").unwrap();
        fs::write(dir.join("as others"), "x").unwrap();
        assert_eq!(mode(&dir.join("fresh")), mode(&dir.join("as others")));
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_left_alone() {
        let dir = TestDir::new("target-kinds");
        let pipe = std::ffi::CString::new(dir.join("pipe").to_str().unwrap()).unwrap();
        // SAFETY: a path that ends with a NUL.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        let _socket = UnixListener::bind(dir.join("socket")).unwrap();
        std::fs::create_dir(dir.join("folder")).unwrap();
        symlink("/dev/null", dir.join("device")).unwrap();
        symlink("pipe", dir.join("to a pipe")).unwrap();
        for (name, word) in [("pipe", "a pipe"), ("socket", "a socket"), ("folder", "a folder"), ("device", "a device"), ("to a pipe", "a pipe")] {
            let before = fs::symlink_metadata(dir.join(name)).unwrap();
            let error = write_bytes_atomic(&dir.join(name), b"x").unwrap_err();
            assert_eq!(error.status, Status::Io, "{error}");
            assert!(error.message.contains(word), "{error}");
            assert!(same_file(&before, &fs::symlink_metadata(dir.join(name)).unwrap()), "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
    }
}
