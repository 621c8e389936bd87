//! The keys of a `scheduler_config.json` whose values are names, and the names that they have.

use crate::names::named_enum;

pub use crate::names::{Algorithm, BetaSchedule, FinalSigma, Prediction, SolverType, Spacing};

named_enum! {
    /// The function B(h) of UniPC.
    UniPcType {
        /// e^h - 1.
        Bh2 = "bh2" | "midpoint" | "heun" | "logrho",
        /// h.
        Bh1 = "bh1",
    }
}

named_enum! {
    /// How Euler finds sigmas between timesteps.
    InterpolationType {
        /// On the line between two sigmas.
        Linear = "linear",
        /// Equal steps of ln sigma over the whole schedule.
        LogLinear = "log_linear",
    }
}

named_enum! {
    /// What Euler feeds to a network that predicts v.
    TimestepType {
        /// Timesteps.
        Discrete = "discrete",
        /// A quarter of ln sigma.
        Continuous = "continuous",
    }
}

named_enum! {
    /// The variance of the noise that DDPM adds, or one that the model predicts in further output channels.
    VarianceType {
        /// The posterior's (DDPM, section 3.2).
        FixedSmall = "fixed_small",
        /// The same, with a root of what the others have.
        FixedSmallLog = "fixed_small_log",
        /// Beta.
        FixedLarge = "fixed_large",
        /// The logarithm of beta, of which diffusers takes the root.
        FixedLargeLog = "fixed_large_log",
        /// Predicted, directly.
        Learned = "learned",
        /// Predicted, as a position between two bounds.
        LearnedRange = "learned_range",
    }
}
