//! What an evaluation found: its rows, and texts of all of them.

use super::boundary::{check_out, choice, ffi_boundary, write_text};
use super::error::fewstep_status;
use super::handle::{self, Opaque, share};
use super::options::{Report as Filled, check_report, size_field, write_report};
use super::runtime::Runtime;
use crate::error::{Error, Result};
use crate::evaluate::report::{Against, Kind, Report};
use crate::memory;
use std::ffi::{CString, c_char};
use std::sync::Arc;

/// A row of images of the reference against others of it: what a perfect set would get. The mean over four splits.
pub const FEWSTEP_QUALITY_NULL: i32 = 1;
/// The standard deviation over these splits: sets that differ by less than 5 of it are as good.
pub const FEWSTEP_QUALITY_NULL_SPREAD: i32 = 2;
/// The row of the teacher with its reference solver.
pub const FEWSTEP_QUALITY_TEACHER: i32 = 3;
/// A row of a set that the program gave.
pub const FEWSTEP_QUALITY_SET: i32 = 4;

/// Distributions are compared with the dataset's.
pub const FEWSTEP_AGAINST_DATA: i32 = 1;
/// Distributions are compared with the teacher's, of other noises.
pub const FEWSTEP_AGAINST_TEACHER: i32 = 2;

/// A table with aligned columns, and what they mean.
pub const FEWSTEP_REPORT_TEXT: i32 = 1;
/// JSON on one line; null for what was not measured or is infinite.
pub const FEWSTEP_REPORT_JSON: i32 = 2;

/// What an evaluation found. Immutable.
pub struct fewstep_quality_report {
    _private: [u8; 0],
}

/// What a report is of. Set struct_size before fewstep_quality_report_get_info fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_quality_report_info {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// Rows: three, and one for each set.
    pub rows: u32,
    /// Images of a set.
    pub count: u32,
    /// Images of a set that its distribution is compared by.
    pub compared: u32,
    /// Seed of the noises.
    pub seed: u64,
    /// FEWSTEP_AGAINST_*.
    pub against: i32,
    /// Steps of the teacher's reference.
    pub reference_steps: u32,
}

/// A row of a report. Set struct_size before fewstep_quality_report_row fills the rest. Numbers that were not measured are NaN: images that are not of the
/// evaluation's noises have no errors, without labels there is no accuracy. No number says enough alone, nor without the null beside it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_quality {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// FEWSTEP_QUALITY_*.
    pub kind: i32,
    /// The row's name; valid until the report is destroyed.
    pub name: *const c_char,
    /// Root of the mean square error over all elements of all images, against the teacher's of the same noises. It rewards blur.
    pub rmse: f64,
    /// Median of the images' own RMSE.
    pub rmse_median: f64,
    /// 99th percentile of the images' own RMSE.
    pub rmse_p99: f64,
    /// RMSE without the worst 5 % of the images.
    pub rmse_trimmed: f64,
    /// 20 log10(2 / rmse), in dB; infinite where there is no error.
    pub psnr: f64,
    /// Sliced Wasserstein distance (p = 1) of pixels over 256 fixed directions. Blind to fine noise.
    pub sliced_wasserstein: f64,
    /// Unbiased squared maximum mean discrepancy with the kernel (u.v / 64 + 1)^3 in 64 features of a fixed random net, which are scaled to the reference's
    /// deviation. 0 on average, and sometimes below, where both are of one distribution.
    pub kernel_distance: f64,
    /// Share of the images that are inside the reference, in the same features: nearer to one of its images than that one's 5th neighbour.
    pub precision: f64,
    /// Share of the reference that is inside the images.
    pub recall: f64,
    /// Images of the reference that an image is inside of, on average, by 5; about 1.
    pub density: f64,
    /// Share of the reference's images with an image inside: it falls where kinds of images are missing.
    pub coverage: f64,
    /// Share of the images that look like the class that they were asked for to a small classifier; in the null's row, of data that it did not learn.
    pub accuracy: f64,
    /// RMSE of the state that each step lands on, against the teacher's at that timestep; `step_count` numbers, valid until the report is destroyed. Of
    /// deterministic samplers of at most 16 steps over the teacher's noise schedule.
    pub step_errors: *const f64,
    /// Elements of step_errors; 0 where there are none.
    pub step_count: usize,
}

