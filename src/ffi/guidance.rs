//! Classifier-free guidance as C gives it.

use crate::error::{Error, Result};
use crate::nn::{Guidance, Model};

/// Two fields of an options struct, judged for the model whose predictions are guided; `None` for a scale of 1.
pub(super) fn read(scale: f64, null_label: i32, reserved: u32, model: Option<&Model>) -> Result<Option<Guidance>> {
    if reserved != 0 {
        return Err(Error::invalid("the field reserved beside null_label must be 0"));
    }
    let guidance = Guidance::of(scale, null_label);
    if let Some(guidance) = &guidance {
        model.ok_or_else(|| Error::invalid("guidance_scale is not 1, but there is no teacher"))?.check_guidance(guidance)?;
    }
    Ok(guidance)
}
