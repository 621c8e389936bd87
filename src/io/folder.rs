//! Several files of a folder saved as one: after a failure or a kill at any moment the folder holds all of the old ones or all of the new ones.
//!
//! 1. Each new file is written under a name of its own beside its place, `.fewstep-new-<save>-<file>`, and flushed to the disk.
//! 2. A journal with the save's number and the files' names takes its place, `.fewstep-save.json`, in one step: the save is *committed*.
//! 3. The new files are renamed into their places, then the journal is removed.
//!
//! A killed or failed save of before 2 leaves only files that nobody looks at; the next save removes them. After 2 a reader takes each new file from
//! where it lies ([`Journal::locate`]), so that a folder opens as the new model also where it cannot be written to; the next save, and the next
//! opening where that is permitted, finishes 3. Savers exclude each other by a lock on the folder itself; files that are none of the save's stay.

use super::file::{self, sync_folder};
use super::hashing::Hashing;
use super::json;
use super::record::{PARTS, RECORD, UNET};
use super::target::Target;
use super::temporary::abandoned;
use super::weights;
use crate::error::{Error, Result, Status};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The name of a committed save's journal.
const JOURNAL: &str = ".fewstep-save.json";
/// How the names of new files begin; sixteen digits and the file's name follow.
const NEW: &str = ".fewstep-new-";
/// Version of the journal; raised when an older reader would misread it.
const VERSION: u32 = 1;
/// The longest journal: a few names, and those of an older model's shards.
const MAX_JOURNAL: u64 = 1 << 20;
/// How long a save waits for another one of the same folder.
const PATIENCE: Duration = Duration::from_secs(60);

/// A committed save that is not yet finished.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    version: u32,
    /// Sixteen hexadecimal digits.
    save: String,
    /// The files that are new, by their paths in the folder.
    parts: Vec<String>,
    /// The files of an older model that go.
    remove: Vec<String>,
}

impl Journal {
    /// The journal of a folder, if it has one.
    pub fn read(root: &Path) -> Result<Option<Self>> {
        let path = root.join(JOURNAL);
        let text = match file::read_text(&path, MAX_JOURNAL) {
            Err(e) if e.status == Status::NotFound => return Ok(None),
            text => text?,
        };
        let corrupt = |what: String| Error::corrupt(format!("{}: a damaged record of an unfinished save: {what}; save again, or delete it", path.display()));
        let journal: Self = json::parse_record(&text, "its text").map_err(|e| corrupt(e.message))?;
        if journal.version != VERSION {
            return Err(Error::version(format!("{}: version {}; this library reads version {VERSION}", path.display(), journal.version)));
        }
        if journal.save.len() != 16 || !journal.save.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(corrupt(format!("save {:?}", journal.save)));
        }
        // Opening a folder acts upon its journal, and a folder may come from anywhere: nothing but a model's own files is touched.
        let known = |part: &&String| PARTS.contains(&part.as_str()) || *part == JOURNAL;
        match journal.parts.iter().find(|p| !known(p)).or_else(|| journal.remove.iter().find(|name| !is_shard_part(name))) {
            Some(name) => Err(corrupt(format!("{name:?} is no file that a save writes or removes"))),
            None => Ok(Some(journal)),
        }
    }

    /// Where a part lies now: under the save's own name, or already in its place.
    pub fn locate(&self, root: &Path, part: &str) -> PathBuf {
        let path = root.join(part);
        let new = Target::resolve(&path).map(|target| new_path(&target, &self.save, part));
        new.ok().filter(|new| self.parts.iter().any(|p| p == part) && new.is_file()).unwrap_or(path)
    }

    /// Puts the new files into their places and removes the journal. Whatever of that was done already is passed over.
    fn finish(&self, root: &Path) -> Result<()> {
        let mut folders = vec![root.to_path_buf()];
        // The journal must be on the disk before anything is put into place, and all that before the journal goes.
        sync_folder(root).map_err(|e| Error::from_io(root, &e))?;
        for part in &self.parts {
            let path = root.join(part);
            let target = Target::resolve(&path)?;
            absent_is_fine(fs::rename(new_path(&target, &self.save, part), target.path())).map_err(|e| Error::from_io(&path, &e))?;
            folders.push(target.folder().to_path_buf());
        }
        let unet = root.join(UNET);
        // Behind a link they are not this folder's own.
        let own = fs::symlink_metadata(&unet).is_ok_and(|m| m.is_dir());
        for name in self.remove.iter().filter(|_| own) {
            absent_is_fine(fs::remove_file(root.join(name))).map_err(|e| Error::from_io(&root.join(name), &e))?;
        }
        sync_all(folders)?;
        let journal = root.join(JOURNAL);
        absent_is_fine(fs::remove_file(&journal)).and_then(|()| sync_folder(root)).map_err(|e| Error::from_io(&journal, &e))
    }
}

