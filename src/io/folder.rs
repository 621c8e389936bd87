//! Several files of a folder saved as one: after a failure or a kill at any moment the folder holds all of the old ones or all of the new ones.
//!
//! 1. Each new file is written under a name of its own beside its place, `.fewstep-new-<save>-<file>`, and flushed to the disk.
//! 2. A journal with the save's number and the files' names takes its place, `.fewstep-save.json`, in one step: the save is *committed*.
//! 3. The new files are renamed into their places, then the journal is removed.
//!
//! A killed or failed save of before 2 leaves only files that nobody looks at; the next save removes them. After 2 a reader takes each new file from
//! where it lies ([`Journal::locate`]), so that a folder opens as the new model also where it cannot be written to; the next save, and the next
//! opening where that is permitted, finishes 3. Savers exclude each other by a lock on the folder itself; files that are none of the save's stay.
//!
//! A folder may come from anywhere, and its journal with it: opening puts files into place only within the folder, and an interrupted save is not
//! finished over what others have written since ([`Journal::check_latest`]). Folders can be linked into each other, so a save's number begins with its
//! folder's ([`tag_of`]), and the files of other folders' saves are left alone.

use super::file::{self, sync_folder};
use super::hashing::Hashing;
use super::json::{self, shorten};
use super::json_writer;
use super::record::{NETWORK, PARTS, RECORD};
use super::target::{Target, folder_of, same_file};
use super::temporary::abandoned;
use super::weights;
use crate::error::{Error, Result, Status};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, Metadata, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

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
        let corrupt = |what: String| Error::corrupt(format!("{}: a damaged record of an unfinished save: {what}; save again, or delete it", path.display()));
        if fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) {
            return Err(corrupt("it is a link, which no save makes".into()));
        }
        let text = match file::read_text(&path, MAX_JOURNAL) {
            Err(e) if e.status == Status::NotFound => return Ok(None),
            text => text?,
        };
        let journal: Self = json::parse_record(&text, "its text").map_err(|e| corrupt(e.message))?;
        if journal.version != VERSION {
            return Err(Error::version(format!("{}: version {}; this library reads version {VERSION}", path.display(), journal.version)));
        }
        if journal.save.len() != 16 || !journal.save.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(corrupt(format!("save {:?}", shorten(&journal.save))));
        }
        // Opening a folder acts upon its journal: nothing but a model's own files is touched.
        let known = |part: &&String| PARTS.contains(&part.as_str());
        match journal.parts.iter().find(|p| !known(p)).or_else(|| journal.remove.iter().find(|name| !is_shard_part(name))) {
            Some(name) => Err(corrupt(format!("{:?} is no file that a save writes or removes", shorten(name)))),
            None => Ok(Some(journal)),
        }
    }

    /// Where a part lies now: under the save's own name, or already in its place.
    pub fn locate(&self, root: &Path, part: &str) -> PathBuf {
        let path = root.join(part);
        let new = Target::resolve(&path).map(|target| new_path(&target, &self.save, part));
        new.ok().filter(|new| self.parts.iter().any(|p| p == part) && new.is_file()).unwrap_or(path)
    }

    /// Refuses a save that was interrupted, and after which others have written into the folder: finishing it would replace or remove their newer files.
    pub fn check_latest(&self, root: &Path) -> Result<()> {
        // What would be replaced or removed is asked first: if the save still waits afterwards, that was not put there by it or by a later one.
        let replaces = |part: &str| {
            let target = Target::resolve(&root.join(part)).ok()?;
            Some(modified(target.path())? > modified(&new_path(&target, &self.save, part))?)
        };
        let removes = |name: &str| Some(modified(&root.join(name))? > modified(&root.join(JOURNAL))?);
        let replaced = self.parts.iter().find(|part| replaces(part) == Some(true));
        let newer = replaced.or_else(|| self.remove.iter().find(|name| removes(name) == Some(true)));
        let Some(newer) = newer else { return Ok(()) };
        let (newer, journal) = (root.join(newer), root.join(JOURNAL));
        let advice = format!("delete {} to leave the files as they are, or {} to have the save finished, or save again", journal.display(), newer.display());
        Err(Error::corrupt(format!("{}: was written after a save of this folder that was interrupted and is not finished: {advice}", newer.display())))
    }

    /// Whether all parts lie within the folder, behind links too.
    fn is_inside(&self, root: &Path) -> io::Result<bool> {
        let canonical = root.canonicalize()?;
        for part in &self.parts {
            let target = Target::resolve(&root.join(part)).map_err(|e| io::Error::other(e.message))?;
            if !target.folder().canonicalize()?.starts_with(&canonical) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts the new files into their places and removes the journal. Whatever of that was done already is passed over; of what this process has `written`
    /// itself, only if it is in its place.
    fn finish(&self, root: &Path, written: &[NewFile]) -> Result<()> {
        let mut folders = vec![root.to_path_buf()];
        // The journal must be on the disk before anything is put into place, and all that before the journal goes.
        sync_folder(root).map_err(|e| Error::from_io(root, &e))?;
        for part in &self.parts {
            let path = root.join(part);
            let target = Target::resolve(&path)?;
            match fs::rename(new_path(&target, &self.save, part), target.path()) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => match written.iter().find(|new| new.part == part) {
                    Some(new) if !new.lies_at(target.path()) => return Err(new.lost()),
                    _ => {}
                },
                result => result.map_err(|e| Error::from_io(&path, &e))?,
            }
            folders.push(target.folder().to_path_buf());
        }
        let network = root.join(NETWORK);
        // Behind a link they are not this folder's own.
        let own = fs::symlink_metadata(&network).is_ok_and(|m| m.is_dir());
        for name in self.remove.iter().filter(|_| own) {
            absent_is_fine(fs::remove_file(root.join(name))).map_err(|e| Error::from_io(&root.join(name), &e))?;
        }
        sync_all(folders)?;
        let journal = root.join(JOURNAL);
        absent_is_fine(fs::remove_file(&journal)).and_then(|()| sync_folder(root)).map_err(|e| Error::from_io(&journal, &e))
    }
}

