//! What happens when the system has no memory left: large requests fail and are answered OUT_OF_MEMORY, small ones live on a reserve until then.
//!
//! A size that comes from a file, an option or a plan is asked for with [`try_vec`], [`push`], [`collect`] and their like, which return an error. That leaves
//! requests that Rust cannot make fallibly: names, nodes of maps, messages, threads, what other crates ask for. Where the system refuses one of those,
//! [`Allocator`] serves it from a [`Reserve`] that is part of the program, and the operation goes on to the next thing that may fail, or to its end. Long
//! operations call [`check`] on their way, which fails as soon as a good part of the reserve is used, so that it does not run out in practice. For libraries
//! that want large pieces there is `standby.rs`, which holds them beforehand.
//! What no reserve serves (more than it has in one piece) ends the process, as in any Rust program.

use crate::error::{Error, Result};
use crate::standby;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The largest request that counts as small; what is fallible and larger never comes from the reserve.
pub const SMALL: usize = 4096;
/// Sizes of small blocks: 32 bytes, and twice as many in each further class, up to [`SMALL`].
const CLASSES: usize = 8;
/// Bytes of the blocks of one class.
const CLASS_BYTES: usize = 128 << 10;
/// Words of the small blocks' map: 4,096 blocks of the first class, half as many in each further one; the last class fills half a word.
const WORDS: usize = 64 + 32 + 16 + 8 + 4 + 2 + 1 + 1;
/// What larger requests get, one or several side by side.
const UNIT: usize = 32 << 10;
/// Units there are: the bits of one word.
const UNITS: usize = 64;
const SMALL_BYTES: usize = CLASSES * CLASS_BYTES;
const BYTES: usize = SMALL_BYTES + UNITS * UNIT;

/// What an allocation of so many bytes takes: allocators keep a word with each, and hand out multiples of two.
pub(crate) fn heap(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + size_of::<usize>()).next_multiple_of(2 * size_of::<usize>()).max(4 * size_of::<usize>()) }
}

/// Zeros that cost no memory until they are touched.
#[repr(C, align(4096))]
struct Area(UnsafeCell<[MaybeUninit<u8>; BYTES]>);

/// Memory for when the system has none: blocks of eight sizes, 3 MiB in all, with a bit for each. Takes no lock, so a thread that stops in the middle (in a
/// fork, by a signal) keeps nobody waiting.
pub struct Reserve {
    area: Area,
    /// Set bits are blocks in use.
    small: [AtomicU64; WORDS],
    /// The same for units.
    large: AtomicU64,
    /// Bytes of the small blocks in use.
    used: AtomicUsize,
}

// SAFETY: the bytes of a block are reached only by who took its bit, by compare-exchange; everything else is atomics.
unsafe impl Sync for Reserve {}

/// The first word of a class.
const fn first_word(class: usize) -> usize {
    if class == CLASSES { WORDS } else { 128 - (128 >> class) }
}

/// The class whose blocks hold so many bytes, aligned so; `None` for more than any.
fn class_of(layout: Layout) -> Option<usize> {
    let bytes = layout.size().max(layout.align()).max(32);
    (bytes <= SMALL).then(|| bytes.next_power_of_two().trailing_zeros() as usize - 5)
}

fn units_of(layout: Layout) -> usize {
    layout.size().div_ceil(UNIT).max(1)
}

impl Reserve {
    /// An unused reserve.
    pub const fn new() -> Self {
        Self {
            area: Area(UnsafeCell::new([MaybeUninit::uninit(); BYTES])),
            small: [const { AtomicU64::new(0) }; WORDS],
            large: AtomicU64::new(0),
            used: AtomicUsize::new(0),
        }
    }

    fn start(&self) -> *mut u8 {
        self.area.0.get().cast()
    }

    /// Whether the memory at `ptr` is the reserve's.
    pub fn owns(&self, ptr: *const u8) -> bool {
        (ptr as usize).wrapping_sub(self.start() as usize) < BYTES
    }

    /// Whether so much is in use that new work should not begin: half of the small blocks, or a quarter of the units.
    pub fn is_low(&self) -> bool {
        self.used.load(Ordering::Relaxed) > SMALL_BYTES / 2 || self.large.load(Ordering::Relaxed).count_ones() > UNITS as u32 / 4
    }

