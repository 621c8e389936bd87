//! Temporary files that end with their writers: a name is taken with a lock on the file, so that others can tell a dead writer's from a living one's.
//!
//! A process that is killed while it writes leaves its temporary file behind. Its lock goes with it, whatever number it had and in whichever
//! container it ran, and the next writer in the folder removes the file. The protocol: a writer makes the file, locks it, and makes sure that its name
//! still stands for it; whoever removes one locks it first, makes sure of the same, and removes it under the lock.

use super::target::{Target, same_file};
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names tried before giving up; each that is taken belongs to a living writer, or to somebody else.
const MAX_NAMES: u64 = 1 << 20;
/// How many names after the one that was free are looked at for leftovers, in a folder of any size.
const PROBED: u64 = 16;
/// How many entries of a folder are looked through for other leftovers: saving ten thousand pictures into one folder must stay linear.
const LISTED: usize = 4096;
/// Where a file system has no locks, a leftover is what nobody has written to for so long.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A temporary file that disappears unless it is renamed, also when the writer panics or dies.
pub(super) struct TempFile {
    path: PathBuf,
    file: File,
    renamed: bool,
}

impl TempFile {
    /// Makes one beside `target`, and removes what dead writers left there.
    pub fn create(target: &Target) -> io::Result<Self> {
        let folder = target.folder();
        for n in 0..MAX_NAMES {
            if let Some(temp) = Self::claim(folder.join(name(n)), &target.creation())? {
                for near in n + 1..=n + PROBED {
                    remove_if_dead(&folder.join(name(near)), Naming::Locked);
                }
                remove_listed(folder);
                return Ok(temp);
            }
        }
        Err(io::Error::other(format!("{MAX_NAMES} temporary names are taken")))
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes the place of `path`. The lock is held until that is done.
    pub fn rename_to(mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.renamed = true;
        // Not left to the closing: a forked child may have the file open too.
        let _ = self.file.unlock();
        Ok(())
    }

    /// Makes and locks the file of this name; `None` when the name is somebody else's.
    fn claim(path: PathBuf, creation: &OpenOptions) -> io::Result<Option<Self>> {
        let file = match creation.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && remove_if_dead(&path, Naming::Locked) => creation.open(&path),
            result => result,
        };
        let file = match file {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(e) => return Err(e),
        };
        match file.try_lock() {
            // Another writer has seen it without a lock, and is removing it.
            Err(TryLockError::WouldBlock) => Ok(None),
            Ok(()) if !stands_for(&path, &file) => Ok(None),
            // A file system without locks: nobody removes a file so young.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(Self { path, file, renamed: false })),
        }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = std::fs::remove_file(&self.path);
            let _ = self.file.unlock();
        }
    }
}

/// The n-th name. Short and without the target's, which may already be as long as a name can be.
fn name(n: u64) -> String {
    format!(".fewstep-{n}.tmp")
}

/// How a temporary file's name came about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Naming {
    /// `.fewstep-<n>.tmp`, locked by its writer.
    Locked,
    /// `.fewstep-<process>-<n>.tmp`, without a lock: earlier builds.
    OfProcess(u32),
}

/// Whether a name is one of ours.
fn naming(name: &str) -> Option<Naming> {
    let middle = name.strip_prefix(".fewstep-")?.strip_suffix(".tmp")?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u64>().is_ok();
    match middle.split_once('-') {
        None => number(middle).then_some(Naming::Locked),
        Some((process, n)) => number(n).then(|| process.parse().ok().filter(|_| number(process)).map(Naming::OfProcess)).flatten(),
    }
}

/// Removes the leftovers among a folder's first entries.
fn remove_listed(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.take(LISTED).flatten() {
        if let Some(naming) = entry.file_name().to_str().and_then(naming) {
            remove_if_dead(&entry.path(), naming);
        }
    }
}

/// Removes a temporary file whose writer is gone; true when it did. Where there is doubt, it stays.
fn remove_if_dead(path: &Path, naming: Naming) -> bool {
    let Ok(file) = open_leftover(path) else { return false };
    let Ok(metadata) = file.metadata() else { return false };
    let dead = metadata.is_file()
        && match (file.try_lock(), naming) {
            (Err(TryLockError::WouldBlock), _) => false,
            (Ok(()), Naming::Locked) => true,
            (Ok(()), Naming::OfProcess(process)) => open_nowhere_else(&file) || (abandoned(&metadata) && !lives(process)),
            (Err(TryLockError::Error(_)), _) => abandoned(&metadata),
        };
    let removed = dead && stands_for(path, &file) && std::fs::remove_file(path).is_ok();
    let _ = file.unlock();
    removed
}

/// Whether nobody has written to a file for a day.
pub(super) fn abandoned(metadata: &Metadata) -> bool {
    metadata.modified().ok().and_then(|t| t.elapsed().ok()).is_some_and(|age| age > ABANDONED)
}

/// Whether a path names this open file, not another that has taken its place.
fn stands_for(path: &Path, file: &File) -> bool {
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => same_file(&named, &open),
        _ => false,
    }
}

/// Opens what may be a leftover, for writing where that is permitted (some network file systems lock nothing else), without following links or waiting.
fn open_leftover(path: &Path) -> io::Result<File> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let open = |write: bool| {
        let mut options = OpenOptions::new();
        options.read(true).write(write);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
        options.open(path)
    };
    open(true).or_else(|_| open(false))
}

