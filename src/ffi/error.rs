//! Versions, statuses and the last error of each thread.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char};

/// Major version of the library.
pub const FEWSTEP_VERSION_MAJOR: u32 = 0;
/// Minor version of the library.
pub const FEWSTEP_VERSION_MINOR: u32 = 1;
/// Patch version of the library.
pub const FEWSTEP_VERSION_PATCH: u32 = 0;
/// The three numbers in one: major * 65536 + minor * 256 + patch.
pub const FEWSTEP_VERSION: u32 = (FEWSTEP_VERSION_MAJOR << 16) | (FEWSTEP_VERSION_MINOR << 8) | FEWSTEP_VERSION_PATCH;
/// Counts breaks of binary compatibility; the number at the end of the shared library's name (libfewstep.so.0).
pub const FEWSTEP_ABI_VERSION: u32 = 0;

/// What a function answers: FEWSTEP_STATUS_OK, or why it did nothing. The numbers never change; new ones may come.
pub type fewstep_status = i32;

/// Everything worked.
pub const FEWSTEP_STATUS_OK: fewstep_status = 0;
/// An argument is NULL, out of range or an unknown enum value.
pub const FEWSTEP_STATUS_INVALID_ARGUMENT: fewstep_status = 1;
/// A tensor, an image or a buffer has another shape or size than the one expected.
pub const FEWSTEP_STATUS_SHAPE: fewstep_status = 2;
/// The request is understood but this version cannot do it.
pub const FEWSTEP_STATUS_UNSUPPORTED: fewstep_status = 3;
/// A file, folder, array or tensor does not exist.
pub const FEWSTEP_STATUS_NOT_FOUND: fewstep_status = 4;
/// The operating system refused to read or write.
pub const FEWSTEP_STATUS_IO: fewstep_status = 5;
/// A file is damaged or is not what it says it is.
pub const FEWSTEP_STATUS_CORRUPT_FILE: fewstep_status = 6;
/// A file was written by an incompatible version.
pub const FEWSTEP_STATUS_VERSION_MISMATCH: fewstep_status = 7;
/// Memory could not be had.
pub const FEWSTEP_STATUS_OUT_OF_MEMORY: fewstep_status = 8;
/// The compute device asked for does not exist.
pub const FEWSTEP_STATUS_NO_DEVICE: fewstep_status = 9;
/// The compute device stopped answering.
pub const FEWSTEP_STATUS_DEVICE_LOST: fewstep_status = 10;
/// The installed driver is older than what is needed.
pub const FEWSTEP_STATUS_DRIVER_TOO_OLD: fewstep_status = 11;
/// A callback or a cancel token asked to stop; the handle stays usable.
pub const FEWSTEP_STATUS_CANCELLED: fewstep_status = 12;
/// A number is NaN or infinite where a finite one is needed.
pub const FEWSTEP_STATUS_NUMERIC: fewstep_status = 13;
/// The call does not fit the state that the handle is in, or the handle is in use by another call.
pub const FEWSTEP_STATUS_STATE: fewstep_status = 14;
/// A bug inside the library; the handle that was in use can only be destroyed.
pub const FEWSTEP_STATUS_PANIC: fewstep_status = 15;

/// Bytes of a message, its NUL included; what is longer loses its middle.
pub(crate) const MESSAGE_SIZE: usize = 2048;

thread_local! {
    // Neither memory of the heap nor a destructor: there is a message when there is no memory, and nothing to register or to run when a thread ends.
    static LAST_ERROR: UnsafeCell<[u8; MESSAGE_SIZE]> = const { UnsafeCell::new([0; MESSAGE_SIZE]) };
}

/// Where a message is left out.
const GAP: &str = " ... ";