/// Finishes a committed save of this folder, if there is one, nobody is at it, and that is permitted. A reader needs it for nothing: what could not be
/// put into place is read from where it lies.
pub(super) fn finish_quietly(root: &Path) {
    if !root.join(JOURNAL).is_file() {
        return;
    }
    if let Ok(_lock) = FolderLock::try_acquire(root)
        && let Ok(Some(journal)) = Journal::read(root)
    {
        let _ = journal.finish(root);
    }
}

/// What changes whenever a save changes a folder: between two equal states without a journal, nobody has put anything into place.
#[derive(PartialEq)]
pub(super) struct FolderState {
    journal: Option<String>,
    record: Option<String>,
}

impl FolderState {
    pub fn of(root: &Path) -> Result<Self> {
        let text = |name: &str| match json::read_text(&root.join(name)) {
            Err(e) if e.status == Status::NotFound => Ok(None),
            text => text.map(Some),
        };
        Ok(Self { journal: text(JOURNAL)?, record: text(RECORD)? })
    }

    /// Whether no save is being put into place.
    pub fn is_settled(&self) -> bool {
        self.journal.is_none()
    }
}

/// A save that is not yet committed; dropped so, it leaves the folder as it was.
pub(super) struct FolderSave {
    root: PathBuf,
    save: String,
    parts: Vec<(&'static str, PathBuf, Target)>,
    remove: Vec<String>,
    /// Folders that this save made, outermost first.
    made: Vec<PathBuf>,
    committed: bool,
    _lock: Option<FolderLock>,
}

impl FolderSave {
    /// Makes the folder, excludes other savers, finishes an earlier save and clears up after those that were killed.
    pub fn begin(root: &Path) -> Result<Self> {
        let mut save = Self { root: root.to_path_buf(), save: new_number(), parts: vec![], remove: vec![], made: vec![], committed: false, _lock: None };
        save.make(root)?;
        save._lock = FolderLock::acquire(root)?;
        match Journal::read(root) {
            Ok(Some(journal)) => journal.finish(root).map_err(|e| e.context("an earlier save of this folder could not be finished"))?,
            // One that nobody can read is replaced by this save's.
            Err(e) if e.status != Status::CorruptFile => return Err(e),
            _ => {}
        }
        for part in PARTS {
            save.make(root.join(part).parent().unwrap_or(root))?;
            clear(root, part, save._lock.is_some());
        }
        clear(root, JOURNAL, save._lock.is_some());
        Ok(save)
    }

    /// Makes a folder, unless it is there.
    fn make(&mut self, folder: &Path) -> Result<()> {
        if !folder.is_dir() {
            file::create_folder(folder)?;
            self.made.push(folder.to_path_buf());
        }
        Ok(())
    }

    /// Writes a part under this save's own name; returns its SHA-256.
    pub fn write(&mut self, part: &'static str, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<String> {
        let path = self.root.join(part);
        let target = Target::resolve(&path)?;
        let new = new_path(&target, &self.save, part);
        let hash = write_new(&new, &target, write).map_err(|e| Error::from_io(&path, &e));
        self.parts.push((part, new, target));
        hash
    }

    /// Lets an older model's file go when the save is committed.
    pub fn remove(&mut self, name: String) {
        self.remove.push(name);
    }

    /// Commits the save and puts the files into their places.
    pub fn commit(mut self) -> Result<()> {
        let journal = self.write_journal()?;
        let unfinished = "saved, and opens as the new model, but could not be put into place whole; the next save or opening of the folder goes on";
        journal.finish(&self.root).map_err(|e| e.context(unfinished))
    }

