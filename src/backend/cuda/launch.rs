//! Kernel launches: what an op's adapter asks for, and the same with addresses filled in.

use super::context::Entered;
use super::driver::check;
use super::modules::Function;
use crate::error::{Error, Result};
use crate::memory::heap;
use cudarc::driver::sys;
use std::ffi::c_void;

/// The most blocks in the second and third direction of a grid (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
const MAX_GRID_YZ: u32 = 65_535;

/// Kernels declare their shared memory statically, so that the build sees all of it.
const NO_DYNAMIC_SHARED: u32 = 0;

/// A kernel's argument that is passed by value.
///
/// # Safety
/// `repr(C)` or a number, without padding; the same layout as in the kernel's source.
pub(super) unsafe trait Param: Copy {}
// SAFETY: a number.
unsafe impl Param for i32 {}
// SAFETY: a number.
unsafe impl Param for u32 {}
// SAFETY: a number.
unsafe impl Param for f32 {}
// SAFETY: numbers side by side.
unsafe impl<T: Param, const N: usize> Param for [T; N] {}

/// One argument.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Arg {
    /// Address of an operand.
    Input(usize),
    /// Address of a result.
    Output(usize),
    /// Address of this byte of the node's scratch.
    Scratch(usize),
    /// No address: an operand that is not there.
    Null,
    /// Address of so many counters of 32 bits, zero before the launch, which leaves them zero.
    Counters(usize),
    /// Address of an array of addresses in device memory, for kernels over many tensors.
    Table(Vec<Arg>),
    /// Address of plain data in device memory, uploaded once: what is too long for a parameter.
    Data(Vec<u8>),
    /// A struct by value: its fields one after the other, addresses and values.
    Struct(Vec<Arg>),
    /// A value.
    Value(Vec<u8>),
}

impl Arg {
    /// Bytes of host memory beside itself.
    fn bytes(&self) -> usize {
        match self {
            Arg::Table(args) | Arg::Struct(args) => heap(args.capacity() * size_of::<Arg>()) + args.iter().map(Arg::bytes).sum::<usize>(),
            Arg::Data(bytes) | Arg::Value(bytes) => heap(bytes.capacity()),
            _ => 0,
        }
    }

    /// A value.
    pub fn of<T: Param>(value: T) -> Self {
        // SAFETY: `Param` promises no padding.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const value).cast::<u8>(), size_of::<T>()) };
        Arg::Value(bytes.to_vec())
    }
}

/// One kernel launch of a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Launch {
    /// The kernel's name in its .cu file.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: u32,
    /// Arguments in the kernel's order.
    pub args: Vec<Arg>,
}

impl Launch {
    /// A launch without arguments yet; an error when the grid has more blocks than a GPU takes.
    pub fn new(kernel: impl Into<String>, grid: [usize; 3], block: usize) -> Result<Self> {
        let kernel = kernel.into();
        let fits = grid[0] > 0 && grid[0] <= i32::MAX as usize && grid[1..].iter().all(|g| *g > 0 && *g <= MAX_GRID_YZ as usize);
        if !fits {
            return Err(Error::unsupported(format!("{kernel}: a grid of {grid:?} blocks; the shapes are too large for the CUDA backend")));
        }
        // More threads than a kernel takes are found where it is loaded.
        Ok(Self { kernel, grid: grid.map(|g| g as u32), block: u32::try_from(block).unwrap_or(u32::MAX), args: vec![] })
    }

    /// One thread an element, in blocks of `block`.
    pub fn over(kernel: impl Into<String>, elements: usize, block: usize) -> Result<Self> {
        Self::new(kernel, [elements.div_ceil(block), 1, 1], block)
    }

    /// Any argument.
    pub fn arg(mut self, arg: Arg) -> Self {
        self.args.push(arg);
        self
    }

    /// The address of operand `i`.
    pub fn input(self, i: usize) -> Self {
        self.arg(Arg::Input(i))
    }

    /// The address of operand `i`, or null.
    pub fn optional(self, i: Option<usize>) -> Self {
        self.arg(i.map_or(Arg::Null, Arg::Input))
    }

    /// The address of result `i`.
    pub fn output(self, i: usize) -> Self {
        self.arg(Arg::Output(i))
    }

    /// The address of a byte of the scratch.
    pub fn scratch(self, at: usize) -> Self {
        self.arg(Arg::Scratch(at))
    }

    /// A value.
    pub fn value<T: Param>(self, value: T) -> Self {
        self.arg(Arg::of(value))
    }

    /// A count or a size as the kernels' 32-bit `int`; an error when it does not fit.
    pub fn int(self, value: usize) -> Result<Self> {
        let narrow = i32::try_from(value).map_err(|_| Error::unsupported(format!("{}: {value} does not fit 32 bits", self.kernel)))?;
        Ok(self.value(narrow))
    }
}

/// A node as the CUDA backend runs it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Lowered {
    /// In order; each sees what those before it wrote.
    pub launches: Vec<Launch>,
    /// Scratch in bytes.
    pub workspace: usize,
}

impl Lowered {
    /// Bytes of host memory.
    pub fn bytes(&self) -> usize {
        let launch = |l: &Launch| {
            size_of::<Launch>() + heap(l.kernel.capacity()) + heap(l.args.capacity() * size_of::<Arg>()) + l.args.iter().map(Arg::bytes).sum::<usize>()
        };
        size_of::<Self>() + self.launches.iter().map(launch).sum::<usize>()
    }
}

