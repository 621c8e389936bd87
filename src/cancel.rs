//! The flag that stops long work from another thread.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop, shared by who asks and who works. It stays set until it is cleared.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everyone who holds it to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Takes the request back, so that the flag can be used again.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether someone asked to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// A cancelled error when someone asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_set() { Err(Self::cancelled()) } else { Ok(()) }
    }

    /// The error of work that was stopped half way.
    pub fn cancelled() -> Error {
        Error::cancelled("cancelled by the cancel token")
    }
}