    /// Memory for a layout; NULL where there is none.
    fn take(&self, layout: Layout) -> *mut u8 {
        if layout.align() > SMALL {
            return std::ptr::null_mut();
        }
        // A larger block does where those of its size are gone, and at last a unit.
        let at = class_of(layout).and_then(|class| (class..CLASSES).find_map(|class| self.take_block(class))).or_else(|| self.take_units(units_of(layout)));
        // SAFETY: the offset of a block or unit lies inside the area.
        at.map_or(std::ptr::null_mut(), |at| unsafe { self.start().add(at) })
    }

    /// The offset of a free block.
    fn take_block(&self, class: usize) -> Option<usize> {
        let blocks = CLASS_BYTES >> (5 + class);
        let valid = if blocks < 64 { (1u64 << blocks) - 1 } else { u64::MAX };
        for (i, word) in self.small[first_word(class)..first_word(class + 1)].iter().enumerate() {
            if let Some(bit) = take_bits(word, 1, valid) {
                self.used.fetch_add(32 << class, Ordering::Relaxed);
                return Some(class * CLASS_BYTES + ((i * 64 + bit) << (5 + class)));
            }
        }
        None
    }

    /// The offset of `count` units side by side.
    fn take_units(&self, count: usize) -> Option<usize> {
        if count > UNITS {
            return None;
        }
        take_bits(&self.large, count, u64::MAX).map(|bit| SMALL_BYTES + bit * UNIT)
    }

    /// Ends the use of what [`Reserve::take`] gave.
    fn give_back(&self, ptr: *mut u8, layout: Layout) {
        let at = ptr as usize - self.start() as usize;
        if at >= SMALL_BYTES {
            self.large.fetch_and(!(run(units_of(layout)) << ((at - SMALL_BYTES) / UNIT)), Ordering::Release);
            return;
        }
        let class = at / CLASS_BYTES;
        let block = (at % CLASS_BYTES) >> (5 + class);
        self.small[first_word(class) + block / 64].fetch_and(!(1 << (block % 64)), Ordering::Release);
        self.used.fetch_sub(32 << class, Ordering::Relaxed);
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Self::new()
    }
}

/// `count` set bits.
fn run(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// Sets the first `count` neighbouring bits that are 0 and valid; the place of the lowest.
fn take_bits(word: &AtomicU64, count: usize, valid: u64) -> Option<usize> {
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        let free = !seen & valid;
        let bit = if count == 1 { free.trailing_zeros() as usize } else { (0..=64 - count).find(|bit| free >> bit & run(count) == run(count)).unwrap_or(64) };
        if bit >= 64 {
            return None;
        }
        match word.compare_exchange_weak(seen, seen | run(count) << bit, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Some(bit),
            Err(now) => seen = now,
        }
    }
}

/// The system's allocator with a reserve behind it, and a count of what it was asked for.
pub struct Allocator<S: 'static = System> {
    system: S,
    reserve: &'static Reserve,
    calls: AtomicUsize,
    bytes: AtomicUsize,
}

impl<S> Allocator<S> {
    /// An allocator that asks `system` first.
    pub const fn new(system: S, reserve: &'static Reserve) -> Self {
        Self { system, reserve, calls: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }
    }