/// When a file was last written to.
fn modified(path: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(path).and_then(|m| m.modified()).ok()
}

/// Finishes a committed save of this folder, if there is one, nobody is at it, all of it lies in the folder, and that is permitted. A reader needs it for
/// nothing: what could not be put into place is read from where it lies.
pub(super) fn finish_quietly(root: &Path) {
    if fs::symlink_metadata(root.join(JOURNAL)).is_err() {
        return;
    }
    if let Ok(_lock) = FolderLock::try_acquire(root)
        && let Ok(Some(journal)) = Journal::read(root)
        && journal.check_latest(root).is_ok()
        && journal.is_inside(root).unwrap_or(false)
    {
        let _ = journal.finish(root, &[]);
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

/// A file that a save has written and not yet put into its place.
struct NewFile {
    part: &'static str,
    new: PathBuf,
    target: Target,
    written: Metadata,
}

impl NewFile {
    /// Whether it is still where it was written.
    fn waits(&self) -> bool {
        fs::symlink_metadata(&self.new).is_ok_and(|found| found.is_file())
    }

    /// Whether this very file is what a path stands for.
    fn lies_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|found| same_file(&found, &self.written))
    }

    fn lost(&self) -> Error {
        Error::io(format!("{}: was written for {} and is gone: another program has removed it", self.new.display(), self.part))
    }
}

/// A save that is not yet committed; dropped so, it leaves the folder as it was.
pub(super) struct FolderSave {
    root: PathBuf,
    save: String,
    parts: Vec<NewFile>,
    remove: Vec<String>,
    /// Folders that this save made, outermost first.
    made: Vec<PathBuf>,
    committed: bool,
    _lock: Option<FolderLock>,
}

impl FolderSave {
    /// Makes the folder, excludes other savers, finishes an earlier save and clears up after those that were killed.
    pub fn begin(root: &Path) -> Result<Self> {
        let mut save = Self { root: root.to_path_buf(), save: String::new(), parts: vec![], remove: vec![], made: vec![], committed: false, _lock: None };
        save._lock = FolderLock::acquire(root, || save.make(root))?;
        save.save = new_number(root)?;
        for part in PARTS {
            save.make(folder_of(&root.join(part)))?;
        }
        match Journal::read(root) {
            // This save replaces what others have written since, and the journal; should it fail, all stays as it is.
            Ok(Some(journal)) if journal.check_latest(root).is_err() => return Ok(save),
            Ok(Some(journal)) => journal.finish(root, &[]).map_err(|e| e.context("an earlier save of this folder could not be finished"))?,
            // One that nobody can read is replaced by this save's.
            Err(e) if e.status != Status::CorruptFile => return Err(e),
            _ => {}
        }
        PARTS.into_iter().chain([JOURNAL]).for_each(|part| clear(root, part, save.own_tag()));
        Ok(save)
    }

