//! Files of models in whole numbers: what they say is judged before anything is computed with it.

use super::tests::{TINY, options, quantized, student};
use super::{Ends, Mode, Options};
use crate::cancel::Stop;
use crate::error::{Error, Result, Status};
use crate::io::{TensorFile, record, safetensors};
use crate::nn::{InputNumbers, Model};
use crate::tensor::Tensor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A layer of the network.
const LAYER: &str = "mid_block.resnets.0.conv1";

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("fewstep-quant-{name}-{}.safetensors", std::process::id()))
}

/// The tensors of a model's file and its metadata.
fn parts(model: &Model, name: &str) -> Result<(TensorFile, BTreeMap<String, String>)> {
    let path = scratch(name);
    model.save_file(&path)?;
    let mut file = TensorFile::open(&path)?;
    std::fs::remove_file(&path).expect("a file");
    let metadata = file.take_metadata();
    Ok((file, metadata))
}

fn bytes(file: &TensorFile, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let tensors = file.names().map(|name| Ok((name, file.get(name)?))).collect::<Result<Vec<_>>>()?;
    safetensors::serialize(&tensors, metadata)
}

/// Tensors that do not fit, or are no numbers.
#[test]
fn damaged_numbers_are_refused() -> Result<()> {
    let whole = quantized(&student()?, &options(129))?;
    let file = scratch("damaged");
    let refused = |model: &Model, status: Status, needle: &str| -> Result<()> {
        model.save_file(&file)?;
        let error = Model::open(&file).map(drop).expect_err(needle);
        assert!(error.status == status && error.message.contains(needle) && error.message.contains("fewstep-quant-damaged"), "{needle}: {error}");
        Ok(())
    };
    for (scale, values) in [("mid_block.resnets.0.conv1.input_scale", vec![0f32]), ("mid_block.resnets.0.conv1.weight_scale", vec![-1f32; 16])] {
        let mut model = whole.clone();
        model.weights.insert(scale.into(), Arc::new(Tensor::from_slice(&[values.len()], &values)?));
        refused(&model, Status::CorruptFile, scale)?;
    }
    let mut model = whole.clone();
    model.weights.remove("mid_block.resnets.0.conv1.weight_scale");
    refused(&model, Status::NotFound, "mid_block.resnets.0.conv1.weight_scale")?;
    let mut model = whole.clone();
    let numbers = model.quantization.as_mut().expect("numbers");
    numbers.layers.insert("no.such.layer".into(), numbers.layers["mid_block.resnets.0.conv1"]);
    refused(&model, Status::CorruptFile, "no.such.layer")?;
    // A number that no sum has room for.
    let mut model = whole.clone();
    let name = format!("{LAYER}.weight");
    let mut numbers = model.weights[&name].try_clone()?;
    numbers.as_mut_slice::<i8>()?[7] = -128;
    model.weights.insert(name.clone(), Arc::new(numbers));
    refused(&model, Status::CorruptFile, &format!("tensor \"{name}\": element 7 is -128"))?;
    let mut model = whole;
    let numbers = model.quantization.as_mut().expect("numbers").layers.get_mut("mid_block.resnets.0.conv1").expect("a layer");
    numbers.input = numbers.input.map(|input| InputNumbers { zero: 200, ..input });
    refused(&model, Status::CorruptFile, "zero_point")?;
    std::fs::remove_file(&file).expect("a file");
    Ok(())
}

/// Whoever crafts a record gets a sentence with the key and the file.
#[test]
fn crafted_records_are_refused() -> Result<()> {
    type Change = (&'static str, fn(&mut Value), &'static str);
    let cases: [Change; 17] = [
        ("a layer that is none", |r| r["quantization"]["layers"]["no.such.layer"] = json!({}), "no.such.layer"),
        ("a norm", |r| r["quantization"]["layers"]["mid_block.resnets.0.norm1"] = json!({}), "mid_block.resnets.0.norm1"),
        ("a number for a layer", |r| r["quantization"]["layers"][LAYER] = json!(5), LAYER),
        ("nothing for a layer", |r| r["quantization"]["layers"][LAYER] = json!(null), LAYER),
        ("a number for numbers", |r| r["quantization"]["layers"][LAYER]["input"] = json!(5), LAYER),
        ("a list of layers", |r| r["quantization"]["layers"] = json!([]), "layers"),
        ("a number for all", |r| r["quantization"] = json!(5), "quantization"),
        ("another grid", |r| r["quantization"]["pairs"] = json!([[999, -1]]), "pairs"),
        ("no student", |r| drop(r.as_object_mut().map(|r| r.remove("pairs"))), "pairs"),
        ("3 bits", |r| r["quantization"]["layers"][LAYER]["weight"] = json!({"bits": 3}), "bits"),
        ("no bits", |r| r["quantization"]["layers"][LAYER]["weight"] = json!({}), "bits"),
        ("a text for bits", |r| r["quantization"]["layers"][LAYER]["weight"] = json!("4"), "bits"),
        ("groups of nothing", |r| r["quantization"]["layers"][LAYER]["weight"] = json!({"bits": 8, "group": 0}), "groups"),
        ("groups that do not divide", |r| r["quantization"]["layers"][LAYER]["weight"] = json!({"bits": 8, "group": 7}), "groups"),
        ("a text for a group", |r| r["quantization"]["layers"][LAYER]["weight"] = json!({"bits": 8, "group": "16"}), "group"),
        ("a text for an object", |r| r["quantization"]["provenance"] = json!("by hand"), "provenance"),
        ("half a pair", |r| r["quantization"]["pairs"] = json!([[999, 499], [499]]), "pairs[1]"),
    ];
    let (file, metadata) = parts(&quantized(&student()?, &options(129))?, "crafted")?;
    Model::from_bytes(&bytes(&file, &metadata)?)?;
    for (what, change, needle) in cases {
        let mut metadata = metadata.clone();
        let text = metadata.get_mut(record::RECORD).expect("a record");
        let mut value: Value = serde_json::from_str(text).expect("JSON");
        change(&mut value);
        *text = value.to_string();
        let error = Model::from_bytes(&bytes(&file, &metadata)?).map(drop).expect_err(what);
        let named = error.message.contains(needle) && error.message.starts_with("model in memory: fewstep.json");
        assert!(error.status == Status::CorruptFile && named, "{what}: {error}");
    }
    Ok(())
}

