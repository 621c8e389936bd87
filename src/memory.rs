//! What happens when the system has no memory left: large requests fail and are answered OUT_OF_MEMORY, small ones live on a reserve until then.
//!
//! A size that comes from a file, an option or a plan is asked for with [`try_vec`], [`push`], [`collect`] and their like, which return an error. That leaves
//! requests that Rust cannot make fallibly: names, nodes of maps, messages, threads, what other crates ask for. Where the system refuses one of those,
//! [`Allocator`] serves it from a [`Reserve`] that is part of the program, and the operation goes on to the next thing that may fail, or to its end. Long
//! operations call [`check`] on their way, which fails as soon as a good part of the reserve is used, so that it does not run out in practice.
//! What no reserve serves (more than it has in one piece) ends the process, as in any Rust program.

use crate::error::{Error, Result};
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

// SAFETY: what the system gives goes back to it, by address; the reserve gives blocks of at least the layout's size and alignment, each to one caller.
unsafe impl<S: GlobalAlloc> GlobalAlloc for Allocator<S> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.note(layout.size());
        // SAFETY: the caller's contract.
        let ptr = unsafe { self.system.alloc(layout) };
        if ptr.is_null() { self.reserve.take(layout) } else { ptr }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.note(layout.size());
        // SAFETY: the caller's contract.
        let ptr = unsafe { self.system.alloc_zeroed(layout) };
        if !ptr.is_null() {
            return ptr;
        }
        let ptr = self.reserve.take(layout);
        if !ptr.is_null() {
            // SAFETY: the reserve's block has the layout's size.
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
        let moved = if moved.is_null() { self.reserve.take(wanted) } else { moved };
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

/// Inserts into a map, whose table may have to grow.
pub fn insert<K: Eq + Hash, V, H: BuildHasher>(map: &mut HashMap<K, V, H>, key: K, value: V, what: &str) -> Result<()> {
    map.try_reserve(1).map_err(|_| refused(map.len() + 1, size_of::<(K, V)>(), what))?;
    map.insert(key, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// A system that can be told to have no memory.
    struct Stingy(AtomicBool);

    // SAFETY: passes everything on, or answers NULL.
    unsafe impl GlobalAlloc for Stingy {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's contract.
            if self.0.load(Ordering::Relaxed) { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            // SAFETY: the caller's contract.
            unsafe { System.dealloc(ptr, layout) }
        }
    }

    fn allocator(refuses: bool) -> &'static Allocator<Stingy> {
        // SAFETY: all of it is integers and bytes, for which zeros are good. Not made on the stack, which it is too large for.
        let reserve: Box<Reserve> = unsafe { Box::from_raw(std::alloc::alloc_zeroed(Layout::new::<Reserve>()).cast()) };
        // Leaked: a reserve is a static, and each test has its own.
        Box::leak(Box::new(Allocator::new(Stingy(AtomicBool::new(refuses)), Box::leak(reserve))))
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Takes a block, checks it and fills it.
    fn take(a: &Allocator<Stingy>, layout: Layout, fill: u8) -> *mut u8 {
        // SAFETY: no layout here has size 0.
        let ptr = unsafe { a.alloc(layout) };
        assert!(!ptr.is_null() && (ptr as usize).is_multiple_of(layout.align()), "{layout:?}: {ptr:?}");
        // SAFETY: just taken.
        unsafe { ptr.write_bytes(fill, layout.size()) };
        ptr
    }

    fn assert_filled(ptr: *const u8, bytes: usize, fill: u8) {
        // SAFETY: callers pass blocks of at least so many initialised bytes.
        assert!(unsafe { std::slice::from_raw_parts(ptr, bytes) }.iter().all(|b| *b == fill));
    }

    fn in_use(a: &Allocator<Stingy>) -> (usize, u64) {
        let blocks: u32 = a.reserve.small.iter().map(|w| w.load(Ordering::Relaxed).count_ones()).sum();
        assert_eq!(blocks == 0, a.reserve.used.load(Ordering::Relaxed) == 0);
        (a.reserve.used.load(Ordering::Relaxed), a.reserve.large.load(Ordering::Relaxed))
    }

    #[test]
    fn words_and_classes_fit_together() {
        for class in 0..CLASSES {
            let blocks = CLASS_BYTES >> (5 + class);
            assert_eq!(first_word(class + 1) - first_word(class), blocks.div_ceil(64), "class {class}");
        }
        for (size, align, class) in [(1, 1, Some(0)), (32, 8, Some(0)), (33, 8, Some(1)), (8, 64, Some(1)), (4096, 1, Some(7)), (4097, 1, None)] {
            assert_eq!(class_of(layout(size, align)), class, "{size} {align}");
        }
    }

    #[test]
    fn what_the_system_has_comes_from_it() {
        let a = allocator(false);
        let l = layout(100, 8);
        let ptr = take(a, l, 1);
        assert!(!a.reserve.owns(ptr));
        // SAFETY: taken above with this layout, and once.
        unsafe { a.dealloc(ptr, l) };
        assert_eq!(in_use(a), (0, 0));
        assert_eq!(a.asked(), (1, 100));
    }

    #[test]
    fn blocks_are_apart_and_come_back() {
        let a = allocator(true);
        let layouts = [(1, 1), (24, 8), (32, 32), (33, 64), (100, 16), (500, 8), (512, 512), (4096, 4096), (5000, 8), (70_000, 64), (32 << 10, 1)];
        for round in 0..3u8 {
            let taken: Vec<_> = layouts.iter().zip(round..).map(|(&(size, align), fill)| (take(a, layout(size, align), fill), size, align, fill)).collect();
            for (ptr, size, align, fill) in taken {
                assert!(a.reserve.owns(ptr));
                assert_filled(ptr, size, fill);
                // SAFETY: taken above with this layout, and once.
                unsafe { a.dealloc(ptr, layout(size, align)) };
            }
            assert_eq!(in_use(a), (0, 0));
        }
    }

    #[test]
    fn a_full_class_takes_from_the_next_and_the_end_is_null() {
        let a = allocator(true);
        let l = layout(4096, 8);
        let mut taken = vec![];
        loop {
            // SAFETY: the layout is not empty.
            let ptr = unsafe { a.alloc(l) };
            if ptr.is_null() {
                break;
            }
            taken.push(ptr);
        }
        assert_eq!(taken.len(), CLASS_BYTES / 4096 + UNITS);
        assert!(a.reserve.is_low());
        // Smaller ones still have their own.
        let small = take(a, layout(16, 8), 7);
        // SAFETY: all taken above with these layouts, and once.
        unsafe {
            a.dealloc(small, layout(16, 8));
            taken.into_iter().for_each(|ptr| a.dealloc(ptr, l));
        }
        assert_eq!(in_use(a), (0, 0));
        assert!(!a.reserve.is_low());
        for (size, align) in [(BYTES, 8), (UNITS * UNIT + 1, 8), (64, 8192)] {
            // SAFETY: not empty.
            assert!(unsafe { a.alloc(layout(size, align)) }.is_null(), "{size} {align}");
        }
    }

    #[test]
    fn zeroed_blocks_are_zero() {
        let a = allocator(true);
        for size in [40, 5000] {
            let l = layout(size, 8);
            let dirty = take(a, l, 0xff);
            // SAFETY: taken above with this layout; the second is not the first any more.
            unsafe {
                a.dealloc(dirty, l);
                let clean = a.alloc_zeroed(l);
                assert_filled(clean, size, 0);
                a.dealloc(clean, l);
            }
        }
    }

    #[test]
    fn growing_moves_between_system_and_reserve() {
        let a = allocator(false);
        let mut size = 20;
        let mut ptr = take(a, layout(size, 8), 3);
        for (wanted, refuses) in [(60, true), (5000, true), (100_000, true), (200_000, false), (300, true), (10, false), (64, true)] {
            a.system.0.store(refuses, Ordering::Relaxed);
            // SAFETY: `ptr` has this layout; the new size is not 0.
            ptr = unsafe { a.realloc(ptr, layout(size, 8), wanted) };
            assert_eq!(a.reserve.owns(ptr), refuses, "{wanted}");
            assert_filled(ptr, size.min(wanted), 3);
            // SAFETY: it holds so many bytes.
            unsafe { ptr.write_bytes(3, wanted) };
            size = wanted;
        }
        // What cannot grow stays.
        // SAFETY: as above.
        assert!(unsafe { a.realloc(ptr, layout(size, 8), BYTES) }.is_null());
        assert_filled(ptr, size, 3);
        // SAFETY: as above.
        unsafe { a.dealloc(ptr, layout(size, 8)) };
        assert_eq!(in_use(a), (0, 0));
    }

    #[test]
    fn threads_share_it() {
        let a = allocator(true);
        let rounds = if cfg!(miri) { 10 } else { 2000 };
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                scope.spawn(move || {
                    for round in 0..rounds {
                        let layouts = [layout(24, 8), layout(700, 16), layout(40_000, 8), layout(4096, 64)];
                        let taken = layouts.map(|l| (take(a, l, thread + 1), l));
                        for (ptr, l) in taken {
                            assert_filled(ptr, l.size(), thread + 1);
                            // SAFETY: taken above with this layout, and once.
                            unsafe { a.dealloc(ptr, l) };
                        }
                        assert!(round < rounds);
                    }
                });
            }
        });
        assert_eq!(in_use(a), (0, 0));
    }

    #[test]
    fn helpers_refuse_what_no_memory_holds() {
        let oom = |e: Error| e.status == crate::Status::OutOfMemory && e.message.starts_with("table: ");
        let huge = isize::MAX as usize;
        assert!(try_vec::<u64>(huge, "table").is_err_and(oom));
        assert!(with_capacity::<u8>(huge, "table").is_err_and(oom));
        assert!(collect(std::iter::repeat_n(1u64, huge), "table").is_err_and(oom));
        assert!(extend(&mut vec![1u64], std::iter::repeat_n(1u64, huge), "table").is_err_and(oom));
        assert!(reserve(&mut vec![1u64], usize::MAX, "table").is_err_and(oom));
    }

    #[test]
    fn helpers_do_as_their_names_say() -> Result<()> {
        let mut vec = collect(0..3, "table")?;
        push(&mut vec, 3, "table")?;
        extend(&mut vec, [4, 5].iter().copied().filter(|v| *v > 4), "table")?;
        assert_eq!(vec, [0, 1, 2, 3, 5]);
        assert_eq!(copy(&vec, "table")?, vec);
        assert_eq!(filled(7, 2, "table")?, [7, 7]);
        assert_eq!(try_collect([Ok(1), Ok(2)], "table")?, [1, 2]);
        assert!(try_collect([Ok(1), Err(Error::state("no"))], "table").is_err_and(|e| e.status == crate::Status::State));
        let mut map = HashMap::new();
        insert(&mut map, 1, "one", "table")?;
        assert_eq!(map.get(&1), Some(&"one"));
        Ok(())
    }
}
