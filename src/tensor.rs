//! Host memory: aligned, fallible allocations, and a tensor that owns one.

use crate::error::{Error, Result};
use crate::memory;
use std::alloc::Layout;

pub use crate::memory::try_vec;

/// Element types that a value can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// bfloat16.
    Bf16,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::I8 | DType::U8 => 1,
            DType::F16 | DType::Bf16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::I64 => 8,
        }
    }
}

/// A Rust type that can be viewed as elements of a [`DType`]. All bit patterns are valid.
///
/// # Safety
/// The type must have no padding, accept every bit pattern, and have `DTYPE.size()` bytes.
pub unsafe trait Element: Copy + Default + Send + Sync + 'static {
    /// The matching element type.
    const DTYPE: DType;
}

macro_rules! elements { ($($t:ty => $d:ident),*) => { $(
    // SAFETY: a primitive number: no padding, every bit pattern valid, size as DType::size says.
    unsafe impl Element for $t { const DTYPE: DType = DType::$d; }
)* } }
elements!(f32 => F32, half::f16 => F16, half::bf16 => Bf16, i8 => I8, u8 => U8, i32 => I32, i64 => I64);

/// Alignment of every buffer: one cache line, and one AVX-512 register.
pub const ALIGN: usize = 64;

/// Zeroed bytes aligned to [`ALIGN`]. Allocation is fallible: sizes come from files and configs.
pub struct Buffer {
    ptr: std::ptr::NonNull<u8>,
    len: usize,
    /// Bytes that were allocated; at least `len`.
    capacity: usize,
}

// SAFETY: the buffer owns its bytes exclusively and has no interior mutability.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zero bytes, or [`Status::OutOfMemory`](crate::Status) naming `what`.
    pub fn zeroed(len: usize, what: &str) -> Result<Self> {
        let oom = || Error::out_of_memory(format!("{what}: could not allocate {len} bytes"));
        let layout = Layout::from_size_align(len.max(1), ALIGN).map_err(|_| oom())?;
        // SAFETY: the layout has a non-zero size.
        let ptr = unsafe { memory::zeroed(layout) };
        Ok(Self { ptr: std::ptr::NonNull::new(ptr).ok_or_else(oom)?, len, capacity: len })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `len` initialised bytes for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// The bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `bytes`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }

    /// Start of the buffer; the executor derives its value pointers from it.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, which was valid there.
        unsafe { memory::free(self.ptr.as_ptr(), Layout::from_size_align_unchecked(self.capacity.max(1), ALIGN)) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

/// Number of elements of a shape, or a shape error when it overflows.
pub fn checked_numel(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|n| *n <= isize::MAX as usize / 8)
        .ok_or_else(|| Error::shape(format!("shape {shape:?} has too many elements")))
}

/// An owned, contiguous, row-major host tensor.
#[derive(Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Buffer,
}

impl Tensor {
    /// A tensor of zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self> {
        let bytes = checked_numel(shape)?.checked_mul(dtype.size()).ok_or_else(|| Error::shape(format!("shape {shape:?} overflows")))?;
        Ok(Self { dtype, shape: shape.to_vec(), data: Buffer::zeroed(bytes, "tensor")? })
    }

    /// A copy of `data` with the given shape.
    pub fn from_slice<T: Element>(shape: &[usize], data: &[T]) -> Result<Self> {
        let mut t = Self::zeros(T::DTYPE, shape)?;
        if t.numel() != data.len() {
            return Err(Error::shape(format!("shape {shape:?} needs {} elements, found {}", t.numel(), data.len())));
        }
        t.as_mut_slice::<T>()?.copy_from_slice(data);
        Ok(t)
    }

    /// A copy of this tensor.
    pub fn try_clone(&self) -> Result<Self> {
        let mut t = Self::zeros(self.dtype, &self.shape)?;
        t.data.bytes_mut().copy_from_slice(self.data.bytes());
        Ok(t)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of memory that it takes, its own among them.
    pub fn host_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.shape) + self.data.len().max(1).next_multiple_of(ALIGN)
    }

    /// The first element that is NaN or infinite, and where it is; whole numbers are neither.
    pub fn non_finite(&self) -> Result<Option<(usize, f32)>> {
        fn first<T: Element>(tensor: &Tensor, value: impl Fn(T) -> f32) -> Result<Option<(usize, f32)>> {
            Ok(tensor.as_slice::<T>()?.iter().map(|v| value(*v)).enumerate().find(|(_, v)| !v.is_finite()))
        }
        match self.dtype {
            DType::F32 => first(self, |v: f32| v),
            DType::F16 => first(self, half::f16::to_f32),
            DType::Bf16 => first(self, half::bf16::to_f32),
            DType::I8 | DType::U8 | DType::I32 | DType::I64 => Ok(None),
        }
    }

    /// Leaves only the first `rows` of the outermost dimension. The memory of the others is kept, but where it was never written to the system has given none.
    pub fn truncate(&mut self, rows: usize) {
        if let Some(outermost) = self.shape.first_mut().filter(|all| **all > rows) {
            *outermost = rows;
            self.data.len = self.shape.iter().product::<usize>() * self.dtype.size();
        }
    }

    /// The raw bytes, little-endian elements.
    pub fn bytes(&self) -> &[u8] {
        self.data.bytes()
    }

    /// The raw bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.data.bytes_mut()
    }

    /// The elements; an error when `T` is not the tensor's type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.check::<T>()?;
        // SAFETY: the buffer is 64-byte aligned, holds numel() elements of T's size, and every bit pattern is a T.
        Ok(unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast::<T>(), self.numel()) })
    }

    /// The elements, writable; an error when `T` is not the tensor's type.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.check::<T>()?;
        // SAFETY: as `as_slice`, and `&mut self` makes the access exclusive.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr().cast::<T>(), self.numel()) })
    }

    /// The elements converted to f32, whatever the type.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        let mut out = try_vec::<f32>(self.numel(), "tensor conversion")?;
        self.convert(&mut out)?;
        Ok(out)
    }

    /// A copy of this tensor as f32, whatever the type.
    pub fn to_f32(&self) -> Result<Self> {
        let mut out = Self::zeros(DType::F32, &self.shape)?;
        self.convert(out.as_mut_slice()?)?;
        Ok(out)
    }

    /// Writes as many elements as there are, as f32.
    fn convert(&self, out: &mut [f32]) -> Result<()> {
        fn each<T: Element>(tensor: &Tensor, out: &mut [f32], value: impl Fn(T) -> f32) -> Result<()> {
            out.iter_mut().zip(tensor.as_slice::<T>()?).for_each(|(o, v)| *o = value(*v));
            Ok(())
        }
        match self.dtype {
            DType::F32 => each(self, out, |v: f32| v),
            DType::F16 => each(self, out, half::f16::to_f32),
            DType::Bf16 => each(self, out, half::bf16::to_f32),
            DType::I8 => each(self, out, |v: i8| f32::from(v)),
            DType::U8 => each(self, out, |v: u8| f32::from(v)),
            DType::I32 => each(self, out, |v: i32| v as f32),
            DType::I64 => each(self, out, |v: i64| v as f32),
        }
    }

    fn check<T: Element>(&self) -> Result<()> {
        if self.dtype != T::DTYPE {
            return Err(Error::invalid(format!("tensor is {:?}, read as {:?}", self.dtype, T::DTYPE)));
        }
        Ok(())
    }
}
