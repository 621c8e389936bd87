use super::*;
use crate::Status;
use crate::io::test_util::TestDir;
use half::{bf16, f16};

fn file_bytes(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn metadata() -> BTreeMap<String, String> {
    [("format", "pt"), ("a", "1"), ("z", "ü")].iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn samples() -> Vec<(&'static str, Tensor)> {
    vec![
        ("half", Tensor::from_slice(&[2], &[f16::from_f32(0.5), f16::from_f32(-3.0)]).unwrap()),
        ("bytes", Tensor::from_slice(&[3], &[1u8, 2, 255]).unwrap()),
        ("w", Tensor::from_slice(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, -6.5]).unwrap()),
        ("brain", Tensor::from_slice(&[1, 2], &[bf16::from_f32(1.5), bf16::from_f32(-2.0)]).unwrap()),
        ("long", Tensor::from_slice(&[], &[-7i64]).unwrap()),
        ("int", Tensor::from_slice(&[2], &[i32::MIN, 3]).unwrap()),
        ("tiny", Tensor::from_slice(&[2], &[-1i8, 3]).unwrap()),
        ("none", Tensor::zeros(DType::F32, &[0, 4]).unwrap()),
    ]
}

#[test]
fn round_trip_in_memory_and_on_disk() {
    let dir = TestDir::new("st-round");
    let samples = samples();
    let refs: Vec<_> = samples.iter().map(|(n, t)| (*n, t)).collect();
    let reversed: Vec<_> = refs.iter().rev().copied().collect();
    let bytes = serialize(&refs, &metadata()).unwrap();
    assert_eq!(bytes, serialize(&reversed, &metadata()).unwrap(), "order must not matter");
    save(&dir.join("m.safetensors"), &refs, &metadata()).unwrap();
    assert_eq!(std::fs::read(dir.join("m.safetensors")).unwrap(), bytes);
    for file in [TensorFile::from_bytes(&bytes, "mem").unwrap(), TensorFile::open(&dir.join("m.safetensors")).unwrap()] {
        assert_eq!(file.metadata(), &metadata());
        assert_eq!(file.len(), refs.len());
        for (name, tensor) in &refs {
            let got = file.get(name).unwrap();
            assert_eq!((got.dtype(), got.shape(), got.bytes()), (tensor.dtype(), tensor.shape(), tensor.bytes()), "{name}");
        }
    }
    // The safetensors library reads what we write.
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("w").unwrap().data(), refs.iter().find(|(n, _)| *n == "w").unwrap().1.bytes());
}

#[test]
fn reads_what_the_library_writes() {
    let data: Vec<u8> = [1.0f64, -2.5, 1e300].iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(Dtype::F64, vec![3], &data).unwrap();
    let bytes = safetensors::serialize([("d", view)], None).unwrap();
    let file = TensorFile::from_bytes(&bytes, "mem").unwrap();
    assert_eq!(file.get("d").unwrap().as_slice::<f32>().unwrap(), [1.0, -2.5, f32::INFINITY]);
    assert_eq!(file.get_f32("d", &[3]).unwrap_err().status, Status::Numeric);
}

