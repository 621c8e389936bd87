//! What the fuzz targets share: a heap that is limited by the input's size and fails where the input says, and small valid files to begin from.

pub mod files;
pub mod trainer;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

/// Allocations of at least this size must be fallible.
const FALLIBLE: usize = 4096;

/// Counts what is allocated while an input is tried; refuses what goes beyond the limit, and the one large allocation that was chosen to fail.
struct Meter;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Large allocations until one fails; negative for none.
static FAIL_IN: AtomicI64 = AtomicI64::new(-1);

impl Meter {
    fn permits(size: usize) -> bool {
        let live = LIVE.fetch_add(size, Relaxed) + size;
        PEAK.fetch_max(live, Relaxed);
        let chosen = size > FALLIBLE && FAIL_IN.fetch_sub(1, Relaxed) == 0;
        if live <= LIMIT.load(Relaxed) && !chosen {
            return true;
        }
        if chosen {
            // Whoever could not live without it prints how it came there, which takes memory.
            LIMIT.store(usize::MAX, Relaxed);
        }
        LIVE.fetch_sub(size, Relaxed);
        false
    }
}

// SAFETY: the system's allocator, but for the requests that are refused with a null pointer, as the trait allows.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::permits(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !Self::permits(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks live for a moment.
        if !Self::permits(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: as promised by the caller.
        let moved = unsafe { System.realloc(at, layout, size) };
        LIVE.fetch_sub(if moved.is_null() { size } else { layout.size() }, Relaxed);
        moved
    }
}

#[global_allocator]
static METER: Meter = Meter;

/// What an input may cost.
pub struct Cost {
    /// Bytes of memory for any input.
    pub base: usize,
    /// Bytes of memory for each of the input's.
    pub factor: usize,
    /// Whether large allocations fail at times.
    pub failing: bool,
}

/// Tries an input: more memory than `cost` allows is a finding, and so is an allocation above 4 KiB that cannot fail, where
/// such are made to: for one input in four, the input's own hash says which.
pub fn within(cost: &Cost, data: &[u8], run: impl FnOnce()) {
    let hash = data.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let limit = cost.base + cost.factor * data.len();
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    FAIL_IN.store(if cost.failing && hash.is_multiple_of(4) { (hash >> 8 & 7) as i64 } else { -1 }, Relaxed);
    LIMIT.store(before + limit, Relaxed);
    run();
    LIMIT.store(usize::MAX, Relaxed);
    FAIL_IN.store(-1, Relaxed);
    let peak = PEAK.load(Relaxed).saturating_sub(before);
    assert!(peak <= limit, "{peak} bytes of memory asked for by {} bytes of input; at most {limit} are allowed", data.len());
}

/// A finding unless the library's status is one for the input's faults.
pub fn check<T>(result: fewstep::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.status != fewstep::Status::Panic && !error.message.is_empty(), "{error}");
            None
        }
    }
}
