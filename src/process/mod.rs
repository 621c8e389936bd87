//! The process that the library is a guest of: its forks, its signals, its threads' floating-point environment, and the threads that the library adds.

pub(crate) mod fork;
pub(crate) mod fp_environment;
pub(crate) mod signals;
pub(crate) mod thread;
