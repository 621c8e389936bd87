use super::*;
use crate::Status;
use crate::io::test_util::{CONFIG as NETWORK, KNOWN, TestDir, network};
use std::fs;

fn tensor() -> Tensor {
    Tensor::from_slice(&[2], &[1.5f32, -2.0]).unwrap()
}

fn save(folder: &Path) {
    let tensor = tensor();
    let named = [("conv_in.bias", &tensor), ("mid_block.attentions.0.query.bias", &tensor)];
    let student = json!({"version": 1, "pairs": [[999, 499], [499, -1]]});
    save_model(folder, &network(NETWORK), &named, &SchedulerConfig::default(), Some(&student)).unwrap();
}

/// Makes the folder one without hashes, as earlier versions wrote it.
fn forget_parts(folder: &Path) {
    let mut record: Map<String, Value> = serde_json::from_str(&fs::read_to_string(folder.join(RECORD)).unwrap()).unwrap();
    record.remove("parts").unwrap();
    fs::write(folder.join(RECORD), Value::Object(record).to_string()).unwrap();
}

fn open(folder: &Path) -> Result<ModelFiles<Value>> {
    ModelFiles::open(folder, None, &KNOWN)
}

fn check(model: &ModelFiles<Value>, scheduler: bool) {
    assert_eq!(model.config["in_channels"], 3);
    assert_eq!(model.tensors.names().collect::<Vec<_>>(), ["conv_in.bias", "mid_block.attentions.0.to_q.bias"]);
    assert_eq!(model.scheduler, scheduler.then(SchedulerConfig::default));
    assert_eq!(model.fewstep.as_ref().unwrap().0["pairs"][1][1], -1);
}

#[test]
fn saved_models_open_from_folder_and_unet_folder() {
    let dir = TestDir::new("model-round");
    save(dir.path());
    check(&open(dir.path()).unwrap(), true);
    check(&open(&dir.join("unet")).unwrap(), true);
    check(&open(&dir.join("unet/../unet/.")).unwrap(), true);
    let index: Value = serde_json::from_str(&fs::read_to_string(dir.join(INDEX)).unwrap()).unwrap();
    assert_eq!(index["_class_name"], "DDIMPipeline");
    assert_eq!(index["scheduler"], json!(["diffusers", "DDIMScheduler"]));
    assert_eq!(TensorFile::open(&dir.join(WEIGHTS)).unwrap().metadata()["format"], "pt");
}

#[test]
fn the_scheduler_is_optional_where_no_record_names_it() {
    let dir = TestDir::new("model-bare");
    save(dir.path());
    fs::remove_file(dir.join(SCHEDULER)).unwrap();
    let error = open(dir.path()).map(drop).unwrap_err();
    assert_eq!(error.status, Status::NotFound);
    assert!(error.message.contains(SCHEDULER) && error.message.contains("fewstep.json"), "{error}");
    forget_parts(dir.path());
    check(&open(dir.path()).unwrap(), false);
    check(&open(&dir.join("unet")).unwrap(), false);
}

#[test]
fn flat_folders_open() {
    let (dir, flat) = (TestDir::new("model-nested"), TestDir::new("model-flat"));
    save(dir.path());
    let [config, weights, scheduler] = ["config.json", "diffusion_pytorch_model.fp16.safetensors", "scheduler_config.json"];
    for (from, to) in [(CONFIG, config), (WEIGHTS, weights), (SCHEDULER, scheduler), (RECORD, RECORD)] {
        fs::copy(dir.join(from), flat.join(to)).unwrap();
    }
    check(&open(flat.path()).unwrap(), true);
    let read = |name: &str| fs::read_to_string(flat.join(name)).unwrap();
    let bytes = fs::read(flat.join(weights)).unwrap();
    check(&ModelFiles::from_memory(&read(config), &bytes, Some(&read(scheduler)), Some(&read(RECORD)), &KNOWN).unwrap(), true);
    let error = ModelFiles::from_memory(&read(config), &bytes[..50], None, None, &KNOWN).map(drop).unwrap_err();
    assert_eq!(error.status, Status::CorruptFile);
    assert!(error.message.contains("diffusion_pytorch_model.safetensors"), "{error}");
    let error = ModelFiles::from_memory("{", &bytes, None, None, &KNOWN).map(drop).unwrap_err();
    assert!(error.message.starts_with(config), "{error}");
}

