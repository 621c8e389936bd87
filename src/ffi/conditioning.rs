//! What a model is given beside images and timesteps: what it takes, as C asks it, and the values, as C gives them.

use super::boundary::{null, product, slice, to_nchw, to_nhwc};
use super::options::{self, Item, Report, size_field};
use crate::error::{Error, Result};
use crate::nn::conditions::Values;
use crate::nn::{Condition, ConditionKind};
use std::ffi::c_void;

/// One class label (int32_t) for each image.
pub const FEWSTEP_CONDITIONING_CLASS_LABELS: i32 = 1;
/// A sequence of vectors (float), such as a text encoder's, for each image: [N, length, width].
pub const FEWSTEP_CONDITIONING_TOKENS: i32 = 2;
/// A vector (float) for each image: [N, width].
pub const FEWSTEP_CONDITIONING_VECTOR: i32 = 3;
/// Channels (float) beside those of each image, such as a low-resolution image that was enlarged: [N, channels, H, W].
pub const FEWSTEP_CONDITIONING_PLANES: i32 = 4;

/// The most conditionings of one call.
const MAX_CONDITIONINGS: usize = 64;

/// What images depend on beside their noise. Set every field; those that a later version adds may be 0. The order among conditionings of one kind is that of
/// the model's own (fewstep_model_condition); between kinds it does not matter.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_conditioning {
    /// FEWSTEP_CONDITIONING_*.
    pub kind: i32,
    /// 0.
    pub reserved: u32,
    /// The values, as the kind says.
    pub data: *const c_void,
    /// Number of values.
    pub count: usize,
}

/// What a model is given beside images and timesteps. Set struct_size before fewstep_model_condition fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_condition {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// FEWSTEP_CONDITIONING_*.
    pub kind: i32,
    /// Class labels: how many classes there are, the labels being 0 and up. 0 for other kinds.
    pub classes: u32,
    /// Tokens: vectors of an image. 0 for other kinds.
    pub length: u32,
    /// Tokens and vectors: numbers of a vector. 0 for other kinds.
    pub width: u32,
    /// Planes: channels. 0 for other kinds.
    pub channels: u32,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only, all zeros included.
unsafe impl Item for fewstep_conditioning {
    const NAME: &'static str = "conditionings";
    const FIRST_SIZE: usize = size_of::<Self>();
}

// SAFETY: repr(C), numbers only, no gap, all zeros included.
unsafe impl Item for fewstep_condition {
    const NAME: &'static str = "conditions";
    const FIRST_SIZE: usize = size_of::<Self>();
}

// SAFETY: repr(C), numbers only, no gap.
unsafe impl Report for fewstep_condition {
    const NAME: &'static str = "condition";
    const FIRST_SIZE: usize = size_of::<Self>();
}

impl fewstep_condition {
    pub(super) fn of(condition: &Condition) -> Self {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let none = Self { struct_size: size_field::<Self>(), kind: 0, classes: 0, length: 0, width: 0, channels: 0 };
        match condition.kind {
            ConditionKind::Labels { classes } => Self { kind: FEWSTEP_CONDITIONING_CLASS_LABELS, classes: narrow(classes), ..none },
            ConditionKind::Tokens { length, width } => Self { kind: FEWSTEP_CONDITIONING_TOKENS, length: narrow(length), width: narrow(width), ..none },
            ConditionKind::Vector { width } => Self { kind: FEWSTEP_CONDITIONING_VECTOR, width: narrow(width), ..none },
            ConditionKind::Planes { channels } => Self { kind: FEWSTEP_CONDITIONING_PLANES, channels: narrow(channels), ..none },
        }
    }
}

impl fewstep_conditioning {
    /// Values as C is shown them, for as long as they live; those of planes in C's order ([`in_planes`]).
    pub(super) fn of(kind: ConditionKind, values: Values) -> Self {
        let kind = match kind {
            ConditionKind::Labels { .. } => FEWSTEP_CONDITIONING_CLASS_LABELS,
            ConditionKind::Tokens { .. } => FEWSTEP_CONDITIONING_TOKENS,
            ConditionKind::Vector { .. } => FEWSTEP_CONDITIONING_VECTOR,
            ConditionKind::Planes { .. } => FEWSTEP_CONDITIONING_PLANES,
        };
        let (data, count) = match values {
            Values::I32(labels) => (labels.as_ptr().cast(), labels.len()),
            Values::F32(floats) => (floats.as_ptr().cast(), floats.len()),
        };
        Self { kind, reserved: 0, data, count }
    }
}

/// Planes of images of [H, W] with their channels moved to where C has them; `None` for what is no plane.
pub(super) fn in_planes(kind: ConditionKind, values: Values, [h, w]: [usize; 2]) -> Result<Option<Vec<f32>>> {
    let (ConditionKind::Planes { channels }, Values::F32(values)) = (kind, values) else { return Ok(None) };
    let mut planes = crate::tensor::try_vec(values.len(), "planes")?;
    to_nchw(values, [h, w, channels], &mut planes);
    Ok(Some(planes))
}

/// The kinds that a list of conditions names, of `n` images of [H, W]; their numbers of values are judged too.
///
/// # Safety
/// `data` is NULL or an array as count and stride say.
pub(super) unsafe fn kinds(data: *const fewstep_condition, count: usize, stride: usize, n: usize, [h, w]: [usize; 2]) -> Result<Vec<ConditionKind>> {
    // SAFETY: as promised by the caller.
    let all: Vec<fewstep_condition> = unsafe { options::array(data, count, stride, MAX_CONDITIONINGS)? };
    crate::memory::try_collect(all.iter().enumerate().map(|(i, c)| kind(c, &format!("conditions[{i}]"), n, [h, w])), "conditions")
}

