//! Models as ONNX files.

use super::boundary::{check_out, choice, ffi_boundary, flag, path, put, slice_mut};
use super::callback::Watch;
use super::cancel::fewstep_cancel_token;
use super::error::fewstep_status;
use super::extent::{check_extent, read_size};
use super::handle::share;
use super::model::fewstep_model;
use super::options::{self, Options, size_field};
use super::sampler_options::{Spec, fewstep_sampler_options};
use crate::error::{Error, Result};
use crate::nn::Model;
use crate::onnx::{self, Kind, Profile, Sampled};
use std::ffi::{c_char, c_void};

/// One evaluation of the network: `x_t` f32 [N,C,H,W], `timestep` f32 [N] and the conditions give `prediction` [N,C,H,W]. Where each step of a student has
/// parameters of its own, `step` int64 [1] says at which all images are.
/// Nothing there looks at whether labels, steps and timesteps are some that the model has.
pub const FEWSTEP_ONNX_EVALUATION: i32 = 1;
/// One step of a sampler: `x_t` f32 [N,C,H,W], `step` int64 [1], from 0, and the conditions give `x_next`. A multistep sampler has `kept.0` … as well, zeros
/// before the first step, and gives `kept_next.0` … for the next one. The first x_t is unit normals times the number `fewstep.initial` of the file's metadata
/// (1 but for Euler's samplers).
pub const FEWSTEP_ONNX_STEP: i32 = 2;
/// A whole run: `noise` f32 [N,C,H,W], unit normals, and the conditions give `images`. What depends on timesteps alone is computed when it is written, so that
/// any runtime needs this file and nothing else. 64 steps at most: each is an evaluation in the file.
pub const FEWSTEP_ONNX_SAMPLER: i32 = 3;

/// Whole numbers as signed bytes with a zero point of 0, between QuantizeLinear and DequantizeLinear, which compilers make products of whole numbers of:
/// OpenVINO, TensorRT.
pub const FEWSTEP_ONNX_SYMMETRIC: i32 = 1;
/// Whole numbers as unsigned bytes, multiplied by ConvInteger and MatMulInteger, for runtimes that compute what is written: ONNX Runtime.
pub const FEWSTEP_ONNX_UNSIGNED: i32 = 2;

/// What an ONNX file is to be. Fill it with fewstep_onnx_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_onnx_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// FEWSTEP_ONNX_EVALUATION, _STEP or _SAMPLER (the default).
    pub program: i32,
    /// Of a model in whole numbers: FEWSTEP_ONNX_SYMMETRIC (the default) or _UNSIGNED.
    pub profile: i32,
    /// Version of ONNX's operators, 21 (the default) to 24.
    pub opset: u32,
    /// Height of the images; 0 (the default) for the model's.
    pub height: u32,
    /// Width of the images; 0 (the default) for the model's.
    pub width: u32,
    /// 1: parameters of f32 are written as f16 where they fit, which runtimes cast when they load the file. 0 (the default): as they are. Those of a model
    /// in fewer bits are written in them in any case.
    pub half_weights: i32,
    /// 1: parameters are written to a file beside it, NAME-HASH.onnx.data, before the file itself, as those of more than 2 GiB are in any case; that of an
    /// older export stays, for whoever reads it. 0 (the default): into the file.
    pub external_data: i32,
    /// The sampler of the programs STEP and SAMPLER; its batch, height, width and precision do not count. NULL (the default): FEWSTEP_SAMPLER_FROM_MODEL, a
    /// few-step student's own grid.
    pub sampler: *const fewstep_sampler_options,
    /// Stops the call with CANCELLED; only read during it. NULL (the default) for none.
    pub cancel: *const fewstep_cancel_token,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_onnx_options {
    const NAME: &'static str = "onnx options";
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            program: FEWSTEP_ONNX_SAMPLER,
            profile: FEWSTEP_ONNX_SYMMETRIC,
            opset: 21,
            height: 0,
            width: 0,
            half_weights: 0,
            external_data: 0,
            sampler: std::ptr::null(),
            cancel: std::ptr::null(),
        }
    }
}

