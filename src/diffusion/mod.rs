//! Noise schedules, predictions, samplers, and the algebra of distillation; knows nothing of networks or devices.
//!
//! [`NoiseSchedule`] says how noisy each timestep is, [`Prediction`] how a network's output reads, [`grid`] which timesteps are visited. A sampler is a [`Table`] of
//! constants, a loss three coefficients ([`trajectory`]), and randomness a function of its place ([`philox`]). [`diffusers`] reads `scheduler_config.json`.

pub mod ddpm;
pub mod diffusers;
pub mod dpm;
pub mod euler;
pub mod grid;
pub mod lcm;
pub mod parametrisation;
pub mod philox;
pub mod pndm;
pub mod reference;
pub mod run;
pub mod sampler;
pub mod schedule;
pub mod sigmas;
pub mod trajectory;
pub mod unipc;

#[cfg(test)]
mod golden_tests;
#[cfg(all(test, target_arch = "x86_64"))]
mod trap_tests;

pub use ddpm::{DdpmConfig, Variance};
pub use dpm::{Algorithm, DpmConfig, SolverType};
pub use euler::EulerConfig;
pub use grid::{PrevRule, Spacing, trailing_pairs};
pub use lcm::LcmConfig;
pub use parametrisation::{Linear, Prediction};
pub use philox::Purpose;
pub use pndm::PndmConfig;
pub use reference::History;
pub use sampler::{Clip, DdimConfig, MEMORY, SamplerConfig, Step, Sum, Table};
pub use schedule::{BetaSchedule, Level, NoiseSchedule, Precision, ScheduleConfig};
pub use sigmas::{FinalSigma, SigmaSpread};
pub use trajectory::{Weight, denoise_loss_coefficients, loss_coefficients, output_loss_coefficients};
pub use unipc::UniPcConfig;
