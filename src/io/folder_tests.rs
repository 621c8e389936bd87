use super::*;
use crate::io::record::{CONFIG, SCHEDULER, WEIGHTS};
use crate::io::test_util::TestDir;
use crate::io::{ModelFiles, SchedulerConfig, UNetConfig, save_model};
use crate::tensor::Tensor;
use serde_json::json;
use std::collections::BTreeMap;

/// Saves the n-th of many models, whose parts all differ: the channels of its config, its grid and its weights are made of n.
fn save(folder: &Path, n: usize) {
    try_save(folder, n).unwrap();
}

fn try_save(folder: &Path, n: usize) -> Result<()> {
    let config = UNetConfig { in_channels: n, ..UNetConfig::default() };
    let scheduler = SchedulerConfig { num_train_timesteps: 100 + n, ..SchedulerConfig::default() };
    let tensor = Tensor::from_slice(&[50], &[n as f32; 50]).unwrap();
    save_model(folder, &config, &[("conv_in.bias", &tensor)], &scheduler, Some(&json!({"version": 1, "pairs": [[n, -1]]})))
}

/// Which model a folder opens as; all parts must agree.
fn opened(folder: &Path) -> usize {
    let files = ModelFiles::open(folder, None).unwrap();
    let n = files.config.in_channels;
    assert_eq!(files.scheduler.unwrap().num_train_timesteps, 100 + n);
    assert_eq!(files.tensors.get("conv_in.bias").unwrap().as_slice::<f32>().unwrap(), [n as f32; 50]);
    if let Some((record, _)) = files.fewstep {
        assert_eq!(record["pairs"][0][0], n);
    }
    n
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// A committed save of model n whose process died after it had put `placed` files into their places.
fn die_after_commit(folder: &Path, n: usize, placed: usize) {
    let dir = TestDir::new(&format!("folder-source-{n}-{placed}"));
    save(dir.path(), n);
    let mut save = FolderSave::begin(folder).unwrap();
    for part in PARTS {
        let bytes = fs::read(dir.join(part)).unwrap();
        save.write(part, |w| w.write_all(&bytes)).unwrap();
    }
    let journal = save.write_journal().unwrap();
    journal.parts.iter().take(placed).for_each(|part| fs::rename(journal.locate(folder, part), folder.join(part)).unwrap());
}

#[test]
fn a_save_that_died_before_its_commit_changes_nothing_and_is_cleared_up() {
    let dir = TestDir::new("folder-uncommitted");
    for written in 0..=PARTS.len() {
        save(dir.path(), 1);
        let before = files(dir.path());
        let mut dead = FolderSave::begin(dir.path()).unwrap();
        PARTS.iter().take(written).for_each(|part| drop(dead.write(part, |w| w.write_all(b"half of it")).unwrap()));
        dead.committed = true; // so that it leaves everything as it lies
        drop(dead);
        assert_eq!(files(dir.path()).len(), before.len() + written);
        assert_eq!(opened(dir.path()), 1);
        save(dir.path(), 1);
        assert_eq!(files(dir.path()), before);
    }
}

#[test]
fn a_save_that_died_after_its_commit_opens_as_the_new_model_and_is_finished() {
    let expected = TestDir::new("folder-expected");
    save(expected.path(), 2);
    for (placed, with_old) in (0..=PARTS.len()).flat_map(|placed| [(placed, true), (placed, false)]) {
        let dir = TestDir::new("folder-committed");
        fs::write(dir.join("foreign.txt"), "stays").unwrap();
        if with_old {
            save(dir.path(), 1);
        }
        die_after_commit(dir.path(), 2, placed);
        {
            // While another saver is at the folder, and where it cannot be written to: nothing is finished, all is read from where it lies.
            let _lock = FolderLock::try_acquire(dir.path()).unwrap();
            assert_eq!(opened(dir.path()), 2, "{placed}");
            assert_eq!(opened(&dir.join(UNET)), 2, "{placed}");
            if with_old || placed > 0 {
                assert_eq!(opened(&dir.join(WEIGHTS)), 2, "{placed}");
            }
            assert!(dir.join(JOURNAL).exists());
        }
        if placed > 0 {
            assert_eq!(opened(&dir.join(WEIGHTS)), 2, "{placed}");
        }
        assert_eq!(opened(&dir.join(UNET)), 2);
        let mut found = files(dir.path());
        assert_eq!(found.remove("foreign.txt").unwrap(), b"stays");
        assert_eq!(found, files(expected.path()));
    }
}

#[test]
fn the_next_save_finishes_what_was_committed_first() {
    let dir = TestDir::new("folder-next");
    save(dir.path(), 1);
    die_after_commit(dir.path(), 2, 2);
    // This one fails, so the folder holds what was committed.
    let mut failing = FolderSave::begin(dir.path()).unwrap();
    assert!(failing.write(CONFIG, |_| Err(io::Error::other("disk full"))).unwrap_err().message.contains("disk full"));
    drop(failing);
    assert!(!dir.join(JOURNAL).exists());
    assert_eq!((opened(dir.path()), files(dir.path()).len()), (2, PARTS.len()));
    save(dir.path(), 3);
    assert_eq!(opened(dir.path()), 3);
}

#[test]
fn a_failed_first_save_leaves_no_folder() {
    let dir = TestDir::new("folder-first");
    let root = dir.join("m");
    let mut failing = FolderSave::begin(&root).unwrap();
    failing.write(WEIGHTS, |w| w.write_all(b"x")).unwrap();
    drop(failing);
    assert!(!root.exists());
}

#[test]
fn journals_are_not_trusted() {
    let dir = TestDir::new("folder-journal");
    save(dir.path(), 1);
    let before = files(dir.path());
    let good = "0123456789abcdef";
    for (journal, status) in [
        (json!({"version": 2, "save": good, "parts": [], "remove": []}), Status::VersionMismatch),
        (json!({"version": 1, "save": "../../etc/passwd", "parts": [], "remove": []}), Status::CorruptFile),
        (json!({"version": 1, "save": good, "parts": ["../config.json"], "remove": []}), Status::CorruptFile),
        (json!({"version": 1, "save": good, "parts": ["/etc/passwd"], "remove": []}), Status::CorruptFile),
        (json!({"version": 1, "save": good, "parts": [], "remove": ["unet/config.json"]}), Status::CorruptFile),
        (json!({"version": 1, "save": good, "parts": [], "remove": ["unet/../diffusion_pytorch_model-00001-of-00002.safetensors"]}), Status::CorruptFile),
        (json!({"version": 1}), Status::CorruptFile),
        (json!("x".repeat(MAX_JOURNAL as usize)), Status::CorruptFile),
    ] {
        fs::write(dir.join(JOURNAL), journal.to_string()).unwrap();
        let error = ModelFiles::open(dir.path(), None).map(drop).unwrap_err();
        assert_eq!(error.status, status, "{error}");
        assert!(error.message.contains(JOURNAL), "{error}");
        if status == Status::VersionMismatch {
            assert_eq!(try_save(dir.path(), 2).unwrap_err().status, status);
        }
    }
    fs::remove_file(dir.join(JOURNAL)).unwrap();
    assert_eq!(files(dir.path()), before);
    // A damaged one does not stand in the way of a new model.
    fs::write(dir.join(JOURNAL), "{").unwrap();
    save(dir.path(), 2);
    assert_eq!((opened(dir.path()), files(dir.path()).len()), (2, PARTS.len()));
}

#[cfg(unix)]
#[test]
fn a_journal_removes_nothing_behind_a_link() {
    let (dir, elsewhere) = (TestDir::new("folder-link"), TestDir::new("folder-elsewhere"));
    let shard = "diffusion_pytorch_model-00001-of-00002.safetensors";
    fs::write(elsewhere.join(shard), "somebody's").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), dir.join(UNET)).unwrap();
    let journal = json!({"version": 1, "save": "0123456789abcdef", "parts": [], "remove": [format!("unet/{shard}")]});
    fs::write(dir.join(JOURNAL), journal.to_string()).unwrap();
    finish_quietly(dir.path());
    assert!(!dir.join(JOURNAL).exists() && elsewhere.join(shard).exists());
}

