//! The library beside a host's own use of the driver: its context and streams, its captures, its threads.

use crate::abi::options;
use crate::ffi_common::*;
use fewstep::ffi::device::FEWSTEP_DEVICE_CUDA;
use fewstep::ffi::model::fewstep_model;
use fewstep::ffi::runtime::*;
use fewstep::ffi::sampler::fewstep_sampler;
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
        // SAFETY: the library is loaded already.
        let driver = unsafe { libloading::Library::new("libcuda.so.1").expect("the driver") };
        let mut this = Self { driver, context: null_mut(), stream: null_mut() };
        // SAFETY: declared as in cuda.h; a valid pointer.
        let created = unsafe { this.function::<unsafe extern "C" fn(*mut *mut c_void, u32, i32) -> i32>(c"cuCtxCreate_v2")(&mut this.context, 0, 0) };
        assert_eq!(created, 0);
        this.stream = this.another_stream(1);
        this
    }

    /// # Safety
    /// `F` is the function's type.
    unsafe fn function<F: Copy>(&self, name: &CStr) -> F {
        // SAFETY: as promised by the caller; the library outlives every use.
        *unsafe { self.driver.get::<F>(name.to_bytes_with_nul()).expect("a function") }
    }

    /// The result of a driver function of one handle.
    fn call(&self, name: &CStr, handle: *mut c_void) -> i32 {
        // SAFETY: `name` takes one handle of this kind, which lives.
        unsafe { self.function::<unsafe extern "C" fn(*mut c_void) -> i32>(name)(handle) }
    }

    /// Another stream of the context, which is current on this thread. Flags 1: it does not take turns with the default stream.
    fn another_stream(&self, flags: u32) -> *mut c_void {
        let mut stream = null_mut();
        // SAFETY: declared as in cuda.h; a valid pointer.
        assert_eq!(unsafe { self.function::<unsafe extern "C" fn(*mut *mut c_void, u32) -> i32>(c"cuStreamCreate")(&mut stream, flags) }, 0);
        stream
    }

    /// Does something while a stream is captured; the capture must stay whole.
    fn while_captured(&self, stream: *mut c_void, mode: i32, act: impl FnOnce()) {
        let mut graph = null_mut();
        // SAFETY: declared as in cuda.h; a valid pointer, and the stream lives.
        unsafe {
            assert_eq!(self.function::<unsafe extern "C" fn(*mut c_void, i32) -> i32>(c"cuStreamBeginCapture_v2")(stream, mode), 0);
            act();
            let ended = self.function::<unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> i32>(c"cuStreamEndCapture")(stream, &mut graph);
            assert_eq!(ended, 0, "the host's capture was ended by somebody");
        }
        assert_eq!(self.call(c"cuGraphDestroy", graph), 0);
    }

    /// A runtime that uses the context and this stream of it; its status.
    fn runtime(&self, api: &Api, cuda_stream: *mut c_void) -> (i32, *mut fewstep_runtime) {
        let mut runtime = null_mut();
        let options = fewstep_runtime_options { cuda_context: self.context, cuda_stream, ..options(api) };
        // SAFETY: valid pointers.
        (unsafe { (api.fewstep_runtime_create)(&options, &mut runtime) }, runtime)
    }
}

/// A model on a runtime of a host's stream, a sampler of it, and the images that it gives from seed 5.
struct Host {
    api: Api,
    foreign: Foreign,
    runtime: *mut fewstep_runtime,
    model: *mut fewstep_model,
    sampler: *mut fewstep_sampler,
    images: Vec<f32>,
}

impl Host {
    fn new(stream: impl FnOnce(&Foreign) -> *mut c_void) -> Self {
        let (api, foreign) = (Api::load(), Foreign::new());
        let (status, runtime) = foreign.runtime(&api, stream(&foreign));
        api.ok(status);
        let (model, mut sampler) = (api.model(runtime, 3), null_mut());
        // SAFETY: valid pointers.
        api.ok(unsafe { (api.fewstep_sampler_create)(runtime, model, &api.sampler_options(3, 2), &mut sampler) });
        let mut this = Self { api, foreign, runtime, model, sampler, images: vec![] };
        this.images = this.sample();
        this.begin();
        this
    }

    /// The images of a sampler that is made for them.
    fn sample(&self) -> Vec<f32> {
        self.api.sample(self.runtime, self.model, &self.api.sampler_options(3, 2), 5, 0, i64::MAX)
    }

    fn begin(&self) {
        self.api.begin(self.sampler, 5, 0, &[0, 1]);
    }

    /// The status of going on with the run, and whether it is done.
    fn step(&self, budget: i64) -> (i32, i32) {
        let mut done = 0;
        // SAFETY: valid pointers.
        (unsafe { (self.api.fewstep_sampler_step)(self.sampler, budget, &mut done) }, done)
    }

    fn read(&self) -> (i32, Vec<f32>) {
        let mut found = vec![0f32; self.images.len()];
        // SAFETY: valid pointers.
        (unsafe { (self.api.fewstep_sampler_read)(self.sampler, found.as_mut_ptr(), found.len()) }, found)
    }