    /// Calls for memory so far, and the bytes that they asked for; both wrap around.
    pub fn asked(&self) -> (usize, usize) {
        (self.calls.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn note(&self, bytes: usize) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl<S: GlobalAlloc> Allocator<S> {
    /// Memory that the system has refused: from what this thread holds in standby, else from the reserve.
    #[cold]
    fn take(&self, layout: Layout) -> *mut u8 {
        // SAFETY: callers pass what they were asked for.
        let ptr = if standby::give_up() { unsafe { self.system.alloc(layout) } } else { std::ptr::null_mut() };
        if ptr.is_null() { self.reserve.take(layout) } else { ptr }
    }
}

// SAFETY: what the system gives goes back to it, by address; the reserve gives blocks of at least the layout's size and alignment, each to one caller.
unsafe impl<S: GlobalAlloc> GlobalAlloc for Allocator<S> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.note(layout.size());
        // SAFETY: the caller's contract.
        let ptr = unsafe { self.system.alloc(layout) };
        if ptr.is_null() { self.take(layout) } else { ptr }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.note(layout.size());
        // SAFETY: the caller's contract.
        let ptr = unsafe { self.system.alloc_zeroed(layout) };
        if !ptr.is_null() {
            return ptr;
        }
        let ptr = self.take(layout);
        if !ptr.is_null() {
            // SAFETY: the block has the layout's size.
            unsafe { ptr.write_bytes(0, layout.size()) };
        }
        ptr
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if self.reserve.owns(ptr) {
            self.reserve.give_back(ptr, layout);
        } else {
            // SAFETY: the caller's contract; not the reserve's, so the system's.
            unsafe { self.system.dealloc(ptr, layout) }
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.note(size);
        let owned = self.reserve.owns(ptr);
        // SAFETY: the caller promises a size that, rounded up to the alignment, does not overflow.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let moved = match owned {
            // Back to the system as soon as it has memory again.
            // SAFETY: the caller's contract.
            true => unsafe { self.system.alloc(wanted) },
            // SAFETY: as above; not the reserve's, so the system's.
            false => unsafe { self.system.realloc(ptr, layout, size) },
        };
        if !owned && !moved.is_null() {
            return moved;
        }
        let moved = if moved.is_null() { self.take(wanted) } else { moved };
        if !moved.is_null() {
            // SAFETY: both hold that many bytes, and a new block is not the old one.
            unsafe { moved.copy_from_nonoverlapping(ptr, layout.size().min(size)) };
            // SAFETY: the caller's contract; where NULL was returned the old block stays as it was.
            unsafe { self.dealloc(ptr, layout) };
        }
        moved
    }
}

static RESERVE: Reserve = Reserve::new();

// Fuzz targets have an allocator of their own, which counts and fails (fuzz/src/lib.rs).
#[cfg_attr(not(fuzzing), global_allocator)]
static ALLOCATOR: Allocator = Allocator::new(System, &RESERVE);

/// Calls of this process for memory so far, and the bytes that they asked for; both wrap around. For tests that nothing is asked for.
pub fn asked() -> (usize, usize) {
    ALLOCATOR.asked()
}

/// An error when the system is so short of memory that much of the reserve is used. Long operations ask before they take more small pieces.
pub fn check() -> Result<()> {
    if RESERVE.is_low() { Err(exhausted()) } else { Ok(()) }
}

#[cold]
fn exhausted() -> Error {
    Error::out_of_memory("the system has no memory left")
}

#[cold]
fn refused(count: usize, size: usize, what: &str) -> Error {
    Error::out_of_memory(match count.checked_mul(size) {
        Some(bytes) => format!("{what}: could not allocate {bytes} bytes"),
        None => format!("{what}: {count} elements of {size} bytes are more than memory can hold"),
    })
}

/// Zeroed memory of the system alone; NULL where it has none. To be freed with [`free`].
///
/// # Safety
/// The layout has a size other than 0.
pub(crate) unsafe fn zeroed(layout: Layout) -> *mut u8 {
    ALLOCATOR.note(layout.size());
    // SAFETY: the caller's contract.
    unsafe { if cfg!(fuzzing) { std::alloc::alloc_zeroed(layout) } else { System.alloc_zeroed(layout) } }
}

/// Frees what [`zeroed`] gave.
///
/// # Safety
/// `ptr` came from [`zeroed`] with this layout and was not freed.
pub(crate) unsafe fn free(ptr: *mut u8, layout: Layout) {
    // SAFETY: the caller's contract.
    unsafe { if cfg!(fuzzing) { std::alloc::dealloc(ptr, layout) } else { System.dealloc(ptr, layout) } }
}

/// Room for `more` elements, as [`Vec::reserve`]: at least twice what there was, so that pushing one by one stays linear.
pub fn reserve<T>(vec: &mut Vec<T>, more: usize, what: &str) -> Result<()> {
    if more <= vec.capacity() - vec.len() {
        return Ok(());
    }
    let wanted = vec.len().saturating_add(more);
    vec.try_reserve(more).map_err(|_| refused(wanted, size_of::<T>(), what))?;
    keep(vec, what)
}

/// The reserve is for what cannot be refused: an error where it had to serve a large request that can.
fn keep<T>(vec: &Vec<T>, what: &str) -> Result<()> {
    let large = vec.capacity().saturating_mul(size_of::<T>()) > SMALL;
    if large && RESERVE.owns(vec.as_ptr().cast()) { Err(refused(vec.capacity(), size_of::<T>(), what)) } else { Ok(()) }
}

/// An empty `Vec` with room for exactly `capacity` elements.
pub fn with_capacity<T>(capacity: usize, what: &str) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(capacity).map_err(|_| refused(capacity, size_of::<T>(), what))?;
    keep(&vec, what)?;
    Ok(vec)
}

