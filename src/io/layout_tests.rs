use super::*;
use crate::Status;
use crate::io::test_util::TestDir;
use crate::io::test_util::{CONFIG as NETWORK, KNOWN, network, open};
use crate::io::{SchedulerConfig, save_model};
use crate::tensor::Tensor;

/// Puts files of a saved model where the table says: (from, to).
fn arrange(dir: &TestDir, files: &[(&str, &str)]) {
    let source = TestDir::new("layout-source");
    let tensor = Tensor::from_slice(&[2], &[1.5f32, -2.0]).unwrap();
    save_model(source.path(), &network(NETWORK), &[("conv_in.bias", &tensor)], &SchedulerConfig::default(), None).unwrap();
    fs::write(source.join("vae.json"), r#"{"_class_name": "AutoencoderKL"}"#).unwrap();
    for (from, to) in files {
        let from = match *from {
            "c" => "unet/config.json",
            "w" => "unet/diffusion_pytorch_model.safetensors",
            "s" => "scheduler/scheduler_config.json",
            other => other,
        };
        fs::create_dir_all(dir.join(to).parent().unwrap()).unwrap();
        fs::copy(source.join(from), dir.join(to)).unwrap();
    }
}

const W: &str = "diffusion_pytorch_model.safetensors";

#[test]
fn models_open_from_the_folders_that_people_have() {
    // (files, path that is opened, where the weights and the scheduler are found, words of the notes)
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, Option<&'a str>, &'a [&'a str]);
    let pipeline: &[(&str, &str)] =
        &[("c", "m/unet/config.json"), ("w", "m/unet/diffusion_pytorch_model.safetensors"), ("s", "m/scheduler/scheduler_config.json")];
    let training: &[(&str, &str)] = &[
        ("s", "out/scheduler/scheduler_config.json"),
        ("c", "out/checkpoint-5/unet/config.json"),
        ("w", "out/checkpoint-5/unet/diffusion_pytorch_model.safetensors"),
        ("c", "out/checkpoint-5/unet_ema/config.json"),
        ("w", "out/checkpoint-5/unet_ema/diffusion_pytorch_model.safetensors"),
    ];
    let flat: &[(&str, &str)] = &[("c", "f/config.json"), ("w", "f/diffusion_pytorch_model.safetensors"), ("s", "f/scheduler_config.json")];
    let other: &[(&str, &str)] = &[
        ("c", "o/my_net/config.json"),
        ("w", "o/my_net/diffusion_pytorch_model.safetensors"),
        ("s", "o/scheduler/scheduler_config.json"),
        ("vae.json", "o/vae/config.json"),
    ];
    let hub: &[(&str, &str)] = &[
        ("c", "h/snapshots/abc/unet/config.json"),
        ("w", "h/snapshots/abc/unet/diffusion_pytorch_model.safetensors"),
        ("s", "h/snapshots/abc/scheduler/scheduler_config.json"),
        ("c", "h/blobs/00"),
    ];
    let beside: &[(&str, &str)] = &[("c", "b/net/config.json"), ("w", "b/net/diffusion_pytorch_model.safetensors"), ("s", "b/scheduler_config.json")];
    let alone: &[(&str, &str)] = &[("c", "a/unet/config.json"), ("w", "a/unet/diffusion_pytorch_model.safetensors")];
    let [m, out] = ["m/scheduler/scheduler_config.json", "out/scheduler/scheduler_config.json"].map(Some);
    let cases: &[Case] = &[
        (pipeline, "m", "m/unet", m, &[]),
        (pipeline, "m/unet", "m/unet", m, &[]),
        (pipeline, "m/unet/../unet/.", "m/unet", m, &[]),
        (pipeline, "m/unet/config.json", "m/unet", m, &["m/unet is opened"]),
        (pipeline, "m/scheduler/scheduler_config.json", "m/unet", m, &["m is opened"]),
        (pipeline, "m/unet/diffusion_pytorch_model.safetensors", "m/unet", m, &["the configuration beside it"]),
        (pipeline, ".", "m/unet", m, &["the only model"]),
        (training, "out/checkpoint-5", "out/checkpoint-5/unet", out, &["has no scheduler_config.json of its own"]),
        (training, "out/checkpoint-5/unet", "out/checkpoint-5/unet", out, &["out/scheduler"]),
        (training, "out/checkpoint-5/unet_ema", "out/checkpoint-5/unet_ema", out, &["out/scheduler"]),
        (training, "out", "out/checkpoint-5/unet", out, &["the only model in", "out/scheduler"]),
        (flat, "f", "f", Some("f/scheduler_config.json"), &[]),
        (flat, "f/scheduler_config.json", "f", Some("f/scheduler_config.json"), &["f is opened"]),
        (other, "o", "o/my_net", Some("o/scheduler/scheduler_config.json"), &["the only model in", "has no scheduler_config.json of its own"]),
        (other, "o/my_net", "o/my_net", Some("o/scheduler/scheduler_config.json"), &["has no scheduler_config.json of its own"]),
        (hub, "h", "h/snapshots/abc/unet", Some("h/snapshots/abc/scheduler/scheduler_config.json"), &["the only model in"]),
        (beside, "b/net", "b/net", Some("b/scheduler_config.json"), &["has no scheduler_config.json of its own"]),
        (alone, "a", "a/unet", None, &["no scheduler_config.json in the folder or above"]),
        (alone, "a/unet", "a/unet", None, &["DDIMScheduler is assumed"]),
    ];
    for (files, path, unet, scheduler, words) in cases {
        let dir = TestDir::new("layout-folders");
        arrange(&dir, files);
        let found = ModelPaths::find(&dir.join(path), None, KNOWN.is_network).unwrap();
        let same = |a: &Path, b: &str| assert_eq!(a.canonicalize().unwrap(), dir.join(b).canonicalize().unwrap(), "{path}");
        same(&found.weights, &format!("{unet}/{W}"));
        same(&found.config, &format!("{unet}/config.json"));
        assert_eq!(found.scheduler.is_some(), scheduler.is_some(), "{path}");
        found.scheduler.iter().zip(*scheduler).for_each(|(found, expected)| same(found, expected));
        let notes = open(&dir.join(path), None).unwrap().notes;
        assert_eq!(notes.len(), words.len(), "{path}: {notes:?}");
        notes.iter().zip(*words).for_each(|(note, word)| assert!(note.contains(word), "{path}: {note}"));
    }
}

/// The only model that can be looked at may not be the one that is meant.
#[cfg(unix)]
#[test]
fn what_cannot_be_looked_at_is_an_error() {
    // A revision of a hub's cache whose blob was pruned, and a checkpoint whose configuration is a link to nothing; each beside a whole one.
    for (whole, broken, path) in [("h/snapshots/old", "h/snapshots/abc", "h"), ("n/one", "n/two", "n")] {
        let dir = TestDir::new("layout-broken");
        let files = [("c", format!("{whole}/unet/config.json")), ("w", format!("{whole}/unet/{W}"))];
        arrange(&dir, &files.each_ref().map(|(from, to)| (*from, to.as_str())));
        fs::create_dir_all(dir.join("h/refs")).unwrap();
        fs::write(dir.join("h/refs/main"), "abc\n").unwrap();
        fs::create_dir_all(dir.join(broken).join("unet")).unwrap();
        std::os::unix::fs::symlink("gone", dir.join(broken).join("unet/config.json")).unwrap();
        let error = ModelPaths::find(&dir.join(path), None, KNOWN.is_network).unwrap_err();
        assert!(error.message.contains(broken), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn links_to_networks_have_the_scheduler_of_either_place() {
    let dir = TestDir::new("layout-link");
    arrange(&dir, &[("c", "disk/ema/config.json"), ("w", "disk/ema/diffusion_pytorch_model.safetensors"), ("s", "m/scheduler/scheduler_config.json")]);
    std::os::unix::fs::symlink(dir.join("disk/ema"), dir.join("m/unet_ema")).unwrap();
    let found = ModelPaths::find(&dir.join("m/unet_ema"), None, KNOWN.is_network).unwrap();
    assert_eq!(found.scheduler.unwrap(), dir.join("m/scheduler/scheduler_config.json"));
}

#[test]
fn where_it_is_not_clear_what_is_meant_the_choices_are_named() {
    let (c, w) = (("c", "n/one/config.json"), ("w", "n/one/diffusion_pytorch_model.safetensors"));
    let part = "n/one/diffusion_pytorch_model-00001-of-00002.safetensors";
    let two = &[c, w, ("c", "n/two/unet/config.json"), ("w", "n/two/unet/diffusion_pytorch_model.safetensors")];
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, Option<&'a str>, Status, &'a [&'a str]);
    let cases: &[Case] = &[
        (two, "n", None, Status::NotFound, &["several", "n/one", "n/two"]),
        (&[("s", "n/scheduler_config.json")], "n", None, Status::NotFound, &["unet/config.json"]),
        (&[("c", "m/unet/config.json"), ("s", "m/scheduler/scheduler_config.json")], "m/scheduler", None, Status::NotFound, &["m holds one"]),
        (&[("vae.json", "n/vae/config.json")], "n", None, Status::NotFound, &["no model here"]),
        (&[("w", "n/x.safetensors")], "n/x.safetensors", None, Status::InvalidArgument, &["expected a model's folder"]),
        (&[c, w], "n/one/diffusion_pytorch_model.safetensors", Some("fp16"), Status::InvalidArgument, &["give their folder"]),
        (&[c, w], "n/one", Some("fp16"), Status::NotFound, &["fp16"]),
        (&[c, w], "n/one", Some("a/b"), Status::InvalidArgument, &["a/b"]),
        (&[c, w, ("w", part)], part, None, Status::NotFound, &["no index names this part"]),
        (&[c, w], "absent", None, Status::NotFound, &["absent"]),
    ];
    for (files, path, variant, status, words) in cases {
        let dir = TestDir::new("layout-unclear");
        arrange(&dir, files);
        let error = open(&dir.join(path), *variant).map(drop).unwrap_err();
        assert_eq!(error.status, *status, "{error}");
        assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
    }
}

/// A link to nothing, and what the system cannot read (here, because links lead round in a circle), are not the same as no file.
#[cfg(unix)]
#[test]
fn what_cannot_be_read_is_not_taken_for_absent() {
    let pipeline = [
        ("c", "o/m/unet/config.json"),
        ("w", "o/m/unet/diffusion_pytorch_model.safetensors"),
        ("w", "o/m/unet/diffusion_pytorch_model.fp16.safetensors"),
        ("s", "o/m/scheduler/scheduler_config.json"),
        ("s", "o/scheduler/scheduler_config.json"),
    ];
    // (the link, what it says, what is opened)
    for (link, text, path) in [
        ("o/m/scheduler/scheduler_config.json", "absent", "o/m"),
        ("o/m/scheduler", "scheduler", "o/m"),
        ("o/m/scheduler/scheduler_config.json", "absent", "o/m/unet/diffusion_pytorch_model.safetensors"),
        ("o/m/fewstep.json", "absent", "o/m"),
        ("o/m/model_index.json", "model_index.json", "o/m"),
        ("o/m/unet/diffusion_pytorch_model.safetensors", "absent", "o/m"),
        ("o/m/unet/config.json", "absent", "o/m"),
        ("o/m/unet/config.json", "absent", "o/m/unet"),
        ("o/m/unet/config.json", "absent", "o/m/unet/diffusion_pytorch_model.safetensors"),
        ("o/m/unet", "unet", "o/m"),
    ] {
        let dir = TestDir::new("layout-unreadable");
        arrange(&dir, &pipeline);
        open(&dir.join(path), None).unwrap();
        let (at, _) = (dir.join(link), dir.join(text));
        let _ = if at.is_dir() { fs::remove_dir_all(&at) } else { fs::remove_file(&at) };
        std::os::unix::fs::symlink(text, &at).unwrap();
        let error = open(&dir.join(path), None).map(drop).unwrap_err();
        assert!(matches!(error.status, Status::Io | Status::NotFound), "{link}: {error}");
        assert!(error.message.contains(link), "{link}: {error}");
    }
}

#[test]
fn a_shard_s_path_stands_for_its_model() {
    let (plain, fp16) = (format!("{W}.index.json"), "diffusion_pytorch_model.safetensors.index.fp16.json");
    for (shard, expected) in [
        ("diffusion_pytorch_model-00001-of-00002.safetensors", plain.as_str()),
        ("diffusion_pytorch_model.fp16-00001-of-00002.safetensors", fp16),
        ("diffusion_pytorch_model-00001-of-00002.fp16.safetensors", fp16),
        ("part-00001-of-00002.safetensors", plain.as_str()),
    ] {
        let dir = TestDir::new("layout-shard");
        arrange(&dir, &[("c", "m/unet/config.json"), ("s", "m/scheduler/scheduler_config.json"), ("w", &*format!("m/unet/{shard}"))]);
        [plain.as_str(), fp16].iter().for_each(|index| fs::write(dir.join("m/unet").join(index), "{}").unwrap());
        let found = ModelPaths::find(&dir.join("m/unet").join(shard), None, KNOWN.is_network).unwrap();
        assert_eq!(found.weights.file_name().unwrap(), expected, "{shard}");
        assert!(found.notes[0].contains("m/unet is opened") && found.scheduler.is_some(), "{:?}", found.notes);
    }
}

#[test]
fn the_only_model_is_said_of_folders_that_were_all_looked_at() {
    let dir = TestDir::new("layout-many");
    arrange(&dir, &[("c", "net/config.json"), ("w", "net/diffusion_pytorch_model.safetensors")]);
    (0..MAX_FOLDERS + 500).for_each(|n| fs::write(dir.join(&format!("{n}.png")), "").unwrap());
    open(dir.path(), None).unwrap();
    (0..MAX_FOLDERS).for_each(|n| fs::create_dir(dir.join(&format!("{n}"))).unwrap());
    let error = open(dir.path(), None).map(drop).unwrap_err();
    assert_eq!(error.status, Status::NotFound, "{error}");
    assert!(error.message.contains("more than 1000 folders"), "{error}");
}
