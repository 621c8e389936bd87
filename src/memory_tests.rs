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