impl From<Launch> for Lowered {
    fn from(launch: Launch) -> Self {
        Self { launches: vec![launch], workspace: 0 }
    }
}

/// A launch with all its arguments in place.
pub(super) struct Ready {
    function: Function,
    grid: [u32; 3],
    block: u32,
    /// The arguments as they lie in the kernel's parameter buffer, so that each is aligned as its type asks.
    values: Vec<Line>,
    /// Room for what the driver takes: the addresses of the arguments.
    pointers: Vec<*mut c_void>,
}

/// A piece of an argument buffer: no type of CUDA's asks for more than 128 bytes of alignment (`CUtensorMap`).
#[derive(Clone, Copy)]
#[repr(C, align(128))]
struct Line([u8; 128]);

// SAFETY: `pointers` is scratch of `enqueue`; it points nowhere between calls.
unsafe impl Send for Ready {}

/// Appends an argument as the kernel sees it.
fn append(arg: &Arg, bytes: &mut Vec<u8>, address: &mut impl FnMut(&Arg) -> Result<u64>) -> Result<()> {
    match arg {
        Arg::Value(value) => bytes.extend_from_slice(value),
        Arg::Struct(fields) => return fields.iter().try_for_each(|field| append(field, bytes, address)),
        other => bytes.extend_from_slice(&address(other)?.to_ne_bytes()),
    }
    Ok(())
}

/// The arguments at their places in the kernel's parameter buffer.
fn lay_out(arguments: &[Vec<u8>], offsets: &[u32]) -> Vec<Line> {
    let end = arguments.last().zip(offsets.last()).map_or(0, |(last, offset)| *offset as usize + last.len());
    let mut values = vec![Line([0; 128]); end.div_ceil(size_of::<Line>())];
    for (bytes, offset) in arguments.iter().zip(offsets) {
        for (i, byte) in bytes.iter().enumerate() {
            let at = *offset as usize + i;
            values[at / size_of::<Line>()].0[at % size_of::<Line>()] = *byte;
        }
    }
    values
}

/// What allows a launch to begin before the one before it has ended.
fn overlap() -> sys::CUlaunchAttribute {
    // SAFETY: numbers, of which zeros are a value.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
    attribute
}

impl Ready {
    /// Checks the arguments against what the compiled kernel takes. `address` resolves everything but values.
    pub fn new(launch: &Launch, function: Function, mut address: impl FnMut(&Arg) -> Result<u64>) -> Result<Self> {
        let mut arguments = vec![];
        for arg in &launch.args {
            let mut bytes = vec![];
            append(arg, &mut bytes, &mut address)?;
            arguments.push(bytes);
        }
        let sizes: Vec<u32> = arguments.iter().map(|bytes| bytes.len() as u32).collect();
        let expected = function.info.params;
        if sizes != expected || launch.block > function.info.max_threads {
            let found = format!("arguments of {sizes:?} bytes and {} threads", launch.block);
            let wanted = format!("{expected:?} and at most {}", function.info.max_threads);
            return Err(Error::internal(format!("{}: {found}, the kernel takes {wanted}", launch.kernel)));
        }
        let values = lay_out(&arguments, function.info.offsets);
        let pointers = vec![std::ptr::null_mut(); arguments.len()];
        Ok(Self { function, grid: launch.grid, block: launch.block, values, pointers })
    }

    /// Bytes of host memory.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + heap(size_of::<Line>() * self.values.capacity()) + heap(8 * self.pointers.capacity())
    }

    /// Puts the launch on a stream; allocates nothing.
    pub fn enqueue(&mut self, _entered: &Entered, stream: sys::CUstream) -> Result<()> {
        let values: *mut u8 = self.values.as_mut_ptr().cast();
        for (pointer, offset) in self.pointers.iter_mut().zip(self.function.info.offsets) {
            *pointer = values.wrapping_add(*offset as usize).cast();
        }
        let mut overlap = overlap();
        let [x, y, z] = self.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: self.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: NO_DYNAMIC_SHARED,
            hStream: stream,
            attrs: &raw mut overlap,
            numAttrs: u32::from(self.function.overlaps),
        };
        // SAFETY: the function is loaded in the current context; number and sizes of the arguments were checked in `new`, and their addresses lie in
        // memory that the executable owns. The driver copies the arguments and the attribute before it returns.
        let code = unsafe { sys::cuLaunchKernelEx(&raw const config, self.function.raw, self.pointers.as_mut_ptr(), std::ptr::null_mut()) };
        check(code.result(), format!("launching {}", self.function.info.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_lie_as_in_the_parameter_buffer() {
        let arguments = [vec![1; 8], vec![2; 4], vec![3; 128]];
        let lines = lay_out(&arguments, &[0, 8, 128]);
        assert!((lines.as_ptr() as usize).is_multiple_of(128));
        let bytes: Vec<u8> = lines.iter().flat_map(|line| line.0).collect();
        let expected: Vec<u8> = [vec![1; 8], vec![2; 4], vec![0; 116], vec![3; 128]].concat();
        assert_eq!(bytes, expected);
        assert!(lay_out(&[], &[]).is_empty());
    }
}
