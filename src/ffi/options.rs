//! Structs that may grow: read with defaults for what an older caller does not know, written no further than the caller's size.

use super::boundary::null;
use crate::error::{Error, Result};
use crate::memory;
use std::mem::MaybeUninit;

/// No struct of this library will ever be larger; a larger size is a forgotten initialisation.
const MAX_SIZE: usize = 4096;

/// The most elements of an array that no other limit bounds: so many of the largest ones have an address.
pub(crate) const MOST: usize = isize::MAX as usize / MAX_SIZE;

/// A struct that C fills and the library reads.
///
/// # Safety
/// `repr(C)`, no padding, valid for every bit pattern (numbers and pointers only), and a `u32 struct_size` first.
pub(crate) unsafe trait Options: Copy {
    /// Name in messages.
    const NAME: &'static str;
    /// Size when it was first published.
    const FIRST_SIZE: usize;
    /// What `_init` writes, `struct_size` included.
    fn defaults() -> Self;
}

/// An element of an array with a stride: no size of its own, a field that is missing is 0.
///
/// # Safety
/// `repr(C)`, no padding, valid for every bit pattern, and all zeros included.
pub(crate) unsafe trait Item: Copy {
    /// Name in messages.
    const NAME: &'static str;
    /// Size when it was first published.
    const FIRST_SIZE: usize;
}

/// A struct that the library fills. Same promises as [`Options`].
///
/// # Safety
/// As [`Options`].
pub(crate) unsafe trait Report: Copy {
    /// Name in messages.
    const NAME: &'static str;
    /// Size when it was first published.
    const FIRST_SIZE: usize;
}

/// Writes a struct's defaults into the caller's `size` bytes, `struct_size` included: every `_init` function. Bytes unknown to this library become zero.
///
/// # Safety
/// `out` is NULL or valid for writing `size` bytes.
pub(crate) unsafe fn init<T: Options>(out: *mut T, size: usize) -> Result<()> {
    if out.is_null() {
        return Err(null(T::NAME));
    }
    check_size(T::NAME, "struct_size", size, T::FIRST_SIZE)?;
    let (defaults, known) = (T::defaults(), size.min(size_of::<T>()));
    // SAFETY: both have `known` bytes, `out` has `size`, which is no less and holds the u32 that T begins with.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const defaults).cast::<u8>(), out.cast::<u8>(), known);
        out.cast::<u8>().add(known).write_bytes(0, size - known);
        out.cast::<u32>().write_unaligned(size as u32);
    }
    Ok(())
}

/// The caller's options over the defaults; NULL is the defaults.
///
/// # Safety
/// `from` is NULL or valid for reading as many bytes as its `struct_size` says.
pub(crate) unsafe fn read<T: Options>(from: *const T) -> Result<T> {
    let mut value = T::defaults();
    if from.is_null() {
        return Ok(value);
    }
    // SAFETY: every options struct begins with its size, and C memory need not be aligned for us.
    let size = unsafe { from.cast::<u32>().read_unaligned() } as usize;
    check_size(T::NAME, "struct_size", size, T::FIRST_SIZE)?;
    // SAFETY: the caller has `size` bytes there; `value` has size_of::<T>() bytes and accepts any bit pattern.
    unsafe {
        let known = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut value).cast::<u8>(), known);
        check_tail(T::NAME, from.cast(), known, size)?;
    }
    Ok(value)
}

fn check_size(name: &str, field: &str, size: usize, first: usize) -> Result<()> {
    if size < first || size > MAX_SIZE {
        return Err(Error::invalid(format!("{name}: {field} is {size}; it must be between {first} and {MAX_SIZE} (was the struct initialised?)")));
    }
    Ok(())
}

/// # Safety
/// `from` is valid for reading `size` bytes.
unsafe fn check_tail(name: &str, from: *const u8, known: usize, size: usize) -> Result<()> {
    for at in known..size {
        // SAFETY: `at` is below `size`.
        if unsafe { from.add(at).read() } != 0 {
            return Err(Error::invalid(format!("{name}: byte {at} is set and means nothing to this version of the library, whose struct has {known} bytes")));
        }
    }
    Ok(())
}

/// The elements of an array of structs, at most `limit`.
///
/// # Safety
/// `data` is NULL or valid for reading `count` elements, `stride` bytes apart and as long.
pub(crate) unsafe fn array<T: Item>(data: *const T, count: usize, stride: usize, limit: usize) -> Result<Vec<T>> {
    let name = T::NAME;
    if count == 0 {
        return Ok(Vec::new());
    }
    if data.is_null() {
        return Err(null(name));
    }
    if count > limit {
        return Err(Error::invalid(format!("{name}: count is {count}; at most {limit}")));
    }
    check_size(name, "stride", stride, T::FIRST_SIZE)?;
    let mut out = memory::with_capacity(count, name)?;
    for i in 0..count {
        // SAFETY: i * stride is within what the caller has, and limits on both keep it from overflowing. All zeros is a valid T.
        let item = unsafe {
            let from = data.cast::<u8>().add(i * stride);
            let known = stride.min(size_of::<T>());
            let mut item = MaybeUninit::<T>::zeroed();
            std::ptr::copy_nonoverlapping(from, item.as_mut_ptr().cast::<u8>(), known);
            check_tail(name, from, known, stride)?;
            item.assume_init()
        };
        out.push(item);
    }
    Ok(out)
}

/// The size of a struct that the library is to fill, checked before any work is done.
///
/// # Safety
/// `out` is NULL or valid for reading its `struct_size`.
pub(crate) unsafe fn check_report<T: Report>(out: *const T) -> Result<usize> {
    if out.is_null() {
        return Err(null(T::NAME));
    }
    // SAFETY: every report begins with its size.
    let size = unsafe { out.cast::<u32>().read_unaligned() } as usize;
    check_size(T::NAME, "struct_size", size, T::FIRST_SIZE)?;
    Ok(size)
}

/// Fills a report but for its `struct_size`, no further than the caller's size.
///
/// # Safety
/// `size` came from [`check_report`], and `out` is valid for writing as many bytes.
pub(crate) unsafe fn write_report<T: Report>(out: *mut T, size: usize, value: T) {
    let (head, known) = (size_of::<u32>(), size.min(size_of::<T>()));
    // SAFETY: both have `known` bytes, more than `head` since no struct is published without a field.
    unsafe {
        let from = (&raw const value).cast::<u8>().add(head);
        std::ptr::copy_nonoverlapping(from, out.cast::<u8>().add(head), known - head);
    }
}

/// The size of a struct as its first field says it.
pub(crate) const fn size_field<T>() -> u32 {
    size_of::<T>() as u32
}
