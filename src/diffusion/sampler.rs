//! The samplers that there are, each with its options.

use super::ddim::{self, DdimConfig};
use super::ddpm::{self, DdpmConfig};
use super::dpm::{self, DpmConfig};
use super::euler::{self, EulerConfig};
use super::lcm::{self, LcmConfig};
use super::parametrisation::Prediction;
use super::pndm::{self, PndmConfig};
use super::schedule::NoiseSchedule;
use super::table::Table;
use super::unipc::{self, UniPcConfig};
use crate::error::Result;

/// A sampler and its options.
#[derive(Clone, Debug, PartialEq)]
pub enum SamplerConfig {
    /// DDIM.
    Ddim(DdimConfig),
    /// The DPM-Solver++ family.
    DpmSolverPp(DpmConfig),
    /// Euler, also ancestral.
    Euler(EulerConfig),
    /// DDPM's ancestral sampling.
    Ddpm(DdpmConfig),
    /// PNDM.
    Pndm(PndmConfig),
    /// LCM.
    Lcm(LcmConfig),
    /// UniPC.
    UniPc(UniPcConfig),
}

impl SamplerConfig {
    /// The table of a run of `steps` steps, 1 ..= T, with a network of the given prediction type. Start from unit normal noise
    /// times `initial`. (PNDM evaluates the network a few times more than it has steps: each is a step of the table.)
    pub fn table(&self, schedule: &NoiseSchedule, prediction: Prediction, steps: usize) -> Result<Table> {
        match self {
            SamplerConfig::Ddim(ddim) => ddim::table(schedule, prediction, ddim, steps),
            SamplerConfig::DpmSolverPp(dpm) => dpm::table(schedule, prediction, dpm, steps),
            SamplerConfig::Euler(euler) => euler::table(schedule, prediction, euler, steps),
            SamplerConfig::Ddpm(ddpm) => ddpm::table(schedule, prediction, ddpm, steps),
            SamplerConfig::Pndm(pndm) => pndm::table(schedule, prediction, pndm, steps),
            SamplerConfig::Lcm(lcm) => lcm::table(schedule, prediction, lcm, steps),
            SamplerConfig::UniPc(unipc) => unipc::table(schedule, prediction, unipc, steps),
        }
    }
}
