//! The floating-point environment of a thread: rounding, flushing of subnormals, traps and exception flags.
//!
//! A host may round downwards, flush subnormals (audio, games, -ffast-math) or have traps on. All of that changes results, and whether there are any, so the
//! library computes in the default environment (IEEE 754: to nearest, gradual underflow, no traps) and leaves the host's as it was. Architectures other than
//! x86-64 and aarch64 keep the host's.

use std::cell::Cell;

thread_local! {
    /// What the innermost call of the library on this thread was called in; none outside.
    static CALLER: Cell<Option<State>> = const { Cell::new(None) };
}

/// The default environment for a call of the library: until it is dropped, when the caller gets back its own.
pub(crate) struct Default {
    /// The caller of the call around this one, whose callback made this one.
    outer: Option<State>,
}

impl Default {
    /// From the caller's environment to the default.
    pub(crate) fn enter() -> Self {
        let outer = CALLER.replace(Some(State::take()));
        set_default();
        Self { outer }
    }
}

impl Drop for Default {
    fn drop(&mut self) {
        if let Some(caller) = CALLER.replace(self.outer) {
            caller.give_back();
        }
    }
}

/// Runs a function of the host in the environment that the library was called in. What it changes there stays, as if the library had not been in between.
pub(crate) fn as_caller<R>(callback: impl FnOnce() -> R) -> R {
    let Some(caller) = CALLER.get() else { return callback() };
    caller.give_back();
    let answer = callback();
    CALLER.set(Some(State::take()));
    set_default();
    answer
}

pub(crate) use machine::{State, set_default};

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod machine {
    use std::arch::asm;

    /// Rounding to nearest, nothing flushed, nothing traps, no flag set.
    static MXCSR: u32 = 0x1f80;
    /// The same of the x87 unit, with the precision that the system's C library computes long double in.
    static X87_CONTROL: u16 = if cfg!(windows) { 0x027f } else { 0x037f };

    /// Control and status of the vector unit, and all of the x87's where its control is not the default.
    #[derive(Clone, Copy)]
    pub(crate) struct State {
        mxcsr: u32,
        x87: Option<[u32; 7]>,
    }

    impl State {
        /// The environment of this thread, whose x87 traps are off from now on.
        pub(crate) fn take() -> Self {
            let (mut mxcsr, mut control) = (0u32, 0u16);
            // SAFETY: both instructions store a register to a variable of its size. None of those here waits for a pending x87 exception.
            unsafe { asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &raw mut mxcsr, in(reg) &raw mut control, options(nostack, preserves_flags)) };
            let x87 = (control != X87_CONTROL).then(|| {
                let mut all = [0u32; 7];
                // SAFETY: stores 28 bytes and masks the x87's exceptions, after which a new control word cannot trap.
                unsafe { asm!("fnstenv [{}]", in(reg) &raw mut all, options(nostack)) };
                all
            });
            Self { mxcsr, x87 }
        }

        /// Control bits and flags as they were. A pending exception is no new one: neither instruction raises it.
        pub(crate) fn give_back(&self) {
            if let Some(all) = &self.x87 {
                // SAFETY: what fnstenv stored on this thread; the x87's stack is empty at a call, now as then.
                unsafe { asm!("fldenv [{}]", in(reg) all, options(nostack)) };
            }
            // SAFETY: what stmxcsr stored on this machine, so no reserved bit is set.
            unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const self.mxcsr, options(nostack)) };
        }
    }

    /// Gives this thread the default environment. After [`State::take`] on a thread of the host, whose x87 may have something pending.
    pub(crate) fn set_default() {
        let mut control = 0u16;
        // SAFETY: a valid value of the control and status register; fnstcw stores two bytes.
        unsafe { asm!("ldmxcsr [{}]", "fnstcw [{}]", in(reg) &raw const MXCSR, in(reg) &raw mut control, options(nostack)) };
        if control != X87_CONTROL {
            // SAFETY: a valid control word that masks all exceptions.
            unsafe { asm!("fldcw [{}]", in(reg) &raw const X87_CONTROL, options(nostack)) };
        }
    }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod machine {
    use std::arch::asm;

    /// The control and the status register.
    #[derive(Clone, Copy)]
    pub(crate) struct State {
        fpcr: u64,
        fpsr: u64,
    }

    impl State {
        /// The environment of this thread.
        pub(crate) fn take() -> Self {
            let (fpcr, fpsr): (u64, u64);
            // SAFETY: reads two registers.
            unsafe { asm!("mrs {}, fpcr", "mrs {}, fpsr", out(reg) fpcr, out(reg) fpsr, options(nostack)) };
            Self { fpcr, fpsr }
        }

        /// Control bits and flags as they were; writing a flag raises nothing.
        pub(crate) fn give_back(&self) {
            // SAFETY: what was read from the same registers.
            unsafe { asm!("msr fpsr, {}", "msr fpcr, {}", in(reg) self.fpsr, in(reg) self.fpcr, options(nostack)) };
        }
    }

    /// Gives this thread the default environment: all control bits 0.
    pub(crate) fn set_default() {
        // SAFETY: 0 is the value that programs start with.
        unsafe { asm!("msr fpcr, xzr", "msr fpsr, xzr", options(nostack)) };
    }
}