#[test]
fn long_f64_tensors_convert_across_pieces() {
    let data: Vec<u8> = (0..2500).flat_map(|i| f64::from(i).to_le_bytes()).collect();
    let bytes = file_bytes(r#"{"d":{"dtype":"F64","shape":[2500],"data_offsets":[0,20000]}}"#, &data);
    let file = TensorFile::from_bytes(&bytes, "mem").unwrap();
    assert!(file.get("d").unwrap().as_slice::<f32>().unwrap().iter().enumerate().all(|(i, v)| *v == i as f32));
}

#[test]
fn conversion_checks_name_shape_and_values() {
    let samples = samples();
    let refs: Vec<_> = samples.iter().map(|(n, t)| (*n, t)).collect();
    let mut file = TensorFile::from_bytes(&serialize(&refs, &metadata()).unwrap(), "m.safetensors").unwrap();
    for (name, shape, expected) in
        [("half", vec![2], vec![0.5, -3.0]), ("brain", vec![1, 2], vec![1.5, -2.0]), ("bytes", vec![3], vec![1.0, 2.0, 255.0]), ("long", vec![], vec![-7.0])]
    {
        assert_eq!(file.get_f32(name, &shape).unwrap().as_slice::<f32>().unwrap(), expected);
    }
    let error = file.get_f32("w", &[3, 2]).unwrap_err();
    assert_eq!(error.status, Status::Shape);
    assert!(error.message.contains("[3, 2]") && error.message.contains("[2, 3]") && error.message.contains("\"w\""), "{error}");
    let error = file.get("absent").unwrap_err();
    assert_eq!(error.status, Status::NotFound);
    assert!(error.message.contains("absent") && error.message.contains("m.safetensors"), "{error}");
    assert_eq!(file.take_f32("w", &[1]).unwrap_err().status, Status::Shape);
    assert_eq!(file.take_f32("w", &[2, 3]).unwrap().numel(), 6);
    assert_eq!(file.take_f32("w", &[2, 3]).unwrap_err().status, Status::NotFound);
    assert_eq!(file.take_floats("half", &[1]).unwrap_err().status, Status::Shape);
    for (name, shape, dtype) in [("half", &[2][..], DType::F16), ("brain", &[1, 2], DType::Bf16), ("bytes", &[3], DType::F32)] {
        assert_eq!(file.take_floats(name, shape).unwrap().dtype(), dtype, "{name}");
    }
    let nan = Tensor::from_slice(&[3], &[0.0f32, 1.0, f32::NAN]).unwrap();
    let file = TensorFile::from_bytes(&serialize(&[("n", &nan)], &metadata()).unwrap(), "m").unwrap();
    let error = file.get_f32("n", &[3]).unwrap_err();
    assert_eq!(error.status, Status::Numeric);
    assert!(error.message.contains("\"n\"") && error.message.contains("element 2"), "{error}");
}

#[test]
fn damaged_files_are_refused() {
    let one = |dtype: &str, shape: &str, offsets: &str| format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
    let cases: Vec<(&str, Vec<u8>, Status, &str)> = vec![
        ("empty", vec![], Status::CorruptFile, "0 bytes"),
        ("short", vec![1, 2, 3], Status::CorruptFile, "3 bytes"),
        ("garbage", vec![0x50; 64], Status::CorruptFile, "byte 0"),
        ("header cut", file_bytes("{}", &[])[..9].to_vec(), Status::CorruptFile, "truncated"),
        ("not JSON", file_bytes("{oops}", &[]), Status::CorruptFile, "byte 9"),
        ("not UTF-8", [&2u64.to_le_bytes()[..], b"\xff\xfe"].concat(), Status::CorruptFile, "JSON"),
        ("not an object", file_bytes("[1]", &[]), Status::CorruptFile, "object"),
        ("deep in what is skipped", file_bytes(&format!(r#"{{"t":{{"x":{}"#, "[".repeat(5000)), &[]), Status::CorruptFile, "32 deep"),
        ("text after it", file_bytes("{} {}", &[]), Status::CorruptFile, "byte 11"),
        (
            "twice",
            file_bytes(r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#, &[]),
            Status::CorruptFile,
            "\"a\" twice",
        ),
        ("metadata twice", file_bytes(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]), Status::CorruptFile, "second"),
        (
            "long name",
            file_bytes(&format!(r#"{{"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#, "n".repeat(1025)), &[]),
            Status::CorruptFile,
            "1025 bytes",
        ),
        ("many dimensions", file_bytes(&one("U8", &format!("[{}1]", "1,".repeat(64)), "[0,1]"), &[0]), Status::CorruptFile, "64 dimensions"),
        ("three offsets", file_bytes(&one("U8", "[1]", "[0,1,2]"), &[0]), Status::CorruptFile, "3 data_offsets"),
        ("fraction", file_bytes(&one("U8", "[1.0]", "[0,1]"), &[0]), Status::CorruptFile, "whole number"),
        ("no offsets", file_bytes(r#"{"t":{"dtype":"U8","shape":[0]}}"#, &[]), Status::CorruptFile, "data_offsets"),
        ("no shape", file_bytes(r#"{"t":{"dtype":"U8","data_offsets":[0,0]}}"#, &[]), Status::CorruptFile, "shape"),
        ("long dtype", file_bytes(&one(&"F".repeat(100_000), "[1]", "[0,1]"), &[0]), Status::Unsupported, "\"t\": dtype"),
        ("long metadata key", file_bytes(&format!(r#"{{"__metadata__":{{"{}":"1"}}}}"#, "k".repeat(1025)), &[]), Status::CorruptFile, "1025 bytes"),
        ("deep", file_bytes(&"[".repeat(5000), &[]), Status::CorruptFile, "JSON"),
        ("metadata", file_bytes(r#"{"__metadata__":{"a":1}}"#, &[]), Status::CorruptFile, "__metadata__"),
        ("data cut", file_bytes(&one("F32", "[2]", "[0,8]"), &[0; 7]), Status::CorruptFile, "last 1 bytes"),
        ("surplus", file_bytes(&one("F32", "[2]", "[0,8]"), &[0; 9]), Status::CorruptFile, "1 bytes after"),
        ("gap", file_bytes(&one("F32", "[2]", "[4,12]"), &[0; 12]), Status::CorruptFile, "start at data byte 0"),
        ("size", file_bytes(&one("F32", "[3]", "[0,8]"), &[0; 8]), Status::CorruptFile, "[3]"),
        ("backwards", file_bytes(&one("F32", "[2]", "[0,-8]"), &[0; 8]), Status::CorruptFile, "\"t\""),
        ("negative", file_bytes(&one("F32", "[-2]", "[0,8]"), &[0; 8]), Status::CorruptFile, "\"t\""),
        ("overflow", file_bytes(&one("U8", "[18446744073709551615,2]", "[0,8]"), &[0; 8]), Status::CorruptFile, "\"t\""),
        ("wrapping", file_bytes(&one("U8", "[18446744073709551600]", "[0,18446744073709551600]"), &[0; 8]), Status::CorruptFile, "\"t\""),
        ("huge", file_bytes(&one("U8", "[1000000000000]", "[0,1000000000000]"), &[0; 8]), Status::CorruptFile, "truncated"),
        ("no dtype", file_bytes(r#"{"t":{"shape":[],"data_offsets":[0,0]}}"#, &[]), Status::CorruptFile, "dtype"),
        ("no entry", file_bytes(r#"{"t":3}"#, &[]), Status::CorruptFile, "\"t\""),
        ("fp8", file_bytes(&one("F8_E4M3", "[8]", "[0,8]"), &[0; 8]), Status::Unsupported, "F8_E4M3"),
        ("bool", file_bytes(&one("BOOL", "[8]", "[0,8]"), &[0; 8]), Status::Unsupported, "BOOL"),
        ("future", file_bytes(&one("C128", "[1]", "[0,16]"), &[0; 16]), Status::Unsupported, "C128"),
    ];
    let dir = TestDir::new("st-bad");
    for (what, bytes, status, words) in cases {
        let path = dir.join("bad.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        for result in [TensorFile::from_bytes(&bytes, "bad.safetensors"), TensorFile::open(&path)] {
            let error = result.map(drop).unwrap_err();
            assert_eq!(error.status, status, "{what}: {error}");
            assert!(error.message.contains(words) && error.message.contains("bad.safetensors"), "{what}: {error}");
        }
    }
    assert_eq!(TensorFile::open(&dir.join("absent")).map(drop).unwrap_err().status, Status::NotFound);
    assert_eq!(TensorFile::open(dir.path()).map(drop).unwrap_err().status, Status::Io);
}

/// Keys of later formats are passed over, spaces are allowed, and the order of the entries does not matter.
#[test]
fn headers_that_others_write_are_read() {
    let header = r#" { "b" : {"shape":[ ] , "data_offsets":[4,5],"dtype":"U8","later":{"x":[1,"\u0041",null]}} ,
        "__metadata__":null,"\u0061":{"dtype":"I8","shape":[2,2],"data_offsets":[0,4]}}  "#;
    let file = TensorFile::from_bytes(&file_bytes(header, &[1, 2, 3, 4, 5]), "m").unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((file.get("a").unwrap().as_slice::<i8>().unwrap(), file.get("b").unwrap().as_slice::<u8>().unwrap()), (&[1i8, 2, 3, 4][..], &[5u8][..]));
    assert!(file.metadata().is_empty());
}

/// As serde_json wrote it before the header was written piece by piece; the Python library writes the same.
#[test]
fn the_header_is_compact_json() {
    let samples = samples();
    let refs: Vec<_> = samples.iter().filter(|(n, _)| matches!(*n, "w" | "bytes" | "none")).map(|(n, t)| (*n, t)).collect();
    let bytes = serialize(&refs, &BTreeMap::from([("q\"\n".to_string(), "ü\\".to_string())])).unwrap();
    let expected = concat!(
        r#"{"__metadata__":{"q\"\n":"ü\\"},"none":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},"#,
        r#""w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"bytes":{"dtype":"U8","shape":[3],"data_offsets":[24,27]}}"#
    );
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(std::str::from_utf8(&bytes[8..8 + len]).unwrap().trim_end(), expected);
    assert_eq!(len % 8, 0);
}

#[test]
fn overlapping_and_repeated_tensors_are_refused() {
    let overlap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    let repeated = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}"#;
    for header in [overlap, repeated] {
        assert_eq!(TensorFile::from_bytes(&file_bytes(header, &[0; 6]), "m").map(drop).unwrap_err().status, Status::CorruptFile);
    }
}

#[test]
fn every_truncation_is_an_error_and_never_a_panic() {
    let samples = samples();
    let refs: Vec<_> = samples.iter().map(|(n, t)| (*n, t)).collect();
    let bytes = serialize(&refs, &metadata()).unwrap();
    for len in 0..bytes.len() {
        assert_eq!(TensorFile::from_bytes(&bytes[..len], "m").map(drop).unwrap_err().status, Status::CorruptFile, "{len}");
    }
    for i in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[i] ^= 0x15;
        let _ = TensorFile::from_bytes(&bytes, "m");
    }
}

#[test]
fn bad_names_are_not_written() {
    let t = Tensor::zeros(DType::F32, &[1]).unwrap();
    for tensors in [vec![("a", &t), ("a", &t)], vec![("__metadata__", &t)]] {
        assert_eq!(serialize(&tensors, &BTreeMap::new()).unwrap_err().status, Status::InvalidArgument);
    }
}

#[test]
fn old_attention_names_become_present_ones() {
    let conv2 = Tensor::from_slice(&[2, 3, 1, 1], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let conv1 = Tensor::zeros(DType::F16, &[2, 2, 1]).unwrap();
    let bias = Tensor::zeros(DType::F32, &[2]).unwrap();
    let p = "mid_block.attentions.0";
    let names = [
        (format!("{p}.query.weight"), format!("{p}.to_q.weight"), &conv2, vec![2, 3]),
        (format!("{p}.key.weight"), format!("{p}.to_k.weight"), &conv1, vec![2, 2]),
        (format!("{p}.value.bias"), format!("{p}.to_v.bias"), &bias, vec![2]),
        (format!("{p}.proj_attn.weight"), format!("{p}.to_out.0.weight"), &conv1, vec![2, 2]),
        (format!("{p}.group_norm.weight"), format!("{p}.group_norm.weight"), &bias, vec![2]),
        ("other.query.weight".into(), "other.query.weight".into(), &conv2, vec![2, 3, 1, 1]),
        ("a.conv_shortcut.weight".into(), "a.conv_shortcut.weight".into(), &conv2, vec![2, 3, 1, 1]),
    ];
    let refs: Vec<_> = names.iter().map(|(old, _, t, _)| (old.as_str(), *t)).collect();
    let mut file = TensorFile::from_bytes(&serialize(&refs, &BTreeMap::new()).unwrap(), "m").unwrap();
    file.normalise_names().unwrap();
    file.normalise_names().unwrap();
    for (_, new, tensor, shape) in &names {
        let got = file.get(new).unwrap();
        assert_eq!((got.shape(), got.bytes()), (&shape[..], tensor.bytes()), "{new}");
    }
    assert_eq!(file.len(), names.len());
    let (old, new) = (format!("{p}.query.bias"), format!("{p}.to_q.bias"));
    let both = serialize(&[(&old, &bias), (&new, &bias)], &BTreeMap::new()).unwrap();
    assert_eq!(TensorFile::from_bytes(&both, "m").unwrap().normalise_names().unwrap_err().status, Status::CorruptFile);
}

#[test]
fn names_lose_what_wrappers_put_before_them() {
    let tensor = Tensor::from_slice(&[1], &[0f32]).unwrap();
    let stripped = |names: &[&str]| {
        let tensors: Vec<_> = names.iter().map(|name| (*name, &tensor)).collect();
        let mut file = TensorFile::from_bytes(&serialize(&tensors, &BTreeMap::new()).unwrap(), "m").unwrap();
        file.strip_wrappers().map(|()| file.names().map(str::to_string).collect::<Vec<_>>())
    };
    for name in ["a.b", "_orig_mod.a.b", "module.a.b", "module._orig_mod.a.b", "_orig_mod.module.a.b", "module.module.a.b", "a._orig_mod.b"] {
        assert_eq!(stripped(&[name]).unwrap(), ["a.b"], "{name}");
    }
    assert_eq!(stripped(&["a.module.b", "my_module.c", "model.d"]).unwrap(), ["a.module.b", "model.d", "my_module.c"]);
    let error = stripped(&["a.b", "module.a.b"]).unwrap_err();
    assert_eq!(error.status, Status::CorruptFile);
    assert!(error.message.contains("\"module.a.b\" and \"a.b\""), "{error}");
}