/// `len` defaults.
pub fn try_vec<T: Clone + Default>(len: usize, what: &str) -> Result<Vec<T>> {
    filled(T::default(), len, what)
}

/// `len` times the same.
pub fn filled<T: Clone>(value: T, len: usize, what: &str) -> Result<Vec<T>> {
    let mut vec = with_capacity(len, what)?;
    vec.resize(len, value);
    Ok(vec)
}

/// Appends one element.
pub fn push<T>(vec: &mut Vec<T>, value: T, what: &str) -> Result<()> {
    reserve(vec, 1, what)?;
    vec.push(value);
    Ok(())
}

/// Appends a copy of a slice.
pub fn append<T: Clone>(vec: &mut Vec<T>, slice: &[T], what: &str) -> Result<()> {
    reserve(vec, slice.len(), what)?;
    vec.extend_from_slice(slice);
    Ok(())
}

/// Appends what an iterator yields.
pub fn extend<T>(vec: &mut Vec<T>, values: impl IntoIterator<Item = T>, what: &str) -> Result<()> {
    let mut values = values.into_iter();
    reserve(vec, values.size_hint().0, what)?;
    values.try_for_each(|value| push(vec, value, what))
}

/// What an iterator yields, in a `Vec`.
pub fn collect<T>(values: impl IntoIterator<Item = T>, what: &str) -> Result<Vec<T>> {
    let values = values.into_iter();
    let mut vec = with_capacity(values.size_hint().0, what)?;
    extend(&mut vec, values, what)?;
    Ok(vec)
}

/// The same for an iterator whose elements may fail.
pub fn try_collect<T>(values: impl IntoIterator<Item = Result<T>>, what: &str) -> Result<Vec<T>> {
    let values = values.into_iter();
    let mut vec = with_capacity(values.size_hint().0, what)?;
    for value in values {
        push(&mut vec, value?, what)?;
    }
    Ok(vec)
}

/// A copy of a slice.
pub fn copy<T: Clone>(slice: &[T], what: &str) -> Result<Vec<T>> {
    let mut vec = with_capacity(slice.len(), what)?;
    vec.extend_from_slice(slice);
    Ok(vec)
}

/// A text with room for exactly `capacity` bytes.
pub fn text_with_capacity(capacity: usize, what: &str) -> Result<String> {
    // No bytes are UTF-8.
    Ok(String::from_utf8(with_capacity(capacity, what)?).unwrap_or_default())
}

/// Appends to a text.
pub fn append_text(text: &mut String, more: &str, what: &str) -> Result<()> {
    let wanted = text.len().saturating_add(more.len());
    text.try_reserve(more.len()).map_err(|_| refused(wanted, 1, what))?;
    if text.capacity() > SMALL && RESERVE.owns(text.as_ptr()) {
        return Err(refused(wanted, 1, what));
    }
    text.push_str(more);
    Ok(())
}

/// Inserts into a map, whose table may have to grow.
pub fn insert<K: Eq + Hash, V, H: BuildHasher>(map: &mut HashMap<K, V, H>, key: K, value: V, what: &str) -> Result<()> {
    map.try_reserve(1).map_err(|_| refused(map.len() + 1, size_of::<(K, V)>(), what))?;
    map.insert(key, value);
    Ok(())
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
