//! Handles: a tag that tells the kinds apart, and a count of the calls that are using it.

use super::boundary::{check_out, null, put};
use crate::error::{Error, Result};
use crate::memory;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Ties an opaque C type to what is behind it.
pub(crate) trait Opaque {
    /// What the handle owns.
    type Inner;
    /// The type's name in messages.
    const NAME: &'static str;
    /// The first eight bytes of every live handle of this kind.
    const TAG: u64;
}

/// `uses` while one call has the handle for itself.
const EXCLUSIVE: i32 = -1;
/// `uses` after a call that had the handle for itself panicked.
const POISONED: i32 = -2;

/// What a C pointer to an opaque handle points to.
#[repr(C)]
struct Handle<T> {
    tag: AtomicU64,
    uses: AtomicI32,
    value: UnsafeCell<T>,
}

fn find<'a, O: Opaque>(handle: *const O) -> Result<&'a Handle<O::Inner>> {
    if handle.is_null() {
        return Err(null(O::NAME));
    }
    let handle = handle.cast::<Handle<O::Inner>>();
    if !handle.is_aligned() {
        return Err(Error::invalid(format!("{} is not a pointer that this library gave out", O::NAME)));
    }
    // SAFETY: not NULL and aligned; a pointer from this library by the header's contract. The tag finds handles of another kind, and most destroyed ones.
    let found = unsafe { &*handle };
    if found.tag.load(Ordering::Acquire) != O::TAG {
        return Err(Error::invalid(format!("{} is a handle of another kind or was destroyed", O::NAME)));
    }
    Ok(found)
}

fn busy(name: &str, uses: i32) -> Error {
    match uses {
        POISONED => Error::state(format!("{name} was left half done by an earlier panic; destroy it")),
        _ => Error::state(format!("{name} is in use by a call that has not returned (on another thread, or the one whose callback this is)")),
    }
}

/// Use of a handle that other calls may share.
pub(crate) struct Shared<'a, T>(&'a Handle<T>);

/// Sole use of a handle.
pub(crate) struct Exclusive<'a, T>(&'a Handle<T>);

/// Begins a call that shares the handle with other such calls.
///
/// # Safety
/// `handle` is NULL or came from this library.
pub(crate) unsafe fn share<'a, O: Opaque>(handle: *const O) -> Result<Shared<'a, O::Inner>> {
    let found = find(handle)?;
    let more = |uses: i32| if uses >= 0 { uses.checked_add(1) } else { None };
    found.uses.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).map_err(|uses| busy(O::NAME, uses))?;
    Ok(Shared(found))
}

/// The same where NULL means absent.
///
/// # Safety
/// As [`share`].
pub(crate) unsafe fn share_optional<'a, O: Opaque>(handle: *const O) -> Result<Option<Shared<'a, O::Inner>>> {
    // SAFETY: as promised by the caller.
    if handle.is_null() { Ok(None) } else { unsafe { share(handle) }.map(Some) }
}

/// Begins a call that has the handle for itself.
///
/// # Safety
/// `handle` is NULL or came from this library.
pub(crate) unsafe fn exclusive<'a, O: Opaque>(handle: *mut O) -> Result<Exclusive<'a, O::Inner>> {
    let found = find(handle.cast_const())?;
    found.uses.compare_exchange(0, EXCLUSIVE, Ordering::Acquire, Ordering::Relaxed).map_err(|uses| busy(O::NAME, uses))?;
    Ok(Exclusive(found))
}

/// Checks the place for a new handle, makes its contents, and writes the handle.
///
/// # Safety
/// `out` is NULL or valid for writing.
pub(crate) unsafe fn create<O: Opaque>(out: *mut *mut O, make: impl FnOnce() -> Result<O::Inner>) -> Result<()> {
    check_out(out, "out")?;
    memory::check()?;
    let handle = Box::new(Handle { tag: AtomicU64::new(O::TAG), uses: AtomicI32::new(0), value: UnsafeCell::new(make()?) });
    // SAFETY: checked above, valid as promised by the caller.
    unsafe { put(out, Box::into_raw(handle).cast::<O>()) };
    Ok(())
}

/// Ends a handle; NULL is fine. A state error, and nothing done, while a call uses it.
///
/// # Safety
/// `handle` is NULL or came from this library and was not destroyed.
pub(crate) unsafe fn destroy<O: Opaque>(handle: *mut O) -> Result<()> {
    if handle.is_null() {
        return Ok(());
    }
    let found = find(handle.cast_const())?;
    let take = |uses: i32| (uses == 0 || uses == POISONED).then_some(EXCLUSIVE);
    found.uses.fetch_update(Ordering::Acquire, Ordering::Relaxed, take).map_err(|uses| busy(O::NAME, uses))?;
    found.tag.store(0, Ordering::Release);
    // SAFETY: made by `create` as a box of this very type (the tag says so), and the exclusive mark keeps every other call out.
    drop(unsafe { Box::from_raw(handle.cast::<Handle<O::Inner>>()) });
    Ok(())
}

impl<T> Deref for Shared<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the count keeps exclusive calls and `destroy` out while this guard lives.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> Drop for Shared<'_, T> {
    fn drop(&mut self) {
        self.0.uses.fetch_sub(1, Ordering::Release);
    }
}

impl<T> Deref for Exclusive<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the exclusive mark keeps every other call out while this guard lives.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Exclusive<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as `deref`, and `&mut self` makes this the only reference.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Exclusive<'_, T> {
    fn drop(&mut self) {
        let next = if std::thread::panicking() { POISONED } else { 0 };
        self.0.uses.store(next, Ordering::Release);
    }
}
