use super::*;
use crate::Status;
use crate::io::picture::tests::{jpeg, png, png_of, progressive};
use crate::io::test_util::TestDir;
use ::png::{BitDepth, ColorType};
use std::sync::atomic::{AtomicBool, Ordering};

fn grey(values: &[u8], width: u32) -> Vec<u8> {
    png_of([width, values.len() as u32 / width], ColorType::Grayscale, BitDepth::Eight, values)
}

fn folder(name: &str, files: &[(&str, Vec<u8>)]) -> TestDir {
    let dir = TestDir::new(name);
    for (name, bytes) in files {
        std::fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    dir
}

fn open_quietly(dir: &TestDir, options: &PictureOptions) -> Result<PictureDataset> {
    open(dir.path(), options, &mut |_, _| Ok(()), Stop::NEVER)
}

fn one_channel() -> PictureOptions {
    PictureOptions { channels: 1, scale: 1.0, shift: 0.0, ..Default::default() }
}

#[test]
fn classes_become_labels_and_mirrored_copies_come_last() {
    let files = [("b/1.png", grey(&[1, 2, 3, 4], 2)), ("a/x", grey(&[5, 6, 7, 8], 2)), ("a/y.png", b"no picture".to_vec()), ("b/0.png", grey(&[9; 4], 2))];
    let dir = folder("dataset-classes", &files);
    let found = open_quietly(&dir, &PictureOptions { mirror: true, ..one_channel() }).unwrap();
    assert_eq!(found.dataset.images().shape(), [6, 2, 2, 1]);
    let values = [5, 6, 7, 8, 9, 9, 9, 9, 1, 2, 3, 4, 6, 5, 8, 7, 9, 9, 9, 9, 2, 1, 4, 3].map(|v| v as f32);
    assert_eq!(found.dataset.images().as_slice::<f32>().unwrap(), values);
    assert_eq!(found.dataset.labels().unwrap().as_slice::<i32>().unwrap(), [0, 1, 1, 0, 1, 1]);
    assert_eq!(found.classes, ["a", "b"]);
    assert_eq!((found.skipped.count, found.skipped.listed[0].path.ends_with("a/y.png")), (1, true));

    // The first of each class.
    let first = open_quietly(&dir, &PictureOptions { max_images: 1, ..one_channel() }).unwrap();
    assert_eq!(first.dataset.images().as_slice::<f32>().unwrap(), [5.0, 6.0, 7.0, 8.0, 9.0, 9.0, 9.0, 9.0]);
    // Flat: what lies in folders is left out, and there is nothing else.
    let error = open_quietly(&dir, &PictureOptions { classes: Classes::None, ..one_channel() }).map(drop).unwrap_err();
    assert!(error.status == Status::NotFound && error.message.contains("dataset-classes") && error.message.contains("only files are read"), "{error}");
}

#[test]
fn all_have_the_wanted_size_range_and_channels() {
    let files = [("1.png", png(8, 6)), ("2.jpg", png(30, 20)), ("3.png", jpeg(64, 48, [255, 0, 0])), ("4", progressive(9, 40, &[0x22, 0x11, 0x11]))];
    let dir = folder("dataset-size", &files);
    let found = open_quietly(&dir, &PictureOptions { size: Some([4, 4]), ..Default::default() }).unwrap();
    assert_eq!((found.dataset.images().shape(), found.dataset.labels().is_none(), found.skipped.count), (&[4, 4, 4, 3][..], true, 0));
    let values = found.dataset.images().as_slice::<f32>().unwrap();
    assert!(values.iter().all(|v| (-1.0..=1.0).contains(v)));
    // A red JPEG under the name of a PNG.
    assert!(values[2 * 48] > 0.95 && values[2 * 48 + 1] < -0.95);
    // Without a size, that of the first; twice the same bytes.
    let first = || open_quietly(&dir, &PictureOptions::default()).unwrap().dataset.images().clone();
    assert_eq!(first().shape(), [4, 6, 8, 3]);
    assert_eq!(first().bytes(), first().bytes());
}

#[test]
fn what_is_hostile_is_left_out_with_its_reason() {
    let mut huge = png(4, 4);
    huge[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let good = grey(&[3; 4], 2);
    let files = [
        ("0.png", vec![]),
        ("1.png", good[..40].to_vec()),
        ("2.png", huge),
        ("3.png", good.clone()),
        ("4.png", vec![7; 5000]),
        ("5.png/in", vec![]),
        ("6.png", jpeg(300, 300, [0; 3])),
    ];
    let dir = folder("dataset-hostile", &files);
    #[cfg(unix)]
    std::os::unix::fs::symlink("nothing", dir.join("7.png")).unwrap();
    let options = PictureOptions { classes: Classes::None, max_pixels: 1000, max_file_bytes: 4000, ..one_channel() };
    let found = open_quietly(&dir, &options).unwrap();
    assert_eq!(found.dataset.images().shape(), [1, 2, 2, 1]);
    let reasons: Vec<String> = found.skipped.listed.iter().map(|s| format!("{}: {}", &s.path[s.path.len() - 5..], s.error.message)).collect();
    for (name, words) in [
        ("0.png", "empty"),
        ("1.png", "damaged"),
        ("2.png", "100000 x 100000 pixels; at most 1000"),
        ("4.png", "5000 bytes; at most 4000"),
        ("5.png", "a folder"),
        ("6.png", "max_"),
    ] {
        assert!(reasons.iter().any(|r| r.starts_with(name) && r.contains(words)), "{name}: {reasons:#?}");
    }
    assert!(!cfg!(unix) || reasons.iter().any(|r| r == "7.png: a link to nothing"), "{reasons:#?}");
}

#[cfg(unix)]
#[test]
fn what_cannot_be_read_and_odd_names() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    let dir = folder("dataset-odd", &[("a/locked.png", png(2, 2))]);
    let odd = dir.join("a").join(std::ffi::OsStr::from_bytes(b"\xff\xfe.png"));
    std::fs::write(&odd, png(2, 2)).unwrap();
    std::fs::create_dir(dir.path().join(std::ffi::OsStr::from_bytes(b"z\xff"))).unwrap();
    std::fs::set_permissions(dir.join("a/locked.png"), PermissionsExt::from_mode(0o000)).unwrap();
    let found = open_quietly(&dir, &PictureOptions::default()).unwrap();
    assert_eq!(found.classes, ["a", "z\u{fffd}"]);
    // The superuser reads everything.
    // SAFETY: takes nothing and cannot fail.
    let expected = if unsafe { libc::geteuid() } == 0 { 2 } else { 1 };
    assert_eq!(found.dataset.len(), expected, "{:?}", found.skipped);
    std::fs::set_permissions(dir.join("a/locked.png"), PermissionsExt::from_mode(0o644)).unwrap();
}

#[test]
fn limits_cancelling_and_empty_folders() {
    let dir = folder("dataset-limits", &[("1.png", png(8, 8)), ("2.png", png(8, 8)), ("3.png", png(8, 8))]);
    let few = PictureOptions { max_bytes: 2000, ..Default::default() };
    let error = open_quietly(&dir, &few).map(drop).unwrap_err();
    assert!(error.status == Status::OutOfMemory && error.message.contains("3 images of 8 x 8") && error.message.contains("max_bytes"), "{error}");
    assert_eq!(open_quietly(&dir, &PictureOptions { max_images: 2, ..few }).unwrap().dataset.len(), 2);
    let large = PictureOptions { size: Some([1 << 31, 1 << 31]), max_bytes: u64::MAX, ..Default::default() };
    assert_eq!(open_quietly(&dir, &large).map(drop).unwrap_err().status, Status::OutOfMemory);

    // In the middle, by the flag and by who watches.
    let (flag, mut heard) = (AtomicBool::new(false), vec![]);
    let mut progress = |done, total| {
        heard.push((done, total));
        flag.store(done == 2, Ordering::Relaxed);
        Ok(())
    };
    assert_eq!(open(dir.path(), &PictureOptions::default(), &mut progress, Stop::from(&flag)).map(drop).unwrap_err().status, Status::Cancelled);
    assert_eq!(heard, [(1, 3), (2, 3)]);
    let refuse = open(dir.path(), &PictureOptions::default(), &mut |_, _| Err(Error::cancelled("no more")), Stop::NEVER);
    assert_eq!(refuse.map(drop).unwrap_err().message, "no more");

    let empty = TestDir::new("dataset-empty");
    let error = open_quietly(&empty, &PictureOptions::default()).map(drop).unwrap_err();
    assert!(error.status == Status::NotFound && error.message.contains("dataset-empty"), "{error}");
}