    /// Makes the new files count.
    fn write_journal(&mut self) -> Result<Journal> {
        let names = self.parts.iter().map(|(part, ..)| part.to_string()).collect();
        let journal = Journal { version: VERSION, save: self.save.clone(), parts: names, remove: std::mem::take(&mut self.remove) };
        let text = serde_json::to_vec(&journal).map_err(|e| Error::internal(format!("{JOURNAL}: {e}")))?;
        self.write(JOURNAL, |w| w.write_all(&text))?;
        sync_all(self.parts.iter().map(|(_, _, target)| target.folder().to_path_buf()).collect())?;
        let (_, new, target) = self.parts.last().ok_or_else(|| Error::internal("the journal was not written"))?;
        fs::rename(new, target.path()).map_err(|e| Error::from_io(target.path(), &e))?;
        self.committed = true;
        Ok(journal)
    }
}

impl Drop for FolderSave {
    fn drop(&mut self) {
        if !self.committed {
            self.parts.iter().for_each(|(_, new, _)| drop(fs::remove_file(new)));
            // Only empty ones go: whoever else has put something there meanwhile keeps it.
            self.made.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
        }
    }
}

/// Makes a new file, removes it if that fails, and returns its SHA-256.
fn write_new(new: &Path, target: &Target, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<String> {
    let file = target.creation().open(new)?;
    let mut hash = String::new();
    file::fill(&file, target, |w| {
        let mut hashing = Hashing::new(w);
        write(&mut hashing)?;
        hash = hashing.digest();
        Ok(())
    })?;
    Ok(hash)
}

/// A part's own name in a save, in the folder of its place. The file's name is in it, so that saves of a folder and of one below do not meet.
fn new_path(target: &Target, save: &str, part: &str) -> PathBuf {
    target.folder().join(format!("{NEW}{save}-{}", file_name(part)))
}

/// The last component of a part's path.
fn file_name(part: &str) -> &str {
    part.rsplit_once('/').map_or(part, |(_, name)| name)
}

/// Removes what uncommitted saves have left of a part: nobody is at it while the folder is locked.
fn clear(root: &Path, part: &str, locked: bool) {
    let Ok(target) = Target::resolve(&root.join(part)) else { return };
    let Ok(entries) = fs::read_dir(target.folder()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let save = name.to_str().and_then(|n| n.strip_prefix(NEW)?.strip_suffix(file_name(part))?.strip_suffix('-'));
        let ours = save.is_some_and(|s| s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit()));
        if ours && (locked || entry.metadata().is_ok_and(|m| abandoned(&m))) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A number that no other save has: the hasher's keys come from the system.
fn new_number() -> String {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_u128(std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos()));
    format!("{:016x}", hasher.finish())
}

/// Whether a path is that of an older model's shard or index, which a save may remove.
fn is_shard_part(path: &str) -> bool {
    path.strip_prefix(UNET).and_then(|rest| rest.strip_prefix('/')).is_some_and(weights::is_shard_or_index)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Flushes folders to the disk, each once.
fn sync_all(mut folders: Vec<PathBuf>) -> Result<()> {
    folders.sort();
    folders.dedup();
    folders.iter().try_for_each(|folder| sync_folder(folder).map_err(|e| Error::from_io(folder, &e)))
}

/// Excludes other savers of a folder, in this process and in others, until it is dropped or its process dies.
struct FolderLock(File);

impl FolderLock {
    /// Waits for others, but not for ever. `None` where folders cannot be locked: two savers at once are not told apart there, and the hashes of a
    /// model's parts have the last word.
    fn acquire(root: &Path) -> Result<Option<Self>> {
        let start = Instant::now();
        loop {
            match Self::try_acquire(root) {
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::io(format!("{}: another save has been at this folder for {} s", root.display(), PATIENCE.as_secs())));
                }
                Err(TryLockError::Error(_)) => return Ok(None),
                Ok(lock) => return Ok(Some(lock)),
            }
        }
    }

    fn try_acquire(root: &Path) -> std::result::Result<Self, TryLockError> {
        let file = File::open(root).map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(Self(file))
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Not left to the closing: a forked child has the folder open too.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