// SAFETY: repr(C), numbers only, no gap.
unsafe impl Filled for fewstep_quality_report_info {
    const NAME: &'static str = "quality report info";
    const FIRST_SIZE: usize = size_of::<Self>();
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Filled for fewstep_quality {
    const NAME: &'static str = "quality";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// What a report handle owns.
pub(crate) struct QualityHandle {
    /// Kept alive, as every child does.
    _runtime: Arc<Runtime>,
    report: Report,
    /// The rows' names.
    names: Vec<CString>,
}

impl Opaque for fewstep_quality_report {
    type Inner = QualityHandle;
    const NAME: &'static str = "quality report";
    const TAG: u64 = u64::from_le_bytes(*b"fs.quali");
}

impl QualityHandle {
    pub(super) fn new(runtime: Arc<Runtime>, report: Report) -> Result<Self> {
        let name = |name: &str| CString::new(name).map_err(|_| Error::internal("a name with a NUL"));
        let names = memory::try_collect(report.rows.iter().map(|row| name(&row.name)), "names of rows")?;
        Ok(Self { _runtime: runtime, report, names })
    }

    fn info(&self) -> fewstep_quality_report_info {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let report = &self.report;
        fewstep_quality_report_info {
            struct_size: size_field::<fewstep_quality_report_info>(),
            rows: narrow(report.rows.len()),
            count: narrow(report.count),
            compared: narrow(report.compared),
            seed: report.seed,
            against: match report.against {
                Against::Data => FEWSTEP_AGAINST_DATA,
                Against::Teacher => FEWSTEP_AGAINST_TEACHER,
            },
            reference_steps: narrow(report.reference_steps),
        }
    }

    fn row(&self, index: usize) -> Result<fewstep_quality> {
        let missing = || Error::invalid(format!("index is {index}; the report has {} rows", self.report.rows.len()));
        let row = self.report.rows.get(index).ok_or_else(missing)?;
        let numbers = row.numbers();
        let [rmse, rmse_median, rmse_p99, rmse_trimmed, psnr, sliced_wasserstein, kernel_distance, precision, recall, density, coverage, accuracy] = numbers;
        Ok(fewstep_quality {
            struct_size: size_field::<fewstep_quality>(),
            kind: match row.kind {
                Kind::Null => FEWSTEP_QUALITY_NULL,
                Kind::NullSpread => FEWSTEP_QUALITY_NULL_SPREAD,
                Kind::Teacher => FEWSTEP_QUALITY_TEACHER,
                Kind::Given => FEWSTEP_QUALITY_SET,
            },
            name: self.names[index].as_ptr(),
            rmse,
            rmse_median,
            rmse_p99,
            rmse_trimmed,
            psnr,
            sliced_wasserstein,
            kernel_distance,
            precision,
            recall,
            density,
            coverage,
            accuracy,
            step_errors: row.steps.as_ptr(),
            step_count: row.steps.len(),
        })
    }
}

/// Fills `*out`, whose struct_size the caller has set.
///
/// Any thread may call, also while others use the report. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_quality_report_get_info(report: *const fewstep_quality_report, out: *mut fewstep_quality_report_info) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let report = share(report)?;
        let size = check_report(out)?;
        write_report(out, size, report.info());
        Ok(())
    })
}

/// Fills `*out`, whose struct_size the caller has set, with row `index`: 0 is the null, 1 its spread, 2 the teacher, the others are the sets in their order.
///
/// Any thread may call, also while others use the report. Returns OK or INVALID_ARGUMENT (also for an index that is no row's).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_quality_report_row(report: *const fewstep_quality_report, index: usize, out: *mut fewstep_quality) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let report = share(report)?;
        let size = check_report(out)?;
        write_report(out, size, report.row(index)?);
        Ok(())
    })
}

/// Writes the whole report as text, UTF-8 with a NUL at its end, to `buffer`, which has room for `capacity` bytes, and the bytes before the NUL to `*length`.
/// `format` is FEWSTEP_REPORT_*. With `buffer` NULL and `capacity` 0 only the length is written.
///
/// Any thread may call, also while others use the report. Returns OK, INVALID_ARGUMENT, SHAPE (capacity is too small) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_quality_report_text(
    report: *const fewstep_quality_report,
    format: i32,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let report = share(report)?;
        check_out(length, "length")?;
        let is_text = choice(format, "format", &[(FEWSTEP_REPORT_TEXT, true), (FEWSTEP_REPORT_JSON, false)])?;
        let text = if is_text { report.report.text()? } else { report.report.json()? };
        write_text(&text, buffer, capacity, length)
    })
}

/// Destroys a report. NULL is fine. What fewstep_quality_report_row gave must not be read any more: names and errors of steps are the report's.
///
/// Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the report (nothing happens then).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_quality_report_destroy(report: *mut fewstep_quality_report) -> fewstep_status {
    // SAFETY: `report` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe { handle::destroy(report) })
}
