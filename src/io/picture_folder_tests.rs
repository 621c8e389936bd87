use super::*;
use crate::io::picture::tests::png;
use crate::io::test_util::TestDir;

fn write(dir: &TestDir, names: &[&str]) {
    for name in names {
        std::fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        std::fs::write(dir.join(name), b"x").unwrap();
    }
}

fn list(dir: &TestDir, classes: Classes) -> Result<Listing> {
    Listing::new(dir.path(), classes, Stop::NEVER)
}

fn names(listing: &Listing) -> Vec<(String, Vec<String>)> {
    let text = |name: &OsString| name.to_string_lossy().into_owned();
    listing.files.iter().map(|f| (text(&f.folder.file_name().unwrap().to_owned()), f.names.iter().map(text).collect())).collect()
}

fn skipped(listing: &Listing) -> Vec<(String, &str)> {
    let name = |path: &str| Path::new(path).file_name().unwrap().to_string_lossy().into_owned();
    listing.skipped.listed.iter().map(|s| (name(&s.path), s.error.message.as_str())).collect()
}

#[test]
fn files_come_in_the_order_of_their_bytes() {
    let dir = TestDir::new("pictures-flat");
    write(&dir, &["b.png", "a10.png", "a2.png", "B.png", ".hidden.png", "\u{e4}.png"]);
    let listing = list(&dir, Classes::Auto).unwrap();
    assert!(!listing.classes);
    assert_eq!(names(&listing)[0].1, ["B.png", "a10.png", "a2.png", "b.png", "\u{e4}.png"]);
    assert_eq!(skipped(&listing), [(".hidden.png".to_string(), "hidden: its name begins with a dot")]);
}

#[test]
fn folders_are_classes_where_no_picture_lies_beside_them() {
    let dir = TestDir::new("pictures-classes");
    write(&dir, &["dog/1.png", "cat/2.png", "cat/1.png", "cat/deep/3.png", "README.txt", ".git/config"]);
    std::fs::create_dir(dir.join("empty")).unwrap();
    let listing = list(&dir, Classes::Auto).unwrap();
    assert!(listing.classes);
    let expected = [("cat", &["1.png", "2.png"][..]), ("dog", &["1.png"]), ("empty", &[])];
    assert_eq!(names(&listing), expected.map(|(folder, files)| (folder.to_string(), files.iter().map(|f| f.to_string()).collect::<Vec<_>>())));
    let reasons = skipped(&listing);
    assert_eq!(reasons.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [".git", "README.txt", "deep", "empty"]);
    assert!(reasons[3].1.contains("its label is kept"), "{reasons:?}");

    // Somebody has to say what is meant; then it is clear.
    std::fs::write(dir.join("photo"), png(2, 2)).unwrap();
    let error = list(&dir, Classes::Auto).map(drop).unwrap_err();
    assert!(error.status == Status::InvalidArgument && error.message.contains("photo") && error.message.contains("3 folders (cat"), "{error}");
    assert_eq!(names(&list(&dir, Classes::None).unwrap())[0].1, ["README.txt", "photo"]);
    assert!(skipped(&list(&dir, Classes::Folders).unwrap()).iter().any(|(name, why)| name == "photo" && why.contains("beside")));
}

#[test]
fn bad_folders_are_errors() {
    let dir = TestDir::new("pictures-bad");
    write(&dir, &["file"]);
    for (path, status) in [(dir.join("absent"), Status::NotFound), (dir.join("file"), Status::Io)] {
        let error = Listing::new(&path, Classes::Auto, Stop::NEVER).map(drop).unwrap_err();
        assert!(error.status == status && error.message.contains(&path.display().to_string()), "{error}");
    }
    let stop = std::sync::atomic::AtomicBool::new(true);
    assert_eq!(Listing::new(dir.path(), Classes::Auto, Stop::from(&stop)).map(drop).unwrap_err().status, Status::Cancelled);
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_in_no_circle() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let dir = TestDir::new("pictures-links");
    write(&dir, &["a/1.png"]);
    symlink(dir.path(), dir.join("circle")).unwrap();
    symlink(dir.join("self"), dir.join("self")).unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    symlink(dir.join("a/1.png"), dir.join("a/2.png")).unwrap();
    std::fs::write(dir.join("a").join(OsStr::from_bytes(b"\xff.png")), b"x").unwrap();
    let listing = list(&dir, Classes::Auto).unwrap();
    let found = names(&listing);
    assert_eq!(found.iter().map(|(folder, files)| (folder.as_str(), files.len())).collect::<Vec<_>>(), [("a", 3), ("circle", 0)]);
    let reasons = skipped(&listing);
    let why = |name: &str| reasons.iter().find(|(found, _)| found == name).unwrap().1;
    assert_eq!(why("dangling"), "a link to nothing");
    assert!(!why("self").is_empty() && why("a").contains("in a class's folder"), "{reasons:?}");
}

#[test]
fn the_list_has_an_end_and_the_count_has_none() {
    let mut skipped = Skipped::default();
    for i in 0..MAX_LISTED + 5 {
        skipped.add(Path::new("p"), Error::corrupt(format!("p: {i}"))).unwrap();
    }
    assert_eq!((skipped.count, skipped.listed.len(), skipped.listed[7].error.message.as_str()), (MAX_LISTED as u64 + 5, MAX_LISTED, "7"));
    assert_eq!(skipped.add(Path::new("p"), Error::out_of_memory("p")).unwrap_err().status, Status::OutOfMemory);
}