/// Writes a message as C gets it, on one line and with a NUL: control characters, which come from names and keys in files, are written as escapes.
/// `out` has more bytes than [`GAP`].
pub(crate) fn write_line(message: &str, out: &mut [u8]) {
    let room = out.len() - 1;
    let whole = message.chars().map(width).sum::<usize>() <= room;
    // Both ends tell: what failed stands in front, why at the end.
    let half = (room - GAP.len()) / 2;
    let (front, gap, back) = match whole {
        true => (message, "", ""),
        false => (&message[..fitting(message.chars(), half)], GAP, &message[message.len() - fitting(message.chars().rev(), half)..]),
    };
    let mut at = 0;
    let mut write = |c: char| at += c.encode_utf8(&mut out[at..]).len();
    for c in front.chars().chain(gap.chars()).chain(back.chars()) {
        if c.is_control() { c.escape_default().for_each(&mut write) } else { write(c) }
    }
    out[at] = 0;
}

/// Bytes of a character as it is written.
fn width(c: char) -> usize {
    if c.is_control() { c.escape_default().len() } else { c.len_utf8() }
}

/// Bytes of the first characters that are written in `room` bytes.
fn fitting(chars: impl Iterator<Item = char>, mut room: usize) -> usize {
    let fits = |c: &char| room.checked_sub(width(*c)).map(|left| room = left).is_some();
    chars.take_while(fits).map(char::len_utf8).sum()
}

/// Makes `message` this thread's last error. Allocates nothing.
pub(crate) fn set_last_error(message: &str) {
    // SAFETY: the buffer is this thread's, and no reference to it outlives this closure; C holds only its address.
    LAST_ERROR.with(|last| write_line(message, unsafe { &mut *last.get() }));
}

/// The message of the last call that failed on the calling thread: what was wrong, with names and numbers, in one line of UTF-8 of less than 2048 bytes
/// (a longer one loses its middle). Never NULL; an empty string before the first failure. Successful calls leave it as it is.
///
/// The text belongs to the library and stays valid until the next call that fails on the same thread, or until the thread ends. Any thread may call.
#[unsafe(no_mangle)]
pub extern "C" fn fewstep_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.get().cast_const().cast())
}

/// The name of a status, such as "CANCELLED"; "UNKNOWN" for a number that is none. A constant string. Any thread may call.
#[unsafe(no_mangle)]
pub extern "C" fn fewstep_status_name(status: fewstep_status) -> *const c_char {
    status_name(status).as_ptr()
}

fn status_name(status: fewstep_status) -> &'static CStr {
    match status {
        FEWSTEP_STATUS_OK => c"OK",
        FEWSTEP_STATUS_INVALID_ARGUMENT => c"INVALID_ARGUMENT",
        FEWSTEP_STATUS_SHAPE => c"SHAPE",
        FEWSTEP_STATUS_UNSUPPORTED => c"UNSUPPORTED",
        FEWSTEP_STATUS_NOT_FOUND => c"NOT_FOUND",
        FEWSTEP_STATUS_IO => c"IO",
        FEWSTEP_STATUS_CORRUPT_FILE => c"CORRUPT_FILE",
        FEWSTEP_STATUS_VERSION_MISMATCH => c"VERSION_MISMATCH",
        FEWSTEP_STATUS_OUT_OF_MEMORY => c"OUT_OF_MEMORY",
        FEWSTEP_STATUS_NO_DEVICE => c"NO_DEVICE",
        FEWSTEP_STATUS_DEVICE_LOST => c"DEVICE_LOST",
        FEWSTEP_STATUS_DRIVER_TOO_OLD => c"DRIVER_TOO_OLD",
        FEWSTEP_STATUS_CANCELLED => c"CANCELLED",
        FEWSTEP_STATUS_NUMERIC => c"NUMERIC",
        FEWSTEP_STATUS_STATE => c"STATE",
        FEWSTEP_STATUS_PANIC => c"PANIC",
        _ => c"UNKNOWN",
    }
}

/// The version of the library that is running, packed as FEWSTEP_VERSION. Compare it with the macro to find a header of another version. Any thread
/// may call.
#[unsafe(no_mangle)]
pub extern "C" fn fewstep_version() -> u32 {
    FEWSTEP_VERSION
}

