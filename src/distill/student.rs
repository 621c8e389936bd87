//! Student derivation: a smaller architecture from a teacher's, and the weights that fit.

use crate::cancel::Stop;
use crate::diffusion::Prediction;
use crate::error::{Error, Result};
use crate::io::unet_config::{DownBlock, UNetConfig, UpBlock};
use crate::nn::{Model, StudentInfo};

/// How a student differs from its teacher. Unset fields keep the teacher's value.
#[derive(Clone, Debug)]
pub struct StudentOptions {
    /// Channels of each stage; another length changes the depth.
    pub block_out_channels: Option<Vec<usize>>,
    /// Residual blocks of each stage.
    pub layers_per_block: Option<usize>,
    /// Keep the attention layers of the stages and of the middle.
    pub attention: bool,
    /// Width of the time embedding.
    pub time_embedding_dim: Option<usize>,
    /// Groups of every norm.
    pub norm_num_groups: Option<usize>,
    /// What the student predicts; v by default, whose errors a few-step sampler never amplifies.
    pub prediction: Prediction,
    /// Copy the teacher's weights where a tensor of the same role has the same shape; random otherwise.
    pub copy_weights: bool,
    /// Seed of the random weights.
    pub seed: u64,
    /// The sampler's grid; empty for none yet.
    pub pairs: Vec<(i64, i64)>,
}

impl Default for StudentOptions {
    fn default() -> Self {
        Self {
            block_out_channels: None,
            layers_per_block: None,
            attention: true,
            time_embedding_dim: None,
            norm_num_groups: None,
            prediction: Prediction::VPrediction,
            copy_weights: false,
            seed: 0,
            pairs: vec![],
        }
    }
}

/// An initial student of a teacher; a cancelled error where `stop` is set before it is made.
pub fn derive(teacher: &Model, options: &StudentOptions, stop: Stop) -> Result<Model> {
    let config = derive_config(&teacher.config, options)?;
    let scheduler = teacher.scheduler.for_student(options.prediction)?;
    let mut student = Model::create_until(config, scheduler, options.seed, stop)?;
    if options.copy_weights {
        copy_weights(&mut student, teacher);
    }
    if !options.pairs.is_empty() {
        student.student = Some(StudentInfo { version: StudentInfo::VERSION, pairs: options.pairs.clone(), teacher_substeps: 0 });
    }
    Ok(student)
}

fn derive_config(teacher: &UNetConfig, options: &StudentOptions) -> Result<UNetConfig> {
    let mut config = UNetConfig { other: Default::default(), ..teacher.clone() };
    if let Some(channels) = &options.block_out_channels {
        if channels.is_empty() || channels.len() > teacher.block_out_channels.len() {
            return Err(Error::invalid(format!(
                "block_out_channels has {} stages; a student has 1 to {} (the teacher's)",
                channels.len(),
                teacher.block_out_channels.len()
            )));
        }
        config.block_out_channels.clone_from(channels);
        // Fewer stages: the outermost ones stay, so that resolutions keep their kind of block.
        config.down_block_types.truncate(channels.len());
        let dropped = config.up_block_types.len() - channels.len();
        config.up_block_types.drain(..dropped);
    }
    if let Some(layers) = options.layers_per_block {
        config.layers_per_block = layers;
    }
    if !options.attention {
        config.down_block_types.fill(DownBlock::Plain);
        config.up_block_types.fill(UpBlock::Plain);
        config.add_attention = false;
    }
    if let Some(groups) = options.norm_num_groups {
        config.norm_num_groups = groups;
        config.attn_norm_num_groups = config.attn_norm_num_groups.map(|_| groups);
    }
    if options.time_embedding_dim.is_some() {
        config.time_embedding_dim = options.time_embedding_dim;
    }
    config.validate()?;
    Ok(config)
}

/// Copies tensors of the same role and shape. The last residual block of an up stage has the teacher's last one as its role, since both read the
/// narrower skip connection; stages are matched from the outside.
fn copy_weights(student: &mut Model, teacher: &Model) {
    let (s, t) = (&student.config, &teacher.config);
    let (stages, layers) = ([s.block_out_channels.len(), t.block_out_channels.len()], [s.layers_per_block, t.layers_per_block]);
    for (name, tensor) in &mut student.weights {
        let role = role_in_teacher(name, stages, layers);
        if let Some(source) = teacher.weights.get(&role).filter(|w| w.shape() == tensor.shape()) {
            *tensor = source.clone();
        }
    }
}

fn role_in_teacher(name: &str, stages: [usize; 2], layers: [usize; 2]) -> String {
    let mut parts: Vec<String> = name.split('.').map(str::to_owned).collect();
    if parts.len() > 4 && parts[0] == "up_blocks" {
        if let Ok(stage) = parts[1].parse::<usize>() {
            parts[1] = (stage + stages[1] - stages[0]).to_string();
        }
        if (parts[2] == "resnets" || parts[2] == "attentions") && parts[3] == layers[0].to_string() {
            parts[3] = layers[1].to_string();
        }
    }
    parts.join(".")
}
