//! Forks: a child inherits memory but none of the threads, and no GPU.

use crate::error::Result;
use std::sync::atomic::{AtomicU32, Ordering};

/// Forks between the process that first watched and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// The process that something was made in, told from the processes that inherit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// This process, from now on told from its children. An error when the system has no memory to note that.
    pub(crate) fn current() -> Result<Self> {
        watch()?;
        Ok(Self(GENERATION.load(Ordering::Relaxed)))
    }

    /// False in a child that inherited what was made in this process. One load: a kernel can ask.
    pub(crate) fn is_this(self) -> bool {
        self.0 == GENERATION.load(Ordering::Relaxed)
    }
}

/// The first process that did something which cannot be done again in its children, not even where it was only half done.
pub(crate) struct First(AtomicU32);

impl First {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(u32::MAX))
    }

    /// Whether this process is the first, which it becomes where there was none.
    pub(crate) fn is_this(&self) -> Result<bool> {
        let here = Process::current()?.0;
        Ok(self.0.compare_exchange(u32::MAX, here, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|first| first == here, |_| true))
    }
}

/// Has `fork` count. Nobody waits here for another thread, which a fork might have left behind; registered twice by two threads at once it counts twice.
#[cfg(all(unix, not(miri)))]
fn watch() -> Result<()> {
    use std::sync::atomic::AtomicBool;
    static WATCHED: AtomicBool = AtomicBool::new(false);
    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    if WATCHED.load(Ordering::Acquire) {
        return Ok(());
    }
    // SAFETY: the handler only touches an atomic, which is allowed in a forked child; the C library drops it when this library is unloaded.
    match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
        0 => WATCHED.store(true, Ordering::Release),
        code => return Err(crate::error::Error::out_of_memory(format!("pthread_atfork: {}", std::io::Error::from_raw_os_error(code)))),
    }
    Ok(())
}

#[cfg(not(all(unix, not(miri))))]
fn watch() -> Result<()> {
    Ok(())
}

#[cfg(all(test, unix, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_another_process() -> Result<()> {
        static FIRST: First = First::new();
        let here = Process::current()?;
        assert!(here.is_this() && FIRST.is_this()?);
        // SAFETY: the child only reads an atomic and leaves.
        match unsafe { libc::fork() } {
            // SAFETY: ends the child without running anything of the test harness.
            0 => unsafe { libc::_exit(i32::from(here.is_this()) + 2 * i32::from(FIRST.is_this().unwrap_or(true))) },
            child => {
                let mut status = -1;
                // SAFETY: waits for the child just made.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0, "the child takes itself for its parent");
            }
        }
        assert!(here.is_this() && FIRST.is_this()?);
        Ok(())
    }
}
