//! The library beside a host's own use of the driver: its context and streams, its captures, its threads.

use crate::abi::{gpu, options};
use crate::ffi_common::*;
use fewstep::ffi::device::FEWSTEP_DEVICE_CUDA;
use fewstep::ffi::runtime::*;
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

const STATE: i32 = 14;
/// CU_STREAM_CAPTURE_MODE_*.
const GLOBAL: i32 = 0;
const THREAD_LOCAL: i32 = 1;

/// A host's own context and stream, as an engine would have them.
struct Foreign {
    driver: libloading::Library,
    context: *mut c_void,
    stream: *mut c_void,
}

impl Foreign {
    fn new() -> Self {
        // SAFETY: the library is loaded already; the functions are declared as in cuda.h.
        unsafe {
            let driver = libloading::Library::new("libcuda.so.1").expect("the driver");
            let mut context = null_mut();
            let create = driver.get::<unsafe extern "C" fn(*mut *mut c_void, u32, i32) -> i32>(b"cuCtxCreate_v2\0").expect("a function");
            assert_eq!(create(&mut context, 0, 0), 0);
            let this = Self { driver, context, stream: null_mut() };
            Self { stream: this.another_stream(1), ..this }
        }
    }

    /// Another stream of the context, which is current on this thread. Flags 1: it does not take turns with the default stream.
    fn another_stream(&self, flags: u32) -> *mut c_void {
        let mut stream = null_mut();
        // SAFETY: a valid pointer; the function is declared as in cuda.h.
        let create = unsafe { self.driver.get::<unsafe extern "C" fn(*mut *mut c_void, u32) -> i32>(b"cuStreamCreate\0").expect("a function") };
        // SAFETY: as above.
        assert_eq!(unsafe { create(&mut stream, flags) }, 0);
        stream
    }

    fn begin_capture(&self, stream: *mut c_void, mode: i32) {
        // SAFETY: the function is declared as in cuda.h; the stream lives.
        let begin = unsafe { self.driver.get::<unsafe extern "C" fn(*mut c_void, i32) -> i32>(b"cuStreamBeginCapture_v2\0").expect("a function") };
        // SAFETY: as above.
        assert_eq!(unsafe { begin(stream, mode) }, 0);
    }

    /// Ends a capture, which must have stayed whole.
    fn end_capture(&self, stream: *mut c_void) {
        let mut graph = null_mut();
        // SAFETY: the function is declared as in cuda.h; the stream lives.
        let end = unsafe { self.driver.get::<unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> i32>(b"cuStreamEndCapture\0").expect("a function") };
        // SAFETY: as above.
        assert_eq!(unsafe { end(stream, &mut graph) }, 0, "the host's capture was ended by somebody");
        assert_eq!(self.call(c"cuGraphDestroy", graph), 0);
    }

    /// A runtime that uses the context and this stream of it.
    fn runtime(&self, api: &Api, cuda_stream: *mut c_void) -> *mut fewstep_runtime {
        let mut runtime = null_mut();
        let options = fewstep_runtime_options { cuda_context: self.context, cuda_stream, ..options(api) };
        // SAFETY: valid pointers.
        api.ok(unsafe { (api.fewstep_runtime_create)(&options, &mut runtime) });
        runtime
    }

    /// The result of a driver function of one handle.
    fn call(&self, name: &CStr, handle: *mut c_void) -> i32 {
        // SAFETY: `name` takes one handle of this kind, which lives.
        unsafe { self.driver.get::<unsafe extern "C" fn(*mut c_void) -> i32>(name.to_bytes_with_nul()).expect("a function")(handle) }
    }
}

#[test]
fn a_foreign_context_and_stream_are_used_and_left_alone() {
    let api = Api::load();
    let own = gpu(&api);
    let model = api.model(own, 3);
    let sampling = api.sampler_options(3, 2);
    let expected = api.sample(own, model, &sampling, 5, 0, i64::MAX);
    let foreign = Foreign::new();
    for cuda_stream in [null_mut(), foreign.stream] {
        let mut runtime = null_mut();
        let options = fewstep_runtime_options { cuda_context: foreign.context, cuda_stream, ..options(&api) };
        // SAFETY: valid pointers; the handles are used no more after they are destroyed.
        unsafe {
            api.ok((api.fewstep_runtime_create)(&options, &mut runtime));
            let info = api.runtime_info(runtime);
            assert_eq!((info.foreign_context, info.device_index, info.device_uuid), (1, 0, api.device_info(FEWSTEP_DEVICE_CUDA, 0).uuid));
            assert_eq!(api.sample(runtime, model, &sampling, 5, 0, i64::MAX), expected);
            (api.fewstep_runtime_destroy)(runtime);
        }
    }
    assert_eq!(foreign.call(c"cuStreamSynchronize", foreign.stream), 0);
    assert_eq!(foreign.call(c"cuStreamDestroy_v2", foreign.stream), 0);
    assert_eq!(foreign.call(c"cuCtxDestroy_v2", foreign.context), 0);
}

