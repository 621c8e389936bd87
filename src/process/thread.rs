//! Threads of the library in somebody else's process.

use super::{fp_environment, signals};
use std::thread::{Builder, JoinHandle};

/// Stack of a thread, ours to choose: the environment variable `RUST_MIN_STACK` does not reach it. The deepest kernel uses a tenth of it (the test below),
/// a panic with a backtrace about half. Only what is touched is memory.
const STACK: usize = 512 << 10;

/// Starts a thread that takes none of the host's signals and computes in the default floating-point environment.
pub(crate) fn start(name: String, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    let _signals = signals::Blocked::new();
    Builder::new().name(name).stack_size(STACK.saturating_add(taken())).spawn(move || {
        fp_environment::set_default();
        work();
    })
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