#[test]
fn parts_of_two_models_are_refused() {
    let (one, two) = (TestDir::new("model-one"), TestDir::new("model-two"));
    save(one.path());
    let other = Tensor::from_slice(&[2], &[1.5f32, -2.5]).unwrap();
    let config = r#"{"_class_name":"UNet2DModel","in_channels":4}"#;
    let scheduler =
        SchedulerConfig { num_train_timesteps: 500, prediction_type: crate::io::scheduler_config::Prediction::VPrediction, ..SchedulerConfig::default() };
    save_model(two.path(), &network(config), &[("conv_in.bias", &other)], &scheduler, None).unwrap();
    for part in [CONFIG, WEIGHTS, SCHEDULER, RECORD] {
        let dir = TestDir::new("model-mixed");
        for name in record::PARTS {
            fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs::copy(if name == part { two.join(name) } else { one.join(name) }, dir.join(name)).unwrap();
        }
        let error = open(dir.path()).map(drop).unwrap_err();
        assert_eq!(error.status, Status::CorruptFile, "{part}: {error}");
        assert!(error.message.contains(if part == RECORD { CONFIG } else { part }) && error.message.contains("delete"), "{error}");
        // Both ways out.
        if part != RECORD {
            forget_parts(dir.path());
            open(dir.path()).unwrap();
        }
        fs::remove_file(dir.join(RECORD)).unwrap();
        assert!(open(dir.path()).unwrap().fewstep.is_none());
    }
}

#[test]
fn another_model_s_variant_is_refused() {
    let dir = TestDir::new("model-variant");
    save(dir.path());
    let fp16 = dir.join("unet/diffusion_pytorch_model.fp16.safetensors");
    safetensors::save(&fp16, &[("conv_in.bias", &tensor())], &BTreeMap::new()).unwrap();
    check(&open(dir.path()).unwrap(), true);
    let error = ModelFiles::open(dir.path(), Some("fp16"), &KNOWN).map(drop).unwrap_err();
    assert_eq!(error.status, Status::CorruptFile);
    assert!(error.message.contains("fp16.safetensors"), "{error}");
    forget_parts(dir.path());
    assert_eq!(ModelFiles::open(dir.path(), Some("fp16"), &KNOWN).unwrap().tensors.len(), 1);
}

#[test]
fn shards_of_an_older_model_go_and_other_files_stay() {
    let dir = TestDir::new("model-shards");
    save(dir.path());
    forget_parts(dir.path());
    fs::remove_file(dir.join(WEIGHTS)).unwrap();
    let shard = "diffusion_pytorch_model-00001-of-00001.safetensors";
    let index = dir.join("unet/diffusion_pytorch_model.safetensors.index.json");
    safetensors::save(&dir.join("unet").join(shard), &[("x", &tensor())], &BTreeMap::new()).unwrap();
    fs::write(&index, json!({"weight_map": {"x": shard}}).to_string()).unwrap();
    for foreign in ["notes.md", "unet/mine.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"] {
        fs::write(dir.join(foreign), "mine").unwrap();
    }
    assert_eq!(open(dir.path()).unwrap().tensors.names().collect::<Vec<_>>(), ["x"]);
    save(dir.path());
    check(&open(dir.path()).unwrap(), true);
    assert!(!index.exists() && !dir.join("unet").join(shard).exists());
    for foreign in ["notes.md", "unet/mine.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"] {
        assert_eq!(fs::read(dir.join(foreign)).unwrap(), b"mine");
    }
}

