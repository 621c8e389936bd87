//! Models whose weights are stored in f16 or bf16: they hold half the bytes, and everything else is as with the same numbers in f32.

use fewstep::Result;
use fewstep::backend::Backend;
use fewstep::distill::{NormKind, Objective, Optimizer, Trainer, TrainerOptions, WeightsKind};
use fewstep::graph::{Op, OpDef, Plan};
use fewstep::io::SchedulerConfig;
use fewstep::nn::conditions::Values;
use fewstep::nn::{ConditionKind, Model, families};
use fewstep::random::Purpose;
use fewstep::sampling::{RunSpec, SamplingRun};
use fewstep::tensor::{DType, Tensor};
use half::{bf16, f16};
use std::sync::Arc;

/// A name, and the types that a file's weights have in turn.
pub type File = (&'static str, &'static [DType]);

pub const FILES: [File; 3] = [("f16", &[DType::F16]), ("bf16", &[DType::Bf16]), ("mixed", &[DType::F32, DType::F16, DType::Bf16])];

/// Labels, attention whose q, k and v read one value, several projections of the timestep, and channels enough for products to be merged.
const CONFIG: &str = r#"{"_class_name":"UNet2DModel","sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[16,32],
"down_block_types":["DownBlock2D","AttnDownBlock2D"],"up_block_types":["AttnUpBlock2D","UpBlock2D"],"attention_head_dim":8,"norm_num_groups":4,
"num_class_embeds":10}"#;

pub fn model(seed: u64) -> Result<Model> {
    Model::create(families::parse(CONFIG, "config")?, SchedulerConfig::default(), seed)
}

/// A tensor of f32 in another type, rounded to it.
pub fn stored_as(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    let values = tensor.as_slice::<f32>()?;
    match dtype {
        DType::F16 => Tensor::from_slice(tensor.shape(), &values.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>()),
        DType::Bf16 => Tensor::from_slice(tensor.shape(), &values.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>()),
        _ => tensor.try_clone(),
    }
}

/// A model with its weights stored in these types in turn, and one of the same numbers in f32.
pub fn pair(model: &Model, types: &[DType]) -> Result<[Model; 2]> {
    let (mut stored, mut wide) = (model.clone(), model.clone());
    for (i, (name, tensor)) in model.weights.iter().enumerate() {
        let narrow = stored_as(tensor, types[i % types.len()])?;
        wide.weights.insert(name.clone(), Arc::new(narrow.to_f32()?));
        stored.weights.insert(name.clone(), Arc::new(narrow));
    }
    Ok([stored, wide])
}

/// A run of `steps` steps, one after the other in its plan or looped.
pub fn run(backend: &dyn Backend, model: &Model, batch: usize, precision: DType, unrolled: usize) -> Result<SamplingRun> {
    let table = model.scheduler.sampler()?.table(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), 3)?;
    let spec = RunSpec { table: &table, batch, size: [8, 8], purpose: Purpose::Evaluation, precision, guidance: None, unrolled };
    SamplingRun::new(backend, model, &spec)
}

/// The images of a run of two samples.
fn images(run: &mut SamplingRun) -> Result<Vec<f32>> {
    run.begin(7, &[0, 5], &[(ConditionKind::Labels { classes: 10 }, Values::I32(&[3, 4]))], None)?;
    run.step(None, true)?;
    Ok(run.read()?.to_vec())
}

/// The ops of a plan's order but the casts of what runs once, and how many those are.
fn ops(plan: &Plan) -> (Vec<String>, usize) {
    let nodes: Vec<_> = plan.order().iter().map(|id| &plan.graph().nodes()[id.0 as usize]).collect();
    let casts = |at: usize| at < plan.prepared() && matches!(nodes[at].op, Op::Cast(_));
    let named = |at: usize| {
        format!("{}: {:?} {:?}", nodes[at].op.name(), nodes[at].op, nodes[at].outputs.iter().map(|v| &plan.graph().value(*v).ty).collect::<Vec<_>>())
    };
    ((0..nodes.len()).filter(|at| !casts(*at)).map(named).collect(), (0..nodes.len()).filter(|at| casts(*at)).count())
}

