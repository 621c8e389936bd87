//! Cancel tokens: one atomic flag, shared by the handle and by what looks at it.

use super::boundary::{check_out, ffi_boundary, put};
use super::error::fewstep_status;
use super::handle::{self, Opaque, Shared, create, share, share_optional};
use crate::cancel::Stop;
use crate::error::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that stops blocking calls from any thread. It stays set until it is reset, so that a cancel that comes before the call is not lost.
///
/// A call that computes sees its token, and that of its runtime (`cancel` of fewstep_runtime_options), within a few milliseconds: while it plans, inside an
/// evaluation of a network, inside a training step. On a GPU what was started is waited for: one sampler step, one training step. Calls that only read,
/// write or copy (opening and saving, datasets, snapshots, beginning a run, reading images) take as long as disk, memory and hashes need, a few seconds a
/// gigabyte, and look at no token; but fewstep_dataset_open_folder does between two files, and fewstep_dataset_create_filled between two batches.
pub struct fewstep_cancel_token {
    _private: [u8; 0],
}

/// What a cancel token owns.
pub(crate) struct Token(Arc<AtomicBool>);

impl Token {
    /// Whether someone asked to stop.
    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The flag of a token without the token: what a runtime looks at as long as it lives.
///
/// # Safety
/// `token` is NULL or came from this library.
pub(crate) unsafe fn flag(token: *const fewstep_cancel_token) -> Result<Option<Arc<AtomicBool>>> {
    // SAFETY: as promised by the caller.
    let token = unsafe { share_optional(token) }.map_err(|e| e.context("cancel"))?;
    Ok(token.map(|t| t.0.clone()))
}

/// The token of a call, which cannot be destroyed while the call lasts; or none.
pub(crate) struct Cancel<'a>(Option<Shared<'a, Token>>);

impl Cancel<'_> {
    /// # Safety
    /// `token` is NULL or came from this library.
    pub(crate) unsafe fn new(token: *const fewstep_cancel_token) -> Result<Self> {
        // SAFETY: as promised by the caller.
        unsafe { share_optional(token) }.map(Self).map_err(|e| e.context("cancel"))
    }

    /// True where there is no token.
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// What long work looks at: this token, and another flag.
    pub(crate) fn stop<'a>(&'a self, other: Option<&'a AtomicBool>) -> Stop<'a> {
        Stop::on(self.0.as_ref().map(|token| &*token.0), other)
    }
}

impl Opaque for fewstep_cancel_token {
    type Inner = Token;
    const NAME: &'static str = "cancel token";
    const TAG: u64 = u64::from_le_bytes(*b"fs.token");
}

/// Creates a cancel token that is not set. It needs no runtime, and one token may serve many calls, one after the other or at once.
///
/// The caller owns `*out` and gives it to fewstep_cancel_token_destroy. Any thread may call.
/// Returns OK, INVALID_ARGUMENT or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_cancel_token_create(out: *mut *mut fewstep_cancel_token) -> fewstep_status {
    // SAFETY: `out` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { create(out, || Ok(Token(Arc::default()))) })
}

/// Sets the token: every call that watches it, and every later one until fewstep_cancel_token_reset, stops at its next step or operation and returns
/// CANCELLED.
///
/// Any thread may call at any time, also while other threads use the token.
/// Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_cancel_token_cancel(token: *const fewstep_cancel_token) -> fewstep_status {
    // SAFETY: `token` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe {
        share(token)?.0.store(true, Ordering::Release);
        Ok(())
    })
}

/// Clears the token, so that it can be used again.
///
/// Any thread may call at any time.
/// Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_cancel_token_reset(token: *const fewstep_cancel_token) -> fewstep_status {
    // SAFETY: `token` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe {
        share(token)?.0.store(false, Ordering::Release);
        Ok(())
    })
}

/// Writes 1 to `*out` when the token is set, 0 otherwise.
///
/// Any thread may call at any time.
/// Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_cancel_token_is_cancelled(token: *const fewstep_cancel_token, out: *mut i32) -> fewstep_status {
    // SAFETY: `token` is NULL or ours, `out` is NULL or valid, by the header's contract.
    ffi_boundary(|| unsafe {
        let token = share(token)?;
        check_out(out, "out")?;
        put(out, i32::from(token.is_cancelled()));
        Ok(())
    })
}

/// Destroys a token. NULL is fine. While a call watches the token nothing happens and STATE is returned.
///
/// Any thread may call, once, when no other thread will use the token any more.
/// Returns OK, INVALID_ARGUMENT or STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_cancel_token_destroy(token: *mut fewstep_cancel_token) -> fewstep_status {
    // SAFETY: `token` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe { handle::destroy(token) })
}
