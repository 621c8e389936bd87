//! The keys of a `scheduler_config.json` whose values are names, and the names that they have.

use crate::io::json::named_enum;

named_enum! {
    /// How the betas grow.
    BetaSchedule {
        /// Evenly from start to end.
        Linear = "linear",
        /// Their square roots grow evenly.
        ScaledLinear = "scaled_linear",
        /// From a squared cosine, at most 0.999.
        SquaredCosCapV2 = "squaredcos_cap_v2",
        /// Along a sigmoid from start to end; DDPM and RePaint have it.
        Sigmoid = "sigmoid",
        /// From a Laplace distribution of the noise level; DDPM has it.
        Laplace = "laplace",
        /// All the same; Heun has it.
        Exp = "exp",
    }
}

named_enum! {
    /// What the model predicts.
    PredictionType {
        /// The noise.
        Epsilon = "epsilon",
        /// The clean image.
        Sample = "sample" | "original_sample",
        /// v = a·noise - s·image.
        VPrediction = "v_prediction",
    }
}

named_enum! {
    /// How sampling timesteps are spread.
    TimestepSpacing {
        /// Evenly over the whole range, both ends included.
        Linspace = "linspace",
        /// Multiples of the stride, from 0.
        Leading = "leading",
        /// Multiples of the stride, from the end.
        Trailing = "trailing",
    }
}

named_enum! {
    /// The DPM-Solver variant.
    AlgorithmType {
        /// Deterministic.
        DpmSolverPlusPlus = "dpmsolver++" | "deis",
        /// Stochastic.
        SdeDpmSolverPlusPlus = "sde-dpmsolver++",
        /// Deterministic, on predicted noise (deprecated in diffusers).
        DpmSolver = "dpmsolver",
        /// Stochastic, on predicted noise (deprecated in diffusers).
        SdeDpmSolver = "sde-dpmsolver",
    }
}

named_enum! {
    /// The second-order rule of DPM-Solver.
    SolverType {
        /// Midpoint.
        Midpoint = "midpoint" | "logrho" | "bh1" | "bh2",
        /// Heun.
        Heun = "heun",
    }
}

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
    /// Where DPM-Solver, Euler and UniPC end.
    FinalSigmasType {
        /// At no noise.
        Zero = "zero",
        /// At the schedule's smallest noise.
        SigmaMin = "sigma_min",
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