/// Nothing is known of the environment.
#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))))]
mod machine {
    #[derive(Clone, Copy)]
    pub(crate) struct State;

    impl State {
        pub(crate) fn take() -> Self {
            Self
        }

        pub(crate) fn give_back(&self) {}
    }

    pub(crate) fn set_default() {}
}

#[cfg(all(test, target_arch = "x86_64", not(miri)))]
mod tests {
    use super::*;
    use std::arch::asm;

    /// Control and status of both units, as a host sees them.
    fn read() -> (u32, u16, u16) {
        let (mut mxcsr, mut control, mut status) = (0u32, 0u16, 0u16);
        // SAFETY: three stores to variables of their sizes.
        unsafe { asm!("stmxcsr [{}]", "fnstcw [{}]", "fnstsw [{}]", in(reg) &raw mut mxcsr, in(reg) &raw mut control, in(reg) &raw mut status) };
        (mxcsr, control, status)
    }

    fn write(mxcsr: u32, control: u16) {
        // SAFETY: valid values; every test ends with the default.
        unsafe { asm!("ldmxcsr [{}]", "fldcw [{}]", in(reg) &raw const mxcsr, in(reg) &raw const control) };
    }

    /// 1/3 is rounded, and half the smallest normal number is flushed, as the environment says.
    fn probe() -> (u32, u32) {
        let third = std::hint::black_box(1.0f32) / std::hint::black_box(3.0);
        let subnormal = std::hint::black_box(f32::MIN_POSITIVE) * std::hint::black_box(0.5);
        (third.to_bits(), subnormal.to_bits())
    }

    const HOSTS: [(&str, u32, u16); 8] = [
        ("the default", 0x1f80, 0x037f),
        ("flags that are set", 0x1fbf, 0x037f),
        ("FTZ and DAZ", 0x9fc0, 0x037f),
        ("down", 0x3f80, 0x077f),
        ("towards zero", 0x7f80, 0x0f7f),
        ("x87 in single precision", 0x1f80, 0x007f),
        ("traps of invalid, division, overflow", 0x1f80 & !(0x0d << 7), 0x0372),
        ("all traps", 0x0000, 0x0340),
    ];

    #[test]
    fn the_host_gets_back_what_it_had() {
        let plain = probe();
        for (name, mxcsr, control) in HOSTS {
            write(mxcsr, control);
            let before = read();
            let guard = Default::enter();
            let inside = probe();
            let zero = std::hint::black_box(0.0f32);
            std::hint::black_box(zero / zero); // raises a flag, and would trap
            drop(guard);
            let after = read();
            write(0x1f80, 0x037f);
            assert_eq!(inside, plain, "{name}");
            assert_eq!(after, before, "{name}");
        }
    }

    #[test]
    fn callbacks_run_in_the_hosts_environment_and_may_change_it() {
        let plain = probe();
        for (name, mxcsr, control) in HOSTS {
            write(mxcsr, control);
            let before = read();
            let guard = Default::enter();
            let seen = as_caller(|| {
                let seen = read();
                drop(Default::enter()); // the callback calls the library
                assert_eq!(read(), seen, "{name}");
                seen
            });
            let between = probe();
            as_caller(|| write(0x5f80, 0x0b7f)); // upwards, from now on
            let inside = probe();
            drop(guard);
            let after = read();
            write(0x1f80, 0x037f);
            assert_eq!(seen, before, "{name}");
            assert_eq!((between, inside), (plain, plain), "{name}");
            assert_eq!((after.0, after.1), (0x5f80, 0x0b7f), "{name}");
        }
    }

    #[test]
    fn a_pending_x87_exception_stays_pending() {
        write(0x1f80, 0x037f);
        // SAFETY: 1/0 on the x87's stack, which is empty again afterwards: the flag of a division by zero is set.
        unsafe { asm!("fld1", "fldz", "fdivp", "fstp st(0)") };
        let unmasked = 0x037bu16;
        // SAFETY: a valid control word. With the flag set it makes the exception pending, to be raised by the next x87 instruction that waits.
        unsafe { asm!("fldcw [{}]", in(reg) &raw const unmasked) };
        let before = read();
        drop(Default::enter());
        let after = read();
        // SAFETY: clears the flags without waiting.
        unsafe { asm!("fnclex") };
        write(0x1f80, 0x037f);
        assert_eq!(after, before);
        assert_ne!(before.2 & 0x80, 0, "nothing was pending");
    }
}
