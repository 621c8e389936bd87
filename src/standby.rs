//! Memory for libraries that cannot be refused any: held before they begin, given back to the system when it has no other left.
//!
//! A decoder of pictures asks for memory whose size a file has chosen, and ends the process where there is none. [`with_room`] asks first for as much as the
//! decoder can need at once, which may be refused, and holds it untouched, which costs nothing but addresses, while the decoder works. Where the system
//! refuses a request of this thread meanwhile, the allocator (`memory.rs`) gives the held block back (`give_up`) and asks again. Another thread may be
//! quicker and take what was given back; then the reserve is left, as for all that cannot be refused.

use crate::error::{Error, Result};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    /// What this thread holds: NULL for nothing.
    static HELD: Cell<(*mut u8, usize)> = const { Cell::new((null_mut(), 0)) };
}

/// Threads that hold something. While there are none nobody looks at thread-local data, for which the system may want memory.
static HOLDERS: AtomicUsize = AtomicUsize::new(0);

/// Ends the holding, also when a panic passes.
struct Holding;

impl Drop for Holding {
    fn drop(&mut self) {
        free(HELD.replace((null_mut(), 0)));
        HOLDERS.fetch_sub(1, Ordering::Relaxed);
    }
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.max(1), 16).ok()
}

/// Whether there was something.
fn free((block, bytes): (*mut u8, usize)) -> bool {
    match layout(bytes) {
        Some(layout) if !block.is_null() => {
            // SAFETY: `with_room` took it from the system with this layout, and whoever took it out of HELD is the only one to free it.
            unsafe { System.dealloc(block, layout) };
            true
        }
        _ => false,
    }
}

/// Runs `work`, whose requests for memory cannot be refused and come to at most so many bytes at once. Not within itself.
pub fn with_room<T>(bytes: usize, what: &str, work: impl FnOnce() -> T) -> Result<T> {
    let refused = || Error::out_of_memory(format!("{what}: {bytes} bytes to work in could not be had"));
    // SAFETY: no layout here has size 0.
    let block = layout(bytes).map_or(null_mut(), |layout| unsafe { System.alloc(layout) });
    if block.is_null() {
        return Err(refused());
    }
    debug_assert!(HELD.get().0.is_null(), "with_room within itself");
    HELD.set((block, bytes));
    HOLDERS.fetch_add(1, Ordering::Relaxed);
    let _holding = Holding;
    Ok(work())
}

/// Gives back what this thread holds; whether there was something.
#[cold]
pub(crate) fn give_up() -> bool {
    // A thread whose thread-local data is gone holds nothing.
    HOLDERS.load(Ordering::Relaxed) > 0 && HELD.try_with(|held| free(held.replace((null_mut(), 0)))).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[test]
    fn it_is_given_up_once_and_only_by_its_thread() {
        assert!(!give_up());
        let done = with_room(1 << 20, "a test", || {
            assert!(!std::thread::spawn(give_up).join().expect("a thread"));
            (give_up(), give_up())
        });
        assert_eq!(done.expect("a megabyte"), (true, false));
        with_room(0, "a test", || ()).expect("nothing to hold");
        assert!(!give_up());
    }

    #[test]
    fn more_than_there_is_is_an_error_and_a_panic_lets_go() {
        for bytes in [1 << 60, usize::MAX] {
            let error = with_room(bytes, "a picture", || unreachable!("no room")).expect_err("more than any system has");
            assert!(error.status == Status::OutOfMemory && error.message.contains("a picture"), "{error}");
        }
        assert!(std::panic::catch_unwind(|| with_room(1 << 20, "a test", || panic!("a decoder's"))).is_err());
        assert!(!give_up());
    }
}
