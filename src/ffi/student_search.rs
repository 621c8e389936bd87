//! Which students fit a budget, and what one costs.

use super::boundary::{check_out, ffi_boundary};
use super::callback::{FEWSTEP_PHASE_SEARCH, Watch, fewstep_progress_callback};
use super::cancel::{Cancel, fewstep_cancel_token};
use super::error::fewstep_status;
use super::extent::{check_extent, read_size};
use super::handle::{self, Opaque, create, share};
use super::model::fewstep_model;
use super::options::{self, Options, Report as Filled, check_report, size_field, write_report};
use super::precision::{FEWSTEP_PRECISION_F32, precision};
use super::runtime::{Runtime, fewstep_runtime};
use crate::distill::search::{self, Budget, StudentRow, StudentTable, Timing};
use crate::error::{Error, Result};
use crate::io::json_writer::compact;
use crate::memory;
use crate::nn::Model;
use serde_json::Value;
use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;

/// The most evaluations that one model is timed by.
const MAX_REPEATS: u32 = 1000;
/// The most evaluations for a sample, as of samplers.
const MAX_STEPS: u32 = 1000;

/// What students are searched for, and how models are timed. Fill it with fewstep_student_search_options_init, then change fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_student_search_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// The most students of the table: measuring ends once so many fit; 16 by default, 0 for no bound.
    pub rows: u32,
    /// The most parameters; 0 (the default) for no bound.
    pub max_parameters: u64,
    /// The most floating-point operations of an evaluation of one image; 0 (the default) for no bound.
    pub max_flops: u64,
    /// The most milliseconds for a sample, as measured by this call; 0 (the default) for no bound.
    pub max_ms: f64,
    /// Images that are evaluated at once; 1 by default.
    pub batch: u32,
    /// Height of the images; 0 (the default) for the teacher's.
    pub height: u32,
    /// Width of the images; 0 (the default) for the teacher's.
    pub width: u32,
    /// Evaluations that a student needs for a sample, 1 to 1000; 1 by default, so that `ms` is of one evaluation.
    pub steps: u32,
    /// Evaluations that the teacher needs for a sample, 1 to 1000; 1 by default, so that `speedup` is of one evaluation.
    pub teacher_steps: u32,
    /// Evaluations that a model is timed by, after one that is not counted; their median is. 1 to 1000, 5 by default.
    pub repeats: u32,
    /// FEWSTEP_PRECISION_*: what models compute in; f32 by default.
    pub precision: i32,
    /// 0.
    pub reserved: u32,
    /// Stops the call with CANCELLED; only read during it. NULL (the default) for none.
    pub cancel: *const fewstep_cancel_token,
}

/// What a model costs. Set struct_size before a function fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_student_cost {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// JSON on one line, the keys of config.json that differ from the teacher's, as fewstep_student_options takes them; "{}" for the teacher. Valid until the
    /// table is destroyed. NULL from fewstep_student_measure.
    pub config_patch: *const c_char,
    /// Number of parameters.
    pub parameters: u64,
    /// Floating-point operations of an evaluation of one image: products and sums of convolutions, linear layers and attention. Norms and activations are left
    /// out, as is usual.
    pub flops: u64,
    /// Bytes of the weights in memory; of students in the table four for each parameter.
    pub weight_bytes: u64,
    /// Milliseconds for a sample: of an evaluation of a batch, for each of its images, times its steps; images are copied to the device and back.
    pub ms: f64,
    /// The teacher's milliseconds for a sample, divided by these.
    pub speedup: f64,
}

/// Students that fit a budget. Immutable.
pub struct fewstep_student_table {
    _private: [u8; 0],
}

/// What a table is of. Set struct_size before fewstep_student_table_get_info fills the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fewstep_student_table_info {
    /// Bytes of this struct, set by the caller.
    pub struct_size: u32,
    /// Rows: the teacher, and the students that fit.
    pub rows: u32,
    /// Smaller networks that there are, those of the teacher's operations or fewer.
    pub candidates: u32,
    /// Those of them that were measured.
    pub measured: u32,
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Options for fewstep_student_search_options {
    const NAME: &'static str = "student search options";
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: size_field::<Self>(),
            rows: 16,
            max_parameters: 0,
            max_flops: 0,
            max_ms: 0.0,
            batch: 1,
            height: 0,
            width: 0,
            steps: 1,
            teacher_steps: 1,
            repeats: 5,
            precision: FEWSTEP_PRECISION_F32,
            reserved: 0,
            cancel: std::ptr::null(),
        }
    }
}