/// The version of the library that is running as text, such as "0.1.0". A constant string. Any thread may call.
#[unsafe(no_mangle)]
pub extern "C" fn fewstep_version_string() -> *const c_char {
    const TEXT: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    };
    TEXT.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[test]
    fn statuses_agree_with_the_rust_ones() {
        let all = [
            (FEWSTEP_STATUS_OK, Status::Ok),
            (FEWSTEP_STATUS_INVALID_ARGUMENT, Status::InvalidArgument),
            (FEWSTEP_STATUS_SHAPE, Status::Shape),
            (FEWSTEP_STATUS_UNSUPPORTED, Status::Unsupported),
            (FEWSTEP_STATUS_NOT_FOUND, Status::NotFound),
            (FEWSTEP_STATUS_IO, Status::Io),
            (FEWSTEP_STATUS_CORRUPT_FILE, Status::CorruptFile),
            (FEWSTEP_STATUS_VERSION_MISMATCH, Status::VersionMismatch),
            (FEWSTEP_STATUS_OUT_OF_MEMORY, Status::OutOfMemory),
            (FEWSTEP_STATUS_NO_DEVICE, Status::NoDevice),
            (FEWSTEP_STATUS_DEVICE_LOST, Status::DeviceLost),
            (FEWSTEP_STATUS_DRIVER_TOO_OLD, Status::DriverTooOld),
            (FEWSTEP_STATUS_CANCELLED, Status::Cancelled),
            (FEWSTEP_STATUS_NUMERIC, Status::Numeric),
            (FEWSTEP_STATUS_STATE, Status::State),
            (FEWSTEP_STATUS_PANIC, Status::Panic),
        ];
        for (i, (number, status)) in all.into_iter().enumerate() {
            assert_eq!(number, status as i32, "{status:?}");
            assert_eq!(number, i as i32, "{status:?}");
            let name = status_name(number).to_string_lossy().replace('_', "");
            assert!(name.eq_ignore_ascii_case(&format!("{status:?}")), "{name}");
        }
        assert_eq!(status_name(16), c"UNKNOWN");
    }

    fn line(message: &str, size: usize) -> String {
        let mut out = vec![0xff; size];
        write_line(message, &mut out);
        CStr::from_bytes_until_nul(&out).map(|line| line.to_string_lossy().into_owned()).unwrap_or_default()
    }

    #[test]
    fn messages_are_one_line() {
        for (message, expected) in [("a\nERROR forged", "a\\nERROR forged"), ("nul \0 tab \t", "nul \\u{0} tab \\t"), ("Größe", "Größe"), ("", "")] {
            assert_eq!(line(message, MESSAGE_SIZE), expected);
        }
    }

    #[test]
    fn long_messages_keep_both_ends() {
        for (message, size, expected) in [
            ("0123456789", 11, "0123456789"),
            ("0123456789abcdef", 14, "0123 ... cdef"),
            ("0123456789abcdef", 15, "0123 ... cdef"),
            ("ßßßßßßßßß", 16, "ßß ... ßß"),                // whole characters
            ("\n\n\n\n\n\n\n\n", 14, "\\n\\n ... \\n\\n"), // whole escapes
            ("aaa\nbbbbbbbb\nccc", 14, "aaa ... ccc"),
        ] {
            assert_eq!(line(message, size), expected, "{message:?} in {size}");
        }
        let long = "x".repeat(1 << 20);
        assert_eq!(line(&long, MESSAGE_SIZE).len(), MESSAGE_SIZE - 1);
    }

    #[test]
    fn the_version_is_that_of_the_package() {
        let parts = format!("{FEWSTEP_VERSION_MAJOR}.{FEWSTEP_VERSION_MINOR}.{FEWSTEP_VERSION_PATCH}");
        assert_eq!(parts, env!("CARGO_PKG_VERSION"));
        assert_eq!(fewstep_version(), FEWSTEP_VERSION_MAJOR * 65536 + FEWSTEP_VERSION_MINOR * 256 + FEWSTEP_VERSION_PATCH);
    }
}
