//! One test for each reference case under `$FEWSTEP_GOLDEN_DIR` (default `tests/golden/data`), recorded from diffusers and PyTorch. Nothing is skipped: an
//! unknown class, an unread file or an empty folder fails. Tolerances are those of the recordings' README (`tests/golden/README.md`).

#[path = "cases/adamw.rs"]
mod adamw;
#[path = "cases/common.rs"]
mod common;
#[path = "cases/distill.rs"]
mod distill;
#[path = "cases/muon.rs"]
mod muon;
#[path = "cases/schedulers.rs"]
mod schedulers;
#[path = "cases/trajectory.rs"]
mod trajectory;
#[path = "cases/unet.rs"]
mod unet;

use common::{Check, fail};
use libtest_mimic::{Arguments, Trial};
use std::path::{Path, PathBuf};

fn main() {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, trials().unwrap_or_else(|e| vec![Trial::test("golden_dir", move || Err(e.into()))])).exit();
}

/// Every entry of the folder becomes a test or an error.
fn trials() -> Result<Vec<Trial>, String> {
    let given = std::env::var_os("FEWSTEP_GOLDEN_DIR");
    let dir = given.as_ref().map_or_else(|| PathBuf::from("tests/golden/data"), PathBuf::from);
    let mut trials = vec![Trial::test("teacher_trajectory", || trajectory::run().map_err(Into::into))];
    let mut seen = [false; 5];
    for entry in sorted(&dir)? {
        let name = file_name(&entry);
        match name.as_str() {
            "README.md" => {}
            "unet" => seen[0] = add_all(&mut trials, "unet", sorted(&entry)?, unet::run)?,
            "schedulers" => seen[1] = add_all(&mut trials, "schedulers", sorted(&entry)?, schedulers::run)?,
            "distill" => seen[2] = add_all(&mut trials, "distill", distill::cases(&entry)?, distill::run)?,
            "adamw.safetensors" => seen[3] = add_all(&mut trials, "adamw", vec![entry.clone()], adamw::run)?,
            "muon.safetensors" => seen[4] = add_all(&mut trials, "muon", vec![entry.clone()], muon::run)?,
            other => return Err(format!("{}: nobody reads '{other}'", dir.display())),
        }
    }
    // Ours has all kinds; another may have some.
    match ["unet", "schedulers", "distill", "adamw.safetensors", "muon.safetensors"].iter().zip(seen).find(|(_, seen)| !seen) {
        Some((missing, _)) if given.is_none() || !seen.contains(&true) => Err(format!("{}: '{missing}' is missing or empty", dir.display())),
        _ => Ok(trials),
    }
}

fn add_all(trials: &mut Vec<Trial>, kind: &str, cases: Vec<PathBuf>, run: fn(&Path) -> Check) -> Result<bool, String> {
    let any = !cases.is_empty();
    for case in cases {
        let name = format!("{kind}::{}", case.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned()));
        trials.push(Trial::test(name, move || run(&case).map_err(Into::into)));
    }
    Ok(any)
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| fail(dir.display(), e))?;
    let mut paths = entries.map(|e| e.map(|e| e.path()).map_err(|e| fail(dir.display(), e))).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}
