//! Networks as graph builders. They hold no numbers: parameters are named states of the graph.

mod blocks;
pub mod channels;
pub mod conditions;
pub mod cost;
pub mod families;
#[cfg(feature = "mixer")]
mod mixer;
pub mod model;
pub mod network;
mod own_steps;
pub mod per_step;
pub mod prediction;
pub mod quantization;
pub mod scope;
pub mod unet;

pub use conditions::{Condition, ConditionKind};
pub use cost::Cost;
pub use model::{Model, StudentInfo, widened};
pub use network::{Inputs, Network, Signature};
pub use per_step::{PerStep, Step, When};
pub use prediction::{Guidance, Predicted, Predictor, Roles};
pub use quantization::{InputNumbers, LayerNumbers, Quantization, WeightNumbers};
pub use scope::{Feature, Layer, Scope, scale_after};
