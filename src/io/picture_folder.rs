//! What a folder of pictures holds: its files in the order of their names, the folders that are classes, and what was left out, with the reason.

use super::picture_header::is_picture;
use crate::cancel::Stop;
use crate::error::{Error, Result, Status};
use crate::memory;
use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Names that a folder and its classes may have together; each takes some memory.
const MAX_NAMES: usize = 1 << 24;
/// What was left out is listed up to so many; all are counted.
const MAX_LISTED: usize = 10_000;

/// Whether folders are classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classes {
    /// Where there are folders and no picture beside them.
    Auto,
    /// No: the pictures lie in the folder itself.
    None,
    /// Yes: each folder is a class, and what lies beside them is left out.
    Folders,
}

/// What was left out of a dataset.
#[derive(Clone, Debug)]
pub struct Skip {
    /// The file or folder; what is not UTF-8 of its name is replaced.
    pub path: String,
    /// Why.
    pub error: Error,
}

/// All that was left out.
#[derive(Clone, Debug, Default)]
pub struct Skipped {
    /// How many.
    pub count: u64,
    /// The first of them, at most 10,000.
    pub listed: Vec<Skip>,
}

impl Skipped {
    /// Notes one. What is no fault of the file, but of the system or the caller's wish, is an error of the whole.
    pub fn add(&mut self, path: &Path, mut error: Error) -> Result<()> {
        if matches!(error.status, Status::OutOfMemory | Status::Cancelled) {
            return Err(error);
        }
        self.count += 1;
        if self.listed.len() < MAX_LISTED {
            memory::check()?;
            let path = path.display().to_string();
            // The path stands beside the reason.
            if let Some(rest) = error.message.strip_prefix(&path).and_then(|rest| rest.strip_prefix(": ")) {
                error.message = rest.to_string();
            }
            memory::push(&mut self.listed, Skip { path, error }, "what was left out")?;
        }
        Ok(())
    }
}

/// Files of one folder, sorted by name.
#[derive(Debug)]
pub struct Files {
    /// Where they lie.
    pub folder: PathBuf,
    /// Their names; what they are, their contents say.
    pub names: Vec<OsString>,
}

/// What a folder holds.
#[derive(Debug)]
pub struct Listing {
    /// The folder itself; or a folder for each class, by its label, sorted by name.
    pub files: Vec<Files>,
    /// Whether they are classes.
    pub classes: bool,
    /// What is none of them.
    pub skipped: Skipped,
}

/// What one folder holds, each sorted by the bytes of the names.
struct Names {
    files: Vec<OsString>,
    folders: Vec<OsString>,
}

impl Listing {
    /// Looks into a folder and, where they are classes, into the folders in it, and no further. Links are followed.
    pub fn new(root: &Path, classes: Classes, stop: Stop) -> Result<Self> {
        let (mut skipped, mut room) = (Skipped::default(), MAX_NAMES);
        let names = read(root, &mut skipped, &mut room, stop)?;
        let classes = match classes {
            Classes::Auto => are_classes(root, &names)?,
            known => known == Classes::Folders,
        };
        if !classes {
            skip_all(root, &names.folders, "a folder, where only files are read", &mut skipped)?;
            let mut files = Vec::new();
            memory::push(&mut files, Files { folder: root.to_path_buf(), names: names.files }, "a folder's files")?;
            return Ok(Self { files, classes, skipped });
        }
        skip_all(root, &names.files, "beside the folders of the classes, where no picture is read", &mut skipped)?;
        let mut files = memory::with_capacity(names.folders.len(), "classes")?;
        for name in names.folders {
            files.push(class(root.join(name), &mut skipped, &mut room, stop)?);
        }
        Ok(Self { files, classes, skipped })
    }
}

