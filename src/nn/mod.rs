//! Model families written as graph builders. They hold no numbers: parameters are named states of the graph.

mod blocks;
pub mod conditions;
pub mod model;
mod scope;
pub mod unet;

pub use model::{Model, StudentInfo};
pub use unet::{UNet, parameters};