    /// How the numbers of dead saves begin, as nobody else is at the folder; `None` where that is not known.
    fn own_tag(&self) -> Option<&str> {
        self._lock.is_some().then(|| &self.save[..TAG])
    }

    /// Makes a folder with those above it, unless they are there.
    fn make(&mut self, folder: &Path) -> Result<()> {
        let missing: Vec<&Path> = folder.ancestors().take_while(|f| !f.as_os_str().is_empty() && !f.is_dir()).collect();
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Ok(()) => self.made.push(folder.to_path_buf()),
                // Another saver was faster, or the path goes back and forth.
                Err(_) if folder.is_dir() => {}
                Err(e) => return Err(Error::from_io(folder, &e)),
            }
        }
        Ok(())
    }

    /// Writes a part under this save's own name; returns its SHA-256.
    pub fn write(&mut self, part: &'static str, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<String> {
        let path = self.root.join(part);
        let target = target_of(&self.root, part)?;
        let new = new_path(&target, &self.save, part);
        let (hash, written) = write_new(&new, &target, write).map_err(|e| Error::from_io(&path, &e))?;
        self.parts.push(NewFile { part, new, target, written });
        Ok(hash)
    }

    /// Lets an older model's file go when the save is committed.
    pub fn remove(&mut self, name: String) {
        self.remove.push(name);
    }

    /// Commits the save and puts the files into their places.
    pub fn commit(mut self) -> Result<()> {
        let journal = self.write_journal()?;
        let unfinished = "saved, and opens as the new model, but could not be put into place whole; the next save or opening of the folder goes on";
        let is_lost = |new: &NewFile| new.part != JOURNAL && !new.waits() && !new.lies_at(new.target.path());
        journal.finish(&self.root, &self.parts).map_err(|e| if self.parts.iter().any(is_lost) { e } else { e.context(unfinished) })
    }

    /// Makes the new files count.
    fn write_journal(&mut self) -> Result<Journal> {
        let names = self.parts.iter().map(|new| new.part.to_string()).collect();
        let journal = Journal { version: VERSION, save: self.save.clone(), parts: names, remove: std::mem::take(&mut self.remove) };
        let text = json_writer::text_of(&journal, MAX_JOURNAL as usize, JOURNAL)?;
        self.write(JOURNAL, |w| w.write_all(text.as_bytes()))?;
        let made = self.made.iter().map(|folder| folder_of(folder).to_path_buf());
        sync_all(self.parts.iter().map(|new| new.target.folder().to_path_buf()).chain(made).collect())?;
        if let Some(lost) = self.parts.iter().find(|new| !new.waits()) {
            return Err(lost.lost());
        }
        let NewFile { new, target, .. } = self.parts.last().ok_or_else(|| Error::internal("the journal was not written"))?;
        fs::rename(new, target.path()).map_err(|e| Error::from_io(target.path(), &e))?;
        self.committed = true;
        Ok(journal)
    }
}

impl Drop for FolderSave {
    fn drop(&mut self) {
        if !self.committed {
            self.parts.iter().for_each(|part| drop(fs::remove_file(&part.new)));
            // Only empty ones go: whoever else has put something there meanwhile keeps it.
            self.made.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
        }
    }
}