/// The same images from the same steps, in these precisions and so far unrolled; beside the casts, which run once, the plan is the same, and so is what is
/// packed.
pub fn samples_are_those_of_f32(backend: &dyn Backend, runs: &[(DType, usize)]) -> Result<()> {
    for (file, types) in FILES {
        let [stored, wide] = pair(&model(3)?, types)?;
        for (precision, unrolled) in runs.iter().copied() {
            let what = format!("{file} weights in {precision:?}, unrolled {unrolled}");
            let (mut one, mut other) = (run(backend, &stored, 2, precision, unrolled)?, run(backend, &wide, 2, precision, unrolled)?);
            let [(found, casts), (expected, before)] = [&one, &other].map(|run| ops(run.plan()));
            assert_eq!(found, expected, "{what}");
            let narrow = stored.weights.values().filter(|w| w.dtype() != DType::F32).count();
            assert_eq!(casts, before + narrow, "{what}: a cast for each weight that is stored narrower");
            assert!(images(&mut one)? == images(&mut other)?, "{what}: other images");
            // Norms, biases and embeddings, which are not packed, have an f32 copy; products' weights have none but the packed one.
            let small: usize = stored.weights.values().filter(|w| w.shape().len() < 2).map(|w| 4 * w.numel() + 64).sum();
            let embedded = 4 * stored.weights["class_embedding.weight"].numel();
            let (memory, plain) = (one.memory(), other.memory());
            assert_eq!((memory.shared, memory.states), (plain.shared, plain.states), "{what}");
            assert!(memory.persistent <= plain.persistent + small + embedded, "{what}: {} of {} and {small}", memory.persistent, plain.persistent);
        }
    }
    Ok(())
}

/// A step of a trainer whose teacher is stored narrower is the step of the f32 teacher, whatever type the student came in; what is trained is f32.
pub fn training_is_that_of_f32(backend: &Arc<dyn Backend>, files: &[File]) -> Result<()> {
    let options = |objective: Objective| TrainerOptions {
        terms: vec![objective.term(fewstep::diffusion::Weight::Const, NormKind::L2)],
        pairs: vec![(999, 499), (499, -1)],
        substeps: 1,
        cache_size: 4,
        cache_batch: 4,
        batch: 2,
        optimizer: Optimizer { warmup_steps: 0, ..Optimizer::default() },
        ..TrainerOptions::default()
    };
    for (file, types) in files {
        let [teachers, students] = [3, 4].map(|seed| model(seed).and_then(|model| pair(&model, types)));
        let ([stored, wide], [narrow, student]) = (teachers?, students?);
        for objective in [Objective::TeacherForced, Objective::OnPolicy] {
            let trained = |student: &Model, teacher: &Model| -> Result<Vec<Vec<u8>>> {
                let mut trainer = Trainer::new(backend.clone(), student, Some(teacher), None, options(objective))?;
                let before = trainer.snapshot(WeightsKind::Raw)?;
                trainer.step()?;
                trainer.step()?;
                let after = trainer.snapshot(WeightsKind::Ema)?;
                assert!(after.weights.values().all(|w| w.dtype() == DType::F32), "{file}");
                assert!(after.weights.iter().any(|(name, w)| w.bytes() != before.weights[name].bytes()), "{file}: something is learnt");
                Ok(after.weights.values().map(|w| w.bytes().to_vec()).collect())
            };
            let expected = trained(&student, &wide)?;
            for (student, teacher) in [(&student, &stored), (&narrow, &stored), (&narrow, &wide)] {
                assert!(trained(student, teacher)? == expected, "{file} {objective:?}: other weights");
            }
        }
    }
    Ok(())
}