/// A class whose folder cannot be read, or has no file, keeps its label: those of the others depend on it.
fn class(folder: PathBuf, skipped: &mut Skipped, room: &mut usize, stop: Stop) -> Result<Files> {
    match read(&folder, skipped, room, stop) {
        Ok(names) => {
            skip_all(&folder, &names.folders, "a folder in a class's folder, where only files are read", skipped)?;
            if names.files.is_empty() {
                skipped.add(&folder, Error::not_found("a class without a file; its label is kept for it"))?;
            }
            Ok(Files { folder, names: names.files })
        }
        // Too many names are too many for the whole.
        Err(error) if error.status == Status::Unsupported => Err(error),
        Err(error) => {
            skipped.add(&folder, error)?;
            Ok(Files { folder, names: vec![] })
        }
    }
}

fn skip_all(folder: &Path, names: &[OsString], why: &str, skipped: &mut Skipped) -> Result<()> {
    names.iter().try_for_each(|name| skipped.add(&folder.join(name), Error::unsupported(why)))
}

/// Folders are classes unless pictures lie beside them: then somebody has to say what is meant.
fn are_classes(root: &Path, names: &Names) -> Result<bool> {
    if names.folders.is_empty() {
        return Ok(false);
    }
    let Some(picture) = names.files.iter().find(|name| begins_as_picture(&root.join(name))) else { return Ok(true) };
    let (folders, first) = (names.folders.len(), Path::new(&names.folders[0]).display());
    Err(Error::invalid(format!(
        "{}: has pictures ({} and maybe more) beside {folders} folders ({first} and so on): say whether the folders are classes",
        root.display(),
        Path::new(picture).display()
    )))
}

fn begins_as_picture(path: &Path) -> bool {
    let mut start = [0; 8];
    super::file::open(path).is_ok_and(|(mut file, _)| file.read_exact(&mut start).is_ok() && is_picture(&start))
}

/// The names in a folder, of which there may be so many more.
fn read(folder: &Path, skipped: &mut Skipped, room: &mut usize, stop: Stop) -> Result<Names> {
    // A folder is read into the C library's own memory.
    let named = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::OutOfMemory => Error::out_of_memory(format!("{}: {e}", folder.display())),
        _ => Error::from_io(folder, &e),
    };
    let (mut names, mut left_out) = (Names { files: vec![], folders: vec![] }, vec![]);
    for entry in fs::read_dir(folder).map_err(named)? {
        stop.check()?;
        memory::check()?;
        let entry = entry.map_err(named)?;
        *room = room.checked_sub(1).ok_or_else(|| Error::unsupported(format!("{}: more than {MAX_NAMES} names are in it", folder.display())))?;
        let name = entry.file_name();
        match kind(&entry, &name) {
            Ok(Kind::File) => memory::push(&mut names.files, name, "a folder's names")?,
            Ok(Kind::Folder) => memory::push(&mut names.folders, name, "a folder's names")?,
            Err(error) => memory::push(&mut left_out, (name, error), "what was left out")?,
        }
    }
    // Folders have no order of their own that could be relied on.
    names.files.sort_unstable_by(by_bytes);
    names.folders.sort_unstable_by(by_bytes);
    left_out.sort_unstable_by(|a, b| by_bytes(&a.0, &b.0));
    left_out.into_iter().try_for_each(|(name, error)| skipped.add(&folder.join(name), error))?;
    Ok(names)
}

fn by_bytes(a: &OsString, b: &OsString) -> Ordering {
    a.as_encoded_bytes().cmp(b.as_encoded_bytes())
}

enum Kind {
    File,
    Folder,
}

fn kind(entry: &fs::DirEntry, name: &OsStr) -> Result<Kind> {
    if name.as_encoded_bytes().starts_with(b".") {
        return Err(Error::unsupported("hidden: its name begins with a dot"));
    }
    let path = entry.path();
    let named = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found("a link to nothing"),
        _ => Error::from_io(&path, &e),
    };
    // Only links need another look.
    let found = entry.file_type().map_err(named)?;
    let found = if found.is_symlink() { fs::metadata(&path).map_err(named)?.file_type() } else { found };
    match (found.is_file(), found.is_dir()) {
        (true, _) => Ok(Kind::File),
        (_, true) => Ok(Kind::Folder),
        _ => Err(Error::io("neither a file nor a folder")),
    }
}

#[cfg(test)]
#[path = "picture_folder_tests.rs"]
mod tests;