fn kind(c: &fewstep_condition, name: &str, n: usize, [h, w]: [usize; 2]) -> Result<ConditionKind> {
    let [classes, length, width, channels] = [c.classes, c.length, c.width, c.channels].map(|v| v as usize);
    let sized = |factors: &[(&str, usize)]| {
        if let Some((field, _)) = factors.iter().find(|(_, v)| *v == 0) {
            return Err(Error::invalid(format!("{name}.{field} is 0; a condition of this kind needs at least 1")));
        }
        let each = factors.iter().map(|(_, v)| *v).chain([n, 4]);
        product(&crate::memory::collect(each, "conditions")?, &format!("{name} of all images")).map(drop)
    };
    match c.kind {
        FEWSTEP_CONDITIONING_CLASS_LABELS if classes == 0 => Ok(ConditionKind::Labels { classes: i32::MAX as usize }),
        FEWSTEP_CONDITIONING_CLASS_LABELS => Ok(ConditionKind::Labels { classes: classes.min(i32::MAX as usize) }),
        FEWSTEP_CONDITIONING_TOKENS => sized(&[("length", length), ("width", width)]).map(|()| ConditionKind::Tokens { length, width }),
        FEWSTEP_CONDITIONING_VECTOR => sized(&[("width", width)]).map(|()| ConditionKind::Vector { width }),
        FEWSTEP_CONDITIONING_PLANES => sized(&[("channels", channels), ("height", h), ("width", w)]).map(|()| ConditionKind::Planes { channels }),
        other => Err(unknown(name, other)),
    }
}

fn unknown(name: &str, kind: i32) -> Error {
    Error::invalid(format!(
        "{name}.kind is {kind}; known values are {FEWSTEP_CONDITIONING_CLASS_LABELS}, {FEWSTEP_CONDITIONING_TOKENS}, {FEWSTEP_CONDITIONING_VECTOR}, \
         {FEWSTEP_CONDITIONING_PLANES}"
    ))
}

/// Values as the library reads them: the caller's, or planes with their channels moved.
pub(super) enum Held<'a> {
    Given(Values<'a>),
    Moved(Vec<f32>),
}

impl Held<'_> {
    pub(super) fn values(&self) -> Values<'_> {
        match self {
            Self::Given(values) => *values,
            Self::Moved(values) => Values::F32(values),
        }
    }
}

/// The conditionings of `n` images of [H, W]. What sizes there are follows from their number of values; a model judges whether they are its own.
///
/// # Safety
/// `data` is NULL or an array as count and stride say, and each conditioning has its data.
pub(super) unsafe fn read<'a>(
    data: *const fewstep_conditioning,
    count: usize,
    stride: usize,
    n: usize,
    size: [usize; 2],
) -> Result<Vec<(ConditionKind, Held<'a>)>> {
    // SAFETY: as promised by the caller.
    let all: Vec<fewstep_conditioning> = unsafe { options::array(data, count, stride, MAX_CONDITIONINGS)? };
    let mut read = crate::memory::with_capacity(all.len(), "conditionings")?;
    for (i, c) in all.iter().enumerate() {
        // SAFETY: as promised by the caller.
        read.push(unsafe { one(c, &format!("conditionings[{i}]"), n, size)? });
    }
    Ok(read)
}

/// # Safety
/// As [`read`].
unsafe fn one<'a>(c: &fewstep_conditioning, name: &str, n: usize, [h, w]: [usize; 2]) -> Result<(ConditionKind, Held<'a>)> {
    if c.reserved != 0 {
        return Err(Error::invalid(format!("{name}.reserved must be 0")));
    }
    if c.data.is_null() {
        return Err(null(&format!("{name}.data")));
    }
    let data = format!("{name}.data");
    if c.kind == FEWSTEP_CONDITIONING_CLASS_LABELS {
        // SAFETY: as promised by the caller.
        let labels = unsafe { slice(c.data.cast::<i32>(), c.count, &data)? };
        return Ok((ConditionKind::Labels { classes: i32::MAX as usize }, Held::Given(Values::I32(labels))));
    }
    // SAFETY: as promised by the caller.
    let floats = || unsafe { slice(c.data.cast::<f32>(), c.count, &data) };
    let each = |of: usize, what: &str| {
        let each = c.count.checked_div(of).filter(|each| *each > 0 && each * of == c.count);
        each.ok_or_else(|| Error::shape(format!("{name}.count is {}; it must be a multiple of {of} ({what}) and above 0", c.count)))
    };
    match c.kind {
        FEWSTEP_CONDITIONING_TOKENS => Ok((ConditionKind::Tokens { length: 1, width: each(n, "images")? }, Held::Given(Values::F32(floats()?)))),
        FEWSTEP_CONDITIONING_VECTOR => Ok((ConditionKind::Vector { width: each(n, "images")? }, Held::Given(Values::F32(floats()?)))),
        FEWSTEP_CONDITIONING_PLANES => {
            let channels = each(product(&[n, h, w], "planes (N, H, W)")?, "the pixels of all images")?;
            Ok((ConditionKind::Planes { channels }, Held::Moved(to_nhwc(floats()?, [h, w, channels], &data)?)))
        }
        other => Err(unknown(name, other)),
    }
}
