//! A small thread pool for back-to-back kernels.
//!
//! A kernel is cut into chunks by its shape alone. Every thread owns a fixed range of them, so that it finds the rows that it wrote for the last kernel in its
//! own cache; once its range is done it takes what others have left, from the end, where the owner comes last. Nothing a chunk computes may depend on the
//! thread it runs on, so the output bytes are the same for every number of threads.

use crate::error::{Error, Result};
use crate::memory;
use crate::process::fork::Process;
use crate::process::thread::{Bed, Worker};
use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an idle worker spins before it parks: longer than the gap between two kernels of one evaluation, short enough to cost nothing.
const SPIN: Duration = Duration::from_micros(40);
/// Most threads a pool can have; the worker count must fit the low half of the state word and slots size scratch.
pub const MAX_THREADS: usize = 1024;
/// Most chunks that are shared among threads: positions in a range must fit half a word.
const MAX_CHUNKS: usize = 1 << 31;
/// Set in the state word while workers may still join the current job.
const OPEN: u64 = 1 << 31;
/// The bits of the state word that count the workers inside the current job.
const ACTIVE: u64 = OPEN - 1;

type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// What is left of the chunks that a thread owns, `first << 32 | end`; on lines of its own, since processors fetch two at a time.
#[derive(Default)]
#[repr(align(128))]
struct Left(AtomicU64);

impl Left {
    fn set(&self, range: std::ops::Range<usize>) {
        self.0.store((range.start as u64) << 32 | range.end as u64, Ordering::Relaxed);
    }

    fn unpack(word: u64) -> Option<[u64; 2]> {
        let [first, end] = [word >> 32, word & u64::from(u32::MAX)];
        (first < end).then_some([first, end])
    }

    /// The next chunk, for the owner alone. Between its look and its step thieves can only have lowered the end.
    fn take_first(&self) -> Option<usize> {
        Self::unpack(self.0.load(Ordering::Relaxed))?;
        Self::unpack(self.0.fetch_add(1 << 32, Ordering::Relaxed)).map(|[first, _]| first as usize)
    }

