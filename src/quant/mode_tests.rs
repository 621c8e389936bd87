//! Every way of storing a model in fewer bits: near what it was made of, the same from its file, as small as it says.

use super::tests::{error, options, quantized, samples, student};
use super::{Mode, Options};
use crate::backend::cpu::CpuBackend;
use crate::error::{Result, Status};
use crate::nn::Model;
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

fn saved(model: &Model, name: &str) -> Result<(Model, u64)> {
    let file = std::env::temp_dir().join(format!("fewstep-mode-{name}-{}.safetensors", std::process::id()));
    model.save_file(&file)?;
    let opened = Model::open(&file);
    let bytes = std::fs::metadata(&file).expect("a file").len();
    std::fs::remove_file(&file).expect("a file");
    Ok((opened?, bytes))
}

fn of(mode: Mode) -> Options {
    Options { mode, ..options(255) }
}

/// The errors are those of a network with random weights, whose layers all count: half a step in 127, in 7, of f16's and bf16's fractions, some forty times. The
/// bytes are those of a network of 16 channels, of which biases, norms, the time path and the file's own texts are a large part.
#[test]
fn models_of_fewer_bits_are_near_small_and_the_same_from_their_files() -> Result<()> {
    let (backend, model) = (CpuBackend::new(2)?, student()?);
    let (floats, (_, whole_bytes)) = (samples(&backend, &model)?, saved(&model, "f32")?);
    for (mode, least, most, share) in [
        (Mode::W8A8, 1e-4, 0.05, 0.5),
        (Mode::W8, 1e-4, 0.02, 0.5),
        (Mode::W4A8, 1e-3, 0.4, 0.45),
        (Mode::W4, 1e-3, 0.3, 0.45),
        (Mode::F16, 1e-6, 2e-3, 0.65),
        (Mode::Bf16, 1e-5, 2e-2, 0.65),
    ] {
        let made = quantized(&model, &of(mode))?;
        let found = samples(&backend, &made)?;
        let lost = error(&floats, &found);
        assert!(lost > least && lost < most, "{mode:?}: {lost}");
        let (opened, bytes) = saved(&made, &format!("{mode:?}"))?;
        assert!((bytes as f64) < share * whole_bytes as f64, "{mode:?}: {bytes} of {whole_bytes}");
        assert_eq!((&opened.quantization, &opened.student), (&made.quantization, &made.student), "{mode:?}");
        assert!(opened.warnings.is_empty() && samples(&backend, &opened)? == found, "{mode:?}: {:?}", opened.warnings);
        assert!(opened.weights.iter().all(|(name, tensor)| tensor.bytes() == made.weights[name].bytes()), "{mode:?}");
    }
    Ok(())
}

/// What rounds no input has no grid: teachers too.
#[test]
fn a_teacher_s_weights_are_quantised_for_any_grid() -> Result<()> {
    let teacher = Model { student: None, ..student()? };
    for mode in [Mode::W8, Mode::W4, Mode::F16, Mode::Bf16] {
        let (opened, _) = saved(&quantized(&teacher, &of(mode))?, &format!("teacher-{mode:?}"))?;
        assert!(opened.student.is_none());
        opened.check_timesteps(&[500.0, 3.0])?;
        samples(&CpuBackend::new(1)?, &opened)?;
    }
    for mode in [Mode::W8A8, Mode::W4A8] {
        assert_eq!(quantized(&teacher, &of(mode)).expect_err("no grid").status, Status::InvalidArgument, "{mode:?}");
    }
    Ok(())
}

/// Groups are of 16 weights, of 8 where 16 do not fit, and of all of an output where neither does.
#[test]
fn groups_follow_the_layer() {
    for (shape, group) in [([5, 32, 3, 3], Some(16)), ([5, 24, 3, 3], Some(8)), ([5, 12, 3, 3], None), ([5, 12, 2, 2], Some(16)), ([5, 1, 1, 1], None)] {
        let (numbers, each) = (Mode::W4.weights(&shape), shape[1..].iter().product::<usize>());
        assert_eq!((numbers.bits, numbers.group), (4, group), "{shape:?}");
        assert_eq!(numbers.scales(&shape), Some(5 * each / group.unwrap_or(each)));
    }
}

/// Wide layers are stored as they compute: no f16 is beyond what f16 holds.
#[test]
fn numbers_beyond_f16_stay_what_they_are() -> Result<()> {
    let mut model = student()?;
    model.weights.insert("conv_out.bias".into(), Arc::new(Tensor::from_slice(&[1], &[1e6f32])?));
    for (mode, dtype) in [(Mode::F16, DType::F32), (Mode::Bf16, DType::Bf16)] {
        let made = quantized(&model, &of(mode))?;
        assert_eq!(made.weights["conv_out.bias"].dtype(), dtype);
        assert!(made.weights["conv_in.weight"].dtype() != DType::F32);
    }
    Ok(())
}
