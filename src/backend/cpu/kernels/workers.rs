//! The threads of a pool for one op, which stops between two chunks when its caller wants it no more.

use super::pool::ThreadPool;
use crate::cancel::{Stop, cancelled};
use crate::error::Result;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a kernel runs its chunks on.
#[derive(Clone, Copy, Debug)]
pub struct Workers<'a> {
    pool: &'a ThreadPool,
    stop: Stop<'a>,
}

impl<'a> Workers<'a> {
    /// The threads of `pool`, until `stop` is set.
    pub fn new(pool: &'a ThreadPool, stop: Stop<'a>) -> Self {
        Self { pool, stop }
    }

    /// Number of threads that compute, the calling one included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// As [`ThreadPool::run`]; a cancelled error when it was stopped before all chunks were done.
    pub fn run(&self, chunks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<()> {
        self.run_slots(chunks, &|_, chunk| task(chunk))
    }

    /// As [`ThreadPool::run_slots`]; a cancelled error when it was stopped before all chunks were done.
    pub fn run_slots(&self, chunks: usize, task: &(dyn Fn(usize, usize) + Sync)) -> Result<()> {
        if self.stop.is_never() {
            return self.pool.run_slots(chunks, task);
        }
        // The flag may be cleared again before the last chunk's turn: what was left out is remembered.
        let left_out = AtomicBool::new(false);
        self.pool.run_slots(chunks, &|slot, chunk| {
            if left_out.load(Ordering::Relaxed) || self.stop.is_set() {
                left_out.store(true, Ordering::Relaxed);
            } else {
                task(slot, chunk);
            }
        })?;
        if left_out.into_inner() { Err(cancelled()) } else { Ok(()) }
    }
}

impl<'a> From<&'a ThreadPool> for Workers<'a> {
    fn from(pool: &'a ThreadPool) -> Self {
        Self::new(pool, Stop::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn chunks_are_left_out_once_it_is_stopped() -> Result<()> {
        for threads in [1, 3] {
            let pool = ThreadPool::new(threads)?;
            let (flag, done) = (AtomicBool::new(false), AtomicUsize::new(0));
            let workers = Workers::new(&pool, Stop::from(&flag));
            let task = |chunk: usize| {
                done.fetch_add(1, Ordering::Relaxed);
                if chunk == 5 {
                    flag.store(true, Ordering::Release);
                }
            };
            assert_eq!(workers.run(100_000, &task).expect_err("stopped").status, Status::Cancelled);
            let ran = done.swap(0, Ordering::Relaxed);
            assert!((6..100_000).contains(&ran), "{ran} chunks");
            // A flag that is cleared meanwhile does not make half of the chunks a whole.
            flag.store(false, Ordering::Release);
            let blink = |chunk: usize| flag.store(chunk.is_multiple_of(2), Ordering::Release);
            assert!(threads > 1 || workers.run(10, &blink).is_err());
            flag.store(false, Ordering::Release);
            workers.run(10, &|_| ())?;
        }
        Ok(())
    }
}
