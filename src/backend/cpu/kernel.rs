//! A compiled node and what it may touch.

use super::kernels::pool::Shared;
use super::kernels::simd::Isa;
use super::kernels::workers::Workers;
use crate::error::Result;
use crate::tensor::{DType, Element};

/// A compiled node. `run` allocates nothing.
pub(super) trait CpuKernel: Send + Sync {
    /// Scratch in bytes.
    fn workspace(&self) -> usize {
        0
    }

    /// Bytes that it holds beside itself.
    fn table_bytes(&self) -> usize {
        0
    }

    /// Computes the outputs.
    fn run(&self, io: &Io) -> Result<()>;
}

/// One operand, result or scratch area.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub ptr: *mut u8,
    /// Elements (bytes for the scratch).
    pub len: usize,
    /// Their type.
    pub dtype: DType,
}

// SAFETY: a slot is only an address; `Io` hands out its contents under the plan's rules.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    pub fn empty(len: usize, dtype: DType) -> Self {
        Self { ptr: std::ptr::null_mut(), len, dtype }
    }

    /// Refuses to be read as what it is not: a kernel that takes bytes for floats would read four times past its end.
    fn check<T: Element>(&self) {
        assert!(self.dtype == T::DTYPE, "a kernel takes an operand of {:?} for {:?}", self.dtype, T::DTYPE);
    }

    fn check_size<T>(&self) {
        assert!(self.dtype.size() == size_of::<T>(), "a kernel moves elements of {:?} as {} bytes each", self.dtype, size_of::<T>());
    }
}

/// Scratch that was taken as floats, as other numbers of at most their size.
pub(super) fn scratch_as<T: Element>(floats: &mut [f32]) -> &mut [T] {
    const { assert!(align_of::<T>() <= align_of::<f32>()) }
    let len = size_of_val(floats) / size_of::<T>();
    // SAFETY: as many bytes, aligned well enough; an `Element` has no padding and takes every pattern of bytes, as f32 does.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), len) }
}

/// What a kernel may touch. Outputs of updating ops are the storage itself: such a kernel reads the old contents through `output`, never through
/// the aliased operand.
pub(super) struct Io<'a> {
    pub slots: &'a [Slot],
    pub inputs: usize,
    pub pool: Workers<'a>,
    pub isa: Isa,
}

impl<'a> Io<'a> {
    /// Operand `i`.
    pub fn input<T: Element>(&self, i: usize) -> &'a [T] {
        let slot = self.slots[i];
        slot.check::<T>();
        // SAFETY: the plan gives the operand's location numel elements of its dtype, which is T's, 64-byte aligned; nobody writes it during this node but an
        // in-place update, whose kernels do not read the operand.
        unsafe { std::slice::from_raw_parts(slot.ptr.cast(), slot.len) }
    }

    /// Operand `i`, of whatever type of four bytes, to be moved and not to be computed with.
    pub fn moved_input(&self, i: usize) -> &'a [f32] {
        self.slots[i].check_size::<f32>();
        // SAFETY: as `input`: as many bytes, and every pattern of them is a float.
        unsafe { std::slice::from_raw_parts(self.slots[i].ptr.cast(), self.slots[i].len) }
    }

    /// Result `i` of such a move.
    #[allow(clippy::mut_from_ref)] // as `output`
    pub fn moved_output(&self, i: usize) -> &'a mut [f32] {
        let slot = self.slots[self.inputs + i];
        slot.check_size::<f32>();
        // SAFETY: as `output` and `moved_input`.
        unsafe { std::slice::from_raw_parts_mut(slot.ptr.cast(), slot.len) }
    }

    /// Result `i`.
    #[allow(clippy::mut_from_ref)] // each kernel takes each output once; the plan keeps outputs, inputs and scratch disjoint
    pub fn output<T: Element>(&self, i: usize) -> &'a mut [T] {
        let slot = self.slots[self.inputs + i];
        slot.check::<T>();
        // SAFETY: as `input`; outputs of one node are disjoint from its operands and from each other by the plan's layout.
        unsafe { std::slice::from_raw_parts_mut(slot.ptr.cast(), slot.len) }
    }

    /// Result `i`, to be written by chunks in disjoint parts.
    pub fn shared_output<T: Element>(&self, i: usize) -> Shared<'a, T> {
        let slot = self.slots[self.inputs + i];
        slot.check::<T>();
        // SAFETY: as `output`; the parts that chunks take are disjoint by the contract of `Shared::part`.
        unsafe { Shared::from_raw(slot.ptr.cast(), slot.len) }
    }

    /// The scratch area.
    #[allow(clippy::mut_from_ref)] // as `output`
    pub fn scratch<T: Element>(&self) -> &'a mut [T] {
        let slot = self.slots[self.slots.len() - 1];
        // SAFETY: the plan reserves workspace() bytes for this node alone.
        unsafe { std::slice::from_raw_parts_mut(slot.ptr.cast(), slot.len / size_of::<T>()) }
    }
}