    /// The last chunk, for every other thread.
    fn take_last(&self) -> Option<usize> {
        let less = |word| Self::unpack(word).map(|_| word - 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok().and_then(Self::unpack).map(|[_, end]| end as usize - 1)
    }
}

struct Control {
    /// `epoch << 32 | OPEN | active workers`. A worker joins by a compare-exchange, which fails once the caller has closed the job.
    state: AtomicU64,
    /// By slot.
    left: Vec<Left>,
    /// What the current `run` does with a chunk. Written only while no worker is inside a job.
    job: UnsafeCell<Option<Task<'static>>>,
    stop: AtomicBool,
    panicked: AtomicBool,
    message: Mutex<Option<String>>,
    parked: Vec<AtomicBool>,
}

// SAFETY: `job` is written by the thread that holds `ThreadPool::caller`, only while the state is closed with no active worker, and read
// only by workers that joined an open job; the state word's release and acquire order the two.
unsafe impl Sync for Control {}
// SAFETY: as above; everything else is atomics and mutexes.
unsafe impl Send for Control {}

/// Threads that run the chunks of one kernel at a time. Dropping the pool joins them.
pub struct ThreadPool {
    control: Arc<Control>,
    workers: Vec<Worker>,
    caller: Mutex<()>,
    /// Where the workers are: a child of this process has none of them.
    home: Process,
}

impl ThreadPool {
    /// A pool in which `threads` threads compute: the calling one and `threads - 1` workers. An error when the system refuses a thread.
    pub fn new(threads: usize) -> Result<Self> {
        if threads == 0 || threads > MAX_THREADS {
            return Err(Error::invalid(format!("threads is {threads}; it must be 1 to {MAX_THREADS}")));
        }
        let mut left = memory::with_capacity(threads, "ranges of chunks")?;
        left.resize_with(threads, Left::default);
        let control = Arc::new(Control {
            state: AtomicU64::new(0),
            left,
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            message: Mutex::new(None),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut pool = Self { control, workers: Vec::new(), caller: Mutex::new(()), home: Process::current()? };
        for index in 0..threads - 1 {
            let control = Arc::clone(&pool.control);
            pool.workers.push(Worker::start(format!("fewstep-{}", index + 1), move |bed| control.work(index, bed))?);
        }
        Ok(pool)
    }

    /// Number of threads that compute, the calling one included.
    pub fn threads(&self) -> usize {
        self.control.left.len()
    }

    /// Calls `task(chunk)` once for every chunk in `0..chunks` and returns when all are done. A panic in a chunk becomes an error.
    ///
    /// Called from inside a chunk, while another thread runs on this pool, or in a forked child, all chunks run on the calling thread.
    pub fn run(&self, chunks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<()> {
        self.run_slots(chunks, &|_, chunk| task(chunk))
    }

    /// As [`run`](Self::run), with `task(slot, chunk)`: no two chunks run at once with the same `slot < threads()`, so a slot can own scratch. A slot begins
    /// with the chunks of `split(chunks, threads, slot)`, in order.
    pub fn run_slots(&self, chunks: usize, task: &(dyn Fn(usize, usize) + Sync)) -> Result<()> {
        if self.workers.is_empty() || chunks <= 1 || chunks > MAX_CHUNKS || !self.home.is_this() {
            return run_inline(chunks, task);
        }
        // A poisoned lock cannot be seen: nothing that unwinds runs under it. Busy means nested or concurrent use.
        let Ok(_guard) = self.caller.try_lock() else {
            return run_inline(chunks, task);
        };
        let control = &*self.control;
        // SAFETY: only the lifetime changes. The task is called only by workers active in this job, and all of them are waited for before this function
        // returns, also when a chunk panics.
        let task: Task<'static> = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: the lock is held and the previous job ended closed with no active worker, so nobody reads `job` now.
        unsafe { *control.job.get() = Some(task) };
        let threads = self.threads();
        control.left.iter().enumerate().for_each(|(slot, left)| left.set(split(chunks, threads, slot)));
        let epoch = (control.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        control.state.store((epoch << 32) | OPEN, Ordering::Release);
        // Pairs with the fence in `idle`: either the worker sees the new job before it parks or we see its flag.
        fence(Ordering::SeqCst);
        for (flag, worker) in control.parked.iter().zip(&self.workers) {
            if flag.load(Ordering::Relaxed) {
                worker.wake();
            }
        }
        control.chunks(task, 0);
        control.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while control.state.load(Ordering::Acquire) & ACTIVE != 0 {
            spins += 1;
            // On an oversubscribed machine the worker we wait for may need this very core.
            if spins > 2000 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        if control.panicked.swap(false, Ordering::AcqRel) {
            let message = control.message.lock().unwrap_or_else(PoisonError::into_inner).take();
            return Err(Error::internal(message.unwrap_or_else(|| "a compute chunk panicked".into())));
        }
        Ok(())
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        if !self.home.is_this() {
            // A forked child: there is nobody to wait for, and the system knows no thread by these names any more.
            self.workers.drain(..).for_each(Worker::forget);
            return;
        }
        self.control.stop.store(true, Ordering::SeqCst);
        self.workers.iter().for_each(Worker::wake);
        self.workers.drain(..).for_each(Worker::join);
    }
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ThreadPool({} threads)", self.threads())
    }
}

impl Control {
    /// The next chunk of a slot: of its own, else of another's.
    fn take(&self, slot: usize) -> Option<usize> {
        let (before, after) = self.left.split_at(slot);
        let (own, after) = after.split_first()?;
        own.take_first().or_else(|| after.iter().chain(before).find_map(Left::take_last))
    }

    /// Runs chunks until none is left. Never unwinds.
    fn chunks(&self, task: Task<'_>, slot: usize) {
        while let Some(chunk) = self.take(slot) {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(slot, chunk))) {
                *self.message.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic_text(chunk, &*payload));
                self.panicked.store(true, Ordering::Release);
                self.left.iter().for_each(|left| left.set(0..0)); // the result is lost: skip the rest
            }
        }
    }

    fn work(&self, index: usize, bed: &Bed) {
        let mut seen = 0u64;
        while let Some(state) = self.idle(index, seen, bed) {
            if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue; // another worker joined first, or the job closed
            }
            seen = state >> 32;
            // SAFETY: this worker is counted active in an open job, so the caller does not write `job` before the count drops again.
            if let Some(task) = unsafe { *self.job.get() } {
                self.chunks(task, index + 1);
            }
            self.state.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Waits for an open job with another epoch than `seen` and returns its state word; `None` when the pool stops.
    fn idle(&self, index: usize, seen: u64, bed: &Bed) -> Option<u64> {
        let fresh = |state: u64| state & OPEN != 0 && state >> 32 != seen;
        let mut since = Instant::now();
        loop {
            for _ in 0..64 {
                let state = self.state.load(Ordering::Acquire);
                if fresh(state) {
                    return Some(state);
                }
                std::hint::spin_loop();
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if since.elapsed() > SPIN {
                self.parked[index].store(true, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                if !fresh(self.state.load(Ordering::Acquire)) && !self.stop.load(Ordering::SeqCst) {
                    bed.sleep();
                }
                self.parked[index].store(false, Ordering::Relaxed);
                since = Instant::now();
            }
        }
    }
}

fn panic_text(chunk: usize, payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    format!("compute chunk {chunk} panicked: {text}")
}

fn run_inline(chunks: usize, task: Task<'_>) -> Result<()> {
    let mut at = 0;
    catch_unwind(AssertUnwindSafe(|| {
        while at < chunks {
            task(0, at);
            at += 1;
        }
    }))
    .map_err(|payload| Error::internal(panic_text(at, &*payload)))
}

/// A mutable slice that chunks write in disjoint parts.
#[derive(Clone, Copy)]
pub struct Shared<'a, T = f32> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: handing out the parts is unsafe and its contract is that they are disjoint.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares `slice` until the wrapper's lifetime ends.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { ptr: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Shares `len` elements from `ptr`.
    ///
    /// # Safety
    /// They must be valid for `'a`, and nothing but parts of this and equal wrappers may reach them meanwhile.
    pub unsafe fn from_raw(ptr: *mut T, len: usize) -> Self {
        Self { ptr, len, life: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Start of the slice.
    pub fn as_ptr(&self) -> *mut T {
        self.ptr
    }

    /// Elements `start..start + len`. Panics when they are not inside the slice.
    ///
    /// # Safety
    /// No other live reference may cover any of these elements.
    #[allow(clippy::mut_from_ref)] // the point of the type; the contract is the caller's
    pub unsafe fn part(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "part {start}+{len} of {}", self.len);
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}

/// Part `index` of `0..total` cut into `parts` nearly equal ranges; depends on nothing else, so cuts are the same on every machine.
pub fn split(total: usize, parts: usize, index: usize) -> std::ops::Range<usize> {
    let (base, rest) = (total / parts, total % parts);
    let start = index * base + index.min(rest);
    start..start + base + usize::from(index < rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_chunk_runs_once() -> Result<()> {
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPool::new(threads)?;
            for chunks in [0, 1, 2, 7, 1000] {
                for _ in 0..50 {
                    let mut hits = vec![0u32; chunks];
                    let shared = Shared::new(&mut hits);
                    // SAFETY: each chunk touches its own element.
                    pool.run(chunks, &|i| unsafe { shared.part(i, 1)[0] += 1 })?;
                    assert!(hits.iter().all(|&h| h == 1), "{threads} threads, {chunks} chunks");
                }
            }
        }
        assert!(ThreadPool::new(0).is_err() && ThreadPool::new(usize::MAX).is_err());
        Ok(())
    }

    #[test]
    fn panic_is_an_error_and_the_pool_lives_on() -> Result<()> {
        for threads in [1, 2, 4] {
            let pool = ThreadPool::new(threads)?;
            for round in 0..20 {
                let failed = pool.run(64, &|i| assert!(i != 17, "boom"));
                assert!(failed.is_err_and(|e| e.message.contains("chunk 17") && e.message.contains("boom")), "{threads} {round}");
                pool.run(64, &|_| ())?;
            }
        }
        Ok(())
    }

    #[test]
    fn nested_and_concurrent_runs_finish() -> Result<()> {
        let pool = ThreadPool::new(3)?;
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let leaf = |_| {
                            count.fetch_add(1, Ordering::Relaxed);
                        };
                        let inner = |_| pool.run(5, &leaf).unwrap_or_else(|e| panic!("{e}"));
                        pool.run(6, &inner).unwrap_or_else(|e| panic!("{e}"));
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 4 * 50 * 30);
        Ok(())
    }

    /// Waits for what another thread does; gives the processor away meanwhile.
    fn wait_until(done: impl Fn() -> bool) {
        while !done() {
            std::thread::yield_now();
        }
    }

    /// Which slot ran each chunk, where every slot is `held` before its chunks.
    fn slots(pool: &ThreadPool, chunks: usize, held: impl Fn(usize, usize) + Sync) -> Result<Vec<usize>> {
        let by: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(usize::MAX)).collect();
        pool.run_slots(chunks, &|slot, chunk| {
            held(slot, chunk);
            by[chunk].store(slot, Ordering::Relaxed);
        })?;
        Ok(by.into_iter().map(AtomicUsize::into_inner).collect())
    }

    #[test]
    fn threads_keep_their_ranges() -> Result<()> {
        for threads in [2, 3, 5] {
            let pool = ThreadPool::new(threads)?;
            for chunks in [threads, 12, 13, 40] {
                // Nobody is done with its own range before everybody has begun its last chunk, so there is never anything to steal.
                let begun = AtomicUsize::new(0);
                let by = slots(&pool, chunks, |slot, chunk| {
                    if chunk + 1 == split(chunks, threads, slot).end {
                        begun.fetch_add(1, Ordering::AcqRel);
                        wait_until(|| begun.load(Ordering::Acquire) == threads);
                    }
                })?;
                let expected: Vec<usize> = (0..threads).flat_map(|slot| split(chunks, threads, slot).map(move |_| slot)).collect();
                assert_eq!(by, expected, "{threads} threads, {chunks} chunks");
            }
        }
        Ok(())
    }

    #[test]
    fn the_chunks_of_a_slow_thread_are_taken_by_others() -> Result<()> {
        for (threads, slow) in [(2, 0), (2, 1), (4, 2)] {
            let pool = ThreadPool::new(threads)?;
            let chunks = 16;
            let own = split(chunks, threads, slow);
            let done = AtomicUsize::new(0);
            let by = slots(&pool, chunks, |slot, chunk| {
                if slot == slow {
                    assert_eq!(chunk, own.start, "a thread begins with its first chunk");
                    wait_until(|| done.load(Ordering::Acquire) == chunks - 1);
                } else {
                    // The slow one must have begun, or others would take all it has.
                    if chunk == split(chunks, threads, slot).start {
                        wait_until(|| pool.control.left[slow].0.load(Ordering::Acquire) >> 32 > own.start as u64);
                    }
                    done.fetch_add(1, Ordering::AcqRel);
                }
            })?;
            assert!(by.iter().enumerate().all(|(chunk, &slot)| (slot == slow) == (chunk == own.start)), "{threads} threads, {slow} is slow: {by:?}");
        }
        Ok(())
    }

    #[test]
    fn parked_workers_wake() -> Result<()> {
        let pool = ThreadPool::new(2)?;
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            let (arrived, deadline) = (AtomicUsize::new(0), Instant::now() + Duration::from_secs(60));
            // Each chunk waits for the other, so that one thread cannot do both. Only a worker that sleeps for good lets the time pass.
            pool.run(2, &|_| {
                arrived.fetch_add(1, Ordering::Relaxed);
                while arrived.load(Ordering::Relaxed) < 2 && Instant::now() < deadline {
                    std::thread::yield_now();
                }
            })?;
            assert!(Instant::now() < deadline);
        }
        Ok(())
    }

    #[test]
    fn split_covers() {
        for (total, parts) in [(0, 1), (1, 4), (10, 3), (64, 5)] {
            let mut next = 0;
            for i in 0..parts {
                let r = split(total, parts, i);
                assert_eq!(r.start, next);
                next = r.end;
            }
            assert_eq!(next, total);
        }
    }
}