/// Whether no process has the file open but this one, once. The system gives a lease only then, and sees every container; it is given back at once.
#[cfg(target_os = "linux")]
fn open_nowhere_else(file: &File) -> bool {
    use std::os::fd::AsRawFd;
    /// As in asm-generic/fcntl.h; the libc crate has no name for it.
    const F_SETSIG: libc::c_int = 10;
    let fd = file.as_raw_fd();
    // SAFETY: fcntl on an open file. Whoever opens it meanwhile makes the system send a signal: one that is ignored by default, not SIGIO, which kills.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn open_nowhere_else(_file: &File) -> bool {
    false
}

/// Whether a process of this number is seen from here.
#[cfg(unix)]
fn lives(process: u32) -> bool {
    let Ok(process) = libc::pid_t::try_from(process) else { return false };
    // SAFETY: signal 0 is never sent.
    process > 0 && (unsafe { libc::kill(process, 0) } == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH))
}

#[cfg(not(unix))]
fn lives(_process: u32) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::file::{read, write_atomic, write_bytes_atomic};
    use crate::io::test_util::TestDir;
    use std::fs;

    fn names(dir: &TestDir) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_our_own_names_are_ours() {
        for (name, expected) in [
            (".fewstep-0.tmp", Some(Naming::Locked)),
            (".fewstep-17.tmp", Some(Naming::Locked)),
            (".fewstep-123-4.tmp", Some(Naming::OfProcess(123))),
            (".fewstep-.tmp", None),
            (".fewstep--1.tmp", None),
            (".fewstep-1-.tmp", None),
            (".fewstep-+1.tmp", None),
            (".fewstep-1-2-3.tmp", None),
            (".fewstep-1.tmp2", None),
            (".fewstep-a.tmp", None),
            ("fewstep-1.tmp", None),
            (".fewstep-99999999999-1.tmp", None),
        ] {
            assert_eq!(naming(name), expected, "{name}");
        }
    }

    #[test]
    fn leftovers_of_dead_writers_are_removed_and_nothing_else() {
        let dir = TestDir::new("temporary-dead");
        for n in [0, 1, 5, 9, 40] {
            fs::write(dir.join(&name(n)), "left by a killed writer").unwrap();
        }
        for other in [".fewstep-x.tmp", ".other-1.tmp", "1.tmp"] {
            fs::write(dir.join(other), "not ours").unwrap();
        }
        fs::create_dir(dir.join(&name(3))).unwrap();
        write_bytes_atomic(&dir.join("a"), b"x").unwrap();
        assert_eq!(names(&dir), [".fewstep-3.tmp", ".fewstep-x.tmp", ".other-1.tmp", "1.tmp", "a"]);
    }

    #[test]
    fn near_leftovers_are_found_in_folders_of_any_size() {
        let dir = TestDir::new("temporary-large");
        (0..LISTED + 500).for_each(|n| fs::write(dir.join(&format!("{n}.png")), "").unwrap());
        (0..=PROBED).for_each(|n| fs::write(dir.join(&name(n)), "left").unwrap());
        write_bytes_atomic(&dir.join("0.png"), b"x").unwrap();
        assert_eq!(names(&dir).len(), LISTED + 500);
    }

    #[test]
    fn living_writers_keep_their_files() {
        let dir = TestDir::new("temporary-living");
        // A save within a save, in one folder: the outer one's file is there all the while.
        write_atomic(&dir.join("outer"), |w| {
            write_bytes_atomic(&dir.join("inner"), b"inner").map_err(|e| io::Error::other(e.message))?;
            assert_eq!(names(&dir), [".fewstep-0.tmp", "inner"]);
            w.write_all(b"outer")
        })
        .unwrap();
        assert_eq!(names(&dir), ["inner", "outer"]);
        assert_eq!(read(&dir.join("outer")).unwrap(), b"outer");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn leftovers_of_older_versions_stay_while_somebody_has_them_open() {
        let dir = TestDir::new("temporary-older");
        // Whether the number is that of a living process does not matter: numbers are used again, and containers have their own.
        let (own, other) = (format!(".fewstep-{}-0.tmp", std::process::id()), ".fewstep-4000000-0.tmp");
        let writers = [&*own, other].map(|name| File::create(dir.join(name)).unwrap());
        write_bytes_atomic(&dir.join("a"), b"x").unwrap();
        assert_eq!(names(&dir).len(), 3);
        drop(writers);
        write_bytes_atomic(&dir.join("a"), b"x").unwrap();
        assert_eq!(names(&dir), ["a"]);
    }

    #[test]
    fn a_thousand_taken_names_are_passed_over() {
        let dir = TestDir::new("temporary-taken");
        (0..1000).for_each(|n| fs::create_dir(dir.join(&name(n))).unwrap());
        write_bytes_atomic(&dir.join("a"), b"x").unwrap();
        assert_eq!(names(&dir).len(), 1001);
    }

    #[test]
    fn threads_that_save_into_one_folder_do_not_disturb_each_other() {
        let dir = TestDir::new("temporary-threads");
        std::thread::scope(|scope| {
            for t in 0..4 {
                let dir = &dir;
                scope.spawn(move || (0..50).for_each(|n| write_bytes_atomic(&dir.join(&format!("{t}-{}", n % 5)), &[n; 100]).unwrap()));
            }
        });
        assert_eq!(names(&dir).len(), 20);
        assert!(names(&dir).iter().all(|n| read(&dir.join(n)).unwrap().len() == 100));
    }
}
