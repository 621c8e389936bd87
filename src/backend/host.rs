//! A value's contents as the host sees them: borrowed where the host can read the backend's memory, copied where it cannot.

use crate::error::{Error, Result};
use crate::tensor::{Buffer, Element};
use std::marker::PhantomData;
use std::ops::Deref;

/// The bytes of one value; 64-byte aligned.
#[derive(Debug)]
pub enum HostBytes<'a> {
    /// In the backend's own memory.
    Borrowed(&'a [u8]),
    /// Fetched from a device.
    Copied(Buffer),
}

impl Deref for HostBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            HostBytes::Borrowed(bytes) => bytes,
            HostBytes::Copied(buffer) => buffer.bytes(),
        }
    }
}

impl<'a> HostBytes<'a> {
    /// The same as numbers of type `T`; an error when length or alignment do not fit it.
    pub fn of<T: Element>(self) -> Result<HostSlice<'a, T>> {
        if !self.len().is_multiple_of(size_of::<T>()) || !(self.as_ptr() as usize).is_multiple_of(align_of::<T>()) {
            return Err(Error::internal("value bytes do not hold elements of the asked type"));
        }
        Ok(HostSlice { bytes: self, elements: PhantomData })
    }
}

/// The numbers of one value.
#[derive(Debug)]
pub struct HostSlice<'a, T> {
    bytes: HostBytes<'a>,
    elements: PhantomData<T>,
}

impl<T: Element> Deref for HostSlice<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: length and alignment were checked when the slice was made, and Element accepts every bit pattern.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.bytes.len() / size_of::<T>()) }
    }
}
