//! What networks are built from: diffusers' blocks, one a file, as functions of a graph and a [`Scope`](super::scope::Scope).

pub mod attention;
pub mod resample;
pub mod resnet;
pub mod time;
