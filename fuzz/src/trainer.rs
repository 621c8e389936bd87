//! A trainer behind the C functions, and a file in memory that it resumes from.

use crate::files;
use fewstep::ffi::model::{fewstep_model, fewstep_model_open_buffer};
use fewstep::ffi::runtime::{fewstep_runtime, fewstep_runtime_create, fewstep_runtime_options_init};
use fewstep::ffi::trainer::{fewstep_trainer, fewstep_trainer_create, fewstep_trainer_options_init, fewstep_trainer_resume, fewstep_trainer_save};
use fewstep::ffi::trainer_options::{FEWSTEP_NORM_L2, FEWSTEP_OBJECTIVE_TEACHER_FORCED, FEWSTEP_WEIGHT_STATE, fewstep_term};
use std::ffi::CString;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{null, null_mut};

/// A trainer of the corpus's model.
pub struct Fixture {
    trainer: *mut fewstep_trainer,
    file: OwnedFd,
    path: CString,
}

impl Fixture {
    /// Distils the corpus's model into another of its kind.
    pub fn new() -> Self {
        let bytes = files::model_file(&files::model(), files::CONFIG, files::SCHEDULER, files::STUDENT).expect("the corpus's model");
        let (mut runtime, mut model, mut trainer): (*mut fewstep_runtime, *mut fewstep_model, _) = (null_mut(), null_mut(), null_mut());
        // SAFETY: plain data that init fills; valid pointers; the name is a C string. What is made here lives as long as the process.
        unsafe {
            let mut options = MaybeUninit::uninit();
            ok(fewstep_runtime_options_init(options.as_mut_ptr(), size_of_val(&options)));
            let mut options = options.assume_init();
            options.threads = 1;
            ok(fewstep_runtime_create(&options, &mut runtime));
            ok(fewstep_model_open_buffer(runtime, bytes.as_ptr().cast(), bytes.len(), &mut model));
            let term =
                fewstep_term { objective: FEWSTEP_OBJECTIVE_TEACHER_FORCED, step_weight: FEWSTEP_WEIGHT_STATE, norm: FEWSTEP_NORM_L2, weight: 1.0, ..zeroed() };
            let mut options = MaybeUninit::uninit();
            ok(fewstep_trainer_options_init(options.as_mut_ptr(), size_of_val(&options)));
            let mut options = options.assume_init();
            (options.terms, options.term_count, options.term_stride) = (&term, 1, size_of_val(&term));
            (options.steps, options.substeps, options.cache_size, options.cache_batch, options.batch) = (2, 1, 1, 1, 1);
            (options.total_steps, options.warmup_steps) = (100, 1);
            ok(fewstep_trainer_create(runtime, model, model, null(), &options, &mut trainer));
            let file = OwnedFd::from_raw_fd(libc::memfd_create(c"checkpoint".as_ptr(), 0));
            let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("no zero");
            Self { trainer, file, path }
        }
    }

    /// The bytes of a checkpoint of its beginning.
    pub fn save(&self) -> Vec<u8> {
        let path = std::env::temp_dir().join(format!("fewstep-fuzz-{}.safetensors", std::process::id()));
        let name = CString::new(path.to_str().expect("a plain name")).expect("no zero");
        // SAFETY: valid pointers.
        ok(unsafe { fewstep_trainer_save(self.trainer, name.as_ptr()) });
        let bytes = std::fs::read(&path).expect("what was saved");
        std::fs::remove_file(&path).expect("our own file");
        bytes
    }

    /// Puts these bytes into the file.
    pub fn write(&self, bytes: &[u8]) {
        let fd = self.file.as_raw_fd();
        // SAFETY: our own file, a valid buffer.
        let done = unsafe { libc::ftruncate(fd, 0) == 0 && libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), 0) == bytes.len() as isize };
        assert!(done, "{}", std::io::Error::last_os_error());
    }

    /// Resumes from the file; the status.
    pub fn resume(&self) -> i32 {
        // SAFETY: valid pointers.
        unsafe { fewstep_trainer_resume(self.trainer, self.path.as_ptr()) as i32 }
    }
}

impl Default for Fixture {
    fn default() -> Self {
        Self::new()
    }
}

fn ok(status: impl Into<i32>) {
    assert_eq!(status.into(), 0);
}
