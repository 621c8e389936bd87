//! Stopping long work: flags that other threads set, and that everything long looks at every few milliseconds.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the caller of a piece of work still wants it. The flags may be set at any time and from any thread; looking at them costs a load each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stop<'a>([Option<&'a AtomicBool>; 2]);

impl<'a> Stop<'a> {
    /// Nobody can stop it.
    pub const NEVER: Self = Stop([None; 2]);

    /// Stopped when either flag is set: the call's own, and the one of everything that its runtime does.
    pub fn on(own: Option<&'a AtomicBool>, general: Option<&'a AtomicBool>) -> Self {
        Self([own, general])
    }

    /// True where nobody can stop it.
    pub fn is_never(self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Whether it shall stop.
    pub fn is_set(self) -> bool {
        self.0.iter().flatten().any(|flag| flag.load(Ordering::Acquire))
    }

    /// A cancelled error when it shall stop.
    pub fn check(self) -> Result<()> {
        if self.is_set() { Err(cancelled()) } else { Ok(()) }
    }
}

impl<'a> From<&'a AtomicBool> for Stop<'a> {
    fn from(flag: &'a AtomicBool) -> Self {
        Self::on(Some(flag), None)
    }
}

/// The error of work that was stopped by its flag.
pub fn cancelled() -> Error {
    Error::cancelled("cancelled by the cancel token")
}
