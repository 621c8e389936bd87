use super::*;
use crate::Status;
use crate::io::test_util::TestDir;
use std::io::Write;

fn write_npz(path: &Path, arrays: &[(&str, &str, &str, Vec<u8>)]) {
    let mut writer = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, descr, shape, data) in arrays {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        writer.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(&[b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()).unwrap();
    }
    writer.finish().unwrap();
}

/// Two images of 1x2 pixels with the values 0, 1, 2, 255 and the labels 3 and 0, in the types and shapes that people save.
#[test]
fn archives_as_people_have_them() {
    let dir = TestDir::new("dataset-npz");
    let path = dir.join("d.npz");
    let values = [0u8, 1, 2, 255];
    let doubles: Vec<u8> = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    let words: Vec<u8> = values.iter().flat_map(|v| u16::from(*v).to_be_bytes()).collect();
    let longs: Vec<u8> = [3i64, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let images = [("|u1", "(2, 1, 2)", values.to_vec()), ("<f8", "(2, 1, 2, 1)", doubles.clone()), (">u2", "(2, 1, 2)", words)];
    let labels = [("|u1", "(2,)", vec![3, 0]), ("<i8", "(2, 1)", longs.clone()), (">u2", "(2, 1)", vec![0, 3, 0, 0])];
    for (descr, shape, data) in &images {
        for (label_descr, label_shape, label_data) in &labels {
            write_npz(&path, &[("x", descr, shape, data.clone()), ("y", label_descr, label_shape, label_data.clone())]);
            let dataset = from_npz(&path, "x", Some("y"), 0.5, -1.0).unwrap();
            assert_eq!(dataset.images().shape(), [2, 1, 2, 1]);
            assert_eq!(dataset.images().as_slice::<f32>().unwrap(), [-1.0, -0.5, 0.0, 126.5], "{descr}");
            assert_eq!(dataset.labels().unwrap().as_slice::<i32>().unwrap(), [3, 0], "{label_descr} {label_shape}");
        }
    }
    let refused = [
        ("labels of floats", "<f8", "(2,)", doubles[..16].to_vec(), Status::InvalidArgument, "astype"),
        ("two columns", "|u1", "(2, 2)", values.to_vec(), Status::Shape, "[M,1]"),
        ("one row", "<i8", "(1, 2)", longs.clone(), Status::Shape, "[1, 2]"),
        ("no dimension", "<i8", "()", longs[..8].to_vec(), Status::Shape, "[]"),
        ("too few", "<i8", "(1,)", longs[..8].to_vec(), Status::Shape, ""),
        ("too large", "<i8", "(2,)", [(1i64 << 40), 0].iter().flat_map(|v| v.to_le_bytes()).collect(), Status::InvalidArgument, "1099511627776"),
    ];
    for (what, descr, shape, data, status, words) in refused {
        write_npz(&path, &[("x", "|u1", "(2, 1, 2)", values.to_vec()), ("y", descr, shape, data)]);
        let error = from_npz(&path, "x", Some("y"), 1.0, 0.0).map(drop).unwrap_err();
        assert!(error.status == status && error.message.contains(words) && error.message.contains("d.npz"), "{what}: {error}");
    }
    write_npz(&path, &[("x", "<f8", "(1, 1, 1)", 1e300f64.to_le_bytes().to_vec())]);
    assert_eq!(from_npz(&path, "x", None, 1.0, 0.0).map(drop).unwrap_err().status, Status::Numeric);
}

/// Images in one file, labels in another.
#[test]
fn plain_arrays_are_files_too() {
    let dir = TestDir::new("dataset-npy");
    let (images, labels) = (dir.join("x.npy"), dir.join("y.npy"));
    let save = |path: &Path, tensor: Tensor| crate::io::save_npy(path, &tensor).unwrap();
    save(&images, Tensor::from_slice(&[2, 1, 2], &[0u8, 1, 2, 255]).unwrap());
    save(&labels, Tensor::from_slice(&[2, 1], &[3i64, 0]).unwrap());
    let dataset = from_npy(&images, Some(&labels), 0.5, -1.0).unwrap();
    assert_eq!((dataset.images().shape(), dataset.images().as_slice::<f32>().unwrap()), (&[2, 1, 2, 1][..], &[-1.0, -0.5, 0.0, 126.5][..]));
    assert_eq!(dataset.labels().unwrap().as_slice::<i32>().unwrap(), [3, 0]);
    assert!(from_npy(&images, None, 1.0, 0.0).unwrap().labels().is_none());

    let whole = std::fs::read(&images).unwrap();
    let refused = [
        (whole[..whole.len() - 1].to_vec(), Status::CorruptFile, "does not fit its 131 bytes"),
        ([&whole[..], b"more"].concat(), Status::CorruptFile, "does not fit its 136 bytes"),
        (whole[..20].to_vec(), Status::CorruptFile, "too early"),
        (vec![], Status::CorruptFile, "too early"),
        (b"PK\x03\x04 no array".to_vec(), Status::CorruptFile, "magic"),
    ];
    for (bytes, status, words) in refused {
        std::fs::write(&images, bytes).unwrap();
        let error = from_npy(&images, None, 1.0, 0.0).map(drop).unwrap_err();
        assert!(error.status == status && error.message.contains(words) && error.message.contains("x.npy"), "{error}");
    }
    save(&images, Tensor::from_slice(&[4], &[0u8; 4]).unwrap());
    assert_eq!(from_npy(&images, None, 1.0, 0.0).map(drop).unwrap_err().status, Status::Shape);
    assert_eq!(from_npy(&dir.join("absent.npy"), None, 1.0, 0.0).map(drop).unwrap_err().status, Status::NotFound);
    assert_eq!(from_npy(dir.path(), None, 1.0, 0.0).map(drop).unwrap_err().status, Status::Io);
}