/// Calls `export` with what the options mean for this model.
///
/// # Safety
/// The pointers in `o` are NULL or valid by the header's contract.
unsafe fn with_options<T>(o: &fewstep_onnx_options, model: &Model, export: impl FnOnce(&onnx::Options) -> Result<T>) -> Result<T> {
    let kinds = [(FEWSTEP_ONNX_EVALUATION, Kind::Evaluation), (FEWSTEP_ONNX_STEP, Kind::Step), (FEWSTEP_ONNX_SAMPLER, Kind::Sampler)];
    let profiles = [(FEWSTEP_ONNX_SYMMETRIC, Profile::Symmetric), (FEWSTEP_ONNX_UNSIGNED, Profile::Unsigned)];
    let (kind, profile) = (choice(o.program, "program", &kinds)?, choice(o.profile, "profile", &profiles)?);
    let (half, external) = (flag(o.half_weights, "half_weights")?, flag(o.external_data, "external_data")?);
    let size = read_size(o.height, o.width)?.map_or_else(|| model.size(), Ok)?;
    check_extent(model, 1, size)?;
    let spec = match kind {
        Kind::Evaluation => None,
        Kind::Step | Kind::Sampler => {
            // SAFETY: as promised by the caller.
            let sampler = if o.sampler.is_null() { fewstep_sampler_options::defaults() } else { unsafe { options::read(o.sampler)? } };
            let side = |n: usize| u32::try_from(n).map_err(|_| Error::invalid(format!("a side of {n}")));
            let sampler = fewstep_sampler_options { batch: 1, height: side(size[0])?, width: side(size[1])?, ..sampler };
            // SAFETY: as promised by the caller.
            Some(unsafe { Spec::new(&sampler, model)? })
        }
    };
    let sampled = spec.as_ref().map(|spec| Sampled { table: &spec.table, guidance: spec.guidance });
    export(&onnx::Options { kind, size, sampled, half, profile, opset: o.opset.into(), external })
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_onnx_options_init(options: *mut fewstep_onnx_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Writes a model as an ONNX file, for compilers and runtimes of others, as `options` says (NULL for the defaults: the whole run of a few-step student). The
/// batch N is free, images are [N,C,H,W], conditions have their names (`labels` int64 [N]); docs/compilers.md shows how runtimes are given such files. A model
/// in whole numbers computes the same ones there, but that what lies beyond a layer's range is not cut off to its end.
///
/// The file appears whole or not at all; what holds for all files that are written, and what IO means, is at the top of this header. Any thread may call, also
/// while others use the model. Returns OK, INVALID_ARGUMENT (also for an opset out of range, or programs of a sampler without steps), SHAPE (a size that the
/// model cannot take), UNSUPPORTED (a sampler that draws noise in its steps or thresholds dynamically, an op without a form in ONNX, whole numbers that the
/// profile does not have; the sentence names it), IO, NOT_FOUND (no such folder), CANCELLED or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_export_onnx(model: *const fewstep_model, options: *const fewstep_onnx_options, path: *const c_char) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (model, options, path) = (share(model)?, options::read(options)?, self::path(path, "path")?);
        let watch = Watch::new(None, std::ptr::null_mut(), options.cancel)?;
        with_options(&options, &model.model, |read| onnx::save(&model.model, read, path, watch.stop(&model.runtime)))
    })
}

/// The bytes of such a file, which each call makes anew: writes them to `buffer`, which has room for `capacity`, and their number to `*length`; with `buffer`
/// NULL and `capacity` 0 only their number.
///
/// Threads and codes as fewstep_model_export_onnx; SHAPE also where capacity is too small, UNSUPPORTED where parameters have to be in a file beside it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_model_export_onnx_to_buffer(
    model: *const fewstep_model,
    options: *const fewstep_onnx_options,
    buffer: *mut c_void,
    capacity: usize,
    length: *mut usize,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (model, options) = (share(model)?, options::read(options)?);
        check_out(length, "length")?;
        let watch = Watch::new(None, std::ptr::null_mut(), options.cancel)?;
        let bytes = with_options(&options, &model.model, |read| onnx::to_bytes(&model.model, read, watch.stop(&model.runtime)))?;
        if !buffer.is_null() || capacity != 0 {
            if capacity < bytes.len() {
                return Err(Error::shape(format!("the file has {} bytes, capacity is {capacity}", bytes.len())));
            }
            slice_mut(buffer.cast::<u8>(), bytes.len(), "buffer")?.copy_from_slice(&bytes);
        }
        put(length, bytes.len());
        Ok(())
    })
}
