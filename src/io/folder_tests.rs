use super::*;
use crate::io::record::{CONFIG, SCHEDULER, WEIGHTS};
use crate::io::test_util::{KNOWN, TestDir, network, open};
use crate::io::{ModelFiles, SchedulerConfig, save_model};
use crate::tensor::Tensor;
use serde_json::json;
use std::collections::BTreeMap;

/// Saves the n-th of many models, whose parts all differ: the channels of its config, its grid and its weights are made of n.
fn save(folder: &Path, n: usize) {
    try_save(folder, n).unwrap();
}

fn try_save(folder: &Path, n: usize) -> Result<()> {
    let config = json!({"in_channels": n}).to_string();
    let scheduler = SchedulerConfig { num_train_timesteps: 100 + n, ..SchedulerConfig::default() };
    let tensor = Tensor::from_slice(&[50], &[n as f32; 50]).unwrap();
    save_model(folder, &network(&config), &[("conv_in.bias", &tensor)], &scheduler, Some(&json!({"version": 1, "pairs": [[n, -1]]})))
}

/// Which model a folder opens as; all parts must agree.
/// Which model a folder, or a file of it, opens as: by the way that `Model::open` takes.
fn opened(path: &Path) -> usize {
    let files = if path.is_file() { ModelFiles::open_file(path, &KNOWN) } else { open(path, None) }.unwrap();
    let n = files.config["in_channels"].as_u64().unwrap() as usize;
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
            assert_eq!(opened(&dir.join(NETWORK)), 2, "{placed}");
            if with_old || placed > 0 {
                assert_eq!(opened(&dir.join(WEIGHTS)), 2, "{placed}");
            }
            assert!(dir.join(JOURNAL).exists());
        }
        if placed > 0 {
            assert_eq!(opened(&dir.join(WEIGHTS)), 2, "{placed}");
        }
        assert_eq!(opened(&dir.join(NETWORK)), 2);
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
    for root in ["m", "a/b/m"] {
        let mut failing = FolderSave::begin(&dir.join(root)).unwrap();
        failing.write(WEIGHTS, |w| w.write_all(b"x")).unwrap();
        drop(failing);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{root}");
    }
}

#[test]
fn a_save_whose_new_files_are_gone_is_not_committed() {
    let dir = TestDir::new("folder-gone");
    save(dir.path(), 1);
    let before = files(dir.path());
    for gone in PARTS {
        let mut bereft = FolderSave::begin(dir.path()).unwrap();
        PARTS.iter().for_each(|part| drop(bereft.write(part, |w| w.write_all(b"new")).unwrap()));
        let new = files(dir.path()).into_keys().find(|name| name.contains(NEW) && name.ends_with(file_name(gone))).unwrap();
        fs::remove_file(dir.join(&new)).unwrap();
        let error = bereft.commit().unwrap_err();
        assert_eq!(error.status, Status::Io, "{error}");
        assert!(error.message.contains(file_name(gone)), "{error}");
        assert_eq!((opened(dir.path()), files(dir.path())), (1, before.clone()));
    }
}

#[cfg(unix)]
#[test]
fn only_a_file_system_without_locks_is_saved_to_without_one() {
    for (number, without) in [(libc::ENOLCK, true), (libc::ENOSYS, true), (libc::EOPNOTSUPP, true), (libc::EMFILE, false), (libc::EACCES, false)] {
        assert_eq!(is_without_locks(&io::Error::from_raw_os_error(number)), without, "{number}");
    }
    let dir = TestDir::new("folder-no-lock");
    let file = dir.join("file");
    std::os::unix::fs::symlink("file", &file).unwrap(); // cannot be opened
    assert_eq!(FolderLock::acquire(&file, || Ok(())).err().map(|e| e.status), Some(Status::Io));
}

#[test]
fn what_a_journal_cannot_hold_is_not_committed() {
    let dir = TestDir::new("folder-long");
    save(dir.path(), 1);
    let before = files(dir.path());
    let mut long = FolderSave::begin(dir.path()).unwrap();
    (0..20_000).for_each(|n| long.remove(format!("unet/diffusion_pytorch_model-{n:05}-of-20000.safetensors")));
    let error = long.commit().unwrap_err();
    assert!(error.message.contains(JOURNAL), "{error}");
    assert_eq!(files(dir.path()), before);
}

