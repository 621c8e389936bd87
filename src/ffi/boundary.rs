//! The border itself: nothing unwinds across it, every failure leaves a message, and raw arguments become checked Rust values.

use super::error::{fewstep_status, set_last_error};
use crate::error::{Error, Result, Status};
use crate::process::fp_environment;
use crate::tensor::try_vec;
use std::any::Any;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Runs the body of an extern function in the default floating-point environment. Errors and panics become a status and this thread's last error.
pub(crate) fn ffi_boundary(body: impl FnOnce() -> Result<()>) -> fewstep_status {
    // Dropped last, so that messages are made in the default environment too.
    let _environment = fp_environment::Default::enter();
    // What a panic left half done stays behind: a handle in exclusive use is poisoned by its guard.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::Ok as fewstep_status,
        Ok(Err(error)) => fail(&error),
        Err(payload) => {
            let error = Error::internal(format!("panic: {}", panic_text(payload.as_ref())));
            // Dropping a payload can itself panic; a leak is the lesser evil.
            std::mem::forget(payload);
            fail(&error)
        }
    }
}

fn fail(error: &Error) -> fewstep_status {
    // The message is made of text; should even that panic, the status still arrives.
    let _ = catch_unwind(AssertUnwindSafe(|| set_last_error(&error.message)));
    error.status as fewstep_status
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// An error that names a NULL argument.
pub(crate) fn null(name: &str) -> Error {
    Error::invalid(format!("{name} is NULL"))
}

/// The text behind a NUL-terminated UTF-8 argument.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that lives as long as `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: as promised by the caller.
    unsafe { optional_text(text, name)? }.ok_or_else(|| null(name))
}

/// The same where NULL means absent.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn optional_text<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, and NUL-terminated as promised by the caller.
    let text = unsafe { CStr::from_ptr(text) };
    let valid = text.to_str().map_err(|e| Error::invalid(format!("{name} is not UTF-8 (byte {})", e.valid_up_to())))?;
    Ok(Some(valid))
}

/// Bytes of a path: no system takes a longer one, and errors repeat it.
const MAX_PATH: usize = 1 << 15;

/// A path argument.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn path<'a>(path: *const c_char, name: &str) -> Result<&'a Path> {
    // SAFETY: as promised by the caller.
    let text = unsafe { text(path, name)? };
    if text.is_empty() {
        return Err(Error::invalid(format!("{name} is empty")));
    }
    if text.len() > MAX_PATH {
        return Err(Error::invalid(format!("{name} has {} bytes; at most {MAX_PATH} are possible", text.len())));
    }
    Ok(Path::new(text))
}

/// The elements behind a pointer and a count. NULL is allowed where the count is 0.
///
/// # Safety
/// `data` is NULL or valid for reading `count` elements as long as `'a`.
pub(crate) unsafe fn slice<'a, T>(data: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    check_array(data, count, name)?;
    if count == 0 {
        return Ok(&[]);
    }
    // SAFETY: not NULL, aligned, no overflow; valid for `count` elements as promised by the caller.
    Ok(unsafe { std::slice::from_raw_parts(data, count) })
}

/// A place for `count` results.
///
/// # Safety
/// `data` is NULL or valid for writing `count` elements as long as `'a`, and nothing else reaches it meanwhile.
pub(crate) unsafe fn slice_mut<'a, T>(data: *mut T, count: usize, name: &str) -> Result<&'a mut [T]> {
    check_array(data, count, name)?;
    if count == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `slice`, and exclusive as promised by the caller. Numbers only: reading what C left there is no problem.
    Ok(unsafe { std::slice::from_raw_parts_mut(data, count) })
}

fn check_array<T>(data: *const T, count: usize, name: &str) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    if data.is_null() {
        return Err(null(name));
    }
    if !data.is_aligned() {
        return Err(Error::invalid(format!("{name} is not aligned for its type")));
    }
    match count.checked_mul(size_of::<T>()).filter(|n| *n <= isize::MAX as usize) {
        Some(_) => Ok(()),
        None => Err(Error::invalid(format!("{name} has {count} elements, more than memory can hold"))),
    }
}