    /// The run that was begun still gives its images.
    fn finish(&self) {
        assert_eq!(self.step(i64::MAX), (0, 1));
        let (status, found) = self.read();
        self.api.ok(status);
        assert_eq!(found, self.images);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let api = &self.api;
        // SAFETY: used no more.
        let statuses =
            unsafe { [(api.fewstep_sampler_destroy)(self.sampler), (api.fewstep_model_destroy)(self.model), (api.fewstep_runtime_destroy)(self.runtime)] };
        if !std::thread::panicking() {
            assert_eq!(statuses, [0; 3]);
        }
    }
}

#[test]
fn a_foreign_context_and_stream_are_used_and_left_alone() {
    let api = Api::load();
    let own = api.gpu();
    let model = api.model(own, 3);
    let sampling = api.sampler_options(3, 2);
    let expected = api.sample(own, model, &sampling, 5, 0, i64::MAX);
    let foreign = Foreign::new();
    for cuda_stream in [null_mut(), foreign.stream] {
        let (status, runtime) = foreign.runtime(&api, cuda_stream);
        api.ok(status);
        let info = api.runtime_info(runtime);
        assert_eq!((info.foreign_context, info.device_index, info.device_uuid), (1, 0, api.device_info(FEWSTEP_DEVICE_CUDA, 0).uuid));
        assert_eq!(api.sample(runtime, model, &sampling, 5, 0, i64::MAX), expected);
        // SAFETY: used no more.
        api.ok(unsafe { (api.fewstep_runtime_destroy)(runtime) });
    }
    assert_eq!(foreign.call(c"cuStreamSynchronize", foreign.stream), 0);
    assert_eq!(foreign.call(c"cuStreamDestroy_v2", foreign.stream), 0);
    assert_eq!(foreign.call(c"cuCtxDestroy_v2", foreign.context), 0);
}

/// Whoever captures a stream of his own can use the library meanwhile, on any thread, and loses nothing by it.
#[test]
fn a_host_may_capture_another_stream() {
    let host = Host::new(|foreign| foreign.stream);
    let captured = host.foreign.another_stream(1);
    for mode in [GLOBAL, THREAD_LOCAL] {
        host.foreign.while_captured(captured, mode, || {
            assert_eq!(host.sample(), host.images, "on the capturing thread, mode {mode}");
            let (api, runtime, model) = (&host.api, host.runtime as usize, host.model as usize);
            let other = || api.sample(runtime as *const _, model as *const _, &api.sampler_options(3, 2), 5, 0, i64::MAX);
            let found = std::thread::scope(|scope| scope.spawn(other).join().expect("a thread"));
            assert_eq!(found, host.images, "on another thread, mode {mode}");
        });
    }
    host.finish();
}

/// The default stream would have to wait for the blocking streams of its context: CUDA lets nothing happen on it while one of those is captured.
#[test]
fn the_default_stream_is_refused_while_a_blocking_one_is_captured() {
    let host = Host::new(|_| null_mut());
    let blocking = host.foreign.another_stream(0);
    host.foreign.while_captured(blocking, THREAD_LOCAL, || host.api.fails("step", host.step(i64::MAX).0, STATE, "captur"));
    host.finish();
}

/// Work for a stream that is being captured would not be done, or be done again with the capture: it is refused, and nothing is lost.
#[test]
fn a_captured_stream_is_refused() {
    let host = Host::new(|foreign| foreign.stream);
    let (api, needle) = (&host.api, "being captured");
    host.foreign.while_captured(host.foreign.stream, THREAD_LOCAL, || {
        for budget in [i64::MAX, -1, 0] {
            let (status, done) = host.step(budget);
            api.fails("step", status, STATE, needle);
            assert_eq!(done, 0);
        }
        api.fails("read", host.read().0, STATE, needle);
        let mut another = null_mut();
        // SAFETY: valid pointers.
        let status = unsafe { (api.fewstep_sampler_create)(host.runtime, host.model, &api.sampler_options(3, 2), &mut another) };
        api.fails("create", status, STATE, needle);
    });
    host.finish();
    // The inputs of that run may still be on their way when the next one's come.
    host.foreign.while_captured(host.foreign.stream, THREAD_LOCAL, || {
        api.fails("begin", api.try_begin(host.sampler, 6, 0, &[0, 1]), STATE, needle);
    });
    host.begin();
    host.finish();
}

#[test]
fn streams_that_cannot_be_used_get_a_sentence() {
    let api = Api::load();
    let (foreign, other) = (Foreign::new(), Foreign::new());
    for (stream, needle) in [(2 as *mut c_void, "CU_STREAM_PER_THREAD"), (other.stream, "not a stream of cuda_context")] {
        api.fails("a stream", foreign.runtime(&api, stream).0, 1, needle);
    }
}

/// Plans are made, which captures graphs, while other threads make, run and destroy theirs.
#[test]
fn threads_make_samplers_side_by_side() {
    let api = Api::load();
    let runtime = api.gpu();
    let model = api.model(runtime, 3);
    api.sample_side_by_side(runtime, model);
    // SAFETY: used no more.
    unsafe {
        api.ok((api.fewstep_model_destroy)(model));
        api.ok((api.fewstep_runtime_destroy)(runtime));
    }
}
