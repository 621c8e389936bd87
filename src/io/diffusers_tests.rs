use super::*;
use crate::Status;
use crate::io::test_util::TestDir;
use std::fs;

fn tensor() -> Tensor {
    Tensor::from_slice(&[2], &[1.5f32, -2.0]).unwrap()
}

fn save(folder: &Path, scheduler: bool) {
    let tensor = tensor();
    let named = [("conv_in.bias", &tensor), ("mid_block.attentions.0.query.bias", &tensor)];
    let scheduler = scheduler.then(SchedulerConfig::default);
    save_model(folder, &UNetConfig::default(), &named, scheduler.as_ref(), Some(&json!({"pairs": [[999, 499], [499, -1]]}))).unwrap();
}

fn check(model: &ModelFiles, scheduler: bool) {
    assert_eq!(model.config, UNetConfig::default());
    assert_eq!(model.tensors.names().collect::<Vec<_>>(), ["conv_in.bias", "mid_block.attentions.0.to_q.bias"]);
    assert_eq!(model.scheduler, scheduler.then(SchedulerConfig::default));
    assert_eq!(model.fewstep.as_ref().unwrap().0["pairs"][1][1], -1);
}

#[test]
fn saved_models_open_from_folder_and_unet_folder() {
    let dir = TestDir::new("model-round");
    save(dir.path(), true);
    check(&ModelFiles::open(dir.path()).unwrap(), true);
    check(&ModelFiles::open(&dir.join("unet")).unwrap(), true);
    check(&ModelFiles::open(&dir.join("unet/../unet/.")).unwrap(), true);
    let index: Value = serde_json::from_str(&fs::read_to_string(dir.join("model_index.json")).unwrap()).unwrap();
    assert_eq!(index["_class_name"], "DDIMPipeline");
    assert_eq!(index["scheduler"], json!(["diffusers", "DDIMScheduler"]));
    assert_eq!(TensorFile::open(&dir.join("unet").join(WEIGHTS)).unwrap().metadata()["format"], "pt");
}

#[test]
fn the_scheduler_is_optional() {
    let dir = TestDir::new("model-bare");
    save(dir.path(), false);
    check(&ModelFiles::open(dir.path()).unwrap(), false);
    check(&ModelFiles::open(&dir.join("unet")).unwrap(), false);
    assert!(!dir.join("model_index.json").exists());
}

#[test]
fn flat_folders_open() {
    let (dir, flat) = (TestDir::new("model-nested"), TestDir::new("model-flat"));
    save(dir.path(), true);
    for (from, to) in [
        ("unet/config.json", CONFIG),
        ("unet/diffusion_pytorch_model.safetensors", WEIGHTS_FP16),
        ("scheduler/scheduler_config.json", SCHEDULER),
        (FEWSTEP, FEWSTEP),
    ] {
        fs::copy(dir.join(from), flat.join(to)).unwrap();
    }
    check(&ModelFiles::open(flat.path()).unwrap(), true);
    let read = |name: &str| fs::read_to_string(flat.join(name)).unwrap();
    let weights = fs::read(flat.join(WEIGHTS_FP16)).unwrap();
    check(&ModelFiles::from_memory(&read(CONFIG), &weights, Some(&read(SCHEDULER)), Some(&read(FEWSTEP))).unwrap(), true);
    let error = ModelFiles::from_memory(&read(CONFIG), &weights[..50], None, None).map(drop).unwrap_err();
    assert_eq!(error.status, Status::CorruptFile);
    assert!(error.message.contains(WEIGHTS), "{error}");
    let error = ModelFiles::from_memory("{", &weights, None, None).map(drop).unwrap_err();
    assert!(error.message.starts_with(CONFIG), "{error}");
}

#[test]
fn what_is_missing_or_of_another_kind_is_named() {
    let open = |dir: &TestDir| ModelFiles::open(dir.path()).map(drop).unwrap_err();
    let dir = TestDir::new("model-missing");
    let error = open(&dir);
    assert_eq!(error.status, Status::NotFound);
    assert!(error.message.contains("unet/config.json"), "{error}");
    fs::create_dir(dir.join("unet")).unwrap();
    fs::write(dir.join("unet/config.json"), "{}").unwrap();
    let error = open(&dir);
    assert_eq!(error.status, Status::NotFound);
    assert!(error.message.contains("unet/diffusion_pytorch_model.safetensors"), "{error}");
    for name in ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.bin.index.json", "diffusion_pytorch_model.safetensors.index.json"] {
        fs::write(dir.join("unet").join(name), "x").unwrap();
        let error = open(&dir);
        assert_eq!(error.status, Status::Unsupported, "{name}");
        assert!(error.message.contains(name), "{error}");
    }
    assert_eq!(ModelFiles::open(&dir.join("absent")).map(drop).unwrap_err().status, Status::NotFound);
    assert_eq!(ModelFiles::open(&dir.join("unet/config.json")).map(drop).unwrap_err().status, Status::InvalidArgument);
}

#[test]
fn damage_is_reported_with_its_file() {
    let dir = TestDir::new("model-damage");
    for (name, status) in [
        ("unet/config.json", Status::CorruptFile),
        ("unet/diffusion_pytorch_model.safetensors", Status::CorruptFile),
        ("scheduler/scheduler_config.json", Status::CorruptFile),
        ("fewstep.json", Status::CorruptFile),
    ] {
        save(dir.path(), true);
        fs::write(dir.join(name), b"\xff\xfe garbage").unwrap();
        let error = ModelFiles::open(dir.path()).map(drop).unwrap_err();
        assert_eq!(error.status, status, "{name}: {error}");
        assert!(error.message.contains(name), "{error}");
    }
}

#[test]
fn invalid_configs_are_not_saved() {
    let dir = TestDir::new("model-invalid");
    let config = UNetConfig { norm_num_groups: 5, ..UNetConfig::default() };
    assert_eq!(save_model(&dir.join("m"), &config, &[], None, None).unwrap_err().status, Status::InvalidArgument);
    assert!(!dir.join("m").exists());
    let scheduler = SchedulerConfig { beta_end: 7.0, ..SchedulerConfig::default() };
    let result = save_model(&dir.join("m"), &UNetConfig::default(), &[], Some(&scheduler), None);
    assert_eq!(result.unwrap_err().status, Status::InvalidArgument);
    assert!(!dir.join("m").exists());
}