// SAFETY: repr(C), the fields leave no gap, numbers and pointers only.
unsafe impl Filled for fewstep_student_cost {
    const NAME: &'static str = "student cost";
    const FIRST_SIZE: usize = size_of::<Self>();
}

// SAFETY: repr(C), numbers only, no gap.
unsafe impl Filled for fewstep_student_table_info {
    const NAME: &'static str = "student table info";
    const FIRST_SIZE: usize = size_of::<Self>();
}

impl fewstep_student_search_options {
    fn timing(&self, teacher: &Model) -> Result<Timing> {
        let size = read_size(self.height, self.width)?.map_or_else(|| teacher.size(), Ok)?;
        if self.batch == 0 || self.reserved != 0 || !(1..=MAX_REPEATS).contains(&self.repeats) {
            let (batch, repeats, reserved) = (self.batch, self.repeats, self.reserved);
            return Err(Error::invalid(format!(
                "batch is {batch}, repeats {repeats} and reserved {reserved}; they must be at least 1, 1 to {MAX_REPEATS}, and 0"
            )));
        }
        for (name, steps) in [("steps", self.steps), ("teacher_steps", self.teacher_steps)] {
            if !(1..=MAX_STEPS).contains(&steps) {
                return Err(Error::invalid(format!("{name} is {steps}; it must be 1 to {MAX_STEPS}")));
            }
        }
        check_extent(teacher, self.batch as usize, size)?;
        let steps = [self.steps as usize, self.teacher_steps as usize];
        Ok(Timing { batch: self.batch as usize, size, precision: precision(self.precision)?, repeats: self.repeats as usize, steps })
    }

    fn budget(&self) -> Result<Budget> {
        if !(self.max_ms >= 0.0 && self.max_ms.is_finite()) {
            return Err(Error::invalid(format!("max_ms is {}; it must be a finite number of at least 0", self.max_ms)));
        }
        let bound = |most: u64| Some(most).filter(|most| *most > 0);
        Ok(Budget { parameters: bound(self.max_parameters), flops: bound(self.max_flops), ms: Some(self.max_ms).filter(|most| *most > 0.0) })
    }
}

/// What a table handle owns.
pub(crate) struct TableHandle {
    /// Kept alive, as every child does.
    _runtime: Arc<Runtime>,
    table: StudentTable,
    /// The rows' patches.
    patches: Vec<CString>,
}

impl Opaque for fewstep_student_table {
    type Inner = TableHandle;
    const NAME: &'static str = "student table";
    const TAG: u64 = u64::from_le_bytes(*b"fs.studs");
}

impl TableHandle {
    fn new(runtime: Arc<Runtime>, table: StudentTable) -> Result<Self> {
        let patch = |row: &StudentRow| {
            let text = compact(&Value::Object(row.patch.clone()), "config_patch")?;
            CString::new(text).map_err(|_| Error::internal("a patch with a NUL"))
        };
        let patches = memory::try_collect(table.rows.iter().map(patch), "patches of rows")?;
        Ok(Self { _runtime: runtime, table, patches })
    }

    fn info(&self) -> fewstep_student_table_info {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let StudentTable { rows, candidates, measured } = &self.table;
        let struct_size = size_field::<fewstep_student_table_info>();
        fewstep_student_table_info { struct_size, rows: narrow(rows.len()), candidates: narrow(*candidates), measured: narrow(*measured) }
    }

    fn row(&self, index: usize) -> Result<fewstep_student_cost> {
        let missing = || Error::invalid(format!("index is {index}; the table has {} rows", self.table.rows.len()));
        let row = self.table.rows.get(index).ok_or_else(missing)?;
        Ok(fewstep_student_cost { config_patch: self.patches[index].as_ptr(), ..cost(row) })
    }
}

fn cost(row: &StudentRow) -> fewstep_student_cost {
    fewstep_student_cost {
        struct_size: size_field::<fewstep_student_cost>(),
        reserved: 0,
        config_patch: std::ptr::null(),
        parameters: row.cost.parameters,
        flops: row.cost.flops,
        weight_bytes: row.weight_bytes,
        ms: row.ms,
        speedup: row.speedup,
    }
}

/// Writes the defaults to `*options`, whose size the caller gives: sizeof *options.
///
/// Any thread may call. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_student_search_options_init(options: *mut fewstep_student_search_options, struct_size: usize) -> fewstep_status {
    // SAFETY: `options` is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe { options::init(options, struct_size) })
}

