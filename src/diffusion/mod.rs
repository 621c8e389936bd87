//! Noise schedules, predictions, samplers, and the algebra of distillation; knows nothing of networks or devices.
//!
//! [`NoiseSchedule`] says how noisy each timestep is, [`Prediction`] how a network's output reads, [`grid`] which timesteps are visited. A sampler is a [`Table`] of
//! constants, a loss three coefficients ([`trajectory`]). [`scheduler`] reads `scheduler_config.json`.

pub mod ddim;
pub mod ddpm;
pub mod dpm;
pub mod euler;
pub mod grid;
pub mod lcm;
pub mod parametrisation;
pub mod pndm;
pub mod sampler;
pub mod schedule;
pub mod scheduler;
pub mod sigmas;
pub mod table;
pub mod trajectory;
pub mod unipc;
pub mod walk;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod reference;
#[cfg(all(test, target_arch = "x86_64"))]
mod trap_tests;

pub use ddim::DdimConfig;
pub use ddpm::{DdpmConfig, Variance};
pub use dpm::{Algorithm, DpmConfig, SolverType};
pub use euler::EulerConfig;
pub use grid::{PrevRule, Spacing, trailing_pairs};
pub use lcm::LcmConfig;
pub use parametrisation::{Linear, Prediction};
pub use pndm::PndmConfig;
pub use sampler::SamplerConfig;
pub use schedule::{BetaSchedule, Level, NoiseSchedule, Rounding, ScheduleConfig};
pub use sigmas::{FinalSigma, SigmaSpread};
pub use table::{Clip, MEMORY, Step, Sum, Table};
pub use trajectory::{Weight, denoise_loss_coefficients, loss_coefficients, output_loss_coefficients};
pub use unipc::UniPcConfig;
pub use walk::Walk;