/// A save that waits for another one must not go on in a folder that this one has removed: nobody else would see its lock.
#[test]
fn a_folder_that_another_save_removes_meanwhile_is_made_again() {
    let dir = TestDir::new("folder-removed");
    let root = dir.join("m");
    for _ in 0..5 {
        let first = FolderSave::begin(&root).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let second = FolderSave::begin(&root).unwrap();
                assert!(matches!(FolderLock::try_acquire(&root), Err(TryLockError::WouldBlock)));
                drop(second);
            });
            std::thread::sleep(Duration::from_millis(20)); // the second waits by then, or comes late and tests nothing
            drop(first);
            second.join().unwrap();
        });
        assert!(!root.exists());
    }
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
        (json!({"version": 1, "save": good, "parts": [JOURNAL], "remove": []}), Status::CorruptFile),
        (json!({"version": 1, "save": "x".repeat(1 << 19), "parts": [], "remove": []}), Status::CorruptFile),
        (json!({"version": 1, "save": good, "parts": ["x".repeat(1 << 19)], "remove": []}), Status::CorruptFile),
        (json!({"version": 1, "save": good, "parts": [], "remove": ["unet/config.json"]}), Status::CorruptFile),
        (json!({"version": 1, "save": good, "parts": [], "remove": ["unet/../diffusion_pytorch_model-00001-of-00002.safetensors"]}), Status::CorruptFile),
        (json!({"version": 1}), Status::CorruptFile),
        (json!({"version": "x".repeat(1 << 19)}), Status::CorruptFile),
        (json!("x".repeat(MAX_JOURNAL as usize)), Status::CorruptFile),
    ] {
        fs::write(dir.join(JOURNAL), journal.to_string()).unwrap();
        let error = open(dir.path(), None).map(drop).unwrap_err();
        assert_eq!(error.status, status, "{error}");
        assert!(error.message.contains(JOURNAL) && error.message.len() < 1000, "{error}");
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
    std::os::unix::fs::symlink(elsewhere.path(), dir.join(NETWORK)).unwrap();
    let journal = json!({"version": 1, "save": "0123456789abcdef", "parts": [], "remove": [format!("unet/{shard}")]});
    fs::write(dir.join(JOURNAL), journal.to_string()).unwrap();
    finish_quietly(dir.path());
    assert!(!dir.join(JOURNAL).exists() && elsewhere.join(shard).exists());
}

#[cfg(unix)]
#[test]
fn a_link_in_the_journal_s_place_is_replaced_and_not_followed() {
    use std::os::unix::fs::symlink;
    let (dir, elsewhere) = (TestDir::new("folder-journal-link"), TestDir::new("folder-journal-elsewhere"));
    save(dir.path(), 1);
    let journal = json!({"version": 1, "save": "0123456789abcdef", "parts": [], "remove": []}).to_string();
    for text in [Some("mine"), Some(&*journal), None] {
        let file = elsewhere.join("file");
        let _ = fs::remove_file(&file);
        text.iter().for_each(|text| fs::write(&file, text).unwrap());
        symlink(&file, dir.join(JOURNAL)).unwrap();
        let error = open(dir.path(), None).map(drop).unwrap_err();
        assert!(error.status == Status::CorruptFile && error.message.contains(JOURNAL), "{error}");
        save(dir.path(), 1);
        assert_eq!(fs::read_to_string(&file).ok().as_deref(), text);
        assert_eq!((opened(dir.path()), files(dir.path()).len()), (1, PARTS.len()));
    }
}

#[cfg(unix)]
#[test]
fn opening_replaces_nothing_outside_the_folder() {
    let (dir, elsewhere) = (TestDir::new("folder-inside"), TestDir::new("folder-outside"));
    save(dir.path(), 1);
    fs::rename(dir.join(RECORD), elsewhere.join("notes.txt")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("notes.txt"), dir.join(RECORD)).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&fs::read_to_string(dir.join(RECORD)).unwrap()).unwrap();
    record["pairs"] = json!([[7, -1]]);
    fs::write(elsewhere.join(&format!("{NEW}0123456789abcdef-{RECORD}")), record.to_string()).unwrap();
    let before = files(elsewhere.path());
    fs::write(dir.join(JOURNAL), json!({"version": 1, "save": "0123456789abcdef", "parts": [RECORD], "remove": []}).to_string()).unwrap();
    let found = open(dir.path(), None).unwrap();
    assert_eq!(found.fewstep.unwrap().0, record, "the new file is read from where it lies");
    assert_eq!(files(elsewhere.path()), before);
}

/// Sets when a file was last written to, in seconds from now.
fn date(path: &Path, seconds: u64) {
    File::options().write(true).open(path).unwrap().set_modified(std::time::SystemTime::now() + Duration::from_secs(seconds)).unwrap();
}

