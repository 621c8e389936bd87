use super::*;
use crate::Status;
use crate::io::test_util::TestDir;
use std::io::Write;
use zip::write::{SimpleFileOptions, ZipWriter};

fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
}

fn npz(entries: &[(&str, Vec<u8>)], method: zip::CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn stored(npy: Vec<u8>) -> Vec<u8> {
    npz(&[("a.npy", npy)], zip::CompressionMethod::Stored)
}

#[test]
fn written_header_is_what_numpy_writes() {
    let header = build_header(&Tensor::zeros(DType::F32, &[2, 3]).unwrap()).unwrap();
    assert_eq!(header.len(), 128);
    assert!(header.starts_with(b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"), "{header:?}");
    assert_eq!(build_header(&Tensor::zeros(DType::Bf16, &[1]).unwrap()).unwrap_err().status, Status::Unsupported);
    assert_eq!(build_header(&Tensor::zeros(DType::F32, &[1; 65]).unwrap()).unwrap_err().status, Status::Shape);
}

/// An array's header with this type and shape, and its data.
fn array(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    npy(&format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n"), data)
}

fn f32s(npy: Vec<u8>, shape: &[usize]) -> Result<Vec<f32>> {
    NpzFile::from_bytes(&stored(npy), "f.npz")?.array("a")?.into_f32(shape, |v| v)?.as_slice::<f32>().map(<[f32]>::to_vec)
}

fn i32s(npy: Vec<u8>, shape: &[usize]) -> Result<Vec<i32>> {
    NpzFile::from_bytes(&stored(npy), "f.npz")?.array("a")?.into_i32(shape)?.as_slice::<i32>().map(<[i32]>::to_vec)
}

#[test]
fn arrays_round_trip() {
    let dir = TestDir::new("npy-round");
    let tensors = [
        (Tensor::from_slice(&[2, 1, 2], &[1.0f32, -2.0, 0.5, 4.0]).unwrap(), vec![1.0, -2.0, 0.5, 4.0]),
        (Tensor::from_slice(&[], &[i64::MIN]).unwrap(), vec![i64::MIN as f32]),
        (Tensor::from_slice(&[3], &[1i32, -2, 3]).unwrap(), vec![1.0, -2.0, 3.0]),
        (Tensor::from_slice(&[2], &[1u8, 200]).unwrap(), vec![1.0, 200.0]),
        (Tensor::from_slice(&[2 * PIECE + 3], &vec![7i8; 2 * PIECE + 3]).unwrap(), vec![7.0; 2 * PIECE + 3]),
        (Tensor::zeros(DType::F32, &[0, 5]).unwrap(), vec![]),
    ];
    for (tensor, expected) in &tensors {
        save_npy(&dir.join("t.npy"), tensor).unwrap();
        let bytes = std::fs::read(dir.join("t.npy")).unwrap();
        for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
            std::fs::write(dir.join("t.npz"), npz(&[("x.npy", bytes.clone()), ("y.npy", vec![])], method)).unwrap();
            let mut file = NpzFile::open(&dir.join("t.npz")).unwrap();
            let array = file.array("x").unwrap();
            assert_eq!(array.shape(), tensor.shape());
            let doubled = array.into_f32(tensor.shape(), |v| 2.0 * v).unwrap();
            assert!(doubled.as_slice::<f32>().unwrap().iter().zip(expected).all(|(a, b)| *a == 2.0 * b) && doubled.shape() == tensor.shape());
            assert_eq!(file.names().collect::<Vec<_>>(), ["x", "y"]);
        }
    }
}

#[test]
fn every_type_is_read_in_both_byte_orders() {
    macro_rules! row {
        ($name:literal, $t:ty, $values:expr, $floats:expr) => {
            (
                $name,
                $values.iter().flat_map(|v: &$t| v.to_le_bytes()).collect::<Vec<u8>>(),
                $values.iter().flat_map(|v: &$t| v.to_be_bytes()).collect(),
                $floats,
            )
        };
    }
    /// Name, bytes in either order, the values as f32.
    type Row<'a> = (&'a str, Vec<u8>, Vec<u8>, [f32; 2]);
    let rows: [Row; 12] = [
        row!("f2", half::f16, [half::f16::from_f32(0.5), half::f16::from_f32(-3.0)], [0.5, -3.0]),
        row!("f4", f32, [0.1, -1e30], [0.1, -1e30]),
        // Rounded once to the nearest, and too large.
        row!("f8", f64, [0.1, 1e300], [0.1, f32::INFINITY]),
        row!("b1", u8, [0, 1], [0.0, 1.0]),
        row!("u1", u8, [3, 255], [3.0, 255.0]),
        row!("u2", u16, [3, 65535], [3.0, 65535.0]),
        row!("u4", u32, [3, u32::MAX], [3.0, 4294967296.0]),
        row!("u8", u64, [3, u64::MAX], [3.0, 18446744073709551616.0]),
        row!("i1", i8, [-3, 127], [-3.0, 127.0]),
        row!("i2", i16, [-3, 32767], [-3.0, 32767.0]),
        row!("i4", i32, [-3, i32::MAX], [-3.0, 2147483648.0]),
        row!("i8", i64, [-3, i64::MIN], [-3.0, -9223372036854775808.0]),
    ];
    for (name, little, big, expected) in rows {
        for (order, data) in [("<", &little), ("=", &little), (">", &big)] {
            assert_eq!(f32s(array(&format!("{order}{name}"), "False", "(2,)", data), &[2]).unwrap(), expected, "{order}{name}");
        }
        let narrow = little.len() == 2;
        assert_eq!(f32s(array(&format!("|{name}"), "False", "(2,)", &little), &[2]).is_ok(), narrow, "|{name}");
        let found = i32s(array(&format!(">{name}"), "False", "(1,)", &big[..big.len() / 2]), &[1]);
        match name {
            "f2" | "f4" | "f8" => assert!(found.unwrap_err().message.contains("labels must be integers, found F")),
            "b1" => assert_eq!(found.unwrap(), [0]),
            _ => assert_eq!(found.unwrap(), [expected[0] as i32], "{name}"),
        }
        if matches!(name, "u4" | "u8" | "i8") {
            let error = i32s(array(&format!("<{name}"), "False", "(2,)", &little), &[2]).unwrap_err();
            assert!(error.status == Status::InvalidArgument && error.message.starts_with("f.npz: array \"a\": label"), "{error}");
        }
    }
}

#[test]
fn fortran_order_and_odd_spellings_are_read() {
    let text = "{\"shape\":(2L , 3) ,'fortran_order':True, 'descr': '|u1'}   \n";
    assert_eq!(f32s(npy(text, &[1, 4, 2, 5, 3, 6]), &[2, 3]).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    // Larger than a piece, three dimensions: the value at [i,j,k] stands at i + 30·(j + 40·k).
    let (a, b, c) = (30, 40, 50);
    let data: Vec<u8> = (0..a * b * c).flat_map(|at| (at as u32).to_le_bytes()).collect();
    let expected: Vec<f32> = (0..a * b * c).map(|at| (at / (b * c) + a * (at / c % b + b * (at % c))) as f32).collect();
    assert_eq!(f32s(array("<u4", "True", "(30, 40, 50)", &data), &[a, b, c, 1]).unwrap(), expected);
    for (shape, dims) in [("(0, 18446744073709551615)", vec![0, 7]), ("(3, 0)", vec![3, 0]), ("()", vec![])] {
        let data = if dims.is_empty() { &[9u8][..] } else { &[] };
        assert_eq!(f32s(array("|u1", "True", shape, data), &dims).unwrap().len(), data.len(), "{shape}");
    }
}

#[test]
fn bad_arrays_are_refused() {
    let with = |descr: &str, shape: &str| npy(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"), &[0; 8]);
    let mut future = with("<f4", "(2,)");
    future[6] = 9;
    let cases = [
        ("empty", vec![], Status::CorruptFile),
        ("magic", vec![7; 80], Status::CorruptFile),
        ("version", future, Status::VersionMismatch),
        ("header cut", with("<f4", "(2,)")[..30].to_vec(), Status::CorruptFile),
        ("short data", with("<f4", "(3,)"), Status::CorruptFile),
        ("long data", with("<f4", "(1,)"), Status::CorruptFile),
        ("complex", with("<c8", "(1,)"), Status::Unsupported),
        ("long double", with("<f16", "(1,)"), Status::Unsupported),
        ("no byte order", with("f4", "(2,)"), Status::Unsupported),
        ("text", with("é", "(1,)"), Status::Unsupported),
        ("object", with("|O", "(1,)"), Status::Unsupported),
        ("structured", npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }\n", &[0; 8]), Status::Unsupported),
        ("negative", with("<f4", "(-2,)"), Status::CorruptFile),
        ("not a tuple", with("<f4", "2"), Status::CorruptFile),
        ("huge", with("<f4", "(4611686018427387904, 4)"), Status::CorruptFile),
        ("huge and nothing", with("<f4", "(0, 18446744073709551615, 18446744073709551615)"), Status::CorruptFile),
        ("too large a number", with("<f4", "(99999999999999999999999,)"), Status::CorruptFile),
        ("nested", npy(&"(".repeat(60_000), &[]), Status::CorruptFile),
        ("missing key", npy("{'descr': '<f4', 'shape': (2,)}\n", &[0; 8]), Status::CorruptFile),
        ("unknown key", npy("{'descr': '<f4', 'order': False, 'shape': (2,)}\n", &[0; 8]), Status::CorruptFile),
        ("trailing", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x\n", &[0; 8]), Status::CorruptFile),
    ];
    for (what, bytes, status) in cases {
        let error = f32s(bytes, &[2]).unwrap_err();
        assert_eq!(error.status, status, "{what}: {error}");
        assert!(error.message.starts_with("f.npz: array \"a\": "), "{what}: {error}");
    }
}

#[test]
fn missing_arrays_are_named_with_those_that_exist() {
    let bytes = npz(&[("images.npy", vec![]), ("labels.npy", vec![])], zip::CompressionMethod::Stored);
    let error = NpzFile::from_bytes(&bytes, "d.npz").unwrap().array("data").map(drop).unwrap_err();
    assert_eq!(error.status, Status::NotFound);
    for word in ["d.npz", "\"data\"", "images", "labels"] {
        assert!(error.message.contains(word), "{error}");
    }
    let many: Vec<_> = (0..50).map(|i| format!("x{i:02}.npy")).collect();
    let bytes = npz(&many.iter().map(|n| (n.as_str(), vec![])).collect::<Vec<_>>(), zip::CompressionMethod::Stored);
    let error = NpzFile::from_bytes(&bytes, "d.npz").unwrap().array("data").map(drop).unwrap_err();
    assert!(error.message.ends_with("x18, x19 and 30 more"), "{error}");
    assert_eq!(NpzFile::from_bytes(&bytes, "d.npz").unwrap().array(&"n".repeat(1 << 20)).map(drop).unwrap_err().status, Status::InvalidArgument);
    let dir = TestDir::new("npz-absent");
    assert_eq!(NpzFile::open(&dir.join("absent.npz")).map(drop).unwrap_err().status, Status::NotFound);
}

/// Archives as such are tested in zip_tests.rs; here, that damage reaches the caller as a status with the file's name.
#[test]
fn damaged_archives_are_corrupt_and_never_panic() {
    for garbage in [vec![], vec![0u8; 100], b"PK\x03\x04 not an archive at all".to_vec()] {
        let error = NpzFile::from_bytes(&garbage, "g").map(drop).unwrap_err();
        assert!(error.status == Status::CorruptFile && error.message.starts_with("g: "), "{error}");
    }
    let read = |bytes: &[u8]| NpzFile::from_bytes(bytes, "t").and_then(|mut f| f.array("a")?.into_f32(&[64], |v| v));
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        let bytes = npz(&[("a.npy", array("|u1", "False", "(64,)", &(0..64).collect::<Vec<u8>>()))], method);
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]).map(drop).unwrap_err().status, Status::CorruptFile, "{len}");
        }
        for i in 0..bytes.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[i] ^= flip;
                let _ = read(&bytes);
            }
        }
    }
}

#[test]
fn changed_data_fails_the_checksum() {
    let mut bytes = stored(array("|u1", "False", "(4,)", &[11, 22, 33, 44]));
    let at = bytes.windows(4).position(|w| w == [11, 22, 33, 44]).unwrap();
    bytes[at] = 12;
    let error = NpzFile::from_bytes(&bytes, "t").unwrap().array("a").unwrap().into_f32(&[4], |v| v).map(drop).unwrap_err();
    assert!(error.status == Status::CorruptFile && error.message.contains("checksum"), "{error}");
}
