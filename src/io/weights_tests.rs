use super::*;
use crate::Status;
use crate::io::safetensors;
use crate::io::test_util::TestDir;
use crate::tensor::Tensor;
use serde_json::json;

fn touch(dir: &TestDir, names: &[&str]) {
    names.iter().for_each(|name| fs::write(dir.join(name), "").unwrap());
}

/// What a save that is under way, or was killed, has in the folder.
const LEFT: &str = ".fewstep-new-0123456789abcdef-diffusion_pytorch_model.safetensors";

#[test]
fn the_preferred_or_named_weights_are_found() {
    let plain = "diffusion_pytorch_model.safetensors";
    let (ema, fp16, bf16, raw) =
        (&plain.replace(".s", ".ema.s"), &plain.replace(".s", ".fp16.s"), &plain.replace(".s", ".bf16.s"), &plain.replace(".s", ".non_ema.s"));
    let index = "diffusion_pytorch_model.safetensors.index.json";
    let (new_index, old_index) = ("diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model.safetensors.fp16.index.json");
    // (files, variant, the one that is taken, whether something is said about it)
    let cases: &[(&[&str], Option<&str>, &str, bool)] = &[
        (&[plain, fp16, ema], None, plain, false),
        (&[plain, index], None, plain, true),
        (&[index, fp16], None, index, false),
        (&[fp16, bf16, raw, ema], None, ema, true),
        (&[bf16, raw, fp16], None, fp16, true),
        (&[bf16, raw], None, bf16, true),
        (&[raw], None, raw, true),
        (&[new_index], None, new_index, true),
        (&[plain, fp16], Some("fp16"), fp16, false),
        (&[plain, fp16], Some(""), plain, false),
        (&[plain, new_index], Some("fp16"), new_index, false),
        (&[plain, old_index], Some("fp16"), old_index, false),
        (&["diffusion_pytorch_model.mine.safetensors"], Some("mine"), "diffusion_pytorch_model.mine.safetensors", false),
        (&["model.safetensors", "notes.txt"], None, "model.safetensors", true),
        (&["model.safetensors", LEFT], None, "model.safetensors", true),
        (&["diffusion_pytorch_model.mine.safetensors", "diffusion_pytorch_model.bin"], None, "diffusion_pytorch_model.mine.safetensors", true),
    ];
    for (files, variant, expected, said) in cases {
        let dir = TestDir::new("weights-found");
        touch(&dir, files);
        let mut notes = vec![];
        assert_eq!(find(dir.path(), *variant, &mut notes).unwrap(), dir.join(expected), "{files:?} {variant:?}");
        assert_eq!(!notes.is_empty(), *said, "{files:?}: {notes:?}");
        assert!(notes.iter().all(|note| note.contains(expected)), "{notes:?}");
    }
}

#[test]
fn what_cannot_be_taken_is_named() {
    let cases: &[(&[&str], Option<&str>, Status, &str)] = &[
        (&[], None, Status::NotFound, "diffusion_pytorch_model.safetensors: no such file"),
        (&["diffusion_pytorch_model.bin"], None, Status::Unsupported, "safe_serialization"),
        (&["diffusion_pytorch_model.fp16.bin"], None, Status::Unsupported, "diffusion_pytorch_model.fp16.bin"),
        (&["diffusion_pytorch_model.bin.index.json"], None, Status::Unsupported, "diffusion_pytorch_model.bin.index.json"),
        (&[LEFT], None, Status::NotFound, "diffusion_pytorch_model.safetensors: no such file"),
        (&["last.ckpt"], None, Status::Unsupported, "last.ckpt"),
        (&["a.safetensors", "b.safetensors"], None, Status::NotFound, "a.safetensors, b.safetensors"),
        (&["diffusion_pytorch_model-00001-of-00002.safetensors"], None, Status::NotFound, "no such file"),
        (&["diffusion_pytorch_model.safetensors"], Some("fp16"), Status::NotFound, "\"fp16\"; there are: diffusion_pytorch_model.safetensors"),
        (&["diffusion_pytorch_model.fp16.safetensors"], Some(""), Status::NotFound, "diffusion_pytorch_model.fp16.safetensors"),
    ];
    for (files, variant, status, word) in cases {
        let dir = TestDir::new("weights-named");
        touch(&dir, files);
        let error = find(dir.path(), *variant, &mut vec![]).unwrap_err();
        assert_eq!(error.status, *status, "{error}");
        assert!(error.message.contains(word) && error.message.len() < 1000, "{error}");
    }
}

