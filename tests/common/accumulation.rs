//! A step of several parts, whose gradients are averaged, is one of all their rows, in the memory of a part.

use fewstep::Result;
use fewstep::backend::Backend;
use fewstep::diffusion::Weight;
use fewstep::distill::checkpoint::OptionGroup;
use fewstep::distill::{Dataset, NormKind, Objective, Optimizer, Trainer, TrainerOptions};
use fewstep::io::SchedulerConfig;
use fewstep::nn::{Model, families};
use fewstep::tensor::{DType, Tensor};
use std::path::Path;
use std::sync::Arc;

/// Small enough for three steps on an emulated GPU.
const CONFIG: &str = r#"{"_class_name":"UNet2DModel","sample_size":4,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[4],
"down_block_types":["DownBlock2D"],"up_block_types":["UpBlock2D"],"norm_num_groups":2,"add_attention":false}"#;

/// Rows of a step.
const ROWS: usize = 8;

fn model(seed: u64) -> Result<Model> {
    Model::create(families::parse(CONFIG, "config")?, SchedulerConfig::default(), seed)
}

/// Two terms that each draw noise of their own, one of them by the teacher's way, and one on cached states.
fn trainer(backend: &Arc<dyn Backend>, parts: usize, precision: DType, loss_scale: f32) -> Result<Trainer> {
    let pixels: Vec<f32> = (0..16 * 16).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let data = Dataset::new(Tensor::from_slice(&[16, 4, 4, 1], &pixels)?, None)?;
    let term = |objective: Objective, weight| objective.term(weight, NormKind::L2);
    let options = TrainerOptions {
        terms: vec![term(Objective::Denoise, Weight::Snr), term(Objective::Progressive, Weight::State), term(Objective::TeacherForced, Weight::State)],
        pairs: vec![(999, 499), (499, -1)],
        substeps: 1,
        cache_size: 4,
        cache_batch: 4,
        batch: ROWS / parts,
        gradient_accumulation_steps: parts,
        optimizer: Optimizer { warmup_steps: 0, ..Optimizer::default() },
        precision,
        loss_scale,
        ..TrainerOptions::default()
    };
    Trainer::new(backend.clone(), &model(3)?, Some(&model(4)?), Some(&data), options)
}

/// Losses and norms of three steps in so many parts are those of one part; with a loss scale whose first gradients overflow too. Tolerance: sums in another
/// order, in f32 (2e-5) or of products that are rounded to 11 bits (2e-2, as one step at another loss scale is away).
pub fn parts_are_one_batch(backend: &Arc<dyn Backend>, parts: &[usize], (precision, loss_scale): (DType, f32), tolerance: f32) -> Result<()> {
    for parts in parts.iter().copied() {
        let (mut found, mut expected) = (trainer(backend, parts, precision, loss_scale)?, trainer(backend, 1, precision, 1024.0)?);
        for step in 1..=3 {
            let (found, expected) = (found.step()?, expected.step()?);
            let all = |r: &fewstep::distill::StepReport| [r.loss, r.terms[0], r.terms[1], r.terms[2], r.grad_norm];
            for (found, expected) in all(&found).into_iter().zip(all(&expected)) {
                let near = (found - expected).abs() <= tolerance * expected.abs();
                assert!(near, "{parts} parts in {precision:?}, step {step}: {found}, expected {expected}");
            }
        }
        assert!(found.memory().arena < expected.memory().arena, "{parts} parts in {precision:?}");
    }
    Ok(())
}

/// A checkpoint of a step in two parts goes on in two parts to the bit; in others only where that is asked for.
pub fn a_run_goes_on_in_parts(backend: &Arc<dyn Backend>, path: &Path) -> Result<()> {
    let mut first = trainer(backend, 2, DType::F32, 1.0)?;
    first.step()?;
    first.save(path)?;
    let expected = first.step()?;
    let (mut same, mut other) = (trainer(backend, 2, DType::F32, 1.0)?, trainer(backend, 4, DType::F32, 1.0)?);
    same.resume(path, 0)?;
    assert_eq!(same.step()?, expected);
    let refused = other.resume(path, 0).expect_err("other parts");
    assert!(refused.message.contains("FEWSTEP_RESUME_BATCH"), "{refused}");
    other.resume(path, OptionGroup::Batch as u32)?;
    let found = other.step()?;
    assert!((found.loss - expected.loss).abs() <= 2e-5 * expected.loss, "{found:?}, expected {expected:?}");
    Ok(())
}
