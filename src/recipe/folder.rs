//! The folder of a run: which of its stages are done, and where the present one is.
//!
//! A stage that is done has left its student; before that it has a checkpoint, and its best student where it may end early. Each is a file that appears as a
//! whole, and which of them are there is all that there is to know.

use super::stage::Recipe;
use crate::error::{Error, Result};
use crate::io::file;
use crate::io::folder::is_without_locks;
use crate::io::json::MAX_TEXT;
use crate::nn::Model;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The recipe as it was when the run began.
const RECIPE: &str = "recipe.json";
/// Locked by the run that is under way.
const LOCK: &str = "run.lock";

/// The folder of a run.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'a>(&'a Path);

/// As long as this lives no other run has the folder; a process that ends gives it back, however it ends. Nothing where files cannot be locked.
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Not left to the closing: a forked child has the file open too.
        let _ = self.0.unlock();
    }
}

impl<'a> Folder<'a> {
    /// Makes it, or finds it with the same recipe, and locks it.
    pub fn open(path: &'a Path, recipe: &Recipe) -> Result<(Self, Lock)> {
        match fs::create_dir(path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(Error::from_io(path, &e)),
            _ => {}
        }
        let lock = lock(path)?;
        let (own, text) = (path.join(RECIPE), recipe.text()?);
        if !is_there(&own)? {
            file::write_bytes_atomic(&own, text.as_bytes())?;
        }
        let found = Recipe::parse(&file::read_text(&own, MAX_TEXT as u64)?).map_err(|e| e.context(own.display()))?;
        if found != *recipe {
            let shown = path.display();
            return Err(Error::invalid(format!("{shown}: a run of another recipe ({RECIPE} has it); give this one a folder of its own, or remove that one")));
        }
        Ok((Self(path), lock))
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Its path.
    pub fn path(&self) -> &'a Path {
        self.0
    }

    /// Where the trainer of a stage has got to.
    pub fn checkpoint(&self, stage: usize) -> PathBuf {
        self.file(&format!("stage-{}.checkpoint.safetensors", stage + 1))
    }

    fn student(&self, stage: usize) -> PathBuf {
        self.file(&format!("stage-{}.safetensors", stage + 1))
    }

    fn best_student(&self, stage: usize) -> PathBuf {
        self.file(&format!("stage-{}.best.safetensors", stage + 1))
    }

    /// What a stage has made, if it is done.
    pub fn finished(&self, stage: usize) -> Result<Option<Model>> {
        open(&self.student(stage))
    }

    /// The best student of a stage so far, if one was kept.
    pub fn best(&self, stage: usize) -> Result<Option<Model>> {
        open(&self.best_student(stage))
    }

    /// Keeps the best student of a stage.
    pub fn keep_best(&self, stage: usize, student: &Model) -> Result<()> {
        student.save_file(&self.best_student(stage))
    }

    /// A stage is done: its student stays, what led to it goes.
    pub fn finish(&self, stage: usize, student: &Model) -> Result<()> {
        student.save_file(&self.student(stage))?;
        [self.checkpoint(stage), self.best_student(stage)].iter().try_for_each(|path| match fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::from_io(path, &e)),
            _ => Ok(()),
        })
    }
}

fn lock(folder: &Path) -> Result<Lock> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|e| Error::from_io(&path, &e))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::state(format!("{}: another run is under way in this folder", folder.display()))),
        Err(TryLockError::Error(e)) if !is_without_locks(&e) => Err(Error::from_io(&path, &e).context("could not lock")),
        _ => Ok(Lock(file)),
    }
}

/// Whether there is a file: what cannot be looked at is an error, not an absence.
pub fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|e| Error::from_io(path, &e))
}

fn open(path: &Path) -> Result<Option<Model>> {
    if is_there(path)? { Model::open(path).map(Some) } else { Ok(None) }
}