#[test]
fn what_others_have_written_after_an_unfinished_save_is_not_replaced() {
    for (placed, part, way_out) in [(0, WEIGHTS, "journal"), (0, WEIGHTS, "file"), (2, SCHEDULER, "file"), (2, SCHEDULER, "save"), (4, RECORD, "save")] {
        let dir = TestDir::new("folder-newer");
        save(dir.path(), 1);
        die_after_commit(dir.path(), 2, placed);
        let foreign = fs::read(dir.join(part)).unwrap();
        fs::write(dir.join(part), &foreign).unwrap();
        date(&dir.join(part), 5);
        for path in [dir.path(), &dir.join(NETWORK), &dir.join(WEIGHTS)] {
            let error = open(path, None).map(drop).unwrap_err();
            assert_eq!(error.status, Status::CorruptFile, "{error}");
            assert!(error.message.contains(JOURNAL) && error.message.contains(part), "{error}");
        }
        assert_eq!(fs::read(dir.join(part)).unwrap(), foreign);
        // A save that fails leaves all as it is.
        let before = files(dir.path());
        drop(FolderSave::begin(dir.path()).unwrap());
        assert_eq!(files(dir.path()), before);
        let expected = match way_out {
            "journal" => fs::remove_file(dir.join(JOURNAL)).map(|()| 1).unwrap(),
            "file" => fs::remove_file(dir.join(part)).map(|()| 2).unwrap(),
            _ => {
                save(dir.path(), 3);
                3
            }
        };
        assert_eq!(opened(dir.path()), expected);
        save(dir.path(), 4);
        assert_eq!((opened(dir.path()), files(dir.path()).len()), (4, PARTS.len()));
    }
}

#[test]
fn shards_that_others_have_written_after_an_unfinished_save_stay() {
    let dir = TestDir::new("folder-newer-shards");
    save(dir.path(), 1);
    let shard = "unet/diffusion_pytorch_model-00001-of-00002.safetensors";
    let journal = json!({"version": 1, "save": "0123456789abcdef", "parts": [], "remove": [shard]}).to_string();
    for (seconds, stays) in [(5, true), (0, false)] {
        fs::write(dir.join(shard), "somebody's").unwrap();
        fs::write(dir.join(JOURNAL), &journal).unwrap();
        date(&dir.join(shard), seconds);
        date(&dir.join(JOURNAL), 1);
        finish_quietly(dir.path());
        assert_eq!((dir.join(shard).exists(), dir.join(JOURNAL).exists()), (stays, stays));
    }
}

#[cfg(unix)]
#[test]
fn saves_through_links_into_one_folder_leave_each_other_s_files() {
    use std::os::unix::fs::symlink;
    let dir = TestDir::new("folder-shared");
    // As two snapshots of a hub's cache, and as a network that lies in another model.
    for (a, b, links) in
        [("a", "b", vec![("a/unet/config.json", "../../blobs/x"), ("b/unet/config.json", "../../blobs/y")]), ("c", "d", vec![("c/unet", "../d/unet")])]
    {
        for folder in [a, b, "blobs"].map(|name| dir.join(name)).into_iter().chain([dir.join("a/unet"), dir.join("b/unet"), dir.join("d/unet")]) {
            fs::create_dir_all(folder).unwrap();
        }
        links.iter().for_each(|(link, text)| symlink(text, dir.join(link)).unwrap());
        for (live, other) in [(a, b), (b, a)] {
            let mut save = FolderSave::begin(&dir.join(live)).unwrap();
            PARTS.iter().for_each(|part| drop(save.write(part, |w| w.write_all(b"new")).unwrap()));
            drop(FolderSave::begin(&dir.join(other)).unwrap());
            save.commit().unwrap();
            PARTS.iter().for_each(|part| assert_eq!(fs::read(dir.join(live).join(part)).unwrap(), b"new", "{live}/{part}"));
        }
    }
}

#[cfg(unix)]
#[test]
fn links_among_the_parts_stay() {
    use std::os::unix::fs::symlink;
    let (dir, disk) = (TestDir::new("folder-links"), TestDir::new("folder-disk"));
    fs::create_dir_all(disk.join("unet")).unwrap();
    symlink(disk.join("unet"), dir.join(NETWORK)).unwrap();
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
    // Opening does not finish what lies in other folders; the next save does.
    assert_eq!(opened(dir.path()), 3);
    assert!(dir.join(JOURNAL).exists());
    drop(FolderSave::begin(dir.path()).unwrap());
    assert!(!dir.join(JOURNAL).exists());
    assert_eq!(opened(dir.path()), 3);
    assert!(dir.join(NETWORK).is_symlink() && dir.join(SCHEDULER).is_symlink());
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
