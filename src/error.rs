//! One error type for the whole library: a status that the C border returns and a sentence for a person.

use std::fmt;

/// What went wrong, as the C ABI reports it. The numbers never change once published.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Everything worked.
    Ok = 0,
    /// An argument is NULL, out of range or an unknown enum value.
    InvalidArgument = 1,
    /// A tensor or image has another shape than the one expected.
    Shape = 2,
    /// The request is understood but this version cannot do it.
    Unsupported = 3,
    /// A file, folder or tensor does not exist.
    NotFound = 4,
    /// The operating system refused to read or write.
    Io = 5,
    /// A file is damaged or is not what it says it is.
    CorruptFile = 6,
    /// A file was written by an incompatible version.
    VersionMismatch = 7,
    /// Memory could not be had.
    OutOfMemory = 8,
    /// The compute device asked for does not exist.
    NoDevice = 9,
    /// The compute device stopped answering.
    DeviceLost = 10,
    /// The installed driver is older than what is needed.
    DriverTooOld = 11,
    /// A callback or a cancel token asked to stop.
    Cancelled = 12,
    /// A number is NaN or infinite where a finite one is needed.
    Numeric = 13,
    /// The call does not fit the state that the handle is in.
    State = 14,
    /// A bug inside the library; the handle should be destroyed.
    Panic = 15,
}

/// A status and the detail a person needs: which tensor, which file, expected and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind of failure.
    pub status: Status,
    /// One sentence with the names and numbers.
    pub message: String,
}

/// The library's result type.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $status:ident;)*) => {
        $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self { Self { status: Status::$status, message: message.into() } })*
    };
}

impl Error {
    constructors! {
        /// An argument that cannot be meant.
        invalid => InvalidArgument;
        /// A shape that does not fit.
        shape => Shape;
        /// Understood, not supported.
        unsupported => Unsupported;
        /// Something named does not exist.
        not_found => NotFound;
        /// The operating system's refusal.
        io => Io;
        /// A damaged file.
        corrupt => CorruptFile;
        /// A file of another version.
        version => VersionMismatch;
        /// Memory that could not be had.
        out_of_memory => OutOfMemory;
        /// Stopped on request.
        cancelled => Cancelled;
        /// A non-finite number.
        numeric => Numeric;
        /// A call out of order.
        state => State;
        /// A broken invariant of our own.
        internal => Panic;
    }

    /// The same error with `context: ` put before its sentence.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// An I/O error with the path it happened at.
    pub fn from_io(path: &std::path::Path, error: &std::io::Error) -> Self {
        let text = format!("{}: {error}", path.display());
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::not_found(text),
            // With a number of the system's it is the system that refused to read or write.
            std::io::ErrorKind::OutOfMemory if error.raw_os_error().is_none() => Self::out_of_memory(text),
            _ => Self::io(text),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.message, self.status)
    }
}

impl std::error::Error for Error {}