/// Whoever captures a stream of his own can use the library meanwhile, on any thread, and loses nothing by it.
#[test]
fn a_host_may_capture_another_stream() {
    let api = Api::load();
    let foreign = Foreign::new();
    let (captured, runtime) = (foreign.another_stream(1), foreign.runtime(&api, foreign.stream));
    let model = api.model(runtime, 3);
    let sampling = api.sampler_options(3, 2);
    let expected = api.sample(runtime, model, &sampling, 5, 0, i64::MAX);
    for mode in [GLOBAL, THREAD_LOCAL] {
        foreign.begin_capture(captured, mode);
        assert_eq!(api.sample(runtime, model, &sampling, 5, 0, i64::MAX), expected, "on the capturing thread, mode {mode}");
        let (api, runtime, model) = (&api, runtime as usize, model as usize);
        let other = || api.sample(runtime as *const _, model as *const _, &api.sampler_options(3, 2), 5, 0, i64::MAX);
        let found = std::thread::scope(|scope| scope.spawn(other).join().expect("a thread"));
        assert_eq!(found, expected, "on another thread, mode {mode}");
        foreign.end_capture(captured);
    }
    // SAFETY: used no more.
    unsafe {
        api.ok((api.fewstep_model_destroy)(model));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

/// The default stream would have to wait for the blocking streams of its context: CUDA lets nothing happen on it while one of those is captured.
#[test]
fn the_default_stream_is_refused_while_a_blocking_one_is_captured() {
    let api = Api::load();
    let foreign = Foreign::new();
    let (blocking, runtime) = (foreign.another_stream(0), foreign.runtime(&api, null_mut()));
    let model = api.model(runtime, 3);
    let expected = api.sample(runtime, model, &api.sampler_options(3, 2), 5, 0, i64::MAX);
    let (mut sampler, mut done) = (null_mut(), 0);
    let mut found = vec![0f32; expected.len()];
    // SAFETY: valid pointers throughout.
    unsafe {
        api.ok((api.fewstep_sampler_create)(runtime, model, &api.sampler_options(3, 2), &mut sampler));
        api.begin(sampler, 5, 0, &[0, 1]);
        foreign.begin_capture(blocking, THREAD_LOCAL);
        api.fails("step", (api.fewstep_sampler_step)(sampler, i64::MAX, &mut done), STATE, "captur");
        foreign.end_capture(blocking);
        api.ok((api.fewstep_sampler_step)(sampler, i64::MAX, &mut done));
        api.ok((api.fewstep_sampler_read)(sampler, found.as_mut_ptr(), found.len()));
        assert_eq!(found, expected);
        api.ok((api.fewstep_sampler_destroy)(sampler));
        api.ok((api.fewstep_model_destroy)(model));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

/// Work for a stream that is being captured would not be done, or be done again with the capture: it is refused, and nothing is lost.
#[test]
fn a_captured_stream_is_refused() {
    let api = Api::load();
    let foreign = Foreign::new();
    let runtime = foreign.runtime(&api, foreign.stream);
    let model = api.model(runtime, 3);
    let sampling = api.sampler_options(3, 2);
    let expected = api.sample(runtime, model, &sampling, 5, 0, i64::MAX);
    let mut sampler = null_mut();
    let mut found = vec![0f32; expected.len()];
    // SAFETY: valid pointers throughout.
    unsafe {
        api.ok((api.fewstep_sampler_create)(runtime, model, &sampling, &mut sampler));
        api.begin(sampler, 5, 0, &[0, 1]);
        foreign.begin_capture(foreign.stream, THREAD_LOCAL);
        let mut done = 0;
        for budget in [i64::MAX, -1, 0] {
            api.fails("step", (api.fewstep_sampler_step)(sampler, budget, &mut done), STATE, "being captured");
        }
        assert_eq!(done, 0);
        api.fails("read", (api.fewstep_sampler_read)(sampler, found.as_mut_ptr(), found.len()), STATE, "being captured");
        let mut another = null_mut();
        api.fails("create", (api.fewstep_sampler_create)(runtime, model, &sampling, &mut another), STATE, "being captured");
        foreign.end_capture(foreign.stream);
        api.ok((api.fewstep_sampler_step)(sampler, i64::MAX, &mut done));
        api.ok((api.fewstep_sampler_read)(sampler, found.as_mut_ptr(), found.len()));
        assert_eq!(found, expected);
        // The inputs of that run may still be on their way when the next one's come.
        foreign.begin_capture(foreign.stream, THREAD_LOCAL);
        api.fails("begin", api.try_begin(sampler, 6, 0, &[0, 1]), STATE, "being captured");
        foreign.end_capture(foreign.stream);
        api.begin(sampler, 5, 0, &[0, 1]);
        api.ok((api.fewstep_sampler_step)(sampler, i64::MAX, &mut done));
        api.ok((api.fewstep_sampler_read)(sampler, found.as_mut_ptr(), found.len()));
        assert_eq!(found, expected);
        api.ok((api.fewstep_sampler_destroy)(sampler));
        api.ok((api.fewstep_model_destroy)(model));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}

#[test]
fn streams_that_cannot_be_used_get_a_sentence() {
    let api = Api::load();
    let (foreign, other) = (Foreign::new(), Foreign::new());
    for (cuda_stream, needle) in [(2 as *mut c_void, "CU_STREAM_PER_THREAD"), (other.stream, "not a stream of cuda_context")] {
        let mut runtime = null_mut();
        let options = fewstep_runtime_options { cuda_context: foreign.context, cuda_stream, ..options(&api) };
        // SAFETY: valid pointers.
        api.fails("a stream", unsafe { (api.fewstep_runtime_create)(&options, &mut runtime) }, 1, needle);
    }
}

/// Plans are made, which captures graphs, while other threads make, run and destroy theirs.
#[test]
fn threads_make_samplers_side_by_side() {
    let api = Api::load();
    let runtime = gpu(&api);
    let model = api.model(runtime, 3);
    let expected = api.sample(runtime, model, &api.sampler_options(2, 2), 5, 0, -1);
    let (runtime, model, api) = (runtime as usize, model as usize, &api);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..4 {
                    let found = api.sample(runtime as *const _, model as *const _, &api.sampler_options(2, 2), 5, 0, -1);
                    assert!(found == expected);
                }
            });
        }
    });
    // SAFETY: used no more.
    unsafe {
        api.ok((api.fewstep_model_destroy)(model as *mut _));
        api.ok((api.fewstep_runtime_destroy)(runtime as *mut _));
    }
}