/// Makes a new file, removes it if that fails, and returns its SHA-256 and which file it is.
fn write_new(new: &Path, target: &Target, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<(String, Metadata)> {
    let file = target.creation().open(new)?;
    let mut hash = String::new();
    let filled = file::fill(&file, target, |w| {
        let mut hashing = Hashing::new(w);
        write(&mut hashing)?;
        hash = hashing.digest();
        Ok(())
    });
    let written = filled.and_then(|()| file.metadata());
    if written.is_err() {
        let _ = fs::remove_file(new);
    }
    Ok((hash, written?))
}

/// The place of a part, behind links, or of the journal, which is never one.
fn target_of(root: &Path, part: &str) -> Result<Target> {
    let path = root.join(part);
    if part == JOURNAL { Ok(Target::own(path)) } else { Target::resolve(&path) }
}

/// A part's own name in a save, in the folder of its place. The file's name is in it, so that saves of a folder and of one below do not meet.
fn new_path(target: &Target, save: &str, part: &str) -> PathBuf {
    target.folder().join(format!("{NEW}{save}-{}", file_name(part)))
}

/// The last component of a part's path.
fn file_name(part: &str) -> &str {
    part.rsplit_once('/').map_or(part, |(_, name)| name)
}

/// Removes what uncommitted saves have left of a part: those whose numbers begin with `tag`, and others' that nobody has written to for a day.
fn clear(root: &Path, part: &str, tag: Option<&str>) {
    let Ok(target) = target_of(root, part) else { return };
    let Ok(entries) = fs::read_dir(target.folder()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let save = name.to_str().and_then(|n| n.strip_prefix(NEW)?.strip_suffix(file_name(part))?.strip_suffix('-'));
        let Some(save) = save.filter(|s| s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit())) else { continue };
        if tag.is_some_and(|tag| save.starts_with(tag)) || entry.metadata().is_ok_and(|m| abandoned(&m)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Digits of a save's number that are its folder's.
const TAG: usize = 8;

/// A number that no other save has, and that begins with its folder's tag.
fn new_number(root: &Path) -> Result<String> {
    let found = fs::metadata(root).map_err(|e| Error::from_io(root, &e))?;
    // The hasher's keys come from the system.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_u128(SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos()));
    Ok(format!("{:08x}{:08x}", tag_of(&found), hasher.finish() as u32))
}

/// A folder's number, the same in every process and as long as the folder lives, wherever it is moved: files of saves into other folders, which links
/// have brought together, are told from its own by it.
#[cfg(unix)]
fn tag_of(folder: &Metadata) -> u32 {
    let number = std::os::unix::fs::MetadataExt::ino(folder);
    (number ^ (number >> 32)) as u32
}

#[cfg(not(unix))]
fn tag_of(_folder: &Metadata) -> u32 {
    0
}

/// Whether a path is that of an older model's shard or index, which a save may remove.
fn is_shard_part(path: &str) -> bool {
    path.strip_prefix(NETWORK).and_then(|rest| rest.strip_prefix('/')).is_some_and(weights::is_shard_or_index)
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

/// How often folders can vanish while they are made, before that is an error of the path.
const MOST_LOST: usize = 20;

/// Excludes other savers of a folder, in this process and in others, until it is dropped or its process dies.
struct FolderLock(File);

impl FolderLock {
    /// Makes the folder and waits for others, but not for ever. `None` where folders cannot be locked: two savers at once are not told apart there, and
    /// the hashes of a model's parts have the last word.
    fn acquire(root: &Path, mut make: impl FnMut() -> Result<()>) -> Result<Option<Self>> {
        let start = Instant::now();
        let mut lost = 0;
        loop {
            match make() {
                // Another save had made the folder above, failed, and removed it.
                Err(e) if e.status == Status::NotFound && lost < MOST_LOST => {
                    lost += 1;
                    continue;
                }
                made => made?,
            }
            match Self::try_acquire(root) {
                Ok(lock) => return Ok(Some(lock)),
                Err(TryLockError::Error(e)) if is_without_locks(&e) => return Ok(None),
                // Gone: another save had made the folder, failed, and removed it.
                Err(TryLockError::Error(e)) if e.kind() != io::ErrorKind::NotFound => return Err(Error::from_io(root, &e).context("could not lock the folder")),
                Err(_) if start.elapsed() >= PATIENCE => {
                    return Err(Error::io(format!("{}: another save has been at this folder for {} s", root.display(), PATIENCE.as_secs())));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn try_acquire(root: &Path) -> std::result::Result<Self, TryLockError> {
        let file = File::open(root).map_err(TryLockError::Error)?;
        file.try_lock()?;
        let lock = Self(file);
        let (locked, named) = lock.0.metadata().and_then(|m| Ok((m, fs::metadata(root)?))).map_err(TryLockError::Error)?;
        // A folder that was removed meanwhile keeps nobody out.
        if same_file(&locked, &named) { Ok(lock) } else { Err(TryLockError::WouldBlock) }
    }
}

/// Whether an error of locking says that the file system has no locks for folders, and not that this one could not be had or the folder not be opened.
pub(crate) fn is_without_locks(error: &io::Error) -> bool {
    if cfg!(not(unix)) {
        return true; // folders are not opened there
    }
    #[cfg(unix)]
    // The second of NFS, which locks nothing that is open for reading only.
    if matches!(error.raw_os_error(), Some(libc::ENOLCK | libc::EBADF | libc::EINVAL)) {
        return true;
    }
    error.kind() == io::ErrorKind::Unsupported
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