/// Refuses a place for a result that is NULL or misaligned, before any work is done.
pub(crate) fn check_out<T>(out: *mut T, name: &str) -> Result<()> {
    check_array(out, 1, name)
}

/// Writes a result; the last thing that a function does.
///
/// # Safety
/// `out` passed [`check_out`] and is valid for writing.
pub(crate) unsafe fn put<T>(out: *mut T, value: T) {
    // SAFETY: as promised by the caller.
    unsafe { out.write(value) }
}

/// Writes a text and a NUL to a buffer, and its length without the NUL; the length alone where there is no buffer.
///
/// # Safety
/// `length` passed [`check_out`] and is valid for writing; `buffer` is NULL or valid for writing `capacity` bytes.
pub(crate) unsafe fn write_text(text: &str, buffer: *mut c_char, capacity: usize, length: *mut usize) -> Result<()> {
    if !buffer.is_null() || capacity != 0 {
        if capacity <= text.len() {
            return Err(Error::shape(format!("the text has {} bytes and a NUL, capacity is {capacity}", text.len())));
        }
        // SAFETY: as promised by the caller.
        let to = unsafe { slice_mut(buffer.cast::<u8>(), text.len() + 1, "buffer")? };
        to[..text.len()].copy_from_slice(text.as_bytes());
        to[text.len()] = 0;
    }
    // SAFETY: as promised by the caller.
    unsafe { put(length, text.len()) };
    Ok(())
}

/// A 0 or a 1.
pub(crate) fn flag(value: i32, name: &str) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::invalid(format!("{name} is {other}; it must be 0 or 1"))),
    }
}

/// The value that belongs to an enum argument.
pub(crate) fn choice<T: Copy>(value: i32, name: &str, known: &[(i32, T)]) -> Result<T> {
    let found = known.iter().find(|(number, _)| *number == value);
    found.map(|(_, v)| *v).ok_or_else(|| {
        let numbers: Vec<String> = known.iter().map(|(n, _)| n.to_string()).collect();
        Error::invalid(format!("{name} is {value}; known values are {}", numbers.join(", ")))
    })
}

/// The product of sizes that come from outside.
pub(crate) fn product(sizes: &[usize], name: &str) -> Result<usize> {
    let n = sizes.iter().try_fold(1usize, |n, s| n.checked_mul(*s)).filter(|n| *n <= isize::MAX as usize / 8);
    n.ok_or_else(|| Error::shape(format!("{name}: {sizes:?} is too large")))
}

/// Images [N,C,H,W] from [N,H,W,C]. Both slices have `n * h * w * c` elements.
pub(crate) fn to_nchw(nhwc: &[f32], [h, w, c]: [usize; 3], nchw: &mut [f32]) {
    let image = (h * w * c).max(1);
    for (from, to) in nhwc.chunks_exact(image).zip(nchw.chunks_exact_mut(image)) {
        for (k, plane) in to.chunks_exact_mut(h * w).enumerate() {
            plane.iter_mut().enumerate().for_each(|(at, v)| *v = from[at * c + k]);
        }
    }
}

/// Images [N,H,W,C] from [N,C,H,W].
pub(crate) fn to_nhwc(nchw: &[f32], [h, w, c]: [usize; 3], name: &str) -> Result<Vec<f32>> {
    let mut out = try_vec::<f32>(nchw.len(), name)?;
    let image = (h * w * c).max(1);
    for (from, to) in nchw.chunks_exact(image).zip(out.chunks_exact_mut(image)) {
        for (k, plane) in from.chunks_exact(h * w).enumerate() {
            plane.iter().enumerate().for_each(|(at, v)| to[at * c + k] = *v);
        }
    }
    Ok(out)
}
