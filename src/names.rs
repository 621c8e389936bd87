//! Enums whose values have names in files, and those that every room speaks of: diffusers' names, each enum once.

/// An enum whose values have names in files.
pub trait Named: Copy + PartialEq + 'static {
    /// Every accepted name with its value; the first name of a value is the one written.
    const NAMES: &'static [(&'static str, Self)];

    /// The name that files use.
    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, value)| *value == self).map_or("?", |(name, _)| name)
    }

    /// The value with this name.
    fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }
}

/// Declares an enum and its [`Named`] table; further names after `|` are read, never written.
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal $(| $alias:literal)*),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $crate::names::Named for $name {
            const NAMES: &'static [(&'static str, Self)] = &[$(($text, Self::$variant), $(($alias, Self::$variant),)*)+];
        }
    };
}
pub(crate) use named_enum;

named_enum! {
    /// The quantity that a network's output stands for (`prediction_type`).
    Prediction {
        /// The noise e.
        Epsilon = "epsilon",
        /// The clean data x_0.
        Sample = "sample" | "original_sample",
        /// The velocity v = a e - s x_0: the default of a few-step student, since its errors are never amplified by a step.
        VPrediction = "v_prediction",
    }
}

named_enum! {
    /// How beta grows with time (`beta_schedule`).
    BetaSchedule {
        /// Equal steps of beta (DDPM, section 4).
        Linear = "linear",
        /// Equal steps of sqrt(beta) (latent diffusion, arXiv 2112.10752).
        ScaledLinear = "scaled_linear",
        /// `abar(u) = cos²((u + 0.008) / 1.008 · pi/2)`, beta at most 0.999 (improved DDPM, arXiv 2102.09672, equation 17).
        SquaredcosCapV2 = "squaredcos_cap_v2",
        /// Along a sigmoid from -6 to 6 (GeoDiff, arXiv 2203.02923); DDPM and RePaint have it.
        Sigmoid = "sigmoid",
        /// `abar` from a Laplace distribution of ln snr, as diffusers writes it, beta at most 0.999; DDPM has it.
        Laplace = "laplace",
        /// `abar(u) = e^(-12 u)`; Heun has it.
        Exp = "exp",
    }
}

named_enum! {
    /// How the timesteps of a run are chosen (`timestep_spacing`).
    Spacing {
        /// Multiples of T/N from 0: never visits the noisiest times (N = 1 starts at t = 0).
        Leading = "leading",
        /// Multiples of T/N counted from T: always starts at T-1. The right one for few steps.
        Trailing = "trailing",
        /// Equal parts of 0 ..= T-1, both ends included.
        Linspace = "linspace",
    }
}

named_enum! {
    /// Which equation DPM-Solver solves (`algorithm_type`).
    #[derive(Default)]
    Algorithm {
        /// The probability-flow ODE in terms of predicted data.
        #[default]
        DpmSolverPp = "dpmsolver++" | "deis",
        /// The diffusion SDE in terms of predicted data.
        SdeDpmSolverPp = "sde-dpmsolver++",
        /// The ODE in terms of predicted noise (arXiv 2206.00927). diffusers has deprecated it.
        DpmSolver = "dpmsolver",
        /// The SDE in terms of predicted noise; orders 1 and 2. diffusers has deprecated it.
        SdeDpmSolver = "sde-dpmsolver",
    }
}

named_enum! {
    /// Form of DPM-Solver's second-order step (`solver_type`).
    #[derive(Default)]
    SolverType {
        /// Midpoint rule.
        #[default]
        Midpoint = "midpoint" | "logrho" | "bh1" | "bh2",
        /// Heun-like: the exact integral of the linear extrapolation.
        Heun = "heun",
    }
}

named_enum! {
    /// Where a run over sigmas ends (`final_sigmas_type`).
    #[derive(Default)]
    FinalSigma {
        /// Clean data.
        #[default]
        Zero = "zero",
        /// The smallest sigma of the training schedule.
        SigmaMin = "sigma_min",
    }
}