/// Weights are of as many bits as their record says.
#[test]
fn weights_of_other_bits_are_refused() -> Result<()> {
    for (mode, bits, needle) in [(Mode::W8A8, json!({"bits": 4}), "expected U8"), (Mode::W4A8, json!({"bits": 8}), "expected I8")] {
        let (file, mut metadata) = parts(&quantized(&student()?, &Options { mode, ..options(129) })?, "bits")?;
        let text = metadata.get_mut(record::RECORD).expect("a record");
        let mut value: Value = serde_json::from_str(text).expect("JSON");
        value["quantization"]["layers"][LAYER]["weight"] = bits;
        *text = value.to_string();
        let error = Model::from_bytes(&bytes(&file, &metadata)?).map(drop).expect_err(needle);
        assert!(error.status == Status::CorruptFile && error.message.contains(needle) && error.message.contains(LAYER), "{error}");
    }
    // -8 is none of the numbers of 4 bits, and floats are no numbers.
    let whole = quantized(&student()?, &Options { mode: Mode::W4A8, ..options(129) })?;
    let (file, metadata) = parts(&whole, "nibble")?;
    let name = format!("{LAYER}.weight");
    let mut packed = file.get(&name)?.try_clone()?;
    packed.as_mut_slice::<u8>()?[3] = 0x80;
    let floats = whole.widened(Stop::NEVER)?.weights[&name].try_clone()?;
    for (tensor, needle) in [(packed, "element 7 is -8"), (floats, "found F32")] {
        let tensors = file.names().map(|n| Ok((n, if n == name { &tensor } else { file.get(n)? }))).collect::<Result<Vec<_>>>()?;
        let error = Model::from_bytes(&safetensors::serialize(&tensors, &metadata)?).map(drop).expect_err(needle);
        assert!(error.status == Status::CorruptFile && error.message.contains(needle), "{error}");
    }
    Ok(())
}

/// The tensors of a quantised model without its record are no weights of a model in floats, from whichever function.
#[test]
fn numbers_without_their_record_are_refused() -> Result<()> {
    let (file, metadata) = parts(&quantized(&student()?, &options(129))?, "alone")?;
    let alone = bytes(&file, &BTreeMap::new())?;
    let refused = |error: Error| {
        let words = [".weight\"", "fewstep_model_save_file", "fewstep_model_open_buffer"];
        assert!(error.status == Status::Unsupported && words.iter().all(|word| error.message.contains(word)), "{error}");
    };
    refused(Model::from_memory(TINY, None, &alone).map(drop).expect_err("tensors alone"));
    let mut bare = metadata;
    bare.remove(record::RECORD);
    refused(Model::from_bytes(&bytes(&file, &bare)?).map(drop).expect_err("a file without its record"));
    let folder = scratch("folder");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("config.json"), TINY).expect("a config");
    std::fs::write(folder.join("diffusion_pytorch_model.safetensors"), &alone).expect("weights");
    refused(Model::open(&folder).map(drop).expect_err("a folder"));
    std::fs::remove_dir_all(&folder).expect("a folder");
    Ok(())
}

/// A model that could not be opened again is not written.
#[test]
fn numbers_without_a_grid_are_not_saved() -> Result<()> {
    let whole = Model { student: None, ..quantized(&student()?, &options(129))? };
    let path = scratch("gridless");
    let error = whole.save_file(&path).expect_err("no grid");
    assert!(error.status == Status::InvalidArgument && error.message.contains("grid"), "{error}");
    assert!(!path.exists());
    Ok(())
}

/// What a model was made of stays with it, through files, and through what training does with its weights.
#[test]
fn files_say_what_they_were_made_of() -> Result<()> {
    let (model, options) = (student()?, Options { correct_biases: true, ends: Ends::Percentile(0.9999), ..options(129) });
    let whole = quantized(&model, &options)?;
    let provenance = |model: &Model| model.quantization.as_ref().and_then(|q| q.provenance.clone()).expect("provenance");
    assert_eq!((&provenance(&whole)["mode"], &provenance(&whole)["weights_sha256"]), (&json!("w8a8"), &json!(model.weights_hash(Stop::NEVER)?)));
    assert_eq!(provenance(&whole)["calibration"], json!({"samples": 16, "seed": 5, "range": {"percentile": 99.99}, "correct_biases": true}));
    let mut other = model.clone();
    let bias = other.weights.get_mut("conv_in.bias").expect("a bias");
    *bias = crate::nn::quantization::as_halves(bias, crate::tensor::DType::F16)?;
    assert_ne!(other.weights_hash(Stop::NEVER)?, model.weights_hash(Stop::NEVER)?);
    let (file, metadata) = parts(&whole, "provenance")?;
    let opened = Model::from_bytes(&bytes(&file, &metadata)?)?;
    assert_eq!(provenance(&opened), provenance(&whole));
    assert_eq!(provenance(&opened.widened(Stop::NEVER)?.narrowed()?), provenance(&whole));
    Ok(())
}
