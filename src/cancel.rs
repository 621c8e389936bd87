//! Stopping long work: a flag that another thread sets, and that everything long looks at every few milliseconds.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the caller of a piece of work still wants it. The flag may be set at any time and from any thread; looking at it costs a load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stop<'a>(Option<&'a AtomicBool>);

impl<'a> Stop<'a> {
    /// Nobody can stop it.
    pub const NEVER: Self = Stop(None);

    /// Stopped when the flag is set.
    pub fn on(flag: &'a AtomicBool) -> Self {
        Self(Some(flag))
    }

    /// True where nobody can stop it.
    pub fn is_never(self) -> bool {
        self.0.is_none()
    }

    /// Whether it shall stop.
    pub fn is_set(self) -> bool {
        self.0.is_some_and(|flag| flag.load(Ordering::Acquire))
    }

    /// A cancelled error when it shall stop.
    pub fn check(self) -> Result<()> {
        if self.is_set() { Err(cancelled()) } else { Ok(()) }
    }
}

/// The error of work that was stopped by its flag.
pub fn cancelled() -> Error {
    Error::cancelled("cancelled by the cancel token")
}
