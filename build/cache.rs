//! A folder of what was made before, each entry a folder named after everything that went into it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Entries are never changed, and appear whole, so that several cargo processes may share one cache.
pub struct Cache {
    folder: PathBuf,
}

/// How many entries this process has begun to make.
static BEGUN: AtomicUsize = AtomicUsize::new(0);

impl Cache {
    /// In `folder`, which need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The folder of this name; if there is none, what `make` leaves in an empty one.
    pub fn entry(&self, name: &str, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
        let entry = self.folder.join(name);
        if entry.is_dir() {
            return Ok(entry);
        }
        let scratch = self.scratch().map_err(|e| format!("{}: {e}", self.folder.display()))?;
        let made = make(&scratch).and_then(|()| publish(&scratch, &entry));
        if made.is_err() {
            // The error is worth more than a clean cache: what stays is in nobody's way.
            let _ = fs::remove_dir_all(&scratch);
        }
        made.map(|()| entry)
    }

    /// An empty folder that nobody else uses: no two processes have one id at once, and what a dead one left is removed.
    fn scratch(&self) -> std::io::Result<PathBuf> {
        let number = BEGUN.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(format!("unfinished-{}-{number}", process::id()));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

fn publish(scratch: &Path, entry: &Path) -> Result<(), String> {
    match fs::rename(scratch, entry) {
        // Another process was faster: its contents come from the same inputs.
        Err(_) if entry.is_dir() => fs::remove_dir_all(scratch),
        renamed => renamed,
    }
    .map_err(|e| format!("{}: {e}", entry.display()))
}