#[cfg(unix)]
#[test]
fn links_among_the_parts_stay() {
    use std::os::unix::fs::symlink;
    let (dir, disk) = (TestDir::new("folder-links"), TestDir::new("folder-disk"));
    fs::create_dir_all(disk.join("unet")).unwrap();
    symlink(disk.join("unet"), dir.join(UNET)).unwrap();
    fs::create_dir(dir.join("scheduler")).unwrap();
    symlink(disk.join("s.json"), dir.join(SCHEDULER)).unwrap();
    for n in [1, 2] {
        save(dir.path(), n);
        assert_eq!(opened(dir.path()), n);
    }
    die_after_commit(dir.path(), 3, 1);
    let _lock = FolderLock::try_acquire(dir.path()).unwrap();
    assert_eq!(opened(dir.path()), 3);
    drop(_lock);
    assert_eq!(opened(dir.path()), 3);
    assert!(dir.join(UNET).is_symlink() && dir.join(SCHEDULER).is_symlink());
    assert_eq!(files(disk.path()).into_keys().collect::<Vec<_>>(), ["s.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"]);
}

#[test]
fn savers_wait_for_each_other_and_readers_see_whole_models() {
    let dir = TestDir::new("folder-threads");
    save(dir.path(), 1);
    std::thread::scope(|scope| {
        for saver in 0..2 {
            let root = dir.path();
            scope.spawn(move || (0..25).for_each(|n| save(root, 1 + 2 * n + saver)));
        }
        for _ in 0..2 {
            scope.spawn(|| (0..100).for_each(|_| assert!(opened(dir.path()) <= 50)));
        }
    });
    assert_eq!(files(dir.path()).len(), PARTS.len());
}

#[test]
fn a_plain_folder_that_is_saved_over_is_read_as_one_model() {
    let dir = TestDir::new("folder-plain");
    for _ in 0..20 {
        save(dir.path(), 1);
        fs::remove_file(dir.join(RECORD)).unwrap(); // as another program's folder, without hashes
        std::thread::scope(|scope| {
            scope.spawn(|| save(dir.path(), 2));
            (0..10).for_each(|_| assert!(opened(dir.path()) <= 2));
        });
    }
}