#[test]
fn names_of_shards_and_variants() {
    for (name, shard, plain) in [
        ("diffusion_pytorch_model-00001-of-00002.safetensors", true, true),
        ("diffusion_pytorch_model.fp16-00001-of-00002.safetensors", true, false),
        ("diffusion_pytorch_model-00001-of-00002.fp16.safetensors", true, false),
        ("diffusion_pytorch_model-1-of-2.safetensors", false, false),
        ("diffusion_pytorch_model-00001-of-00002.bin", false, false),
        ("diffusion_pytorch_model.safetensors", false, false),
        ("diffusion_pytorch_model.safetensors.index.json", false, true),
        ("x/diffusion_pytorch_model-00001-of-00002.safetensors", true, false),
        ("my-00001-of-00002.safetensors", true, false),
    ] {
        assert_eq!((is_shard(name), is_shard_or_index(name)), (shard, plain), "{name}");
    }
    for (variant, good) in [("fp16", true), ("", true), ("non_ema-2", true), ("a/b", false), ("..", false), ("fp 16", false), (&*"x".repeat(65), false)] {
        assert_eq!(check_variant(variant).is_ok(), good, "{variant}");
    }
}

#[test]
fn a_folder_that_cannot_be_listed_is_no_folder_without_shards() {
    let dir = TestDir::new("weights-unlisted");
    touch(&dir, &["diffusion_pytorch_model-00001-of-00002.safetensors"]);
    assert_eq!(shards_and_index(dir.path()).unwrap().len(), 1);
    assert_eq!(shards_and_index(&dir.join("absent")).unwrap_err().status, Status::NotFound);
}

/// Writes shards and an index that says where each tensor is.
fn shards(dir: &TestDir, shards: &[(&str, &[&str])], map: serde_json::Value) -> PathBuf {
    for (at, (name, tensors)) in shards.iter().enumerate() {
        let tensor = Tensor::from_slice(&[2], &[at as f32, 1.0]).unwrap();
        let entries: Vec<_> = tensors.iter().map(|t| (*t, &tensor)).collect();
        safetensors::save(&dir.join(name), &entries, &BTreeMap::new()).unwrap();
    }
    let index = dir.join("diffusion_pytorch_model.safetensors.index.json");
    fs::write(&index, json!({"metadata": {"total_size": 7}, "weight_map": map}).to_string()).unwrap();
    index
}

#[test]
fn shards_are_read_as_one_file() {
    let dir = TestDir::new("weights-shards");
    let index = shards(
        &dir,
        &[("s-1.safetensors", &["a", "c"]), ("s-2.safetensors", &["b"])],
        json!({"a": "s-1.safetensors", "b": "s-2.safetensors", "c": "s-1.safetensors"}),
    );
    let file = read(&index).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(file.get_f32("b", &[2]).unwrap().as_slice::<f32>().unwrap(), [1.0, 1.0]);
}

#[test]
fn indices_are_not_trusted() {
    type Case<'a> = (serde_json::Value, Status, &'a str);
    let cases: &[Case] = &[
        (json!({"a": "s-1.safetensors", "b": "../s-2.safetensors"}), Status::CorruptFile, "\"b\""),
        (json!({"a": "/etc/passwd"}), Status::CorruptFile, "no plain name"),
        (json!({"a": "C:s-1.safetensors"}), Status::CorruptFile, "no plain name"),
        (json!({"a": "s-1.bin"}), Status::CorruptFile, "s-1.bin"),
        (json!({"a": 7}), Status::CorruptFile, "7"),
        (json!({"a": "x".repeat(1 << 20)}), Status::CorruptFile, "no plain name"),
        (json!({}), Status::CorruptFile, "0 shards"),
        (json!([]), Status::CorruptFile, "weight_map"),
        (json!({"a": "s-1.safetensors", "b": "absent.safetensors"}), Status::NotFound, "absent.safetensors"),
        (json!({"b": "s-1.safetensors"}), Status::CorruptFile, "does not have it"),
        (json!({"a": "s-1.safetensors", "b": "s-2.safetensors", "d": "s-3.safetensors"}), Status::CorruptFile, "in another shard"),
        (
            (0..=MAX_SHARDS).map(|n| (n.to_string(), json!(format!("{n}.safetensors")))).collect::<serde_json::Map<_, _>>().into(),
            Status::CorruptFile,
            "1001 shards",
        ),
    ];
    for (map, status, word) in cases {
        let dir = TestDir::new("weights-index");
        let index = shards(&dir, &[("s-1.safetensors", &["a", "c"]), ("s-2.safetensors", &["b"]), ("s-3.safetensors", &["b", "d"])], map.clone());
        let error = read(&index).map(drop).unwrap_err();
        assert_eq!(error.status, *status, "{error}");
        assert!(error.message.contains(word) && error.message.len() < 1000, "{error}");
    }
}
