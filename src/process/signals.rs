//! Signals: the host's handlers run on the host's threads. A new thread inherits the mask of the one that starts it, so the mask is in place from its
//! first instruction.

/// While it lives, the calling thread, and so every thread that it starts, takes no signal but those that its own instructions raise.
#[cfg(all(unix, not(miri)))]
pub(crate) struct Blocked {
    before: libc::sigset_t,
    /// The mask belongs to the thread.
    _thread: std::marker::PhantomData<*const ()>,
}

#[cfg(all(unix, not(miri)))]
impl Blocked {
    pub(crate) fn new() -> Self {
        /// Raised by an instruction of the thread itself: blocked, they would end the process unseen by the host's crash handler.
        const SYNCHRONOUS: [i32; 7] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGSYS];
        let (mut all, mut before) = (std::mem::MaybeUninit::uninit(), std::mem::MaybeUninit::uninit());
        // SAFETY: sigfillset makes `all` a signal set, pthread_sigmask fills `before`; neither can fail with these arguments.
        let before = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            SYNCHRONOUS.iter().for_each(|signal| {
                libc::sigdelset(all.as_mut_ptr(), *signal);
            });
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            before.assume_init()
        };
        Self { before, _thread: std::marker::PhantomData }
    }
}

#[cfg(all(unix, not(miri)))]
impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: a mask that the system gave out, for the same thread.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// Windows runs no handlers on threads of its choice.
#[cfg(not(all(unix, not(miri))))]
pub(crate) struct Blocked;

#[cfg(not(all(unix, not(miri))))]
impl Blocked {
    pub(crate) fn new() -> Self {
        Self
    }
}
