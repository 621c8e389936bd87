//! Threads of the library in somebody else's process.

use super::{fp_environment, signals};
use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Stack of a thread, ours to choose: the environment variable `RUST_MIN_STACK` does not reach it. Kernels use a small part of it
/// (`tests/field/worker_stacks.c`); the rest is for a panic with a backtrace. Only what is touched is memory.
const STACK: usize = 512 << 10;

/// Where a thread of the library sleeps. A wake-up that comes first is kept.
#[derive(Debug, Default)]
pub(crate) struct Bed {
    woken: Mutex<bool>,
    bell: Condvar,
}

impl Bed {
    /// Sleeps until somebody wakes it, or has done so since the last time.
    pub(crate) fn sleep(&self) {
        let woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        *self.bell.wait_while(woken, |woken| !*woken).unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Ends the sleep, or the next one.
    pub(crate) fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_one();
    }
}

/// A thread of the library.
#[derive(Debug)]
pub(crate) struct Worker {
    thread: system::Thread,
    bed: Arc<Bed>,
}

impl Worker {
    /// Starts a thread that takes none of the host's signals and computes in the default floating-point environment. It sleeps in the bed that `work` gets.
    /// An error when the system has no memory for it, or no more threads.
    pub(crate) fn start(name: String, work: impl FnOnce(&Bed) + Send + 'static) -> Result<Self> {
        let bed = Arc::new(Bed::default());
        let own = Arc::clone(&bed);
        let _signals = signals::Blocked::new();
        let body = Box::new(move || {
            fp_environment::set_default();
            work(&own);
        });
        let thread = system::start(&name, body).map_err(|e| Error::out_of_memory(format!("could not start thread {name}: {e}")))?;
        Ok(Self { thread, bed })
    }

    /// Wakes it, now or where it next goes to sleep.
    pub(crate) fn wake(&self) {
        self.bed.wake();
    }

    /// Waits for its end.
    pub(crate) fn join(self) {
        self.thread.join();
    }

    /// In a forked child, which does not have the thread: nothing is waited for or given back.
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }
}

/// POSIX threads. The standard library's end the process where there is no memory for what it notes about them.
#[cfg(all(unix, not(miri)))]
mod system {
    use super::{STACK, taken};
    use std::ffi::{CString, c_void};
    use std::io::{Error, Result};
    use std::mem::MaybeUninit;

    type Body = Box<dyn FnOnce() + Send>;

    #[derive(Debug)]
    pub(super) struct Thread(libc::pthread_t);

    // SAFETY: the name of a thread, good everywhere in the process; with some C libraries it is a pointer, which nobody follows here.
    unsafe impl Send for Thread {}
    // SAFETY: as above.
    unsafe impl Sync for Thread {}

    /// What a thread is given.
    struct Start {
        name: CString,
        body: Body,
    }

    pub(super) fn start(name: &str, body: Body) -> Result<Thread> {
        let start = Box::into_raw(Box::new(Start { name: CString::new(name).unwrap_or_default(), body }));
        // SAFETY: `start` is not touched here after the thread has it.
        let made = unsafe { create(start.cast()) };
        if made.is_err() {
            // SAFETY: made above; no thread has it.
            drop(unsafe { Box::from_raw(start) });
        }
        made
    }

    /// # Safety
    /// `start` is a box of [`Start`] that belongs to the thread if there is one.
    unsafe fn create(start: *mut c_void) -> Result<Thread> {
        let check = |code| if code == 0 { Ok(()) } else { Err(Error::from_raw_os_error(code)) };
        let mut attributes = MaybeUninit::uninit();
        let mut thread = MaybeUninit::uninit();
        // SAFETY: the attributes are made, used and given back; `thread` is written where the thread is made.
        unsafe {
            check(libc::pthread_attr_init(attributes.as_mut_ptr()))?;
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
            let stack = STACK.saturating_add(taken()).checked_next_multiple_of(page).unwrap_or(STACK);
            let made = check(libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack))
                .and_then(|()| check(libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), enter, start)));
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            made?;
            Ok(Thread(thread.assume_init()))
        }
    }

    extern "C" fn enter(start: *mut c_void) -> *mut c_void {
        // SAFETY: the box that `start` made for this thread alone.
        let start = unsafe { Box::from_raw(start.cast::<Start>()) };
        call_by_name(&start.name);
        // What unwinds to here ends the process; no body does.
        (start.body)();
        std::ptr::null_mut()
    }

    /// Has tools show the name; where the system refuses it the thread has none.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn call_by_name(name: &CString) {
        // SAFETY: a NUL-terminated name for the calling thread. Linux takes 15 bytes, and cuts off the rest.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
    }

    #[cfg(target_vendor = "apple")]
    fn call_by_name(name: &CString) {
        // SAFETY: a NUL-terminated name for the calling thread.
        unsafe { libc::pthread_setname_np(name.as_ptr()) };
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    fn call_by_name(_: &CString) {}

    impl Thread {
        pub(super) fn join(self) {
            // SAFETY: made by `create` and joined once, here. It fails only for a thread that joins itself.
            unsafe { libc::pthread_join(self.0, std::ptr::null_mut()) };
        }
    }
}

#[cfg(not(all(unix, not(miri))))]
mod system {
    use super::{STACK, taken};
    use std::io::Result;
    use std::thread::{Builder, JoinHandle};

    #[derive(Debug)]
    pub(super) struct Thread(JoinHandle<()>);

    pub(super) fn start(name: &str, body: Box<dyn FnOnce() + Send>) -> Result<Thread> {
        Builder::new().name(name.to_owned()).stack_size(STACK.saturating_add(taken())).spawn(body).map(Thread)
    }

    impl Thread {
        pub(super) fn join(self) {
            // What a body throws was printed where it was thrown.
            let _ = self.0.join();
        }
    }
}

/// What glibc takes off a thread's stack for the thread-local variables of the host and of all its libraries.
#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
fn taken() -> usize {
    // SAFETY: the name is NUL-terminated.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__pthread_get_minstack".as_ptr()) };
    if found.is_null() {
        return 0;
    }
    // SAFETY: glibc's function of that name has had this type since 2.15.
    let minstack: unsafe extern "C" fn(*const libc::pthread_attr_t) -> usize = unsafe { std::mem::transmute(found) };
    let mut attributes = std::mem::MaybeUninit::uninit();
    // SAFETY: the attributes are made, read and given back.
    unsafe {
        if libc::pthread_attr_init(attributes.as_mut_ptr()) != 0 {
            return 0;
        }
        let size = minstack(attributes.as_ptr());
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        size
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu", not(miri))))]
fn taken() -> usize {
    0
}
