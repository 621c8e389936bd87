//! The graph IR: a static, typed program over tensors, the same for training and inference and for every backend.
//!
//! A [`Graph`] is a list of nodes in program order. Each node applies an [`Op`] to earlier values. Values are immutable except
//! *state* values (parameters, moments, sampler state): an updating op yields the next *version* of a state, and [`Graph::verify`] refuses a
//! program in which an old version is read after it was overwritten. What changes from run to run (seed, step, learning rate, labels) is a
//! *runtime input*, never a constant. A graph holds no numbers except small constant tables.

pub(crate) mod analysis;
pub mod autodiff;
mod builder;
#[allow(clippy::module_inception)] // the concept that the room is named after
mod graph;
pub mod layout;
pub mod numerics;
pub mod op;
pub mod ops;
pub mod passes;
pub mod plan;
mod print;
mod recipe;
pub mod reference;
pub mod target;
mod value;

pub use autodiff::{GradCx, gradients};
pub use graph::{Graph, Mark};
pub use numerics::Numerics;
pub use op::{Alias, Op, OpDef, Updated};
pub use plan::Plan;
pub use recipe::Recipe;
pub use target::{Narrowing, Packed, Target};
pub use value::{Node, NodeId, Origin, Storage, StorageId, TensorType, Value, ValueId};