/// Searches the teacher's smaller relatives for those that fit a budget. Of a UNet2DModel these are all combinations of: up to two stages fewer, 3/4, 1/2 or
/// 1/4 of the channels, half as many residual blocks or one, attention at the lowest resolution alone, linear, or none, no mid block, half the time
/// embedding. Those with too many parameters or operations are left out first; the others are measured on the runtime's device, from the one of the most
/// operations down, until `rows` of them fit. The table has the teacher first, then the students in that order: how much they compute is the only thing that is
/// known of how good they can become. Train the first few for a short while and compare (fewstep_evaluate) before one is trained for long. Nothing else should
/// compute meanwhile. `options` may be NULL for the defaults. `progress` may be NULL and reports FEWSTEP_PHASE_SEARCH.
///
/// The caller owns `*out` and gives it to fewstep_student_table_destroy; it keeps the runtime alive. A table may have no student. Any thread may call. Returns
/// OK, INVALID_ARGUMENT, SHAPE, CANCELLED, UNSUPPORTED (also for a teacher of another class) or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_student_search(
    runtime: *const fewstep_runtime,
    teacher: *const fewstep_model,
    options: *const fewstep_student_search_options,
    progress: fewstep_progress_callback,
    user: *mut c_void,
    out: *mut *mut fewstep_student_table,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, teacher) = (share(runtime)?, share(teacher)?);
        check_out(out, "out")?;
        let o = options::read(options)?;
        let watch = Watch::new(progress, user, o.cancel)?;
        let most = if o.rows == 0 { usize::MAX } else { o.rows as usize };
        let wanted = (o.budget()?, o.timing(&teacher.model)?, most);
        create(out, || {
            let stop = watch.stop(&runtime);
            let found = watch.counting(FEWSTEP_PHASE_SEARCH, |report| search::search(runtime.backend.as_ref(), &teacher.model, wanted, report, stop));
            TableHandle::new(runtime.clone(), found?)
        })
    })
}

/// Measures what one student costs beside its teacher, on the runtime's device: fills `*out`, whose struct_size the caller has set. Of `options` rows and the
/// bounds are not read; NULL for the defaults. The student may be any model that takes images of the same size.
///
/// Any thread may call. Returns OK, INVALID_ARGUMENT, SHAPE, CANCELLED, UNSUPPORTED or OUT_OF_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_student_measure(
    runtime: *const fewstep_runtime,
    teacher: *const fewstep_model,
    student: *const fewstep_model,
    options: *const fewstep_student_search_options,
    out: *mut fewstep_student_cost,
) -> fewstep_status {
    // SAFETY: every pointer is NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let (runtime, teacher, student) = (share(runtime)?, share(teacher)?, share(student)?);
        let size = check_report(out)?;
        let o = options::read(options)?;
        let cancel = Cancel::new(o.cancel)?;
        let timing = o.timing(&teacher.model)?;
        check_extent(&student.model, timing.batch, timing.size)?;
        let row = search::measure(runtime.backend.as_ref(), &teacher.model, &student.model, timing, runtime.stop_or(&cancel))?;
        write_report(out, size, cost(&row));
        Ok(())
    })
}

/// Fills `*out`, whose struct_size the caller has set.
///
/// Any thread may call, also while others use the table. Returns OK or INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_student_table_get_info(table: *const fewstep_student_table, out: *mut fewstep_student_table_info) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let table = share(table)?;
        let size = check_report(out)?;
        write_report(out, size, table.info());
        Ok(())
    })
}

/// Fills `*out`, whose struct_size the caller has set, with row `index`: 0 is the teacher, the others are the students, those of the most operations first.
///
/// Any thread may call, also while others use the table. Returns OK or INVALID_ARGUMENT (also for an index that is no row's).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_student_table_row(table: *const fewstep_student_table, index: usize, out: *mut fewstep_student_cost) -> fewstep_status {
    // SAFETY: both are NULL or valid by the header's contract.
    ffi_boundary(|| unsafe {
        let table = share(table)?;
        let size = check_report(out)?;
        write_report(out, size, table.row(index)?);
        Ok(())
    })
}

/// Destroys a table. NULL is fine. The patches that fewstep_student_table_row gave must not be read any more.
///
/// Any thread may call, once. Returns OK, INVALID_ARGUMENT, or STATE while a call uses the table (nothing happens then).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fewstep_student_table_destroy(table: *mut fewstep_student_table) -> fewstep_status {
    // SAFETY: `table` is NULL or ours by the header's contract.
    ffi_boundary(|| unsafe { handle::destroy(table) })
}