#[test]
fn what_is_missing_or_of_another_kind_is_named() {
    let open = |dir: &TestDir| super::tests::open(dir.path()).map(drop).unwrap_err();
    let dir = TestDir::new("model-missing");
    let error = open(&dir);
    assert_eq!(error.status, Status::NotFound);
    assert!(error.message.contains("unet/config.json"), "{error}");
    fs::create_dir(dir.join("unet")).unwrap();
    fs::write(dir.join("unet/config.json"), "{}").unwrap();
    let error = open(&dir);
    assert_eq!(error.status, Status::NotFound);
    assert!(error.message.contains("unet/diffusion_pytorch_model.safetensors"), "{error}");
    for name in ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.bin.index.json"] {
        fs::write(dir.join("unet").join(name), "x").unwrap();
        let error = open(&dir);
        assert_eq!(error.status, Status::Unsupported, "{name}");
        fs::remove_file(dir.join("unet").join(name)).unwrap();
        assert!(error.message.contains(name), "{error}");
    }
    assert_eq!(super::tests::open(&dir.join("absent")).map(drop).unwrap_err().status, Status::NotFound);
    assert_eq!(super::tests::open(&dir.join("unet/other.txt")).map(drop).unwrap_err().status, Status::NotFound);
}

#[test]
fn damage_is_reported_with_its_file() {
    let dir = TestDir::new("model-damage");
    for (name, status) in [
        ("unet/config.json", Status::CorruptFile),
        ("unet/diffusion_pytorch_model.safetensors", Status::CorruptFile),
        ("scheduler/scheduler_config.json", Status::CorruptFile),
        ("model_index.json", Status::CorruptFile),
        ("fewstep.json", Status::CorruptFile),
    ] {
        save(dir.path());
        fs::write(dir.join(name), b"\xff\xfe garbage").unwrap();
        let error = open(dir.path()).map(drop).unwrap_err();
        assert_eq!(error.status, status, "{name}: {error}");
        assert!(error.message.contains(name), "{error}");
    }
}

#[test]
fn invalid_schedulers_are_not_saved() {
    let dir = TestDir::new("model-invalid");
    let scheduler = SchedulerConfig { beta_end: 7.0, ..SchedulerConfig::default() };
    let result = save_model(&dir.join("m"), &network(NETWORK), &[], &scheduler, None);
    assert_eq!(result.unwrap_err().status, Status::InvalidArgument);
    assert!(!dir.join("m").exists());
}

/// A save that is killed while it writes leaves a file of weights under a name of its own, which is not to be taken for the folder's.
#[test]
fn weights_that_a_save_is_writing_are_not_the_folder_s() {
    let dir = TestDir::new("model-writing");
    save(dir.path());
    fs::remove_file(dir.join(RECORD)).unwrap();
    fs::rename(dir.join(WEIGHTS), dir.join("unet/model.safetensors")).unwrap();
    let mut saving = FolderSave::begin(dir.path()).unwrap();
    saving.write(WEIGHTS, |w| w.write_all(b"half of it")).unwrap();
    assert_eq!(open(dir.path()).unwrap().tensors.len(), 2);
    fs::remove_file(dir.join("unet/model.safetensors")).unwrap();
    assert_eq!(open(dir.path()).map(drop).unwrap_err().status, Status::NotFound);
}

/// A text is no longer than what is read again, which is found out before anything is written.
#[test]
fn what_would_not_be_read_again_is_not_saved() {
    let dir = TestDir::new("model-long");
    let deep = format!("{}{}{}", "[".repeat(30), vec!["0"; 32_000].join(","), "]".repeat(30));
    let mut scheduler = SchedulerConfig::parse(&format!("{{\"_class_name\": \"DDIMScheduler\", \"deep\": {deep}}}"), "s").unwrap();
    assert_eq!(scheduler.other.len(), 1);
    (scheduler.num_train_timesteps, scheduler.trained_betas) = (100_000, Some(vec![0.1 + 0.2; 100_000]));
    let config = network(NETWORK);
    for error in [
        save_model(&dir.join("m"), &config, &[("x", &tensor())], &scheduler, None).unwrap_err(),
        crate::io::save_model_file(&dir.join("m.safetensors"), &config, &[("x", &tensor())], &scheduler, None).unwrap_err(),
    ] {
        assert_eq!(error.status, Status::Unsupported, "{error}");
        assert!(error.message.contains("scheduler_config.json") && error.message.contains("4194304"), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    scheduler.other.clear();
    scheduler.warnings.clear();
    save_model(&dir.join("m"), &config, &[("conv_in.bias", &tensor())], &scheduler, None).unwrap();
    assert_eq!(open(&dir.join("m")).unwrap().scheduler.unwrap(), scheduler);
}
